//! One piece of work for all who wait for its result (single flight).
//!
//! Whoever comes while it is done gets the result of the next one, which begins when that has ended: nobody is given what
//! is older than his question, and there is never more than one at a time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Work whose result is shared.
pub struct Flight<T> {
    state: Mutex<State<T>>,
    landed: Condvar,
}

/// Why there is no result.
#[derive(Debug, PartialEq, Eq)]
pub enum Missed {
    /// The round had not begun in time.
    Late,
    /// It panicked, in another thread.
    Panicked,
}

/// The result of one round; none if it panicked.
type Round<T> = OnceLock<Option<T>>;

struct State<T> {
    flying: bool,
    /// The round that has not begun yet.
    next: Arc<Round<T>>,
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { flying: false, next: Arc::default() }), landed: Condvar::new() }
    }
}

impl<T: Clone> Flight<T> {
    /// The result of a round that begins after this call, and before `patience` is over: of `work`, which is told what is left of
    /// it, or of another caller's.
    ///
    /// # Errors
    /// [`Missed`]
    pub fn join(&self, patience: Duration, work: impl FnOnce(Duration) -> T) -> Result<T, Missed> {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        let round = Arc::clone(&state.next);
        loop {
            if let Some(result) = round.get() {
                return result.clone().ok_or(Missed::Panicked);
            }
            if !state.flying {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            state = if !Arc::ptr_eq(&state.next, &round) {
                // It has begun, and ends by a deadline of its own.
                self.landed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else if left.is_zero() {
                return Err(Missed::Late);
            } else {
                self.landed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
            };
        }
        // Whoever comes from here on is too late for this round.
        (state.flying, state.next) = (true, Arc::default());
        drop(state);
        let _landing = Landing { flight: self, round: &round };
        let result = work(deadline.saturating_duration_since(Instant::now()));
        round.get_or_init(|| Some(result)).clone().ok_or(Missed::Panicked)
    }
}

impl<T> Flight<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a round, also by a panic.
struct Landing<'a, T> {
    flight: &'a Flight<T>,
    round: &'a Round<T>,
}

impl<T> Drop for Landing<'_, T> {
    fn drop(&mut self) {
        self.round.get_or_init(|| None);
        self.flight.lock().flying = false;
        self.flight.landed.notify_all();
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

    /// Who waits for the round that has not begun yet.
    fn waiting<T>(flight: &Flight<T>) -> usize {
        Arc::strong_count(&flight.lock().next) - 1
    }

    #[test]
    fn those_who_come_meanwhile_share_the_next_round_and_none_gets_an_older_one() {
        let (flight, rounds) = (Flight::default(), AtomicUsize::new(0));
        let work = |_| rounds.fetch_add(1, Ordering::SeqCst);
        let (go, gone) = mpsc::channel();
        let gone = Mutex::new(gone);
        thread::scope(|scope| {
            let flying = || {
                flight.join(LONG, |_| {
                    gone.lock().expect("no panic").recv().map(|()| work(LONG)).expect("the test lets it go")
                })
            };
            let first = scope.spawn(flying);
            while !flight.lock().flying {
                thread::yield_now();
            }
            let others: Vec<_> = (0..10).map(|_| scope.spawn(|| flight.join(LONG, work))).collect();
            while waiting(&flight) < others.len() {
                thread::yield_now();
            }
            go.send(()).expect("it waits");
            assert_eq!(first.join().expect("no panic"), Ok(0));
            for other in others {
                assert_eq!(other.join().expect("no panic"), Ok(1));
            }
        });
        assert_eq!(flight.join(LONG, work), Ok(2));
    }

    #[test]
    fn who_waits_in_vain_for_the_next_round_gives_up_and_who_shares_one_that_has_begun_does_not() {
        let flight = Flight::default();
        let (go, gone) = mpsc::channel();
        let gone = Mutex::new(gone);
        thread::scope(|scope| {
            let first = scope.spawn(|| flight.join(LONG, |_| gone.lock().expect("no panic").recv().is_ok()));
            while !flight.lock().flying {
                thread::yield_now();
            }
            assert_eq!(flight.join(Duration::from_millis(1), |_| true), Err(Missed::Late));
            go.send(()).expect("it waits");
            assert_eq!(first.join().expect("no panic"), Ok(true));
        });
    }

    #[test]
    fn a_round_that_panics_is_the_end_of_that_round_only() {
        let flight = Flight::default();
        let panicked = catch_unwind(AssertUnwindSafe(|| flight.join(LONG, |_| -> u8 { panic!("of the test") })));
        assert!(panicked.is_err());
        assert_eq!(flight.join(LONG, |_| 7), Ok(7));
    }
}
