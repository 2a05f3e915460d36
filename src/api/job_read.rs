//! A Job as Kubernetes has it, for a server with --no-watch.

use std::sync::Arc;
use std::time::Instant;

use crate::api::error::ApiError;
use crate::job::JobName;
use crate::kube;
use crate::state::PodRecord;
use crate::state::tier_jobs::JobRecord;

/// A Job with the pod that decides on it, and that pod's name.
pub struct ReadJob {
    pub job: JobRecord,
    pub pod: Option<(String, PodRecord)>,
}

/// Reads a Job of this program and its pods from Kubernetes.
///
/// # Errors
/// 404 for an unknown Job, or the failure of Kubernetes, by `deadline`.
pub fn read(kube: &kube::Client, name: JobName<'_>, deadline: Instant) -> Result<ReadJob, ApiError> {
    let read = kube.job(name.tier.namespace(), name.text, deadline);
    let (job, pods) = read.map_err(|error| match error.not_found() {
        true => ApiError::NoSuchJob,
        false => ApiError::ReadJob(Arc::new(error), name.tier),
    })?;
    let job = JobRecord::new(&job, name.tier).ok_or(ApiError::NoSuchJob)?;
    let pods = pods.into_iter().map(|pod| (PodRecord::new(&pod, None), pod.name));
    let pods = pods.filter(|(pod, _)| *pod.job == *name.text && pod.job_uid == job.uid);
    let pod = pods.max_by(|(a, _), (b, _)| a.rank().cmp(&b.rank()));
    Ok(ReadJob { job, pod: pod.map(|(pod, name)| (name, pod)) })
}
