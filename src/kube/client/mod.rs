//! The Kubernetes client. All requests go through it, with their deadline, retries and credential.

pub mod attempt;
pub mod circuit_breaker;
pub mod connections;
pub mod dynamic;
pub mod log_stream;
pub mod paginate;
pub mod response;
pub mod retry;
pub mod stats;

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::kube::auth::credentials::Credentials;
use crate::kube::client::attempt::Attempt;
use crate::kube::client::circuit_breaker::Circuit;
use crate::kube::client::connections::Connections;
use crate::kube::client::paginate::paginate;
use crate::kube::client::retry::{Retries, RetryBudget};
use crate::kube::client::stats::{Stats, Verb};
use crate::kube::config::cluster::Cluster;
use crate::kube::error::{Error, TlsError, chain};
use crate::kube::types::job::Job;
use crate::kube::types::pod::{DiscardPods, Pod};
use crate::metrics::Text;

/// The path of the pods of all namespaces.
pub const PODS: &str = "/api/v1/pods";

/// The success of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// Kubernetes has stored the Job.
    New,
    /// A Job of this name exists, after an attempt with a lost response.
    Found,
}

/// A client of one cluster, shared by all threads.
pub struct Client {
    connections: Arc<Connections>,
    impersonate: Vec<(String, String)>,
    credentials: Credentials,
    circuit: Arc<Circuit>,
    budget: RetryBudget,
    stats: Stats,
    pub(in crate::kube) timeout: Duration,
    /// The process is about to end: watches end silently.
    pub(in crate::kube) is_closed: AtomicBool,
}

impl Client {
    /// A client with `timeout` as the deadline of every operation, and up to `max_idle` idle connections.
    ///
    /// # Errors
    /// [`TlsError`] if a certificate is not usable.
    pub fn new(cluster: Cluster, timeout: Duration, max_idle: usize) -> Result<Self, TlsError> {
        let Cluster { server, trust, proxy, mut user, .. } = cluster;
        let impersonate = std::mem::take(&mut user.impersonate);
        let connections = Connections::new(server, (trust, proxy), user.identity.clone(), max_idle)?;
        let (connections, circuit) = (Arc::new(connections), Arc::default());
        let (credentials, budget) = (Credentials::new(user), RetryBudget::new(Instant::now()));
        let (stats, is_closed) = (Stats::default(), AtomicBool::new(false));
        Ok(Self { connections, impersonate, credentials, circuit, budget, stats, timeout, is_closed })
    }

    /// Creates a Job. `name` is the random name in `manifest`, and every retry uses it. "Already exists" after a lost
    /// response therefore means that an earlier attempt succeeded. Ends by `deadline`.
    ///
    /// # Errors
    /// [`Error`]; after a lost response [`Error::OutcomeUnknown`] or [`Error::Timeout`], because the Job may exist.
    pub fn create_job(
        &self,
        namespace: &str,
        name: &str,
        manifest: &[u8],
        deadline: Instant,
    ) -> Result<Created, Error> {
        let path = format!("/apis/batch/v1/namespaces/{namespace}/jobs");
        // An earlier attempt may have stored the Job, and an earlier response was lost.
        let (mut maybe_stored, mut is_lost) = (false, false);
        let outcome = self.retry_until(Verb::Create, deadline, |attempt| {
            let outcome = attempt.create_job(&path, name, manifest);
            match &outcome {
                Err(Error::Status { status, .. }) if maybe_stored && status.already_exists() => {
                    return Ok(Created::Found);
                }
                // The quota check precedes the name check: the quota may already count this very Job.
                Err(Error::Status { status, .. }) if maybe_stored && status.quota_exceeded() => is_lost = true,
                // A server error may come after the Job was stored.
                Err(Error::Status { status, .. }) => maybe_stored |= status.code >= 500,
                // Without a connection nothing was sent.
                Ok(()) | Err(Error::Unreachable { .. }) => {}
                Err(error) => {
                    maybe_stored = true;
                    is_lost |= matches!(error, Error::Truncated { .. });
                }
            }
            outcome.map(|()| Created::New)
        });
        outcome.map_err(|error| match error {
            // What refuses a repeat for good would have refused the lost attempt as well.
            Error::Status { ref status, .. } if status.code < 409 && !status.quota_exceeded() => error,
            error if is_lost => Error::OutcomeUnknown { source: Box::new(error) },
            error => error,
        })
    }

