//! The free tier's queue: which Jobs wait, start or run, how much quota is free, and which Job to requeue next. Pure: watch events
//! and the time go in, an [`Action`] comes out. [`controller`] does the I/O.
//!
//! After a quota refusal, Kubernetes' Job controller retries each Job's pod with a growing backoff, independently of other Jobs.
//! A change of the Job makes it retry at once, so an annotation gives a free slot to the oldest Job.
//! A requeue is only a hint: without it the controller's own retry starts the Job.

mod backoff;
pub mod capacity;
pub mod controller;
mod queued_job;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::kube::{Job, JobState, Quota, WatchEvent};
use crate::queue::capacity::Capacity;
use crate::queue::queued_job::QueuedJob;
pub use crate::queue::queued_job::REQUEUED_AT;
use crate::state::store::Store;
use crate::state::watch_state::{Change, WatchState, WatchStats};
use crate::state::{CREATING, PodRecord, Progress};

/// Pause of all requeues after a conflict: by then the watch has reported the change.
const CONFLICT_PAUSE: Duration = Duration::from_secs(1);

/// Limit on Jobs in memory, of 300 bytes each; the quota of k8s/ allows 300. Kubernetes starts any others on its own.
pub const MAX_JOBS: usize = 2000;

/// The watched state of the free tier.
#[derive(Default)]
pub struct Queue {
    /// Ordered by [`QueuedJob::sort_key`].
    jobs: Vec<QueuedJob>,
    quotas: Store<Box<str>, KnownQuota>,
    job_watch: WatchState,
    quota_watch: WatchState,
    /// Number of Job lists begun.
    generation: u64,
    /// Number of Job events received.
    arrivals: u64,
    /// No requeue before this time.
    paused_until: Option<Instant>,
}

/// A watched quota.
struct KnownQuota {
    total: Capacity,
    remaining: Capacity,
    limits_cpu: bool,
}

/// The next step of the controller.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Requeue this Job if it still has this resource version.
    Requeue {
        name: String,
        version: String,
        /// An earlier requeue did not start it.
        is_repeat: bool,
    },
    /// Log why this Job did not start although the quota had capacity for it.
    Explain { name: String },
    /// Wait for the next event, at most until this time.
    Wait(Option<Instant>),
}

/// The outcome of a requeue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequeueOutcome {
    Done,
    /// The Job has changed or no longer exists.
    Conflict,
    /// No requeue is to be sent for this long.
    Failed(Duration),
    /// As `Failed`, but this Job may be the cause: after the pause the queue requeues other Jobs first.
    Rejected(Duration),
}

/// The numbers of the queue.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueStats {
    /// Waiting Jobs.
    pub waiting: usize,
    /// Time since the creation of the oldest one.
    pub oldest_wait: Duration,
    /// Jobs with a pod.
    pub used_slots: usize,
    /// Number of this program's Jobs that the quotas allow beside them. `None` without a limit, and while the quotas are not known.
    pub free_slots: Option<u64>,
    /// Number of this program's Jobs that the quotas allow at once. `None` as before.
    pub slots: Option<u64>,
}

impl Queue {
    /// Applies an event of the watch of the Jobs. Returns false if the queue is full and drops the Job.
    pub fn apply_job_event(&mut self, event: WatchEvent<Job>, now: Instant, clock: SystemTime) -> bool {
        self.job_watch.follow(&event, now);
        match event {
            WatchEvent::Init => self.generation += 1,
            WatchEvent::InitDone => self.drop_gone_jobs(),
            WatchEvent::Apply(job) => return self.apply_job(job, now, clock),
            WatchEvent::Delete(job) => self.delete_job(&job.name),
            WatchEvent::Connected | WatchEvent::Failed(_) => {}
        }
        true
    }

    /// Drops the Jobs that the last list did not contain.
    fn drop_gone_jobs(&mut self) {
        self.jobs.retain(|job| job.generation == self.generation);
    }

