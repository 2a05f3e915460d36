//! Errors, help and interruption common to `setup`, `clean` and `selftest`.

use super::failure;
use crate::support::api::{ApiServer, Listen};
use crate::support::kubeconfig::Kubeconfig;
use crate::support::plugin::{Plugin, is_alive};
use crate::support::response::{ApiResponse, Behavior};
use crate::support::server::{KUBECONFIG, Setup};
use crate::support::{LONG_KUBE_TIMEOUT, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

/// The commands that need a cluster.
const COMMANDS: [&[&str]; 3] =
    [&["setup"], &["clean"], &["selftest", "http://127.0.0.1:9", "--clean-first", "--timeout", "5"]];

#[test]
fn unreachable_cluster_is_one_line_with_the_reason() {
    // An address that no other test binds, so that no process takes the port meanwhile.
    let mut gone = ApiServer::listen(&Listen { ip: "127.0.0.2", ..Listen::default() });
    gone.close_port();
    let refused = ApiServer::start();
    refused.always(ApiResponse::failure(401, "Unauthorized", "Unauthorized"));
    let html = ApiServer::start();
    html.always(ApiResponse::html(200));
    let forbidden = ApiServer::start();
    let message = r#"x is forbidden: User "ann" cannot get resource "x" in API group "" at the cluster scope"#;
    forbidden.always(ApiResponse::failure(403, "Forbidden", message));
    let hung = ApiServer::start();
    hung.always(Behavior::Hang);
    for args in COMMANDS {
        for (api, kube_timeout, words) in [
            (&gone, 1, "cannot reach https://"),
            (&refused, LONG_KUBE_TIMEOUT, "returned 401 Unauthorized"),
            (&html, LONG_KUBE_TIMEOUT, "expected a response from the Kubernetes API"),
            (&forbidden, LONG_KUBE_TIMEOUT, "use an administrator's kubeconfig"),
            (&hung, 1, "timed out"),
        ] {
            let end = Setup::for_api(api).args(&["--kube-timeout", &kube_timeout.to_string()]).run(args);
            let line = failure(&end);
            assert!(line.starts_with("img-classification: ") && line.contains(words), "{args:?}: {line}");
            assert_eq!(end.stdout, "", "{args:?}");
        }
    }
}

#[test]
fn usage_error_names_the_command_and_exits_with_2() {
    for (args, words) in [
        (&["selftest"][..], "selftest needs URL"),
        (&["selftest", "a", "b"], "unexpected argument \"b\""),
        (&["setup", "now"], "unexpected argument \"now\""),
        (&["clean", "--listen", "x:1"], "clean does not take --listen"),
        (&["--print"], "serve does not take --print"),
        (&["clean", "--timeout", "0"], "--timeout is \"0\""),
        (&["setup", "--print=yes"], "--print"),
        (&["serve", "--local", "--kubeconfig", "x"], "--local and --kubeconfig cannot be used together"),
        (&["--local", "--local-nodes", "0"], "--local-nodes is \"0\""),
        (&["--local-nodes", "3"], "--local-nodes needs --local; add it, or leave --local-nodes out"),
        (&["--local-kubeconfig", "x"], "--local-kubeconfig needs --local"),
        (&["serve", "--local-job-seconds=3"], "--local-job-seconds needs --local"),
        (&["submit", "free"], "submit needs DATASET: img-classification submit TIER DATASET"),
        (&["submit", "gold", "mnist"], "the TIER is \"gold\", but must be free or premium"),
        (&["submit", "free", "mnist", "--timeout", "0"], "--timeout is \"0\""),
        (
            &["submit", "free", "mnist", "--server", "ftp://a"],
            "--server is \"ftp://a\", but must be http://HOST:PORT or",
        ),
        (&["doctor", "--server", "--json"], "--server is \"--json\", but must be http://HOST:PORT"),
        (&["jobs", "--logs"], "jobs needs NAME"),
        (&["jobs", "free-mnist-a", "--tier", "free"], "NAME and --tier cannot be used together"),
        (&["jobs", "../config"], "the NAME is \"../config\", but must be the name of a Job"),
        (&["completion", "tcsh"], "the SHELL is \"tcsh\", but must be bash or zsh or fish"),
        (&["completion"], "completion needs SHELL"),
        (&["sumbit", "free", "mnist"], "unknown command \"sumbit\"; did you mean submit?"),
        (&["--local", "--local-job-seconds", "0.5"], "--local-job-seconds is \"0.5\""),
    ] {
        let end = Setup::new().run(args);
        assert_eq!((end.code, end.stdout.as_str()), (Some(2), ""), "{args:?}: {end:?}");
        assert!(end.stderr.contains(words) && end.stderr.lines().count() == 1, "{args:?}: {}", end.stderr);
    }
    let end = Setup::new().env("LOCAL", "perhaps").run(&["serve"]);
    assert!(end.code == Some(2) && end.stderr.contains("LOCAL is \"perhaps\", but must be 1 or 0"), "{end:?}");
}

#[test]
fn setup_and_clean_print_one_json_object_a_line() {
    let server = Setup::local().args(&["--image", "x:long"]).start();
    let line = server.wait_for_log("with the kubeconfig", |line| line.starts_with(KUBECONFIG));
    assert_eq!(server.post_job().status, 200);
    let run = |args: &[&str]| -> Vec<Value> {
        let end = Setup::new().env("KUBECONFIG", &line[KUBECONFIG.len()..]).run(args);
        assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
        end.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let setup = run(&["setup", "--json"]);
    let namespace = json!({"check": "namespace free-service", "fix": null, "result": "ok", "text": "unchanged"});
    assert_eq!((&setup[0], setup.last()), (&namespace, Some(&json!({"changed": 0}))));
    let clean = run(&["clean", "--json"]);
    assert!(clean[0]["check"] == "free-service" && clean.last() == Some(&json!({"ready": true})), "{clean:?}");
}

#[test]
fn every_command_has_its_own_help() {
    for (command, option) in [
        ("setup", "--print"),
        ("doctor", "--as-service"),
        ("clean", "--all"),
        ("selftest", "URL"),
        ("submit", "--idempotency-key"),
        ("jobs", "--watch"),
        ("completion", "zsh"),
        ("version", "--json"),
    ] {
        let end = Setup::new().run(&[command, "--help"]);
        assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
        assert!(end.stdout.contains(&format!("Usage: img-classification {command}")), "{}", end.stdout);
        assert!(end.stdout.contains(option) && !end.stdout.contains("--posts-per-minute"), "{}", end.stdout);
    }
}

#[test]
fn interrupted_command_kills_its_credential_plugin() {
    let api = ApiServer::start();
    for signal in crate::support::ending_signals() {
        for args in [&["doctor"][..], &["setup"], &["clean"]] {
            let folder = tempfile::TempDir::new().unwrap();
            // Two processes: the plugin and its child.
            let plugin = Plugin::write(folder.path(), "plugin", "sleep 600 & echo $! >>\"$HERE/plugin.pids\"\nwait");
            let kubeconfig = folder.path().join("kubeconfig");
            std::fs::write(&kubeconfig, Kubeconfig::new(&api.url()).user(plugin.user()).yaml()).unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_img-classification"));
            command.args(args).arg("--kubeconfig").arg(&kubeconfig).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = crate::support::spawn(&mut command);
            eventually("the plugin runs", || plugin.pids().len() == 2);
            kill_process(Pid::from_child(&child), signal).unwrap();
            assert_eq!(child.wait().unwrap().signal(), Some(signal.as_raw()), "{args:?}");
            eventually("the plugin has ended", || !plugin.pids().into_iter().any(is_alive));
        }
    }
    let folder = tempfile::TempDir::new().unwrap();
    let plugin = Plugin::write(folder.path(), "slow", "sleep 600 & echo $! >>\"$HERE/slow.pids\"\nwait");
    let end = Setup::new()
        .kubeconfig(Kubeconfig::new(&api.url()).user(plugin.user()).yaml())
        .args(&["--kube-timeout", "1"])
        .run(&["setup"]);
    assert_eq!(end.code, Some(1), "{end:?}");
    eventually("the interrupted command kills the plugin", || !plugin.pids().into_iter().any(is_alive));
}

#[test]
fn nohup_command_survives_the_end_of_its_terminal() {
    let api = ApiServer::start();
    api.always(Behavior::Hang);
    let folder = tempfile::TempDir::new().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, Kubeconfig::new(&api.url()).yaml()).unwrap();
    let mut command = Command::new("nohup");
    command.arg(env!("CARGO_BIN_EXE_img-classification")).args(["setup", "--kube-timeout", "1", "--kubeconfig"]);
    let mut child = crate::support::spawn(command.arg(&kubeconfig).stdout(Stdio::null()).stderr(Stdio::null()));
    api.wait_for_requests(1);
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    // The error reports that nothing responds at this address.
    assert_eq!(child.wait().unwrap().code(), Some(1));
}
