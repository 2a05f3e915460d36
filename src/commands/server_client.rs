//! A client of a running server of this program, for `submit` and `jobs`: typed requests, repeated while the server is away.

use std::cell::Cell;
use std::error::Error;
use std::fmt;
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::auth::Token;
use crate::commands::client::{Headers, HttpClient, RequestError, Response};
use crate::job::{Dataset, JobName, Tier};
use crate::kube;

/// Timeout of a request: more than the server's default deadline of a Kubernetes operation.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time to repeat requests to a server that is away: a restart takes seconds, its watches 25 s at most.
pub const MAX_OUTAGE: Duration = Duration::from_secs(60);

/// First and longest pause between two attempts without a Retry-After.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(8);

/// Jobs of a page, the server's maximum.
const PAGE: u32 = 500;

/// Longest foreign text in a message, in characters.
const MAX_TEXT_CHARS: usize = 300;

/// A Job as the server shows it, with its keys in the same order.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct Job {
    pub job: String,
    pub namespace: String,
    pub tier: String,
    pub dataset: String,
    pub r#type: String,
    pub state: String,
    pub reason: Option<String>,
    pub position: Option<u64>,
    pub created: String,
    pub started: Option<String>,
    pub finished: Option<String>,
    pub node: Option<String>,
    pub exit_code: Option<i32>,
    pub accuracy: Option<f64>,
}

impl Job {
    /// Returns the Job as the server writes it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers are always JSON")
    }

    /// Returns true if the Job succeeded or failed.
    pub fn has_ended(&self) -> bool {
        self.has_succeeded() || self.state == "failed"
    }

    /// Returns true if the Job succeeded.
    pub fn has_succeeded(&self) -> bool {
        self.state == "succeeded"
    }

    /// Returns the accuracy in percent.
    pub fn accuracy(&self) -> Option<String> {
        self.accuracy.map(|accuracy| format!("accuracy {:.1} %", accuracy * 100.0))
    }
}

/// A list of Jobs, newest first, and the entity tag of its only page.
#[derive(Default)]
pub struct List {
    pub jobs: Vec<Job>,
    pub etag: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    jobs: Vec<Job>,
    next: Option<String>,
}

/// A failed request to the server.
#[derive(Debug)]
pub enum ServerError {
    /// The first request found no server.
    NotRunning { base: String, source: RequestError },
    /// A request got no response, and neither did its repeats.
    Lost { base: String, source: RequestError },
    /// An error response with its sentence.
    Refused { status: u16, sentence: String },
    /// A response that the API does not have.
    NotAServer { base: String, path: String, status: u16 },
    /// The time of --timeout is over.
    TimedOut,
    /// There is no such Job.
    NoSuchJob(String),
    /// The Job does not exist any more.
    Gone(String),
    /// An error after which the Job exists or may exist, with the command that continues.
    WithHint { error: Box<ServerError>, hint: String },
}

/// Exit code after --timeout, as that of timeout(1).
const TIMED_OUT: u8 = 124;

impl ServerError {
    /// Returns the exit code: 124 after --timeout, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::TimedOut => TIMED_OUT,
            Self::WithHint { error, .. } => error.exit_code(),
            _ => 1,
        }
    }

    /// The error of an error response.
    pub fn refused(response: &Response) -> Self {
        let body: Value = serde_json::from_str(&response.body).unwrap_or_default();
        let sentence = body["error"].as_str().unwrap_or_else(|| response.body.trim());
        let mut sentence: String = sentence.chars().take(MAX_TEXT_CHARS).collect();
        if let Some(pause) = response.retry_after {
            sentence.push_str(&format!(" (Retry-After: {} s)", pause.as_secs()));
        }
        Self::Refused { status: response.status, sentence }
    }

    /// Adds the command that continues.
    pub fn with_hint(self, hint: &str) -> Self {
        Self::WithHint { error: Box::new(self), hint: hint.to_owned() }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRunning { base, source } => {
                write!(f, "cannot reach {base}: {source}; fix: start the server, or name another with --server")
            }
            Self::Lost { base, source } => write!(f, "no response from {base}: {source}"),
            Self::Refused { status, sentence } => write!(f, "the server refused with {status}: {sentence}"),
            Self::NotAServer { base, path, status } => write!(
                f,
                "the response to {path} ({status}) is not that of img-classification; fix: check --server, which is {base}"
            ),
            Self::TimedOut => write!(f, "the time of --timeout is over"),
            Self::NoSuchJob(job) => {
                write!(f, "there is no Job {job}: it never existed, was deleted, or ended longer than --job-ttl ago")
            }
            Self::Gone(job) => {
                write!(f, "the Job {job} is gone: it was deleted, or it ended longer than --job-ttl ago")
            }
            Self::WithHint { error, hint } => write!(f, "{error}; {hint}"),
        }
    }
}

