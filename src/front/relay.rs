//! One exchange on a private connection: the request out, the response back to the client.
//!
//! The private connection is free again as soon as its response is read. A slow client holds memory, never a worker; only a response
//! without a known length is sent at the client's pace.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use crate::front::backend::PrivateConnection;
use crate::front::chunked;
use crate::front::client::Client;
use crate::front::connections::Phase;
use crate::front::error::RequestError;
use crate::front::io::try_send;
use crate::front::limits::SEND_BUFFER;
use crate::front::request::{Framing, Request};
use crate::front::upstream::Permit;

/// First read of a response, in bytes: all but a large list of pods fits.
const FIRST_READ: usize = 4 * 1024;

/// Each further read, in bytes.
const NEXT_READ: usize = 64 * 1024;

/// Largest chunk of a streamed response, in bytes; the server sends smaller ones.
const MAX_CHUNK: usize = 64 * 1024;

/// Longest head of a response, in bytes; the server's have 200.
const MAX_RESPONSE_HEAD: usize = 8 * 1024;

/// Most headers of a response.
const MAX_RESPONSE_HEADERS: usize = 32;

/// The reason for an incomplete exchange.
pub enum RelayError {
    /// The client has received nothing and can get an error.
    NoResponse(RequestError),
    /// The client went away, or the response broke off after a part of it was sent: the connection ends.
    Broken(io::Error),
}

impl From<RequestError> for RelayError {
    fn from(error: RequestError) -> Self {
        Self::NoResponse(error)
    }
}

/// A response whose head is complete.
struct Started {
    /// The head as it goes to the client, with the bytes of the body that have arrived.
    bytes: Vec<u8>,
    /// The length of the head in `bytes`.
    head: usize,
    /// The number of bytes of the body that are missing; `None` if it is chunked.
    missing: Option<usize>,
}

/// Sends `request` on the private connection and relays the response to the client; `close`: the client's connection ends with it.
///
/// # Errors
/// [`RelayError`]
pub fn exchange(permit: Permit<'_>, request: &Request, client: &Client<'_>, close: bool) -> Result<(), RelayError> {
    let PrivateConnection { stream, number, .. } = permit.connection();
    let bytes = request.to_private(*number, permit.waited);
    (&mut &*stream).write_all(&bytes).map_err(|error| no_response(&error))?;
    // A stream has a number. The server stops it when the client leaves, also before its head.
    if number.is_some() {
        client.wait_for_stream(stream).map_err(RelayError::Broken)?;
    }
    let mut response = read_head(stream, request, close).map_err(|error| no_response(&error))?;
    match response.missing {
        Some(missing) if missing <= NEXT_READ => {
            read_exact(stream, &mut response.bytes, missing).map_err(|error| no_response(&error))?;
            permit.give_back();
            client.send(&response.bytes).map_err(RelayError::Broken)
        }
        Some(missing) => relay_large(permit, response.bytes, missing, client),
        None => relay_stream(permit, &response, request.head.is_http10, client),
    }
}

/// The private connection failed before the client received anything.
fn no_response(error: &io::Error) -> RelayError {
    log_broken(error);
    RelayError::NoResponse(RequestError::Internal)
}

/// The private connection failed after the client received a part of the response.
fn broken(error: io::Error) -> RelayError {
    log_broken(&error);
    RelayError::Broken(error)
}

fn log_broken(error: &io::Error) {
    log::error!("the response on a private connection broke off: {error}");
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed response")
}

/// Reads until the head of the response to `request` is complete.
fn read_head(stream: &UnixStream, request: &Request, close: bool) -> io::Result<Started> {
    let mut bytes = vec![0; FIRST_READ];
    let mut length = 0;
    let (head, framing) = loop {
        length += read(stream, &mut bytes[length..])?;
        if let Some(parsed) = parse_head(&bytes[..length], request.head.method == "HEAD")? {
            break parsed;
        }
        if length >= MAX_RESPONSE_HEAD {
            return Err(malformed());
        }
        bytes.resize(MAX_RESPONSE_HEAD, 0);
    };
    bytes.truncate(length);
    let missing = match framing {
        Framing::None => Some(0),
        Framing::Length(body) => Some((head + body).checked_sub(length).ok_or_else(malformed)?),
        Framing::Chunked => None,
    };
    let mut response = Started { bytes, head, missing };
    if framing == Framing::Chunked && request.head.is_http10 {
        // HTTP/1.0 has no chunks: the end of the connection ends the body.
        response.remove_header(b"transfer-encoding:");
    }
    if [b"HTTP/1.1 204 ", b"HTTP/1.1 304 "].iter().any(|line| response.bytes.starts_with(*line)) {
        // RFC 9110, section 8.6: a 204 has no Content-Length, and that of a 304 would be the length of the 200. tiny_http sends 0.
        response.remove_header(b"content-length:");
    }
    if close {
        response.add_connection_close();
    }
    Ok(response)
}

