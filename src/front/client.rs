//! A client connection with its place in the table: how a response is sent to a client of any speed.

use std::cell::Cell;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::front::connections::{ConnectionGuard, Phase};
use crate::front::io::{reset_on_close, set_send_buffer, try_send, wait_readable, wait_writable, write_all};
use crate::front::limits::{LARGE_SEND_BUFFER, SEND_BUFFER};

/// Time to take a response: 1.5 MB (10,000 pods) at 0.5 Mbit/s.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time between two looks of a silent stream at whether the server stops.
const STREAM_CHECK: Duration = Duration::from_secs(1);

/// A client connection with its place in the table.
pub struct Client<'a> {
    /// The socket.
    pub stream: &'a TcpStream,
    /// The place.
    pub guard: &'a ConnectionGuard,
    /// The length of the last response, in bytes.
    response: Cell<usize>,
}

impl<'a> Client<'a> {
    /// A client without a response.
    pub fn new(stream: &'a TcpStream, guard: &'a ConnectionGuard) -> Self {
        Self { stream, guard, response: Cell::new(0) }
    }

    /// Prepares the socket for a response of `bytes`.
    pub fn begin_response(&self, bytes: usize) {
        self.response.set(bytes);
        if bytes > SEND_BUFFER {
            set_send_buffer(self.stream, LARGE_SEND_BUFFER);
        }
    }

    /// Sends a response. A client that keeps up takes it at once; the rest counts against the budget for slow clients.
    ///
    /// # Errors
    /// The client went away or is too slow.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.begin_response(bytes.len());
        let sent = try_send(self.stream, bytes)?;
        if sent < bytes.len() {
            self.guard.count_unsent(Phase::Writing(bytes.len()));
            self.write_all(&bytes[sent..])?;
        }
        Ok(())
    }

    /// Writes bytes at the client's pace.
    ///
    /// # Errors
    /// The client went away or is too slow.
    pub fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let written = write_all(self.stream, bytes, WRITE_TIMEOUT, |count| self.guard.count_taken(count));
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            reset_on_close(self.stream);
        }
        written
    }

    /// Waits until a stream has bytes for the client, or has ended.
    ///
    /// # Errors
    /// The client went away, or the stream is silent at a stop.
    pub fn wait_for_stream(&self, private: &UnixStream) -> io::Result<()> {
        while !wait_readable(private, self.stream, STREAM_CHECK)? {
            if self.guard.is_draining() {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        Ok(())
    }

    /// Waits until the client has taken most of its earlier responses, so that a client that only sends fills one send buffer.
    ///
    /// # Errors
    /// The client went away or is too slow.
    pub fn wait_until_taken(&self) -> io::Result<()> {
        let response = self.response.replace(0);
        if response > SEND_BUFFER {
            set_send_buffer(self.stream, SEND_BUFFER);
        }
        if wait_writable(self.stream, Duration::ZERO)? {
            return Ok(());
        }
        self.guard.count_unsent(Phase::Backlogged(response));
        if !wait_writable(self.stream, WRITE_TIMEOUT)? {
            reset_on_close(self.stream);
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.guard.set_phase(Phase::Idle);
        Ok(())
    }
}
