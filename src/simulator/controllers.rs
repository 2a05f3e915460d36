//! What a cluster does by itself: the Job controller, the garbage collector, the scheduler and the nodes. Each looks at
//! all objects and does the next thing; none keeps more than when something began.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::resources::{EVENTS, JOBS, NODES, PODS};
use super::store::{self, Object, Refusal, Store, has_ended, is_going, items, name, namespace, owner, text, uid};
use super::{quota, write};
use crate::kube::quantity::{self, Milli};

/// From a pod's being scheduled to its running: an image that is there already.
const STARTING: Duration = Duration::from_millis(300);

/// From a pod's deletion to its end: a classifier ends at once.
const ENDING: Duration = Duration::from_millis(500);

/// Pause after a pod that the quota refused, doubled each time up to the longest; see client-go's rate limiter and
/// pkg/controller/job.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MOST: Duration = Duration::from_secs(60);

/// Who says what in events.
const JOB: &str = "job-controller";
const SCHEDULER: &str = "default-scheduler";
const KUBELET: &str = "kubelet";
const WARNINGS: [&str; 4] = ["FailedCreate", "BackoffLimitExceeded", "FailedScheduling", "Failed"];

/// Times that are not in the objects, by uid: when a pod came into its phase, when a Job ended or was refused a pod.
#[derive(Default)]
pub struct Clock {
    since: HashMap<String, (String, Instant)>,
    refused: HashMap<String, Refused>,
}

/// A Job whose pod the API refused: how often, when it is tried again, and at which version of the Job it was tried.
struct Refused {
    times: u32,
    again: Instant,
    version: String,
}

/// One look at everything.
pub struct Round<'a> {
    store: &'a mut Store,
    clock: &'a mut Clock,
    now: Instant,
    /// How long a classifier runs.
    job_time: Duration,
    /// When to look again, if nothing happens before.
    due: Option<Instant>,
}

impl<'a> Round<'a> {
    pub fn new(store: &'a mut Store, clock: &'a mut Clock, job_time: Duration) -> Self {
        Self { store, clock, now: Instant::now(), job_time, due: None }
    }

    /// Does all that is to be done now; says when to look again.
    pub fn run(mut self) -> Option<Instant> {
        let jobs: Vec<Object> = self.store.list(&JOBS, "").cloned().collect();
        let mut pods: HashMap<String, Vec<Object>> = HashMap::new();
        for pod in self.store.list(&PODS, "") {
            pods.entry(owner(pod).to_owned()).or_default().push(pod.clone());
        }
        pods.remove("");
        for job in &jobs {
            let pods = pods.remove(uid(job)).unwrap_or_default();
            self.job(job, &pods);
        }
        // Those that are left have lost their Job.
        pods.values().flatten().for_each(|pod| drop(write::delete_pod(self.store, pod, None)));
        self.schedule();
        let pods: Vec<Object> = self.store.list(&PODS, "").cloned().collect();
        pods.iter().for_each(|pod| self.node(pod));
        quota::refresh(self.store);
        self.forget(&jobs, &pods);
        self.due
    }

    /// Whether so much time has passed since this object came into this state.
    fn has_passed(&mut self, object: &Value, state: &str, time: Duration) -> bool {
        let entry = self.clock.since.entry(uid(object).to_owned()).or_insert_with(|| (state.to_owned(), self.now));
        if entry.0 != state {
            *entry = (state.to_owned(), self.now);
        }
        let at = entry.1 + time;
        self.look_at(at);
        at <= self.now
    }

    fn look_at(&mut self, at: Instant) {
        if at > self.now {
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
        }
    }

    fn forget(&mut self, jobs: &[Object], pods: &[Object]) {
        let known: std::collections::HashSet<&str> = jobs.iter().chain(pods).map(|object| uid(object)).collect();
        self.clock.since.retain(|uid, _| known.contains(uid.as_str()));
        self.clock.refused.retain(|uid, _| known.contains(uid.as_str()));
    }

