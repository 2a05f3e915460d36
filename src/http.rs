//! The only file that names tiny_http: the loop that takes requests, the workers, the access log, and what an answer looks
//! like on the wire.
//!
//! tiny_http listens on a private Unix socket and sees only what the [`gate`](crate::gate) has written. One thread takes
//! every request and answers at once what needs no Kubernetes, so that /healthz never waits for a slow cluster. The others
//! go through a bounded queue to workers.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use tiny_http::{HTTPVersion, Header, Request, Response, Server};

use crate::handler::{self, ApiError, App, BODY_LIMIT, Reply, Route};

/// Threads that wait for Kubernetes, each with at most one request there. An API server does most with about 8 requests
/// at a time; twice that covers /config lists that take longer.
pub const WORKERS: usize = 16;

/// Of the requests that the gate lets through at a time, those that can only be for /healthz or a refusal: the queue is
/// shorter than the gate is wide.
const SPARE: usize = 16;

/// Pause before tiny_http is started anew after it failed.
const RESTART_PAUSE: Duration = Duration::from_millis(250);

/// How long a tiny_http that has been replaced is still asked for requests: what the gate sends is there at once.
const RETIRED_FOR: Duration = Duration::from_secs(1);

/// How often it is asked.
const RETIRED_TICK: Duration = Duration::from_millis(10);

/// Most of a request's path in the log, in characters.
const PATH_SHOWN: usize = 200;

/// tiny_http behind its private socket.
pub struct Inner {
    listening: Mutex<Listening>,
    stopping: AtomicBool,
    queue: usize,
    progress: Mutex<Progress>,
}

/// How the workers get on.
struct Progress {
    /// Requests that wait for a worker or have one.
    open: usize,
    /// When a request last came to an idle crew, or was finished.
    moved: Instant,
}

impl Inner {
    /// Listens on a private socket. `forwards` is the most requests at a time.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn bind(forwards: usize) -> io::Result<Self> {
        let listening = Mutex::new(Listening::start()?);
        let queue = forwards.saturating_sub(WORKERS + SPARE).max(1);
        let progress = Mutex::new(Progress { open: 0, moved: Instant::now() });
        Ok(Self { listening, stopping: AtomicBool::new(false), queue, progress })
    }

    /// A connection to tiny_http, for one request.
    ///
    /// # Errors
    /// As connect(2).
    pub fn connect(&self) -> io::Result<UnixStream> {
        let (server, socket) = {
            let listening = self.lock();
            (Arc::clone(&listening.server), Arc::clone(&listening.socket))
        };
        let connected = UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd()));
        if connected.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            // Nobody accepts there any more. If that came by a panic, only this tells the loop in serve().
            server.unblock();
        }
        connected
    }

    /// Takes no further requests; those that were taken are finished.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.server().unblock();
    }

    /// Serves until stopped. A request that waited longer than `patience` for a worker is answered with 503: its caller
    /// has given up, and its Job would be nobody's.
    ///
    /// # Errors
    /// A worker's thread could not be started.
    pub fn serve(self: &Arc<Self>, app: &Arc<App>, patience: Duration) -> io::Result<()> {
        let (queue, waiting) = mpsc::sync_channel(self.queue);
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..WORKERS {
            let (inner, app, waiting) = (Arc::clone(self), Arc::clone(app), Arc::clone(&waiting));
            let work = move || inner.work(&app, &waiting, patience);
            thread::Builder::new().name(format!("worker-{number}")).spawn(work)?;
        }
        let mut retired: Option<Retired> = None;
        while !self.stopping.load(Ordering::SeqCst) {
            let received = match &retired {
                None => self.server().recv().map(Some),
                Some(_) => self.server().recv_timeout(RETIRED_TICK),
            };
            if let Some(old) = &retired {
                while let Ok(Some(request)) = old.server.try_recv() {
                    self.take(app, request, &queue);
                }
            }
            if retired.as_ref().is_some_and(|old| Instant::now() >= old.until) {
                retired = None;
            }
            match received {
                Ok(Some(request)) => self.take(app, request, &queue),
                Ok(None) => {}
                Err(_) if self.stopping.load(Ordering::SeqCst) => break,
                Err(error) => retired = Some(self.restart(&error)),
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Listening> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server(&self) -> Arc<Server> {
        Arc::clone(&self.lock().server)
    }

    /// tiny_http's accept loop ends at its first error, or panics for want of a descriptor or a thread. The gate is still
    /// open and finds the new one.
    fn restart(&self, error: &io::Error) -> Retired {
        log::error!("tiny_http no longer accepts ({error}); starting it anew");
        let server = self.server();
        while !self.stopping.load(Ordering::SeqCst) {
            match Listening::start() {
                Ok(listening) => {
                    *self.lock() = listening;
                    break;
                }
                Err(error) => log::error!("tiny_http does not start: {error}"),
            }
            thread::sleep(RESTART_PAUSE);
        }
        Retired { server, until: Instant::now() + RETIRED_FOR }
    }

    /// Whether a request has been finished lately, if there are any: each ends by its deadline, so that a crew in which
    /// nothing moves for `patience` is stuck.
    pub fn is_alive(&self, patience: Duration) -> bool {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.open == 0 || progress.moved.elapsed() < patience
    }

    /// Answers at once, or hands over to a worker.
    fn take(&self, app: &App, mut request: Request, queue: &mpsc::SyncSender<Waiting>) {
        let arrived = Instant::now();
        let route = Route::parse(request.method().as_str(), request.url());
        let reply = match route {
            Ok(route) if route.asks_kubernetes() => {
                self.count(true);
                match queue.try_send(Waiting { request, route, arrived }) {
                    Ok(()) => return,
                    Err(mpsc::TrySendError::Full(waiting) | mpsc::TrySendError::Disconnected(waiting)) => {
                        self.count(false);
                        request = waiting.request;
                        ApiError::Busy.into_reply()
                    }
                }
            }
            Ok(route) => answer(app, &mut request, route),
            Err(error) => error.into_reply(),
        };
        respond(request, reply, arrived);
    }

    fn work(&self, app: &App, waiting: &Mutex<mpsc::Receiver<Waiting>>, patience: Duration) {
        loop {
            // The lock is held while waiting and let go with the request in hand.
            let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Waiting { mut request, route, arrived }) = next else { return };
            let late = arrived.elapsed() > patience;
            let reply = if late { ApiError::Busy.into_reply() } else { answer(app, &mut request, route) };
            respond(request, reply, arrived);
            self.count(false);
        }
    }

    fn count(&self, came: bool) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if !came || progress.open == 0 {
            progress.moved = Instant::now();
        }
        progress.open = if came { progress.open + 1 } else { progress.open.saturating_sub(1) };
    }
}

