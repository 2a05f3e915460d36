//! Faults of the scripted Kubernetes.

use super::KUBE_TIMEOUT;
use super::requests::{Random, World};
use crate::support::answer::{
    Accept, Answer, Reply, conflict, internal_error, pod_list, quota_full, too_many_requests, unauthorized, unavailable,
};
use crate::support::api::{ApiServer, Request};
use crate::support::cluster::pod;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub const FEW_PODS: usize = 40;
pub const MANY_PODS: usize = 3000;

/// What Kubernetes does wrong, shared by its script and the one who makes outages.
#[derive(Default)]
pub struct Faults {
    pub counts: Mutex<BTreeMap<&'static str, u64>>,
    pub off: AtomicBool,
    /// Credentials up to this one are refused.
    pub revoked: AtomicU64,
    /// The last one that was seen.
    pub newest: AtomicU64,
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
    pub fn count(&self, name: &'static str) {
        *self.counts.lock().unwrap().entry(name).or_default() += 1;
    }

    pub fn counted(&self, name: &str) -> u64 {
        self.counts.lock().unwrap().get(name).copied().unwrap_or(0)
    }

    /// The credential of a request is refused.
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

    pub fn answer(&self, request: &Request, random: &mut Random, lists: &Lists) -> Answer {
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
    pub fn list(&self, request: &Request, random: &mut Random, lists: &Lists) -> Reply {
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
pub struct Lists([[Reply; 4]; 2]);

impl Lists {
    pub fn new() -> Lists {
        Lists([("few", FEW_PODS), ("many", MANY_PODS)].map(|(name, count)| {
            let pods: Vec<Value> = (0..count)
                .map(|number| pod("default", &format!("pod-{number}"), "Running", Some(("node", "10.0.0.1"))))
                .collect();
            let (first, second) = pods.split_at(count / 2);
            let reply = |pods: &[Value], next: &str| Reply::json(200, &pod_list(pods, next));
            [reply(&pods, ""), reply(&pods, "").gzip(), reply(first, name), reply(second, "")]
        }))
    }

    pub fn form(&self, many: bool, form: usize) -> Reply {
        self.0[usize::from(many)][form].clone()
    }

    pub fn plain(&self, many: bool) -> Reply {
        self.form(many, 0)
    }

    pub fn zipped(&self, many: bool) -> Reply {
        self.form(many, 1)
    }

    pub fn first_half(&self, many: bool) -> Reply {
        self.form(many, 2)
    }

    pub fn second_half(&self, many: bool) -> Reply {
        self.form(many, 3)
    }
}

/// Makes outages and the like until that time.
pub fn torment(world: &World, api: &mut ApiServer, faults: &Faults, random: &mut Random, until: Instant) {
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
