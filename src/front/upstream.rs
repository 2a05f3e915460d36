//! How many requests ask Kubernetes at a time, and in which order the others wait: first come, first served.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// A number of places, each for one request at Kubernetes.
pub struct Crew {
    size: usize,
    state: Mutex<State>,
}

struct State {
    busy: usize,
    waiting: VecDeque<Arc<Waiter>>,
    /// When a request last came to an idle crew, or was finished.
    moved: Instant,
}

struct Waiter {
    thread: Thread,
    called: AtomicBool,
}

/// The right to ask Kubernetes, given to the next one when it is dropped.
pub struct Place<'a>(&'a Crew);

impl Crew {
    /// A crew of `size` places.
    pub fn new(size: usize) -> Self {
        Self { size, state: Mutex::new(State { busy: 0, waiting: VecDeque::new(), moved: Instant::now() }) }
    }

    /// Waits for a place, at most for `patience`.
    pub fn enter(&self, patience: Duration) -> Option<Place<'_>> {
        let deadline = Instant::now() + patience;
        let waiter = {
            let mut state = self.lock();
            if state.busy == 0 {
                state.moved = Instant::now();
            }
            if state.busy < self.size {
                state.busy += 1;
                return Some(Place(self));
            }
            let waiter = Arc::new(Waiter { thread: thread::current(), called: AtomicBool::new(false) });
            state.waiting.push_back(Arc::clone(&waiter));
            waiter
        };
        loop {
            thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
            let late = Instant::now() >= deadline;
            // With the lock, so that nobody calls who has just been given up.
            let mut state = self.lock();
            if waiter.called.load(Ordering::Relaxed) {
                return Some(Place(self));
            }
            if late {
                state.waiting.retain(|other| !Arc::ptr_eq(other, &waiter));
                return None;
            }
        }
    }

    /// Whether a request has been finished lately, if there are any: each ends by its deadline, so that a crew in which
    /// nothing moves for `patience` is stuck.
    pub fn is_alive(&self, patience: Duration) -> bool {
        let state = self.lock();
        state.busy == 0 || state.moved.elapsed() < patience
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.moved = Instant::now();
        match state.waiting.pop_front() {
            // The place goes from hand to hand, so that nobody who comes now is before who has waited.
            Some(next) => {
                next.called.store(true, Ordering::Relaxed);
                drop(state);
                next.thread.unpark();
            }
            None => state.busy -= 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn places_are_given_in_the_order_of_coming() {
        let crew = Crew::new(1);
        let first = crew.enter(Duration::ZERO).expect("an empty crew has a place");
        assert!(crew.enter(Duration::ZERO).is_none());
        thread::scope(|scope| {
            let (came, order) = mpsc::channel();
            for number in 0..20 {
                let (came, crew) = (came.clone(), &crew);
                scope.spawn(move || {
                    let place = crew.enter(LONG);
                    came.send((number, place.is_some())).expect("the test listens");
                });
                while crew.lock().waiting.len() <= number {
                    thread::yield_now();
                }
            }
            drop(first);
            let seen: Vec<_> = order.iter().take(20).collect();
            assert_eq!(seen, (0..20).map(|number| (number, true)).collect::<Vec<_>>());
        });
        assert_eq!(crew.lock().busy, 0);
    }

    #[test]
    fn who_gives_up_leaves_the_line() {
        let crew = Crew::new(1);
        let place = crew.enter(Duration::ZERO);
        assert!(crew.enter(Duration::from_millis(5)).is_none());
        assert!(crew.lock().waiting.is_empty());
        drop(place);
        assert!(crew.enter(Duration::ZERO).is_some());
    }

    #[test]
    fn a_crew_is_stuck_when_it_has_work_and_nothing_moves() {
        let crew = Crew::new(2);
        assert!(crew.is_alive(Duration::ZERO));
        let _place = crew.enter(LONG);
        assert!(crew.is_alive(LONG) && !crew.is_alive(Duration::ZERO));
    }
}
