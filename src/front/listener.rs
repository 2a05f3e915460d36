//! The front door: it takes every connection, gives it a thread, reads each request whole, checks it, and sends its answer.
//! All of it is limited in time, size and number; what a slow reader leaves of an answer holds nobody up but itself.
//!
//! After any doubt about where a request ends the connection is closed. What a head says is read in
//! [`head`](crate::front::request), bytes are moved by [`connection`]; this module never looks at a path or into a body.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::api::ApiError;
use crate::front::connection::{self, Broken, HEAD_TIMEOUT, Request};
use crate::front::rate_limiter::Limiter;
use crate::server::{self, Answer, Http};

/// Most connections at a time, descriptors permitting. Each is a thread with 20 KB in use, 10 MB of a t2.nano's 512 together, and
/// some more once it has asked Kubernetes.
const CONNECTIONS_MOST: usize = 512;

/// Fewest, however few descriptors there are.
const CONNECTIONS_LEAST: usize = 8;

/// This part of all connections may wait for Kubernetes; the others are there for /healthz and for being refused.
const WAITING_SHARE: usize = 2;

/// Descriptors for everything else: 35 connections to Kubernetes, and as many look-ups of its name, a credential plugin's pipes,
/// sockets that are closing.
const DESCRIPTORS_KEPT: usize = 128;

/// One address may have this part of all connections, so that it alone cannot shut everybody out.
const PEER_SHARE: usize = 2;

/// Time between requests of a kept-alive connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// At a stop, a connection that came, or was last answered, less than this ago may still send a request: it may be on its
/// way. Long for a network, short for a stop.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Time to take an answer: 1.5 MB (10,000 pods) at 0.5 Mbit/s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What slow readers have not taken yet, in bytes, all together; beyond it the slowest of them loses its answer.
const ANSWERS_LIMIT: usize = 32 * 1024 * 1024;

/// Stack of a connection's thread, in bytes: a TLS handshake in a build without optimization takes most, some 100 KB. What
/// is not used is not there.
const STACK: usize = 512 * 1024;

/// Pause after a failure to accept that may go on: no descriptors, no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What the descriptors of the process allow.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    connections: usize,
    posts_per_minute: u32,
}

impl Limits {
    /// `posts_per_minute` is for one address, 0 without limit. The rest comes of sharing out the descriptors that the
    /// process may open (`ulimit -n`), after raising their number as far as is needed
    /// and allowed: 1024, the usual number, is for programs that use select().
    pub fn from_descriptors(posts_per_minute: u32) -> Self {
        let wanted = (CONNECTIONS_MOST + DESCRIPTORS_KEPT) as u64;
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        let mut current = limit.current.unwrap_or(wanted);
        if current < most && setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).is_ok() {
            current = most;
        }
        Self { posts_per_minute, ..Self::of(usize::try_from(current).unwrap_or(usize::MAX)) }
    }

    fn of(descriptors: usize) -> Self {
        let free = descriptors.saturating_sub(DESCRIPTORS_KEPT);
        Self { connections: free.clamp(CONNECTIONS_LEAST, CONNECTIONS_MOST), posts_per_minute: 0 }
    }

    /// Most requests that wait for Kubernetes at a time.
    pub fn waiting(self) -> usize {
        self.connections / WAITING_SHARE
    }
}

/// Where connections come from.
pub enum Socket {
    /// Bound by us, gone with us.
    Own(TcpListener),
    /// Passed by a service manager, which keeps it: what we do not accept, our successor does.
    Inherited(TcpListener),
}

/// A gate. Cloned handles share it.
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

/// The accepting side of a gate, on a thread of its own once it is open.
pub struct Door {
    gate: Gate,
    listener: TcpListener,
    woken: UnixStream,
    shared_socket: bool,
}

struct Shared {
    address: SocketAddr,
    http: Http,
    /// A byte here ends the accepting.
    wake: UnixStream,
    connections_most: usize,
    posts: Option<Mutex<Limiter>>,
    closing: AtomicBool,
    connections: Mutex<Connections>,
    left: Condvar,
    complained: Mutex<Option<Instant>>,
}

