//! Clients that try to take every place: connections, memory, requests to Kubernetes.

use crate::support::api::ApiServer;
use crate::support::http::Connection;
use crate::support::server::Setup;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

/// Connections of each of three greedy addresses: together more than the server's places.
const GREEDY: usize = 20;

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
    assert!(handled < 150 * greedy.len(), "{handled} requests of clients that take no response");
}
