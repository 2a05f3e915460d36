//! Plugins that fail, hang or leave children behind.

use super::{SECRET, authorization, check_failure, print, started, with_user};
use crate::support::api::ApiServer;
use crate::support::plugin::{Plugin, credential, is_alive};
use crate::support::server::Setup;
use crate::support::{eventually, tls};
use serde_json::{Value, json};

#[test]
fn invalid_output_is_an_error_without_a_quote_of_it() {
    let full = json!({"token": SECRET});
    let no_kind = json!({"apiVersion": "client.authentication.k8s.io/v1", "status": full});
    let other_kind = json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "Other", "status": full});
    let cases = [
        ("nothing", "true".to_owned()),
        ("junk", format!("echo 'junk {SECRET}'")),
        ("broken JSON", format!("echo '{{\"status\":{{\"token\":\"{SECRET}\"'")),
        ("another version", format!("echo '{}'", credential("v1beta1", &full))),
        ("a version that is gone", format!("echo '{}'", credential("v1alpha1", &full))),
        ("another kind", format!("echo '{other_kind}'")),
        ("no kind", format!("echo '{no_kind}'")),
        (
            "no status",
            format!("echo '{}'", json!({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"})),
        ),
        ("empty status", print(&json!({}))),
        ("null status", print(&Value::Null)),
        ("empty token", print(&json!({"token": ""}))),
        (
            "certificate alone",
            print(&json!({"token": SECRET, "clientCertificateData": tls::pem("client-sec1.pem").replace('\n', "\\n")})),
        ),
        ("key alone", print(&json!({"clientKeyData": SECRET}))),
        ("bad certificate", print(&json!({"clientKeyData": SECRET, "clientCertificateData": SECRET}))),
        ("bad expiry", print(&json!({"token": SECRET, "expirationTimestamp": "soon"}))),
        (
            "line break in the token",
            print(&json!({"token": format!("{SECRET}\nX-Injected: yes")})).replace("\\n", "\\\\n"),
        ),
        ("failure with a credential", format!("{}\nexit 3", print(&full))),
        ("death", "kill -9 $$".to_owned()),
        ("flood", format!("yes {SECRET} | head -c 50000000")),
    ];
    std::thread::scope(|scope| {
        for (what, body) in &cases {
            scope.spawn(move || {
                let (api, server, plugin) = started(body);
                if *what == "no kind" {
                    // client-go decodes such a response by its apiVersion alone or refuses it; both are acceptable.
                    server.post_job();
                    return;
                }
                check_failure(&api, &server);
                assert!(plugin.runs() >= 1, "{what}");
            });
        }
    });
}

#[test]
fn stderr_and_command_of_a_failing_plugin_are_logged() {
    let (api, server, _plugin) = started("echo 'Token for profile has expired, run aws sso login' >&2\nexit 255");
    let response = check_failure(&api, &server);
    assert_eq!(response.status, 502, "{}", response.text());
    server.wait_for_log("with both", |line| line.contains("run aws sso login") && line.contains("plugin"));
}

#[test]
fn plugin_stderr_cannot_inject_log_lines() {
    let (api, server, _plugin) = started("printf 'a\\nINJECTED\\033[2J\\r\\n' >&2\nexit 1");
    check_failure(&api, &server);
    server.wait_for_log("of the failure", |line| line.contains("INJECTED"));
    for line in server.log_until_now().lines() {
        assert!(!line.starts_with("INJECTED") && !line.contains(|c: char| c.is_control()), "{line:?}");
    }
}

#[test]
fn missing_plugin_is_named() {
    let api = ApiServer::start();
    for command in ["no-such-plugin-at-all", "/no/such/plugin-at-all"] {
        let user = json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": command, "interactiveMode": "Never",
            "installHint": "get it from example.com",
        }});
        match with_user(Setup::new(), &api, user).start_or_refusal() {
            Ok(server) => {
                let response = check_failure(&api, &server);
                if !response.error().contains("plugin-at-all") {
                    server.wait_for_log("of the failure", |line| line.contains("plugin-at-all"));
                }
            }
            Err(line) => assert!(line.contains("plugin-at-all"), "{line}"),
        }
    }
}

