//! The errors that the front answers itself: malformed HTTP, limits, and a server behind it that fails.

use std::time::{Duration, SystemTime};

use crate::front::limits::MAX_BODY;

/// Retry-After, in seconds, of a limit that ends by itself.
const RETRY_SOON: u64 = 5;

/// The reason why the front answers a request itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestError {
    /// Not HTTP as RFC 9112 defines it; the text follows "malformed request:".
    Malformed(&'static str),
    /// A body over [`MAX_BODY`].
    BodyTooLarge,
    /// A transfer coding other than chunked.
    TransferCoding,
    /// The head or the body took too long.
    RequestTimeout,
    /// The request line is too long.
    LineTooLong,
    /// Too many or too long headers.
    HeadTooLarge,
    /// An Expect other than 100-continue.
    Expectation,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    Version,
    /// The client network exceeds its rate of requests; with the time until the next one.
    RateLimited(Duration),
    /// Too many client connections.
    ConnectionLimit,
    /// No private connection became free in time, or too many requests wait for one.
    Overloaded,
    /// No private connection could be opened.
    Unavailable,
    /// The private connection broke, or its response is malformed or late.
    Internal,
}

impl RequestError {
    /// Returns status, code, sentence and Retry-After in seconds. The code is a stable word for programs.
    pub fn to_status(&self) -> (u16, &'static str, String, Option<u64>) {
        let plain = |status, code, sentence: &str| (status, code, sentence.to_owned(), None);
        let retry = |code, sentence: &str| (503, code, sentence.to_owned(), Some(RETRY_SOON));
        match self {
            Self::Malformed(problem) => (400, "malformed_request", format!("malformed request: {problem}"), None),
            Self::BodyTooLarge => {
                (413, "body_too_large", format!("the body is over {MAX_BODY} bytes; send only the dataset"), None)
            }
            Self::TransferCoding => plain(
                501,
                "unknown_transfer_coding",
                "only the transfer coding chunked is supported; send the body with a Content-Length",
            ),
            Self::RequestTimeout => {
                plain(408, "request_timeout", "the request came too slowly; send it again, all at once")
            }
            Self::LineTooLong => {
                plain(414, "request_line_too_long", "the request line is too long; the paths here are short")
            }
            Self::HeadTooLarge => plain(431, "headers_too_large", "the headers are too many or too long; send fewer"),
            Self::Expectation => {
                plain(417, "unknown_expectation", "only Expect: 100-continue is supported; leave the header out")
            }
            Self::Version => plain(505, "unknown_http_version", "only HTTP/1.0 and HTTP/1.1 are supported"),
            Self::RateLimited(wait) => {
                let sentence = "this address sends requests too often; wait for Retry-After seconds".to_owned();
                (429, "rate_limited", sentence, Some(wait.as_secs().saturating_add(1)))
            }
            Self::ConnectionLimit => retry("too_many_connections", "there are too many connections; try again later"),
            Self::Overloaded => retry("overloaded", "too many requests are waiting; try again later"),
            Self::Unavailable => {
                retry("overloaded", "the server cannot open a private connection now; try again later")
            }
            Self::Internal => plain(500, "internal", "the server failed; this is a bug, see its log"),
        }
    }

    /// Returns the bytes of the response. `is_head`: without the body; `close`: the connection ends with it.
    pub fn to_response(&self, is_head: bool, close: bool) -> Vec<u8> {
        let (status, code, sentence, retry_after) = self.to_status();
        let body = format!(r#"{{"error":"{sentence}","code":"{code}"}}"#); // no sentence has a character to escape
        let retry = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
        let mut response = format!(
            "HTTP/1.1 {status} {}\r\nDate: {}\r\nContent-Type: application/json\r\n{retry}{}Content-Length: {}\r\n\r\n",
            reason_phrase(status),
            httpdate::fmt_http_date(SystemTime::now()),
            if close { "Connection: close\r\n" } else { "" },
            body.len(),
        );
        if !is_head {
            response.push_str(&body);
        }
        response.into_bytes()
    }
}

/// The phrases of RFC 9110, section 15.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        _ => "HTTP Version Not Supported",
    }
}
