//! One Job of the queue and its retry state. Pure.

use std::time::{Duration, Instant, SystemTime};

use crate::job::MANAGED_BY;
use crate::kube::{Job, JobState, exponential};
use crate::queue::capacity::Capacity;

/// The annotation that a requeue sets: its time, RFC 3339.
pub const REQUEUED_AT: &str = "img-classification/requeued-at";

/// The Job controller starts a new Job by itself within this time.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// A requeued Job keeps its capacity for this long: the controller reacts within a second, and a busy API server may add two.
const RESERVATION: Duration = Duration::from_secs(5);

/// The Jobs watch reports within this time that a requeued Job took the capacity reserved for it. Otherwise the controller
/// started another Job first.
const WATCH_DELAY: Duration = Duration::from_secs(1);

/// The watch of the quotas may report a Job's start this much later than the watch of the Jobs.
const QUOTA_LAG: Duration = Duration::from_millis(500);

/// Pause after a requeue that did not start the Job although the quota had capacity; doubled up to the maximum.
const INITIAL_BACKOFF: Duration = Duration::from_secs(5);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// A waiting or running Job.
pub struct QueuedJob {
    pub name: String,
    /// metadata.creationTimestamp
    pub created: String,
    /// metadata.uid
    pub uid: String,
    /// metadata.resourceVersion
    pub version: String,
    /// Orders Jobs that were created in the same second.
    pub arrival: u64,
    /// The last list that contained it.
    pub generation: u64,
    pub requested: Capacity,
    /// This program created it. The Job of another program has its turn in the queue, and is never changed.
    pub is_managed: bool,
    /// Start time, RFC 3339. `None` while it waits.
    pub running_since: Option<String>,
    pub retry: RetryState,
}

/// Earliest times of a Job's next requeue.
#[derive(Clone, Copy)]
pub struct RetryState {
    /// Until then the controller may start the Job by itself; no later Job is requeued in its place.
    pub grace_until: Instant,
    /// Until then later Jobs go first.
    not_before: Instant,
    /// The end of the reservation that a requeue made.
    pub reserved_until: Option<Instant>,
    /// Another pod, or this Job's own, has used the reserved capacity.
    is_taken: bool,
    /// Reservations that ended without a start although nothing else took the capacity.
    pub failed_attempts: u32,
    /// The last such end has not been reported.
    pub is_unexplained: bool,
}

impl RetryState {
    fn new(now: Instant) -> Self {
        Self {
            grace_until: now + GRACE_PERIOD,
            not_before: now,
            reserved_until: None,
            is_taken: false,
            failed_attempts: 0,
            is_unexplained: false,
        }
    }

    /// Reserves capacity for a requeued Job.
    pub fn reserve(&mut self, now: Instant) {
        *self = Self { reserved_until: Some(now + RESERVATION), is_taken: false, ..*self };
    }

    /// Ends the reservation after a requeue that changed nothing, and pauses the Job.
    pub fn postpone(&mut self, until: Instant) {
        *self = Self { reserved_until: None, not_before: until, ..*self };
    }
}

impl QueuedJob {
    /// Returns the entry of a watched Job. `previous` is its entry so far; the caller sets `arrival` and `generation`.
    pub fn new(job: Job, previous: Option<&Self>, now: Instant, clock: SystemTime) -> Self {
        let is_running = job.state() == JobState::Running;
        let requested = Capacity::requested(&job);
        let is_managed = job.labels.get(MANAGED_BY.0) == Some(MANAGED_BY.1);
        let Job { name, uid, version, created, annotations, started, .. } = job;
        let running_since = is_running.then(|| match previous {
            Some(Self { running_since: Some(since), .. }) => since.clone(),
            Some(_) => humantime::format_rfc3339_seconds(clock).to_string(),
            None => annotations.get(REQUEUED_AT).map(str::to_owned).or(started).unwrap_or_else(|| created.clone()),
        });
        let retry = match previous {
            Some(previous) if previous.is_waiting() != is_running => previous.retry,
            Some(previous) if is_running => {
                let reserved_until = previous.retry.reserved_until.map(|_| now + QUOTA_LAG);
                RetryState { reserved_until, ..RetryState::new(now) }
            }
            _ => RetryState::new(now),
        };
        Self { name, uid, created, version, arrival: 0, generation: 0, requested, is_managed, running_since, retry }
    }

    pub fn is_waiting(&self) -> bool {
        self.running_since.is_none()
    }

    /// The queue's order: Kubernetes' times are whole seconds.
    pub fn sort_key(&self) -> (&str, u64) {
        (&self.created, self.arrival)
    }

    /// Returns true if the Job waits, fits into `available` and is not paused.
    pub fn is_ready(&self, available: &Capacity, now: Instant) -> bool {
        let RetryState { not_before, reserved_until, .. } = self.retry;
        self.is_waiting() && reserved_until.is_none() && not_before <= now && available.fits(&self.requested)
    }

    /// Returns the next time at which this Job may change a decision.
    pub fn next_change(&self) -> Option<Instant> {
        let RetryState { not_before, grace_until, reserved_until, .. } = self.retry;
        reserved_until.or_else(|| self.is_waiting().then_some(not_before.max(grace_until)))
    }

    /// Ends the reservation when it is due. If the capacity was taken, the Job stays first in line. If not, the Job cannot
    /// start for another reason and is paused.
    pub fn expire_reservation(&mut self, available: &Capacity, now: Instant) {
        let is_waiting = self.is_waiting();
        let RetryState { not_before, reserved_until, is_taken, failed_attempts, is_unexplained, .. } = &mut self.retry;
        let Some(until) = reserved_until else { return };
        if is_waiting && !*is_taken && !available.fits(&self.requested) {
            *is_taken = true;
            *until = (*until).min(now + WATCH_DELAY);
        }
        if *until <= now {
            *reserved_until = None;
            if is_waiting && !*is_taken {
                *not_before = now + exponential(INITIAL_BACKOFF, *failed_attempts, MAX_BACKOFF);
                *failed_attempts += 1;
                *is_unexplained = true;
            }
        }
    }
}
