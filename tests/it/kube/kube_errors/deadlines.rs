//! Retry-After, deadlines and outages.

use super::{check_retry_after, check_sentence, creates, started};
use crate::support::LONG_KUBE_TIMEOUT;
use crate::support::api::{ApiServer, Listen};
use crate::support::eventually;
use crate::support::http::Response;
use crate::support::response::{Accept, ApiResponse, Behavior, Latch, internal_error, too_many_requests, unavailable};
use crate::support::server::{Server, Setup};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

#[test]
fn slow_kubernetes_within_the_deadline_gets_one_request() {
    let (api, server) = started(10);
    let slow = || Behavior::Delayed(Duration::from_secs(3), Box::new(Behavior::Default));
    api.script(move |_| slow());
    for made in 1..=2 {
        let response = server.post_job();
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!((creates(&api).len(), api.jobs().len()), (made, made));
    }
}

#[test]
fn request_that_waits_too_long_for_a_permit_is_503_and_creates_no_job() {
    // Kubernetes responds to the first round of requests in time; the second round ends after the last waits.
    let (api, server) = started(5);
    api.script(move |_| Behavior::Delayed(Duration::from_secs(3), Box::new(Behavior::Default)));
    let responses: Vec<Response> = std::thread::scope(|scope| {
        let posts: Vec<_> = (0..100).map(|_| scope.spawn(|| server.post_job())).collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    });
    let of = |status: u16| responses.iter().filter(move |response| response.status == status);
    // On a busy machine the 3 s of Kubernetes may exceed the deadline of 5 s.
    let (done, late, turned_away) = (of(200).count(), of(504).count(), of(503).count());
    assert_eq!(done + late + turned_away, 100);
    assert!(turned_away > 0 && done > 0, "{done} done, {late} late, {turned_away} turned away");
    of(503).for_each(check_retry_after);
    assert_eq!(creates(&api).len(), done + late, "a request that was turned away reached Kubernetes");
    eventually("every create is a Job", || api.jobs().len() == done + late);
    let names: BTreeSet<String> = api.jobs().iter().map(|job| job["metadata"]["name"].to_string()).collect();
    assert_eq!(names.len(), done + late);
    assert!(of(200).all(|response| names.contains(&response.json()["job"].to_string())));
}

#[test]
fn wait_for_a_permit_counts_against_the_deadline() {
    const PERMITS: usize = 32;
    let (api, server) = started(10);
    let mut requests = 0;
    api.script(move |_| {
        requests += 1;
        match requests {
            1 => Behavior::Delayed(Duration::from_secs(6), Box::new(Behavior::Default)),
            ..=PERMITS => Behavior::Hang,
            _ => Behavior::Delayed(Duration::from_secs(7), Box::new(Behavior::Default)),
        }
    });
    std::thread::scope(|scope| {
        let posts: Vec<_> = (0..PERMITS).map(|_| scope.spawn(|| server.post_job().status)).collect();
        api.wait_for_requests(PERMITS);
        // Its permit comes after 6 s, and the response of Kubernetes would take 7 s more.
        assert_eq!(server.post_job().status, 504);
        let done = posts.into_iter().map(|post| post.join().unwrap()).filter(|status| *status == 200);
        assert_eq!(done.count(), 1);
    });
    assert_eq!(server.post_job().status, 200, "without a wait");
}

#[test]
fn lasting_overload_is_503_with_retry_after_within_the_deadline() {
    let check = |reply| {
        let (api, server) = started(10);
        api.always(reply);
        let response = server.post_job();
        assert_eq!(response.status, 503, "{}", response.text());
        check_retry_after(&response);
        check_sentence(&response);
    };
    std::thread::scope(|scope| {
        for reply in [unavailable(), too_many_requests(1), internal_error()] {
            scope.spawn(move || check(reply));
        }
    });
}

#[test]
fn retry_after_of_kubernetes_is_honoured_within_the_deadline() {
    for reply in [too_many_requests(1), unavailable().header("Retry-After", "1")] {
        let (api, server) = started(10);
        api.queue([reply.into()]);
        assert_eq!(server.post_job().status, 200);
        let creates = creates(&api);
        assert_eq!(creates.len(), 2);
        let pause = creates[1].at - creates[0].at;
        assert!(pause >= Duration::from_millis(950), "{pause:?}");
    }
}

#[test]
fn invalid_retry_after_does_no_harm() {
    let values =
        ["18446744073709551615", "99999999999999999999999", "-1", "", "soon", "1.5", "Wed, 21 Oct 2065 07:28:00 GMT"];
    let check = |value| {
        let (api, server) = started(10);
        api.always(ApiResponse::failure(429, "TooManyRequests", "later").header("Retry-After", value));
        let response = server.post_job();
        assert_eq!(response.status, 503, "{value:?}: {}", response.text());
        check_retry_after(&response);
    };
    std::thread::scope(|scope| {
        for value in values {
            scope.spawn(move || check(value));
        }
    });
}

#[test]
fn retry_after_over_the_longest_pause_goes_to_the_caller_at_once() {
    for seconds in [4, 3600] {
        let (api, server) = started(LONG_KUBE_TIMEOUT);
        api.always(too_many_requests(seconds));
        let response = server.post_job();
        assert_eq!(response.status, 503, "{}", response.text());
        check_retry_after(&response);
        assert!(seconds > 300 || response.header("Retry-After") == Some("4"));
        assert_eq!(creates(&api).len(), 1);
    }
}

#[test]
fn kubernetes_without_a_response_is_504_at_the_deadline() {
    let (api, server) = started(DEADLINE);
    api.always(Behavior::Hang);
    check_deadline(&server, 504);
}

