//! Clients that read or send slowly, stay silent or reset the connection.

use super::{expecting, get, good_post, post_of, started};
use crate::support::api::ApiServer;
use crate::support::cluster::pod;
use crate::support::http::Connection;
use crate::support::process::client_resources;
use crate::support::response::{ApiResponse, Behavior, Latch, pod_list};
use crate::support::{TIMEOUT, eventually};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Enough pods for a response larger than any buffer.
const PODS: usize = 8000;

/// Makes every later response to GET /config larger than a megabyte.
fn fill(api: &ApiServer) {
    let pods: Vec<Value> = (0..PODS)
        .map(|number| pod("default", &format!("{number:060}"), "Running", Some(("node", "10.0.0.1"))))
        .collect();
    let list = ApiResponse::json(200, &pod_list(&pods, ""));
    api.script(move |request| match request.path() {
        "/api/v1/pods" => list.clone().into(),
        _ => Behavior::Default,
    });
}

/// A client with a small receive buffer.
fn connect_with_small_buffer(address: SocketAddr) -> Connection {
    use rustix::net::{
        AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt::set_socket_recv_buffer_size,
    };
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    set_socket_recv_buffer_size(&socket, 4096).unwrap();
    connect(&socket, &address).unwrap();
    Connection::over(TcpStream::from(socket))
}

#[test]
fn response_over_a_megabyte_arrives_complete_at_a_slow_reader() {
    let (api, server) = started();
    fill(&api);
    let mut connection = connect_with_small_buffer(server.address());
    connection.send(get("Connection: close\r\n").replace("healthz", "config").as_bytes());
    let (mut bytes, mut piece) = (Vec::new(), [0; 32 * 1024]);
    loop {
        let count = connection.stream().read(&mut piece).unwrap();
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&piece[..count]);
        // The pace of the slow reader.
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let json: Value = serde_json::from_slice(&bytes[head..]).unwrap();
    assert!(bytes.len() > 1_000_000, "{} bytes", bytes.len());
    assert_eq!(json["pods"].as_array().unwrap().len(), PODS);
}

#[test]
fn readers_that_read_nothing_delay_no_other_client() {
    const READERS: usize = 40;
    let (api, server) = started();
    fill(&api);
    let readers: Vec<Connection> = (0..READERS)
        .map(|_| {
            let mut connection = connect_with_small_buffer(server.address());
            connection.send(get("").replace("healthz", "config").as_bytes());
            connection
        })
        .collect();
    let responded = || server.stderr().lines().filter(|line| line.starts_with("GET /config 200 ")).count();
    eventually("a response waits for every reader", || responded() == READERS);
    // The readers are more than the 32 private connections for Kubernetes.
    std::thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| {
                assert_eq!(server.post_job().status, 200);
                assert_eq!(server.get("/healthz").status, 200);
            });
        }
        scope.spawn(|| assert_eq!(server.get("/config").json()["pods"].as_array().unwrap().len(), PODS));
    });
    assert_eq!(api.jobs().len(), READERS);
    drop(readers);
}

/// The server's timeout for a head and for a body.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// A slow client and the statuses it gets; an empty list is a close without a response.
struct SlowClient {
    what: &'static str,
    first: Vec<u8>,
    /// Repeated forever, one byte per interval.
    then: &'static [u8],
    responses: &'static [u16],
}

