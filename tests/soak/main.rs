//! Ten minutes (SOAK_SECONDS) of good, bad, slow and rude clients at once, in front of a Kubernetes that fails at random.
//!
//! Run it with `cargo test --release --test soak -- --nocapture`. SOAK_SEED repeats the choices of a run, not its timing.
//!
//! During the run every answer must be one that the contract has for its request. After it Kubernetes must have the Jobs
//! that were asked for and no other, and the process must be as small as it was after the warm-up.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "every test crate uses another part of it")]
mod support;

use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};
use support::answer::{
    Accept, Answer, Reply, conflict, internal_error, pod_list, quota_full, too_many_requests, unauthorized, unavailable,
};
use support::api::{ApiServer, Listen, Request};
use support::cluster::pod;
use support::http::{Connection, Response};
use support::kubeconfig::Kubeconfig;
use support::plugin::{Plugin, credential};
use support::server::{Server, Setup};

/// The mix runs this long, in seconds, warm-up included.
const SECONDS: u64 = 600;

/// After this time in the mix, and a rest, the process has its usual size.
const WARM_UP: Duration = Duration::from_secs(30);

/// --kube-timeout: an outage of two seconds is survived, one of four is not.
const KUBE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a request can still make its Job after its client has gone: in the queue, at Kubernetes, and one for slowness.
const LATE: Duration = Duration::from_secs(2 * KUBE_TIMEOUT.as_secs() + 1);

/// A create that was given up may still be on its way into our hands.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// Bad requests name one kind of Job for so long, which good requests leave out meanwhile.
const SHIFT: Duration = Duration::from_secs(30);

/// In a shift, what good requests of the one before may still do: five seconds of slow sending, and what is late.
const SPILL: Duration = Duration::from_secs(5 + LATE.as_secs());

/// POSTs of an address in a minute; only the crowd makes more.
const POSTS_PER_MINUTE: &str = "900";

/// A longer time is not asked of the good clients: a head in ten seconds, ten seconds of silence, thirty for an answer.
const SERVER_PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_TIME: Duration = Duration::from_secs(30);

/// Connections to Kubernetes are dropped by the first request after they have been idle for thirty seconds.
const KUBE_IDLE: Duration = Duration::from_secs(32);

/// Refused connections are closed after a second.
const SETTLING: Duration = Duration::from_secs(2);

/// How long the process may take to become as small as it was.
const SHRINKING: Duration = Duration::from_secs(90);

/// A connection to Kubernetes more or less: whether the last look-up of readiness found the idle ones dropped already.
const DESCRIPTORS_SLACK: usize = 2;

/// malloc keeps what it once needed, and its arenas (a set for each of several threads) fill up one by one.
const MEMORY_SLACK_KB: usize = 8 * 1024;

/// Most connections of a crowd that must all be served, and of one that must not; the limit is 256 for an address.
const CROWD: u64 = 200;
const MOB: u64 = 400;

/// Where Kubernetes is: no client uses this address, which keeps its port free during an outage.
const KUBERNETES: &str = "127.0.0.2";

const FEW_PODS: usize = 40;
const MANY_PODS: usize = 3000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Kind {
    tier: &'static str,
    dataset: &'static str,
    namespace: &'static str,
    network: &'static str,
}

const KINDS: [Kind; 4] = [
    Kind { tier: "free", dataset: "mnist", namespace: "free-service", network: "ff" },
    Kind { tier: "free", dataset: "kmnist", namespace: "free-service", network: "ff" },
    Kind { tier: "premium", dataset: "mnist", namespace: "default", network: "cnn" },
    Kind { tier: "premium", dataset: "kmnist", namespace: "default", network: "cnn" },
];

impl Kind {
    fn target(self) -> String {
        format!("/img-classification/{}", self.tier)
    }

    fn body(self) -> String {
        format!(r#"{{"dataset":"{}"}}"#, self.dataset)
    }

    fn post(self) -> String {
        self.post_with(&self.body())
    }

    fn post_with(self, body: &str) -> String {
        self.headed(&format!("Host: h\r\nContent-Length: {}\r\n", body.len())) + body
    }

    fn headed(self, headers: &str) -> String {
        format!("POST {} HTTP/1.1\r\n{headers}\r\n", self.target())
    }

    fn of_job(name: &str) -> Option<Kind> {
        KINDS.into_iter().find(|kind| name.starts_with(&format!("{}-{}-", kind.tier, kind.dataset)))
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }

    fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(length).unwrap()).unwrap()
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }
}

/// What the clients share.
struct World {
    server: SocketAddr,
    start: Instant,
    over: AtomicBool,
    ledger: Mutex<Ledger>,
}

/// What happened.
#[derive(Default)]
struct Ledger {
    /// Of which client and request there were how many answers of which status; 0 is none.
    answers: BTreeMap<(&'static str, &'static str), BTreeMap<u16, u64>>,
    posts: BTreeMap<Kind, u64>,
    /// The Jobs that were answered with 200.
    done: Vec<String>,
    unsure: Vec<Unsure>,
    healthz: Vec<Duration>,
    wrong: Vec<String>,
}

