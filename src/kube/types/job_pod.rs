//! The fields of a Job's pod that this program reads.

use crate::kube::types::job::item;
use crate::kube::types::watched::WatchedObject;

/// A pod of a Job, with what keeps it from running and what ended it.
#[derive(Debug, Clone, Default)]
pub struct JobPod {
    pub name: String,
    /// metadata.resourceVersion
    pub version: String,
    /// The name of its Job; empty for a pod without one.
    pub job: String,
    /// The uid of its Job.
    pub job_uid: String,
    /// metadata.creationTimestamp, RFC 3339 in whole seconds of UTC
    pub created: String,
    /// metadata.deletionTimestamp is set.
    pub is_being_deleted: bool,
    /// spec.nodeName; empty until the pod is scheduled.
    pub node: String,
    /// spec.activeDeadlineSeconds; empty if there is none.
    pub deadline: String,
    /// status.phase
    pub phase: String,
    /// status.reason and status.message, such as those of an eviction; empty for most pods.
    pub reason: String,
    pub message: String,
    /// The CPU request of its only container; empty if it has none or several have one.
    pub cpu: String,
    pub containers: Vec<ContainerStatus>,
    conditions: Vec<PodCondition>,
}

/// The status of a container.
#[derive(Debug, Clone, Default)]
pub struct ContainerStatus {
    pub image: String,
    /// The reason why it waits, such as `ErrImagePull`; empty once it has started.
    pub waiting: String,
    /// The kubelet's message for `waiting`.
    pub message: String,
    /// The start of the running or ended container, RFC 3339.
    pub started: Option<String>,
    /// The end, of a container that has ended.
    pub terminated: Option<Terminated>,
}

/// The end of a container.
#[derive(Debug, Clone, Default)]
pub struct Terminated {
    pub exit_code: Option<i32>,
    /// Such as `Completed`, `Error` or `OOMKilled`.
    pub reason: String,
    /// The termination message, or the runtime's error.
    pub message: String,
}

#[derive(Debug, Clone, Default)]
struct PodCondition {
    kind: String,
    reason: String,
    message: String,
}

impl JobPod {
    /// Returns the scheduler's message on a pod that fits on no node.
    pub fn unschedulable(&self) -> Option<&str> {
        let is_unschedulable =
            |condition: &&PodCondition| condition.kind == "PodScheduled" && condition.reason == "Unschedulable";
        self.conditions.iter().find(is_unschedulable).map(|condition| condition.message.as_str())
    }
}

impl WatchedObject for JobPod {
    fn set(&mut self, path: &[&str], leaf: &str) {
        let text = || leaf.to_owned();
        match path {
            ["metadata", "name"] => self.name = text(),
            ["metadata", "resourceVersion"] => self.version = text(),
            // Newer servers set a second label, batch.kubernetes.io/job-name, to the same name.
            ["metadata", "labels", "job-name"] => self.job = text(),
            ["spec", "containers", "0", "resources", "requests", "cpu"] => self.cpu = text(),
            ["spec", "containers", _, "resources", "requests", "cpu"] => self.cpu.clear(),
            ["metadata", "ownerReferences", "0", "uid"] => self.job_uid = text(),
            ["metadata", "creationTimestamp"] => self.created = text(),
            ["metadata", "deletionTimestamp"] => self.is_being_deleted = true,
            ["spec", "nodeName"] => self.node = text(),
            ["spec", "activeDeadlineSeconds"] => self.deadline = text(),
            ["status", "phase"] => self.phase = text(),
            ["status", "reason"] => self.reason = text(),
            ["status", "message"] => self.message = text(),
            ["status", "conditions", index, "type"] => item(&mut self.conditions, index).kind = text(),
            ["status", "conditions", index, "reason"] => item(&mut self.conditions, index).reason = text(),
            ["status", "conditions", index, "message"] => item(&mut self.conditions, index).message = text(),
            ["status", "containerStatuses", index, rest @ ..] => {
                let container = item(&mut self.containers, index);
                match rest {
                    ["image"] => container.image = text(),
                    ["state", "waiting", "reason"] => container.waiting = text(),
                    ["state", "waiting", "message"] => container.message = text(),
                    ["state", "running" | "terminated", "startedAt"] => container.started = Some(text()),
                    ["state", "terminated", field] => {
                        let terminated = container.terminated.get_or_insert_default();
                        match *field {
                            "exitCode" => terminated.exit_code = leaf.parse().ok(),
                            "reason" => terminated.reason = text(),
                            "message" => terminated.message = text(),
                            _ => {}
                        }
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        &self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_read_with_what_keeps_it_from_running() {
        let text = r#"{"metadata":{"name":"p","resourceVersion":"7","labels":{"job-name":"j"}},
            "spec":{"containers":[{"resources":{"requests":{"cpu":"900m"}}}]},"status":{"phase":"Pending",
            "conditions":[{"type":"Ready","reason":"x"},{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"m"}],
            "containerStatuses":[{"image":"i","state":{"waiting":{"reason":"ErrImagePull","message":"not found"}}},
                                 {"state":{"running":{"startedAt":"2026-01-01T00:00:00Z"}}}]}}"#;
        let pod = JobPod::parse(text).expect("a pod");
        assert_eq!((pod.name(), pod.version(), pod.job.as_str(), pod.phase.as_str()), ("p", "7", "j", "Pending"));
        assert_eq!((pod.unschedulable(), pod.cpu.as_str()), (Some("m"), "900m"));
        let first = &pod.containers[0];
        assert_eq!(
            (first.image.as_str(), first.waiting.as_str(), first.message.as_str()),
            ("i", "ErrImagePull", "not found")
        );
        assert_eq!(pod.containers[1].started.as_deref(), Some("2026-01-01T00:00:00Z"));
        assert_eq!(JobPod::parse(r#"{"metadata":{},"status":null}"#).expect("a pod").unschedulable(), None);
        let both = r#"{"spec":{"containers":[{"resources":{"requests":{"cpu":"1"}}},{"resources":{"requests":{"cpu":"1"}}}]}}"#;
        assert_eq!(JobPod::parse(both).expect("a pod").cpu, "");
    }
}
