//! `jobs`.

use super::submit::{failed, job, local, refusal, run_at, scripted, url};
use crate::support::eventually;
use crate::support::response::ApiResponse;
use crate::support::server::Setup;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

#[test]
fn jobs_are_listed_newest_first_and_filtered() {
    let server = local("x:1");
    let end = run_at(&url(&server), &["jobs"]);
    assert_eq!((end.code, end.stdout.as_str(), end.stderr.as_str()), (Some(0), "", "no Jobs"));
    let name = |tier, dataset| {
        run_at(&url(&server), &["submit", tier, dataset, "--wait"]).stdout.lines().next().unwrap().to_owned()
    };
    let (free, premium) = (name("free", "mnist"), name("premium", "kmnist"));
    let end = run_at(&url(&server), &["jobs"]);
    let rows: Vec<Vec<&str>> = end.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "STATE", "AGE", "DETAIL"]);
    assert_eq!((&rows[1][..2], &rows[1][3..]), (&[&*premium, "succeeded"][..], &["accuracy", "94.8", "%"][..]));
    assert_eq!((rows[2][0], rows.len()), (&*free, 3));
    for (filter, expected) in [("--tier=free", &free), ("--tier=premium", &premium)] {
        let end = run_at(&url(&server), &["jobs", filter, "--state", "succeeded", "--json"]);
        let job: Value = serde_json::from_str(&end.stdout).unwrap();
        assert_eq!(job["job"], **expected);
    }
    assert_eq!(run_at(&url(&server), &["jobs", "--state", "failed"]).stdout, "");
}

#[test]
fn all_pages_are_listed() {
    let server = scripted(|request| {
        let is_first = request.query("after").is_none();
        assert_eq!(request.query("limit"), Some("500"));
        let next = if is_first { json!("2026-01-01T00:00:00Z_free-mnist-abc") } else { Value::Null };
        ApiResponse::json(200, &json!({"jobs": [job("running"), job("queued")], "next": next})).into()
    });
    assert_eq!(run_at(&server.url(), &["jobs", "--json"]).stdout.lines().count(), 4);
}

#[test]
fn one_job_is_shown_with_its_fields_its_log_and_its_end() {
    let server = local("x:fails");
    let end = run_at(&url(&server), &["submit", "premium", "mnist", "--wait"]);
    let name = end.stdout.lines().next().unwrap();
    let jobs = |args: &[&str]| run_at(&url(&server), &[&["jobs", name], args].concat());
    let shown = jobs(&[]);
    for line in [&format!("job: {name}"), "tier: premium", "state: failed", "reason: exit code 1", "exit code: 1"] {
        assert!(shown.code == Some(0) && shown.stdout.lines().any(|printed| printed == line), "{line}: {shown:?}");
    }
    assert!(!shown.stdout.contains("position") && !shown.stdout.contains("accuracy"), "{shown:?}");
    assert_eq!(jobs(&["--json"]).stdout.trim_end(), server.get(&format!("/jobs/{name}")).text());
    let log = jobs(&["--logs"]);
    assert_eq!((log.code, log.stdout.as_str()), (Some(0), server.get(&format!("/jobs/{name}/logs")).text()));
    let end = jobs(&["--watch"]);
    assert_eq!((end.code, end.stdout.as_str()), (Some(1), "failed: exit code 1\n"));
}

#[test]
fn unknown_job_is_an_error_at_once() {
    let server = local("x:1");
    for args in [&[][..], &["--watch"], &["--logs"]] {
        let end = run_at(&url(&server), &[&["jobs", "free-mnist-nowhere"], args].concat());
        assert!(failed(&end, 1).contains("there is no Job free-mnist-nowhere: it never existed, "), "{end:?}");
    }
}

#[test]
fn deletion_sends_the_admin_token() {
    let setup = Setup::local();
    let token = setup.file("token", "let-me-in\n");
    let token = token.to_str().unwrap().to_owned();
    let server = setup.env("NO_WATCH", "").args(&["--image", "x:long", "--admin-token-file", &token]).start();
    let name = run_at(&url(&server), &["submit", "free", "mnist"]).stdout.trim_end().to_owned();
    let end = run_at(&url(&server), &["jobs", &name, "--delete"]);
    assert!(failed(&end, 1).contains("refused with 401: deleting a Job needs the admin token"), "{end:?}");
    let end = run_at(&url(&server), &["jobs", &name, "--delete", "--admin-token-file", &token]);
    assert_eq!((end.code, end.stdout), (Some(0), format!("{name} deleted\n")));
    eventually("the Job is gone", || server.get(&format!("/jobs/{name}")).status == 404);
}

