//! The table of client connections: their number, eviction, and the wait for them at a stop.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::front::io::reset_on_close;
use crate::front::limits::KERNEL_SEND_BUFFER;
use crate::front::rate_limiter::network;

/// One client network may have one in this many connections, so that it alone cannot take all.
const PEER_SHARE: usize = 2;

/// One in this many connections is kept for clients on this host: the watchdog's probe and an operator's curl.
const HOST_SHARE: usize = 128;

/// The slowest rate at which a client makes progress, in bytes per second: a slow modem.
const PROGRESS_RATE: usize = 16 * 1024;

/// The time over which the rate of a client counts: long for lost packets.
const PROGRESS_TIME: Duration = Duration::from_secs(2);

/// The bytes that a client takes in this time, unless it is stalled.
const PROGRESS_BYTES: usize = 2 * PROGRESS_RATE;

/// At a stop, a connection that was accepted or answered less than this ago may still send a request that is on its way. Long for a
/// network, short for a stop.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Bytes of responses that slow clients have not taken, all together, in this process and in the kernel. Beyond it the slowest of
/// them loses its response.
const MAX_UNSENT: usize = 32 * 1024 * 1024;

/// Every client connection that has a thread.
pub struct Connections {
    max: usize,
    state: Mutex<State>,
    connection_closed: Condvar,
}

#[derive(Default)]
struct State {
    /// More connections may be accepted.
    is_accepting: bool,
    open: HashMap<u64, Connection>,
    last_key: u64,
    /// Connections that made room for others.
    evictions: u64,
}

struct Connection {
    /// The client network.
    peer: IpAddr,
    stream: Arc<TcpStream>,
    phase: Phase,
    /// The start of the phase, or the last progress of a client that takes a response.
    since: Instant,
    /// Bytes of the response that the client has taken since then.
    taken: usize,
}

/// The phase of a client connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// No complete request yet.
    Idle,
    /// The server handles a request.
    Handling,
    /// The client takes a response of this many bytes too slowly.
    Writing(usize),
    /// The kernel holds the rest of a response of this many bytes, or of several, so the next request is not read.
    Backlogged(usize),
}

/// A place in the table, given up when it is dropped.
pub struct ConnectionGuard {
    connections: Arc<Connections>,
    /// The client network.
    pub peer: IpAddr,
    key: u64,
}

impl Connections {
    /// A table of at most `max` connections.
    pub fn new(max: usize) -> Self {
        Self { max, state: Mutex::default(), connection_closed: Condvar::new() }
    }

    /// Adds a connection; `is_local`: the client runs on this host. If the table is full, a connection makes room that waits for its
    /// client: of the network with the most connections, an idle one before a stalled one, the longest first. `None` if the server
    /// works for every connection.
    pub fn register(
        self: &Arc<Self>,
        stream: &Arc<TcpStream>,
        peer: IpAddr,
        is_local: bool,
    ) -> Option<ConnectionGuard> {
        let peer = network(peer);
        let mut state = self.lock();
        let counts = state.sum_by_network(|_| 1);
        let of_peer = counts.get(&peer).copied().unwrap_or_default();
        let max = if is_local { self.max } else { self.max - self.max.div_ceil(HOST_SHARE) };
        let is_own_only = of_peer >= self.max / PEER_SHARE;
        if is_own_only || state.open.len() >= max {
            state.evict(|_, other| {
                let is_candidate = other.can_be_evicted() && (other.peer == peer || !is_own_only);
                is_candidate.then(|| (Reverse(counts[&other.peer]), other.unsent() > 0, other.since))
            })?;
        }
        state.last_key += 1;
        let key = state.last_key;
        let stream = Arc::clone(stream);
        state.open.insert(key, Connection { peer, stream, phase: Phase::Idle, since: Instant::now(), taken: 0 });
        Some(ConnectionGuard { connections: Arc::clone(self), peer, key })
    }

    /// Records that connections are accepted, or no longer.
    pub fn set_accepting(&self, is_accepting: bool) {
        self.lock().is_accepting = is_accepting;
        self.connection_closed.notify_all();
    }

