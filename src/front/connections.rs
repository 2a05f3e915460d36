//! The table of client connections: their number, eviction, and the wait for them at a stop.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::front::rate_limiter::network;

/// One client network may have one in this many connections, so that it alone cannot take all.
const PEER_SHARE: usize = 2;

/// At a stop, a connection that was accepted or answered less than this ago may still send a request that is on its way. Long for a
/// network, short for a stop.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Bytes of responses that slow clients have not taken, all together. Beyond it the slowest of them loses its response.
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
}

struct Connection {
    peer: IpAddr,
    stream: Arc<TcpStream>,
    phase: Phase,
    since: Instant,
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

    /// Adds a connection. The longest idle one makes room if the table is full; `None` if no connection is idle.
    pub fn register(self: &Arc<Self>, stream: &Arc<TcpStream>, peer: IpAddr) -> Option<ConnectionGuard> {
        let peer = network(peer);
        let mut state = self.lock();
        let of_peer = state.open.values().filter(|other| other.peer == peer).count();
        if of_peer >= self.max / PEER_SHARE {
            state.evict(|other| other.peer == peer && other.phase == Phase::Idle)?;
        } else if state.open.len() >= self.max {
            state.evict(|other| other.phase == Phase::Idle)?;
        }
        state.last_key += 1;
        let key = state.last_key;
        let connection = Connection { peer, stream: Arc::clone(stream), phase: Phase::Idle, since: Instant::now() };
        state.open.insert(key, connection);
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

    /// Wakes [`Self::drain`] to look at a connection that became idle.
    pub fn notify(&self) {
        self.connection_closed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Ends the connection that has been in its phase for longest, among those that match; `None` if no connection matches.
    fn evict(&mut self, matches: impl Fn(&Connection) -> bool) -> Option<()> {
        let (key, _) = self.open.iter().filter(|(_, one)| matches(one)).min_by_key(|(_, one)| one.since)?;
        let key = *key;
        // The connection's thread sees the end of the stream.
        let evicted = self.open.remove(&key)?;
        let _ = evicted.stream.shutdown(Shutdown::Both);
        Some(())
    }

    /// Ends connections that were idle for [`LAST_REQUEST`]. Returns the time until the next one.
    fn end_idle(&self) -> Option<Duration> {
        let mut next = None;
        for idle in self.open.values().filter(|one| one.phase == Phase::Idle) {
            let left = LAST_REQUEST.saturating_sub(idle.since.elapsed());
            if left.is_zero() {
                // Reading only: a request that has just arrived is still answered.
                let _ = idle.stream.shutdown(Shutdown::Read);
            } else {
                next = Some(next.map_or(left, |next: Duration| next.min(left)));
            }
        }
        next
    }

    fn unsent(&self) -> usize {
        let bytes = |one: &Connection| if let Phase::Writing(bytes) = one.phase { bytes } else { 0 };
        self.open.values().map(bytes).sum()
    }
}

impl ConnectionGuard {
    /// Sets the phase. Returns false if the connection has been evicted.
    pub fn set_phase(&self, phase: Phase) -> bool {
        let mut state = self.connections.lock();
        let connection = state.open.get_mut(&self.key);
        connection.map(|connection| (connection.phase, connection.since) = (phase, Instant::now())).is_some()
    }

    /// Counts the idle time from now: the first part of a request has arrived.
    pub fn restart_idle(&self) {
        self.set_phase(Phase::Idle);
    }

    /// Counts a response of `bytes` that the client takes too slowly, and evicts the slowest other clients while all responses together
    /// exceed [`MAX_UNSENT`].
    pub fn count_unsent(&self, bytes: usize) {
        self.set_phase(Phase::Writing(bytes));
        let mut state = self.connections.lock();
        let own = state.open.get(&self.key).map(|connection| Arc::clone(&connection.stream));
        while state.unsent() > MAX_UNSENT {
            let is_other = |one: &Connection| {
                matches!(one.phase, Phase::Writing(_)) && own.as_ref().is_none_or(|own| !Arc::ptr_eq(own, &one.stream))
            };
            if state.evict(is_other).is_none() {
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
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    /// A client's end and the server's.
    fn pair() -> (TcpStream, Arc<TcpStream>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        (client, Arc::new(listener.accept().expect("accepted").0))
    }

    fn is_open(client: &TcpStream) -> bool {
        client.set_nonblocking(true).expect("a socket");
        let mut client = client;
        client.read(&mut [0; 1]).is_err()
    }

    fn peer(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
    }

    #[test]
    fn the_slowest_client_loses_its_response_when_all_exceed_the_budget() {
        let table = Arc::new(Connections::new(8));
        let clients: Vec<_> = (0..4).map(|_| pair()).collect();
        let guards: Vec<_> = clients
            .iter()
            .zip(1..)
            .map(|((_, stream), last)| table.register(stream, peer(last)).expect("a place"))
            .collect();
        guards[..3].iter().for_each(|guard| guard.count_unsent(MAX_UNSENT / 3));
        assert!(clients.iter().all(|(client, _)| is_open(client)));
        guards[3].count_unsent(MAX_UNSENT / 3);
        let open: Vec<bool> = clients.iter().map(|(client, _)| is_open(client)).collect();
        assert_eq!(open, [false, true, true, true]);
        assert!(!guards[0].set_phase(Phase::Idle) && guards[1].set_phase(Phase::Idle));
        // One response beyond the budget is sent, alone.
        guards[3].count_unsent(2 * MAX_UNSENT);
        let open: Vec<bool> = clients.iter().map(|(client, _)| is_open(client)).collect();
        assert_eq!(open, [false, true, false, true], "an idle client has nothing to lose");
    }

    #[test]
    fn the_longest_idle_client_makes_room() {
        let table = Arc::new(Connections::new(2));
        let clients: Vec<_> = (0..4).map(|_| pair()).collect();
        let register = |index: usize, last| table.register(&clients[index].1, peer(last));
        let (first, second) = (register(0, 1).expect("a place"), register(1, 2).expect("a place"));
        first.restart_idle();
        let third = register(2, 3).expect("the second makes room");
        assert!(is_open(&clients[0].0) && !is_open(&clients[1].0));
        drop(second);
        first.set_phase(Phase::Handling);
        third.set_phase(Phase::Handling);
        assert!(register(3, 4).is_none(), "no client is idle");
        drop(third);
        assert!(register(3, 1).is_none(), "half of the places for each network");
        assert!(register(3, 4).is_some());
    }
}
