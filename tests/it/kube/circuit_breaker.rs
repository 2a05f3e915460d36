//! The circuit breaker: the cluster is down, recovers, restarts or hangs. Callers get an error soon, /healthz is
//! unaffected, and the server recovers without a restart.

use crate::support::api::{ApiServer, Listen};
use crate::support::eventually;
use crate::support::http::Response;
use crate::support::kubeconfig::Kubeconfig;
use crate::support::plugin::{Plugin, credential};
use crate::support::response::{Behavior, Latch};
use crate::support::server::{Server, Setup};
use serde_json::json;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

/// --kube-timeout of tests that wait for it: a busy machine opens connections to Kubernetes in this time.
const DEADLINE: Duration = Duration::from_secs(3);

/// The path of the server's probes.
const PROBE: &str = "/version";

/// An API server whose port can be closed and reopened. Its own loopback address prevents another test from taking the
/// port.
fn api_of(test: u8) -> ApiServer {
    ApiServer::listen(&Listen { ip: &format!("127.0.7.{test}"), ..Listen::default() })
}

/// A kubeconfig for this server, whose certificate is for another name.
fn kubeconfig_of(api: &ApiServer) -> Kubeconfig {
    Kubeconfig::new(&api.url()).cluster(json!({"tls-server-name": "localhost"}))
}

/// A server with this --kube-timeout, and a log of every retry.
fn server_of(api: &ApiServer, kube_timeout: Duration) -> Server {
    let options = ["--kube-timeout", &kube_timeout.as_secs().to_string(), "--log-level", "debug"];
    Setup::new().kubeconfig(kubeconfig_of(api).yaml()).args(&options).start()
}