    /// Ends idle connections and waits at most `timeout` for the others. Returns the number of those that are left.
    pub fn drain(&self, timeout: Duration) -> usize {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        while state.is_accepting || !state.open.is_empty() {
            let next = state.end_idle();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return state.open.len();
            }
            let pause = next.map_or(left, |next| next.min(left));
            state = self.connection_closed.wait_timeout(state, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
        0
    }

    /// Returns the number of open connections, its maximum, and the number of evictions.
    pub fn counts(&self) -> (usize, usize, u64) {
        let state = self.lock();
        (state.open.len(), self.max, state.evictions)
    }

    /// Wakes [`Self::drain`] to look at a connection that became idle.
    pub fn notify(&self) {
        self.connection_closed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds up an amount of each connection for every client network.
    fn sum_by_network(&self, amount: impl Fn(&Connection) -> usize) -> HashMap<IpAddr, usize> {
        let mut sums = HashMap::new();
        self.open.values().for_each(|one| *sums.entry(one.peer).or_default() += amount(one));
        sums
    }

    /// Ends the connection of the lowest rank; `None` if no connection has one.
    fn evict<R: Ord>(&mut self, rank: impl Fn(u64, &Connection) -> Option<R>) -> Option<()> {
        let ranked = self.open.iter().filter_map(|(key, one)| Some((rank(*key, one)?, *key)));
        let (_, key) = ranked.min()?;
        let evicted = self.open.remove(&key)?;
        if evicted.unsent() > 0 {
            reset_on_close(&evicted.stream);
        }
        self.evictions += 1;
        // The connection's thread sees the end of the stream.
        let _ = evicted.stream.shutdown(Shutdown::Both);
        Some(())
    }

    /// Ends connections that were idle for [`LAST_REQUEST`]. Returns the time until the next one.
    fn end_idle(&self) -> Option<Duration> {
        let mut next = None;
        for idle in self.open.values().filter(|one| matches!(one.phase, Phase::Idle | Phase::Backlogged(_))) {
            let left = LAST_REQUEST.saturating_sub(idle.since.elapsed());
            if left.is_zero() {
                // Reading only: a request that has just arrived is still answered. A backlogged client has none, and waits to write.
                let direction = if idle.phase == Phase::Idle { Shutdown::Read } else { Shutdown::Both };
                let _ = idle.stream.shutdown(direction);
            } else {
                next = Some(next.map_or(left, |next: Duration| next.min(left)));
            }
        }
        next
    }
}

impl Connection {
    /// Tests for a connection whose client the server waits for: it is idle, or takes its responses too slowly.
    fn can_be_evicted(&self) -> bool {
        match self.phase {
            Phase::Idle => true,
            Phase::Handling => false,
            Phase::Writing(_) => self.since.elapsed() >= PROGRESS_TIME,
            Phase::Backlogged(bytes) => self.since.elapsed().as_millis() >= (bytes / (PROGRESS_RATE / 1000)) as u128,
        }
    }

    /// Bytes of memory for responses that the client has not taken.
    fn unsent(&self) -> usize {
        match self.phase {
            Phase::Idle | Phase::Handling => 0,
            Phase::Writing(bytes) | Phase::Backlogged(bytes) => bytes + KERNEL_SEND_BUFFER,
        }
    }
}

impl ConnectionGuard {
    /// Sets the phase. Returns false if the connection has been evicted.
    pub fn set_phase(&self, phase: Phase) -> bool {
        let mut state = self.connections.lock();
        let Some(connection) = state.open.get_mut(&self.key) else { return false };
        (connection.phase, connection.since, connection.taken) = (phase, Instant::now(), 0);
        true
    }

    /// Returns true at a stop.
    pub fn is_draining(&self) -> bool {
        !self.connections.lock().is_accepting
    }

    /// Counts bytes that the client has taken of its response.
    pub fn count_taken(&self, bytes: usize) {
        let mut state = self.connections.lock();
        let Some(connection) = state.open.get_mut(&self.key) else { return };
        connection.taken += bytes;
        if connection.taken >= PROGRESS_BYTES {
            (connection.since, connection.taken) = (Instant::now(), 0);
        }
    }

    /// Counts the idle time from now: the first part of a request has arrived.
    pub fn restart_idle(&self) {
        self.set_phase(Phase::Idle);
    }

    /// Sets the phase of a client that has not taken a response. While all such responses together exceed [`MAX_UNSENT`], evicts
    /// other clients: of the network with the most such bytes, the slowest first.
    pub fn count_unsent(&self, phase: Phase) {
        self.set_phase(phase);
        let mut state = self.connections.lock();
        while state.open.values().map(Connection::unsent).sum::<usize>() > MAX_UNSENT {
            let unsent = state.sum_by_network(Connection::unsent);
            let rank = |one: &Connection| (Reverse(unsent[&one.peer]), one.since);
            let evicted = state.evict(|key, one| (key != self.key && one.unsent() > 0).then(|| rank(one)));
            if evicted.is_none() {
                break;
            }
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.lock().open.remove(&self.key);
        self.connections.notify();
    }
}

#[cfg(test)]
mod tests;
