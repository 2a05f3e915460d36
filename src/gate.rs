//! The front door: it takes every connection, reads each request whole and checks it, and only then shows it to tiny_http.
//!
//! tiny_http has no limits of time, size or number, and one odd request can end the process (a Content-Length of a
//! petabyte is allocated) or leave others unserved (idle connections hold its threads). So it listens on a private Unix
//! socket, where it sees only what this module wrote: one request of known length a connection, rewritten from its parsed
//! parts. The answer is passed on piece by piece, and what a slow reader leaves is kept here, so that it holds nobody up but
//! itself.
//!
//! After any doubt about where a request ends the connection is closed. What a head says is read in
//! [`head`](crate::head), bytes are moved by [`wire`]; this module never looks at a path or into a body.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::handler::ApiError;
use crate::limiter::Limiter;
use crate::wire::{self, Broken, HEAD_TIMEOUT, Request};

/// Most connections at a time, descriptors permitting. Each is a thread with 20 KB in use: 10 MB of a t2.nano's 512.
const CONNECTIONS_MOST: usize = 512;

/// Most requests at a time that tiny_http has, descriptors permitting.
const FORWARDS_MOST: usize = 256;

/// How long a request waits for a place among them, before it is refused.
const PERMIT_PATIENCE: Duration = Duration::from_secs(1);

/// Descriptors of such a request: the private connection's two ends, of which tiny_http keeps two copies.
const FORWARD_DESCRIPTORS: usize = 3;

/// Descriptors for everything else: connections to Kubernetes, a credential plugin's pipes, sockets that are closing.
const DESCRIPTORS_KEPT: usize = 64;

/// One address may have this part of all connections, so that it alone cannot shut everybody out.
const PEER_SHARE: usize = 2;

/// Time between requests of a kept-alive connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// At a stop, a connection that came, or was last answered, less than this ago may still send a request: it may be on its
/// way. Long for a network, short for a stop.
const LAST_REQUEST: Duration = Duration::from_secs(1);

/// Time to take an answer: 1.5 MB (10,000 pods) at 0.5 Mbit/s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of an answer that are passed on at a time; a usual answer is one such piece.
const PIECE: usize = 16 * 1024;

/// What slow readers have not taken yet, in bytes, all together; beyond it the slowest of them loses its answer.
const ANSWERS_LIMIT: usize = 32 * 1024 * 1024;

/// Stack of a connection's thread, in bytes; it uses 10 KB.
const STACK: usize = 128 * 1024;

/// Pause after a failure to accept that may go on: no descriptors, no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What the descriptors of the process allow.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    connections: usize,
    forwards: usize,
    posts_per_minute: u32,
}

impl Limits {
    /// `posts_per_minute` is for one address, 0 without limit. The rest comes of sharing out the descriptors that the
    /// process may open (`ulimit -n`), after raising their number as far as is needed
    /// and allowed: 1024, the usual number, is for programs that use select().
    pub fn from_descriptors(posts_per_minute: u32) -> Self {
        let wanted = (CONNECTIONS_MOST + FORWARD_DESCRIPTORS * FORWARDS_MOST + DESCRIPTORS_KEPT) as u64;
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
        let forwards = (free / 5).clamp(4, FORWARDS_MOST);
        let connections = free.saturating_sub(FORWARD_DESCRIPTORS * forwards).clamp(8, CONNECTIONS_MOST);
        Self { connections, forwards, posts_per_minute: 0 }
    }

    /// Most requests at a time that pass the gate.
    pub fn forwards(self) -> usize {
        self.forwards
    }
}

/// Makes a connection for one request.
pub type Connect = Box<dyn Fn() -> io::Result<UnixStream> + Send + Sync>;

/// Where requests go, and how a refusal looks on the wire.
pub struct Inner {
    /// A connection to tiny_http.
    pub connect: Connect,
    /// Longest wait for its answer.
    pub timeout: Duration,
    /// Writes a refusal, and its line in the log with that method and path; without them there is none.
    pub refusal: fn(Option<&str>, ApiError) -> Vec<u8>,
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
    inner: Inner,
    /// A byte here ends the accepting.
    wake: UnixStream,
    forwards_most: usize,
    connections_most: usize,
    posts: Option<Mutex<Limiter>>,
    closing: AtomicBool,
    /// Requests that tiny_http has.
    forwards: Mutex<usize>,
    forwarded: Condvar,
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
    pub fn new(socket: Socket, limits: Limits, inner: Inner) -> io::Result<(Self, Door)> {
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
            inner,
            wake,
            forwards_most: limits.forwards,
            connections_most: limits.connections,
            posts: (limits.posts_per_minute > 0).then(|| Mutex::new(Limiter::new(limits.posts_per_minute))),
            closing: AtomicBool::new(false),
            forwards: Mutex::default(),
            forwarded: Condvar::new(),
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
        let refusal = wire::closing((self.0.inner.refusal)(None, ApiError::ConnectionLimit));
        // A client that does not take even this gets nothing.
        let _ = wire::send_now(stream, &refusal);
        let _ = stream.shutdown(Shutdown::Write);
    }