/// A good POST without a 200, and when it can have made its Job.
struct Unsure {
    kind: Kind,
    /// It was answered with an error; otherwise its client went away.
    answered: bool,
    from: Instant,
    until: Instant,
}

/// A request whose answer is waited for.
struct Wish {
    what: &'static str,
    bytes: Vec<u8>,
    statuses: &'static [u16],
    job: Option<Kind>,
}

impl Wish {
    fn get(what: &'static str, line: &str, statuses: &'static [u16]) -> Wish {
        Wish { what, bytes: format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n").into(), statuses, job: None }
    }

    fn healthz() -> Wish {
        Wish::get("GET /healthz", "GET /healthz", &[200])
    }

    fn config() -> Wish {
        Wish::get("GET /config", "GET /config", &[200, 502, 503, 504])
    }

    fn post(kind: Kind) -> Wish {
        Wish { what: "POST", bytes: kind.post().into(), statuses: &[200, 429, 502, 503, 504], job: Some(kind) }
    }

    fn good(world: &World, random: &mut Random) -> Wish {
        match random.within(0..=19) {
            0..=9 => Wish::post(world.kind(random)),
            10..=12 => Wish::config(),
            13..=15 => Wish::healthz(),
            16 | 17 => Wish::get("GET /readyz", "GET /readyz", &[200, 503]),
            18 => Wish::get("HEAD /healthz", "HEAD /healthz", &[200]),
            _ => Wish::get("HEAD /config", "HEAD /config", &[200, 502, 503, 504]),
        }
    }

    fn is_head(&self) -> bool {
        self.bytes.starts_with(b"HEAD ")
    }

    /// What is wrong with an answer to it.
    fn judge(&self, answer: &Response) -> Result<(), String> {
        let status = answer.status;
        if !self.statuses.contains(&status) {
            return Err(format!("{status} instead of {:?}: {}", self.statuses, String::from_utf8_lossy(&answer.body)));
        }
        let says = |name: &str| answer.header(name).unwrap_or_default().to_owned();
        if says("Content-Type") != "application/json" {
            return Err(format!("{status} of type {:?}", says("Content-Type")));
        }
        let seconds = says("Retry-After").parse().unwrap_or(0);
        if (status == 429 || status == 503 && self.what != "GET /readyz") && !(1..=3600).contains(&seconds) {
            return Err(format!("{status} with Retry-After {:?}", says("Retry-After")));
        }
        if status == 405 && says("Allow").is_empty() {
            return Err("405 without Allow".to_owned());
        }
        if self.is_head() {
            return Ok(());
        }
        let body: Value = serde_json::from_slice(&answer.body).map_err(|error| format!("{status}: {error}"))?;
        match (status, self.job) {
            (200, Some(kind)) => {
                let expected = json!({"job": body["job"], "namespace": kind.namespace, "tier": kind.tier,
                                      "dataset": kind.dataset, "type": kind.network});
                let named = body["job"].as_str().and_then(Kind::of_job);
                (body == expected && named == Some(kind))
                    .then_some(())
                    .ok_or_else(|| format!("a Job of {kind:?} is {body}"))
            }
            (200, None) if self.what == "GET /config" => {
                let pods = body["pods"].as_array().map_or(0, Vec::len);
                [FEW_PODS, MANY_PODS].contains(&pods).then_some(()).ok_or_else(|| format!("{pods} pods"))
            }
            (200, None) => Ok(()),
            _ => {
                let sentence = body["error"].as_str().unwrap_or_default();
                (body == json!({"error": sentence}) && !sentence.is_empty())
                    .then_some(())
                    .ok_or_else(|| format!("{status} with {body}"))
            }
        }
    }
}

impl World {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    /// Waits, but not past the end of the mix.
    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while self.goes_on() && Instant::now() < until {
            std::thread::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
        }
    }

    fn wrong(&self, what: &str) {
        let line = format!("{:.3} s: {what}", self.start.elapsed().as_secs_f64());
        eprintln!("WRONG {line}");
        self.ledger().wrong.push(line);
    }

    /// The kind that only bad requests name at this time, and since when.
    fn set_apart(&self, at: Instant) -> (Kind, Duration) {
        let time = at.saturating_duration_since(self.start);
        let shift = usize::try_from(time.as_secs() / SHIFT.as_secs()).unwrap();
        (KINDS[shift % KINDS.len()], time - SHIFT * u32::try_from(shift).unwrap())
    }

    fn bad_kind(&self) -> Kind {
        self.set_apart(Instant::now()).0
    }

    /// A kind for a good request.
    fn kind(&self, random: &mut Random) -> Kind {
        let apart = self.bad_kind();
        let others: Vec<Kind> = KINDS.into_iter().filter(|kind| *kind != apart).collect();
        others[random.index(others.len())]
    }

