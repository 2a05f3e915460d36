//! The front door: it takes every connection, reads each request whole and checks it, and only then shows it to tiny_http.
//!
//! tiny_http has no limits of time, size or number, and one odd request can end the process (a Content-Length of a
//! petabyte is allocated) or leave others unserved (idle connections hold its threads). So it listens on a private Unix
//! socket, where it sees only what this module wrote: one request of known length a connection, rewritten from its parsed
//! parts. The answer is read whole and passed on, so that a slow reader holds nobody up but itself.
//!
//! Framing follows RFC 9112 to the letter where leniency would let two readers see different requests; after any doubt
//! about where a request ends the connection is closed. This module never looks at a path or a body.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::handler::{ApiError, BODY_LIMIT};

/// Most connections at a time, descriptors permitting. Each is a thread with 20 KB in use: 10 MB of a t2.nano's 512.
const CONNECTIONS_MOST: usize = 512;

/// Most requests at a time that tiny_http has, descriptors permitting.
const FORWARDS_MOST: usize = 256;

/// Descriptors of such a request: the private connection's two ends, of which tiny_http keeps two copies.
const FORWARD_DESCRIPTORS: usize = 3;

/// Descriptors for everything else: connections to Kubernetes, a credential plugin's pipes, sockets that are closing.
const DESCRIPTORS_KEPT: usize = 64;

/// One address may have this part of all connections, so that it alone cannot shut everybody out.
const PEER_SHARE: usize = 2;

/// Longest request line, in bytes, as RFC 9112 (section 3) advises at least 8000 for general servers; our paths have 27.
const LINE_LIMIT: usize = 4 * 1024;

/// Longest head, in bytes, request line included: a browser with cookies of its other sites sends 4 KB.
const HEAD_LIMIT: usize = 16 * 1024;

/// Most headers: browsers send about 20.
const HEADERS_MOST: usize = 64;

/// Time to a complete head from its first byte: three lost packets on a bad line.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Time to a complete body from the end of the head.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time between requests of a kept-alive connection.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Time to take an answer: 1.5 MB (10,000 pods) at 0.5 Mbit/s.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of an answer that are passed on at a time; a usual answer is one such piece.
const PIECE: usize = 16 * 1024;

/// What slow readers have not taken yet, in bytes, all together; beyond it the slowest of them loses its answer.
const ANSWERS_LIMIT: usize = 32 * 1024 * 1024;

/// What a client that was refused may still send before the connection is reset, in time and in bytes: closing at once
/// would take the refusal away from it.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 256 * 1024);

/// Stack of a connection's thread, in bytes; it uses 10 KB.
const STACK: usize = 128 * 1024;

/// Pause after a failure to accept that may go on: no descriptors, no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What the descriptors of the process allow.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    connections: usize,
    forwards: usize,
}

impl Limits {
    /// Shares out the descriptors that the process may open (`ulimit -n`), after raising their number as far as is needed
    /// and allowed: 1024, the usual number, is for programs that use select().
    pub fn from_descriptors() -> Self {
        let wanted = (CONNECTIONS_MOST + FORWARD_DESCRIPTORS * FORWARDS_MOST + DESCRIPTORS_KEPT) as u64;
        let limit = getrlimit(Resource::Nofile);
        let most = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        let mut current = limit.current.unwrap_or(wanted);
        if current < most && setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit }).is_ok() {
            current = most;
        }
        Self::of(usize::try_from(current).unwrap_or(usize::MAX))
    }

    fn of(descriptors: usize) -> Self {
        let free = descriptors.saturating_sub(DESCRIPTORS_KEPT);
        let forwards = (free / 5).clamp(4, FORWARDS_MOST);
        let connections = free.saturating_sub(FORWARD_DESCRIPTORS * forwards).clamp(8, CONNECTIONS_MOST);
        Self { connections, forwards }
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
    /// Writes a refusal of the request with that method and path (`- -` if there is none yet), and its line in the log.
    pub refusal: fn(&str, ApiError) -> Vec<u8>,
}

/// The open door. Cloned handles share it.
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

struct Shared {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
    inner: Inner,
    closing: AtomicBool,
    forwards: AtomicUsize,
    connections: Mutex<Connections>,
    left: Condvar,
    complained: Mutex<Option<Instant>>,
}

/// The method and path of a request that could not be read.
const UNREAD: &str = "- -";

