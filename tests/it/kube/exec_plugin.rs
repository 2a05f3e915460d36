//! Credential plugins: what they are told, what is made of their answers, how often and how long they run.

use crate::support::api::{ApiServer, Listen, Request};
use crate::support::http::Response;
use crate::support::kubeconfig::Kubeconfig;
use crate::support::plugin::{Plugin, credential, is_alive};
use crate::support::server::{Server, Setup};
use crate::support::tls::Clients;
use crate::support::{answer, eventually, tls};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SECRET: &str = "s3cr3t-0f-plugin";

/// A started program whose user is a plugin with this script, its Kubernetes, and the plugin.
fn started(body: &str) -> (ApiServer, Server, Plugin) {
    let api = ApiServer::start();
    let setup = Setup::new();
    let plugin = Plugin::write(setup.home(), "plugin", body);
    let server = with_user(setup, &api, plugin.user()).start();
    (api, server, plugin)
}

fn with_user(setup: Setup, api: &ApiServer, user: Value) -> Setup {
    setup.kubeconfig(Kubeconfig::new(&api.url()).user(user).yaml()).args(&["--kube-timeout", "5"])
}

/// A script that prints this ExecCredential status.
fn print(status: &Value) -> String {
    format!("echo '{}'", credential("v1", status))
}

/// A script that prints another token at every run: `token-1`, `token-2`...
fn print_numbered(expiry: &str) -> String {
    let status = json!({"token": "token-NUMBER", "expirationTimestamp": expiry});
    format!(
        "number=$(wc -l <\"$HERE/plugin.pids\" | tr -d ' ')\necho '{}' | sed \"s/NUMBER/$number/\"",
        credential("v1", &status)
    )
}

fn check_post(server: &Server) {
    let answer = server.post_job();
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), server.stderr());
}

fn authorization(request: &Request) -> Option<&str> {
    request.header("Authorization")
}

/// An error answer, after which nothing has reached Kubernetes and nothing of the plugin's stdout is anywhere.
fn check_failure(api: &ApiServer, server: &Server) -> Response {
    let answer = server.post_job();
    assert!((502..=504).contains(&answer.status), "{} {}", answer.status, answer.text());
    answer.error();
    assert_eq!(api.requests().len(), 0);
    server.wait_for_log("of the POST", |line| line.starts_with("POST "));
    assert!(!answer.text().contains(SECRET), "{}", answer.text());
    assert!(!server.stderr().contains(SECRET), "{}", server.stderr());
    answer
}

#[test]
fn a_token_is_fetched_once_and_used_for_every_request() {
    let (api, server, plugin) = started(&print(&json!({"token": "abc"})));
    for _ in 0..5 {
        check_post(&server);
        assert_eq!(server.get("/config").status, 200);
    }
    assert_eq!(plugin.runs(), 1);
    assert!(api.requests().iter().all(|request| authorization(request) == Some("Bearer abc")));
}

#[test]
fn a_token_is_kept_until_it_expires() {
    let (_api, server, plugin) = started(&print_numbered("2099-01-01T00:00:00Z"));
    for _ in 0..3 {
        check_post(&server);
    }
    assert_eq!(plugin.runs(), 1);
    let (api, server, plugin) = started(&print_numbered("'$(date -u -d '+3 seconds' +%Y-%m-%dT%H:%M:%SZ)'"));
    check_post(&server);
    assert_eq!(authorization(&api.requests()[0]), Some("Bearer token-1"));
    eventually("the next token is used", || {
        check_post(&server);
        authorization(api.requests().last().unwrap()) == Some("Bearer token-2")
    });
    // A run may have come early, and the token of that run expires in its turn: but nobody runs it for every request.
    assert!(plugin.runs() < api.requests().len() && plugin.runs() <= 3, "{} runs", plugin.runs());
}

#[test]
fn expiry_times_of_every_rfc_3339_form_are_understood() {
    for expiry in [
        "2099-01-01T00:00:00Z",
        "2099-01-01T00:00:00.123456789Z",
        "2099-01-01T00:00:00+02:00",
        "2099-01-01T00:00:00-07:30",
        "9999-12-31T23:59:59Z",
    ] {
        let (_api, server, plugin) = started(&print_numbered(expiry));
        check_post(&server);
        check_post(&server);
        assert_eq!(plugin.runs(), 1, "{expiry}");
    }
}

