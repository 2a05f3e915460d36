//! The server at its limits: descriptors, threads, connections, time.
//!
//! The load is bounded in number and time and stays on loopback. The good client connects from 127.0.0.1, the others
//! from other addresses of 127.0.0.0/8.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test crate uses a part")]
mod support;

mod flood;
mod shutdown;

use flood::{CONNECTIONS, FLOOD_DURATION, Flood, Seen, attempt, request};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit, setrlimit};
use shutdown::{server_threads_named, spin};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::api::ApiServer;
use support::eventually;
use support::http::Connection;
use support::process::{client_resources, descriptors, threads};
use support::server::{Server, Setup};

const FREE: &str = "/img-classification/free";
const MNIST: &str = r#"{"dataset":"mnist"}"#;

/// These tests send more POSTs than the rate limit allows.
fn setup(api: &ApiServer) -> Setup {
    Setup::for_api(api).env("POSTS_PER_MINUTE", "0")
}

/// A server with this limit on descriptors.
fn with_descriptors(api: &ApiServer, most: usize) -> Server {
    let limit = format!("ulimit -n {most}; exec \"$@\"");
    setup(api).through(&["sh", "-c", &limit, "sh"]).start()
}

/// Raises the descriptor limit of this process, which opens every client connection.
fn allow_many_connections() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// A nonblocking connection from another loopback address.
fn connect_from(ip: Ipv4Addr, server: SocketAddr) -> io::Result<TcpStream> {
    // Without CLOEXEC a server started by another test would inherit the socket and keep it open.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((ip, 0)))?;
    match rustix::net::connect(&socket, &server) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// One of seven addresses, other than the good client's.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(number % 7).unwrap())
}

/// Returns `true` while the connection is open; discards a response.
fn is_open(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 1024]) {
        Ok(count) => count > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Waits until both kinds of requests succeed again.
fn expect_recovery(server: &Server, after: &str) {
    for (method, target, body) in [("GET", "/healthz", ""), ("POST", FREE, MNIST), ("GET", "/config", "")] {
        eventually(&format!("{method} {target} after {after}"), || {
            matches!(attempt(server.address(), method, target, body), Ok(200))
        });
    }
}

#[test]
fn good_client_is_served_beside_2000_idle_and_500_slow_connections() {
    allow_many_connections();
    let api = ApiServer::start();
    let server = with_descriptors(&api, 256);
    let mut seen = Seen::default();
    seen.request(&server, "POST", FREE, MNIST);
    seen.request(&server, "GET", "/healthz", "");
    let before = client_resources(&server);
    seen = Seen::default();
    let (stop, ready) = (AtomicBool::new(false), Barrier::new(3));
    let opened = AtomicUsize::new(0);
    let (mut held, mut posted) = (0, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut idle = Flood::new(server.address(), 2000);
            ready.wait();
            while !stop.load(Ordering::SeqCst) {
                idle.go_round(&stop, |_| {});
            }
            opened.fetch_add(idle.opened, Ordering::SeqCst);
        });
        scope.spawn(|| {
            let mut slow = Flood::new(server.address(), 500);
            let head = b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-Slow: ";
            let mut round = 0;
            ready.wait();
            while !stop.load(Ordering::SeqCst) {
                // Reading a connection shows that it is closed.
                slow.go_round(&stop, |mut stream| drop(stream.write(&[head[round % head.len()]])));
                round += 1;
            }
            opened.fetch_add(slow.opened, Ordering::SeqCst);
        });
        ready.wait();
        let end = Instant::now() + FLOOD_DURATION;
        while Instant::now() < end {
            for _ in 0..4 {
                seen.request(&server, "GET", "/healthz", "");
            }
            seen.request(&server, "POST", FREE, MNIST);
            posted += 1;
            held = held.max(server_threads_named(&server, "connection"));
        }
        stop.store(true, Ordering::SeqCst);
    });
    let (median, p99, most) = (seen.percentile(50), seen.percentile(99), seen.percentile(100));
    println!(
        "good client: median {median:?}, p99 {p99:?}, longest {most:?}, {} requests, {} failed tries; \
         {} connections opened by others, {held} held at most",
        seen.times.len(),
        seen.failed.len(),
        opened.into_inner(),
    );
    assert_eq!(api.jobs().len(), posted, "a Job too many or too few; failed tries: {:?}", seen.failed);
    api.close_connections();
    assert_eq!(server.post_job().status, 200);
    eventually("descriptors and threads are given back", || {
        let now = client_resources(&server);
        now.0 <= before.0 && now.1 <= before.1
    });
    expect_recovery(&server, "the flood");
}

#[test]
fn connection_flood_with_few_descriptors_passes() {
    // The second limit is below the server's reserve for everything except connections.
    for most in [80, 40] {
        let api = ApiServer::start();
        let server = with_descriptors(&api, most);
        let server_address = server.address();
        std::thread::scope(|scope| {
            for first in 0..4 {
                scope.spawn(move || {
                    for number in (first..CONNECTIONS).step_by(4) {
                        // Some connections send a valid request; none waits for a response.
                        let stream = connect_from(address(number), server_address).unwrap();
                        let sent = if number % 3 == 0 { request("POST", FREE, MNIST) } else { String::new() };
                        // The server may have refused and closed the connection.
                        let _ = (&stream).write_all(sent.as_bytes());
                    }
                });
            }
        });
        expect_recovery(&server, "the flood");
        let complaints = server.stderr().lines().filter(|line| line.starts_with("error: ")).count();
        println!("{CONNECTIONS} connections, {most} descriptors: {complaints} complaints");
    }
}

