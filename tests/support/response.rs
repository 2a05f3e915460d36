//! Behaviors of the scripted API server: responses in every framing, Kubernetes errors, and faults.

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// The server's behavior for one request.
#[derive(Clone)]
pub enum Behavior {
    /// The response of the minimal Kubernetes in `cluster.rs`.
    Default,
    /// Applies the request, then closes without a response.
    ApplyThenDrop,
    /// Applies the request, then sends nothing until the client gives up.
    ApplyThenHang,
    ApiResponse(ApiResponse),
    /// Applies the request, then closes after this many bytes of the response, head included.
    ApplyThenTruncate(usize),
    /// Closes in order without a response.
    Close,
    /// Resets the connection without a response.
    Reset,
    /// Sends nothing until the client gives up.
    Hang,
    /// Sends a valid head, then one body byte every 50 ms until the client gives up.
    Drip,
    /// Sends a valid head and one chunk of the body, then nothing until the client gives up.
    ChunkThenHang(Vec<u8>),
    /// Responds once the test opens the latch.
    After(Latch, Box<Behavior>),
    /// Responds after this delay: a slow Kubernetes.
    Delayed(Duration, Box<Behavior>),
    /// Responds, then closes the kept-alive connection.
    ThenClose(Box<Behavior>),
    /// Responds with 200 and a body that the test sends piece by piece.
    Stream(Stream),
}

/// The server's behavior for one connection before its first complete request.
#[derive(Clone, Copy)]
pub enum Accept {
    Reset,
    /// Accepts and sends nothing, not even a TLS handshake.
    Hang,
    /// Resets between the head and the body of the first request.
    ResetAfterHead,
}

/// Blocks waiters until the test opens it; stays open.
#[derive(Clone, Default)]
pub struct Latch(Arc<(Mutex<bool>, Condvar)>);

/// The test's end of a chunked body, for example of a watch.
#[derive(Clone, Default)]
pub struct Stream(Arc<(Mutex<Pieces>, Condvar)>);

#[derive(Default)]
struct Pieces {
    waiting: VecDeque<Vec<u8>>,
    is_over: bool,
}

/// A response and its framing.
#[derive(Clone)]
pub struct ApiResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    chunked: bool,
    cut: Option<usize>,
}

impl Latch {
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub fn wait(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |open| !*open).unwrap());
    }
}

impl Stream {
    pub fn send(&self, bytes: impl Into<Vec<u8>>) {
        self.0.0.lock().unwrap().waiting.push_back(bytes.into());
        self.0.1.notify_all();
    }

    /// Ends the body in order.
    pub fn end(&self) {
        self.0.0.lock().unwrap().is_over = true;
        self.0.1.notify_all();
    }

    /// Waits for the next piece; returns `None` at the end.
    pub fn next(&self) -> Option<Vec<u8>> {
        let waits = |pieces: &mut Pieces| pieces.waiting.is_empty() && !pieces.is_over;
        self.0.1.wait_while(self.0.0.lock().unwrap(), waits).unwrap().waiting.pop_front()
    }
}

impl From<ApiResponse> for Behavior {
    fn from(reply: ApiResponse) -> Behavior {
        Behavior::ApiResponse(reply)
    }
}

impl ApiResponse {
    pub fn new(status: u16, kind: &str, body: impl Into<Vec<u8>>) -> ApiResponse {
        let headers = vec![("Content-Type".to_owned(), kind.to_owned())];
        ApiResponse { status, headers, body: body.into(), chunked: false, cut: None }
    }

    pub fn json(status: u16, body: &Value) -> ApiResponse {
        ApiResponse::new(status, "application/json", body.to_string())
    }

    pub fn html(status: u16) -> ApiResponse {
        ApiResponse::new(status, "text/html", "<html><body><h1>It works, or not</h1></body></html>")
    }

    /// A Kubernetes `Status` of kind Failure.
    pub fn failure(code: u16, reason: &str, message: &str) -> ApiResponse {
        ApiResponse::json(
            code,
            &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": message, "reason": reason, "code": code}),
        )
    }

