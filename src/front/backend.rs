//! The boundary to the server behind the front: all that the front needs from outside.

use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The server behind the front.
pub struct Backend {
    /// Opens a private connection and starts the worker that serves it.
    pub connect: Box<dyn Fn() -> io::Result<PrivateConnection> + Send + Sync>,
    /// Returns the class of a request from its method and target.
    pub classify: Classify,
    /// Holds a request back until it should be forwarded, without a private connection.
    pub hold: Hold,
    /// Request headers to forward. A repeated one is empty.
    pub headers: &'static [&'static str],
    /// Longest wait for a private connection.
    pub acquire_timeout: Duration,
    /// Longest time from a forwarded request to the next bytes of its response.
    pub response_timeout: Duration,
    /// Counts and logs a request that the front answers itself.
    pub log: Box<dyn Fn(&LogEntry<'_>) + Send + Sync>,
}

/// Returns the class of a request with this method and target.
pub type Classify = Box<dyn Fn(&str, &str) -> Class + Send + Sync>;

/// Blocks for the time that a request with this (method, target) of a client network waits, or until the closure returns true. Returns
/// false if it did not block.
pub type Hold = Box<dyn Fn((&str, &str), IpAddr, &dyn Fn() -> bool) -> bool + Send + Sync>;

/// A connection to the server behind.
pub struct PrivateConnection {
    /// The front's end.
    pub stream: UnixStream,
    /// The server's number of the connection, which the requests on it carry; `None` where they need not.
    pub number: Option<u64>,
    /// Tells the server when the connection is dropped.
    #[expect(dead_code, reason = "held for its Drop")]
    pub count: Box<dyn Send>,
}

/// A line of the access log.
pub struct LogEntry<'a> {
    /// The method, or "-" if no whole request was read.
    pub method: &'a str,
    /// The target, or "-" if no whole request was read.
    pub target: &'a str,
    /// HTTP status.
    pub status: u16,
    /// Time of handling, without the wait for a private connection.
    pub took: Duration,
    /// A Job's name, a count, or the chain of causes of an error.
    pub detail: &'a str,
}

/// The class of a request. Requests of one class never wait for those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The server calls Kubernetes for the response.
    Kubernetes,
    /// The server answers from memory.
    Memory,
    /// The response is a stream without a known end.
    Stream,
}
