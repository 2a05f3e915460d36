//! What callers see, and what Kubernetes is left with, when Kubernetes or the way to it fails.

use crate::support::answer::{
    Accept, Answer, Gate, Reply, conflict, internal_error, no_permission, pod_list, quota_full, too_many_requests,
    unauthorized, unavailable,
};
use crate::support::api::{ApiServer, Listen, Request};
use crate::support::cluster::pod;
use crate::support::http::Response;
use crate::support::kubeconfig::TOKEN;
use crate::support::server::{Server, Setup};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A server whose Kubernetes operations end after that many seconds, and its Kubernetes.
fn started(kube_timeout: u32) -> (ApiServer, Server) {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).args(&["--kube-timeout", &kube_timeout.to_string()]).start();
    (api, server)
}

fn check_retry_after(answer: &Response) {
    let seconds = answer.header("Retry-After").expect("Retry-After").parse::<u32>().expect("Retry-After in seconds");
    assert!((1..=3600).contains(&seconds), "{seconds}");
}

fn creates(api: &ApiServer) -> Vec<Request> {
    api.requests().into_iter().filter(Request::is_create).collect()
}

/// A sentence for clients: without secrets, addresses of the control plane's own or traces of the code.
fn check_sentence(answer: &Response) -> String {
    let sentence = answer.error();
    for forbidden in [TOKEN, "Bearer", "panicked", ".rs:", "<html", "Err("] {
        assert!(!sentence.contains(forbidden), "{forbidden:?} in {sentence:?}");
    }
    sentence
}

#[test]
fn refusals_of_kubernetes_become_the_promised_status_at_once() {
    let namespace_missing = || Reply::failure(404, "NotFound", "namespaces \"free-service\" not found");
    let invalid = || Reply::failure(422, "Invalid", "Job.batch \"x\" is invalid: spec.template: Required value");
    let forbidden = |why: &str| Reply::failure(403, "Forbidden", &format!("jobs.batch is forbidden: {why}"));
    let misleading = || forbidden("User \"quota\" cannot create resource \"jobs\" in API group \"batch\"");
    let must_specify = || forbidden("failed quota: free: must specify limits.cpu");
    let cases = [
        ("quota", quota_full(), 429),
        ("RBAC", no_permission(), 502),
        ("RBAC for one of a misleading name", misleading(), 502),
        ("a quota that wants more said", must_specify(), 502),
        ("credentials", unauthorized(), 502),
        ("namespace", namespace_missing(), 502),
        ("invalid", invalid(), 502),
        ("bad request", Reply::failure(400, "BadRequest", "cannot be handled as a Job"), 502),
        ("method", Reply::failure(405, "MethodNotAllowed", "not here"), 502),
    ];
    for (what, reply, status) in cases {
        let (api, server) = started(10);
        api.always(reply);
        let start = Instant::now();
        let answer = server.post_job();
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        check_sentence(&answer);
        assert!(start.elapsed() < Duration::from_secs(5), "{what} was repeated until the deadline");
        assert!(creates(&api).len() <= 2, "{what}: {} creates", creates(&api).len());
        if status == 429 {
            check_retry_after(&answer);
        }
    }
}

#[test]
fn a_refusal_that_is_not_of_rbac_does_not_send_people_to_rbac() {
    check_not_rbac(&[
        "jobs.batch \"x\" is forbidden: unable to create new content in namespace free-service because it is being \
         terminated",
        "admission webhook \"policy.example.com\" denied the request: no owner label",
        "jobs.batch \"x\" is forbidden: failed quota: free: must specify limits.cpu",
    ]);
}

#[test]
fn an_admission_that_says_cannot_does_not_send_people_to_rbac() {
    check_not_rbac(&[
        "admission webhook \"policy.example.com\" denied the request: the container cannot run without a limit",
        "jobs.batch \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: a Job cannot \
         create pods of this image",
    ]);
}

