//! Unit tests of the decisions, with a clock of their own.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::*;
use crate::kube::{Error, JobPod, WatchedObject};

/// A queue and its clock, in milliseconds.
struct Harness {
    queue: Queue,
    start: Instant,
    now: u64,
    explained: Vec<String>,
    /// The pods by their Job.
    pods: BTreeMap<String, PodRecord>,
}

fn read<T: WatchedObject + Default>(object: &Value) -> T {
    T::parse(&object.to_string()).expect("JSON")
}

impl Harness {
    /// Returns a queue with complete lists and a quota of 2 CPU.
    fn new() -> Self {
        let mut harness = Self {
            queue: Queue::default(),
            start: Instant::now(),
            now: 0,
            explained: Vec::new(),
            pods: BTreeMap::new(),
        };
        for event in [WatchEvent::Init, WatchEvent::InitDone, WatchEvent::Connected] {
            harness.queue.apply_quota_event(&event, harness.start);
        }
        for event in [WatchEvent::Init, WatchEvent::InitDone, WatchEvent::Connected] {
            harness.event(event);
        }
        harness.used("0");
        harness
    }

    fn time(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    fn event(&mut self, event: WatchEvent<Job>) -> bool {
        self.queue.apply_job_event(event, self.time(), SystemTime::UNIX_EPOCH)
    }

    fn quota(&mut self, event: &WatchEvent<Quota>) {
        self.queue.apply_quota_event(event, self.time());
    }

    fn used(&mut self, cpu: &str) {
        let status = json!({"hard": {"requests.cpu": "2", "services": "0"}, "used": {"requests.cpu": cpu}});
        self.quota(&WatchEvent::Apply(read(&json!({"metadata": {"name": "q"}, "status": status}))));
    }

    fn job(&mut self, name: &str, second: u32, state: JobState) -> bool {
        self.job_of("img-classification", name, second, state)
    }

    fn job_of(&mut self, manager: &str, name: &str, second: u32, state: JobState) -> bool {
        let status = match state {
            JobState::Waiting => json!({}),
            JobState::Running => json!({"active": 1, "startTime": "2026-01-01T00:01:00Z"}),
            JobState::Finished => json!({"succeeded": 1}),
        };
        let created = format!("2026-01-01T00:00:{second:02}Z");
        let labels = json!({"app.kubernetes.io/managed-by": manager});
        let metadata = json!({"name": name, "resourceVersion": "7", "creationTimestamp": created, "labels": labels});
        let containers = json!([{"resources": {"requests": {"cpu": "900m"}}}]);
        let spec = json!({"template": {"spec": {"containers": containers}}});
        self.event(WatchEvent::Apply(read(&json!({"metadata": metadata, "spec": spec, "status": status}))))
    }

    fn wait(&mut self, names: &[&str]) {
        assert!(names.iter().all(|name| self.job(name, 0, JobState::Waiting)));
    }

    /// Returns the Jobs that are requeued at that time, in order.
    fn at(&mut self, now: u64) -> Vec<String> {
        self.now = now;
        let mut requeued = Vec::new();
        loop {
            match self.queue.next_action(self.time()) {
                Action::Requeue { name, .. } => requeued.push(name),
                Action::Explain { name } => self.explained.push(name),
                Action::Wait(_) => return requeued,
            }
        }
    }

    fn delete(&mut self, name: &str) {
        self.event(WatchEvent::Delete(read(&json!({"metadata": {"name": name}}))));
    }

    fn pod(&mut self, job: &str, status: &Value) {
        let pod: JobPod = read(&json!({"metadata": {"name": format!("{job}-pod")}, "status": status}));
        self.pods.insert(job.to_owned(), PodRecord::new(&pod, None));
    }

    fn snapshot(&self) -> Value {
        self.queue.snapshot(|job, _| self.pods.get(job))
    }

    /// Returns the time of the next decision, in milliseconds.
    fn due(&mut self) -> Option<u128> {
        match self.queue.next_action(self.time()) {
            Action::Wait(due) => due.map(|due| due.duration_since(self.start).as_millis()),
            Action::Requeue { name, .. } | Action::Explain { name } => panic!("{name}"),
        }
    }

    /// The Jobs with a pod, and the waiting ones.
    fn job_names(&self) -> (Vec<String>, Vec<String>) {
        let queue = self.snapshot();
        let names = |key: &str| {
            let jobs = queue[key].as_array().into_iter().flatten();
            jobs.map(|job| job["job"].as_str().expect("a name").to_owned()).collect()
        };
        ([names("running"), names("starting")].concat(), names("waiting"))
    }
}

const NONE: [&str; 0] = [];

#[test]
fn the_oldest_job_is_requeued_by_creation_and_then_by_arrival() {
    let mut harness = Harness::new();
    harness.used("2");
    for (name, second) in [("c", 2), ("z", 1), ("b", 1), ("a", 3)] {
        harness.job(name, second, JobState::Waiting);
    }
    assert_eq!(harness.job_names().1, ["z", "b", "c", "a"]);
    assert_eq!(harness.at(5000), NONE, "no capacity");
    harness.used("1100m");
    assert_eq!(harness.at(5000), ["z"], "capacity for one");
    harness.job("z", 1, JobState::Running);
    harness.used("0");
    assert_eq!(harness.at(5001), ["b"], "the quota may not count z yet");
    assert_eq!(harness.at(5500), ["c"], "by now it does");
    assert_eq!(harness.job_names(), (vec!["z".into()], vec!["b".into(), "c".into(), "a".into()]));
}

#[test]
fn a_new_job_is_left_to_the_controller_for_a_second() {
    let mut harness = Harness::new();
    harness.wait(&["a"]);
    assert_eq!(harness.at(999), NONE);
    assert_eq!(harness.due(), Some(1000));
    assert_eq!(harness.at(1000), ["a"]);
    assert_eq!(harness.at(1001), NONE, "once");
    let mut harness = Harness::new();
    harness.used("1");
    harness.job("younger", 2, JobState::Waiting);
    harness.now = 1;
    harness.job("older", 1, JobState::Waiting);
    assert_eq!(harness.at(1000), NONE, "the older Job goes first although it arrived later");
    assert_eq!(harness.at(1001), ["older"]);
}

#[test]
fn a_job_that_does_not_start_is_requeued_again_after_growing_pauses() {
    let mut harness = Harness::new();
    harness.used("1");
    harness.wait(&["a", "b"]);
    assert_eq!(harness.at(1000), ["a"]);
    assert_eq!(harness.due(), Some(6000));
    assert_eq!(harness.at(5999), NONE, "its capacity is reserved");
    assert_eq!(harness.at(6000), ["b"]);
    harness.delete("b");
    let times: Vec<u64> = (6001..300_000).step_by(100).filter(|now| !harness.at(*now).is_empty()).collect();
    let pauses: Vec<u64> = times.windows(2).map(|pair| (pair[1] - pair[0]).div_euclid(1000)).collect();
    assert_eq!(times[0].div_euclid(1000), 11);
    assert_eq!(harness.explained.iter().filter(|name| *name == "a").count(), times.len() + 1);
    assert_eq!(pauses, [15, 25, 45, 65, 65, 65], "a reservation of 5 s and pauses of 10, 20, 40, 60 s");
}

#[test]
fn a_job_of_another_program_has_its_turn_and_is_never_requeued() {
    let mut harness = Harness::new();
    harness.used("1");
    harness.job_of("argo", "theirs", 0, JobState::Waiting);
    harness.job("ours", 1, JobState::Waiting);
    assert_eq!(harness.job_names().1, ["theirs", "ours"]);
    assert_eq!(harness.at(1000), NONE, "its turn");
    assert_eq!(harness.due(), Some(6000));
    assert_eq!(harness.at(5999), NONE);
    assert_eq!(harness.at(6000), ["ours"]);
    assert_eq!(harness.explained, ["theirs"]);
    harness.used("0");
    harness.job("ours", 1, JobState::Running);
    harness.delete("theirs");
    harness.job_of("argo", "theirs", 0, JobState::Waiting);
    harness.job("second", 1, JobState::Waiting);
    assert_eq!(harness.at(8000), ["second"], "beside its turn");
}

#[test]
fn a_job_with_a_pod_is_starting_until_the_pod_runs() {
    let mut harness = Harness::new();
    harness.job("a", 0, JobState::Running);
    let entry = |harness: &Harness, key: &str| harness.snapshot()[key][0].clone();
    assert_eq!(entry(&harness, "starting")["reason"], "its container is being created");
    let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}});
    let missing = json!({"phase": "Pending", "containerStatuses": [{"image": "x:1", "state": waiting}]});
    harness.pod("a", &missing);
    let since = "2026-01-01T00:01:00Z";
    assert_eq!(entry(&harness, "starting"), json!({"job": "a", "since": since, "reason": "image not found: x:1"}));
    let state = json!({"running": {"startedAt": "2026-01-01T00:07:00Z"}});
    harness.pod("a", &json!({"phase": "Running", "containerStatuses": [{"state": state}]}));
    assert_eq!(entry(&harness, "running"), json!({"job": "a", "since": "2026-01-01T00:07:00Z"}));
    harness.pod("a", &json!({"phase": "Running"}));
    assert_eq!(entry(&harness, "running")["since"], since, "the kubelet has not told the time");
    harness.pod("a", &json!({"phase": "Succeeded"}));
    assert_eq!(entry(&harness, "running")["job"], "a", "Kubernetes has not ended the Job yet");
    harness.pods.clear();
    assert_eq!(entry(&harness, "starting")["job"], "a");
}

