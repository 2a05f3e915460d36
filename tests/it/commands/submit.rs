//! `submit`: against the simulator, and against scripted servers that fail.

use crate::support::api::{ApiServer, Listen, Request};
use crate::support::response::{ApiResponse, Behavior, Latch};
use crate::support::server::{Finished, Server, Setup};
use crate::support::{eventually, tls};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

const NAME: &str = "free-mnist-abc";

/// A simulated cluster with this image, whose classifiers run for a second.
pub fn local(image: &str) -> Server {
    let server = Setup::local().env("NO_WATCH", "").args(&["--local-job-seconds", "1", "--image", image]).start();
    eventually("the Jobs are known", || server.get("/jobs").status == 200);
    server
}

/// Runs a command against the server at `url`.
pub fn run_at(url: &str, args: &[&str]) -> Finished {
    Setup::new().env("IMG_CLASSIFICATION_SERVER", url).run(args)
}

pub fn url(server: &Server) -> String {
    format!("http://{}", server.address())
}

/// A scripted server over plain HTTP, in place of one of this program.
pub fn scripted(script: impl FnMut(&Request) -> Behavior + Send + 'static) -> ApiServer {
    let server = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    server.script(script);
    server
}

pub fn job(state: &str) -> Value {
    let accuracy = if state == "succeeded" { json!(0.978) } else { Value::Null };
    json!({
        "job": NAME, "namespace": "free-service", "tier": "free", "dataset": "mnist", "type": "ff", "state": state,
        "reason": null, "position": null, "created": "2026-01-01T00:00:00Z", "started": null, "finished": null,
        "node": null, "exit_code": null, "accuracy": accuracy,
    })
}

fn ok(body: &Value) -> Behavior {
    ApiResponse::json(200, body).into()
}

pub fn refusal(status: u16, code: &str, sentence: &str) -> ApiResponse {
    ApiResponse::json(status, &json!({"error": sentence, "code": code}))
}

fn created() -> Value {
    json!({"job": NAME, "namespace": "free-service", "tier": "free", "dataset": "mnist", "type": "ff"})
}

/// Checks the exit code and returns the last line on stderr.
pub fn failed(end: &Finished, code: i32) -> &str {
    assert_eq!(end.code, Some(code), "{end:?}");
    end.stderr.lines().last().unwrap_or_else(|| panic!("nothing on stderr: {end:?}"))
}

