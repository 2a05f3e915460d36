//! HTTP/1.1 over TLS for the embedded cluster: a thread a connection, one request after another.
//!
//! Not the public side's gate: that one answers in one go, and a watch goes on. Only programs
//! of this machine get here, and all they can harm is a simulation; so there are limits of size and number and no more.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::Cluster;
use super::api::{self, Answer, Request, Watch};

/// Connections at a time: this program's requests, the commands and a few kubectl.
const CONNECTIONS_MOST: usize = 256;

/// Longest head and longest body, in bytes; a Job has 2 KB.
const HEAD_MOST: usize = 64 * 1024;
const BODY_MOST: usize = 1024 * 1024;
const HEADERS_MOST: usize = 64;

/// Longest wait for a request, and for taking an answer.
const IDLE: Duration = Duration::from_secs(90);

/// How often a watch sees whether its other end is still there.
const LOOK: Duration = Duration::from_secs(1);

/// Pause after a failure to accept: no descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Stream = StreamOwned<ServerConnection, TcpStream>;

/// Takes connections until the cluster is closed.
pub fn serve(listener: &TcpListener, tls: &Arc<ServerConfig>, cluster: &Arc<Cluster>) {
    let count = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        if cluster.is_closed() {
            return;
        }
        let Ok(connection) = connection else {
            thread::sleep(ACCEPT_PAUSE);
            continue;
        };
        let place = Place(Arc::clone(&count));
        if count.fetch_add(1, Ordering::SeqCst) >= CONNECTIONS_MOST {
            continue;
        }
        let (tls, cluster) = (Arc::clone(tls), Arc::clone(cluster));
        let talk = move || {
            let _place = place;
            // An error is the client's going away, or its not being a client.
            let _ = converse(connection, tls, &cluster);
        };
        // Without a thread the connection is closed; the client tries again.
        let _ = thread::Builder::new().name("local".into()).spawn(talk);
    }
}

/// One of the connections; given up when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn converse(connection: TcpStream, tls: Arc<ServerConfig>, cluster: &Arc<Cluster>) -> io::Result<()> {
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(IDLE))?;
    connection.set_write_timeout(Some(IDLE))?;
    let tls = ServerConnection::new(tls).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(tls, connection);
    let mut input = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut input)? {
        let last = request.header("Connection").eq_ignore_ascii_case("close");
        let answer = catch_unwind(AssertUnwindSafe(|| api::answer(cluster, &request)));
        match answer.unwrap_or_else(|_| api::fault()) {
            Answer::Whole(code, media_type, body) => {
                let mut bytes = head(code, media_type, &format!("Content-Length: {}", body.len())).into_bytes();
                bytes.extend_from_slice(&body);
                stream.write_all(&bytes)?;
                stream.flush()?;
            }
            Answer::Watch(watch) => send(&mut stream, watch)?,
        }
        if last {
            break;
        }
    }
    stream.conn.send_close_notify();
    stream.flush()
}

fn head(code: u16, media_type: &str, framing: &str) -> String {
    // Clients read the number.
    let date = httpdate::fmt_http_date(SystemTime::now());
    format!("HTTP/1.1 {code} -\r\nContent-Type: {media_type}\r\nDate: {date}\r\n{framing}\r\n\r\n")
}

/// Sends the lines of a watch as they come, in chunks.
fn send(stream: &mut Stream, mut watch: Watch) -> io::Result<()> {
    stream.write_all(head(200, "application/json", "Transfer-Encoding: chunked").as_bytes())?;
    stream.flush()?;
    while let Some(lines) = watch.next(LOOK) {
        if lines.is_empty() {
            if has_gone(&stream.sock)? {
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

/// A client that watches has nothing to say, but for its going.
fn has_gone(socket: &TcpStream) -> io::Result<bool> {
    socket.set_nonblocking(true)?;
    let peeked = socket.peek(&mut [0]);
    socket.set_nonblocking(false)?;
    Ok(!peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
}

/// Reads a request whole; none if the client has no more. `input` holds what was read beyond it.
fn read_request(stream: &mut Stream, input: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let end = loop {
        if let Some(end) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if input.len() > HEAD_MOST {
            return Err(bad("the head is too long"));
        }
        if !read_more(stream, input)? {
            return Ok(None);
        }
    };
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MOST];
    let mut parsed = httparse::Request::new(&mut headers);
    parsed.parse(&input[..end]).map_err(io::Error::other)?;
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(&key.replace('+', " ")), decode(&value.replace('+', " ")))
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.split('/').map(decode).filter(|part| !part.is_empty()).collect(),
        query: query.split('&').filter(|part| !part.is_empty()).map(pair).collect(),
        headers: parsed.headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect(),
        body: Vec::new(),
    };
    input.drain(..end);
    if request.header("Transfer-Encoding").eq_ignore_ascii_case("chunked") {
        request.body = read_chunks(stream, input)?;
        return Ok(Some(request));
    }
    let length = match request.header("Content-Length") {
        "" => 0,
        text => text.parse().ok().filter(|length| *length <= BODY_MOST).ok_or_else(|| bad("the body is too long"))?,
    };
    request.body = take(stream, input, length)?;
    Ok(Some(request))
}

/// A body in chunks, as kubectl sends a file. Trailers are not read: nobody here sends them.
fn read_chunks(stream: &mut Stream, input: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "the body is too long, or no chunks");
    let mut body = Vec::new();
    loop {
        let end = loop {
            match input.windows(2).position(|bytes| bytes == b"\r\n") {
                Some(end) => break end,
                None if input.len() > HEAD_MOST || !read_more(stream, input)? => return Err(bad()),
                None => {}
            }
        };
        let size = str::from_utf8(&input[..end]).ok().and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
        let size = size.filter(|size| body.len() + *size <= BODY_MOST).ok_or_else(bad)?;
        input.drain(..end + 2);
        let chunk = take(stream, input, size + 2)?;
        if size == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

/// The next so many bytes.
fn take(stream: &mut Stream, input: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while input.len() < length {
        if !read_more(stream, input)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = input.split_off(length);
    Ok(std::mem::replace(input, rest))
}

fn read_more(stream: &mut Stream, input: &mut Vec<u8>) -> io::Result<bool> {
    let mut piece = [0; 16 * 1024];
    let count = stream.read(&mut piece)?;
    input.extend_from_slice(&piece[..count]);
    Ok(count > 0)
}

/// Undoes percent-encoding.
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
    fn percent_signs_are_undone_once_and_broken_ones_stay() {
        for (text, plain) in
            [("a%2Fb%3d", "a/b="), ("%252F", "%2F"), ("100%", "100%"), ("%zz%4", "%zz%4"), ("ä%C3%A4", "ää")]
        {
            assert_eq!(decode(text), plain);
        }
    }
}
