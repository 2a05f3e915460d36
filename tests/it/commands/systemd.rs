//! What systemd gives and wants, without systemd: its notification socket, its watchdog, sockets that it passes, and the
//! signals with which it ends a service.

use crate::support::answer::{Answer, Gate};
use crate::support::api::ApiServer;
use crate::support::http::{Connection, Response};
use crate::support::kubeconfig::Kubeconfig;
use crate::support::server::{Server, Setup};
use crate::support::{PATIENCE, eventually};
use rustix::net::{AddressFamily, Shutdown, SocketType};
use rustix::process::Signal;
use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const READY: &str = "READY=1";
const STOPPING: &str = "STOPPING=1";
const ALIVE: &str = "WATCHDOG=1";

/// The watchdog's interval: without a sign of life for so long, systemd ends the service.
const INTERVAL: Duration = Duration::from_millis(600);

/// Enough for a message that is under way.
const A_MOMENT: Duration = Duration::from_millis(150);

/// What a stop may take beyond what it waits for.
const SLACK: Duration = Duration::from_secs(3);

/// Becomes the program with its standard input as the socket that systemd passes.
const ACTIVATE: &[&str] = &["sh", "-c", r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&0 0</dev/null"#];

/// The side of systemd that hears what services say of themselves.
struct Manager {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        Manager { socket, folder }
    }

    /// The process tells us.
    fn watches(&self, setup: Setup) -> Setup {
        setup.env("NOTIFY_SOCKET", self.folder.path().join("notify").to_str().unwrap())
    }

    /// The next message, if there is one within this time.
    fn within(&self, time: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(time)).unwrap();
        let mut bytes = [0; 256];
        match self.socket.recv(&mut bytes) {
            Ok(length) => Some(String::from_utf8(bytes[..length].to_vec()).unwrap().trim_end().to_owned()),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
                None
            }
        }
    }

    fn next(&self) -> String {
        self.within(PATIENCE).expect("the service says something")
    }

    /// Passes over other messages.
    fn wait_for(&self, message: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.next() != message {
            assert!(Instant::now() < deadline, "no {message}");
        }
    }

    /// All that was said until now.
    fn said(&self) -> Vec<String> {
        std::iter::from_fn(|| self.within(A_MOMENT)).collect()
    }
}

fn watchdog(setup: Setup, interval: Duration) -> Setup {
    setup.env("WATCHDOG_USEC", &interval.as_micros().to_string())
}

/// As if started for this socket.
fn activated(setup: Setup, socket: impl Into<OwnedFd>) -> Setup {
    setup.stdin(socket).through(ACTIVATE)
}

/// A socket that is held open here, whoever else has it.
fn held_socket() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn ask(address: SocketAddr, post: bool) -> io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(request(post).as_bytes())?;
    Connection::over(stream).answer(false)
}

