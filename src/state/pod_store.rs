//! The watched pods of all namespaces as rows of GET /config. Pure.

use std::time::Instant;

use crate::kube::{Pod, WatchEvent};
use crate::state::pod_list::{Digest, write_row};
use crate::state::rows::{Rows, Snapshot};
use crate::state::watch_state::{Change, WatchState, WatchStats};

/// The watched pods.
#[derive(Default)]
pub struct PodStore {
    rows: Rows,
    watch: WatchState,
    /// Number of changes.
    version: u64,
}

impl PodStore {
    /// Applies an event. Returns the change of the watch's condition.
    pub fn apply(&mut self, event: WatchEvent<Pod>, now: Instant) -> Option<Change> {
        let change = self.watch.follow(&event, now);
        match event {
            WatchEvent::Init => self.rows.begin_list(),
            WatchEvent::InitDone => self.rows.finish_list(),
            WatchEvent::Apply(pod) => {
                let mut row = Vec::new();
                write_row(&mut row, &pod);
                self.rows.insert(key(&pod), row.into());
            }
            WatchEvent::Delete(pod) => self.rows.remove(&key(&pod)),
            WatchEvent::Connected | WatchEvent::Failed(_) => return change,
        }
        self.version += 1;
        change
    }

    /// Returns the digest of the rows if the watch is live.
    pub fn digest(&self, now: Instant) -> Option<Digest> {
        self.watch.is_live(now).then(|| self.rows.digest())
    }

    /// Returns the number of changes if the watch is live.
    pub fn version(&self, now: Instant) -> Option<u64> {
        self.watch.is_live(now).then_some(self.version)
    }

    /// Drops the rows, at the end of the watch.
    pub fn end(&mut self) {
        *self = Self { watch: self.watch.ended(), ..Self::default() };
    }

    /// Returns the history of the watch.
    pub fn watch_stats(&self, now: Instant) -> WatchStats {
        self.watch.stats(now)
    }

    /// Returns the rows as they are now.
    pub fn snapshot(&self) -> Snapshot {
        self.rows.snapshot()
    }
}

/// The order of a list: that of the keys in etcd, in which "a-b/x" precedes "a/x".
fn key(pod: &Pod) -> Box<str> {
    format!("{}/{}", pod.namespace, pod.name).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str) -> Pod {
        Pod { namespace: namespace.into(), name: name.into(), phase: "Running".into(), ..Pod::default() }
    }

    /// A store with the list of these pods.
    fn store(pods: &[(&str, &str)], now: Instant) -> PodStore {
        let mut store = PodStore::default();
        store.apply(WatchEvent::Init, now);
        for (namespace, name) in pods {
            store.apply(WatchEvent::Apply(pod(namespace, name)), now);
        }
        store.apply(WatchEvent::InitDone, now);
        assert!(store.digest(now).is_none(), "a watch may be forbidden");
        assert_eq!(store.apply(WatchEvent::Connected, now), Some(Change::Connected));
        store
    }

    fn names(store: &PodStore) -> Vec<String> {
        let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let rows = store.snapshot();
        let rows = rows.iter().map(|row| serde_json::from_slice(row).expect("JSON"));
        rows.map(|row| format!("{}/{}", text(&row, "namespace"), text(&row, "name"))).collect()
    }

    #[test]
    fn pods_are_in_the_order_of_a_list_and_follow_their_changes() {
        let now = Instant::now();
        let mut changed = store(&[("a", "x"), ("a-b", "x"), ("b", "y")], now);
        assert_eq!(names(&changed), ["a-b/x", "a/x", "b/y"]);
        let (before, version) = (changed.digest(now), changed.version(now));
        let pending = Pod { phase: "Pending".into(), ..pod("a", "x") };
        changed.apply(WatchEvent::Apply(pending), now);
        assert_ne!(changed.digest(now), before);
        changed.apply(WatchEvent::Apply(pod("a", "x")), now);
        assert_eq!(changed.digest(now), before);
        assert_ne!(changed.version(now), version);
        changed.apply(WatchEvent::Apply(pod("a", "z")), now);
        changed.apply(WatchEvent::Delete(pod("b", "y")), now);
        changed.apply(WatchEvent::Delete(pod("b", "unknown")), now);
        assert_eq!(names(&changed), ["a-b/x", "a/x", "a/z"]);
        assert_eq!(changed.digest(now), store(&[("a-b", "x"), ("a", "z"), ("a", "x")], now).digest(now));
    }

    #[test]
    fn a_new_list_drops_the_pods_that_it_does_not_contain() {
        let now = Instant::now();
        let mut store = store(&[("a", "x"), ("a", "y")], now);
        store.apply(WatchEvent::Init, now);
        assert!(store.digest(now).is_none(), "the pods may be as old as an outage before it");
        store.apply(WatchEvent::Apply(pod("a", "y")), now);
        // A rejected credential begins the list again.
        store.apply(WatchEvent::Init, now);
        store.apply(WatchEvent::Apply(pod("a", "z")), now);
        store.apply(WatchEvent::InitDone, now);
        store.apply(WatchEvent::Connected, now);
        assert_eq!(names(&store), ["a/z"]);
    }
}
