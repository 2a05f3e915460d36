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

pub use args::{Access, DEFAULT_IMAGE};
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
    /// Check every step. `options` are those of `serve`, and `server` is the address of a running one without a trailing slash;
    /// the variables in `rejected` are invalid and count as unset.
    Doctor { options: Box<Options>, server: Option<String>, rejected: Vec<UsageError>, json: bool },
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
        Some(CliCommand::Doctor(_)) => doctor(&args, env),
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