/// Stands in the log for the method and path of a request that could not be read.
const UNREAD: &str = "- -";

impl Gate {
    /// Takes a listening socket; connections wait until the [`Door`] is opened.
    ///
    /// # Errors
    /// It is none.
    pub fn new(socket: Socket, limits: Limits, http: Http) -> io::Result<(Self, Door)> {
        let (listener, shared_socket) = match socket {
            Socket::Own(listener) => (listener, false),
            Socket::Inherited(listener) => (listener, true),
        };
        let address = listener.local_addr()?;
        // Accepting never waits by itself: the door waits for a connection or for the word to close.
        listener.set_nonblocking(true)?;
        let (wake, woken) = UnixStream::pair()?;
        let shared = Shared {
            address,
            http,
            wake,
            connections_most: limits.connections,
            posts: (limits.posts_per_minute > 0).then(|| Mutex::new(Limiter::new(limits.posts_per_minute))),
            closing: AtomicBool::new(false),
            connections: Mutex::default(),
            left: Condvar::new(),
            complained: Mutex::default(),
        };
        let gate = Self(Arc::new(shared));
        Ok((gate.clone(), Door { gate, listener, woken, shared_socket }))
    }

    /// The address with the real port.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// No more connections are taken.
    pub fn is_closing(&self) -> bool {
        self.0.closing.load(Ordering::SeqCst)
    }