fn request(post: bool) -> &'static str {
    if post {
        "POST /img-classification/free HTTP/1.1\r\nHost: test\r\nContent-Length: 19\r\n\r\n{\"dataset\":\"mnist\"}"
    } else {
        "GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n"
    }
}

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
    let (api, manager, gate) = (ApiServer::start(), Manager::new(), Gate::default());
    api.always(Answer::After(gate.clone(), Box::new(Answer::Honest)));
    let mut server = manager.watches(Setup::for_api(&api)).start();
    assert_eq!(manager.next(), READY);
    let mut client = server.connect();
    client.send(request(true).as_bytes());
    api.wait_for_requests(1);
    server.signal(Signal::TERM);
    assert_eq!(manager.next(), STOPPING);
    gate.open();
    assert_eq!(client.answer(false).unwrap().status, 200);
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
    assert_eq!(kept.answer(false).unwrap().status, 200);
    server.signal(Signal::TERM);
    assert_eq!(manager.next(), STOPPING);
    for client in [&mut silent, &mut kept] {
        client.send(request(true).as_bytes());
        assert_eq!(client.answer(false).unwrap().status, 200);
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
fn the_watchdog_is_fed_again_and_again() {
    const TIMES: u32 = 8;
    let (api, manager) = (ApiServer::start(), Manager::new());
    let own_pid: &[&str] = &["sh", "-c", r#"WATCHDOG_PID=$$ exec "$0" "$@""#];
    for through in [&[], own_pid] {
        let server = watchdog(manager.watches(Setup::for_api(&api)), INTERVAL).through(through).start();
        manager.wait_for(READY);
        manager.wait_for(ALIVE);
        let start = Instant::now();
        for _ in 0..TIMES {
            assert_eq!(manager.next(), ALIVE);
        }
        // On average, for a busy machine; systemd advises half the interval.
        let each = start.elapsed() / TIMES;
        assert!(each < INTERVAL * 3 / 4 && each > INTERVAL / 10, "every {each:?}");
        assert_eq!(server.terminate().code(), Some(0));
        let said = manager.said();
        assert!(said.contains(&STOPPING.to_owned()), "{said:?}");
    }
}

#[test]
fn a_watchdog_of_somebody_else_is_not_fed() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    let (often, nobody) = (Duration::from_millis(30), "1");
    let server = watchdog(manager.watches(Setup::for_api(&api)), often).env("WATCHDOG_PID", nobody).start();
    assert_eq!(manager.next(), READY);
    assert_eq!(server.post_job().status, 200);
    assert_eq!(manager.within(often * 10), None);
    assert_eq!(server.terminate().code(), Some(0));
    assert_eq!(manager.said(), [STOPPING]);
}

#[test]
fn the_watchdog_is_not_fed_while_the_process_stands_still() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    let server = watchdog(manager.watches(Setup::for_api(&api)), INTERVAL).start();
    manager.wait_for(ALIVE);
    server.signal(Signal::STOP);
    eventually("every thread has stopped", || threads_are(&server, 'T'));
    manager.said();
    assert_eq!(manager.within(INTERVAL + INTERVAL / 2), None);
    server.signal(Signal::CONT);
    assert_eq!(manager.next(), ALIVE);
    assert_eq!(server.post_job().status, 200);
}

fn threads_are(server: &Server, wanted: char) -> bool {
    let mut threads = std::fs::read_dir(format!("/proc/{}/task", server.pid().as_raw_nonzero())).unwrap();
    threads.all(|thread| {
        let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with(wanted))
    })
}

#[test]
fn the_watchdog_is_not_fed_while_the_front_door_cannot_be_reached() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    // A port that was asked for by its number comes back with the socket; the address is nobody else's.
    let address = TcpListener::bind("127.0.0.4:0").unwrap().local_addr().unwrap();
    let socket = TcpListener::bind(address).unwrap();
    let setup = activated(Setup::for_api(&api), socket.try_clone().unwrap());
    let server = watchdog(manager.watches(setup), INTERVAL).start();
    manager.wait_for(ALIVE);
    // The process is as well as before, and nobody gets in.
    rustix::net::shutdown(&socket, Shutdown::Both).unwrap();
    assert_eq!(ask(address, false).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    server.wait_for_log("of the watchdog", |line| line.starts_with("error: ") && line.contains("watchdog"));
    manager.said();
    assert_eq!(manager.within(INTERVAL + INTERVAL / 2), None);
    rustix::net::listen(&socket, 128).unwrap();
    assert_eq!(manager.next(), ALIVE);
    assert_eq!(ask(address, true).unwrap().status, 200);
}

#[test]
fn the_watchdog_is_fed_while_kubernetes_hangs_and_every_place_is_taken() {
    let (api, manager) = (ApiServer::start(), Manager::new());
    api.always(Answer::Never);
    let server = watchdog(manager.watches(Setup::for_api(&api)), INTERVAL).args(&["--kube-timeout", "1"]).start();
    manager.wait_for(ALIVE);
    std::thread::scope(|scope| {
        let posts: Vec<_> = (0..40).map(|_| scope.spawn(|| server.post_job().status)).collect();
        api.wait_for_requests(32);
        for _ in 0..3 {
            assert_eq!(manager.next(), ALIVE);
        }
        for post in posts {
            let status = post.join().unwrap();
            assert!([503, 504].contains(&status), "{status}");
        }
    });
    assert!(!server.stderr().contains("watchdog"), "{}", server.stderr());
}

