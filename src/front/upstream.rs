//! The pool of private connections: in classes, opened when first needed, first come, first served. The pool is the only limit on
//! concurrent requests.

use std::collections::VecDeque;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::front::backend::PrivateConnection;

/// Time without use after which a private connection is closed, and its worker thread ends.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// One client network may have one in this many waiting places.
const NETWORK_SHARE: usize = 4;

/// The reason for a missing permit.
#[derive(Debug)]
pub enum AcquireError {
    /// Too many requests wait, or none ended in time.
    Overloaded,
    /// No private connection could be opened.
    Connect(io::Error),
}

/// The private connections of one class.
pub struct Pool {
    /// Most private connections.
    max: usize,
    /// Most requests that wait for one.
    max_waiting: usize,
    state: Mutex<State>,
}

struct State {
    /// Permits given out.
    in_use: usize,
    /// Free connections with the time of their last use, the latest at the end.
    idle: Vec<(PrivateConnection, Instant)>,
    waiting: VecDeque<Arc<Waiter>>,
    /// The time when a request last started in an idle pool, or ended.
    last_progress: Instant,
}

struct Waiter {
    thread: Thread,
    network: IpAddr,
    granted: Mutex<Option<Grant>>,
}

/// A permit on its way to a waiter, with the connection of the request before, if that is intact.
struct Grant(Option<PrivateConnection>);

/// The right to one private connection, passed to the next waiter when it is dropped.
pub struct Permit<'a> {
    pool: &'a Pool,
    connection: Option<PrivateConnection>,
    /// The connection can serve another request.
    is_intact: bool,
}

impl Pool {
    /// A pool of at most `max` connections and `max_waiting` waiting requests.
    pub fn new(max: usize, max_waiting: usize) -> Self {
        let state = State { in_use: 0, idle: Vec::new(), waiting: VecDeque::new(), last_progress: Instant::now() };
        Self { max, max_waiting, state: Mutex::new(state) }
    }

