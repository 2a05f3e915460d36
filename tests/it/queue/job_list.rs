//! GET /jobs and GET /jobs/NAME.

use super::{FULL, JOBS, PREMIUM_PODS, Tier, job};
use crate::support::eventually;
use crate::support::response::ApiResponse;
use crate::support::server::{Server, Setup};
use serde_json::{Value, json};

/// The names of a page.
fn page(server: &Server, query: &str) -> (Vec<String>, Value) {
    let response = server.get(&format!("/jobs{query}"));
    assert_eq!(response.status, 200, "{query}: {}", response.text());
    let body = response.json();
    let jobs = body["jobs"].as_array().unwrap().iter().map(|job| job["job"].as_str().unwrap().to_owned()).collect();
    (jobs, body["next"].clone())
}

/// A Job of this program with this status.
pub(super) fn ours(name: &str, second: u32, status: &Value) -> Value {
    let mut job = job(name, second, FULL, status, 7);
    job["metadata"]["labels"]["img-classification/dataset"] = json!("mnist");
    job
}

#[test]
fn jobs_of_both_tiers_are_shown_from_their_post_to_their_end() {
    let server = Setup::local().env("NO_WATCH", "").args(&["--local-job-seconds", "1"]).start();
    eventually("the watches are connected", || server.get("/jobs").status == 200);
    let mut posted = Vec::new();
    for (tier, dataset) in [("free", "mnist"), ("premium", "kmnist"), ("free", "kmnist"), ("free", "mnist")] {
        let response = server.post(&format!("/img-classification/{tier}"), format!(r#"{{"dataset":"{dataset}"}}"#));
        let name = response.json()["job"].as_str().unwrap().to_owned();
        assert_eq!(response.header("Location"), Some(format!("/jobs/{name}").as_str()));
        assert_eq!(server.get(&format!("/jobs/{name}")).status, 200, "at once");
        posted.push((name, tier, dataset));
    }
    for (name, tier, dataset) in &posted {
        let path = format!("/jobs/{name}");
        eventually("its success", || server.get(&path).json()["state"] == "succeeded");
        let job = server.get(&path).json();
        let (namespace, network) = if *tier == "free" { ("free-service", "ff") } else { ("default", "cnn") };
        for (key, expected) in
            [("job", name.as_str()), ("namespace", namespace), ("tier", tier), ("dataset", dataset), ("type", network)]
        {
            assert_eq!(job[key], expected, "{job}");
        }
        assert!(job["reason"].is_null() && job["position"].is_null() && job["exit_code"] == 0, "{job}");
        let time = |key: &str| job[key].as_str().unwrap().to_owned();
        assert!(time("created") <= time("started") && time("started") < time("finished"), "{job}");
    }
    let keys = r#"{"job":,"namespace":,"tier":,"dataset":,"type":,"state":,"reason":,"position":,"created":,"started":,"finished":,"node":,"exit_code":,"accuracy":"#;
    let response = server.get(&format!("/jobs/{}", posted[0].0));
    let text = response.text();
    let positions: Vec<_> = keys.split(['{', ',']).filter(|key| !key.is_empty()).map(|key| text.find(key)).collect();
    assert!(positions.is_sorted() && positions.iter().all(Option::is_some), "{text}");
}

#[test]
fn queued_job_has_its_place_and_a_running_one_its_node() {
    let server = Setup::local().env("NO_WATCH", "").args(&["--local-job-seconds", "3600"]).start();
    let posted: Vec<String> = (0..3).map(|_| server.post_job().json()["job"].as_str().unwrap().to_owned()).collect();
    eventually("the third free Job waits for a slot", || {
        let job = server.get(&format!("/jobs/{}", posted[2])).json();
        job["state"] == "queued" && job["position"] == 1 && job["reason"] == "waits for one of 2 free slots"
    });
    eventually("the first runs on a node", || {
        let job = server.get(&format!("/jobs/{}", posted[0])).json();
        job["state"] == "running" && job["reason"].is_null() && job["node"].is_string() && job["started"].is_string()
    });
}

#[test]
fn pages_and_filters_show_each_job_once_newest_first() {
    let tier = Tier::full();
    for second in 0..7 {
        let status = if second % 2 == 0 { json!({"active": 1}) } else { json!({}) };
        let name = format!("free-mnist-b{second}");
        tier.put_job(&name, &ours(&name, second, &status));
    }
    // Created in the same second.
    tier.put_job("free-mnist-c6", &ours("free-mnist-c6", 6, &json!({})));
    let mut theirs = ours("free-mnist-theirs", 5, &json!({}));
    theirs["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("argo");
    tier.put_job("free-mnist-theirs", &theirs);
    let server = tier.watched();
    let names = |suffixes: &[&str]| suffixes.iter().map(|suffix| format!("free-mnist-{suffix}")).collect::<Vec<_>>();
    let all = names(&["c6", "b6", "b5", "b4", "b3", "b2", "b1", "b0"]);
    assert_eq!(page(&server, ""), (all.clone(), Value::Null));
    let (mut seen, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let (jobs, next) = page(&server, &query);
        seen.extend(jobs);
        let Some(next) = next.as_str() else { break };
        query = format!("?limit=3&after={next}");
    }
    assert_eq!(seen, all);
    assert_eq!(page(&server, "?limit=8"), (all.clone(), Value::Null), "no empty page follows");
    assert_eq!(page(&server, "?state=queued").0, names(&["c6", "b5", "b3", "b1"]));
    assert_eq!(page(&server, "?state=pending&limit=1").0, names(&["b6"]));
    assert_eq!(page(&server, "?tier=premium&dataset=mnist").0, names(&[]));
    assert_eq!(page(&server, "?tier=free&dataset=kmnist").0, names(&[]));
    assert_eq!(page(&server, "?unknown=1&state=queued&limit=2").0, names(&["c6", "b5"]));
    for (path, status) in [
        ("/jobs?tier=gold", 400),
        ("/jobs?limit=0", 400),
        ("/jobs?after=!", 400),
        ("/jobs/free-mnist-theirs", 404),
        ("/jobs/free-mnist-none", 404),
        ("/jobs/premium-mnist-b1", 404),
    ] {
        let response = server.get(path);
        assert_eq!(response.status, status, "{path}: {}", response.text());
        assert!(!response.error().is_empty(), "{path}");
    }
    // A 304 until something changes: once the Job, once its pod.
    let mut connection = server.connect();
    for (path, state) in [("/jobs", "pending"), ("/jobs/free-mnist-b1", "running")] {
        let etag = connection.request("GET", path, None).header("ETag").unwrap().to_owned();
        let header = format!("If-None-Match: {etag}\r\n");
        let unchanged = connection.request_with("GET", path, &header, b"");
        assert_eq!((unchanged.status, unchanged.header("ETag")), (304, Some(etag.as_str())));
        match state {
            "pending" => tier.put_job("free-mnist-b1", &ours("free-mnist-b1", 1, &json!({"active": 1}))),
            _ => tier.put_pod("free-mnist-b1", &json!({"phase": "Running"})),
        }
        eventually("its new state", || server.get("/jobs/free-mnist-b1").json()["state"] == state);
        assert_eq!(connection.request_with("GET", path, &header, b"").status, 200);
    }
    let head = connection.request("HEAD", "/jobs", None);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(tier.api.requests().iter().all(|request| request.path() != format!("{JOBS}/free-mnist-none")));
}

#[test]
fn state_and_reason_follow_the_job_and_its_pod() {
    let tier = Tier::full();
    let ended = |kind: &str, reason: &str| {
        let since = "2026-01-01T00:09:00Z";
        json!({"conditions": [{"type": kind, "status": "True", "reason": reason, "lastTransitionTime": since}]})
    };
    let container = |state: Value| json!([{"image": "x:1.0", "state": state}]);
    let terminated = |code: i32, reason: &str, message: &str| {
        container(json!({"terminated": {"exitCode": code, "reason": reason, "message": message,
                                       "startedAt": "2026-01-01T00:08:00Z", "finishedAt": "2026-01-01T00:08:59Z"}}))
    };
    let failed = || ended("Failed", "BackoffLimitExceeded");
    let active = || json!({"active": 1});
    let pull = container(json!({"waiting": {"reason": "ErrImagePull", "message": "x:1.0: not found"}}));
    let cpu = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                      "message": "0/2 nodes are available: 2 Insufficient cpu."}]);
    let none = Value::Null;
    let table = [
        ("queued", json!({}), none.clone(), json!("waits for one of 2 free slots"), none.clone()),
        (
            "pending",
            active(),
            json!({"phase": "Pending", "conditions": cpu}),
            json!("no node has enough CPU free"),
            none.clone(),
        ),
        (
            "pending",
            active(),
            json!({"phase": "Pending", "containerStatuses": pull}),
            json!("image not found: x:1.0"),
            none.clone(),
        ),
        ("running", active(), json!({"phase": "Running"}), none.clone(), none.clone()),
        (
            "succeeded",
            ended("Complete", ""),
            json!({"phase": "Succeeded", "containerStatuses": terminated(0, "Completed", r#"{"accuracy":0.978}"#)}),
            none.clone(),
            json!(0),
        ),
        (
            "failed",
            failed(),
            json!({"phase": "Failed", "containerStatuses": terminated(1, "Error", "Traceback")}),
            json!("exit code 1"),
            json!(1),
        ),
        (
            "failed",
            failed(),
            json!({"phase": "Failed", "containerStatuses": terminated(137, "OOMKilled", "")}),
            json!("killed: out of memory"),
            json!(137),
        ),
        (
            "failed",
            failed(),
            json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
            json!("evicted from its node: The node was low on resource: memory."),
            none.clone(),
        ),
        ("failed", failed(), none.clone(), json!("its pod failed and is gone"), none.clone()),
    ];
    let server = tier.watched();
    for (second, (state, status, pod, reason, exit_code)) in table.iter().enumerate() {
        let name = format!("free-mnist-t{second}");
        tier.put_job(&name, &ours(&name, u32::try_from(second).unwrap(), status));
        if !pod.is_null() {
            tier.put_pod(&name, pod);
        }
        let path = format!("/jobs/{name}");
        eventually(&format!("{state}: {reason} of {status} {pod}"), || {
            let job = server.get(&path).json();
            job["state"] == *state && job["reason"] == *reason && job["exit_code"] == *exit_code
        });
        let job = server.get(&path).json();
        assert_eq!(job["finished"].is_string(), matches!(*state, "succeeded" | "failed"), "{job}");
        assert_eq!(job["accuracy"], if *state == "succeeded" { json!(0.978) } else { Value::Null });
    }
}

#[test]
fn missing_permission_in_one_tier_hides_that_tier_only() {
    let tier = Tier::full();
    let words = r#"pods is forbidden: User "reader" cannot watch resource "pods" in API group """#;
    (0..9).for_each(|_| tier.instead("GET", PREMIUM_PODS, ApiResponse::failure(403, "Forbidden", words)));
    tier.put_job("free-mnist-a", &ours("free-mnist-a", 1, &json!({})));
    let server = tier.serve();
    server.wait_for_log("of the watch", |line| line.starts_with("warning: cannot watch premium-tier pods"));
    eventually("the free tier", || server.get("/jobs?tier=free").status == 200);
    assert_eq!(page(&server, "?tier=free").0, ["free-mnist-a"]);
    eventually("the premium tier's Jobs", || server.get("/jobs").status == 502);
    let response = server.get("/jobs/premium-mnist-a");
    assert_eq!(response.status, 502, "{}", response.text());
    assert!(
        response.error().contains("in default") && response.error().contains("run img-classification setup"),
        "{}",
        response.text()
    );
    assert_eq!(server.get("/queue").status, 200);
}
