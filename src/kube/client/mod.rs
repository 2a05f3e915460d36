//! The only sender: every request to Kubernetes leaves from here, with its deadline, its retries and its credential.

pub mod circuit_breaker;
pub mod dynamic;

use std::io::{self, BufReader};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::de::DeserializeOwned;
use ureq::http::{Request, Response, header};
use ureq::unversioned::transport::{Connector, SocksConnector};
use ureq::{Agent, Body, Proxy};

use crate::kube::auth::credential::Credential;
use crate::kube::auth::credentials::Credentials;
use crate::kube::client::circuit_breaker::Circuit;
use crate::kube::config::address::{Address, percent_encode};
use crate::kube::config::kubeconfig::Cluster;
use crate::kube::error::{Error, Status, TlsError, chain};
use crate::kube::transport::connect::{self, ClusterConnector, DeferredResolver};
use crate::kube::transport::tls::{Identity, TlsEndpoint, Trust};
use crate::kube::types::pod::{self, Broken, DiscardPods, Object, Pod};
use crate::kube::types::protobuf;

/// Longest wait for a connection, TLS and proxy included: three SYNs, so that one lost packet does not decide.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Idle connections are closed after this time: long before the 350 s at which AWS load balancers forget them silently.
const IDLE_AGE: Duration = Duration::from_secs(30);

/// Pause before the first retry after an answer; each further one doubles it. After a broken connection the first comes
/// at once: it may have died of old age.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);

/// Longest pause between tries, unless Kubernetes asks for more: an API server restarts in a few seconds.
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Longest answer to a create, and longest error, in bytes: a Job comes back with 3 KB, with webhooks' additions 20.
const OBJECT_LIMIT: u64 = 1024 * 1024;

/// Longest list, in bytes after gunzip: 100,000 pods of 5 KB; our answer is then 15 MB.
const LIST_LIMIT: u64 = 512 * 1024 * 1024;

/// Read buffer of a connection, in bytes: one TLS record; ureq's default is eight times that for every connection. The
/// head of an answer must fit into it.
const INPUT_BUFFER: usize = 16 * 1024;

/// Write buffer of a connection, in bytes: a whole request with a 1.5 KB Job and an EKS token of 2 KB.
const OUTPUT_BUFFER: usize = 8 * 1024;

/// RFC 3986, section 2.3: what a value in a query may hold as it is, besides letters and digits.
pub(in crate::kube) const UNRESERVED: &[u8] = b"-._~";

/// The media type of what we write.
pub(in crate::kube) const JSON: &str = "application/json";

/// What we ask for a list of pods; a server that does not speak the first sends the second.
const PODS: &str = "application/vnd.kubernetes.protobuf,application/json";

/// Does not begin with "curl" or "Mozilla", for which the API server indents its JSON.
const USER_AGENT: &str = concat!("img-classification/", env!("CARGO_PKG_VERSION"));

/// A client of one cluster, shared by all threads.
pub struct Client {
    server: Address,
    trust: Trust,
    proxy: Option<Proxy>,
    impersonate: Vec<(String, String)>,
    credentials: Credentials,
    agent: Mutex<(Option<Arc<Identity>>, Agent)>,
    circuit: Circuit,
    connections: usize,
    timeout: Duration,
}

impl Client {
    /// A client whose every operation ends within `timeout` and which keeps up to `connections` connections alive.
    ///
    /// # Errors
    /// [`TlsError`]: certificates that cannot be used.
    pub fn new(cluster: Cluster, timeout: Duration, connections: usize) -> Result<Self, TlsError> {
        let Cluster { server, trust, proxy, mut user, .. } = cluster;
        let identity = user.identity.clone();
        let impersonate = std::mem::take(&mut user.impersonate);
        let agent = agent(&server, &trust, proxy.as_ref(), identity.as_deref(), connections)?;
        let credentials = Credentials::new(user);
        let agent = Mutex::new((identity, agent));
        let circuit = Circuit::default();
        Ok(Self { server, trust, proxy, impersonate, credentials, agent, circuit, connections, timeout })
    }

