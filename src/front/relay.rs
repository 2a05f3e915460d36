//! One exchange on a private connection: the request out, the response back to the client.
//!
//! The private connection is free again as soon as its response is read. A slow client holds memory, never a worker; only a response
//! without a known length is sent at the client's pace.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use crate::front::chunked;
use crate::front::client::{Client, WRITE_TIMEOUT};
use crate::front::error::RequestError;
use crate::front::io::{try_send, write_all};
use crate::front::request::Request;
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

/// The framing of a response's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

/// Sends `request` on the private connection and relays the response to the client; `close`: the client's connection ends with it.
///
/// # Errors
/// [`RelayError`]
pub fn exchange(permit: Permit<'_>, request: &Request, client: &Client<'_>, close: bool) -> Result<(), RelayError> {
    let stream = &permit.connection().stream;
    let (mut response, framing) = match send_and_read_head(stream, request, close) {
        Ok(read) => read,
        Err(error) => {
            log::error!("the private connection of a {} broke: {error}", request.head.method);
            return Err(RelayError::NoResponse(RequestError::Internal));
        }
    };
    match framing {
        Framing::Length(missing) if missing <= NEXT_READ => {
            let start = response.len();
            response.resize(start + missing, 0);
            let mut stream = stream;
            if let Err(error) = stream.read_exact(&mut response[start..]) {
                log::error!("a response on a private connection broke off: {error}");
                return Err(RelayError::NoResponse(RequestError::Internal));
            }
            permit.give_back();
            client.send(&response).map_err(RelayError::Broken)
        }
        Framing::Length(missing) => relay_large(permit, response, missing, client),
        Framing::Chunked => relay_stream(permit, &response, request.head.is_http10, client),
    }
}

/// Sends the request in one write, and reads until the response's head is complete. Returns the head as it goes to the client with
/// the body bytes read so far, and the framing: of a known length, the number of missing bytes.
fn send_and_read_head(mut stream: &UnixStream, request: &Request, close: bool) -> io::Result<(Vec<u8>, Framing)> {
    stream.write_all(&request.to_private())?;
    let mut response = vec![0; FIRST_READ];
    let mut length = 0;
    loop {
        let count = match stream.read(&mut response[length..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        length += count;
        if let Some((head, framing)) = parse_head(&response[..length], request.head.method == "HEAD")? {
            response.truncate(length);
            let missing = match framing {
                Framing::Length(body) => Framing::Length((head + body).checked_sub(length).ok_or_else(malformed)?),
                Framing::Chunked => Framing::Chunked,
            };
            if framing == Framing::Chunked && request.head.is_http10 {
                remove_transfer_encoding(&mut response, head);
            }
            if close {
                // Before the empty line, which ends the head.
                let at = head_end(&response) - 2;
                response.splice(at..at, *b"Connection: close\r\n");
            }
            return Ok((response, missing));
        }
        if length == response.len() {
            if length >= MAX_RESPONSE_HEAD {
                return Err(malformed());
            }
            response.resize(MAX_RESPONSE_HEAD, 0);
        }
    }
}

/// Logs that a response broke off after a part of it was sent.
fn broken(error: io::Error) -> RelayError {
    log::error!("a response on a private connection broke off: {error}");
    RelayError::Broken(error)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed response")
}

/// The length of a complete head and the framing of its body.
fn parse_head(input: &[u8], is_head: bool) -> io::Result<Option<(usize, Framing)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_RESPONSE_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(input).map_err(|_| malformed())? else { return Ok(None) };
    if is_head || matches!(parsed.code, Some(204 | 304)) {
        return Ok(Some((length, Framing::Length(0))));
    }
    let value = |name: &str| parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if value("transfer-encoding").is_some() {
        return Ok(Some((length, Framing::Chunked)));
    }
    let body = value("content-length").and_then(|header| std::str::from_utf8(header.value).ok()?.parse().ok());
    Ok(Some((length, Framing::Length(body.ok_or_else(malformed)?))))
}

/// The length of the head with its empty line.
fn head_end(response: &[u8]) -> usize {
    response.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(response.len(), |at| at + 4)
}

/// HTTP/1.0 has no chunks: the end of the connection ends the body.
fn remove_transfer_encoding(response: &mut Vec<u8>, head: usize) {
    let mut start = 0;
    while start < head {
        let end = response[start..head].iter().position(|byte| *byte == b'\n').map_or(head, |at| start + at + 1);
        if response[start..end].to_ascii_lowercase().starts_with(b"transfer-encoding:") {
            response.drain(start..end);
            return;
        }
        start = end;
    }
}

/// Relays a large response in pieces while the client keeps up, and keeps for it what it does not take.
fn relay_large(permit: Permit<'_>, start: Vec<u8>, missing: usize, client: &Client<'_>) -> Result<(), RelayError> {
    let total = start.len() + missing;
    let mut unsent = Unsent { client, bytes: Vec::new(), sent: 0, total };
    unsent.push(&start).map_err(RelayError::Broken)?;
    drop(start);
    let mut stream = &permit.connection().stream;
    let mut buffer = vec![0; NEXT_READ];
    let mut left = missing;
    while left > 0 {
        let size = left.min(buffer.len());
        let count = match stream.read(&mut buffer[..size]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read,
        };
        let count = count.map_err(broken)?;
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
            self.sent += try_send(self.client.stream, &self.bytes[self.sent..])?;
        }
        if self.sent < self.bytes.len() {
            self.bytes.extend_from_slice(piece);
            return Ok(());
        }
        (self.sent, self.bytes) = (0, Vec::new());
        let sent = try_send(self.client.stream, piece)?;
        if sent < piece.len() {
            self.client.guard.count_unsent(self.total);
            self.bytes.extend_from_slice(&piece[sent..]);
        }
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        write_all(self.client.stream, &self.bytes[self.sent..], WRITE_TIMEOUT)
    }
}

/// Relays a response without a known length, each chunk at once.
fn relay_stream(permit: Permit<'_>, start: &[u8], is_http10: bool, client: &Client<'_>) -> Result<(), RelayError> {
    let head = head_end(start);
    write_all(client.stream, &start[..head], WRITE_TIMEOUT).map_err(RelayError::Broken)?;
    let mut input = start[head..].to_vec();
    let mut buffer = vec![0; FIRST_READ];
    loop {
        while let Some((data, used)) = chunked::first_chunk(&input, MAX_CHUNK).map_err(|_| broken(malformed()))? {
            if data.is_empty() {
                end_stream(permit, &input[used..])?;
                let end: &[u8] = if is_http10 { b"" } else { b"0\r\n\r\n" };
                return write_all(client.stream, end, WRITE_TIMEOUT).map_err(RelayError::Broken);
            }
            let piece = if is_http10 { data } else { &input[..used] };
            write_all(client.stream, piece, WRITE_TIMEOUT).map_err(RelayError::Broken)?;
            input.drain(..used);
        }
        let mut stream = &permit.connection().stream;
        match stream.read(&mut buffer) {
            Ok(0) => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => input.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(broken(error)),
        }
    }
}

/// Reads the empty line after the last chunk, of which `rest` has arrived, and gives the private connection back.
fn end_stream(permit: Permit<'_>, rest: &[u8]) -> Result<(), RelayError> {
    let (mut rest, start) = (rest.to_vec(), rest.len());
    rest.resize(start.max(2), 0);
    let mut stream = &permit.connection().stream;
    stream.read_exact(&mut rest[start..]).map_err(broken)?;
    if rest != b"\r\n" {
        return Err(broken(malformed()));
    }
    permit.give_back();
    Ok(())
}
