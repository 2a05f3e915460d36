//! The pooled connections to the cluster: ureq's agent with our connector.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{Connector, SocksConnector};
use ureq::{Agent, Proxy};

use crate::kube::client::response::request_error;
use crate::kube::config::address::Address;
use crate::kube::error::{Error, TlsError};
use crate::kube::transport::connect::{self, CONNECT_TIMEOUT, ClusterConnector, DeferredResolver, MarkErrors};
use crate::kube::transport::dns::HostLookup;
use crate::kube::transport::tls::{Identity, TlsEndpoint, Trust};

/// Maximum idle time of a connection, well below the 350 s after which AWS load balancers drop it silently.
const MAX_IDLE_AGE: Duration = Duration::from_secs(30);

/// Read buffer of a connection, in bytes: one TLS record, an eighth of ureq's default. A response's head must fit into
/// it.
pub const INPUT_BUFFER: usize = 16 * 1024;

/// Write buffer of a connection, in bytes: a whole request with a 1.5 KB Job and an EKS token of 2 KB.
const OUTPUT_BUFFER: usize = 8 * 1024;

/// The path of a probe. Kubernetes lets every client read it by default.
const PROBE_PATH: &str = "/version";

/// Does not begin with "curl" or "Mozilla", for which the API server indents its JSON.
const USER_AGENT: &str = concat!("img-classification/", env!("CARGO_PKG_VERSION"));

/// The connections of one client to its cluster.
pub struct Connections {
    pub server: Address,
    trust: Trust,
    proxy: Option<Proxy>,
    max_idle: usize,
    lookup: Arc<HostLookup>,
    /// Time of the last broken connection.
    broken: Mutex<Option<Instant>>,
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
        let (host, port) = match &proxy {
            Some(proxy) => (proxy.host(), proxy.port()),
            None => (server.host(), server.port()),
        };
        let lookup = Arc::new(HostLookup::new(host, port));
        let settings = (&trust, proxy.as_ref(), &lookup);
        let agent = build_agent(&server, settings, identity.as_deref(), max_idle)?;
        let (broken, current) = (Mutex::default(), Mutex::new((identity, agent)));
        Ok(Self { server, trust, proxy, max_idle, lookup, broken, current })
    }

    /// Returns the agent with the connections of this identity. A change of identity replaces all connections.
    ///
    /// # Errors
    /// [`TlsError`] if the identity is not usable.
    pub fn agent(&self, identity: Option<&Arc<Identity>>) -> Result<Agent, TlsError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0.as_ref().map(Arc::as_ptr) != identity.map(Arc::as_ptr) {
            *current = (identity.cloned(), self.separate_agent(identity)?);
        }
        Ok(current.1.clone())
    }

    /// Returns an agent with connections of its own, which its shutdown ends.
    ///
    /// # Errors
    /// [`TlsError`] if the identity is not usable.
    pub fn separate_agent(&self, identity: Option<&Arc<Identity>>) -> Result<Agent, TlsError> {
        let settings = (&self.trust, self.proxy.as_ref(), &self.lookup);
        build_agent(&self.server, settings, identity.map(Arc::as_ref), self.max_idle)
    }

    /// Records a connection that broke or did not answer. The connections that are idle now are as suspect, because
    /// their endpoint may have vanished, and no later request uses them.
    pub fn record_broken(&self) {
        *self.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns the maximum idle time of a connection for the next request.
    pub fn max_idle_age(&self) -> Duration {
        let broken = *self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.map_or(MAX_IDLE_AGE, |at| at.elapsed().min(MAX_IDLE_AGE))
    }

    /// Tests if the cluster answers within `timeout`, with any response or with an error that a request should report, such as
    /// an untrusted certificate. The request has no credential, so a failing
    /// plugin does not hide the cluster's return.
    pub fn is_reachable(&self, timeout: Duration) -> bool {
        let agent = self.current.lock().unwrap_or_else(PoisonError::into_inner).1.clone();
        let request = agent.get(format!("{}{PROBE_PATH}", self.server)).config();
        let outcome = request.timeout_global(Some(timeout)).max_idle_age(Duration::ZERO).build().call();
        let error = outcome.err().map(|error| request_error(PROBE_PATH, error));
        !matches!(error, Some(Error::Unreachable { .. } | Error::Timeout { .. } | Error::Truncated { .. }))
    }
}

/// Returns an agent for a server other than the cluster, without a proxy. `ca` replaces the system's CAs for https.
///
/// # Errors
/// [`TlsError`] if `server` is no address or the CAs are not usable.
pub fn direct_agent(server: &str, ca: Option<Vec<u8>>) -> Result<Agent, TlsError> {
    let server = Address::parse(server, false).map_err(|_| TlsError::BadName)?;
    let trust = Trust { ca, ..Trust::default() };
    Connections::new(server, (trust, None), None, 1)?.agent(None)
}

/// Tests for an address that [`direct_agent`] takes.
pub fn is_address(text: &str) -> bool {
    Address::parse(text, false).is_ok()
}

/// Builds an agent that follows no redirect and returns error statuses as responses, which [`Attempt`] maps to errors.
///
/// [`Attempt`]: crate::kube::client::attempt::Attempt
fn build_agent(
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
