//! The watched pods as rows of GET /config, and how recent they are. Pure.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kube::{Pod, WatchEvent};
use crate::state::pod_list::{Digest, join, write_row};

/// Maximum age of the pods. A watch tells that they are up to date at least every 20 s, at its end.
const MAX_AGE: Duration = Duration::from_secs(25);

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
    /// The last time at which the rows were those of Kubernetes.
    current_at: Option<Instant>,
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
        let was_ready = self.is_ready();
        match event {
            WatchEvent::Failed(_) => {
                self.is_connected = false;
                return (!mem::replace(&mut self.is_reported, true)).then_some(Change::Failed);
            }
            // The rows may be as old as an outage before it.
            WatchEvent::Init => (self.next, self.is_connected) = (Some((Rows::default(), now)), false),
            WatchEvent::InitDone => {
                let (rows, began) = self.next.take().unwrap_or_else(|| (Rows::default(), now));
                (self.rows, self.current_at, self.is_listed) = (rows, Some(began), true);
            }
            WatchEvent::Apply(pod) => self.current(now).insert(&pod),
            WatchEvent::Delete(pod) => self.current(now).remove(&key(&pod)),
            WatchEvent::Connected => {
                (self.is_connected, self.is_reported, self.current_at) = (true, false, Some(now));
            }
        }
        (!was_ready && self.is_ready()).then_some(Change::Live)
    }

    /// Returns the digest of the rows if they are complete and recent.
    pub fn digest(&self, now: Instant) -> Option<Digest> {
        let is_recent = self.current_at.is_some_and(|at| now.saturating_duration_since(at) <= MAX_AGE);
        (self.is_ready() && is_recent).then_some(self.rows.digest)
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
                self.current_at = Some(now);
                &mut self.rows
            }
        }
    }

    fn is_ready(&self) -> bool {
        self.is_listed && self.is_connected
    }
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
        assert!(store.digest(now).is_none());
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
        assert!(store.digest(now).is_none(), "the pods may be as old as an outage before it");
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
    fn pods_are_live_for_25_s_after_they_were_current() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut store = store(&[], start);
        assert!(store.digest(at(25_000)).is_some() && store.digest(at(25_001)).is_none());
        store.apply(WatchEvent::Init, at(10_000));
        store.apply(WatchEvent::InitDone, at(19_000));
        assert_eq!(store.current_at, Some(at(10_000)), "a list is as old as its start");
        store.apply(WatchEvent::Connected, at(20_000));
        assert!(store.digest(at(45_000)).is_some() && store.digest(at(45_001)).is_none());
        assert_eq!(store.apply(failure(), at(30_000)), Some(Change::Failed));
        assert_eq!(store.apply(failure(), at(31_000)), None);
        assert!(store.digest(at(30_000)).is_none());
        assert_eq!(store.apply(WatchEvent::Connected, at(32_000)), Some(Change::Live));
        assert!(PodStore::default().digest(start).is_none());
    }
}
