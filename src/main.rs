//! Image classification as a service on Kubernetes: HTTP in, tiered Kubernetes Jobs out.
//!
//! See ARCHITECTURE.md for the way of a request through these modules.

mod cli;
mod gate;
mod handler;
mod head;
mod http;
mod job;
mod kube;
mod limiter;
mod pods;
mod premium;
mod service;
mod wire;

use std::fmt;
use std::io::{self, Write};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "img-classification: {}", one_line(&kube::chain(&error)));
            error.exit_code()
        }
    }
}

fn run() -> Result<(), StartError> {
    let env = |name: &str| std::env::var_os(name);
    let options = match cli::parse(std::env::args_os().skip(1), &env).map_err(StartError::Usage)? {
        cli::Command::Serve(options) => options,
        cli::Command::Print(text) => {
            return io::stdout().write_all(text.as_bytes()).map_err(StartError::Print);
        }
    };
    log_to_stderr(options.log_level);
    let sources = kube::Sources { file: options.kubeconfig.clone(), context: options.context.clone(), env: &env };
    let cluster = kube::Cluster::load(&sources).map_err(StartError::Config)?;
    let configuration: Vec<String> = options.lines().into_iter().chain(cluster.lines()).collect();
    let kube = kube::Client::new(cluster, options.kube_timeout, http::WORKERS).map_err(StartError::Tls)?;
    let premium = options.premium_token_file.as_deref().map(premium::Token::read).transpose();
    let premium = premium.map_err(StartError::PremiumToken)?;
    let app = Arc::new(handler::App { kube, jobs: options.jobs.clone(), premium });
    let limits = gate::Limits::from_descriptors(options.posts_per_minute);
    let inner = Arc::new(http::Inner::bind(limits.forwards()).map_err(StartError::Inner)?);
    // A request may wait for a worker as long as it may then take.
    let timeout = options.kube_timeout * 2 + INNER_SLACK;
    let connect = Arc::clone(&inner);
    let behind = gate::Inner { connect: Box::new(move || connect.connect()), timeout, refusal: http::refusal };
    let bind = |source| StartError::Bind { address: options.listen.clone(), source };
    let socket = match service::inherited_socket().map_err(StartError::Inherited)? {
        Some(listener) => gate::Socket::Inherited(listener),
        None => gate::Socket::Own(TcpListener::bind(&options.listen).map_err(bind)?),
    };
    let (gate, door) = gate::Gate::new(socket, limits, behind).map_err(bind)?;
    stop_on_signals(gate.clone(), Arc::clone(&inner)).map_err(StartError::Threads)?;
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
    inner.serve(&app, options.kube_timeout).map_err(StartError::Threads)?;
    app.kube.close();
    Ok(())
}

/// What is in flight at a stop gets this long: the default deadline of a Kubernetes operation.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// How much longer than a Kubernetes operation the gate waits for an answer.
const INNER_SLACK: Duration = Duration::from_secs(5);

/// One line per message, without a time (journald has it); nothing in it can start a line of its own.
fn log_to_stderr(level: log::LevelFilter) {
    env_logger::Builder::new()
        .filter_level(level.min(log::LevelFilter::Warn))
        // What libraries say below a warning is about their own working.
        .filter_module(env!("CARGO_CRATE_NAME"), level)
        .format(|out, record| {
            let prefix = match record.level() {
                log::Level::Error => "error: ",
                log::Level::Warn => "warning: ",
                log::Level::Info => "",
                log::Level::Debug | log::Level::Trace => "debug: ",
            };
            writeln!(out, "{prefix}{}", one_line(&record.args().to_string()))
        })
        .init();
    std::panic::set_hook(Box::new(|panic| log::error!("bug: {panic}")));
}

/// Control characters are written as escapes.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Line and paragraph separators end a line for some readers of logs.
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// The first SIGTERM or SIGINT stops the server when it has finished what is in flight, a second one at once.
fn stop_on_signals(gate: gate::Gate, inner: Arc<http::Inner>) -> io::Result<()> {
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&again))?;
        signal_hook::flag::register(signal, Arc::clone(&again))?;
    }
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            service::stopping();
            gate.close(STOP_LIMIT);
            inner.stop();
        }
    })?;
    Ok(())
}

/// Why the program ends with an error.
#[derive(Debug)]
enum StartError {
    Usage(cli::UsageError),
    Print(io::Error),
    Config(kube::ConfigError),
    Tls(kube::TlsError),
    Bind { address: String, source: io::Error },
    PremiumToken(io::Error),
    Inherited(io::Error),
    Inner(io::Error),
    Threads(io::Error),
}

impl StartError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Print(_)
            | Self::Config(_)
            | Self::Tls(_)
            | Self::Bind { .. }
            | Self::PremiumToken(_)
            | Self::Inherited(_)
            | Self::Inner(_)
            | Self::Threads(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => write!(f, "{error}"),
            Self::Print(_) => write!(f, "cannot write to stdout"),
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
            Self::Print(source)
            | Self::PremiumToken(source)
            | Self::Inherited(source)
            | Self::Inner(source)
            | Self::Threads(source)
            | Self::Bind { source, .. } => Some(source),
            Self::Usage(_) | Self::Tls(_) => None,
        }
    }
}
