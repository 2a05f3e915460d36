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
mod queued_pod;
#[cfg(test)]
mod tests;
mod watch_state;

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::kube::{Job, JobPod, JobState, Quota};
use crate::queue::capacity::Capacity;
use crate::queue::queued_job::QueuedJob;
pub use crate::queue::queued_job::REQUEUED_AT;
use crate::queue::queued_pod::{CREATING, Progress, QueuedPod};
pub use crate::queue::watch_state::{Unavailable, WatchState};

/// Pause of all requeues after a conflict: by then the watch has reported the change.
const CONFLICT_PAUSE: Duration = Duration::from_secs(1);

/// Limit on Jobs in memory, of 300 bytes each; the quota of k8s/ allows 300. Kubernetes starts any others on its own.
pub const MAX_JOBS: usize = 2000;

/// The watched state of the free tier.
#[derive(Default)]
pub struct Queue {
    /// Ordered by [`QueuedJob::sort_key`].
    jobs: Vec<QueuedJob>,
    quotas: Vec<KnownQuota>,
    /// The unfinished pods of Jobs.
    pods: Vec<QueuedPod>,
    pub job_watch: WatchState,
    pub pod_watch: WatchState,
    pub quota_watch: WatchState,
    /// Number of Job lists and of pod lists begun.
    generation: u64,
    pod_generation: u64,
    /// Number of Job events received.
    arrivals: u64,
    /// No requeue before this time.
    paused_until: Option<Instant>,
}

/// A watched quota.
struct KnownQuota {
    name: String,
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

impl Queue {
    /// Begins a list of the Jobs.
    pub fn begin_job_list(&mut self) {
        self.generation += 1;
    }

    /// Completes the list of the Jobs and drops the Jobs that it did not contain.
    pub fn finish_job_list(&mut self) {
        self.jobs.retain(|job| job.generation == self.generation);
        self.job_watch.is_listed = true;
    }

    /// Adds or updates a Job. Returns false if the queue is full and drops the Job.
    pub fn apply_job(&mut self, job: Job, now: Instant, clock: SystemTime) -> bool {
        if job.state() == JobState::Finished {
            self.delete_job(&job.name);
            return true;
        }
        let position = self.jobs.iter().position(|known| known.name == job.name);
        if self.jobs.len() >= MAX_JOBS && position.is_none() {
            // Jobs of an earlier list may no longer exist.
            self.jobs.retain(|job| job.generation == self.generation);
            if self.jobs.len() >= MAX_JOBS {
                return false;
            }
        }
        // A Job of the same name may be a new one.
        let previous = position.map(|at| self.jobs.remove(at)).filter(|previous| previous.created == job.created);
        let arrival = previous.as_ref().map_or(self.arrivals, |previous| previous.arrival);
        self.arrivals += 1;
        let job = QueuedJob::new(job, previous.as_ref(), now, clock);
        let job = QueuedJob { arrival, generation: self.generation, ..job };
        let position = self.jobs.partition_point(|other| other.sort_key() < job.sort_key());
        self.jobs.insert(position, job);
        true
    }

    /// Removes a Job.
    pub fn delete_job(&mut self, name: &str) {
        self.jobs.retain(|job| job.name != name);
    }

    /// Begins a list of the pods.
    pub fn begin_pod_list(&mut self) {
        self.pod_generation += 1;
    }

    /// Completes the list of the pods and drops the pods that it did not contain.
    pub fn finish_pod_list(&mut self) {
        self.pods.retain(|pod| pod.generation == self.pod_generation);
        self.pod_watch.is_listed = true;
    }

    /// Adds or updates a pod. Returns its Job and the reason if the pod cannot start.
    pub fn apply_pod(&mut self, pod: JobPod) -> Option<(String, String)> {
        let position = self.pods.iter().position(|known| known.name == pod.name);
        let previous = position.map(|at| self.pods.swap_remove(at));
        if self.pods.len() >= MAX_JOBS {
            return None;
        }
        let pod = QueuedPod::new(pod, previous.as_ref(), self.pod_generation)?;
        let failure = match &pod.progress {
            Progress::Failing(reason) => Some((pod.job.clone(), reason.clone())),
            Progress::Running(_) | Progress::Starting(_) => None,
        };
        self.pods.push(pod);
        failure
    }

    /// Removes a pod.
    pub fn delete_pod(&mut self, name: &str) {
        self.pods.retain(|pod| pod.name != name);
    }

    /// Begins a list of the quotas.
    pub fn begin_quota_list(&mut self) {
        self.quotas.clear();
        self.quota_watch.is_listed = false;
    }

    /// Completes the list of the quotas.
    pub fn finish_quota_list(&mut self) {
        self.quota_watch.is_listed = true;
    }

    /// Adds or updates a quota.
    pub fn apply_quota(&mut self, quota: &Quota) {
        self.delete_quota(&quota.name);
        let (name, remaining) = (quota.name.clone(), Capacity::remaining(quota));
        self.quotas.push(KnownQuota {
            name,
            remaining,
            limits_cpu: quota.limited.iter().any(|key| capacity::is_cpu(key)),
        });
    }

    /// Removes a quota.
    pub fn delete_quota(&mut self, name: &str) {
        self.quotas.retain(|known| known.name != name);
    }

    /// Returns true if a quota limits CPU, so that Jobs queue. Returns `None` while the quotas are not known.
    pub fn has_cpu_quota(&self, now: Instant) -> Option<bool> {
        self.quota_watch.check(now).ok().map(|()| self.quotas.iter().any(|quota| quota.limits_cpu))
    }

    /// Returns the next action. A returned requeue counts as done until [`requeue_finished`](Self::requeue_finished) reports
    /// otherwise.
    pub fn next_action(&mut self, now: Instant) -> Action {
        let available = self.quotas.iter().fold(Capacity::UNLIMITED, |least, quota| least.min(quota.remaining));
        // Without a limit no Job waits for quota.
        if available == Capacity::UNLIMITED || !self.job_watch.is_current() || !self.quota_watch.is_current() {
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

    /// Returns the running, the starting and the waiting Jobs, each oldest first, as GET /queue answers.
    ///
    /// # Errors
    /// The state is missing or too old.
    pub fn snapshot(&self, now: Instant) -> Result<Value, Unavailable> {
        self.job_watch.check(now)?;
        self.pod_watch.check(now)?;
        let (mut running, mut starting, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
        for QueuedJob { name, created, running_since, .. } in &self.jobs {
            match (running_since, self.progress(name)) {
                (None, _) => waiting.push(json!({ "job": name, "position": waiting.len() + 1, "since": created })),
                (Some(active), Some(Progress::Running(since))) => {
                    running.push(json!({ "job": name, "since": since.as_ref().unwrap_or(active) }));
                }
                (Some(since), Some(Progress::Starting(reason) | Progress::Failing(reason))) => {
                    starting.push(json!({ "job": name, "since": since, "reason": reason }));
                }
                (Some(since), None) => starting.push(json!({ "job": name, "since": since, "reason": CREATING })),
            }
        }
        Ok(json!({ "running": running, "starting": starting, "waiting": waiting }))
    }

    /// Returns the progress of a Job's pod; of several, a running one decides.
    fn progress(&self, job: &str) -> Option<&Progress> {
        let mut pods = self.pods.iter().filter(|pod| pod.job == job).map(|pod| &pod.progress);
        let first = pods.next()?;
        let is_running = |progress: &&Progress| matches!(progress, Progress::Running(_));
        Some(std::iter::once(first).chain(pods).find(is_running).unwrap_or(first))
    }
}
