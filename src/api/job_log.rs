//! GET /jobs/NAME/logs: what the classifier has printed, streamed from Kubernetes.

use std::sync::Arc;
use std::time::Instant;

use crate::api::error::ApiError;
use crate::api::query;
use crate::api::response::{Body, Response};
use crate::api::{App, Request};
use crate::job::{CONTAINER, JobName};
use crate::kube::LogStream;
use crate::state::Progress;
use crate::state::job_status::{State, state};
use crate::state::job_watch::JobWatch;

/// Most lines of `tail`: more than a kubelet keeps of lines of 100 bytes.
const MAX_TAIL: u32 = 100_000;

/// The part of a log that a caller asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    follow: Option<bool>,
    tail: Option<u32>,
}

/// A pod to read the log of.
struct Source {
    pod: String,
    job_uid: Box<str>,
    /// The state of its Job.
    state: State,
}

/// Returns the log of a Job's pod as a stream.
///
/// # Errors
/// 400 for an unknown value, 404 without watched state, for an unknown Job and for a deleted pod, 409 before the container has started,
/// 502 and 503 while the state is not known, or the failure of Kubernetes.
pub fn show(app: &App, name: JobName<'_>, request: &Request<'_>) -> Result<Response, ApiError> {
    let query = Query::parse(request.target)?;
    let jobs = &app.watched.as_ref().ok_or(ApiError::NotWatched)?.jobs;
    let source = source(jobs, name)?;
    let tail = query.tail.map(|lines| format!("&tailLines={lines}")).unwrap_or_default();
    let namespace = name.tier.namespace();
    let path = format!("/api/v1/namespaces/{namespace}/pods/{}/log?container={CONTAINER}{tail}", source.pod);
    let deadline = Instant::now() + app.remaining(request);
    let opened = LogStream::new(&app.kube, path, deadline).and_then(|mut log| {
        (request.on_leave)(Box::new(log.stop()));
        if query.follow == Some(true) {
            let (jobs, tier, job) = (Arc::clone(jobs), name.tier, name.text.to_owned());
            let is_running = move || is_running(&jobs, JobName { tier, text: &job }, &source.job_uid);
            log.follow(Box::new(is_running), deadline)?;
        } else {
            log.open(deadline)?;
        }
        Ok(log)
    });
    let log = opened.map_err(|error| ApiError::Log(Arc::new(error), name.tier, source.state))?;
    let headers = vec![("Content-Type", "text/plain; charset=utf-8".to_owned())];
    Ok(Response { status: 200, headers, body: Body::Stream(Box::new(log)), log_detail: name.text.to_owned() })
}

/// Returns the pod that decides on a Job.
fn source(jobs: &JobWatch, name: JobName<'_>) -> Result<Source, ApiError> {
    let jobs = jobs.read(name.tier);
    jobs.check(Instant::now()).map_err(|why| ApiError::JobsUnavailable(why, name.tier))?;
    let job = jobs.job(name.text).ok_or(ApiError::NoSuchJob)?;
    let pod = jobs.named_pod(name.text, &job.uid);
    let state = state(job, pod.map(|(_, pod)| pod));
    match (state, pod) {
        (State::Queued | State::Pending, _) => Err(ApiError::NotStarted(state)),
        (_, Some((pod, record))) if !record.is_deleted => {
            Ok(Source { pod: pod.to_owned(), job_uid: job.uid.clone(), state })
        }
        _ => Err(ApiError::LogGone),
    }
}

/// Tests for a Job whose pod runs, as far as is known.
fn is_running(jobs: &JobWatch, name: JobName<'_>, uid: &str) -> bool {
    let jobs = jobs.read(name.tier);
    let pod = jobs.pod(name.text, uid);
    jobs.check(Instant::now()).is_ok() && pod.is_some_and(|pod| pod.progress == Progress::Running)
}

impl Query {
    /// Parses the query of a target. Unknown parameters are ignored.
    ///
    /// # Errors
    /// 400 for an unknown value or a repeated parameter.
    fn parse(target: &str) -> Result<Self, ApiError> {
        let mut parsed = Self::default();
        for (name, value) in query::parameters(target) {
            match &*name {
                "follow" => query::set(&mut parsed.follow, "follow", value.parse().ok(), "true or false")?,
                "tail" => {
                    let lines = query::number(&value, 0..=MAX_TAIL);
                    query::set(&mut parsed.tail, "tail", lines, "a number from 0 to 100000")?;
                }
                _ => {}
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_parsed_strictly() {
        let parsed = Query::parse("/jobs/x/logs?tail=0&follow=true&x=y").expect("a query");
        assert_eq!(parsed, Query { follow: Some(true), tail: Some(0) });
        assert_eq!(Query::parse("/jobs/x/logs").expect("a query"), Query::default());
        for bad in ["follow=1", "follow=", "follow=True", "tail=-1", "tail=100001", "tail=", "tail=1&tail=1"] {
            assert!(Query::parse(&format!("/jobs/x/logs?{bad}")).is_err(), "{bad}");
        }
    }
}
