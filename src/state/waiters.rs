//! Threads that wait for a change of a Job.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread, ThreadId};

/// Maximum number of waiting threads. Each is that of a client connection, of which there are 512 at most.
const MAX_WAITERS: usize = 256;

/// The waiting threads by the name of their Job.
#[derive(Default)]
pub struct Waiters(Mutex<HashMap<Box<str>, Vec<Thread>>>);

/// The place of a waiting thread, given up when it is dropped.
pub struct Place<'a> {
    waiters: &'a Waiters,
    job: &'a str,
    thread: ThreadId,
}

impl Waiters {
    /// Adds this thread to those that a change of `job` unparks; `None` if too many wait.
    pub fn enter<'a>(&'a self, job: &'a str) -> Option<Place<'a>> {
        let (mut waiting, thread) = (self.lock(), thread::current());
        if waiting.values().map(Vec::len).sum::<usize>() >= MAX_WAITERS {
            return None;
        }
        let place = Place { waiters: self, job, thread: thread.id() };
        waiting.entry(job.into()).or_default().push(thread);
        Some(place)
    }

    /// Unparks the threads that wait for `job`.
    pub fn wake(&self, job: &str) {
        self.lock().get(job).into_iter().flatten().for_each(Thread::unpark);
    }

    /// Unparks all waiting threads.
    pub fn wake_all(&self) {
        self.lock().values().flatten().for_each(Thread::unpark);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Vec<Thread>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        if let Some(threads) = waiting.get_mut(self.job) {
            threads.retain(|thread| thread.id() != self.thread);
            if threads.is_empty() {
                waiting.remove(self.job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_set_of_waiters_takes_another_once_one_has_left() {
        let waiters = Waiters::default();
        let mut places: Vec<_> = (0..MAX_WAITERS).map(|_| waiters.enter("a").expect("room")).collect();
        assert!(waiters.enter("b").is_none());
        places.clear();
        assert!(waiters.lock().is_empty() && waiters.enter("b").is_some());
    }

    #[test]
    fn a_change_unparks_the_threads_of_its_job() {
        let waiters = Waiters::default();
        let _place = waiters.enter("a");
        waiters.wake("a");
        // Returns at once, because the thread has been unparked.
        thread::park();
        waiters.wake_all();
        thread::park();
    }
}
