//! The commands, one file each, and their shared parts.

mod clean;
mod client;
mod doctor;
mod error;
mod logging;
pub mod output;
mod scoped_client;
mod selftest;
mod serve;
mod setup;
mod signals;
mod systemd;

use std::io::{self, Write};

use crate::api::auth;
use crate::cli::{Command, Env};

use clean::Scope;
use output::Printer;
use scoped_client::ScopedClient;

pub use error::CommandError;

/// Runs a command. Returns false if it failed and has reported that on stdout.
///
/// # Errors
/// [`CommandError`]
pub fn run(command: Command, env: Env<'_>) -> Result<bool, CommandError> {
    logging::init(&command);
    let no_color = env("NO_COLOR").is_some_and(|value| !value.is_empty());
    let printer = |topic_width| Printer::stdout(topic_width, no_color);
    match command {
        Command::Serve(options) => serve::run(&options, env).map(|()| true).map_err(CommandError::Start),
        Command::Setup { print: true, .. } => print(&setup::yaml()),
        Command::Setup { access, print: false } => {
            let kube = ScopedClient::connect(&access, env)?;
            setup::run(&kube, printer(setup::TOPIC_WIDTH)).map(|()| true).map_err(CommandError::Setup)
        }
        Command::Doctor { options, server, rejected, json } => {
            let report = doctor::Report::new(json, printer(doctor::TOPIC_WIDTH));
            Ok(doctor::run(&options, server.as_deref(), &rejected, env, report))
        }
        Command::DoctorAsService { args } => Ok(doctor::as_service(&args, env, printer(doctor::TOPIC_WIDTH))),
        Command::Clean { access, all, yes, timeout } => {
            let scope = if all { Scope::All { confirmed: yes } } else { Scope::Managed };
            let kube = ScopedClient::connect(&access, env)?;
            clean::run(&kube, printer(clean::TOPIC_WIDTH), scope, timeout).map_err(CommandError::Clean)
        }
        Command::Selftest { url, access, token_file, clean_first, clean_after, timeout } => {
            let token = token_file.as_deref().map(auth::Token::read).transpose().map_err(CommandError::PremiumToken)?;
            let is_cleaning = clean_first || clean_after;
            let kube = is_cleaning.then(|| ScopedClient::connect(&access, env)).transpose()?;
            let printer = printer(selftest::TOPIC_WIDTH);
            let clean = |is_wanted: bool| match kube.as_ref().filter(|_| is_wanted) {
                Some(kube) => clean::run(kube, printer, Scope::Managed, timeout).map_err(CommandError::Clean),
                None => Ok(true),
            };
            // --clean-after also removes the Jobs of a failed test.
            Ok(clean(clean_first)? && (selftest::run(&url, token.as_ref(), printer) & clean(clean_after)?))
        }
        Command::Print(text) => print(&text),
    }
}

fn print(text: &str) -> Result<bool, CommandError> {
    match io::stdout().write_all(text.as_bytes()) {
        // The reader, such as head(1), has closed the pipe on purpose.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(CommandError::Print(error)),
        _ => Ok(true),
    }
}
