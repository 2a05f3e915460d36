//! The watches of the Jobs of both tiers and of their pods: a thread each.

use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::job::{MANAGED_SELECTOR, Tier};
use crate::kube::{Client, Job, JobPod, WatchEvent};
use crate::state::describe;
use crate::state::tier_jobs::{Effect, MAX_OBJECTS, TierJobs};
use crate::state::watch_state::Change;

/// Pause of a thread after a panic, so that a repeated panic does not keep the processor busy.
const PANIC_BACKOFF: Duration = Duration::from_secs(1);

/// Maximum number of remembered reasons; more would be logged again. A reason names an image or a quota, of which there are few.
const MAX_LOGGED: usize = 100;

/// Receives the events of the free tier's Jobs, of any program, in order.
pub type Listener = Box<dyn Fn(WatchEvent<Job>) + Send + Sync>;

/// The watched Jobs of both tiers.
pub struct JobWatch {
    kube: Arc<Client>,
    free: RwLock<TierJobs>,
    premium: RwLock<TierJobs>,
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
            free: RwLock::default(),
            premium: RwLock::default(),
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
        for tier in [Tier::Free, Tier::Premium] {
            let (jobs, pods, listener) = (Arc::clone(self), Arc::clone(self), Arc::clone(&listener));
            let spawned = spawn_loop(&format!("jobs-{}", tier.as_str()), move || jobs.watch_jobs(tier, &listener))
                .and_then(|()| spawn_loop(&format!("pods-{}", tier.as_str()), move || pods.watch_pods(tier)));
            if let Err(error) = spawned {
                [Tier::Free, Tier::Premium].iter().for_each(|tier| self.write(*tier).fail());
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns the Jobs of a tier. No change arrives meanwhile.
    pub fn read(&self, tier: Tier) -> RwLockReadGuard<'_, TierJobs> {
        self.of(tier).read().unwrap_or_else(PoisonError::into_inner)
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
        self.kube.watch(&path("/apis/batch/v1", "jobs", tier), &mut |event: WatchEvent<Job>| {
            let effect = self.write(tier).apply_job(&event, Instant::now());
            self.report(tier, "Jobs", &event, &effect);
            if tier == Tier::Free {
                listener(event);
            }
        });
    }

    fn watch_pods(&self, tier: Tier) {
        self.kube.watch(&path("/api/v1", "pods", tier), &mut |event: WatchEvent<JobPod>| {
            let effect = self.write(tier).apply_pod(&event, Instant::now());
            self.report(tier, "pods", &event, &effect);
            if let Some((job, reason)) = effect.failure {
                self.log_reason(&job, &reason, "img-classification doctor");
            }
        });
    }

    fn write(&self, tier: Tier) -> RwLockWriteGuard<'_, TierJobs> {
        self.of(tier).write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs what the operator should know of an event: the first failure, not each attempt.
    fn report<T>(&self, tier: Tier, objects: &str, event: &WatchEvent<T>, effect: &Effect) {
        let tier_name = tier.as_str();
        match (&effect.change, event) {
            (Some(Change::Failed), WatchEvent::Failed(error)) => {
                let effect = match (tier, objects) {
                    (Tier::Free, "Jobs") => "; until then only Kubernetes' own retry starts waiting Jobs",
                    (Tier::Free, _) => "; until then GET /queue and /jobs are not available",
                    (Tier::Premium, _) => "; until then GET /jobs is not available",
                };
                log::warn!("cannot watch {tier_name}-tier {objects}{effect}: {}", describe(error, "--no-watch"));
            }
            (Some(Change::Restored), _) => log::warn!("watch on {tier_name}-tier {objects} restored"),
            _ => {}
        }
        if effect.is_full && !self.is_full.swap(true, Ordering::SeqCst) {
            log::warn!("over {MAX_OBJECTS} Jobs or pods in a tier; GET /jobs omits the rest");
        }
    }
}

/// Returns the path of a tier's objects of one kind: all of the free tier, whose queue they share, and else those of this program.
fn path(group: &str, plural: &str, tier: Tier) -> String {
    let path = format!("{group}/namespaces/{}/{plural}", tier.namespace());
    match tier {
        Tier::Free => path,
        Tier::Premium => format!("{path}?{MANAGED_SELECTOR}"),
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
