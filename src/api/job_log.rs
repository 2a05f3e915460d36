//! GET /jobs/NAME/logs: what the classifier has printed, streamed from Kubernetes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::error::ApiError;
use crate::api::job_read::ReadJob;
use crate::api::query;
use crate::api::response::{Body, Response};
use crate::api::{App, Request, job_read};
use crate::job::{CONTAINER, JobName};
use crate::kube::{Client, IsRunning, LogStream};
use crate::state::job_status::{State, state};
use crate::state::job_watch::JobWatch;
use crate::state::tier_jobs::JobRecord;
use crate::state::{PodRecord, Progress};

/// Most lines of `tail`: more than a kubelet keeps of lines of 100 bytes.
const MAX_TAIL: u32 = 100_000;

/// Time to look after a silence whether a pod still runs.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// The part of a log that a caller asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    follow: Option<bool>,
    tail: Option<u32>,
}

/// A pod to read the log of.
struct Source {
    pod: String,
    /// The state of its Job.
    state: State,
    /// Tells whether its container may still print.
    is_running: IsRunning,
}

/// Returns the log of a Job's pod as a stream.
///
/// # Errors
/// 400 for an unknown value, 404 for an unknown Job and for a deleted pod, 409 before the container has started, 502 and 503 while the
/// state is not known, or the failure of Kubernetes.
pub fn show(app: &App, name: JobName<'_>, request: &Request<'_>) -> Result<Response, ApiError> {
    let query = Query::parse(request.target)?;
    let deadline = Instant::now() + app.remaining(request);
    let source = match &app.watched {
        Some(watched) => watched_source(&watched.jobs, name)?,
        None => read_source(&app.kube, name, deadline)?,
    };
    let tail = query.tail.map(|lines| format!("&tailLines={lines}")).unwrap_or_default();
    let namespace = name.tier.namespace();
    let path = format!("/api/v1/namespaces/{namespace}/pods/{}/log?container={CONTAINER}{tail}", source.pod);
    let opened = LogStream::new(&app.kube, path, deadline).and_then(|mut log| {
        (request.on_leave)(Box::new(log.stop()));
        if query.follow == Some(true) {
            log.follow(source.is_running, deadline)?;
        } else {
            log.open(deadline)?;
        }
        Ok(log)
    });
    let log = opened.map_err(|error| ApiError::Log(Arc::new(error), name.tier, source.state))?;
    let headers = vec![("Content-Type", "text/plain; charset=utf-8".to_owned())];
    Ok(Response { status: 200, headers, body: Body::Stream(Box::new(log)), log_detail: name.text.to_owned() })
}

/// Returns the pod that decides on a Job, from watched state.
fn watched_source(watched: &Arc<JobWatch>, name: JobName<'_>) -> Result<Source, ApiError> {
    let jobs = watched.read(name.tier);
    jobs.check(Instant::now()).map_err(|why| ApiError::JobsUnavailable(why, name.tier))?;
    let job = jobs.job(name.text).ok_or(ApiError::NoSuchJob)?;
    let (watched, tier, text, uid) = (Arc::clone(watched), name.tier, name.text.to_owned(), job.uid.clone());
    let is_running = move || {
        let jobs = watched.read(tier);
        jobs.check(Instant::now()).is_ok() && jobs.pod(&text, &uid).is_some_and(is_running)
    };
    Source::new(job, jobs.named_pod(name.text, &job.uid), Box::new(is_running))
}

/// Returns the pod that decides on a Job, from Kubernetes.
fn read_source(kube: &Arc<Client>, name: JobName<'_>, deadline: Instant) -> Result<Source, ApiError> {
    let ReadJob { job, pod } = job_read::read(kube, name, deadline)?;
    let (kube, tier, text, uid) = (Arc::clone(kube), name.tier, name.text.to_owned(), job.uid.clone());
    let is_running = move || {
        let read = job_read::read(&kube, JobName { tier, text: &text }, Instant::now() + CHECK_TIMEOUT);
        read.is_ok_and(|read| read.job.uid == uid && read.pod.is_some_and(|(_, pod)| is_running(&pod)))
    };
    Source::new(&job, pod.as_ref().map(|(name, pod)| (name.as_str(), pod)), Box::new(is_running))
}

fn is_running(pod: &PodRecord) -> bool {
    pod.progress == Progress::Running
}

impl Source {
    /// Returns the pod of a Job.
    ///
    /// # Errors
    /// 409 before its container has started, 404 if it was deleted.
    fn new(job: &JobRecord, pod: Option<(&str, &PodRecord)>, is_running: IsRunning) -> Result<Self, ApiError> {
        let state = state(job, pod.map(|(_, pod)| pod));
        match (state, pod) {
            (State::Queued | State::Pending, _) => Err(ApiError::NotStarted(state)),
            (_, Some((pod, record))) if !record.is_deleted => Ok(Self { pod: pod.to_owned(), state, is_running }),
            _ => Err(ApiError::LogGone),
        }
    }
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
