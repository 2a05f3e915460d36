//! Agents of ureq with our connector: for the cluster, and for other servers.

use std::sync::Arc;
use std::time::Duration;

use ureq::unversioned::transport::{Connector, SocksConnector};
use ureq::{Agent, Proxy};

use crate::kube::address::Address;
use crate::kube::error::TlsError;
use crate::kube::transport::connect::{self, CONNECT_TIMEOUT, ClusterConnector, DeferredResolver, MarkErrors};
use crate::kube::transport::dns::HostLookup;
use crate::kube::transport::tls::{Identity, TlsEndpoint, Trust};

/// Maximum idle time of a connection, well below the 350 s after which AWS load balancers drop it silently.
pub const MAX_IDLE_AGE: Duration = Duration::from_secs(30);

/// Read buffer of a connection, in bytes: one TLS record, an eighth of ureq's default. A response's head must fit into
/// it.
pub const INPUT_BUFFER: usize = 16 * 1024;

/// Write buffer of a connection, in bytes: a whole request with a 1.5 KB Job and an EKS token of 2 KB.
const OUTPUT_BUFFER: usize = 8 * 1024;

/// Does not begin with "curl" or "Mozilla", for which the API server indents its JSON.
const USER_AGENT: &str = concat!("img-classification/", env!("CARGO_PKG_VERSION"));

/// Returns an agent for a server other than the cluster, without a proxy. `ca` replaces the system's CAs for https.
///
/// # Errors
/// [`TlsError`] if `server` is no address or the CAs are not usable.
pub fn direct_agent(server: &str, ca: Option<Vec<u8>>) -> Result<Agent, TlsError> {
    let server = Address::parse(server, false).map_err(|_| TlsError::BadName)?;
    agent_for(&server, ca, None)
}

/// Returns an agent with one connection to a server other than the cluster.
///
/// # Errors
/// [`TlsError`] if the CAs are not usable.
pub fn agent_for(server: &Address, ca: Option<Vec<u8>>, proxy: Option<&Proxy>) -> Result<Agent, TlsError> {
    let trust = Trust { ca, ..Trust::default() };
    let (host, port) = match proxy {
        Some(proxy) => (proxy.host(), proxy.port()),
        None => (server.host(), server.port()),
    };
    build(server, (&trust, proxy, &Arc::new(HostLookup::new(host, port))), None, 1)
}

/// Tests for an address that [`direct_agent`] takes.
pub fn is_address(text: &str) -> bool {
    Address::parse(text, false).is_ok()
}

/// Builds an agent that follows no redirect and returns error statuses as responses, which [`Attempt`] maps to errors.
///
/// [`Attempt`]: crate::kube::client::attempt::Attempt
pub fn build(
    server: &Address,
    (trust, proxy, lookup): (&Trust, Option<&Proxy>, &Arc<HostLookup>),
    identity: Option<&Identity>,
    max_idle: usize,
) -> Result<Agent, TlsError> {
    let host = server.host();
    let tls = server.is_https().then(|| TlsEndpoint::cluster(trust, identity, host)).transpose()?;
    let address = (host, server.port());
    let connector = ClusterConnector::new(Arc::clone(lookup), address, tls, proxy, trust.ca.as_deref())?;
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(proxy.filter(|proxy| connect::is_socks(proxy)).cloned())
        .user_agent(USER_AGENT)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .max_idle_connections(max_idle)
        .max_idle_connections_per_host(max_idle)
        .max_idle_age(MAX_IDLE_AGE)
        .input_buffer_size(INPUT_BUFFER)
        .output_buffer_size(OUTPUT_BUFFER)
        // A larger head would never be complete.
        .max_response_header_size(INPUT_BUFFER - 1)
        .build();
    let connector = MarkErrors(().chain(SocksConnector::default()).chain(connector));
    Ok(Agent::with_parts(config, connector, DeferredResolver(Arc::clone(lookup))))
}
