//! A scripted Kubernetes API server: TLS or plain, one thread per connection. It records every request and injects
//! faults on demand.

use super::TIMEOUT;
use super::cluster::Cluster;
use super::http::{find, read_body, read_headers, read_line};
use super::response::{Accept, ApiResponse, Behavior};
use super::tls::{self, ClientCerts};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// The listening address and the TLS settings of an API server.
pub struct Listen<'a> {
    pub ip: &'a str,
    /// Name of the certificate under tests/data/tls; `None` is plain HTTP.
    pub identity: Option<&'a str>,
    pub clients: ClientCerts,
}

/// A recorded request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Number of its connection, from 0.
    pub connection: usize,
    /// Server name in the TLS handshake.
    pub sni: Option<String>,
    /// The client's certificate chain in DER, leaf first; empty without a client certificate.
    pub client_chain: Vec<Vec<u8>>,
    pub at: Instant,
}

struct Shared {
    tls: Option<Arc<ServerConfig>>,
    script: Mutex<Script>,
    accepts: Mutex<VecDeque<Accept>>,
    cluster: Mutex<Cluster>,
    seen: Mutex<Seen>,
    changed: Condvar,
    closing: AtomicBool,
}

/// Far below any sensible read timeout.
const BETWEEN_DRIPS: Duration = Duration::from_millis(50);

type Script = Box<dyn FnMut(&Request) -> Behavior + Send>;

#[derive(Default)]
struct Seen {
    requests: Vec<Request>,
    connections: usize,
    ended: usize,
    sockets: Vec<TcpStream>,
}

/// The client's side of one connection.
struct Peer {
    stream: Box<dyn Stream>,
    sni: Option<String>,
    chain: Vec<Vec<u8>>,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Default for Listen<'_> {
    fn default() -> Self {
        Listen { ip: "127.0.0.1", identity: Some("server"), clients: ClientCerts::NotRequested }
    }
}

impl ApiServer {
    /// Starts with TLS on 127.0.0.1 and the default behavior.
    pub fn start() -> ApiServer {
        ApiServer::listen(&Listen::default())
    }

