//! A plain HTTP client for servers other than Kubernetes: a server of this program and the EC2 metadata service. It follows no
//! redirect and uses no proxy, since both are near.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{self, Request, header};
use ureq::{Agent, AsSendBody, Body};

use crate::kube::{self, TlsError};

/// Longest response body, in bytes: /config with 10,000 pods has 1.5 MB.
const MAX_BODY: u64 = 16 * 1024 * 1024;

/// A response of any status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The seconds of Retry-After.
    pub retry_after: Option<Duration>,
    /// The ETag.
    pub etag: Option<String>,
    /// The whole body; U+FFFD replaces bytes that are not UTF-8.
    pub body: String,
}

/// A request without a response.
#[derive(Debug)]
pub struct RequestError(ureq::Error);

impl RequestError {
    /// Returns true if there was no connection, so that the server got no request.
    pub fn is_unsent(&self) -> bool {
        kube::is_not_connected(&self.0)
    }

    /// Returns false if a repeat would fail as well: the request is malformed, or the response is too large or no HTTP.
    pub fn is_repeatable(&self) -> bool {
        !matches!(
            &self.0,
            ureq::Error::BodyExceedsLimit(_)
                | ureq::Error::Http(_)
                | ureq::Error::BadUri(_)
                | ureq::Error::Protocol(_)
                | ureq::Error::LargeResponseHeader(..)
        )
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cause = kube::cause(&self.0);
        match cause.downcast_ref() {
            Some(ureq::Error::Timeout(_)) => f.write_str("no response in time"),
            Some(ureq::Error::HostNotFound) => f.write_str("no such host"),
            _ => write!(f, "{cause}"),
        }
    }
}

impl Error for RequestError {}

/// The headers of a request.
pub type Headers<'a> = &'a [(&'a str, &'a str)];

/// A client of one server, over http or https.
pub struct HttpClient {
    /// The server's address without a trailing slash.
    pub base: String,
    agent: Agent,
}

impl HttpClient {
    /// A client of the server at `base`. `ca` is the file with the CAs of an https server, instead of the system's.
    ///
    /// # Errors
    /// [`CaError`]
    pub fn new(base: &str, ca: Option<&Path>) -> Result<Self, CaError> {
        let read = |path: &Path| fs::read(path).map_err(|source| CaError::Read { path: path.to_owned(), source });
        let agent = kube::direct_agent(base, ca.map(read).transpose()?).map_err(|source| match ca {
            Some(path) => CaError::Malformed { path: path.to_owned(), source },
            None => CaError::NoSystemRoots,
        })?;
        Ok(Self { base: base.to_owned(), agent })
    }

    /// Sends a request and reads the whole response within `timeout`.
    ///
    /// # Errors
    /// [`RequestError`] if no response comes.
    pub fn request(
        &self,
        (method, path): (&str, &str),
        headers: Headers<'_>,
        body: Option<&str>,
        timeout: Duration,
    ) -> Result<Response, RequestError> {
        let request = build(method, &format!("{}{path}", self.base), headers);
        send(&self.agent, request, body, timeout)
    }

    /// Opens a response that is read as it arrives; each read ends with an error after a silence of `timeout`, and may be repeated.
    ///
    /// # Errors
    /// [`RequestError`] if no response comes within `timeout`.
    pub fn stream(&self, path: &str, timeout: Duration) -> Result<Result<impl Read + use<>, Response>, RequestError> {
        let request = Request::get(format!("{}{path}", self.base)).header(header::ACCEPT_ENCODING, "identity");
        let sent = request.body(()).map_err(ureq::Error::Http).and_then(|request| {
            let request = self.agent.configure_request(request).timeout_recv_response(Some(timeout));
            self.agent.run(request.timeout_per_read(Some(timeout)).build())
        });
        let response = sent.map_err(RequestError)?;
        match response.status().as_u16() {
            200 => Ok(Ok(response.into_body().into_reader())),
            _ => read(response).map(Err),
        }
    }
}

/// Sends a request on a new connection and reads the whole response within `timeout`. `url` has the scheme http.
///
/// # Errors
/// [`RequestError`] if `url` is invalid or no response comes.
pub fn request(
    method: &str,
    url: &str,
    headers: Headers<'_>,
    body: Option<&str>,
    timeout: Duration,
) -> Result<Response, RequestError> {
    let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).max_idle_connections(0);
    send(&Agent::from(config.proxy(None).build()), build(method, url, headers), body, timeout)
}

fn build(method: &str, url: &str, headers: Headers<'_>) -> http::request::Builder {
    headers
        .iter()
        .fold(Request::builder().method(method).uri(url), |request, (name, value)| request.header(*name, *value))
}

fn send(
    agent: &Agent,
    request: http::request::Builder,
    body: Option<&str>,
    timeout: Duration,
) -> Result<Response, RequestError> {
    fn run<B: AsSendBody>(
        agent: &Agent,
        request: Result<Request<B>, http::Error>,
        timeout: Duration,
    ) -> Result<http::Response<Body>, ureq::Error> {
        agent.run(agent.configure_request(request?).timeout_global(Some(timeout)).build())
    }
    let response = match body {
        Some(body) => run(agent, request.body(body), timeout),
        None => run(agent, request.body(()), timeout),
    };
    read(response.map_err(RequestError)?)
}

fn read(mut response: http::Response<Body>) -> Result<Response, RequestError> {
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let retry_after = text(header::RETRY_AFTER).and_then(|value| value.parse().ok()).map(Duration::from_secs);
    let (status, etag) = (response.status().as_u16(), text(header::ETAG).map(str::to_owned));
    let body = response.body_mut().with_config().limit(MAX_BODY).lossy_utf8(true).read_to_string();
    Ok(Response { status, retry_after, etag, body: body.map_err(RequestError)? })
}

/// Tests for a read that ended after a silence.
pub fn is_timeout(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    error.kind() == io::ErrorKind::TimedOut || matches!(inner, Some(ureq::Error::Timeout(_)))
}

/// The CA certificates of a server cannot be used.
#[derive(Debug)]
pub enum CaError {
    /// The file of --ca cannot be read.
    Read { path: PathBuf, source: io::Error },
    /// The file of --ca holds no usable certificate.
    Malformed { path: PathBuf, source: TlsError },
    /// The system has no CAs.
    NoSystemRoots,
}

impl fmt::Display for CaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, .. } => write!(f, "cannot read the file of --ca, {}", path.display()),
            Self::Malformed { path, .. } => write!(f, "cannot use the file of --ca, {}", path.display()),
            Self::NoSystemRoots => write!(f, "this system has no CA certificates; fix: name a file with --ca"),
        }
    }
}

impl Error for CaError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Malformed { source, .. } => Some(source),
            Self::NoSystemRoots => None,
        }
    }
}
