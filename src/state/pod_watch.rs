//! The watch of the pods of all namespaces.
//!
//! It starts with the first GET /config, and ends [`IDLE`] after the last one. While it is not live, as at the first, every GET /config
//! is a list of Kubernetes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::kube::{Client, Pod, WatchEvent};
use crate::state::failure;
use crate::state::pod_list::{Body, Digest, join};
use crate::state::pod_store::PodStore;
use crate::state::watch_state::{Change, WatchStats};

/// Time without a GET /config after which the watch ends: a page that polls and an autograder ask far more often, and a cluster
/// that changes costs the host CPU.
const IDLE: Duration = Duration::from_secs(300);

/// The watched pods of all namespaces.
pub struct PodWatch {
    kube: Arc<Client>,
    store: RwLock<PodStore>,
    /// The last body with the number of changes before it.
    body: Mutex<Option<(u64, Body)>>,
    demand: Mutex<Demand>,
}

#[derive(Default)]
struct Demand {
    /// Time of the last GET /config.
    last: Option<Instant>,
    has_thread: bool,
    /// A missing thread has been logged.
    is_logged: bool,
}

impl PodWatch {
    /// Returns a watch that starts at the first demand.
    pub fn new(kube: Arc<Client>) -> Self {
        Self { kube, store: RwLock::default(), body: Mutex::default(), demand: Mutex::default() }
    }

    /// Records a GET /config, and starts the watch if it does not run.
    pub fn record_demand(self: &Arc<Self>) {
        let mut demand = self.lock_demand();
        demand.last = Some(Instant::now());
        if !demand.has_thread {
            let watch = Arc::clone(self);
            let spawned = thread::Builder::new().name("watch-all-pods".into()).spawn(move || watch.run());
            demand.has_thread = spawned.is_ok();
            if let Err(error) = spawned
                && !std::mem::replace(&mut demand.is_logged, true)
            {
                log::warn!("no thread for the watch of the pods: {error}; GET /config lists them");
            }
        }
    }

    /// Returns the digest of the pods if they are complete and recent.
    pub fn digest(&self) -> Option<Digest> {
        self.read(|store| store.digest(Instant::now()))
    }

    /// Returns the body of GET /config like [`digest`](Self::digest). The first caller after a change makes it, from a snapshot, so
    /// that no change waits for it; others share it.
    pub fn body(&self) -> Option<Body> {
        let mut last = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.read(|store| store.version(Instant::now()))?;
        if let Some((_, body)) = last.as_ref().filter(|(known, _)| *known == version) {
            return Some(body.clone());
        }
        let (version, rows) = self.read(|store| Some((store.version(Instant::now())?, store.snapshot())))?;
        let body = (rows.totals.digest, Arc::new(join(&rows)));
        *last = Some((version, body.clone()));
        Some(body)
    }

    /// Returns the history of the watch.
    pub fn watch_stats(&self) -> WatchStats {
        self.read(|store| store.watch_stats(Instant::now()))
    }

    /// Watches while there is demand. A panic must not leave rows that no watch updates.
    fn run(&self) {
        let watch = || self.kube.watch_pods(&mut |event| self.apply(event), &|| self.is_wanted());
        if catch_unwind(AssertUnwindSafe(watch)).is_err() {
            self.end(&mut self.lock_demand());
        }
    }

    fn apply(&self, event: WatchEvent<Pod>) {
        let failure = failure(&event);
        let change = self.store.write().unwrap_or_else(PoisonError::into_inner).apply(event, Instant::now());
        match change {
            Some(Change::Connected | Change::Restored) => log::info!("GET /config is answered from the watched pods"),
            Some(Change::Failed) => {
                log::warn!("cannot watch the pods of all namespaces; GET /config lists them: {failure}");
            }
            None => {}
        }
    }

    /// Tests for recent demand, and drops the pods without it.
    fn is_wanted(&self) -> bool {
        let mut demand = self.lock_demand();
        let is_wanted = demand.is_recent(Instant::now());
        if !is_wanted {
            self.end(&mut demand);
            log::debug!("no GET /config for {} s; the watch of the pods ends", IDLE.as_secs());
        }
        is_wanted
    }

    /// Frees the memory. The next demand starts a thread.
    fn end(&self, demand: &mut Demand) {
        demand.has_thread = false;
        self.store.write().unwrap_or_else(PoisonError::into_inner).end();
        *self.body.lock().unwrap_or_else(PoisonError::into_inner) = Default::default();
    }

    fn read<T>(&self, read: impl FnOnce(&PodStore) -> T) -> T {
        read(&self.store.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock_demand(&self) -> MutexGuard<'_, Demand> {
        self.demand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Demand {
    /// Tests for a GET /config within [`IDLE`].
    fn is_recent(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < IDLE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_are_watched_for_five_minutes_after_the_last_request() {
        let last = Instant::now();
        let demand = Demand { last: Some(last), ..Demand::default() };
        assert!(
            demand.is_recent(last + Duration::from_secs(299)) && !demand.is_recent(last + Duration::from_secs(300))
        );
        assert!(!Demand::default().is_recent(last));
    }
}