    /// Stores a Job. `name` is the one in `manifest`: where an answer was lost the create is repeated under the same
    /// name, and "already exists" then says that it was stored; a random name belongs to nobody else.
    ///
    /// # Errors
    /// [`Error`]; the Job may exist all the same if the last answer was lost.
    pub fn create_job(&self, namespace: &str, name: &str, manifest: &[u8]) -> Result<(), Error> {
        let path = format!("/apis/batch/v1/namespaces/{namespace}/jobs");
        // An earlier try may have stored it.
        let mut unsure = false;
        self.retry(|call| {
            let answer = match call.send("POST", &path, Some((JSON, manifest))) {
                Err(Error::Status { status, .. }) if unsure && status.already_exists() => return Ok(()),
                // A quota is asked before the name is looked at: the Job it refuses may be the one that it counts.
                Err(Error::Status { url, status, .. }) if unsure && status.quota_exceeded() => {
                    return Err(Error::OutcomeUnknown { url });
                }
                // Of a server's error, too, nobody knows what had been done by then.
                Err(error) => {
                    unsure |= !matches!(&error, Error::Status { status, .. } if status.code < 500);
                    return Err(error);
                }
                Ok(answer) => answer,
            };
            unsure = true;
            let object: Object = call.object(&path, answer, OBJECT_LIMIT)?;
            if object.kind == "Job" && object.metadata.name == name {
                return Ok(());
            }
            Err(Error::NotKubernetes { url: call.url(&path), found: "something that is not our Job".into() })
        })
    }

    /// Every pod of every namespace, as one consistent list.
    ///
    /// # Errors
    /// [`Error`]; never half a list.
    pub fn list_pods<C: Default + Extend<Pod>>(&self) -> Result<C, Error> {
        self.retry(|call| {
            let mut pods = C::default();
            pages("/api/v1/pods", |path| call.pod_list(path, &mut pods))?;
            Ok(pods)
        })
    }

    /// Asks for a single pod of all namespaces: that needs a server, a valid credential and the permission of
    /// [`list_pods`](Self::list_pods), and costs next to nothing.
    ///
    /// # Errors
    /// [`Error`]
    pub fn ready(&self) -> Result<(), Error> {
        self.retry(|call| call.pod_list("/api/v1/pods?limit=1", &mut DiscardPods).map(drop))
    }

