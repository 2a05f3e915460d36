//! Clients that send malformed requests, read or send too slowly, or flood.

use super::SERVER_TIMEOUT;
use super::clients::request_pods;
use super::requests::{ClientRequest, Kind, Random, World};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Largest burst that must be served completely, and a burst over the limit of 256 connections per address.
const UNDER_LIMIT: u64 = 200;
const OVER_LIMIT: u64 = 400;

/// A request that the server must refuse.
pub struct Bad {
    pub what: &'static str,
    pub bytes: Vec<u8>,
    pub statuses: &'static [u16],
    /// The server reads the following bytes as the next request.
    pub open: bool,
}

/// Refused; the connection is closed, whatever follows.
pub fn closed(what: &'static str, bytes: impl Into<Vec<u8>>, statuses: &'static [u16]) -> Bad {
    Bad { what, bytes: bytes.into(), statuses, open: false }
}

/// Refused; the connection stays open.
fn open(what: &'static str, bytes: impl Into<Vec<u8>>, statuses: &'static [u16]) -> Bad {
    Bad { what, bytes: bytes.into(), statuses, open: true }
}

/// A POST may also be rate limited, or find no free permit.
const BAD_BODY: &[u16] = &[400, 429, 503];

fn bad_heads(kind: Kind) -> Vec<Bad> {
    let (good, body) = (kind.post(), kind.body());
    let length = format!("Content-Length: {}\r\n", body.len());
    let with = |headers: &str| kind.headed(headers) + &body;
    let after_host = |headers: &str| with(&format!("Host: h\r\n{headers}"));
    let chunks = |headers: &str| {
        kind.headed(&format!("Host: h\r\n{headers}")) + &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
    };
    vec![
        closed("no Host", with(&length), &[400]),
        closed("two Hosts", after_host(&format!("Host: i\r\n{length}")), &[400]),
        closed("an invalid Host", with(&format!("Host: u@h/p\r\n{length}")), &[400]),
        closed("bare LF", good.replace("\r\n", "\n"), &[400]),
        closed("bare CR", after_host(&format!("X: y\rZ: z\r\n{length}")), &[400]),
        closed("NUL", after_host(&format!("X: \0\r\n{length}")), &[400]),
        closed("a folded header", after_host(&format!("X: y\r\n z\r\n{length}")), &[400]),
        closed("a space before the colon", good.replace("Length:", "Length :"), &[400]),
        closed("no version", good.replace(" HTTP/1.1", ""), &[400, 505]),
        closed("HTTP/2.0", good.replace("HTTP/1.1", "HTTP/2.0"), &[400, 505]),
        closed("another protocol", good.replace("HTTP/1.1", "RTSP/1.0"), &[400, 505]),
        closed("a Latin-1 target", [b"GET /caf\xe9 HTTP/1.1\r\nHost: h\r\n\r\n".as_slice()].concat(), &[400]),
        closed("TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\n\0\r\n".as_slice(), &[400]),
        closed("a long request line", good.replace(" HTTP", &format!("?{} HTTP", "a".repeat(5000))), &[414]),
        closed("a long head", after_host(&format!("X: {}\r\n{length}", "y".repeat(17_000))), &[431]),
        closed("many headers", after_host(&("X: y\r\n".repeat(100) + &length)), &[431]),
        closed("an unknown expectation", after_host(&format!("Expect: tea\r\n{length}")), &[417]),
        closed("two lengths", after_host(&format!("Content-Length: 1\r\n{length}")), &[400]),
        closed("a signed length", after_host(&length.replace(": ", ": +")), &[400]),
        closed("a negative length", after_host("Content-Length: -1\r\n"), &[400]),
        closed("a hexadecimal length", after_host("Content-Length: 0x13\r\n"), &[400]),
        closed("a list of lengths", after_host(&format!("{}, 0\r\n", length.trim_end())), &[400]),
        closed("over 1 KiB", after_host("Content-Length: 1025\r\n"), &[413]),
        closed("a petabyte", after_host("Content-Length: 1000000000000000\r\n"), &[413]),
        closed("more than a number", after_host("Content-Length: 99999999999999999999999999\r\n"), &[413]),
        closed("chunks", chunks("Transfer-Encoding: chunked\r\n"), &[501]),
        closed("chunks and a length", chunks(&format!("Transfer-Encoding: chunked\r\n{length}")), &[400]),
        closed("a length and chunks", after_host(&format!("{length}Transfer-Encoding: chunked\r\n")), &[400]),
        closed("chunks twice", chunks("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), &[400, 501]),
        closed("disguised chunks", chunks("Transfer-Encoding: \x0bchunked\r\n"), &[400]),
        closed("folded chunks", chunks("Transfer-Encoding:\r\n chunked\r\n"), &[400]),
        closed("chunks in HTTP/1.0", chunks("Transfer-Encoding: chunked\r\n").replace("/1.1", "/1.0"), &[400]),
    ]
}

fn bad_requests(kind: Kind) -> Vec<Bad> {
    let post = kind.post();
    let line = |line: &str| format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut cases = vec![
        open("no length", kind.headed("Host: h\r\n"), &[411, 429, 503]),
        open("GET of a POST path", line(&format!("GET {}", kind.target())), &[405]),
        open("HEAD of a POST path", line(&format!("HEAD {}", kind.target())), &[405]),
        open("PUT", post.replace("POST", "PUT"), &[405]),
        open("DELETE", line("DELETE /config"), &[405]),
        open("POST of a GET path", post.replace(&kind.target(), "/config"), &[405, 429]),
        open("an unknown method", post.replace("POST", "BREW"), &[501]),
        open("a method in small letters", post.replace("POST", "post"), &[501]),
        open("an unknown path", line("GET /nothing"), &[404]),
        open("a path upwards", line("GET /x/../config"), &[404]),
        open("HEAD of nothing", line("HEAD /nothing"), &[404]),
        open("an unknown tier", post.replace(&kind.target(), "/img-classification/gold"), &[404, 429]),
        open(
            "a POST in a GET",
            format!("GET /nothing HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{post}", post.len()),
            &[404],
        ),
    ];
    for body in [
        "",
        "\r\n",
        "mnist",
        "null",
        "{}",
        "[]",
        "{\"dataset\":7}",
        "{\"dataset\":null}",
        "{\"dataset\":\"MNIST\"}",
        "{\"dataset\":\"cifar\"}",
        "{\"Dataset\":\"mnist\"}",
        "{\"dataset\":\"mnist\",\"dataset\":\"mnist\"}",
        "{\"dataset\":\"mnist\"} {}",
        "{\"dataset\":\"mnist\"",
        "[\"mnist\"]",
        "\u{feff}{\"dataset\":\"mnist\"}",
        "dataset=mnist",
    ] {
        cases.push(open("a bad body", kind.post_with(body), BAD_BODY));
    }
    cases.push(open("a deep body", kind.post_with(&"[".repeat(1000)), BAD_BODY));
    cases
}

pub fn malformed_request_client(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let kind = world.bad_kind();
    let mut cases = if random.one_in(2) { bad_heads(kind) } else { bad_requests(kind) };
    let Bad { what, mut bytes, statuses, open } = cases.swap_remove(random.index(cases.len()));
    let Some(mut line) = world.connection(ip) else { return };
    if random.one_in(3) && world.exchange("bad", &mut line, &ClientRequest::healthz()).is_none() {
        return;
    }
    if !open && random.one_in(2) {
        // The server must drop these bytes with the rest.
        bytes.extend_from_slice(kind.post().as_bytes());
    }
    let request = ClientRequest { what, bytes, statuses, job: None };
    let Some(response) = world.exchange("bad", &mut line, &request) else { return };
    if open {
        world.exchange("bad", &mut line, &ClientRequest::healthz());
    } else if response.header("Connection") != Some("close") {
        world.report_failure(&format!("{what}: the response does not announce the close"));
    } else {
        match line.rest() {
            Ok(rest) if rest.is_empty() => {}
            rest => world.report_failure(&format!("{what}: after the refusal {rest:?}")),
        }
    }
    world.pause(random.millis(0..=100));
}

pub fn too_slow_sender(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.connection(ip) else { return };
    let bytes = world.bad_kind().post().into_bytes();
    let (first, rest) = bytes.split_at(1 + random.index(bytes.len() - 20));
    let start = Instant::now();
    let mut sent = line.stream().write_all(first);
    for byte in rest.chunks(1) {
        world.pause(Duration::from_millis(1100));
        if !world.is_running() {
            return world.count("too slow", "POST", 0);
        }
        if sent.is_err() || start.elapsed() > SERVER_TIMEOUT * 2 + Duration::from_secs(2) {
            break;
        }
        sent = line.stream().write_all(byte);
    }
    let request = ClientRequest { what: "POST", bytes: Vec::new(), statuses: &[408], job: None };
    let outcome = line.response(false);
    world.record_outcome("too slow", &request, start, outcome);
}

/// Reads a byte at times, or nothing, and closes.
pub fn stalled_reader(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(line) = request_pods(world, ip) else { return };
    let until = Instant::now() + random.millis(100..=35_000);
    let takes = random.one_in(2);
    while world.is_running() && Instant::now() < until {
        world.pause(random.millis(50..=500));
        // The server may have closed at its timeout.
        if takes && !matches!(line.stream().read(&mut [0]), Ok(1)) {
            break;
        }
    }
    world.count("reads hardly", "GET /config", 0);
}

pub fn silent_client(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.connection(ip) else { return };
    let start = Instant::now();
    if random.one_in(3) {
        match line.rest() {
            Ok(rest) if rest.is_empty() && start.elapsed() >= SERVER_TIMEOUT => {}
            rest => world.report_failure(&format!("a silent client gets {rest:?} after {:?}", start.elapsed())),
        }
    } else {
        world.pause(random.millis(100..=9000));
    }
    world.count("silent", "-", 0);
}

/// Opens many connections at once from one address, below or above the limit.
pub fn connection_burst(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let (client, size) =
        if random.one_in(4) { ("over limit", OVER_LIMIT) } else { ("under limit", random.within(30..=UNDER_LIMIT)) };
    let requests: Vec<ClientRequest> = (0..size).map(|_| ClientRequest::good(world, random)).collect();
    std::thread::scope(|scope| {
        for request in &requests {
            scope.spawn(move || match world.connect(ip, false) {
                Ok(mut line) => drop(world.exchange(client, &mut line, request)),
                Err(error) => world.report_failure(&format!("{client} cannot connect: {error}")),
            });
        }
    });
    world.pause(random.millis(4000..=9000));
}