    pub fn listen(listen: &Listen) -> ApiServer {
        let shared = Arc::new(Shared {
            tls: listen.identity.map(|identity| tls::server_config(identity, listen.clients)),
            script: Mutex::new(Box::new(|_| Behavior::Default)),
            accepts: Mutex::default(),
            cluster: Mutex::default(),
            seen: Mutex::default(),
            changed: Condvar::new(),
            closing: AtomicBool::new(false),
        });
        let listener = TcpListener::bind((listen.ip, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = Some(accept_on(listener, shared.clone()));
        ApiServer { address, shared, acceptor }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Passes every later request to this closure, which chooses the behavior.
    pub fn script(&self, script: impl FnMut(&Request) -> Behavior + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// Uses one behavior for every later request.
    pub fn always(&self, response: impl Into<Behavior>) {
        let response = response.into();
        self.script(move |_| response.clone());
    }

    /// Uses these behaviors for the next requests in order, then the default.
    pub fn queue(&self, responses: impl IntoIterator<Item = Behavior>) {
        let mut responses: VecDeque<Behavior> = responses.into_iter().collect();
        self.script(move |_| responses.pop_front().unwrap_or(Behavior::Default));
    }

    /// Sets the behavior of the next connections, in order.
    pub fn on_accept(&self, accepts: impl IntoIterator<Item = Accept>) {
        self.shared.accepts.lock().unwrap().extend(accepts);
    }

    /// Closes the port and every connection; later connection attempts are refused.
    pub fn close_port(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Wakes the acceptor. An error means that the acceptor has already ended.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
        self.close_connections();
    }

    pub fn reopen_port(&mut self) {
        self.shared.closing.store(false, Ordering::SeqCst);
        let listener = TcpListener::bind(self.address).unwrap();
        self.acceptor = Some(accept_on(listener, self.shared.clone()));
    }

    /// Shuts down every open connection.
    pub fn close_connections(&self) {
        for socket in self.seen().sockets.drain(..) {
            // An error means that the peer has already closed the socket.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Number of connections that have not ended.
    pub fn open_connections(&self) -> usize {
        let seen = self.seen();
        seen.connections - seen.ended
    }

    pub fn set_pods(&self, pods: Vec<Value>) {
        self.shared.cluster.lock().unwrap().pods = pods;
    }

    pub fn jobs(&self) -> Vec<Value> {
        self.shared.cluster.lock().unwrap().jobs.clone()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.seen().requests.clone()
    }

    /// Number of accepted connections.
    pub fn connections(&self) -> usize {
        self.seen().connections
    }

    /// Waits until `count` requests have arrived.
    pub fn wait_for_requests(&self, count: usize) -> Vec<Request> {
        let (seen, timeout) =
            self.shared.changed.wait_timeout_while(self.seen(), TIMEOUT, |seen| seen.requests.len() < count).unwrap();
        assert!(!timeout.timed_out(), "{} requests instead of {count} after {TIMEOUT:?}", seen.requests.len());
        seen.requests.clone()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.shared.seen()
    }
}

impl Shared {
    /// The record of requests. A failed assertion that held it must not fail the clean-up, which would abort the process
    /// and with it every other test.
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if self.acceptor.is_some() {
            self.close_port();
        }
    }
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    /// A query parameter, still percent-encoded.
    pub fn query(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn is_create(&self) -> bool {
        self.method == "POST" && self.path().ends_with("/jobs")
    }
}

fn accept_on(listener: TcpListener, shared: Arc<Shared>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            if shared.closing.load(Ordering::SeqCst) {
                return;
            }
            let (Ok(socket), shared) = (socket, shared.clone()) else { continue };
            let number = {
                let mut seen = shared.seen();
                seen.connections += 1;
                seen.sockets.push(socket.try_clone().unwrap());
                seen.connections - 1
            };
            std::thread::spawn(move || {
                let raw = socket.try_clone().unwrap();
                // An error means that the client closed the connection or that the socket is already shut down.
                let _ = serve(socket, &shared, number);
                let _ = raw.shutdown(Shutdown::Both);
                shared.seen().ended += 1;
            });
        }
    })
}

fn serve(socket: TcpStream, shared: &Shared, number: usize) -> io::Result<()> {
    let accept = shared.accepts.lock().unwrap().pop_front();
    match accept {
        Some(Accept::Reset) => return reset(&socket),
        Some(Accept::Hang) => return wait_for_end(&mut &socket),
        Some(Accept::ResetAfterHead) | None => {}
    }
    socket.set_nodelay(true)?;
    let raw = socket.try_clone()?;
    let Peer { mut stream, sni, chain } = handshake(socket, shared)?;
    let mut reader = BufReader::new(&mut stream);
    loop {
        let line = read_line(&mut reader)?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let headers = read_headers(&mut reader)?;
        if matches!(accept, Some(Accept::ResetAfterHead)) {
            return reset(&raw);
        }
        let body = read_body(&mut reader, &headers)?;
        let (sni, client_chain, at) = (sni.clone(), chain.clone(), Instant::now());
        let request = Request { method, target, headers, body, connection: number, sni, client_chain, at };
        shared.seen().requests.push(request.clone());
        shared.changed.notify_all();
        let response = (shared.script.lock().unwrap())(&request);
        if !respond(response, &request, shared, reader.get_mut(), &raw)? {
            return Ok(());
        }
    }
}

/// Applies the behavior; returns `false` if the connection must be closed.
fn respond(
    response: Behavior,
    request: &Request,
    shared: &Shared,
    stream: &mut dyn Stream,
    raw: &TcpStream,
) -> io::Result<bool> {
    match response {
        Behavior::Default => {
            let reply = shared.cluster.lock().unwrap().handle(request);
            write(stream, &reply).map(|()| true)
        }
        Behavior::ApplyThenDrop => {
            shared.cluster.lock().unwrap().handle(request);
            Ok(false)
        }
        Behavior::ApplyThenTruncate(bytes) => {
            let reply = shared.cluster.lock().unwrap().handle(request);
            stream.write_all(&reply.bytes()[..bytes])?;
            stream.flush().map(|()| false)
        }
        Behavior::ApplyThenHang => {
            shared.cluster.lock().unwrap().handle(request);
            wait_for_end(stream).map(|()| false)
        }
        Behavior::ApiResponse(reply) => write(stream, &reply).map(|()| !reply.is_cut()),
        Behavior::Close => Ok(false),
        Behavior::Reset => reset(raw).map(|()| false),
        Behavior::Hang => wait_for_end(stream).map(|()| false),
        Behavior::Drip => drip(stream).map(|()| false),
        Behavior::ChunkThenHang(chunk) => {
            let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n", chunk.len());
            stream.write_all(&[head.as_bytes(), &chunk, b"\r\n"].concat())?;
            stream.flush()?;
            wait_for_end(stream).map(|()| false)
        }
        Behavior::After(latch, response) => {
            latch.wait();
            respond(*response, request, shared, stream, raw)
        }
        Behavior::Delayed(time, response) => {
            // The delay is the injected fault, not a wait for a condition.
            std::thread::sleep(time);
            respond(*response, request, shared, stream, raw)
        }
        Behavior::Stream(pieces) => {
            stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
            )?;
            stream.flush()?;
            while let Some(piece) = pieces.next() {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                stream.write_all(&piece)?;
                stream.write_all(b"\r\n")?;
                stream.flush()?;
            }
            stream.write_all(b"0\r\n\r\n")?;
            stream.flush().map(|()| true)
        }
        Behavior::ThenClose(response) => respond(*response, request, shared, stream, raw).map(|_| false),
    }
}

fn write(stream: &mut dyn Stream, reply: &ApiResponse) -> io::Result<()> {
    stream.write_all(&reply.bytes())?;
    stream.flush()
}

/// The stream and the client's TLS parameters.
fn handshake(socket: TcpStream, shared: &Shared) -> io::Result<Peer> {
    let Some(config) = &shared.tls else {
        return Ok(Peer { stream: Box::new(socket), sni: None, chain: Vec::new() });
    };
    let mut tls = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
    let mut socket = socket;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket)?;
    }
    let sni = tls.server_name().map(|name| name.to_string());
    let chain = tls.peer_certificates().unwrap_or_default().iter().map(|certificate| certificate.to_vec()).collect();
    Ok(Peer { stream: Box::new(StreamOwned::new(tls, socket)), sni, chain })
}

/// Closes with a TCP reset: every later read and write of the peer fails.
fn reset(socket: &TcpStream) -> io::Result<()> {
    // On Linux, connecting to AF_UNSPEC aborts the connection. Closing is not enough: other descriptors of this socket
    // are open.
    Ok(rustix::net::connect_unspec(socket)?)
}

/// Sends an endless 200 byte by byte, until writing fails because the client has closed.
fn drip(stream: &mut dyn Stream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")?;
    loop {
        stream.write_all(b" ")?;
        stream.flush()?;
        std::thread::park_timeout(BETWEEN_DRIPS);
    }
}

/// Sends nothing until the client closes.
fn wait_for_end(stream: &mut (impl Read + ?Sized)) -> io::Result<()> {
    let mut sink = [0; 1024];
    while stream.read(&mut sink)? > 0 {}
    Ok(())
}
