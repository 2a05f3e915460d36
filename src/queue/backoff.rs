//! The pauses of all requeues after failures in a row. Pure.

use std::time::Duration;

use crate::kube::exponential;

/// Pause after the first failure; each further one doubles it up to the maximum. An API server that fails for one Job
/// fails for all, and a requeue is only a hint.
const INITIAL_PAUSE: Duration = Duration::from_secs(5);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Maximum Retry-After: a longer one would keep requeues off long after the overload.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// Maximum random part of a pause, so that several servers of one cluster do not return together.
const MAX_JITTER: f64 = 0.25;

/// The failed requeues since the last success.
#[derive(Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Records a failure and returns the pause after it. `random` is a number from 0 to 1.
    pub fn failed(&mut self, retry_after: Option<Duration>, random: f64) -> Duration {
        let pause = exponential(INITIAL_PAUSE, self.failures, MAX_PAUSE);
        self.failures = self.failures.saturating_add(1);
        pause.max(retry_after.unwrap_or_default().min(MAX_RETRY_AFTER)).mul_f64(1.0 + MAX_JITTER * random)
    }

    /// Records a success.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Returns true after a failure.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_until_a_success_and_is_at_least_retry_after() {
        let mut backoff = Backoff::default();
        let pauses = (0..6).map(|_| backoff.failed(None, 0.0).as_secs()).collect::<Vec<_>>();
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
        assert!(backoff.is_failing());
        backoff.succeeded();
        assert!(!backoff.is_failing());
        for (retry_after, random, millis) in [
            (None, 1.0, 6250),
            (Some(30), 0.0, 30_000),
            (Some(30), 1.0, 37_500),
            (Some(7), 0.0, 40_000),
            (Some(u64::MAX), 0.0, 300_000),
        ] {
            let pause = backoff.failed(retry_after.map(Duration::from_secs), random);
            assert_eq!(pause.as_millis(), millis, "{retry_after:?}");
        }
        backoff.failures = u32::MAX;
        assert_eq!(backoff.failed(None, 0.0), MAX_PAUSE);
    }
}