    /// Tries until it succeeds, until trying again would not help, or until the deadline.
    pub(in crate::kube) fn retry<T>(
        &self,
        mut operation: impl FnMut(&Call<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + self.timeout;
        let Some(pass) = self.circuit.enter() else {
            return Err(Error::CircuitOpen { url: self.server.to_string() });
        };
        let credential = self.credentials.get(deadline).map_err(Error::Credential)?;
        let mut call = Call { client: self, credential, deadline, tries: 0 };
        let mut renewed = false;
        loop {
            let error = match operation(&call) {
                Ok(done) => {
                    pass.answered();
                    return Ok(done);
                }
                Err(error) => error,
            };
            if !matches!(error, Error::Unreachable { .. } | Error::Timeout { .. }) {
                pass.answered();
            }
            if error.unauthorized() && !renewed {
                renewed = true;
                if let Some(credential) =
                    self.credentials.renew(&call.credential, deadline).map_err(Error::Credential)?
                {
                    call.credential = credential;
                    continue;
                }
            }
            let over = pass.is_over();
            match pause(&error, call.tries) {
                Some(pause) if !over && pause < call.left() => {
                    log::debug!("trying again in {} ms: {}", pause.as_millis(), chain(&error));
                    thread::sleep(pause);
                }
                _ => {
                    if !over && matches!(error, Error::Unreachable { .. }) {
                        pass.gave_up();
                    }
                    return Err(error);
                }
            }
            call.tries += 1;
        }
    }

    /// One try, and a second with another credential if the first is refused: for what runs in the background with pauses
    /// of its own. It neither asks nor opens the circuit. With `anew` it is made on a new connection.
    pub(in crate::kube) fn once<T>(
        &self,
        timeout: Duration,
        anew: bool,
        mut operation: impl FnMut(&Call<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + timeout;
        let credential = self.credentials.get(deadline).map_err(Error::Credential)?;
        let mut call = Call { client: self, credential, deadline, tries: u32::from(anew) };
        match operation(&call) {
            Err(error) if error.unauthorized() => {
                let Some(credential) = self.credentials.renew(&call.credential, deadline).map_err(Error::Credential)?
                else {
                    return Err(error);
                };
                call.credential = credential;
                operation(&call)
            }
            outcome => outcome,
        }
    }

    /// Starts a credential plugin, so that the first request need not wait for it.
    pub fn prepare(&self) {
        self.credentials.warm_up();
    }

    /// Whose token we send, by the token itself; none if it does not say so.
    pub fn subject(&self) -> Option<String> {
        self.credentials.get(Instant::now() + self.timeout).ok()?.subject()
    }

    /// Ends a credential plugin that is still running.
    pub fn close(&self) {
        self.credentials.close();
    }

    /// The agent with the connections of this identity; another identity, or none, means other connections.
    fn agent(&self, identity: Option<&Arc<Identity>>) -> Result<Agent, TlsError> {
        let mut current = self.agent.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0.as_ref().map(Arc::as_ptr) != identity.map(Arc::as_ptr) {
            let agent =
                agent(&self.server, &self.trust, self.proxy.as_ref(), identity.map(Arc::as_ref), self.connections)?;
            *current = (identity.cloned(), agent);
        }
        Ok(current.1.clone())
    }
}

/// Builds ureq's agent. Never a redirect, never an error for a status: both are ours to judge.
fn agent(
    server: &Address,
    trust: &Trust,
    proxy: Option<&Proxy>,
    identity: Option<&Identity>,
    connections: usize,
) -> Result<Agent, TlsError> {
    let host = server.host();
    let tls = server.is_https().then(|| TlsEndpoint::cluster(trust, identity, host)).transpose()?;
    let dial = ClusterConnector::new(host, server.port(), tls, proxy, trust.ca.as_deref())?;
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(proxy.filter(|proxy| connect::is_socks(proxy)).cloned())
        .user_agent(USER_AGENT)
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .max_idle_connections(connections)
        .max_idle_connections_per_host(connections)
        .max_idle_age(IDLE_AGE)
        .input_buffer_size(INPUT_BUFFER)
        .output_buffer_size(OUTPUT_BUFFER)
        // A larger head would never be complete.
        .max_response_header_size(INPUT_BUFFER - 1)
        .build();
    Ok(Agent::with_parts(config, ().chain(SocksConnector::default()).chain(dial), DeferredResolver))
}

/// One try of an operation.
pub(in crate::kube) struct Call<'a> {
    client: &'a Client,
    credential: Arc<Credential>,
    deadline: Instant,
    tries: u32,
}

impl Call<'_> {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(in crate::kube) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.client.server)
    }

    /// Sends a request, its body with its media type, and gives the answer, in JSON, if its status is a success.
    pub(in crate::kube) fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, &[u8])>,
    ) -> Result<Response<Body>, Error> {
        self.ask_for(JSON, method, path, body)
    }

    fn ask_for(
        &self,
        accept: &str,
        method: &str,
        path: &str,
        body: Option<(&str, &[u8])>,
    ) -> Result<Response<Body>, Error> {
        let url = self.url(path);
        let agent = self
            .client
            .agent(self.credential.identity.as_ref())
            .map_err(|error| Error::Tls { url: url.clone(), source: ureq::Error::Other(error.into()) })?;
        let mut request = Request::builder().method(method).uri(&url).header(header::ACCEPT, accept);
        if let Some(value) = &self.credential.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        for (name, value) in &self.client.impersonate {
            request = request.header(name, value);
        }
        let sent = match body {
            Some((media_type, body)) => {
                request.header(header::CONTENT_TYPE, media_type).body(body).map(|request| self.run(&agent, request))
            }
            None => request.body(()).map(|request| self.run(&agent, request)),
        };
        let answer = sent.map_err(ureq::Error::Http).and_then(|sent| sent).map_err(|error| failure(&url, error))?;
        match answer.status().as_u16() {
            200..=299 => Ok(answer),
            _ => Err(refusal(url, answer)),
        }
    }

    fn run<B: ureq::AsSendBody>(&self, agent: &Agent, request: Request<B>) -> Result<Response<Body>, ureq::Error> {
        // After a failure the other idle connections are as suspect as the one that failed.
        let idle_age = if self.tries == 0 { IDLE_AGE } else { Duration::ZERO };
        let request = agent.configure_request(request).timeout_global(Some(self.left())).max_idle_age(idle_age).build();
        agent.run(request)
    }

    /// Reads an answer whole, at most `limit` bytes of it.
    pub(in crate::kube) fn object<T: DeserializeOwned>(
        &self,
        path: &str,
        mut answer: Response<Body>,
        limit: u64,
    ) -> Result<T, Error> {
        let url = self.url(path);
        let found = describe(&answer);
        let body = answer.body_mut().with_config().limit(limit).read_to_vec();
        let body = body.map_err(|error| failure(&url, error))?;
        serde_json::from_slice(&body).map_err(|error| match error.classify() {
            serde_json::error::Category::Eof if !body.is_empty() => Error::Truncated { url },
            _ => Error::NotKubernetes { url, found },
        })
    }

    /// Streams one page of pods into `pods`; gives the token of the next page, empty on the last.
    fn pod_list<C: Extend<Pod>>(&self, path: &str, pods: &mut C) -> Result<String, Error> {
        let mut answer = self.ask_for(PODS, "GET", path, None)?;
        let found = describe(&answer);
        let mut reader = answer.body_mut().with_config().limit(LIST_LIMIT).reader();
        // The buffer goes by value: std reads single bytes from a BufReader itself twice as fast as from a reference to one.
        let buffered = BufReader::with_capacity(INPUT_BUFFER, &mut reader);
        let read = if found.starts_with(protobuf::MEDIA_TYPE) {
            protobuf::read_pod_list(buffered, pods)
        } else {
            pod::read_pod_list(buffered, pods).map_err(Broken::from)
        };
        read.map_err(|error| {
            let url = self.url(path);
            let end = match error {
                Broken::Io(error) => Err(error),
                // Damaged gzip reads as nonsense first, and its checksum stands at the end.
                Broken::Nonsense => io::copy(&mut reader, &mut io::sink()),
            };
            match end {
                Ok(_) => Error::NotKubernetes { url, found },
                Err(error) => cut(broken(url, error)),
            }
        })
    }
}

