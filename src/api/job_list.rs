//! GET /jobs and GET /jobs/NAME: the state of the Jobs of this program, as watched. With --no-watch the second asks Kubernetes.

use std::time::Instant;

use serde::Serialize;

use crate::api::conditional;
use crate::api::error::ApiError;
use crate::api::job_read::ReadJob;
use crate::api::query;
use crate::api::response::Response;
use crate::api::{App, Request, job_read, job_wait};
use crate::job::{Dataset, JobName, Tier};
use crate::queue::controller::Places;
use crate::state::PodRecord;
use crate::state::job_status::{JobStatus, State, state, status};
use crate::state::tier_jobs::{JobRecord, TierJobs};

/// Jobs of a page without `limit`, and its maximum.
const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 500;

/// A Job. The order of the fields is part of the interface.
#[derive(Serialize)]
struct JobBody<'a> {
    job: &'a str,
    namespace: &'static str,
    tier: &'static str,
    dataset: &'static str,
    r#type: &'static str,
    state: &'static str,
    reason: Option<String>,
    position: Option<usize>,
    created: &'a str,
    started: Option<&'a str>,
    finished: Option<&'a str>,
    node: Option<&'a str>,
    exit_code: Option<i32>,
    accuracy: Option<f64>,
}

#[derive(Serialize)]
struct Page<'a> {
    jobs: Vec<JobBody<'a>>,
    next: Option<String>,
}

/// The Jobs that a caller asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    tier: Option<Tier>,
    state: Option<State>,
    dataset: Option<Dataset>,
    limit: Option<u32>,
    /// Creation time and name of the last Job of the page before.
    after: Option<(Box<str>, Box<str>)>,
}

/// Returns a page of Jobs of both tiers, newest first.
///
/// # Errors
/// 400 for an unknown value, 404 without watched state, 502 without the permission to watch, 503 while the state is not known.
pub fn list(app: &App, request: &Request<'_>) -> Result<Response, ApiError> {
    let query = Query::parse(request.target)?;
    let watched = app.watched.as_ref().ok_or(ApiError::NotWatched)?;
    let tiers = Tier::ALL.into_iter().filter(|tier| query.tier.is_none_or(|only| only == *tier));
    let tiers: Vec<_> = tiers.map(|tier| (tier, watched.jobs.read(tier))).collect();
    for (tier, jobs) in &tiers {
        jobs.check(Instant::now()).map_err(|why| ApiError::JobsUnavailable(why, *tier))?;
    }
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT) as usize;
    let mut jobs = Vec::new();
    for (tier, of_tier) in &tiers {
        let places = if *tier == Tier::Free { watched.queue.places() } else { Places::default() };
        // One more tells that there is a next page.
        let page = query.newest(of_tier).take(limit + 1);
        jobs.extend(page.map(|(text, job, pod)| body(JobName { tier: *tier, text }, job, status(job, pod), &places)));
    }
    jobs.sort_unstable_by(|a, b| (b.created, b.job).cmp(&(a.created, a.job)));
    let has_next = jobs.len() > limit;
    jobs.truncate(limit);
    let last = jobs.last().filter(|_| has_next);
    let next = last.map(|last| format!("{}_{}", last.created, last.job));
    let detail = format!("{} Jobs", jobs.len());
    Ok(conditional::json(request, to_json(&Page { jobs, next })).with_detail(detail))
}

/// Returns a Job. A request that waits for a change has been held back by [`job_wait::hold`].
///
/// # Errors
/// 404 for an unknown Job; 502 without the permission to watch, 503 while the state is not known; otherwise as [`job_read::read`].
pub fn show(app: &App, name: JobName<'_>, request: &Request<'_>) -> Result<Response, ApiError> {
    job_wait::timeout(request.target)?;
    let Some(watched) = &app.watched else {
        // Its place in the queue is not known.
        let ReadJob { job, pod } = job_read::read(&app.kube, name, Instant::now() + app.remaining(request))?;
        let status = status(&job, pod.as_ref().map(|(_, pod)| pod));
        return Ok(respond(request, &body(name, &job, status, &Places::default())));
    };
    let jobs = watched.jobs.read(name.tier);
    jobs.check(Instant::now()).map_err(|why| ApiError::JobsUnavailable(why, name.tier))?;
    let job = jobs.job(name.text).ok_or(ApiError::NoSuchJob)?;
    let status = status(job, jobs.pod(name.text, &job.uid));
    let has_place = name.tier == Tier::Free && status.state == State::Queued;
    let places = if has_place { watched.queue.places() } else { Places::default() };
    Ok(respond(request, &body(name, job, status, &places)))
}

fn respond(request: &Request<'_>, body: &JobBody<'_>) -> Response {
    conditional::json(request, to_json(body)).with_detail(format!("{} {}", body.job, body.state))
}

