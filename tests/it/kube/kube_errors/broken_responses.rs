//! Truncated, corrupted, oversized and malformed Kubernetes responses.

use super::retries::Cut;
use super::{check_retry_after, check_sentence, started};
use crate::support::LONG_KUBE_TIMEOUT;
use crate::support::cluster::pod;
use crate::support::response::{ApiResponse, Behavior, pod_list, unauthorized, unavailable};
use serde_json::{Value, json};

#[test]
fn headers_over_the_size_limit_are_502_at_once() {
    check_headers(&[17 * 1024]);
    check_headers(&[180; 100]);
}

#[test]
fn headers_over_the_count_limit_are_502_at_once() {
    check_headers(&[1; 200]);
}

/// Checks that responses with headers of these sizes are refused without a retry.
fn check_headers(lengths: &[usize]) {
    for status in [200, 201, 403] {
        let what = format!("{} headers with {status}", lengths.len());
        let headers = lengths.iter().enumerate();
        let reply = headers.fold(ApiResponse::json(status, &json!({"kind": "Job"})), |reply, (number, length)| {
            reply.header(&format!("X-{number}"), &"x".repeat(*length))
        });
        let (api, server) = started(LONG_KUBE_TIMEOUT);
        api.always(reply);
        for response in [server.post_job(), server.get("/config")] {
            assert_eq!(response.status, 502, "{what}: {}", response.text());
            check_sentence(&response);
        }
        assert_eq!(server.get("/readyz").status, 503, "{what}");
        assert!(api.requests().len() <= 3, "{what}: {} requests", api.requests().len());
    }
}

#[test]
fn unexpected_json_is_an_error_and_never_an_empty_list() {
    let bodies = [
        r#"{"kind":"PodList","items":[{"metadata":{"name":"a""#,
        "",
        "null",
        "[]",
        "7",
        r#"{"kind":"Status","status":"Failure","message":"no","code":500}"#,
        r#"{"kind":"PodList","items":{"a":1}}"#,
        r#"{"kind":"PodList","items":[7]}"#,
    ];
    let (api, server) = started(1);
    for body in bodies {
        api.always(ApiResponse::new(200, "application/json", body));
        let response = server.get("/config");
        assert!((502..=504).contains(&response.status), "{body}: {} {}", response.status, response.text());
        check_sentence(&response);
    }
}

#[test]
fn truncated_list_is_read_again_or_fails_but_never_shortened() {
    check_read_again(cut(&[
        ("nothing", |reply| reply.cut(0)),
        ("length", |reply| reply.cut(3000)),
        ("the last byte", |reply| reply.cut_last()),
        ("chunked", |reply| reply.chunked().cut(3000)),
        ("the last chunk", |reply| reply.chunked().cut_last()),
        ("gzip", |reply| reply.gzip().cut(200)),
        ("gzip in chunks", |reply| reply.gzip().chunked().cut(200)),
        ("protobuf", |reply| reply.into_protobuf_pods().cut(3000)),
        ("protobuf, in chunks", |reply| reply.into_protobuf_pods().chunked().cut(3000)),
        ("protobuf, the last byte", |reply| reply.into_protobuf_pods().cut_last()),
        ("protobuf in gzip", |reply| reply.into_protobuf_pods().gzip().cut(200)),
    ]));
}

#[test]
fn list_in_broken_gzip_is_read_again_or_fails() {
    check_read_again(cut(&[
        ("the head", |reply| reply.gzip().corrupted(0)),
        ("the table of codes", |reply| reply.gzip().corrupted(12)),
        ("the checksum", |reply| reply.gzip().corrupted(-5)),
        ("the checksum, protobuf", |reply| reply.into_protobuf_pods().gzip().corrupted(-5)),
    ]));
}

#[test]
fn list_with_a_wrong_gzip_checksum_is_read_again_or_fails() {
    // The decompressed data is not JSON, and only the checksum shows that Kubernetes sent other data.
    check_read_again(cut(&[
        ("the data", |reply| reply.gzip().corrupted(200)),
        ("the data, protobuf", |reply| reply.into_protobuf_pods().gzip().corrupted(200)),
    ]));
}

#[test]
fn list_with_a_truncated_head_is_read_again_or_fails() {
    check_read_again([1, 15, 40].map(|bytes| (format!("{bytes} bytes"), Behavior::ApplyThenTruncate(bytes))));
}

/// The pods of a list.
fn pods() -> Vec<Value> {
    (0..50).map(|n| pod("default", &format!("pod-{n}"), "Running", None)).collect()
}

/// Responses with the list of [`pods`], each with its cut.
fn cut(cuts: &[(&str, Cut)]) -> Vec<(String, Behavior)> {
    let complete = ApiResponse::json(200, &pod_list(&pods(), ""));
    cuts.iter().map(|(what, cut)| ((*what).to_owned(), cut(complete.clone()).into())).collect()
}

/// One broken response: the retry returns the full list. Only broken responses: 503.
fn check_read_again(faults: impl IntoIterator<Item = (String, Behavior)>) {
    let check = |what: &str, fault: Behavior| {
        let (api, server) = started(10);
        api.set_pods(pods());
        api.queue([fault.clone()]);
        let response = server.get("/config");
        assert_eq!(response.status, 200, "{what}: {}", response.text());
        assert_eq!(response.json()["pods"].as_array().unwrap().len(), 50, "{what}");
        api.always(fault);
        let response = server.get("/config");
        assert_eq!(response.status, 503, "{what}: {}", response.text());
        check_retry_after(&response);
        check_sentence(&response);
    };
    std::thread::scope(|scope| {
        for (what, fault) in faults {
            scope.spawn(move || check(&what, fault));
        }
    });
}

#[test]
fn lost_page_never_shortens_a_list() {
    let (api, server) = started(1);
    let first = pod_list(&[pod("default", "one", "Running", None)], "more");
    for fault in
        [Behavior::Close, Behavior::Reset, unavailable().into(), unauthorized().into(), ApiResponse::html(200).into()]
    {
        let (first, fault) = (first.clone(), fault.clone());
        api.script(move |request| match request.query("continue") {
            None => ApiResponse::json(200, &first).into(),
            Some(_) => fault.clone(),
        });
        let response = server.get("/config");
        assert!((502..=504).contains(&response.status), "{} {}", response.status, response.text());
        check_sentence(&response);
    }
}

#[test]
fn endless_response_is_504_at_the_deadline_and_uses_little_memory() {
    let (api, server) = started(1);
    // 100 MB in 100 KB of gzip: this build reads them for seconds, of which it waits for the network for none.
    let flood = ApiResponse::new(200, "application/json", vec![b' '; 100_000_000]).gzip();
    api.always(flood);
    let response = server.get("/config");
    assert_eq!(response.status, 504, "{}", response.text());
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(peak.unwrap() < 150_000, "{peak:?} kB");
    assert_eq!(server.get("/healthz").status, 200);
}