    /// Adds or updates a Job. Returns false if the queue is full and drops the Job.
    fn apply_job(&mut self, job: Job, now: Instant, clock: SystemTime) -> bool {
        if job.state() == JobState::Finished {
            self.delete_job(&job.name);
            return true;
        }
        let position = self.jobs.iter().position(|known| known.name == job.name);
        if self.jobs.len() >= MAX_JOBS && position.is_none() {
            // Jobs of an earlier list may no longer exist.
            self.drop_gone_jobs();
            if self.jobs.len() >= MAX_JOBS {
                return false;
            }
        }
        // A Job of the same name may be a new one.
        let previous = position
            .map(|at| self.jobs.remove(at))
            .filter(|previous| (&previous.uid, &previous.created) == (&job.uid, &job.created));
        let arrival = previous.as_ref().map_or(self.arrivals, |previous| previous.arrival);
        self.arrivals += 1;
        let job = QueuedJob::new(job, previous.as_ref(), now, clock);
        let job = QueuedJob { arrival, generation: self.generation, ..job };
        let position = self.jobs.partition_point(|other| other.sort_key() < job.sort_key());
        self.jobs.insert(position, job);
        true
    }

    fn delete_job(&mut self, name: &str) {
        self.jobs.retain(|job| job.name != name);
    }

    /// Applies an event of the watch of the quotas. Returns the change of the watch's condition.
    pub fn apply_quota_event(&mut self, event: &WatchEvent<Quota>, now: Instant) -> Option<Change> {
        let change = self.quota_watch.follow(event, now);
        match event {
            WatchEvent::Init => self.quotas.begin_list(),
            WatchEvent::InitDone => self.quotas.finish_list(|_| false),
            WatchEvent::Apply(quota) => {
                let (total, remaining) = (Capacity::total(quota), Capacity::remaining(quota));
                let limits_cpu = quota.limited.iter().any(|key| capacity::is_cpu(key));
                self.quotas.insert(quota.name.as_str().into(), KnownQuota { total, remaining, limits_cpu });
            }
            WatchEvent::Delete(quota) => drop(self.quotas.remove(&*quota.name)),
            WatchEvent::Connected | WatchEvent::Failed(_) => {}
        }
        change
    }

    /// Returns true if a quota limits CPU, so that Jobs queue. Returns `None` while the quotas are not known.
    pub fn has_cpu_quota(&self, now: Instant) -> Option<bool> {
        self.quota_watch.check(now).ok().map(|()| self.quotas.values().any(|quota| quota.limits_cpu))
    }

    /// Returns the next action. A returned requeue counts as done until [`requeue_finished`](Self::requeue_finished) reports
    /// otherwise.
    pub fn next_action(&mut self, now: Instant) -> Action {
        let available = self.quotas.values().fold(Capacity::UNLIMITED, |least, quota| least.min(quota.remaining));
        // Without a limit no Job waits for quota.
        if available == Capacity::UNLIMITED || !self.job_watch.is_connected() || !self.quota_watch.is_connected() {
            return Action::Wait(None);
        }
        if self.paused_until.is_some_and(|until| until > now) {
            return Action::Wait(self.paused_until);
        }
        self.jobs.iter_mut().for_each(|job| job.expire_reservation(&available, now));
        if let Some(job) = self.jobs.iter_mut().find(|job| job.retry.is_unexplained) {
            job.retry.is_unexplained = false;
            return Action::Explain { name: job.name.clone() };
        }
        let reserved = self.jobs.iter().filter(|job| job.retry.reserved_until.is_some());
        let mut available = reserved.fold(available, |rest, job| rest.minus(&job.requested));
        while let Some(job) = self.jobs.iter_mut().find(|job| job.is_ready(&available, now)) {
            if job.retry.grace_until > now {
                return Action::Wait(Some(job.retry.grace_until));
            }
            job.retry.reserve(now);
            if job.is_managed {
                let is_repeat = job.retry.failed_attempts > 0;
                return Action::Requeue { name: job.name.clone(), version: job.version.clone(), is_repeat };
            }
            available = available.minus(&job.requested);
        }
        let changes = self.jobs.iter().filter_map(QueuedJob::next_change);
        Action::Wait(changes.filter(|change| *change > now).min())
    }

