//! A client connection with its place in the table: how a response is sent to a client of any speed.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use crate::front::connections::ConnectionGuard;
use crate::front::io::{try_send, write_all};

/// Time to take a response: 1.5 MB (10,000 pods) at 0.5 Mbit/s.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A client connection with its place in the table.
pub struct Client<'a> {
    /// The socket.
    pub stream: &'a TcpStream,
    /// The place.
    pub guard: &'a ConnectionGuard,
}

impl Client<'_> {
    /// Sends a response. A client that keeps up takes it at once; the rest counts against the budget for slow clients.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = try_send(self.stream, bytes)?;
        if sent < bytes.len() {
            self.guard.count_unsent(bytes.len());
            write_all(self.stream, &bytes[sent..], WRITE_TIMEOUT)?;
        }
        Ok(())
    }
}