    /// Connects from an address of one's own; with a narrow receive buffer answers pile up at the server.
    fn connect(&self, ip: Ipv4Addr, narrow: bool) -> io::Result<Connection> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        if narrow {
            sockopt::set_socket_recv_buffer_size(&socket, 4096)?;
        }
        rustix::net::bind(&socket, &SocketAddr::from((ip, 0)))?;
        rustix::net::connect(&socket, &self.server)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(Connection::over(stream))
    }

    /// A connection that has to be there.
    fn line(&self, ip: Ipv4Addr) -> Option<Connection> {
        self.connect(ip, false).map_err(|error| self.wrong(&format!("{ip} cannot connect: {error}"))).ok()
    }

    /// A good POST goes out: whatever becomes of it, it is one.
    fn posts(&self, kind: Kind) {
        *self.ledger().posts.entry(kind).or_default() += 1;
    }

    /// It got no 200, and may have made its Job all the same.
    fn unsure(&self, kind: Kind, from: Instant, answered: bool) {
        let until = Instant::now() + if answered { ON_ITS_WAY } else { LATE };
        self.ledger().unsure.push(Unsure { kind, answered, from, until });
    }

    fn count(&self, who: &'static str, what: &'static str, status: u16) {
        *self.ledger().answers.entry((who, what)).or_default().entry(status).or_default() += 1;
    }

    /// One request and its answer; the answer, unless there is none or it is wrong.
    fn ask(&self, who: &'static str, line: &mut Connection, wish: &Wish) -> Option<Response> {
        self.ask_slowly(who, line, wish, Duration::ZERO)
    }

    /// Sends byte by byte where there is a pause between them.
    fn ask_slowly(&self, who: &'static str, line: &mut Connection, wish: &Wish, between: Duration) -> Option<Response> {
        if let Some(kind) = wish.job {
            self.posts(kind);
        }
        let from = Instant::now();
        let sent = match between {
            Duration::ZERO => line.stream().write_all(&wish.bytes),
            _ => wish.bytes.chunks(1).try_for_each(|byte| {
                std::thread::sleep(between);
                line.stream().write_all(byte)
            }),
        };
        let outcome = sent.and_then(|()| line.answer(wish.is_head()));
        self.settle(who, wish, from, outcome)
    }

    /// Writes down what came of a request.
    fn settle(&self, who: &'static str, wish: &Wish, from: Instant, outcome: io::Result<Response>) -> Option<Response> {
        self.count(who, wish.what, outcome.as_ref().map_or(0, |answer| answer.status));
        let done = matches!(&outcome, Ok(answer) if answer.status == 200);
        if let (Some(kind), false) = (wish.job, done) {
            self.unsure(kind, from, outcome.is_ok());
        }
        // Of a mob some get no answer.
        if who == "mob" && outcome.is_err() {
            return None;
        }
        let answer = outcome.map_err(|error| self.wrong(&format!("{who}, {}: no answer: {error}", wish.what))).ok()?;
        if let Err(error) = wish.judge(&answer) {
            let mob = who == "mob" && answer.status == 503;
            if !mob {
                self.wrong(&format!("{who}, {}: {error}", wish.what));
            }
            return None;
        }
        if wish.job.is_some() && done {
            self.ledger().done.push(answer.json()["job"].as_str().unwrap().to_owned());
        }
        Some(answer)
    }

    fn timed_healthz(&self, who: &'static str, line: &mut Connection) -> Option<Response> {
        let start = Instant::now();
        let answer = self.ask(who, line, &Wish::healthz());
        self.ledger().healthz.push(start.elapsed());
        answer
    }
}

/// A client is what it does at one visit; it visits until the end of the mix.
type Client = fn(&World, &mut Random, Ipv4Addr);

/// How many there are of each, each with an address of its own.
const CLIENTS: [(u8, Client); 7] = [
    (10, stays_connected),
    (6, connects_anew),
    (1, looks_after_health),
    (6, talks_nonsense),
    (24, is_slow),
    (4, goes_away),
    (1, brings_a_crowd),
];

fn stays_connected(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.line(ip) else { return };
    for _ in 0..random.within(1..=60) {
        let wish = Wish::good(world, random);
        let Some(answer) = world.ask("kept alive", &mut line, &wish) else { return };
        if answer.header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            return world.wrong(&format!("a good connection is closed after {}, {}", wish.what, answer.status));
        }
        if !world.goes_on() {
            return;
        }
        world.pause(random.millis(0..=150));
    }
}

fn connects_anew(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.line(ip) else { return };
    let wish = Wish::good(world, random);
    if world.ask("fresh", &mut line, &wish).is_some() && random.one_in(2) {
        // Whoever has no further request may say so, and is let go.
        line.stream().shutdown(Shutdown::Write).unwrap();
        if line.rest().is_ok_and(|rest| !rest.is_empty()) {
            world.wrong(&format!("more than an answer to {}", wish.what));
        }
    }
    world.pause(random.millis(0..=100));
}

fn looks_after_health(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.line(ip) else { return };
    for _ in 0..random.within(1..=3) {
        world.timed_healthz("probe", &mut line);
        world.pause(random.millis(5..=40));
    }
}

