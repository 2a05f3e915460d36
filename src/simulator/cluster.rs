//! The state that the simulator's threads share, and the loop of its controllers.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Settings;
use super::controllers::{Clock, Reconcile};
use super::rbac::User;
use super::seed;
use super::store::{self, Store};

/// Valid tokens of service accounts; the oldest is dropped first.
const MAX_TOKENS: usize = 1000;

/// Longest time between two passes of the controllers; a change starts one at once.
const RECONCILE_INTERVAL: Duration = Duration::from_secs(60);

/// Pause of the controllers after a panic, so that a repeated panic does not keep the processor busy.
const PANIC_BACKOFF: Duration = Duration::from_secs(1);

/// The shared state.
pub struct Cluster {
    store: Mutex<Store>,
    changed: Condvar,
    is_closed: AtomicBool,
    tokens: Mutex<VecDeque<(String, User)>>,
    admin: (String, User),
    job_time: Duration,
}

impl Cluster {
    /// Returns a fresh cluster whose administrator has this token.
    pub fn new(settings: &Settings, admin_token: &str) -> Self {
        let mut store = Store::default();
        seed::fill(&mut store, settings.nodes);
        Self {
            store: Mutex::new(store),
            changed: Condvar::new(),
            is_closed: AtomicBool::new(false),
            tokens: Mutex::default(),
            admin: (admin_token.to_owned(), User::new("local-admin", &["system:masters".to_owned()])),
            job_time: Duration::from_secs(settings.job_seconds.into()),
        }
    }

    /// Locks the objects. They are replaced as a whole, so a panic leaves no partial change.
    pub fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the controllers and the watches.
    pub fn notify(&self) {
        self.changed.notify_all();
    }

    /// Ends the threads that use the cluster.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.notify();
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    /// The run time of a classifier.
    pub fn job_time(&self) -> Duration {
        self.job_time
    }

    /// Waits for a version other than `version`, at most until `deadline`. Returns `None` when the cluster is closed.
    pub fn wait(&self, version: u64, deadline: Instant) -> Option<MutexGuard<'_, Store>> {
        let mut store = self.lock();
        while store.version() == version && !self.is_closed() && Instant::now() < deadline {
            let timeout = deadline.saturating_duration_since(Instant::now());
            store = self.changed.wait_timeout(store, timeout).unwrap_or_else(PoisonError::into_inner).0;
        }
        (!self.is_closed()).then_some(store)
    }

    /// Runs the controllers until the cluster is closed.
    pub fn run_controllers(&self) {
        let (mut clock, mut version, mut due) = (Clock::default(), 0, Instant::now());
        while let Some(mut store) = self.wait(version, due) {
            // A panic must not end the controllers; the next pass starts again.
            let pass = AssertUnwindSafe(|| Reconcile::new(&mut store, &mut clock, self.job_time).run());
            let next = catch_unwind(pass).unwrap_or_else(|_| Some(Instant::now() + PANIC_BACKOFF));
            due = next.unwrap_or_else(|| Instant::now() + RECONCILE_INTERVAL);
            // A change of this pass may cause another step.
            if store.version() != version {
                due = Instant::now();
            }
            version = store.version();
            drop(store);
            self.notify();
        }
    }

    /// Returns the owner of a token.
    pub fn user(&self, token: &str) -> Option<User> {
        if token == self.admin.0 {
            return Some(self.admin.1.clone());
        }
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.iter().find(|(known, _)| known == token).map(|(_, user)| user.clone())
    }

    /// Returns a new token for a user.
    pub fn issue_token(&self, user: &str) -> String {
        let token = store::hex::<16>();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.push_back((token.clone(), User::new(user, &[])));
        if tokens.len() > MAX_TOKENS {
            tokens.pop_front();
        }
        token
    }
}
