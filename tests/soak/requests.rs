//! The kinds of Jobs, the expected outcome of each request, and the record of a run.

use super::faults::{FEW_PODS, MANY_PODS};
use super::{IN_TRANSIT, MAX_CREATE_DELAY, SHIFT};
use crate::support::http::{Connection, Response};
use rustix::net::{AddressFamily, SocketType, sockopt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    pub tier: &'static str,
    pub dataset: &'static str,
    pub namespace: &'static str,
    pub network: &'static str,
}

pub const KINDS: [Kind; 4] = [
    Kind { tier: "free", dataset: "mnist", namespace: "free-service", network: "ff" },
    Kind { tier: "free", dataset: "kmnist", namespace: "free-service", network: "ff" },
    Kind { tier: "premium", dataset: "mnist", namespace: "default", network: "cnn" },
    Kind { tier: "premium", dataset: "kmnist", namespace: "default", network: "cnn" },
];

impl Kind {
    pub fn target(self) -> String {
        format!("/img-classification/{}", self.tier)
    }

    pub fn body(self) -> String {
        format!(r#"{{"dataset":"{}"}}"#, self.dataset)
    }

    pub fn post(self) -> String {
        self.post_with(&self.body())
    }

    pub fn post_with(self, body: &str) -> String {
        self.headed(&format!("Host: h\r\nContent-Length: {}\r\n", body.len())) + body
    }

    pub fn headed(self, headers: &str) -> String {
        format!("POST {} HTTP/1.1\r\n{headers}\r\n", self.target())
    }

    pub fn of_job(name: &str) -> Option<Kind> {
        KINDS.into_iter().find(|kind| name.starts_with(&format!("{}-{}-", kind.tier, kind.dataset)))
    }
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        range.start() + self.next() % (range.end() - range.start() + 1)
    }

    pub fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.within(range))
    }

    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(length).unwrap()).unwrap()
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.next().is_multiple_of(count)
    }
}

/// State shared by all clients.
pub struct World {
    pub server: SocketAddr,
    pub start: Instant,
    pub stopped: AtomicBool,
    pub record: Mutex<Record>,
}

/// The record of the run.
#[derive(Default)]
pub struct Record {
    /// Number of responses by client, request and status; 0 is no response.
    pub responses: BTreeMap<(&'static str, &'static str), BTreeMap<u16, u64>>,
    pub posts: BTreeMap<Kind, u64>,
    /// Jobs confirmed with 200.
    pub done: Vec<String>,
    pub unknown: Vec<UnknownOutcome>,
    pub healthz: Vec<Duration>,
    pub failures: Vec<String>,
}

/// A valid POST without a 200, and the time span in which it may have created its Job.
pub struct UnknownOutcome {
    pub kind: Kind,
    /// The client got an error; otherwise the client closed the connection.
    pub responded: bool,
    pub from: Instant,
    pub until: Instant,
}

/// A request and its accepted statuses.
pub struct ClientRequest {
    pub what: &'static str,
    pub bytes: Vec<u8>,
    pub statuses: &'static [u16],
    pub job: Option<Kind>,
}

impl ClientRequest {
    pub fn get(what: &'static str, line: &str, statuses: &'static [u16]) -> ClientRequest {
        ClientRequest { what, bytes: format!("{line} HTTP/1.1\r\nHost: h\r\n\r\n").into(), statuses, job: None }
    }

    pub fn healthz() -> ClientRequest {
        ClientRequest::get("GET /healthz", "GET /healthz", &[200])
    }

    pub fn config() -> ClientRequest {
        ClientRequest::get("GET /config", "GET /config", &[200, 502, 503, 504])
    }

    pub fn post(kind: Kind) -> ClientRequest {
        ClientRequest { what: "POST", bytes: kind.post().into(), statuses: &[200, 429, 502, 503, 504], job: Some(kind) }
    }

    pub fn good(world: &World, random: &mut Random) -> ClientRequest {
        match random.within(0..=19) {
            0..=9 => ClientRequest::post(world.kind(random)),
            10..=12 => ClientRequest::config(),
            13..=15 => ClientRequest::healthz(),
            16 | 17 => ClientRequest::get("GET /readyz", "GET /readyz", &[200, 503]),
            18 => ClientRequest::get("HEAD /healthz", "HEAD /healthz", &[200]),
            _ => ClientRequest::get("HEAD /config", "HEAD /config", &[200, 502, 503, 504]),
        }
    }

    pub fn is_head(&self) -> bool {
        self.bytes.starts_with(b"HEAD ")
    }

    /// Checks a response; the error names the difference.
    pub fn check(&self, response: &Response) -> Result<(), String> {
        let status = response.status;
        if !self.statuses.contains(&status) {
            return Err(format!(
                "{status} instead of {:?}: {}",
                self.statuses,
                String::from_utf8_lossy(&response.body)
            ));
        }
        let header = |name: &str| response.header(name).unwrap_or_default().to_owned();
        if header("Content-Type") != "application/json" {
            return Err(format!("{status} of type {:?}", header("Content-Type")));
        }
        let seconds = header("Retry-After").parse().unwrap_or(0);
        if (status == 429 || status == 503 && self.what != "GET /readyz") && !(1..=3600).contains(&seconds) {
            return Err(format!("{status} with Retry-After {:?}", header("Retry-After")));
        }
        if status == 405 && header("Allow").is_empty() {
            return Err("405 without Allow".to_owned());
        }
        if self.is_head() {
            return Ok(());
        }
        let body: Value = serde_json::from_slice(&response.body).map_err(|error| format!("{status}: {error}"))?;
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
                let (sentence, code) = (body["error"].as_str(), body["code"].as_str());
                let is_error = body == json!({"error": sentence, "code": code}) && sentence.is_some() && code.is_some();
                is_error.then_some(()).ok_or_else(|| format!("{status} with {body}"))
            }
        }
    }
}

