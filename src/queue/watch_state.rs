//! The state of one watch, and the reason why a snapshot is missing. Pure.

use std::time::{Duration, Instant};

/// The last known state is served for this long after a watch broke: an API server restarts within it.
const MAX_STALENESS: Duration = Duration::from_secs(10);

/// The state of one watch.
#[derive(Default)]
pub struct WatchState {
    /// A complete list has arrived.
    pub is_listed: bool,
    failure: Option<Failure>,
}

#[derive(Clone, Copy)]
struct Failure {
    since: Instant,
    is_forbidden: bool,
}

/// The reason why the queue cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unavailable {
    /// The first list is not complete.
    Starting,
    /// The server lacks the permission to watch.
    Forbidden,
    /// The watch is broken.
    Failing,
}

impl WatchState {
    /// Marks the watch as connected. Returns true if it had failed before.
    pub fn connected(&mut self) -> bool {
        self.failure.take().is_some()
    }

    /// Marks the watch as failed. Returns true if it worked before.
    pub fn failed(&mut self, is_forbidden: bool, now: Instant) -> bool {
        let since = self.failure.map_or(now, |failure| failure.since);
        self.failure.replace(Failure { since, is_forbidden }).is_none()
    }

    /// Returns true while the watched objects are complete and up to date.
    pub fn is_current(&self) -> bool {
        self.is_listed && self.failure.is_none()
    }

    /// Checks that the watched objects are recent enough to be shown.
    ///
    /// # Errors
    /// They were never listed, or the watch has been broken for too long.
    pub fn check(&self, now: Instant) -> Result<(), Unavailable> {
        match self.failure {
            Some(Failure { is_forbidden: true, .. }) => Err(Unavailable::Forbidden),
            Some(Failure { since, .. }) if !self.is_listed || now.duration_since(since) > MAX_STALENESS => {
                Err(Unavailable::Failing)
            }
            None if !self.is_listed => Err(Unavailable::Starting),
            _ => Ok(()),
        }
    }
}
