//! `serve`: from options to a running server, and its orderly end.

use std::fmt;
use std::io::{self, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::iterator::Signals;

use crate::api;
use crate::api::auth;
use crate::cli::Env;
use crate::cli::Options;
use crate::commands::output::one_line;
use crate::commands::setup;
use crate::commands::signals;
use crate::commands::systemd;
use crate::front::listener;
use crate::kube;
use crate::queue::controller as nudge;
use crate::server;
use crate::simulator;

/// What is in flight at a stop gets this long: the default deadline of a Kubernetes operation.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Requests that ask Kubernetes at a time. Its quotas take Jobs that come together in one go: with 32 it stored 2,375 a second, with 16
/// 1,714, with 64 no more.
const CREW: usize = 32;

/// How much longer than a Kubernetes operation may take until a crew in which nothing moves is stuck.
const CREW_SLACK: Duration = Duration::from_secs(5);

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
    let kube = kube::Client::new(cluster, kube_timeout, CREW).map_err(StartError::Tls)?;
    if let Some(local) = &local {
        setup::apply(&kube, |_| {}).map_err(StartError::Setup)?;
        configuration.push("local: a simulated cluster that ends with this process; no container is run".to_owned());
        configuration
            .push(format!("for kubectl and the other commands: export KUBECONFIG={}", local.kubeconfig().display()));
    }
    let premium = options.premium_token_file.as_deref().map(auth::Token::read).transpose();
    let premium = premium.map_err(StartError::PremiumToken)?;
    let queue = options.requeue.then(nudge::Nudge::default);
    let app = Arc::new(api::App::new(kube, &options.jobs, premium, queue, CREW, kube_timeout));
    let limits = listener::Limits::from_descriptors(options.posts_per_minute);
    let http = server::Http::new(Arc::clone(&app), limits.waiting());
    let bind = |source| StartError::Bind { address: options.listen.clone(), source };
    let socket = match systemd::inherited_socket().map_err(StartError::Inherited)? {
        Some(listener) => listener::Socket::Inherited(listener),
        None => listener::Socket::Own(TcpListener::bind(&options.listen).map_err(bind)?),
    };
    let (gate, door) = listener::Gate::new(socket, limits, http).map_err(bind)?;
    door.open().map_err(StartError::Threads)?;
    // Not before: a start that fails must not leave a plugin running.
    app.kube.prepare();
    let (alive, watched) = (Arc::clone(&app), gate.clone());
    let is_alive = move || alive.crew.is_alive(kube_timeout + CREW_SLACK);
    systemd::start_watchdog(gate.address(), is_alive, move || watched.is_closing()).map_err(StartError::Threads)?;
    for line in configuration {
        let _ = writeln!(io::stderr(), "{}", one_line(&line));
    }
    let _ = writeln!(io::stderr(), "listening on http://{}", gate.address());
    systemd::ready();
    if let Some(queue) = &app.queue
        && let Err(error) = nudge::start(&app)
    {
        queue.give_up();
        log::warn!("no threads to watch the queue with: {error}; Kubernetes itself starts the Jobs that wait");
    }
    signals.forever().next();
    systemd::stopping();
    gate.close(STOP_LIMIT);
    app.queue.iter().for_each(nudge::Nudge::stop);
    app.kube.close();
    Ok(())
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
            | Self::Threads(source)
            | Self::Bind { source, .. } => Some(source),
            Self::Tls(_) => None,
        }
    }
}
