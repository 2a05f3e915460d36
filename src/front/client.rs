//! A client connection with its place in the table: how a response is sent to a client of any speed.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use crate::front::connections::{ConnectionGuard, Phase};
use crate::front::io::{reset_on_close, try_send, wait_writable, write_all};

/// Time to take a response: 1.5 MB (10,000 pods) at 0.5 Mbit/s.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A client connection with its place in the table.
pub struct Client<'a> {
    /// The socket.
    pub stream: &'a TcpStream,
    /// The place.
    pub guard: &'a ConnectionGuard,
}

impl Client<'_> {
    /// Sends a response. A client that keeps up takes it at once; the rest counts against the budget for slow clients.
    ///
    /// # Errors
    /// The client went away or is too slow.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = try_send(self.stream, bytes)?;
        if sent < bytes.len() {
            self.guard.count_unsent(bytes.len());
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

    /// Waits until the client has taken most of its earlier responses, so that a client that only sends fills one send buffer.
    ///
    /// # Errors
    /// The client went away or is too slow.
    pub fn wait_until_taken(&self) -> io::Result<()> {
        if wait_writable(self.stream, Duration::ZERO)? {
            return Ok(());
        }
        self.guard.set_phase(Phase::Backlogged);
        if !wait_writable(self.stream, WRITE_TIMEOUT)? {
            reset_on_close(self.stream);
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.guard.set_phase(Phase::Idle);
        Ok(())
    }
}
