//! The blocking tiny_http loop: worker threads that receive a request, handle it and respond. The only file that names tiny_http.
//!
//! tiny_http listens on a private Unix socket behind the front, because it must not face a network. The socket's file is removed
//! at once: only this process, which keeps a handle on it, can connect (and one that may read its /proc, as a debugger may). There are
//! as many workers as private connections, so a request never waits for a worker.

mod private_socket;

use std::collections::HashMap;
use std::io::{self, Cursor, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tiny_http::{HTTPVersion, Header};

use crate::api;
use crate::api::Stop;
use crate::api::response::{Body, Response};
use crate::front::{CONNECTION, LogEntry, PrivateConnection, WAITED};
use crate::server::private_socket::{private_socket, proc_path};

/// Stack of a worker, in bytes: a TLS handshake in a build without optimization takes most, some 100 KB. Unused pages take no memory.
const WORKER_STACK: usize = 512 * 1024;

/// Longest method and path in the log, in characters.
const MAX_METHOD_CHARS: usize = 20;
const MAX_PATH_CHARS: usize = 200;

/// One read of a streamed body, in bytes, which becomes one chunk.
const STREAM_PIECE: usize = 16 * 1024;

/// The header of the first request of a private connection, which shows that tiny_http serves it. The front forwards no such header.
const PING: &str = "Private-Ping";

/// Time for the response to it.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Handles a request.
pub type Handler = Box<dyn Fn(api::Request<'_>) -> Response + Send + Sync>;

/// The server behind the front.
pub struct Server {
    handler: Arc<Handler>,
    /// Replaced when its accept thread has ended, which tiny_http reports only to some requests.
    listening: Mutex<Listening>,
}

/// A tiny_http server on a socket without a name.
struct Listening {
    shared: Arc<Shared>,
    /// A handle on the socket's removed file.
    socket: OwnedFd,
    /// The time of the last failure to connect. Callers that waited for it meanwhile fail at once.
    failed: Option<Instant>,
}

/// A tiny_http server and its workers.
struct Shared {
    server: tiny_http::Server,
    workers: Mutex<Workers>,
}

/// Each open connection has at most one request, so as many idle workers as connections are enough. A worker beyond that ends.
#[derive(Default)]
struct Workers {
    /// The open connections by number, each with the function that ends its stream, if it has one.
    connections: HashMap<u64, Option<Stop>>,
    last_number: u64,
    idle: usize,
}

/// Counts a private connection until it is dropped.
struct ConnectionCount {
    shared: Arc<Shared>,
    number: u64,
}

impl ConnectionCount {
    fn new(shared: &Arc<Shared>) -> Self {
        let mut workers = shared.workers();
        workers.last_number += 1;
        let number = workers.last_number;
        workers.connections.insert(number, None);
        Self { shared: Arc::clone(shared), number }
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        let stop = self.shared.workers().connections.remove(&self.number);
        // The worker of a silent stream would not notice.
        if let Some(stop) = stop.flatten() {
            stop();
        }
        // An idle worker looks at the count again. If all are busy, the first that has finished does.
        self.shared.server.unblock();
    }
}

impl Shared {
    fn workers(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the function that ends the stream on a connection, and calls it if the connection is closed.
    fn set_stop(&self, connection: u64, stop: Stop) {
        let mut workers = self.workers();
        if let Some(entry) = workers.connections.get_mut(&connection) {
            *entry = Some(stop);
            return;
        }
        drop(workers);
        stop();
    }

    /// Drops the function that ends the stream on a connection. Returns false if the connection is closed.
    fn clear_stop(&self, connection: u64) -> bool {
        self.workers().connections.get_mut(&connection).map(|entry| *entry = None).is_some()
    }
}

impl Server {
    /// Starts to listen. Workers start with their connections.
    ///
    /// # Errors
    /// No folder for the socket is writable, or no descriptor or thread is free.
    pub fn start(handler: Handler) -> io::Result<Self> {
        Ok(Self { handler: Arc::new(handler), listening: Mutex::new(Listening::start()?) })
    }

    /// Opens a private connection and starts its worker. Connections open one at a time: tiny_http starts a thread for a connection only
    /// if it counts no idle one, and counts a thread as idle until it has taken its connection.
    ///
    /// # Errors
    /// No descriptor or thread is free.
    pub fn connect(&self) -> io::Result<PrivateConnection> {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if listening.failed.is_some_and(|at| at.elapsed() < PING_TIMEOUT) {
            return Err(io::Error::other("another attempt has just failed"));
        }
        let mut connected = listening.connect(&self.handler);
        if connected.as_ref().is_err_and(has_ended) {
            log::warn!("tiny_http's accept thread ended, for lack of descriptors or threads; starting another");
            *listening = Listening::start()?;
            connected = listening.connect(&self.handler);
        }
        listening.failed = connected.as_ref().err().filter(|error| is_timeout(error)).map(|_| Instant::now());
        connected
    }
}

/// tiny_http closed its socket before, or instead of, accepting a connection.
fn has_ended(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | UnexpectedEof)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl Listening {
    fn start() -> io::Result<Self> {
        let (listener, socket) = private_socket()?;
        Self::on(listener, socket)
    }

    fn on(listener: UnixListener, socket: OwnedFd) -> io::Result<Self> {
        // tiny_http panics where it cannot start a thread.
        let started = catch_unwind(AssertUnwindSafe(|| tiny_http::Server::from_listener(listener, None)));
        let server = started.map_err(|_| io::Error::other("no thread for tiny_http"))?.map_err(io::Error::other)?;
        Ok(Self { shared: Arc::new(Shared { server, workers: Mutex::default() }), socket, failed: None })
    }

    /// Connects, starts a worker, and waits until tiny_http serves the connection.
    fn connect(&self, handler: &Arc<Handler>) -> io::Result<PrivateConnection> {
        let mut stream = UnixStream::connect(proc_path(&self.socket))?;
        let count = ConnectionCount::new(&self.shared);
        let (shared, handler) = (Arc::clone(&self.shared), Arc::clone(handler));
        let builder = thread::Builder::new().name("worker".into()).stack_size(WORKER_STACK);
        builder.spawn(move || work(&shared, &handler))?;
        stream.set_read_timeout(Some(PING_TIMEOUT))?;
        stream.write_all(format!("OPTIONS * HTTP/1.1\r\n{PING}: 1\r\n\r\n").as_bytes())?;
        let mut response = [0; 512];
        let mut length = 0;
        while !response[..length].ends_with(b"\r\n\r\n") {
            match stream.read(&mut response[length..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        stream.set_read_timeout(None)?;
        Ok(PrivateConnection { stream, number: Some(count.number), count: Box::new(count) })
    }
}

/// Handles one request after the other until enough other workers are idle.
fn work(shared: &Shared, handler: &Handler) {
    loop {
        {
            let mut workers = shared.workers();
            if workers.idle >= workers.connections.len() {
                return;
            }
            workers.idle += 1;
        }
        let received = shared.server.recv();
        shared.workers().idle -= 1;
        match received {
            // A request that a panic drops is answered by tiny_http, with 500.
            Ok(request) => drop(catch_unwind(AssertUnwindSafe(|| respond(request, shared, handler)))),
            Err(error) if error.raw_os_error().is_some() => {
                log::warn!("tiny_http cannot accept a private connection: {error}");
            }
            // Unblocked: a connection was closed.
            Err(_) => {}
        }
    }
}

/// Reads the body, which the front has checked, and handles the request.
fn respond(mut request: tiny_http::Request, shared: &Shared, handler: &Handler) {
    if request.headers().iter().any(|header| header.field.equiv(PING)) {
        // An error ends the connection, which the other end sees.
        let _ = request.respond(tiny_http::Response::empty(204));
        return;
    }
    let arrived = Instant::now();
    let mut body = request.body_length().map(|length| Vec::with_capacity(length.min(api::MAX_BODY)));
    if let Some(body) = &mut body
        && let Err(error) = request.as_reader().take(api::MAX_BODY as u64).read_to_end(body)
    {
        log::error!("cannot read the body of a forwarded request: {error}");
        return;
    }
    let header = |name: &'static str| {
        request.headers().iter().find(|header| header.field.equiv(name)).map(|header| header.value.as_str())
    };
    let [accept, authorization, cache_control, if_none_match, idempotency_key] = api::REQUEST_HEADERS.map(header);
    let [waited, connection] = [WAITED, CONNECTION].map(|name| header(name).and_then(|value| value.parse().ok()));
    let response = handler(api::Request {
        method: request.method().as_str(),
        target: request.url(),
        accept,
        authorization,
        cache_control,
        if_none_match,
        idempotency_key,
        body: body.as_deref(),
        waited: Duration::from_millis(waited.unwrap_or_default()),
        on_leave: &|stop| shared.set_stop(connection.unwrap_or_default(), stop),
    });
    log_response(&LogEntry {
        method: request.method().as_str(),
        target: request.url(),
        status: response.status,
        took: arrived.elapsed(),
        detail: &response.log_detail,
    });
    let sent = send(request, response);
    // The front closes the connection of a client that leaves a stream.
    let is_open = connection.is_none_or(|number| shared.clear_stop(number));
    if let Err(error) = sent
        && is_open
    {
        log::error!("a response on a private connection broke off: {error}");
    }
}

/// The access log: method, path without its query, status, milliseconds, and a detail.
pub fn log_response(entry: &LogEntry<'_>) {
    let short = |text: &str, max| text.chars().take(max).collect::<String>();
    let method = short(entry.method, MAX_METHOD_CHARS);
    let path = short(entry.target.split(['?', '#']).next().unwrap_or_default(), MAX_PATH_CHARS);
    log::info!("{method} {path} {} {}ms {}", entry.status, entry.took.as_millis(), entry.detail);
}

fn send(request: tiny_http::Request, response: Response) -> io::Result<()> {
    let Response { status, headers, body, .. } = response;
    let headers = headers.into_iter().map(|(name, value)| header(name, &value)).collect();
    match body {
        Body::Bytes(bytes) => {
            let length = bytes.len();
            let body = Cursor::new(SharedBytes(bytes));
            // A length is better than chunks: the client sees a missing end.
            let response = tiny_http::Response::new(status.into(), headers, body, Some(length), None)
                .with_chunked_threshold(usize::MAX);
            request.respond(response)
        }
        Body::Stream(reader) => send_stream(request, (status, headers), reader),
    }
}

/// Sends a body of unknown length, each read as one chunk at once. tiny_http's own encoder would hold 8 KB back.
fn send_stream(
    request: tiny_http::Request,
    (status, headers): (u16, Vec<Header>),
    mut body: Box<dyn Read + Send>,
) -> io::Result<()> {
    let is_head = *request.method() == tiny_http::Method::Head;
    let mut writer = request.into_writer();
    let head = tiny_http::Response::new(status.into(), headers, io::empty(), None, None);
    head.raw_print(&mut writer, HTTPVersion(1, 1), &[], true, None)?;
    writer.flush()?;
    if is_head {
        return Ok(());
    }
    let mut piece = vec![0; STREAM_PIECE];
    loop {
        let count = match body.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                // Not a chunk: the front ends the client's connection, so that the client sees a missing end.
                writer.write_all(b"failed\r\n").and_then(|()| writer.flush())?;
                return Err(error);
            }
            Ok(count) => count,
        };
        write!(writer, "{count:x}\r\n")?;
        writer.write_all(&piece[..count])?;
        writer.write_all(b"\r\n")?;
        writer.flush()?;
        if count == 0 {
            return Ok(());
        }
    }
}

/// A shared body as a reader's source.
struct SharedBytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("the names and values of our headers are ASCII")
}

#[cfg(test)]
mod tests;
