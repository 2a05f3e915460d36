//! The server at the end of its means: descriptors, threads, connections, time.
//!
//! Load is bounded in number and time and stays on loopback. A good client comes from 127.0.0.1, the others from other
//! addresses of 127.0.0.0/8.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "every test crate uses another part of it")]
mod support;

mod crowd;
mod shutdown;

use crowd::{CONNECTIONS, CROWD_DURATION, Crowd, Seen, attempt, request};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, prlimit, setrlimit};
use shutdown::{server_threads_named, spin};
use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use support::api::ApiServer;
use support::eventually;
use support::http::Connection;
use support::server::{Server, Setup};

const FREE: &str = "/img-classification/free";
const MNIST: &str = r#"{"dataset":"mnist"}"#;

/// Longest time that a request of the good client may take, all its tries together.
const SOON: Duration = Duration::from_secs(5);

/// Longest time from SIGTERM to the end, as the contract has it.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Whatever limit there may be on the POSTs of one address: these tests send many.
fn setup(api: &ApiServer) -> Setup {
    Setup::for_api(api).env("POSTS_PER_MINUTE", "0")
}

/// A server that may open so many descriptors.
fn with_descriptors(api: &ApiServer, most: usize) -> Server {
    let limit = format!("ulimit -n {most}; exec \"$@\"");
    setup(api).through(&["sh", "-c", &limit, "sh"]).start()
}

/// This process needs a descriptor for every connection that it opens.
fn allow_many_connections() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// Connects from another address of this machine, and does not wait for anything: reading it does not, either.
fn connect_from(ip: Ipv4Addr, server: SocketAddr) -> io::Result<TcpStream> {
    // Without CLOEXEC a server that another test starts just now would inherit it, and keep it open.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((ip, 0)))?;
    match rustix::net::connect(&socket, &server) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// One of seven addresses, none of them the good client's.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(number % 7).unwrap())
}

/// True while the server has not closed it. An answer (a refusal) is read and dropped.
fn is_open(mut stream: &TcpStream) -> bool {
    match stream.read(&mut [0; 1024]) {
        Ok(count) => count > 0,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// The numbers of the server's descriptors.
fn descriptors(server: &Server) -> BTreeSet<u64> {
    let folder = std::fs::read_dir(format!("/proc/{}/fd", server.pid().as_raw_nonzero())).unwrap();
    folder.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect()
}

fn threads(server: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", server.pid().as_raw_nonzero())).unwrap().count()
}

/// Both kinds of request get good answers again.
fn expect_recovery(server: &Server, after: &str) {
    for (method, target, body) in [("GET", "/healthz", ""), ("POST", FREE, MNIST), ("GET", "/config", "")] {
        eventually(&format!("{method} {target} after {after}"), || {
            matches!(attempt(server.address(), method, target, body), Ok(200))
        });
    }
}

#[test]
fn a_good_client_is_served_among_two_thousand_idle_and_five_hundred_slow_ones() {
    allow_many_connections();
    let api = ApiServer::start();
    let server = with_descriptors(&api, 256);
    let mut seen = Seen::default();
    seen.request(&server, "POST", FREE, MNIST);
    seen.request(&server, "GET", "/healthz", "");
    let before = (descriptors(&server).len(), threads(&server));
    seen = Seen::default();
    let (stop, ready) = (AtomicBool::new(false), Barrier::new(3));
    let opened = AtomicUsize::new(0);
    let (mut held, mut posted) = (0, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut idle = Crowd::new(server.address(), 2000);
            ready.wait();
            while !stop.load(Ordering::SeqCst) {
                idle.go_round(&stop, |_| {});
            }
            opened.fetch_add(idle.opened, Ordering::SeqCst);
        });
        scope.spawn(|| {
            let mut slow = Crowd::new(server.address(), 500);
            let head = b"GET /healthz HTTP/1.1\r\nHost: h\r\nX-Slow: ";
            let mut round = 0;
            ready.wait();
            while !stop.load(Ordering::SeqCst) {
                // One that is closed is noticed and opened again by its being read.
                slow.go_round(&stop, |mut stream| drop(stream.write(&[head[round % head.len()]])));
                round += 1;
            }
            opened.fetch_add(slow.opened, Ordering::SeqCst);
        });
        ready.wait();
        let end = Instant::now() + CROWD_DURATION;
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
    assert!(p99 < Duration::from_secs(1), "{p99:?}; failed tries: {:?}", seen.failed);
    api.close_connections();
    assert_eq!(server.post_job().status, 200);
    eventually("descriptors and threads are given back", || {
        let now = (descriptors(&server).len(), threads(&server));
        now.0 <= before.0 && now.1 <= before.1
    });
    expect_recovery(&server, "the crowd");
}

#[test]
fn a_crowd_at_the_door_of_a_server_with_few_descriptors_goes_by() {
    // The second is less than the server keeps for everything but its connections.
    for most in [80, 40] {
        let api = ApiServer::start();
        let server = with_descriptors(&api, most);
        let server_address = server.address();
        std::thread::scope(|scope| {
            for first in 0..4 {
                scope.spawn(move || {
                    for number in (first..CONNECTIONS).step_by(4) {
                        // Some only connect, some have a good request; nobody waits for an answer.
                        let stream = connect_from(address(number), server_address).unwrap();
                        let sent = if number % 3 == 0 { request("POST", FREE, MNIST) } else { String::new() };
                        // Refused and closed, perhaps.
                        let _ = (&stream).write_all(sent.as_bytes());
                    }
                });
            }
        });
        expect_recovery(&server, "the crowd");
        let complaints = server.stderr().lines().filter(|line| line.starts_with("error: ")).count();
        println!("{CONNECTIONS} connections, {most} descriptors: {complaints} complaints");
    }
}

/// Lets the server have only so many descriptors more than it has now.
fn leave(server: &Server, free: usize) {
    let used = descriptors(server);
    // The limit is on the number of a descriptor, and the lowest free number is used next.
    let limit = (0..).filter(|number| !used.contains(number)).nth(free).unwrap();
    limit_descriptors(server, limit);
}

fn limit_descriptors(server: &Server, limit: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(Some(server.pid()), Resource::Nofile, Rlimit { current: Some(limit), maximum }).unwrap();
}

#[test]
fn wherever_descriptors_run_out_the_server_comes_back() {
    let api = ApiServer::start();
    for free in 0..10 {
        let server = setup(&api).start();
        assert_eq!(server.post_job().status, 200);
        let before = descriptors(&server).len();
        // The next one needs a new connection to Kubernetes, too.
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
                        // Any answer will do, and none: what matters is what comes after.
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
            // Connections to Kubernetes that are kept for later are no leftovers; a request finds and drops those that have
            // ended. One that was made in want may still be under way.
            api.close_connections();
            server.post_job();
            descriptors(&server).len() <= before
        });
        assert_eq!(server.terminate().code(), Some(0), "{free} free descriptors");
    }
}

