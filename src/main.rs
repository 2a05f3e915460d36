//! Image classification as a service on Kubernetes: HTTP in, tiered Kubernetes Jobs out.
//!
//! See ARCHITECTURE.md for the way of a request through these modules.

mod api;
mod cli;
mod commands;
mod front;
mod job;
mod kube;
mod queue;
mod server;
mod simulator;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::api::auth;
use crate::cli::{Access, Command};
use crate::commands::clean;
use crate::commands::clean::{CleanError, Which};
use crate::commands::doctor;
use crate::commands::output::{Paper, one_line};
use crate::commands::scoped_client::Attended;
use crate::commands::selftest;
use crate::commands::serve;
use crate::commands::setup;
use crate::commands::setup::SetupError;

/// The process's environment.
type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        // What failed has been said, line by line.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(io::stderr(), "img-classification: {}", one_line(&kube::chain(&error)));
            match error {
                Failure::Usage(_) | Failure::Clean(CleanError::Unconfirmed) => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Does what the command line says; whether it came out well.
fn run() -> Result<bool, Failure> {
    let env = |name: &str| std::env::var_os(name);
    let no_color = env("NO_COLOR").is_some_and(|value| !value.is_empty());
    let paper = |topic_width| Paper::stdout(topic_width, no_color);
    let command = cli::parse(std::env::args_os().skip(1), &env).map_err(Failure::Usage)?;
    let (level, kube) = log_levels(&command);
    log_to_stderr(level, kube);
    match command {
        Command::Serve(options) => serve::run(&options, &env).map(|()| true).map_err(Failure::Start),
        Command::Setup { print: true, .. } => print(&setup::yaml()),
        Command::Setup { access, print: false } => {
            let kube = connect(&access, &env)?;
            setup::run(&kube, paper(setup::TOPIC_WIDTH)).map(|()| true).map_err(Failure::Setup)
        }
        Command::Doctor { options, rejected, json } => {
            Ok(doctor::run(&options, &rejected, json, &env, paper(doctor::TOPIC_WIDTH)))
        }
        Command::DoctorAsService { args } => Ok(doctor::as_service(&args, &env, paper(doctor::TOPIC_WIDTH))),
        Command::Clean { access, all, yes, timeout } => {
            let which = if all { Which::All { confirmed: yes } } else { Which::Ours };
            let kube = connect(&access, &env)?;
            clean::run(&kube, paper(clean::TOPIC_WIDTH), which, timeout).map_err(Failure::Clean)
        }
        Command::Selftest { url, access, token_file, clean_first, clean_after, timeout } => {
            let token = token_file.as_deref().map(auth::Token::read).transpose().map_err(Failure::PremiumToken)?;
            let kube = if clean_first || clean_after { Some(connect(&access, &env)?) } else { None };
            let paper = paper(selftest::TOPIC_WIDTH);
            let clean = |wanted: bool| match &kube {
                Some(kube) if wanted => clean::run(kube, paper, Which::Ours, timeout).map_err(Failure::Clean),
                _ => Ok(true),
            };
            // However the test came out, what it made goes.
            Ok(clean(clean_first)? && (selftest::run(&url, token.as_ref(), paper) & clean(clean_after)?))
        }
        Command::Print(text) => print(&text),
    }
}

/// A client of the cluster that a command is about.
fn connect(access: &Access, env: Env<'_>) -> Result<Attended, Failure> {
    let Access { kubeconfig, context, kube_timeout } = access.clone();
    let cluster = kube::Cluster::load(&kube::Sources { file: kubeconfig, context, env }).map_err(Failure::Config)?;
    Attended::new(cluster, kube_timeout).map_err(Failure::Tls)
}

fn print(text: &str) -> Result<bool, Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Print(error)),
        _ => Ok(true),
    }
}

/// What is logged, and what of that about Kubernetes and the way to it.
fn log_levels(command: &Command) -> (log::LevelFilter, log::LevelFilter) {
    match command {
        Command::Serve(options) => (options.log_level, options.log_level),
        // The others say in their own lines what went wrong there.
        _ => (log::LevelFilter::Warn, log::LevelFilter::Off),
    }
}

/// One line per message, without a time (journald has it); nothing in it can start a line of its own.
fn log_to_stderr(level: log::LevelFilter, kube: log::LevelFilter) {
    env_logger::Builder::new()
        .filter_level(level.min(log::LevelFilter::Warn))
        // What libraries say below a warning is about their own working.
        .filter_module(env!("CARGO_CRATE_NAME"), level)
        .filter_module(concat!(env!("CARGO_CRATE_NAME"), "::kube"), kube)
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

/// Why the program ends with an error.
#[derive(Debug)]
enum Failure {
    Usage(cli::UsageError),
    Print(io::Error),
    Start(serve::StartError),
    Config(kube::ConfigError),
    Tls(kube::TlsError),
    Setup(SetupError),
    Clean(CleanError),
    PremiumToken(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(error) => write!(f, "{error}"),
            Self::Print(_) => write!(f, "cannot write to stdout"),
            Self::PremiumToken(_) => write!(f, "cannot use the file that --premium-token-file names"),
            Self::Start(error) => write!(f, "{error}"),
            Self::Config(error) => write!(f, "{error}"),
            Self::Tls(error) => write!(f, "the kubeconfig's certificates cannot be used: {error}"),
            Self::Setup(SetupError::Kube(error)) | Self::Clean(CleanError::Kube(error)) if error.not_permitted() => {
                write!(f, "{error}; this takes an administrator's kubeconfig, see --kubeconfig and --context")
            }
            Self::Setup(error) => write!(f, "{error}"),
            Self::Clean(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start(error) => error.source(),
            Self::Config(error) => error.source(),
            Self::Setup(error) => error.source(),
            Self::Clean(error) => error.source(),
            Self::Print(source) | Self::PremiumToken(source) => Some(source),
            Self::Usage(_) | Self::Tls(_) => None,
        }
    }
}
