//! The command line and the environment, read with clap.
//!
//! [`parse`] is pure: it takes the arguments and the environment as parameters.

mod args;
mod error;
mod generate;
mod options;
mod order;
mod values;
mod variables;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};

use args::{Cli, CliCommand, SetupArgs};
use variables::command;

pub use args::{Access, DEFAULT_IMAGE, JobsArgs, ServerArgs, SubmitArgs};
pub use error::UsageError;
pub use options::Options;
pub use values::shell_word;
pub use variables::{Env, renamed as renamed_variables};

/// A parsed command line.
#[derive(Debug)]
pub enum Command {
    /// Run the server.
    Serve(Box<Options>),
    /// Create or repair what the cluster needs.
    Setup { access: Access, print: bool, json: bool },
    /// Write the kubeconfig of an EKS cluster.
    EksKubeconfig { cluster: String, region: Option<String>, kubeconfig: Option<PathBuf>, json: bool },
    /// Check every step. `options` are those of `serve`, and `server` is the address of a running one without a trailing slash;
    /// the variables in `rejected` are invalid and count as unset.
    Doctor { options: Box<Options>, server: Option<String>, rejected: Vec<UsageError>, json: bool },
    /// Run `doctor` with these arguments in the environment of the systemd service.
    DoctorAsService { args: Vec<OsString> },
    /// Delete Jobs.
    Clean { access: Access, all: bool, yes: bool, timeout: Duration, json: bool },
    /// Test a server. `url` has no trailing slash.
    Selftest {
        url: String,
        ca: Option<PathBuf>,
        access: Access,
        token_file: Option<PathBuf>,
        clean_first: bool,
        clean_after: bool,
        timeout: Duration,
        json: bool,
    },
    /// Create a Job through a running server.
    Submit(Box<SubmitArgs>),
    /// Show the Jobs of a running server.
    Jobs(Box<JobsArgs>),
    /// Write these files, each a name and its content, into a folder.
    Generate { folder: PathBuf, files: Vec<(String, Vec<u8>)> },
    /// Print this text.
    Print(String),
}

/// Parses the command line without the program's name. A flag wins over its variable; an empty variable counts as unset.
///
/// # Errors
/// [`UsageError`], which names the flag or the variable.
pub fn parse(args: impl IntoIterator<Item = OsString>, env: Env<'_>) -> Result<Command, UsageError> {
    let args = order::command_first(args);
    let flags = match command().try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return Ok(Command::Print(error.to_string()));
        }
        Err(error) => return Err(UsageError::from_clap(&error, command_name(&args))),
    };
    match cli(&flags)?.command {
        Some(CliCommand::Doctor(doctor)) if doctor.as_service => {
            Ok(Command::DoctorAsService { args: without(&args[1..], &["--as-service"]) })
        }
        Some(CliCommand::Doctor(_)) => doctor(&args, env),
        _ => {
            let cli = with_variables(&args, &flags, env, &[])?;
            check_local(&flags, &cli)?;
            Ok(resolve(cli))
        }
    }
}

/// Refuses an option of the simulator on a command line without one. A variable without effect is none: an environment file may hold it.
///
/// # Errors
/// [`UsageError::MissingOption`]
fn check_local(flags: &ArgMatches, cli: &Cli) -> Result<(), UsageError> {
    let (flags, serve) = match (&cli.command, flags.subcommand_matches("serve")) {
        (None, _) => (flags, &cli.serve),
        (Some(CliCommand::Serve(serve)), Some(flags)) => (flags, &**serve),
        _ => return Ok(()),
    };
    let is_given = |id: &&str| flags.value_source(id) == Some(ValueSource::CommandLine);
    match ["local_job_seconds", "local_nodes", "local_kubeconfig"].into_iter().find(is_given) {
        Some(id) if !serve.local => {
            let option = format!("--{}", id.replace('_', "-"));
            Err(UsageError::MissingOption { option, needed: "--local" })
        }
        _ => Ok(()),
    }
}

/// Returns the command on the command line, which is `serve` if none is given.
fn command_name(args: &[OsString]) -> &str {
    let first = args.get(1).and_then(|arg| arg.to_str());
    first.filter(|name| command().find_subcommand(name).is_some()).unwrap_or("serve")
}

fn cli(matches: &ArgMatches) -> Result<Cli, UsageError> {
    let cli = Cli::from_arg_matches(matches).map_err(|error| UsageError::from_clap(&error, "serve"))?;
    let serve = match &cli.command {
        None => &cli.serve,
        Some(CliCommand::Serve(serve)) => serve,
        Some(_) => return Ok(cli),
    };
    if serve.local && serve.access.kubeconfig.is_some() {
        return Err(UsageError::Conflict("--local".into(), "--kubeconfig".into()));
    }
    if serve.local && serve.access.context.is_some() {
        return Err(UsageError::Conflict("--local".into(), "--context".into()));
    }
    Ok(cli)
}

