//! `serve`: from options to a running server, and its orderly end.

use std::fmt;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::iterator::Signals;

use crate::api;
use crate::api::auth;
use crate::api::info::{Facts, short_name};
use crate::api::route::{REFUSED, Route};
use crate::cli::{self, Env, Options};
use crate::commands::output::one_line;
use crate::commands::setup;
use crate::commands::signals;
use crate::commands::systemd;
use crate::front::{self, Acceptor, Backend, Class, Front, Limits, Socket};
use crate::kube;
use crate::queue::controller::QueueController;
use crate::server;
use crate::simulator;
use crate::state::job_watch::JobWatch;
use crate::state::pod_watch::PodWatch;

/// Time for requests in flight at a stop: the default deadline of a Kubernetes operation.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Time that a request may take beside its Kubernetes operations.
const SLACK: Duration = Duration::from_secs(5);

/// The front forwards no body that a handler would cut.
const _: () = assert!(front::limits::MAX_BODY <= api::MAX_BODY);

/// Serves until a signal ends it.
///
/// # Errors
/// A step of the start failed; no socket is bound any more.
pub fn run(options: &Options, env: Env<'_>) -> Result<(), StartError> {
    // First, so that a signal at any later point removes the simulator's files.
    let mut signals = install_signal_handlers().map_err(StartError::Threads)?;
    let local = options.local.as_ref().map(simulator::Local::start).transpose().map_err(|source| {
        let path = options.local.as_ref().and_then(|settings| settings.kubeconfig.clone());
        StartError::Local { path, source }
    })?;
    cli::renamed_variables(env).for_each(|(old, new)| log::warn!("{old} has no effect; fix: set {new} instead"));
    let limits = Limits::from_descriptors(options.posts_per_minute);
    let mut configuration = options.lines();
    let app = Arc::new(load(options, env, local.as_ref(), limits, &mut configuration)?);
    let backend = backend(&app, options.access.kube_timeout).map_err(StartError::PrivateSocket)?;
    let (front, acceptor) = listen(options, limits, backend)?;
    let counted = front.clone(); // the front and the application live as long as the process
    app.metrics.set_front(Box::new(move |text| counted.write_metrics(text)));
    let (alive, watched, timeout) = (front.clone(), front.clone(), options.access.kube_timeout + SLACK);
    let is_alive = move || alive.is_alive(timeout);
    systemd::start_watchdog(front.address(), is_alive, move || watched.is_closing()).map_err(StartError::Threads)?;
    // Last of all that can fail: from here on requests are served.
    acceptor.spawn().map_err(StartError::Threads)?;
    // A start that fails must not leave a plugin running.
    app.kube.warm_up();
    configuration.push(format!("listening on http://{}", front.address()));
    for line in configuration {
        let _ = writeln!(io::stderr(), "{}", one_line(&line));
    }
    systemd::ready();
    app.watched.iter().for_each(|watched| start_watches(watched, options.requeue));
    if let Some(signal) = signals.forever().next() {
        let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
        log::info!("stopping on {name}; requests in flight have {} s", STOP_TIMEOUT.as_secs());
    }
    systemd::stopping();
    front.close(STOP_TIMEOUT, || app.watched.iter().for_each(|watched| watched.jobs.waiters.wake_all()));
    app.kube.close();
    Ok(())
}

/// Reads the kubeconfig and all files that the options name. Adds lines on the cluster to `configuration`.
fn load(
    options: &Options,
    env: Env<'_>,
    local: Option<&simulator::Local>,
    limits: Limits,
    configuration: &mut Vec<String>,
) -> Result<api::App, StartError> {
    let (file, context) = match local {
        Some(local) => (Some(local.kubeconfig().to_owned()), None),
        None => (options.access.kubeconfig.clone(), options.access.context.clone()),
    };
    let timeout = options.access.kube_timeout;
    let native_eks = options.access.native_eks;
    let sources = kube::Sources { file, context, env, native_eks };
    let cluster = kube::Cluster::load(&sources).map_err(StartError::Config)?;
    configuration.extend(cluster.lines());
    let facts = Facts {
        image: options.jobs.image.clone(),
        cluster: cluster.name.as_deref().map(|name| short_name(name).to_owned()),
        is_local: local.is_some(),
        has_page: options.page,
    };
    let kube = Arc::new(kube::Client::new(cluster, timeout, limits.kubernetes).map_err(StartError::Tls)?);
    if let Some(local) = local {
        setup::apply(&kube, |_| {}).map_err(StartError::Setup)?;
        configuration.push("local: a simulated cluster that ends with this process; no container is run".to_owned());
        // A line of its own, to be copied into a shell for kubectl and the other commands.
        configuration.push(format!("export KUBECONFIG={}", local.kubeconfig().display()));
    }
    let token = |option, path: &Option<PathBuf>| {
        path.as_deref().map(auth::Token::read).transpose().map_err(|source| StartError::Token { option, source })
    };
    let tokens = auth::Tokens {
        premium: token("--premium-token-file", &options.premium_token_file)?,
        admin: token("--admin-token-file", &options.admin_token_file)?,
    };
    let watched = options.watch.then(|| {
        let jobs = Arc::new(JobWatch::new(Arc::clone(&kube)));
        let queue = Arc::new(QueueController::new(Arc::clone(&kube), Arc::clone(&jobs)));
        api::Watched { jobs, queue, pods: Arc::new(PodWatch::new(Arc::clone(&kube))) }
    });
    Ok(api::App::new(kube, &options.jobs, tokens, facts, watched, timeout))
}