impl Error for ServerError {}

/// A function that gets a line for the user.
pub type Notify = Box<dyn Fn(&str)>;

/// The client of one server.
pub struct ServerClient {
    http: HttpClient,
    /// Longest time to repeat a request. Zero: one attempt.
    max_outage: Duration,
    /// The end of --timeout.
    deadline: Option<Instant>,
    notify: Notify,
    /// The server has responded. Before that, a refused connection is final: the address is probably wrong.
    has_responded: Cell<bool>,
}

impl ServerClient {
    /// A client that repeats a request for `max_outage`, until `deadline`. `notify` is told of the first failure of a request.
    pub fn new(http: HttpClient, max_outage: Duration, deadline: Option<Instant>, notify: Notify) -> Self {
        Self { http, max_outage, deadline, notify, has_responded: Cell::new(false) }
    }

    /// Creates the Job of this key. Returns its name and the body of the response.
    ///
    /// # Errors
    /// [`ServerError`]; after some of them the Job may exist.
    pub fn create(
        &self,
        (tier, dataset): (Tier, Dataset),
        key: &str,
        token: Option<&Token>,
    ) -> Result<(String, String), ServerError> {
        let path = format!("/img-classification/{}", tier.as_str());
        let body = format!(r#"{{"dataset":"{}"}}"#, dataset.as_str());
        let authorization = token.map(Token::header);
        let mut headers = vec![("Content-Type", "application/json"), ("Idempotency-Key", key)];
        headers.extend(authorization.as_deref().map(|token| ("Authorization", token)));
        let response = self.call(("POST", &path), &headers, Some(&body), REQUEST_TIMEOUT)?;
        let created: Value = self.parse(&path, &response)?;
        // The name becomes a part of paths and of a command to copy.
        let name = created["job"].as_str().and_then(JobName::parse).ok_or_else(|| self.not_a_server(&path, 200))?;
        Ok((name.text.to_owned(), response.body))
    }

    /// Returns a Job, or `None` if there is none. With `wait` the server responds once the state changes, or after this many seconds.
    ///
    /// # Errors
    /// [`ServerError`]
    pub fn job(&self, name: &str, wait: Option<u64>) -> Result<Option<Job>, ServerError> {
        let mut path = format!("/jobs/{name}");
        let mut timeout = REQUEST_TIMEOUT;
        if let Some(seconds) =
            wait.map(|seconds| seconds.min(self.remaining().as_secs())).filter(|seconds| *seconds > 0)
        {
            path.push_str(&format!("?wait={seconds}"));
            timeout += Duration::from_secs(seconds);
        }
        let response = self.call(("GET", &path), &[], None, timeout)?;
        if code(&response) == "job_not_found" {
            return Ok(None);
        }
        self.parse(&path, &response).map(Some)
    }

    /// Lists the Jobs. Returns `None` if nothing has changed since the list with this entity tag.
    ///
    /// # Errors
    /// [`ServerError`]
    pub fn list(&self, query: &str, etag: Option<&str>) -> Result<Option<List>, ServerError> {
        let mut list = List { jobs: Vec::new(), etag: None };
        let mut after = String::new();
        loop {
            let path = format!("/jobs?limit={PAGE}{query}{after}");
            let condition = etag.map(|etag| ("If-None-Match", etag)).filter(|_| after.is_empty());
            let response = self.call(("GET", &path), condition.as_slice(), None, REQUEST_TIMEOUT)?;
            if response.status == 304 {
                return Ok(None);
            }
            let Page { jobs, next } = self.parse(&path, &response)?;
            list.jobs.extend(jobs);
            let Some(next) = next else {
                list.etag = response.etag.filter(|_| after.is_empty());
                return Ok(Some(list));
            };
            let page = format!("&after={next}");
            if page == after {
                return Err(self.not_a_server(&path, 200));
            }
            after = page;
        }
    }

    /// Opens the log of a Job. Each read ends with an error after a silence of [`REQUEST_TIMEOUT`], or of the time that is left now.
    /// Returns an error response as it is.
    ///
    /// # Errors
    /// [`ServerError::Lost`], after one attempt.
    pub fn log(&self, name: &str, query: &str) -> Result<Result<impl Read + use<>, Response>, ServerError> {
        let opened = self.http.stream(&format!("/jobs/{name}/logs{query}"), REQUEST_TIMEOUT.min(self.remaining()));
        opened.map_err(|source| ServerError::Lost { base: self.http.base.clone(), source })
    }

    /// Deletes a Job and returns the response.
    ///
    /// # Errors
    /// [`ServerError`]
    pub fn delete(&self, name: &str, token: Option<&Token>) -> Result<Value, ServerError> {
        let path = format!("/jobs/{name}");
        let authorization = token.map(Token::header);
        let header = authorization.as_deref().map(|token| ("Authorization", token));
        let response = self.call(("DELETE", &path), header.as_slice(), None, REQUEST_TIMEOUT)?;
        self.parse(&path, &response)
    }

    /// Sends a request, and repeats it while the server is away, overloaded or asks for a pause.
    fn call(
        &self,
        request: (&str, &str),
        headers: Headers<'_>,
        body: Option<&str>,
        timeout: Duration,
    ) -> Result<Response, ServerError> {
        let start = Instant::now();
        let mut attempt = 0;
        loop {
            let sent = self.http.request(request, headers, body, timeout.min(self.remaining()));
            let (error, wanted) = match sent {
                Ok(response) => {
                    self.has_responded.set(true);
                    if !is_passing(&response) {
                        return Ok(response);
                    }
                    (ServerError::refused(&response), response.retry_after)
                }
                Err(source) => {
                    let base = self.http.base.clone();
                    if source.is_unsent() && !self.has_responded.get() && attempt == 0 {
                        return Err(ServerError::NotRunning { base, source });
                    }
                    if !source.is_repeatable() {
                        return Err(ServerError::Lost { base, source });
                    }
                    (ServerError::Lost { base, source }, None)
                }
            };
            self.check_deadline()?;
            let backoff = kube::jitter(kube::exponential(MIN_PAUSE, attempt, MAX_PAUSE));
            let pause = wanted.unwrap_or_default().max(backoff);
            if pause > self.max_outage.saturating_sub(start.elapsed()) {
                return Err(error);
            }
            if attempt == 0 {
                (self.notify)(&format!("{error}; trying again for up to {} s", self.max_outage.as_secs()));
            }
            self.sleep(pause)?;
            attempt += 1;
        }
    }

    /// Sleeps, until the end of --timeout at most.
    ///
    /// # Errors
    /// [`ServerError::TimedOut`]
    pub fn sleep(&self, pause: Duration) -> Result<(), ServerError> {
        thread::sleep(pause.min(self.remaining()));
        self.check_deadline()
    }

    /// Tests for the end of --timeout.
    ///
    /// # Errors
    /// [`ServerError::TimedOut`]
    pub fn check_deadline(&self) -> Result<(), ServerError> {
        if self.remaining().is_zero() { Err(ServerError::TimedOut) } else { Ok(()) }
    }

    /// Returns the time until the deadline.
    fn remaining(&self) -> Duration {
        self.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, path: &str, response: &Response) -> Result<T, ServerError> {
        match response.status {
            200..=299 => serde_json::from_str(&response.body).map_err(|_| self.not_a_server(path, response.status)),
            status if code(response).is_empty() => Err(self.not_a_server(path, status)),
            _ => Err(ServerError::refused(response)),
        }
    }

    fn not_a_server(&self, path: &str, status: u16) -> ServerError {
        ServerError::NotAServer { base: self.http.base.clone(), path: path.to_owned(), status }
    }
}

/// Returns the code of an error response, or an empty one.
pub fn code(response: &Response) -> String {
    let body: Value = serde_json::from_str(&response.body).unwrap_or_default();
    body["code"].as_str().unwrap_or_default().to_owned()
}

/// Tests for a failure that passes soon. A full queue does not.
fn is_passing(response: &Response) -> bool {
    matches!(response.status, 503 | 504) || response.status == 429 && code(response) == "rate_limited"
}
