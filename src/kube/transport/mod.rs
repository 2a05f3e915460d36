//! Connections to the cluster: addresses, proxies and TLS.

pub mod connect;
pub mod tls;
