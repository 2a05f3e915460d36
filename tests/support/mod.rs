//! Support code of the black-box tests: the built binary as a child process, an HTTP client, a scripted Kubernetes API
//! server, proxies, credential plugins and their files. Nothing here imports the program's source.
//!
//! Every wait ends at a condition, and panics with the last observation when its deadline passes.

pub mod api;
pub mod cluster;
pub mod http;
pub mod kubeconfig;
pub mod kubernetes;
pub mod metrics;
pub mod plugin;
pub mod process;
pub mod proxy;
pub mod response;
pub mod server;
pub mod tls;

use std::process::{Child, Command};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;

/// Longest time for any expected event on a busy machine of two cores.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A --kube-timeout in seconds beyond [`TIMEOUT`]: an error that waits for this deadline reaches no client of a test.
pub const LONG_KUBE_TIMEOUT: u32 = 60;

/// Interval between two checks of a condition that sends no notification (a file, another process).
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls a condition outside this process until it holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {TIMEOUT:?}");
        std::thread::park_timeout(POLL_INTERVAL);
    }
}

/// The signals that stop a child process; without SIGHUP if nohup started this process, because the child inherits
/// that.
pub fn ending_signals() -> Vec<Signal> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    let is_active = |signal: &Signal| ignored & (1 << (signal.as_raw() - 1)) == 0;
    [Signal::TERM, Signal::INT, Signal::HUP].into_iter().filter(is_active).collect()
}

/// Held for reading while a process starts, and for writing while a script is written. A child holds every open file of
/// this process until exec, and Linux refuses to execute a file that is open for writing (ETXTBSY).
static SCRIPTS: RwLock<()> = RwLock::new(());

/// Starts a process.
pub fn spawn(command: &mut Command) -> Child {
    let _guard = SCRIPTS.read().unwrap();
    command.spawn().unwrap()
}