/// A request that is refused.
struct Bad {
    what: &'static str,
    bytes: Vec<u8>,
    statuses: &'static [u16],
    /// What comes after it is a request.
    open: bool,
}

/// Refused, and the connection is closed, whatever comes after it.
fn closed(what: &'static str, bytes: impl Into<Vec<u8>>, statuses: &'static [u16]) -> Bad {
    Bad { what, bytes: bytes.into(), statuses, open: false }
}

/// Refused, and the connection goes on.
fn open(what: &'static str, bytes: impl Into<Vec<u8>>, statuses: &'static [u16]) -> Bad {
    Bad { what, bytes: bytes.into(), statuses, open: true }
}

/// Every POST to a path of ours may also be refused for its number, or because too many wait for Kubernetes.
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
        closed("a Host that is none", with(&format!("Host: u@h/p\r\n{length}")), &[400]),
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
        open("a method of nobody", post.replace("POST", "BREW"), &[501]),
        open("a method in small letters", post.replace("POST", "post"), &[501]),
        open("a path of nobody", line("GET /nothing"), &[404]),
        open("a path upwards", line("GET /x/../config"), &[404]),
        open("HEAD of nothing", line("HEAD /nothing"), &[404]),
        open("a tier of nobody", post.replace(&kind.target(), "/img-classification/gold"), &[404, 429]),
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

fn talks_nonsense(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let kind = world.bad_kind();
    let mut cases = if random.one_in(2) { bad_heads(kind) } else { bad_requests(kind) };
    let Bad { what, mut bytes, statuses, open } = cases.swap_remove(random.index(cases.len()));
    let Some(mut line) = world.line(ip) else { return };
    if random.one_in(3) && world.ask("bad", &mut line, &Wish::healthz()).is_none() {
        return;
    }
    if !open && random.one_in(2) {
        // To be dropped with the rest.
        bytes.extend_from_slice(kind.post().as_bytes());
    }
    let wish = Wish { what, bytes, statuses, job: None };
    let Some(answer) = world.ask("bad", &mut line, &wish) else { return };
    if open {
        world.ask("bad", &mut line, &Wish::healthz());
    } else if answer.header("Connection") != Some("close") {
        world.wrong(&format!("{what}: not told that the connection is closed"));
    } else {
        match line.rest() {
            Ok(rest) if rest.is_empty() => {}
            rest => world.wrong(&format!("{what}: after the refusal {rest:?}")),
        }
    }
    world.pause(random.millis(0..=100));
}

fn is_slow(world: &World, random: &mut Random, ip: Ipv4Addr) {
    match random.within(0..=6) {
        0 | 1 => sends_slowly(world, random, ip),
        2 => sends_too_slowly(world, random, ip),
        3 => reads_slowly(world, random, ip),
        4 => reads_hardly(world, random, ip),
        5 => says_nothing(world, random, ip),
        _ => waits_between(world, random, ip),
    }
}

fn sends_slowly(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.line(ip) else { return };
    let wish = Wish::good(world, random);
    // Of 120 bytes at most: five seconds.
    let between = random.millis(1..=40);
    world.ask_slowly("byte by byte", &mut line, &wish, between);
}

fn sends_too_slowly(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.line(ip) else { return };
    let bytes = world.bad_kind().post().into_bytes();
    let (first, rest) = bytes.split_at(1 + random.index(bytes.len() - 20));
    let start = Instant::now();
    let mut sent = line.stream().write_all(first);
    for byte in rest.chunks(1) {
        world.pause(Duration::from_millis(1100));
        if !world.goes_on() {
            return world.count("too slow", "POST", 0);
        }
        if sent.is_err() || start.elapsed() > SERVER_PATIENCE * 2 + Duration::from_secs(2) {
            break;
        }
        sent = line.stream().write_all(byte);
    }
    let wish = Wish { what: "POST", bytes: Vec::new(), statuses: &[408], job: None };
    let outcome = line.answer(false);
    world.settle("too slow", &wish, start, outcome);
}

/// Asks for the pods and returns before the answer.
fn asks_for_pods(world: &World, ip: Ipv4Addr) -> Option<Connection> {
    let line = world.connect(ip, true).map_err(|error| world.wrong(&format!("cannot connect: {error}"))).ok()?;
    line.stream().write_all(&Wish::config().bytes).unwrap();
    Some(line)
}

/// Takes all of an answer, piece by piece, in a third of the time that there is for it.
fn reads_slowly(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(line) = asks_for_pods(world, ip) else { return };
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
    let outcome = read.and_then(|()| whole(&bytes, head));
    if start.elapsed() < ANSWER_TIME {
        world.settle("slow reader", &Wish::config(), start, outcome);
    }
}

/// An answer that was read by hand.
fn whole(bytes: &[u8], head: usize) -> io::Result<Response> {
    let mut reader = io::BufReader::new(bytes);
    let line = support::http::read_line(&mut reader)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("status line {line:?}")))?;
    let headers = support::http::read_headers(&mut reader)?;
    let body = bytes[head..].to_vec();
    let length = support::http::find(&headers, "Content-Length").and_then(|length| length.parse().ok());
    if length != Some(body.len()) {
        return Err(io::Error::other(format!("{} bytes instead of {length:?}", body.len())));
    }
    Ok(Response { status, headers, body })
}

