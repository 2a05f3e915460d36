//! The series of the watched state: Jobs, the queue of the free tier, and the watches.

use std::time::Instant;

use crate::api::Watched;
use crate::job::Tier;
use crate::metrics::{Kind, Text};
use crate::state::job_status::{State, state};
use crate::state::job_watch::JobWatch;
use crate::state::watch_state::WatchStats;

/// Number of Jobs that are counted at a time, in about 0.1 ms: meanwhile no event and no POST adds one.
const COUNTED: usize = 500;

/// The number of Jobs in each of [`State::ALL`].
type Counts = [usize; State::ALL.len()];

/// Writes all series. Jobs and queue are left out while their state is not known.
pub fn write(watched: &Watched, text: &mut Text) {
    write_jobs(&watched.jobs, text);
    write_queue(watched, text);
    write_watches(watched, text);
}

fn write_jobs(jobs: &JobWatch, text: &mut Text) {
    let counts = Tier::ALL.map(|tier| (tier, count(jobs, tier)));
    if counts.iter().all(|(_, counts)| counts.is_none()) {
        return;
    }
    let mut family = text.family("img_classification_jobs", Kind::Gauge, "Jobs of this program, by tier and state.");
    for (tier, counts) in counts {
        for (state, count) in counts.iter().flat_map(|counts| State::ALL.iter().zip(counts)) {
            family.sample(&[("tier", tier.as_str()), ("state", state.as_str())], count);
        }
    }
}

/// Counts the Jobs of a tier by their state. Returns `None` while they are not known.
fn count(jobs: &JobWatch, tier: Tier) -> Option<Counts> {
    let (mut counts, mut last) = (Counts::default(), None);
    loop {
        let jobs = jobs.read(tier);
        jobs.check(Instant::now()).ok()?;
        let (mut counted, mut next) = (0, None);
        for (name, job) in jobs.newest(last.as_ref()).take(COUNTED) {
            counts[state(job, jobs.pod(name, &job.uid)) as usize] += 1;
            (counted, next) = (counted + 1, Some((name, &job.created)));
        }
        if counted < COUNTED {
            return Some(counts);
        }
        last = next.map(|(name, created)| (created.clone(), name.into()));
    }
}

fn write_queue(watched: &Watched, text: &mut Text) {
    let Ok(stats) = watched.queue.stats() else { return };
    text.gauge("img_classification_queue_length", "Jobs of the free tier that wait for quota.", stats.waiting);
    let help = "Time since the creation of the oldest Job that waits for quota, 0 without one.";
    text.gauge("img_classification_queue_oldest_wait_seconds", help, stats.oldest_wait.as_secs());
    let Some(free) = stats.free_slots else { return };
    let help = "Jobs of the free tier that have a pod (used), and that the quota allows beside them (free).";
    let mut family = text.family("img_classification_queue_slots", Kind::Gauge, help);
    family.sample(&[("state", "used")], stats.used_slots);
    family.sample(&[("state", "free")], free);
}

fn write_watches(watched: &Watched, text: &mut Text) {
    let now = Instant::now();
    let [free_jobs, free_pods] = watched.jobs.read(Tier::Free).watch_stats(now);
    let [premium_jobs, premium_pods] = watched.jobs.read(Tier::Premium).watch_stats(now);
    let watches = [
        ("jobs-free", free_jobs),
        ("pods-free", free_pods),
        ("jobs-premium", premium_jobs),
        ("pods-premium", premium_pods),
        ("quotas", watched.queue.quota_watch_stats()),
        ("pods", watched.pods.watch_stats()),
    ];
    let help = "Time since Kubernetes last confirmed the objects of a watch.";
    let mut family = text.family("img_classification_watch_age_seconds", Kind::Gauge, help);
    for (watch, stats) in &watches {
        stats.age.iter().for_each(|age| family.sample(&[("watch", watch)], age.as_secs_f64()));
    }
    let mut write = |name, help, count: fn(&WatchStats) -> u64| {
        let mut family = text.family(name, Kind::Counter, help);
        watches.iter().for_each(|(watch, stats)| family.sample(&[("watch", watch)], count(stats)));
    };
    let help = "Connections of a watch, which each last 20 s at most.";
    write("img_classification_watch_connections_total", help, |stats| stats.connections);
    let help = "Lists of all objects of a watch: at its start, and when its changes were lost.";
    write("img_classification_watch_lists_total", help, |stats| stats.lists);
    write("img_classification_watch_failures_total", "Failures of a watch.", |stats| stats.failures);
}
