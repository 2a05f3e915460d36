//! GET /metrics: counters and levels of the front, the API and the requests to Kubernetes.

use crate::support::api::{ApiServer, Listen};
use crate::support::eventually;
use crate::support::http::Connection;
use crate::support::kubeconfig::Kubeconfig;
use crate::support::metrics::Metrics;
use crate::support::response::{ApiResponse, Behavior, Latch};
use crate::support::server::{Server, Setup};
use serde_json::json;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

const FREE: &str = "/img-classification/free";
const MNIST: &str = r#"{"dataset":"mnist"}"#;

/// Waits until a sample has this value.
fn until(server: &Server, sample: &str, value: f64) {
    let mut last = None;
    eventually(&format!("{sample} {value}"), || {
        last = Metrics::of(server).find(sample);
        last == Some(value)
    });
}

fn requests(metrics: &Metrics, route: &str, status: u16) -> f64 {
    metrics.get(&format!(r#"http_requests_total{{route="{route}",status="{status}"}}"#))
}

fn kubernetes(metrics: &Metrics, verb: &str, result: &str) -> f64 {
    metrics.get(&format!(r#"kubernetes_requests_total{{verb="{verb}",result="{result}"}}"#))
}

/// Name, type and sorted labels in a row of the document.
fn documented(row: &str) -> Option<(String, (String, Vec<String>))> {
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    let [_, name, kind, labels, ..] = *cells else { return None };
    let name = name.trim_matches('`');
    let words = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
    let mut labels: Vec<String> = words.filter(|label| !label.is_empty()).collect();
    labels.sort();
    let is_metric = name.starts_with("img_classification_") || name.starts_with("process_");
    is_metric.then(|| (name.to_owned(), (kind.to_owned(), labels)))
}

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let server = Setup::local().env("NO_WATCH", "").start();
    until(&server, r#"queue_slots{state="free"}"#, 2.0);
    let document = include_str!("../../docs/metrics.md");
    let documented: BTreeMap<_, _> = document.lines().filter_map(documented).collect();
    assert_eq!(Metrics::of(&server).families(), documented);
    let alerts = include_str!("../../docs/alerts.yaml");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let used = alerts.split(|c| !is_name(c)).filter(|word| word.starts_with("img_classification_"));
    let used: Vec<&str> = used.collect();
    assert!(used.len() >= 5 && used.iter().all(|name| documented.contains_key(*name)), "{used:?}");
}

#[test]
fn requests_are_counted_by_route_and_status() {
    let server = Setup::local().start();
    let status =
        |method: &str, target: &str, body: Option<&[u8]>| server.connect().request(method, target, body).status;
    for (method, target, body, expected) in [
        ("POST", FREE, Some(MNIST), 200),
        ("POST", FREE, Some(MNIST), 200),
        ("POST", FREE, Some("{}"), 400),
        ("GET", FREE, None, 405),
        ("GET", "/nothing", None, 404),
        ("OPTIONS", "/config", None, 204),
        ("HEAD", "/config", None, 200),
        ("GET", "/jobs/free-mnist-hostile", None, 404),
        ("HEAD", "/metrics", None, 200),
        ("POST", "/metrics", Some(""), 405),
    ] {
        assert_eq!(status(method, target, body.map(str::as_bytes)), expected, "{method} {target}");
    }
    // The front refuses it before its route is known.
    let mut malformed = server.connect();
    malformed.send(b"GET /hostile HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n");
    assert_eq!(malformed.response(false).unwrap().status, 400);
    let metrics = Metrics::of(&server);
    for (route, status, count) in [
        (FREE, 200, 2.0),
        (FREE, 400, 1.0),
        ("other", 404, 1.0),
        ("other", 405, 2.0),
        ("other", 204, 1.0),
        ("/config", 200, 1.0),
        ("/jobs/{name}", 404, 1.0),
        ("/metrics", 200, 1.0),
        ("none", 400, 1.0),
    ] {
        assert_eq!(requests(&metrics, route, status), count, "{route} {status}: {}", metrics.text);
    }
    assert_eq!(metrics.sum("http_requests_total"), 11.0, "{}", metrics.text);
    assert_eq!(metrics.sum("http_request_duration_seconds_count"), 11.0);
    assert_eq!(metrics.get(&format!(r#"http_request_duration_seconds_count{{route="{FREE}"}}"#)), 3.0);
    assert!(metrics.get(&format!(r#"http_request_duration_seconds_sum{{route="{FREE}"}}"#)) > 0.0);
    assert_eq!(kubernetes(&metrics, "create", "ok"), 2.0);
}

#[test]
fn text_of_a_caller_becomes_no_label() {
    let server = Setup::local().env("NO_WATCH", "").start();
    for target in
        ["/hostile", "/jobs/hostile", "/jobs/free-mnist-hostile", "/jobs/%22%7D%0Ahostile", "/jobs?tier=hostile"]
    {
        assert!(server.get(target).status >= 400, "{target}");
    }
    for head in ["HOSTILE /config HTTP/1.1", "GET /\"hostile{}\\ HTTP/1.1", "GET /jobs/{hostile=\"1\"} HTTP/1.1"] {
        let mut client = server.connect();
        client.send(format!("{head}\r\nHost: hostile\r\nAuthorization: hostile\r\n\r\n").as_bytes());
        assert!(client.response(false).unwrap().status >= 400, "{head}");
    }
    assert_eq!(server.post(FREE, r#"{"dataset":"hostile"}"#).status, 400);
    let metrics = Metrics::of(&server);
    assert!(!metrics.text.to_lowercase().contains("hostile"), "{}", metrics.text);
}

#[test]
fn rate_limited_requests_are_counted() {
    let server = Setup::local().args(&["--posts-per-minute", "2"]).start();
    let statuses: Vec<u16> = (0..4).map(|_| server.post_job().status).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
    let metrics = Metrics::of(&server);
    assert_eq!(requests(&metrics, "none", 429), 2.0, "{}", metrics.text);
    assert_eq!(metrics.get(r#"requests_refused_total{code="rate_limited"}"#), 2.0);
    assert_eq!(metrics.get(r#"requests_refused_total{code="overloaded"}"#), 0.0);
}

#[test]
fn connections_and_evictions_are_counted() {
    // Leaves the server about 40 places.
    let few = ["sh", "-c", "ulimit -n 200; exec \"$@\"", "sh"];
    let server = Setup::local().through(&few).start();
    let metrics = Metrics::of(&server);
    assert_eq!(metrics.get("connection_evictions_total"), 0.0);
    let max = metrics.get("connections_max");
    assert!((10.0..100.0).contains(&max), "{max}");
    assert_eq!(metrics.process("max_fds"), 200.0);
    let idle: Vec<Connection> =
        (0..4).map(|_| Connection::open_from(Ipv4Addr::new(127, 0, 0, 2), server.address())).collect();
    until(&server, "connections", 5.0);
    let others: Vec<Connection> =
        (0..100).map(|_| Connection::open_from(Ipv4Addr::new(127, 0, 0, 2), server.address())).collect();
    eventually("evictions", || Metrics::of(&server).get("connection_evictions_total") > 0.0);
    let metrics = Metrics::of(&server);
    assert!(metrics.get("connections") <= max, "{}", metrics.text);
    drop((idle, others));
    until(&server, "connections", 1.0);
}

#[test]
fn permits_are_counted_by_class() {
    let (api, latch) = (ApiServer::start(), Latch::default());
    let held = latch.clone();
    api.script(move |_| Behavior::After(held.clone(), Box::new(Behavior::Default)));
    let server = Setup::for_api(&api).start();
    thread::scope(|scope| {
        let posts: Vec<_> = (0..40).map(|_| scope.spawn(|| server.post_job().status)).collect();
        until(&server, r#"permits_in_use{class="kubernetes"}"#, 32.0);
        until(&server, r#"requests_waiting{class="kubernetes"}"#, 8.0);
        let metrics = Metrics::of(&server);
        assert_eq!(metrics.get(r#"permits_in_use{class="memory"}"#), 1.0, "this request");
        assert_eq!(metrics.get(r#"permits_in_use{class="stream"}"#), 0.0);
        assert_eq!(metrics.get(r#"permits_max{class="kubernetes"}"#), 32.0);
        latch.open();
        assert!(posts.into_iter().all(|post| post.join().unwrap() == 200));
    });
    until(&server, r#"permits_in_use{class="kubernetes"}"#, 0.0);
    assert_eq!(kubernetes(&Metrics::of(&server), "create", "ok"), 40.0);
}

#[test]
fn failures_of_kubernetes_are_counted_by_result() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).args(&["--kube-timeout", "3"]).start();
    let refused = ApiResponse::failure(403, "Forbidden", "exceeded quota: x");
    api.queue([ApiResponse::failure(500, "InternalError", "etcd").into(), Behavior::Default]);
    assert_eq!(server.post_job().status, 200);
    api.queue([Behavior::Close, Behavior::Default]);
    assert_eq!(server.post_job().status, 200);
    api.queue([refused.into(), ApiResponse::new(200, "text/html", "a proxy").into()]);
    assert_eq!(server.post_job().status, 429);
    assert_eq!(server.get("/config").status, 502);
    api.queue([Behavior::Hang]);
    assert_eq!(server.get("/config").status, 504);
    let metrics = Metrics::of(&server);
    for (verb, result, count) in [
        ("create", "ok", 2.0),
        ("create", "5xx", 1.0),
        ("create", "incomplete", 1.0),
        ("create", "4xx", 1.0),
        ("list", "malformed", 1.0),
        ("list", "timeout", 1.0),
    ] {
        assert_eq!(kubernetes(&metrics, verb, result), count, "{verb} {result}: {}", metrics.text);
    }
    assert_eq!(metrics.sum("kubernetes_requests_total"), 7.0, "{}", metrics.text);
    assert_eq!(metrics.sum("kubernetes_request_duration_seconds_count"), 7.0);
    assert_eq!(metrics.get("kubernetes_retries_total"), 2.0);
    assert_eq!(metrics.get("kubernetes_circuit_open"), 0.0);
}

#[test]
fn circuit_is_shown_during_an_outage() {
    // Its own address prevents another test from taking the port.
    let mut api = ApiServer::listen(&Listen { ip: "127.0.9.1", ..Listen::default() });
    let kubeconfig = Kubeconfig::new(&api.url()).cluster(json!({"tls-server-name": "localhost"}));
    let server = Setup::new().kubeconfig(kubeconfig.yaml()).args(&["--kube-timeout", "3"]).start();
    until(&server, "kubernetes_circuit_open", 0.0);
    api.close_port();
    assert_eq!(server.post_job().status, 503);
    until(&server, "kubernetes_circuit_open", 1.0);
    assert_eq!(server.post_job().status, 503);
    let metrics = Metrics::of(&server);
    assert!(kubernetes(&metrics, "create", "unreachable") > 1.0, "{}", metrics.text);
    assert_eq!(kubernetes(&metrics, "create", "circuit_open"), 1.0, "{}", metrics.text);
    let sent = metrics.get(r#"kubernetes_request_duration_seconds_count{verb="create"}"#);
    assert_eq!(sent, kubernetes(&metrics, "create", "unreachable"), "the last was not sent");
    api.reopen_port();
    until(&server, "kubernetes_circuit_open", 0.0);
}

#[test]
fn series_without_a_source_are_left_out() {
    let server = Setup::local().start();
    assert_eq!(server.get("/config").status, 200);
    let metrics = Metrics::of(&server);
    assert_eq!(metrics.get(r#"config_responses_total{source="list"}"#), 1.0);
    for name in ["jobs{", "queue_", "watch_", r#"source="watch""#] {
        assert!(!metrics.text.contains(name) && !metrics.text.contains(&format!("classification_{name}")), "{name}");
    }
    // The scripted API server has no list of Jobs.
    let api = ApiServer::start();
    let server = Setup::for_api(&api).env("NO_WATCH", "").start();
    eventually("failures", || Metrics::of(&server).get(r#"watch_failures_total{watch="jobs-free"}"#) > 0.0);
    let metrics = Metrics::of(&server);
    for name in ["jobs", "queue_length", "queue_slots", "queue_oldest_wait_seconds"] {
        assert!(!metrics.types.contains_key(&format!("img_classification_{name}")), "{}", metrics.text);
    }
    assert_eq!(metrics.find(r#"watch_age_seconds{watch="jobs-free"}"#), None);
    assert_eq!(metrics.find(r#"config_responses_total{source="watch"}"#), Some(0.0));
}

#[test]
fn config_is_counted_by_source() {
    let server = Setup::local().env("NO_WATCH", "").start();
    assert_eq!(server.get("/config").status, 200);
    until(&server, r#"watch_connections_total{watch="pods"}"#, 1.0);
    let before = Metrics::of(&server).get(r#"config_responses_total{source="list"}"#);
    let response = server.get("/config");
    let headers = format!("If-None-Match: {}\r\n", response.header("ETag").unwrap());
    assert_eq!(server.connect().request_with("GET", "/config", &headers, b"").status, 304);
    assert_eq!(server.connect().request_with("GET", "/config", "Cache-Control: no-cache\r\n", b"").status, 200);
    let metrics = Metrics::of(&server);
    assert_eq!(metrics.get(r#"config_responses_total{source="list"}"#), before + 1.0);
    assert_eq!(metrics.get(r#"config_responses_total{source="watch"}"#), 3.0 - before);
}

#[test]
fn process_is_described() {
    let server = Setup::local().start();
    let metrics = Metrics::of(&server);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - metrics.process("start_time_seconds");
    assert!((-2.0..300.0).contains(&age), "{age}");
    let resident = metrics.process("resident_memory_bytes");
    assert!(resident > 1e6 && metrics.process("virtual_memory_bytes") > resident);
    assert!(metrics.process("open_fds") > 5.0 && metrics.process("max_fds") >= metrics.process("open_fds"));
    eventually("CPU time", || {
        assert_eq!(server.post_job().status, 200);
        Metrics::of(&server).process("cpu_seconds_total") > 0.0
    });
    assert_eq!(metrics.get(&format!(r#"build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION"))), 1.0);
}

#[test]
fn metrics_stay_consistent_under_load() {
    let server = Setup::local().env("NO_WATCH", "").start();
    let done = AtomicBool::new(false);
    let load = |method: &str, target: &str, body: Option<&[u8]>| {
        let mut client = server.connect();
        let mut count = 0.0;
        while !done.load(Ordering::SeqCst) {
            client.request(method, target, body);
            count += 1.0;
        }
        count
    };
    let sent: f64 = thread::scope(|scope| {
        let load = &load;
        let clients = [
            scope.spawn(|| load("POST", FREE, Some(MNIST.as_bytes()))),
            scope.spawn(|| load("POST", FREE, Some(b"{}"))),
            scope.spawn(|| load("GET", "/config", None)),
            scope.spawn(|| load("GET", "/nothing", None)),
        ];
        let mut previous = Metrics::of(&server);
        for _ in 0..50 {
            let metrics = Metrics::of(&server);
            for (sample, value) in previous.counters() {
                assert!(metrics.counters().any(|(other, later)| other == sample && later >= value), "{sample}");
            }
            previous = metrics;
        }
        done.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    let metrics = Metrics::of(&server);
    let scrapes = requests(&metrics, "/metrics", 200);
    assert_eq!(scrapes, 51.0);
    assert_eq!(metrics.sum("http_requests_total"), sent + scrapes);
}
