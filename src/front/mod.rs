//! The hardened front: accepts client connections, limits them in time, size and number, reads each request whole, checks its
//! framing, forwards it over a pooled private connection to the server behind, and relays the answer to clients of any speed.
//!
//! It holds bytes and limits. It imports nothing from the rest of the program and contains no route: [`Backend`] has all that it
//! needs from outside.

pub mod chunked;
pub mod connection;
pub mod connections;
pub mod error;
pub mod io;
pub mod limits;
pub mod listener;
pub mod rate_limiter;
pub mod relay;
pub mod request;
#[cfg(test)]
mod tests;
pub mod upstream;

use std::os::unix::net::UnixStream;
use std::time::Duration;

pub use limits::Limits;
pub use listener::{Front, Socket};
pub use upstream::Class;

/// The server behind the front.
pub struct Backend {
    /// Opens a private connection and starts the worker that serves it.
    pub connect: Box<dyn Fn() -> std::io::Result<PrivateConnection> + Send + Sync>,
    /// Returns the class of a request from its method and target.
    pub classify: fn(&str, &str) -> Class,
    /// Request headers to forward. A repeated one is dropped.
    pub headers: &'static [&'static str],
    /// Longest wait for a private connection.
    pub acquire_timeout: Duration,
    /// Longest time from a forwarded request to the next bytes of its answer.
    pub answer_timeout: Duration,
    /// Writes the access log's line for a request that the front answers itself.
    pub log: fn(&LogEntry<'_>),
}

/// A connection to the server behind.
pub struct PrivateConnection {
    /// The front's end.
    pub stream: UnixStream,
    /// Ends the worker when the connection is dropped.
    #[expect(dead_code, reason = "held for its Drop")]
    pub worker: Box<dyn Send>,
}

/// A line of the access log.
pub struct LogEntry<'a> {
    /// The method, or "-" for a malformed request.
    pub method: &'a str,
    /// The target, or "-" for a malformed request.
    pub target: &'a str,
    /// HTTP status.
    pub status: u16,
    /// Time from the whole request to its response.
    pub took: Duration,
    /// A Job's name, a count, or the chain of causes of an error.
    pub detail: &'a str,
}
