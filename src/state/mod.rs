//! The state of the cluster that the server keeps by watching: the pods of all namespaces.
//!
//! The watch starts with the first GET /config, and ends [`IDLE`] after the last one. While it is not live, as at the first, every
//! GET /config is a list of Kubernetes.

pub mod pod_list;
mod pod_store;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::kube::{Client, Error, Pod, WatchEvent, chain};
use crate::state::pod_list::{Body, Digest};
use crate::state::pod_store::{Change, PodStore};

/// Time without a GET /config after which the watch ends: a page that polls and an autograder ask far more often, and a cluster
/// that changes costs the host CPU.
const IDLE: Duration = Duration::from_secs(300);

/// The watched pods of all namespaces.
pub struct PodWatch {
    kube: Arc<Client>,
    store: RwLock<PodStore>,
    /// The last body; empty before the first.
    body: Mutex<Body>,
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

    /// Returns the body of GET /config like [`digest`](Self::digest). The first caller after a change makes it, and the next change
    /// waits for that: a millisecond for 10,000 pods.
    pub fn body(&self) -> Option<Body> {
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        self.read(|store| {
            let digest = store.digest(Instant::now())?;
            if body.0 != digest || body.1.is_empty() {
                *body = (digest, store.to_json());
            }
            Some(body.clone())
        })
    }

    /// Watches while there is demand. A panic must not leave rows that no watch updates.
    fn run(&self) {
        let watch = || self.kube.watch_pods(&mut |event| self.apply(event), &|| self.is_wanted());
        if catch_unwind(AssertUnwindSafe(watch)).is_err() {
            self.end(&mut self.lock_demand());
        }
    }

    fn apply(&self, event: WatchEvent<Pod>) {
        let failure = if let WatchEvent::Failed(error) = &event { Some(describe(error)) } else { None };
        let change = self.store.write().unwrap_or_else(PoisonError::into_inner).apply(event, Instant::now());
        match (change, failure) {
            (Some(Change::Live), _) => log::info!("GET /config is answered from the watched pods"),
            (Some(Change::Failed), Some(text)) => {
                log::warn!("cannot watch the pods of all namespaces; GET /config lists them: {text}");
            }
            _ => {}
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
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = PodStore::default();
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

/// Returns the causes of a failed watch, with the fix of a missing permission.
fn describe(error: &Error) -> String {
    let fix = if error.not_permitted() { "; fix: run img-classification setup, or start with --no-watch" } else { "" };
    format!("{}{fix}", chain(error))
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
