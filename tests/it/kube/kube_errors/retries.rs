//! Retries of a create: one Job at most, whatever is lost.

use super::{check_retry_after, check_sentence, creates, started};
use crate::support::api::Request;
use crate::support::response::{
    Accept, ApiResponse, Behavior, conflict, internal_error, quota_full, too_many_requests, unavailable,
};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

#[test]
fn passing_trouble_is_retried_until_the_one_job_is_made() {
    let cases: Vec<(&str, Vec<Behavior>)> = vec![
        ("conflict", vec![conflict().into(), conflict().into()]),
        ("internal error", vec![internal_error().into()]),
        ("unavailable", vec![unavailable().into(), unavailable().into()]),
        ("too many requests", vec![too_many_requests(0).into()]),
        ("gateway's HTML", vec![ApiResponse::html(503).into(), ApiResponse::html(502).into()]),
        ("closed unanswered", vec![Behavior::Close]),
        ("closed unanswered twice", vec![Behavior::Close, Behavior::Close]),
        ("reset unanswered", vec![Behavior::Reset]),
        ("answer lost", vec![Behavior::ApplyThenDrop]),
        ("answer lost, then trouble", vec![Behavior::ApplyThenDrop, unavailable().into(), Behavior::Close]),
        ("trouble, then answer lost", vec![internal_error().into(), Behavior::ApplyThenDrop]),
        ("answer lost, then one that is cut", vec![Behavior::ApplyThenDrop, taken().cut(20).into()]),
        ("answer lost, then chunks that are cut", vec![Behavior::ApplyThenDrop, taken().chunked().cut(80).into()]),
        ("answer lost, then gzip that is cut", vec![Behavior::ApplyThenDrop, taken().gzip().cut(30).into()]),
        ("answer lost, then gzip that is broken", vec![Behavior::ApplyThenDrop, taken().gzip().corrupted(40).into()]),
        ("answer cut in its first word", vec![Behavior::ApplyThenTruncate(5)]),
        ("answer cut in its status line", vec![Behavior::ApplyThenTruncate(15)]),
        ("answer cut in a header", vec![Behavior::ApplyThenTruncate(40)]),
        ("answer cut twice", vec![Behavior::ApplyThenTruncate(40), Behavior::ApplyThenTruncate(1)]),
        ("several of a kind", vec![Behavior::Reset, conflict().into(), unavailable().into(), Behavior::ApplyThenDrop]),
    ];
    std::thread::scope(|scope| {
        for (what, responses) in cases {
            scope.spawn(move || {
                let (api, server) = started(20);
                let trouble = responses.len();
                api.queue(responses);
                let response = server.post_job();
                assert_eq!(response.status, 200, "{what}: {}", response.text());
                let jobs = api.jobs();
                assert_eq!(jobs.len(), 1, "{what}");
                assert_eq!(response.json()["job"], jobs[0]["metadata"]["name"], "{what}");
                let creates = creates(&api);
                assert_eq!(creates.len(), trouble + 1, "{what}");
                let names: BTreeSet<String> =
                    creates.iter().map(|create| create.json()["metadata"]["name"].to_string()).collect();
                assert_eq!(names.len(), 1, "{what}: repeated under another name");
            });
        }
    });
}

#[test]
fn a_refused_or_reset_connection_is_tried_again() {
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
fn a_job_whose_name_was_taken_before_the_first_try_is_not_counted_as_ours() {
    // Nothing was lost here: the very first answer says that somebody else's Job has this name.
    let (api, server) = started(3);
    api.script(|request| {
        let name = request.json()["metadata"]["name"].as_str().unwrap().to_owned();
        ApiResponse::failure(409, "AlreadyExists", &format!("jobs.batch \"{name}\" already exists")).into()
    });
    let response = server.post_job();
    assert_ne!(response.status, 200, "no Job was created for this request");
    check_sentence(&response);
}

/// Somebody, perhaps this very request, has made a Job of that name.
fn taken() -> ApiResponse {
    ApiResponse::failure(409, "AlreadyExists", &format!("jobs.batch \"x\" already exists{}", " ".repeat(100)))
}

#[test]
fn a_lost_create_that_a_quota_refuses_afterwards_is_neither_done_nor_refused() {
    for lost in [Behavior::ApplyThenDrop, Behavior::Reset] {
        let stored = usize::from(matches!(lost, Behavior::ApplyThenDrop));
        let (api, server) = started(10);
        let mut first = Some(lost);
        api.script(move |_| first.take().unwrap_or_else(|| quota_full().into()));
        let start = Instant::now();
        let response = server.post_job();
        // It may be stored, so that 429 (come again) would make a second one; it may not be, so that 200 would lie.
        assert_eq!(response.status, 504, "{}", response.text());
        check_sentence(&response);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(api.jobs().len(), stored);
    }
}

#[test]
fn a_quota_after_a_refusal_that_stored_nothing_is_429() {
    for refused in [conflict(), too_many_requests(0)] {
        let (api, server) = started(10);
        let mut first = Some(refused);
        api.script(move |_| first.take().unwrap_or_else(quota_full).into());
        let response = server.post_job();
        assert_eq!(response.status, 429, "{}", response.text());
        check_retry_after(&response);
    }
}

/// Ends an answer before its end.
pub type Cut = fn(ApiResponse) -> ApiResponse;

#[test]
fn a_truncated_answer_to_a_create_makes_exactly_one_job() {
    // The Job is stored, but its answer breaks off: in the body, in a chunk, in the gzip stream, or inside the JSON.
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
        // 201 itself already says that the Job is stored, so that answering without a repeat is as right.
        assert_eq!(response.status, 200, "{what}: {}", response.text());
        let names: BTreeSet<String> =
            creates(&api).iter().map(|create| create.json()["metadata"]["name"].to_string()).collect();
        assert_eq!(names.len(), 1, "{what}");
    }
}

#[test]
fn a_page_of_html_is_never_counted_as_success() {
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
fn a_create_whose_answer_is_no_job_is_never_made_twice() {
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
fn a_job_that_was_stored_by_a_request_that_hangs_is_not_made_twice() {
    let (api, server) = started(2);
    api.queue([Behavior::ApplyThenHang]);
    let response = server.post_job();
    assert!([200, 504].contains(&response.status), "{}", response.text());
    assert_eq!(api.jobs().len(), 1);
}
