//! Responses of the API.

use std::time::Duration;

use serde_json::Value;

/// Returns the next bytes of a stream, or none if there were none within the timeout. Returns `None` at the end of the stream.
pub type NextBytes = Box<dyn FnMut(Duration) -> Option<Vec<u8>> + Send>;

/// A response: status, media type and body, or media type and stream.
pub enum Response {
    Complete(u16, &'static str, Vec<u8>),
    Stream(&'static str, NextBytes),
}

impl Response {
    pub fn json(code: u16, value: &Value) -> Self {
        Self::Complete(code, "application/json", format!("{value}\n").into_bytes())
    }

    pub fn text(text: impl Into<Vec<u8>>) -> Self {
        Self::Complete(200, "text/plain", text.into())
    }
}
