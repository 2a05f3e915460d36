//! The environment variables of options. A variable becomes the flag that it stands for unless that flag is given.
//!
//! clap's own support reads the process's environment, accepts empty variables and cannot ignore an invalid one.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};

use super::args::{Cli, RENAMED, variable};
use super::error::UsageError;
use super::values;

/// The process's environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The last lines of each help text.
const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage; submit also 124 after --timeout.\n\
                          A flag wins over its variable; an empty variable counts as unset.";

/// Returns the parser, with the variables in its help.
pub fn command() -> clap::Command {
    document(Cli::command())
}

/// Adds the variables to the help of `command` and its subcommands, and lets values begin with a hyphen: `--job-ttl -1` is a
/// bad value and not an unknown option.
fn document(command: clap::Command) -> clap::Command {
    let document_arg = |arg: clap::Arg| {
        let Some(long) = arg.get_long() else { return arg };
        let takes_value = arg.get_action().takes_values();
        let help = match variable(long) {
            Some(name) => {
                let value = if takes_value { "" } else { "=1" };
                format!("{} [env: {name}{value}]", arg.get_help().cloned().unwrap_or_default())
            }
            None => arg.get_help().cloned().unwrap_or_default().to_string(),
        };
        if takes_value { arg.help(help).allow_hyphen_values(true) } else { arg.help(help) }
    };
    command.after_help(EXIT_CODES).mut_args(document_arg).mut_subcommands(document)
}

/// Returns the variables that are set by an old name and so have no effect, each with its present name.
pub fn renamed(env: Env<'_>) -> impl Iterator<Item = (&'static str, &'static str)> {
    RENAMED.into_iter().filter(move |(old, _)| env(old).is_some_and(|value| !value.is_empty()))
}

/// Returns `args` with the variables of its command, without those in `rejected`, as flags behind the command's name. `args`
/// begins with the program's name and has been parsed to `matches`.
///
/// # Errors
/// [`UsageError::Value`] if a switch's variable is neither 1 nor 0.
pub fn insert(
    args: &[OsString],
    matches: &ArgMatches,
    env: Env<'_>,
    rejected: &[UsageError],
) -> Result<Vec<OsString>, UsageError> {
    let root = command();
    let (command, matches, position) = match matches.subcommand() {
        Some((name, matches)) => (root.find_subcommand(name).expect("clap has matched it"), matches, 2),
        None => (&root, matches, 1),
    };
    let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let mut flags = Vec::new();
    for arg in command.get_arguments().filter(|arg| !is_given(arg.get_id().as_str())) {
        let Some((long, name)) = arg.get_long().and_then(|long| Some((long, variable(long)?))) else { continue };
        // kube::Cluster reads KUBECONFIG, which is a list. A cluster on the command line wins over LOCAL.
        if long == "kubeconfig" || long == "local" && (is_given("kubeconfig") || is_given("context")) {
            continue;
        }
        let value = env(name).filter(|value| !value.is_empty() && !rejected.iter().any(|error| error.names(name)));
        let Some(value) = value else { continue };
        if arg.get_action().takes_values() {
            let mut flag = OsString::from(format!("--{long}="));
            flag.push(value);
            flags.push(flag);
        } else if switch(name, &value)? {
            flags.push(format!("--{long}").into());
        }
    }
    Ok([&args[..position], &flags, &args[position..]].concat())
}

fn switch(name: &str, value: &OsString) -> Result<bool, UsageError> {
    let text = value.to_string_lossy();
    values::switch(&text).map_err(|wanted| UsageError::Value {
        given: name.to_owned(),
        value: text.clone().into_owned(),
        wanted: wanted.to_owned(),
    })
}
