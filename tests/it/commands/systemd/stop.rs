//! READY, STOPPING and the signals that stop a service.

use super::socket_activation::{activated, held_socket, send_request};
use super::watchdog::watchdog;
use super::{INTERVAL, Manager, READY, STOPPING, request};
use crate::support::api::ApiServer;
use crate::support::http::Connection;
use crate::support::response::{Behavior, Latch};
use crate::support::server::{Server, Setup, UNFINISHED};
use rustix::process::Signal;
use std::fs::File;
use std::net::TcpListener;

#[test]
fn ready_is_sent_once_requests_are_served_and_stopping_at_sigterm() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    // An address that no other test binds, so that the port is still free.
    let address = TcpListener::bind("127.0.0.3:0").unwrap().local_addr().unwrap();
    let responded = std::thread::scope(|scope| {
        let responded = scope.spawn(|| {
            assert_eq!(manager.next(), READY);
            // STOPPING is sent at once, and only once.
            send_request(address, true).unwrap().status
        });
        let setup = manager.watches(Setup::for_api(&api));
        let server = setup.start_with(&["serve", "--listen", &address.to_string()]);
        let responded = responded.join().unwrap();
        assert_eq!(server.terminate().code(), Some(0));
        responded
    });
    assert_eq!(responded, 200);
    assert_eq!(manager.messages(), [STOPPING], "no other message without WATCHDOG_USEC");
}

#[test]
fn failed_start_never_sends_ready() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    let (_taken, address) = held_socket();
    let setups = [
        Setup::for_api(&api).args(&["--listen", &address.to_string()]),
        Setup::for_api(&api).args(&["--context", "nobody"]),
        Setup::for_api(&api).args(&["--premium-token-file", "/nowhere"]),
        activated(Setup::for_api(&api), File::open("/dev/null").unwrap()),
    ];
    for setup in setups {
        watchdog(manager.watches(setup), INTERVAL).refused();
    }
    assert_eq!(manager.messages(), [""; 0]);
}

/// Stops the server while Kubernetes holds the response to a POST; returns the client's connection.
fn stopping_during_a_post(api: &ApiServer, server: &Server, manager: &Manager) -> Connection {
    assert_eq!(manager.next(), READY);
    let mut client = server.connect();
    client.send(request(true).as_bytes());
    api.wait_for_requests(1);
    server.signal(Signal::TERM);
    assert_eq!(manager.next(), STOPPING);
    client
}

#[test]
fn stopping_is_sent_while_requests_are_in_flight() {
    let (api, manager, latch) = (ApiServer::start(), Manager::new(), Latch::default());
    api.always(Behavior::After(latch.clone(), Box::new(Behavior::Default)));
    let mut server = manager.watches(Setup::for_api(&api)).start();
    let mut client = stopping_during_a_post(&api, &server, &manager);
    latch.open();
    assert_eq!(client.response(false).unwrap().status, 200);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn request_under_way_at_the_stop_gets_its_response() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    let mut server = manager.watches(Setup::for_api(&api)).start();
    assert_eq!(manager.next(), READY);
    let mut silent = server.connect();
    // The server accepts connections in order: with this response the silent connection has also been accepted.
    let mut kept = server.connect();
    kept.send(request(false).as_bytes());
    assert_eq!(kept.response(false).unwrap().status, 200);
    server.signal(Signal::TERM);
    assert_eq!(manager.next(), STOPPING);
    for client in [&mut silent, &mut kept] {
        client.send(request(true).as_bytes());
        assert_eq!(client.response(false).unwrap().status, 200);
    }
    assert_eq!(server.wait().code(), Some(0));
    assert!(!server.stderr().contains(UNFINISHED), "{}", server.stderr());
    assert_eq!(api.jobs().len(), 2);
}

#[test]
fn missing_notification_socket_is_only_a_warning() {
    let api = ApiServer::start();
    let server = watchdog(Setup::for_api(&api), INTERVAL).env("NOTIFY_SOCKET", "/nowhere/notify").start();
    server.wait_for_log("of the missing socket", |line| line.starts_with("warning: ") && line.contains("systemd"));
    assert_eq!(server.post_job().status, 200);
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn second_signal_ends_the_process_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let (api, manager) = (ApiServer::start(), Manager::new());
        api.always(Behavior::Hang);
        let mut server = manager.watches(Setup::for_api(&api)).args(&["--kube-timeout", "60"]).start();
        let mut client = stopping_during_a_post(&api, &server, &manager);
        server.signal(second);
        // The process exits without success: it dropped a request.
        assert_eq!(server.wait().code(), Some(1), "{second:?}");
        assert!(client.response(false).is_err());
        let log = server.stderr();
        assert!(!log.contains("panicked") && !log.contains(UNFINISHED), "{log}");
    }
}

#[test]
fn nohup_server_survives_the_end_of_its_terminal() {
    let api = ApiServer::start();
    let mut server = Setup::for_api(&api).through(&["nohup"]).start();
    server.signal(Signal::HUP);
    server.signal(Signal::TERM);
    // Otherwise the first SIGHUP would have stopped the server and the second ended it at once.
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
}

#[test]
fn sigterm_while_kubernetes_hangs_waits_for_the_request_deadline() {
    let api = ApiServer::start();
    api.always(Behavior::Hang);
    let mut server = Setup::for_api(&api).args(&["--kube-timeout", "2"]).start();
    let mut clients: Vec<Connection> = (0..8).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(request(true).as_bytes());
    }
    api.wait_for_requests(clients.len());
    server.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.response(false).unwrap().status, 504);
        assert_eq!(client.rest().unwrap(), b"");
    }
    assert_eq!(server.wait().code(), Some(0));
    let log = server.stderr();
    assert!(!log.contains("watchdog") && !log.contains(UNFINISHED), "{log}");
}
