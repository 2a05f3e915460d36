//! Idempotency-Key: a repeated POST finds the Job of the first one.

use super::kube_errors::{check_retry_after, check_sentence, started};
use crate::support::LONG_KUBE_TIMEOUT;
use crate::support::api::{ApiServer, Request};
use crate::support::http::Response;
use crate::support::response::{ApiResponse, Behavior, no_permission, quota_full};
use crate::support::server::{Server, Setup};
use serde_json::{Value, json};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Barrier;

const FREE: &str = "/img-classification/free";
const PREMIUM: &str = "/img-classification/premium";
const MNIST: &str = r#"{"dataset":"mnist"}"#;
const KMNIST: &str = r#"{"dataset":"kmnist"}"#;

/// Sends a POST with these header lines.
fn post_with(server: &Server, target: &str, headers: &str, body: &str) -> Response {
    let headers = format!("Content-Length: {}\r\n{headers}", body.len());
    server.connect().request_with("POST", target, &headers, body.as_bytes())
}

fn post(server: &Server, target: &str, key: &str, body: &str) -> Response {
    post_with(server, target, &format!("Idempotency-Key: {key}\r\n"), body)
}

/// Tests if a successful response is that of a repeat.
fn is_replay(response: &Response) -> bool {
    assert_eq!(response.status, 200, "{}", response.text());
    match response.header("Idempotency-Replayed") {
        None => false,
        value => value == Some("true") || panic!("{value:?}"),
    }
}

fn name(response: &Response) -> String {
    response.json()["job"].as_str().unwrap().to_owned()
}

#[test]
fn repeat_with_the_same_key_returns_the_first_job_at_every_server() {
    let api = ApiServer::start();
    let (first, second) = (Setup::for_api(&api).start(), Setup::for_api(&api).start());
    let created = post(&first, FREE, "homework-7", MNIST);
    assert!(!is_replay(&created));
    for server in [&first, &second] {
        let repeat = post(server, FREE, "homework-7", MNIST);
        assert!(is_replay(&repeat));
        assert_eq!((&repeat.body, repeat.header("Location")), (&created.body, created.header("Location")));
    }
    // Another key, dataset or tier is another Job, and so is a request without a key.
    for (target, key, body) in
        [(FREE, "homework-8", MNIST), (FREE, "homework-7", KMNIST), (PREMIUM, "homework-7", MNIST)]
    {
        assert!(!is_replay(&post(&second, target, key, body)));
    }
    assert!(!is_replay(&post_with(&first, FREE, "", MNIST)));
    let names: BTreeSet<String> = api.jobs().iter().map(|job| job["metadata"]["name"].to_string()).collect();
    assert_eq!((api.jobs().len(), names.len()), (5, 5));
}

#[test]
fn malformed_key_is_400_and_creates_no_job() {
    let server = Setup::local().start();
    let long = format!("Idempotency-Key: {}\r\n", "k".repeat(256));
    for headers in [
        "Idempotency-Key: \r\n",
        "Idempotency-Key: a b\r\n",
        "Idempotency-Key: \u{fc}\r\n",
        "Idempotency-Key: a\r\nIdempotency-Key: a\r\n",
        "Idempotency-Key: a\r\nidempotency-key: b\r\n",
        &long,
    ] {
        let response = post_with(&server, FREE, headers, MNIST);
        assert_eq!((response.status, &*response.code()), (400, "bad_idempotency_key"), "{headers:?}");
    }
    assert_eq!(server.jobs().len(), 0);
    assert!(!is_replay(&post_with(&server, FREE, &long.replacen('k', "", 1), MNIST)));
}

