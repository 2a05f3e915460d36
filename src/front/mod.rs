//! The front: every connection from clients, with limits of time, size and number.

pub mod connection;
pub mod listener;
pub mod rate_limiter;
pub mod request;
pub mod upstream;
