//! Whole requests from a socket and whole answers to it, each by a deadline: a timeout for each read or write alone would
//! let a peer that sends or takes one byte a second hold a thread for ever.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};

use crate::api::{ApiError, BODY_LIMIT};
use crate::front::request::{self, Head};

/// Time to a complete head from its first byte: three lost packets on a bad line.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time to a complete body from the end of the head.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client that was refused may still send before the connection is reset, in time and in bytes: closing at once
/// would take the refusal away from it.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 256 * 1024);

/// A whole request.
pub struct Request {
    pub head: Head,
    pub body: Vec<u8>,
}

/// Why no request was read.
pub enum Broken {
    Io(io::Error),
    Refused(ApiError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ApiError> for Broken {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// Reads a whole request; none if the client left, or sent nothing within `patience`. `input` keeps what came after it, and
/// all of one that is refused.
pub fn read_request(stream: &TcpStream, input: &mut Vec<u8>, patience: Duration) -> Result<Option<Request>, Broken> {
    let idle = Instant::now() + patience;
    let mut slow = input.first().map(|_| Instant::now() + HEAD_TIMEOUT);
    let (head, used) = loop {
        request::skip_empty_lines(input);
        if let Some(found) = Head::parse(input)? {
            break found;
        }
        match fill(stream, input, slow.unwrap_or(idle))? {
            Filled::Some => slow = slow.or_else(|| Some(Instant::now() + HEAD_TIMEOUT)),
            Filled::End if input.is_empty() => return Ok(None),
            Filled::Late if slow.is_none() => return Ok(None),
            Filled::End => return Err(ApiError::BadRequest("it ends in the middle of its head").into()),
            Filled::Late => return Err(ApiError::TooSlow.into()),
        }
    };
    let length = head.content_length.unwrap_or(0);
    if length > BODY_LIMIT {
        return Err(ApiError::BodyTooLarge.into());
    }
    let whole = used + length;
    if head.expect_continue && input.len() < whole {
        write_all(stream, b"HTTP/1.1 100 Continue\r\n\r\n", BODY_TIMEOUT)?;
    }
    let deadline = Instant::now() + BODY_TIMEOUT;
    while input.len() < whole {
        match fill(stream, input, deadline)? {
            Filled::Some => {}
            Filled::End => return Err(ApiError::BadRequest("its body is shorter than its Content-Length").into()),
            Filled::Late => return Err(ApiError::TooSlow.into()),
        }
    }
    let body = input[used..whole].to_vec();
    input.drain(..whole);
    Ok(Some(Request { head, body }))
}

enum Filled {
    Some,
    End,
    Late,
}

/// Reads what there is, until `deadline` at most.
fn fill(mut stream: &TcpStream, input: &mut Vec<u8>, deadline: Instant) -> io::Result<Filled> {
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Filled::Late);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(Filled::End),
            Ok(count) => {
                input.extend_from_slice(&buffer[..count]);
                return Ok(Filled::Some);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(Filled::Late),
                _ => return Err(error),
            },
        }
    }
}

/// Writes all of it until `limit` has passed: a timeout for each write would let a reader take one byte a second for ever.
pub fn write_all(mut stream: &TcpStream, mut bytes: &[u8], limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes as much as the client takes at once, in one go; gives what is left.
pub fn send_now<'a>(stream: &TcpStream, mut parts: [&'a [u8]; 2]) -> io::Result<[&'a [u8]; 2]> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let slices = parts.map(IoSlice::new);
    let mut sent = match rustix::net::sendmsg(stream, &slices, &mut SendAncillaryBuffer::default(), flags) {
        Ok(sent) => sent,
        Err(Errno::WOULDBLOCK | Errno::INTR) => 0,
        Err(error) => return Err(error.into()),
    };
    for part in &mut parts {
        let taken = sent.min(part.len());
        *part = &part[taken..];
        sent -= taken;
    }
    Ok(parts)
}

/// Closes so that the client can read what was written: RFC 9112, section 9.6.
pub fn linger(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let deadline = Instant::now() + LINGER.0;
    let mut dropped = Vec::new();
    let mut total = 0;
    while total < LINGER.1 && matches!(fill(stream, &mut dropped, deadline)?, Filled::Some) {
        total += dropped.len();
        dropped.clear();
    }
    Ok(())
}
