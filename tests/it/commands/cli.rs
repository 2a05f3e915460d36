//! The command line: help, usage errors, start and exit.

use crate::support::LONG_KUBE_TIMEOUT;
use crate::support::api::ApiServer;
use crate::support::kubeconfig::TOKEN;
use crate::support::response::{Behavior, Latch};
use crate::support::server::{Finished, Setup, UNFINISHED};
use rustix::process::Signal;
use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

/// Each option with its variable and its default as shown by --help.
const OPTIONS: [(&str, &str, &str); 14] = [
    ("--listen", "LISTEN", "0.0.0.0:5000"),
    ("--image", "CLASSIFIER_IMAGE", "mp12-classifier:1.0"),
    ("--kubeconfig", "KUBECONFIG", "~/.kube/config"),
    ("--context", "KUBE_CONTEXT", "current-context"),
    ("--job-ttl", "JOB_TTL", "3600"),
    ("--job-timeout", "JOB_TIMEOUT", "1800"),
    ("--kube-timeout", "KUBE_TIMEOUT", "10"),
    ("--local", "LOCAL=1", "off"),
    ("--local-job-seconds", "LOCAL_JOB_SECONDS", "20"),
    ("--local-nodes", "LOCAL_NODES", "2"),
    ("--posts-per-minute", "POSTS_PER_MINUTE", "120"),
    ("--premium-token-file", "PREMIUM_TOKEN_FILE", "none"),
    ("--admin-token-file", "ADMIN_TOKEN_FILE", "none"),
    ("--log-level", "LOG_LEVEL", "info"),
];

fn run(args: &[&str]) -> Finished {
    Setup::new().run(args)
}

#[test]
fn help_shows_every_option_with_its_variable_default_and_unit() {
    for args in [&["--help"][..], &["-h"], &["serve", "--help"]] {
        let end = run(args);
        assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
        for (option, variable, default) in OPTIONS {
            for word in [option, variable, default] {
                assert!(end.stdout.contains(word), "{word} is not in\n{}", end.stdout);
            }
        }
        for unit in ["ADDR:PORT", "SECONDS", "PATH", "NAME", "IMAGE"] {
            assert!(end.stdout.contains(unit), "{unit} is not in\n{}", end.stdout);
        }
    }
}

#[test]
fn version_prints_name_and_number() {
    let end = run(&["--version"]);
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""));
    assert_eq!(end.stdout, format!("img-classification {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn usage_error_is_one_line_and_exit_2() {
    let cases: [&[&str]; 24] = [
        &["--nonsense"],
        &["nonsense"],
        &["serve", "nonsense"],
        &["serve", "serve"],
        &["-x"],
        &["serve", "--listen"],
        &["serve", "--listen", ""],
        &["serve", "--listen", "nonsense"],
        &["serve", "--listen", "127.0.0.1"],
        &["serve", "--listen", "127.0.0.1:65536"],
        &["serve", "--listen", "127.0.0.1:-1"],
        &["serve", "--job-ttl", "soon"],
        &["serve", "--job-ttl", "-1"],
        &["serve", "--job-ttl", "99999999999999999999"],
        &["serve", "--job-ttl=1.5"],
        // Kubernetes accepts 31 bits.
        &["serve", "--job-ttl", "2147483648"],
        &["serve", "--job-timeout", "2147483648"],
        &["serve", "--kube-timeout", "0"],
        &["serve", "--kube-timeout", "10s"],
        &["serve", "--kube-timeout", ""],
        &["serve", "--image", ""],
        &["serve", "--image", "has space"],
        &["serve", "--context", ""],
        &["serve", "--kubeconfig", ""],
    ];
    for args in cases {
        let end = run(args);
        assert_eq!(end.code, Some(2), "{args:?}: {end:?}");
        end.refusal(2);
    }
}

#[test]
fn invalid_variable_is_named_like_an_invalid_option() {
    for (name, value) in [("LISTEN", "nonsense"), ("JOB_TTL", "soon"), ("KUBE_TIMEOUT", "-1")] {
        let end = Setup::new().env(name, value).run(&["serve"]);
        let line = end.refusal(2);
        assert!(line.contains(name) && line.contains(value), "{line}");
    }
}

#[test]
fn value_that_is_not_utf8_is_named_by_its_variable_or_option() {
    let value = OsStr::from_bytes(b"\xff");
    let line = |end: Finished| end.refusal(2).to_owned();
    assert!(line(Setup::new().env("LISTEN", value).run(&["serve"])).contains("LISTEN is "));
    let flag = Command::new(env!("CARGO_BIN_EXE_img-classification")).arg("--listen").arg(value).output().unwrap();
    let stderr = String::from_utf8(flag.stderr).unwrap();
    assert!(stderr.starts_with("img-classification: --listen is "), "{stderr}");
    assert_eq!((flag.status.code(), stderr.lines().count()), (Some(2), 1));
}

#[test]
fn variable_of_an_old_name_is_a_warning_once() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).env("NO_NUDGE", "1").start();
    server.get("/nowhere");
    server.wait_for_log("of the request", |line| line.starts_with("GET /nowhere "));
    let text = server.stderr();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("NO_NUDGE")).collect();
    assert_eq!(lines, ["warning: NO_NUDGE has no effect; fix: set NO_REQUEUE instead"]);
}

