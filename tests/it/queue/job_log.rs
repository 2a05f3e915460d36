//! GET /jobs/NAME/logs.

use super::job_list::ours;
use super::{Tier, job};
use crate::support::LONG_KUBE_TIMEOUT;
use crate::support::eventually;
use crate::support::http::{Connection, read_body};
use crate::support::process::peak_memory;
use crate::support::response::{ApiResponse, Behavior, Stream};
use crate::support::server::{Server, Setup, UNFINISHED};
use serde_json::{Value, json};
use std::io::{BufRead, Read};
use std::net::Ipv4Addr;

const JOB: &str = "/jobs/free-mnist-a";
const LOGS: &str = "/jobs/free-mnist-a/logs";
const FOLLOW: &str = "/jobs/free-mnist-a/logs?follow=true";
const POD_LOG: &str = "/api/v1/namespaces/free-service/pods/free-mnist-a-pod/log";

/// Private connections of class `Stream`.
const MAX_FOLLOWERS: usize = 16;

/// Growth of the server's memory while it relays a log of any size, in KiB: buffers, and the threads of a first stream.
const MAX_GROWTH: usize = 6 * 1024;

fn put(tier: &Tier, name: &str, pod: &Value) {
    tier.put_job(name, &ours(name, 1, &json!({"active": 1})));
    tier.put_pod(name, pod);
}

/// A server whose free-mnist-a runs.
fn serve(tier: &Tier) -> Server {
    put(tier, "free-mnist-a", &json!({"phase": "Running"}));
    let server = tier.watched();
    eventually("it runs", || server.get("/jobs?state=running").text().contains("free-mnist-a"));
    server
}

/// Sends the request of a follower.
fn follow(server: &Server, version: &str) -> Connection {
    let mut connection = server.connect();
    connection.send(format!("GET {FOLLOW} {version}\r\nHost: test\r\n\r\n").as_bytes());
    connection
}

/// Reads a head; returns its lines.
fn head(connection: &mut Connection) -> Vec<String> {
    let lines = connection.reader().lines().map(Result::unwrap);
    lines.take_while(|line| !line.is_empty()).collect()
}

fn read_exact(connection: &mut Connection, expected: &[u8]) {
    let mut bytes = vec![0; expected.len()];
    connection.reader().read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, expected);
}

/// The queries of the requests for the log.
fn queries(tier: &Tier) -> Vec<String> {
    let requests = tier.api.requests().into_iter().filter(|request| request.path() == POD_LOG);
    requests.map(|request| request.target.split_once('?').unwrap().1.to_owned()).collect()
}

#[test]
fn log_is_returned_byte_for_byte_with_its_tail() {
    let tier = Tier::full();
    let server = serve(&tier);
    let log = [b"two\n".as_slice(), &[0, 0xff, b'\r', 0xc3], b"no line feed"].concat();
    for target in [LOGS, "/jobs/free-mnist-a/logs?tail=2", "/jobs/free-mnist-a/logs?follow=false&tail=0"] {
        tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", log.clone()));
        let response = server.get(target);
        assert_eq!((response.status, response.body == log), (200, true), "{:?}", response.body);
        assert_eq!(response.header("Content-Type"), Some("text/plain; charset=utf-8"));
    }
    let container = "container=classifier";
    assert_eq!(queries(&tier), [container, "container=classifier&tailLines=2", "container=classifier&tailLines=0"]);
    tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", log));
    let head = server.connect().request("HEAD", LOGS, None);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(server.connect().request("OPTIONS", LOGS, None).header("Allow"), Some("GET, HEAD, OPTIONS"));
    for bad in ["follow=1", "follow=true&follow=true", "tail=x", "tail=-1", "tail=100001"] {
        let response = server.get(&format!("{LOGS}?{bad}"));
        assert_eq!((response.status, response.code().as_str()), (400, "bad_query"), "{bad}");
    }
    let line = server.wait_for_log("of the log", |line| line.starts_with(&format!("GET {LOGS} 200 ")));
    assert!(line.ends_with(" free-mnist-a"), "{line}");
}

