//! `serve`: from options to a running server, and its orderly end.

use std::fmt;
use std::io::{self, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use signal_hook::iterator::Signals;

use crate::cli::Options;
use crate::report::one_line;
use crate::{Env, gate, handler, http, kube, local, nudge, premium, service, setup, signals};

/// What is in flight at a stop gets this long: the default deadline of a Kubernetes operation.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How much longer than a Kubernetes operation the gate waits for an answer.
const INNER_SLACK: Duration = Duration::from_secs(5);

/// Serves until a signal ends it.
///
/// # Errors
/// What keeps it from starting; then nothing has been bound, or is no longer.
pub fn run(options: &Options, env: Env<'_>) -> Result<(), StartError> {
    // First of all: what is made below is to be taken away again, whenever a signal comes.
    let signals = heard().map_err(StartError::Threads)?;
    let local = options.local.as_ref().map(local::Local::start).transpose().map_err(StartError::Local)?;
    let file = local.as_ref().map(|local| local.kubeconfig().to_owned()).or_else(|| options.access.kubeconfig.clone());
    let context = options.access.context.clone().filter(|_| local.is_none());
    let cluster = kube::Cluster::load(&kube::Sources { file, context, env }).map_err(StartError::Config)?;
    let mut configuration: Vec<String> = options.lines().into_iter().chain(cluster.lines()).collect();
    let kube_timeout = options.access.kube_timeout;
    let kube = kube::Client::new(cluster, kube_timeout, http::WORKERS).map_err(StartError::Tls)?;
    if let Some(local) = &local {
        setup::apply(&kube, |_| {}).map_err(StartError::Setup)?;
        configuration.push("local: a simulated cluster that ends with this process; no container is run".to_owned());
        configuration
            .push(format!("for kubectl and the other commands: export KUBECONFIG={}", local.kubeconfig().display()));
    }
    let premium = options.premium_token_file.as_deref().map(premium::Token::read).transpose();
    let premium = premium.map_err(StartError::PremiumToken)?;
    let queue = options.nudge.then(nudge::Nudge::default);
    let app = Arc::new(handler::App { kube, jobs: options.jobs.clone(), premium, queue });
    let limits = gate::Limits::from_descriptors(options.posts_per_minute);
    let inner = Arc::new(http::Inner::bind(limits.forwards()).map_err(StartError::Inner)?);
    // A request may wait for a worker as long as it may then take.
    let timeout = kube_timeout * 2 + INNER_SLACK;
    let connect = Arc::clone(&inner);
    let behind = gate::Inner { connect: Box::new(move || connect.connect()), timeout, refusal: http::refusal };
    let bind = |source| StartError::Bind { address: options.listen.clone(), source };
    let socket = match service::inherited_socket().map_err(StartError::Inherited)? {
        Some(listener) => gate::Socket::Inherited(listener),
        None => gate::Socket::Own(TcpListener::bind(&options.listen).map_err(bind)?),
    };
    let (gate, door) = gate::Gate::new(socket, limits, behind).map_err(bind)?;
    stop_on_signals(signals, gate.clone(), Arc::clone(&inner)).map_err(StartError::Threads)?;
    door.open().map_err(StartError::Threads)?;
    // Not before: a start that fails must not leave a plugin running.
    app.kube.prepare();
    let alive = Arc::clone(&inner);
    let watched = gate.clone();
    service::feed_watchdog(gate.address(), move || alive.is_alive(timeout), move || watched.is_closing())
        .map_err(StartError::Threads)?;
    for line in configuration {
        let _ = writeln!(io::stderr(), "{}", one_line(&line));
    }
    let _ = writeln!(io::stderr(), "listening on http://{}", gate.address());
    service::ready();
    if app.queue.is_some()
        && let Err(error) = nudge::start(&app)
    {
        log::warn!("no threads to watch the queue with: {error}; Kubernetes itself starts the Jobs that wait");
    }
    inner.serve(&app, kube_timeout).map_err(StartError::Threads)?;
    app.queue.iter().for_each(nudge::Nudge::stop);
    app.kube.close();
    Ok(())
}

/// The signals that end the server. From here on the first is kept for [`stop_on_signals`]; a second one ends the process
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

/// Stops the server when it has finished what is in flight.
fn stop_on_signals(mut signals: Signals, gate: gate::Gate, inner: Arc<http::Inner>) -> io::Result<()> {
    thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            service::stopping();
            gate.close(STOP_LIMIT);
            inner.stop();
        }
    })?;
    Ok(())
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
    Inner(io::Error),
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
            Self::PremiumToken(_) => write!(f, "cannot use the file that --premium-token-file names"),
            Self::Inner(_) => write!(f, "cannot make a private socket in {}", std::env::temp_dir().display()),
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
            | Self::Inner(source)
            | Self::Threads(source)
            | Self::Bind { source, .. } => Some(source),
            Self::Tls(_) => None,
        }
    }
}
