//! An endless watch: a list, then its changes over one connection.
//!
//! Memory is bounded: the watcher reads lists in pages and events one by one, and keeps only a resource version. Pods are listed
//! in protocol buffers, because there may be many; everything else is JSON.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>.

use std::io::{BufRead, BufReader, Read};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crate::kube::address::{UNRESERVED, percent_encode};
use crate::kube::client::attempt::Attempt;
use crate::kube::client::paginate::paginate;
use crate::kube::client::response::{read_error, request_error};
use crate::kube::client::retry::{exponential, jitter, random_fraction};
use crate::kube::client::stats::Verb;
use crate::kube::client::{Client, PODS};
use crate::kube::error::{CredentialError, Error};
use crate::kube::types::pod::{ListMeta, Pod};
use crate::kube::types::watched::WatchedObject;
use crate::kube::watch::event::{Events, Line, Sink, WatchEvent, read_line, read_list};

/// The server ends a watch after this time, in seconds, and the next one continues from there. A connection that died
/// unnoticed is in use until [`WATCH_TIMEOUT`].
const WATCH_SECONDS: u64 = 20;

/// Deadline of a watch: the client gives up 5 s after the server should have ended it. It is also the longest time between the starts
/// of a watch and of one that continues it. After a longer one the missed changes may be older than a reader of the objects accepts,
/// so that these are listed again.
const WATCH_TIMEOUT: Duration = Duration::from_secs(WATCH_SECONDS + 5);

/// Least deadline of a page of a list; a longer one of the operator's holds for pages, too.
const MIN_PAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Deadline of a list of any number of pages: after five minutes etcd may have compacted its version.
const LIST_TIMEOUT: Duration = Duration::from_secs(300);

/// Maximum size of a page that is read whole, in bytes: all of its Jobs with 40 KB.
const PAGE_LIMIT: u64 = 4 * 1024 * 1024;

/// Maximum size of an event, in bytes: etcd stores no object over 1.5 MB.
const EVENT_LIMIT: u64 = 2 * 1024 * 1024;

/// Maximum size of a watch, in bytes: some thousand changes in its 20 s.
const WATCH_LIMIT: u64 = 64 * 1024 * 1024;

/// An error's description of a body without a list's resource version.
const NO_LIST: &str = "an object that is not a list";

/// Read buffer, in bytes: a few events.
const BUFFER: usize = 8 * 1024;

/// Minimum duration of a successful watch, after which the next one begins at once.
const MIN_SUCCESS: Duration = Duration::from_secs(5);

/// Backoff after failures. A free slot should not wait for more than a second, and an unreachable cluster gets a
/// request a minute.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Maximum Retry-After that is heeded. A longer one is a mistake, and would leave free slots idle.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Maximum pause after a watch that its server ended early without an error: until the next one no change arrives.
const MAX_ENDED_PAUSE: Duration = Duration::from_secs(5);

/// Pause after a missing permission or credential: only the operator can grant it, and each attempt runs a plugin.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(60);

/// Refusals in a row after which a permission or credential counts as missing. An API server that starts refuses what it permits some
/// seconds later, when its roles are loaded.
const MAX_EARLY_REFUSALS: u32 = 5;

impl Client {
    /// Calls `on_event` with all objects of the list at `path`, and with every change after that. It ignores the
    /// [circuit breaker](crate::kube::client::circuit_breaker), which requests alone decide.
    pub fn watch<T: WatchedObject + Default>(&self, path: &str, on_event: &mut dyn FnMut(WatchEvent<T>)) {
        self.run_watch(path, JSON_PAGES, &mut Events::new(on_event), &|| true);
    }

    /// Watches the pods of all namespaces like [`watch`](Self::watch), while `is_wanted` returns `true`. It is called before
    /// each connection, and a connection lasts 25 s at most.
    pub fn watch_pods(&self, on_event: &mut dyn FnMut(WatchEvent<Pod>), is_wanted: &dyn Fn() -> bool) {
        self.run_watch(PODS, POD_PAGES, &mut Events::new(on_event), is_wanted);
    }

    fn run_watch(&self, path: &str, pages: Pages, sink: &mut dyn Sink, is_wanted: &dyn Fn() -> bool) {
        let mut watcher =
            Watcher { client: self, path, pages, sink, version: None, connected_at: None, current_at: None };
        let (mut failures, mut refusals, mut is_expired) = (0, 0, false);
        while is_wanted() {
            watcher.connected_at = None;
            let outcome = watcher.run();
            // An old resource version expires without a fault; the version of a new list must not.
            let was_expired =
                std::mem::replace(&mut is_expired, outcome.as_ref().err().is_some_and(is_expired_version));
            if is_expired && !was_expired {
                continue;
            }
            if watcher.connected_at.is_some_and(|since| since.elapsed() >= MIN_SUCCESS) {
                failures = 0;
                continue;
            }
            failures += 1;
            refusals = if outcome.as_ref().err().is_some_and(is_refusal) { refusals + 1 } else { 0 };
            // No earlier than Kubernetes asks, and not all watches at once.
            let asked = retry_after(&outcome).mul_f64(1.0 + random_fraction() / 4.0);
            let pause = jitter(pause(failures, refusals, outcome.as_ref().err())).max(asked);
            if let Err(error) = outcome
                && !self.is_closed.load(Ordering::SeqCst)
            {
                watcher.sink.emit(WatchEvent::Failed(error));
            }
            thread::sleep(pause);
        }
    }
}

