//! Failed responses and broken connections, as errors.

use std::io;
use std::time::{Duration, SystemTime};

use ureq::Body;
use ureq::http::{Response, header};

use crate::kube::error::{Error, Status, TlsError};
use crate::kube::transport::connect::NotConnected;
use crate::kube::types::pod::Object;
use crate::kube::types::protobuf;

/// Maximum size of an error response, in bytes.
const ERROR_LIMIT: u64 = 1024 * 1024;

/// Maximum of a Status object's message that is kept, in characters.
const MAX_MESSAGE_CHARS: usize = 1000;

/// Maximum of a Content-Type in an error, in characters.
const MAX_TYPE_CHARS: usize = 80;

/// Maps an error of ureq.
pub fn request_error(url: &str, error: ureq::Error) -> Error {
    let url = url.to_owned();
    match error {
        ureq::Error::Io(error) => read_error(url, error),
        ureq::Error::Timeout(_) => Error::Timeout { url },
        ureq::Error::Decompress(..) => Error::Truncated { url },
        ureq::Error::BodyExceedsLimit(limit) => {
            Error::NotKubernetes { url, found: format!("a body over the limit of {limit} bytes") }
        }
        ureq::Error::LargeResponseHeader(..) => Error::NotKubernetes { url, found: "too large a head".into() },
        ureq::Error::Protocol(error) => Error::NotKubernetes { url, found: format!("bad HTTP ({error})") },
        ureq::Error::ConnectProxyFailed(reason) => Error::ProxyRefused { url, reason },
        source @ ureq::Error::Other(_) => Error::Tls { url, source },
        source => Error::Unreachable { url, source },
    }
}

/// Maps an I/O error, which may contain an error of ureq or rustls. A connection that breaks after it was made has
/// truncated the response, also before its first byte.
pub fn read_error(url: String, error: io::Error) -> Error {
    if is_tls_error(&error) {
        return Error::Tls { url, source: ureq::Error::Io(error) };
    }
    let error = match error.downcast::<NotConnected>() {
        Ok(NotConnected(error)) => return connect_error(url, error),
        Err(error) => error,
    };
    match error.downcast::<ureq::Error>() {
        Ok(inner) => request_error(&url, inner),
        Err(error) if is_timeout(&error) => Error::Timeout { url },
        Err(_) => Error::Truncated { url },
    }
}

/// Maps a failure to connect. A host or proxy that accepts the connection and then says nothing is unreachable as well.
fn connect_error(url: String, error: ureq::Error) -> Error {
    match error {
        source @ ureq::Error::Timeout(_) => Error::Unreachable { url, source },
        ureq::Error::Io(error) if is_socks_refusal(&error) => Error::ProxyRefused { url, reason: error.to_string() },
        ureq::Error::Io(error) if !is_tls_error(&error) => Error::Unreachable { url, source: ureq::Error::Io(error) },
        error => request_error(&url, error),
    }
}

fn is_tls_error(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Tests for a SOCKS proxy that refuses us, by the texts of ureq's connector, which has no type for it. A proxy that
/// cannot reach the cluster is a different error, and retryable.
fn is_socks_refusal(error: &io::Error) -> bool {
    let refusals =
        ["password authentication failed", "no acceptable auth methods", "connection not allowed by ruleset"];
    error.raw_os_error().is_none() && refusals.contains(&error.to_string().as_str())
}

/// Returns a successful response.
///
/// # Errors
/// [`Error`], also for a status other than 2xx.
pub fn check_status(url: String, sent: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>, Error> {
    let response = sent.map_err(|error| request_error(&url, error))?;
    match response.status().as_u16() {
        200..=299 => Ok(response),
        _ => Err(status_error(url, response)),
    }
}

/// Maps a certificate that is not usable.
pub fn tls_error(url: String, error: TlsError) -> Error {
    Error::Tls { url, source: ureq::Error::Other(error.into()) }
}

/// Maps a response other than 2xx: a Status object from Kubernetes, or the response of a server in front of it.
fn status_error(url: String, mut response: Response<Body>) -> Error {
    let code = response.status().as_u16();
    let seconds = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = seconds.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let date = date(&response);
    let media_type = content_type(&response);
    let body = match response.body_mut().with_config().limit(ERROR_LIMIT).read_to_vec() {
        Ok(body) => body,
        Err(error) => return request_error(&url, error),
    };
    let found = format!("{code} and {media_type}");
    let (reason, message) = match (read_status(&media_type, &body), code) {
        (Some((reason, message)), _) => (reason, message.chars().take(MAX_MESSAGE_CHARS).collect()),
        // A server in front of Kubernetes uses these codes as well.
        (None, 401 | 429 | 500..) => (String::new(), format!("no Status object but {found}")),
        (None, _) => return Error::NotKubernetes { url, found },
    };
    Error::Status { url, status: Status { code, reason, message }, retry_after, date }
}

/// Parses a Status object; returns its (reason, message).
fn read_status(media_type: &str, body: &[u8]) -> Option<(String, String)> {
    if media_type.starts_with(protobuf::MEDIA_TYPE) {
        return protobuf::read_status(body).ok();
    }
    let object: Object = serde_json::from_slice(body).unwrap_or_default();
    (object.kind == "Status").then_some((object.reason, object.message))
}

/// Returns the server's clock from a response's Date.
pub fn date(response: &Response<Body>) -> Option<SystemTime> {
    let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
    date.and_then(|date| httpdate::parse_http_date(date).ok())
}

/// Returns a response's Content-Type, for an error.
pub fn content_type(response: &Response<Body>) -> String {
    let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media_type.unwrap_or("a body without a Content-Type").chars().take(MAX_TYPE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_mapped_by_the_error_within() {
        let map = |error: ureq::Error| request_error("u", error);
        let refused = || ureq::Error::Io(io::Error::from(io::ErrorKind::ConnectionRefused));
        assert!(matches!(map(io::Error::other(NotConnected(refused())).into()), Error::Unreachable { .. }));
        assert!(matches!(map(refused()), Error::Truncated { .. }));
        for reason in [ureq::Timeout::Connect, ureq::Timeout::Global] {
            let connecting = map(io::Error::other(NotConnected(ureq::Error::Timeout(reason))).into());
            assert!(matches!(connecting, Error::Unreachable { .. }));
            assert!(matches!(map(ureq::Error::Timeout(reason)), Error::Timeout { .. }));
        }
        let handshake = NotConnected(io::Error::from(io::ErrorKind::TimedOut).into());
        assert!(matches!(map(io::Error::other(handshake).into()), Error::Unreachable { .. }));
        let nested = io::Error::other(ureq::Error::BodyExceedsLimit(7));
        assert!(
            matches!(read_error("u".into(), nested), Error::NotKubernetes { found, .. } if found.contains("7 bytes"))
        );
        let tls = io::Error::other(rustls::Error::DecryptError);
        assert!(matches!(map(tls.into()), Error::Tls { .. }));
        let socks = NotConnected(io::Error::other("no acceptable auth methods").into());
        assert!(matches!(map(io::Error::other(socks).into()), Error::ProxyRefused { .. }));
        assert!(matches!(map(io::Error::from(io::ErrorKind::WouldBlock).into()), Error::Timeout { .. }));
    }
}