    /// The body as JSON.
    pub fn body_json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(mut self, name: &str, value: &str) -> ApiResponse {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Encodes a JSON Status in protocol buffers, as Kubernetes does for a list requested in that encoding.
    pub fn into_protobuf_status(mut self) -> ApiResponse {
        let status = self.body_json();
        let text = |number: u8, name: &str| field(number, status[name].as_str().unwrap().as_bytes());
        let object = [field(1, b""), text(2, "status"), text(3, "message"), text(4, "reason")].concat();
        let kind = [field(1, b"v1"), field(2, b"Status")].concat();
        self.body = [b"k8s\0".to_vec(), field(1, &kind), field(2, &object), field(3, b""), field(4, b"")].concat();
        self.headers[0].1 = "application/vnd.kubernetes.protobuf".to_owned();
        self
    }

    /// Encodes a JSON PodList in protocol buffers, with further fields that Kubernetes sends.
    pub fn into_protobuf_pods(mut self) -> ApiResponse {
        let list = self.body_json();
        let text = |number: u8, text: &Value| field(number, text.as_str().unwrap_or_default().as_bytes());
        let mut items = field(1, &[field(2, b"7"), text(3, &list["metadata"]["continue"])].concat());
        for pod in list["items"].as_array().unwrap() {
            let (metadata, spec, status) = (&pod["metadata"], &pod["spec"], &pod["status"]);
            let metadata =
                [text(1, &metadata["name"]), text(3, &metadata["namespace"]), field(12, &[0xff; 300])].concat();
            let spec = [field(2, b"a container"), text(10, &spec["nodeName"])].concat();
            let status = [text(1, &status["phase"]), text(6, &status["podIP"])].concat();
            items.extend(field(2, &[field(1, &metadata), field(2, &spec), field(3, &status)].concat()));
        }
        let kind = [field(1, b"v1"), field(2, b"PodList")].concat();
        self.body = [b"k8s\0".to_vec(), field(1, &kind), field(2, &items), field(3, b""), field(4, b"")].concat();
        self.headers[0].1 = "application/vnd.kubernetes.protobuf".to_owned();
        self
    }

    pub fn gzip(mut self) -> ApiResponse {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&self.body).unwrap();
        self.body = encoder.finish().unwrap();
        self.header("Content-Encoding", "gzip")
    }

    /// Inverts one byte of the encoded body; negative positions count from the end.
    pub fn corrupted(mut self, place: isize) -> ApiResponse {
        let place = if place < 0 { self.body.len() - place.unsigned_abs() } else { place.unsigned_abs() };
        self.body[place] ^= 0xff;
        self
    }

    pub fn chunked(mut self) -> ApiResponse {
        self.chunked = true;
        self
    }

    /// Closes after this many bytes of the body; the framing announces the full body.
    pub fn cut(mut self, bytes: usize) -> ApiResponse {
        self.cut = Some(bytes);
        self
    }

    /// Cuts the last byte of the body.
    pub fn cut_last(self) -> ApiResponse {
        let length = self.body.len();
        self.cut(length - 1)
    }

    pub fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("HTTP/1.1 {} Scripted\r\n", self.status).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let framing = if self.chunked {
            "Transfer-Encoding: chunked".into()
        } else {
            format!("Content-Length: {}", self.body.len())
        };
        bytes.extend_from_slice(format!("{framing}\r\n\r\n").as_bytes());
        let sent = &self.body[..self.cut.unwrap_or(self.body.len())];
        if self.chunked {
            for chunk in sent.chunks(1000) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            if self.cut.is_none() {
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        } else {
            bytes.extend_from_slice(sent);
        }
        bytes
    }
}

/// A ResourceQuota on the number of Jobs is exhausted.
pub fn quota_full() -> ApiResponse {
    ApiResponse::failure(
        403,
        "Forbidden",
        "jobs.batch \"x\" is forbidden: exceeded quota: jobs, requested: count/jobs.batch=1, \
         used: count/jobs.batch=100, limited: count/jobs.batch=100",
    )
}

/// RBAC forbids this user to create Jobs.
pub fn no_permission() -> ApiResponse {
    ApiResponse::failure(
        403,
        "Forbidden",
        "jobs.batch is forbidden: User \"nobody\" cannot create resource \"jobs\" in API group \"batch\" \
         in the namespace \"free-service\"",
    )
}

pub fn unauthorized() -> ApiResponse {
    ApiResponse::failure(401, "Unauthorized", "Unauthorized")
}

/// Two writers updated the quota at the same time; a retry succeeds.
pub fn conflict() -> ApiResponse {
    ApiResponse::failure(
        409,
        "Conflict",
        "Operation cannot be fulfilled on resourcequotas \"free\": the object has been modified; \
         please apply your changes to the latest version and try again",
    )
}

/// The API server requests a pause of this many seconds.
pub fn too_many_requests(seconds: u32) -> ApiResponse {
    ApiResponse::failure(429, "TooManyRequests", "too many requests, please try again later")
        .header("Retry-After", &seconds.to_string())
}

pub fn unavailable() -> ApiResponse {
    ApiResponse::failure(503, "ServiceUnavailable", "the server is currently unable to handle the request")
}

pub fn internal_error() -> ApiResponse {
    ApiResponse::failure(500, "InternalError", "Internal error occurred: etcdserver: leader changed")
}

/// A PodList with the continue token `next`.
pub fn pod_list(pods: &[Value], next: &str) -> Value {
    let metadata = if next.is_empty() {
        json!({"resourceVersion": "7"})
    } else {
        json!({"resourceVersion": "7", "continue": next})
    };
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": pods})
}

/// A length-delimited protobuf field: number and wire type, length as varint, content.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let seven_bits = |length: usize| u8::try_from(length & 0x7f).unwrap();
    let (mut bytes, mut length) = (vec![number << 3 | 2], content.len());
    while length >= 0x80 {
        bytes.push(seven_bits(length) | 0x80);
        length >>= 7;
    }
    bytes.push(seven_bits(length));
    [bytes, content.to_vec()].concat()
}
