//! The record of a Job's pod: its progress, the reason why it does not run yet, and its end. Pure.

use serde_json::Value;

use crate::kube::{ContainerStatus, JobPod};

/// Longest part of a message of Kubernetes in a reason, in characters: its start has the cause.
const MAX_MESSAGE_CHARS: usize = 200;

/// The reason of a pod that only needs time.
pub const CREATING: &str = "its container is being created";

/// A pod of a Job.
#[derive(Debug, Clone, PartialEq)]
pub struct PodRecord {
    /// The name and the uid of its Job.
    pub job: Box<str>,
    pub job_uid: Box<str>,
    /// RFC 3339
    pub created: Box<str>,
    pub node: Option<Box<str>>,
    /// The start of its container, RFC 3339.
    pub started: Option<Box<str>>,
    pub progress: Progress,
    /// Kubernetes waits for its node to end it.
    pub is_being_deleted: bool,
    /// Kubernetes has deleted it; the record stays for its Job.
    pub is_deleted: bool,
    pub exit_code: Option<i32>,
    /// From 0 to 1, from the termination message.
    pub accuracy: Option<f64>,
}

/// The progress of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It has ended, for this reason unless it succeeded.
    Ended(Option<String>),
    /// It waits for CPU or its container.
    Starting(String),
    /// It cannot start for a reason that time alone does not resolve.
    Failing(String),
    /// Its container runs.
    Running,
}

impl PodRecord {
    /// Returns the record of a pod. `previous` is its record so far.
    pub fn new(pod: &JobPod, previous: Option<&Self>) -> Self {
        // Between two attempts to pull, the kubelet reports the wait and often not its cause.
        let is_backoff =
            pod.phase == "Pending" && pod.containers.iter().any(|container| container.waiting == "ImagePullBackOff");
        let known = previous.map(|previous| &previous.progress).filter(|_| is_backoff);
        let progress = match known {
            Some(failing @ Progress::Failing(_)) => failing.clone(),
            _ => progress(pod),
        };
        let terminated = pod.containers.iter().find_map(|container| container.terminated.as_ref());
        Self {
            job: pod.job.as_str().into(),
            job_uid: pod.job_uid.as_str().into(),
            created: pod.created.as_str().into(),
            node: Some(pod.node.as_str()).filter(|node| !node.is_empty()).map(Into::into),
            started: pod.containers.iter().find_map(|container| container.started.as_deref()).map(Into::into),
            progress,
            is_being_deleted: pod.is_being_deleted,
            is_deleted: false,
            exit_code: terminated.and_then(|terminated| terminated.exit_code),
            accuracy: terminated.and_then(|terminated| accuracy(&terminated.message)),
        }
    }

    /// The pod with the highest rank decides, where a Job has several: one that is to go on, then one that has succeeded, then the
    /// newest.
    pub fn rank(&self) -> (u8, &str) {
        let rank = match self.progress {
            Progress::Running if !self.is_over() => 4,
            _ if !self.is_over() => 3,
            Progress::Ended(None) => 2,
            _ => 1,
        };
        (rank, &self.created)
    }

    /// Tests for a pod that has ended, or will without a result.
    pub fn is_over(&self) -> bool {
        self.is_being_deleted || matches!(self.progress, Progress::Ended(_))
    }
}

fn progress(pod: &JobPod) -> Progress {
    match pod.phase.as_str() {
        "Running" => Progress::Running,
        "Succeeded" => Progress::Ended(None),
        "Failed" => Progress::Ended(Some(end(pod))),
        _ => match pod.containers.iter().find_map(failure) {
            Some(reason) => Progress::Failing(reason),
            None => Progress::Starting(wait(pod)),
        },
    }
}

/// Returns the reason of a pod that waits.
fn wait(pod: &JobPod) -> String {
    match pod.unschedulable() {
        Some(message) if message.contains("Insufficient cpu") && pod.cpu.is_empty() => {
            "no node has enough CPU free".to_owned()
        }
        Some(message) if message.contains("Insufficient cpu") => format!("no node has {} CPU free", pod.cpu),
        Some(message) => format!("no node accepts its pod: {}", shortened(message)),
        None => CREATING.to_owned(),
    }
}

