//! Responses of the API.

use serde_json::Value;

use super::watch::Watch;

/// A response: status, media type and body, or an endless watch.
pub enum Response {
    Complete(u16, &'static str, Vec<u8>),
    Watch(Watch),
}

impl Response {
    pub fn json(code: u16, value: &Value) -> Self {
        Self::Complete(code, "application/json", format!("{value}\n").into_bytes())
    }

    pub fn text(text: impl Into<Vec<u8>>) -> Self {
        Self::Complete(200, "text/plain", text.into())
    }
}
