//! The state of a Job and its reason, from its record and its pod's. Pure.

use crate::state::pod_record::{CREATING, PodRecord, Progress};
use crate::state::tier_jobs::{JobPhase, JobRecord};

/// The state of a Job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has no pod: the quota has no room.
    Queued,
    /// Its pod waits for CPU, the image or the container.
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl State {
    pub const ALL: [Self; 5] = [Self::Queued, Self::Pending, Self::Running, Self::Succeeded, Self::Failed];

    /// Returns the state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// The state of a Job, with its reason and its results.
#[derive(Debug, PartialEq)]
pub struct JobStatus<'a> {
    pub state: State,
    /// `None` while it runs, after a success, and for a queued Job, whose reason is its place in the queue.
    pub reason: Option<String>,
    /// The start of its container, RFC 3339.
    pub started: Option<&'a str>,
    /// RFC 3339
    pub finished: Option<&'a str>,
    pub node: Option<&'a str>,
    pub exit_code: Option<i32>,
    pub accuracy: Option<f64>,
}

/// Returns the state of a Job. The Job's own condition decides on its end, since a pod may be replaced; but the end of the pod, which has
/// the reason and the accuracy, may arrive a moment later.
pub fn state(job: &JobRecord, pod: Option<&PodRecord>) -> State {
    let is_over = pod.is_none_or(PodRecord::is_over);
    match (&job.phase, pod.map(|pod| &pod.progress)) {
        (JobPhase::Ended { failure: None, .. }, _) if is_over => State::Succeeded,
        (JobPhase::Ended { failure: Some(_), .. }, _) if is_over => State::Failed,
        // A pod that its node lost or evicted is replaced once the quota has room.
        (JobPhase::Waiting | JobPhase::Suspended, _) if is_over => State::Queued,
        (_, Some(Progress::Running | Progress::Ended(_))) => State::Running,
        (_, Some(Progress::Starting(_) | Progress::Failing(_)) | None) => State::Pending,
    }
}

