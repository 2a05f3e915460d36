//! Tests of the commands. The error cases of setup, clean and selftest run against scripted servers; tests/cluster runs
//! them against real clusters.

mod all_commands;
mod clean;
mod cli;
mod doctor;
mod jobs;
mod selftest;
mod setup;
mod submit;
mod systemd;

use crate::support::api::ApiServer;
use crate::support::server::{Finished, Setup};

/// Runs a command against this API server.
fn run(api: &ApiServer, args: &[&str]) -> Finished {
    Setup::for_api(api).run(args)
}

/// The last line on stderr of a command that failed with exit code 1.
fn failure(end: &Finished) -> &str {
    assert_eq!(end.code, Some(1), "{end:?}");
    end.stderr.lines().last().unwrap_or_else(|| panic!("nothing on stderr: {end:?}"))
}