    /// One connection, request by request.
    fn serve(&self, stream: &TcpStream, ticket: &Ticket) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = Vec::with_capacity(1024);
        let mut patience = HEAD_TIMEOUT;
        loop {
            let request = match wire::read_request(stream, &mut input, patience) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(Broken::Io(error)) => return Err(error),
                Err(Broken::Refused(error)) => {
                    let refusal = self.refusal(UNREAD, error, input.starts_with(b"HEAD "), true);
                    wire::write_all(stream, &refusal, ANSWER_TIMEOUT)?;
                    return wire::linger(stream);
                }
            };
            // Whoever was made to leave is not served: a Job would be made for an answer that nobody gets.
            if !ticket.phase(Phase::Busy) {
                return Ok(());
            }
            let last = !request.keep_alive || self.is_closing();
            self.answer(&request, last, stream, ticket)?;
            ticket.phase(Phase::Waiting);
            if last {
                return wire::linger(stream);
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
            Some(posts) if request.line.starts_with("POST ") => {
                let mut posts = posts.lock().unwrap_or_else(PoisonError::into_inner);
                posts.take(ticket.peer, Instant::now()).map_err(ApiError::TooManyPosts)
            }
            _ => Ok(()),
        }
    }

    /// Passes tiny_http's answer on, or refuses if it has too much to do or gives none.
    fn answer(&self, request: &Request, last: bool, stream: &TcpStream, ticket: &Ticket) -> io::Result<()> {
        let forwards = self
            .count_post(request, ticket)
            .and_then(|()| self.permit().ok_or(ApiError::Busy))
            .and_then(|permit| self.exchange(&request.bytes).map(|begun| (begun, permit)));
        let ((mut inner, begun), permit) = match forwards {
            Ok(begun) => begun,
            Err(error) => {
                let refusal = self.refusal(&request.line, error, request.line.starts_with("HEAD "), last);
                return wire::write_all(stream, &refusal, ANSWER_TIMEOUT);
            }
        };
        let mut pending = if last { wire::closing(begun) } else { begun };
        let mut piece = [0; PIECE];
        // A reader that keeps up takes each piece at once; what a slow one leaves is kept here, and no worker waits for it.
        loop {
            let sent = wire::send_now(stream, &pending)?;
            pending.drain(..sent);
            match inner.read(&mut piece)? {
                0 => break,
                count => pending.extend_from_slice(&piece[..count]),
            }
        }
        drop((inner, permit));
        if !pending.is_empty() {
            ticket.answering(pending.len());
        }
        wire::write_all(stream, &pending, ANSWER_TIMEOUT)
    }

    fn refusal(&self, line: &str, error: ApiError, to_head: bool, last: bool) -> Vec<u8> {
        let mut refusal = (self.0.inner.refusal)(Some(line), error);
        if to_head {
            refusal = wire::without_body(refusal);
        }
        if last { wire::closing(refusal) } else { refusal }
    }

    /// The right to have a request with tiny_http. When all are taken, those of requests that it is about to refuse come back
    /// within a millisecond: /healthz must not be refused with them.
    fn permit(&self) -> Option<Permit<'_>> {
        let forwards = self.0.forwards.lock().unwrap_or_else(PoisonError::into_inner);
        let most = self.0.forwards_most;
        let free = self.0.forwarded.wait_timeout_while(forwards, PERMIT_PATIENCE, |forwards| *forwards >= most);
        let (mut forwards, late) = free.unwrap_or_else(PoisonError::into_inner);
        if late.timed_out() {
            return None;
        }
        *forwards += 1;
        Some(Permit(&self.0))
    }

    /// Sends a request to tiny_http and waits for the first piece of its answer, which has the status line at least.
    fn exchange(&self, request: &[u8]) -> Result<(UnixStream, Vec<u8>), ApiError> {
        let inner = (self.0.inner.connect)().map_err(|error| {
            // No descriptors, say: nothing has been sent yet, the client may try again.
            self.complain(&format!("cannot connect to tiny_http: {error}"));
            ApiError::Busy
        })?;
        self.begin(&inner, request).map(|begun| (inner, begun)).map_err(ApiError::NoAnswer)
    }

    fn begin(&self, mut inner: &UnixStream, request: &[u8]) -> io::Result<Vec<u8>> {
        inner.set_read_timeout(Some(self.0.inner.timeout))?;
        inner.write_all(request)?;
        let mut begun = Vec::new();
        let mut piece = [0; PIECE];
        while !begun.contains(&b'\n') {
            match inner.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => begun.extend_from_slice(&piece[..count]),
            }
        }
        Ok(begun)
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

struct Permit<'a>(&'a Shared);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.0.forwards.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.forwarded.notify_one();
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
    /// It is taking an answer of so many bytes.
    Answering(usize),
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
        let bytes = |one: &Connection| if let Phase::Answering(bytes) = one.phase { bytes } else { 0 };
        self.open.values().map(bytes).sum()
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
    fn answering(&self, bytes: usize) {
        let mut connections = self.gate.0.lock();
        while connections.answer_bytes().saturating_add(bytes) > ANSWERS_LIMIT {
            if connections.evict(|one| matches!(one.phase, Phase::Answering(_))).is_none() {
                break;
            }
        }
        drop(connections);
        self.phase(Phase::Answering(bytes));
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
            assert!(limits.connections >= 8 && limits.forwards >= 4, "{limits:?}");
            let used = limits.connections + FORWARD_DESCRIPTORS * limits.forwards;
            assert!(descriptors < 128 || used <= descriptors - DESCRIPTORS_KEPT, "{limits:?} of {descriptors}");
        }
        let usual = Limits::of(1024);
        assert_eq!((usual.connections, usual.forwards), (384, 192));
    }
}
