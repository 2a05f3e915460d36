//! The scheduler: it assigns pods to nodes with enough free CPU, oldest first.

use serde_json::{Value, json};

use super::Reconcile;
use crate::kube::quantity::{self, Milli};
use crate::simulator::quota;
use crate::simulator::resources::{NODES, PODS};
use crate::simulator::store::{Object, has_ended, is_terminating, name, namespace, text};

/// The source of its events.
const COMPONENT: &str = "default-scheduler";

impl Reconcile<'_> {
    /// Schedules all pods without a node.
    pub(super) fn schedule(&mut self) {
        let mut waiting: Vec<Object> = self.store.list(&PODS, "").filter(|pod| is_unscheduled(pod)).cloned().collect();
        waiting.sort_by_key(|pod| text(pod, "/metadata/creationTimestamp").to_owned());
        if waiting.is_empty() {
            return;
        }
        let mut nodes = self.nodes();
        for pod in waiting {
            let requested = quota::pod_amount(&pod, "requests", "cpu");
            let fits = |node: &&mut (Object, Milli)| matches_node(&pod, &node.0) && node.1 >= requested;
            // Like Kubernetes' scheduler, it prefers the node with the most free CPU.
            if let Some((node, free)) = nodes.iter_mut().filter(fits).max_by_key(|node| node.1) {
                *free -= requested;
                self.bind(&pod, node);
            } else {
                self.set_unschedulable(&pod, &reason(&pod, &nodes));
            }
        }
    }

    /// Returns the schedulable nodes and the free CPU of each.
    fn nodes(&self) -> Vec<(Object, Milli)> {
        let free = |node: &Object| {
            let here = |pod: &&Object| text(pod, "/spec/nodeName") == name(node) && !has_ended(pod);
            let used: Milli =
                self.store.list(&PODS, "").filter(here).map(|pod| quota::pod_amount(pod, "requests", "cpu")).sum();
            quantity::parse(text(node, "/status/allocatable/cpu")).unwrap_or_default() - used
        };
        let schedulable = self.store.list(&NODES, "").filter(|node| node["spec"]["unschedulable"] != true);
        schedulable.map(|node| (Object::clone(node), free(node))).collect()
    }

    fn bind(&mut self, pod: &Object, node: &Object) {
        let mut scheduled = Value::clone(pod);
        scheduled["spec"]["nodeName"] = json!(name(node));
        scheduled["status"]["hostIP"] = json!(text(node, "/status/addresses/0/address"));
        scheduled["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
        let message = format!("Successfully assigned {}/{} to {}", namespace(pod), name(pod), name(node));
        self.record_event(pod, COMPONENT, "Scheduled", &message);
        self.store.put(&PODS, scheduled);
    }

    fn set_unschedulable(&mut self, pod: &Object, message: &str) {
        let condition =
            json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
        let mut unscheduled = Value::clone(pod);
        unscheduled["status"]["conditions"] = json!([condition]);
        if unscheduled != **pod {
            self.record_event(pod, COMPONENT, "FailedScheduling", message);
            self.store.put(&PODS, unscheduled);
        }
    }
}

/// Returns the reason why no node fits, in Kubernetes' words.
fn reason(pod: &Value, nodes: &[(Object, Milli)]) -> String {
    let (all, busy) = (nodes.len(), nodes.iter().filter(|(node, _)| matches_node(pod, node)).count());
    let causes = [(busy, "Insufficient cpu"), (all - busy, "node(s) didn't match Pod's node affinity/selector")];
    let causes = causes.iter().filter(|(count, _)| *count > 0).map(|(count, cause)| format!(" {count} {cause}"));
    format!("0/{all} nodes are available:{}.", causes.collect::<Vec<_>>().join(","))
}

fn is_unscheduled(pod: &Value) -> bool {
    text(pod, "/spec/nodeName").is_empty() && !is_terminating(pod) && !has_ended(pod)
}

fn matches_node(pod: &Value, node: &Value) -> bool {
    let selector = pod["spec"]["nodeSelector"].as_object().into_iter().flatten();
    selector.into_iter().all(|(key, value)| node["metadata"]["labels"].get(key) == Some(value))
}
