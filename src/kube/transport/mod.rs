//! Connections to the cluster: DNS, proxies and TLS.

pub mod connect;
pub mod dns;
pub mod tls;