#[test]
fn submit_prints_the_name_of_the_job() {
    let server = local("x:1");
    let end = run_at(&url(&server), &["submit", "free", "kmnist"]);
    let name = end.stdout.trim_end();
    assert!(end.code == Some(0) && end.stderr.is_empty() && name.starts_with("free-kmnist-"), "{end:?}");
    assert_eq!(server.get(&format!("/jobs/{name}")).status, 200);
    let end = run_at(&url(&server), &["submit", "premium", "mnist", "--json"]);
    let created: Value = serde_json::from_str(&end.stdout).unwrap();
    assert!(end.stdout.starts_with(r#"{"job":"premium-mnist-"#) && created["type"] == "cnn", "{end:?}");
}

#[test]
fn equal_keys_give_the_same_job() {
    let server = local("x:1");
    let submit = |key| run_at(&url(&server), &["submit", "free", "mnist", "--idempotency-key", key]).stdout;
    let first = submit("a key"); // a usage error: a space
    assert_eq!(first, "");
    assert_eq!(submit("key-1"), submit("key-1"));
    assert_ne!(submit("key-1"), submit("key-2"));
}

#[test]
fn waiting_submit_prints_each_state_and_the_accuracy() {
    let end = run_at(&url(&local("x:1")), &["submit", "free", "mnist", "--wait"]);
    let lines: Vec<&str> = end.stdout.lines().collect();
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    assert!(lines[0].starts_with("free-mnist-"), "{end:?}");
    assert_eq!(lines[lines.len() - 3..], ["running", "succeeded", "accuracy 97.8 %"], "{end:?}");
}

#[test]
fn waiting_submit_fails_with_the_reason_of_the_job() {
    for (image, line) in [("x:fails", "failed: exit code 1"), ("x:missing", "pending: image not found: x:missing")] {
        let server = local(image);
        let end = run_at(&url(&server), &["submit", "premium", "mnist", "--wait", "--timeout", "5"]);
        assert!(end.stdout.lines().any(|printed| printed == line), "{end:?}");
        let code = if image == "x:fails" { 1 } else { 124 };
        assert_eq!(end.code, Some(code), "{end:?}");
    }
}

#[test]
fn waiting_submit_prints_one_json_object_a_line() {
    let end = run_at(&url(&local("x:1")), &["submit", "premium", "kmnist", "--logs", "--json"]);
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    let lines: Vec<Value> = end.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert!(last["state"] == "succeeded" && last["accuracy"] == 0.948, "{end:?}");
    assert!(lines.iter().any(|line| line["log"] == "type: cnn" && line["job"] == last["job"]), "{end:?}");
}

#[test]
fn followed_log_is_printed_whole_before_the_accuracy() {
    let server = local("x:1");
    let end = run_at(&url(&server), &["submit", "free", "mnist", "--logs"]);
    let name = end.stdout.lines().next().unwrap();
    let log = server.get(&format!("/jobs/{name}/logs"));
    assert!(log.text().contains("Accuracy of the network"), "{}", log.text());
    assert!(end.stdout.contains(&format!("running\n{}succeeded\naccuracy 97.8 %\n", log.text())), "{end:?}");
}

#[test]
fn broken_log_continues_where_it_ended() {
    let mut logs = 0;
    let server = scripted(move |request| match request.path() {
        "/img-classification/free" => ok(&created()),
        path if path.ends_with("/logs") => {
            logs += 1;
            let whole = ApiResponse::new(200, "text/plain", "line 1\nline 2\nline 3\n").chunked();
            if logs == 1 { whole.cut(10).into() } else { whole.into() }
        }
        _ => ok(&job(if logs < 2 { "running" } else { "succeeded" })),
    });
    let end = run_at(&server.url(), &["submit", "free", "mnist", "--logs"]);
    let expected = format!("{NAME}\nrunning\nline 1\nline 2\nline 3\nsucceeded\naccuracy 97.8 %\n");
    assert_eq!((end.code, end.stdout), (Some(0), expected));
}

#[test]
fn lost_response_is_repeated_with_the_same_key() {
    for lost in [Behavior::Close, Behavior::Reset, refusal(504, "outcome_unknown", "it was lost").into()] {
        let mut posts = 0;
        let server = scripted(move |_| {
            posts += 1;
            if posts == 1 { lost.clone() } else { ok(&created()) }
        });
        let end = run_at(&server.url(), &["submit", "free", "mnist"]);
        assert_eq!((end.code, end.stdout), (Some(0), format!("{NAME}\n")));
        assert!(end.stderr.contains("trying again for up to 60 s"), "{}", end.stderr);
        let keys: Vec<String> =
            server.requests().iter().map(|request| request.header("Idempotency-Key").unwrap().to_owned()).collect();
        assert!(keys.len() == 2 && keys[0] == keys[1] && keys[0].len() == 32, "{keys:?}");
    }
}

#[test]
fn refusal_is_final_and_printed_as_the_server_wrote_it() {
    for (status, code, sentence) in [
        (400, "bad_body", "the body is strange"),
        (401, "unauthorized", "premium needs a token"),
        (429, "queue_full", "the free tier's queue is full"),
        (502, "namespace_missing", "run img-classification setup"),
    ] {
        let server = scripted(move |_| refusal(status, code, sentence).into());
        let end = run_at(&server.url(), &["submit", "free", "mnist", "--wait"]);
        let line = format!("img-classification: the server refused with {status}: {sentence}");
        assert_eq!((failed(&end, 1).starts_with(&line), end.stdout.as_str()), (true, ""), "{end:?}");
        assert_eq!(server.requests().len(), 1);
    }
    let server = scripted(|_| ApiResponse::html(200).into());
    let end = run_at(&server.url(), &["submit", "free", "mnist", "--json"]);
    assert!(failed(&end, 1).contains("is not that of img-classification; fix: check --server"), "{end:?}");
    let error: Value = serde_json::from_str(&end.stdout).unwrap();
    assert!(error["error"].as_str().unwrap().contains("not that of img-classification"), "{end:?}");
}

#[test]
fn busy_server_is_asked_again_after_its_pause() {
    let mut posts = 0;
    let server = scripted(move |_| {
        posts += 1;
        let code = ["rate_limited", "overloaded"].get(posts - 1);
        let busy = |code| refusal(if posts == 1 { 429 } else { 503 }, code, "wait").header("Retry-After", "1");
        code.map_or_else(|| ok(&created()), |code| busy(code).into())
    });
    let end = run_at(&server.url(), &["submit", "free", "mnist"]);
    assert_eq!((end.code, end.stdout), (Some(0), format!("{NAME}\n")));
    let notice = "the server refused with 429: wait (Retry-After: 1 s); trying again";
    assert!(end.stderr.contains(notice), "{}", end.stderr);
}

#[test]
fn absent_server_is_an_error_at_once() {
    let mut gone = scripted(|_| Behavior::Default);
    gone.close_port();
    let end = run_at(&gone.url(), &["submit", "free", "mnist"]);
    let expected =
        format!("img-classification: cannot reach {}: Connection refused (os error 111); fix: start", gone.url());
    assert!(failed(&end, 1).starts_with(&expected), "{end:?}");
}

#[test]
fn waiting_submit_survives_a_restart_of_the_server() {
    let latch = Latch::default();
    let held = latch.clone();
    let mut gets = 0;
    let mut server = scripted(move |request| {
        gets += usize::from(request.method == "GET");
        match gets {
            0 => ok(&created()),
            1 => ok(&job("running")),
            2 => Behavior::After(held.clone(), Box::new(Behavior::Close)),
            _ => ok(&job("succeeded")),
        }
    });
    let url = server.url();
    let end = std::thread::spawn(move || run_at(&url, &["submit", "free", "mnist", "--wait"]));
    server.wait_for_requests(3);
    server.close_port();
    latch.open();
    server.close_connections();
    // The first try of a new connection is refused by now, or comes after the return; both are right.
    server.reopen_port();
    let end = end.join().unwrap();
    assert_eq!((end.code, end.stdout), (Some(0), format!("{NAME}\nrunning\nsucceeded\naccuracy 97.8 %\n")));
    assert!(end.stderr.contains("trying again"), "{}", end.stderr);
}

#[test]
fn timeout_leaves_the_job_and_names_the_command_that_continues() {
    let server = scripted(|request| ok(&if request.method == "POST" { created() } else { job("running") }));
    let end = run_at(&server.url(), &["submit", "free", "mnist", "--logs", "--timeout", "1"]);
    let hint = format!(
        "img-classification: the time of --timeout is over; the Job continues; follow it with: \
         img-classification jobs {NAME} --watch --logs --server {}",
        server.url()
    );
    assert_eq!(failed(&end, 124), hint);
    let silent = scripted(|_| Behavior::Hang);
    let end = run_at(&silent.url(), &["submit", "free", "mnist", "--timeout", "1", "--idempotency-key", "k"]);
    let line = failed(&end, 124);
    assert!(line.ends_with("the Job may exist: repeat the command with --idempotency-key k"), "{line}");
}

#[test]
fn deleted_job_ends_the_wait() {
    let mut gets = 0;
    let server = scripted(move |request| {
        gets += usize::from(request.method == "GET");
        match gets {
            0 => ok(&created()),
            1 => ok(&job("queued")),
            _ => refusal(404, "job_not_found", "no such Job").into(),
        }
    });
    let end = run_at(&server.url(), &["submit", "free", "mnist", "--wait"]);
    assert!(failed(&end, 1).contains(&format!("the Job {NAME} is gone: it was deleted")), "{end:?}");
}

#[test]
fn new_job_may_become_visible_later() {
    let mut gets = 0;
    let server = scripted(move |request| {
        gets += usize::from(request.method == "GET");
        match gets {
            0 => ok(&created()),
            1 => refusal(404, "job_not_found", "no such Job").into(),
            _ => ok(&job("succeeded")),
        }
    });
    let end = run_at(&server.url(), &["submit", "free", "mnist", "--wait"]);
    assert_eq!((end.code, end.stdout), (Some(0), format!("{NAME}\nsucceeded\naccuracy 97.8 %\n")));
}

/// Starts a command with stdout and stderr in pipes.
fn spawn(url: &str, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_img-classification"));
    command.args(args).env("IMG_CLASSIFICATION_SERVER", url).stdout(Stdio::piped()).stderr(Stdio::piped());
    crate::support::spawn(&mut command)
}

#[test]
fn interrupted_submit_leaves_the_job_and_names_the_command_that_continues() {
    for signal in crate::support::ending_signals() {
        let server = scripted(|request| ok(&if request.method == "POST" { created() } else { job("running") }));
        let mut child = spawn(&server.url(), &["submit", "free", "mnist", "--wait"]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), NAME);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let end = child.wait_with_output().unwrap();
        assert_eq!(end.status.signal(), Some(signal.as_raw()));
        let stderr = String::from_utf8(end.stderr).unwrap();
        let hint = format!("interrupted; the Job continues; follow it with: img-classification jobs {NAME} --watch");
        assert!(stderr.contains(&hint), "{stderr}");
    }
    let silent = scripted(|_| Behavior::Hang);
    let child = spawn(&silent.url(), &["submit", "free", "mnist"]);
    let key = silent.wait_for_requests(1)[0].header("Idempotency-Key").unwrap().to_owned();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let stderr = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    assert!(
        stderr.contains(&format!("the Job may exist: repeat the command with --idempotency-key {key}")),
        "{stderr}"
    );
}

#[test]
fn https_server_is_verified_with_the_given_cas() {
    let server = ApiServer::start();
    server.script(|_| ok(&created()));
    let ca = |name| tls::path(name).to_str().unwrap().to_owned();
    let submit = |ca: &str| run_at(&server.url(), &["submit", "free", "mnist", "--ca", ca]);
    assert_eq!(submit(&ca("ca.pem")).stdout, format!("{NAME}\n"));
    let end = submit(&ca("other-ca.pem"));
    assert!(failed(&end, 1).contains("invalid peer certificate: UnknownIssuer"), "{end:?}");
    let end = submit("/nowhere/ca.pem");
    let line =
        "img-classification: cannot read the file of --ca, /nowhere/ca.pem: No such file or directory (os error 2)";
    assert_eq!(failed(&end, 1), line);
    let end = submit(&ca("README"));
    assert!(failed(&end, 1).contains("cannot use the file of --ca, "), "{end:?}");
}

#[test]
fn only_premium_sends_the_token() {
    let server = scripted(|_| ok(&created()));
    let setup = Setup::new();
    let token = setup.file("token", "let-me-in\n");
    for (tier, file, header) in [
        ("premium", token.to_str().unwrap(), Some("Bearer let-me-in")),
        // The service's file may not be readable for the user.
        ("free", "/nowhere/token", None),
    ] {
        let end =
            Setup::new().env("PREMIUM_TOKEN_FILE", file).run(&["submit", tier, "mnist", "--server", &server.url()]);
        assert_eq!(end.code, Some(0), "{end:?}");
        assert_eq!(server.requests().last().unwrap().header("Authorization"), header);
    }
    let end = run_at(&server.url(), &["submit", "premium", "mnist", "--premium-token-file", "/nowhere/token"]);
    assert!(
        failed(&end, 1).starts_with("img-classification: cannot use the file of --premium-token-file: "),
        "{end:?}"
    );
}

#[test]
fn full_disk_is_an_error_of_every_command() {
    let server = scripted(|request| match request.path() {
        "/jobs" => ok(&json!({"jobs": [job("running")], "next": null})),
        _ => ok(&created()),
    });
    for args in
        [&["submit", "free", "mnist"][..], &["jobs"], &["version"], &["completion", "zsh"], &["setup", "--print"]]
    {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_img-classification"));
        let end = command.args(args).env("IMG_CLASSIFICATION_SERVER", server.url()).stdout(full).output().unwrap();
        let line = "img-classification: cannot write to stdout: No space left on device (os error 28)\n";
        let stderr = String::from_utf8_lossy(&end.stderr);
        assert!(end.status.code() == Some(1) && stderr.ends_with(line), "{args:?}: {stderr}");
        // The name of the Job was not written.
        assert_eq!(stderr.contains(NAME), args[0] == "submit", "{args:?}: {stderr}");
    }
}

#[test]
fn terminal_shows_one_live_line_then_the_end_of_the_log_and_the_accuracy() {
    let server = local("x:1");
    let program = env!("CARGO_BIN_EXE_img-classification");
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &format!("{program} submit free mnist --wait"), "/dev/null"]);
    command.env("IMG_CLASSIFICATION_SERVER", url(&server)).env("TERM", "xterm").stdin(Stdio::null());
    let end = command.output().unwrap();
    assert_eq!(end.status.code(), Some(0), "{end:?}");
    let text = String::from_utf8(end.stdout).unwrap();
    assert!(text.contains("\r\u{1b}[K\u{1b}[?7lrunning, 0:0"), "{text:?}");
    let last = text.rsplit("\u{1b}[K").next().unwrap();
    assert!(
        last.starts_with("succeeded\r\nEpoch [5/5], ") && last.ends_with("97 %\r\naccuracy 97.8 %\r\n"),
        "{last:?}"
    );
}

