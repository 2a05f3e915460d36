//! The pooled connections to the cluster.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::{Agent, Proxy};

use crate::kube::address::Address;
use crate::kube::agent::{self, MAX_IDLE_AGE};
use crate::kube::client::response::request_error;
use crate::kube::error::{Error, TlsError};
use crate::kube::transport::dns::HostLookup;
use crate::kube::transport::tls::{Identity, Trust};

/// The path of a probe. Kubernetes lets every client read it by default.
const PROBE_PATH: &str = "/version";

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
        let agent = agent::build(&server, settings, identity.as_deref(), max_idle)?;
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
        agent::build(&self.server, settings, identity.map(Arc::as_ref), self.max_idle)
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
