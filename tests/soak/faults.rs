//! Faults of the scripted Kubernetes.

use super::KUBE_TIMEOUT;
use super::requests::{Random, World};
use crate::support::api::{ApiServer, Request};
use crate::support::cluster::pod;
use crate::support::response::{
    Accept, ApiResponse, Behavior, conflict, internal_error, pod_list, quota_full, too_many_requests, unauthorized,
    unavailable,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub const FEW_PODS: usize = 40;
pub const MANY_PODS: usize = 3000;

/// Shared state of the API server's script and of the outages.
#[derive(Default)]
pub struct Faults {
    pub counts: Mutex<BTreeMap<&'static str, u64>>,
    pub off: AtomicBool,
    /// Tokens up to this number are revoked.
    pub revoked: AtomicU64,
    /// The newest token seen.
    pub newest: AtomicU64,
}

/// Weight, name, and the behavior; its last argument is the behavior without the fault.
type Fault = (u64, &'static str, fn(&mut Random, Behavior) -> Behavior);

/// Weights in thousandths of all requests.
const ALL_REQUESTS: [Fault; 10] = [
    (25, "500", |_, _| internal_error().into()),
    (20, "503", |_, _| unavailable().into()),
    (20, "429 with Retry-After 0", |_, _| too_many_requests(0).into()),
    (15, "closed without a response", |_, _| Behavior::Close),
    (15, "reset without a response", |_, _| Behavior::Reset),
    (20, "slow", |random, good| Behavior::Delayed(random.millis(50..=800), good.into())),
    (2, "slower than the timeout", |_, good| Behavior::Delayed(KUBE_TIMEOUT + Duration::from_millis(500), good.into())),
    (2, "no response", |_, _| Behavior::Hang),
    (1, "byte by byte", |_, _| Behavior::Drip),
    (2, "not Kubernetes", |_, _| ApiResponse::html(200).into()),
];

/// Weights in thousandths of all creates.
const CREATES: [Fault; 6] = [
    (25, "409 Conflict", |_, _| conflict().into()),
    (30, "stored, response lost", |_, _| Behavior::ApplyThenDrop),
    (2, "stored, no response", |_, _| Behavior::ApplyThenHang),
    (10, "stored, response cut", |random, _| Behavior::ApplyThenTruncate(random.index(200))),
    (5, "quota full", |_, _| quota_full().into()),
    (20, "closed after the response", |_, good| Behavior::ThenClose(good.into())),
];

/// Draws one of these faults, or `None`.
fn draw(random: &mut Random, faults: &[Fault], good: &Behavior) -> Option<(&'static str, Behavior)> {
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
    pub fn count(&self, name: &'static str) {
        *self.counts.lock().unwrap().entry(name).or_default() += 1;
    }

    pub fn counted(&self, name: &str) -> u64 {
        self.counts.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    /// Returns `true` if the token of the request is revoked.
    pub fn refuses(&self, request: &Request) -> bool {
        let token = request.header("Authorization").and_then(|value| value.strip_prefix("Bearer token-"));
        let number: u64 = token.and_then(|number| number.parse().ok()).expect("every request has a token");
        self.newest.fetch_max(number, Ordering::SeqCst);
        number <= self.revoked.load(Ordering::SeqCst)
    }

    pub fn revoke(&self) {
        self.count("credential revoked");
        self.revoked.store(self.newest.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    pub fn response(&self, request: &Request, random: &mut Random, lists: &Lists) -> Behavior {
        if self.refuses(request) {
            self.count("401 for a revoked credential");
            return unauthorized().into();
        }
        let is_list = request.path() == "/api/v1/pods" && request.query("limit").is_none();
        let off = self.off.load(Ordering::SeqCst);
        let good = if is_list { self.list(request, random, lists).into() } else { Behavior::Default };
        if off {
            return good;
        }
        let for_create = if request.is_create() { &CREATES[..] } else { &[] };
        match draw(random, &ALL_REQUESTS, &good).or_else(|| draw(random, for_create, &good)) {
            Some((name, response)) => {
                self.count(name);
                response
            }
            None => good,
        }
    }

    /// A list in one of its encodings, complete or truncated.
    pub fn list(&self, request: &Request, random: &mut Random, lists: &Lists) -> ApiResponse {
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

/// Pod lists, short and long, in each encoding.
pub struct Lists([[ApiResponse; 4]; 2]);

impl Lists {
    pub fn new() -> Lists {
        Lists([("few", FEW_PODS), ("many", MANY_PODS)].map(|(name, count)| {
            let pods: Vec<Value> = (0..count)
                .map(|number| pod("default", &format!("pod-{number}"), "Running", Some(("node", "10.0.0.1"))))
                .collect();
            let (first, second) = pods.split_at(count / 2);
            let reply = |pods: &[Value], next: &str| ApiResponse::json(200, &pod_list(pods, next));
            [reply(&pods, ""), reply(&pods, "").gzip(), reply(first, name), reply(second, "")]
        }))
    }

    pub fn form(&self, many: bool, form: usize) -> ApiResponse {
        self.0[usize::from(many)][form].clone()
    }

    pub fn plain(&self, many: bool) -> ApiResponse {
        self.form(many, 0)
    }

    pub fn zipped(&self, many: bool) -> ApiResponse {
        self.form(many, 1)
    }

    pub fn first_half(&self, many: bool) -> ApiResponse {
        self.form(many, 2)
    }

    pub fn second_half(&self, many: bool) -> ApiResponse {
        self.form(many, 3)
    }
}

/// Injects outages, dropped connections and revocations until this time.
pub fn inject_outages(world: &World, api: &mut ApiServer, faults: &Faults, random: &mut Random, until: Instant) {
    let (mut outage, mut revocation) = (Instant::now() + Duration::from_secs(10), Instant::now());
    while Instant::now() < until {
        std::thread::sleep(random.millis(1500..=4000).min(until.saturating_duration_since(Instant::now())));
        let now = Instant::now();
        if now >= outage {
            outage = now + random.millis(35_000..=55_000);
            close_port_for(world, api, faults, "outage longer than the timeout", random.millis(3500..=5500));
            continue;
        }
        match random.within(0..=4) {
            0 | 1 => close_port_for(world, api, faults, "outage shorter than the timeout", random.millis(50..=1900)),
            2 => {
                faults.count("all connections ended");
                api.close_connections();
            }
            3 => {
                faults.count("connections refused or hanging");
                let kinds = [Accept::Reset, Accept::Reset, Accept::ResetAfterHead, Accept::Hang];
                let accepts: Vec<Accept> =
                    (0..random.within(1..=4)).map(|_| kinds[random.index(kinds.len())]).collect();
                api.on_accept(accepts);
            }
            // A second revocation within ten seconds has no effect, so it is usually skipped.
            _ if now >= revocation || random.one_in(6) => {
                revocation = now + Duration::from_secs(15);
                faults.revoke();
            }
            _ => {}
        }
    }
}

fn close_port_for(world: &World, api: &mut ApiServer, faults: &Faults, what: &'static str, time: Duration) {
    faults.count(what);
    api.close_port();
    world.pause(time);
    api.reopen_port();
}
