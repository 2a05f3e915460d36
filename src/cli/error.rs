//! Usage errors: an error of clap as one line that names the option and the fix.

use std::error::Error;
use std::fmt;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::args::{self, Cli};

/// An invalid command line or variable.
#[derive(Debug, PartialEq, Eq)]
pub enum UsageError {
    /// A command that does not exist, and the nearest one that does.
    UnknownCommand { name: String, nearest: Option<String> },
    /// An option that does not exist, and the nearest one that does.
    UnknownOption { command: String, option: String, nearest: Option<String> },
    /// An option of another command.
    ForeignOption { command: String, option: String },
    /// An argument that the command does not take.
    UnexpectedArgument { command: String, argument: String },
    /// An argument that the command needs.
    MissingArgument { command: String, argument: String },
    /// An option without its value; `value` is the value's name, such as PATH.
    MissingValue { option: String, value: String },
    /// A switch with a value.
    UnexpectedValue { option: String },
    /// Options that cannot be used together.
    Conflict(String, String),
    /// An option without another one that it needs.
    MissingOption { option: String, needed: &'static str },
    /// A value that the option does not take; `given` is the flag, the argument or the variable.
    Value { given: String, value: String, wanted: String },
    /// Any other error, in clap's words.
    Other(String),
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownCommand { name, nearest: Some(nearest) } => {
                write!(f, "unknown command {name:?}; did you mean {nearest}?")
            }
            Self::UnknownCommand { name, nearest: None } => {
                write!(f, "unknown command {name:?}; see img-classification --help")
            }
            Self::UnknownOption { option, nearest: Some(nearest), .. } => {
                write!(f, "unknown option {option}; did you mean {nearest}?")
            }
            Self::UnknownOption { command, option, nearest: None } => {
                write!(f, "unknown option {option}; see img-classification {command} --help")
            }
            Self::ForeignOption { command, option } => {
                write!(f, "{command} does not take {option}; see img-classification {command} --help")
            }
            Self::UnexpectedArgument { command, argument } => {
                write!(f, "unexpected argument {argument:?}; see img-classification {command} --help")
            }
            Self::MissingArgument { command, argument } => {
                write!(f, "{command} needs {argument}: img-classification {command} {}", positionals(command))
            }
            Self::MissingValue { option, value } => write!(f, "{option} needs a value: {option} {value}"),
            Self::UnexpectedValue { option } => write!(f, "{option} takes no value"),
            Self::Conflict(one, other) => write!(f, "{one} and {other} cannot be used together; leave one out"),
            Self::MissingOption { option, needed } => {
                write!(f, "{option} needs {needed}; add it, or leave {option} out")
            }
            Self::Value { given, value, wanted } => write!(f, "{given} is {value:?}, but must be {wanted}"),
            Self::Other(text) => write!(f, "{text}; see img-classification --help"),
        }
    }
}

impl Error for UsageError {}

impl UsageError {
    /// Tests for an error about the value of this variable.
    pub fn names(&self, variable: &str) -> bool {
        matches!(self, Self::Value { given, .. } if given == variable)
    }

    /// Translates an error of clap. `command` is the name of the command on the command line.
    pub(super) fn from_clap(error: &clap::Error, command: &str) -> Self {
        let command = command.to_owned();
        let argument = text(error, ContextKind::InvalidArg);
        match error.kind() {
            ErrorKind::InvalidSubcommand => Self::UnknownCommand {
                name: text(error, ContextKind::InvalidSubcommand),
                nearest: suggestion(error, ContextKind::SuggestedSubcommand),
            },
            ErrorKind::UnknownArgument if !argument.starts_with('-') => Self::UnexpectedArgument { command, argument },
            ErrorKind::UnknownArgument if is_known(&argument) => Self::ForeignOption { command, option: argument },
            ErrorKind::UnknownArgument => {
                let nearest = renamed(&argument).or_else(|| suggestion(error, ContextKind::SuggestedArg));
                Self::UnknownOption { command, option: argument, nearest }
            }
            ErrorKind::MissingRequiredArgument => Self::MissingArgument { command, argument: unbracketed(&argument) },
            ErrorKind::TooManyValues => Self::UnexpectedValue { option: argument },
            ErrorKind::ArgumentConflict => Self::Conflict(name(&argument), name(&text(error, ContextKind::PriorArg))),
            ErrorKind::InvalidValue | ErrorKind::ValueValidation => value_error(error, &argument),
            _ => Self::Other(first_line(error)),
        }
    }

    /// Names the variable instead of the flag that it stands for.
    pub(super) fn of_variable(self) -> Self {
        match self {
            Self::Value { given, value, wanted } => {
                let name = given.strip_prefix("--").and_then(args::variable);
                Self::Value { given: name.map_or(given, str::to_owned), value, wanted }
            }
            other => other,
        }
    }
}

fn value_error(error: &clap::Error, argument: &str) -> UsageError {
    let value = text(error, ContextKind::InvalidValue);
    let (option, name) = argument.split_once(' ').unwrap_or((argument, ""));
    let wanted = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(wanted), _) => wanted.to_string(),
        (None, Some(ContextValue::Strings(names))) if !value.is_empty() => names.join(" or "),
        (None, _) => return UsageError::MissingValue { option: option.to_owned(), value: unbracketed(name) },
    };
    let given = if option.starts_with('-') { option.to_owned() } else { format!("the {}", unbracketed(option)) };
    UsageError::Value { given, value, wanted }
}

/// Returns the names of the arguments of a command, such as `TIER DATASET`.
fn positionals(command: &str) -> String {
    let root = Cli::command();
    let arguments = root.find_subcommand(command).into_iter().flat_map(clap::Command::get_positionals);
    arguments.map(|argument| argument.get_id().as_str().to_uppercase()).collect::<Vec<_>>().join(" ")
}

/// Tests for an option of any command.
fn is_known(option: &str) -> bool {
    option.strip_prefix("--").is_some_and(|long| args::option(&Cli::command(), long).is_some())
}

/// Returns the present name of an option of an earlier build.
fn renamed(option: &str) -> Option<String> {
    args::RENAMED.iter().find(|(old, _)| *old == option).map(|(_, new)| (*new).to_owned())
}

/// Returns the nearest name; clap sorts it last.
fn suggestion(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.last().cloned(),
        _ => None,
    }
}

fn text(error: &clap::Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.first().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

fn unbracketed(usage: &str) -> String {
    usage.replace(['<', '>', '[', ']'], "")
}

/// Returns the name of an option or an argument without its value.
fn name(argument: &str) -> String {
    unbracketed(argument.split_once(' ').map_or(argument, |(name, _)| name))
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}