/// Reads the pages of a list one after the other: `read` gets each one's path and gives the token of the next, empty on the
/// last.
pub(in crate::kube) fn pages(first: &str, mut read: impl FnMut(&str) -> Result<String, Error>) -> Result<(), Error> {
    let separator = if first.contains('?') { '&' } else { '?' };
    let mut next = read(first)?;
    while !next.is_empty() {
        next = read(&format!("{first}{separator}continue={}", percent_encode(&next, UNRESERVED)))?;
    }
    Ok(())
}

/// A connection that broke within an answer: its beginning was there.
fn cut(error: Error) -> Error {
    match error {
        Error::Unreachable { url, .. } => Error::Truncated { url },
        error => error,
    }
}

/// How long to wait before trying again; none if that would not help.
fn pause(error: &Error, tries: u32) -> Option<Duration> {
    let asked = match error {
        Error::Unreachable { .. } | Error::Truncated { .. } => Duration::ZERO,
        Error::Status { status, retry_after, .. } if status.is_retryable() => retry_after.unwrap_or_default(),
        // A timeout has used up the time of all tries.
        Error::Timeout { .. }
        | Error::Status { .. }
        | Error::Tls { .. }
        | Error::ProxyRefused { .. }
        | Error::NotKubernetes { .. }
        | Error::OutcomeUnknown { .. }
        | Error::CircuitOpen { .. }
        | Error::Credential(_) => return None,
    };
    let broken = matches!(error, Error::Unreachable { .. } | Error::Truncated { .. });
    let doubled = match tries.checked_sub(u32::from(broken)) {
        None => Duration::ZERO,
        Some(tries) => BACKOFF_FIRST.saturating_mul(1 << tries.min(8)).min(MAX_BACKOFF),
    };
    Some(asked.max(jitter(doubled)))
}