/// Returns the pause after so many failures in a row, the last of which were refusals. `error` is `None` if the server ended the watch.
fn pause(failures: u32, refusals: u32, error: Option<&Error>) -> Duration {
    let backoff = exponential(INITIAL_BACKOFF, failures - 1, MAX_BACKOFF);
    match error {
        None => backoff.min(MAX_ENDED_PAUSE),
        Some(_) if refusals > MAX_EARLY_REFUSALS => FORBIDDEN_PAUSE,
        Some(_) if refusals > 0 => exponential(INITIAL_BACKOFF, refusals - 1, MAX_BACKOFF),
        // A slow plugin is about to have one.
        Some(Error::Credential(CredentialError::Pending { .. })) => backoff,
        Some(Error::Credential(_)) => FORBIDDEN_PAUSE,
        Some(_) => backoff,
    }
}

/// Returns the pause that Kubernetes asks for.
fn retry_after(outcome: &Result<(), Error>) -> Duration {
    match outcome {
        Err(Error::Status { retry_after, .. }) => retry_after.unwrap_or_default().min(MAX_RETRY_AFTER),
        _ => Duration::ZERO,
    }
}

fn is_expired_version(error: &Error) -> bool {
    matches!(error, Error::Status { status, .. } if status.code == 410)
}

/// Tests for a missing permission or a rejected credential.
fn is_refusal(error: &Error) -> bool {
    error.not_permitted() || error.unauthorized()
}

fn is_broken_connection(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::Truncated { .. } | Error::Timeout { .. })
}

/// Returns the path with these query parameters, after those that it may have.
fn with_query(path: &str, query: &str) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}{query}")
}

/// The pages of a list.
#[derive(Clone, Copy)]
struct Pages {
    /// Objects in a page.
    size: usize,
    /// Reads the page at a path.
    read: fn(&Attempt<'_>, &str, &mut dyn Sink) -> Result<ListMeta, Error>,
}

/// Pages of objects of any kind, each read whole: Jobs have 3 KB.
const JSON_PAGES: Pages = Pages { size: 100, read: read_json };

/// Pages of pods, which stream, and of which there may be many: the size is client-go's.
const POD_PAGES: Pages = Pages { size: 500, read: stream_pods };

/// Reads one page of a list.
///
/// # Errors
/// [`Error`]
pub fn read_json(attempt: &Attempt<'_>, path: &str, sink: &mut dyn Sink) -> Result<ListMeta, Error> {
    let mut response = attempt.send("GET", path, None)?;
    let body = response.body_mut().with_config().limit(PAGE_LIMIT).read_to_vec();
    let body = body.map_err(|error| request_error(&attempt.url(path), error))?;
    read_list(&body, sink).ok().flatten().ok_or_else(|| attempt.malformed(path, NO_LIST))
}

fn stream_pods(attempt: &Attempt<'_>, path: &str, sink: &mut dyn Sink) -> Result<ListMeta, Error> {
    attempt.pod_list(path, &mut Leaves(sink))
}

/// A collection that hands on the leaves of each pod.
struct Leaves<'a>(&'a mut dyn Sink);

impl Extend<Pod> for Leaves<'_> {
    fn extend<I: IntoIterator<Item = Pod>>(&mut self, pods: I) {
        for pod in pods {
            self.0.clear();
            pod.leaves(|path, leaf| self.0.object().set(path, leaf));
            self.0.emit(WatchEvent::Apply(()));
        }
    }
}

struct Watcher<'a> {
    client: &'a Client,
    path: &'a str,
    pages: Pages,
    sink: &'a mut dyn Sink,
    /// The resource version from which the next watch continues; `None` if it begins with a list.
    version: Option<String>,
    /// The start of the current watch.
    connected_at: Option<Instant>,
    /// A time at which the objects were current: the start of the last list or watch.
    current_at: Option<Instant>,
}

