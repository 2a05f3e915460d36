//! The listening socket: accepts client connections, and gives each a thread or refuses it.

use std::io::{self, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt;

use crate::front::backend::{Backend, Class};
use crate::front::client::Client;
use crate::front::connection;
use crate::front::error::RequestError;
use crate::front::io::try_send;
use crate::front::limits::{Limits, RECEIVE_BUFFER, SEND_BUFFER};
use crate::front::shared::Shared;
use crate::metrics::Text;

/// Pause after a failure to accept that may last: no descriptors, no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Time between two searches for private connections that were idle for too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(20);

/// Stack of a connection's thread, in bytes: parsing takes 10 KB in a build without optimization. Unused pages take no memory.
const STACK: usize = 256 * 1024;

/// The origin of the listening socket.
pub enum Socket {
    /// Bound by the server, closed with it.
    Own(TcpListener),
    /// Passed by a service manager, which keeps it open: the next process accepts the connections that this one does not.
    Inherited(TcpListener),
}

/// The front. Clones share it.
#[derive(Clone)]
pub struct Front {
    shared: Arc<Shared>,
    /// A byte here ends the accepting.
    shutdown_tx: Arc<UnixStream>,
}

/// The accepting side of the front, on a thread of its own once it is spawned.
pub struct Acceptor {
    shared: Arc<Shared>,
    listener: TcpListener,
    shutdown_rx: UnixStream,
    is_inherited: bool,
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
        // Accepted connections inherit the sizes of the buffers.
        sockopt::set_socket_send_buffer_size(&listener, SEND_BUFFER)?;
        sockopt::set_socket_recv_buffer_size(&listener, RECEIVE_BUFFER)?;
        let (shutdown_tx, shutdown_rx) = UnixStream::pair()?;
        let shared = Arc::new(Shared::new(address, limits, backend));
        let acceptor = Acceptor { shared: Arc::clone(&shared), listener, shutdown_rx, is_inherited };
        Ok((Self { shared, shutdown_tx: Arc::new(shutdown_tx) }, acceptor))
    }

    /// The address with the real port.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Returns true once no more connections are accepted.
    pub fn is_closing(&self) -> bool {
        self.shared.is_closing()
    }

    /// Returns true if requests that call Kubernetes end: see [`is_alive`](crate::front::upstream::Pool::is_alive).
    pub fn is_alive(&self, timeout: Duration) -> bool {
        self.shared.pool(Class::Kubernetes).is_alive(timeout)
    }

    /// Writes the counters and levels of the front.
    pub fn write_metrics(&self, text: &mut Text) {
        self.shared.write_metrics(text);
    }

    /// Refuses new connections, ends idle ones, and waits at most `timeout` for the responses to requests that have arrived or are on
    /// their way. Calls `wake` once the requests that are held back would see that the server stops.
    pub fn close(&self, timeout: Duration, wake: impl FnOnce()) {
        self.shared.start_closing();
        wake();
        // An error means that the acceptor has ended.
        let _ = (&*self.shutdown_tx).write_all(b"!");
        match self.shared.connections.drain(timeout) {
            0 => {}
            left => log::warn!("{left} requests did not finish in time"),
        }
    }
}

/// Refuses a connection without waiting: the response fits into the socket's empty buffer. It is not in the access log, which a flood
/// would fill.
fn refuse(shared: &Shared, stream: &TcpStream) {
    shared.stats.connections_refused.increment();
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
        self.shared.connections.set_accepting(true);
        thread::Builder::new().name("acceptor".into()).spawn(move || {
            let shared = Arc::clone(&self.shared);
            self.accept();
            shared.connections.set_accepting(false);
        })?;
        Ok(())
    }

    fn accept(self) {
        // Closed to accept, and refuse, a connection when no other descriptor is free.
        let mut reserve = self.listener.try_clone().ok();
        let mut swept = Instant::now();
        loop {
            if swept.elapsed() >= SWEEP_INTERVAL {
                self.shared.close_idle();
                swept = Instant::now();
            }
            let is_closing = self.shared.is_closing();
            if is_closing && self.is_inherited {
                return;
            }
            match self.listener.accept() {
                Ok((stream, peer)) => {
                    self.spawn_connection(stream, peer.ip());
                    continue;
                }
                // Connections that arrived before the stop were accepted: they would be lost with the socket.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_closing => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(),
                // The client went away.
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {
                }
                Err(error) => {
                    self.shared.log_throttled(&format!("cannot accept a connection: {error}"));
                    if reserve.take().is_some()
                        && let Ok((stream, _)) = self.listener.accept()
                    {
                        refuse(&self.shared, &stream);
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

    /// Gives the connection a thread, or refuses it.
    fn spawn_connection(&self, stream: TcpStream, peer: IpAddr) {
        let stream = Arc::new(stream);
        let is_local = stream.local_addr().is_ok_and(|local| local.ip() == peer);
        let Some(guard) = self.shared.connections.register(&stream, peer, is_local) else {
            self.shared.log_throttled("connection limit reached");
            return refuse(&self.shared, &stream);
        };
        let shared = Arc::clone(&self.shared);
        let served = Arc::clone(&stream);
        let spawned = thread::Builder::new().name("connection".into()).stack_size(STACK).spawn(move || {
            // An error means that the client went away.
            let _ = connection::serve(&shared, &Client::new(&served, &guard));
        });
        if let Err(error) = spawned {
            self.shared.log_throttled(&format!("no thread for another connection: {error}"));
            refuse(&self.shared, &stream);
        }
    }

    /// Waits for a connection, the shutdown or the next sweep.
    fn wait(&self) {
        let mut sources = [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.shutdown_rx, PollFlags::IN)];
        let timeout = Timespec::try_from(SWEEP_INTERVAL).ok();
        if let Err(error) = poll(&mut sources, timeout.as_ref())
            && error != Errno::INTR
        {
            self.shared.log_throttled(&format!("cannot wait for connections: {error}"));
            thread::sleep(ACCEPT_PAUSE);
        }
    }
}
