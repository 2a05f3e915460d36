//! A plain HTTP client for servers other than Kubernetes: a server of this program and the EC2 metadata service. It supports no
//! TLS, redirects or proxies, since both are near.

use std::fmt;
use std::time::Duration;

use ureq::Agent;
use ureq::http::Request;

/// Longest response body, in bytes: /config with 10,000 pods has 1.5 MB.
const MAX_BODY: u64 = 16 * 1024 * 1024;

/// A response of any status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The whole body; U+FFFD replaces bytes that are not UTF-8.
    pub body: String,
}

/// A request without a response.
#[derive(Debug)]
pub struct RequestError(ureq::Error);

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ureq::Error::Timeout(_) => f.write_str("no response in time"),
            ureq::Error::HostNotFound => f.write_str("no such host"),
            ureq::Error::Io(error) => write!(f, "{error}"),
            error => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for RequestError {}

/// Sends a request on a new connection and reads the whole response within `timeout`.
///
/// # Errors
/// [`RequestError`] if `url` is invalid or no response comes.
pub fn request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
    timeout: Duration,
) -> Result<Response, RequestError> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_idle_connections(0)
        .proxy(None)
        .timeout_global(Some(timeout))
        .build();
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let agent = Agent::from(config);
    let response = match body {
        Some(body) => request.body(body.to_owned()).map_err(ureq::Error::Http).and_then(|request| agent.run(request)),
        None => request.body(()).map_err(ureq::Error::Http).and_then(|request| agent.run(request)),
    };
    let mut response = response.map_err(RequestError)?;
    let status = response.status().as_u16();
    let body =
        response.body_mut().with_config().limit(MAX_BODY).lossy_utf8(true).read_to_string().map_err(RequestError)?;
    Ok(Response { status, body })
}
