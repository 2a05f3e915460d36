//! Requeueing of the oldest waiting Job, and GET /queue.

use super::{EVENTS, FULL, JOBS, SMALL, Tier, WATCHES, job, names, until_waiting, warnings};
use crate::support::eventually;
use crate::support::response::{ApiResponse, Behavior, Latch, internal_error, too_many_requests};
use crate::support::server::Setup;
use serde_json::json;
use std::time::{Duration, Instant};

#[test]
fn oldest_job_is_requeued_when_the_quota_has_room() {
    let tier = Tier::full();
    for (name, second) in [("younger", 2), ("oldest", 1), ("youngest", 3)] {
        tier.waits(name, second, FULL);
    }
    let _server = tier.watched();
    // The only Job that fits. The earlier Jobs have been considered by now.
    tier.waits("small", 9, SMALL);
    tier.until_requeued(&["small"]);
    tier.put("small", 9, SMALL, &json!({"succeeded": 1}));

    tier.used(900);
    tier.until_requeued(&["small", "oldest"]);
    tier.runs("oldest", 1);
    tier.used(1800);
    tier.waits("small-again", 9, SMALL);
    tier.until_requeued(&["small", "oldest", "small-again"]);
    tier.put("small-again", 9, SMALL, &json!({"succeeded": 1}));

    tier.used(0);
    tier.until_requeued(&["small", "oldest", "small-again", "younger", "youngest"]);
    let world = tier.world();
    let had_room =
        |(name, used, _): &(String, u32, Instant)| used + if name.starts_with("small") { 100 } else { 900 } <= 2000;
    assert!(world.touches.iter().all(had_room), "{:?}", world.touches);
}

#[test]
fn one_free_slot_is_one_requeue_and_a_job_that_does_not_start_yields() {
    let tier = Tier::full();
    tier.waits("stuck", 1, FULL);
    tier.waits("next", 2, FULL);
    let _server = tier.watched();
    tier.used(900);
    tier.until_requeued(&["stuck", "next"]);
    let world = tier.world();
    assert!(world.touches[1].2 - world.touches[0].2 >= Duration::from_millis(4900), "{:?}", world.touches);
}

#[test]
fn conflict_is_retried_after_a_pause() {
    let tier = Tier::full();
    tier.waits("a", 1, FULL);
    tier.instead("PATCH", &format!("{JOBS}/a"), ApiResponse::failure(409, "Conflict", "the object has been modified"));
    tier.instead("PATCH", &format!("{JOBS}/a"), ApiResponse::failure(409, "Conflict", "the object has been modified"));
    let server = tier.watched();
    tier.used(0);
    tier.until_requeued(&["a", "a", "a"]);
    let times: Vec<Instant> = tier.world().touches.iter().map(|(_, _, at)| *at).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_millis(900)), "{times:?}");
    assert_eq!(warnings(&server, ""), 0, "{}", server.stderr());
}

#[test]
fn job_of_another_program_has_its_turn_and_is_never_changed() {
    let tier = Tier::full();
    let mut theirs = job("theirs", 1, FULL, &json!({}), 101);
    theirs["metadata"]["labels"] = json!({"app.kubernetes.io/managed-by": "argo"});
    tier.put_job("theirs", &theirs);
    tier.waits("ours", 2, FULL);
    let server = tier.watched();
    until_waiting(&server, &["theirs", "ours"]);
    let freed = Instant::now();
    tier.used(900);
    tier.until_requeued(&["ours"]);
    let at = tier.world().touches[0].2;
    assert!(at - freed >= Duration::from_secs(5), "the older Job had no turn: {:?}", at - freed);
}

