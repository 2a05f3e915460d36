//! One attempt of an operation: its requests, with their credential and deadline.

use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use ureq::http::request::Builder;
use ureq::http::{Request, Response, header};
use ureq::{Agent, Body};

use crate::kube::agent::INPUT_BUFFER;
use crate::kube::auth::credential::Credential;
use crate::kube::client::connections::Connections;
use crate::kube::client::response::{check_status, content_type, read_error, request_error, tls_error};
use crate::kube::error::Error;
use crate::kube::transport::connect::take_connected;
use crate::kube::types::job::Job;
use crate::kube::types::json_walk;
use crate::kube::types::pod::{self, DecodeError, ListMeta, Object, Pod};
use crate::kube::types::protobuf;
use crate::kube::types::watched::WatchedObject;

/// Maximum size of a list, in bytes after gunzip: 100,000 pods of 5 KB, for which GET /config returns 15 MB.
const LIST_LIMIT: u64 = 512 * 1024 * 1024;

/// Maximum size of a created Job in a response, in bytes: 3 KB, with additions of webhooks 20 KB.
const JOB_LIMIT: u64 = 1024 * 1024;

/// The media type of request bodies and, by default, of responses.
pub const JSON: &str = "application/json";

/// The accepted media types of a pod list; a server without the first sends the second.
const PODS: &str = "application/vnd.kubernetes.protobuf,application/json";

/// The accepted media types of a log: as kubectl sends them.
const ANY: &str = "application/json, */*";

/// One attempt of an operation.
pub struct Attempt<'a> {
    pub connections: &'a Connections,
    /// Impersonation headers.
    pub impersonate: &'a [(String, String)],
    pub credential: Arc<Credential>,
    pub deadline: Instant,
    /// The last request used an idle connection.
    pub was_idle: Cell<bool>,
}

