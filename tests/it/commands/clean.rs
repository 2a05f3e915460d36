//! `clean`.

use super::run;
use crate::support::api::ApiServer;
use crate::support::response::{ApiResponse, Behavior};
use serde_json::{Value, json};
use std::collections::HashMap;

pub fn list(kind: &str, items: &[Value]) -> Behavior {
    ApiResponse::json(200, &json!({"kind": kind, "apiVersion": "v1", "metadata": {}, "items": items})).into()
}

fn named(name: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "free-service"}})
}

#[test]
fn unfinished_clean_names_the_remaining_objects() {
    let api = ApiServer::start();
    let (jobs, pod) = ([named("free-mnist-a")], named("free-mnist-a-x"));
    let mut pod = [pod];
    pod[0]["metadata"]["ownerReferences"] = json!([{"kind": "Job", "name": "free-mnist-a"}]);
    api.script(move |request| match (request.method.as_str(), request.path().rsplit('/').next().unwrap()) {
        ("GET", "jobs") if request.path().contains("free-service") => list("JobList", &jobs),
        ("GET", "jobs") => list("JobList", &[]),
        ("GET", "pods") if request.path().contains("free-service") => list("PodList", &pod),
        ("GET", "pods") => list("PodList", &[]),
        ("GET", "resourcequotas") => list("ResourceQuotaList", &[]),
        _ => ApiResponse::json(200, &json!({"kind": "Status", "status": "Success"})).into(),
    });
    let end = run(&api, &["clean", "--timeout", "1"]);
    assert_eq!((end.code, end.stderr.as_str()), (Some(1), ""), "{end:?}");
    let lines: Vec<&str> = end.stdout.lines().collect();
    assert_eq!(lines[..2], ["ok free-service: deleted job free-mnist-a", "ok default: no Jobs to delete"]);
    assert_eq!(
        lines.last(),
        Some(
            &"FAIL free-service: not gone before the timeout: pod free-mnist-a-x; \
               fix: kubectl describe jobs,pods,resourcequotas -n free-service"
        )
    );
}

#[test]
fn clean_waits_for_a_job_with_a_finalizer() {
    let api = ApiServer::start();
    let mut job = named("free-mnist-a");
    api.script(move |request| match (request.method.as_str(), request.path().rsplit('/').next().unwrap()) {
        ("GET", "jobs") if request.path().contains("free-service") => list("JobList", &[job.clone()]),
        ("DELETE", _) => {
            job["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            ApiResponse::json(200, &job).into()
        }
        _ => list("List", &[]),
    });
    let end = run(&api, &["clean", "--timeout", "1"]);
    assert_eq!((end.code, end.stderr.as_str()), (Some(1), ""), "{end:?}");
    let last = "FAIL free-service: not gone before the timeout: job free-mnist-a, kept by finalizers; \
                fix: kubectl describe jobs,pods,resourcequotas -n free-service";
    assert_eq!(end.stdout.lines().last(), Some(last));
}

#[test]
fn clean_follows_every_page_and_accepts_objects_already_deleted() {
    let api = ApiServer::start();
    let mut left: HashMap<String, Value> = ["a", "b"].iter().map(|name| ((*name).to_owned(), named(name))).collect();
    api.script(move |request| {
        let last = request.path().rsplit('/').next().unwrap().to_owned();
        match (request.method.as_str(), last.as_str()) {
            ("GET", "jobs") if request.path().contains("free-service") => {
                let second = request.query("continue").is_some();
                let name = if second { "b" } else { "a" };
                let next = if second || left.is_empty() { "" } else { "t/2" };
                let items: Vec<&Value> = left.get(name).into_iter().collect();
                ApiResponse::json(200, &json!({"kind": "JobList", "metadata": {"continue": next}, "items": items}))
                    .into()
            }
            // Another client has deleted it already.
            ("DELETE", "a") => {
                left.remove("a");
                ApiResponse::failure(404, "NotFound", "jobs.batch \"a\" not found").into()
            }
            ("DELETE", name) => {
                left.remove(name);
                ApiResponse::json(200, &json!({"kind": "Status", "status": "Success"})).into()
            }
            (_, "resourcequotas") => list("ResourceQuotaList", &[]),
            _ => list("List", &[]),
        }
    });
    let end = run(&api, &["clean"]);
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""), "{end:?}");
    let (a, b) = ("ok free-service: deleted job a\n", "ok free-service: deleted job b\n");
    assert!(end.stdout.contains(a) && end.stdout.contains(b) && end.stdout.ends_with("ready\n"), "{}", end.stdout);
    let pages = api.requests().iter().filter(|request| request.query("continue") == Some("t%2F2")).count();
    assert!(pages >= 1, "the second page is requested with an escaped token");
    for request in api.requests().iter().filter(|request| request.method == "DELETE") {
        assert_eq!(request.json()["propagationPolicy"], "Background");
    }
}
