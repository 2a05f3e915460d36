//! A watch that goes on for ever: a list, then what changes from there, over one connection.
//!
//! Memory is bounded: events are read one by one, a list in pages, and nothing is kept here but a version.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes>.

use std::io::{BufRead, BufReader, Read};
use std::thread;
use std::time::{Duration, Instant};

use crate::kube::client::{Call, Client, UNRESERVED, broken, failure, jitter, pages};
use crate::kube::config::address::percent_encode;
use crate::kube::error::{Error, Status};
use crate::kube::types::job::{Watched, walk};
use crate::kube::types::pod::Object;

/// A watch ends after so many seconds by its server, and the next one goes on where it ended: a connection that died
/// unnoticed is out of use for no longer than this and [`SLACK`].
const WATCH_SECONDS: u64 = 20;

/// How much later the watch is given up from this side.
const SLACK: Duration = Duration::from_secs(5);

/// Longest time for a list, and for a touch.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// Objects in a page of a list, which is read whole: Jobs have 3 KB.
const PAGE: usize = 100;

/// Longest page, in bytes: all of its Jobs with 40 KB.
const PAGE_LIMIT: u64 = 4 * 1024 * 1024;

/// Longest event, in bytes: etcd stores no object over 1.5 MB.
const EVENT_LIMIT: u64 = 2 * 1024 * 1024;

/// Longest watch, in bytes: some thousand changes in its 20 s.
const WATCH_LIMIT: u64 = 64 * 1024 * 1024;

/// Read buffer, in bytes: a few events.
const BUFFER: usize = 8 * 1024;

/// A watch that has stood for so long was good: the next one may begin at once.
const GOOD: Duration = Duration::from_secs(5);

/// Pauses after failures: doubled from the first to the longest. A freed slot shall not wait for two seconds if it can be
/// helped, and a cluster that is away for long be asked twice a minute.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Longest pause after a watch that its server ended too soon, but in order: meanwhile nobody says that nothing is told.
const PAUSE_ENDED: Duration = Duration::from_secs(5);

/// Pause after a refusal for want of a permission or a credential: a person has to give it, or a plugin was run in vain.
const PAUSE_REFUSED: Duration = Duration::from_secs(60);

/// What is told of a watch.
pub enum WatchEvent {
    /// A list begins: what is not put again until [`InitDone`](Self::InitDone) is no longer there.
    Init,
    /// It is there, and like this.
    Apply(Watched),
    /// It is no longer there.
    Delete(Watched),
    /// The list is whole.
    InitDone,
    /// From now on every change is told as it comes.
    Connected,
    /// For now no change is told; it is being tried again.
    Failed(Error),
}

impl Client {
    /// Tells of all objects of the list at `path`, and for ever after of every change. It has no part in the
    /// [circuit](crate::kube::client::circuit_breaker): whether requests are tried must not depend on it.
    pub fn watch(&self, path: &str, tell: &mut dyn FnMut(WatchEvent)) -> ! {
        let mut watcher = Watcher { client: self, path, tell, version: None, live: None };
        let (mut failures, mut broke, mut expired) = (0, false, false);
        loop {
            watcher.live = None;
            let outcome = watcher.go_on(broke);
            broke = outcome.is_err();
            // A version that has become too old is nobody's fault; one that a list has just given is.
            let was_expired = std::mem::replace(&mut expired, outcome.as_ref().err().is_some_and(is_expired));
            if expired && !was_expired {
                continue;
            }
            if watcher.live.is_some_and(|since| since.elapsed() >= GOOD) {
                failures = 0;
                continue;
            }
            failures += 1;
            let mut pause = PAUSE_FIRST.saturating_mul(1 << (failures - 1).min(8)).min(MAX_PAUSE);
            if outcome.is_ok() {
                pause = pause.min(PAUSE_ENDED);
            }
            if let Err(error) = outcome {
                if error.not_permitted() || error.unauthorized() || matches!(error, Error::Credential(_)) {
                    pause = PAUSE_REFUSED;
                }
                (watcher.tell)(WatchEvent::Failed(error));
            }
            thread::sleep(jitter(pause));
        }
    }

