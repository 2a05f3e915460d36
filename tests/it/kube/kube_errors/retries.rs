//! Retries of a create: at most one Job, whichever response is lost.

use super::{check_retry_after, check_sentence, creates, started};
use crate::support::LONG_KUBE_TIMEOUT;
use crate::support::api::{ApiServer, Listen, Request};
use crate::support::response::{
    Accept, ApiResponse, Behavior, conflict, internal_error, no_permission, quota_full, too_many_requests, unavailable,
};
use crate::support::server::Setup;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Instant;

#[test]
fn transient_errors_are_retried_until_the_job_exists() {
    let cases: Vec<(&str, Vec<Behavior>)> = vec![
        ("conflict", vec![conflict().into(), conflict().into()]),
        ("internal error", vec![internal_error().into()]),
        ("unavailable", vec![unavailable().into(), unavailable().into()]),
        ("too many requests", vec![too_many_requests(0).into()]),
        ("gateway's HTML", vec![ApiResponse::html(503).into(), ApiResponse::html(502).into()]),
        ("closed unanswered", vec![Behavior::Close]),
        ("closed unanswered twice", vec![Behavior::Close, Behavior::Close]),
        ("reset unanswered", vec![Behavior::Reset]),
        ("response lost", vec![Behavior::ApplyThenDrop]),
        ("response lost, then errors", vec![Behavior::ApplyThenDrop, unavailable().into(), Behavior::Close]),
        ("errors, then response lost", vec![internal_error().into(), Behavior::ApplyThenDrop]),
        ("response lost, then one that is cut", vec![Behavior::ApplyThenDrop, taken().cut(20).into()]),
        ("response lost, then chunks that are cut", vec![Behavior::ApplyThenDrop, taken().chunked().cut(80).into()]),
        ("response lost, then gzip that is cut", vec![Behavior::ApplyThenDrop, taken().gzip().cut(30).into()]),
        ("response lost, then gzip that is broken", vec![Behavior::ApplyThenDrop, taken().gzip().corrupted(40).into()]),
        ("response cut in its first word", vec![Behavior::ApplyThenTruncate(5)]),
        ("response cut in its status line", vec![Behavior::ApplyThenTruncate(15)]),
        ("response cut in a header", vec![Behavior::ApplyThenTruncate(40)]),
        ("response cut twice", vec![Behavior::ApplyThenTruncate(40), Behavior::ApplyThenTruncate(1)]),
        ("several of a kind", vec![Behavior::Reset, conflict().into(), Behavior::ApplyThenDrop]),
    ];
    std::thread::scope(|scope| {
        for (what, responses) in cases {
            scope.spawn(move || {
                let (api, server) = started(20);
                let fault = responses.len();
                api.queue(responses);
                let response = server.post_job();
                assert_eq!(response.status, 200, "{what}: {}", response.text());
                let jobs = api.jobs();
                assert_eq!(jobs.len(), 1, "{what}");
                assert_eq!(response.json()["job"], jobs[0]["metadata"]["name"], "{what}");
                let creates = creates(&api);
                assert_eq!(creates.len(), fault + 1, "{what}");
                let names: BTreeSet<String> =
                    creates.iter().map(|create| create.json()["metadata"]["name"].to_string()).collect();
                assert_eq!(names.len(), 1, "{what}: repeated under another name");
            });
        }
    });
}

#[test]
fn error_of_an_overloaded_or_failing_kubernetes_is_retried_three_times() {
    let mut cases: Vec<(String, Behavior)> = vec![("broken".into(), Behavior::ApplyThenTruncate(40))];
    for status in [500, 502, 503, 504] {
        cases.push((status.to_string(), ApiResponse::failure(status, "Failing", "not now").into()));
    }
    cases.push(("429".into(), too_many_requests(0).into()));
    std::thread::scope(|scope| {
        for (what, behavior) in cases {
            scope.spawn(move || {
                let (api, server) = started(LONG_KUBE_TIMEOUT);
                api.always(behavior);
                let response = server.get("/config");
                assert_eq!(response.status, 503, "{what}: {}", response.text());
                check_sentence(&response);
                check_retry_after(&response);
                assert_eq!(api.requests().len(), 4, "{what}");
            });
        }
    });
}

#[test]
fn error_that_a_retry_cannot_resolve_gets_one_request() {
    std::thread::scope(|scope| {
        for status in [400, 403, 404, 405, 409, 410, 413, 415, 422, 501, 505, 507] {
            scope.spawn(move || {
                let (api, server) = started(LONG_KUBE_TIMEOUT);
                api.always(ApiResponse::failure(status, "Any", "no"));
                assert!(server.post_job().status >= 502, "{status}");
                assert!(server.get("/config").status >= 502, "{status}");
                assert_eq!(api.requests().len(), 2, "{status}");
            });
        }
    });
}

