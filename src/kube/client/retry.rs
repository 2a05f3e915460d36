//! The retry policy: which errors a retry may resolve, and the pause before it.
//!
//! A failure to connect costs the cluster nothing and is retried until the deadline. Everything else that is retried has
//! reached the cluster, which may be overloaded. So each request has few retries, and all requests together have a
//! [`RetryBudget`], see <https://sre.google/sre-book/handling-overload/#deciding-to-retry>.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::kube::error::Error;

/// Minimum time of a retry: with less it would end in a timeout, which hides the reason for the failures before it.
const MIN_ATTEMPT: Duration = Duration::from_millis(100);

/// Pauses before the retries of a request that has reached the cluster, with full jitter. Three suffice for an API
/// server that drops a request; more would keep an overloaded one overloaded.
const PAUSES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// The status of a concurrent change.
const CONFLICT: u16 = 409;

/// Maximum Retry-After that the server waits for itself: its longest pause. The client gets a longer one.
const MAX_RETRY_AFTER: Duration = PAUSES[PAUSES.len() - 1];

/// Pauses between attempts to connect. An API server restarts in a few seconds, and 32 requests attempt it at once.
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Retries for each request and for each second, and their maximum: the retries of one request.
const BUDGET_PER_REQUEST: f64 = 0.1;
const BUDGET_PER_SECOND: f64 = 2.0;
const MAX_BUDGET: f64 = PAUSES.len() as f64;

/// A retry that may resolve an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// The pause before it.
    pub pause: Duration,
    /// It counts against the [`RetryBudget`].
    needs_budget: bool,
}

impl Retry {
    fn free(pause: Duration) -> Self {
        Self { pause, needs_budget: false }
    }

    /// Tests if it fits into the `remaining` time, and takes its share of the budget.
    pub fn is_allowed(&self, remaining: Duration, budget: &RetryBudget) -> bool {
        self.pause + MIN_ATTEMPT < remaining && (!self.needs_budget || budget.take(Instant::now()))
    }
}

/// The retries so far of one operation.
#[derive(Default)]
pub struct Retries {
    reconnects: u32,
    resends: usize,
    has_repeated_broken: bool,
}

impl Retries {
    /// Returns the next retry, or `None` if one would not help or there are no more. `was_idle` is true if the request
    /// used an idle connection.
    pub fn next(&mut self, error: &Error, was_idle: bool) -> Option<Retry> {
        match error {
            Error::Unreachable { .. } => {
                let backoff = exponential(INITIAL_BACKOFF, self.reconnects, MAX_BACKOFF);
                self.reconnects += 1;
                Some(Retry::free(jitter(backoff)))
            }
            // The first repeat needs no budget: it tells if Kubernetes has stored a Job, also when many connections break
            // at once. A server that closed an idle connection at the moment of its use is not even overloaded.
            Error::Truncated { .. } if !self.has_repeated_broken => {
                self.has_repeated_broken = true;
                if was_idle { Some(Retry::free(Duration::ZERO)) } else { self.next_pause().map(Retry::free) }
            }
            Error::Truncated { .. } | Error::ListExpired { .. } => self.resend(Duration::ZERO),
            // Requests that arrive together change a quota together. That is optimistic locking, and no overload.
            Error::Status { status, .. } if status.is_retryable() && status.code == CONFLICT => {
                self.next_pause().map(Retry::free)
            }
            Error::Status { status, retry_after, .. } if status.is_retryable() => {
                self.resend(retry_after.unwrap_or_default())
            }
            // A timeout has used up the operation's deadline.
            Error::Timeout { .. }
            | Error::Status { .. }
            | Error::Tls { .. }
            | Error::ProxyRefused { .. }
            | Error::NotKubernetes { .. }
            | Error::OutcomeUnknown { .. }
            | Error::CircuitOpen { .. }
            | Error::Credential(_) => None,
        }
    }

    fn resend(&mut self, retry_after: Duration) -> Option<Retry> {
        let pause = self.next_pause().filter(|_| retry_after <= MAX_RETRY_AFTER)?;
        Some(Retry { pause: retry_after + pause, needs_budget: true })
    }

    /// Returns the next of [`PAUSES`], with full jitter.
    fn next_pause(&mut self) -> Option<Duration> {
        let pause = *PAUSES.get(self.resends)?;
        self.resends += 1;
        Some(pause.mul_f64(random_fraction()))
    }
}

/// The retries that all requests of a client share: a token bucket.
pub struct RetryBudget(Mutex<(f64, Instant)>);

impl RetryBudget {
    /// A full budget.
    pub fn new(now: Instant) -> Self {
        Self(Mutex::new((MAX_BUDGET, now)))
    }

    /// Adds the share of a new request.
    pub fn record_request(&self, now: Instant) {
        self.update(now, BUDGET_PER_REQUEST);
    }

    /// Takes one retry; returns `false` if the budget is spent.
    fn take(&self, now: Instant) -> bool {
        self.update(now, -1.0)
    }

