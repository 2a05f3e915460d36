//! setup, clean and selftest where something is wrong: with the cluster, with the server that is asked, with the command
//! line. What they do where all is well is shown by tests/cluster.

mod all_commands;
mod clean;
mod cli;
mod doctor;
mod selftest;
mod setup;
mod systemd;

use crate::support::api::ApiServer;
use crate::support::server::{Finished, Setup};

/// Runs a command for this API server.
fn run(api: &ApiServer, args: &[&str]) -> Finished {
    Setup::for_api(api).run(args)
}

/// The last line on stderr, of a command that failed with 1.
fn failure(end: &Finished) -> &str {
    assert_eq!(end.code, Some(1), "{end:?}");
    end.stderr.lines().last().unwrap_or_else(|| panic!("nothing on stderr: {end:?}"))
}