#[test]
fn requests_to_a_failing_kubernetes_share_one_retry_budget() {
    const POSTS: usize = 64;
    let (api, server) = started(LONG_KUBE_TIMEOUT);
    api.always(internal_error());
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..POSTS {
            scope.spawn(|| assert_eq!(server.post_job().status, 503));
        }
    });
    // A tenth of the requests and two a second, from a full budget of three.
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    let budget = POSTS / 10 + 2 * seconds + 3;
    let retries = creates(&api).len() - POSTS;
    assert!((3..=budget).contains(&retries), "{retries} retries of at most {budget}");
}

/// Sends 32 POSTs at once, whose first attempts fail in this way, and checks that each creates exactly one Job.
fn check_burst(failure: impl Fn() -> Behavior + Send + 'static) {
    const POSTS: usize = 32;
    let (api, server) = started(LONG_KUBE_TIMEOUT);
    let mut names = BTreeSet::new();
    api.script(move |request| {
        let name = request.json()["metadata"]["name"].to_string();
        if names.insert(name) { failure() } else { Behavior::Default }
    });
    std::thread::scope(|scope| {
        for _ in 0..POSTS {
            scope.spawn(|| {
                let response = server.post_job();
                assert_eq!(response.status, 200, "{}", response.text());
            });
        }
    });
    assert_eq!((api.jobs().len(), creates(&api).len()), (POSTS, 2 * POSTS));
}

#[test]
fn burst_of_quota_conflicts_creates_every_job() {
    check_burst(|| conflict().into());
}

#[test]
fn burst_of_lost_responses_creates_every_job_once() {
    check_burst(|| Behavior::ApplyThenDrop);
}

#[test]
fn quota_error_after_a_refused_connection_is_429() {
    let mut api = ApiServer::listen(&Listen { ip: "127.0.0.2", ..Listen::default() });
    let server = Setup::for_api(&api).args(&["--kube-timeout", "25", "--log-level", "debug"]).start();
    api.close_port();
    api.always(quota_full());
    std::thread::scope(|scope| {
        let response = scope.spawn(|| server.post_job());
        server.wait_for_log("of the first retry", |line| line.contains("retrying in"));
        api.reopen_port();
        let response = response.join().unwrap();
        assert_eq!(response.status, 429, "nothing was sent before: {}", response.text());
    });
}

#[test]
fn refused_or_reset_connection_is_retried() {
    for accepts in [vec![Accept::Reset], vec![Accept::ResetAfterHead], vec![Accept::Reset, Accept::ResetAfterHead]] {
        let (api, server) = started(20);
        let failed = accepts.len();
        api.on_accept(accepts);
        let response = server.post_job();
        assert_eq!((response.status, api.jobs().len()), (200, 1), "{}", response.text());
        assert_eq!(api.connections(), failed + 1);
    }
}

#[test]
fn existing_job_of_the_same_name_is_not_counted_as_created() {
    // No response was lost here: the first response reports another client's Job with this name.
    let (api, server) = started(3);
    api.script(|request| {
        let name = request.json()["metadata"]["name"].as_str().unwrap().to_owned();
        ApiResponse::failure(409, "AlreadyExists", &format!("jobs.batch \"{name}\" already exists")).into()
    });
    let response = server.post_job();
    assert_ne!(response.status, 200, "no Job was created for this request");
    check_sentence(&response);
}

/// A 409 AlreadyExists: this request or another client has created a Job with this name.
fn taken() -> ApiResponse {
    ApiResponse::failure(409, "AlreadyExists", &format!("jobs.batch \"x\" already exists{}", " ".repeat(100)))
}

#[test]
fn lost_create_followed_by_a_quota_error_is_outcome_unknown() {
    for lost in [Behavior::ApplyThenDrop, Behavior::Reset] {
        let stored = usize::from(matches!(lost, Behavior::ApplyThenDrop));
        let (api, server) = started(LONG_KUBE_TIMEOUT);
        let mut first = Some(lost);
        api.script(move |_| first.take().unwrap_or_else(|| quota_full().into()));
        let response = server.post_job();
        // The Job may be stored, so 429 (retry) would create a second one. It may be missing, so 200 would be false.
        assert_eq!(response.status, 504, "{}", response.text());
        check_sentence(&response);
        assert_eq!(api.jobs().len(), stored);
    }
}