#[test]
fn sixty_four_requests_at_once_run_the_plugin_once() {
    let (api, server, plugin) = started(&format!("sleep 0.3\n{}", print(&json!({"token": "abc"}))));
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| check_post(&server));
        }
    });
    assert_eq!((plugin.runs(), api.jobs().len()), (1, 64));
}

#[test]
fn a_401_runs_the_plugin_once_more_and_no_oftener() {
    let (api, server, plugin) = started(&print_numbered("2099-01-01T00:00:00Z"));
    api.script(|request| match authorization(request) {
        Some("Bearer token-2") => answer::Answer::Honest,
        _ => answer::unauthorized().into(),
    });
    check_post(&server);
    assert_eq!((plugin.runs(), api.jobs().len()), (2, 1));
    check_post(&server);
    assert_eq!(plugin.runs(), 2, "the second token is good");
    api.always(answer::unauthorized());
    assert_eq!(server.post_job().status, 502);
    assert!(plugin.runs() <= 3, "at most one refresh for one request: {}", plugin.runs());
}

#[test]
fn a_401_in_the_middle_of_a_list_refreshes_too() {
    let (api, server, _plugin) = started(&print_numbered("2099-01-01T00:00:00Z"));
    let pod = crate::support::cluster::pod("default", "p", "Running", None);
    api.script(move |request| match (authorization(request), request.query("continue")) {
        (Some("Bearer token-1"), Some(_)) => answer::unauthorized().into(),
        (_, None) => answer::Reply::json(200, &answer::pod_list(std::slice::from_ref(&pod), "more")).into(),
        (_, Some(_)) => answer::Reply::json(200, &answer::pod_list(std::slice::from_ref(&pod), "")).into(),
    });
    let answer = server.get("/config");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["pods"].as_array().unwrap().len(), 2);
}

#[test]
fn the_plugin_is_told_the_version_and_that_nobody_is_there_to_ask() {
    for version in ["v1", "v1beta1"] {
        let api = ApiServer::start();
        let setup = Setup::new();
        let body = format!(
            "test -t 0 && exit 1\nread line && exit 2\necho '{}'",
            credential(version, &json!({"token": "abc"}))
        );
        let plugin = Plugin::write(setup.home(), "plugin", &body);
        let mut user = plugin.user();
        user["exec"]["apiVersion"] = json!(format!("client.authentication.k8s.io/{version}"));
        let server = with_user(setup, &api, user).start();
        check_post(&server);
        let info = plugin.infos().remove(0);
        assert_eq!(info["apiVersion"], format!("client.authentication.k8s.io/{version}"));
        assert_eq!(info["kind"], "ExecCredential");
        assert_eq!(info["spec"]["interactive"], false);
        assert!(info["spec"].get("cluster").is_none(), "{info}");
    }
}

#[test]
fn the_plugin_is_told_of_the_cluster_only_where_it_wants_that() {
    for by_file in [false, true] {
        let api = ApiServer::start();
        let setup = Setup::new();
        let plugin = Plugin::write(setup.home(), "plugin", &print(&json!({"token": "abc"})));
        let mut user = plugin.user();
        user["exec"]["provideClusterInfo"] = json!(true);
        let mut cluster = json!({
            "tls-server-name": "kubernetes.example",
            "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "me", "n": [1, 2]}}, {"name": "other", "extension": {}}],
        });
        if by_file {
            cluster["certificate-authority-data"] = Value::Null;
            cluster["certificate-authority"] = json!(tls::path("ca.pem"));
        }
        let config = Kubeconfig::new(&api.url()).cluster(cluster).user(user);
        let server = setup.kubeconfig(config.yaml()).start();
        check_post(&server);
        let told = plugin.infos().remove(0)["spec"]["cluster"].take();
        assert_eq!(told["server"], api.url());
        assert_eq!(told["tls-server-name"], "kubernetes.example");
        assert_eq!(told["certificate-authority-data"], tls::base64("ca.pem"));
        assert_eq!(told["config"], json!({"audience": "me", "n": [1, 2]}));
    }
}

