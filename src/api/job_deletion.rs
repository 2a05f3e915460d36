//! DELETE /jobs/NAME: deletes a Job with its pods.

use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::api::error::ApiError;
use crate::api::response::Response;
use crate::api::{App, Request, job_read};
use crate::job::JobName;

/// Deletes the Job of this name as it is watched, or with --no-watch as Kubernetes has it, and no later one.
///
/// # Errors
/// 404 for an unknown Job, 502 and 503 while the state is not known, or the failure of Kubernetes.
pub fn delete(app: &App, name: JobName<'_>, request: &Request<'_>) -> Result<Response, ApiError> {
    let JobName { tier, text } = name;
    let deadline = Instant::now() + app.remaining(request);
    let uid = match &app.watched {
        Some(watched) => {
            let jobs = watched.jobs.read(tier);
            jobs.check(Instant::now()).map_err(|why| ApiError::JobsUnavailable(why, tier))?;
            jobs.job(text).ok_or(ApiError::NoSuchJob)?.uid.clone()
        }
        None => job_read::read(&app.kube, name, deadline)?.job.uid,
    };
    let path = format!("/apis/batch/v1/namespaces/{}/jobs/{text}", tier.namespace());
    let deleted = app.kube.delete_foreground(&path, &uid, deadline);
    let existed = deleted.map_err(|error| ApiError::Deletion(Arc::new(error), tier))?;
    app.watched.iter().for_each(|watched| watched.jobs.remove_deleted(tier, text, &uid));
    if !existed {
        return Err(ApiError::NoSuchJob);
    }
    Ok(Response::value(202, &json!({"job": text, "state": "deleted"})).with_detail(text.to_owned()))
}