#[test]
fn hung_plugin_fails_the_requests_that_wait_for_it_and_no_others() {
    // One child holds stdout, like a credential process behind a wrapper script.
    let (api, server, plugin) = started("sleep 200 &\necho $! >>\"$HERE/plugin.pids\"\nsleep 201");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let response = server.post_job();
                assert!((502..=504).contains(&response.status), "{} {}", response.status, response.text());
            });
        }
        eventually("the plugin runs", || plugin.runs() >= 2);
        assert_eq!(server.get("/healthz").status, 200);
    });
    // The plugin has 180 s; the stop kills it.
    let pids = plugin.pids();
    server.terminate();
    eventually("the plugin and its child are gone", || !pids.iter().copied().any(is_alive));
    assert_eq!(api.requests().len(), 0);
}

/// Shell code that starts a child, and whether the plugin succeeds.
const LEFT_BEHIND: [(&str, &str); 6] = [
    ("both", "sleep 200 &"),
    ("stdout", "sleep 200 2>/dev/null &"),
    ("stderr", "sleep 200 >/dev/null &"),
    ("both, in a session of its own", "setsid sleep 200 &"),
    ("stdout, in a session of its own", "setsid sleep 200 2>/dev/null &"),
    ("stderr, in a session of its own", "setsid sleep 200 >/dev/null &"),
];

#[test]
fn credential_is_used_although_a_child_holds_stdout() {
    std::thread::scope(|scope| {
        for (what, child) in LEFT_BEHIND {
            scope.spawn(move || {
                let body = format!("{child}\necho $! >>\"$HERE/plugin.pids\"\n{}", print(&json!({"token": "abc"})));
                let (api, server, plugin) = started(&body);
                let response = server.post_job();
                let pids = plugin.pids();
                pids.iter().copied().for_each(end);
                assert_eq!(response.status, 200, "{what}: {}\n{}", response.text(), server.stderr());
                assert_eq!(authorization(&api.requests()[0]), Some("Bearer abc"), "{what}");
                assert_eq!(pids.len(), 2, "{what}: the plugin was run again");
            });
        }
    });
}

#[test]
fn failure_is_reported_although_a_child_holds_stdout() {
    std::thread::scope(|scope| {
        for (what, child) in LEFT_BEHIND {
            scope.spawn(move || {
                let body = format!("{child}\necho $! >>\"$HERE/plugin.pids\"\necho 'log in first' >&2\nexit 7");
                let (api, server, plugin) = started(&body);
                let response = check_failure(&api, &server);
                plugin.pids().into_iter().for_each(end);
                assert_eq!(response.status, 502, "{what}: {}", response.text());
                server.wait_for_log(what, |line| line.contains("log in first"));
            });
        }
    });
}

/// Kills a child that a test started, if it still exists.
fn end(pid: u32) {
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if is_alive(pid) && command.starts_with("sleep") {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        // The child may have exited meanwhile.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[test]
fn sigterm_kills_a_hanging_plugin_and_its_children() {
    for waiting in [false, true] {
        let (api, mut server, plugin) = started("sleep 200 &\necho $! >>\"$HERE/plugin.pids\"\nsleep 201");
        eventually("the plugin runs", || plugin.runs() >= 2);
        let mut connection = server.connect();
        if waiting {
            connection.send(b"GET /config HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        server.signal(rustix::process::Signal::TERM);
        // The records are deleted with the server's folder, so they are read first.
        let pids = plugin.pids();
        assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
        eventually("the plugin and its child are gone", || !pids.iter().copied().any(is_alive));
        assert_eq!(api.requests().len(), 0);
    }
}

#[test]
fn plugin_that_fails_after_the_deadline_is_named() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let plugin = Plugin::write(setup.home(), "plugin", "sleep 1.2\necho 'log in first' >&2\nexit 7");
    let server = with_user(setup, &api, plugin.user()).args(&["--kube-timeout", "1"]).start();
    eventually("the first failure", || server.post_job().status == 502);
    let answers_in_the_next_run = || {
        let response = server.post_job();
        assert_eq!(response.status, 502, "{}", response.text());
        assert!(response.error().contains("credential"), "{}", response.text());
        plugin.runs() >= 2
    };
    eventually("a response while the plugin runs again", answers_in_the_next_run);
    server.wait_for_log("of the failure", |line| line.contains("log in first"));
    assert_eq!(api.requests().len(), 0);
}