/// Parses again with the variables as flags. Since the flags alone are valid, any error is that of a variable.
fn with_variables(
    args: &[OsString],
    flags: &ArgMatches,
    env: Env<'_>,
    rejected: &[UsageError],
) -> Result<Cli, UsageError> {
    let args = variables::insert(args, flags, env, rejected)?;
    let of_variable = |error: &clap::Error| UsageError::from_clap(error, command_name(&args)).of_variable();
    let matches = command().try_get_matches_from(&args).map_err(|error| of_variable(&error))?;
    Cli::from_arg_matches(&matches).map_err(|error| of_variable(&error))
}

/// Parses the command line of `doctor`, for its own options and for those that it shares with `serve`.
fn doctor(args: &[OsString], env: Env<'_>) -> Result<Command, UsageError> {
    let mut rejected = Vec::new();
    let Some(CliCommand::Doctor(doctor)) = with_valid_variables(args, env, &mut rejected)?.command else {
        unreachable!("the command is doctor")
    };
    let serve = resolve(with_valid_variables(&as_serve(args), env, &mut rejected)?);
    let Command::Serve(options) = serve else { unreachable!("the command is serve, not {serve:?}") };
    Ok(Command::Doctor { options, server: doctor.server, rejected, json: doctor.json })
}

/// The command line of `serve` with the same options as this one of `doctor`.
fn as_serve(args: &[OsString]) -> Vec<OsString> {
    let mut serve = vec![args[0].clone(), "serve".into()];
    let mut rest = without(&args[2..], &["--json"]).into_iter();
    while let Some(arg) = rest.next() {
        match arg.to_str() {
            Some("--server") => drop(rest.next()),
            Some(option) if option.starts_with("--server=") => {}
            _ => serve.push(arg),
        }
    }
    serve
}

fn without(args: &[OsString], switches: &[&str]) -> Vec<OsString> {
    args.iter().filter(|arg| !switches.iter().any(|switch| *arg == switch)).cloned().collect()
}

/// Parses `args` with the variables, except for the invalid ones, whose errors it adds to `rejected`.
fn with_valid_variables(args: &[OsString], env: Env<'_>, rejected: &mut Vec<UsageError>) -> Result<Cli, UsageError> {
    let flags = command().try_get_matches_from(args).map_err(|error| UsageError::from_clap(&error, "doctor"))?;
    loop {
        match with_variables(args, &flags, env, rejected) {
            Err(error @ UsageError::Value { .. }) if !rejected.contains(&error) => rejected.push(error),
            parsed => return parsed,
        }
    }
}

/// Turns a parsed command line into the command to run.
fn resolve(cli: Cli) -> Command {
    match cli.command {
        None => Command::Serve(Box::new(cli.serve.into())),
        Some(CliCommand::Serve(args)) => Command::Serve(Box::new((*args).into())),
        Some(CliCommand::Setup(SetupArgs { eks_kubeconfig: Some(cluster), region, access, output, .. })) => {
            Command::EksKubeconfig { cluster, region, kubeconfig: access.kubeconfig, json: output.json }
        }
        Some(CliCommand::Setup(args)) => {
            Command::Setup { access: args.access, print: args.print, json: args.output.json }
        }
        Some(CliCommand::Doctor(_)) => unreachable!("parse handles doctor"),
        Some(CliCommand::Clean(args)) => Command::Clean {
            access: args.access,
            all: args.all,
            yes: args.yes,
            timeout: args.wait.timeout,
            json: args.output.json,
        },
        Some(CliCommand::Selftest(args)) => Command::Selftest {
            url: args.url,
            ca: args.ca.ca,
            access: args.access,
            token_file: args.premium.premium_token_file,
            clean_first: args.clean_first,
            clean_after: args.clean_after,
            timeout: args.wait.timeout,
            json: args.output.json,
        },
        Some(CliCommand::Submit(args)) => Command::Submit(Box::new(args)),
        Some(CliCommand::Jobs(args)) => Command::Jobs(Box::new(args)),
        Some(CliCommand::Completion(args)) => Command::Print(generate::completion(args.shell)),
        Some(CliCommand::Version(args)) => Command::Print(version(args.output.json)),
        Some(CliCommand::Generate(args)) => Command::Generate { folder: args.folder, files: generate::files() },
    }
}

fn version(json: bool) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match json {
        true => format!("{{\"version\":\"{version}\"}}\n"),
        false => command().render_version(),
    }
}

#[cfg(test)]
mod tests;