/// Such a 403 is 502 at once, the sentence leaves RBAC alone, and the log has the message.
fn check_not_rbac(messages: &[&str]) {
    let (api, server) = started(10);
    for message in messages {
        api.always(Reply::failure(403, "Forbidden", message));
        let start = Instant::now();
        let answer = server.post_job();
        assert_eq!(answer.status, 502, "{message}: {}", answer.text());
        let sentence = check_sentence(&answer).to_lowercase();
        assert!(!sentence.contains("permission") && !sentence.contains("rbac"), "{sentence:?} for {message:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        server.wait_for_log(message, |line| line.replace('\\', "").contains(message));
    }
}

#[test]
fn the_sentence_names_what_to_fix_and_the_log_what_kubernetes_said() {
    let (api, server) = started(5);
    let namespace_missing = Reply::failure(404, "NotFound", "namespaces \"free-service\" not found");
    for (reply, nouns, message) in [
        (namespace_missing, &["free-service"][..], "namespaces \"free-service\" not found"),
        (no_permission(), &["permission", "rbac", "allow"][..], "User \"nobody\" cannot create resource"),
        (unauthorized(), &["credential", "token", "kubeconfig"][..], "Unauthorized"),
        (quota_full(), &["quota", "queue"][..], "exceeded quota: jobs"),
    ] {
        api.always(reply);
        let sentence = check_sentence(&server.post_job()).to_lowercase();
        assert!(nouns.iter().any(|noun| sentence.contains(noun)), "none of {nouns:?} in {sentence:?}");
        let unescaped = |line: &str| line.replace('\\', "");
        server.wait_for_log(message, |line| unescaped(line).contains(message));
    }
}

#[test]
fn config_and_readyz_say_why_kubernetes_refused() {
    let (api, server) = started(1);
    for (reply, config) in [(unauthorized(), 502), (no_permission(), 502), (unavailable(), 503)] {
        api.always(reply);
        let answer = server.get("/config");
        assert_eq!(answer.status, config, "{}", answer.text());
        check_sentence(&answer);
        let ready = server.get("/readyz");
        assert_eq!(ready.status, 503, "{}", ready.text());
        check_sentence(&ready);
        assert_eq!(server.get("/healthz").status, 200);
    }
    api.always(Answer::Honest);
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(server.get("/config").status, 200);
}

#[test]
fn passing_trouble_is_retried_until_the_one_job_is_made() {
    let cases: Vec<(&str, Vec<Answer>)> = vec![
        ("conflict", vec![conflict().into(), conflict().into()]),
        ("internal error", vec![internal_error().into()]),
        ("unavailable", vec![unavailable().into(), unavailable().into()]),
        ("too many requests", vec![too_many_requests(0).into()]),
        ("gateway's HTML", vec![Reply::html(503).into(), Reply::html(502).into()]),
        ("closed unanswered", vec![Answer::Close]),
        ("closed unanswered twice", vec![Answer::Close, Answer::Close]),
        ("reset unanswered", vec![Answer::Reset]),
        ("answer lost", vec![Answer::HonestThenLost]),
        ("answer lost, then trouble", vec![Answer::HonestThenLost, unavailable().into(), Answer::Close]),
        ("trouble, then answer lost", vec![internal_error().into(), Answer::HonestThenLost]),
        ("answer lost, then one that is cut", vec![Answer::HonestThenLost, taken().cut(20).into()]),
        ("answer lost, then chunks that are cut", vec![Answer::HonestThenLost, taken().chunked().cut(80).into()]),
        ("answer lost, then gzip that is cut", vec![Answer::HonestThenLost, taken().gzip().cut(30).into()]),
        ("answer lost, then gzip that is broken", vec![Answer::HonestThenLost, taken().gzip().corrupted(40).into()]),
        ("answer cut in its first word", vec![Answer::HonestThenCut(5)]),
        ("answer cut in its status line", vec![Answer::HonestThenCut(15)]),
        ("answer cut in a header", vec![Answer::HonestThenCut(40)]),
        ("answer cut twice", vec![Answer::HonestThenCut(40), Answer::HonestThenCut(1)]),
        ("several of a kind", vec![Answer::Reset, conflict().into(), unavailable().into(), Answer::HonestThenLost]),
    ];
    std::thread::scope(|scope| {
        for (what, answers) in cases {
            scope.spawn(move || {
                let (api, server) = started(20);
                let trouble = answers.len();
                api.queue(answers);
                let answer = server.post_job();
                assert_eq!(answer.status, 200, "{what}: {}", answer.text());
                let jobs = api.jobs();
                assert_eq!(jobs.len(), 1, "{what}");
                assert_eq!(answer.json()["job"], jobs[0]["metadata"]["name"], "{what}");
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
        let answer = server.post_job();
        assert_eq!((answer.status, api.jobs().len()), (200, 1), "{}", answer.text());
        assert_eq!(api.connections(), failed + 1);
    }
}

#[test]
fn a_job_whose_name_was_taken_before_the_first_try_is_not_counted_as_ours() {
    // Nothing was lost here: the very first answer says that somebody else's Job has this name.
    let (api, server) = started(3);
    api.script(|request| {
        let name = request.json()["metadata"]["name"].as_str().unwrap().to_owned();
        Reply::failure(409, "AlreadyExists", &format!("jobs.batch \"{name}\" already exists")).into()
    });
    let answer = server.post_job();
    assert_ne!(answer.status, 200, "no Job was created for this request");
    check_sentence(&answer);
}

/// Somebody, perhaps this very request, has made a Job of that name.
fn taken() -> Reply {
    Reply::failure(409, "AlreadyExists", &format!("jobs.batch \"x\" already exists{}", " ".repeat(100)))
}

#[test]
fn a_lost_create_that_a_quota_refuses_afterwards_is_neither_done_nor_refused() {
    for lost in [Answer::HonestThenLost, Answer::Reset] {
        let stored = usize::from(matches!(lost, Answer::HonestThenLost));
        let (api, server) = started(10);
        let mut first = Some(lost);
        api.script(move |_| first.take().unwrap_or_else(|| quota_full().into()));
        let start = Instant::now();
        let answer = server.post_job();
        // It may be stored, so that 429 (come again) would make a second one; it may not be, so that 200 would lie.
        assert_eq!(answer.status, 504, "{}", answer.text());
        check_sentence(&answer);
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
        let answer = server.post_job();
        assert_eq!(answer.status, 429, "{}", answer.text());
        check_retry_after(&answer);
    }
}

#[test]
fn a_kubernetes_that_takes_most_of_the_deadline_is_asked_once() {
    let (api, server) = started(2);
    let slow = || Answer::Slowly(Duration::from_millis(1200), Box::new(Answer::Honest));
    api.script(move |_| slow());
    for made in 1..=2 {
        let answer = server.post_job();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!((creates(&api).len(), api.jobs().len()), (made, made));
    }
}

#[test]
fn what_waited_too_long_for_its_turn_is_503_and_makes_no_job() {
    let (api, server) = started(1);
    api.script(move |_| Answer::Slowly(Duration::from_millis(800), Box::new(Answer::Honest)));
    let start = Instant::now();
    let answers: Vec<Response> = std::thread::scope(|scope| {
        let posts: Vec<_> = (0..100).map(|_| scope.spawn(|| server.post_job())).collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    });
    assert!(start.elapsed() < Duration::from_millis(3500), "{:?}", start.elapsed());
    let of = |status: u16| answers.iter().filter(move |answer| answer.status == status);
    // On a busy machine Kubernetes' 0.8 s may become more than the deadline of 1 s.
    let (done, late, turned_away) = (of(200).count(), of(504).count(), of(503).count());
    assert_eq!(done + late + turned_away, 100);
    assert!(turned_away > 0 && done > 0, "{done} done, {late} late, {turned_away} turned away");
    of(503).for_each(check_retry_after);
    assert_eq!(creates(&api).len(), done + late, "a request that was turned away reached Kubernetes");
    crate::support::eventually("every create is a Job", || api.jobs().len() == done + late);
    let names: BTreeSet<String> = api.jobs().iter().map(|job| job["metadata"]["name"].to_string()).collect();
    assert_eq!(names.len(), done + late);
    assert!(of(200).all(|answer| names.contains(&answer.json()["job"].to_string())));
}

#[test]
fn headers_without_measure_are_502_at_once() {
    check_headers(&[17 * 1024]);
    check_headers(&[180; 100]);
}

#[test]
fn headers_without_number_are_502_at_once() {
    check_headers(&[1; 200]);
}

/// Answers with headers of these lengths are refused without a second try.
fn check_headers(lengths: &[usize]) {
    for status in [200, 201, 403] {
        let what = format!("{} headers with {status}", lengths.len());
        let headers = lengths.iter().enumerate();
        let reply = headers.fold(Reply::json(status, &json!({"kind": "Job"})), |reply, (number, length)| {
            reply.header(&format!("X-{number}"), &"x".repeat(*length))
        });
        let (api, server) = started(15);
        api.always(reply);
        let start = Instant::now();
        for answer in [server.post_job(), server.get("/config")] {
            assert_eq!(answer.status, 502, "{what}: {}", answer.text());
            check_sentence(&answer);
        }
        assert_eq!(server.get("/readyz").status, 503, "{what}");
        assert!(start.elapsed() < Duration::from_secs(10), "{what} was repeated until the deadline");
        assert!(api.requests().len() <= 3, "{what}: {} requests", api.requests().len());
    }
}

/// Ends an answer before its end.
type Cut = fn(Reply) -> Reply;

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
                return cut(Reply::json(201, &stored(request))).into();
            }
            assert_eq!(first.as_ref(), Some(&name));
            Reply::failure(409, "AlreadyExists", &format!("jobs.batch {name} already exists")).into()
        });
        let answer = server.post_job();
        // 201 itself already says that the Job is stored, so that answering without a repeat is as right.
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        let names: BTreeSet<String> =
            creates(&api).iter().map(|create| create.json()["metadata"]["name"].to_string()).collect();
        assert_eq!(names.len(), 1, "{what}");
    }
}