    /// Waits at most `timeout` for a private connection, and opens one with `connect` if none is free.
    ///
    /// # Errors
    /// [`AcquireError`]
    pub fn acquire(
        &self,
        network: IpAddr,
        timeout: Duration,
        connect: impl FnOnce() -> io::Result<PrivateConnection>,
    ) -> Result<Permit<'_>, AcquireError> {
        let Grant(connection) = self.take_or_wait(network, timeout).ok_or(AcquireError::Overloaded)?;
        let connection = connection.filter(|connection| is_open(&connection.stream));
        let mut permit = Permit { pool: self, connection, is_intact: false };
        if permit.connection.is_none() {
            permit.connection = Some(connect().map_err(AcquireError::Connect)?);
        }
        Ok(permit)
    }

    fn take_or_wait(&self, network: IpAddr, timeout: Duration) -> Option<Grant> {
        let deadline = Instant::now() + timeout;
        let waiter = {
            let mut state = self.lock();
            if state.in_use == 0 {
                state.last_progress = Instant::now();
            }
            if state.in_use < self.max {
                state.in_use += 1;
                return Some(Grant(state.idle.pop().map(|(connection, _)| connection)));
            }
            let of_network = state.waiting.iter().filter(|other| other.network == network).count();
            if state.waiting.len() >= self.max_waiting || of_network >= self.max_waiting.div_ceil(NETWORK_SHARE) {
                return None;
            }
            let waiter = Arc::new(Waiter { thread: thread::current(), network, granted: Mutex::default() });
            state.waiting.push_back(Arc::clone(&waiter));
            waiter
        };
        loop {
            thread::park_timeout(deadline.saturating_duration_since(Instant::now()));
            let timed_out = Instant::now() >= deadline;
            // The state is locked so that no permit is granted to a waiter that gives up.
            let mut state = self.lock();
            if let Some(grant) = waiter.take_grant() {
                return Some(grant);
            }
            if timed_out {
                state.waiting.retain(|other| !Arc::ptr_eq(other, &waiter));
                return None;
            }
        }
    }

    /// Passes a permit to the next waiter, so that no later request overtakes it.
    fn release(&self, connection: Option<PrivateConnection>) {
        let mut state = self.lock();
        state.last_progress = Instant::now();
        if let Some(next) = state.waiting.pop_front() {
            *next.granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Grant(connection));
            drop(state);
            next.thread.unpark();
            return;
        }
        state.in_use -= 1;
        if let Some(connection) = connection {
            state.idle.push((connection, Instant::now()));
        }
    }

    /// Closes the connections that were idle for too long.
    pub fn close_idle(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        let is_old = |(_, since): &(_, Instant)| now.saturating_duration_since(*since) >= IDLE_TIMEOUT;
        let old = state.idle.iter().take_while(|idle| is_old(idle)).count();
        let closed: Vec<_> = state.idle.drain(..old).collect();
        drop(state);
        drop(closed);
    }

    /// Returns true if no request is running, or one ended less than `timeout` ago. Every request has a deadline, so a pool without
    /// progress for longer is stuck.
    pub fn is_alive(&self, timeout: Duration) -> bool {
        let state = self.lock();
        state.in_use == 0 || state.last_progress.elapsed() < timeout
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns false if the other end has closed the connection, or sent bytes that belong to no request.
fn is_open(stream: &UnixStream) -> bool {
    let mut byte = [0; 1];
    let peeked = rustix::net::recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(peeked, Err(Errno::WOULDBLOCK))
}

impl Waiter {
    fn take_grant(&self) -> Option<Grant> {
        mem::take(&mut *self.granted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Permit<'_> {
    /// The private connection.
    pub fn connection(&self) -> &PrivateConnection {
        self.connection.as_ref().expect("a permit has its connection until it is given back")
    }

    /// Gives the connection back for the next request; its last response has been read to its end. A permit that is dropped instead
    /// closes its connection.
    pub fn give_back(mut self) {
        self.is_intact = true;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let connection = self.connection.take();
        self.pool.release(connection.filter(|_| self.is_intact));
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const ANN: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const BOB: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    fn connect() -> io::Result<PrivateConnection> {
        let (stream, other) = UnixStream::pair()?;
        Ok(PrivateConnection { stream, count: Box::new(other) })
    }

    #[test]
    fn permits_are_granted_in_the_order_of_arrival() {
        let pool = Pool::new(1, 100);
        let first = pool.acquire(ANN, Duration::ZERO, connect).expect("an empty pool has a permit");
        assert!(matches!(pool.acquire(ANN, Duration::ZERO, connect), Err(AcquireError::Overloaded)));
        thread::scope(|scope| {
            let (sender, order) = mpsc::channel();
            for number in 0..20 {
                let (sender, pool) = (sender.clone(), &pool);
                scope.spawn(move || {
                    let refused = || panic!("the connection before is intact");
                    let permit = pool.acquire(ANN, LONG, refused).expect("granted");
                    sender.send(number).expect("the test receives");
                    permit.give_back();
                });
                while pool.lock().waiting.len() <= number {
                    thread::yield_now();
                }
            }
            first.give_back();
            let seen: Vec<_> = order.iter().take(20).collect();
            assert_eq!(seen, (0..20).collect::<Vec<_>>());
        });
        let state = pool.lock();
        assert_eq!((state.in_use, state.idle.len()), (0, 1));
    }

    #[test]
    fn a_broken_connection_gives_its_permit_to_a_new_one() {
        let pool = Pool::new(1, 4);
        drop(pool.acquire(ANN, Duration::ZERO, connect).expect("granted"));
        assert!(pool.lock().idle.is_empty());
        let refused = pool.acquire(ANN, Duration::ZERO, || Err(io::ErrorKind::ConnectionRefused.into()));
        assert!(matches!(refused, Err(AcquireError::Connect(_))));
        drop(refused);
        assert!(pool.acquire(ANN, Duration::ZERO, connect).is_ok(), "a failure to connect keeps no permit");
    }

    #[test]
    fn a_network_gets_a_quarter_of_the_waiting_places() {
        let pool = Pool::new(1, 8);
        let permit = pool.acquire(ANN, Duration::ZERO, connect).expect("granted");
        thread::scope(|scope| {
            for number in 0..2 {
                scope.spawn(|| pool.acquire(ANN, LONG, connect).map(Permit::give_back).expect("granted"));
                while pool.lock().waiting.len() <= number {
                    thread::yield_now();
                }
            }
            assert!(matches!(pool.acquire(ANN, LONG, connect), Err(AcquireError::Overloaded)), "no wait");
            scope.spawn(|| pool.acquire(BOB, LONG, connect).map(Permit::give_back).expect("granted"));
            while pool.lock().waiting.len() < 3 {
                thread::yield_now();
            }
            permit.give_back();
        });
    }

    #[test]
    fn a_waiter_that_times_out_leaves_the_queue() {
        let pool = Pool::new(1, 4);
        let permit = pool.acquire(ANN, Duration::ZERO, connect).expect("granted");
        assert!(pool.acquire(ANN, Duration::from_millis(5), connect).is_err());
        assert!(pool.lock().waiting.is_empty());
        permit.give_back();
        assert!(pool.acquire(ANN, Duration::ZERO, connect).is_ok());
    }

    #[test]
    fn a_pool_in_use_without_progress_is_stuck() {
        let pool = Pool::new(2, 4);
        assert!(pool.is_alive(Duration::ZERO));
        let _permit = pool.acquire(ANN, LONG, connect).expect("granted");
        assert!(pool.is_alive(LONG) && !pool.is_alive(Duration::ZERO));
    }

    #[test]
    fn only_old_idle_connections_are_closed() {
        let pool = Pool::new(2, 4);
        let two = [pool.acquire(ANN, LONG, connect), pool.acquire(ANN, LONG, connect)];
        two.into_iter().for_each(|permit| permit.expect("granted").give_back());
        if let Some(past) = Instant::now().checked_sub(IDLE_TIMEOUT) {
            pool.lock().idle[0].1 = past;
            pool.close_idle();
            assert_eq!(pool.lock().idle.len(), 1);
        }
    }
}
