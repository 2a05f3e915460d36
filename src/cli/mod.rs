//! The command line and the environment, read with clap.
//!
//! [`parse`] is pure: it takes the arguments and the environment as parameters.

mod args;
mod error;
mod options;
mod order;
mod values;
mod variables;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgMatches, FromArgMatches};

use args::{Cli, CliCommand};
use variables::command;

pub use args::Access;
pub use error::UsageError;
pub use options::Options;
pub use variables::{Env, renamed as renamed_variables};

/// A parsed command line.
#[derive(Debug)]
pub enum Command {
    /// Run the server.
    Serve(Box<Options>),
    /// Create or repair what the cluster needs.
    Setup { access: Access, print: bool },
    /// Check every step. `options` are those of `serve`; the variables in `rejected` are invalid and count as unset.
    Doctor { options: Box<Options>, rejected: Vec<UsageError>, json: bool },
    /// Run `doctor` with these arguments in the environment of the systemd service.
    DoctorAsService { args: Vec<OsString> },
    /// Delete Jobs.
    Clean { access: Access, all: bool, yes: bool, timeout: Duration },
    /// Test a server. `url` has no trailing slash.
    Selftest {
        url: String,
        access: Access,
        token_file: Option<PathBuf>,
        clean_first: bool,
        clean_after: bool,
        timeout: Duration,
    },
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
        _ => Ok(resolve(with_variables(&args, &flags, env, &[])?)),
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
        return Err(UsageError::Conflict("--local", "--kubeconfig"));
    }
    if serve.local && serve.access.context.is_some() {
        return Err(UsageError::Conflict("--local", "--context"));
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
        Some(CliCommand::Setup(args)) => Command::Setup { access: args.access, print: args.print },
        Some(CliCommand::Doctor(_)) => unreachable!("parse handles doctor"),
        Some(CliCommand::Clean(args)) => {
            Command::Clean { access: args.access, all: args.all, yes: args.yes, timeout: args.wait.timeout }
        }
        Some(CliCommand::Selftest(args)) => Command::Selftest {
            url: args.url,
            access: args.access,
            token_file: args.premium.premium_token_file,
            clean_first: args.clean_first,
            clean_after: args.clean_after,
            timeout: args.wait.timeout,
        },
    }
}

#[cfg(test)]
mod tests;
