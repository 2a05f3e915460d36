//! The final comparison of Jobs and process size.

use super::SHIFT_OVERLAP;
use super::faults::Faults;
use super::requests::{KINDS, Kind, World};
use crate::support::api::ApiServer;
use rustix::process::Pid;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::fmt;
use std::time::Instant;

/// One or two connections to Kubernetes: /readyz may or may not have dropped the idle ones.
const DESCRIPTORS_SLACK: usize = 2;

/// malloc keeps freed memory, and its arenas (one set for several threads) fill up one by one.
const MEMORY_SLACK_KB: usize = 8 * 1024;

/// The resources of the process.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub memory_kb: usize,
    pub threads: usize,
    pub descriptors: usize,
}

impl Size {
    pub fn of(pid: Pid) -> Size {
        let pid = pid.as_raw_nonzero();
        let entries = |folder: &str| std::fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let memory_kb = memory.trim().trim_end_matches(" kB").parse().unwrap();
        Size { memory_kb, threads: entries("task"), descriptors: entries("fd") }
    }

    pub fn is_back_at(self, before: Size) -> bool {
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

/// Compares the stored Jobs with the record of the clients; returns a summary line.
pub fn check_jobs(world: &World, api: &ApiServer) -> String {
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
    let mut record = world.record();
    let done: BTreeSet<String> = record.done.iter().cloned().collect();
    if done.len() != record.done.len() {
        wrong.push(format!("{} responses name {} Jobs", record.done.len(), done.len()));
    }
    wrong.extend(done.difference(&stored).map(|name| format!("{name} was promised and is not stored")));
    for (name, (at, _)) in &first_tries {
        let (kind, since) = world.reserved_kind(*at);
        if since > SHIFT_OVERLAP && Kind::of_job(name) == Some(kind) {
            wrong.push(format!("{name} was made of a bad request"));
        }
    }
    for kind in KINDS {
        let made = stored.iter().filter(|name| Kind::of_job(name) == Some(kind)).count();
        let posts = record.posts.get(&kind).copied().unwrap_or(0);
        if u64::try_from(made).unwrap() > posts {
            wrong.push(format!("{made} Jobs of {posts} requests of {kind:?}"));
        }
        let mut nobodys: Vec<Instant> = stored
            .difference(&done)
            .filter(|name| Kind::of_job(name) == Some(kind))
            .map(|name| first_tries[name.as_str()].0)
            .collect();
        nobodys.sort();
        let unknown = record.unknown.iter().filter(|unknown| unknown.kind == kind);
        let left = unexplained(&nobodys, unknown.map(|unknown| (unknown.from, unknown.until)).collect());
        if left > 0 {
            wrong.push(format!("{left} Jobs of {kind:?} belong to no request that failed"));
        }
    }
    record.failures.extend(wrong);
    let tries = |name: &String| first_tries[name].1;
    format!(
        "{} posts: {} got 200 ({} of them after more than one attempt), {} with an error, {} disconnected; {} Jobs stored, \
         {} of them without a 200",
        record.posts.values().sum::<u64>(),
        done.len(),
        done.iter().filter(|name| first_tries.contains_key(*name) && tries(name) > 1).count(),
        record.unknown.iter().filter(|unknown| unknown.responded).count(),
        record.unknown.iter().filter(|unknown| !unknown.responded).count(),
        stored.len(),
        stored.difference(&done).count()
    )
}

/// Counts the times without a span of their own that contains them. Each time takes the span that ends first.
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

pub fn print_summary(world: &World, faults: &Faults) {
    let record = world.record();
    println!("responses by client and request (0: none):");
    for ((client, what), statuses) in &record.responses {
        let statuses: Vec<String> = statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
        println!("  {client}, {what}: {}", statuses.join(", "));
    }
    println!("faults:");
    for (name, count) in faults.counts.lock().unwrap().iter() {
        println!("  {name}: {count}");
    }
    let mut healthz = record.healthz.clone();
    healthz.sort();
    let at = |part: usize| healthz[(healthz.len() * part / 1000).min(healthz.len() - 1)];
    println!("/healthz: {} times, p50 {:?}, p99 {:?}, max {:?}", healthz.len(), at(500), at(990), at(1000));
}
