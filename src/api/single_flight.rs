//! One operation for all callers that wait for its result (single flight).
//!
//! A caller that arrives during a round gets the result of the next one, which starts when the current round ends. So no caller
//! gets an older result than its own call would have returned, and at most one round runs at a time. The last caller to arrive
//! carries out the next round, because it has the most time left; every other caller leaves at its own deadline.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// An operation with a shared result.
pub struct SingleFlight<T> {
    state: Mutex<State<T>>,
    round_ended: Condvar,
}

/// The reason for a missing result.
#[derive(Debug, PartialEq, Eq)]
pub enum Missed {
    /// The round did not end in time.
    TimedOut,
    /// The round panicked in another thread.
    Panicked,
}

/// The result of one round; `None` if it panicked.
type Round<T> = OnceLock<Option<T>>;

struct State<T> {
    in_progress: bool,
    /// The number of the last caller.
    last: u64,
    /// The round that has not started yet.
    next: Arc<Round<T>>,
}

impl<T> Default for SingleFlight<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State { in_progress: false, last: 0, next: Arc::default() }),
            round_ended: Condvar::new(),
        }
    }
}

impl<T: Clone> SingleFlight<T> {
    /// Returns the result of a round that starts after this call and ends within `timeout`: of `work`, which gets the
    /// deadline, or of another caller's.
    ///
    /// # Errors
    /// [`Missed`]
    pub fn run(&self, timeout: Duration, work: impl FnOnce(Instant) -> T) -> Result<T, Missed> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        let round = Arc::clone(&state.next);
        state.last += 1;
        let number = state.last;
        loop {
            if let Some(result) = round.get() {
                return result.clone().ok_or(Missed::Panicked);
            }
            if !state.in_progress && state.last == number {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Missed::TimedOut);
            }
            state = self.round_ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        // Callers that arrive from here on wait for the next round.
        (state.in_progress, state.next) = (true, Arc::default());
        drop(state);
        let _guard = RoundGuard { flight: self, round: &round };
        let result = work(deadline);
        round.get_or_init(|| Some(result)).clone().ok_or(Missed::Panicked)
    }
}

impl<T> SingleFlight<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a round, also after a panic.
struct RoundGuard<'a, T> {
    flight: &'a SingleFlight<T>,
    round: &'a Round<T>,
}

impl<T> Drop for RoundGuard<'_, T> {
    fn drop(&mut self) {
        self.round.get_or_init(|| None);
        self.flight.lock().in_progress = false;
        self.flight.round_ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// The number of callers that wait for the next round.
    fn waiting<T>(flight: &SingleFlight<T>) -> usize {
        Arc::strong_count(&flight.lock().next) - 1
    }

    #[test]
    fn callers_during_a_round_share_the_next_one() {
        let (flight, rounds) = (SingleFlight::default(), AtomicUsize::new(0));
        let work = |_| rounds.fetch_add(1, Ordering::SeqCst);
        let (go, gone) = mpsc::channel();
        let gone = Mutex::new(gone);
        thread::scope(|scope| {
            let first = scope.spawn(|| {
                flight.run(LONG, |until| {
                    gone.lock().expect("no panic").recv().map(|()| work(until)).expect("the test sends")
                })
            });
            while !flight.lock().in_progress {
                thread::yield_now();
            }
            let others: Vec<_> = (0..10).map(|_| scope.spawn(|| flight.run(LONG, work))).collect();
            while waiting(&flight) < others.len() {
                thread::yield_now();
            }
            go.send(()).expect("it waits");
            assert_eq!(first.join().expect("no panic"), Ok(0));
            for other in others {
                assert_eq!(other.join().expect("no panic"), Ok(1));
            }
        });
        assert_eq!(flight.run(LONG, work), Ok(2));
    }

    #[test]
    fn a_caller_leaves_at_its_own_deadline_before_its_round_and_during_it() {
        let flight = SingleFlight::default();
        let (go, gone) = mpsc::channel();
        let gone = Mutex::new(gone);
        thread::scope(|scope| {
            let first = scope.spawn(|| flight.run(LONG, |_| gone.lock().expect("no panic").recv().is_ok()));
            while !flight.lock().in_progress {
                thread::yield_now();
            }
            assert_eq!(flight.run(Duration::from_millis(1), |_| true), Err(Missed::TimedOut));
            let early = scope.spawn(|| flight.run(Duration::from_millis(200), |_| true));
            while waiting(&flight) < 1 && !early.is_finished() {
                thread::yield_now();
            }
            let last = scope.spawn(|| flight.run(LONG, |_| gone.lock().expect("no panic").recv().is_ok()));
            while waiting(&flight) < 2 - usize::from(early.is_finished()) {
                thread::yield_now();
            }
            go.send(()).expect("it waits");
            assert_eq!(first.join().expect("no panic"), Ok(true));
            assert_eq!(early.join().expect("no panic"), Err(Missed::TimedOut), "the last caller's round has not ended");
            go.send(()).expect("it waits");
            assert_eq!(last.join().expect("no panic"), Ok(true));
        });
    }

    #[test]
    fn a_panic_ends_only_its_own_round() {
        let flight = SingleFlight::default();
        let panicked = catch_unwind(AssertUnwindSafe(|| flight.run(LONG, |_| -> u8 { panic!("of the test") })));
        assert!(panicked.is_err());
        assert_eq!(flight.run(LONG, |_| 7), Ok(7));
    }
}
