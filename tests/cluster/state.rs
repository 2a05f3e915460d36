//! The watched state: GET /config against a list of the same cluster, and GET /jobs.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::queue::requeueing_server;
use super::{
    FREE, PREMIUM, QUOTA_BACKOFF, SOON, empty_cluster, expected_config, jobs, kubectl_ok, pods, pods_of, post_ok, text,
    within,
};
use crate::support::http::Response;
use crate::support::server::Server;

/// The line that tells that the watch is live.
const LIVE: &str = "GET /config is answered from the watched pods";

/// The answer of Kubernetes itself.
fn listed(server: &Server) -> Response {
    server.connect().request_with("GET", "/config", "Cache-Control: no-cache\r\n", b"")
}

#[test]
fn watched_pods_equal_a_list_of_a_changing_cluster_at_each_rest() {
    empty_cluster();
    let (_home, server) = requeueing_server("short", &[]);
    assert_eq!(pods_of(&server.get("/config")), expected_config());
    server.wait_for_log("of the watch", |line| line == LIVE);
    for round in 0..3 {
        let names: Vec<String> = (0..3).map(|_| post_ok(&server, "free", "mnist")).collect();
        post_ok(&server, "premium", "kmnist");
        within(SOON, "a pod in each tier", || {
            let pods = pods_of(&server.get("/config"));
            let has = |namespace: &str| pods.values().any(|pod| text(pod, "/namespace") == namespace);
            (has(FREE) && has(PREMIUM)).then_some(())
        });
        // Two end by themselves, one is deleted.
        kubectl_ok(&["delete", "job", &names[round], "-n", FREE]);
        within(QUOTA_BACKOFF, "every Job has ended", || {
            let has_ended = |job: &serde_json::Value| !text(job, "/status/completionTime").is_empty();
            jobs(FREE).iter().chain(&jobs(PREMIUM)).all(has_ended).then_some(())
        });
        within(SOON, "the same bytes from the watch and from a list", || {
            let (watched, list) = (server.get("/config"), listed(&server));
            let is_same = watched.body == list.body && watched.header("ETag") == list.header("ETag");
            (is_same && watched.status == 200).then_some(())
        });
        assert_eq!(pods_of(&server.get("/config")), expected_config());
    }
    // No failure, so each answer came from the watch.
    let log = server.log_until_now();
    assert_eq!(log.lines().filter(|line| *line == LIVE).count(), 1, "{log}");
}

/// Waits until a Job is in a state; returns it.
fn until(server: &Server, name: &str, state: &str) -> Value {
    within(QUOTA_BACKOFF, &format!("{name} is {state}"), || {
        let response = server.get(&format!("/jobs/{name}"));
        (response.status == 200 && text(&response.json(), "/state") == state).then(|| response.json())
    })
}

#[test]
fn job_resources_tell_what_became_of_each_job() {
    empty_cluster();
    let (_home, server) = requeueing_server("short", &[]);
    let posted: Vec<String> = (0..3).map(|_| post_ok(&server, "free", "mnist")).collect();
    let premium = post_ok(&server, "premium", "kmnist");
    let queued = until(&server, &posted[2], "queued");
    assert_eq!((&queued["position"], text(&queued, "/reason")), (&json!(1), "waits for one of 2 free slots"));
    for name in posted.iter().chain([&premium]) {
        let job = until(&server, name, "succeeded");
        assert!(job["accuracy"].as_f64().is_some_and(|accuracy| (0.0..=1.0).contains(&accuracy)), "{job}");
        assert!(job["exit_code"] == 0 && job["reason"].is_null() && job["position"].is_null(), "{job}");
        assert!(text(&job, "/created") <= text(&job, "/started"), "{job}");
        assert!(text(&job, "/started") < text(&job, "/finished"), "{job}");
        let pods = pods(if *name == premium { PREMIUM } else { FREE });
        let pod = pods.iter().find(|pod| text(pod, "/metadata/labels/job-name") == name).unwrap();
        assert_eq!(text(&job, "/node"), text(pod, "/spec/nodeName"));
    }
    let listed = server.get("/jobs").json();
    let listed: BTreeSet<&str> = listed["jobs"].as_array().unwrap().iter().map(|job| text(job, "/job")).collect();
    assert_eq!(listed, posted.iter().chain([&premium]).map(String::as_str).collect());

    let (_home, failing) = requeueing_server("fails", &[]);
    let job = until(&failing, &post_ok(&failing, "premium", "mnist"), "failed");
    assert_eq!((text(&job, "/reason"), &job["exit_code"]), ("exit code 1", &json!(1)), "{job}");

    let (_home, missing) = requeueing_server("missing", &["--job-timeout", "15"]);
    let name = post_ok(&missing, "premium", "mnist");
    within(SOON, "the reason", || {
        let job = missing.get(&format!("/jobs/{name}")).json();
        (text(&job, "/state") == "pending" && text(&job, "/reason").starts_with("image ")).then_some(())
    });
    let job = until(&missing, &name, "failed");
    assert_eq!((text(&job, "/reason"), &job["started"]), ("ran longer than 15 s", &Value::Null), "{job}");
    // A Job that is deleted is gone, for every server.
    kubectl_ok(&["delete", "job", &name, "-n", PREMIUM, "--wait=false"]);
    within(SOON, "404", || (server.get(&format!("/jobs/{name}")).status == 404).then_some(()));
}
