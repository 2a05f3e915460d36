//! Requests to AWS's own endpoints, with few retries.

use std::thread;
use std::time::Duration;

use ureq::Agent;
use ureq::http::{Request, header};

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
    /// The response is larger than [`BODY_LIMIT`].
    TooLarge(String),
}

impl NoReply {
    pub fn text(&self) -> &str {
        match self {
            Self::Unreachable(text) | Self::Lost(text) | Self::TooLarge(text) => text,
        }
    }
}

/// Sends a request, up to `attempts` times while the server is overloaded, fails or breaks the connection. `timeout` is that of one
/// attempt.
///
/// # Errors
/// [`NoReply`] of the last attempt.
pub fn send(agent: &Agent, request: &Request<Vec<u8>>, timeout: Duration, attempts: u32) -> Result<Reply, NoReply> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..attempts {
        let outcome = send_once(agent, request, timeout);
        let is_busy = match &outcome {
            // STS refuses too many requests with 400.
            Ok(Reply { status: 400, body }) => body.contains("<Code>Throttling"),
            Ok(Reply { status, .. }) => matches!(status, 429 | 500..=599),
            Err(error) => matches!(error, NoReply::Lost(_)),
        };
        if !is_busy {
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
        match error {
            error if is_not_connected(error) => NoReply::Unreachable(text),
            ureq::Error::BodyExceedsLimit(_) => NoReply::TooLarge(text),
            _ => NoReply::Lost(text),
        }
    };
    let mut request = request.clone();
    // Responses are small, and an unpacked one might not be.
    request.headers_mut().insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static("identity"));
    let has_body = !request.body().is_empty();
    let sent = if has_body {
        agent.run(agent.configure_request(request).timeout_global(Some(timeout)).build())
    } else {
        let request = request.map(|_| ());
        agent.run(agent.configure_request(request).timeout_global(Some(timeout)).build())
    };
    let mut response = sent.map_err(|error| failed(&error))?;
    let body = response.body_mut().with_config().limit(BODY_LIMIT).lossy_utf8(true).read_to_string();
    Ok(Reply { status: response.status().as_u16(), body: body.map_err(|error| failed(&error))? })
}

/// Longest text of a server that is shown, in characters.
const MAX_TEXT_CHARS: usize = 300;

/// Returns the part of a server's text that is shown: its first line. The others may quote the request.
pub fn first_line(text: &str) -> String {
    text.trim().lines().next().unwrap_or_default().chars().take(MAX_TEXT_CHARS).collect()
}