#[test]
fn failing_server_is_not_asked_again_for_one_look() {
    let server = scripted(|_| refusal(503, "jobs_unknown", "the Jobs are not known yet").into());
    let end = run_at(&server.url(), &["jobs"]);
    assert!(failed(&end, 1).ends_with("the server refused with 503: the Jobs are not known yet"), "{end:?}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn watched_list_prints_each_change_until_it_is_interrupted() {
    let mut lists = 0;
    let server = scripted(move |request| {
        lists += 1;
        let jobs = match lists {
            1 | 2 => json!([job("running")]),
            3 => json!([job("succeeded")]),
            _ => json!([]),
        };
        if request.header("If-None-Match") == Some("\"1\"") && lists == 2 {
            return ApiResponse::new(304, "text/plain", "").into();
        }
        ApiResponse::json(200, &json!({"jobs": jobs, "next": null})).header("ETag", &format!("\"{lists}\"")).into()
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_img-classification"));
    command.args(["jobs", "--watch", "--server", &server.url()]).stdout(Stdio::piped());
    let mut child = crate::support::spawn(&mut command);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let states: Vec<String> =
        lines.take(4).map(|line| line.unwrap().split_whitespace().nth(1).unwrap().to_owned()).collect();
    assert_eq!(states, ["STATE", "running", "succeeded", "deleted"]);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    child.wait().unwrap();
}

#[test]
fn completion_scripts_offer_values_and_jobs() {
    let server = local("x:1");
    let name = run_at(&url(&server), &["submit", "free", "mnist"]).stdout.trim_end().to_owned();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_img-classification"));
    let script = r#"
        source <(img-classification completion bash)
        for words in "img-classification su" "img-classification submit " "img-classification jobs free-"; do
            IFS=' ' read -ra COMP_WORDS <<<"$words"
            [[ $words != *' ' ]] || COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
            _img_classification_with_jobs img-classification "${COMP_WORDS[-1]}" "${COMP_WORDS[-2]}"
            echo "${COMPREPLY[*]}"
        done"#;
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-c", script]).env("PATH", path).env("IMG_CLASSIFICATION_SERVER", url(&server));
    let end = command.output().unwrap();
    let text = String::from_utf8(end.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0] == "submit" && lines[1].ends_with("free premium mnist kmnist") && lines[2] == name, "{text}");
}

#[test]
fn watched_state_shows_how_a_job_leaves_it() {
    let mut lists = 0;
    let server = scripted(move |request| {
        lists += 1;
        assert_eq!((request.query("state"), request.query("tier")), (None, Some("free")));
        let state = if lists == 1 { "running" } else { "succeeded" };
        ApiResponse::json(200, &json!({"jobs": [job(state)], "next": null})).into()
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_img-classification"));
    let args = ["jobs", "--watch", "--state=running", "--tier=free", "--server", &server.url()];
    let mut child = crate::support::spawn(command.args(args).stdout(Stdio::piped()));
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let states: Vec<String> =
        lines.take(3).map(|line| line.unwrap().split_whitespace().nth(1).unwrap().to_owned()).collect();
    assert_eq!(states, ["STATE", "running", "succeeded"]);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    child.wait().unwrap();
}

#[test]
fn closed_stdout_ends_a_watch() {
    let mut lists = 0;
    let server = scripted(move |_| {
        lists += 1;
        let state = ["running", "succeeded"][lists % 2];
        ApiResponse::json(200, &json!({"jobs": [job(state)], "next": null})).into()
    });
    let mut command = Command::new(env!("CARGO_BIN_EXE_img-classification"));
    command.args(["jobs", "--watch", "--server", &server.url()]).stdout(Stdio::piped());
    let mut child = crate::support::spawn(&mut command);
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