#[test]
fn a_page_of_html_is_never_counted_as_success() {
    for status in [200, 201, 302, 404] {
        let (api, server) = started(1);
        api.always(Reply::html(status));
        for answer in [server.post_job(), server.get("/config")] {
            assert!((502..=504).contains(&answer.status), "{status}: {} {}", answer.status, answer.text());
            check_sentence(&answer);
        }
        assert_eq!(server.get("/readyz").status, 503, "{status}");
    }
}

#[test]
fn json_that_is_not_the_answer_is_an_error_and_never_an_empty_list() {
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
        api.always(Reply::new(200, "application/json", body));
        let answer = server.get("/config");
        assert!((502..=504).contains(&answer.status), "{body}: {} {}", answer.status, answer.text());
        check_sentence(&answer);
    }
}

#[test]
fn a_list_that_breaks_off_is_read_again_or_fails_but_is_never_half() {
    let pods: Vec<Value> = (0..50).map(|n| pod("default", &format!("pod-{n}"), "Running", None)).collect();
    let cuts: [(&str, Cut); 11] = [
        ("nothing", |reply| reply.cut(0)),
        ("length", |reply| reply.cut(3000)),
        ("the last byte", |reply| reply.cut_last()),
        ("chunked", |reply| reply.chunked().cut(3000)),
        ("the last chunk", |reply| reply.chunked().cut_last()),
        ("gzip", |reply| reply.gzip().cut(200)),
        ("gzip in chunks", |reply| reply.gzip().chunked().cut(200)),
        ("protobuf", |reply| reply.protobuf().cut(3000)),
        ("protobuf, in chunks", |reply| reply.protobuf().chunked().cut(3000)),
        ("protobuf, the last byte", |reply| reply.protobuf().cut_last()),
        ("protobuf in gzip", |reply| reply.protobuf().gzip().cut(200)),
    ];
    check_read_again(&pods, &cuts);
}

