//! From a request that the gate has read to the bytes of its answer, and its line in the access log. The only file that
//! names tiny_http, which writes answers; of its server nothing is used, see ARCHITECTURE.md.
//!
//! It runs on the thread of the request's connection. What asks Kubernetes waits there, in `handler`; everything else,
//! /healthz first of all, is answered at once.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tiny_http::{HTTPVersion, Header, Response};

use crate::api::{self, ApiError, App, Reply, Route};
use crate::front::connection::Request;

/// Most of a request's path in the log, in characters.
const PATH_SHOWN: usize = 200;

/// What answers requests.
pub struct Http {
    app: Arc<App>,
    /// Requests that wait for Kubernetes, and the most of them.
    open: AtomicUsize,
    open_most: usize,
}

/// An answer as it goes over the wire: the body is apart, since many may have the same.
pub struct Answer {
    pub head: Vec<u8>,
    pub body: Arc<Vec<u8>>,
}

impl Http {
    /// At most `open_most` requests wait for Kubernetes at a time, so that others still find a connection.
    pub fn new(app: Arc<App>, open_most: usize) -> Self {
        Self { app, open: AtomicUsize::new(0), open_most }
    }

    /// The answer to a request; `is_last` if its connection ends with it.
    pub fn answer(&self, request: &Request, is_last: bool) -> Answer {
        let arrived = Instant::now();
        // Never fails: a panic is a reply, too.
        let outcome = catch_unwind(AssertUnwindSafe(|| self.reply(request)));
        let reply = outcome.unwrap_or(Err(ApiError::Panicked)).unwrap_or_else(ApiError::into_reply);
        finish(&request.head.line(), reply, arrived.elapsed(), request.head.method == "HEAD", is_last)
    }

    fn reply(&self, request: &Request) -> Result<Reply, ApiError> {
        let head = &request.head;
        let route = Route::parse(&head.method, &head.target)?;
        route.authorize(&self.app, head.authorization.as_deref())?;
        if route.takes_body() && head.content_length.is_none() {
            return Err(ApiError::LengthRequired);
        }
        let call = route.into_call(&request.body)?;
        let _open = if route.asks_kubernetes() { Some(self.open()?) } else { None };
        api::handle(&self.app, call)
    }

    fn open(&self) -> Result<Open<'_>, ApiError> {
        let open = Open(&self.open);
        if self.open.fetch_add(1, Ordering::Relaxed) < self.open_most { Ok(open) } else { Err(ApiError::Busy) }
    }
}

/// A request that waits for Kubernetes.
struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A refusal of a request that never got here; `line` is its method and path, without which there is no line in the log.
pub fn refusal(line: Option<&str>, error: ApiError, to_head: bool, is_last: bool) -> Answer {
    let reply = error.into_reply();
    match line {
        Some(line) => finish(line, reply, Duration::ZERO, to_head, is_last),
        None => answer(reply, to_head, is_last),
    }
}

/// The access log: method, path, status, milliseconds, and the job's name or the chain of causes.
fn finish(line: &str, reply: Reply, took: Duration, to_head: bool, is_last: bool) -> Answer {
    let shown: String = line.chars().take(PATH_SHOWN).collect();
    log::info!("{shown} {} {}ms {}", reply.status, took.as_millis(), reply.note);
    answer(reply, to_head, is_last)
}

fn answer(reply: Reply, to_head: bool, is_last: bool) -> Answer {
    let Reply { status, body, retry_after, allow, challenge, note: _ } = reply;
    let mut response = Response::new(status.into(), Vec::new(), io::empty(), Some(body.len()), None)
        // A length is better than chunks: the client sees whether it has all.
        .with_chunked_threshold(usize::MAX);
    response.add_header(header("Content-Type", "application/json"));
    if let Some(seconds) = retry_after {
        response.add_header(header("Retry-After", &seconds.to_string()));
    }
    if let Some(methods) = allow {
        response.add_header(header("Allow", methods));
    }
    if challenge {
        response.add_header(header("WWW-Authenticate", "Bearer"));
    }
    let mut head = Vec::with_capacity(256);
    let written = response.raw_print(&mut head, HTTPVersion(1, 1), &[], true, None);
    written.expect("a Vec takes all bytes");
    if is_last {
        close_after(&mut head);
    }
    Answer { head, body: if to_head { Arc::default() } else { body } }
}

/// Says that the connection ends with the answer, which tiny_http leaves to its server.
fn close_after(head: &mut Vec<u8>) {
    // Before the empty line at the end.
    head.truncate(head.len() - 2);
    head.extend_from_slice(b"Connection: close\r\n\r\n");
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("names and values of ours are ASCII")
}
