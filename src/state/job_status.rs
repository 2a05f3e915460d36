//! What became of a Job, from its record and its pod's. Pure.

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
    /// Returns the state of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Queued, Self::Pending, Self::Running, Self::Succeeded, Self::Failed]
            .into_iter()
            .find(|state| state.as_str() == name)
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

/// What became of a Job.
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

/// Returns what became of a Job. The Job's own condition decides on its end, since a pod may be replaced; but the end of the pod, which
/// has the reason and the accuracy, may arrive a moment later.
pub fn status<'a>(job: &'a JobRecord, pod: Option<&'a PodRecord>) -> JobStatus<'a> {
    let is_complete = pod.is_none_or(PodRecord::is_over);
    let (state, reason, finished) = match (&job.phase, pod.map(|pod| &pod.progress)) {
        (JobPhase::Ended { at, failure: None }, _) if is_complete => (State::Succeeded, None, Some(&**at)),
        (JobPhase::Ended { at, failure: Some(failure) }, progress) if is_complete => {
            let reason = match progress {
                Some(Progress::Ended(Some(reason))) => reason.clone(),
                Some(_) => "its pod was deleted, or its node was lost".to_owned(),
                None => without_pod(failure),
            };
            (State::Failed, Some(reason), Some(&**at))
        }
        (JobPhase::Suspended, _) => {
            (State::Queued, Some("held back by another program (spec.suspend)".to_owned()), None)
        }
        (_, Some(Progress::Running | Progress::Ended(_))) => (State::Running, None, None),
        (_, Some(Progress::Starting(reason) | Progress::Failing(reason))) => {
            (State::Pending, Some(reason.clone()), None)
        }
        (JobPhase::Active | JobPhase::Ended { .. }, None) => (State::Pending, Some(CREATING.to_owned()), None),
        (JobPhase::Waiting, None) => (State::Queued, None, None),
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

/// Returns the reason of a failure whose pod is gone.
fn without_pod(failure: &str) -> String {
    match failure {
        "DeadlineExceeded" => "ran longer than its deadline".to_owned(),
        _ => "its pod failed and is gone".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Dataset;

    fn of(phase: JobPhase, progress: Option<Progress>) -> (State, Option<String>) {
        let job = JobRecord { created: "t".into(), dataset: Dataset::Mnist, phase };
        let pod = progress.map(|progress| PodRecord {
            created: "t".into(),
            node: None,
            started: None,
            is_being_deleted: false,
            progress,
            exit_code: None,
            accuracy: Some(0.5),
        });
        let status = status(&job, pod.as_ref());
        assert_eq!(status.accuracy.is_some(), status.state == State::Succeeded && pod.is_some());
        (status.state, status.reason)
    }

    #[test]
    fn a_failed_job_whose_pod_no_node_ends_is_failed() {
        let pod = PodRecord {
            created: "t".into(),
            node: Some("n".into()),
            started: None,
            progress: Progress::Running,
            is_being_deleted: true,
            exit_code: None,
            accuracy: None,
        };
        let phase = JobPhase::Ended { at: "t".into(), failure: Some("BackoffLimitExceeded".into()) };
        let job = JobRecord { created: "t".into(), dataset: Dataset::Mnist, phase };
        let status = status(&job, Some(&pod));
        assert_eq!(status.reason.as_deref(), Some("its pod was deleted, or its node was lost"));
        assert_eq!((status.state, status.node), (State::Failed, Some("n")));
    }

    #[test]
    fn the_state_follows_from_the_job_and_its_pod() {
        let ended = |failure: Option<&str>| JobPhase::Ended { at: "t".into(), failure: failure.map(Into::into) };
        let reason = |text: &str| Some(text.to_owned());
        let failing = || Some(Progress::Failing("image not found: x".to_owned()));
        let failed = || Some(Progress::Ended(Some("exit code 1".to_owned())));
        for (phase, progress, state, expected) in [
            (JobPhase::Waiting, None, State::Queued, None),
            (JobPhase::Suspended, None, State::Queued, reason("held back by another program (spec.suspend)")),
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