#[test]
fn a_list_in_broken_gzip_is_read_again_or_fails_but_is_never_half() {
    let pods: Vec<Value> = (0..50).map(|n| pod("default", &format!("pod-{n}"), "Running", None)).collect();
    let breaks: [(&str, Cut); 4] = [
        ("the head", |reply| reply.gzip().corrupted(0)),
        ("the table of codes", |reply| reply.gzip().corrupted(12)),
        ("the checksum", |reply| reply.gzip().corrupted(-5)),
        ("the checksum, protobuf", |reply| reply.protobuf().gzip().corrupted(-5)),
    ];
    check_read_again(&pods, &breaks);
}

#[test]
fn a_list_in_gzip_of_broken_data_is_read_again_or_fails_but_is_never_half() {
    // What comes out is not JSON, and only the checksum behind it says that Kubernetes sent something else.
    let pods: Vec<Value> = (0..50).map(|n| pod("default", &format!("pod-{n}"), "Running", None)).collect();
    let breaks: [(&str, Cut); 2] = [
        ("the data", |reply| reply.gzip().corrupted(200)),
        ("the data, protobuf", |reply| reply.protobuf().gzip().corrupted(200)),
    ];
    check_read_again(&pods, &breaks);
}

/// A list that is spoiled once is whole in the end, one that is spoiled each time is 503.
fn check_read_again(pods: &[Value], spoils: &[(&str, Cut)]) {
    for (what, spoil) in spoils {
        let (api, server) = started(1);
        let whole = Reply::json(200, &pod_list(pods, ""));
        api.queue([spoil(whole.clone()).into(), whole.clone().into()]);
        let answer = server.get("/config");
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        assert_eq!(answer.json()["pods"].as_array().unwrap().len(), 50, "{what}");
        api.always(spoil(whole));
        let answer = server.get("/config");
        assert_eq!(answer.status, 503, "{what}: {}", answer.text());
        check_retry_after(&answer);
        check_sentence(&answer);
    }
}