#[test]
fn followed_log_arrives_piece_by_piece_until_its_end() {
    let tier = Tier::full();
    let server = serve(&tier);
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let stream = Stream::default();
        tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", "o"));
        tier.instead("FOLLOW", POD_LOG, Behavior::Stream(stream.clone()));
        let mut connection = follow(&server, version);
        let head = head(&mut connection);
        assert!(head[0].starts_with("HTTP/1.1 200 "), "{head:?}");
        for piece in ["one\n", "two\n"] {
            stream.send(piece);
            match version {
                "HTTP/1.0" => read_exact(&mut connection, piece.as_bytes()),
                _ => read_exact(&mut connection, format!("4\r\n{piece}\r\n").as_bytes()),
            }
        }
        stream.end();
        match version {
            "HTTP/1.0" => assert_eq!(connection.rest().unwrap(), b""),
            _ => {
                read_exact(&mut connection, b"0\r\n\r\n");
                assert_eq!(connection.request("GET", "/healthz", None).status, 200, "the connection serves on");
            }
        }
    }
    let expected = ["container=classifier&limitBytes=1", "container=classifier&follow=true"];
    assert_eq!(queries(&tier), [expected, expected].concat());
}

#[test]
fn log_that_breaks_off_ends_the_connection_without_its_last_chunk() {
    let tier = Tier::full();
    let server = serve(&tier);
    tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", "whole").cut(3));
    let mut connection = server.connect();
    connection.send(format!("GET {LOGS} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
    let text = String::from_utf8(connection.rest().unwrap()).unwrap();
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("3\r\nwho\r\n"), "{text}");
}

#[test]
fn client_that_leaves_ends_a_silent_request_to_kubernetes() {
    let tier = Tier::full();
    let server = serve(&tier);
    for silent in [Behavior::ChunkThenHang(b"one\n".to_vec()), Behavior::Hang] {
        let is_headless = matches!(silent, Behavior::Hang);
        tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", "o"));
        let requests = queries(&tier).len();
        tier.instead("FOLLOW", POD_LOG, silent);
        let mut connection = follow(&server, "HTTP/1.1");
        head(&mut connection);
        if !is_headless {
            read_exact(&mut connection, b"4\r\none\n\r\n");
        }
        eventually("both requests", || queries(&tier).len() == requests + 2);
        let open = tier.api.open_connections();
        drop(connection);
        eventually("one connection to Kubernetes less", || tier.api.open_connections() < open);
    }
    assert!(!server.log_until_now().contains("error: "), "{}", server.stderr());
}

#[test]
fn silent_log_goes_on_while_its_pod_runs() {
    let tier = Tier::full();
    put(&tier, "free-mnist-a", &json!({"phase": "Running"}));
    let server = Setup::for_api(&tier.api).env("NO_WATCH", "").args(&["--kube-timeout", "2"]).start();
    eventually("it runs", || server.get("/jobs?state=running").text().contains("free-mnist-a"));
    tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", "o"));
    // The first sends no head before a silence is over, the second one line.
    tier.instead("FOLLOW", POD_LOG, Behavior::Hang);
    tier.instead("FOLLOW", POD_LOG, Behavior::ChunkThenHang(b"one\n".to_vec()));
    let mut connection = follow(&server, "HTTP/1.1");
    head(&mut connection);
    read_exact(&mut connection, b"4\r\none\n\r\n");
    tier.put_pod("free-mnist-a", &json!({"phase": "Succeeded"}));
    assert_eq!(connection.rest().unwrap(), b"", "no last chunk");
    assert_eq!(queries(&tier).len(), 3);
}

#[test]
fn silent_followers_end_at_a_stop() {
    let tier = Tier::full();
    let mut server = serve(&tier);
    let mut followers: Vec<_> = (0..3)
        .map(|_| {
            tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", "o"));
            tier.instead("FOLLOW", POD_LOG, Behavior::ChunkThenHang(b"one\n".to_vec()));
            let mut connection = follow(&server, "HTTP/1.1");
            head(&mut connection);
            read_exact(&mut connection, b"4\r\none\n\r\n");
            connection
        })
        .collect();
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(!server.stderr().contains(UNFINISHED), "{}", server.stderr());
    followers.iter_mut().for_each(|follower| assert_eq!(follower.rest().unwrap(), b"", "no last chunk"));
}

#[test]
fn client_that_leaves_before_the_head_of_a_log_ends_the_request_to_kubernetes() {
    let tier = Tier::full();
    put(&tier, "free-mnist-a", &json!({"phase": "Running"}));
    let timeout = LONG_KUBE_TIMEOUT.to_string();
    let server = Setup::for_api(&tier.api).env("NO_WATCH", "").args(&["--kube-timeout", &timeout]).start();
    eventually("it runs", || server.get("/jobs?state=running").text().contains("free-mnist-a"));
    for target in [LOGS, FOLLOW] {
        tier.instead("GET", POD_LOG, Behavior::Hang);
        let requests = queries(&tier).len();
        let mut connection = server.connect();
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
        eventually("the request", || queries(&tier).len() == requests + 1);
        let open = tier.api.open_connections();
        drop(connection);
        eventually("one connection to Kubernetes less", || tier.api.open_connections() < open);
    }
    // No retry, and the places are free again.
    assert_eq!(queries(&tier).len(), 2);
    tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", "log"));
    assert_eq!(server.get(LOGS).text(), "log");
    assert!(!server.log_until_now().contains("error: "), "{}", server.stderr());
}

#[test]
fn a_further_follower_is_refused_until_one_leaves() {
    let tier = Tier::full();
    let server = serve(&tier);
    let start = |ip| {
        tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", "o"));
        tier.instead("FOLLOW", POD_LOG, Behavior::Hang);
        let mut connection = Connection::open_from(ip, server.address());
        connection.send(format!("GET {FOLLOW} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
        head(&mut connection);
        connection
    };
    // One network may have half.
    let mut followers: Vec<_> = (0..MAX_FOLLOWERS / 2).map(|_| start(Ipv4Addr::LOCALHOST)).collect();
    assert_eq!(server.get(FOLLOW).status, 503);
    let _others: Vec<_> = (0..MAX_FOLLOWERS / 2).map(|_| start(Ipv4Addr::new(127, 0, 0, 2))).collect();
    let refused = server.get(FOLLOW);
    assert_eq!((refused.status, refused.code().as_str()), (503, "overloaded"));
    assert!(refused.header("Retry-After").is_some());
    assert_eq!((server.get(JOB).status, server.get("/healthz").status), (200, 200));
    eventually("all requests", || queries(&tier).len() == 2 * MAX_FOLLOWERS);
    followers.pop();
    eventually("a free place", || {
        tier.world().instead.clear();
        tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", "log"));
        server.get(LOGS).status == 200
    });
}

#[test]
fn memory_does_not_grow_with_the_log() {
    // One line without an end.
    const SIZE: usize = 64 * 1024 * 1024;
    let tier = Tier::full();
    let server = serve(&tier);
    let log: Vec<u8> = (0..=u8::MAX).cycle().take(SIZE).collect();
    let before = peak_memory(&server);
    tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", log.clone()));
    let response = server.get(LOGS);
    assert!(response.status == 200 && response.body == log, "{} bytes", response.body.len());
    let growth = peak_memory(&server) - before;
    assert!(growth < MAX_GROWTH, "{growth} KiB");
    // A client that takes nothing holds buffers only, and Kubernetes is not read any further.
    tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", log));
    let mut slow = server.connect();
    slow.send(format!("GET {LOGS} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
    head(&mut slow);
    eventually("the next request is served beside it", || server.get(JOB).status == 200);
    let growth = peak_memory(&server) - before;
    assert!(growth < MAX_GROWTH, "{growth} KiB");
    let chunked = [("Transfer-Encoding".to_owned(), "chunked".to_owned())];
    assert_eq!(read_body(slow.reader(), &chunked).unwrap().len(), SIZE);
}

#[test]
fn log_before_the_start_and_after_the_pod_is_an_error_of_its_own() {
    let tier = Tier::full();
    let server = serve(&tier);
    tier.put_job("free-mnist-q", &ours("free-mnist-q", 2, &json!({})));
    put(&tier, "free-mnist-p", &json!({"phase": "Pending"}));
    let ended = json!({"conditions": [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]});
    tier.put_job("free-mnist-f", &ours("free-mnist-f", 3, &ended));
    eventually("all Jobs", || server.get("/jobs").json()["jobs"].as_array().unwrap().len() == 4);
    let unwatched = Setup::for_api(&tier.api).start();
    for (name, status, code, words) in [
        ("free-mnist-q", 409, "not_started", "state: queued"),
        ("free-mnist-p", 409, "not_started", "state: pending"),
        ("free-mnist-f", 404, "log_gone", "its pod was deleted"),
        ("free-mnist-none", 404, "job_not_found", "no such Job"),
        ("premium-mnist-a", 404, "job_not_found", "no such Job"),
    ] {
        for (server, query) in [(&server, ""), (&server, "?follow=true"), (&unwatched, "")] {
            let response = server.get(&format!("/jobs/{name}/logs{query}"));
            assert_eq!((response.status, response.code().as_str()), (status, code), "{name}");
            assert!(response.error().contains(words), "{name}: {}", response.text());
        }
    }
    assert_eq!(queries(&tier), [""; 0]);
}

#[test]
fn refusals_of_kubernetes_have_their_sentences() {
    let tier = Tier::full();
    let server = serve(&tier);
    let waiting = r#"container "classifier" in pod "free-mnist-a-pod" is waiting to start: ContainerCreating"#;
    let denied = r#"pods "x" is forbidden: User "x" cannot get resource "pods/log" in API group "" in the namespace "free-service""#;
    let dial = r#"Get "https://10.0.0.7:10250/containerLogs/free-service/x/classifier": dial tcp 10.0.0.7:10250: connect: connection refused"#;
    let table = [
        (400, "BadRequest", waiting, 409, "not_started", "state: pending"),
        (
            403,
            "Forbidden",
            denied,
            502,
            "permission_missing",
            "read the logs of pods in free-service; run img-classification setup",
        ),
        (404, "NotFound", r#"pods "x" not found"#, 404, "log_gone", "its pod was deleted"),
        (500, "InternalError", dial, 502, "node_unreachable", "cannot reach the node"),
        (500, "InternalError", "etcdserver: leader changed", 503, "kubernetes_overloaded", "overloaded"),
    ];
    for (code, reason, message, status, word, sentence) in table {
        for target in [LOGS, FOLLOW] {
            tier.world().instead.clear();
            // Those of a server error are retried.
            (0..4).for_each(|_| tier.instead("GET", POD_LOG, ApiResponse::failure(code, reason, message)));
            let response = server.get(target);
            assert_eq!((response.status, response.code().as_str()), (status, word), "{message}");
            assert!(response.error().contains(sentence), "{}", response.text());
        }
    }
    assert_eq!(server.get(JOB).status, 200, "only the log fails");
}

#[test]
fn log_is_read_without_a_watch() {
    let tier = Tier::full();
    put(&tier, "free-mnist-a", &json!({"phase": "Running"}));
    let server = Setup::for_api(&tier.api).args(&["--kube-timeout", "1"]).start();
    tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", "log"));
    assert_eq!(server.get(LOGS).text(), "log");
    // A silence longer than --kube-timeout ends no log of a running pod.
    let stream = Stream::default();
    tier.instead("GET", POD_LOG, ApiResponse::new(200, "text/plain", "o"));
    tier.instead("FOLLOW", POD_LOG, Behavior::Stream(stream.clone()));
    let mut connection = follow(&server, "HTTP/1.1");
    head(&mut connection);
    stream.send("one\n");
    read_exact(&mut connection, b"4\r\none\n\r\n");
    let reads = || tier.api.requests().iter().filter(|request| request.path().ends_with("/jobs/free-mnist-a")).count();
    let before = reads();
    eventually("two looks at the Job", || reads() >= before + 2);
    stream.send("two\n");
    read_exact(&mut connection, b"4\r\ntwo\n\r\n");
    stream.end();
    read_exact(&mut connection, b"0\r\n\r\n");
}

#[test]
fn log_of_another_programs_job_is_not_shown() {
    let tier = Tier::full();
    let server = serve(&tier);
    let mut theirs = job("free-mnist-theirs", 5, "1m", &json!({"active": 1}), 7);
    theirs["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!("argo");
    tier.put_job("free-mnist-theirs", &theirs);
    tier.put_pod("free-mnist-theirs", &json!({"phase": "Running"}));
    eventually("the queue has it", || server.get("/queue").text().contains("free-mnist-theirs"));
    assert_eq!(server.get("/jobs/free-mnist-theirs/logs").status, 404);
}
