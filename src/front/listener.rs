//! The listening socket: accepts client connections and gives each a thread, or refuses it. All of it is limited.

use std::io::{self, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::front::connection::{self, Client};
use crate::front::connections::Connections;
use crate::front::error::RequestError;
use crate::front::io::try_send;
use crate::front::rate_limiter::Limiter;
use crate::front::upstream::{Class, Pool};
use crate::front::{Backend, Limits};

/// Pause after a failure to accept that may last: no descriptors, no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Time between two searches for private connections that were idle for too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(20);

/// The origin of the listening socket.
pub enum Socket {
    /// Bound by the server, closed with it.
    Own(TcpListener),
    /// Passed by a service manager, which keeps it open: the next process accepts the connections that this one does not.
    Inherited(TcpListener),
}

/// The front. Clones share it.
#[derive(Clone)]
pub struct Front(Arc<Shared>);

/// The accepting side of the front, on a thread of its own once it is spawned.
pub struct Acceptor {
    front: Front,
    listener: TcpListener,
    shutdown_rx: UnixStream,
    is_inherited: bool,
}

struct Shared {
    address: SocketAddr,
    backend: Backend,
    kubernetes: Pool,
    memory: Pool,
    stream: Pool,
    /// A byte here ends the accepting.
    shutdown_tx: UnixStream,
    limiter: Option<Mutex<Limiter>>,
    is_closing: AtomicBool,
    connections: Arc<Connections>,
    last_logged: Mutex<Option<Instant>>,
}

impl Front {
    /// Takes a listening socket; clients wait in its backlog until the [`Acceptor`] is spawned.
    ///
    /// # Errors
    /// The socket does not listen, or no descriptor is free.
    pub fn new(socket: Socket, limits: Limits, backend: Backend) -> io::Result<(Self, Acceptor)> {
        let (listener, is_inherited) = match socket {
            Socket::Own(listener) => (listener, false),
            Socket::Inherited(listener) => (listener, true),
        };
        let address = listener.local_addr()?;
        // The acceptor polls for a connection or the shutdown, so accept() itself never waits.
        listener.set_nonblocking(true)?;
        let (shutdown_tx, shutdown_rx) = UnixStream::pair()?;
        let shared = Shared {
            address,
            backend,
            kubernetes: Pool::new(limits.kubernetes, limits.waiting),
            memory: Pool::new(limits.memory, limits.waiting),
            // A stream has no end that is worth waiting for.
            stream: Pool::new(limits.stream, 0),
            shutdown_tx,
            limiter: (limits.posts_per_minute > 0).then(|| Mutex::new(Limiter::new(limits.posts_per_minute))),
            is_closing: AtomicBool::new(false),
            connections: Arc::new(Connections::new(limits.connections)),
            last_logged: Mutex::default(),
        };
        let front = Self(Arc::new(shared));
        Ok((front.clone(), Acceptor { front, listener, shutdown_rx, is_inherited }))
    }

    /// The address with the real port.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Returns true once no more connections are accepted.
    pub fn is_closing(&self) -> bool {
        self.0.is_closing.load(Ordering::SeqCst)
    }

    /// Returns true if requests that call Kubernetes end: see [`Pool::is_alive`].
    pub fn is_alive(&self, timeout: Duration) -> bool {
        self.0.kubernetes.is_alive(timeout)
    }

    /// Refuses new connections, ends idle ones, and waits at most `timeout` for the answers to requests that have arrived or are on
    /// their way.
    pub fn close(&self, timeout: Duration) {
        self.0.is_closing.store(true, Ordering::SeqCst);
        // An error means that the acceptor has ended.
        let _ = (&self.0.shutdown_tx).write_all(b"!");
        match self.0.connections.drain(timeout) {
            0 => {}
            left => log::warn!("{left} requests did not finish in time"),
        }
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.0.backend
    }

    pub(super) fn pool(&self, class: Class) -> &Pool {
        match class {
            Class::Kubernetes => &self.0.kubernetes,
            Class::Memory => &self.0.memory,
            Class::Stream => &self.0.stream,
        }
    }

    pub(super) fn limiter(&self) -> Option<&Mutex<Limiter>> {
        self.0.limiter.as_ref()
    }

    pub(super) fn connections(&self) -> &Arc<Connections> {
        &self.0.connections
    }

    /// Logs an error at most once a second, so that a flood of clients cannot fill the log.
    pub(super) fn log_throttled(&self, text: &str) {
        let mut last = self.0.last_logged.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) {
            *last = Some(Instant::now());
            log::error!("{text}");
        }
    }

    fn close_idle(&self) {
        [&self.0.kubernetes, &self.0.memory, &self.0.stream].into_iter().for_each(Pool::close_idle);
    }

    /// Gives the connection a thread, or refuses it.
    fn spawn_connection(&self, stream: TcpStream, peer: IpAddr) {
        let stream = Arc::new(stream);
        let Some(guard) = self.0.connections.admit(&stream, peer) else {
            self.log_throttled("connection limit reached");
            return refuse(&stream);
        };
        let front = self.clone();
        let served = Arc::clone(&stream);
        let spawned = connection::thread_builder().spawn(move || {
            // An error means that the client went away.
            let _ = connection::serve(&front, &Client { stream: &served, guard: &guard });
        });
        if let Err(error) = spawned {
            self.log_throttled(&format!("no thread for another connection: {error}"));
            refuse(&stream);
        }
    }
}