#[test]
fn a_list_whose_head_breaks_off_is_read_again_and_503_if_that_lasts() {
    let (api, server) = started(1);
    for bytes in [1, 15, 40] {
        api.queue([Answer::HonestThenCut(bytes)]);
        assert_eq!(server.get("/config").status, 200, "{bytes}");
        api.always(Answer::HonestThenCut(bytes));
        let answer = server.get("/config");
        assert_eq!(answer.status, 503, "{bytes}: {}", answer.text());
        check_retry_after(&answer);
        check_sentence(&answer);
    }
}

#[test]
fn a_page_that_is_lost_in_the_middle_of_a_list_never_makes_half_a_list() {
    let (api, server) = started(1);
    let first = pod_list(&[pod("default", "one", "Running", None)], "more");
    for trouble in [Answer::Close, Answer::Reset, unavailable().into(), unauthorized().into(), Reply::html(200).into()]
    {
        let (first, trouble) = (first.clone(), trouble.clone());
        api.script(move |request| match request.query("continue") {
            None => Reply::json(200, &first).into(),
            Some(_) => trouble.clone(),
        });
        let answer = server.get("/config");
        assert!((502..=504).contains(&answer.status), "{} {}", answer.status, answer.text());
        check_sentence(&answer);
    }
}

#[test]
fn lasting_overload_is_503_with_retry_after_within_the_deadline() {
    for reply in [unavailable(), too_many_requests(1), internal_error()] {
        let (api, server) = started(1);
        api.always(reply);
        let start = Instant::now();
        let answer = server.post_job();
        assert_eq!(answer.status, 503, "{}", answer.text());
        check_retry_after(&answer);
        check_sentence(&answer);
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        // Retried, but not in a busy loop.
        assert!((1..=20).contains(&creates(&api).len()), "{} creates", creates(&api).len());
    }
}

#[test]
fn retry_after_of_kubernetes_is_honoured_where_the_deadline_allows_it() {
    for reply in [too_many_requests(1), unavailable().header("Retry-After", "1")] {
        let (api, server) = started(10);
        api.queue([reply.into()]);
        assert_eq!(server.post_job().status, 200);
        let creates = creates(&api);
        assert_eq!(creates.len(), 2);
        let pause = creates[1].at - creates[0].at;
        assert!(pause >= Duration::from_millis(950) && pause < Duration::from_secs(6), "{pause:?}");
    }
}

