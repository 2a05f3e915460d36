//! Watches that break, expire, hang or send malformed events.

use super::{FULL, JOBS, PODS, Tier, WATCHES, job, until_waiting, warnings};
use crate::support::eventually;
use crate::support::kubeconfig::{Kubeconfig, TOKEN};
use crate::support::response::ApiResponse;
use crate::support::server::Setup;
use serde_json::json;
use std::time::{Duration, Instant};

#[test]
fn watch_resumes_after_an_end_or_an_error() {
    let tier = Tier::full();
    let server = tier.watched();
    assert_eq!(tier.requests(JOBS, true)[0].query("resourceVersion"), Some("100"));
    assert_eq!(tier.requests(JOBS, true)[0].query("allowWatchBookmarks"), Some("true"));
    // Only a bookmark carries the new resource version.
    tier.stream()
        .send(r#"{"type":"BOOKMARK","object":{"kind":"Job","metadata":{"resourceVersion":"777","name":null}}}"#);
    tier.stream().end();
    assert_eq!(tier.until_requests(JOBS, true, 2)[1].query("resourceVersion"), Some("777"));
    tier.world().version = 800;
    tier.waits("a", 1, FULL);
    until_waiting(&server, &["a"]);
    tier.api.close_connections();
    assert_eq!(tier.until_requests(JOBS, true, 3)[2].query("resourceVersion"), Some("801"));
    tier.waits("b", 2, FULL);
    until_waiting(&server, &["a", "b"]);
    assert_eq!(tier.requests(JOBS, false).len(), 1, "no second list");
}

#[test]
fn expired_resource_version_causes_a_new_list() {
    let gone = || ApiResponse::failure(410, "Expired", "too old resource version: 100 (200)");
    let tier = Tier::full();
    tier.waits("goes", 1, FULL);
    tier.waits("stays", 2, FULL);
    let server = tier.watched();
    until_waiting(&server, &["goes", "stays"]);
    // No watch reports the changes made meanwhile.
    let stream = std::mem::take(&mut tier.world().watches).remove(JOBS).unwrap();
    tier.world().jobs.remove("goes");
    tier.waits("comes", 3, FULL);
    stream.send(format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", gone().body_json()));
    until_waiting(&server, &["stays", "comes"]);
    assert_eq!(tier.requests(JOBS, false).len(), 2);

    eventually("a watch", || tier.world().watches.contains_key(JOBS));
    tier.instead("WATCH", JOBS, gone());
    tier.world().jobs.remove("comes");
    tier.stream().end();
    until_waiting(&server, &["stays"]);
    assert_eq!(warnings(&server, ""), 0, "{}", server.stderr());
}

#[test]
fn outage_is_logged_once_and_stale_data_is_not_shown() {
    let mut tier = Tier::full();
    tier.waits("a", 1, FULL);
    let server = tier.watched();
    until_waiting(&server, &["a"]);
    tier.api.close_port();
    assert_eq!(server.get("/queue").status, 200, "a restart takes a moment");
    eventually("503", || server.get("/queue").status == 503);
    let watched = [JOBS, PODS].map(|path| tier.requests(path, true).last().unwrap().at).into_iter().min().unwrap();
    // The server's clock begins a moment after the request.
    assert!(watched.elapsed() >= Duration::from_secs(25), "{:?}", watched.elapsed());
    let response = server.get("/queue");
    assert!(
        response.header("Retry-After").is_some() && response.error().contains("cannot be watched"),
        "{}",
        response.text()
    );
    assert_eq!(server.get("/healthz").status, 200);
    tier.world().watches.clear();
    tier.api.reopen_port();
    until_waiting(&server, &["a"]);
    eventually("all watches", || warnings(&server, " restored") == WATCHES);
    for what in ["free-tier Jobs", "free-tier pods", "free-tier quotas", "premium-tier Jobs", "premium-tier pods"] {
        let what = &format!("cannot watch {what}");
        assert_eq!(warnings(&server, what), 1, "{}", server.stderr());
    }
    tier.used(0);
    tier.until_requeued(&["a"]);
}

#[test]
fn dead_watch_connection_is_replaced() {
    let tier = Tier::full();
    let server = tier.watched();
    // From here all watches are dead: no event arrives, and no end.
    tier.world().watches.clear();
    tier.waits("a", 1, FULL);
    tier.used(0);
    tier.until_requeued(&["a"]);
    until_waiting(&server, &["a"]);
    // Changes since the last version could be older than 25 s.
    assert_eq!(tier.requests(JOBS, false).len(), 2);
}

#[test]
fn refusal_by_an_api_server_that_starts_is_short() {
    let tier = Tier::full();
    tier.waits("a", 1, FULL);
    let server = tier.watched();
    until_waiting(&server, &["a"]);
    let words = r#"jobs.batch is forbidden: User "reader" cannot watch resource "jobs" in API group "batch""#;
    tier.instead("WATCH", JOBS, ApiResponse::failure(403, "Forbidden", words));
    tier.stream().end();
    server.wait_for_log("of the refusal", |line| line.starts_with("warning: cannot watch free-tier Jobs"));
    assert_eq!(server.get("/queue").status, 200, "it is recent");
    server.wait_for_log("of its end", |line| line == "warning: watch on free-tier Jobs restored");
    assert_eq!(tier.requests(JOBS, false).len(), 1, "the watch continues at its version");
}

#[test]
fn missing_watch_permission_is_logged_once_and_requests_are_served() {
    let mut tier = Tier::full();
    let words = r#"jobs.batch is forbidden: User "nobody" cannot list resource "jobs" in API group "batch""#;
    (0..9).for_each(|_| tier.instead("GET", JOBS, ApiResponse::failure(403, "Forbidden", words)));
    let server = tier.serve();
    server.wait_for_log("that names the fix", |line| {
        line.starts_with("warning: cannot watch free-tier Jobs")
            && line.contains("k8s/rbac.yaml")
            && line.contains(words)
    });
    let response = server.get("/queue");
    assert!(response.status == 502 && response.error().contains("run img-classification setup"), "{}", response.text());
    assert_eq!((server.post_job().status, server.get("/config").status), (200, 200));

    let other = std::mem::replace(&mut tier, Tier::full());
    tier.waits("a", 1, FULL);
    tier.waits("b", 2, FULL);
    let words = words.replace("list", "patch");
    tier.instead("PATCH", &format!("{JOBS}/a"), ApiResponse::failure(403, "Forbidden", &words));
    let touching = tier.watched();
    tier.used(0);
    let line = touching.wait_for_log("of the failed requeue", |line| line.starts_with("warning: cannot requeue a"));
    assert!(line.contains("k8s/rbac.yaml") && line.contains(&words), "{line}");
    assert_eq!(touching.get("/queue").status, 200);
    let refused = Instant::now();
    eventually("time for another try after a second", || refused.elapsed() > Duration::from_secs(2));
    assert_eq!(tier.requeued(), ["a"], "no requeue during the pause");
    let lists = other.until_requests(JOBS, false, 3);
    assert!(lists[2].at - lists[1].at >= Duration::from_millis(1500), "the second pause: 2 s, with jitter");
    assert_eq!(warnings(&server, "cannot watch free-tier Jobs"), 1, "{}", server.stderr());
}

#[test]
fn missing_cpu_quota_is_an_error_once_and_not_ready_until_it_returns() {
    let tier = Tier::full();
    let server = tier.watched();
    assert_eq!(server.get("/readyz").status, 200);
    for round in 1..=2 {
        tier.limit(&json!({"count/jobs.batch": "300"}));
        eventually("not ready", || server.get("/readyz").status == 503);
        tier.limit(&json!({"pods": "300"}));
        let response = server.get("/readyz");
        assert!(response.error().contains("no quota limits the CPU of free-service"), "{}", response.text());
        tier.limit(&json!({"requests.cpu": "2"}));
        eventually("ready", || server.get("/readyz").status == 200);
        let restored = "a quota limits the CPU of free-service again";
        eventually(restored, || server.stderr().lines().filter(|line| *line == restored).count() == round);
        let text = server.stderr();
        let errors = text.lines().filter(|line| line.starts_with("error: no quota limits the CPU of free-service"));
        assert_eq!(errors.filter(|line| line.contains("img-classification setup")).count(), round, "{text}");
    }
}

#[test]
fn refused_token_is_refreshed() {
    let tier = Tier::full();
    tier.waits("a", 1, FULL);
    let setup = Setup::new();
    let token = setup.file("token", TOKEN);
    let config = Kubeconfig::new(&tier.api.url()).user(json!({ "tokenFile": token }));
    let server = setup.kubeconfig(config.yaml()).env("NO_WATCH", "0").start();
    until_waiting(&server, &["a"]);
    std::fs::write(token, "the next").unwrap();
    tier.world().token = "the next".to_owned();
    tier.world().watches.clear();
    tier.api.close_connections();
    eventually("all watches", || tier.world().watches.len() == WATCHES);
    tier.used(0);
    tier.until_requeued(&["a"]);
    assert_eq!(warnings(&server, " 401 "), 0, "{}", server.stderr());
}

#[test]
fn events_may_be_split_merged_or_of_unknown_type() {
    let tier = Tier::full();
    let server = tier.watched();
    let event = |kind: &str, name: &str, second| {
        let job = job(name, second, FULL, &json!({}), 500);
        format!("{{\"type\":\"{kind}\",\"object\":{job}}}\n")
    };
    let stream = tier.stream();
    for byte in event("ADDED", "torn", 1).bytes() {
        stream.send([byte]);
    }
    until_waiting(&server, &["torn"]);
    let together = [
        "\n \r\n",
        &event("ADDED", "a", 2),
        &event("NOVEL", "b", 3),
        &event("ADDED", "c", 4),
        &event("DELETED", "a", 2),
    ];
    stream.send(together.concat());
    until_waiting(&server, &["torn", "c"]);
    assert_eq!(tier.requests(JOBS, true).len(), 1);
}

#[test]
fn malformed_event_ends_the_watch_and_causes_a_new_list() {
    let big = format!(r#"{{"type":"ADDED","object":{{"metadata":{{"name":"{}"#, "x".repeat(64 * 1024));
    let endless: Vec<String> = std::iter::once(big).chain((0..100).map(|_| "x".repeat(64 * 1024))).collect();
    let whitespace: Vec<String> = (0..100).map(|_| "\n".repeat(64 * 1024)).collect();
    let cases: [(&str, Vec<String>); 5] = [
        ("HTML", vec!["<html></html>\n".into()]),
        ("no type", vec!["{}\n".into()]),
        ("an object that is a number", vec!["{\"type\":\"ADDED\",\"object\":7}\n".into()]),
        ("an endless event", endless),
        ("endless blanks", whitespace),
    ];
    for (what, pieces) in cases {
        let tier = Tier::full();
        let server = tier.watched();
        let stream = tier.stream();
        tier.world().watches.remove(JOBS);
        tier.waits("a", 1, FULL);
        pieces.into_iter().for_each(|piece| stream.send(piece));
        eventually(what, || tier.world().watches.contains_key(JOBS));
        tier.waits("b", 2, FULL);
        eventually(what, || server.get("/queue").json()["waiting"].to_string().contains("\"b\""));
        assert_eq!(tier.requests(JOBS, false).len(), 2, "{what}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
        let peak: u32 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap()
            .trim_end_matches(" kB")
            .trim()
            .parse()
            .unwrap();
        assert!(peak < 40_000, "{what}: {peak} kB");
    }
}

#[test]
fn watch_waits_for_retry_after() {
    const SECONDS: u64 = 4;
    let tier = Tier::full();
    let overloaded = ApiResponse::failure(429, "TooManyRequests", "later").header("Retry-After", &SECONDS.to_string());
    tier.instead("GET", JOBS, overloaded);
    let server = tier.watched();
    let lists = tier.requests(JOBS, false);
    assert!(lists[1].at - lists[0].at >= Duration::from_secs(SECONDS), "{:?}", lists[1].at - lists[0].at);
    drop(server);
}
