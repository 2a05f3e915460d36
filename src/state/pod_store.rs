//! The watched pods as rows of GET /config, and how recent they are. Pure.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kube::{Pod, WatchEvent};
use crate::state::pod_list::{Digest, join, write_row};

/// Maximum age of the last word from Kubernetes. A watch has one at least every 20 s, its end.
const MAX_SILENCE: Duration = Duration::from_secs(24);

/// Time for which a request that was about to read the pods may still do so. The pods are then 25 s old at most.
const GRACE: Duration = Duration::from_secs(1);

/// The watched pods.
#[derive(Default)]
pub struct PodStore {
    rows: Rows,
    /// The list that is being read, and its start. It replaces the rows when it is complete.
    next: Option<(Rows, Instant)>,
    /// The rows are complete.
    is_listed: bool,
    /// The watch has been connected, and has neither failed nor begun a list since.
    is_connected: bool,
    /// The current failure has been reported.
    is_reported: bool,
    /// The last time at which the rows were up to date.
    heard_at: Option<Instant>,
    /// The last time when a failure ended a live watch.
    failed_at: Option<Instant>,
}

/// Rows by key, with the digest and the sum of their lengths.
#[derive(Default)]
struct Rows {
    by_key: BTreeMap<Box<str>, Box<[u8]>>,
    digest: Digest,
    bytes: usize,
}

/// The change of a watch's condition that the operator should know.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// The watch is connected after the first complete list, or again after a failure.
    Live,
    /// The first failure since then.
    Failed,
}

impl PodStore {
    /// Applies an event. Returns the change of the watch's condition.
    pub fn apply(&mut self, event: WatchEvent<Pod>, now: Instant) -> Option<Change> {
        let (was_ready, was_live) = (self.is_ready(), self.is_live(now));
        match event {
            WatchEvent::Failed(_) => {
                self.is_connected = false;
                self.failed_at = was_live.then_some(now).or(self.failed_at);
                return (!mem::replace(&mut self.is_reported, true)).then_some(Change::Failed);
            }
            // The rows may be as old as an outage before it.
            WatchEvent::Init => (self.next, self.is_connected) = (Some((Rows::default(), now)), false),
            WatchEvent::InitDone => {
                let (rows, began) = self.next.take().unwrap_or_else(|| (Rows::default(), now));
                (self.rows, self.heard_at, self.is_listed) = (rows, Some(began), true);
            }
            WatchEvent::Apply(pod) => self.current(now).insert(&pod),
            WatchEvent::Delete(pod) => self.current(now).remove(&key(&pod)),
            WatchEvent::Connected => {
                (self.is_connected, self.is_reported, self.heard_at) = (true, false, Some(now));
            }
        }
        (!was_ready && self.is_ready()).then_some(Change::Live)
    }

    /// Tests if the rows are complete and recent.
    pub fn is_live(&self, now: Instant) -> bool {
        self.is_ready() && is_within(self.heard_at, MAX_SILENCE, now)
    }

    /// Returns the digest of the rows if they are complete and recent, or were a moment ago: a caller that had to wait for its
    /// turn then needs no other source.
    pub fn digest(&self, now: Instant) -> Option<Digest> {
        let is_recent = match self.is_ready() {
            true => is_within(self.heard_at, MAX_SILENCE + GRACE, now),
            false => is_within(self.failed_at, GRACE, now),
        };
        is_recent.then_some(self.rows.digest)
    }

    /// Returns the whole body of GET /config.
    pub fn to_json(&self) -> Arc<Vec<u8>> {
        Arc::new(join(self.rows.by_key.values().map(AsRef::as_ref), self.rows.bytes))
    }

    /// Returns the rows that an event at `now` changes.
    fn current(&mut self, now: Instant) -> &mut Rows {
        match &mut self.next {
            Some((rows, _)) => rows,
            None => {
                self.heard_at = Some(now);
                &mut self.rows
            }
        }
    }

    fn is_ready(&self) -> bool {
        self.is_listed && self.is_connected
    }
}

fn is_within(time: Option<Instant>, limit: Duration, now: Instant) -> bool {
    time.is_some_and(|at| now.saturating_duration_since(at) <= limit)
}

impl Rows {
    fn insert(&mut self, pod: &Pod) {
        let mut row = Vec::new();
        write_row(&mut row, pod);
        self.digest.add(&row);
        self.bytes += row.len();
        if let Some(previous) = self.by_key.insert(key(pod), row.into()) {
            self.forget(&previous);
        }
    }

    fn remove(&mut self, key: &str) {
        if let Some(previous) = self.by_key.remove(key) {
            self.forget(&previous);
        }
    }

    fn forget(&mut self, row: &[u8]) {
        self.digest.remove(row);
        self.bytes -= row.len();
    }
}