/// Refuses a connection without waiting: the answer fits into the socket's empty buffer. It is not in the access log, which a flood
/// would fill.
fn refuse(stream: &TcpStream) {
    // A client that cannot take even this gets nothing.
    let _ = try_send(stream, &RequestError::ConnectionLimit.to_response(false, true));
    let _ = stream.shutdown(Shutdown::Write);
}

impl Acceptor {
    /// Starts to accept connections.
    ///
    /// # Errors
    /// No thread.
    pub fn spawn(self) -> io::Result<()> {
        self.front.connections().set_accepting(true);
        thread::Builder::new().name("acceptor".into()).spawn(move || {
            let front = self.front.clone();
            self.accept();
            front.connections().set_accepting(false);
        })?;
        Ok(())
    }

    fn accept(self) {
        // Closed to accept, and refuse, a connection when no other descriptor is free.
        let mut reserve = self.listener.try_clone().ok();
        let mut swept = Instant::now();
        loop {
            if swept.elapsed() >= SWEEP_INTERVAL {
                self.front.close_idle();
                swept = Instant::now();
            }
            let is_closing = self.front.is_closing();
            if is_closing && self.is_inherited {
                return;
            }
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    self.front.spawn_connection(stream, peer.ip());
                    continue;
                }
                // Connections that arrived before the stop were accepted: they would be lost with the socket.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_closing => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(),
                // The client went away.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => {
                    self.front.log_throttled(&format!("cannot accept a connection: {error}"));
                    if reserve.take().is_some()
                        && let Ok((stream, _)) = self.listener.accept()
                    {
                        refuse(&stream);
                    }
                    thread::sleep(ACCEPT_PAUSE);
                    if is_closing {
                        return;
                    }
                }
            }
            reserve = reserve.or_else(|| self.listener.try_clone().ok());
        }
    }

    /// Waits for a connection, the shutdown or the next sweep.
    fn wait(&self) {
        let mut sources = [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.shutdown_rx, PollFlags::IN)];
        let timeout = Timespec::try_from(SWEEP_INTERVAL).ok();
        if let Err(error) = poll(&mut sources, timeout.as_ref())
            && error != Errno::INTR
        {
            self.front.log_throttled(&format!("cannot wait for connections: {error}"));
            thread::sleep(ACCEPT_PAUSE);
        }
    }
}