/// Returns the state of a Job with its reason and its results.
pub fn status<'a>(job: &'a JobRecord, pod: Option<&'a PodRecord>) -> JobStatus<'a> {
    let state = state(job, pod);
    let pod = pod.filter(|_| state != State::Queued);
    let reason = match (state, pod.map(|pod| &pod.progress), &job.phase) {
        (State::Queued, _, JobPhase::Suspended) => Some("held back by another program (spec.suspend)".to_owned()),
        (State::Queued | State::Running | State::Succeeded, ..) => None,
        (State::Failed, Some(Progress::Ended(Some(reason))), _)
        | (State::Pending, Some(Progress::Starting(reason) | Progress::Failing(reason)), _) => Some(reason.clone()),
        (State::Pending, ..) => Some(CREATING.to_owned()),
        (State::Failed, Some(_), _) => Some("its pod was deleted, or its node was lost".to_owned()),
        (State::Failed, None, JobPhase::Ended { failure: Some(failure), .. }) if &**failure == "DeadlineExceeded" => {
            Some("ran longer than its deadline".to_owned())
        }
        (State::Failed, None, _) => Some("its pod failed and is gone".to_owned()),
    };
    let finished = match &job.phase {
        JobPhase::Ended { at, .. } if matches!(state, State::Succeeded | State::Failed) => at.as_deref(),
        _ => None,
    };
    JobStatus {
        state,
        reason,
        started: pod.and_then(|pod| pod.started.as_deref()),
        finished,
        node: pod.and_then(|pod| pod.node.as_deref()),
        exit_code: pod.and_then(|pod| pod.exit_code),
        accuracy: pod.and_then(|pod| pod.accuracy).filter(|_| state == State::Succeeded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Dataset, Tier};
    use crate::kube::{Job, JobPod, WatchEvent, WatchedObject};
    use crate::state::tier_jobs::TierJobs;
    use serde_json::Value;
    use std::time::Instant;

    fn job(phase: JobPhase) -> JobRecord {
        JobRecord { uid: "u".into(), created: "t".into(), dataset: Dataset::Mnist, phase }
    }

    fn pod(progress: Progress, is_being_deleted: bool) -> PodRecord {
        PodRecord {
            job: "j".into(),
            job_uid: "u".into(),
            created: "t".into(),
            node: Some("n".into()),
            started: Some("t".into()),
            progress,
            is_being_deleted,
            is_deleted: false,
            exit_code: Some(0),
            accuracy: Some(0.5),
        }
    }

    fn of(phase: JobPhase, progress: Option<Progress>) -> (State, Option<String>) {
        let (job, pod) = (job(phase), progress.map(|progress| pod(progress, false)));
        let status = status(&job, pod.as_ref());
        assert_eq!(status.accuracy.is_some(), status.state == State::Succeeded && pod.is_some());
        assert_eq!(status.finished.is_some(), matches!(status.state, State::Succeeded | State::Failed));
        assert_eq!(status.node.is_some(), status.state != State::Queued && pod.is_some());
        (status.state, status.reason)
    }

    /// Returns the state and the reason of a Job and its pod as a Kubernetes 1.20 with the containers of tests/cluster returned them.
    fn of_recorded(file: &str) -> (&'static str, Option<String>) {
        let path = format!("{}/src/state/recorded/{file}.json", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).expect(&path);
        let recorded: Value = serde_json::from_str(&text).expect("JSON");
        let mut tier = TierJobs::new(Tier::Premium);
        let job = Job::parse(&recorded["job"].to_string()).expect("a Job");
        tier.apply_job(&WatchEvent::Apply(job), Instant::now());
        let pod = JobPod::parse(&recorded["pod"].to_string()).expect("a pod");
        tier.apply_pod(&WatchEvent::Apply(pod), Instant::now());
        let name = format!("premium-mnist-{file}");
        let job = tier.job(&name).expect("a Job of this program");
        let status = status(job, tier.pod(&name, &job.uid));
        assert_eq!(status.accuracy, (file == "succeeded").then_some(0.978));
        (status.state.as_str(), status.reason)
    }

    #[test]
    fn a_recorded_job_has_the_reason_of_kubernetes() {
        let unmatched = "no node accepts its pod: 0/2 nodes are available: 2 node(s) didn't match Pod's node affinity.";
        let no_command = "its container cannot be created: failed to create containerd task: failed to create shim task: OCI runtime";
        let disk_full =
            "evicted from its node: Pod ephemeral local storage usage exceeds the total limit of containers 1Mi.";
        for (file, state, reason) in [
            ("creating", "pending", "its container is being created"),
            ("unschedulable", "pending", "no node has 64 CPU free"),
            ("node-selector", "pending", unmatched),
            ("image-not-found", "pending", "image not found: localhost:5001/none:1"),
            ("image-pull", "pending", "image cannot be pulled: registry.local/none:1"),
            ("image-backoff", "pending", "image cannot be pulled: registry.local/none:1"),
            ("image-name", "pending", "image name is invalid: Registry Local:!"),
            ("image-never", "pending", "image is not on the node: registry.local/none:1"),
            ("config-missing", "pending", "its container cannot be created: configmap \"none\" not found"),
            ("command-missing", "failed", no_command),
            ("running", "running", ""),
            ("succeeded", "succeeded", ""),
            ("exit-code", "failed", "exit code 1"),
            ("out-of-memory", "failed", "killed: out of memory"),
            ("deadline", "failed", "ran longer than 5 s"),
            ("evicted", "failed", disk_full),
            ("rejected", "failed", "its node rejected it: Pod Node didn't have enough resource: cpu"),
        ] {
            let (seen, text) = of_recorded(file);
            assert_eq!((seen, text.is_some()), (state, !reason.is_empty()), "{file}: {text:?}");
            assert!(text.unwrap_or_default().starts_with(reason), "{file}");
        }
    }

    #[test]
    fn a_failed_job_whose_pod_no_node_ends_is_failed() {
        let job = job(JobPhase::Ended { at: Some("t".into()), failure: Some("BackoffLimitExceeded".into()) });
        let pod = pod(Progress::Running, true);
        let status = status(&job, Some(&pod));
        assert_eq!(status.reason.as_deref(), Some("its pod was deleted, or its node was lost"));
        assert_eq!((status.state, status.node), (State::Failed, Some("n")));
    }

    #[test]
    fn the_state_follows_from_the_job_and_its_pod() {
        let ended = |failure: Option<&str>| JobPhase::Ended { at: Some("t".into()), failure: failure.map(Into::into) };
        let reason = |text: &str| Some(text.to_owned());
        let failing = || Some(Progress::Failing("image not found: x".to_owned()));
        let failed = || Some(Progress::Ended(Some("exit code 1".to_owned())));
        for (phase, progress, state, expected) in [
            (JobPhase::Waiting, None, State::Queued, None),
            (JobPhase::Suspended, None, State::Queued, reason("held back by another program (spec.suspend)")),
            // Its pod was evicted, and the quota has no room for the next.
            (JobPhase::Waiting, failed(), State::Queued, None),
            (JobPhase::Active, None, State::Pending, reason(CREATING)),
            (JobPhase::Active, failing(), State::Pending, reason("image not found: x")),
            // The watch of the pods may be ahead.
            (JobPhase::Waiting, Some(Progress::Running), State::Running, None),
            (JobPhase::Active, Some(Progress::Running), State::Running, None),
            (JobPhase::Active, Some(Progress::Ended(None)), State::Running, None),
            (JobPhase::Active, failed(), State::Running, None),
            (ended(None), Some(Progress::Ended(None)), State::Succeeded, None),
            (ended(None), None, State::Succeeded, None),
            // The end of the pod arrives later.
            (ended(None), Some(Progress::Running), State::Running, None),
            (ended(Some("BackoffLimitExceeded")), failing(), State::Pending, reason("image not found: x")),
            (ended(Some("BackoffLimitExceeded")), failed(), State::Failed, reason("exit code 1")),
            (ended(Some("BackoffLimitExceeded")), None, State::Failed, reason("its pod failed and is gone")),
            (ended(Some("DeadlineExceeded")), None, State::Failed, reason("ran longer than its deadline")),
        ] {
            let label = format!("{phase:?} {progress:?}");
            assert_eq!(of(phase, progress), (state, expected), "{label}");
        }
    }
}