#[test]
fn arguments_and_environment_of_the_kubeconfig_come_on_top_of_ours() {
    let body = format!(
        "printf '%s\\n' \"$*\" \"$ADDED\" \"$OURS\" \"$CHANGED\" >\"$HERE/told\"\n{}",
        print(&json!({"token": "abc"}))
    );
    let api = ApiServer::start();
    let setup = Setup::new();
    let plugin = Plugin::write(setup.home(), "plugin", &body);
    let mut user = plugin.user();
    user["exec"]["args"] = json!(["get-token", "--cluster-name", "a b", ""]);
    user["exec"]["env"] = json!([{"name": "ADDED", "value": "added"}, {"name": "CHANGED", "value": "theirs"}]);
    let server = with_user(setup, &api, user).env("OURS", "ours").env("CHANGED", "ours").start();
    check_post(&server);
    let told = std::fs::read_to_string(server.home().join("told")).unwrap();
    assert_eq!(told, "get-token --cluster-name a b \nadded\nours\ntheirs\n");
}

#[test]
fn null_arguments_and_environment_are_none() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let plugin = Plugin::write(setup.home(), "plugin", &print(&json!({"token": "abc"})));
    let mut user = plugin.user();
    for field in ["args", "env", "installHint", "provideClusterInfo"] {
        user["exec"][field] = Value::Null;
    }
    check_post(&with_user(setup, &api, user).start());
}

#[test]
fn a_client_certificate_of_a_plugin_is_shown() {
    let api = ApiServer::listen(&Listen { clients: Clients::Checked, ..Listen::default() });
    for kind in ["client-chain", "client-sec1"] {
        let (certificate, key) = (format!("{kind}.pem"), format!("{kind}.key.pem"));
        let setup = Setup::new();
        let status = json!({"clientCertificateData": tls::pem(&certificate), "clientKeyData": tls::pem(&key)});
        let plugin = Plugin::printing(setup.home(), "plugin", &status);
        let server = with_user(setup, &api, plugin.user()).start();
        check_post(&server);
        let request = api.requests().pop().unwrap();
        assert_eq!(request.client_chain, tls::der(&certificate));
        assert_eq!(authorization(&request), None);
        assert_eq!(plugin.runs(), 1);
    }
}

#[test]
fn a_new_client_certificate_of_a_plugin_is_used_after_a_401() {
    let api = ApiServer::listen(&Listen { clients: Clients::Checked, ..Listen::default() });
    let setup = Setup::new();
    let status = |kind: &str| json!({"clientCertificateData": tls::pem(&format!("{kind}.pem")), "clientKeyData": tls::pem(&format!("{kind}.key.pem"))});
    setup.file("first", credential("v1", &status("client-pkcs8")).to_string());
    setup.file("second", credential("v1", &status("client-sec1")).to_string());
    let body = "if test -e \"$HERE/ran\"; then cat \"$HERE/second\"; else cat \"$HERE/first\"; fi\ntouch \"$HERE/ran\"";
    let plugin = Plugin::write(setup.home(), "plugin", body);
    let good = tls::der("client-sec1.pem");
    api.script(
        move |request| {
            if request.client_chain == good { answer::Answer::Honest } else { answer::unauthorized().into() }
        },
    );
    let server = with_user(setup, &api, plugin.user()).start();
    check_post(&server);
    assert_eq!(plugin.runs(), 2);
}

#[test]
fn a_certificate_of_a_plugin_is_gone_when_its_next_answer_has_none() {
    let api = ApiServer::listen(&Listen { clients: Clients::Checked, ..Listen::default() });
    let setup = Setup::new();
    let first = json!({
        "token": "first",
        "clientCertificateData": tls::pem("client-sec1.pem"), "clientKeyData": tls::pem("client-sec1.key.pem"),
    });
    setup.file("first", credential("v1", &first).to_string());
    setup.file("second", credential("v1", &json!({"token": "second"})).to_string());
    let body = "if test -e \"$HERE/ran\"; then cat \"$HERE/second\"; else cat \"$HERE/first\"; fi\ntouch \"$HERE/ran\"";
    let plugin = Plugin::write(setup.home(), "plugin", body);
    let server = with_user(setup, &api, plugin.user()).start();
    check_post(&server);
    assert_eq!(api.requests()[0].client_chain, tls::der("client-sec1.pem"));
    api.script(|request| match authorization(request) {
        Some("Bearer second") => answer::Answer::Honest,
        _ => answer::unauthorized().into(),
    });
    for _ in 0..3 {
        check_post(&server);
        let request = api.requests().pop().unwrap();
        assert_eq!((authorization(&request), request.client_chain.len()), (Some("Bearer second"), 0));
    }
    assert_eq!(plugin.runs(), 2);
}