/// Starts the watches and the queue's controller, without which the server still serves.
fn start_watches(api::Watched { jobs, queue, .. }: &api::Watched, requeue: bool) {
    let listener = Arc::clone(queue);
    let spawned = [jobs.spawn(Box::new(move |event| listener.apply_job_event(event))), queue.spawn(requeue)];
    if let Some(error) = spawned.into_iter().find_map(Result::err) {
        log::warn!("cannot start all watch threads: {error}; GET /jobs and /queue may not be available");
    }
}

/// Binds the public socket, or takes that of systemd.
fn listen(options: &Options, limits: Limits, backend: Backend) -> Result<(Front, Acceptor), StartError> {
    let bind = |source| StartError::Bind { address: options.listen.clone(), source };
    let socket = match systemd::inherited_socket().map_err(StartError::Inherited)? {
        Some(listener) => Socket::Inherited(listener),
        None => Socket::Own(TcpListener::bind(&options.listen).map_err(bind)?),
    };
    Front::new(socket, limits, backend).map_err(StartError::Threads)
}

/// Starts the tiny_http server, and returns all that the front needs to use it.
fn backend(app: &Arc<api::App>, kube_timeout: Duration) -> io::Result<Backend> {
    let (app, held, counted) = (Arc::clone(app), Arc::clone(app), Arc::clone(app));
    let is_watched = app.watched.is_some();
    let server = server::Server::start(Box::new(move |request| api::handle(&app, request)))?;
    Ok(Backend {
        connect: Box::new(move || server.connect()),
        classify: Box::new(move |method, target| match Route::parse(method, target) {
            Ok(route) if route.is_stream() => Class::Stream,
            Ok(route) if route.calls_kubernetes(is_watched) => Class::Kubernetes,
            _ => Class::Memory,
        }),
        hold: Box::new(move |request, network, is_over| api::job_wait::hold(&held, request, network, is_over)),
        headers: &api::REQUEST_HEADERS,
        acquire_timeout: kube_timeout,
        response_timeout: kube_timeout + SLACK,
        log: Box::new(move |entry| {
            counted.metrics.record(REFUSED, entry.status, entry.took);
            server::log_response(entry);
        }),
    })
}

/// Starts to record the signals that end the server: the first for the caller; a second one ends the process at once.
fn install_signal_handlers() -> io::Result<Signals> {
    let ending = signals::ending();
    // First, because any handler replaces the signal's default action: a signal that only the flag recorded would be lost.
    let signals = Signals::new(&ending)?;
    let again = Arc::new(AtomicBool::new(false));
    for signal in ending {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&again))?;
        signal_hook::flag::register(signal, Arc::clone(&again))?;
    }
    Ok(signals)
}

/// The reason for a failed start.
#[derive(Debug)]
pub enum StartError {
    Local { path: Option<PathBuf>, source: io::Error },
    Setup(setup::SetupError),
    Config(kube::ConfigError),
    Tls(kube::TlsError),
    Bind { address: String, source: io::Error },
    Token { option: &'static str, source: io::Error },
    Inherited(io::Error),
    PrivateSocket(io::Error),
    Threads(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { path: Some(path), .. } => {
                write!(f, "cannot start the simulator with its kubeconfig at {} (--local-kubeconfig)", path.display())
            }
            Self::Local { path: None, .. } => {
                let folder = std::env::temp_dir();
                write!(f, "cannot start the simulator, which writes its kubeconfig below {} (TMPDIR)", folder.display())
            }
            Self::Setup(error) => write!(f, "the simulator rejects the manifests of k8s/: {error}"),
            Self::Config(error @ kube::ConfigError::NotFound { .. }) => {
                write!(f, "{error}; to try it without a cluster: img-classification serve --local")
            }
            Self::Config(error) => write!(f, "{error}"),
            Self::Tls(error) => write!(f, "the kubeconfig's certificates cannot be used: {error}"),
            Self::Bind { address, .. } => {
                write!(
                    f,
                    "cannot listen on {address}; fix: choose another address with --listen, or stop the process that uses it"
                )
            }
            Self::Inherited(_) => write!(f, "cannot use the socket of LISTEN_FDS"),
            Self::PrivateSocket(_) => {
                write!(f, "cannot create the private socket in {} (TMPDIR) or /dev/shm", std::env::temp_dir().display())
            }
            Self::Token { option, .. } => write!(f, "cannot use the file of {option}"),
            Self::Threads(_) => write!(f, "cannot start threads or watch for signals"),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => error.source(),
            Self::Setup(error) => std::error::Error::source(error),
            Self::Local { source, .. }
            | Self::Token { source, .. }
            | Self::Inherited(source)
            | Self::PrivateSocket(source)
            | Self::Threads(source)
            | Self::Bind { source, .. } => Some(source),
            Self::Tls(_) => None,
        }
    }
}
