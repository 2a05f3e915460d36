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
    // Whichever of them Kubernetes handles last: all are of the same second.
    within(SOON, "one of three Jobs waits for a slot", || {
        let is_next = |name: &String| {
            let job = server.get(&format!("/jobs/{name}")).json();
            job["position"] == 1 && text(&job, "/reason") == "waits for one of 2 free slots"
        };
        posted.iter().any(is_next).then_some(())
    });
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

#[test]
fn log_is_followed_to_its_end_and_a_deleted_job_makes_room() {
    empty_cluster();
    let folder = tempfile::TempDir::new().unwrap();
    let token = folder.path().join("admin-token");
    std::fs::write(&token, "admin").unwrap();
    let (_home, short) = requeueing_server("short", &[]);
    let name = post_ok(&short, "premium", "mnist");
    let logs = format!("/jobs/{name}/logs");
    // It answers 409 until its container runs, then the whole log as it arrives.
    let followed = within(SOON, "a log", || {
        let response = short.get(&format!("{logs}?follow=true"));
        // Before its container runs, and before the new server knows the Job.
        let early = ["not_started", "job_not_found", "jobs_unknown"];
        assert!(response.status == 200 || early.contains(&&*response.code()), "{}", response.text());
        (response.status == 200).then_some(response)
    });
    assert!(followed.text().starts_with("dataset: mnist\n"), "{}", followed.text());
    assert!(followed.text().lines().last().unwrap().starts_with("Accuracy of the network"), "{}", followed.text());
    assert_eq!(followed.text(), kubectl_ok(&["logs", &format!("job/{name}"), "-n", PREMIUM]));
    assert_eq!(short.get(&logs).body, followed.body);
    let last = followed.text().lines().last().unwrap().to_owned() + "\n";
    assert_eq!(short.get(&format!("{logs}?tail=1")).text(), last);

    let (_home, long) = requeueing_server("long", &["--admin-token-file", token.to_str().unwrap()]);
    let mut posted: Vec<String> = (0..2).map(|_| post_ok(&long, "free", "mnist")).collect();
    posted.iter().for_each(|name| drop(until(&long, name, "running")));
    posted.push(post_ok(&long, "free", "mnist"));
    until(&long, &posted[2], "queued");
    let early = long.get(&format!("/jobs/{}/logs", posted[2]));
    assert_eq!((early.status, early.code().as_str()), (409, "not_started"), "{}", early.text());
    let delete = |name: &str| {
        let header = "Authorization: Bearer admin\r\n";
        long.connect().request_with("DELETE", &format!("/jobs/{name}"), header, b"")
    };
    assert_eq!(delete(&posted[0]).status, 202);
    assert_eq!((long.get(&format!("/jobs/{}", posted[0])).status, delete(&posted[0]).status), (404, 404));
    until(&long, &posted[2], "running");
    // The end of its pod makes room; then Kubernetes deletes the pod, and after it the Job.
    within(SOON, "the end of the deleted Job and its pod", || {
        let is_its = |pod: &Value| text(pod, "/metadata/labels/job-name") == posted[0];
        let is_it = |job: &Value| text(job, "/metadata/name") == posted[0];
        (!pods(FREE).iter().any(is_its) && !jobs(FREE).iter().any(is_it)).then_some(())
    });
}
