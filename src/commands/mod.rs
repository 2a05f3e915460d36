//! The commands, one file each, and their shared parts.

mod clean;
mod client;
mod doctor;
mod eks_kubeconfig;
mod error;
mod follow;
mod job_table;
mod jobs;
mod logging;
pub mod output;
mod scoped_client;
mod selftest;
mod serve;
mod server_client;
mod setup;
mod signals;
mod submit;
mod systemd;

use std::fs;

use crate::api::auth::Token;
use crate::cli::{Command, Env};

use clean::Scope;
use client::HttpClient;
use output::Printer;
use scoped_client::ScopedClient;

pub use error::CommandError;

/// Runs a command. Returns false if it failed and has reported that on stdout.
///
/// # Errors
/// [`CommandError`]
pub fn run(command: Command, env: Env<'_>) -> Result<bool, CommandError> {
    logging::init(&command);
    let result = run_command(command, env)?;
    output::stdout_error().map_or(Ok(result), |error| Err(CommandError::Print(error)))
}

fn run_command(command: Command, env: Env<'_>) -> Result<bool, CommandError> {
    let no_color = env("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = env("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    let printer = |topic_width, json| Printer::stdout(topic_width, json, no_color);
    match command {
        Command::Serve(options) => serve::run(&options, env).map(|()| true).map_err(CommandError::Start),
        Command::Setup { print: true, .. } => {
            output::print(&setup::yaml());
            Ok(true)
        }
        Command::Setup { access, print: false, json } => {
            let kube = ScopedClient::connect(&access, env)?;
            setup::run(&kube, printer(setup::TOPIC_WIDTH, json)).map(|()| true).map_err(CommandError::Setup)
        }
        Command::EksKubeconfig { cluster, region, kubeconfig, json } => {
            let printer = printer(eks_kubeconfig::TOPIC_WIDTH, json);
            let cluster = (&*cluster, region.as_deref());
            eks_kubeconfig::run(cluster, kubeconfig, env, printer).map(|()| true).map_err(CommandError::EksKubeconfig)
        }
        Command::Doctor { options, server, rejected, json } => {
            let report = doctor::Report::new(json, printer(doctor::TOPIC_WIDTH, false));
            Ok(doctor::run(&options, server.as_deref(), &rejected, env, report))
        }
        Command::DoctorAsService { args } => Ok(doctor::as_service(&args, env, printer(doctor::TOPIC_WIDTH, false))),
        Command::Clean { access, all, yes, timeout, json } => {
            let scope = if all { Scope::All { confirmed: yes } } else { Scope::Managed };
            let kube = ScopedClient::connect(&access, env)?;
            clean::run(&kube, printer(clean::TOPIC_WIDTH, json), scope, timeout).map_err(CommandError::Clean)
        }
        Command::Selftest { url, ca, access, token_file, clean_first, clean_after, timeout, json } => {
            let token = token_file.as_deref().map(Token::read).transpose().map_err(CommandError::PremiumToken)?;
            let http = HttpClient::new(&url, ca.as_deref()).map_err(CommandError::Ca)?;
            let is_cleaning = clean_first || clean_after;
            let kube = is_cleaning.then(|| ScopedClient::connect(&access, env)).transpose()?;
            let printer = printer(selftest::TOPIC_WIDTH, json);
            let clean = |is_wanted: bool| match kube.as_ref().filter(|_| is_wanted) {
                Some(kube) => clean::run(kube, printer, Scope::Managed, timeout).map_err(CommandError::Clean),
                None => Ok(true),
            };
            // --clean-after also removes the Jobs of a failed test.
            Ok(clean(clean_first)? && (selftest::run(http, token.as_ref(), printer, clean_after) & clean(clean_after)?))
        }
        Command::Submit(args) => submit::run(&args, is_dumb),
        Command::Jobs(args) => jobs::run(&args, is_dumb),
        Command::Generate { folder, files } => {
            for (name, content) in files {
                let path = folder.join(name);
                fs::write(&path, content).map_err(|source| CommandError::Generate { path, source })?;
            }
            Ok(true)
        }
        Command::Print(text) => {
            output::print(&text);
            Ok(true)
        }
    }
}
