//! The pooled connections to the cluster: ureq's agent with our connector.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ureq::unversioned::transport::{Connector, SocksConnector};
use ureq::{Agent, Proxy};

use crate::kube::config::address::Address;
use crate::kube::error::TlsError;
use crate::kube::transport::connect::{self, ClusterConnector, DeferredResolver};
use crate::kube::transport::tls::{Identity, TlsEndpoint, Trust};

/// Maximum time to connect, TLS and proxy included: three SYNs, so that one lost packet does not fail the attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Maximum idle time of a connection, well below the 350 s after which AWS load balancers drop it silently.
pub const MAX_IDLE_AGE: Duration = Duration::from_secs(30);

/// Read buffer of a connection, in bytes: one TLS record, an eighth of ureq's default. A response's head must fit into
/// it.
pub const INPUT_BUFFER: usize = 16 * 1024;

/// Write buffer of a connection, in bytes: a whole request with a 1.5 KB Job and an EKS token of 2 KB.
const OUTPUT_BUFFER: usize = 8 * 1024;

/// Does not begin with "curl" or "Mozilla", for which the API server indents its JSON.
const USER_AGENT: &str = concat!("img-classification/", env!("CARGO_PKG_VERSION"));

/// The connections of one client to its cluster.
pub struct Connections {
    pub server: Address,
    trust: Trust,
    proxy: Option<Proxy>,
    max_idle: usize,
    /// The agent of the current client certificate.
    current: Mutex<(Option<Arc<Identity>>, Agent)>,
}

impl Connections {
    /// Connections to `server` with the client certificate `identity`; up to `max_idle` stay alive without use.
    ///
    /// # Errors
    /// [`TlsError`] if a certificate is not usable.
    pub fn new(
        server: Address,
        (trust, proxy): (Trust, Option<Proxy>),
        identity: Option<Arc<Identity>>,
        max_idle: usize,
    ) -> Result<Self, TlsError> {
        let agent = build_agent(&server, (&trust, proxy.as_ref()), identity.as_deref(), max_idle)?;
        Ok(Self { server, trust, proxy, max_idle, current: Mutex::new((identity, agent)) })
    }

    /// Returns the agent with the connections of this identity. A change of identity replaces all connections.
    ///
    /// # Errors
    /// [`TlsError`] if the identity is not usable.
    pub fn agent(&self, identity: Option<&Arc<Identity>>) -> Result<Agent, TlsError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0.as_ref().map(Arc::as_ptr) != identity.map(Arc::as_ptr) {
            let settings = (&self.trust, self.proxy.as_ref());
            let agent = build_agent(&self.server, settings, identity.map(Arc::as_ref), self.max_idle)?;
            *current = (identity.cloned(), agent);
        }
        Ok(current.1.clone())
    }
}

/// Builds an agent that follows no redirect and returns error statuses as responses, which [`Attempt`] maps to errors.
///
/// [`Attempt`]: crate::kube::client::attempt::Attempt
fn build_agent(
    server: &Address,
    (trust, proxy): (&Trust, Option<&Proxy>),
    identity: Option<&Identity>,
    max_idle: usize,
) -> Result<Agent, TlsError> {
    let host = server.host();
    let tls = server.is_https().then(|| TlsEndpoint::cluster(trust, identity, host)).transpose()?;
    let connector = ClusterConnector::new(host, server.port(), tls, proxy, trust.ca.as_deref())?;
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
    Ok(Agent::with_parts(config, ().chain(SocksConnector::default()).chain(connector), DeferredResolver))
}
