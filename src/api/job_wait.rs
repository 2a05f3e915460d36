//! GET /jobs/NAME?wait=SECONDS: holds a request back until the state of the Job changes. No worker and no private connection is in use
//! meanwhile: the thread of the client's connection waits.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::api::error::ApiError;
use crate::api::route::Route;
use crate::api::{App, query};
use crate::job::JobName;
use crate::state::job_status::{self, State};
use crate::state::job_watch::JobWatch;

/// Longest wait, in seconds: proxies often end a response that takes longer.
const MAX_WAIT: u32 = 60;

/// Pause between two tests for a client that left.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Returns the wait that a target asks for.
///
/// # Errors
/// 400 for a number out of range or a repeated parameter.
pub fn timeout(target: &str) -> Result<Option<Duration>, ApiError> {
    let mut seconds = None;
    for (_, value) in query::parameters(target).filter(|(name, _)| name == "wait") {
        query::set(&mut seconds, "wait", query::number(&value, 1..=MAX_WAIT), "a number of seconds from 1 to 60")?;
    }
    Ok(seconds.map(|seconds| Duration::from_secs(seconds.into())))
}

/// Blocks while the Job of a waiting request keeps its state. Returns false at once for any other request. Returns early once `is_over`
/// returns true: the client left, or the server stops.
pub fn hold(app: &App, (method, target): (&str, &str), network: IpAddr, is_over: &dyn Fn() -> bool) -> bool {
    // Most requests have no query, and need no second look at their route.
    if !target.contains('?') {
        return false;
    }
    let Ok(Route::ShowJob(name)) = Route::parse(method, target) else { return false };
    let (Some(watched), Ok(Some(timeout))) = (&app.watched, timeout(target)) else { return false };
    let deadline = Instant::now() + timeout;
    // Before the first look at the state, so that no change after it goes unnoticed.
    let Some(_place) = watched.jobs.waiters.enter(name.text, network) else { return false };
    let state = state(&watched.jobs, name);
    if matches!(state, None | Some(State::Succeeded | State::Failed)) {
        return false;
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || is_over() {
            return true;
        }
        thread::park_timeout(left.min(CHECK_INTERVAL));
        if self::state(&watched.jobs, name) != state {
            return true;
        }
    }
}

/// Returns the state of a Job; `None` if there is none or its state is not known.
fn state(jobs: &JobWatch, name: JobName<'_>) -> Option<State> {
    let jobs = jobs.read(name.tier);
    jobs.check(Instant::now()).ok()?;
    let job = jobs.job(name.text)?;
    Some(job_status::state(job, jobs.pod(name.text, &job.uid)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_1_to_60_seconds() {
        for (target, seconds) in [("/jobs/x", None), ("/jobs/x?wait=1", Some(1)), ("/jobs/x?a=b&wait=60", Some(60))] {
            assert_eq!(timeout(target).ok(), Some(seconds.map(Duration::from_secs)), "{target}");
        }
        for bad in ["wait=0", "wait=61", "wait=", "wait=1.5", "wait=x", "wait=1&wait=1"] {
            assert!(timeout(&format!("/jobs/x?{bad}")).is_err(), "{bad}");
        }
    }
}