#[test]
fn invalid_variable_is_ignored_if_the_option_is_given() {
    let api = ApiServer::start();
    Setup::for_api(&api).env("JOB_TTL", "soon").args(&["--job-ttl", "5"]).start();
}

#[test]
fn extreme_timeout_is_refused_or_works() {
    let api = ApiServer::start();
    let end = Setup::for_api(&api).args(&["--kube-timeout", "18446744073709551615"]).start_or_refusal_with(2);
    if let Ok(server) = end {
        assert_eq!(server.post_job().status, 200);
    }
}

#[test]
fn arguments_with_unprintable_bytes_give_one_clean_line() {
    let line = run(&["serve", "--listen", "a\nb\u{1b}[2Jc"]);
    let line = line.refusal(2);
    assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
}

#[test]
fn serve_is_the_default_command() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).start_with(&["--listen", "127.0.0.1:0"]);
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn option_values_may_follow_an_equals_sign() {
    let api = ApiServer::start();
    let server =
        Setup::for_api(&api).args(&["--job-ttl=77", "--image=a/b:c"]).start_with(&["serve", "--listen=127.0.0.1:0"]);
    assert_eq!(server.post_job().status, 200);
    assert_eq!(api.jobs()[0]["spec"]["ttlSecondsAfterFinished"], 77);
}

#[test]
fn effective_configuration_is_printed_before_the_address() {
    let api = ApiServer::start();
    let setup = Setup::for_api(&api).env("CLASSIFIER_IMAGE", "of-environment:1").args(&["--job-ttl", "123"]);
    let server = setup.start();
    let text = server.log_until_now();
    let before = text.split("listening on http://").next().unwrap();
    for word in ["of-environment:1", "123", "10", "kubeconfig"] {
        assert!(before.contains(word), "{word} is not in {before}");
    }
    assert!(!text.contains(TOKEN), "{text}");
    assert_ne!(server.address().port(), 0);
}

#[test]
fn option_overrides_its_variable() {
    let api = ApiServer::start();
    let setup = Setup::for_api(&api)
        .env("LISTEN", "127.0.0.1:1")
        .env("CLASSIFIER_IMAGE", "of-environment:1")
        .env("JOB_TTL", "1")
        .args(&["--image", "of-flag:1", "--job-ttl", "2"]);
    let server = setup.start();
    assert_eq!(server.post_job().status, 200);
    let job = &api.jobs()[0];
    assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["image"], "of-flag:1");
    assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 2);
}

#[test]
fn variables_apply_without_options() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).env("LISTEN", "127.0.0.2:0").start_with(&["serve"]);
    assert_eq!(server.address().ip().to_string(), "127.0.0.2");
    assert_eq!(server.get("/readyz").status, 200);
}

#[test]
fn server_listens_on_ipv6() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).start_with(&["serve", "--listen", "[::1]:0"]);
    assert!(server.address().is_ipv6());
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn occupied_port_is_one_line_and_exit_1() {
    let api = ApiServer::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let end = Setup::for_api(&api).run(&["serve", "--listen", &address]);
    assert_eq!(end.code, Some(1), "{end:?}");
    let errors: Vec<&str> = end.stderr.lines().filter(|line| line.starts_with("img-classification: ")).collect();
    assert_eq!(errors.len(), 1, "{end:?}");
    assert!(errors[0].contains(&address) && end.stderr.ends_with(errors[0]), "{end:?}");
}

