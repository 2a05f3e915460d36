//! Proxies in front of the API server: HTTP CONNECT and SOCKS5. They record every request.

use super::http::{read_headers, read_line};
use super::tls::{self, ClientCerts};
use rustls::ServerConnection;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A proxy that connects every client to one address, whatever target it requests.
pub struct Proxy {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<ProxyRequest>>>,
}

/// A recorded proxy request.
#[derive(Clone, Debug, PartialEq)]
pub struct ProxyRequest {
    /// `HOST:PORT`.
    pub target: String,
    /// The Proxy-Authorization header of an HTTP proxy, or `NAME:PASSWORD` of a SOCKS proxy.
    pub authorization: Option<String>,
}

#[derive(Clone, Copy)]
pub enum Kind {
    Connect,
    /// A CONNECT proxy behind TLS, with this certificate under tests/data/tls.
    TlsConnect(&'static str),
    /// A CONNECT proxy that responds with this status to every request.
    Refusing(u16),
    /// A CONNECT proxy that sends its response byte by byte, with this pause between bytes.
    Dripping(Duration),
    /// A CONNECT proxy that accepts after this time, and sends nothing after that.
    DelayedThenSilent(Duration),
    /// Accepts connections and sends nothing.
    Silent,
    Socks5,
    /// SOCKS5 that requires the user name `jane` and the password `pass` (RFC 1929).
    Socks5Login,
    /// SOCKS5 that responds with this reply code (RFC 1928) to every request.
    Socks5Refusing(u8),
    /// SOCKS5 that accepts the method, then sends its reply byte by byte with this pause.
    Socks5Dripping(Duration),
}

impl Proxy {
    pub fn start(kind: Kind, destination: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let record = requests.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let record = record.clone();
                // An error means that one side closed; the test observes the outcome.
                std::thread::spawn(move || client.and_then(|client| serve(kind, client, destination, &record)));
            }
        });
        Proxy { address, requests }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn requests(&self) -> Vec<ProxyRequest> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(kind: Kind, client: TcpStream, destination: SocketAddr, record: &Mutex<Vec<ProxyRequest>>) -> io::Result<()> {
    let mut client = match kind {
        Kind::TlsConnect(identity) => Client::with_tls(client, identity)?,
        _ => Client { socket: client.into(), tls: None },
    };
    let requests = match kind {
        Kind::Silent => return client.wait_for_end(),
        Kind::Socks5 | Kind::Socks5Refusing(_) | Kind::Socks5Dripping(_) => read_socks5_request(&mut client, false)?,
        Kind::Socks5Login => read_socks5_request(&mut client, true)?,
        _ => read_connect_request(&mut client)?,
    };
    record.lock().unwrap().push(requests);
    match kind {
        Kind::Refusing(status) => {
            let response = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
            return client.write_all(response.as_bytes());
        }
        Kind::Dripping(pause) => return client.drip(b"HTTP/1.1 200 Connection established\r\nX: ", pause),
        Kind::Socks5Dripping(pause) => return client.drip(&[5, 0, 0, 3, 255], pause),
        Kind::DelayedThenSilent(time) => {
            // The delay is the injected fault, not a wait for a condition.
            std::thread::sleep(time);
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            return client.wait_for_end();
        }
        Kind::Connect | Kind::TlsConnect(_) => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?,
        Kind::Socks5 | Kind::Socks5Login => client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?,
        Kind::Socks5Refusing(code) => return client.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]),
        Kind::Silent => {}
    }
    tunnel(client, &TcpStream::connect(destination)?)
}

/// A client's connection. One thread may read and another write through clones, also with TLS: the socket is read
/// outside the lock.
#[derive(Clone)]
struct Client {
    socket: Arc<TcpStream>,
    tls: Option<Arc<Mutex<ServerConnection>>>,
}