#[test]
fn odd_pause_of_a_busy_server_is_bounded() {
    let mut posts = 0;
    let server = scripted(move |_| {
        posts += 1;
        if posts <= 2 {
            return refusal(503, "overloaded", "wait").header("Retry-After", "0").into();
        }
        ok(&created())
    });
    let end = run_at(&server.url(), &["submit", "free", "mnist"]);
    assert_eq!((end.code, end.stdout), (Some(0), format!("{NAME}\n")));
    let requests = server.requests();
    let pauses = requests.windows(2).map(|pair| pair[1].at - pair[0].at);
    assert!(requests.len() == 3 && pauses.min() > Some(std::time::Duration::from_millis(500)));
    let server = scripted(|_| refusal(503, "overloaded", "wait").header("Retry-After", "18446744073709551615").into());
    let end = run_at(&server.url(), &["submit", "free", "mnist"]);
    assert!(
        failed(&end, 1)
            .contains("the server refused with 503: wait (Retry-After: 18446744073709551615 s); the Job may exist"),
        "{end:?}"
    );
}

#[test]
fn timeout_ends_an_open_log() {
    let stream = crate::support::response::Stream::default();
    let held = stream.clone();
    let server = scripted(move |request| match request.path() {
        "/img-classification/free" => ok(&created()),
        path if path.ends_with("/logs") => Behavior::Stream(held.clone()),
        _ => ok(&job("running")),
    });
    stream.send("no newline");
    let end = run_at(&server.url(), &["submit", "free", "mnist", "--logs", "--timeout", "1"]);
    assert!(failed(&end, 124).contains("the time of --timeout is over; the Job continues"), "{end:?}");
    assert_eq!(end.stdout, format!("{NAME}\nrunning\nno newline\n"));
    stream.end();
}

#[test]
fn name_from_a_server_and_words_in_a_hint_are_safe_for_a_shell() {
    let server = scripted(|_| ok(&json!({"job": "x; touch y"})));
    let end = run_at(&server.url(), &["submit", "free", "mnist", "--wait"]);
    assert!(failed(&end, 1).contains("is not that of img-classification"), "{end:?}");
    let silent = scripted(|_| Behavior::Hang);
    let end = run_at(&silent.url(), &["submit", "free", "mnist", "--timeout", "1", "--idempotency-key", "a$(x)'b"]);
    assert!(failed(&end, 124).ends_with(r"--idempotency-key 'a$(x)'\''b'"), "{end:?}");
}

#[test]
fn malformed_address_is_a_usage_error() {
    for url in ["http://a:b:5000", "http://fe80::1:5000", "http://[::1", "http://a:1/\"<>", "gopher://a"] {
        let end = Setup::new().run(&["jobs", "--server", url]);
        assert!(failed(&end, 2).starts_with("img-classification: --server is "), "{url}: {end:?}");
    }
    let end = Setup::new().run(&["jobs", "--server", "HTTP://127.0.0.1:9"]);
    assert!(failed(&end, 1).contains("cannot reach http://127.0.0.1:9: "), "{end:?}");
}