    /// Returns a Job, or `None` if there is none of this name, by `deadline`.
    ///
    /// # Errors
    /// [`Error`]
    pub fn get_job(&self, namespace: &str, name: &str, deadline: Instant) -> Result<Option<Job>, Error> {
        let path = format!("/apis/batch/v1/namespaces/{namespace}/jobs/{name}");
        match self.retry_until(Verb::Get, deadline, |attempt| attempt.job(&path, name)) {
            Ok(job) => Ok(Some(job)),
            Err(error) if error.not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists the pods of all namespaces, as one consistent list, by `deadline`.
    ///
    /// # Errors
    /// [`Error`]; never a partial list.
    pub fn list_pods<C: Default + Extend<Pod>>(&self, deadline: Instant) -> Result<C, Error> {
        self.retry_until(Verb::List, deadline, |attempt| {
            let mut pods = C::default();
            paginate(PODS, |path| Ok(attempt.pod_list(path, &mut pods)?.next))?;
            Ok(pods)
        })
    }

    /// Lists a single pod of all namespaces, by `deadline`. That requires a server, a valid credential and the permission of
    /// [`list_pods`](Self::list_pods), and costs little.
    ///
    /// # Errors
    /// [`Error`]
    pub fn ready(&self, deadline: Instant) -> Result<(), Error> {
        self.retry_until(Verb::List, deadline, |attempt| {
            attempt.pod_list("/api/v1/pods?limit=1", &mut DiscardPods).map(drop)
        })
    }

    /// Attempts an operation until it succeeds, until a retry would not help, or until the client's deadline.
    pub(in crate::kube) fn retry<T>(
        &self,
        verb: Verb,
        operation: impl FnMut(&Attempt<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.retry_until(verb, self.deadline(), operation)
    }

    /// The deadline of an operation that starts now.
    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// Attempts an operation like [`retry`](Self::retry), until `deadline`.
    pub(in crate::kube) fn retry_until<T>(
        &self,
        verb: Verb,
        deadline: Instant,
        mut operation: impl FnMut(&Attempt<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut attempt = self.start(verb, deadline)?;
        let (mut retries, mut is_renewed) = (Retries::default(), false);
        // The start and the last error of the failures to connect since the last other outcome.
        let mut outage: Option<(Instant, Error)> = None;
        loop {
            let started = Instant::now();
            let error = match self.run(verb, &attempt, &mut operation) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let unreachable_since = match (&error, outage.take()) {
                // A last attempt with too little time for an outcome: what the attempts before it found says more.
                (Error::Timeout { .. }, Some((since, earlier)))
                    if started.duration_since(since) >= self.timeout / 2 =>
                {
                    self.open_circuit(started);
                    return Err(earlier);
                }
                (Error::Unreachable { .. }, earlier) => Some(earlier.map_or(started, |(since, _)| since)),
                _ => None,
            };
            let may_renew = error.unauthorized() && !is_renewed;
            is_renewed |= may_renew;
            if may_renew && self.renew_credential(&mut attempt)? {
                continue;
            }
            let retry = retries.next(&error, attempt.was_idle.get());
            let Some(retry) = retry.filter(|retry| retry.is_allowed(attempt.remaining(), &self.budget)) else {
                let is_outage = unreachable_since.is_some_and(|since| since.elapsed() >= self.timeout / 2);
                return match error {
                    // The attempt had little time, after a long wait for a permit or a list: it tells nothing of the cluster.
                    Error::Unreachable { url, .. } if !is_outage && attempt.remaining().is_zero() => {
                        Err(Error::Timeout { url })
                    }
                    error => {
                        if is_outage {
                            self.open_circuit(started);
                        }
                        Err(error)
                    }
                };
            };
            log::debug!("retrying in {} ms: {}", retry.pause.as_millis(), chain(&error));
            if !self.circuit.pause(retry.pause) {
                return Err(error);
            }
            outage = unreachable_since.map(|since| (since, error));
            self.stats.retries.increment();
        }
    }

    /// Returns the first attempt of a request, unless the circuit is open.
    fn start(&self, verb: Verb, deadline: Instant) -> Result<Attempt<'_>, Error> {
        if self.circuit.is_open() {
            let error = Error::CircuitOpen { url: self.connections.server.to_string() };
            self.stats.count(verb, Some(&error));
            return Err(error);
        }
        self.budget.record_request(Instant::now());
        self.first_attempt(verb, deadline)
    }

    /// Attempts an operation once, and again with a new credential if the first is rejected. It serves background work
    /// with its own backoff, and ignores the circuit breaker.
    pub(in crate::kube) fn attempt<T>(
        &self,
        verb: Verb,
        timeout: Duration,
        mut operation: impl FnMut(&Attempt<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut attempt = self.first_attempt(verb, Instant::now() + timeout)?;
        match self.run(verb, &attempt, &mut operation) {
            Err(error) if error.unauthorized() => match self.renew_credential(&mut attempt)? {
                true => self.run(verb, &attempt, &mut operation),
                false => Err(error),
            },
            outcome => outcome,
        }
    }

    fn first_attempt(&self, verb: Verb, deadline: Instant) -> Result<Attempt<'_>, Error> {
        let credential = self.credentials.get(deadline).map_err(Error::Credential);
        let credential = credential.inspect_err(|error| self.stats.count(verb, Some(error)))?;
        let (connections, impersonate, was_idle) = (&*self.connections, &*self.impersonate, Cell::new(false));
        Ok(Attempt { connections, impersonate, credential, deadline, was_idle })
    }

    fn run<T>(
        &self,
        verb: Verb,
        attempt: &Attempt<'_>,
        operation: &mut impl FnMut(&Attempt<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let started = Instant::now();
        let outcome = operation(attempt);
        self.stats.record(verb, outcome.as_ref().err(), started.elapsed());
        if let Err(Error::Unreachable { .. } | Error::Timeout { .. } | Error::Truncated { .. }) = outcome {
            self.connections.record_broken();
        }
        outcome
    }

    /// Opens the circuit after an attempt that started at `started`.
    fn open_circuit(&self, started: Instant) {
        let (connections, timeout) = (Arc::clone(&self.connections), self.timeout);
        self.circuit.open(started, move || connections.is_reachable(timeout));
    }

    /// Replaces a rejected credential; returns `false` if there is no other.
    fn renew_credential(&self, attempt: &mut Attempt<'_>) -> Result<bool, Error> {
        let renewed = self.credentials.renew(&attempt.credential, attempt.deadline).map_err(Error::Credential)?;
        let Some(credential) = renewed else { return Ok(false) };
        attempt.credential = credential;
        Ok(true)
    }

    /// Starts a credential plugin, so that the first request does not wait for it.
    pub fn warm_up(&self) {
        self.credentials.warm_up();
    }

    /// Returns the subject of our token, or `None` if the token does not contain it.
    pub fn subject(&self) -> Option<String> {
        self.credentials.get(self.deadline()).ok()?.subject()
    }

    /// Writes the counters of the requests, and the state of the circuit.
    pub fn write_metrics(&self, text: &mut Text) {
        self.stats.write(text);
        let help = "1 while Kubernetes is unreachable and requests that need it are refused at once, else 0.";
        text.gauge("img_classification_kubernetes_circuit_open", help, u8::from(self.circuit.is_open()));
    }

    /// Kills a credential plugin that is still running. From here on no watch reports a failure.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.credentials.close();
    }
}
