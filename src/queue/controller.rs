//! The threads that keep the free tier busy: one watches its quotas, one requeues the oldest waiting Job when the quota has capacity.
//! [`JobWatch`] reports its Jobs. The decisions are in [`queue`](crate::queue).
//!
//! GET /queue, the place of a queued Job and the check of the CPU quota by GET /readyz depend on this module. If it fails, the Job
//! controller's own retry remains.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::Level;
use serde_json::{Value, json};

use crate::job::Tier;
use crate::kube::{Client, Error, Job, Quota, Status, WatchEvent, chain, random_fraction};
use crate::queue::backoff::Backoff;
use crate::queue::{Action, MAX_JOBS, Queue, QueueStats, REQUEUED_AT, RequeueOutcome};
use crate::state::job_watch::{JobWatch, spawn_loop};
use crate::state::watch_state::{Change, Unavailable, WatchStats};
use crate::state::{describe, failure};

/// Pause of all requeues after a missing permission, which only the operator can grant.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(60);

/// The shared state of the threads and of GET /queue.
pub struct QueueController {
    kube: Arc<Client>,
    jobs: Arc<JobWatch>,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// The full queue has been logged.
    is_full: AtomicBool,
    /// The missing CPU quota has been logged.
    is_unlimited: AtomicBool,
}

/// The places of waiting Jobs.
#[derive(Default)]
pub struct Places {
    /// Position by name; 1 is next.
    pub positions: HashMap<String, usize>,
    /// Number of Jobs of this program that the quotas allow at once; see [`Queue::slots`].
    pub slots: Option<u64>,
}

impl QueueController {
    /// Returns a controller without threads; [`spawn`](Self::spawn) starts them.
    pub fn new(kube: Arc<Client>, jobs: Arc<JobWatch>) -> Self {
        Self {
            kube,
            jobs,
            queue: Mutex::default(),
            changed: Condvar::new(),
            is_full: AtomicBool::new(false),
            is_unlimited: AtomicBool::new(false),
        }
    }

    /// Starts the threads; the one that requeues only if `requeue` is set.
    ///
    /// # Errors
    /// A thread could not be started. The others keep running.
    pub fn spawn(self: &Arc<Self>, requeue: bool) -> io::Result<()> {
        let (quotas, requeues) = (Arc::clone(self), Arc::clone(self));
        spawn_loop("quotas", move || quotas.watch_quotas())?;
        if requeue { spawn_loop("requeue", move || requeues.run()) } else { Ok(()) }
    }

    /// Returns the queue as GET /queue answers it.
    ///
    /// # Errors
    /// The state is missing or too old.
    pub fn snapshot(&self) -> Result<Value, Unavailable> {
        let jobs = self.jobs.read(Tier::Free);
        jobs.check(Instant::now())?;
        Ok(self.lock().snapshot(|name, uid| jobs.pod(name, uid)))
    }

    /// Returns the numbers of the queue.
    ///
    /// # Errors
    /// The state is missing or too old.
    pub fn stats(&self) -> Result<QueueStats, Unavailable> {
        self.jobs.read(Tier::Free).check(Instant::now())?;
        Ok(self.lock().stats(Instant::now(), SystemTime::now()))
    }

    /// Returns the history of the watch of the quotas.
    pub fn quota_watch_stats(&self) -> WatchStats {
        self.lock().quota_watch_stats(Instant::now())
    }

    /// Returns the places of the waiting Jobs.
    pub fn places(&self) -> Places {
        let queue = self.lock();
        let positions = queue.waiting().zip(1..).map(|(name, position)| (name.to_owned(), position)).collect();
        let slots = queue.slots(Instant::now());
        Places { positions, slots }
    }

    /// Returns true if a quota of the free tier limits CPU. Returns `None` while the quotas are not known.
    pub fn has_cpu_quota(&self) -> Option<bool> {
        self.lock().has_cpu_quota(Instant::now())
    }