    /// Records the outcome of this Job's last requeue.
    pub fn requeue_finished(&mut self, name: &str, outcome: RequeueOutcome, now: Instant) {
        let (pause, job_pause) = match outcome {
            RequeueOutcome::Done => return,
            RequeueOutcome::Conflict => (CONFLICT_PAUSE, CONFLICT_PAUSE),
            RequeueOutcome::Failed(pause) => (pause, pause),
            RequeueOutcome::Rejected(pause) => (pause, pause * 2),
        };
        self.paused_until = Some(now + pause);
        if let Some(job) = self.jobs.iter_mut().find(|job| job.name == name) {
            job.retry.postpone(now + job_pause);
        }
    }

    /// Returns the running, the starting and the waiting Jobs, each oldest first, as GET /queue answers. `pod` returns the pod
    /// of a Job with this name and uid.
    pub fn snapshot<'a>(&self, pod: impl Fn(&str, &str) -> Option<&'a PodRecord>) -> Value {
        let (mut running, mut starting, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        for QueuedJob { name, uid, created, running_since, .. } in &self.jobs {
            let Some(active) = running_since else {
                waiting.push(json!({ "job": name, "position": waiting.len() + 1, "since": created }));
                continue;
            };
            let pod = pod(name, uid);
            match pod.map(|pod| &pod.progress) {
                Some(Progress::Running | Progress::Ended(_)) => {
                    let since = pod.and_then(|pod| pod.started.as_deref()).unwrap_or(active);
                    running.push(json!({ "job": name, "since": since }));
                }
                Some(Progress::Starting(reason) | Progress::Failing(reason)) => {
                    starting.push(json!({ "job": name, "since": active, "reason": reason }));
                }
                None => starting.push(json!({ "job": name, "since": active, "reason": CREATING })),
            }
        }
        json!({ "running": running, "starting": starting, "waiting": waiting })
    }

    /// Returns the numbers of the queue.
    pub fn stats(&self, now: Instant, clock: SystemTime) -> QueueStats {
        let mut waiting = self.jobs.iter().filter(|job| job.is_waiting());
        let oldest = waiting.next();
        let created = oldest.and_then(|job| humantime::parse_rfc3339(&job.created).ok());
        let waiting = usize::from(oldest.is_some()) + waiting.count();
        let (classifier, is_known) = (Capacity::of_classifier(), self.quota_watch.check(now).is_ok());
        let quotas = || self.quotas.values().filter(|_| is_known);
        QueueStats {
            waiting,
            oldest_wait: created.and_then(|created| clock.duration_since(created).ok()).unwrap_or_default(),
            used_slots: self.jobs.len() - waiting,
            free_slots: quotas().filter_map(|quota| quota.remaining.holds(&classifier)).min(),
            slots: quotas().filter_map(|quota| quota.total.holds(&classifier)).min(),
        }
    }

    /// Returns the history of the watch of the quotas.
    pub fn quota_watch_stats(&self, now: Instant) -> WatchStats {
        self.quota_watch.stats(now)
    }

    /// Returns the names of the waiting Jobs, in the order of the queue.
    pub fn waiting(&self) -> impl Iterator<Item = &str> {
        self.jobs.iter().filter(|job| job.is_waiting()).map(|job| job.name.as_str())
    }

    /// Returns how many Jobs like the first waiting one of this program the quotas allow at once. Returns `None` without such a Job or a
    /// limit, and while the quotas are not known.
    pub fn slots(&self, now: Instant) -> Option<u64> {
        self.quota_watch.check(now).ok()?;
        let job = self.jobs.iter().find(|job| job.is_waiting() && job.is_managed)?;
        self.quotas.values().filter_map(|quota| quota.total.holds(&job.requested)).min()
    }
}