#[test]
fn callers_get_one_stable_sentence_whatever_kubernetes_says_in_particular() {
    let (api, server) = started(5);
    let sentences: BTreeSet<String> = ["jane", "joe"]
        .iter()
        .map(|user| {
            api.always(Reply::failure(403, "Forbidden", &format!("User \"{user}\" cannot create resource \"jobs\"")));
            check_sentence(&server.post_job())
        })
        .collect();
    assert_eq!(sentences.len(), 1, "{sentences:?}");
}

#[test]
fn a_create_whose_answer_is_no_job_is_never_made_twice() {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}).to_string();
    for body in [r#"{"kind":"Job","metadata":{"name":"fr"#, "", "null", "[]", status.as_str()] {
        let (api, server) = started(2);
        let strange = Reply::new(201, "application/json", body);
        let mut stored = false;
        api.script(move |request| {
            if std::mem::replace(&mut stored, true) {
                let name = request.json()["metadata"]["name"].to_string();
                return Reply::failure(409, "AlreadyExists", &format!("jobs.batch {name} already exists")).into();
            }
            strange.clone().into()
        });
        let answer = server.post_job();
        assert!([200, 502, 503, 504].contains(&answer.status), "{body}: {}", answer.status);
        let names: BTreeSet<String> =
            creates(&api).iter().map(|create| create.json()["metadata"]["name"].to_string()).collect();
        assert_eq!(names.len(), 1, "{body}");
    }
}

#[test]
fn a_strange_retry_after_of_kubernetes_is_survived() {
    let values =
        ["18446744073709551615", "99999999999999999999999", "-1", "", "soon", "1.5", "Wed, 21 Oct 2065 07:28:00 GMT"];
    let (api, server) = started(1);
    for value in values {
        api.always(Reply::failure(429, "TooManyRequests", "later").header("Retry-After", value));
        let answer = server.post_job();
        assert_eq!(answer.status, 503, "{value:?}: {}", answer.text());
        check_retry_after(&answer);
    }
}

#[test]
fn a_job_that_was_stored_by_a_request_that_hangs_is_not_made_twice() {
    let (api, server) = started(2);
    api.queue([Answer::HonestThenNever]);
    let answer = server.post_job();
    assert!([200, 504].contains(&answer.status), "{}", answer.text());
    assert_eq!(api.jobs().len(), 1);
}