/// A user that has no other process.
const LONELY_USER: u32 = 54321;

#[test]
fn without_threads_the_server_refuses_and_comes_back() {
    if !rustix::process::getuid().is_root() {
        println!("skipped: only root can start a process of another user");
        return;
    }
    let api = ApiServer::start();
    // The program is copied to where that user may go.
    let script = format!(
        "cp \"$1\" \"$HOME/program\" && chown -R {LONELY_USER} \"$HOME\" && shift && \
         exec setpriv --reuid={LONELY_USER} --regid={LONELY_USER} --clear-groups \"$HOME/program\" \"$@\""
    );
    let server = setup(&api).through(&["sh", "-c", &script, "sh"]).start();
    assert_eq!(server.post_job().status, 200);
    let limit = |threads: usize| {
        // As that user, for root may lack the capability to change a limit of others.
        let ids = [format!("--reuid={LONELY_USER}"), format!("--regid={LONELY_USER}"), "--clear-groups".to_owned()];
        let pid = format!("--pid={}", server.pid().as_raw_nonzero());
        let mut command = Command::new("setpriv");
        command.args(ids).args(["prlimit", &pid, &format!("--nproc={threads}:")]);
        assert!(command.status().unwrap().success());
    };
    for more in 0..4 {
        // These have their threads already, so that it is for their requests that there are none.
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
        // Newcomers get an answer in time, too; a thread may have become free.
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
fn a_connection_that_must_make_room_leaves_no_job_behind() {
    const ROUNDS: u32 = 400;
    let api = ApiServer::start();
    let server = with_descriptors(&api, 80);
    let (mut answered, mut lost) = (0, 0);
    for round in 0..ROUNDS {
        // As many of one address as may be; the first is the one that has waited for longest.
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
                answered += 1;
            }
            Err(_) => lost += 1,
        }
        drop(waiting);
        eventually("all have left", || server_threads_named(&server, "connection") == 0);
    }
    println!("{answered} answered, {lost} made room");
    assert_eq!(api.jobs().len(), answered, "Jobs of requests without an answer: {lost} connections made room");
}
