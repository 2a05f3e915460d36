//! READY, STOPPING and the signals that stop a service.

use super::socket_activation::{activated, ask, held_socket};
use super::watchdog::watchdog;
use super::{INTERVAL, Manager, READY, SLACK, STOPPING, request};
use crate::support::api::ApiServer;
use crate::support::http::Connection;
use crate::support::response::{Behavior, Latch};
use crate::support::server::Setup;
use rustix::process::Signal;
use std::fs::File;
use std::net::TcpListener;
use std::time::{Duration, Instant};

#[test]
fn ready_is_said_once_requests_are_answered_and_stopping_at_sigterm() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    // Of an address that nobody else binds here, so that it is still free.
    let address = TcpListener::bind("127.0.0.3:0").unwrap().local_addr().unwrap();
    let answered = std::thread::scope(|scope| {
        let answered = scope.spawn(|| {
            assert_eq!(manager.next(), READY);
            // At once, and once.
            ask(address, true).unwrap().status
        });
        let setup = manager.watches(Setup::for_api(&api));
        let server = setup.start_with(&["serve", "--listen", &address.to_string()]);
        let answered = answered.join().unwrap();
        assert_eq!(server.terminate().code(), Some(0));
        answered
    });
    assert_eq!(answered, 200);
    assert_eq!(manager.said(), [STOPPING], "without WATCHDOG_USEC nothing else is said");
}

#[test]
fn who_cannot_start_never_says_that_it_is_ready() {
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
    assert_eq!(manager.said(), [""; 0]);
}

#[test]
fn stopping_is_said_while_requests_are_still_in_flight() {
    let (api, manager, latch) = (ApiServer::start(), Manager::new(), Latch::default());
    api.always(Behavior::After(latch.clone(), Box::new(Behavior::Default)));
    let mut server = manager.watches(Setup::for_api(&api)).start();
    assert_eq!(manager.next(), READY);
    let mut client = server.connect();
    client.send(request(true).as_bytes());
    api.wait_for_requests(1);
    server.signal(Signal::TERM);
    assert_eq!(manager.next(), STOPPING);
    latch.open();
    assert_eq!(client.response(false).unwrap().status, 200);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_request_on_its_way_when_the_stop_comes_is_answered() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    let mut server = manager.watches(Setup::for_api(&api)).start();
    assert_eq!(manager.next(), READY);
    let mut silent = server.connect();
    // Connections are taken in order: when this one is answered, the silent one has been taken, too.
    let mut kept = server.connect();
    kept.send(request(false).as_bytes());
    assert_eq!(kept.response(false).unwrap().status, 200);
    server.signal(Signal::TERM);
    assert_eq!(manager.next(), STOPPING);
    for client in [&mut silent, &mut kept] {
        client.send(request(true).as_bytes());
        assert_eq!(client.response(false).unwrap().status, 200);
    }
    let start = Instant::now();
    assert_eq!(server.wait().code(), Some(0));
    assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
    assert_eq!(api.jobs().len(), 2);
}

#[test]
fn a_manager_that_is_not_there_is_a_warning_and_no_more() {
    let api = ApiServer::start();
    let server = watchdog(Setup::for_api(&api), INTERVAL).env("NOTIFY_SOCKET", "/nowhere/notify").start();
    server.wait_for_log("of the missing socket", |line| line.starts_with("warning: ") && line.contains("systemd"));
    assert_eq!(server.post_job().status, 200);
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let (api, manager) = (ApiServer::start(), Manager::new());
        api.always(Behavior::Hang);
        let mut server = manager.watches(Setup::for_api(&api)).args(&["--kube-timeout", "60"]).start();
        assert_eq!(manager.next(), READY);
        let mut client = server.connect();
        client.send(request(true).as_bytes());
        api.wait_for_requests(1);
        server.signal(Signal::TERM);
        assert_eq!(manager.next(), STOPPING);
        let start = Instant::now();
        server.signal(second);
        // By itself, and not with success: a request was lost.
        assert_eq!(server.wait().code(), Some(1), "{second:?}");
        assert!(start.elapsed() < SLACK, "{:?}", start.elapsed());
        assert!(client.response(false).is_err());
        assert!(!server.stderr().contains("panicked"), "{}", server.stderr());
    }
}

#[test]
fn a_terminal_that_closes_does_not_end_what_nohup_started() {
    let api = ApiServer::start();
    let mut server = Setup::for_api(&api).through(&["nohup"]).start();
    server.signal(Signal::HUP);
    server.signal(Signal::TERM);
    // Of the two, the first would have counted, and the second ended the process at once.
    assert_eq!(server.wait().code(), Some(0), "{}", server.stderr());
}

#[test]
fn sigterm_while_kubernetes_hangs_ends_with_the_answers_at_their_deadline() {
    const DEADLINE: Duration = Duration::from_secs(2);
    let api = ApiServer::start();
    api.always(Behavior::Hang);
    let mut server = Setup::for_api(&api).args(&["--kube-timeout", "2"]).start();
    let mut clients: Vec<Connection> = (0..8).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(request(true).as_bytes());
    }
    api.wait_for_requests(clients.len());
    let start = Instant::now();
    server.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.response(false).unwrap().status, 504);
        assert_eq!(client.rest().unwrap(), b"");
    }
    assert_eq!(server.wait().code(), Some(0));
    assert!(start.elapsed() < DEADLINE + SLACK, "{:?}", start.elapsed());
    assert!(!server.stderr().contains("watchdog"), "{}", server.stderr());
}
