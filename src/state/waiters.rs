//! Threads that wait for a change of a Job.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread, ThreadId};

/// Maximum number of waiting threads. Each is that of a client connection, of which there are 512 at most.
const MAX_WAITERS: usize = 256;

/// Maximum number of waiting threads for one client network. Half and not less, because the students behind one NAT share an address.
const MAX_OF_NETWORK: usize = MAX_WAITERS / 2;

/// The waiting threads by the name of their Job, each with its client network.
type ByJob = HashMap<Box<str>, Vec<(Thread, IpAddr)>>;

/// The threads that wait for a change of a Job.
#[derive(Default)]
pub struct Waiters(Mutex<ByJob>);

/// The place of a waiting thread, given up when it is dropped.
pub struct Place<'a> {
    waiters: &'a Waiters,
    job: &'a str,
    thread: ThreadId,
}

impl Waiters {
    /// Adds this thread, of a client of `network`, to those that a change of `job` unparks; `None` if too many wait.
    pub fn enter<'a>(&'a self, job: &'a str, network: IpAddr) -> Option<Place<'a>> {
        let (mut waiting, thread) = (self.lock(), thread::current());
        let of_network = waiting.values().flatten().filter(|(_, other)| *other == network).count();
        if of_network >= MAX_OF_NETWORK || waiting.values().map(Vec::len).sum::<usize>() >= MAX_WAITERS {
            return None;
        }
        let place = Place { waiters: self, job, thread: thread.id() };
        waiting.entry(job.into()).or_default().push((thread, network));
        Some(place)
    }

    /// Unparks the threads that wait for `job`.
    pub fn wake(&self, job: &str) {
        self.lock().get(job).into_iter().flatten().for_each(|(thread, _)| thread.unpark());
    }

    /// Unparks all waiting threads.
    pub fn wake_all(&self) {
        self.lock().values().flatten().for_each(|(thread, _)| thread.unpark());
    }

    fn lock(&self) -> MutexGuard<'_, ByJob> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        if let Some(threads) = waiting.get_mut(self.job) {
            threads.retain(|(thread, _)| thread.id() != self.thread);
            if threads.is_empty() {
                waiting.remove(self.job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn network(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[test]
    fn a_full_set_of_waiters_takes_another_once_one_has_left() {
        let waiters = Waiters::default();
        let enter = |last| waiters.enter("a", network(last));
        let mut places: Vec<_> = (0..MAX_OF_NETWORK).map(|_| enter(1).expect("room")).collect();
        assert!(enter(1).is_none(), "one network has half");
        places.extend((0..MAX_OF_NETWORK).map(|_| enter(2).expect("room")));
        assert!(enter(3).is_none());
        places.clear();
        assert!(waiters.lock().is_empty() && enter(3).is_some());
    }

    #[test]
    fn a_change_unparks_the_threads_of_its_job() {
        let waiters = Waiters::default();
        let _place = waiters.enter("a", network(1));
        waiters.wake("a");
        // Returns at once, because the thread has been unparked.
        thread::park();
        waiters.wake_all();
        thread::park();
    }
}