    /// Applies an event of the watch of the free tier's Jobs.
    pub fn apply_job_event(&self, event: WatchEvent<Job>) {
        let is_stored = self.lock().apply_job_event(event, Instant::now(), SystemTime::now());
        if !is_stored && !self.is_full.swap(true, Ordering::SeqCst) {
            log::warn!("over {MAX_JOBS} free-tier Jobs; GET /queue omits the rest, Kubernetes starts them");
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch_quotas(&self) {
        self.kube.watch(&path("/api/v1", "resourcequotas"), &mut |event: WatchEvent<Quota>| {
            let mut queue = self.lock();
            let change = queue.apply_quota_event(&event, Instant::now());
            self.log_cpu_quota(queue.has_cpu_quota(Instant::now()));
            drop(queue);
            self.changed.notify_all();
            match change {
                Some(Change::Failed) => log::warn!(
                    "cannot watch free-tier quotas; until then waiting Jobs are not requeued: {}",
                    failure(&event)
                ),
                Some(Change::Restored) => log::warn!("watch on free-tier quotas restored"),
                Some(Change::Connected) | None => {}
            }
        });
    }

    /// Logs that the CPU quota is missing, and that it exists again, once each.
    fn log_cpu_quota(&self, has_quota: Option<bool>) {
        let Some(has_quota) = has_quota else { return };
        match (has_quota, self.is_unlimited.swap(!has_quota, Ordering::SeqCst)) {
            (false, false) => log::error!(
                "no quota limits the CPU of {}: all free Jobs start at once; fix: run img-classification setup",
                Tier::Free.namespace()
            ),
            (true, true) => log::info!("a quota limits the CPU of {} again", Tier::Free.namespace()),
            _ => {}
        }
    }

    /// Carries out the queue's actions.
    fn run(&self) {
        let mut backoff = Backoff::default();
        let mut queue = self.lock();
        loop {
            queue = match queue.next_action(Instant::now()) {
                Action::Explain { name } => {
                    drop(queue);
                    self.explain(&name);
                    self.lock()
                }
                Action::Requeue { name, version, is_repeat } => {
                    drop(queue);
                    let outcome = self.requeue(&name, &version, &mut backoff);
                    if outcome == RequeueOutcome::Done {
                        let level = if is_repeat { Level::Debug } else { Level::Info };
                        log::log!(level, "requeued {name}: oldest waiting Job, quota available");
                    }
                    let mut queue = self.lock();
                    queue.requeue_finished(&name, outcome, Instant::now());
                    queue
                }
                Action::Wait(None) => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Action::Wait(Some(due)) => {
                    let timeout = due.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(queue, timeout).unwrap_or_else(PoisonError::into_inner).0
                }
            }
        }
    }

    /// Annotates a Job that still has this resource version. Logs the first of several failures.
    fn requeue(&self, name: &str, version: &str, backoff: &mut Backoff) -> RequeueOutcome {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let patch = json!({ "metadata": { "resourceVersion": version, "annotations": { REQUEUED_AT: time } } });
        let result =
            self.kube.patch_if_current(&format!("{}/{name}", path("/apis/batch/v1", "jobs")), &patch.to_string());
        match result {
            Ok(true) => {
                backoff.succeeded();
                RequeueOutcome::Done
            }
            Ok(false) => RequeueOutcome::Conflict,
            Err(error) => {
                let was_failing = backoff.is_failing();
                let pause = backoff.failed(error.retry_after(), random_fraction());
                if !was_failing {
                    let seconds = pause.as_secs();
                    log::warn!("cannot requeue {name}; pausing for {seconds} s: {}", describe(&error, "--no-requeue"));
                }
                outcome(&error, pause)
            }
        }
    }

    /// Logs the reason of a Job whose pod Kubernetes refused although the quota had capacity.
    fn explain(&self, name: &str) {
        let fields = format!("involvedObject.kind=Job,involvedObject.name={name},reason=FailedCreate");
        let query = format!("fieldSelector={}", fields.replace('=', "%3D").replace(',', "%2C"));
        match self.kube.list(&format!("{}?{query}", path("/api/v1", "events"))) {
            Ok(events) => {
                let last = events.iter().max_by_key(|event| event["lastTimestamp"].as_str().map(str::to_owned));
                let reason = last.and_then(|event| refusal(event["message"].as_str()?));
                if let Some(reason) = reason {
                    let fix = format!("kubectl describe job {name} -n {}", Tier::Free.namespace());
                    self.jobs.log_reason(name, reason, &fix);
                }
            }
            Err(error) => log::debug!("cannot read why {name} does not start: {}", chain(&error)),
        }
    }
}

/// Returns the reason in the message of a FailedCreate event. Returns `None` if the Job only waits for the quota.
fn refusal(message: &str) -> Option<&str> {
    let reason = message.rsplit_once(" is forbidden: ").map_or(message, |(_, reason)| reason);
    Some(reason).filter(|_| !message.contains("exceeded quota"))
}

/// Returns the outcome of a failed requeue.
fn outcome(error: &Error, pause: Duration) -> RequeueOutcome {
    match error {
        error if error.not_permitted() => RequeueOutcome::Failed(pause.max(FORBIDDEN_PAUSE)),
        // An admission webhook may reject this Job alone.
        Error::Status { status: Status { code: 400 | 403 | 422, .. }, .. } => RequeueOutcome::Rejected(pause),
        _ => RequeueOutcome::Failed(pause),
    }
}

/// The path of the free tier's objects of one kind.
fn path(group: &str, plural: &str) -> String {
    format!("{group}/namespaces/{}/{plural}", Tier::Free.namespace())
}
