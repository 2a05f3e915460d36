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

use args::{Cli, CliCommand};
use variables::command;

pub use args::{Access, JobsArgs, ServerArgs, SubmitArgs};
pub use error::UsageError;
pub use options::Options;
pub use variables::{Env, renamed as renamed_variables};

/// A parsed command line.
#[derive(Debug)]
pub enum Command {
    /// Run the server.
    Serve(Box<Options>),
    /// Create or repair what the cluster needs.
    Setup { access: Access, print: bool, json: bool },
    /// Check every step. `options` are those of `serve`; the variables in `rejected` are invalid and count as unset.
    Doctor { options: Box<Options>, rejected: Vec<UsageError>, json: bool },
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
        Some(CliCommand::Doctor(doctor)) => {
            let (options, rejected) = valid_options(&as_serve(&args), env)?;
            Ok(Command::Doctor { options: Box::new(options), rejected, json: doctor.json })
        }
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

/// The command line of `serve` with the same options as this one of `doctor`.
fn as_serve(args: &[OsString]) -> Vec<OsString> {
    let mut args = without(args, &["--json"]);
    args[1] = "serve".into();
    args
}

fn without(args: &[OsString], switches: &[&str]) -> Vec<OsString> {
    args.iter().filter(|arg| !switches.iter().any(|switch| *arg == switch)).cloned().collect()
}

/// Returns the options of `serve` without the invalid variables, and the errors of those.
fn valid_options(args: &[OsString], env: Env<'_>) -> Result<(Options, Vec<UsageError>), UsageError> {
    let flags = command().try_get_matches_from(args).map_err(|error| UsageError::from_clap(&error, "doctor"))?;
    let mut rejected = Vec::new();
    loop {
        match with_variables(args, &flags, env, &rejected) {
            Ok(cli) => match resolve(cli) {
                Command::Serve(options) => return Ok((*options, rejected)),
                other => unreachable!("the command is serve, not {other:?}"),
            },
            Err(error @ UsageError::Value { .. }) if !rejected.contains(&error) => rejected.push(error),
            Err(error) => return Err(error),
        }
    }
}

/// Turns a parsed command line into the command to run.
fn resolve(cli: Cli) -> Command {
    match cli.command {
        None => Command::Serve(Box::new(cli.serve.into())),
        Some(CliCommand::Serve(args)) => Command::Serve(Box::new((*args).into())),
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
        false => format!("img-classification {version}\n"),
    }
}

#[cfg(test)]
mod tests;