#[test]
fn invalid_kubeconfig_ends_the_start_before_the_port_is_bound() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let line = Setup::new().kubeconfig("current-context: nowhere\n").run(&["serve", "--listen", &address]);
    assert!(line.refusal(1).contains("nowhere"), "{line:?}");
}

#[test]
fn sigterm_and_sigint_finish_requests_in_flight_and_exit_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let api = ApiServer::start();
        let mut server = Setup::for_api(&api).start();
        let latch = Latch::default();
        let held = latch.clone();
        api.script(move |_| Behavior::After(held.clone(), Box::new(Behavior::Default)));
        let mut connection = server.connect();
        let body = br#"{"dataset":"mnist"}"#;
        connection.send(
            format!("POST /img-classification/free HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len())
                .as_bytes(),
        );
        connection.send(body);
        api.wait_for_requests(1);
        server.signal(signal);
        crate::support::eventually("new connections are refused", || {
            std::net::TcpStream::connect(server.address()).is_err()
        });
        latch.open();
        assert_eq!(connection.response(false).unwrap().status, 200);
        assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
        let name = if signal == Signal::TERM { "SIGTERM" } else { "SIGINT" };
        let line = format!("stopping on {name}; requests in flight have 10 s");
        assert!(server.stderr().lines().any(|printed| printed == line), "{}", server.stderr());
        assert_eq!(api.jobs().len(), 1);
    }
}

#[test]
fn idle_server_stops_at_once_with_connections_open() {
    let api = ApiServer::start();
    let mut server = Setup::for_api(&api).start();
    let mut used = server.connect();
    assert_eq!(used.request("GET", "/healthz", None).status, 200);
    let _unused = server.connect();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(!server.stderr().contains(UNFINISHED), "{}", server.stderr());
}

#[test]
fn request_without_end_does_not_prevent_the_stop() {
    let api = ApiServer::start();
    let mut server = Setup::for_api(&api).args(&["--kube-timeout", &LONG_KUBE_TIMEOUT.to_string()]).start();
    api.always(Behavior::Hang);
    let mut connection = server.connect();
    connection.send(b"GET /config HTTP/1.1\r\nHost: x\r\n\r\n");
    api.wait_for_requests(1);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
    assert!(server.stderr().contains(UNFINISHED), "{}", server.stderr());
}

#[test]
fn server_survives_a_closed_log_pipe() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).start();
    server.stop_reading_log();
    assert_eq!(server.get("/healthz").status, 200);
    server.wait_for_end_of_log();
    for _ in 0..40 {
        assert_eq!(server.get("/healthz").status, 200);
        assert_eq!(server.post_job().status, 200);
    }
    assert_eq!(server.post("/img-classification/free", "nonsense").status, 400);
}

#[test]
fn help_on_a_full_disk_is_no_panic() {
    for option in ["--help", "--version"] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let end = Command::new(env!("CARGO_BIN_EXE_img-classification")).arg(option).stdout(full).output().unwrap();
        let stderr = String::from_utf8_lossy(&end.stderr);
        assert!(end.status.code().is_some_and(|code| code <= 1), "{option}: {end:?}");
        assert!(!stderr.contains("panicked") && stderr.lines().count() <= 1, "{option}: {stderr}");
    }
}

#[test]
fn serve_without_a_kubeconfig_names_the_simulated_cluster() {
    let line = Setup::new().run(&["serve"]);
    let line = line.refusal(1);
    assert!(line.contains("no kubeconfig found") && line.ends_with("img-classification serve --local"), "{line}");
}

#[test]
fn version_is_printed_as_text_and_as_json() {
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(run(&["version"]).stdout, format!("img-classification {version}\n"));
    assert_eq!(run(&["version", "--json"]).stdout, format!("{{\"version\":\"{version}\"}}\n"));
}

#[test]
fn trace_log_holds_no_panic_and_no_secret() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).start();
    server.post_job();
    server.get("/config");
    server.get("/readyz");
    server.get("/nowhere");
    let text = server.log_until_now();
    for word in [TOKEN, "panicked", "RUST_BACKTRACE"] {
        assert!(!text.contains(word), "{text}");
    }
}
