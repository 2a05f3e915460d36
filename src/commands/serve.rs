//! `serve`: from options to a running server, and its orderly end.

use std::fmt;
use std::io::{self, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::iterator::Signals;

use crate::Env;
use crate::api;
use crate::api::auth;
use crate::api::route::Route;
use crate::cli::Options;
use crate::commands::output::one_line;
use crate::commands::setup;
use crate::commands::signals;
use crate::commands::systemd;
use crate::front::{Backend, Class, Front, Limits, Socket};
use crate::kube;
use crate::queue::controller::QueueController;
use crate::server;
use crate::simulator;

/// What is in flight at a stop gets this long: the default deadline of a Kubernetes operation.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How much longer than its Kubernetes operations a request may take.
const SLACK: Duration = Duration::from_secs(5);

/// Serves until a signal ends it.
///
/// # Errors
/// What keeps it from starting; then nothing has been bound, or is no longer.
pub fn run(options: &Options, env: Env<'_>) -> Result<(), StartError> {
    // First of all: what is made below is to be taken away again, whenever a signal comes.
    let mut signals = heard().map_err(StartError::Threads)?;
    let local = options.local.as_ref().map(simulator::Local::start).transpose().map_err(StartError::Local)?;
    let file = local.as_ref().map(|local| local.kubeconfig().to_owned()).or_else(|| options.access.kubeconfig.clone());
    let context = options.access.context.clone().filter(|_| local.is_none());
    let cluster = kube::Cluster::load(&kube::Sources { file, context, env }).map_err(StartError::Config)?;
    let mut configuration: Vec<String> = options.lines().into_iter().chain(cluster.lines()).collect();
    let kube_timeout = options.access.kube_timeout;
    let limits = Limits::from_descriptors(options.posts_per_minute);
    let kube = Arc::new(kube::Client::new(cluster, kube_timeout, limits.kubernetes).map_err(StartError::Tls)?);
    if let Some(local) = &local {
        setup::apply(&kube, |_| {}).map_err(StartError::Setup)?;
        configuration.push("local: a simulated cluster that ends with this process; no container is run".to_owned());
        // A line of its own, to be copied into a shell for kubectl and the other commands.
        configuration.push(format!("export KUBECONFIG={}", local.kubeconfig().display()));
    }
    let premium = options.premium_token_file.as_deref().map(auth::Token::read).transpose();
    let premium = premium.map_err(StartError::PremiumToken)?;
    let queue = options.requeue.then(|| Arc::new(QueueController::new(Arc::clone(&kube))));
    let app = Arc::new(api::App::new(kube, &options.jobs, premium, queue, kube_timeout));
    let bind = |source| StartError::Bind { address: options.listen.clone(), source };
    let socket = match systemd::inherited_socket().map_err(StartError::Inherited)? {
        Some(listener) => Socket::Inherited(listener),
        None => Socket::Own(TcpListener::bind(&options.listen).map_err(bind)?),
    };
    let backend = backend(&app, kube_timeout).map_err(StartError::PrivateSocket)?;
    let (front, acceptor) = Front::new(socket, limits, backend).map_err(bind)?;
    acceptor.spawn().map_err(StartError::Threads)?;
    // Not before: a start that fails must not leave a plugin running.
    app.kube.prepare();
    let (alive, watched) = (front.clone(), front.clone());
    let is_alive = move || alive.is_alive(kube_timeout + SLACK);
    systemd::feed_watchdog(front.address(), is_alive, move || watched.is_closing()).map_err(StartError::Threads)?;
    for line in configuration {
        let _ = writeln!(io::stderr(), "{}", one_line(&line));
    }
    let _ = writeln!(io::stderr(), "listening on http://{}", front.address());
    systemd::ready();
    if let Some(queue) = &app.queue
        && let Err(error) = queue.spawn()
    {
        log::warn!("no threads to watch the queue with: {error}; Kubernetes itself starts the Jobs that wait");
    }
    signals.forever().next();
    systemd::stopping();
    front.close(STOP_LIMIT);
    app.queue.iter().for_each(|queue| queue.stop());
    app.kube.close();
    Ok(())
}

/// The tiny_http server and what the front needs to use it.
fn backend(app: &Arc<api::App>, kube_timeout: Duration) -> io::Result<Backend> {
    let app = Arc::clone(app);
    let server = server::Server::start(Box::new(move |request| api::handle(&app, request)))?;
    Ok(Backend {
        connect: Box::new(move || server.connect()),
        classify: |method, target| match Route::parse(method, target) {
            Ok(route) if route.calls_kubernetes() => Class::Kubernetes,
            _ => Class::Memory,
        },
        headers: &api::REQUEST_HEADERS,
        acquire_timeout: kube_timeout,
        answer_timeout: answer_timeout(kube_timeout),
        log: server::log_response,
    })
}

/// A request that waits for another's list of the pods takes two Kubernetes operations.
fn answer_timeout(kube_timeout: Duration) -> Duration {
    2 * kube_timeout + SLACK
}

/// The signals that end the server. From here on the first is kept until somebody waits for it; a second one ends the process
/// at once.
fn heard() -> io::Result<Signals> {
    let ending = signals::ending();
    let again = Arc::new(AtomicBool::new(false));
    for signal in &ending {
        signal_hook::flag::register_conditional_shutdown(*signal, 1, Arc::clone(&again))?;
        signal_hook::flag::register(*signal, Arc::clone(&again))?;
    }
    Signals::new(ending)
}

/// Why the server does not start.
#[derive(Debug)]
pub enum StartError {
    Local(io::Error),
    Setup(setup::SetupError),
    Config(kube::ConfigError),
    Tls(kube::TlsError),
    Bind { address: String, source: io::Error },
    PremiumToken(io::Error),
    Inherited(io::Error),
    PrivateSocket(io::Error),
    Threads(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(_) => {
                let folder = std::env::temp_dir();
                write!(
                    f,
                    "cannot start the embedded cluster, whose kubeconfig goes below {} (TMPDIR)",
                    folder.display()
                )
            }
            Self::Setup(error) => write!(f, "the embedded cluster does not take our manifests: {error}"),
            Self::Config(error) => write!(f, "{error}"),
            Self::Tls(error) => write!(f, "the kubeconfig's certificates cannot be used: {error}"),
            Self::Bind { address, .. } => {
                write!(f, "cannot listen on {address}; choose another address with --listen, or end what has it")
            }
            Self::Inherited(_) => write!(f, "cannot use the socket that LISTEN_FDS passes"),
            Self::PrivateSocket(_) => {
                write!(f, "cannot make the private socket in {} (TMPDIR) or /dev/shm", std::env::temp_dir().display())
            }
            Self::PremiumToken(_) => write!(f, "cannot use the file that --premium-token-file names"),
            Self::Threads(_) => write!(f, "cannot start threads or watch for signals"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => error.source(),
            Self::Setup(error) => std::error::Error::source(error),
            Self::Local(source)
            | Self::PremiumToken(source)
            | Self::Inherited(source)
            | Self::PrivateSocket(source)
            | Self::Threads(source)
            | Self::Bind { source, .. } => Some(source),
            Self::Tls(_) => None,
        }
    }
}