fn body<'a>(name: JobName<'a>, job: &'a JobRecord, status: JobStatus<'a>, places: &Places) -> JobBody<'a> {
    let JobName { tier, text } = name;
    let is_queued = status.state == State::Queued;
    let position = places.positions.get(text).copied().filter(|_| is_queued);
    JobBody {
        job: text,
        namespace: tier.namespace(),
        tier: tier.as_str(),
        dataset: job.dataset.as_str(),
        r#type: tier.network(),
        state: status.state.as_str(),
        reason: status.reason.or_else(|| is_queued.then(|| queue_reason(position, places.slots))),
        position,
        created: &job.created,
        started: status.started,
        finished: status.finished,
        node: status.node,
        exit_code: status.exit_code,
        accuracy: status.accuracy,
    }
}

/// Returns the reason of a queued Job.
fn queue_reason(position: Option<usize>, slots: Option<u64>) -> String {
    let Some(position) = position else { return "waits for its pod".to_owned() };
    let others = match position {
        0 | 1 => String::new(),
        2 => " behind 1 other".to_owned(),
        _ => format!(" behind {} others", position - 1),
    };
    match slots {
        None => format!("waits{others} for its pod"),
        Some(0) => format!("waits{others}, but the quota is smaller than its pod's request"),
        Some(1) => format!("waits{others} for the only free slot"),
        Some(slots) => format!("waits{others} for one of {slots} free slots"),
    }
}

fn to_json(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("strings and numbers are always JSON")
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
                "tier" => query::set(&mut parsed.tier, "tier", Tier::parse(&value), "free or premium")?,
                "state" => {
                    let values = "queued, pending, running, succeeded or failed";
                    query::set(&mut parsed.state, "state", State::parse(&value), values)?;
                }
                "dataset" => query::set(&mut parsed.dataset, "dataset", Dataset::parse(&value), "mnist or kmnist")?,
                "limit" => {
                    let limit = query::number(&value, 1..=MAX_LIMIT);
                    query::set(&mut parsed.limit, "limit", limit, "a number from 1 to 500")?;
                }
                "after" => query::set(&mut parsed.after, "after", after(&value), "the next of the page before")?,
                _ => {}
            }
        }
        Ok(parsed)
    }

    /// Returns the Jobs of a tier that the caller asks for, newest first, each with its pod.
    fn newest<'a>(&self, tier: &'a TierJobs) -> impl Iterator<Item = (&'a str, &'a JobRecord, Option<&'a PodRecord>)> {
        let jobs = tier.newest(self.after.as_ref());
        let jobs = jobs.filter(|(_, job)| self.dataset.is_none_or(|only| only == job.dataset));
        let jobs = jobs.map(|(name, job)| (name, job, tier.pod(name, &job.uid)));
        jobs.filter(|(_, job, pod)| self.state.is_none_or(|only| only == state(job, *pod)))
    }
}

/// Parses the `next` of a page: the creation time and the name of its last Job.
fn after(value: &str) -> Option<(Box<str>, Box<str>)> {
    const TIME: &[u8] = b"0000-00-00T00:00:00Z";
    let (created, name) = value.split_once('_')?;
    let is_like = |(byte, like): (u8, &u8)| if *like == b'0' { byte.is_ascii_digit() } else { byte == *like };
    let is_time = created.len() == TIME.len() && created.bytes().zip(TIME).all(is_like);
    JobName::parse(name).filter(|_| is_time)?;
    Some((created.into(), name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_parsed_strictly_and_unknown_parameters_are_ignored() {
        let query = Query::parse("/jobs?t%69er=fre%65&state=queued&dataset=kmnist&limit=500&x=y&x=z&z#tier=gold")
            .expect("a query");
        let expected = Query {
            tier: Some(Tier::Free),
            state: Some(State::Queued),
            dataset: Some(Dataset::Kmnist),
            limit: Some(500),
            after: None,
        };
        assert_eq!(query, expected);
        assert_eq!(Query::parse("/jobs").expect("a query"), Query::default());
        assert_eq!(Query::parse("/jobs?").expect("a query"), Query::default());
        let target = "/jobs?after=2026-01-01T00%3A00:00Z_free-mnist-x";
        let after = Query::parse(target).expect("a query").after.expect("a token");
        assert_eq!((&*after.0, &*after.1), ("2026-01-01T00:00:00Z", "free-mnist-x"));
        for bad in [
            "tier=gold",
            "tier=",
            "state=done",
            "dataset=MNIST",
            "limit=0",
            "limit=501",
            "limit=x",
            "after=",
            "after=2026-01-01T00:00:00Z_free-cifar-x",
            "after=2026-01-01T00:00:00_free-mnist-x",
            "after=2026-01-01%2000:00:00Z_free-mnist-x",
            "tier=free&tier=free",
        ] {
            assert!(Query::parse(&format!("/jobs?{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_queued_job_has_its_place_as_the_reason() {
        for (position, slots, reason) in [
            (Some(1), Some(2), "waits for one of 2 free slots"),
            (Some(2), Some(2), "waits behind 1 other for one of 2 free slots"),
            (Some(4), Some(2), "waits behind 3 others for one of 2 free slots"),
            (Some(2), Some(1), "waits behind 1 other for the only free slot"),
            (Some(1), Some(0), "waits, but the quota is smaller than its pod's request"),
            (Some(4), None, "waits behind 3 others for its pod"),
            (None, Some(2), "waits for its pod"),
        ] {
            assert_eq!(queue_reason(position, slots), reason);
        }
    }
}