/// Sends `count` POSTs at once.
fn posts_at_once(server: &Server, count: usize) -> Vec<Response> {
    let start = Barrier::new(count);
    std::thread::scope(|scope| {
        let post = || {
            let mut connection = server.connect();
            start.wait();
            connection.request("POST", "/img-classification/free", Some(br#"{"dataset":"mnist"}"#))
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

/// Checks the number of outages that the log reports, and of their ends.
fn check_outages(server: &Server, starts: usize, ends: usize) {
    let count = |log: &str, start: &str| log.lines().filter(|line| line.starts_with(start)).count();
    let of = |log: &str| (count(log, "error: cluster unreachable"), count(log, "warning: cluster reachable again"));
    // A request may get its response before another request, which changed the state, logs that.
    eventually("the log has the outages", || {
        let (started, ended) = of(&server.stderr());
        started >= starts && ended >= ends
    });
    assert_eq!(of(&server.log_until_now()), (starts, ends));
}

/// Requests /healthz until `done` is set.
fn healthz_while(server: &Server, done: &AtomicBool) {
    while !done.load(Ordering::SeqCst) {
        assert_eq!(server.get("/healthz").status, 200);
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Closes the port, and waits until a request has opened the circuit.
fn open_circuit(api: &mut ApiServer, server: &Server) {
    api.close_port();
    check_unreachable(&server.post_job(), "the first");
    server.wait_for_log("of the outage", |line| line.starts_with("error: cluster unreachable"));
}

/// Waits until a probe has closed the circuit.
fn wait_for_recovery(server: &Server) {
    server.wait_for_log("of the end", |line| line.starts_with("warning: cluster reachable again"));
}

#[test]
fn outage_fails_fast_for_every_caller_until_a_probe_finds_the_cluster() {
    let mut api = api_of(1);
    let server = server_of(&api, DEADLINE);
    assert_eq!(server.post_job().status, 200);
    open_circuit(&mut api, &server);
    let latch = Latch::default();
    let held = latch.clone();
    api.script(move |_| Behavior::After(held.clone(), Box::new(Behavior::Default)));
    let before = api.requests().len();
    api.reopen_port();
    api.wait_for_requests(before + 1);
    // The probe is held, so a response that waited for Kubernetes would never come.
    for target in ["/config", "/readyz", "/config", "/readyz"] {
        check_unreachable(&server.get(target), target);
    }
    for response in posts_at_once(&server, 50) {
        check_unreachable(&response, "one of many");
    }
    assert_eq!(server.get("/healthz").status, 200);
    let requests = api.requests();
    let sent: Vec<&str> = requests[before..].iter().map(|request| request.path()).collect();
    assert!(sent.iter().all(|path| *path == PROBE), "{sent:?}");
    // A probe needs no credential, so a failing plugin does not hide the cluster's return.
    assert!(requests[before..].iter().all(|request| request.header("Authorization").is_none()));
    check_outages(&server, 1, 0);

    latch.open();
    wait_for_recovery(&server);
    assert_eq!(server.post_job().status, 200);
    // Its callers share one answer for a second.
    eventually("ready again", || server.get("/readyz").status == 200);
    assert!(posts_at_once(&server, 50).iter().all(|response| response.status == 200));
    check_outages(&server, 1, 1);
    assert_eq!(api.jobs().len(), 52);
}

#[test]
fn burst_into_an_outage_is_503_and_logged_once() {
    let mut api = api_of(2);
    let server = server_of(&api, DEADLINE);
    api.close_port();
    for response in posts_at_once(&server, 100) {
        assert_eq!(response.status, 503, "{}", response.text());
    }
    check_outages(&server, 1, 0);
}

#[test]
fn recovery_is_found_under_load_and_each_outage_is_logged_once() {
    let mut api = api_of(3);
    let server = server_of(&api, DEADLINE);
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
                more(&good);
                check_outages(&server, outage, outage);
            }
        }));
        stop.store(true, Ordering::SeqCst);
        outcome.unwrap();
    });
    assert_eq!(odd.into_inner().unwrap(), [""; 0]);
}

#[test]
fn short_restart_of_the_api_server_causes_no_error() {
    const POSTS: usize = 40;
    let mut api = api_of(4);
    let server = server_of(&api, DEADLINE * 10);
    assert_eq!(server.post_job().status, 200);
    let retries = || {
        server.log_until_now().lines().filter(|line| line.contains("retrying in") && line.contains("refused")).count()
    };
    for _ in 0..2 {
        let (requests, before) = (api.requests().len(), retries());
        api.close_port();
        std::thread::scope(|scope| {
            let posts = scope.spawn(|| posts_at_once(&server, POSTS));
            eventually("connections are refused", || retries() >= before + POSTS);
            assert_eq!(api.requests().len(), requests, "the port was closed");
            api.reopen_port();
            for response in posts.join().unwrap() {
                assert_eq!(response.status, 200, "{}", response.text());
            }
        });
    }
    assert_eq!(api.jobs().len(), 1 + 2 * POSTS);
    check_outages(&server, 0, 0);
}

#[test]
fn hanging_api_server_fails_requests_at_their_deadline_and_opens_no_circuit() {
    let api = ApiServer::start();
    let server = server_of(&api, DEADLINE);
    assert_eq!(server.post_job().status, 200);
    api.always(Behavior::ApplyThenHang);
    let (start, done) = (Instant::now(), AtomicBool::new(false));
    let responses = std::thread::scope(|scope| {
        scope.spawn(|| healthz_while(&server, &done));
        // 32 with a permit, and fewer than the 64 that may wait from one address.
        let responses = posts_at_once(&server, 90);
        done.store(true, Ordering::SeqCst);
        responses
    });
    assert!(start.elapsed() >= DEADLINE, "an error before the deadline");
    let mut timeouts = 0;
    for response in &responses {
        match response.status {
            504 => timeouts += 1,
            503 => {}
            status => panic!("{status}: {}", response.text()),
        }
        assert_eq!(response.header("Retry-After").is_some(), response.status == 503, "{}", response.text());
        assert!(!response.error().is_empty());
    }
    assert!(timeouts >= 32, "{timeouts} had a permit");
    // The API server accepts connections, so the circuit breaker stays closed.
    check_outages(&server, 0, 0);
    let jobs = api.jobs().len();
    assert!(jobs <= 1 + timeouts, "{jobs} Jobs: a 503 must leave none");

    api.always(Behavior::Default);
    for response in posts_at_once(&server, 8) {
        assert_eq!(response.status, 200, "{}", response.text());
    }
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(api.jobs().len(), jobs + 8);
}

#[test]
fn host_that_accepts_and_says_nothing_is_an_outage() {
    let silent = TcpListener::bind("127.0.7.10:0").unwrap();
    let address = silent.local_addr().unwrap();
    let proxy = json!({"proxy-url": format!("http://{address}")});
    // The kernel accepts for it: TCP connects, and then there is neither TLS nor a response to CONNECT.
    for kubeconfig in
        [Kubeconfig::new(&format!("https://{address}")), Kubeconfig::new("https://kubernetes.test").cluster(proxy)]
    {
        let server = Setup::new().kubeconfig(kubeconfig.yaml()).args(&["--kube-timeout", "3"]).start();
        check_unreachable(&server.post_job(), "the first");
        check_outages(&server, 1, 0);
        for response in posts_at_once(&server, 50) {
            check_unreachable(&response, "one of many");
        }
    }
}

#[test]
fn outage_followed_by_a_hang_ends_without_a_restart() {
    let mut api = api_of(5);
    let server = server_of(&api, DEADLINE);
    open_circuit(&mut api, &server);
    // Kubernetes accepts connections but hangs: the probes wait for their deadline, the requests fail fast.
    api.always(Behavior::Hang);
    let before = api.requests().len();
    api.reopen_port();
    api.wait_for_requests(before + 2);
    for response in posts_at_once(&server, 50) {
        check_unreachable(&response, "during the hang");
    }
    assert!(api.requests()[before..].iter().all(|request| request.path() == PROBE));
    api.always(Behavior::Default);
    wait_for_recovery(&server);
    assert_eq!(server.post_job().status, 200);
    check_outages(&server, 1, 1);
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
    let server = setup.start();
    let fails = || {
        for response in posts_at_once(&server, 20) {
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
    check_outages(&server, 0, 0);
    api.reopen_port();
    fails();
    std::fs::write(server.home().join("well"), "").unwrap();
    eventually("the plugin is run again", || server.post_job().status == 200);
    assert!(posts_at_once(&server, 20).iter().all(|response| response.status == 200));
    check_outages(&server, 0, 0);
    assert_eq!(api.jobs().len(), 21);
}

#[test]
fn outage_that_ends_in_another_error_is_reported_as_that() {
    let mut api = api_of(9);
    let server = server_of(&api, DEADLINE);
    api.close_port();
    check_unreachable(&server.get("/config"), "the first");
    // What listens now is no Kubernetes, and speaks no TLS.
    let other = TcpListener::bind(api.address()).unwrap();
    std::thread::spawn(move || {
        for stream in other.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), b"SSH-2.0-OpenSSH_9.2\r\n");
        }
    });
    eventually("the operator learns of it", || server.get("/config").status == 502);
}