#[test]
fn a_job_whose_capacity_another_took_stays_first_in_line() {
    let mut harness = Harness::new();
    harness.used("1");
    harness.wait(&["a", "b"]);
    assert_eq!(harness.at(2000), ["a"]);
    harness.used("1900m");
    assert_eq!(harness.at(2010), NONE);
    harness.used("1");
    assert_eq!(harness.at(2100), NONE, "its own pod may have taken it");
    assert_eq!(harness.due(), Some(3010));
    assert_eq!(harness.at(3010), ["a"]);
}

#[test]
fn a_failed_requeue_pauses_all_jobs_and_keeps_their_order() {
    let pause = Duration::from_secs(5);
    for (outcome, pause, then) in [
        (RequeueOutcome::Conflict, 1000, "a"),
        (RequeueOutcome::Failed(pause), 5000, "a"),
        (RequeueOutcome::Rejected(pause), 5000, "b"),
    ] {
        let mut harness = Harness::new();
        harness.used("1");
        harness.wait(&["a", "b"]);
        assert_eq!(harness.at(1000), ["a"]);
        harness.queue.requeue_finished("a", outcome, harness.time());
        assert_eq!(harness.at(1000 + pause - 1), NONE, "{outcome:?}");
        assert_eq!(harness.due(), Some(u128::from(1000 + pause)));
        assert_eq!(harness.at(1000 + pause), [then], "{outcome:?}");
    }
}

