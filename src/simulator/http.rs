//! HTTP/1.1 over TLS for the simulated cluster: one thread per connection, one request after another.
//!
//! The public front buffers each response, whereas a watch streams. Only programs on this machine can connect, and the state is
//! a simulation, so limits on size and number are enough.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::api;
use super::cluster::Cluster;
use super::request::Request;
use super::response::{NextBytes, Response};

/// Concurrent connections: requests of this program, its commands and a few kubectl.
const MAX_CONNECTIONS: usize = 256;

/// Longest head and longest body, in bytes; a Job has 2 KB.
const MAX_HEAD: usize = 64 * 1024;
const MAX_BODY: usize = 1024 * 1024;
const MAX_HEADERS: usize = 64;

/// Timeout of a read and of a write.
const IO_TIMEOUT: Duration = Duration::from_secs(90);

/// Interval at which a stream checks that its client is still connected.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Pause after a failed accept, for example without free descriptors.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

type Stream = StreamOwned<ServerConnection, TcpStream>;

/// Accepts connections until the cluster is closed.
pub fn serve(listener: &TcpListener, tls: &Arc<ServerConfig>, cluster: &Arc<Cluster>) {
    let count = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        if cluster.is_closed() {
            return;
        }
        let Ok(connection) = connection else {
            thread::sleep(ACCEPT_BACKOFF);
            continue;
        };
        let guard = ConnectionGuard(Arc::clone(&count));
        if count.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
            continue;
        }
        let (tls, cluster) = (Arc::clone(tls), Arc::clone(cluster));
        let serve = move || {
            let _guard = guard;
            // Errors are those of the client: a closed connection or malformed bytes.
            let _ = serve_connection(connection, tls, &cluster);
        };
        // Without a thread the connection is closed, and the client retries.
        let _ = thread::Builder::new().name("sim-connection".into()).spawn(serve);
    }
}

/// Counts a connection until it is dropped.
struct ConnectionGuard(Arc<AtomicUsize>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve_connection(connection: TcpStream, tls: Arc<ServerConfig>, cluster: &Arc<Cluster>) -> io::Result<()> {
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(IO_TIMEOUT))?;
    connection.set_write_timeout(Some(IO_TIMEOUT))?;
    let tls = ServerConnection::new(tls).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(tls, connection);
    let mut input = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut input)? {
        let close = request.header("Connection").eq_ignore_ascii_case("close");
        let response = catch_unwind(AssertUnwindSafe(|| api::handle(cluster, &request)));
        match response.unwrap_or_else(|_| api::internal_error()) {
            Response::Complete(code, media_type, body) => {
                let framing = format!("{}Content-Length: {}", warnings(&request), body.len());
                let mut bytes = head(code, media_type, &framing).into_bytes();
                bytes.extend_from_slice(&body);
                stream.write_all(&bytes)?;
                stream.flush()?;
            }
            Response::Stream(media_type, next) => send_stream(&mut stream, media_type, next)?,
        }
        if close {
            break;
        }
    }
    stream.conn.send_close_notify();
    stream.flush()
}

/// Returns the header lines of the warnings.
fn warnings(request: &Request) -> String {
    let warnings = request.warnings.borrow();
    let line = |text: &String| format!("Warning: 299 - {text:?}\r\n");
    warnings.iter().map(line).collect()
}

fn head(code: u16, media_type: &str, framing: &str) -> String {
    // The Python clients show the reason phrase.
    let reason = match code {
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        410 => "Gone",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Entity",
        _ => "Internal Server Error",
    };
    let date = httpdate::fmt_http_date(SystemTime::now());
    format!("HTTP/1.1 {code} {reason}\r\nContent-Type: {media_type}\r\nDate: {date}\r\n{framing}\r\n\r\n")
}