impl Attempt<'_> {
    /// Returns the same attempt for a part that has this time, or less if the deadline is earlier.
    pub fn part(&self, timeout: Duration) -> Attempt<'_> {
        let deadline = self.deadline.min(Instant::now() + timeout);
        let (connections, impersonate, credential) = (self.connections, self.impersonate, Arc::clone(&self.credential));
        Attempt { connections, impersonate, credential, deadline, was_idle: Cell::new(false) }
    }

    /// Returns the time until the deadline.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.connections.server)
    }

    /// Returns the error for a response that is not as expected; `found` describes it.
    pub fn malformed(&self, path: &str, found: &str) -> Error {
        Error::NotKubernetes { url: self.url(path), found: found.to_owned() }
    }

    /// Sends a request with an optional (media type, body), and returns a successful response in JSON.
    ///
    /// # Errors
    /// [`Error`], also for a status other than 2xx.
    pub fn send(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Result<Response<Body>, Error> {
        self.send_accepting(JSON, method, path, body)
    }

    fn send_accepting(
        &self,
        accept: &str,
        method: &str,
        path: &str,
        body: Option<(&str, &[u8])>,
    ) -> Result<Response<Body>, Error> {
        let agent = self.connections.agent(self.credential.identity.as_ref());
        let agent = agent.map_err(|error| tls_error(self.url(path), error))?;
        let request = self.request(accept, method, path);
        let sent = match body {
            Some((media_type, body)) => {
                request.header(header::CONTENT_TYPE, media_type).body(body).map(|request| self.run(&agent, request))
            }
            None => request.body(()).map(|request| self.run(&agent, request)),
        };
        check_status(self.url(path), sent.map_err(ureq::Error::Http).and_then(|sent| sent))
    }

    /// Returns a request with our credential and without a body.
    fn request(&self, accept: &str, method: &str, path: &str) -> Builder {
        let mut request = Request::builder().method(method).uri(self.url(path)).header(header::ACCEPT, accept);
        if let Some(value) = &self.credential.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        for (name, value) in self.impersonate {
            request = request.header(name, value);
        }
        request
    }

    /// Opens a stream on a connection of `agent`. The head must arrive by the deadline, and each further part after at most `silence`.
    ///
    /// # Errors
    /// [`Error`], also for a status other than 2xx.
    pub fn open_stream(&self, agent: &Agent, path: &str, silence: Duration) -> Result<Response<Body>, Error> {
        // Decompression would hold back bytes that have arrived.
        let request = self.request(ANY, "GET", path).header(header::ACCEPT_ENCODING, "identity").body(());
        let sent = request.map_err(ureq::Error::Http).and_then(|request| {
            let request = agent.configure_request(request).timeout_recv_response(Some(self.remaining()));
            agent.run(request.timeout_per_read(Some(silence)).build())
        });
        check_status(self.url(path), sent)
    }

    fn run<B: ureq::AsSendBody>(&self, agent: &Agent, request: Request<B>) -> Result<Response<Body>, ureq::Error> {
        let request = agent.configure_request(request).timeout_global(Some(self.remaining()));
        let request = request.max_idle_age(self.connections.max_idle_age()).build();
        take_connected();
        let outcome = agent.run(request);
        self.was_idle.set(!take_connected());
        outcome
    }

    /// Reads a whole body of at most `limit` bytes, and deserializes it.
    ///
    /// # Errors
    /// [`Error::Truncated`], or [`Error::NotKubernetes`] if the body is not such an object.
    pub fn object<T: DeserializeOwned>(
        &self,
        path: &str,
        mut response: Response<Body>,
        limit: u64,
    ) -> Result<T, Error> {
        let url = self.url(path);
        let found = content_type(&response);
        let body = response.body_mut().with_config().limit(limit).read_to_vec();
        let body = body.map_err(|error| request_error(&url, error))?;
        serde_json::from_slice(&body).map_err(|error| match error.classify() {
            serde_json::error::Category::Eof if !body.is_empty() => Error::Truncated { url },
            _ => Error::NotKubernetes { url, found },
        })
    }

    /// Creates the Job `name` of `manifest`.
    ///
    /// # Errors
    /// [`Error`], also for a response other than that Job.
    pub fn create_job(&self, path: &str, name: &str, manifest: &[u8]) -> Result<(), Error> {
        let response = self.send("POST", path, Some((JSON, manifest)))?;
        let object: Object = self.object(path, response, JOB_LIMIT)?;
        if object.kind == "Job" && object.metadata.name == name {
            return Ok(());
        }
        Err(self.malformed(path, "another object than the Job"))
    }

    /// Returns the Job `name` at `path`.
    ///
    /// # Errors
    /// [`Error`], also for a response other than that Job.
    pub fn job(&self, path: &str, name: &str) -> Result<Job, Error> {
        let mut response = self.send("GET", path, None)?;
        let body = response.body_mut().with_config().limit(JOB_LIMIT).read_to_vec();
        let body = body.map_err(|error| request_error(&self.url(path), error))?;
        let mut job = Job::default();
        match json_walk::walk(&body, &mut |path, leaf| job.set(path, leaf)) {
            Ok(()) if job.name == name => Ok(job),
            _ => Err(self.malformed(path, "another object than the Job")),
        }
    }

    /// Streams one page of pods into `pods`.
    ///
    /// # Errors
    /// [`Error`]; `pods` then holds an unusable part of the page.
    pub fn pod_list<C: Extend<Pod>>(&self, path: &str, pods: &mut C) -> Result<ListMeta, Error> {
        let mut response = self.send_accepting(PODS, "GET", path, None)?;
        let found = content_type(&response);
        let body = response.body_mut().with_config().limit(LIST_LIMIT).reader();
        let mut reader = UntilDeadline { body, deadline: self.deadline };
        // The buffer goes by value: std reads single bytes from a BufReader twice as fast as from a reference to one.
        let buffered = BufReader::with_capacity(INPUT_BUFFER, &mut reader);
        let read = if found.starts_with(protobuf::MEDIA_TYPE) {
            protobuf::read_pod_list(buffered, pods)
        } else {
            pod::read_pod_list(buffered, pods).map_err(DecodeError::from)
        };
        read.map_err(|error| {
            let url = self.url(path);
            let end = match error {
                DecodeError::Io(error) => Err(error),
                // Damaged gzip decodes to malformed text first; its checksum is at the end.
                DecodeError::Malformed => io::copy(&mut reader, &mut io::sink()),
            };
            match end {
                Ok(_) => Error::NotKubernetes { url, found },
                Err(error) => read_error(url, error),
            }
        })
    }
}

/// A body that ends with an error at the deadline. ureq looks at the time only when it waits for the network, and a small host
/// may unpack and parse a large list for long.
struct UntilDeadline<R> {
    body: R,
    deadline: Instant,
}

impl<R: Read> Read for UntilDeadline<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() >= self.deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.body.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_never_waits_for_the_network_ends_at_the_deadline() {
        let now = Instant::now();
        let mut endless = UntilDeadline { body: io::repeat(b' '), deadline: now + Duration::from_secs(3600) };
        assert_eq!(endless.read(&mut [0; 16]).expect("the deadline is far"), 16);
        endless.deadline = now;
        assert_eq!(endless.read(&mut [0; 16]).expect_err("it has passed").kind(), io::ErrorKind::TimedOut);
    }
}
