//! Clients that try to take every place: connections, memory, requests to Kubernetes.

use crate::support::api::ApiServer;
use crate::support::eventually;
use crate::support::http::Connection;
use crate::support::response::{Behavior, Latch};
use crate::support::server::Setup;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;

/// Connections of each of three greedy addresses: together more than the server's places.
const GREEDY: usize = 20;

/// Most responses that the buffers of a connection hold, 72 KB at both ends: one has 190 bytes.
const MAX_UNREAD: usize = 400;

/// Leaves the server about 40 places.
const FEW_DESCRIPTORS: &[&str] = &["sh", "-c", "ulimit -n 200; exec \"$@\"", "sh"];

/// A client of its own network.
const GOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// A connection that sends requests as long as the server takes them, and reads nothing.
fn send_and_read_nothing(ip: Ipv4Addr, server: SocketAddr) -> TcpStream {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    bind(&socket, &SocketAddr::from((ip, 0))).unwrap();
    connect(&socket, &server).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_nonblocking(true).unwrap();
    let requests = "GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n".repeat(1000);
    // The server may have refused the connection.
    let _ = stream.write(requests.as_bytes());
    stream
}

#[test]
fn clients_that_only_send_take_no_place_from_others() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).through(FEW_DESCRIPTORS).start();
    let greedy: Vec<TcpStream> = (0..3 * GREEDY)
        .map(|number| Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(number % 3).unwrap()))
        .map(|ip| send_and_read_nothing(ip, server.address()))
        .collect();
    for round in 0..200 {
        let response = Connection::open_from(GOOD, server.address()).request("GET", "/healthz", None);
        assert_eq!(response.status, 200, "round {round}");
    }
    let handled = server.log_until_now().lines().filter(|line| line.starts_with("GET /nothing ")).count();
    assert!(handled < MAX_UNREAD * greedy.len(), "{handled} requests of clients that take no response");
}

#[test]
fn reads_of_one_address_that_hang_delay_no_job_of_another() {
    const READERS: usize = 100;
    let (api, latch) = (ApiServer::start(), Latch::default());
    let list = latch.clone();
    api.script(move |request| match request.path() {
        "/api/v1/pods" => Behavior::After(list.clone(), Box::new(Behavior::Default)),
        _ => Behavior::Default,
    });
    let server = Setup::for_api(&api).start();
    let read = || Connection::open_from(Ipv4Addr::new(127, 0, 0, 2), server.address()).request("GET", "/config", None);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
        // The others wait, or hold each a place at Kubernetes.
        eventually("more than the waiting places are taken", || {
            readers.iter().any(thread::ScopedJoinHandle::is_finished)
        });
        for _ in 0..20 {
            let mut good = Connection::open_from(GOOD, server.address());
            let response = good.request("POST", "/img-classification/free", Some(br#"{"dataset":"mnist"}"#));
            assert_eq!(response.status, 200, "{}", response.text());
        }
        latch.open();
        for reader in readers {
            assert!([200, 503].contains(&reader.join().unwrap().status));
        }
    });
    assert_eq!(api.jobs().len(), 20);
}

#[test]
fn reads_of_kubernetes_are_limited_for_each_address() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).env("POSTS_PER_MINUTE", "").start();
    let mut greedy = Connection::open_from(Ipv4Addr::new(127, 0, 0, 2), server.address());
    let refused = (0..5000).map(|_| greedy.request("GET", "/readyz", None)).find(|response| response.status != 200);
    let refused = refused.expect("a limit");
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.header("Retry-After").is_some());
    assert_eq!(greedy.request("GET", "/healthz", None).status, 200, "it never calls Kubernetes");
    assert_eq!(Connection::open_from(GOOD, server.address()).request("GET", "/readyz", None).status, 200);
}

#[test]
fn callers_of_readyz_within_a_second_share_one_request() {
    const CALLERS: usize = 500;
    let api = ApiServer::start();
    let server = Setup::for_api(&api).start();
    let start = std::time::Instant::now();
    let mut client = server.connect();
    for _ in 0..CALLERS {
        assert_eq!(client.request("GET", "/readyz", None).status, 200);
    }
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap();
    assert!(api.requests().len() <= 2 + seconds, "{} requests in {seconds} s", api.requests().len());
}