#[test]
fn job_that_cannot_start_for_its_own_fault_is_logged_once_with_the_event() {
    let tier = Tier::full();
    tier.waits("a", 1, FULL);
    tier.waits("b", 2, FULL);
    let event = |of: &str, reason: &str| {
        let message = format!("Error creating: pods \"{of}-x7k2p\" is forbidden: {reason}");
        let older = json!({"message": "Error creating: exceeded quota: q", "lastTimestamp": "2026-01-01T00:00:01Z"});
        let event = json!({"message": message, "lastTimestamp": "2026-01-01T00:00:02Z"});
        let metadata = json!({"resourceVersion": "7"});
        ApiResponse::json(200, &json!({"kind": "EventList", "metadata": metadata, "items": [event, older]}))
    };
    let fault = "failed quota: q: must specify limits.cpu";
    // Both are tried twice; the last answer is a marker.
    for reply in [event("a", fault), event("b", fault), event("a", fault), event("b", "marker")] {
        tier.instead("GET", EVENTS, reply);
    }
    let server = tier.watched();
    tier.used(0);
    server.wait_for_log("of the second attempt", |line| line.starts_with("warning: b cannot start: marker; fix: "));
    let text = server.stderr();
    assert_eq!(warnings(&server, "a cannot start: failed quota: q: must specify limits.cpu; fix: "), 1, "{text}");
    assert_eq!(warnings(&server, fault), 1, "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("requeued a: ")).count(), 1, "{text}");
    let asked = tier.requests(EVENTS, false);
    let selector = asked[0].query("fieldSelector").unwrap();
    assert!(selector.contains("involvedObject.name%3Da%2Creason%3DFailedCreate"), "{selector}");
}

#[test]
fn job_whose_image_is_missing_is_starting_with_the_reason_and_logged_once() {
    let tier = Tier::full();
    let server = tier.watched();
    let waiting = |reason: &str, message: &str, image: &str| {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        json!({"phase": "Pending", "containerStatuses": [{"image": image, "state": state}]})
    };
    let starting = || server.get("/queue").json()["starting"].clone();
    tier.starts("a", 1);
    eventually("a starting Job", || starting()[0]["reason"] == "its container is being created");
    for job in ["a", "b"] {
        tier.put_pod(job, &waiting("ErrImagePull", "rpc error: x:missing: not found", "x:missing"));
        tier.put_pod(job, &waiting("ImagePullBackOff", "Back-off pulling image", "x:missing"));
    }
    tier.starts("b", 2);
    let entry =
        |job: &str| json!({"job": job, "since": "2026-01-01T00:01:00Z", "reason": "image not found: x:missing"});
    eventually("the reason", || starting() == json!([entry("a"), entry("b")]));
    tier.put_pod("c", &waiting("InvalidImageName", "couldn't parse", "X"));
    server.wait_for_log("of the other reason", |line| {
        line.starts_with("warning: c cannot start: image name is invalid: X")
    });
    assert_eq!(warnings(&server, "cannot start: image not found: x:missing"), 1, "{}", server.stderr());
    tier.runs("a", 1);
    eventually("a running Job", || names(&server.get("/queue").json(), "running") == ["a"]);
}

/// The least time between the first two requeues of a tier of 300 Jobs that answers the first with this response.
fn pause_after(response: &ApiResponse) -> Duration {
    let tier = Tier::full();
    let names: Vec<String> = (0..300).map(|number| format!("job-{number:03}")).collect();
    for name in &names {
        tier.waits(name, 1, FULL);
        tier.instead("PATCH", &format!("{JOBS}/{name}"), response.clone());
    }
    let server = tier.watched();
    until_waiting(&server, &names.iter().map(String::as_str).collect::<Vec<_>>());
    tier.used(0);
    eventually("a second requeue", || tier.requeued().len() >= 2);
    assert_eq!(warnings(&server, "cannot requeue job-000"), 1, "{}", server.stderr());
    let world = tier.world();
    assert_eq!((world.touches[0].0.as_str(), world.touches[1].0.as_str()), ("job-000", "job-000"));
    world.touches[1].2 - world.touches[0].2
}

#[test]
fn failed_requeue_pauses_all_others() {
    let pause = pause_after(&internal_error());
    assert!(pause >= Duration::from_secs(5), "{pause:?}");
}

#[test]
fn overloaded_kubernetes_sets_the_pause_of_all_requeues() {
    let pause = pause_after(&too_many_requests(8));
    assert!(pause >= Duration::from_secs(8), "{pause:?}");
}

#[test]
fn queue_shows_watched_jobs_in_order() {
    let tier = Tier::full();
    let latch = Latch::default();
    tier.runs("first", 1);
    tier.put("over", 1, FULL, &json!({"succeeded": 1}));
    tier.waits("b", 4, FULL);
    tier.waits("a", 5, FULL);
    let list = ApiResponse::json(
        200,
        &json!({"kind": "JobList", "metadata": {"resourceVersion": "1", "continue": "x"}, "items": null}),
    );
    tier.instead("GET", JOBS, Behavior::After(latch.clone(), Box::new(list.into())));
    let server = tier.serve();
    tier.until_requests(JOBS, false, 1);
    let response = server.get("/queue");
    assert_eq!((response.status, response.header("Retry-After")), (503, Some("5")), "{}", response.text());
    assert!(response.error().contains("not known yet"), "{}", response.text());
    latch.open();
    until_waiting(&server, &["b", "a"]);
    assert_eq!(tier.requests(JOBS, false)[1].query("continue"), Some("x"), "the second page");
    let response = server.get("/queue?x=y");
    let expected = r#"{"running":[{"job":"first","since":"2026-01-01T00:01:00Z"}],"starting":[],"waiting":[{"job":"b","position":1,"since":"2026-01-01T00:00:04Z"},{"job":"a","position":2,"since":"2026-01-01T00:00:05Z"}]}"#;
    assert_eq!(response.text(), expected);
    let head = server.connect().request("HEAD", "/queue", None);
    assert_eq!((head.status, head.header("Content-Length")), (200, Some(expected.len().to_string().as_str())));
    let post = server.post("/queue", "{}");
    assert_eq!((post.status, post.header("Allow")), (405, Some("GET, HEAD, OPTIONS")));

    let requests_before = tier.api.requests().len();
    tier.runs("b", 4);
    until_waiting(&server, &["a"]);
    // Its pod comes by another watch than the Job.
    eventually("its pod runs", || names(&server.get("/queue").json(), "running") == ["first", "b"]);
    let queue = server.get("/queue").json();
    assert!(queue["running"][1]["since"].as_str().unwrap() > "2026-01-02", "it began when the event arrived: {queue}");
    assert_eq!(tier.api.requests().len(), requests_before, "GET /queue sends no request");
}

#[test]
fn disabled_requeue_shows_the_queue_and_changes_no_job() {
    let tier = Tier::full();
    tier.waits("a", 1, FULL);
    let idle = Setup::for_api(&tier.api).env("NO_WATCH", "").args(&["--no-requeue"]).start();
    idle.wait_for_log("of the option", |line| line == "requeue: off");
    until_waiting(&idle, &["a"]);
    eventually("all watches", || tier.world().watches.len() == WATCHES);
    tier.used(0);
    // Another server sees the same, and requeues.
    let active = tier.watched();
    tier.until_requeued(&["a"]);
    assert_eq!(warnings(&idle, "requeue") + warnings(&active, "requeue"), 0);
    assert!(!idle.log_until_now().contains("requeued a"), "{}", idle.stderr());
}

#[test]
fn disabled_watch_keeps_no_state_and_the_queue_names_the_option() {
    let tier = Tier::full();
    let server = Setup::for_api(&tier.api).args(&["--no-watch"]).start();
    for path in ["/queue", "/jobs"] {
        let response = server.get(path);
        assert!(response.status == 404 && response.error().contains("--no-watch"), "{path} {}", response.text());
    }
    assert_eq!(server.get("/readyz").status, 200);
    assert!(tier.api.requests().iter().all(|request| request.query("watch").is_none()), "{:?}", tier.api.requests());
}

#[test]
fn simulator_queue_moves_in_order() {
    let server = Setup::local().env("NO_WATCH", "").args(&["--local-job-seconds", "1"]).start();
    let posted: Vec<String> = (0..8).map(|_| server.post_job().json()["job"].as_str().unwrap().to_owned()).collect();
    eventually("all eight", || {
        let queue = server.get("/queue").json();
        ["running", "starting", "waiting"].iter().map(|key| names(&queue, key).len()).sum::<usize>() == 8
    });
    eventually("an empty queue", || server.get("/queue").text() == r#"{"running":[],"starting":[],"waiting":[]}"#);
    let log = server.log_until_now();
    let requeued: Vec<&str> =
        log.lines().filter_map(|line| line.strip_prefix("requeued ")?.split(':').next()).collect();
    let mut in_order: Vec<&String> = posted.iter().filter(|name| requeued.contains(&name.as_str())).collect();
    in_order.dedup();
    assert_eq!(requeued, in_order, "each once, the oldest first");
    assert!(!requeued.is_empty(), "the Job controller alone started all: {log}");
}