#[test]
fn thirty_two_clients_with_one_key_get_one_job() {
    const CLIENTS: usize = 32;
    let server = Setup::local().start();
    let barrier = Barrier::new(CLIENTS);
    let responses: Vec<Response> = std::thread::scope(|scope| {
        let client = || {
            barrier.wait();
            post(&server, PREMIUM, "race", MNIST)
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let bodies: BTreeSet<&[u8]> = responses.iter().map(|response| &*response.body).collect();
    let first = responses.iter().filter(|response| !is_replay(response)).count();
    assert_eq!((bodies.len(), first, server.jobs().len()), (1, 1, 1));
}

#[test]
fn repeat_in_a_full_quota_is_answered_and_a_new_job_is_429() {
    let (api, server) = started(LONG_KUBE_TIMEOUT);
    let created = post(&server, FREE, "k", MNIST);
    api.script(|request| match request.is_create() {
        true => quota_full().into(),
        false => Behavior::Default,
    });
    let repeat = post(&server, FREE, "k", MNIST);
    assert!(is_replay(&repeat));
    assert_eq!(name(&repeat), name(&created));
    let refused = post(&server, FREE, "another", MNIST);
    assert_eq!((refused.status, &*refused.code()), (429, "queue_full"));
    check_retry_after(&refused);
    assert_eq!(api.jobs().len(), 1);
}

#[test]
fn lost_answers_with_a_key_give_one_job() {
    // The first attempt is stored; then the quota is full, or every create is lost.
    type Later = fn(&Request) -> Behavior;
    let later: [Later; 2] = [
        |request| if request.is_create() { quota_full().into() } else { Behavior::Default },
        |request| if request.is_create() { Behavior::Close } else { Behavior::Default },
    ];
    for later in later {
        let (api, server) = started(LONG_KUBE_TIMEOUT);
        let mut first = Some(Behavior::ApplyThenDrop);
        api.script(move |request| first.take().unwrap_or_else(|| later(request)));
        let created = post(&server, FREE, "k", MNIST);
        assert!(!is_replay(&created), "this request created it");
        api.always(Behavior::Default);
        let repeat = post(&server, FREE, "k", MNIST);
        assert!(is_replay(&repeat));
        assert_eq!((name(&repeat), api.jobs().len()), (name(&created), 1));
    }
}

#[test]
fn request_without_an_answer_may_be_repeated_with_its_key() {
    let (api, server) = started(1);
    api.queue([Behavior::ApplyThenHang]);
    let lost = post(&server, FREE, "k", MNIST);
    assert_eq!((lost.status, &*lost.code()), (504, "kubernetes_timeout"));
    assert!(lost.error().contains("same Idempotency-Key"), "{}", lost.text());
    assert!(is_replay(&post(&server, FREE, "k", MNIST)));
    assert_eq!(api.jobs().len(), 1);
}

#[test]
fn request_without_an_answer_and_a_key_names_the_job() {
    let (api, server) = started(1);
    api.queue([Behavior::ApplyThenHang]);
    let sentence = check_sentence(&server.post_job());
    let job = api.jobs().remove(0);
    let path = format!("/jobs/{}", job["metadata"]["name"].as_str().unwrap());
    assert!(sentence.contains(&path), "{sentence}");
}

/// Posts while a Job of the key's name exists, which GET shows as `seen` changes it. The creates get the behaviors of `first`, then the
/// default.
fn post_beside(first: &[Behavior], seen: impl Fn(&mut Value) -> Option<ApiResponse> + Send + 'static) -> Response {
    let (api, server) = started(LONG_KUBE_TIMEOUT);
    assert!(!is_replay(&post(&server, FREE, "k", MNIST)));
    let mut job = api.jobs().remove(0);
    let mut lost: VecDeque<Behavior> = first.iter().cloned().collect();
    api.script(move |request| match request.is_create() {
        true => lost.pop_front().unwrap_or(Behavior::Default),
        false => seen(&mut job).unwrap_or_else(|| ApiResponse::json(200, &job)).into(),
    });
    let response = post(&server, FREE, "k", MNIST);
    assert_eq!(api.jobs().len(), 1);
    response
}

#[test]
fn job_that_is_being_deleted_is_503() {
    for first in [&[][..], &[Behavior::Reset]] {
        let deleted = post_beside(first, |job| {
            job["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            None
        });
        let gone = post_beside(first, |_| Some(ApiResponse::failure(404, "NotFound", "jobs.batch \"x\" not found")));
        for response in [deleted, gone] {
            assert_eq!((response.status, &*response.code()), (503, "job_being_deleted"));
            check_retry_after(&response);
        }
    }
}

#[test]
fn job_of_another_program_is_409() {
    for first in [&[][..], &[Behavior::Reset]] {
        let response = post_beside(first, |job| {
            job["metadata"]["labels"] = json!({"app": "other"});
            None
        });
        assert_eq!((response.status, &*response.code()), (409, "name_taken"));
    }
}

#[test]
fn repeat_without_the_permission_to_get_jobs_is_answered() {
    assert!(is_replay(&post_beside(&[], |_| Some(no_permission()))));
    assert!(
        !is_replay(&post_beside(&[Behavior::Reset], |_| Some(no_permission()))),
        "this request may have created it"
    );
}
