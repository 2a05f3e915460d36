//! The retry policy: which errors a retry may resolve, and the delay before it.

use std::time::Duration;

use crate::kube::error::Error;

/// Delay before the first retry after an error response; each retry doubles it. After a broken connection the first
/// retry has no delay: the idle connection may have expired.
const INITIAL_BACKOFF: Duration = Duration::from_millis(50);

/// Maximum delay between attempts, unless Kubernetes asks for more: an API server restarts in a few seconds.
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Returns the delay before the next attempt, or `None` if a retry would not help. `retries` counts the retries so far.
pub fn retry_delay(error: &Error, retries: u32) -> Option<Duration> {
    let (retry_after, is_broken) = match error {
        Error::Unreachable { .. } | Error::Truncated { .. } => (Duration::ZERO, true),
        Error::Status { status, retry_after, .. } if status.is_retryable() => (retry_after.unwrap_or_default(), false),
        // A timeout has used up the operation's deadline.
        Error::Timeout { .. }
        | Error::Status { .. }
        | Error::Tls { .. }
        | Error::ProxyRefused { .. }
        | Error::NotKubernetes { .. }
        | Error::OutcomeUnknown { .. }
        | Error::CircuitOpen { .. }
        | Error::Credential(_) => return None,
    };
    let backoff = match retries.checked_sub(u32::from(is_broken)) {
        None => Duration::ZERO,
        Some(doublings) => exponential(INITIAL_BACKOFF, doublings, MAX_BACKOFF),
    };
    Some(retry_after.max(jitter(backoff)))
}

/// Returns `initial` doubled so many times, at most `max`.
pub fn exponential(initial: Duration, doublings: u32, max: Duration) -> Duration {
    initial.saturating_mul(1 << doublings.min(8)).min(max)
}

/// Returns 0.75 to 1.25 of a delay, so that requests that failed together do not return together.
pub fn jitter(delay: Duration) -> Duration {
    let mut byte = [128u8];
    // Without randomness all delays are equal, which is acceptable.
    let _ = getrandom::getrandom(&mut byte);
    delay.mul_f64(0.75 + f64::from(byte[0]) / 510.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::error::Status;

    fn status(code: u16, reason: &str, retry_after: Option<u64>) -> Error {
        let status = Status { code, reason: reason.to_owned(), message: String::new() };
        Error::Status { url: String::new(), status, retry_after: retry_after.map(Duration::from_secs), date: None }
    }

    #[test]
    fn a_broken_connection_is_retried_at_once_and_an_error_response_after_a_growing_delay() {
        let broken = Error::Truncated { url: String::new() };
        assert_eq!(retry_delay(&broken, 0), Some(Duration::ZERO));
        let within = |delay: Option<Duration>, base: u64| {
            let (low, high) = (Duration::from_micros(base * 750), Duration::from_micros(base * 1250));
            assert!(delay.is_some_and(|delay| low <= delay && delay <= high), "{delay:?} for {base} ms");
        };
        within(retry_delay(&broken, 1), 50);
        for (retries, base) in [(0, 50), (1, 100), (4, 800), (5, 1000), (100, 1000)] {
            within(retry_delay(&status(503, "", None), retries), base);
        }
        assert_eq!(retry_delay(&status(429, "", Some(7)), 0), Some(Duration::from_secs(7)));
    }

    #[test]
    fn only_errors_that_a_retry_may_resolve_are_retried() {
        for (error, is_retried) in [
            (status(409, "Conflict", None), true),
            (status(410, "Expired", None), true),
            (status(500, "", None), true),
            (status(409, "AlreadyExists", None), false),
            (status(403, "Forbidden", None), false),
            (status(401, "Unauthorized", None), false),
            (Error::Timeout { url: String::new() }, false),
            (Error::CircuitOpen { url: String::new() }, false),
        ] {
            assert_eq!(retry_delay(&error, 0).is_some(), is_retried, "{error}");
        }
    }
}
