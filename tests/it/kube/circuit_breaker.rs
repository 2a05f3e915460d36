//! The circuit breaker: the cluster is down, recovers, restarts or hangs. Callers get an error soon, /healthz is
//! unaffected, and the server recovers without a restart.

use crate::support::api::{ApiServer, Listen};
use crate::support::eventually;
use crate::support::http::Response;
use crate::support::kubeconfig::Kubeconfig;
use crate::support::plugin::{Plugin, credential};
use crate::support::response::Behavior;
use crate::support::server::{Server, Setup};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

/// --kube-timeout of most tests: the minimum.
const DEADLINE: Duration = Duration::from_secs(1);

/// Tolerance for a busy machine.
const SLACK: Duration = Duration::from_secs(1);

/// Longest time of an immediate response on a busy machine.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Longest time of /healthz.
const PROMPT: Duration = Duration::from_millis(100);

/// An API server whose port can be closed and reopened. Its own loopback address prevents another test from taking the
/// port.
fn api_of(test: u8) -> ApiServer {
    ApiServer::listen(&Listen { ip: &format!("127.0.7.{test}"), ..Listen::default() })
}

/// A kubeconfig for this server, whose certificate is for another name.
fn kubeconfig_of(api: &ApiServer) -> Kubeconfig {
    Kubeconfig::new(&api.url()).cluster(json!({"tls-server-name": "localhost"}))
}

fn server_of(api: &ApiServer, kube_timeout: u32) -> Server {
    Setup::new().kubeconfig(kubeconfig_of(api).yaml()).args(&["--kube-timeout", &kube_timeout.to_string()]).start()
}

fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let done = act();
    (done, start.elapsed())
}