    /// Refuses new connections, ends idle ones, and waits at most `limit` for requests in flight, or on their way, to be
    /// answered.
    pub fn close(&self, limit: Duration) {
        self.0.closing.store(true, Ordering::SeqCst);
        // An error means that nobody is accepting.
        let _ = (&self.0.wake).write_all(b"!");
        let deadline = Instant::now() + limit;
        let mut connections = self.0.lock();
        while connections.accepting || !connections.open.is_empty() {
            let next = connections.end_waiting();
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!("{} requests did not finish in time", connections.open.len());
                return;
            }
            let pause = next.map_or(left, |next| next.min(left));
            connections = self.0.left.wait_timeout(connections, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Gives the connection a thread of its own, or refuses it.
    fn admit(&self, stream: TcpStream, peer: IpAddr) {
        let stream = Arc::new(stream);
        let Some(ticket) = self.ticket(&stream, peer) else {
            self.complain("no room for another connection");
            return self.refuse(&stream);
        };
        let gate = self.clone();
        let served = Arc::clone(&stream);
        let thread = thread::Builder::new().name("connection".into()).stack_size(STACK);
        let spawned = thread.spawn(move || {
            // An error is the client's going away.
            let _ = gate.serve(&served, &ticket);
        });
        if let Err(error) = spawned {
            self.complain(&format!("no thread for another connection: {error}"));
            self.refuse(&stream);
        }
    }

    /// Logs, but no more than once a second: under a flood the log is not to be the next thing to fill up.
    fn complain(&self, text: &str) {
        let mut complained = self.0.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            *complained = Some(Instant::now());
            log::error!("{text}");
        }
    }

    /// A place among the connections; the one that has said nothing for longest makes room if there is none.
    fn ticket(&self, stream: &Arc<TcpStream>, peer: IpAddr) -> Option<Ticket> {
        let peer = peer.to_canonical();
        let mut connections = self.0.lock();
        let of_peer = connections.open.values().filter(|other| other.peer == peer).count();
        if of_peer >= self.0.connections_most / PEER_SHARE {
            connections.evict(|other| other.peer == peer && other.phase == Phase::Waiting)?;
        } else if connections.open.len() >= self.0.connections_most {
            connections.evict(|other| other.phase == Phase::Waiting)?;
        }
        connections.last += 1;
        let ticket = Ticket { gate: self.clone(), peer, key: connections.last };
        let (phase, since) = (Phase::Waiting, Instant::now());
        connections.open.insert(ticket.key, Connection { peer, stream: Arc::clone(stream), phase, since });
        Some(ticket)
    }

    /// Refuses a connection without waiting: the answer fits into the socket's empty buffer. Not in the access log, which a
    /// flood would fill.
    fn refuse(&self, stream: &TcpStream) {
        let refusal = server::refusal(None, ApiError::ConnectionLimit, false, true);
        // A client that does not take even this gets nothing.
        let _ = connection::send_now(stream, [&refusal.head, &refusal.body]);
        let _ = stream.shutdown(Shutdown::Write);
    }

    /// One connection, request by request.
    fn serve(&self, stream: &TcpStream, ticket: &Ticket) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = Vec::with_capacity(1024);
        let mut patience = HEAD_TIMEOUT;
        loop {
            let request = match connection::read_request(stream, &mut input, patience) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(Broken::Io(error)) => return Err(error),
                Err(Broken::Refused(error)) => {
                    let to_head = input.starts_with(b"HEAD ");
                    self.send(&server::refusal(Some(UNREAD), error, to_head, true), stream, ticket)?;
                    return connection::linger(stream);
                }
            };
            // Whoever was made to leave is not served: a Job would be made for an answer that nobody gets.
            if !ticket.phase(Phase::Busy) {
                return Ok(());
            }
            let last = !request.head.keep_alive || self.is_closing();
            self.answer(&request, last, stream, ticket)?;
            ticket.phase(Phase::Waiting);
            if last {
                return connection::linger(stream);
            }
            // Whoever closes the gate has to see that this one waits again.
            if self.is_closing() {
                self.0.left.notify_all();
            }
            patience = IDLE_TIMEOUT;
        }
    }

    /// Counts a POST against its address.
    fn count_post(&self, request: &Request, ticket: &Ticket) -> Result<(), ApiError> {
        match &self.0.posts {
            Some(posts) if request.head.method == "POST" => {
                let mut posts = posts.lock().unwrap_or_else(PoisonError::into_inner);
                posts.take(ticket.peer, Instant::now()).map_err(ApiError::TooManyPosts)
            }
            _ => Ok(()),
        }
    }

    /// Answers, or refuses who posts too often.
    fn answer(&self, request: &Request, last: bool, stream: &TcpStream, ticket: &Ticket) -> io::Result<()> {
        let answer = match self.count_post(request, ticket) {
            Ok(()) => self.0.http.answer(request, last),
            Err(error) => server::refusal(Some(&request.head.line()), error, request.head.method == "HEAD", last),
        };
        self.send(&answer, stream, ticket)
    }

    /// A reader that keeps up takes an answer at once; what a slow one leaves is counted.
    fn send(&self, answer: &Answer, stream: &TcpStream, ticket: &Ticket) -> io::Result<()> {
        let left = connection::send_now(stream, [&answer.head, &answer.body])?;
        if left.iter().all(|part| part.is_empty()) {
            return Ok(());
        }
        ticket.answering(&answer.body);
        left.iter().try_for_each(|part| connection::write_all(stream, part, ANSWER_TIMEOUT))
    }
}

impl Door {
    /// Starts to take connections.
    ///
    /// # Errors
    /// No thread.
    pub fn open(self) -> io::Result<()> {
        self.gate.0.lock().accepting = true;
        thread::Builder::new().name("gate".into()).spawn(move || {
            let gate = self.gate.clone();
            self.accept();
            gate.0.lock().accepting = false;
            gate.0.left.notify_all();
        })?;
        Ok(())
    }