#[test]
fn endpoint_without_a_tls_handshake_costs_a_connection_attempt_and_not_the_request() {
    let (api, server) = started(LONG_KUBE_TIMEOUT);
    api.on_accept([Accept::Hang]);
    assert_eq!(server.post_job().status, 200);
    assert_eq!(api.connections(), 2);
}

/// Sends one request to the server.
type Operation = fn(&Server) -> Response;

/// --kube-timeout in seconds: a busy machine opens a connection to Kubernetes in this time.
const DEADLINE: u32 = 3;

/// Checks that every operation ends with this status, and not before [`DEADLINE`].
fn check_deadline(server: &Server, status: u16) {
    let operations: [(&str, Operation, u16); 3] = [
        ("POST", Server::post_job, status),
        ("/config", |s| s.get("/config"), status),
        ("/readyz", |s| s.get("/readyz"), 503),
    ];
    for (what, send, status) in operations {
        let start = Instant::now();
        let response = send(server);
        let elapsed = start.elapsed();
        assert_eq!(response.status, status, "{what}: {}", response.text());
        check_sentence(&response);
        assert!(elapsed > Duration::from_secs(DEADLINE.into()) * 9 / 10, "{what}: {elapsed:?}");
    }
}

#[test]
fn dripping_response_ends_at_the_deadline() {
    // A read timeout alone would restart with every byte, beyond the client's own timeout.
    let (api, server) = started(DEADLINE);
    api.always(Behavior::Drip);
    check_deadline(&server, 504);
    api.always(Behavior::Default);
    assert_eq!(server.get("/config").status, 200);
}

#[test]
fn outage_is_503_and_ends_without_a_restart() {
    // An address that no other test binds, so that no process takes the port meanwhile.
    let mut api = ApiServer::listen(&Listen { ip: "127.0.0.2", ..Listen::default() });
    let server = Setup::for_api(&api).args(&["--kube-timeout", &DEADLINE.to_string()]).start();
    assert_eq!(server.post_job().status, 200);
    for _ in 0..2 {
        api.close_port();
        let response = server.post_job();
        assert_eq!(response.status, 503, "{}", response.text());
        check_retry_after(&response);
        check_sentence(&response);
        assert_eq!(server.get("/config").status, 503);
        assert_eq!(server.get("/readyz").status, 503);
        assert_eq!(server.get("/healthz").status, 200);
        api.reopen_port();
        eventually("ready again", || server.get("/readyz").status == 200);
        assert_eq!(server.post_job().status, 200);
        assert_eq!(server.get("/config").status, 200);
    }
    assert_eq!(api.jobs().len(), 3);
}

#[test]
fn last_attempt_without_an_answer_does_not_hide_the_outage_before_it() {
    let mut api = ApiServer::listen(&Listen { ip: "127.0.0.2", ..Listen::default() });
    api.always(Behavior::Hang);
    let server = Setup::for_api(&api).args(&["--kube-timeout", "5", "--log-level", "debug"]).start();
    api.close_port();
    std::thread::scope(|scope| {
        let response = scope.spawn(|| server.get("/config"));
        // The first seven pauses take 2.66 s or more: over half the deadline.
        eventually("seven retries", || server.stderr().matches("retrying in").count() >= 7);
        api.reopen_port();
        let response = response.join().unwrap();
        assert_eq!(response.status, 503, "{}", response.text());
    });
}

#[test]
fn kubernetes_that_starts_within_the_deadline_serves_the_request() {
    let mut api = ApiServer::listen(&Listen { ip: "127.0.0.2", ..Listen::default() });
    let server = Setup::for_api(&api).args(&["--kube-timeout", "15", "--log-level", "debug"]).start();
    api.close_port();
    std::thread::scope(|scope| {
        let response = scope.spawn(|| server.post_job());
        server.wait_for_log("of a retry", |line| line.contains("retrying in") && line.contains("refused"));
        api.reopen_port();
        let response = response.join().unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
    });
    assert_eq!(api.jobs().len(), 1);
}

#[test]
fn server_starts_while_kubernetes_is_down() {
    let mut api = ApiServer::listen(&Listen { ip: "127.0.0.2", ..Listen::default() });
    api.close_port();
    let server = Setup::for_api(&api).args(&["--kube-timeout", &DEADLINE.to_string()]).start();
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.get("/readyz").status, 503);
    api.reopen_port();
    eventually("ready", || server.get("/readyz").status == 200);
}

#[test]
fn unresolvable_host_name_is_503() {
    let setup =
        Setup::new().kubeconfig(crate::support::kubeconfig::Kubeconfig::new("https://nowhere.invalid:6443").yaml());
    let server = setup.args(&["--kube-timeout", "1"]).start();
    let response = server.post_job();
    assert!([503, 504].contains(&response.status), "{} {}", response.status, response.text());
    check_sentence(&response);
}

#[test]
fn hanging_kubernetes_never_delays_healthz() {
    const POSTS: usize = 64;
    let (api, server) = started(LONG_KUBE_TIMEOUT);
    let latch = Latch::default();
    let held = latch.clone();
    api.script(move |_| Behavior::After(held.clone(), Box::new(Behavior::Default)));
    std::thread::scope(|scope| {
        let posts: Vec<_> = (0..POSTS).map(|_| scope.spawn(|| server.post_job().status)).collect();
        // Every permit is taken. No POST ends before the latch opens.
        api.wait_for_requests(32);
        for _ in 0..10 {
            assert_eq!(server.get("/healthz").status, 200);
        }
        latch.open();
        assert!(posts.into_iter().all(|post| post.join().unwrap() == 200));
    });
    assert_eq!(api.jobs().len(), POSTS);
}
