//! A small HTTP/1.1 client: sends raw bytes; reads status, headers and body.

use super::TIMEOUT;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

pub struct Connection(BufReader<TcpStream>);

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection(BufReader::new(stream))
    }

    /// Connects from an address of this host.
    pub fn open_from(ip: Ipv4Addr, address: SocketAddr) -> Connection {
        // Without CLOEXEC a server started by another test would inherit the socket and keep it open.
        let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&socket, &SocketAddr::from((ip, 0))).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        Connection::over(TcpStream::from(socket))
    }

    /// Wraps an open socket.
    pub fn over(stream: TcpStream) -> Connection {
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        Connection(BufReader::new(stream))
    }

    /// The socket; bytes that were already buffered are not in it.
    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// Sends one request, with a Content-Length if it has a body, and reads the response. The connection stays open.
    pub fn request(&mut self, method: &str, target: &str, body: Option<&[u8]>) -> Response {
        let length = body.map_or_else(String::new, |body| format!("Content-Length: {}\r\n", body.len()));
        self.request_with(method, target, &length, body.unwrap_or_default())
    }

    /// Sends one request with these header lines and this body, and reads the response. The connection stays open.
    pub fn request_with(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> Response {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n");
        self.send(&[head.as_bytes(), body].concat());
        self.response(method == "HEAD").unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    /// Reads one response and skips interim responses (1xx).
    pub fn response(&mut self, is_head: bool) -> io::Result<Response> {
        self.response_and_interim(is_head).map(|(response, _)| response)
    }

    /// Reads one response and counts the interim responses (1xx) before it.
    pub fn response_and_interim(&mut self, is_head: bool) -> io::Result<(Response, usize)> {
        let mut interim = 0;
        loop {
            let line = read_line(&mut self.0)?;
            let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
            let status: u16 = status.ok_or_else(|| io::Error::other(format!("status line {line:?}")))?;
            let headers = read_headers(&mut self.0)?;
            if status < 200 {
                interim += 1;
                continue;
            }
            // RFC 9110, section 15.4.5: a 304 has no body.
            let body = if is_head || status == 304 { Vec::new() } else { read_body(&mut self.0, &headers)? };
            return Ok((Response { status, headers, body }, interim));
        }
    }

    /// The bytes to read.
    pub fn reader(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.0
    }

    /// Reads to the end of the connection.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).map(|_| bytes)
    }

    /// Returns `true` once the peer has closed its side; discards the bytes before that.
    pub fn is_closed_by_peer(&mut self) -> bool {
        io::copy(&mut self.0, &mut io::sink()).is_ok()
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("responses are UTF-8")
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.header("Content-Type").map(|kind| kind.split(';').next().unwrap()), Some("application/json"));
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// The sentence of an error response.
    pub fn error(&self) -> String {
        self.error_and_code().0
    }

    /// The code of an error response.
    pub fn code(&self) -> String {
        self.error_and_code().1
    }

    /// The sentence and the code of an error response, which is exactly `{"error":"...","code":"..."}`.
    fn error_and_code(&self) -> (String, String) {
        self.json();
        let problem = error_problem(&self.body);
        assert_eq!(problem, None, "of status {}: {}", self.status, self.text());
        let body: ErrorBody = serde_json::from_slice(&self.body).expect("checked");
        (body.error, body.code)
    }
}

/// The body of an error response.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ErrorBody {
    error: String,
    code: String,
}

/// The fault of a body that is not `{"error":SENTENCE,"code":CODE}` in this order.
pub fn error_problem(body: &[u8]) -> Option<&'static str> {
    let Ok(ErrorBody { error, code }) = serde_json::from_slice(body) else { return Some("no error and code") };
    if !body.starts_with(br#"{"error":"#) {
        return Some("another order");
    }
    if error.trim().is_empty() || error.contains('\n') {
        return Some("not one sentence");
    }
    let is_code = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    (!is_code).then_some("a code that is not in snake case")
}

/// The first header with this name, in any case.
pub fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Reads a line without its CRLF; the end of the stream is an error.
pub fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    if reader.read_until(b'\n', &mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
}

/// Reads header lines up to the empty line.
pub fn read_headers(reader: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Ok(headers);
        }
        let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(format!("header {line:?}")))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// Reads a body framed by chunks, by Content-Length or, with `Connection: close`, by the end of the connection.
pub fn read_body(reader: &mut impl BufRead, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if find(headers, "Transfer-Encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        while read_chunk(reader, &mut body)? {}
    } else if let Some(length) = find(headers, "Content-Length") {
        body.resize(length.parse().map_err(io::Error::other)?, 0);
        reader.read_exact(&mut body)?;
    } else if find(headers, "Connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
        reader.read_to_end(&mut body)?;
    }
    Ok(body)
}

/// Appends one chunk; returns `false` after the last.
fn read_chunk(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<bool> {
    let size = usize::from_str_radix(read_line(reader)?.trim(), 16).map_err(io::Error::other)?;
    if size == 0 {
        read_headers(reader)?;
        return Ok(false);
    }
    let start = body.len();
    body.resize(start + size, 0);
    reader.read_exact(&mut body[start..])?;
    read_line(reader)?;
    Ok(true)
}