/// Takes a byte now and then, or nothing, and goes.
fn reads_hardly(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(line) = asks_for_pods(world, ip) else { return };
    let until = Instant::now() + random.millis(100..=35_000);
    let takes = random.one_in(2);
    while world.goes_on() && Instant::now() < until {
        world.pause(random.millis(50..=500));
        // The server may have lost its patience.
        if takes && !matches!(line.stream().read(&mut [0]), Ok(1)) {
            break;
        }
    }
    world.count("reads hardly", "GET /config", 0);
}

fn says_nothing(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.line(ip) else { return };
    let start = Instant::now();
    if random.one_in(3) {
        match line.rest() {
            Ok(rest) if rest.is_empty() && start.elapsed() >= SERVER_PATIENCE => {}
            rest => world.wrong(&format!("who says nothing gets {rest:?} after {:?}", start.elapsed())),
        }
    } else {
        world.pause(random.millis(100..=9000));
    }
    world.count("says nothing", "-", 0);
}

fn waits_between(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(mut line) = world.line(ip) else { return };
    for _ in 0..3 {
        if world.timed_healthz("waits between", &mut line).is_none() {
            return;
        }
        world.pause(random.millis(100..=12_000));
    }
}

/// Goes away, in order or by a reset, at any stage of a request.
fn goes_away(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let Some(line) = world.line(ip) else { return };
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
            stream.write_all(&Wish::config().bytes).unwrap();
            world.pause(random.millis(0..=50));
            // Nothing may have come yet, and nothing may come any more.
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let _ = stream.read(&mut [0; 100]);
            "in the answer"
        }
        stage => {
            let kind = world.kind(random);
            world.posts(kind);
            stream.write_all(kind.post().as_bytes()).unwrap();
            if stage > 3 {
                world.pause(random.millis(0..=20));
            }
            world.unsure(kind, from, false);
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

/// Many connections at once from one address: as many as must be served, or more.
fn brings_a_crowd(world: &World, random: &mut Random, ip: Ipv4Addr) {
    let (who, size) = if random.one_in(4) { ("mob", MOB) } else { ("crowd", random.within(30..=CROWD)) };
    let wishes: Vec<Wish> = (0..size).map(|_| Wish::good(world, random)).collect();
    std::thread::scope(|scope| {
        for wish in &wishes {
            scope.spawn(move || match world.connect(ip, false) {
                Ok(mut line) => drop(world.ask(who, &mut line, wish)),
                Err(error) => world.wrong(&format!("{who} cannot connect: {error}")),
            });
        }
    });
    world.pause(random.millis(4000..=9000));
}

/// What Kubernetes does wrong, shared by its script and the one who makes outages.
#[derive(Default)]
struct Faults {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    off: AtomicBool,
    /// Credentials up to this one are refused.
    revoked: AtomicU64,
    /// The last one that was seen.
    newest: AtomicU64,
}

/// The last argument is the answer without the fault.
type Fault = (u64, &'static str, fn(&mut Random, Answer) -> Answer);

/// In thousandths of all requests.
const OF_ALL: [Fault; 10] = [
    (25, "500", |_, _| internal_error().into()),
    (20, "503", |_, _| unavailable().into()),
    (20, "429 with Retry-After 0", |_, _| too_many_requests(0).into()),
    (15, "closed without an answer", |_, _| Answer::Close),
    (15, "reset without an answer", |_, _| Answer::Reset),
    (20, "slow", |random, good| Answer::Slowly(random.millis(50..=800), good.into())),
    (2, "slower than the timeout", |_, good| Answer::Slowly(KUBE_TIMEOUT + Duration::from_millis(500), good.into())),
    (2, "never answered", |_, _| Answer::Never),
    (1, "byte by byte", |_, _| Answer::Drip),
    (2, "not Kubernetes", |_, _| Reply::html(200).into()),
];

/// In thousandths of creates.
const OF_CREATES: [Fault; 6] = [
    (25, "409 Conflict", |_, _| conflict().into()),
    (30, "stored, answer lost", |_, _| Answer::HonestThenLost),
    (2, "stored, never answered", |_, _| Answer::HonestThenNever),
    (10, "stored, answer cut", |random, _| Answer::HonestThenCut(random.index(200))),
    (5, "quota full", |_, _| quota_full().into()),
    (20, "closed after the answer", |_, good| Answer::ThenClose(good.into())),
];

/// Draws one of these faults, or none.
fn draw(random: &mut Random, faults: &[Fault], good: &Answer) -> Option<(&'static str, Answer)> {
    let mut drawn = random.within(0..=999);
    for (weight, name, make) in faults {
        if drawn < *weight {
            return Some((name, make(random, good.clone())));
        }
        drawn -= weight;
    }
    None
}

impl Faults {
    fn count(&self, name: &'static str) {
        *self.counts.lock().unwrap().entry(name).or_default() += 1;
    }

    fn counted(&self, name: &str) -> u64 {
        self.counts.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    /// The credential of a request is refused.
    fn refuses(&self, request: &Request) -> bool {
        let token = request.header("Authorization").and_then(|value| value.strip_prefix("Bearer token-"));
        let number: u64 = token.and_then(|number| number.parse().ok()).expect("every request has a token");
        self.newest.fetch_max(number, Ordering::SeqCst);
        number <= self.revoked.load(Ordering::SeqCst)
    }

    fn revoke(&self) {
        self.count("credential revoked");
        self.revoked.store(self.newest.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    fn answer(&self, request: &Request, random: &mut Random, lists: &Lists) -> Answer {
        if self.refuses(request) {
            self.count("401 for a revoked credential");
            return unauthorized().into();
        }
        let is_list = request.path() == "/api/v1/pods" && request.query("limit").is_none();
        let off = self.off.load(Ordering::SeqCst);
        let good = if is_list { self.list(request, random, lists).into() } else { Answer::Honest };
        if off {
            return good;
        }
        let of_creates = if request.is_create() { &OF_CREATES[..] } else { &[] };
        match draw(random, &OF_ALL, &good).or_else(|| draw(random, of_creates, &good)) {
            Some((name, answer)) => {
                self.count(name);
                answer
            }
            None => good,
        }
    }

    /// A list in one of its forms, whole or cut.
    fn list(&self, request: &Request, random: &mut Random, lists: &Lists) -> Reply {
        let many = match request.query("continue") {
            Some(token) => return lists.second_half(token == "many"),
            None => random.one_in(8),
        };
        let mut reply = match random.within(0..=5) {
            0 | 1 => lists.plain(many),
            2 => lists.plain(many).chunked(),
            3 => lists.zipped(many),
            4 => lists.zipped(many).chunked(),
            _ => lists.first_half(many),
        };
        if random.one_in(40) && !self.off.load(Ordering::SeqCst) {
            self.count("truncated list");
            reply = if random.one_in(2) { reply.cut_last() } else { reply.cut(random.index(400)) };
        }
        reply
    }
}

/// The pods, in few and many, as they may be listed.
struct Lists([[Reply; 4]; 2]);

impl Lists {
    fn new() -> Lists {
        Lists([("few", FEW_PODS), ("many", MANY_PODS)].map(|(name, count)| {
            let pods: Vec<Value> = (0..count)
                .map(|number| pod("default", &format!("pod-{number}"), "Running", Some(("node", "10.0.0.1"))))
                .collect();
            let (first, second) = pods.split_at(count / 2);
            let reply = |pods: &[Value], next: &str| Reply::json(200, &pod_list(pods, next));
            [reply(&pods, ""), reply(&pods, "").gzip(), reply(first, name), reply(second, "")]
        }))
    }

    fn form(&self, many: bool, form: usize) -> Reply {
        self.0[usize::from(many)][form].clone()
    }

    fn plain(&self, many: bool) -> Reply {
        self.form(many, 0)
    }

    fn zipped(&self, many: bool) -> Reply {
        self.form(many, 1)
    }

    fn first_half(&self, many: bool) -> Reply {
        self.form(many, 2)
    }

    fn second_half(&self, many: bool) -> Reply {
        self.form(many, 3)
    }
}

/// Makes outages and the like until that time.
fn torment(world: &World, api: &mut ApiServer, faults: &Faults, random: &mut Random, until: Instant) {
    let (mut outage, mut revocation) = (Instant::now() + Duration::from_secs(10), Instant::now());
    while Instant::now() < until {
        std::thread::sleep(random.millis(1500..=4000).min(until.saturating_duration_since(Instant::now())));
        let now = Instant::now();
        if now >= outage {
            outage = now + random.millis(35_000..=55_000);
            take_down(world, api, faults, "outage longer than the timeout", random.millis(3500..=5500));
            continue;
        }
        match random.within(0..=4) {
            0 | 1 => take_down(world, api, faults, "outage shorter than the timeout", random.millis(50..=1900)),
            2 => {
                faults.count("all connections ended");
                api.hang_up();
            }
            3 => {
                faults.count("connections refused or hanging");
                let kinds = [Accept::Reset, Accept::Reset, Accept::ResetAfterHead, Accept::Hang];
                let accepts: Vec<Accept> =
                    (0..random.within(1..=4)).map(|_| kinds[random.index(kinds.len())]).collect();
                api.on_accept(accepts);
            }
            // A second refusal within ten seconds stays one: mostly that is left out.
            _ if now >= revocation || random.one_in(6) => {
                revocation = now + Duration::from_secs(15);
                faults.revoke();
            }
            _ => {}
        }
    }
}

fn take_down(world: &World, api: &mut ApiServer, faults: &Faults, what: &'static str, time: Duration) {
    faults.count(what);
    api.close_port();
    world.pause(time);
    api.reopen_port();
}

/// What the process has.
#[derive(Debug, Clone, Copy)]
struct Size {
    memory_kb: usize,
    threads: usize,
    descriptors: usize,
}

impl Size {
    fn of(pid: Pid) -> Size {
        let pid = pid.as_raw_nonzero();
        let entries = |folder: &str| std::fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let memory_kb = memory.trim().trim_end_matches(" kB").parse().unwrap();
        Size { memory_kb, threads: entries("task"), descriptors: entries("fd") }
    }

    fn is_back_at(self, before: Size) -> bool {
        self.threads <= before.threads
            && self.descriptors <= before.descriptors + DESCRIPTORS_SLACK
            && self.memory_kb <= before.memory_kb + MEMORY_SLACK_KB
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RSS {} KB, {} threads, {} descriptors", self.memory_kb, self.threads, self.descriptors)
    }
}

/// All clients at once for so long, against a Kubernetes in torment.
fn mix(world: &World, api: &mut ApiServer, faults: &Faults, random: &mut Random, time: Duration) {
    let until = Instant::now() + time;
    world.over.store(false, Ordering::SeqCst);
    faults.off.store(false, Ordering::SeqCst);
    std::thread::scope(|scope| {
        for (group, (count, client)) in (1..).zip(CLIENTS) {
            for number in 1..=count {
                let (ip, mut random) = (Ipv4Addr::new(127, 1, group, number), Random(random.next()));
                scope.spawn(move || {
                    while world.goes_on() {
                        client(world, &mut random, ip);
                    }
                });
            }
        }
        torment(world, api, faults, random, until);
        world.over.store(true, Ordering::SeqCst);
    });
    faults.off.store(true, Ordering::SeqCst);
    // Uses up what connections were still to suffer.
    for _ in 0..8 {
        drop(TcpStream::connect(api.address()).unwrap());
    }
}

/// After this nothing is left of the mix but what the process keeps.
fn rest(server: &Server) -> Size {
    std::thread::sleep(KUBE_IDLE);
    // It finds the idle connections too old.
    assert_eq!(server.get("/readyz").status, 200);
    std::thread::sleep(SETTLING);
    Size::of(server.pid())
}

/// Compares the stored Jobs with what clients know of them; gives a line for the summary.
fn check_jobs(world: &World, api: &ApiServer) -> String {
    let jobs = api.jobs();
    let mut first_tries: HashMap<String, (Instant, u64)> = HashMap::new();
    for request in api.requests().iter().filter(|request| request.is_create()) {
        let name = request.json()["metadata"]["name"].as_str().unwrap().to_owned();
        first_tries.entry(name).or_insert((request.at, 0)).1 += 1;
    }
    let mut wrong = Vec::new();
    let mut stored = BTreeSet::new();
    for job in &jobs {
        let (name, namespace) = (job["metadata"]["name"].as_str().unwrap(), &job["metadata"]["namespace"]);
        if !stored.insert(name.to_owned()) {
            wrong.push(format!("{name} is stored twice"));
        }
        if Kind::of_job(name).is_none_or(|kind| namespace != kind.namespace) {
            wrong.push(format!("{name} is in {namespace}"));
        }
    }
    let mut ledger = world.ledger();
    let done: BTreeSet<String> = ledger.done.iter().cloned().collect();
    if done.len() != ledger.done.len() {
        wrong.push(format!("{} answers name {} Jobs", ledger.done.len(), done.len()));
    }
    wrong.extend(done.difference(&stored).map(|name| format!("{name} was promised and is not stored")));
    for (name, (at, _)) in &first_tries {
        let (kind, since) = world.set_apart(*at);
        if since > SPILL && Kind::of_job(name) == Some(kind) {
            wrong.push(format!("{name} was made of a bad request"));
        }
    }
    for kind in KINDS {
        let made = stored.iter().filter(|name| Kind::of_job(name) == Some(kind)).count();
        let posts = ledger.posts.get(&kind).copied().unwrap_or(0);
        if u64::try_from(made).unwrap() > posts {
            wrong.push(format!("{made} Jobs of {posts} requests of {kind:?}"));
        }
        let mut nobodys: Vec<Instant> = stored
            .difference(&done)
            .filter(|name| Kind::of_job(name) == Some(kind))
            .map(|name| first_tries[name.as_str()].0)
            .collect();
        nobodys.sort();
        let unsure = ledger.unsure.iter().filter(|unsure| unsure.kind == kind);
        let left = unexplained(&nobodys, unsure.map(|unsure| (unsure.from, unsure.until)).collect());
        if left > 0 {
            wrong.push(format!("{left} Jobs of {kind:?} belong to no request that failed"));
        }
    }
    ledger.wrong.extend(wrong);
    let tries = |name: &String| first_tries[name].1;
    format!(
        "{} posts: {} answered 200 ({} of them after more than one try), {} with an error, {} clients gone; {} Jobs stored, \
         {} of them without a 200",
        ledger.posts.values().sum::<u64>(),
        done.len(),
        done.iter().filter(|name| first_tries.contains_key(*name) && tries(name) > 1).count(),
        ledger.unsure.iter().filter(|unsure| unsure.answered).count(),
        ledger.unsure.iter().filter(|unsure| !unsure.answered).count(),
        stored.len(),
        stored.difference(&done).count()
    )
}

/// How many of these times have no span of their own that they lie in: each takes the span that ends first.
fn unexplained(times: &[Instant], mut spans: Vec<(Instant, Instant)>) -> usize {
    spans.sort();
    let (mut spans, mut begun, mut left) = (spans.into_iter().peekable(), BinaryHeap::new(), 0);
    for time in times {
        while let Some((_, until)) = spans.next_if(|(from, _)| from <= time) {
            begun.push(Reverse(until));
        }
        while begun.peek().is_some_and(|Reverse(until)| until < time) {
            begun.pop();
        }
        left += usize::from(begun.pop().is_none());
    }
    left
}

fn print_summary(world: &World, faults: &Faults) {
    let ledger = world.ledger();
    println!("answers by client and request (0: none):");
    for ((who, what), statuses) in &ledger.answers {
        let statuses: Vec<String> = statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        println!("  {who}, {what}: {}", statuses.join(", "));
    }
    println!("faults:");
    for (name, count) in faults.counts.lock().unwrap().iter() {
        println!("  {name}: {count}");
    }
    let mut healthz = ledger.healthz.clone();
    healthz.sort();
    let at = |part: usize| healthz[(healthz.len() * part / 1000).min(healthz.len() - 1)];
    println!("/healthz: {} times, p50 {:?}, p99 {:?}, max {:?}", healthz.len(), at(500), at(990), at(1000));
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

#[test]
fn a_long_time_of_everything_at_once_changes_nothing() {
    let time = Duration::from_secs(number("SOAK_SECONDS").unwrap_or(SECONDS));
    let seed = number("SOAK_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos())
    });
    println!("SOAK_SEED={seed} SOAK_SECONDS={}", time.as_secs());
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();

    let mut random = Random(seed);
    let mut api = ApiServer::listen(&Listen { ip: KUBERNETES, ..Listen::default() });
    let faults = Arc::new(Faults::default());
    let (lists, mut choices, shared) = (Lists::new(), Random(random.next()), Arc::clone(&faults));
    api.script(move |request| shared.answer(request, &mut choices, &lists));
    let setup = Setup::new();
    // The number of the run is the number of the token; each is valid for half a minute.
    let status = json!({"token": "token-NUMBER", "expirationTimestamp": "EXPIRY"});
    let script = format!(
        "N=$(wc -l <\"$HERE/token.pids\")\nE=$(date -u -d '+30 seconds' +%Y-%m-%dT%H:%M:%SZ)\n\
         sed -e \"s/NUMBER/$N/\" -e \"s/EXPIRY/$E/\" <<'END'\n{}\nEND",
        credential("v1", &status)
    );
    let plugin = Plugin::write(setup.home(), "token", &script);
    let timeout = KUBE_TIMEOUT.as_secs().to_string();
    let server = setup
        .kubeconfig(Kubeconfig::new(&api.url()).user(plugin.user()).yaml())
        .args(&["--kube-timeout", &timeout])
        .env("POSTS_PER_MINUTE", POSTS_PER_MINUTE)
        .start();

    let (server_address, start) = (server.address(), Instant::now());
    let world = World { server: server_address, start, over: AtomicBool::new(false), ledger: Mutex::default() };
    let at_start = Size::of(server.pid());
    mix(&world, &mut api, &faults, &mut random, WARM_UP.min(time / 2));
    let before = rest(&server);
    println!("at the start {at_start}; after the warm-up {before}");
    mix(&world, &mut api, &faults, &mut random, time - WARM_UP.min(time / 2));
    let busy = Size::of(server.pid());

    let mut after = rest(&server);
    let deadline = Instant::now() + SHRINKING - KUBE_IDLE - SETTLING;
    while !after.is_back_at(before) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_secs(1));
        after = Size::of(server.pid());
    }
    let jobs = check_jobs(&world, &api);
    print_summary(&world, &faults);
    println!("{jobs}");
    println!("{} runs of the credential plugin", plugin.runs());
    println!("at the start {at_start}\nafter the warm-up {before}\nat the end of the mix {busy}\nafter a rest {after}");

    assert_eq!(world.ledger().wrong, [""; 0]);
    assert!(after.is_back_at(before), "{after} instead of {before}");
    for word in ["panicked", "bug"] {
        assert!(!server.stderr().contains(word), "{word:?} in the log");
    }
    // Without these the run would show less than it says.
    let outages = faults.counted("outage longer than the timeout");
    for line in ["the cluster cannot be reached", "the cluster can be reached again"] {
        assert!(outages == 0 || server.stderr().contains(line), "{line:?} is not in the log");
    }
    assert_eq!(server.get("/healthz").status, 200);
    assert_eq!(server.get("/config").status, 200);
    assert_eq!(server.post_job().status, 200);
    assert_eq!(server.terminate().code(), Some(0));
}
