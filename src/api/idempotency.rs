//! Idempotency-Key: the key, the tier and the dataset of a POST name its Job, so that a repeat finds it, at any server of the cluster.

use std::time::Instant;

use crate::api::error::{ApiError, NewJob};
use crate::api::{App, Request};
use crate::job::MANAGED_BY;
use crate::kube;

/// Longest key, in characters.
const MAX_KEY: usize = 255;

/// Returns the key of a request.
///
/// # Errors
/// 400 if it is empty, too long, repeated or not in visible ASCII.
pub fn key<'a>(request: &Request<'a>) -> Result<Option<&'a str>, ApiError> {
    let Some(key) = request.idempotency_key else { return Ok(None) };
    // The front empties a repeated header.
    if is_valid(key) { Ok(Some(key)) } else { Err(ApiError::BadIdempotencyKey) }
}

/// Tests for a key of 1 to 255 visible ASCII characters.
pub fn is_valid(key: &str) -> bool {
    (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Looks for the Job of a request with a key, by `deadline`, after a create that failed, or that found a Job after a lost response (`None`).
/// Returns true if an earlier request has created it, and false if an attempt of this one may have.
///
/// # Errors
/// The failed create, or the reason why the Job is of no use.
pub fn find(app: &App, new: NewJob, failure: Option<kube::Error>, deadline: Instant) -> Result<bool, ApiError> {
    let (exists, may_exist, is_replay) = match &failure {
        None => (true, false, false),
        // The quota check precedes the name check, so a full quota refuses the repeat of any Job.
        Some(kube::Error::Status { status, .. }) => (status.already_exists(), status.quota_exceeded(), true),
        Some(error) => (false, matches!(error, kube::Error::OutcomeUnknown { .. }), false),
    };
    let failed = |job| failure.map_or(ApiError::JobBeingDeleted, |error| ApiError::create(error, job));
    if !exists && !may_exist {
        return Err(failed(new));
    }
    match app.kube.get_job(new.tier.namespace(), &new.name, deadline) {
        Ok(Some(job)) if job.is_being_deleted => Err(ApiError::JobBeingDeleted),
        Ok(Some(job)) if job.labels.get(MANAGED_BY.0) == Some(MANAGED_BY.1) => Ok(is_replay),
        Ok(Some(_)) => Err(ApiError::NameTaken),
        // It was deleted meanwhile.
        Ok(None) if exists => Err(ApiError::JobBeingDeleted),
        // Without the permission its name is the proof: no other key has it.
        Err(error) if exists && error.not_permitted() => Ok(is_replay),
        Err(error) if exists => Err(ApiError::create(error, new)),
        Ok(None) | Err(_) => Err(failed(new)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_key_is_1_to_255_visible_ascii_characters() {
        let of = |idempotency_key| {
            let request = Request {
                method: "POST",
                target: "/",
                authorization: None,
                cache_control: None,
                if_none_match: None,
                accept: None,
                idempotency_key,
                body: None,
                waited: Duration::ZERO,
                on_leave: &drop,
            };
            key(&request).ok().map(|key| key.map(str::len))
        };
        let (longest, longer) = ("~".repeat(255), "~".repeat(256));
        assert_eq!([of(None), of(Some("!")), of(Some(&longest))], [Some(None), Some(Some(1)), Some(Some(255))]);
        for bad in ["", &longer, "a b", "a\tb", "\u{fc}", "\u{7f}"] {
            assert_eq!(of(Some(bad)), None, "{bad:?}");
        }
    }
}
