//! Listening sockets passed by systemd.

use super::request;
use crate::support::api::ApiServer;
use crate::support::eventually;
use crate::support::http::{Connection, Response};
use crate::support::kubeconfig::Kubeconfig;
use crate::support::server::Setup;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::Signal;
use std::fs::File;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Shell script: passes its standard input as the activation socket and execs the program.
const ACTIVATE: &[&str] = &["sh", "-c", r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@" 3<&0 0</dev/null"#];

/// A setup with this socket passed by socket activation.
pub fn activated(setup: Setup, socket: impl Into<OwnedFd>) -> Setup {
    setup.stdin(socket).through(ACTIVATE)
}

/// A listening socket that the test keeps open.
pub fn held_socket() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

pub fn send_request(address: SocketAddr, post: bool) -> io::Result<Response> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(request(post).as_bytes())?;
    Connection::over(stream).response(false)
}

#[test]
fn passed_socket_replaces_listen() {
    let api = ApiServer::start();
    let (_taken, elsewhere) = held_socket();
    for ip in ["127.0.0.1", "[::]"] {
        let socket = TcpListener::bind(format!("{ip}:0")).unwrap();
        let address = socket.local_addr().unwrap();
        // --listen could not be bound here.
        let setup = activated(Setup::for_api(&api), socket).args(&["--listen", &elsewhere.to_string()]);
        let server = setup.start();
        assert_eq!(server.address(), address);
        let reached = SocketAddr::from(([127, 0, 0, 1], address.port()));
        assert_eq!(send_request(reached, true).unwrap().status, 200);
        assert_eq!(server.terminate().code(), Some(0));
        // No process holds the socket now.
        assert_eq!(send_request(reached, false).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}

#[test]
fn socket_for_another_process_is_ignored() {
    let api = ApiServer::start();
    let (socket, address) = held_socket();
    let script = r#"LISTEN_PID=1 LISTEN_FDS=1 exec "$0" "$@" 3<&0 0</dev/null"#;
    let server = Setup::for_api(&api).stdin(socket).through(&["sh", "-c", script]).start();
    assert_ne!(server.address(), address);
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn passed_descriptors_other_than_tcp_listeners_end_the_start() {
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
fn connections_between_two_processes_are_served_by_the_second() {
    let api = ApiServer::start();
    let (socket, address) = held_socket();
    let server = activated(Setup::for_api(&api), socket.try_clone().unwrap()).start();
    assert_eq!(send_request(address, true).unwrap().status, 200);
    assert_eq!(server.terminate().code(), Some(0));
    let mut clients: Vec<Connection> = (0..20).map(|_| Connection::open(address)).collect();
    for client in &mut clients {
        client.send(request(true).as_bytes());
    }
    let second = activated(Setup::for_api(&api), socket.try_clone().unwrap()).start();
    assert_eq!(second.address(), address);
    for client in &mut clients {
        assert_eq!(client.response(false).unwrap().status, 200);
    }
    assert_eq!(api.jobs().len(), 21);
}

#[test]
fn restart_under_load_refuses_and_loses_no_connection() {
    const RESTARTS: usize = 5;
    const CLIENTS: usize = 6;
    let api = ApiServer::start();
    let kubeconfig = Kubeconfig::new(&api.url()).yaml();
    let start = |socket: &TcpListener| {
        let setup = Setup::new().kubeconfig(&kubeconfig).env("POSTS_PER_MINUTE", "0");
        activated(setup, socket.try_clone().unwrap()).start()
    };
    let (socket, address) = held_socket();
    let (stop, responded, good) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let lost = Mutex::new(Vec::new());
    let mut server = start(&socket);
    std::thread::scope(|scope| {
        for post in [true, false].repeat(CLIENTS / 2) {
            let (stop, responded, good, lost) = (&stop, &responded, &good, &lost);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    match send_request(address, post) {
                        Ok(response) if response.status == 200 => {
                            responded.fetch_add(1, Ordering::SeqCst);
                            good.fetch_add(usize::from(post), Ordering::SeqCst);
                        }
                        Ok(response) => lost.lock().unwrap().push(format!("{} {}", response.status, response.text())),
                        Err(error) => lost.lock().unwrap().push(format!("{error}")),
                    }
                }
            });
        }
        let more = |count: usize| {
            let before = responded.load(Ordering::SeqCst);
            eventually("responses arrive", || responded.load(Ordering::SeqCst) >= before + count);
        };
        // The clients end even if an assertion fails.
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
    assert!(lost.is_empty(), "{} of {}: {lost:?}", lost.len(), responded.into_inner());
    assert_eq!(api.jobs().len(), good.into_inner(), "Jobs and good responses");
}
