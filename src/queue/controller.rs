//! The free tier never idles: threads that watch its Jobs and quotas and, when there is room, touch the oldest Job that
//! waits. What is known and whom to touch is decided in [`queue`](crate::queue).
//!
//! Nothing here has a part in answering requests but for the picture that GET /queue shows. Where it fails, the Job
//! controller's own retry remains.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::api::App;
use crate::job::Tier;
use crate::kube::{Client, Error, WatchEvent, chain};
use crate::queue::{Feed, NUDGED, Queue, Step, Touched, Unknown};

/// What is known, shared by those who hear of it, the one who acts on it, and those who show it.
#[derive(Default)]
pub struct Nudge {
    queue: Mutex<Queue>,
    changed: Condvar,
    stopping: AtomicBool,
    is_full: AtomicBool,
}

/// Pause of a thread after a fault of ours, so that it does not keep the processor busy.
const AFTER_FAULT: Duration = Duration::from_secs(1);

/// What a thread does, for ever.
type Run = fn(&Nudge, &Client);

/// Starts the threads, for an `app` that has a [`Nudge`].
///
/// # Errors
/// A thread could not be started.
pub fn start(app: &Arc<App>) -> io::Result<()> {
    let threads: [(&str, Run); 3] = [
        ("jobs", |nudge, kube| nudge.follow_jobs(kube)),
        ("quotas", |nudge, kube| nudge.follow_quotas(kube)),
        ("nudge", Nudge::act),
    ];
    for (name, run) in threads {
        let app = Arc::clone(app);
        let run = move || loop {
            // A fault of ours must not be the end of the queue: what is known begins anew, with a list.
            let _ = catch_unwind(AssertUnwindSafe(|| app.queue.iter().for_each(|nudge| run(nudge, &app.kube))));
            thread::sleep(AFTER_FAULT);
        };
        thread::Builder::new().name(name.into()).spawn(run)?;
    }
    Ok(())
}

/// Where the free tier has its objects of a kind.
fn path(group: &str, plural: &str) -> String {
    format!("{group}/namespaces/{}/{plural}", Tier::Free.namespace())
}

impl Nudge {
    /// The queue, as GET /queue answers it.
    ///
    /// # Errors
    /// Nobody knows.
    pub fn show(&self) -> Result<Value, Unknown> {
        self.lock().show(Instant::now())
    }

    /// There is nobody to watch the queue.
    pub fn give_up(&self) {
        self.lock().of_jobs.failed(false, Instant::now());
    }

    /// Says no more: the server ends.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow_jobs(&self, kube: &Client) {
        kube.watch(&path("/apis/batch/v1", "jobs"), &mut |news: WatchEvent| {
            let mut queue = self.lock();
            match news {
                WatchEvent::Init => queue.list_jobs(),
                WatchEvent::Apply(job) => {
                    if !queue.put_job(job, Instant::now(), SystemTime::now())
                        && !self.is_full.swap(true, Ordering::SeqCst)
                    {
                        log::warn!("more Jobs wait than GET /queue shows; Kubernetes itself starts the others");
                    }
                }
                WatchEvent::Delete(job) => queue.remove_job(&job.name),
                WatchEvent::InitDone => queue.jobs_listed(),
                WatchEvent::Connected => self.live(&mut queue.of_jobs, "Jobs"),
                WatchEvent::Failed(error) => self.failed(&mut queue.of_jobs, "Jobs", &error),
            }
            drop(queue);
            self.changed.notify_all();
        })
    }

    fn follow_quotas(&self, kube: &Client) {
        kube.watch(&path("/api/v1", "resourcequotas"), &mut |news: WatchEvent| {
            let mut queue = self.lock();
            match news {
                WatchEvent::Init => queue.list_quotas(),
                WatchEvent::Apply(quota) => queue.put_quota(&quota),
                WatchEvent::Delete(quota) => queue.remove_quota(&quota.name),
                WatchEvent::InitDone => queue.quotas_listed(),
                WatchEvent::Connected => self.live(&mut queue.of_quotas, "quotas"),
                WatchEvent::Failed(error) => self.failed(&mut queue.of_quotas, "quotas", &error),
            }
            drop(queue);
            self.changed.notify_all();
        })
    }

    fn live(&self, feed: &mut Feed, what: &str) {
        if feed.live() {
            log::warn!("Kubernetes tells of the free tier's {what} again");
        }
    }

    /// Says so once, not at each try.
    fn failed(&self, feed: &mut Feed, what: &str, error: &Error) {
        let is_first = feed.failed(error.not_permitted(), Instant::now());
        if is_first && !self.stopping.load(Ordering::SeqCst) {
            log::warn!(
                "cannot watch the free tier's {what}; until then a free slot waits for Kubernetes' own retry{}: {}",
                remedy(error),
                chain(error)
            );
        }
    }

    /// Touches whom the queue says.
    fn act(&self, kube: &Client) {
        let mut is_failing = false;
        let mut queue = self.lock();
        loop {
            queue = match queue.step(Instant::now()) {
                Step::Touch { name, version } => {
                    drop(queue);
                    let outcome = touch(kube, &name, &version, &mut is_failing);
                    let mut queue = self.lock();
                    queue.touched(&name, outcome, Instant::now());
                    queue
                }
                Step::Wait(None) => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Step::Wait(Some(due)) => {
                    let left = due.saturating_duration_since(Instant::now());
                    self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
            }
        }
    }
}

/// Sets the annotation of a Job that is still of this version.
fn touch(kube: &Client, name: &str, version: &str, is_failing: &mut bool) -> Touched {
    let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let patch = json!({ "metadata": { "resourceVersion": version, "annotations": { NUDGED: time } } });
    let done = kube.patch_if_current(&format!("{}/{name}", path("/apis/batch/v1", "jobs")), &patch.to_string());
    let was_failing = std::mem::replace(is_failing, done.is_err());
    match done {
        Ok(true) => {
            log::info!("nudged {name}: it is the oldest that waits, and there is room");
            Touched::Done
        }
        Ok(false) => Touched::Late,
        Err(error) => {
            if !was_failing {
                log::warn!("cannot nudge {name}{}: {}", remedy(&error), chain(&error));
            }
            if error.not_permitted() { Touched::Forbidden } else { Touched::Failed }
        }
    }
}

/// What a person can do about it.
fn remedy(error: &Error) -> &'static str {
    if error.not_permitted() {
        " (to do: img-classification setup, or kubectl apply -f k8s/rbac.yaml; or --no-nudge)"
    } else {
        ""
    }
}
