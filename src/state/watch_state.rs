//! The condition of one watch: whether its objects are complete, and how recent they are. Pure.

use std::time::{Duration, Instant};

use crate::kube::WatchEvent;

/// Maximum age of watched objects. A watch ends after 20 s, and the start of the next one tells that they are up to date.
const MAX_AGE: Duration = Duration::from_secs(25);

/// The history of a watch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// The time since the objects were last those of Kubernetes.
    pub age: Option<Duration>,
    /// Connections so far.
    pub connections: u64,
    /// Lists begun so far.
    pub lists: u64,
    /// Failures so far.
    pub failures: u64,
}

/// The condition of one watch.
#[derive(Default)]
pub struct WatchState {
    /// The history without the age.
    stats: WatchStats,
    /// A complete list has arrived.
    is_listed: bool,
    /// The watch is connected, and has neither failed nor begun a list since.
    is_connected: bool,
    /// It has been connected once.
    was_connected: bool,
    /// The current failure.
    failure: Option<Unavailable>,
    /// The start of the list that is being read.
    list_began: Option<Instant>,
    /// The last time at which the objects were those of Kubernetes.
    current_at: Option<Instant>,
}

/// A change that the operator should know.
#[derive(Debug, PartialEq, Eq)]
pub enum Change {
    /// The watch is connected for the first time.
    Connected,
    /// The watch is connected again after a failure.
    Restored,
    /// The first failure since then.
    Failed,
}

/// The reason why watched objects cannot be shown.
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
    /// Follows an event of the watch.
    pub fn follow<T>(&mut self, event: &WatchEvent<T>, now: Instant) -> Option<Change> {
        self.count(event);
        match event {
            WatchEvent::Failed(error) => {
                self.is_connected = false;
                let failure = if error.not_permitted() { Unavailable::Forbidden } else { Unavailable::Failing };
                return self.failure.replace(failure).is_none().then_some(Change::Failed);
            }
            // The objects may be as old as an outage before the list.
            WatchEvent::Init => (self.list_began, self.is_connected) = (Some(now), false),
            // A list is as old as its start.
            WatchEvent::InitDone => (self.current_at, self.is_listed) = (self.list_began.take(), true),
            WatchEvent::Apply(_) | WatchEvent::Delete(_) if self.list_began.is_some() => {}
            WatchEvent::Apply(_) | WatchEvent::Delete(_) => self.current_at = Some(now),
            WatchEvent::Connected => {
                (self.is_connected, self.current_at) = (true, Some(now));
                let (is_first, is_restored) = (!self.was_connected, self.failure.take().is_some());
                self.was_connected = true;
                return match is_restored {
                    true => Some(Change::Restored),
                    false => is_first.then_some(Change::Connected),
                };
            }
        }
        None
    }

    fn count<T>(&mut self, event: &WatchEvent<T>) {
        match event {
            WatchEvent::Connected => self.stats.connections += 1,
            WatchEvent::Init => self.stats.lists += 1,
            WatchEvent::Failed(_) => self.stats.failures += 1,
            WatchEvent::InitDone | WatchEvent::Apply(_) | WatchEvent::Delete(_) => {}
        }
    }

    /// Returns the history.
    pub fn stats(&self, now: Instant) -> WatchStats {
        WatchStats { age: self.current_at.map(|at| now.saturating_duration_since(at)), ..self.stats }
    }

    /// Returns the condition of a watch that has ended and may start again, with its history.
    pub fn ended(&self) -> Self {
        Self { stats: self.stats, ..Self::default() }
    }

    /// Marks a watch without a thread as failed.
    pub fn fail(&mut self) {
        (self.is_connected, self.failure) = (false, Some(Unavailable::Failing));
    }

    /// Tests if the objects are complete, and their changes arrive. The watch of a dead connection fails after 25 s.
    pub fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// Tests if the objects are complete, and were those of Kubernetes within [`MAX_AGE`].
    pub fn is_live(&self, now: Instant) -> bool {
        self.is_connected && self.is_recent(now)
    }

    /// Checks that the objects are complete and recent. A failed watch does not hide them at once, because an API server restarts in a
    /// few seconds, and refuses everything for a moment.
    ///
    /// # Errors
    /// They were never listed, or are too old.
    pub fn check(&self, now: Instant) -> Result<(), Unavailable> {
        match self.failure {
            _ if self.is_listed && self.is_recent(now) => Ok(()),
            Some(failure) => Err(failure),
            None if !self.is_listed => Err(Unavailable::Starting),
            None => Err(Unavailable::Failing),
        }
    }

    fn is_recent(&self, now: Instant) -> bool {
        self.current_at.is_some_and(|at| now.saturating_duration_since(at) <= MAX_AGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::{Error, Status};

    fn failure(code: u16) -> WatchEvent<()> {
        let status =
            Status { code, reason: "Forbidden".into(), message: r#"User "x" cannot list resource "pods""#.into() };
        WatchEvent::Failed(Error::Status { url: String::new(), status, retry_after: None, date: None })
    }

    #[test]
    fn objects_are_live_while_the_watch_is_connected_and_shown_for_25_s_after_they_were_current() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut watch = WatchState::default();
        assert_eq!(watch.check(start), Err(Unavailable::Starting));
        watch.follow(&WatchEvent::<()>::Init, at(10_000));
        watch.follow(&WatchEvent::Apply(()), at(15_000));
        watch.follow(&WatchEvent::<()>::InitDone, at(19_000));
        assert!(!watch.is_live(at(19_000)), "a watch may be forbidden");
        assert_eq!(watch.check(at(35_000)), Ok(()));
        assert_eq!(watch.check(at(35_001)), Err(Unavailable::Failing), "a list is as old as its start");
        assert_eq!(watch.follow(&WatchEvent::<()>::Connected, at(20_000)), Some(Change::Connected));
        assert!(watch.is_live(at(45_000)) && !watch.is_live(at(45_001)));
        watch.follow(&WatchEvent::Delete(()), at(30_000));
        assert!(watch.is_live(at(55_000)));
        assert_eq!(watch.follow(&failure(500), at(40_000)), Some(Change::Failed));
        assert_eq!(watch.follow(&failure(500), at(41_000)), None, "the next attempt");
        assert!(!watch.is_live(at(41_000)) && watch.check(at(55_000)).is_ok());
        assert_eq!(watch.check(at(55_001)), Err(Unavailable::Failing));
        assert_eq!(watch.follow(&WatchEvent::<()>::Connected, at(60_000)), Some(Change::Restored));
        watch.follow(&WatchEvent::<()>::Init, at(61_000));
        assert!(!watch.is_live(at(61_000)), "the objects may be as old as an outage");
        watch.follow(&WatchEvent::<()>::InitDone, at(62_000));
        assert_eq!(watch.follow(&WatchEvent::<()>::Connected, at(62_000)), None, "no failure was reported");
        watch.follow(&failure(403), at(63_000));
        assert_eq!(watch.check(at(87_000)), Ok(()));
        assert_eq!(watch.check(at(87_001)), Err(Unavailable::Forbidden));
        let stats = WatchStats { age: Some(Duration::from_secs(1)), connections: 3, lists: 2, failures: 3 };
        assert_eq!(watch.stats(at(63_000)), stats);
        assert_eq!(watch.ended().stats(at(63_000)), WatchStats { age: None, ..stats });
    }
}
