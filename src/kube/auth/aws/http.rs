//! Requests to AWS's own endpoints, with few retries.

use std::thread;
use std::time::Duration;

use ureq::Agent;
use ureq::http::Request;

use crate::kube::transport::connect::is_not_connected;

/// Maximum size of a response, in bytes: that of DescribeCluster has 5 KB.
const BODY_LIMIT: u64 = 256 * 1024;

/// Pause before the first retry; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// A response of any status.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: String,
}

/// A request without a response.
#[derive(Debug)]
pub enum NoReply {
    /// There was no connection.
    Unreachable(String),
    /// The connection gave no response in time, or broke.
    Lost(String),
}

impl NoReply {
    pub fn text(&self) -> &str {
        match self {
            Self::Unreachable(text) | Self::Lost(text) => text,
        }
    }
}

/// Sends a request, up to `attempts` times while the server is overloaded, fails or refuses connections. `timeout` is that of one
/// attempt.
///
/// # Errors
/// [`NoReply`] of the last attempt.
pub fn send(agent: &Agent, request: &Request<Vec<u8>>, timeout: Duration, attempts: u32) -> Result<Reply, NoReply> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..attempts {
        let outcome = send_once(agent, request, timeout);
        if !matches!(outcome, Ok(Reply { status: 429 | 500..=599, .. }) | Err(NoReply::Lost(_))) {
            return outcome;
        }
        thread::sleep(pause);
        pause *= 2;
    }
    send_once(agent, request, timeout)
}

fn send_once(agent: &Agent, request: &Request<Vec<u8>>, timeout: Duration) -> Result<Reply, NoReply> {
    let failed = |error: &ureq::Error| {
        let text = error.to_string();
        if is_not_connected(error) { NoReply::Unreachable(text) } else { NoReply::Lost(text) }
    };
    let has_body = !request.body().is_empty();
    let sent = if has_body {
        agent.run(agent.configure_request(request.clone()).timeout_global(Some(timeout)).build())
    } else {
        let request = request.clone().map(|_| ());
        agent.run(agent.configure_request(request).timeout_global(Some(timeout)).build())
    };
    let mut response = sent.map_err(|error| failed(&error))?;
    let body = response.body_mut().with_config().limit(BODY_LIMIT).lossy_utf8(true).read_to_string();
    Ok(Reply { status: response.status().as_u16(), body: body.map_err(|error| failed(&error))? })
}
