//! What the black-box tests share: the built binary as a child process, an HTTP client of their own, a scripted
//! Kubernetes API server, proxies, credential plugins and the files they need. Nothing here knows the program's source.
//!
//! Nothing waits blindly: every wait ends at a condition, and panics with what was seen when its deadline passes.

pub mod api;
pub mod cluster;
pub mod http;
pub mod kubeconfig;
pub mod kubernetes;
pub mod plugin;
pub mod proxy;
pub mod response;
pub mod server;
pub mod tls;

use std::process::{Child, Command};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use rustix::process::Signal;

/// How long anything that ought to happen may take on a busy machine of two cores.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Time between two looks at a condition that nothing announces (a file, a process of somebody else's).
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits for a condition outside this process, which can only be looked at again and again.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {TIMEOUT:?}");
        std::thread::park_timeout(POLL_INTERVAL);
    }
}

/// The signals that are to end a process which we start: without SIGHUP where we were started by nohup, and it is, too.
pub fn ending_signals() -> Vec<Signal> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    let heard = |signal: &Signal| ignored & (1 << (signal.as_raw() - 1)) == 0;
    [Signal::TERM, Signal::INT, Signal::HUP].into_iter().filter(heard).collect()
}

/// Held for reading while a process is started, and for writing while a script is written: a child has every open file of
/// ours until it becomes its program, and Linux executes no file that somebody has open for writing.
static SCRIPTS: RwLock<()> = RwLock::new(());

/// Starts a process.
pub fn spawn(command: &mut Command) -> Child {
    let _guard = SCRIPTS.read().unwrap();
    command.spawn().unwrap()
}
