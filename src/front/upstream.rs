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
    /// No request ended in time.
    Overloaded,
    /// No private connection could be opened.
    Connect(io::Error),
}

/// The size of a pool.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Most private connections.
    pub max: usize,
    /// Most private connections in use by reads; the others are kept for requests that change something.
    pub max_reads: usize,
    /// Most private connections in use by one client network.
    pub max_per_network: usize,
    /// Most requests that wait for one.
    pub max_waiting: usize,
    /// Most reads among them; the others are kept for POSTs.
    pub max_waiting_reads: usize,
}

/// The use of a pool.
pub struct Usage {
    /// Permits given out.
    pub in_use: usize,
    /// Most permits.
    pub max: usize,
    /// Requests that wait for one.
    pub waiting: usize,
}

/// The origin of a request.
#[derive(Debug, Clone, Copy)]
pub struct Origin {
    /// The client network.
    pub network: IpAddr,
    /// The request changes nothing.
    pub is_read: bool,
    /// The request was held back until now. One event may release many at once, so they have waiting places beside those of the others;
    /// the backend limits their number.
    pub is_held: bool,
}

/// The private connections of one class.
pub struct Pool {
    size: Size,
    state: Mutex<State>,
}

struct State {
    /// Permits given out.
    in_use: usize,
    /// Permits in use by reads.
    reads: usize,
    /// The network of each permit given out.
    networks: Vec<IpAddr>,
    /// Free connections with the time of their last use, the latest at the end.
    idle: Vec<(PrivateConnection, Instant)>,
    waiting: VecDeque<Arc<Waiter>>,
    /// The time when a request last started in an idle pool, or ended.
    last_progress: Instant,
}

struct Waiter {
    thread: Thread,
    origin: Origin,
    granted: Mutex<Option<Grant>>,
}

/// A permit on its way to a waiter, with the connection of the request before, if that is intact.
struct Grant(Option<PrivateConnection>);

/// A place in a pool: a permit, or a place among the waiting. Given up when it is dropped.
pub struct Place<'a> {
    pool: &'a Pool,
    /// `None` once its grant has become a [`Permit`].
    waiter: Option<Arc<Waiter>>,
}

/// The right to one private connection, passed to the next waiter when it is dropped.
pub struct Permit<'a> {
    pool: &'a Pool,
    origin: Origin,
    connection: Option<PrivateConnection>,
    /// The wait for the permit.
    pub waited: Duration,
    /// The connection can serve another request.
    is_intact: bool,
}

impl Pool {
    /// An empty pool.
    pub fn new(size: Size) -> Self {
        let (idle, waiting) = (Vec::new(), VecDeque::new());
        let state = State { in_use: 0, reads: 0, networks: Vec::new(), idle, waiting, last_progress: Instant::now() };
        Self { size, state: Mutex::new(state) }
    }

    /// Takes a permit, or else a waiting place, for a request of this thread; `None` if too many requests wait.
    pub fn enter(&self, origin: Origin) -> Option<Place<'_>> {
        let waiter = Arc::new(Waiter { thread: thread::current(), origin, granted: Mutex::default() });
        let mut state = self.lock();
        if state.in_use == 0 {
            state.last_progress = Instant::now();
        }
        if state.has_permit(self.size, origin) {
            state.count(origin);
            waiter.grant(state.idle.pop().map(|(connection, _)| connection));
        } else {
            let waiting = |is_counted: &dyn Fn(&Origin) -> bool| {
                state.waiting.iter().filter(|other| !other.origin.is_held && is_counted(&other.origin)).count()
            };
            let max = self.size.max_waiting;
            let is_full = waiting(&|_| true) >= max
                || waiting(&|other| other.network == origin.network) >= (max / NETWORK_SHARE).max(1)
                || origin.is_read && waiting(&|other| other.is_read) >= self.size.max_waiting_reads;
            if is_full && !origin.is_held {
                return None;
            }
            state.waiting.push_back(Arc::clone(&waiter));
        }
        drop(state);
        Some(Place { pool: self, waiter: Some(waiter) })
    }

    /// Passes a permit to the next waiter that may have it, so that no later request of its kind overtakes it.
    fn release(&self, origin: Origin, connection: Option<PrivateConnection>) {
        let mut state = self.lock();
        state.last_progress = Instant::now();
        state.in_use -= 1;
        state.reads -= usize::from(origin.is_read);
        let network = state.networks.iter().position(|network| *network == origin.network);
        network.map(|network| state.networks.swap_remove(network));
        let next = state.waiting.iter().position(|waiter| state.has_permit(self.size, waiter.origin));
        if let Some(next) = next.and_then(|next| state.waiting.remove(next)) {
            state.count(next.origin);
            next.grant(connection);
            drop(state);
            next.thread.unpark();
        } else if let Some(connection) = connection {
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

    /// Returns the use of the pool.
    pub fn usage(&self) -> Usage {
        let state = self.lock();
        Usage { in_use: state.in_use, max: self.size.max, waiting: state.waiting.len() }
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

impl State {
    fn has_permit(&self, size: Size, origin: Origin) -> bool {
        let of_network = || self.networks.iter().filter(|network| **network == origin.network).count();
        self.in_use < size.max
            && (!origin.is_read || self.reads < size.max_reads)
            && (size.max_per_network >= size.max || of_network() < size.max_per_network)
    }

    fn count(&mut self, origin: Origin) {
        self.in_use += 1;
        self.reads += usize::from(origin.is_read);
        self.networks.push(origin.network);
    }
}

/// Returns false if the other end has closed the connection, or sent bytes that belong to no request.
fn is_open(stream: &UnixStream) -> bool {
    let mut byte = [0; 1];
    let peeked = rustix::net::recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(peeked, Err(Errno::WOULDBLOCK))
}

impl Waiter {
    fn grant(&self, connection: Option<PrivateConnection>) {
        *self.granted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Grant(connection));
    }

    fn take_grant(&self) -> Option<Grant> {
        mem::take(&mut *self.granted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<'a> Place<'a> {
    /// Waits at most `timeout` for a private connection, and opens one with `connect` if none is free.
    ///
    /// # Errors
    /// [`AcquireError`]
    pub fn wait(
        mut self,
        timeout: Duration,
        connect: impl FnOnce() -> io::Result<PrivateConnection>,
    ) -> Result<Permit<'a>, AcquireError> {
        let began = Instant::now();
        let deadline = began + timeout;
        let (origin, Grant(connection)) = loop {
            let waiter = self.waiter.as_ref().expect("a place has its waiter until it is granted");
            if let Some(grant) = waiter.take_grant() {
                break (waiter.origin, grant);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(AcquireError::Overloaded);
            }
            thread::park_timeout(left);
        };
        self.waiter = None;
        let connection = connection.filter(|connection| is_open(&connection.stream));
        let waited = began.elapsed();
        let mut permit = Permit { pool: self.pool, origin, connection, waited, is_intact: false };
        if permit.connection.is_none() {
            permit.connection = Some(connect().map_err(AcquireError::Connect)?);
        }
        Ok(permit)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(waiter) = &self.waiter else { return };
        // The state is locked so that no permit is granted to a waiter that gives up.
        self.pool.lock().waiting.retain(|other| !Arc::ptr_eq(other, waiter));
        if let Some(Grant(connection)) = waiter.take_grant() {
            self.pool.release(waiter.origin, connection);
        }
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
        self.pool.release(self.origin, connection.filter(|_| self.is_intact));
    }
}

#[cfg(test)]
mod tests;