#[test]
fn slow_clients_get_408_and_silent_connections_are_closed() {
    let (api, server) = started();
    let table = [
        SlowClient { what: "silent", first: Vec::new(), then: b"", responses: &[] },
        SlowClient { what: "half a head", first: b"GET /healthz HT".to_vec(), then: b"", responses: &[408] },
        SlowClient {
            what: "an endless head",
            first: b"GET /healthz HTTP/1.1\r\n".to_vec(),
            then: b"X: y\r\n",
            responses: &[408],
        },
        SlowClient { what: "an endless request line", first: b"GET /".to_vec(), then: b"a", responses: &[408] },
        SlowClient { what: "empty lines", first: b"\r\n".to_vec(), then: b"\r\n", responses: &[408] },
        SlowClient { what: "no body", first: post_of(19).into(), then: b"", responses: &[408] },
        SlowClient { what: "half a body", first: format!("{}{{", post_of(19)).into(), then: b"", responses: &[408] },
        SlowClient { what: "a dripping body", first: post_of(1024).into(), then: b" ", responses: &[408] },
        SlowClient { what: "a body after 100 Continue", first: expecting().into(), then: b"", responses: &[408] },
        SlowClient {
            what: "half a second head",
            first: format!("{}GET", get("")).into(),
            then: b"",
            responses: &[200, 408],
        },
        SlowClient {
            what: "a second body",
            first: format!("{}{}", get(""), post_of(19)).into(),
            then: b"",
            responses: &[200, 408],
        },
    ];
    let gap = Duration::from_millis(250);
    std::thread::scope(|scope| {
        for SlowClient { what, first, then, responses } in &table {
            let server = &server;
            scope.spawn(move || {
                let mut connection = server.connect();
                let start = Instant::now();
                connection.send(first);
                let mut drops = then.iter().cycle();
                if !then.is_empty() {
                    connection.stream().set_read_timeout(Some(gap)).unwrap();
                    // Until a response arrives. Sending fails only once the server has closed.
                    while connection.stream().peek(&mut [0]).is_err() && start.elapsed() < TIMEOUT {
                        let _ = connection.stream().write_all(&[*drops.next().unwrap()]);
                    }
                    connection.stream().set_read_timeout(Some(TIMEOUT)).unwrap();
                }
                for status in *responses {
                    let response = connection.response(false).unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert_eq!(response.status, *status, "{what}");
                    if *status == 408 {
                        response.error();
                    }
                }
                assert_eq!(connection.rest().unwrap(), b"", "{what}");
                assert!(start.elapsed() > HEAD_TIME / 2, "{what}: {:?}", start.elapsed());
            });
        }
        // Meanwhile the server serves other clients.
        let start = Instant::now();
        while start.elapsed() < HEAD_TIME {
            assert_eq!(server.get("/healthz").status, 200);
            std::thread::park_timeout(gap);
        }
    });
    assert_eq!(api.requests().len(), 0);
}

/// Closes with a TCP reset.
fn reset(connection: &Connection) {
    rustix::net::connect_unspec(connection.stream()).unwrap();
}

#[test]
fn resets_at_any_stage_leave_no_descriptor_thread_or_job_behind() {
    const EACH: usize = 20;
    let (api, server) = started();
    fill(&api);
    // Descriptors opened by the first requests, such as a connection to Kubernetes, stay open.
    let config = get("").replace("healthz", "config");
    assert_eq!((server.post_job().status, server.get("/config").status), (200, 200));
    let before = client_resources(&server);
    let jobs = api.jobs().len();
    for bytes in [
        "",
        "\r\n",
        "GET",
        "GET /healthz HTTP/1.1\r\nHo",
        &post_of(19),
        &post_of(19)[..40],
        &format!("{}{{", post_of(19)),
    ] {
        for _ in 0..EACH {
            let mut connection = server.connect();
            connection.send(bytes.as_bytes());
            reset(&connection);
        }
        assert_eq!(server.get("/healthz").status, 200, "{bytes:?}");
    }
    for _ in 0..EACH {
        // During the wait for the body.
        let mut connection = server.connect();
        connection.send(expecting().as_bytes());
        connection.stream().read_exact(&mut [0; 25]).unwrap();
        reset(&connection);
        // Between two requests.
        let mut connection = server.connect();
        assert_eq!(connection.request("GET", "/healthz", None).status, 200);
        reset(&connection);
        // After a refusal.
        let mut connection = server.connect();
        connection.send(b"nonsense\r\n\r\n");
        connection.stream().read_exact(&mut [0; 12]).unwrap();
        reset(&connection);
        // In the middle of a response.
        let mut connection = connect_with_small_buffer(server.address());
        connection.send(config.as_bytes());
        connection.stream().read_exact(&mut [0; 100]).unwrap();
        reset(&connection);
    }
    assert_eq!(api.jobs().len(), jobs);
    // Before the response, which Kubernetes delays.
    let (latch, seen) = (Latch::default(), api.requests().len());
    api.always(Behavior::After(latch.clone(), Box::new(Behavior::Default)));
    let waiting: Vec<Connection> = (0..10)
        .map(|_| {
            let mut connection = server.connect();
            connection.send(good_post().as_bytes());
            connection
        })
        .collect();
    api.wait_for_requests(seen + waiting.len());
    waiting.iter().for_each(reset);
    latch.open();
    // These requests were valid: each creates its Job, although its client has gone. With its log line the server has also
    // read the response of Kubernetes, so that closing connections cuts none.
    let created =
        || server.stderr().lines().filter(|line| line.starts_with("POST /img-classification/free 200 ")).count();
    eventually("the Jobs are made", || created() == jobs + waiting.len());
    assert_eq!(api.jobs().len(), jobs + waiting.len());
    drop(waiting);
    eventually("descriptors and threads are given back", || {
        // Idle connections to Kubernetes are not part of the comparison: a request drops those that have ended.
        api.close_connections();
        assert_eq!(server.post_job().status, 200);
        let now = client_resources(&server);
        now.0 <= before.0 && now.1 <= before.1
    });
    assert_eq!(server.get("/healthz").status, 200);
    let log = server.log_until_now();
    assert!(!log.contains("bug: "), "{log}");
}