#[test]
fn create_that_gives_up_after_a_lost_response_is_outcome_unknown() {
    type Later = fn() -> Behavior;
    let later: [(&str, Later); 4] = [
        ("every response lost", || Behavior::Close),
        ("then overload", || too_many_requests(0).into()),
        ("then a failure", || internal_error().into()),
        ("then a conflict", || conflict().into()),
    ];
    for (what, later) in later {
        let (api, server) = started(LONG_KUBE_TIMEOUT);
        let mut first = Some(Behavior::ApplyThenDrop);
        api.script(move |_| first.take().unwrap_or_else(later));
        let response = server.post_job();
        // "Try again" would create a second Job.
        assert_eq!(response.status, 504, "{what}: {}", response.text());
        assert!(response.error().contains("whether the Job is there"), "{what}: {}", response.text());
        assert_eq!(api.jobs().len(), 1, "{what}");
    }
}

#[test]
fn refusal_after_a_broken_connection_is_reported_as_that() {
    let (api, server) = started(LONG_KUBE_TIMEOUT);
    let mut first = Some(Behavior::Close);
    api.script(move |_| first.take().unwrap_or_else(|| no_permission().into()));
    let response = server.post_job();
    assert_eq!(response.status, 502, "{}", response.text());
    assert!(response.error().contains("img-classification setup"), "{}", response.text());
}

#[test]
fn quota_error_after_an_unstored_attempt_is_429() {
    for refused in [conflict(), too_many_requests(0)] {
        let (api, server) = started(10);
        let mut first = Some(refused);
        api.script(move |_| first.take().unwrap_or_else(quota_full).into());
        let response = server.post_job();
        assert_eq!(response.status, 429, "{}", response.text());
        check_retry_after(&response);
    }
}

/// Truncates a response.
pub type Cut = fn(ApiResponse) -> ApiResponse;

#[test]
fn create_job_repeats_the_same_name_after_a_lost_response() {
    // The Job is stored, but its response is truncated: in the body, in a chunk, in the gzip stream, or inside the
    // JSON.
    let stored = |request: &Request| {
        let mut job = request.json();
        job["status"] = json!({"padding": "x".repeat(3000)});
        job
    };
    let cuts: [(&str, Cut); 4] = [
        ("length", |reply| reply.cut(500)),
        ("chunked", |reply| reply.chunked().cut(1500)),
        ("gzip", |reply| reply.gzip().cut(100)),
        ("broken gzip", |reply| reply.gzip().corrupted(100)),
    ];
    for (what, cut) in cuts {
        let (api, server) = started(10);
        let mut first = None;
        api.script(move |request| {
            let name = request.json()["metadata"]["name"].to_string();
            if first.is_none() {
                first = Some(name);
                return cut(ApiResponse::json(201, &stored(request))).into();
            }
            assert_eq!(first.as_ref(), Some(&name));
            ApiResponse::failure(409, "AlreadyExists", &format!("jobs.batch {name} already exists")).into()
        });
        let response = server.post_job();
        // The status 201 confirms the Job, so a response without a retry is acceptable.
        assert_eq!(response.status, 200, "{what}: {}", response.text());
        let names: BTreeSet<String> =
            creates(&api).iter().map(|create| create.json()["metadata"]["name"].to_string()).collect();
        assert_eq!(names.len(), 1, "{what}");
    }
}

#[test]
fn html_page_is_never_a_success() {
    for status in [200, 201, 302, 404] {
        let (api, server) = started(1);
        api.always(ApiResponse::html(status));
        for response in [server.post_job(), server.get("/config")] {
            assert!((502..=504).contains(&response.status), "{status}: {} {}", response.status, response.text());
            check_sentence(&response);
        }
        assert_eq!(server.get("/readyz").status, 503, "{status}");
    }
}

#[test]
fn create_with_an_invalid_response_is_never_repeated_under_another_name() {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}).to_string();
    for body in [r#"{"kind":"Job","metadata":{"name":"fr"#, "", "null", "[]", status.as_str()] {
        let (api, server) = started(2);
        let strange = ApiResponse::new(201, "application/json", body);
        let mut stored = false;
        api.script(move |request| {
            if std::mem::replace(&mut stored, true) {
                let name = request.json()["metadata"]["name"].to_string();
                return ApiResponse::failure(409, "AlreadyExists", &format!("jobs.batch {name} already exists")).into();
            }
            strange.clone().into()
        });
        let response = server.post_job();
        assert!([200, 502, 503, 504].contains(&response.status), "{body}: {}", response.status);
        let names: BTreeSet<String> =
            creates(&api).iter().map(|create| create.json()["metadata"]["name"].to_string()).collect();
        assert_eq!(names.len(), 1, "{body}");
    }
}

#[test]
fn job_stored_by_a_hanging_request_is_not_created_twice() {
    let (api, server) = started(2);
    api.queue([Behavior::ApplyThenHang]);
    let response = server.post_job();
    assert!([200, 504].contains(&response.status), "{}", response.text());
    assert_eq!(api.jobs().len(), 1);
}
