//! The watches of the Jobs of both tiers and of their pods: a thread each.

use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::job::{Dataset, JOB_PODS_SELECTOR, MANAGED_JOB_PODS_SELECTOR, MANAGED_SELECTOR, Tier};
use crate::kube::{Client, Job, JobPod, WatchEvent};
use crate::state::failure;
use crate::state::tier_jobs::{Effect, MAX_JOBS, TierJobs};
use crate::state::waiters::Waiters;
use crate::state::watch_state::Change;

/// Pause of a thread after a panic, so that a repeated panic does not keep the processor busy.
const PANIC_BACKOFF: Duration = Duration::from_secs(1);

/// Maximum number of remembered reasons; more would be logged again. Most name an image or a quota, of which there are few.
const MAX_LOGGED: usize = 100;

/// Receives the events of the free tier's Jobs, of any program, in order. No reader sees the Jobs meanwhile.
pub type Listener = Box<dyn Fn(WatchEvent<Job>) + Send + Sync>;

/// The watched Jobs of both tiers.
pub struct JobWatch {
    kube: Arc<Client>,
    free: RwLock<TierJobs>,
    premium: RwLock<TierJobs>,
    /// The threads that wait for a change of a Job.
    pub waiters: Waiters,
    /// The full memory has been logged.
    is_full: AtomicBool,
    /// The logged reasons of Jobs that cannot start.
    logged: Mutex<HashSet<String>>,
}

impl JobWatch {
    /// Returns watches without threads; [`spawn`](Self::spawn) starts them.
    pub fn new(kube: Arc<Client>) -> Self {
        Self {
            kube,
            free: RwLock::new(TierJobs::new(Tier::Free)),
            premium: RwLock::new(TierJobs::new(Tier::Premium)),
            waiters: Waiters::default(),
            is_full: AtomicBool::new(false),
            logged: Mutex::default(),
        }
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// A thread could not be started. The others keep running, and what they watch is not shown.
    pub fn spawn(self: &Arc<Self>, listener: Listener) -> io::Result<()> {
        let listener = Arc::new(listener);
        for tier in Tier::ALL {
            let (jobs, pods, listener) = (Arc::clone(self), Arc::clone(self), Arc::clone(&listener));
            let spawned = spawn_loop(&format!("jobs-{}", tier.as_str()), move || jobs.watch_jobs(tier, &listener))
                .and_then(|()| spawn_loop(&format!("pods-{}", tier.as_str()), move || pods.watch_pods(tier)));
            if let Err(error) = spawned {
                Tier::ALL.iter().for_each(|tier| self.write(*tier).fail());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns the Jobs of a tier. No change arrives meanwhile.
    pub fn read(&self, tier: Tier) -> RwLockReadGuard<'_, TierJobs> {
        self.of(tier).read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a Job that Kubernetes has just stored, so that its POST's `Location` is known at once.
    pub fn add_created(&self, tier: Tier, name: &str, dataset: Dataset) {
        let created = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        self.write(tier).add_created(name, dataset, created);
    }

    /// Removes a Job that Kubernetes has begun to delete, so that it is not shown any more.
    pub fn remove_deleted(&self, tier: Tier, name: &str, uid: &str) {
        self.write(tier).remove_deleted(name, uid);
    }

    /// Logs why a Job does not start, once for all Jobs with the same reason.
    pub fn log_reason(&self, job: &str, reason: &str, fix: &str) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() >= MAX_LOGGED {
            logged.clear();
        }
        if logged.insert(reason.to_owned()) {
            log::warn!("{job} cannot start: {reason}; fix: {fix}");
        }
    }

    fn of(&self, tier: Tier) -> &RwLock<TierJobs> {
        match tier {
            Tier::Free => &self.free,
            Tier::Premium => &self.premium,
        }
    }

    fn watch_jobs(&self, tier: Tier, listener: &Listener) {
        // All Jobs of the free tier share its queue.
        let selector = if tier == Tier::Free { String::new() } else { format!("?{MANAGED_SELECTOR}") };
        let path = format!("/apis/batch/v1/namespaces/{}/jobs{selector}", tier.namespace());
        self.kube.watch(&path, &mut |event: WatchEvent<Job>| {
            let failure = failure(&event);
            let mut jobs = self.write(tier);
            let effect = jobs.apply_job(&event, Instant::now());
            self.wake(event.object().map(|job| &*job.name));
            if tier == Tier::Free {
                listener(event);
            }
            drop(jobs);
            self.report(tier, "Jobs", &failure, &effect);
        });
    }

    fn watch_pods(&self, tier: Tier) {
        let selector = if tier == Tier::Free { JOB_PODS_SELECTOR } else { MANAGED_JOB_PODS_SELECTOR };
        let path = format!("/api/v1/namespaces/{}/pods?{selector}", tier.namespace());
        self.kube.watch(&path, &mut |event: WatchEvent<JobPod>| {
            let effect = self.write(tier).apply_pod(&event, Instant::now());
            self.wake(event.object().map(|pod| &*pod.job));
            self.report(tier, "pods", &failure(&event), &effect);
            if let Some((job, reason)) = effect.failure {
                self.log_reason(&job, &reason, "img-classification doctor");
            }
        });
    }

    /// Wakes the threads that wait for this Job, or all after a list or a failure.
    fn wake(&self, job: Option<&str>) {
        match job {
            Some(job) => self.waiters.wake(job),
            None => self.waiters.wake_all(),
        }
    }

    fn write(&self, tier: Tier) -> RwLockWriteGuard<'_, TierJobs> {
        self.of(tier).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs what the operator should know of an event: the first failure, not each attempt.
    fn report(&self, tier: Tier, objects: &str, failure: &str, effect: &Effect) {
        let tier_name = tier.as_str();
        match effect.change {
            Some(Change::Failed) => {
                let effect = match (tier, objects) {
                    (Tier::Free, "Jobs") => {
                        "; until then GET /queue and /jobs are not available, and waiting Jobs are not requeued"
                    }
                    (Tier::Free, _) => "; until then GET /queue and /jobs are not available",
                    (Tier::Premium, _) => "; until then GET /jobs is not available",
                };
                log::warn!("cannot watch {tier_name}-tier {objects}{effect}: {failure}");
            }
            Some(Change::Restored) => log::warn!("watch on {tier_name}-tier {objects} restored"),
            Some(Change::Connected) | None => {}
        }
        if effect.is_full && !self.is_full.swap(true, Ordering::SeqCst) {
            log::warn!("over {MAX_JOBS} Jobs in the {tier_name} tier; GET /jobs omits the oldest ended ones");
        }
    }
}

/// Starts a thread that calls `run` again and again. A panic must not end it; a watch starts again with a list.
///
/// # Errors
/// No thread is free.
pub fn spawn_loop(name: &str, run: impl Fn() + Send + 'static) -> io::Result<()> {
    let run = move || loop {
        let _ = catch_unwind(AssertUnwindSafe(&run));
        thread::sleep(PANIC_BACKOFF);
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}
