//! Well-behaved clients.

use super::ANSWER_TIME;
use super::bad_clients::{connection_burst, malformed_request_client, silent_client, stalled_reader, too_slow_sender};
use super::requests::{ClientRequest, Random, World};
use crate::support::http::{Connection, Response};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown};
use std::time::{Duration, Instant};

/// One visit of a client; it is repeated until the end of the run.
type Client = fn(&World, &mut Random, Ipv4Addr);

/// Number of clients of each kind, each with its own address.
pub const CLIENTS: [(u8, Client); 7] = [
    (10, keep_alive_client),
    (6, fresh_connection_client),
    (1, health_probe),
    (6, malformed_request_client),
    (24, slow_client),
    (4, disconnecting_client),
    (1, connection_burst),
];

fn keep_alive_client(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.connection(ip) else { return };
    for _ in 0..random.within(1..=60) {
        let request = ClientRequest::good(world, random);
        let Some(response) = world.exchange("kept alive", &mut line, &request) else { return };
        if response.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            return world
                .report_failure(&format!("a good connection is closed after {}, {}", request.what, response.status));
        }
        if !world.is_running() {
            return;
        }
        world.pause(random.millis(0..=150));
    }
}

fn fresh_connection_client(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.connection(ip) else { return };
    let request = ClientRequest::good(world, random);
    if world.exchange("fresh", &mut line, &request).is_some() && random.one_in(2) {
        // A client without further requests may shut down its sending side.
        line.stream().shutdown(Shutdown::Write).unwrap();
        if line.rest().is_ok_and(|rest| !rest.is_empty()) {
            world.report_failure(&format!("more than one response to {}", request.what));
        }
    }
    world.pause(random.millis(0..=100));
}

fn health_probe(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.connection(ip) else { return };
    for _ in 0..random.within(1..=3) {
        world.timed_healthz("probe", &mut line);
        world.pause(random.millis(5..=40));
    }
}

fn slow_client(world: &World, random: &mut Random, ip: Ipv4Addr) {
    match random.within(0..=6) {
        0 | 1 => slow_sender(world, random, ip),
        2 => too_slow_sender(world, random, ip),
        3 => slow_reader(world, random, ip),
        4 => stalled_reader(world, random, ip),
        5 => silent_client(world, random, ip),
        _ => idle_client(world, random, ip),
    }
}

fn slow_sender(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.connection(ip) else { return };
    let request = ClientRequest::good(world, random);
    // At most 120 bytes: five seconds.
    let between = random.millis(1..=40);
    world.exchange_slowly("byte by byte", &mut line, &request, between);
}

/// Sends GET /config and returns before the response.
pub fn request_pods(world: &World, ip: Ipv4Addr) -> Option<Connection> {
    let line =
        world.connect(ip, true).map_err(|error| world.report_failure(&format!("cannot connect: {error}"))).ok()?;
    line.stream().write_all(&ClientRequest::config().bytes).unwrap();
    Some(line)
}

/// Reads the complete response piece by piece, in a third of the server's write timeout.
fn slow_reader(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(line) = request_pods(world, ip) else { return };
    let start = Instant::now();
    line.stream().shutdown(Shutdown::Write).unwrap();
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 32 * 1024]);
    let between = random.millis(1..=100);
    let read = loop {
        std::thread::sleep(between);
        match line.stream().read(&mut piece) {
            Ok(0) => break Ok(()),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) => break Err(error),
        }
    };
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let outcome = read.and_then(|()| complete_response(&bytes, head));
    if start.elapsed() < ANSWER_TIME {
        world.record_outcome("slow reader", &ClientRequest::config(), start, outcome);
    }
}

/// Parses a response that was read by hand.
fn complete_response(bytes: &[u8], head: usize) -> io::Result<Response> {
    let mut reader = io::BufReader::new(bytes);
    let line = crate::support::http::read_line(&mut reader)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("status line {line:?}")))?;
    let headers = crate::support::http::read_headers(&mut reader)?;
    let body = bytes[head..].to_vec();
    let length = crate::support::http::find(&headers, "Content-Length").and_then(|length| length.parse().ok());
    if length != Some(body.len()) {
        return Err(io::Error::other(format!("{} bytes instead of {length:?}", body.len())));
    }
    Ok(Response { status, headers, body })
}

fn idle_client(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.connection(ip) else { return };
    for _ in 0..3 {
        if world.timed_healthz("waits between", &mut line).is_none() {
            return;
        }
        world.pause(random.millis(100..=12_000));
    }
}

/// Closes or resets at any stage of a request.
fn disconnecting_client(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(line) = world.connection(ip) else { return };
    let from = Instant::now();
    let mut stream = line.stream();
    let stage = match random.within(0..=5) {
        0 => "at once",
        1 => {
            let bytes = world.bad_kind().post().into_bytes();
            let part = 1 + random.index(bytes.len() - 1);
            stream.write_all(&bytes[..part]).unwrap();
            "in the request"
        }
        2 => {
            stream.write_all(&ClientRequest::config().bytes).unwrap();
            world.pause(random.millis(0..=50));
            // The read may end with an error or without data.
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let _ = stream.read(&mut [0; 100]);
            "in the response"
        }
        stage => {
            let kind = world.kind(random);
            world.posts(kind);
            stream.write_all(kind.post().as_bytes()).unwrap();
            if stage > 3 {
                world.pause(random.millis(0..=20));
            }
            world.record_unknown(kind, from, false);
            "after the request"
        }
    };
    if random.one_in(3) {
        world.pause(random.millis(0..=2000));
    }
    if random.one_in(2) {
        rustix::net::connect_unspec(stream).unwrap();
    }
    drop(line);
    world.count("goes away", stage, 0);
    world.pause(random.millis(0..=100));
}
