//! Several requests on one connection, `100 Continue`, and HEAD.

use super::{FREE, MNIST, expecting, format_error, started};
use crate::support::process::{copies, descriptors};
use rustix::net::getpeername;
use rustix::net::sockopt::tcp_nodelay;
use std::io::Read;
use std::net::Shutdown;
use std::os::fd::OwnedFd;

#[test]
fn waiting_client_gets_100_continue() {
    let (api, server) = started();
    let mut connection = server.connect();
    for round in 1..=3 {
        connection.send(expecting().as_bytes());
        let mut interim = [0; 25];
        connection.stream().read_exact(&mut interim).unwrap();
        assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
        connection.send(MNIST.as_bytes());
        let (response, more) = connection.response_and_interim(false).unwrap();
        assert_eq!((response.status, more, api.jobs().len()), (200, 0, round));
    }
}

#[test]
fn expecting_client_that_sends_no_body_creates_no_job() {
    let (api, server) = started();
    let mut connection = server.connect();
    connection.send(expecting().as_bytes());
    connection.stream().shutdown(Shutdown::Write).unwrap();
    let (response, interim) = connection.response_and_interim(false).unwrap();
    assert_eq!((response.status, interim), (400, 1));
    assert_eq!(connection.rest().unwrap(), b"");
    assert_eq!(api.requests().len(), 0);
}

#[test]
fn one_connection_serves_a_thousand_requests() {
    let (api, server) = started();
    let mut connection = server.connect();
    for round in 0..500 {
        let (method, target, status) =
            [("GET", "/healthz", 200), ("HEAD", "/healthz", 200), ("GET", "/x", 404)][round % 3];
        assert_eq!(connection.request(method, target, None).status, status, "{round}");
        if round % 10 == 0 {
            assert_eq!(connection.request("POST", FREE, Some(MNIST.as_bytes())).status, 200, "{round}");
        }
        assert_eq!(connection.request("POST", FREE, Some(b"nonsense")).status, 400, "{round}");
    }
    assert_eq!(api.jobs().len(), 50);
}

#[test]
fn responses_do_not_wait_for_acknowledgements() {
    let (_api, server) = started();
    let mut connection = server.connect();
    assert_eq!(connection.request("GET", "/healthz", None).status, 200);
    let client = connection.stream().local_addr().unwrap();
    let is_peer = |socket: &OwnedFd| getpeername(socket).ok().flatten().is_some_and(|peer| peer == client.into());
    let socket = copies(&server, descriptors(&server)).into_iter().find(is_peer).expect("the server's end");
    // Nagle's algorithm against delayed acknowledgements would cost 45 ms a large response.
    assert!(tcp_nodelay(&socket).unwrap());
}

#[test]
fn error_response_to_head_has_no_body() {
    let (_api, server) = started();
    let table = [
        ("/nothing", "Host: h\r\n", 404),
        (FREE, "Host: h\r\n", 405),
        ("/healthz", "", 400),
        ("/healthz", "Host: h\r\nHost: h\r\n", 400),
        ("/healthz", "Host: h\r\nContent-Length: x\r\n", 400),
        ("/healthz", "Host: h\r\nContent-Length: 1025\r\n", 413),
        ("/healthz", "Host: h\r\nContent-Length: 99999999999999999999\r\n", 413),
        ("/healthz", "Host: h\r\nTransfer-Encoding: gzip\r\n", 501),
        ("/healthz", "Host: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n", 400),
        ("/healthz", "Host: h\r\nExpect: tea\r\n", 417),
        ("/healthz", "Host: h\r\nContent-Length: 9\r\n", 400),
    ];
    let mut wrong = Vec::new();
    for (target, headers, status) in table {
        let mut connection = server.connect();
        connection.send(format!("HEAD {target} HTTP/1.1\r\n{headers}\r\n").as_bytes());
        connection.stream().shutdown(Shutdown::Write).unwrap();
        let response = connection.response(true).unwrap();
        let rest = connection.rest().unwrap();
        if response.status != status || format_error(&response, true).is_some() || !rest.is_empty() {
            wrong.push(format!("{target} {headers:?}: {response:?}, then {:?}", String::from_utf8_lossy(&rest)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
