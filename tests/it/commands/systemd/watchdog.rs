//! Watchdog pings.

use super::socket_activation::{activated, held_socket, send_request};
use super::{INTERVAL, Manager, READY, STOPPING, WATCHDOG, request};
use crate::support::api::ApiServer;
use crate::support::eventually;
use crate::support::process::folder;
use crate::support::response::{Behavior, Latch};
use crate::support::server::{Server, Setup};
use rustix::net::Shutdown;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::io::{self};
use std::net::TcpListener;
use std::time::{Duration, Instant};

pub fn watchdog(setup: Setup, interval: Duration) -> Setup {
    setup.env("WATCHDOG_USEC", &interval.as_micros().to_string())
}

#[test]
fn watchdog_is_pinged_repeatedly() {
    const TIMES: u32 = 8;
    let (api, manager) = (ApiServer::start(), Manager::new());
    let own_pid: &[&str] = &["sh", "-c", r#"WATCHDOG_PID=$$ exec "$0" "$@""#];
    for through in [&[], own_pid] {
        let server = watchdog(manager.watches(Setup::for_api(&api)), INTERVAL).through(through).start();
        manager.wait_for(READY);
        manager.wait_for(WATCHDOG);
        let start = Instant::now();
        for _ in 0..TIMES {
            assert_eq!(manager.next(), WATCHDOG);
        }
        let each = start.elapsed() / TIMES;
        assert!(each > INTERVAL / 10, "every {each:?}");
        assert_eq!(server.terminate().code(), Some(0));
        let messages = manager.messages();
        assert!(messages.contains(&STOPPING.to_owned()), "{messages:?}");
    }
}

#[test]
fn watchdog_of_another_process_is_not_pinged() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    let (often, other_pid) = (Duration::from_millis(30), "1");
    let server = watchdog(manager.watches(Setup::for_api(&api)), often).env("WATCHDOG_PID", other_pid).start();
    assert_eq!(manager.next(), READY);
    assert_eq!(server.post_job().status, 200);
    assert_eq!(manager.within(often * 10), None);
    assert_eq!(server.terminate().code(), Some(0));
    assert_eq!(manager.messages(), [STOPPING]);
}

#[test]
fn watchdog_is_not_pinged_while_the_process_is_stopped() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    let server = watchdog(manager.watches(Setup::for_api(&api)), INTERVAL).start();
    manager.wait_for(WATCHDOG);
    server.signal(Signal::STOP);
    eventually("every thread has stopped", || all_threads_are(&server, 'T'));
    manager.messages();
    assert_eq!(manager.within(INTERVAL + INTERVAL / 2), None);
    server.signal(Signal::CONT);
    assert_eq!(manager.next(), WATCHDOG);
    assert_eq!(server.post_job().status, 200);
}

fn all_threads_are(server: &Server, wanted: char) -> bool {
    let mut threads = std::fs::read_dir(format!("/proc/{}/task", server.pid().as_raw_nonzero())).unwrap();
    threads.all(|thread| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(wanted))
    })
}

/// The names of the server's threads.
fn thread_names(server: &Server) -> BTreeSet<String> {
    let threads = std::fs::read_dir(format!("{}/task", folder(server))).unwrap();
    let name = |thread: io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default().trim_end().to_owned()
    };
    threads.map(name).collect()
}

#[test]
fn watchdog_is_not_pinged_while_the_port_is_closed() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    // A port bound by number, on an address that no other test uses, can be bound again.
    let address = TcpListener::bind("127.0.0.4:0").unwrap().local_addr().unwrap();
    let socket = TcpListener::bind(address).unwrap();
    let setup = activated(Setup::for_api(&api), socket.try_clone().unwrap());
    let server = watchdog(manager.watches(setup), INTERVAL).start();
    manager.wait_for(WATCHDOG);
    // The process is healthy, but no client can connect.
    rustix::net::shutdown(&socket, Shutdown::Both).unwrap();
    assert_eq!(send_request(address, false).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    server.wait_for_log("of the watchdog", |line| line.starts_with("error: ") && line.contains("watchdog"));
    manager.messages();
    assert_eq!(manager.within(INTERVAL + INTERVAL / 2), None);
    rustix::net::listen(&socket, 128).unwrap();
    assert_eq!(manager.next(), WATCHDOG);
    assert_eq!(send_request(address, true).unwrap().status, 200);
}

#[test]
fn watchdog_is_pinged_while_kubernetes_hangs_and_every_permit_is_taken() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    api.always(Behavior::Hang);
    let server = watchdog(manager.watches(Setup::for_api(&api)), INTERVAL).args(&["--kube-timeout", "1"]).start();
    manager.wait_for(WATCHDOG);
    std::thread::scope(|scope| {
        let posts: Vec<_> = (0..40).map(|_| scope.spawn(|| server.post_job().status)).collect();
        api.wait_for_requests(32);
        for _ in 0..3 {
            assert_eq!(manager.next(), WATCHDOG);
        }
        for post in posts {
            let status = post.join().unwrap();
            assert!([503, 504].contains(&status), "{status}");
        }
    });
    let log = server.log_until_now();
    assert!(!log.contains("watchdog"), "{log}");
}

#[test]
fn orderly_stop_logs_nothing_about_the_watchdog() {
    let (socket, _) = held_socket();
    for passed in [false, true] {
        let (api, manager, latch) = (ApiServer::start(), Manager::new(), Latch::default());
        api.always(Behavior::After(latch.clone(), Box::new(Behavior::Default)));
        let setup = watchdog(manager.watches(Setup::for_api(&api)), INTERVAL);
        let setup = if passed { activated(setup, socket.try_clone().unwrap()) } else { setup };
        let mut server = setup.start();
        manager.wait_for(WATCHDOG);
        let mut client = server.connect();
        client.send(request(true).as_bytes());
        api.wait_for_requests(1);
        server.signal(Signal::TERM);
        manager.wait_for(STOPPING);
        // systemd ignores the watchdog during a stop.
        eventually("the watchdog has ended", || !thread_names(&server).contains("watchdog"));
        latch.open();
        assert_eq!(client.response(false).unwrap().status, 200);
        assert_eq!(server.wait().code(), Some(0));
        assert!(!server.stderr().contains("error: "), "passed {passed}: {}", server.stderr());
    }
}