#[test]
fn a_retry_after_beyond_the_deadline_is_an_answer_in_time() {
    let (api, server) = started(2);
    api.always(too_many_requests(3600));
    let start = Instant::now();
    let answer = server.post_job();
    assert_eq!(answer.status, 503, "{}", answer.text());
    check_retry_after(&answer);
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

#[test]
fn a_kubernetes_that_never_answers_is_504_at_the_deadline() {
    let (api, server) = started(1);
    api.always(Answer::Never);
    check_deadline(&server, 504);
}

#[test]
fn a_kubernetes_that_accepts_and_never_speaks_tls_is_504_at_the_deadline() {
    let (api, server) = started(1);
    api.on_accept([Accept::Hang; 100]);
    check_deadline(&server, 504);
}

/// One request to the program.
type Operation = fn(&Server) -> Response;

/// Every operation ends, with this status, about a second after its start.
fn check_deadline(server: &Server, status: u16) {
    let operations: [(&str, Operation, u16); 3] = [
        ("POST", Server::post_job, status),
        ("/config", |s| s.get("/config"), status),
        ("/readyz", |s| s.get("/readyz"), 503),
    ];
    for (what, ask, status) in operations {
        let start = Instant::now();
        let answer = ask(server);
        let elapsed = start.elapsed();
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        check_sentence(&answer);
        assert!(elapsed > Duration::from_millis(900) && elapsed < Duration::from_secs(3), "{what}: {elapsed:?}");
    }
}

#[test]
fn an_answer_that_drips_ends_at_the_deadline_too() {
    // A read timeout alone would start anew with every byte.
    let (api, server) = started(1);
    api.always(Answer::Drip);
    check_deadline(&server, 504);
    api.always(Answer::Honest);
    assert_eq!(server.get("/config").status, 200);
}

#[test]
fn an_outage_is_503_and_ends_without_a_restart() {
    // An address that no other test binds on, so that nobody takes the port in between.
    let mut api = ApiServer::listen(&Listen { ip: "127.0.0.2", ..Listen::default() });
    let server = Setup::for_api(&api).args(&["--kube-timeout", "1"]).start();
    assert_eq!(server.post_job().status, 200);
    for _ in 0..2 {
        api.close_port();
        let answer = server.post_job();
        assert_eq!(answer.status, 503, "{}", answer.text());
        check_retry_after(&answer);
        check_sentence(&answer);
        assert_eq!(server.get("/config").status, 503);
        assert_eq!(server.get("/readyz").status, 503);
        assert_eq!(server.get("/healthz").status, 200);
        api.reopen_port();
        assert_eq!(server.get("/readyz").status, 200);
        assert_eq!(server.post_job().status, 200);
        assert_eq!(server.get("/config").status, 200);
    }
    assert_eq!(api.jobs().len(), 3);
}

#[test]
fn a_kubernetes_that_comes_up_within_the_deadline_is_waited_for() {
    let mut api = ApiServer::listen(&Listen { ip: "127.0.0.2", ..Listen::default() });
    let server = Setup::for_api(&api).args(&["--kube-timeout", "15"]).start();
    api.close_port();
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| server.post_job());
        // The first refused try is not to be seen from outside; the port opens while the request is under way.
        std::thread::park_timeout(Duration::from_millis(300));
        api.reopen_port();
        let answer = answer.join().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
    });
    assert_eq!(api.jobs().len(), 1);
}

#[test]
fn it_starts_while_kubernetes_is_down() {
    let mut api = ApiServer::listen(&Listen { ip: "127.0.0.2", ..Listen::default() });
    api.close_port();
    let server = Setup::for_api(&api).args(&["--kube-timeout", "1"]).start();
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.get("/readyz").status, 503);
    api.reopen_port();
    assert_eq!(server.get("/readyz").status, 200);
}

#[test]
fn a_host_name_that_does_not_resolve_is_503() {
    let setup =
        Setup::new().kubeconfig(crate::support::kubeconfig::Kubeconfig::new("https://nowhere.invalid:6443").yaml());
    let server = setup.args(&["--kube-timeout", "1"]).start();
    let answer = server.post_job();
    assert!([503, 504].contains(&answer.status), "{} {}", answer.status, answer.text());
    check_sentence(&answer);
}

#[test]
fn requests_in_a_row_share_one_connection() {
    let (api, server) = started(10);
    for _ in 0..20 {
        assert_eq!(server.post_job().status, 200);
        assert_eq!(server.get("/config").status, 200);
    }
    assert_eq!(api.connections(), 1);
}

#[test]
fn errors_of_kubernetes_do_not_cost_the_connection() {
    let (api, server) = started(10);
    api.always(quota_full());
    for _ in 0..10 {
        assert_eq!(server.post_job().status, 429);
    }
    assert_eq!(api.connections(), 1);
}

#[test]
fn a_burst_reuses_the_connections_of_the_burst_before() {
    let (api, server) = started(10);
    let burst = || {
        std::thread::scope(|scope| {
            for _ in 0..32 {
                scope.spawn(|| assert_eq!(server.post_job().status, 200));
            }
        });
    };
    burst();
    let after_one = api.connections();
    for _ in 0..4 {
        burst();
    }
    assert!(after_one <= 33, "{after_one} connections for 32 requests");
    assert!(api.connections() < 4 * 32, "{} connections: none is used again", api.connections());
    assert_eq!(api.jobs().len(), 160);
}

