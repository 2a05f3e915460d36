//! The pod of a Job that has left the queue, and the reason why it does not run yet. Pure.

use crate::kube::{ContainerStatus, JobPod};

/// Longest part of a message of Kubernetes in a reason, in characters: its start has the cause.
const MAX_MESSAGE_CHARS: usize = 200;

/// The reason of a pod that only needs time.
pub const CREATING: &str = "its container is being created";

/// An unfinished pod.
pub struct QueuedPod {
    pub name: String,
    pub job: String,
    /// The last list that contained it.
    pub generation: u64,
    pub progress: Progress,
}

/// The progress of an unfinished pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Its container runs, since this time if that is known, RFC 3339.
    Running(Option<String>),
    /// It waits for CPU or its container.
    Starting(String),
    /// It cannot start for a reason that time alone does not resolve.
    Failing(String),
}

impl QueuedPod {
    /// Returns the entry of a watched pod, or `None` for a pod that has ended or has no Job. `previous` is its entry so far.
    pub fn new(pod: JobPod, previous: Option<&Self>, generation: u64) -> Option<Self> {
        if pod.job.is_empty() || !matches!(pod.phase.as_str(), "Pending" | "Running") {
            return None;
        }
        // Between two attempts to pull, the kubelet reports the wait and often not its cause.
        let is_backoff = pod.containers.iter().any(|container| container.waiting == "ImagePullBackOff");
        let known = previous.map(|previous| &previous.progress).filter(|_| is_backoff);
        let progress = match known {
            Some(failing @ Progress::Failing(_)) => failing.clone(),
            _ => progress(&pod),
        };
        Some(Self { name: pod.name, job: pod.job, generation, progress })
    }
}

fn progress(pod: &JobPod) -> Progress {
    if pod.phase == "Running" {
        return Progress::Running(pod.containers.iter().find_map(|container| container.started.clone()));
    }
    if let Some(reason) = pod.containers.iter().find_map(failure) {
        return Progress::Failing(reason);
    }
    Progress::Starting(match pod.unschedulable() {
        Some(message) if message.contains("Insufficient cpu") && pod.cpu.is_empty() => {
            "no node has enough CPU free".to_owned()
        }
        Some(message) if message.contains("Insufficient cpu") => format!("no node has {} CPU free", pod.cpu),
        Some(message) => format!("no node accepts its pod: {}", shortened(message)),
        None => CREATING.to_owned(),
    })
}

/// Returns the reason of a container that cannot start. The words are those of pkg/kubelet/images and
/// pkg/kubelet/kuberuntime of Kubernetes.
fn failure(container: &ContainerStatus) -> Option<String> {
    let ContainerStatus { image, waiting, message, .. } = container;
    Some(match waiting.as_str() {
        "ErrImagePull" | "ImagePullBackOff" if is_missing(message) => format!("image not found: {image}"),
        "ErrImagePull" | "ImagePullBackOff" | "ImageInspectError" | "RegistryUnavailable" => {
            format!("image cannot be pulled: {image}")
        }
        "ErrImageNeverPull" => format!("image is not on the node: {image}"),
        "InvalidImageName" => format!("image name is invalid: {image}"),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            format!("its container cannot be created: {}", shortened(message))
        }
        _ => return None,
    })
}

/// Tests for a registry's response that there is no such image or tag.
fn is_missing(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["not found", "notfound", "manifest unknown"].iter().any(|words| message.contains(words))
}

fn shortened(message: &str) -> String {
    message.chars().take(MAX_MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::WatchedObject;
    use serde_json::{Value, json};

    fn pod(status: &Value, previous: Option<&QueuedPod>) -> Option<QueuedPod> {
        let container = json!({"resources": {"requests": {"cpu": "500m"}}});
        let spec = json!({"containers": [container]});
        let object = json!({"metadata": {"name": "p", "labels": {"job-name": "j"}}, "spec": spec, "status": status});
        QueuedPod::new(JobPod::parse(&object.to_string()).expect("JSON"), previous, 1)
    }

    fn waiting(reason: &str, message: &str) -> Value {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        json!({"phase": "Pending", "containerStatuses": [{"image": "x:1.0", "state": state}]})
    }

    #[test]
    fn a_pending_pod_has_a_reason() {
        let scheduling = |message: &str| {
            let condition =
                json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message});
            json!({"phase": "Pending", "conditions": [condition]})
        };
        let (starting, failing) =
            (|text: &str| Progress::Starting(text.to_owned()), |text: &str| Progress::Failing(text.to_owned()));
        for (status, progress) in [
            (json!({"phase": "Pending"}), starting(CREATING)),
            (waiting("ContainerCreating", ""), starting(CREATING)),
            (scheduling("0/2 nodes are available: 2 Insufficient cpu."), starting("no node has 500m CPU free")),
            (scheduling("0/1 nodes: taint"), starting("no node accepts its pod: 0/1 nodes: taint")),
            (waiting("ErrImagePull", "rpc error: code = NotFound"), failing("image not found: x:1.0")),
            (waiting("ImagePullBackOff", "Back-off: manifest unknown"), failing("image not found: x:1.0")),
            (waiting("ImagePullBackOff", "Back-off pulling image"), failing("image cannot be pulled: x:1.0")),
            (waiting("InvalidImageName", "couldn't parse"), failing("image name is invalid: x:1.0")),
            (waiting("ErrImageNeverPull", ""), failing("image is not on the node: x:1.0")),
            (waiting("CreateContainerError", "no such file"), failing("its container cannot be created: no such file")),
            (json!({"phase": "Running"}), Progress::Running(None)),
        ] {
            assert_eq!(pod(&status, None).map(|pod| pod.progress), Some(progress), "{status}");
        }
        for ended in ["Succeeded", "Failed"] {
            assert!(pod(&json!({ "phase": ended }), None).is_none());
        }
    }

    #[test]
    fn the_cause_of_a_failed_pull_is_kept_during_the_wait_for_the_next() {
        let first = pod(&waiting("ErrImagePull", "not found"), None).expect("it has not ended");
        let backoff = waiting("ImagePullBackOff", "Back-off pulling image");
        let second = pod(&backoff, Some(&first)).expect("it has not ended");
        assert_eq!(second.progress, Progress::Failing("image not found: x:1.0".to_owned()));
    }
}