/// The length of a complete head and the framing of its body.
fn parse_head(input: &[u8], is_head: bool) -> io::Result<Option<(usize, Framing)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_RESPONSE_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(input).map_err(|_| malformed())? else { return Ok(None) };
    if is_head || matches!(parsed.code, Some(204 | 304)) {
        return Ok(Some((length, Framing::None)));
    }
    let value = |name: &str| parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if value("transfer-encoding").is_some() {
        return Ok(Some((length, Framing::Chunked)));
    }
    let body = value("content-length").and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    Ok(Some((length, Framing::Length(body.ok_or_else(malformed)?))))
}

impl Started {
    fn add_connection_close(&mut self) {
        const HEADER: &[u8] = b"Connection: close\r\n";
        // Before the empty line, which ends the head.
        let at = self.head - 2;
        self.bytes.splice(at..at, HEADER.iter().copied());
        self.head += HEADER.len();
    }

    /// Removes a header from the head. `name` is in lower case and ends with a colon.
    fn remove_header(&mut self, name: &[u8]) {
        let mut start = 0;
        for line in self.bytes[..self.head].split_inclusive(|byte| *byte == b'\n') {
            let end = start + line.len();
            if line.to_ascii_lowercase().starts_with(name) {
                self.bytes.drain(start..end);
                self.head -= end - start;
                return;
            }
            start = end;
        }
    }
}

/// Reads available bytes, at least one.
fn read(mut stream: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Appends the next `count` bytes.
fn read_exact(mut stream: &UnixStream, bytes: &mut Vec<u8>, count: usize) -> io::Result<()> {
    let start = bytes.len();
    bytes.resize(start + count, 0);
    stream.read_exact(&mut bytes[start..])
}

/// Relays a large response in pieces while the client keeps up, and keeps for it what it does not take.
fn relay_large(permit: Permit<'_>, start: Vec<u8>, missing: usize, client: &Client<'_>) -> Result<(), RelayError> {
    let total = start.len() + missing;
    client.begin_response(total);
    let mut unsent = Unsent { client, bytes: Vec::new(), sent: 0, total };
    unsent.push(&start).map_err(RelayError::Broken)?;
    drop(start);
    let mut buffer = vec![0; NEXT_READ];
    let mut left = missing;
    while left > 0 {
        let size = left.min(buffer.len());
        let count = read(&permit.connection().stream, &mut buffer[..size]).map_err(broken)?;
        unsent.push(&buffer[..count]).map_err(RelayError::Broken)?;
        left -= count;
    }
    permit.give_back();
    unsent.finish().map_err(RelayError::Broken)
}

/// The part of a large response that the client has not taken.
struct Unsent<'a> {
    client: &'a Client<'a>,
    bytes: Vec<u8>,
    sent: usize,
    /// The length of the whole response.
    total: usize,
}

impl Unsent<'_> {
    /// Adds a piece, and sends as much as the client takes without waiting.
    fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        if self.sent < self.bytes.len() {
            let sent = try_send(self.client.stream, &self.bytes[self.sent..])?;
            self.client.guard.count_taken(sent);
            self.sent += sent;
        }
        if self.sent < self.bytes.len() {
            self.bytes.extend_from_slice(piece);
            return Ok(());
        }
        (self.sent, self.bytes) = (0, Vec::new());
        let sent = try_send(self.client.stream, piece)?;
        if sent < piece.len() {
            self.client.guard.count_unsent(Phase::Writing(self.total));
            self.bytes.extend_from_slice(&piece[sent..]);
        }
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        self.client.write_all(&self.bytes[self.sent..])
    }
}

/// Relays a response without a known length, each chunk at once.
fn relay_stream(permit: Permit<'_>, start: &Started, is_http10: bool, client: &Client<'_>) -> Result<(), RelayError> {
    // Its length is not known. What the kernel still holds at its end gets the time of a full buffer.
    client.begin_response(SEND_BUFFER);
    let (head, body) = start.bytes.split_at(start.head);
    client.write_all(head).map_err(RelayError::Broken)?;
    let mut input = body.to_vec();
    let mut buffer = vec![0; FIRST_READ];
    loop {
        while let Some((data, used)) = chunked::first_chunk(&input, MAX_CHUNK).map_err(|_| broken(malformed()))? {
            if data.is_empty() {
                end_stream(permit, &input[used..])?;
                let end: &[u8] = if is_http10 { b"" } else { b"0\r\n\r\n" };
                return client.write_all(end).map_err(RelayError::Broken);
            }
            let piece = if is_http10 { data } else { &input[..used] };
            client.write_all(piece).map_err(RelayError::Broken)?;
            input.drain(..used);
        }
        let private = &permit.connection().stream;
        client.wait_for_stream(private).map_err(RelayError::Broken)?;
        let count = read(private, &mut buffer).map_err(broken)?;
        input.extend_from_slice(&buffer[..count]);
    }
}

/// Reads the empty line after the last chunk, of which `rest` has arrived, and gives the private connection back.
fn end_stream(permit: Permit<'_>, rest: &[u8]) -> Result<(), RelayError> {
    let mut rest = rest.to_vec();
    let missing = 2usize.saturating_sub(rest.len());
    read_exact(&permit.connection().stream, &mut rest, missing).map_err(broken)?;
    if rest != b"\r\n" {
        return Err(broken(malformed()));
    }
    permit.give_back();
    Ok(())
}