/// Sends `count` POSTs at once; returns each response with its duration.
fn posts_at_once(server: &Server, count: usize) -> Vec<(Response, Duration)> {
    let start = Barrier::new(count);
    std::thread::scope(|scope| {
        let post = || {
            let mut connection = server.connect();
            start.wait();
            timed(|| connection.request("POST", "/img-classification/free", Some(br#"{"dataset":"mnist"}"#)))
        };
        let posts: Vec<_> = (0..count).map(|_| scope.spawn(post)).collect();
        posts.into_iter().map(|post| post.join().unwrap()).collect()
    })
}

fn check_unreachable(response: &Response, what: &str) {
    assert_eq!(response.status, 503, "{what}: {}", response.text());
    assert!(response.error().contains("cannot be reached"), "{what}: {}", response.text());
    let seconds: u64 =
        response.header("Retry-After").unwrap_or_else(|| panic!("{what}: no Retry-After")).parse().unwrap();
    assert!((1..=60).contains(&seconds), "{what}: {seconds}");
}

/// Counts log lines for the start and the end of an outage.
fn transitions(server: &Server) -> (usize, usize) {
    let log = server.stderr();
    let count = |start: &str| log.lines().filter(|line| line.starts_with(start)).count();
    (count("error: cluster unreachable"), count("warning: cluster reachable again"))
}

/// Requests /healthz until `done` is set; returns the sorted durations.
fn healthz_while(server: &Server, least: usize, done: &AtomicBool) -> Vec<Duration> {
    let mut times = Vec::new();
    while times.len() < least || !done.load(Ordering::SeqCst) {
        let (response, took) = timed(|| server.get("/healthz"));
        assert_eq!(response.status, 200);
        times.push(took);
        std::thread::park_timeout(Duration::from_millis(5));
    }
    times.sort();
    times
}

/// At least 95 % must be prompt, and the slowest may wait for the processor but not for Kubernetes: every wait for
/// Kubernetes in these tests takes a deadline, and the bound is half of it.
fn check_prompt(times: &[Duration]) {
    let usual = times[times.len() * 19 / 20 - 1];
    let worst = times[times.len() - 1];
    assert!(usual < PROMPT && worst < DEADLINE / 2, "{usual:?}, at worst {worst:?} of {}", times.len());
}

#[test]
fn outage_fails_fast_for_every_caller_until_the_cluster_is_back() {
    let mut api = api_of(1);
    let server = server_of(&api, 1);
    assert_eq!(server.post_job().status, 200);
    api.close_port();
    let (first, took) = timed(|| server.post_job());
    check_unreachable(&first, "the first");
    // The first request retries for as long as a restart may take.
    assert!(took > DEADLINE / 2 && took < DEADLINE + SLACK, "{took:?}");
    server.wait_for_log("of the outage", |line| line.starts_with("error: cluster unreachable"));

    // Sequential attempts for every request would take many times the deadline.
    let done = AtomicBool::new(false);
    let (responses, times) = std::thread::scope(|scope| {
        let healthz = scope.spawn(|| healthz_while(&server, 20, &done));
        let responses = posts_at_once(&server, 50);
        done.store(true, Ordering::SeqCst);
        (responses, healthz.join().unwrap())
    });
    for (response, took) in &responses {
        check_unreachable(response, "one of many");
        assert!(*took < DEADLINE + SLACK, "{took:?}");
    }
    let waited = responses.iter().filter(|(_, took)| *took > AT_ONCE).count();
    assert!(waited <= 5, "{waited} of 50 waited, but only one at a time may try");
    check_prompt(&times);
    check_unreachable(&server.get("/readyz"), "/readyz");
    check_unreachable(&server.get("/config"), "/config");
    assert_eq!(transitions(&server), (1, 0));
    assert_eq!(api.jobs().len(), 1);

    api.reopen_port();
    assert_eq!(server.post_job().status, 200, "the next one works");
    eventually("ready again", || server.get("/readyz").status == 200);
    assert!(posts_at_once(&server, 50).iter().all(|(response, _)| response.status == 200));
    server.wait_for_log("of the end", |line| line.starts_with("warning: cluster reachable again"));
    assert_eq!(transitions(&server), (1, 1));
    assert_eq!(api.jobs().len(), 52);
}

#[test]
fn burst_into_an_outage_waits_for_one_deadline_in_total() {
    let mut api = api_of(2);
    let server = server_of(&api, 1);
    api.close_port();
    let (responses, took) = timed(|| posts_at_once(&server, 100));
    for (response, _) in &responses {
        assert_eq!(response.status, 503, "{}", response.text());
    }
    assert!(took < DEADLINE * 2 + SLACK, "{took:?}");
    assert_eq!(transitions(&server), (1, 0));
}

#[test]
fn outage_has_one_request_that_retries_for_the_others() {
    const POSTS: usize = 6;
    let mut api = api_of(7);
    let server = server_of(&api, 3);
    api.close_port();
    check_unreachable(&server.post_job(), "the first");
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let post = || {
            let (response, took) = timed(|| server.post_job());
            if response.status != 200 {
                check_unreachable(&response, "one of the others");
                assert!(took < AT_ONCE, "{took:?}");
                refused.fetch_add(1, Ordering::SeqCst);
            }
            response.status
        };
        let posts: Vec<_> = (0..POSTS).map(|_| scope.spawn(post)).collect();
        eventually("all but one fail fast", || refused.load(Ordering::SeqCst) >= POSTS - 1);
        api.reopen_port();
        let good = posts.into_iter().map(|post| post.join().unwrap()).filter(|status| *status == 200);
        assert_eq!(good.count(), 1, "the one that went on trying");
    });
    assert_eq!(transitions(&server), (1, 1));
    assert_eq!(server.post_job().status, 200);
    assert_eq!(api.jobs().len(), 2);
}

#[test]
fn recovery_is_found_soon_under_load_and_each_outage_is_logged_once() {
    let mut api = api_of(3);
    let server = server_of(&api, 1);
    let stop = AtomicBool::new(false);
    let (good, down) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let odd = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let response = server.get("/config");
                    match response.status {
                        200 => good.fetch_add(1, Ordering::SeqCst),
                        503 => down.fetch_add(1, Ordering::SeqCst),
                        _ => {
                            odd.lock().unwrap().push(response.text().to_owned());
                            0
                        }
                    };
                    std::thread::park_timeout(Duration::from_millis(5));
                }
            });
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let more = |counter: &AtomicUsize| {
                let before = counter.load(Ordering::SeqCst);
                eventually("there are more", || counter.load(Ordering::SeqCst) >= before + 40);
            };
            for outage in 1..=2 {
                more(&good);
                api.close_port();
                more(&down);
                api.reopen_port();
                let ((), took) = timed(|| more(&good));
                // The longest retry pause is 1.25 s.
                assert!(took < DEADLINE * 5 / 4 + SLACK, "{took:?}");
                assert_eq!(transitions(&server), (outage, outage));
            }
        }));
        stop.store(true, Ordering::SeqCst);
        outcome.unwrap();
    });
    assert_eq!(odd.into_inner().unwrap(), [""; 0]);
}