/// Three to five quarters of a pause, so that requests that failed together do not come back together.
pub(in crate::kube) fn jitter(pause: Duration) -> Duration {
    let mut byte = [128u8];
    // Without randomness the pause is as good, only the same for all.
    let _ = getrandom::getrandom(&mut byte);
    pause.mul_f64(0.75 + f64::from(byte[0]) / 510.0)
}

/// What ureq's error means for us.
pub(in crate::kube) fn failure(url: &str, error: ureq::Error) -> Error {
    let url = url.to_owned();
    match error {
        ureq::Error::Io(error) => broken(url, error),
        ureq::Error::Timeout(_) => Error::Timeout { url },
        ureq::Error::Decompress(..) => Error::Truncated { url },
        ureq::Error::BodyExceedsLimit(limit) => {
            Error::NotKubernetes { url, found: format!("more than the {limit} bytes that we read") }
        }
        ureq::Error::LargeResponseHeader(..) => Error::NotKubernetes { url, found: "too large a head".into() },
        ureq::Error::Protocol(error) => Error::NotKubernetes { url, found: format!("bad HTTP ({error})") },
        ureq::Error::ConnectProxyFailed(reason) => Error::ProxyRefused { url, reason },
        source @ ureq::Error::Other(_) => Error::Tls { url, source },
        source => Error::Unreachable { url, source },
    }
}

/// An I/O error may hold an error of ureq's or of rustls's within.
pub(in crate::kube) fn broken(url: String, error: io::Error) -> Error {
    let inner = error.get_ref();
    if inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
        return Error::Tls { url, source: ureq::Error::Io(error) };
    }
    match error.downcast::<ureq::Error>() {
        Ok(inner) => failure(&url, inner),
        Err(error) => match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Error::Timeout { url },
            _ if is_socks_refusal(&error) => Error::ProxyRefused { url, reason: error.to_string() },
            _ => Error::Unreachable { url, source: ureq::Error::Io(error) },
        },
    }
}

/// What ureq's SOCKS connector says when the proxy does not want us; it has no type for it. That the proxy cannot reach the
/// cluster is another matter, and may pass.
fn is_socks_refusal(error: &io::Error) -> bool {
    let refusals =
        ["password authentication failed", "no acceptable auth methods", "connection not allowed by ruleset"];
    error.raw_os_error().is_none() && refusals.contains(&error.to_string().as_str())
}

/// An answer other than 2xx: a Status object from Kubernetes, or whatever stands before it.
fn refusal(url: String, mut answer: Response<Body>) -> Error {
    let code = answer.status().as_u16();
    let seconds = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = seconds.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let date = date(&answer);
    let kind = describe(&answer);
    let (found, is_protobuf) = (format!("{code} and {kind}"), kind.starts_with(protobuf::MEDIA_TYPE));
    let said = match answer.body_mut().with_config().limit(OBJECT_LIMIT).read_to_vec() {
        Ok(body) if is_protobuf => protobuf::read_status(&body).ok(),
        Ok(body) => {
            let object: Object = serde_json::from_slice(&body).unwrap_or_default();
            (object.kind == "Status").then_some((object.reason, object.message))
        }
        Err(error) => return failure(&url, error),
    };
    if let Some((reason, message)) = said {
        let message = message.chars().take(1000).collect();
        return Error::Status { url, status: Status { code, reason, message }, retry_after, date };
    }
    match code {
        401 | 429 | 500.. => {
            let message = format!("no Status object but {found}");
            Error::Status { url, status: Status { code, reason: String::new(), message }, retry_after, date }
        }
        _ => Error::NotKubernetes { url, found },
    }
}

/// The server's clock, by an answer.
pub(in crate::kube) fn date(answer: &Response<Body>) -> Option<SystemTime> {
    let date = answer.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    date.and_then(|date| httpdate::parse_http_date(date).ok())
}

/// The kind of an answer's body, for an error.
fn describe(answer: &Response<Body>) -> String {
    let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.unwrap_or("a body of no stated type").chars().take(80).collect()
}
