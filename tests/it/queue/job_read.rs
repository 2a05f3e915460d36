//! GET /jobs/NAME with --no-watch, which reads the Job and its pod from Kubernetes.

use super::job_list::ours;
use super::{JOBS, PODS, Tier};
use crate::support::api::Request;
use crate::support::eventually;
use crate::support::response::{ApiResponse, Behavior, too_many_requests};
use crate::support::server::Setup;
use serde_json::json;

const NAME: &str = "free-mnist-a";
const PATH: &str = "/jobs/free-mnist-a";

/// RBAC forbids to read these objects.
fn forbidden(resource: &str) -> Behavior {
    let message = format!("{resource} is forbidden: User \"nobody\" cannot get resource \"{resource}\" in API group");
    ApiResponse::failure(403, "Forbidden", &message).into()
}

#[test]
fn job_read_from_kubernetes_equals_the_watched_one() {
    let tier = Tier::full();
    tier.put_job(NAME, &ours(NAME, 1, &json!({"active": 1})));
    let watched = tier.watched();
    let server = Setup::for_api(&tier.api).start();
    let ended = |code: i32| {
        json!([{"image": "x:1.0", "state": {"terminated": {"exitCode": code, "reason": "x", "message": "{\"accuracy\":0.5}",
                                                          "startedAt": "2026-01-01T00:08:00Z"}}}])
    };
    let end = |kind: &str| {
        let since = "2026-01-01T00:09:00Z";
        json!({"conditions": [{"type": kind, "status": "True", "reason": "x", "lastTransitionTime": since}]})
    };
    for (job, pod, state) in [
        (json!({"active": 1}), json!({"phase": "Pending"}), "pending"),
        (json!({"active": 1}), json!({"phase": "Running"}), "running"),
        (end("Failed"), json!({"phase": "Failed", "containerStatuses": ended(7)}), "failed"),
        (end("Complete"), json!({"phase": "Succeeded", "containerStatuses": ended(0)}), "succeeded"),
    ] {
        tier.put_job(NAME, &ours(NAME, 1, &job));
        tier.put_pod(NAME, &pod);
        eventually("the watched state", || watched.get(PATH).json()["state"] == state);
        let read = server.get(PATH);
        assert_eq!((read.status, read.text()), (200, watched.get(PATH).text()));
        let etag = format!("If-None-Match: {}\r\n", read.header("ETag").unwrap());
        assert_eq!(server.connect().request_with("GET", PATH, &etag, b"").status, 304);
    }
    // Without its pod and its place it is queued.
    tier.put_job("free-mnist-b", &ours("free-mnist-b", 2, &json!({})));
    let queued = server.get("/jobs/free-mnist-b").json();
    assert_eq!((&queued["state"], &queued["reason"]), (&json!("queued"), &json!("waits for its pod")));
    assert!(queued["position"].is_null(), "{queued}");
}

#[test]
fn job_read_from_kubernetes_takes_two_requests() {
    let tier = Tier::full();
    tier.put_job(NAME, &ours(NAME, 1, &json!({"active": 1})));
    tier.put_pod(NAME, &json!({"phase": "Running"}));
    let server = Setup::for_api(&tier.api).start();
    assert_eq!(server.get(PATH).json()["state"], "running");
    let requests = tier.api.requests();
    let paths: Vec<_> = requests.iter().map(Request::path).collect();
    assert_eq!(paths, [format!("{JOBS}/{NAME}").as_str(), PODS]);
    assert_eq!(
        requests[1].query("labelSelector").map(|text| text.replace("%3D", "=")).unwrap(),
        "job-name=free-mnist-a"
    );
}

#[test]
fn job_that_kubernetes_does_not_show_is_an_error() {
    let tier = Tier::full();
    let mut theirs = ours("free-mnist-theirs", 5, &json!({}));
    theirs["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("argo");
    tier.put_job("free-mnist-theirs", &theirs);
    tier.put_job(NAME, &ours(NAME, 1, &json!({"active": 1})));
    let server = Setup::for_api(&tier.api).args(&["--kube-timeout", "2"]).start();
    for path in ["/jobs/free-mnist-theirs", "/jobs/free-mnist-none", "/jobs/free-mnist-none?wait=60"] {
        let response = server.get(path);
        assert_eq!((response.status, &*response.code()), (404, "job_not_found"), "{path}");
    }
    let job = format!("{JOBS}/{NAME}");
    for (path, behavior, status, code) in [
        (job.as_str(), forbidden("jobs"), 502, "permission_missing"),
        (PODS, forbidden("pods"), 502, "permission_missing"),
        (job.as_str(), ApiResponse::html(200).into(), 502, "not_kubernetes"),
        (PODS, ApiResponse::html(200).into(), 502, "not_kubernetes"),
        (job.as_str(), too_many_requests(60).into(), 503, "kubernetes_overloaded"),
        (PODS, Behavior::Hang, 504, "kubernetes_timeout"),
    ] {
        tier.world().instead.entry(format!("GET {path}")).or_default().push_back(behavior);
        let response = server.get(PATH);
        assert_eq!((response.status, &*response.code()), (status, code), "{path}: {}", response.text());
        if code == "permission_missing" {
            let sentence = response.error();
            assert!(
                sentence.contains("to read Jobs and pods in free-service; run img-classification setup"),
                "{sentence}"
            );
        }
    }
    assert_eq!(server.get(PATH).status, 200);
}

#[test]
fn simulator_job_is_shown_without_watch_to_its_end() {
    let server = Setup::local().args(&["--local-job-seconds", "1"]).start();
    for (tier, network) in [("free", "ff"), ("premium", "cnn")] {
        let posted = server.post(&format!("/img-classification/{tier}"), r#"{"dataset":"kmnist"}"#);
        let path = posted.header("Location").unwrap().to_owned();
        assert_eq!(server.get(&path).status, 200, "at once");
        eventually("its success", || server.get(&path).json()["state"] == "succeeded");
        let job = server.get(&path).json();
        assert_eq!((&job["dataset"], &job["type"], &job["exit_code"]), (&json!("kmnist"), &json!(network), &json!(0)));
        assert!(job["node"].is_string() && job["finished"].is_string() && job["position"].is_null(), "{job}");
    }
}