#[test]
fn a_passed_socket_is_served_in_place_of_listen() {
    let api = ApiServer::start();
    let (_taken, elsewhere) = held_socket();
    for ip in ["127.0.0.1", "[::]"] {
        let socket = TcpListener::bind(format!("{ip}:0")).unwrap();
        let address = socket.local_addr().unwrap();
        // That --listen could not be had.
        let setup = activated(Setup::for_api(&api), socket).args(&["--listen", &elsewhere.to_string()]);
        let server = setup.start();
        assert_eq!(server.address(), address);
        let reached = SocketAddr::from(([127, 0, 0, 1], address.port()));
        assert_eq!(ask(reached, true).unwrap().status, 200);
        assert_eq!(server.terminate().code(), Some(0));
        // Nobody holds it any more.
        assert_eq!(ask(reached, false).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn a_socket_for_another_process_is_left_alone() {
    let api = ApiServer::start();
    let (socket, address) = held_socket();
    let script = r#"LISTEN_PID=1 LISTEN_FDS=1 exec "$0" "$@" 3<&0 0</dev/null"#;
    let server = Setup::for_api(&api).stdin(socket).through(&["sh", "-c", script]).start();
    assert_ne!(server.address(), address);
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn what_is_passed_and_is_no_listening_tcp_socket_ends_the_start() {
    let api = ApiServer::start();
    let folder = tempfile::tempdir().unwrap();
    let (listener, address) = held_socket();
    let connected = TcpStream::connect(address).unwrap();
    let accepted = listener.accept().unwrap().0;
    let bound = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&bound, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let passed: [(&str, OwnedFd); 7] = [
        ("a file", File::open("/proc/self/exe").unwrap().into()),
        ("a folder", File::open("/").unwrap().into()),
        ("a datagram socket", UdpSocket::bind("127.0.0.1:0").unwrap().into()),
        ("a Unix socket", UnixListener::bind(folder.path().join("socket")).unwrap().into()),
        ("a connection", connected.into()),
        ("a connection that was accepted", accepted.into()),
        ("a socket that does not listen", bound),
    ];
    let mut wrong = Vec::new();
    for (what, fd) in passed {
        match activated(Setup::for_api(&api), fd).start_or_refusal() {
            Ok(server) => wrong.push(format!("{what}: it serves {}", server.address())),
            Err(line) => assert!(line.contains("listen") || line.contains("LISTEN_FDS"), "{what}: {line}"),
        }
    }
    let nothing = Setup::for_api(&api).through(&["sh", "-c", r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@""#]);
    nothing.refused();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn connections_that_come_between_two_processes_are_served_by_the_second() {
    let api = ApiServer::start();
    let (socket, address) = held_socket();
    let server = activated(Setup::for_api(&api), socket.try_clone().unwrap()).start();
    assert_eq!(ask(address, true).unwrap().status, 200);
    assert_eq!(server.terminate().code(), Some(0));
    let mut clients: Vec<Connection> = (0..20).map(|_| Connection::open(address)).collect();
    for client in &mut clients {
        client.send(request(true).as_bytes());
    }
    let second = activated(Setup::for_api(&api), socket.try_clone().unwrap()).start();
    assert_eq!(second.address(), address);
    for client in &mut clients {
        assert_eq!(client.answer(false).unwrap().status, 200);
    }
    assert_eq!(api.jobs().len(), 21);
}

#[test]
fn a_restart_under_load_refuses_and_loses_no_connection() {
    const RESTARTS: usize = 5;
    const CLIENTS: usize = 6;
    let api = ApiServer::start();
    let kubeconfig = Kubeconfig::new(&api.url()).yaml();
    let start = |socket: &TcpListener| {
        let setup = Setup::new().kubeconfig(&kubeconfig).env("POSTS_PER_MINUTE", "0");
        activated(setup, socket.try_clone().unwrap()).start()
    };
    let (socket, address) = held_socket();
    let (stop, answered, good) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let lost = Mutex::new(Vec::new());
    let mut server = start(&socket);
    std::thread::scope(|scope| {
        for post in [true, false].repeat(CLIENTS / 2) {
            let (stop, answered, good, lost) = (&stop, &answered, &good, &lost);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    match ask(address, post) {
                        Ok(answer) if answer.status == 200 => {
                            answered.fetch_add(1, Ordering::SeqCst);
                            good.fetch_add(usize::from(post), Ordering::SeqCst);
                        }
                        Ok(answer) => lost.lock().unwrap().push(format!("{} {}", answer.status, answer.text())),
                        Err(error) => lost.lock().unwrap().push(format!("{error}")),
                    }
                }
            });
        }
        let more = |count: usize| {
            let before = answered.load(Ordering::SeqCst);
            eventually("there are answers", || answered.load(Ordering::SeqCst) >= before + count);
        };
        // Whatever fails, the clients end.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..RESTARTS {
                more(100);
                server.signal(Signal::TERM);
                assert_eq!(server.wait().code(), Some(0));
                server = start(&socket);
            }
            more(100);
        }));
        stop.store(true, Ordering::SeqCst);
        outcome.unwrap();
    });
    let lost = lost.into_inner().unwrap();
    assert!(lost.is_empty(), "{} of {}: {lost:?}", lost.len(), answered.into_inner());
    assert_eq!(api.jobs().len(), good.into_inner(), "Jobs and good answers");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let (api, manager) = (ApiServer::start(), Manager::new());
        api.always(Answer::Never);
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
        assert!(client.answer(false).is_err());
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
    api.always(Answer::Never);
    let mut server = Setup::for_api(&api).args(&["--kube-timeout", "2"]).start();
    let mut clients: Vec<Connection> = (0..8).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(request(true).as_bytes());
    }
    api.wait_for_requests(clients.len());
    let start = Instant::now();
    server.signal(Signal::TERM);
    for client in &mut clients {
        assert_eq!(client.answer(false).unwrap().status, 504);
        assert_eq!(client.rest().unwrap(), b"");
    }
    assert_eq!(server.wait().code(), Some(0));
    assert!(start.elapsed() < DEADLINE + SLACK, "{:?}", start.elapsed());
    assert!(!server.stderr().contains("watchdog"), "{}", server.stderr());
}

#[test]
fn an_orderly_stop_says_nothing_of_the_watchdog() {
    let (socket, _) = held_socket();
    for passed in [false, true] {
        let (api, manager, gate) = (ApiServer::start(), Manager::new(), Gate::default());
        api.always(Answer::After(gate.clone(), Box::new(Answer::Honest)));
        let setup = watchdog(manager.watches(Setup::for_api(&api)), A_MOMENT);
        let setup = if passed { activated(setup, socket.try_clone().unwrap()) } else { setup };
        let mut server = setup.start();
        manager.wait_for(ALIVE);
        let mut client = server.connect();
        client.send(request(true).as_bytes());
        api.wait_for_requests(1);
        server.signal(Signal::TERM);
        manager.wait_for(STOPPING);
        // Several turns of the watchdog; systemd looks no more.
        let quiet = Instant::now();
        while quiet.elapsed() < A_MOMENT * 4 {
            manager.within(A_MOMENT);
        }
        gate.open();
        assert_eq!(client.answer(false).unwrap().status, 200);
        assert_eq!(server.wait().code(), Some(0));
        assert!(!server.stderr().contains("error: "), "passed {passed}: {}", server.stderr());
    }
}