/// Sends the lines of a watch or a log as they arrive, in chunks.
fn send_stream(stream: &mut Stream, media_type: &str, mut next: NextBytes) -> io::Result<()> {
    stream.write_all(head(200, media_type, "Transfer-Encoding: chunked").as_bytes())?;
    stream.flush()?;
    while let Some(lines) = next(POLL_INTERVAL) {
        if lines.is_empty() {
            if is_disconnected(&stream.sock)? {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            continue;
        }
        stream.write_all(format!("{:x}\r\n", lines.len()).as_bytes())?;
        stream.write_all(&lines)?;
        stream.write_all(b"\r\n")?;
        stream.flush()?;
    }
    stream.write_all(b"0\r\n\r\n")?;
    stream.flush()
}

/// Returns true if the client has closed the connection or sent bytes, which no client does during a stream.
fn is_disconnected(socket: &TcpStream) -> io::Result<bool> {
    socket.set_nonblocking(true)?;
    let peeked = socket.peek(&mut [0]);
    socket.set_nonblocking(false)?;
    Ok(!peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
}

/// Reads a complete request. Returns `None` if the client has closed the connection. `input` holds bytes of the next request.
fn read_request(stream: &mut Stream, input: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let end = loop {
        if let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if input.len() > MAX_HEAD {
            return Err(malformed("the head is too long"));
        }
        if !read_more(stream, input)? {
            return Ok(None);
        }
    };
    let mut request = parse_head(&input[..end])?;
    input.drain(..end);
    if request.header("Transfer-Encoding").eq_ignore_ascii_case("chunked") {
        request.body = read_chunks(stream, input)?;
        return Ok(Some(request));
    }
    let length = match request.header("Content-Length") {
        "" => 0,
        text => {
            let length = text.parse().ok().filter(|length| *length <= MAX_BODY);
            length.ok_or_else(|| malformed("the body is too long"))?
        }
    };
    request.body = take(stream, input, length)?;
    Ok(Some(request))
}

/// Parses a request without its body.
fn parse_head(head: &[u8]) -> io::Result<Request> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(head).map_err(io::Error::other)?;
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.split('/').map(decode).filter(|part| !part.is_empty()).collect(),
        query: query.split('&').filter(|part| !part.is_empty()).map(pair).collect(),
        headers: parsed.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect(),
        ..Request::default()
    })
}

/// Reads a chunked body, as kubectl sends a file. Trailers are not supported: no client of the simulator sends them.
fn read_chunks(stream: &mut Stream, input: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let bad = || malformed("the body is too long or not chunked");
    let mut body = Vec::new();
    loop {
        let end = loop {
            match input.windows(2).position(|bytes| bytes == b"\r\n") {
                Some(end) => break end,
                None if input.len() > MAX_HEAD || !read_more(stream, input)? => return Err(bad()),
                None => {}
            }
        };
        let size = str::from_utf8(&input[..end]).ok().and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
        let size = size.filter(|size| *size <= MAX_BODY - body.len()).ok_or_else(bad)?;
        input.drain(..end + 2);
        let chunk = take(stream, input, size + 2)?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

fn malformed(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// Reads exactly `length` bytes.
fn take(stream: &mut Stream, input: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while input.len() < length {
        if !read_more(stream, input)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = input.split_off(length);
    Ok(std::mem::replace(input, rest))
}

/// Reads some bytes. Returns false at the end of the connection.
fn read_more(stream: &mut Stream, input: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 16 * 1024];
    let count = stream.read(&mut piece)?;
    input.extend_from_slice(&piece[..count]);
    Ok(count > 0)
}

/// Decodes percent-encoding.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let escaped = text.get(at + 1..at + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (byte, length) = escaped.filter(|_| bytes[at] == b'%').map_or((bytes[at], 1), |byte| (byte, 3));
        out.push(byte);
        at += length;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_decoded_once_and_malformed_sequences_stay() {
        for (text, plain) in
            [("a%2Fb%3d", "a/b="), ("%252F", "%2F"), ("100%", "100%"), ("%zz%4", "%zz%4"), ("ä%C3%A4", "ää")]
        {
            assert_eq!(decode(text), plain);
        }
    }
}