    /// Adds `change`, unless the budget would become negative.
    fn update(&self, now: Instant, change: f64) -> bool {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (tokens, updated) = *bucket;
        let refilled = tokens + now.saturating_duration_since(updated).as_secs_f64() * BUDGET_PER_SECOND;
        let tokens = refilled.min(MAX_BUDGET);
        let is_enough = tokens + change >= 0.0;
        *bucket = (if is_enough { (tokens + change).min(MAX_BUDGET) } else { tokens }, now.max(updated));
        is_enough
    }
}

/// Returns `initial` doubled so many times, at most `max`.
pub fn exponential(initial: Duration, doublings: u32, max: Duration) -> Duration {
    initial.saturating_mul(1 << doublings.min(8)).min(max)
}

/// Returns 0.75 to 1.25 of a delay, so that requests that failed together do not return together.
pub fn jitter(delay: Duration) -> Duration {
    delay.mul_f64(0.75 + random_fraction() / 2.0)
}

/// Returns a random number from 0 to 1.
pub fn random_fraction() -> f64 {
    let mut bytes = [128; 2];
    // Without randomness all pauses are equal, which is acceptable.
    let _ = getrandom::getrandom(&mut bytes);
    f64::from(u16::from_be_bytes(bytes)) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::error::Status;

    fn status(code: u16, reason: &str, retry_after: Option<u64>) -> Error {
        let status = Status { code, reason: reason.to_owned(), message: String::new() };
        Error::Status { url: String::new(), status, retry_after: retry_after.map(Duration::from_secs), date: None }
    }

    /// The first retry.
    fn first(error: &Error) -> Option<Retry> {
        Retries::default().next(error, false)
    }

    #[test]
    fn an_error_response_has_three_retries_after_growing_pauses() {
        let (mut retries, error) = (Retries::default(), status(503, "", None));
        for max in PAUSES {
            assert!(retries.next(&error, false).is_some_and(|retry| retry.needs_budget && retry.pause <= max));
        }
        assert_eq!(retries.next(&error, false), None);
    }

    #[test]
    fn a_retry_after_is_added_up_to_the_longest_pause() {
        assert!(first(&status(429, "", Some(3))).is_some_and(|retry| retry.pause >= Duration::from_secs(3)));
        assert_eq!(first(&status(429, "", Some(4))), None);
    }

    #[test]
    fn a_conflict_is_retried_without_the_budget() {
        let (mut retries, error) = (Retries::default(), status(409, "Conflict", None));
        for max in PAUSES {
            assert!(retries.next(&error, false).is_some_and(|retry| !retry.needs_budget && retry.pause <= max));
        }
        assert_eq!(retries.next(&error, false), None);
    }

    #[test]
    fn a_broken_response_is_repeated_once_without_the_budget() {
        let broken = Error::Truncated { url: String::new() };
        for was_idle in [false, true] {
            let mut retries = Retries::default();
            let first = retries.next(&broken, was_idle).expect("a retry");
            assert!(!first.needs_budget && (!was_idle || first.pause == Duration::ZERO), "{first:?}");
            assert!(retries.next(&broken, was_idle).is_some_and(|retry| retry.needs_budget));
        }
    }

    #[test]
    fn a_retry_without_time_takes_nothing_from_the_budget() {
        let budget = RetryBudget::new(Instant::now());
        let retry = Retry { pause: Duration::from_secs(1), needs_budget: true };
        assert!((0..100).all(|_| !retry.is_allowed(Duration::from_millis(1100), &budget)));
        let allowed = (0..100).filter(|_| retry.is_allowed(Duration::from_millis(1101), &budget)).count();
        assert!(allowed >= PAUSES.len(), "{allowed}");
        while budget.take(Instant::now()) {}
        assert!(Retry::free(Duration::ZERO).is_allowed(Duration::from_secs(1), &budget));
    }

    #[test]
    fn all_requests_share_a_budget_of_a_tenth_and_two_a_second() {
        let start = Instant::now();
        let taken = |budget: &RetryBudget, now| (0..100).filter(|_| budget.take(now)).count();
        let budget = RetryBudget::new(start);
        assert_eq!(taken(&budget, start), 3);
        assert_eq!(taken(&budget, start + Duration::from_millis(1001)), 2);
        let later = start + Duration::from_millis(1001);
        (0..21).for_each(|_| budget.record_request(later));
        assert_eq!(taken(&budget, later), 2);
        assert_eq!(taken(&budget, later + Duration::from_secs(3600)), 3);
    }

    #[test]
    fn only_errors_that_a_retry_may_resolve_are_retried() {
        for (error, is_retried) in [
            (status(409, "Conflict", None), true),
            (status(429, "", None), true),
            (status(500, "", None), true),
            (status(502, "", None), true),
            (status(503, "", None), true),
            (status(504, "", None), true),
            (Error::Truncated { url: String::new() }, true),
            (Error::ListExpired { url: String::new() }, true),
            (status(501, "", None), false),
            (status(505, "", None), false),
            (status(410, "Expired", None), false),
            (status(409, "AlreadyExists", None), false),
            (status(403, "Forbidden", None), false),
            (status(401, "Unauthorized", None), false),
            (Error::Timeout { url: String::new() }, false),
            (Error::CircuitOpen { url: String::new() }, false),
        ] {
            assert_eq!(first(&error).is_some(), is_retried, "{error}");
        }
    }
}
