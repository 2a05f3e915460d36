//! Plain HTTP to anything but Kubernetes: a server of ours, the host's metadata service. No TLS, no redirects, no proxy:
//! what is asked is near.

use std::fmt;
use std::time::Duration;

use ureq::Agent;
use ureq::http::Request;

/// Longest body that is read, in bytes: /config of 10,000 pods has 1.5 MB.
const BODY_LIMIT: u64 = 16 * 1024 * 1024;

/// An answer, whatever its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The whole body; bytes that are not UTF-8 are replaced.
    pub body: String,
}

/// There was no answer.
#[derive(Debug)]
pub struct NoAnswer(ureq::Error);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            ureq::Error::Timeout(_) => f.write_str("no answer in time"),
            ureq::Error::HostNotFound => f.write_str("no such host"),
            ureq::Error::Io(error) => write!(f, "{error}"),
            error => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for NoAnswer {}

/// Sends a request on a connection of its own and reads the answer; all of it takes at most `timeout`.
///
/// # Errors
/// Not a URL, or no answer.
pub fn request(
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
    timeout: Duration,
) -> Result<Answer, NoAnswer> {
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
    let answer = match body {
        Some(body) => request.body(body.to_owned()).map_err(ureq::Error::Http).and_then(|request| agent.run(request)),
        None => request.body(()).map_err(ureq::Error::Http).and_then(|request| agent.run(request)),
    };
    let mut answer = answer.map_err(NoAnswer)?;
    let status = answer.status().as_u16();
    let body = answer.body_mut().with_config().limit(BODY_LIMIT).lossy_utf8(true).read_to_string().map_err(NoAnswer)?;
    Ok(Answer { status, body })
}
