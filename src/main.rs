//! Image classification as a service on Kubernetes: HTTP in, tiered Kubernetes Jobs out.
//!
//! ARCHITECTURE.md follows a request through these modules.

mod api;
mod cli;
mod commands;
mod front;
mod job;
mod kube;
mod metrics;
mod queue;
mod server;
mod simulator;
mod state;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::commands::CommandError;
use crate::commands::output::one_line;

fn main() -> ExitCode {
    let env = |name: &str| std::env::var_os(name);
    let command = cli::parse(std::env::args_os().skip(1), &env).map_err(CommandError::Usage);
    match command.and_then(|command| commands::run(command, &env)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // The exit code still reports the error if stderr is closed.
            let _ = writeln!(io::stderr(), "img-classification: {}", one_line(&kube::chain(&error)));
            ExitCode::from(error.exit_code())
        }
    }
}
