//! The order of the arguments: clap accepts a command's options only after it; users also write them before it.

use std::ffi::OsString;
use std::iter;

use clap::CommandFactory;

use super::args::{self, Cli};

/// Returns the program's name and `args` with the command in front. The command is the first word that is neither an option nor
/// an option's value.
///
/// --help and --version replace all other options, so that no error hides their text; `help` counts as --help. The search ends
/// at `--`, and at an unknown option, which clap reports.
pub fn command_first(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let root = Cli::command();
    let (mut command, mut print, mut rest) = (None, None, Vec::new());
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        match text.as_str() {
            "-h" | "--help" => print = print.or(Some("--help")),
            "help" if command.is_none() => print = print.or(Some("--help")),
            "-V" | "--version" => print = print.or(Some("--version")),
            option if option.starts_with('-') => {
                rest.push(arg);
                match has_separate_value(&root, option) {
                    Some(true) => rest.extend(args.next()),
                    Some(false) => {}
                    None => rest.extend(args.by_ref()),
                }
            }
            _ if command.is_none() => command = Some(arg),
            _ => rest.push(arg),
        }
    }
    let command = command.filter(|_| print != Some("--version"));
    let rest = print.map_or(rest, |option| vec![option.into()]);
    iter::once("img-classification".into()).chain(command).chain(rest).collect()
}

/// Tests for an option whose value is the next argument. Returns `None` if there is no such option.
fn has_separate_value(root: &clap::Command, option: &str) -> Option<bool> {
    let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
    let option = args::option(root, name.strip_prefix("--")?)?;
    Some(option.get_action().takes_values() && value.is_none())
}