#[test]
fn what_is_no_answer_is_an_error_that_shows_none_of_it() {
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
        ("failure with an answer", format!("{}\nexit 3", print(&full))),
        ("death", "kill -9 $$".to_owned()),
        ("flood", format!("yes {SECRET} | head -c 50000000")),
    ];
    std::thread::scope(|scope| {
        for (what, body) in &cases {
            scope.spawn(move || {
                let (api, server, plugin) = started(body);
                if *what == "no kind" {
                    // client-go decodes such an answer by its apiVersion alone or refuses it: either is right.
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
fn stderr_of_a_failing_plugin_is_in_the_log_and_its_command_is_named() {
    let (api, server, _plugin) = started("echo 'Token for profile has expired, run aws sso login' >&2\nexit 255");
    let answer = check_failure(&api, &server);
    assert_eq!(answer.status, 502, "{}", answer.text());
    let log = server.stderr();
    assert!(log.contains("run aws sso login") && log.contains("plugin"), "{log}");
}

#[test]
fn stderr_of_a_plugin_cannot_write_lines_of_its_own() {
    let (api, server, _plugin) = started("printf 'a\\nINJECTED\\033[2J\\r\\n' >&2\nexit 1");
    check_failure(&api, &server);
    for line in server.stderr().lines() {
        assert!(!line.starts_with("INJECTED") && !line.contains(|c: char| c.is_control()), "{line:?}");
    }
}

#[test]
fn a_plugin_that_failed_once_is_run_again() {
    let body =
        format!("test -e \"$HERE/ran\" || {{ touch \"$HERE/ran\"; exit 77; }}\n{}", print(&json!({"token": "abc"})));
    let (api, server, _plugin) = started(&body);
    // Nobody need have asked: the first run comes with the start, or else with the first request.
    let first = server.post_job();
    assert!([200, 502].contains(&first.status), "{}", first.text());
    server.wait_for_log("of the failure", |line| line.contains("77"));
    if first.status == 200 {
        return;
    }
    // At once or after a pause that spares the machine a broken plugin at every request.
    eventually("the plugin is given another chance", || server.post_job().status == 200);
    assert_eq!(api.jobs().len(), 1);
}

#[test]
fn a_missing_plugin_is_named() {
    let api = ApiServer::start();
    for command in ["no-such-plugin-at-all", "/no/such/plugin-at-all"] {
        let user = json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1", "command": command, "interactiveMode": "Never",
            "installHint": "get it from example.com",
        }});
        match with_user(Setup::new(), &api, user).start_or_refusal() {
            Ok(server) => {
                let answer = check_failure(&api, &server);
                let all = answer.error() + &server.stderr();
                assert!(all.contains("plugin-at-all"), "{all}");
            }
            Err(line) => assert!(line.contains("plugin-at-all"), "{line}"),
        }
    }
}

#[test]
fn a_hung_plugin_is_killed_with_its_children_and_requests_get_an_error_in_time() {
    // One child holds stdout, as a credential process behind a wrapper does.
    let (api, server, plugin) = started("sleep 200 &\necho $! >>\"$HERE/plugin.pids\"\nsleep 201");
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let answer = server.post_job();
                assert!((502..=504).contains(&answer.status), "{} {}", answer.status, answer.text());
            });
        }
        eventually("the plugin runs", || plugin.runs() >= 2);
        assert_eq!(server.get("/healthz").status, 200);
    });
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    eventually("the plugin and its child are gone", || !plugin.pids().into_iter().any(is_alive));
    assert_eq!(api.requests().len(), 0);
}

/// A child that the plugin leaves behind, what else it says, and whether that is a success.
const LEFT_BEHIND: [(&str, &str); 6] = [
    ("both", "sleep 200 &"),
    ("stdout", "sleep 200 2>/dev/null &"),
    ("stderr", "sleep 200 >/dev/null &"),
    ("both, in a session of its own", "setsid sleep 200 &"),
    ("stdout, in a session of its own", "setsid sleep 200 2>/dev/null &"),
    ("stderr, in a session of its own", "setsid sleep 200 >/dev/null &"),
];