    fn accept(self) {
        // Given up to accept, and refuse, a connection when there is no other descriptor.
        let mut reserve = self.listener.try_clone().ok();
        loop {
            let closing = self.gate.is_closing();
            if closing && self.shared_socket {
                return;
            }
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    self.gate.admit(stream, peer.ip());
                    continue;
                }
                // Those that had come before the end were taken, too: with the socket they would be lost.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && closing => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(),
                // The client's own affair.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => {
                    self.gate.complain(&format!("cannot accept a connection: {error}"));
                    if reserve.take().is_some()
                        && let Ok((stream, _)) = self.listener.accept()
                    {
                        self.gate.refuse(&stream);
                    }
                    thread::sleep(ACCEPT_PAUSE);
                    if closing {
                        return;
                    }
                }
            }
            reserve = reserve.or_else(|| self.listener.try_clone().ok());
        }
    }

    /// Waits for a connection or for the end.
    fn wait(&self) {
        let mut sources = [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.woken, PollFlags::IN)];
        if let Err(error) = poll(&mut sources, None)
            && error != Errno::INTR
        {
            self.gate.complain(&format!("cannot wait for connections: {error}"));
            thread::sleep(ACCEPT_PAUSE);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Every connection that has a thread.
#[derive(Default)]
struct Connections {
    /// More may come.
    accepting: bool,
    open: HashMap<u64, Connection>,
    /// The last key that was given.
    last: u64,
}

struct Connection {
    peer: IpAddr,
    stream: Arc<TcpStream>,
    phase: Phase,
    since: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No complete request yet.
    Waiting,
    /// Its request is being answered.
    Busy,
    /// It is taking an answer of so many bytes; many may be taking the very same, at this place in memory.
    Answering { bytes: usize, place: usize },
}

impl Connections {
    /// Ends the one of these that has been in its phase for longest; none if there is no such.
    fn evict(&mut self, which: impl Fn(&Connection) -> bool) -> Option<()> {
        let (key, _) = self.open.iter().filter(|(_, one)| which(one)).min_by_key(|(_, one)| one.since)?;
        let key = *key;
        // Its thread sees the end of the stream.
        let evicted = self.open.remove(&key)?;
        let _ = evicted.stream.shutdown(Shutdown::Both);
        Some(())
    }

    /// Ends those that have waited for long; gives the time until the next one has.
    fn end_waiting(&self) -> Option<Duration> {
        let mut next = None;
        for waiting in self.open.values().filter(|one| one.phase == Phase::Waiting) {
            let left = LAST_REQUEST.saturating_sub(waiting.since.elapsed());
            if left.is_zero() {
                // Reading only: a request that has just arrived may still be answered.
                let _ = waiting.stream.shutdown(Shutdown::Read);
            } else {
                next = Some(next.map_or(left, |next: Duration| next.min(left)));
            }
        }
        next
    }

    fn answer_bytes(&self) -> usize {
        let answer = |one: &Connection| match one.phase {
            Phase::Answering { bytes, place } => Some((place, bytes)),
            _ => None,
        };
        self.open.values().filter_map(answer).collect::<HashMap<_, _>>().values().sum()
    }
}

/// A connection's place, given up when its thread ends.
struct Ticket {
    gate: Gate,
    peer: IpAddr,
    key: u64,
}

impl Ticket {
    /// Notes a new phase; false if the connection has been made to leave.
    fn phase(&self, phase: Phase) -> bool {
        let mut connections = self.gate.0.lock();
        let connection = connections.open.get_mut(&self.key);
        connection.map(|connection| (connection.phase, connection.since) = (phase, Instant::now())).is_some()
    }

    /// Makes room among the answers that wait for their readers.
    fn answering(&self, body: &Arc<Vec<u8>>) {
        let ours = Arc::as_ptr(body).addr();
        self.phase(Phase::Answering { bytes: body.len(), place: ours });
        let mut connections = self.gate.0.lock();
        while connections.answer_bytes() > ANSWERS_LIMIT {
            let is_other = |one: &Connection| matches!(one.phase, Phase::Answering { place, .. } if place != ours);
            if connections.evict(is_other).is_none() {
                break;
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.gate.0.lock().open.remove(&self.key);
        self.gate.0.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_still_leave_a_door() {
        for descriptors in [0, 64, 256, 1024, usize::MAX] {
            let limits = Limits::of(descriptors);
            assert!(limits.connections >= 8 && limits.waiting() >= 4, "{limits:?}");
            let used = limits.connections;
            assert!(descriptors < 256 || used <= descriptors - DESCRIPTORS_KEPT, "{limits:?} of {descriptors}");
        }
        let usual = Limits::of(1024);
        assert_eq!((usual.connections, usual.waiting()), (512, 256));
    }
}