/// A server that accepts no more, but may still be reading a request that it had accepted.
struct Retired {
    server: Arc<Server>,
    until: Instant,
}

/// A server on a socket whose name is gone: nobody but the holder of `socket` can connect, and a process that is killed
/// leaves no file behind.
struct Listening {
    server: Arc<Server>,
    socket: Arc<OwnedFd>,
}

impl Listening {
    fn start() -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::getrandom(&mut random).map_err(io::Error::other)?;
        let folder = std::env::temp_dir().join(format!("img-classification-{:016x}", u64::from_ne_bytes(random)));
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        // tiny_http panics when there is no thread for it.
        let path = folder.join("http.sock");
        let started = catch_unwind(|| Self::start_at(&path));
        // One by one: to look what is in a folder takes a descriptor, and there may be none. Perhaps it was never bound.
        let _ = fs::remove_file(&path);
        fs::remove_dir(&folder)?;
        started.unwrap_or_else(|_| Err(io::Error::other("it panicked")))
    }

    fn start_at(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let socket = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        // Last, when nothing more can fail: a server that is dropped needs a descriptor to wake its own thread.
        let server = Server::from_listener(listener, None).map_err(io::Error::other)?;
        Ok(Self { server: Arc::new(server), socket: Arc::new(socket) })
    }
}

/// A request on its way to a worker.
struct Waiting {
    request: Request,
    route: Route,
    arrived: Instant,
}

/// Never fails: a panic is a reply, too.
fn answer(app: &App, request: &mut Request, route: Route) -> Reply {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let authorization = request.headers().iter().find(|header| header.field.equiv("Authorization"));
        route.authorize(app, authorization.map(|header| header.value.as_str()))?;
        let body = if route.takes_body() { read_body(request)? } else { Vec::new() };
        handler::handle(app, route.into_call(&body)?)
    }));
    outcome.unwrap_or(Err(ApiError::Panicked)).unwrap_or_else(ApiError::into_reply)
}

fn read_body(request: &mut Request) -> Result<Vec<u8>, ApiError> {
    let length = request.body_length().ok_or(ApiError::LengthRequired)?;
    let mut body = vec![0; length.min(BODY_LIMIT)];
    request.as_reader().read_exact(&mut body).map_err(ApiError::BrokenBody)?;
    Ok(body)
}

/// The one place that answers through tiny_http.
fn respond(request: Request, reply: Reply, arrived: Instant) {
    log(&format!("{} {}", request.method(), request.url()), &reply, arrived.elapsed());
    if let Err(error) = request.respond(response(reply)) {
        log::debug!("the gate did not take an answer: {error}");
    }
}

/// A refusal by the gate, as it goes over the wire; `line` is the method and the path for the log.
pub fn refusal(line: Option<&str>, error: ApiError) -> Vec<u8> {
    let reply = error.into_reply();
    if let Some(line) = line {
        log(line, &reply, Duration::ZERO);
    }
    let mut bytes = Vec::new();
    let written = response(reply).raw_print(&mut bytes, HTTPVersion(1, 1), &[], false, None);
    written.expect("a Vec takes all bytes");
    bytes
}

fn response(reply: Reply) -> Response<io::Cursor<Vec<u8>>> {
    let Reply { status, body, retry_after, allow, challenge, note: _ } = reply;
    // A length is better than chunks: the client sees whether it has all.
    let mut response = Response::from_data(body).with_status_code(status).with_chunked_threshold(usize::MAX);
    response.add_header(header("Content-Type", "application/json"));
    if let Some(seconds) = retry_after {
        response.add_header(header("Retry-After", &seconds.to_string()));
    }
    if let Some(methods) = allow {
        response.add_header(header("Allow", methods));
    }
    if challenge {
        response.add_header(header("WWW-Authenticate", "Bearer"));
    }
    response
}

/// The access log: method, path, status, milliseconds, and the job's name or the chain of causes.
fn log(line: &str, reply: &Reply, took: Duration) {
    let shown: String = line.chars().take(PATH_SHOWN).collect();
    log::info!("{shown} {} {}ms {}", reply.status, took.as_millis(), reply.note);
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("names and values of ours are ASCII")
}