    /// Changes an object by a JSON merge patch, if it is still there and of the version that the patch names; whether it
    /// was. Tried once.
    ///
    /// # Errors
    /// [`Error`]; the object may be changed all the same.
    pub fn patch_if_current(&self, path: &str, patch: &str) -> Result<bool, Error> {
        self.once(ANSWER_TIME, false, |call| {
            let body = Some(("application/merge-patch+json", patch.as_bytes()));
            match call.send("PATCH", path, body) {
                Ok(answer) => call.object::<Object>(path, answer, EVENT_LIMIT).map(|_| true),
                Err(Error::Status { status, .. }) if matches!(status.code, 404 | 409) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }
}

fn is_expired(error: &Error) -> bool {
    matches!(error, Error::Status { status, .. } if status.code == 410)
}

struct Watcher<'a> {
    client: &'a Client,
    path: &'a str,
    tell: &'a mut dyn FnMut(WatchEvent),
    /// Where the next watch begins; none: with a list.
    version: Option<String>,
    /// Since when the watch stands.
    live: Option<Instant>,
}

impl Watcher<'_> {
    /// A list, if there has to be one, and a watch until its end.
    fn go_on(&mut self, broke: bool) -> Result<(), Error> {
        let outcome = match self.version.take() {
            Some(version) => Ok(version),
            None => self.list(broke),
        };
        let mut version = outcome?;
        let outcome = self.watch(&mut version, broke);
        // After anything but a break of the connection the version itself may be what is wrong.
        let is_break = |error: &Error| {
            matches!(error, Error::Unreachable { .. } | Error::Truncated { .. } | Error::Timeout { .. })
        };
        self.version = Some(version).filter(|_| outcome.as_ref().err().is_none_or(is_break));
        outcome
    }

    fn list(&mut self, broke: bool) -> Result<String, Error> {
        let (first, tell) = (format!("{}?limit={PAGE}", self.path), &mut *self.tell);
        let mut version = String::new();
        tell(WatchEvent::Init);
        self.client.once(ANSWER_TIME, broke, |call| {
            pages(&first, |path| {
                let mut answer = call.send("GET", path, None)?;
                let body = answer.body_mut().with_config().limit(PAGE_LIMIT).read_to_vec();
                let body = body.map_err(|error| failure(&call.url(path), error))?;
                let page = read_list(&body, tell).map_err(|_| nonsense(call, path, "something that is no list"))?;
                let Page { is_list, next, version: of_page } = page;
                if !is_list || of_page.is_empty() {
                    return Err(nonsense(call, path, "something that is no list"));
                }
                version = of_page;
                Ok(next)
            })
        })?;
        tell(WatchEvent::InitDone);
        Ok(version)
    }

    fn watch(&mut self, version: &mut String, broke: bool) -> Result<(), Error> {
        let from = percent_encode(version, UNRESERVED);
        let query = format!("watch=1&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={WATCH_SECONDS}");
        let path = format!("{}?{query}", self.path);
        let (tell, live) = (&mut *self.tell, &mut self.live);
        self.client.once(Duration::from_secs(WATCH_SECONDS) + SLACK, broke, |call| {
            let mut answer = call.send("GET", &path, None)?;
            *live = Some(Instant::now());
            tell(WatchEvent::Connected);
            let body = answer.body_mut().with_config().limit(WATCH_LIMIT).reader();
            let (mut body, mut line) = (BufReader::with_capacity(BUFFER, body), Vec::new());
            loop {
                // Kubernetes ends each event with a line feed, and has none within.
                line.clear();
                let read = body.by_ref().take(EVENT_LIMIT).read_until(b'\n', &mut line);
                match read.map_err(|error| broken(call.url(&path), error))? {
                    0 => return Ok(()),
                    _ if line.trim_ascii().is_empty() => continue,
                    _ => {}
                }
                match read_event(&line) {
                    Event::Put(object) => {
                        object.version.clone_into(version);
                        tell(WatchEvent::Apply(object));
                    }
                    Event::Gone(object) => {
                        object.version.clone_into(version);
                        tell(WatchEvent::Delete(object));
                    }
                    Event::Bookmark(at) => *version = at,
                    Event::Error(status) => {
                        return Err(Error::Status { url: call.url(&path), status, retry_after: None, date: None });
                    }
                    Event::Other => {}
                    Event::Bad => return Err(nonsense(call, &path, "something that is no event")),
                }
            }
        })
    }
}

fn nonsense(call: &Call<'_>, path: &str, found: &str) -> Error {
    Error::NotKubernetes { url: call.url(path), found: found.to_owned() }
}

/// What a page of a list says besides its objects.
#[derive(Default)]
struct Page {
    is_list: bool,
    next: String,
    version: String,
}

/// Reads one page, and tells of each object.
fn read_list(text: &[u8], tell: &mut dyn FnMut(WatchEvent)) -> Result<Page, serde_json::Error> {
    let (mut page, mut current, mut object) = (Page::default(), String::new(), Watched::default());
    walk(text, &mut |path, leaf| match path {
        ["kind"] => page.is_list = leaf.ends_with("List"),
        ["metadata", "resourceVersion"] => leaf.clone_into(&mut page.version),
        ["metadata", "continue"] => leaf.clone_into(&mut page.next),
        ["items", number, rest @ ..] => {
            if *number != current {
                (*number).clone_into(&mut current);
                put(std::mem::take(&mut object), tell);
            }
            object.take(rest, leaf);
        }
        _ => {}
    })?;
    put(object, tell);
    Ok(page)
}

fn put(object: Watched, tell: &mut dyn FnMut(WatchEvent)) {
    if !object.name.is_empty() {
        tell(WatchEvent::Apply(object));
    }
}

/// An event of a watch.
enum Event {
    Put(Watched),
    Gone(Watched),
    /// Nothing has changed until this version.
    Bookmark(String),
    /// The watch cannot go on.
    Error(Status),
    /// Of a type that is not known.
    Other,
    /// It is none.
    Bad,
}

/// Reads an event.
fn read_event(text: &[u8]) -> Event {
    let (mut kind, mut object) = (String::new(), Watched::default());
    let read = walk(text, &mut |path, leaf| match path {
        ["type"] => leaf.clone_into(&mut kind),
        ["object", rest @ ..] => object.take(rest, leaf),
        _ => {}
    });
    let is_whole = !object.version.is_empty() && (kind == "BOOKMARK" || !object.name.is_empty());
    match kind.as_str() {
        _ if read.is_err() => Event::Bad,
        "ADDED" | "MODIFIED" if is_whole => Event::Put(object),
        "DELETED" if is_whole => Event::Gone(object),
        "BOOKMARK" if is_whole => Event::Bookmark(object.version),
        "ERROR" => {
            let (code, reason, message) = object.error;
            Event::Error(Status { code: code.parse().unwrap_or_default(), reason, message })
        }
        "" | "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" => Event::Bad,
        _ => Event::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match read_event(text.as_bytes()) {
            Event::Put(quota) => format!("put {} {}", quota.name, quota.version),
            Event::Gone(quota) => format!("gone {}", quota.name),
            Event::Bookmark(version) => format!("at {version}"),
            Event::Error(status) => format!("error {} {}", status.code, status.reason),
            Event::Other => "other".to_owned(),
            Event::Bad => "bad".to_owned(),
        }
    }

    #[test]
    fn events_are_read_by_their_type() {
        let quota = r#"{"kind":"ResourceQuota","metadata":{"name":"q","resourceVersion":"7","labels":{"a":"b"}},"spec":{},"status":null}"#;
        for (text, event) in [
            (format!(r#"{{"type":"ADDED","object":{quota}}}"#), "put q 7"),
            (format!(r#"{{"type":"MODIFIED","object":{quota},"new":[{{}}]}}"#), "put q 7"),
            (format!(r#"{{"type":"DELETED","object":{quota}}}"#), "gone q"),
            (format!(r#"{{"type":"NOVEL","object":{quota}}}"#), "other"),
            (
                r#"{"type":"BOOKMARK","object":{"kind":"Job","metadata":{"resourceVersion":"9"},"spec":{}}}"#.into(),
                "at 9",
            ),
            (
                r#"{"type":"ERROR","object":{"kind":"Status","status":"Failure","reason":"Expired","code":410}}"#
                    .into(),
                "error 410 Expired",
            ),
            (r#"{"type":"ADDED","object":{"metadata":{"name":"q"}}}"#.into(), "bad"),
            (r#"{"type":"ADDED","object":[]}"#.into(), "bad"),
            (format!(r#"{{"object":{quota}}}"#), "bad"),
            (format!(r#"{{"object":{quota},"type":"ADDED"}}"#), "put q 7"),
            ("{}".into(), "bad"),
            ("<html>".into(), "bad"),
        ] {
            assert_eq!(read(&text), event, "{text}");
        }
    }

    #[test]
    fn a_page_is_read_object_by_object() {
        let text = r#"{"kind":"JobList","items":[{"metadata":{"name":"a"}},{},{"metadata":{"name":"b"}}],
                       "metadata":{"resourceVersion":"7","continue":"c"}}"#;
        let mut names = Vec::new();
        let mut tell = |news| match news {
            WatchEvent::Apply(object) => names.push(object.name),
            _ => panic!("only objects"),
        };
        let page = read_list(text.as_bytes(), &mut tell).expect("a list");
        assert_eq!((page.is_list, page.next.as_str(), page.version.as_str()), (true, "c", "7"));
        assert!(read_list(&text.as_bytes()[..30], &mut tell).is_err());
        assert_eq!(names, ["a", "b"]);
    }
}
