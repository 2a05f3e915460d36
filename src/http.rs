//! The only file that names tiny_http: the loop that takes requests, the workers, the access log, and the one place where
//! answers are written.
//!
//! One thread takes every request and answers at once what needs no Kubernetes, so that /healthz never waits for a slow
//! cluster. The others go through a bounded queue to workers. Nothing of tiny_http is bounded by itself: it has no time
//! limits, and one thread per connection.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tiny_http::{Header, Request, Response, Server};

use crate::handler::{self, ApiError, App, BODY_LIMIT, Reply, Route};

/// Threads that wait for Kubernetes, each with at most one request there. An API server does most with about 8 requests
/// at a time; twice that covers /config lists that take longer.
pub const WORKERS: usize = 16;

/// Requests that wait for a worker; beyond it the answer is 503 at once. A worker does at least 30 a second, so that the
/// last of them waits for half a second, and not until its caller has given up.
const QUEUE: usize = 256;

/// What is in flight at a stop gets this long: the default deadline of a Kubernetes operation.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A client that takes nothing of its answer for this long is given up, so that it does not hold a thread for ever.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Most of a request's path in the log, in characters.
const PATH_SHOWN: usize = 200;

/// A bound socket with a tiny_http server on it.
pub struct Front {
    server: Arc<Server>,
    address: SocketAddr,
    stopping: Arc<AtomicBool>,
}

/// Ends a [`Front`] from another thread.
pub struct Stopper {
    server: Arc<Server>,
    stopping: Arc<AtomicBool>,
}

impl Stopper {
    /// Takes no further requests; those in flight are finished.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.server.unblock();
    }
}

/// tiny_http no longer accepts connections; nothing but a restart helps.
#[derive(Debug)]
pub struct AcceptEnded(io::Error);

impl fmt::Display for AcceptEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no longer accepting connections")
    }
}

impl std::error::Error for AcceptEnded {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

impl Front {
    /// Binds `address` (`HOST:PORT`, port 0 for any).
    ///
    /// # Errors
    /// No such address here, port taken, no permission.
    pub fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        // Connections inherit these. Without the first, an answer on a kept-alive connection waits 40 ms for the client's
        // delayed acknowledgement.
        let socket = TcpStream::from(OwnedFd::from(listener.try_clone()?));
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        let server = Server::from_listener(listener, None).map_err(io::Error::other)?;
        Ok(Self { server: Arc::new(server), address, stopping: Arc::default() })
    }

    /// The address with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A handle to stop [`serve`](Self::serve) with.
    pub fn stopper(&self) -> Stopper {
        Stopper { server: Arc::clone(&self.server), stopping: Arc::clone(&self.stopping) }
    }

    /// Serves until stopped, then finishes what is in flight.
    ///
    /// # Errors
    /// A thread could not be started, or connections are no longer accepted.
    pub fn serve(self, app: &Arc<App>) -> Result<(), AcceptEnded> {
        let (queue, waiting) = mpsc::sync_channel(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        // Each worker holds a sender; when the last is gone all have finished.
        let (working, finished) = mpsc::channel::<()>();
        for number in 0..WORKERS {
            let (app, waiting, working) = (Arc::clone(app), Arc::clone(&waiting), working.clone());
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || {
                    work(&app, &waiting);
                    drop(working);
                })
                .map_err(AcceptEnded)?;
        }
        drop(working);

        let ended = loop {
            match self.server.recv() {
                Ok(request) => take(app, request, &queue),
                Err(_) if self.stopping.load(Ordering::SeqCst) => break Ok(()),
                Err(error) => break Err(AcceptEnded(error)),
            }
        };
        while let Ok(Some(request)) = self.server.try_recv() {
            take(app, request, &queue);
        }
        drop(queue);
        // Closes the listening socket once the last handle is gone.
        drop(self);
        if finished.recv_timeout(STOP_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            log::warn!("some requests did not finish within {} s", STOP_LIMIT.as_secs());
        }
        ended
    }
}

/// A request on its way to a worker.
struct Waiting {
    request: Request,
    route: Route,
    arrived: Instant,
}

/// Answers at once, or hands over to a worker.
fn take(app: &App, mut request: Request, queue: &mpsc::SyncSender<Waiting>) {
    let arrived = Instant::now();
    let route = Route::parse(request.method().as_str(), request.url()).and_then(|route| framing(&request, route));
    let reply = match route {
        Ok(route) if route.asks_kubernetes() => match queue.try_send(Waiting { request, route, arrived }) {
            Ok(()) => return,
            Err(mpsc::TrySendError::Full(waiting) | mpsc::TrySendError::Disconnected(waiting)) => {
                request = waiting.request;
                ApiError::Busy.into_reply()
            }
        },
        Ok(route) => answer(app, &mut request, route),
        Err(error) => error.into_reply(),
    };
    respond(request, reply, arrived);
}

fn work(app: &App, waiting: &Mutex<mpsc::Receiver<Waiting>>) {
    loop {
        // The lock is held while waiting and let go with the request in hand.
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Waiting { mut request, route, arrived }) = next else { return };
        let reply = answer(app, &mut request, route);
        respond(request, reply, arrived);
    }
}

/// Never fails: a panic is a reply, too.
fn answer(app: &App, request: &mut Request, route: Route) -> Reply {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let body = if route.takes_body() { read_body(request)? } else { Vec::new() };
        handler::handle(app, route.into_call(&body)?)
    }));
    outcome.unwrap_or(Err(ApiError::Panicked)).unwrap_or_else(ApiError::into_reply)
}

/// What the head says of the body, before a byte of it is read.
fn framing(request: &Request, route: Route) -> Result<Route, ApiError> {
    if request.headers().iter().any(|header| header.field.equiv("Transfer-Encoding")) {
        return Err(ApiError::TransferEncoding);
    }
    match request.body_length() {
        None if route.takes_body() => Err(ApiError::LengthRequired),
        Some(length) if length > BODY_LIMIT => Err(ApiError::BodyTooLarge),
        _ => Ok(route),
    }
}

fn read_body(request: &mut Request) -> Result<Vec<u8>, ApiError> {
    let length = request.body_length().ok_or(ApiError::LengthRequired)?;
    let mut body = vec![0; length.min(BODY_LIMIT)];
    request.as_reader().read_exact(&mut body).map_err(ApiError::BrokenBody)?;
    Ok(body)
}

/// The one place that writes to a client and to the access log.
fn respond(request: Request, reply: Reply, arrived: Instant) {
    let Reply { status, body, retry_after, allow, note } = reply;
    let path: String = request.url().chars().take(PATH_SHOWN).collect();
    log::info!("{} {path} {status} {}ms {note}", request.method(), arrived.elapsed().as_millis());
    // A length is better than chunks: the client sees whether it has all.
    let mut response = Response::from_data(body).with_status_code(status).with_chunked_threshold(usize::MAX);
    response.add_header(header("Content-Type", "application/json"));
    if let Some(seconds) = retry_after {
        response.add_header(header("Retry-After", &seconds.to_string()));
    }
    if let Some(methods) = allow {
        response.add_header(header("Allow", methods));
    }
    if let Err(error) = request.respond(response) {
        log::debug!("the client did not take its answer: {error}");
    }
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("names and values of ours are ASCII")
}
