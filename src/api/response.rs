//! The response of a handler: status, headers, body, and the detail for the access log.

use std::io::Read;
use std::sync::Arc;

/// A response, before it is written to a connection.
pub struct Response {
    /// HTTP status.
    pub status: u16,
    /// Headers in the order of sending, without Content-Length.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Body,
    /// The end of the access log's line: a Job's name, a count, or the chain of causes of an error.
    pub log_detail: String,
}

/// The body of a response.
pub enum Body {
    /// The whole body; concurrent responses may share it.
    Bytes(Arc<Vec<u8>>),
    /// A body of unknown length. The server sends each read as one piece, at once.
    Stream(Box<dyn Read + Send>),
}

impl Response {
    /// A response with a body of this media type.
    pub fn new(status: u16, media_type: &str, body: Arc<Vec<u8>>) -> Self {
        let headers = vec![("Content-Type", media_type.to_owned())];
        Self { status, headers, body: Body::Bytes(body), log_detail: String::new() }
    }

    /// A JSON response.
    pub fn json(status: u16, body: Arc<Vec<u8>>) -> Self {
        Self::new(status, "application/json", body)
    }

    /// A JSON response of a small value.
    pub fn value(status: u16, body: &serde_json::Value) -> Self {
        Self::json(status, Arc::new(body.to_string().into_bytes()))
    }

    /// A 204 that lists the methods of a path.
    pub fn allow(methods: &str) -> Self {
        let headers = vec![("Allow", methods.to_owned())];
        Self { status: 204, headers, body: Body::Bytes(Arc::default()), log_detail: String::new() }
    }

    /// A 304 for the caller who has the body of this entity tag.
    pub fn not_modified(etag: String) -> Self {
        Self {
            status: 304,
            headers: vec![("ETag", etag)],
            body: Body::Bytes(Arc::default()),
            log_detail: String::new(),
        }
    }

    /// The same response with a header.
    pub fn with_header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same response with a detail for the access log.
    pub fn with_detail(self, log_detail: String) -> Self {
        Self { log_detail, ..self }
    }
}
