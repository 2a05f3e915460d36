//! Proxies for the way to the API server: HTTP CONNECT and SOCKS5, each a thread, every wish recorded.

use super::http::{read_headers, read_line};
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A proxy that leads every connection to one address, whatever name it was asked for.
pub struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// What a client wanted of the proxy.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// `HOST:PORT`.
    pub target: String,
    pub authorization: Option<String>,
}

#[derive(Clone, Copy)]
pub enum Kind {
    Connect,
    /// A CONNECT proxy that says 403 to everybody.
    Forbidding,
    Socks5,
}

impl Proxy {
    pub fn start(kind: Kind, destination: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let record = asked.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let record = record.clone();
                // An error is one side going away; the test sees what came of it.
                std::thread::spawn(move || client.and_then(|client| serve(kind, client, destination, &record)));
            }
        });
        Proxy { address, asked }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(kind: Kind, mut client: TcpStream, destination: SocketAddr, record: &Mutex<Vec<Asked>>) -> io::Result<()> {
    let asked = match kind {
        Kind::Connect | Kind::Forbidding => hear_connect(&client)?,
        Kind::Socks5 => hear_socks5(&mut client)?,
    };
    record.lock().unwrap().push(asked);
    match kind {
        Kind::Forbidding => return client.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
        Kind::Connect => client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?,
        Kind::Socks5 => client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?,
    }
    tunnel(&client, &TcpStream::connect(destination)?)
}

/// The client sends nothing more until it is answered, so a buffered reader swallows nothing.
fn hear_connect(client: &TcpStream) -> io::Result<Asked> {
    let mut reader = BufReader::new(client);
    let line = read_line(&mut reader)?;
    let headers = read_headers(&mut reader)?;
    let authorization = super::http::find(&headers, "Proxy-Authorization").map(str::to_owned);
    let target = line.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
    Ok(Asked { target: target.unwrap_or(&line).to_owned(), authorization })
}

/// RFC 1928, without authentication.
fn hear_socks5(client: &mut TcpStream) -> io::Result<Asked> {
    let [_, methods] = read_exactly::<2>(client)?;
    client.read_exact(&mut vec![0; methods.into()])?;
    client.write_all(&[5, 0])?;
    let [_, _, _, kind] = read_exactly::<4>(client)?;
    let host = match kind {
        1 => std::net::Ipv4Addr::from(read_exactly::<4>(client)?).to_string(),
        4 => std::net::Ipv6Addr::from(read_exactly::<16>(client)?).to_string(),
        _ => {
            let [length] = read_exactly::<1>(client)?;
            let mut name = vec![0; length.into()];
            client.read_exact(&mut name)?;
            String::from_utf8_lossy(&name).into_owned()
        }
    };
    let port = u16::from_be_bytes(read_exactly::<2>(client)?);
    Ok(Asked { target: format!("{host}:{port}"), authorization: None })
}

fn read_exactly<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map(|()| bytes)
}

fn tunnel(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    let back = std::thread::spawn(move || {
        io::copy(&mut from, &mut to)?;
        to.shutdown(Shutdown::Write)
    });
    io::copy(&mut &*client, &mut &*server)?;
    server.shutdown(Shutdown::Write)?;
    back.join().unwrap_or_else(|_| Err(io::Error::other("the way back panicked")))
}