#[test]
fn a_child_that_outlives_the_plugin_and_holds_its_output_does_not_cost_the_answer() {
    std::thread::scope(|scope| {
        for (what, child) in LEFT_BEHIND {
            scope.spawn(move || {
                let body = format!("{child}\necho $! >>\"$HERE/plugin.pids\"\n{}", print(&json!({"token": "abc"})));
                let (api, server, plugin) = started(&body);
                let start = Instant::now();
                let answer = server.post_job();
                let elapsed = start.elapsed();
                let pids = plugin.pids();
                pids.iter().copied().for_each(end);
                assert_eq!(answer.status, 200, "{what}: {}\n{}", answer.text(), server.stderr());
                assert_eq!(authorization(&api.requests()[0]), Some("Bearer abc"), "{what}");
                assert!(elapsed < Duration::from_secs(4), "{what}: {elapsed:?}");
                assert_eq!(pids.len(), 2, "{what}: the plugin was run again");
            });
        }
    });
}

#[test]
fn a_failure_is_told_although_a_child_holds_the_output() {
    std::thread::scope(|scope| {
        for (what, child) in LEFT_BEHIND {
            scope.spawn(move || {
                let body = format!("{child}\necho $! >>\"$HERE/plugin.pids\"\necho 'log in first' >&2\nexit 7");
                let (api, server, plugin) = started(&body);
                let answer = check_failure(&api, &server);
                plugin.pids().into_iter().for_each(end);
                assert_eq!(answer.status, 502, "{what}: {}", answer.text());
                assert!(server.stderr().contains("log in first"), "{what}: {}", server.stderr());
            });
        }
    });
}