#[test]
fn no_job_is_requeued_while_the_state_is_incomplete() {
    let failed = || Error::Timeout { url: String::new() };
    let mut harness = Harness::new();
    harness.wait(&["a"]);
    harness.quota(&WatchEvent::Failed(failed()));
    assert_eq!(harness.at(2000), NONE, "the quota watch has failed");
    harness.quota(&WatchEvent::Connected);
    harness.event(WatchEvent::Failed(failed()));
    assert_eq!(harness.at(2000), NONE, "the Job watch has failed");
    harness.event(WatchEvent::Connected);
    harness.quota(&WatchEvent::Init);
    assert_eq!(harness.at(2000), NONE, "the list of quotas is incomplete");
    harness.quota(&WatchEvent::InitDone);
    harness.quota(&WatchEvent::Connected);
    assert_eq!(harness.at(2000), NONE, "without a quota no Job waits for one");
    let uncounted = json!({"metadata": {"name": "q"}, "status": {"hard": {"requests.cpu": "2"}}});
    harness.quota(&WatchEvent::Apply(read(&uncounted)));
    assert_eq!(harness.at(2000), NONE, "the used amount is unknown");
    harness.used("0");
    assert_eq!(harness.at(2000), ["a"]);
}

#[test]
fn a_new_list_drops_missing_jobs_and_keeps_the_order_of_the_others() {
    let mut harness = Harness::new();
    harness.wait(&["c", "b", "a"]);
    harness.event(WatchEvent::Init);
    harness.wait(&["a", "c"]);
    assert_eq!(harness.job_names().1, ["c", "b", "a"], "until the list is complete");
    harness.event(WatchEvent::InitDone);
    assert_eq!(harness.job_names().1, ["c", "a"]);
    harness.job("c", 0, JobState::Finished);
    assert_eq!(harness.job_names().1, ["a"]);
}

#[test]
fn the_quotas_tell_how_many_jobs_run_at_once() {
    let mut harness = Harness::new();
    harness.wait(&["a", "b"]);
    assert_eq!(harness.queue.waiting().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(harness.queue.slots(harness.start), Some(2));
    harness.quota(&WatchEvent::Delete(read(&json!({"metadata": {"name": "q"}}))));
    assert_eq!(harness.queue.slots(harness.start), None, "no limit");
    harness.used("0");
    assert_eq!(harness.queue.slots(harness.start + Duration::from_secs(26)), None, "the quotas are too old");
}

#[test]
fn the_number_of_jobs_is_limited() {
    let mut harness = Harness::new();
    assert!((0..MAX_JOBS).all(|number| harness.job(&number.to_string(), 0, JobState::Waiting)));
    assert!(!harness.job("more", 0, JobState::Waiting));
    assert!(harness.job("0", 0, JobState::Finished) && harness.job("more", 0, JobState::Waiting));
}