    /// One pod at a time, until one succeeds or too many have failed; parallel Jobs are not played.
    fn job(&mut self, job: &Object, pods: &[Object]) {
        if is_going(job) {
            pods.iter().for_each(|pod| drop(write::delete_pod(self.store, pod, None)));
            if pods.is_empty() {
                self.store.remove(&JOBS, namespace(job), name(job));
            }
            return;
        }
        if !items(&job["status"]["conditions"]).is_empty() {
            let ttl = job["spec"]["ttlSecondsAfterFinished"].as_u64();
            if ttl.is_some_and(|ttl| self.has_passed(job, "finished", Duration::from_secs(ttl))) {
                self.store.remove(&JOBS, namespace(job), name(job));
            }
            return;
        }
        let count = |phase: &str| pods.iter().filter(|pod| text(pod, "/status/phase") == phase).count() as u64;
        let (succeeded, failed) = (count("Succeeded"), count("Failed"));
        let mut active = pods.iter().filter(|pod| !has_ended(pod)).count();
        let is_failed = failed > job["spec"]["backoffLimit"].as_u64().unwrap_or_default();
        if active == 0 && succeeded == 0 && !is_failed && job["spec"]["suspend"] != true {
            active = usize::from(self.start_pod(job, failed));
        }
        let mut status =
            json!({"startTime": job["status"].get("startTime").cloned().unwrap_or_else(|| json!(store::now()))});
        for (key, count) in [("active", active as u64), ("succeeded", succeeded), ("failed", failed)] {
            if count > 0 {
                status[key] = json!(count);
            }
        }
        let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": store::now()});
        if succeeded > 0 {
            status["completionTime"] = json!(store::now());
            status["conditions"] = json!([condition("Complete")]);
            self.say(job, JOB, "Completed", "Job completed");
        } else if is_failed {
            let mut condition = condition("Failed");
            condition["reason"] = json!("BackoffLimitExceeded");
            condition["message"] = json!("Job has reached the specified backoff limit");
            status["conditions"] = json!([condition]);
            self.say(job, JOB, "BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        self.set_status(job, status);
    }

    fn set_status(&mut self, job: &Object, status: Value) {
        if job["status"] != status {
            let mut changed = Value::clone(job);
            changed["status"] = status;
            let changed = self.store.put(&JOBS, changed);
            // Our own change is no reason to try a pod again.
            if let Some(refused) = self.clock.refused.get_mut(uid(job)) {
                refused.version = text(&changed, "/metadata/resourceVersion").to_owned();
            }
        }
    }

    /// Makes a Job's pod, unless it was refused or failed a short time ago.
    fn start_pod(&mut self, job: &Object, failed: u64) -> bool {
        if failed > 0 && !self.has_passed(job, &format!("failed {failed}"), backoff(failed) * 10) {
            return false;
        }
        let version = text(job, "/metadata/resourceVersion");
        if let Some(refused) = self.clock.refused.get(uid(job))
            && refused.version == version
            && refused.again > self.now
        {
            let again = refused.again;
            self.look_at(again);
            return false;
        }
        let refusal = match self.create_pod(job) {
            Ok(pod) => {
                self.clock.refused.remove(uid(job));
                self.say(job, JOB, "SuccessfulCreate", &format!("Created pod: {}", name(&pod)));
                return true;
            }
            Err(refusal) => refusal,
        };
        let times = self.clock.refused.get(uid(job)).map_or(0, |refused| refused.times) + 1;
        let again = self.now + backoff(times.into());
        self.clock.refused.insert(uid(job).to_owned(), Refused { times, again, version: version.to_owned() });
        self.look_at(again);
        self.say(job, JOB, "FailedCreate", &format!("Error creating: {}", refusal.message));
        false
    }

    fn create_pod(&mut self, job: &Object) -> Result<Object, Refusal> {
        let template = &job["spec"]["template"];
        let owner =
            json!({"apiVersion": "batch/v1", "kind": "Job", "name": name(job), "uid": uid(job), "controller": true});
        let metadata = json!({
            "generateName": format!("{}-", name(job)), "namespace": namespace(job), "ownerReferences": [owner],
            "labels": template["metadata"]["labels"], "annotations": template["metadata"]["annotations"],
        });
        write::create(self.store, &PODS, namespace(job), json!({"metadata": metadata, "spec": template["spec"]}), false)
    }

    /// Says in an event what a component did about an object. Names grow with the time, and so events are listed in order.
    fn say(&mut self, about: &Value, component: &str, reason: &str, message: &str) {
        let id = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let kind = if WARNINGS.contains(&reason) { "Warning" } else { "Normal" };
        let event = json!({
            "metadata": {"name": format!("{}.{id:x}", name(about)), "namespace": namespace(about)},
            "involvedObject": {"apiVersion": about["apiVersion"], "kind": about["kind"], "name": name(about),
                               "namespace": namespace(about), "uid": uid(about)},
            "reason": reason, "message": message, "type": kind, "count": 1, "source": {"component": component},
            "firstTimestamp": store::now(), "lastTimestamp": store::now(),
        });
        // There is nobody to tell that nobody can be told.
        let _ = write::create(self.store, &EVENTS, namespace(about), event, false);
    }

    /// Gives pods to nodes with room for their CPU, oldest first.
    fn schedule(&mut self) {
        let mut waiting: Vec<Object> = self.store.list(&PODS, "").filter(|pod| is_unscheduled(pod)).cloned().collect();
        waiting.sort_by_key(|pod| text(pod, "/metadata/creationTimestamp").to_owned());
        if waiting.is_empty() {
            return;
        }
        let mut nodes = self.free();
        for pod in waiting {
            let wanted = quota::of_pod(&pod, "requests", "cpu");
            let fits = |node: &&mut (Object, Milli)| matches_node(&pod, &node.0) && node.1 >= wanted;
            let mut scheduled = Value::clone(&pod);
            // The emptiest, as the scheduler prefers.
            if let Some(node) = nodes.iter_mut().filter(fits).max_by_key(|node| node.1) {
                node.1 -= wanted;
                scheduled["spec"]["nodeName"] = json!(name(&node.0));
                scheduled["status"]["hostIP"] = json!(text(&node.0, "/status/addresses/0/address"));
                scheduled["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
                let message = format!("Successfully assigned {}/{} to {}", namespace(&pod), name(&pod), name(&node.0));
                self.say(&pod, SCHEDULER, "Scheduled", &message);
            } else {
                let (all, busy) = (nodes.len(), nodes.iter().filter(|node| matches_node(&pod, &node.0)).count());
                let mut why = format!("0/{all} nodes are available:");
                for (count, what) in
                    [(busy, "Insufficient cpu"), (all - busy, "node(s) didn't match Pod's node affinity/selector")]
                {
                    if count > 0 {
                        why.push_str(&format!("{} {count} {what}", if why.ends_with(':') { "" } else { "," }));
                    }
                }
                why.push('.');
                let condition =
                    json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why});
                scheduled["status"]["conditions"] = json!([condition]);
                if scheduled != *pod {
                    self.say(&pod, SCHEDULER, "FailedScheduling", &why);
                }
            }
            if scheduled != *pod {
                self.store.put(&PODS, scheduled);
            }
        }
    }

    /// The nodes that take pods, with the CPU that is left on each.
    fn free(&self) -> Vec<(Object, Milli)> {
        let left = |node: &Object| {
            let here = |pod: &&Object| text(pod, "/spec/nodeName") == name(node) && !has_ended(pod);
            let used: Milli =
                self.store.list(&PODS, "").filter(here).map(|pod| quota::of_pod(pod, "requests", "cpu")).sum();
            quantity::parse(text(node, "/status/allocatable/cpu")).unwrap_or_default() - used
        };
        let open = self.store.list(&NODES, "").filter(|node| node["spec"]["unschedulable"] != true);
        open.map(|node| (Object::clone(node), left(node))).collect()
    }

    /// What a pod's node does with it. Pods of the system never end.
    fn node(&mut self, pod: &Object) {
        if text(pod, "/spec/nodeName").is_empty() {
            return;
        }
        if is_going(pod) {
            if self.has_passed(pod, "going", ENDING) {
                self.store.remove(&PODS, namespace(pod), name(pod));
            }
            return;
        }
        let image = text(pod, "/spec/containers/0/image");
        let is_endless = text(pod, "/spec/restartPolicy") == "Always" || image.ends_with(":long");
        match text(pod, "/status/phase") {
            "Pending" if image.ends_with(":missing") => {
                let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {image}: not found");
                if pod["status"]["containerStatuses"].is_null() {
                    self.say(pod, KUBELET, "Failed", &format!("Failed to pull image \"{image}\": {image}: not found"));
                    self.say(pod, KUBELET, "BackOff", &format!("Back-off pulling image \"{image}\""));
                }
                self.set_phase(pod, "Pending", &json!({"waiting": {"reason": "ImagePullBackOff", "message": message}}));
            }
            "Pending" if self.has_passed(pod, "Pending", STARTING) => {
                let container = text(pod, "/spec/containers/0/name");
                let pulled = format!("Container image \"{image}\" already present on machine");
                self.say(pod, KUBELET, "Pulled", &pulled);
                self.say(pod, KUBELET, "Created", &format!("Created container {container}"));
                self.say(pod, KUBELET, "Started", &format!("Started container {container}"));
                self.set_phase(pod, "Running", &json!({"running": {"startedAt": store::now()}}));
            }
            "Running" if !is_endless && self.has_passed(pod, "Running", self.job_time) => {
                let (phase, code, reason) =
                    if image.ends_with(":fails") { ("Failed", 1, "Error") } else { ("Succeeded", 0, "Completed") };
                let started = &pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"];
                let state =
                    json!({"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": store::now()});
                self.set_phase(pod, phase, &json!({ "terminated": state }));
            }
            _ => {}
        }
    }

    fn set_phase(&mut self, pod: &Object, phase: &str, state: &Value) {
        let is_ready = phase == "Running";
        let status = |container: &Value| {
            json!({"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0,
                   "ready": is_ready, "started": is_ready, "state": state})
        };
        let statuses: Vec<Value> = items(&pod["spec"]["containers"]).iter().map(status).collect();
        let mut changed = Value::clone(pod);
        changed["status"]["phase"] = json!(phase);
        changed["status"]["containerStatuses"] = json!(statuses);
        let condition =
            |(kind, holds): (&str, bool)| json!({"type": kind, "status": if holds { "True" } else { "False" }});
        let conditions =
            [("Initialized", true), ("Ready", is_ready), ("ContainersReady", is_ready), ("PodScheduled", true)];
        changed["status"]["conditions"] = json!(conditions.map(condition));
        if changed["status"]["podIP"].is_null() {
            changed["status"]["startTime"] = json!(store::now());
            if is_ready {
                let address = self.address(text(pod, "/spec/nodeName"));
                changed["status"]["podIPs"] = json!([{ "ip": address }]);
                changed["status"]["podIP"] = json!(address);
            }
        }
        if changed != **pod {
            self.store.put(&PODS, changed);
        }
    }

    /// A free address of a node's own network, as the VPC plugin of EKS gives them.
    fn address(&self, node: &str) -> String {
        let node = self.store.list(&NODES, "").find(|found| name(found) == node);
        let network = node.map_or("192.168.0.", |node| text(node, "/metadata/annotations/pods"));
        let used: Vec<&str> = self.store.list(&PODS, "").map(|pod| text(pod, "/status/podIP")).collect();
        let free = (2..=u16::MAX).map(|host| format!("{network}{}.{}", host / 256, host % 256));
        free.into_iter().find(|ip| !used.contains(&ip.as_str())).unwrap_or_default()
    }
}

fn is_unscheduled(pod: &Value) -> bool {
    text(pod, "/spec/nodeName").is_empty() && !is_going(pod) && !has_ended(pod)
}

fn matches_node(pod: &Value, node: &Value) -> bool {
    let wanted = pod["spec"]["nodeSelector"].as_object().into_iter().flatten();
    wanted.into_iter().all(|(key, value)| node["metadata"]["labels"].get(key) == Some(value))
}

fn backoff(times: u64) -> Duration {
    let doublings = u32::try_from(times.saturating_sub(1)).unwrap_or(u32::MAX).min(6);
    (BACKOFF_FIRST * 2u32.pow(doublings)).min(BACKOFF_MOST)
}
