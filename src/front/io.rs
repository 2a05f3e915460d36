//! Reads and writes of a client connection, each with a deadline: a timeout for each system call alone would let a client that
//! sends or takes one byte a second hold a thread forever.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, sockopt};

/// Time and bytes that a refused client may still send before the connection is reset. Closing at once would discard the refusal
/// that the client has not read yet.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 256 * 1024);

/// Longest time of one write, after which the bytes that the socket took are reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// The outcome of a read.
pub enum ReadOutcome {
    /// Bytes arrived.
    Data,
    /// The client ended its stream.
    Eof,
    /// The deadline passed.
    TimedOut,
}

/// Reads available bytes, and waits for them until `deadline`.
pub fn read_some(mut stream: &TcpStream, input: &mut Vec<u8>, deadline: Instant) -> io::Result<ReadOutcome> {
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(ReadOutcome::TimedOut);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(ReadOutcome::Eof),
            Ok(count) => {
                input.extend_from_slice(&buffer[..count]);
                return Ok(ReadOutcome::Data);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(ReadOutcome::TimedOut),
                _ => return Err(error),
            },
        }
    }
}

/// Writes all bytes within `timeout`, and reports each part that the socket takes.
pub fn write_all(
    mut stream: &TcpStream,
    mut bytes: &[u8],
    timeout: Duration,
    report: impl Fn(usize),
) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left.min(REPORT_INTERVAL)))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                report(count);
                bytes = &bytes[count..];
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {}
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

/// Waits at most `timeout` until the client has taken a third of a full send buffer; false if it has not.
pub fn wait_writable(stream: &TcpStream, timeout: Duration) -> io::Result<bool> {
    wait_for(stream, PollFlags::OUT, timeout)
}

/// Waits at most `timeout` for the end of the connection; false if it goes on.
pub fn wait_closed(stream: &TcpStream, timeout: Duration) -> io::Result<bool> {
    wait_for(stream, PollFlags::empty(), timeout)
}

/// Tests if the client has ended its stream.
pub fn is_ended(stream: &TcpStream) -> bool {
    // Bytes that it sent before do not hide this.
    wait_for(stream, PollFlags::RDHUP, Duration::ZERO).unwrap_or(true)
}

/// Waits at most `timeout` until a read of `private` would not block; false if it would.
///
/// # Errors
/// `client` has closed its end meanwhile, or only the direction of requests: nothing tells the two apart before a write.
pub fn wait_readable(private: &UnixStream, client: &TcpStream, timeout: Duration) -> io::Result<bool> {
    let mut sources = [PollFd::new(private, PollFlags::IN), PollFd::new(client, PollFlags::RDHUP)];
    let is_ready = poll_for(&mut sources, timeout)?;
    if is_ready && sources[0].revents().is_empty() {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    Ok(is_ready)
}

fn wait_for(stream: &TcpStream, events: PollFlags, timeout: Duration) -> io::Result<bool> {
    poll_for(&mut [PollFd::new(stream, events)], timeout)
}

fn poll_for(sources: &mut [PollFd<'_>], timeout: Duration) -> io::Result<bool> {
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    loop {
        match poll(sources, Some(&timeout)) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}

/// Sets the size of the send buffer, in bytes.
pub fn set_send_buffer(stream: &TcpStream, bytes: usize) {
    // An error means that the connection has ended.
    let _ = sockopt::set_socket_send_buffer_size(stream, bytes);
}

/// Makes the close of a connection drop the bytes that the client has not taken, which the kernel would keep for minutes.
pub fn reset_on_close(stream: &TcpStream) {
    // An error means that the connection has ended.
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

/// Writes as much as the socket takes without waiting, and returns the number of bytes.
pub fn try_send(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    match rustix::net::send(stream, bytes, flags) {
        Ok(sent) => Ok(sent),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Closes the connection so that the client can read the last response: RFC 9112, section 9.6.
pub fn lingering_close(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let deadline = Instant::now() + LINGER.0;
    let mut dropped = Vec::new();
    let mut total = 0;
    while total < LINGER.1 && matches!(read_some(stream, &mut dropped, deadline)?, ReadOutcome::Data) {
        total += dropped.len();
        dropped.clear();
    }
    Ok(())
}