#[test]
fn a_stale_connection_never_reaches_the_caller() {
    let (api, server) = started(10);
    for _ in 0..10 {
        // Closed right after the answer without saying so, as load balancers do.
        api.queue([Answer::ThenClose(Box::new(Answer::Honest))]);
        assert_eq!(server.post_job().status, 200);
        assert_eq!(server.get("/config").status, 200);
        // Closed in the very moment of its next use.
        api.queue([Answer::Close]);
        assert_eq!(server.post_job().status, 200);
        api.queue([Answer::Close]);
        assert_eq!(server.get("/config").status, 200);
        // Closed while idle.
        api.hang_up();
        assert_eq!(server.post_job().status, 200);
    }
    assert_eq!(api.jobs().len(), 30);
}

#[test]
fn a_hanging_kubernetes_never_keeps_healthz_waiting() {
    let (api, server) = started(10);
    let gate = Gate::default();
    let held = gate.clone();
    api.script(move |_| Answer::After(held.clone(), Box::new(Answer::Honest)));
    std::thread::scope(|scope| {
        let posts: Vec<_> = (0..64).map(|_| scope.spawn(|| server.post_job().status)).collect();
        api.wait_for_requests(1);
        for _ in 0..10 {
            let start = Instant::now();
            assert_eq!(server.get("/healthz").status, 200);
            assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        }
        gate.open();
        let answers: Vec<u16> = posts.into_iter().map(|post| post.join().unwrap()).collect();
        let done = answers.iter().filter(|status| **status == 200).count();
        assert!(answers.iter().all(|status| [200, 503].contains(status)), "{answers:?}");
        assert_eq!(api.jobs().len(), done);
    });
}

#[test]
fn redirects_are_not_followed() {
    for status in [301, 302, 307, 308] {
        let (api, server) = started(1);
        let elsewhere = ApiServer::start();
        let location = format!("{}/apis/batch/v1/namespaces/default/jobs", elsewhere.url());
        api.script(move |request| {
            if request.path().starts_with("/moved") {
                return Answer::Honest;
            }
            let target = if request.method == "GET" { "/moved/api/v1/pods" } else { location.as_str() };
            Reply::new(status, "text/plain", "moved").header("Location", target).into()
        });
        for answer in [server.post_job(), server.get("/config")] {
            assert!((502..=504).contains(&answer.status), "{status}: {} {}", answer.status, answer.text());
            check_sentence(&answer);
        }
        assert_eq!(elsewhere.connections(), 0, "{status}");
        assert!(!api.requests().iter().any(|request| request.path().starts_with("/moved")), "{status}");
    }
}

#[test]
fn an_answer_without_end_is_an_error_and_no_flood() {
    let (api, server) = started(5);
    // 100 MB behind 100 KB of gzip: more than any list of pods that this program is for.
    let flood = Reply::new(200, "application/json", vec![b' '; 100_000_000]).gzip();
    api.always(flood);
    let answer = server.get("/config");
    assert!((502..=504).contains(&answer.status), "{} {}", answer.status, answer.text());
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(peak.unwrap() < 150_000, "{peak:?} kB");
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn what_kubernetes_says_cannot_write_lines_into_the_log() {
    let (api, server) = started(2);
    api.always(Reply::failure(403, "Forbidden", "no\nINJECTED 1\r\n\u{1b}[2JINJECTED 2"));
    check_sentence(&server.post_job());
    server.wait_for_log("of the request", |line| line.starts_with("POST "));
    for line in server.stderr().lines() {
        assert!(!line.starts_with("INJECTED") && !line.contains(|c: char| c.is_control()), "{line:?}");
    }
}

#[test]
fn the_token_is_in_no_answer_and_in_no_log_line() {
    let (api, server) = started(1);
    for reply in [unauthorized(), no_permission(), Reply::html(200), Reply::failure(400, "BadRequest", "what?")] {
        api.always(reply);
        check_sentence(&server.post_job());
        check_sentence(&server.get("/config"));
        check_sentence(&server.get("/readyz"));
    }
    assert_eq!(api.requests()[0].header("Authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    assert!(!server.stderr().contains(TOKEN), "{}", server.stderr());
}
