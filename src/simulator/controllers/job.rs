//! The Job controller. It runs one pod at a time until one succeeds or too many have failed; parallel Jobs are not simulated.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Reconcile;
use crate::simulator::resources::{JOBS, PODS, Target};
use crate::simulator::status::ApiStatus;
use crate::simulator::store::{
    self, Object, has_condition, has_ended, is_terminating, items, name, namespace, text, uid,
};
use crate::simulator::write;

/// Pause after a quota refusal, doubled up to the maximum; see client-go's rate limiter and pkg/controller/job.
const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// Reasons and messages of failed Jobs.
const BACKOFF_LIMIT: (&str, &str) = ("BackoffLimitExceeded", "Job has reached the specified backoff limit");
const DEADLINE: (&str, &str) = ("DeadlineExceeded", "Job was active longer than specified deadline");

/// The source of its events.
const COMPONENT: &str = "job-controller";

/// The state of a Job whose pod was refused.
pub struct Backoff {
    refusals: u32,
    retry_at: Instant,
    /// The Job's resource version at the last attempt: a change of the Job causes another at once.
    version: String,
}

impl Reconcile<'_> {
    /// Takes the next step for a Job with these pods.
    pub(super) fn reconcile_job(&mut self, job: &Object, pods: &[Object]) {
        if is_terminating(job) {
            pods.iter().for_each(|pod| drop(write::delete_pod(self.store, pod, None)));
            if pods.is_empty() {
                self.store.remove(&JOBS, namespace(job), name(job));
            }
            return;
        }
        if has_condition(job, "Complete") || has_condition(job, "Failed") {
            let ttl = job["spec"]["ttlSecondsAfterFinished"].as_u64();
            if ttl.is_some_and(|ttl| self.has_passed(job, "finished", Duration::from_secs(ttl))) {
                self.store.remove(&JOBS, namespace(job), name(job));
            }
            return;
        }
        let is_suspended = job["spec"]["suspend"] == true;
        let is_overdue = !is_suspended && self.is_overdue(job);
        if is_suspended || is_overdue {
            pods.iter().filter(|pod| !has_ended(pod)).for_each(|pod| drop(write::delete_pod(self.store, pod, None)));
        }
        let count = |phase: &str| pods.iter().filter(|pod| text(pod, "/status/phase") == phase).count() as u64;
        let (succeeded, mut failed) = (count("Succeeded"), count("Failed"));
        let mut active = pods.iter().filter(|pod| !has_ended(pod)).count() as u64;
        let is_failed = failed > job["spec"]["backoffLimit"].as_u64().unwrap_or_default();
        if is_overdue {
            // Their deletion counts as their failure.
            failed += active;
            active = 0;
        } else if active == 0 && succeeded == 0 && !is_failed && !is_suspended {
            active = u64::from(self.start_pod(job, failed));
        }
        let mut status = self.initial_status(job, is_suspended);
        for (key, count) in [("active", active), ("succeeded", succeeded), ("failed", failed)] {
            if count > 0 {
                status[key] = json!(count);
            }
        }
        match (succeeded > 0, is_failed, is_overdue) {
            (true, ..) => self.finish_job(job, &mut status, None),
            (_, true, _) => self.finish_job(job, &mut status, Some(BACKOFF_LIMIT)),
            (.., true) => self.finish_job(job, &mut status, Some(DEADLINE)),
            _ => {}
        }
        self.set_job_status(job, status);
    }

    /// Returns the status of a Job that has not finished, without its counts. The start of a suspended Job is that of its resumption.
    fn initial_status(&mut self, job: &Object, is_suspended: bool) -> Value {
        let mut status = json!({});
        if !is_suspended {
            status["startTime"] = job["status"].get("startTime").cloned().unwrap_or_else(|| json!(store::now()));
        }
        if let Some(conditions) = job["status"].get("conditions") {
            status["conditions"] = conditions.clone();
        }
        if is_suspended != has_condition(job, "Suspended") {
            let (value, word) = if is_suspended { ("True", "Suspended") } else { ("False", "Resumed") };
            let (reason, message) = (format!("Job{word}"), format!("Job {}", word.to_lowercase()));
            status["conditions"] = json!([{"type": "Suspended", "status": value, "lastTransitionTime": store::now(),
                                           "reason": reason, "message": message}]);
            self.record_event(job, COMPONENT, word, &message);
        }
        status
    }

    /// Adds the final condition to a Job's status. `failure` is (reason, message).
    fn finish_job(&mut self, job: &Object, status: &mut Value, failure: Option<(&str, &str)>) {
        let now = store::now();
        let Some((reason, message)) = failure else {
            status["completionTime"] = json!(now);
            let complete = json!({"type": "Complete", "status": "True", "lastTransitionTime": now});
            push_condition(status, complete);
            return self.record_event(job, COMPONENT, "Completed", "Job completed");
        };
        let failed = json!({"type": "Failed", "status": "True", "lastTransitionTime": now, "reason": reason, "message": message});
        push_condition(status, failed);
        self.record_event(job, COMPONENT, reason, message);
    }

    fn set_job_status(&mut self, job: &Object, status: Value) {
        if job["status"] != status {
            let mut changed = Value::clone(job);
            changed["status"] = status;
            let changed = self.store.put(&JOBS, changed);
            // The controller's own change must not cause another attempt.
            if let Some(backoff) = self.clock.backoffs.get_mut(uid(job)) {
                backoff.version = text(&changed, "/metadata/resourceVersion").to_owned();
            }
        }
    }

    /// Creates a Job's pod unless a refusal or a failed pod delays it. Returns true if the pod exists.
    fn start_pod(&mut self, job: &Object, failed: u64) -> bool {
        if failed > 0 && !self.has_passed(job, &format!("failed {failed}"), backoff(failed) * 10) {
            return false;
        }
        let version = text(job, "/metadata/resourceVersion");
        if let Some(backoff) = self.clock.backoffs.get(uid(job))
            && backoff.version == version
            && backoff.retry_at > self.now
        {
            let retry_at = backoff.retry_at;
            self.run_again_at(retry_at);
            return false;
        }
        let refusal = match self.create_pod(job) {
            Ok(pod) => {
                self.clock.backoffs.remove(uid(job));
                self.record_event(job, COMPONENT, "SuccessfulCreate", &format!("Created pod: {}", name(&pod)));
                return true;
            }
            Err(status) => status,
        };
        let refusals = self.clock.backoffs.get(uid(job)).map_or(0, |backoff| backoff.refusals) + 1;
        let retry_at = self.now + backoff(refusals.into());
        self.clock.backoffs.insert(uid(job).to_owned(), Backoff { refusals, retry_at, version: version.to_owned() });
        self.run_again_at(retry_at);
        self.record_event(job, COMPONENT, "FailedCreate", &format!("Error creating: {}", refusal.message));
        false
    }

    fn create_pod(&mut self, job: &Object) -> Result<Object, ApiStatus> {
        let template = &job["spec"]["template"];
        let owner = json!({"apiVersion": "batch/v1", "kind": "Job", "name": name(job), "uid": uid(job), "controller": true,
                           "blockOwnerDeletion": true});
        let metadata = json!({
            "generateName": format!("{}-", name(job)), "namespace": namespace(job), "ownerReferences": [owner],
            "labels": template["metadata"]["labels"], "annotations": template["metadata"]["annotations"],
        });
        let pod = json!({"metadata": metadata, "spec": template["spec"]});
        write::create(self.store, &Target::collection(&PODS, namespace(job)), pod, false)
    }
}

fn push_condition(status: &mut Value, condition: Value) {
    let mut conditions = items(&status["conditions"]).to_vec();
    conditions.push(condition);
    status["conditions"] = json!(conditions);
}

fn backoff(times: u64) -> Duration {
    let doublings = u32::try_from(times.saturating_sub(1)).unwrap_or(u32::MAX).min(6);
    (INITIAL_BACKOFF * 2u32.pow(doublings)).min(MAX_BACKOFF)
}