impl Gate {
    /// Binds `address` (`HOST:PORT`, port 0 for any); connections wait until [`open`](Self::open).
    ///
    /// # Errors
    /// No such address here, port taken, no permission.
    pub fn bind(address: impl ToSocketAddrs, limits: Limits, inner: Inner) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let (closing, forwards) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (connections, left, complained) = (Mutex::default(), Condvar::new(), Mutex::default());
        let shared = Shared { listener, address, limits, inner, closing, forwards, connections, left, complained };
        Ok(Self(Arc::new(shared)))
    }

    /// The address with the real port.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Starts to take connections, on a thread of its own.
    ///
    /// # Errors
    /// No thread.
    pub fn open(&self) -> io::Result<()> {
        let gate = self.clone();
        thread::Builder::new().name("gate".into()).spawn(move || gate.accept()).map(drop)
    }

    /// Refuses new connections, ends idle ones, and waits at most `limit` for requests in flight to be answered.
    pub fn close(&self, limit: Duration) {
        self.0.closing.store(true, Ordering::SeqCst);
        if let Ok(socket) = self.0.listener.try_clone() {
            // Ends the accept call; an error means that it has ended already.
            let _ = TcpStream::from(OwnedFd::from(socket)).shutdown(Shutdown::Both);
        }
        let mut connections = self.0.lock();
        connections.end_waiting();
        let deadline = Instant::now() + limit;
        while !connections.open.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                log::warn!("{} requests did not finish in time", connections.open.len());
                return;
            }
            connections = self.0.left.wait_timeout(connections, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn accept(&self) {
        // Given up to accept, and refuse, a connection when there is no other descriptor.
        let mut reserve = self.0.listener.try_clone().ok();
        while !self.0.closing.load(Ordering::SeqCst) {
            let error = match self.0.listener.accept() {
                Ok((stream, peer)) => {
                    self.admit(stream, peer.ip());
                    continue;
                }
                Err(error) => error,
            };
            match error.kind() {
                // The client's own affair.
                io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionReset => {}
                _ if self.0.closing.load(Ordering::SeqCst) => return,
                _ => {
                    self.complain(&format!("cannot accept a connection: {error}"));
                    if reserve.take().is_some()
                        && let Ok((stream, _)) = self.0.listener.accept()
                    {
                        self.refuse(&stream);
                    }
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
            reserve = reserve.or_else(|| self.0.listener.try_clone().ok());
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
        if of_peer >= self.0.limits.connections / PEER_SHARE {
            connections.evict(|other| other.peer == peer && other.phase == Phase::Waiting)?;
        } else if connections.open.len() >= self.0.limits.connections {
            connections.evict(|other| other.phase == Phase::Waiting)?;
        }
        connections.last += 1;
        let ticket = Ticket { gate: self.clone(), key: connections.last };
        let (phase, since) = (Phase::Waiting, Instant::now());
        connections.open.insert(ticket.key, Connection { peer, stream: Arc::clone(stream), phase, since });
        Some(ticket)
    }

    /// Refuses a connection without waiting: the answer fits into the socket's empty buffer.
    fn refuse(&self, stream: &TcpStream) {
        let refusal = closing((self.0.inner.refusal)(UNREAD, ApiError::ConnectionLimit));
        // A client that does not take even this gets nothing.
        let _ = send_now(stream, &refusal);
        let _ = stream.shutdown(Shutdown::Write);
    }

    /// One connection, request by request.
    fn serve(&self, stream: &TcpStream, ticket: &Ticket) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut input = Vec::with_capacity(1024);
        let mut patience = HEAD_TIMEOUT;
        loop {
            let request = match read_request(stream, &mut input, patience) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(Broken::Io(error)) => return Err(error),
                Err(Broken::Refused(error)) => {
                    let refusal = (self.0.inner.refusal)(UNREAD, error);
                    write_all(stream, &closing(refusal), ANSWER_TIMEOUT)?;
                    return linger(stream);
                }
            };
            ticket.phase(Phase::Busy);
            let last = !request.keep_alive || self.0.closing.load(Ordering::SeqCst);
            self.answer(&request, last, stream, ticket)?;
            ticket.phase(Phase::Waiting);
            if last {
                return linger(stream);
            }
            // Whoever closes the gate ends those that wait; this one may have come to wait just after.
            if self.0.closing.load(Ordering::SeqCst) {
                return Ok(());
            }
            patience = IDLE_TIMEOUT;
        }
    }

    /// Passes tiny_http's answer on, or refuses if it has too much to do or gives none.
    fn answer(&self, request: &Request, last: bool, stream: &TcpStream, ticket: &Ticket) -> io::Result<()> {
        let forwards = self
            .permit()
            .ok_or(ApiError::Busy)
            .and_then(|permit| self.exchange(&request.bytes).map(|begun| (begun, permit)).map_err(ApiError::NoAnswer));
        let ((mut inner, begun), permit) = match forwards {
            Ok(begun) => begun,
            Err(error) => {
                let mut refusal = (self.0.inner.refusal)(&request.line, error);
                if request.line.starts_with("HEAD ") {
                    refusal.truncate(refusal.windows(4).position(|four| four == b"\r\n\r\n").map_or(0, |at| at + 4));
                }
                return write_all(stream, &if last { closing(refusal) } else { refusal }, ANSWER_TIMEOUT);
            }
        };
        let mut pending = if last { closing(begun) } else { begun };
        let mut piece = [0; PIECE];
        // A reader that keeps up takes each piece at once; what a slow one leaves is kept here, and no worker waits for it.
        loop {
            let sent = send_now(stream, &pending)?;
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
        write_all(stream, &pending, ANSWER_TIMEOUT)
    }

    fn permit(&self) -> Option<Permit<'_>> {
        let forwards = &self.0.forwards;
        let permit = Permit(forwards);
        (forwards.fetch_add(1, Ordering::SeqCst) < self.0.limits.forwards).then_some(permit)
    }

    /// Sends a request to tiny_http and waits for the first piece of its answer, which has the status line at least.
    fn exchange(&self, request: &[u8]) -> io::Result<(UnixStream, Vec<u8>)> {
        let mut inner = (self.0.inner.connect)()?;
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
        Ok((inner, begun))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Permit<'a>(&'a AtomicUsize);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Every connection that has a thread.
#[derive(Default)]
struct Connections {
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

    fn end_waiting(&mut self) {
        for waiting in self.open.values().filter(|one| one.phase == Phase::Waiting) {
            // Reading only: a request that has just arrived may still be answered.
            let _ = waiting.stream.shutdown(Shutdown::Read);
        }
    }

    fn answer_bytes(&self) -> usize {
        let bytes = |one: &Connection| if let Phase::Answering(bytes) = one.phase { bytes } else { 0 };
        self.open.values().map(bytes).sum()
    }
}

/// A connection's place, given up when its thread ends.
struct Ticket {
    gate: Gate,
    key: u64,
}

impl Ticket {
    fn phase(&self, phase: Phase) {
        let mut connections = self.gate.0.lock();
        if let Some(connection) = connections.open.get_mut(&self.key) {
            (connection.phase, connection.since) = (phase, Instant::now());
        }
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

/// A request as tiny_http will see it, and what the client wants of the answer.
struct Request {
    /// Method and path, for the log.
    line: String,
    bytes: Vec<u8>,
    keep_alive: bool,
}

/// Why no request was read.
enum Broken {
    Io(io::Error),
    Refused(ApiError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ApiError> for Broken {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// Reads a whole request; none if the client left, or sent nothing within `patience`. `input` keeps what came after it.
fn read_request(stream: &TcpStream, input: &mut Vec<u8>, patience: Duration) -> Result<Option<Request>, Broken> {
    let idle = Instant::now() + patience;
    let mut slow = input.first().map(|_| Instant::now() + HEAD_TIMEOUT);
    let (head, used) = loop {
        skip_empty_lines(input);
        if let Some(found) = Head::parse(input)? {
            break found;
        }
        match fill(stream, input, slow.unwrap_or(idle))? {
            Filled::Some => slow = slow.or_else(|| Some(Instant::now() + HEAD_TIMEOUT)),
            Filled::End if input.is_empty() => return Ok(None),
            Filled::Late if slow.is_none() => return Ok(None),
            Filled::End => return Err(ApiError::BadRequest("it ends in the middle of its head").into()),
            Filled::Late => return Err(ApiError::TooSlow.into()),
        }
    };
    input.drain(..used);
    let length = head.content_length.unwrap_or(0);
    if length > BODY_LIMIT {
        return Err(ApiError::BodyTooLarge.into());
    }
    if head.expect_continue && input.len() < length {
        write_all(stream, b"HTTP/1.1 100 Continue\r\n\r\n", BODY_TIMEOUT)?;
    }
    let deadline = Instant::now() + BODY_TIMEOUT;
    while input.len() < length {
        match fill(stream, input, deadline)? {
            Filled::Some => {}
            Filled::End => return Err(ApiError::BadRequest("its body is shorter than its Content-Length").into()),
            Filled::Late => return Err(ApiError::TooSlow.into()),
        }
    }
    let body: Vec<u8> = input.drain(..length).collect();
    Ok(Some(head.into_request(&body)))
}

enum Filled {
    Some,
    End,
    Late,
}

/// Reads what there is, until `deadline` at most.
fn fill(mut stream: &TcpStream, input: &mut Vec<u8>, deadline: Instant) -> io::Result<Filled> {
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Filled::Late);
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(Filled::End),
            Ok(count) => {
                input.extend_from_slice(&buffer[..count]);
                return Ok(Filled::Some);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Ok(Filled::Late),
                _ => return Err(error),
            },
        }
    }
}

/// Writes all of it until `limit` has passed: a timeout for each write would let a reader take one byte a second for ever.
fn write_all(mut stream: &TcpStream, mut bytes: &[u8], limit: Duration) -> io::Result<()> {
    let deadline = Instant::now() + limit;
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes as much as the client takes at once.
fn send_now(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match rustix::net::send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(sent) => Ok(sent),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Closes so that the client can read what was written: RFC 9112, section 9.6.
fn linger(stream: &TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let deadline = Instant::now() + LINGER.0;
    let mut dropped = Vec::new();
    let mut total = 0;
    while total < LINGER.1 && matches!(fill(stream, &mut dropped, deadline)?, Filled::Some) {
        total += dropped.len();
        dropped.clear();
    }
    Ok(())
}

/// Says in an answer that the connection ends with it.
fn closing(mut answer: Vec<u8>) -> Vec<u8> {
    if let Some(end) = answer.windows(2).position(|pair| pair == b"\r\n") {
        answer.splice(end..end, b"\r\nConnection: close".iter().copied());
    }
    answer
}

/// RFC 9112, section 2.2: empty lines before a request line are ignored.
fn skip_empty_lines(input: &mut Vec<u8>) {
    while input.starts_with(b"\r\n") {
        input.drain(..2);
    }
}

/// What counts of a request's head.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    method: String,
    /// The path, with its query.
    target: String,
    content_length: Option<usize>,
    transfer_encoding: bool,
    expect_continue: bool,
    keep_alive: bool,
}

impl Head {
    /// A head and its length in bytes; none if it is not complete yet.
    fn parse(input: &[u8]) -> Result<Option<(Self, usize)>, ApiError> {
        let Some(length) = head_length(input)? else { return Ok(None) };
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MOST];
        let mut parsed = httparse::Request::new(&mut headers);
        parsed.parse(&input[..length]).map_err(|error| match error {
            httparse::Error::TooManyHeaders => ApiError::HeadTooLarge,
            httparse::Error::Version => ApiError::Version,
            _ => ApiError::BadRequest("its head is not HTTP/1.1"),
        })?;
        let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(ApiError::BadRequest("its request line is not complete"));
        };
        if !target.is_ascii() {
            return Err(ApiError::BadRequest("its target is not ASCII"));
        }
        let mut head = Self {
            method: method.to_owned(),
            target: path_of(target).to_owned(),
            content_length: None,
            transfer_encoding: false,
            expect_continue: false,
            keep_alive: minor == 1,
        };
        let hosts = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host")).count();
        if hosts > 1 || (minor == 1 && hosts == 0) {
            return Err(ApiError::BadRequest("it needs exactly one Host header"));
        }
        for header in parsed.headers.iter() {
            head.take(header.name, header.value, minor)?;
        }
        if head.transfer_encoding {
            // With a Content-Length beside it, or from HTTP/1.0, it is an attempt at smuggling.
            let alone = head.content_length.is_none() && minor == 1;
            return Err(if alone {
                ApiError::TransferEncoding
            } else {
                ApiError::BadRequest("its framing is ambiguous")
            });
        }
        Ok(Some((head, length)))
    }

    fn take(&mut self, name: &str, value: &[u8], minor: u8) -> Result<(), ApiError> {
        if name.eq_ignore_ascii_case("content-length") {
            let length = content_length(value)?;
            if self.content_length.is_some_and(|other| other != length) {
                return Err(ApiError::BadRequest("it has two Content-Lengths"));
            }
            self.content_length = Some(length);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            self.transfer_encoding = true;
        } else if name.eq_ignore_ascii_case("connection") {
            let mut options = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            self.keep_alive &= !options.any(|option| option.eq_ignore_ascii_case(b"close"));
        } else if name.eq_ignore_ascii_case("expect") && minor == 1 {
            if !value.trim_ascii().eq_ignore_ascii_case(b"100-continue") {
                return Err(ApiError::Expectation);
            }
            self.expect_continue = true;
        }
        Ok(())
    }

    /// Written anew, so that tiny_http reads the same request as we did.
    fn into_request(self, body: &[u8]) -> Request {
        let length = self.content_length.map(|length| format!("Content-Length: {length}\r\n")).unwrap_or_default();
        // Closed after each: an open connection would hold one of tiny_http's threads.
        let head = format!("{} {} HTTP/1.1\r\n{length}Connection: close\r\n\r\n", self.method, self.target);
        let line = format!("{} {}", self.method, self.target);
        Request { line, bytes: [head.as_bytes(), body].concat(), keep_alive: self.keep_alive }
    }
}

/// The length of the head with its empty line; none if that has not come yet. Only CRLF ends a line here: RFC 9112 would
/// let a bare LF pass, and with it what another reader takes for one line.
fn head_length(input: &[u8]) -> Result<Option<usize>, ApiError> {
    let mut line = 0;
    for (at, byte) in input.iter().enumerate() {
        if at >= HEAD_LIMIT {
            return Err(ApiError::HeadTooLarge);
        }
        if line == 0 && at >= LINE_LIMIT {
            return Err(ApiError::LineTooLong);
        }
        match byte {
            b'\n' if at == 0 || input[at - 1] != b'\r' => {
                return Err(ApiError::BadRequest("a line of its head does not end in CR LF"));
            }
            b'\n' if at == line + 1 => return Ok(Some(at + 1)),
            b'\n' => line = at + 1,
            0 => return Err(ApiError::BadRequest("its head holds a NUL")),
            _ if at > 0 && input[at - 1] == b'\r' => {
                return Err(ApiError::BadRequest("its head holds a CR without LF"));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// Digits and nothing else. One with too many for a number is too large in any case.
fn content_length(value: &[u8]) -> Result<usize, ApiError> {
    let text = std::str::from_utf8(value).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ApiError::BadRequest("its Content-Length is not a number"));
    }
    text.parse().map_err(|_| ApiError::BodyTooLarge)
}

/// The path of a target in absolute form, which servers must take (RFC 9112, section 3.2.2); any other target as it is.
fn path_of(target: &str) -> &str {
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        target.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme)).map(|_| &target[scheme.len()..])
    });
    match rest {
        Some(rest) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        None => target,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<(Head, usize)>, u16> {
        Head::parse(text.as_bytes()).map_err(|error| error.into_reply().status)
    }

    #[test]
    fn a_head_is_read_only_when_it_is_complete() {
        let text = "POST http://h:1/a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Ok(None), "{:?}", &text[..end]);
        }
        let (head, length) = parse(&format!("{text}abc")).expect("good").expect("complete");
        assert_eq!(length, text.len());
        assert_eq!((head.method.as_str(), head.target.as_str(), head.content_length), ("POST", "/a?b", Some(3)));
        assert!(head.expect_continue && head.keep_alive);
        let request = head.into_request(b"abc");
        assert_eq!(request.bytes, b"POST /a?b HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc");
    }

    #[test]
    fn whatever_could_be_read_in_two_ways_is_refused() {
        let table = [
            ("GET / HTTP/1.1\nHost: h\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400),
            ("GET /\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
            ("GET /\u{e9} HTTP/1.1\r\nHost: h\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: h\r\nExpect: tea\r\n\r\n", 417),
        ];
        for (text, status) in table {
            assert_eq!(parse(text).expect_err(text), status, "{text:?}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(LINE_LIMIT));
        assert_eq!(parse(&long), Err(414));
        let large = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "a".repeat(HEAD_LIMIT));
        assert_eq!(parse(&large), Err(431));
        let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(HEADERS_MOST));
        assert_eq!(parse(&many), Err(431));
    }

    #[test]
    fn a_connection_stays_open_as_its_version_and_headers_say() {
        let table = [
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: h\r\nConnection: x ,close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
        ];
        for (text, open) in table {
            let (head, _) = parse(text).expect(text).expect(text);
            assert_eq!(head.keep_alive, open, "{text:?}");
        }
    }

    #[test]
    fn an_absolute_target_is_its_path() {
        for (target, path) in [
            ("/config", "/config"),
            ("http://h/config?x", "/config?x"),
            ("HTTPS://h:1/config", "/config"),
            ("http://h", "/"),
            ("http://h?x", "?x"),
            ("*", "*"),
            ("h:443", "h:443"),
        ] {
            assert_eq!(path_of(target), path, "{target}");
        }
    }

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
