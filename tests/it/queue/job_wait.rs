//! GET /jobs/NAME?wait=SECONDS.

use super::{FULL, JOBS, Tier, job};
use crate::support::eventually;
use crate::support::http::Connection;
use crate::support::server::{Server, Setup};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

const NAME: &str = "free-mnist-b1";
/// Longer than the time limit of a test's read.
const LONG: &str = "/jobs/free-mnist-b1?wait=60";
const ONE_SECOND: Duration = Duration::from_secs(1);

/// A tier with a Job in this status, and a server that knows it.
fn with_job(status: &Value) -> (Tier, Server) {
    let tier = Tier::full();
    put(&tier, status);
    let server = tier.watched();
    eventually("the Job", || server.get(&format!("/jobs/{NAME}")).status == 200);
    (tier, server)
}

fn put(tier: &Tier, status: &Value) {
    let mut job = job(NAME, 1, FULL, status, 7);
    job["metadata"]["labels"]["img-classification/dataset"] = json!("mnist");
    tier.put_job(NAME, &job);
}

fn ended() -> Value {
    json!({"conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:09:00Z"}]})
}

/// Sends the request, whose response comes later.
fn ask(server: &Server, target: &str) -> Connection {
    let mut connection = server.connect();
    connection.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
    connection
}

/// The state in the response.
fn state(connection: &mut Connection) -> String {
    let response = connection.response(false).unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["state"].as_str().unwrap().to_owned()
}

/// Tests if a wait of a second is answered before it has passed.
fn is_answered_at_once(server: &Server) -> bool {
    let began = Instant::now();
    let response = server.get(&format!("/jobs/{NAME}?wait=1"));
    assert_eq!(response.status, 200, "{}", response.text());
    began.elapsed() < ONE_SECOND
}

#[test]
fn unchanged_job_is_shown_after_the_wait() {
    let (_tier, server) = with_job(&json!({}));
    let began = Instant::now();
    assert_eq!(state(&mut ask(&server, "/jobs/free-mnist-b1?x=y&wait=1")), "queued");
    assert!(began.elapsed() >= ONE_SECOND);
    let head = server.connect().request("HEAD", "/jobs/free-mnist-b1?wait=1", None);
    assert!(began.elapsed() >= 2 * ONE_SECOND && head.status == 200);
}

#[test]
fn waiting_request_is_answered_when_the_job_or_its_pod_changes() {
    let (tier, server) = with_job(&json!({}));
    let (mut first, mut second) = (ask(&server, LONG), ask(&server, LONG));
    put(&tier, &ended());
    assert_eq!([state(&mut first), state(&mut second)], ["succeeded", "succeeded"]);

    // The end of the pod may arrive after that of its Job.
    let (tier, server) = with_job(&ended());
    tier.put_pod(NAME, &json!({"phase": "Running"}));
    eventually("the pod", || server.get(&format!("/jobs/{NAME}")).json()["state"] == "running");
    let mut waiting = ask(&server, LONG);
    tier.put_pod(NAME, &json!({"phase": "Succeeded"}));
    assert_eq!(state(&mut waiting), "succeeded");
}

#[test]
fn wait_for_an_ended_a_deleted_or_an_unknown_job_ends_at_once() {
    let (tier, server) = with_job(&ended());
    assert_eq!(state(&mut ask(&server, LONG)), "succeeded");
    assert_eq!(server.get("/jobs/free-mnist-none?wait=60").status, 404);

    put(&tier, &json!({"active": 1}));
    eventually("the new state", || server.get(&format!("/jobs/{NAME}")).json()["state"] == "pending");
    let mut waiting = ask(&server, LONG);
    let mut world = tier.world();
    world.version += 1;
    let job = world.jobs.remove(NAME).unwrap();
    world.send_event(JOBS, "DELETED", &job);
    drop(world);
    assert_eq!(waiting.response(false).unwrap().status, 404);
}

#[test]
fn malformed_wait_is_400_and_one_without_watch_is_answered_at_once() {
    let server = Setup::local().start();
    for bad in ["0", "61", "x", "", "1&wait=1"] {
        let response = server.get(&format!("/jobs/{NAME}?wait={bad}"));
        assert_eq!((response.status, &*response.code()), (400, "bad_query"), "{bad}");
    }
    assert_eq!(server.get(LONG).code(), "job_not_found");
    let location = server.post_job().header("Location").unwrap().to_owned();
    assert_eq!(server.get(&format!("{location}?wait=60")).status, 200);
}

#[test]
fn stop_answers_a_waiting_request() {
    let (_tier, mut server) = with_job(&json!({}));
    let mut waiting = ask(&server, LONG);
    server.signal(Signal::TERM);
    assert_eq!(state(&mut waiting), "queued");
    drop(waiting);
    assert_eq!(server.wait().code(), Some(0));
}

/// Tests if a response has arrived.
fn is_answered(connection: &Connection) -> bool {
    connection.stream().set_nonblocking(true).unwrap();
    let peeked = connection.stream().peek(&mut [0; 1]);
    connection.stream().set_nonblocking(false).unwrap();
    peeked.is_ok_and(|count| count > 0)
}

#[test]
fn request_beyond_256_waiting_ones_is_answered_at_once() {
    const WAITING: usize = 256;
    const MORE: usize = 8;
    let (tier, server) = with_job(&json!({}));
    // One network may have half of all connections, which is as many.
    let ask_from = |number: usize| {
        let ip = Ipv4Addr::new(127, 0, 0, if number.is_multiple_of(2) { 2 } else { 3 });
        let mut connection = Connection::open_from(ip, server.address());
        connection.send(format!("GET {LONG} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
        connection
    };
    let mut connections: Vec<Connection> = (0..WAITING + MORE).map(ask_from).collect();
    eventually("immediate answers", || connections.iter().filter(|one| is_answered(one)).count() == MORE);
    assert!(is_answered_at_once(&server));
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.post_job().status, 200, "a waiting request holds no private connection");
    // A client that leaves makes room.
    let leaving = connections.iter().position(|one| !is_answered(one)).unwrap();
    let mut leaving = connections.remove(leaving);
    leaving.send(b"\r\n");
    drop(leaving);
    eventually("room", || !is_answered_at_once(&server));
    put(&tier, &ended());
    for connection in &mut connections {
        assert!(["queued", "succeeded"].contains(&&*state(connection)));
    }
}
