//! The controllers of the simulated cluster: the Job controller, the garbage collector, the scheduler and the kubelets. Each
//! reads all objects and takes the next step; the only state of their own is when something began.

mod job;
mod kubelet;
mod scheduler;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::resources::{EVENTS, JOBS, PODS, Target};
use super::store::{self, Object, Store, name, namespace, owner, text, uid};
use super::{quota, write};
use job::Backoff;

/// The reasons of events of type Warning.
const WARNINGS: [&str; 5] = ["FailedCreate", "BackoffLimitExceeded", "FailedScheduling", "Failed", "DeadlineExceeded"];

/// Times that the objects do not contain, by uid.
#[derive(Default)]
pub struct Clock {
    /// An object's state and when it entered it.
    since: HashMap<String, (String, Instant)>,
    /// Jobs whose pod was refused.
    backoffs: HashMap<String, Backoff>,
}

/// One pass over all objects.
pub struct Reconcile<'a> {
    store: &'a mut Store,
    clock: &'a mut Clock,
    now: Instant,
    /// Run time of a classifier.
    job_time: Duration,
    /// Time of the next pass if no object changes earlier.
    due: Option<Instant>,
}

impl<'a> Reconcile<'a> {
    pub fn new(store: &'a mut Store, clock: &'a mut Clock, job_time: Duration) -> Self {
        Self { store, clock, now: Instant::now(), job_time, due: None }
    }

    /// Takes all steps that are due. Returns the time of the next one.
    pub fn run(mut self) -> Option<Instant> {
        let jobs: Vec<Object> = self.store.list(&JOBS, "").cloned().collect();
        let mut pods: HashMap<String, Vec<Object>> = HashMap::new();
        for pod in self.store.list(&PODS, "") {
            pods.entry(owner(pod).to_owned()).or_default().push(pod.clone());
        }
        pods.remove("");
        for job in &jobs {
            let pods = pods.remove(uid(job)).unwrap_or_default();
            self.reconcile_job(job, &pods);
        }
        // The remaining pods belong to Jobs that no longer exist.
        pods.values().flatten().for_each(|pod| drop(write::delete_pod(self.store, pod, None)));
        self.schedule();
        let pods: Vec<Object> = self.store.list(&PODS, "").cloned().collect();
        pods.iter().for_each(|pod| self.reconcile_pod(pod));
        quota::refresh(self.store);
        self.forget_deleted(&jobs, &pods);
        self.due
    }

    /// Returns true once the object has been in this state for `time`.
    fn has_passed(&mut self, object: &Value, state: &str, time: Duration) -> bool {
        let entry = self.clock.since.entry(uid(object).to_owned()).or_insert_with(|| (state.to_owned(), self.now));
        if entry.0 != state {
            *entry = (state.to_owned(), self.now);
        }
        let at = entry.1 + time;
        self.run_again_at(at);
        at <= self.now
    }

    /// Tests if a pod has been on its node, or a Job active, for its activeDeadlineSeconds.
    fn is_overdue(&mut self, object: &Object) -> bool {
        let Some(limit) = object["spec"]["activeDeadlineSeconds"].as_u64() else { return false };
        let Ok(started) = humantime::parse_rfc3339(text(object, "/status/startTime")) else { return false };
        let remaining = Duration::from_secs(limit).saturating_sub(started.elapsed().unwrap_or_default());
        // A limit of billions of years has no end.
        self.now.checked_add(remaining).into_iter().for_each(|at| self.run_again_at(at));
        remaining.is_zero()
    }

    fn run_again_at(&mut self, at: Instant) {
        if at > self.now {
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
        }
    }

    fn forget_deleted(&mut self, jobs: &[Object], pods: &[Object]) {
        let known: HashSet<&str> = jobs.iter().chain(pods).map(|object| uid(object)).collect();
        self.clock.since.retain(|uid, _| known.contains(uid.as_str()));
        self.clock.backoffs.retain(|uid, _| known.contains(uid.as_str()));
    }

    /// Stores an event of a component about an object. Names grow with the time, so that a list is in order.
    fn record_event(&mut self, about: &Value, component: &str, reason: &str, message: &str) {
        let id = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let kind = if WARNINGS.contains(&reason) { "Warning" } else { "Normal" };
        let event = json!({
            "metadata": {"name": format!("{}.{id:x}", name(about)), "namespace": namespace(about)},
            "involvedObject": {"apiVersion": about["apiVersion"], "kind": about["kind"], "name": name(about),
                               "namespace": namespace(about), "uid": uid(about)},
            "reason": reason, "message": message, "type": kind, "count": 1, "source": {"component": component},
            "firstTimestamp": store::now(), "lastTimestamp": store::now(),
        });
        // Like Kubernetes' components, the simulator does not depend on its events.
        let _ = write::create(self.store, &Target::collection(&EVENTS, namespace(about)), event, false);
    }
}