/// Ends a stray child that a test started, if it is still there.
fn end(pid: u32) {
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if is_alive(pid) && command.starts_with("sleep") {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        // Gone in between is as well.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

#[test]
fn sigterm_ends_a_hanging_plugin_and_its_children() {
    for waiting in [false, true] {
        let (api, mut server, plugin) = started("sleep 200 &\necho $! >>\"$HERE/plugin.pids\"\nsleep 201");
        eventually("the plugin runs", || plugin.runs() >= 2);
        let mut connection = server.connect();
        if waiting {
            connection.send(b"GET /config HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        let start = Instant::now();
        server.signal(rustix::process::Signal::TERM);
        // Read before the end: the traces go with the server's folder.
        let pids = plugin.pids();
        assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
        assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
        eventually("the plugin and its child are gone", || !pids.iter().copied().any(is_alive));
        assert_eq!(api.requests().len(), 0);
    }
}

#[test]
fn a_plugin_that_fails_slower_than_the_deadline_is_named_in_the_end() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let plugin = Plugin::write(setup.home(), "plugin", "sleep 1.2\necho 'log in first' >&2\nexit 7");
    let server = with_user(setup, &api, plugin.user()).args(&["--kube-timeout", "1"]).start();
    eventually("the first failure", || server.post_job().status == 502);
    let answers_in_the_next_run = || {
        let answer = server.post_job();
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(answer.error().contains("credential"), "{}", answer.text());
        plugin.runs() >= 2
    };
    eventually("an answer while it runs again", answers_in_the_next_run);
    assert!(server.stderr().contains("log in first"), "{}", server.stderr());
    assert_eq!(api.requests().len(), 0);
}

#[test]
fn the_modes_of_interaction_are_those_of_client_go() {
    let api = ApiServer::start();
    let cases = [
        ("v1", Some("Never"), true),
        ("v1", Some("IfAvailable"), true),
        ("v1", Some("Always"), false),
        ("v1", None, false),
        ("v1", Some("Sometimes"), false),
        ("v1beta1", None, true),
        ("v1beta1", Some("IfAvailable"), true),
        ("v1beta1", Some("Always"), false),
        ("v1alpha1", Some("Never"), false),
        ("v2", Some("Never"), false),
    ];
    for (version, mode, works) in cases {
        // A folder of its own: the traces of a run must outlive the program.
        let folder = tempfile::TempDir::new().unwrap();
        let body = format!("echo '{}'", credential(version, &json!({"token": "abc"})));
        let plugin = Plugin::write(folder.path(), "plugin", &body);
        let user = json!({"exec": {
            "apiVersion": format!("client.authentication.k8s.io/{version}"), "command": plugin.path(), "interactiveMode": mode,
        }});
        let setup = with_user(Setup::new(), &api, user);
        if works {
            check_post(&setup.start());
            assert_eq!(plugin.runs(), 1);
        } else {
            let line = setup.refused();
            let field =
                if version.starts_with("v1beta1") || version == "v1" { "interactiveMode" } else { "apiVersion" };
            assert!(line.contains(field), "{version} {mode:?}: {line}");
            assert_eq!(plugin.runs(), 0);
        }
    }
}

#[test]
fn a_plugin_without_a_command_or_a_version_is_refused_by_field() {
    let api = ApiServer::start();
    for (exec, field) in [
        (json!({"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}), "command"),
        (
            json!({"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", "command": ""}),
            "command",
        ),
        (json!({"command": "x", "interactiveMode": "Never"}), "apiVersion"),
    ] {
        let line = with_user(Setup::new(), &api, json!({"exec": exec})).refused();
        assert!(line.contains(field), "{field}: {line}");
    }
}

#[test]
fn a_plugin_is_not_run_where_a_token_is_already_there() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let plugin = Plugin::printing(setup.home(), "plugin", &json!({"token": "of-plugin"}));
    let mut user = plugin.user();
    user["token"] = json!("inline");
    let server = with_user(setup, &api, user).start();
    check_post(&server);
    assert_eq!(authorization(&api.requests()[0]), Some("Bearer inline"));
    assert_eq!(plugin.runs(), 0);
}

#[test]
fn a_token_of_a_plugin_is_never_sent_over_http() {
    let plain = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    let setup = Setup::new();
    let plugin = Plugin::printing(setup.home(), "plugin", &json!({"token": "abc"}));
    let config = Kubeconfig::new(&plain.url()).cluster(json!({"certificate-authority-data": null})).user(plugin.user());
    match setup.kubeconfig(config.yaml()).start_or_refusal() {
        Ok(server) => assert_eq!(server.post_job().status, 502),
        Err(line) => assert!(line.contains("https"), "{line}"),
    }
    assert_eq!(plain.requests().len(), 0);
}

#[test]
fn what_eks_writes_works_as_it_is() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let folder = setup.home().join("bin");
    let expiry = "2099-01-01T00:00:00Z";
    let answer = json!({
        "kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1beta1", "spec": {},
        "status": {"expirationTimestamp": expiry, "token": "k8s-aws-v1.abc"},
    });
    let aws = Plugin::write(&folder, "aws", &format!("echo \"$*\" \"$AWS_PROFILE\" >\"$HERE/told\"\necho '{answer}'"));
    let text = eks_kubeconfig(&api, &tls::base64("ca.pem"));
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let server = setup.env("PATH", &path).kubeconfig(text).start();
    check_post(&server);
    assert_eq!(authorization(&api.requests()[0]), Some("Bearer k8s-aws-v1.abc"));
    assert_eq!(aws.runs(), 1);
    let told = std::fs::read_to_string(folder.join("told")).unwrap();
    assert_eq!(told, "--region us-east-1 eks get-token --cluster-name mp12 --output json me\n");
}

/// The file of `aws eks update-kubeconfig`, letter by letter but for the names.
fn eks_kubeconfig(api: &ApiServer, ca: &str) -> String {
    let url = api.url();
    format!(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {ca}
    server: {url}
  name: arn:aws:eks:us-east-1:123456789012:cluster/mp12
contexts:
- context:
    cluster: arn:aws:eks:us-east-1:123456789012:cluster/mp12
    user: arn:aws:eks:us-east-1:123456789012:cluster/mp12
  name: arn:aws:eks:us-east-1:123456789012:cluster/mp12
current-context: arn:aws:eks:us-east-1:123456789012:cluster/mp12
kind: Config
preferences: {{}}
users:
- name: arn:aws:eks:us-east-1:123456789012:cluster/mp12
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1beta1
      args:
      - --region
      - us-east-1
      - eks
      - get-token
      - --cluster-name
      - mp12
      - --output
      - json
      command: aws
      env:
      - name: AWS_PROFILE
        value: me
"
    )
}