/// The order of a list: that of the keys in etcd, in which "a-b/x" precedes "a/x".
fn key(pod: &Pod) -> Box<str> {
    format!("{}/{}", pod.namespace, pod.name).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube;

    fn pod(namespace: &str, name: &str) -> Pod {
        Pod { namespace: namespace.into(), name: name.into(), phase: "Running".into(), ..Pod::default() }
    }

    fn failure() -> WatchEvent<Pod> {
        WatchEvent::Failed(kube::Error::Timeout { url: String::new() })
    }

    /// A store with the list of these pods.
    fn store(pods: &[(&str, &str)], now: Instant) -> PodStore {
        let mut store = PodStore::default();
        assert_eq!(store.apply(WatchEvent::Init, now), None);
        for (namespace, name) in pods {
            assert_eq!(store.apply(WatchEvent::Apply(pod(namespace, name)), now), None);
        }
        assert_eq!(store.apply(WatchEvent::InitDone, now), None, "a watch may be forbidden");
        assert!(!store.is_live(now) && store.digest(now).is_none());
        assert_eq!(store.apply(WatchEvent::Connected, now), Some(Change::Live));
        store
    }

    fn names(store: &PodStore) -> Vec<String> {
        let body: serde_json::Value = serde_json::from_slice(&store.to_json()).expect("JSON");
        let pods = body["pods"].as_array().expect("a list").iter();
        pods.map(|pod| {
            format!("{}/{}", pod["namespace"].as_str().unwrap_or_default(), pod["name"].as_str().unwrap_or_default())
        })
        .collect()
    }

    #[test]
    fn pods_are_in_the_order_of_a_list_and_follow_their_changes() {
        let now = Instant::now();
        let mut changed = store(&[("a", "x"), ("a-b", "x"), ("b", "y")], now);
        assert_eq!(names(&changed), ["a-b/x", "a/x", "b/y"]);
        let before = changed.digest(now);
        let pending = Pod { phase: "Pending".into(), ..pod("a", "x") };
        changed.apply(WatchEvent::Apply(pending), now);
        assert_ne!(changed.digest(now), before);
        changed.apply(WatchEvent::Apply(pod("a", "x")), now);
        assert_eq!(changed.digest(now), before);
        changed.apply(WatchEvent::Apply(pod("a", "z")), now);
        changed.apply(WatchEvent::Delete(pod("b", "y")), now);
        changed.apply(WatchEvent::Delete(pod("b", "unknown")), now);
        assert_eq!(names(&changed), ["a-b/x", "a/x", "a/z"]);
        assert_eq!(changed.digest(now), store(&[("a-b", "x"), ("a", "z"), ("a", "x")], now).digest(now));
    }

    #[test]
    fn a_new_list_replaces_the_pods_when_it_is_complete() {
        let now = Instant::now();
        let mut store = store(&[("a", "x")], now);
        store.apply(WatchEvent::Init, now);
        assert!(!store.is_live(now), "the pods may be as old as an outage before it");
        store.apply(WatchEvent::Apply(pod("a", "y")), now);
        // A rejected credential begins the list again.
        store.apply(WatchEvent::Init, now);
        store.apply(WatchEvent::Apply(pod("a", "z")), now);
        assert_eq!(names(&store), ["a/x"]);
        store.apply(WatchEvent::InitDone, now);
        assert_eq!(store.apply(WatchEvent::Connected, now), Some(Change::Live));
        assert_eq!(names(&store), ["a/z"]);
    }

    #[test]
    fn pods_are_live_while_kubernetes_speaks() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut store = store(&[], start);
        assert!(store.is_live(at(24_000)) && !store.is_live(at(24_001)));
        assert!(store.digest(at(25_000)).is_some() && store.digest(at(25_001)).is_none());
        store.apply(failure(), at(29_000));
        assert!(store.digest(at(29_000)).is_none(), "it was not live any more");
        store.apply(WatchEvent::Init, at(10_000));
        store.apply(WatchEvent::InitDone, at(19_000));
        assert_eq!(store.heard_at, Some(at(10_000)), "a list is as old as its start");
        store.apply(WatchEvent::Connected, at(20_000));
        assert!(store.is_live(at(44_000)));
        assert_eq!(store.apply(failure(), at(30_000)), Some(Change::Failed));
        assert_eq!(store.apply(failure(), at(31_000)), None);
        assert!(!store.is_live(at(30_000)) && store.digest(at(31_000)).is_some() && store.digest(at(31_001)).is_none());
        assert_eq!(store.apply(WatchEvent::Connected, at(32_000)), Some(Change::Live));
        assert!(!PodStore::default().is_live(start));
    }
}
