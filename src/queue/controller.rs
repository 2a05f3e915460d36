//! The threads that keep the free tier busy: three watch its Jobs, pods and quotas, one requeues the oldest waiting Job when
//! the quota has capacity. The decisions are in [`queue`](crate::queue).
//!
//! Only GET /queue depends on this module. If it fails, the Job controller's own retry remains.

use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::Level;
use serde_json::{Value, json};

use crate::job::Tier;
use crate::kube::{Client, Error, Job, JobPod, Quota, Status, WatchEvent, chain, random_fraction};
use crate::queue::backoff::Backoff;
use crate::queue::{Action, MAX_JOBS, Queue, REQUEUED_AT, RequeueOutcome, Unavailable, WatchState};

/// Pause of a thread after a panic, so that a repeated panic does not keep the processor busy.
const PANIC_BACKOFF: Duration = Duration::from_secs(1);

/// Maximum number of remembered reasons; more would be logged again. A reason names an image or a quota, of which there are few.
const MAX_LOGGED: usize = 100;

/// Pause of all requeues after a missing permission, which only the operator can grant.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(60);

/// The endless loop of a thread.
type Loop = fn(&QueueController);

/// The shared state of the threads and of GET /queue.
pub struct QueueController {
    kube: Arc<Client>,
    queue: Mutex<Queue>,
    changed: Condvar,
    is_stopping: AtomicBool,
    /// The full queue has been logged.
    is_full: AtomicBool,
    /// The missing CPU quota has been logged.
    is_unlimited: AtomicBool,
    /// The logged reasons of Jobs that cannot start.
    logged: Mutex<HashSet<String>>,
}

impl QueueController {
    /// Returns a controller without threads; [`spawn`](Self::spawn) starts them.
    pub fn new(kube: Arc<Client>) -> Self {
        Self {
            kube,
            queue: Mutex::default(),
            changed: Condvar::new(),
            is_stopping: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            is_unlimited: AtomicBool::new(false),
            logged: Mutex::default(),
        }
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// A thread could not be started. The others keep running, and GET /queue answers 503.
    pub fn spawn(self: &Arc<Self>) -> io::Result<()> {
        let threads: [(&str, Loop); 4] = [
            ("watch-jobs", Self::watch_jobs),
            ("watch-pods", Self::watch_pods),
            ("watch-quotas", Self::watch_quotas),
            ("requeue", Self::run),
        ];
        for (name, run) in threads {
            let controller = Arc::clone(self);
            let run = move || loop {
                // A panic must not end the thread; the watches start again with a list.
                let _ = catch_unwind(AssertUnwindSafe(|| run(&controller)));
                thread::sleep(PANIC_BACKOFF);
            };
            if let Err(error) = thread::Builder::new().name(name.into()).spawn(run) {
                self.lock().job_watch.failed(false, Instant::now());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns the queue as GET /queue answers it.
    ///
    /// # Errors
    /// The state is missing or too old.
    pub fn snapshot(&self) -> Result<Value, Unavailable> {
        self.lock().snapshot(Instant::now())
    }

    /// Returns true if a quota of the free tier limits CPU. Returns `None` while the quotas are not known.
    pub fn has_cpu_quota(&self) -> Option<bool> {
        self.lock().has_cpu_quota(Instant::now())
    }

    /// Stops logging failures, as the server is shutting down.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watch_jobs(&self) {
        self.kube.watch(&path("/apis/batch/v1", "jobs"), &mut |event: WatchEvent<Job>| {
            let mut queue = self.lock();
            match event {
                WatchEvent::Init => queue.begin_job_list(),
                WatchEvent::Apply(job) => {
                    if !queue.apply_job(job, Instant::now(), SystemTime::now())
                        && !self.is_full.swap(true, Ordering::SeqCst)
                    {
                        log::warn!("over {MAX_JOBS} free-tier Jobs; GET /queue omits the rest, Kubernetes starts them");
                    }
                }
                WatchEvent::Delete(job) => queue.delete_job(&job.name),
                WatchEvent::InitDone => queue.finish_job_list(),
                WatchEvent::Connected => connected(&mut queue.job_watch, "Jobs"),
                WatchEvent::Failed(error) => self.failed(&mut queue.job_watch, "Jobs", &error),
            }
            drop(queue);
            self.changed.notify_all();
        });
    }

    fn watch_pods(&self) {
        self.kube.watch(&path("/api/v1", "pods"), &mut |event: WatchEvent<JobPod>| {
            let mut queue = self.lock();
            let mut failure = None;
            match event {
                WatchEvent::Init => queue.begin_pod_list(),
                WatchEvent::Apply(pod) => failure = queue.apply_pod(pod),
                WatchEvent::Delete(pod) => queue.delete_pod(&pod.name),
                WatchEvent::InitDone => queue.finish_pod_list(),
                WatchEvent::Connected => connected(&mut queue.pod_watch, "pods"),
                WatchEvent::Failed(error) => self.failed(&mut queue.pod_watch, "pods", &error),
            }
            drop(queue);
            if let Some((job, reason)) = failure {
                self.log_reason(&job, &reason, "img-classification doctor");
            }
        });
    }

    fn watch_quotas(&self) {
        self.kube.watch(&path("/api/v1", "resourcequotas"), &mut |event: WatchEvent<Quota>| {
            let mut queue = self.lock();
            match event {
                WatchEvent::Init => queue.begin_quota_list(),
                WatchEvent::Apply(quota) => queue.apply_quota(&quota),
                WatchEvent::Delete(quota) => queue.delete_quota(&quota.name),
                WatchEvent::InitDone => queue.finish_quota_list(),
                WatchEvent::Connected => connected(&mut queue.quota_watch, "quotas"),
                WatchEvent::Failed(error) => self.failed(&mut queue.quota_watch, "quotas", &error),
            }
            self.log_cpu_quota(queue.has_cpu_quota(Instant::now()));
            drop(queue);
            self.changed.notify_all();
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

    /// Logs why a Job does not start, once for all Jobs with the same reason.
    fn log_reason(&self, job: &str, reason: &str, fix: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() >= MAX_LOGGED {
            logged.clear();
        }
        if logged.insert(reason.to_owned()) {
            log::warn!("{job} cannot start: {reason}; fix: {fix}");
        }
    }

    /// Records a failed watch. Logs the first failure only, not each attempt.
    fn failed(&self, watch: &mut WatchState, objects: &str, error: &Error) {
        let is_first = watch.failed(error.not_permitted(), Instant::now());
        if is_first && !self.is_stopping.load(Ordering::SeqCst) {
            let effect = match objects {
                "pods" => "GET /queue is not available",
                _ => "only Kubernetes' own retry starts waiting Jobs",
            };
            log::warn!("cannot watch free-tier {objects}; until then {effect}: {}{}", chain(error), fix(error));
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
                    log::warn!("cannot requeue {name}; pausing for {seconds} s: {}{}", chain(&error), fix(&error));
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
                    self.log_reason(
                        name,
                        reason,
                        &format!("kubectl describe job {name} -n {}", Tier::Free.namespace()),
                    );
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

/// Records a connected watch, and logs it after a failure.
fn connected(watch: &mut WatchState, objects: &str) {
    if watch.connected() {
        log::warn!("watch on free-tier {objects} restored");
    }
}

/// The operator's fix for a missing permission.
fn fix(error: &Error) -> &'static str {
    if error.not_permitted() {
        "; fix: run img-classification setup, or kubectl apply -f k8s/rbac.yaml, or start with --no-requeue"
    } else {
        ""
    }
}