/// Limits the server to this many descriptors above its current number.
fn leave(server: &Server, free: usize) {
    let used = descriptors(server);
    // The limit applies to the number of a descriptor, and the kernel uses the lowest free number.
    let limit = (0..).filter(|number| !used.contains(number)).nth(free).unwrap();
    limit_descriptors(server, limit);
}

fn limit_descriptors(server: &Server, limit: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(Some(server.pid()), Resource::Nofile, Rlimit { current: Some(limit), maximum }).unwrap();
}

#[test]
fn server_recovers_from_descriptor_exhaustion_at_any_point() {
    let api = ApiServer::start();
    for free in 0..10 {
        let server = setup(&api).start();
        assert_eq!(server.post_job().status, 200);
        let before = client_resources(&server).0;
        // The next request needs a new connection to Kubernetes.
        api.close_connections();
        leave(&server, free);
        std::thread::scope(|scope| {
            let attempts: Vec<_> = [("GET", "/healthz", ""), ("POST", FREE, MNIST), ("GET", "/config", "")]
                .into_iter()
                .map(|(method, target, body)| {
                    let address = server.address();
                    scope.spawn(move || {
                        let mut stream = TcpStream::connect(address).unwrap();
                        stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                        stream.write_all(request(method, target, body).as_bytes()).unwrap();
                        // Any response is acceptable, or none; the recovery counts.
                        let _ = stream.read(&mut [0; 1024]);
                    })
                })
                .collect();
            for attempt in attempts {
                attempt.join().unwrap();
            }
        });
        limit_descriptors(&server, 1024);
        expect_recovery(&server, &format!("{free} free descriptors"));
        eventually("descriptors are given back", || {
            // Idle connections to Kubernetes may stay open; a request drops those that have ended. A connection attempt
            // may still be in flight.
            api.close_connections();
            server.post_job();
            client_resources(&server).0 <= before
        });
        assert_eq!(server.terminate().code(), Some(0), "{free} free descriptors");
    }
}

/// A user without other processes.
const LONELY_USER: u32 = 54321;

#[test]
fn server_without_threads_refuses_and_recovers() {
    if !rustix::process::getuid().is_root() {
        println!("skipped: only root can start a process of another user");
        return;
    }
    let api = ApiServer::start();
    // A copy of the program that this user can execute.
    let script = format!(
        "cp \"$1\" \"$HOME/program\" && chown -R {LONELY_USER} \"$HOME\" && shift && \
         exec setpriv --reuid={LONELY_USER} --regid={LONELY_USER} --clear-groups \"$HOME/program\" \"$@\""
    );
    let server = setup(&api).through(&["sh", "-c", &script, "sh"]).start();
    assert_eq!(server.post_job().status, 200);
    let limit = |threads: usize| {
        // As that user: root may lack the capability to change limits of other users.
        let ids = [format!("--reuid={LONELY_USER}"), format!("--regid={LONELY_USER}"), "--clear-groups".to_owned()];
        let pid = format!("--pid={}", server.pid().as_raw_nonzero());
        let mut command = Command::new("setpriv");
        command.args(ids).args(["prlimit", &pid, &format!("--nproc={threads}:")]);
        assert!(command.status().unwrap().success());
    };
    for more in 0..4 {
        // These connections have their threads already, so their requests find none.
        let mut kept: Vec<Connection> = (0..40).map(|_| server.connect()).collect();
        for connection in &mut kept {
            assert_eq!(connection.request("GET", "/healthz", None).status, 200);
        }
        limit(threads(&server) + more);
        for _ in 0..20 {
            let start = Barrier::new(kept.len());
            std::thread::scope(|scope| {
                for connection in &mut kept {
                    scope.spawn(|| {
                        start.wait();
                        let status = connection.request("GET", "/healthz", None).status;
                        assert!(matches!(status, 200 | 500 | 503), "{status}");
                    });
                }
            });
        }
        // New connections get a response in time; a thread may have become free.
        for (method, target, body) in [("GET", "/healthz", ""), ("POST", FREE, MNIST)].repeat(8) {
            let seen = attempt(server.address(), method, target, body);
            assert!(matches!(seen, Ok(200 | 500 | 503)), "{method} {target}: {seen:?}");
        }
        drop(kept);
        limit(10_000);
        expect_recovery(&server, &format!("{more} free threads"));
    }
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn evicted_connection_leaves_no_job_behind() {
    const ROUNDS: u32 = 400;
    let api = ApiServer::start();
    let server = with_descriptors(&api, 80);
    let (mut responded, mut lost) = (0, 0);
    for round in 0..ROUNDS {
        // As many connections as one address may have; the first is the longest idle.
        let mut waiting: Vec<TcpStream> = (0..4).map(|_| connect_from(address(0), server.address()).unwrap()).collect();
        let first = waiting.remove(0);
        eventually("all are taken", || server_threads_named(&server, "connection") >= 4);
        first.set_nonblocking(false).unwrap();
        let start = Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                spin(Duration::from_micros(u64::from(round % 20) * 10));
                waiting.push(connect_from(address(0), server.address()).unwrap());
            });
            start.wait();
            (&first).write_all(request("POST", FREE, MNIST).as_bytes()).unwrap();
        });
        match Connection::over(first).response(false) {
            Ok(response) => {
                assert_eq!(response.status, 200);
                responded += 1;
            }
            Err(_) => lost += 1,
        }
        drop(waiting);
        eventually("all have left", || server_threads_named(&server, "connection") == 0);
    }
    println!("{responded} answered, {lost} evicted");
    assert_eq!(api.jobs().len(), responded, "Jobs of requests without a response: {lost} connections evicted");
}