impl Watcher<'_> {
    /// Lists the objects if necessary, then watches until the watch ends.
    fn run(&mut self) -> Result<(), Error> {
        if let Some(mut version) = self.version.take() {
            let outcome = self.watch(&mut version, WATCH_TIMEOUT);
            if !matches!(outcome, Ok(false)) {
                return self.keep_version(version, outcome);
            }
        }
        let mut version = self.list()?;
        // A list may take longer than the limit.
        let outcome = self.watch(&mut version, Duration::MAX);
        self.keep_version(version, outcome)
    }

    /// Keeps the version for the next watch, unless the error may be caused by the version itself.
    fn keep_version(&mut self, version: String, outcome: Result<bool, Error>) -> Result<(), Error> {
        let keeps = |error: &Error| is_broken_connection(error) || error.not_permitted();
        self.version = Some(version).filter(|_| outcome.as_ref().err().is_none_or(keeps));
        outcome.map(drop)
    }

    /// Lists all objects; returns the list's resource version.
    fn list(&mut self) -> Result<String, Error> {
        let Pages { size, read } = self.pages;
        let (first, sink) = (with_query(self.path, &format!("limit={size}")), &mut *self.sink);
        let mut version = String::new();
        let page_timeout = self.client.timeout.max(MIN_PAGE_TIMEOUT);
        let began = Instant::now();
        self.client.attempt(Verb::List, LIST_TIMEOUT, |attempt| {
            // Inside, because a rejected credential begins the list again: an object of the first pages may be gone.
            sink.emit(WatchEvent::Init);
            paginate(&first, |path| {
                let page = read(&attempt.part(page_timeout), path, sink)?;
                if page.version.is_empty() {
                    return Err(attempt.malformed(path, NO_LIST));
                }
                version = page.version;
                Ok(page.next)
            })
        })?;
        sink.emit(WatchEvent::InitDone);
        self.current_at = Some(began);
        Ok(version)
    }

    /// Watches from `version` until the server ends the watch, and updates `version` with every event. Returns false without a watch
    /// if the objects were last current longer than `max_gap` ago.
    fn watch(&mut self, version: &mut String, max_gap: Duration) -> Result<bool, Error> {
        let from = percent_encode(version, UNRESERVED);
        let query = format!("watch=1&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={WATCH_SECONDS}");
        let path = with_query(self.path, &query);
        let (sink, connected_at, current_at) = (&mut *self.sink, &mut self.connected_at, &mut self.current_at);
        // Before the request, so that a silent connection has always lasted longer than the limit.
        let began = Instant::now();
        self.client.attempt(Verb::Watch, WATCH_TIMEOUT, |attempt| {
            let mut response = attempt.send("GET", &path, None)?;
            if current_at.is_some_and(|at| at.elapsed() >= max_gap) {
                return Ok(false);
            }
            (*connected_at, *current_at) = (Some(Instant::now()), Some(began));
            sink.emit(WatchEvent::Connected);
            let body = response.body_mut().with_config().limit(WATCH_LIMIT).reader();
            read_events((attempt, &path), BufReader::with_capacity(BUFFER, body), version, sink).map(|()| true)
        })
    }
}

/// Reads a watch's response to its end.
fn read_events(
    (attempt, path): (&Attempt<'_>, &str),
    mut body: impl BufRead,
    version: &mut String,
    sink: &mut dyn Sink,
) -> Result<(), Error> {
    let mut line = Vec::new();
    loop {
        // A line feed ends each event, and occurs nowhere else.
        line.clear();
        let read = body.by_ref().take(EVENT_LIMIT).read_until(b'\n', &mut line);
        if read.map_err(|error| read_error(attempt.url(path), error))? == 0 {
            return Ok(());
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let read = read_line(&line, sink);
        if let Line::Apply | Line::Delete | Line::Bookmark = read {
            sink.object().version().clone_into(version);
        }
        match read {
            Line::Apply => sink.emit(WatchEvent::Apply(())),
            Line::Delete => sink.emit(WatchEvent::Delete(())),
            Line::Error(status) => {
                return Err(Error::Status { url: attempt.url(path), status, retry_after: None, date: None });
            }
            Line::Bookmark | Line::Unknown => {}
            Line::Malformed => return Err(attempt.malformed(path, "a line that is not a watch event")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::error::Status;

    #[test]
    fn the_pause_grows_with_failures_and_depends_on_the_error() {
        let timeout = Error::Timeout { url: String::new() };
        let seconds = |failures, error| pause(failures, 0, error).as_secs();
        assert_eq!([1, 2, 6, 7, 100].map(|failures| seconds(failures, Some(&timeout))), [1, 2, 32, 60, 60]);
        assert_eq!([1, 2, 5, 6].map(|failures| seconds(failures, None)), [1, 2, 5, 5]);
        let status = Status { code: 401, ..Status::default() };
        let unauthorized = Error::Status { url: String::new(), status, retry_after: None, date: None };
        let refused = |failures, refusals| pause(failures, refusals, Some(&unauthorized)).as_secs();
        assert_eq!([refused(1, 1), refused(5, 5), refused(6, 6)], [1, 16, 60]);
        assert_eq!(refused(9, 1), 1, "an API server that starts after an outage");
    }
}
