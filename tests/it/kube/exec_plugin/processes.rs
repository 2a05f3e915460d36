//! The plugin's process at a stop, what is left of it after a run, and the order of its log line.

use super::{print, started, with_user};
use crate::support::api::ApiServer;
use crate::support::eventually;
use crate::support::plugin::{Plugin, is_alive};
use crate::support::process::folder;
use crate::support::server::{Server, Setup};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Takes a lease on a file: an open by another process, as for its exec, hangs until this one ends or for 45 s.
const LEASE: &str = r#"
    $| = 1;
    open(my $file, '<', $ARGV[0]) or die;
    $SIG{IO} = sub { print "opened\n" };
    fcntl($file, 1024, 1) or die "no lease: $!";
    print "leased\n";
    sleep 60 while 1;
"#;

/// A process that holds a lease on a file.
struct Lease {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Lease {
    fn take(path: &Path) -> Lease {
        let mut perl = Command::new("perl");
        let mut child = crate::support::spawn(perl.args(["-e", LEASE]).arg(path).stdout(Stdio::piped()));
        let mut lease = Lease { lines: BufReader::new(child.stdout.take().unwrap()).lines(), child };
        assert_eq!(lease.line(), "leased");
        lease
    }

    /// Waits until another process hangs in an open of the file.
    fn wait_for_open(&mut self) {
        assert_eq!(self.line(), "opened");
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("perl has ended").unwrap()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process IDs of the server's children.
fn children(server: &Server) -> Vec<u32> {
    let tasks = fs::read_dir(format!("{}/task", folder(server))).unwrap();
    let lists = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

#[test]
fn sigterm_ends_the_server_and_the_plugin_while_its_exec_hangs() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let plugin = Plugin::write(setup.home(), "plugin", &print(&json!({"token": "abc"})));
    let mut lease = Lease::take(plugin.path());
    let mut server = with_user(setup, &api, plugin.user()).start();
    lease.wait_for_open();
    let pids = children(&server);
    assert_eq!(pids.len(), 1, "{pids:?}");
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
    eventually("the plugin's process is gone", || !is_alive(pids[0]));
    assert_eq!(plugin.runs(), 0);
}

#[test]
fn ctrl_c_ends_a_command_and_the_plugin_while_its_exec_hangs() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let plugin = Plugin::write(setup.home(), "plugin", &print(&json!({"token": "abc"})));
    let mut lease = Lease::take(plugin.path());
    let kubeconfig = crate::support::kubeconfig::Kubeconfig::new(&api.url()).user(plugin.user());
    let path = setup.file("kubeconfig", kubeconfig.yaml());
    let mut command = Command::new(env!("CARGO_BIN_EXE_img-classification"));
    command.args(["setup", "--kubeconfig"]).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = crate::support::spawn(&mut command);
    lease.wait_for_open();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    eventually("the command ends before the lease", || child.try_wait().unwrap().is_some());
    // It ends by the signal, or before that by the failure of its plugin.
    assert!(!child.wait().unwrap().success());
    assert_eq!(plugin.runs(), 0);
}

#[test]
fn child_that_keeps_the_output_open_costs_no_descriptor_and_no_thread() {
    // A session of its own: the kill of the plugin's group does not end it.
    let body = format!("setsid sleep 200 &\necho $! >>\"$HERE/plugin.pids\"\n{}", print(&json!({"token": "abc"})));
    let (_api, server, plugin) = started(&body);
    super::check_post(&server);
    let sleep = plugin.pids()[1];
    let pipes = [1, 2].map(|fd| fs::read_link(format!("/proc/{sleep}/fd/{fd}")).unwrap());
    let held = || fs::read_dir(format!("{}/fd", folder(&server))).unwrap().map(|entry| entry.unwrap().path());
    let is_held = |pipe: &PathBuf| held().any(|fd| fs::read_link(fd).ok().as_ref() == Some(pipe));
    let threads = format!("{}/task", folder(&server));
    let is_reader = |task: PathBuf| fs::read_to_string(task.join("comm")).unwrap_or_default().starts_with("plugin");
    let readers = || fs::read_dir(&threads).unwrap().filter(|task| is_reader(task.as_ref().unwrap().path())).count();
    let is_clean = || !pipes.iter().any(is_held) && readers() == 0;
    let cleaned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| eventually("nothing is left", is_clean)));
    assert!(is_alive(sleep), "the child should hold the pipes");
    kill_process(Pid::from_raw(i32::try_from(sleep).unwrap()).unwrap(), Signal::KILL).unwrap();
    cleaned.unwrap();
}

#[test]
fn failure_is_logged_before_the_requests_that_waited_for_it() {
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // The plugin ends when a request waits for it.
                let (_api, server, plugin) = started("while ! [ -e \"$HERE/go\" ]; do sleep 0.01; done\nexit 7");
                eventually("the plugin runs", || plugin.runs() >= 1);
                std::thread::scope(|scope| {
                    let post = scope.spawn(|| server.post_job());
                    fs::write(server.home().join("go"), "").unwrap();
                    assert_eq!(post.join().unwrap().status, 502);
                });
                server.wait_for_log("of the POST", |line| line.starts_with("POST "));
                let log = server.stderr();
                let place = |start: &str| log.lines().position(|line| line.starts_with(start));
                assert!(place("warning: the credential plugin").unwrap() < place("POST ").unwrap(), "{log}");
            });
        }
    });
}