impl Client {
    fn with_tls(socket: TcpStream, identity: &str) -> io::Result<Client> {
        let mut tls =
            ServerConnection::new(tls::server_config(identity, ClientCerts::NotRequested)).map_err(io::Error::other)?;
        let mut socket = socket;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket)?;
        }
        Ok(Client { socket: socket.into(), tls: Some(Arc::new(Mutex::new(tls))) })
    }

    /// Sends these bytes, then the last byte forever, with a pause before each byte.
    fn drip(&mut self, bytes: &[u8], pause: Duration) -> io::Result<()> {
        let (last, endless) = (bytes[bytes.len() - 1], bytes.len()..);
        for byte in bytes.iter().copied().chain(endless.map(|_| last)) {
            std::thread::sleep(pause);
            self.write_all(&[byte])?;
        }
        Ok(())
    }

    /// Sends nothing until the client closes.
    fn wait_for_end(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }
}

impl Read for Client {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return (&*self.socket).read(into) };
        let mut piece = [0; 4096];
        loop {
            match tls.lock().unwrap().reader().read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            let count = (&*self.socket).read(&mut piece)?;
            let mut tls = tls.lock().unwrap();
            let mut rest = &piece[..count];
            // Runs at least once: an empty read signals the end of the stream.
            loop {
                tls.read_tls(&mut rest)?;
                tls.process_new_packets().map_err(io::Error::other)?;
                if rest.is_empty() {
                    break;
                }
            }
        }
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return (&*self.socket).write(bytes) };
        let mut tls = tls.lock().unwrap();
        let count = tls.writer().write(bytes)?;
        while tls.wants_write() {
            tls.write_tls(&mut &*self.socket)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads a CONNECT request. The client waits for the response, so the buffered reader takes no further bytes.
fn read_connect_request(client: &mut Client) -> io::Result<ProxyRequest> {
    let mut reader = BufReader::new(client);
    let line = read_line(&mut reader)?;
    let headers = read_headers(&mut reader)?;
    let authorization = super::http::find(&headers, "Proxy-Authorization").map(str::to_owned);
    let target = line.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    Ok(ProxyRequest { target: target.unwrap_or(&line).to_owned(), authorization })
}

/// Reads a SOCKS5 request (RFC 1928), with RFC 1929 if `login`.
fn read_socks5_request(client: &mut Client, login: bool) -> io::Result<ProxyRequest> {
    let [_, count] = read_exactly::<2>(client)?;
    let mut methods = vec![0; count.into()];
    client.read_exact(&mut methods)?;
    let method = if login { 2 } else { 0 };
    if !methods.contains(&method) {
        client.write_all(&[5, 0xff])?;
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    client.write_all(&[5, method])?;
    let mut authorization = None;
    if login {
        read_exactly::<1>(client)?;
        let (name, password) = (read_text(client)?, read_text(client)?);
        let good = (name.as_str(), password.as_str()) == ("jane", "pass");
        client.write_all(&[1, u8::from(!good)])?;
        if !good {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        authorization = Some(format!("{name}:{password}"));
    }
    let [_, _, _, kind] = read_exactly::<4>(client)?;
    let host = match kind {
        1 => std::net::Ipv4Addr::from(read_exactly::<4>(client)?).to_string(),
        4 => std::net::Ipv6Addr::from(read_exactly::<16>(client)?).to_string(),
        _ => read_text(client)?,
    };
    let port = u16::from_be_bytes(read_exactly::<2>(client)?);
    Ok(ProxyRequest { target: format!("{host}:{port}"), authorization })
}

/// Reads text with a length of one byte before it.
fn read_text(client: &mut Client) -> io::Result<String> {
    let [length] = read_exactly::<1>(client)?;
    let mut text = vec![0; length.into()];
    client.read_exact(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn read_exactly<const N: usize>(stream: &mut Client) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

fn tunnel(mut client: Client, server: &TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (server.try_clone()?, client.clone());
    let back = std::thread::spawn(move || {
        io::copy(&mut from, &mut to)?;
        to.socket.shutdown(Shutdown::Write)
    });
    io::copy(&mut client, &mut &*server)?;
    server.shutdown(Shutdown::Write)?;
    back.join().unwrap_or_else(|_| Err(io::Error::other("the way back panicked")))
}
