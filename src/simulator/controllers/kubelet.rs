//! The kubelets: they take a scheduled pod through its phases.

use std::time::Duration;

use serde_json::{Value, json};

use super::Reconcile;
use crate::simulator::resources::{NODES, PODS};
use crate::simulator::store::{self, Object, is_terminating, items, name, namespace, text};
use crate::simulator::training;

/// Time from a pod's scheduling to its start: the image is already on the node.
const START_TIME: Duration = Duration::from_millis(300);

/// Time from a pod's deletion to its end: a classifier ends at once.
const STOP_TIME: Duration = Duration::from_millis(500);

/// Exit code of a classifier that SIGTERM ends.
const EXIT_SIGTERM: u8 = 143;

/// The source of their events.
const COMPONENT: &str = "kubelet";

impl Reconcile<'_> {
    /// Takes the next step for a pod. Pods of the system never end.
    pub(super) fn reconcile_pod(&mut self, pod: &Object) {
        if text(pod, "/spec/nodeName").is_empty() {
            return;
        }
        if is_terminating(pod) {
            if self.has_passed(pod, "terminating", STOP_TIME) {
                self.store.remove(&PODS, namespace(pod), name(pod));
            }
            return;
        }
        let image = text(pod, "/spec/containers/0/image");
        let is_endless = text(pod, "/spec/restartPolicy") == "Always" || image.ends_with(":long");
        match text(pod, "/status/phase") {
            "Pending" | "Running" if self.is_overdue(pod) => self.fail_overdue(pod),
            "Pending" if image.ends_with(":missing") => self.fail_pull(pod, image),
            "Pending" if self.has_passed(pod, "Pending", START_TIME) => self.start_container(pod, image),
            "Running" if !is_endless && self.has_passed(pod, "Running", self.job_time) => {
                self.end_container(pod, !image.ends_with(":fails"));
            }
            _ => {}
        }
    }

    fn fail_overdue(&mut self, pod: &Object) {
        let message = "Pod was active on the node longer than the specified deadline";
        self.record_event(pod, COMPONENT, "DeadlineExceeded", message);
        let mut failed = if text(pod, "/status/phase") == "Running" {
            self.with_phase(pod, "Failed", &self.terminated(pod, EXIT_SIGTERM))
        } else {
            Value::clone(pod)
        };
        failed["status"]["phase"] = json!("Failed");
        failed["status"]["reason"] = json!("DeadlineExceeded");
        failed["status"]["message"] = json!(message);
        self.store.put(&PODS, failed);
    }

    fn fail_pull(&mut self, pod: &Object, image: &str) {
        if pod["status"]["containerStatuses"].is_null() {
            let failed = format!("Failed to pull image \"{image}\": {image}: not found");
            self.record_event(pod, COMPONENT, "Failed", &failed);
            self.record_event(pod, COMPONENT, "BackOff", &format!("Back-off pulling image \"{image}\""));
        }
        let message = format!("Back-off pulling image \"{image}\": ErrImagePull: {image}: not found");
        self.set_phase(pod, "Pending", &json!({"waiting": {"reason": "ImagePullBackOff", "message": message}}));
    }

    fn start_container(&mut self, pod: &Object, image: &str) {
        let container = text(pod, "/spec/containers/0/name");
        let pulled = format!("Container image \"{image}\" already present on machine");
        self.record_event(pod, COMPONENT, "Pulled", &pulled);
        self.record_event(pod, COMPONENT, "Created", &format!("Created container {container}"));
        self.record_event(pod, COMPONENT, "Started", &format!("Started container {container}"));
        self.set_phase(pod, "Running", &json!({"running": {"startedAt": store::now()}}));
    }

    fn end_container(&mut self, pod: &Object, is_success: bool) {
        let (phase, code) = if is_success { ("Succeeded", 0) } else { ("Failed", 1) };
        self.set_phase(pod, phase, &self.terminated(pod, code));
    }

    /// Returns the state of a pod's container that ends now.
    fn terminated(&self, pod: &Object, code: u8) -> Value {
        let reason = if code == 0 { "Completed" } else { "Error" };
        let started = &pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"];
        let state = json!({"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": store::now()});
        let mut state = json!({ "terminated": state });
        if let Some(message) = training::termination_message(pod, &state, self.job_time) {
            state["terminated"]["message"] = json!(message);
        }
        state
    }

    fn set_phase(&mut self, pod: &Object, phase: &str, state: &Value) {
        let changed = self.with_phase(pod, phase, state);
        if changed != **pod {
            self.store.put(&PODS, changed);
        }
    }

    /// Returns a pod in this phase, with this state of its containers.
    fn with_phase(&self, pod: &Object, phase: &str, state: &Value) -> Value {
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
            |(kind, is_true): (&str, bool)| json!({"type": kind, "status": if is_true { "True" } else { "False" }});
        let conditions =
            [("Initialized", true), ("Ready", is_ready), ("ContainersReady", is_ready), ("PodScheduled", true)];
        changed["status"]["conditions"] = json!(conditions.map(condition));
        if changed["status"]["startTime"].is_null() {
            changed["status"]["startTime"] = json!(store::now());
        }
        if is_ready && changed["status"]["podIP"].is_null() {
            let address = self.free_address(text(pod, "/spec/nodeName"));
            changed["status"]["podIPs"] = json!([{ "ip": address }]);
            changed["status"]["podIP"] = json!(address);
        }
        changed
    }

    /// Returns a free address of a node's own network, as the VPC plugin of EKS assigns them.
    fn free_address(&self, node: &str) -> String {
        let node = self.store.list(&NODES, "").find(|found| name(found) == node);
        let network = node.map_or("192.168.0.", |node| text(node, "/metadata/annotations/pods"));
        let used: Vec<&str> = self.store.list(&PODS, "").map(|pod| text(pod, "/status/podIP")).collect();
        let free = (2..=u16::MAX).map(|host| format!("{network}{}.{}", host / 256, host % 256));
        free.into_iter().find(|ip| !used.contains(&ip.as_str())).unwrap_or_default()
    }
}