impl World {
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    pub fn is_running(&self) -> bool {
        !self.stopped.load(Ordering::SeqCst)
    }

    /// Waits, at most until the end of the run.
    pub fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        while self.is_running() && Instant::now() < until {
            std::thread::sleep(until.saturating_duration_since(Instant::now()).min(Duration::from_millis(100)));
        }
    }

    pub fn report_failure(&self, what: &str) {
        let line = format!("{:.3} s: {what}", self.start.elapsed().as_secs_f64());
        eprintln!("WRONG {line}");
        self.record().failures.push(line);
    }

    /// The kind reserved for bad requests at this time, and the time since its shift began.
    pub fn reserved_kind(&self, at: Instant) -> (Kind, Duration) {
        let time = at.saturating_duration_since(self.start);
        let shift = usize::try_from(time.as_secs() / SHIFT.as_secs()).unwrap();
        (KINDS[shift % KINDS.len()], time - SHIFT * u32::try_from(shift).unwrap())
    }

    pub fn bad_kind(&self) -> Kind {
        self.reserved_kind(Instant::now()).0
    }

    /// A random kind for a valid request.
    pub fn kind(&self, random: &mut Random) -> Kind {
        let apart = self.bad_kind();
        let others: Vec<Kind> = KINDS.into_iter().filter(|kind| *kind != apart).collect();
        others[random.index(others.len())]
    }

    /// Connects from this address. With a small receive buffer, responses wait in the server.
    pub fn connect(&self, ip: Ipv4Addr, narrow: bool) -> io::Result<Connection> {
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

    /// Connects, or records a failure.
    pub fn connection(&self, ip: Ipv4Addr) -> Option<Connection> {
        self.connect(ip, false).map_err(|error| self.report_failure(&format!("{ip} cannot connect: {error}"))).ok()
    }

    /// Counts a valid POST, whatever its outcome.
    pub fn posts(&self, kind: Kind) {
        *self.record().posts.entry(kind).or_default() += 1;
    }

    /// Records a POST that got no 200 but may have created its Job.
    pub fn record_unknown(&self, kind: Kind, from: Instant, responded: bool) {
        let until = Instant::now() + if responded { IN_TRANSIT } else { MAX_CREATE_DELAY };
        self.record().unknown.push(UnknownOutcome { kind, responded, from, until });
    }

    pub fn count(&self, client: &'static str, what: &'static str, status: u16) {
        *self.record().responses.entry((client, what)).or_default().entry(status).or_default() += 1;
    }

    /// Sends a request and checks its response; returns `None` without a response or with a wrong one.
    pub fn exchange(&self, client: &'static str, line: &mut Connection, request: &ClientRequest) -> Option<Response> {
        self.exchange_slowly(client, line, request, Duration::ZERO)
    }

    /// The same, sent byte by byte if the pause is not zero.
    pub fn exchange_slowly(
        &self,
        client: &'static str,
        line: &mut Connection,
        request: &ClientRequest,
        between: Duration,
    ) -> Option<Response> {
        if let Some(kind) = request.job {
            self.posts(kind);
        }
        let from = Instant::now();
        let sent = match between {
            Duration::ZERO => line.stream().write_all(&request.bytes),
            _ => request.bytes.chunks(1).try_for_each(|byte| {
                std::thread::sleep(between);
                line.stream().write_all(byte)
            }),
        };
        let outcome = sent.and_then(|()| line.response(request.is_head()));
        self.record_outcome(client, request, from, outcome)
    }

    /// Records and checks the outcome of a request.
    pub fn record_outcome(
        &self,
        client: &'static str,
        request: &ClientRequest,
        from: Instant,
        outcome: io::Result<Response>,
    ) -> Option<Response> {
        self.count(client, request.what, outcome.as_ref().map_or(0, |response| response.status));
        let done = matches!(&outcome, Ok(response) if response.status == 200);
        if let (Some(kind), false) = (request.job, done) {
            self.record_unknown(kind, from, outcome.is_ok());
        }
        // In a burst over the limit some requests get no response.
        if client == "over limit" && outcome.is_err() {
            return None;
        }
        let response = outcome
            .map_err(|error| self.report_failure(&format!("{client}, {}: no response: {error}", request.what)))
            .ok()?;
        if let Err(error) = request.check(&response) {
            let over_limit = client == "over limit" && response.status == 503;
            if !over_limit {
                self.report_failure(&format!("{client}, {}: {error}", request.what));
            }
            return None;
        }
        if request.job.is_some() && done {
            self.record().done.push(response.json()["job"].as_str().unwrap().to_owned());
        }
        Some(response)
    }

    pub fn timed_healthz(&self, client: &'static str, line: &mut Connection) -> Option<Response> {
        let start = Instant::now();
        let response = self.exchange(client, line, &ClientRequest::healthz());
        self.record().healthz.push(start.elapsed());
        response
    }
}
