//! The series of GET /metrics on Jobs, the queue and the watches.

use super::{FULL, JOBS, Tier, job};
use crate::support::eventually;
use crate::support::metrics::Metrics;
use crate::support::response::ApiResponse;
use crate::support::server::{Server, Setup};
use serde_json::json;

/// Waits until samples have these values.
fn until(server: &Server, samples: &[(&str, f64)]) {
    eventually(&format!("{samples:?}"), || {
        let metrics = Metrics::of(server);
        samples.iter().all(|(sample, value)| metrics.find(sample) == Some(*value))
    });
}

#[test]
fn metrics_count_jobs_by_tier_and_state() {
    let args = ["--local-job-seconds", "3600"];
    let server = Setup::local().env("NO_WATCH", "").args(&args).start();
    until(&server, &[(r#"jobs{tier="free",state="running"}"#, 0.0), (r#"queue_slots{state="free"}"#, 2.0)]);
    let post = |tier: &str| {
        let response = server.post(&format!("/img-classification/{tier}"), r#"{"dataset":"mnist"}"#);
        assert_eq!(response.status, 200, "{}", response.text());
    };
    ["free"; 3].into_iter().for_each(post);
    // Otherwise the premium Job might take one of the two nodes.
    until(&server, &[(r#"jobs{tier="free",state="running"}"#, 2.0)]);
    post("premium");
    until(
        &server,
        &[
            (r#"jobs{tier="free",state="queued"}"#, 1.0),
            (r#"jobs{tier="free",state="running"}"#, 2.0),
            // Both nodes are taken.
            (r#"jobs{tier="premium",state="pending"}"#, 1.0),
            (r#"jobs{tier="premium",state="failed"}"#, 0.0),
            ("queue_length", 1.0),
            (r#"queue_slots{state="used"}"#, 2.0),
            (r#"queue_slots{state="free"}"#, 0.0),
        ],
    );
}

#[test]
fn metrics_count_all_jobs_of_more_than_one_page() {
    let tier = Tier::full();
    let ours = |number: usize| {
        let done = json!({"conditions": [{"type": "Complete", "status": "True"}]});
        let mut job = job(&format!("free-mnist-{number:05}"), 1, FULL, &done, 7);
        job["metadata"]["labels"]["img-classification/dataset"] = json!("mnist");
        job
    };
    for number in 0..1250 {
        tier.world().jobs.insert(number.to_string(), ours(number));
    }
    let server = tier.watched();
    until(&server, &[(r#"jobs{tier="free",state="succeeded"}"#, 1250.0), (r#"jobs{tier="free",state="queued"}"#, 0.0)]);
}

#[test]
fn metrics_show_the_queue() {
    let tier = Tier::full();
    tier.waits("a", 1, FULL);
    tier.waits("b", 2, FULL);
    let server = tier.watched();
    tier.runs("c", 3);
    until(
        &server,
        &[("queue_length", 2.0), (r#"queue_slots{state="used"}"#, 1.0), (r#"queue_slots{state="free"}"#, 0.0)],
    );
    // The Jobs were created in January 2026.
    let wait = Metrics::of(&server).get("queue_oldest_wait_seconds");
    assert!(wait > 86_400.0, "{wait}");
    tier.used(0);
    until(&server, &[(r#"queue_slots{state="free"}"#, 2.0)]);
    tier.limit(&json!({}));
    eventually("no slots without a limit", || Metrics::of(&server).find(r#"queue_slots{state="free"}"#).is_none());
}

#[test]
fn metrics_count_restarts_lists_and_failures_of_a_watch() {
    let mut tier = Tier::full();
    let server = tier.watched();
    let all = |connections, lists| {
        [
            (r#"watch_connections_total{watch="jobs-free"}"#, connections),
            (r#"watch_lists_total{watch="jobs-free"}"#, lists),
        ]
    };
    until(&server, &all(1.0, 1.0));
    let age = Metrics::of(&server).get(r#"watch_age_seconds{watch="jobs-free"}"#);
    assert!((0.0..25.0).contains(&age), "{age}");
    tier.stream().end();
    until(&server, &all(2.0, 1.0));
    let gone = ApiResponse::failure(410, "Expired", "too old resource version: 100 (200)");
    tier.stream().send(format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", gone.body_json()));
    until(&server, &all(3.0, 2.0));
    until(&server, &[(r#"watch_failures_total{watch="jobs-free"}"#, 0.0)]);
    let metrics = Metrics::of(&server);
    assert_eq!(metrics.get(r#"kubernetes_requests_total{verb="watch",result="4xx"}"#), 1.0, "{}", metrics.text);
    assert_eq!(metrics.find(r#"kubernetes_request_duration_seconds_count{verb="watch"}"#), None);
    tier.api.close_port();
    eventually("failures", || {
        let metrics = Metrics::of(&server);
        let watches = ["jobs-free", "pods-free", "jobs-premium", "pods-premium", "quotas"];
        watches.iter().all(|watch| metrics.get(&format!(r#"watch_failures_total{{watch="{watch}"}}"#)) > 0.0)
    });
    // The state is hidden once it is too old; its age is not. The watch of the pods has been connected for longer.
    eventually("no Jobs", || Metrics::of(&server).find("queue_length").is_none());
    assert!(Metrics::of(&server).get(r#"watch_age_seconds{watch="pods-free"}"#) > 25.0);
    assert_eq!(tier.requests(JOBS, false).len(), 2);
}
