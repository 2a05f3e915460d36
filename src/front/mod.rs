//! The hardened front: accepts client connections, limits them in time, size and number, reads each request whole, checks its
//! framing, forwards it over a pooled private connection to the server behind, and relays the response to clients of any speed.
//!
//! It holds bytes and limits. It imports only the leaf [`metrics`](crate::metrics) from the rest of the program and contains no route: [`Backend`]
//! has all that it needs from outside.

pub mod backend;
pub mod chunked;
pub mod client;
pub mod connection;
pub mod connections;
pub mod error;
pub mod io;
pub mod limits;
pub mod listener;
pub mod rate_limiter;
pub mod relay;
pub mod request;
pub mod shared;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod upstream;

pub use backend::{Backend, Class, LogEntry, PrivateConnection};
pub use limits::Limits;
pub use listener::{Acceptor, Front, Socket};
pub use request::{CONNECTION, WAITED};
