//! The logger: one line per message on stderr.

use std::io::Write;

use log::{Level, LevelFilter};

use super::output::one_line;
use crate::cli::Command;

/// Logs to stderr from here on, at the levels that `command` needs. A panic becomes a log line.
///
/// A line has no time, since journald adds it. No message can start a line of its own.
pub fn init(command: &Command) {
    let (level, kube_level) = levels(command);
    env_logger::Builder::new()
        // Below a warning, libraries log their own internals.
        .filter_level(level.min(LevelFilter::Warn))
        .filter_module(env!("CARGO_CRATE_NAME"), level)
        .filter_module(concat!(env!("CARGO_CRATE_NAME"), "::kube"), kube_level)
        .format(|out, record| {
            let prefix = match record.level() {
                Level::Error => "error: ",
                Level::Warn => "warning: ",
                Level::Info => "",
                Level::Debug | Level::Trace => "debug: ",
            };
            writeln!(out, "{prefix}{}", one_line(&record.args().to_string()))
        })
        .init();
    std::panic::set_hook(Box::new(|panic| log::error!("bug: {panic}")));
}

/// Returns the levels of the program and of its Kubernetes client. The commands other than `serve` report the client's
/// errors in their own lines.
fn levels(command: &Command) -> (LevelFilter, LevelFilter) {
    match command {
        Command::Serve(options) => (options.log_level, options.log_level),
        _ => (LevelFilter::Warn, LevelFilter::Off),
    }
}
