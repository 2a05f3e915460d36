//! SIGTERM under load.

use super::flood::request;
use super::{FREE, MNIST, address, allow_many_connections, connect_from, setup};
use crate::support::api::ApiServer;
use crate::support::eventually;
use crate::support::http::Connection;
use crate::support::response::{Behavior, Latch};
use crate::support::server::{Server, UNFINISHED};
use rustix::process::Signal;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Busy-waits.
pub fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

pub fn server_threads_named(server: &Server, name: &str) -> usize {
    let folder = std::fs::read_dir(format!("/proc/{}/task", server.pid().as_raw_nonzero())).unwrap();
    let names = folder.filter_map(|entry| std::fs::read_to_string(entry.unwrap().path().join("comm")).ok());
    names.filter(|comm| comm.trim_end() == name).count()
}

#[test]
fn sigterm_waits_for_the_response_of_every_accepted_request() {
    const REQUESTS: usize = 60;
    let api = ApiServer::start();
    let mut server = setup(&api).start();
    let latch = Latch::default();
    api.always(Behavior::After(latch.clone(), Box::new(Behavior::Default)));
    let mut clients: Vec<Connection> = (0..REQUESTS).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(request("POST", FREE, MNIST).as_bytes());
    }
    // Idle connections do not delay the exit.
    let mut idle: Vec<Connection> = (0..20).map(|_| server.connect()).collect();
    eventually("all are taken", || server_threads_named(&server, "connection") == REQUESTS + idle.len());
    server.signal(Signal::TERM);
    for connection in &mut idle {
        assert_eq!(connection.rest().unwrap(), b"");
    }
    // The requests still wait for Kubernetes.
    eventually("the port is closed", || {
        TcpStream::connect(server.address()).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });
    latch.open();
    for client in &mut clients {
        let response = client.response(false).unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(client.rest().unwrap(), b"");
    }
    let status = server.wait();
    assert_eq!(status.code(), Some(0));
    assert!(!server.stderr().contains(UNFINISHED), "{}", server.stderr());
    assert_eq!(api.jobs().len(), REQUESTS);
}

#[test]
fn sigterm_under_load_loses_no_response_and_no_job() {
    for _ in 0..5 {
        let api = ApiServer::start();
        let mut server = setup(&api).start();
        let good = AtomicUsize::new(0);
        let address = server.address();
        let took = std::thread::scope(|scope| {
            for kept in [true, false].repeat(6) {
                let good = &good;
                scope.spawn(move || load(address, kept, good));
            }
            eventually("there is load", || good.load(Ordering::SeqCst) >= 100);
            let start = Instant::now();
            server.signal(Signal::TERM);
            assert_eq!(server.wait().code(), Some(0));
            start.elapsed()
        });
        assert!(!server.stderr().contains(UNFINISHED), "{}", server.stderr());
        assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        println!("stopped in {took:?} after {} responses", good.load(Ordering::SeqCst));
        assert_eq!(api.jobs().len(), good.into_inner(), "Jobs and good responses");
    }
}

/// Posts until the server has exited, on one connection or on many.
fn load(address: SocketAddr, kept: bool, good: &AtomicUsize) {
    while let Ok(stream) = TcpStream::connect(address) {
        let mut connection = Connection::over(stream);
        while connection.stream().write_all(request("POST", FREE, MNIST).as_bytes()).is_ok() {
            // A request without a response was not accepted: its Job would be one too many.
            let Ok(response) = connection.response(false) else { break };
            assert_eq!(response.status, 200, "{}", response.text());
            good.fetch_add(1, Ordering::SeqCst);
            if !kept {
                break;
            }
        }
    }
}

#[test]
fn sigterm_during_a_stream_of_new_connections_ends_without_waiting_for_them() {
    allow_many_connections();
    for round in 0..25 {
        let api = ApiServer::start();
        let mut server = setup(&api).start();
        let server_address = server.address();
        let (stop, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for first in 0..2 {
                let (stop, opened) = (&stop, &opened);
                scope.spawn(move || {
                    let mut kept = Vec::new();
                    // Idle connections, open until the exit; the server evicts the oldest.
                    for number in 0..4000 {
                        if stop.load(Ordering::SeqCst) {
                            break;
                        }
                        kept.extend(connect_from(address(first + number), server_address).ok());
                        opened.fetch_add(1, Ordering::SeqCst);
                    }
                    eventually("the server is gone", || stop.load(Ordering::SeqCst));
                });
            }
            eventually("there are connections", || opened.load(Ordering::SeqCst) >= 600);
            server.signal(Signal::TERM);
            let status = server.wait();
            stop.store(true, Ordering::SeqCst);
            assert_eq!(status.code(), Some(0));
        });
        assert!(!server.stderr().contains(UNFINISHED), "round {round}: {}", server.stderr());
    }
}

#[test]
fn sigkill_and_sigterm_leave_no_file_behind() {
    for signal in [Signal::KILL, Signal::TERM] {
        let folder = tempfile::tempdir().unwrap();
        let api = ApiServer::start();
        let mut server = setup(&api).env("TMPDIR", folder.path().to_str().unwrap()).start();
        assert_eq!(server.post_job().status, 200);
        server.signal(signal);
        server.wait();
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{signal:?}: {left:?}");
    }
}