#[test]
fn short_restart_of_the_api_server_causes_no_error() {
    let mut api = api_of(4);
    let server = server_of(&api, 10);
    assert_eq!(server.post_job().status, 200);
    for _ in 0..2 {
        let before = api.requests().len();
        std::thread::scope(|scope| {
            api.close_port();
            let posts = scope.spawn(|| posts_at_once(&server, 40));
            // The restart: the test cannot observe which attempts are refused meanwhile.
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(api.requests().len(), before, "the port was closed");
            api.reopen_port();
            for (response, took) in posts.join().unwrap() {
                assert_eq!(response.status, 200, "{}", response.text());
                assert!(took > Duration::from_millis(200), "it was refused for half a second: {took:?}");
            }
        });
    }
    assert_eq!(api.jobs().len(), 81);
    assert_eq!(transitions(&server), (0, 0));
}

#[test]
fn hanging_api_server_delays_a_request_by_at_most_the_wait_and_the_deadline() {
    let api = ApiServer::start();
    let server = server_of(&api, 1);
    assert_eq!(server.post_job().status, 200);
    api.always(Behavior::ApplyThenHang);
    let done = AtomicBool::new(false);
    let (responses, times) = std::thread::scope(|scope| {
        let healthz = scope.spawn(|| {
            api.wait_for_requests(2);
            healthz_while(&server, 20, &done)
        });
        // 32 with a permit, and fewer than the 64 that may wait from one address.
        let responses = posts_at_once(&server, 90);
        done.store(true, Ordering::SeqCst);
        (responses, healthz.join().unwrap())
    });
    check_prompt(&times);
    let mut statuses = (0, 0);
    for (response, took) in &responses {
        // One deadline for a permit, then one for Kubernetes.
        assert!(*took >= DEADLINE * 9 / 10 && *took < DEADLINE * 2 + SLACK, "{} after {took:?}", response.status);
        match response.status {
            504 => statuses.0 += 1,
            503 => statuses.1 += 1,
            status => panic!("{status}: {}", response.text()),
        }
        assert_eq!(response.header("Retry-After").is_some(), response.status == 503, "{}", response.text());
        assert!(!response.error().is_empty());
    }
    // The requests with a permit at once, and perhaps those with the next permits.
    assert!((32..=64).contains(&statuses.0), "{statuses:?} of 504 and 503");
    // The API server accepts connections, so the circuit breaker stays closed.
    assert_eq!(transitions(&server), (0, 0));
    let jobs = api.jobs().len();
    assert!(jobs <= 1 + statuses.0, "{jobs} Jobs: a 503 must leave none");

    api.always(Behavior::Default);
    let (response, took) = timed(|| server.post_job());
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(took < DEADLINE, "{took:?}");
    assert!(posts_at_once(&server, 50).iter().all(|(response, _)| response.status == 200));
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(api.jobs().len(), jobs + 51);
}

#[test]
fn outage_followed_by_a_hang_ends_without_a_restart() {
    let mut api = api_of(5);
    let server = server_of(&api, 1);
    api.close_port();
    check_unreachable(&server.post_job(), "down");
    // Kubernetes accepts connections but hangs: one request at a time tries and waits, the others fail fast.
    api.always(Behavior::Hang);
    api.reopen_port();
    for (response, took) in posts_at_once(&server, 50) {
        assert!([503, 504].contains(&response.status), "{}", response.text());
        assert!(took < DEADLINE * 2 + SLACK, "{took:?}");
    }
    api.always(Behavior::Default);
    assert_eq!(server.post_job().status, 200);
    assert_eq!(transitions(&server), (1, 1));
}

#[test]
fn failing_credential_plugin_leaves_the_circuit_breaker_closed() {
    let mut api = api_of(6);
    let setup = Setup::new();
    let status = json!({"token": "from-plugin"});
    let good = credential("v1", &status);
    let script = format!("[ -e \"$HERE/well\" ] || exit 1\ncat <<'END'\n{good}\nEND");
    let plugin = Plugin::write(setup.home(), "plugin", &script);
    let setup = setup.kubeconfig(kubeconfig_of(&api).user(plugin.user()).yaml());
    let server = setup.args(&["--kube-timeout", "1"]).start();
    let fails = || {
        for (response, _) in posts_at_once(&server, 20) {
            assert_eq!(response.status, 502, "{}", response.text());
            assert!(response.error().contains("credential"), "{}", response.text());
        }
        assert_eq!(server.get("/readyz").status, 503);
        assert_eq!(server.get("/healthz").status, 200);
    };
    fails();
    // Without a credential a request never reaches the cluster that is down.
    api.close_port();
    fails();
    assert_eq!(transitions(&server), (0, 0));
    api.reopen_port();
    fails();
    std::fs::write(server.home().join("well"), "").unwrap();
    eventually("the plugin is run again", || server.post_job().status == 200);
    assert!(posts_at_once(&server, 20).iter().all(|(response, _)| response.status == 200));
    assert_eq!(transitions(&server), (0, 0));
    assert_eq!(api.jobs().len(), 21);
}