/// Returns the reason of a failed pod. The words of `status.reason` are those of pkg/kubelet of Kubernetes.
fn end(pod: &JobPod) -> String {
    let terminated = pod.containers.iter().find_map(|container| container.terminated.as_ref());
    match (pod.reason.as_str(), terminated) {
        ("DeadlineExceeded", _) => format!("ran longer than {} s", pod.deadline),
        ("Evicted", _) => format!("evicted from its node: {}", shortened(&pod.message)),
        ("NodeLost" | "NodeShutdown" | "Shutdown" | "Terminated", _) => "its node was lost or shut down".to_owned(),
        (_, Some(end)) if end.reason == "OOMKilled" => "killed: out of memory".to_owned(),
        (_, Some(end)) if matches!(end.reason.as_str(), "StartError" | "ContainerCannotRun") => {
            format!("its container cannot be created: {}", shortened(&end.message))
        }
        (_, Some(end)) if end.exit_code.is_some() => format!("exit code {}", end.exit_code.unwrap_or_default()),
        ("", _) => "its pod failed".to_owned(),
        _ => format!("its node rejected it: {}", shortened(&pod.message)),
    }
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

/// Returns the accuracy in a termination message, which classify.py writes as `{"accuracy":0.978}`.
fn accuracy(message: &str) -> Option<f64> {
    let message: Value = serde_json::from_str(message).ok()?;
    message["accuracy"].as_f64().filter(|accuracy| (0.0..=1.0).contains(accuracy))
}

fn shortened(message: &str) -> String {
    message.chars().take(MAX_MESSAGE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::WatchedObject;
    use serde_json::json;

    fn pod(status: &Value, previous: Option<&PodRecord>) -> PodRecord {
        let container = json!({"resources": {"requests": {"cpu": "500m"}}});
        let spec = json!({"containers": [container], "activeDeadlineSeconds": 1800, "nodeName": "n"});
        let object = json!({"metadata": {"name": "p", "labels": {"job-name": "j"}}, "spec": spec, "status": status});
        PodRecord::new(&JobPod::parse(&object.to_string()).expect("JSON"), previous)
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
            (json!({"phase": "Running"}), Progress::Running),
            (json!({"phase": "Succeeded"}), Progress::Ended(None)),
        ] {
            assert_eq!(pod(&status, None).progress, progress, "{status}");
        }
    }

    #[test]
    fn a_failed_pod_has_a_reason() {
        let ended = |reason: &str, code: i32, message: &str| {
            let terminated = json!({"reason": reason, "exitCode": code, "message": message,
                                    "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:00Z"});
            json!({"phase": "Failed", "containerStatuses": [{"image": "x:1.0", "state": {"terminated": terminated}}]})
        };
        let with = |mut status: Value, reason: &str, message: &str| {
            (status["reason"], status["message"]) = (json!(reason), json!(message));
            status
        };
        for (status, reason) in [
            (ended("Error", 1, "Traceback"), "exit code 1"),
            (ended("OOMKilled", 137, ""), "killed: out of memory"),
            (ended("StartError", 128, "exec: no such file"), "its container cannot be created: exec: no such file"),
            (
                with(ended("Error", 137, ""), "DeadlineExceeded", "Pod was active on the node longer"),
                "ran longer than 1800 s",
            ),
            (
                with(json!({"phase": "Failed"}), "Evicted", "The node was low on resource: memory."),
                "evicted from its node: The node was low on resource: memory.",
            ),
            (with(json!({"phase": "Failed"}), "NodeShutdown", "x"), "its node was lost or shut down"),
            (
                with(json!({"phase": "Failed"}), "OutOfcpu", "Node didn't have"),
                "its node rejected it: Node didn't have",
            ),
            (json!({"phase": "Failed"}), "its pod failed"),
        ] {
            assert_eq!(pod(&status, None).progress, Progress::Ended(Some(reason.to_owned())), "{status}");
        }
        let record = pod(&ended("Completed", 0, r#"{"accuracy":0.978}"#), None);
        assert_eq!((record.exit_code, record.accuracy), (Some(0), Some(0.978)));
        assert_eq!((record.started.as_deref(), record.node.as_deref()), (Some("2026-01-01T00:00:00Z"), Some("n")));
        for message in ["", "0.9", r#"{"accuracy":1.1}"#, r#"{"accuracy":"0.9"}"#, r#"{"accuracy":0.9"#] {
            assert_eq!(pod(&ended("Completed", 0, message), None).accuracy, None, "{message}");
        }
    }

    #[test]
    fn the_cause_of_a_failed_pull_is_kept_during_the_wait_for_the_next() {
        let first = pod(&waiting("ErrImagePull", "not found"), None);
        let backoff = waiting("ImagePullBackOff", "Back-off pulling image");
        let second = pod(&backoff, Some(&first));
        assert_eq!(second.progress, Progress::Failing("image not found: x:1.0".to_owned()));
        let mut overdue = backoff;
        (overdue["phase"], overdue["reason"]) = (json!("Failed"), json!("DeadlineExceeded"));
        let reason = Some("ran longer than 1800 s".to_owned());
        assert_eq!(pod(&overdue, Some(&second)).progress, Progress::Ended(reason));
    }
}
