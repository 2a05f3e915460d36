//! The Jobs of one tier with their pods, as the watches leave them. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Instant;

use crate::job::{DATASET_LABEL, Dataset, JobName, MANAGED_BY, Tier};
use crate::kube::{Job, JobPod, JobState, WatchEvent};
use crate::state::pod_record::{PodRecord, Progress};
use crate::state::store::Store;
use crate::state::watch_state::{Change, Unavailable, WatchState, WatchStats};

/// Maximum number of Jobs in memory, of 700 bytes each with its pod. Beyond it the Job that was created first of those that have ended
/// makes room. The quotas of k8s/ allow 1,000 premium Jobs and 300 free ones.
pub const MAX_JOBS: usize = 20_000;

/// Maximum number of pods in memory: a Job whose pod was lost has another.
const MAX_PODS: usize = 2 * MAX_JOBS;

/// Longest part of a Job's name in the name of its pod, in bytes; see k8s.io/apiserver/pkg/storage/names.
const MAX_PREFIX: usize = 58;

/// The Jobs of one tier.
pub struct TierJobs {
    tier: Tier,
    jobs: Store<Box<str>, JobRecord>,
    /// Creation time and name: the order of GET /jobs, from the end.
    order: BTreeSet<(Box<str>, Box<str>)>,
    /// The pods of Jobs by their own name, which begins with that of the Job.
    pods: Store<Box<str>, PodRecord>,
    /// Jobs that [`add_created`](Self::add_created) added and no event has confirmed; true once the watch has connected since.
    unconfirmed: BTreeMap<Box<str>, bool>,
    job_watch: WatchState,
    pod_watch: WatchState,
}

/// A Job of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    pub uid: Box<str>,
    /// RFC 3339
    pub created: Box<str>,
    pub dataset: Dataset,
    pub phase: JobPhase,
}

/// The progress of a Job without that of its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobPhase {
    /// It has no pod that is to go on, and will get one.
    Waiting,
    /// Another program holds it back.
    Suspended,
    /// It has a pod, or is about to end.
    Active,
    /// It has ended, at this time, RFC 3339; with the reason of a failure, such as `DeadlineExceeded`.
    Ended { at: Option<Box<str>>, failure: Option<Box<str>> },
}

/// The effect of an event on one of the two watches.
#[derive(Default)]
pub struct Effect {
    /// The change of the watch's condition.
    pub change: Option<Change>,
    /// The memory is full: another object, or this one, was dropped.
    pub is_full: bool,
    /// The Job of a pod that cannot start, and the reason.
    pub failure: Option<(String, String)>,
}

impl TierJobs {
    /// Returns a tier without Jobs.
    pub fn new(tier: Tier) -> Self {
        Self {
            tier,
            jobs: Store::default(),
            order: BTreeSet::new(),
            pods: Store::default(),
            unconfirmed: BTreeMap::new(),
            job_watch: WatchState::default(),
            pod_watch: WatchState::default(),
        }
    }

    /// Applies an event of the watch of the Jobs. Those of other programs are not kept.
    pub fn apply_job(&mut self, event: &WatchEvent<Job>, now: Instant) -> Effect {
        let mut effect = Effect { change: self.job_watch.follow(event, now), ..Effect::default() };
        match event {
            WatchEvent::Init => self.jobs.begin_list(),
            WatchEvent::InitDone => {
                self.jobs.finish_list(|_| false);
                self.order.retain(|(_, name)| self.jobs.get(name).is_some());
                self.drop_pods_without_job();
            }
            WatchEvent::Apply(job) => match JobRecord::new(job, self.tier) {
                Some(record) => {
                    self.unconfirmed.remove(&*job.name);
                    effect.is_full = !self.insert(&job.name, record);
                }
                None => self.delete_job(&job.name),
            },
            WatchEvent::Delete(job) => self.delete_job(&job.name),
            WatchEvent::Connected => self.drop_unconfirmed(),
            WatchEvent::Failed(_) => {}
        }
        effect
    }

    /// Drops the Jobs that were added before the last watch began and that it did not report: they were deleted at once.
    fn drop_unconfirmed(&mut self) {
        for (name, is_old) in std::mem::take(&mut self.unconfirmed) {
            if is_old {
                self.delete_job(&name);
            } else {
                self.unconfirmed.insert(name, true);
            }
        }
    }

    /// Adds a Job that Kubernetes has just stored, before the event of the watch.
    pub fn add_created(&mut self, name: &str, dataset: Dataset, created: String) {
        if self.jobs.get(name).is_none() {
            let record = JobRecord { uid: "".into(), created: created.into(), dataset, phase: JobPhase::Waiting };
            self.insert(name, record);
            if self.jobs.get(name).is_some() {
                self.unconfirmed.insert(name.into(), false);
            }
        }
    }

    /// Adds or replaces a Job. Returns false if a Job was dropped for lack of room.
    fn insert(&mut self, name: &str, record: JobRecord) -> bool {
        let is_full = self.jobs.len() >= MAX_JOBS && self.jobs.get(name).is_none();
        if is_full {
            let has_ended = |(_, name): &&(Box<str>, Box<str>)| {
                matches!(self.jobs.get(name), Some(JobRecord { phase: JobPhase::Ended { .. }, .. }))
            };
            let Some((_, oldest)) = self.order.iter().find(has_ended).cloned() else { return false };
            self.delete_job(&oldest);
        }
        let (name, created): (Box<str>, _) = (name.into(), record.created.clone());
        let previous = self.jobs.insert(name.clone(), record);
        if let Some(previous) = previous.filter(|previous| previous.created != created) {
            self.order.remove(&(previous.created, name.clone()));
        }
        self.order.insert((created, name));
        !is_full
    }

    /// Removes the Job with this uid, which Kubernetes has begun to delete, before the event of the watch.
    pub fn remove_deleted(&mut self, name: &str, uid: &str) {
        if self.jobs.get(name).is_some_and(|job| *job.uid == *uid) {
            self.delete_job(name);
        }
    }

    fn delete_job(&mut self, name: &str) {
        if let Some(record) = self.jobs.remove(name) {
            self.order.remove(&(record.created, name.into()));
            let deleted: Vec<Box<str>> =
                self.pods_of(name).filter(|(_, pod)| pod.is_deleted).map(|(key, _)| key.into()).collect();
            deleted.iter().for_each(|pod| drop(self.pods.remove(pod)));
        }
    }

    /// Applies an event of the watch of the pods. Those without a Job are not kept. The record of a pod that has ended stays as long as
    /// its Job, because its node may be removed.
    pub fn apply_pod(&mut self, event: &WatchEvent<JobPod>, now: Instant) -> Effect {
        let mut effect = Effect { change: self.pod_watch.follow(event, now), ..Effect::default() };
        match event {
            WatchEvent::Init => self.pods.begin_list(),
            WatchEvent::InitDone => self.pods.finish_list(|pod| {
                pod.is_deleted = true;
                is_result(&self.jobs, pod)
            }),
            WatchEvent::Apply(pod) if pod.job.is_empty() => drop(self.pods.remove(&*pod.name)),
            WatchEvent::Apply(pod) => {
                let previous = self.pods.get(&*pod.name);
                if self.pods.len() >= MAX_PODS && previous.is_none() {
                    effect.is_full = true;
                    return effect;
                }
                let record = PodRecord::new(pod, previous);
                if let Progress::Failing(reason) = &record.progress {
                    effect.failure = Some((pod.job.clone(), reason.clone()));
                }
                self.pods.insert(pod.name.as_str().into(), record);
            }
            WatchEvent::Delete(pod) => match self.pods.get_mut(&*pod.name) {
                Some(record) if is_result(&self.jobs, record) => record.is_deleted = true,
                _ => drop(self.pods.remove(&*pod.name)),
            },
            WatchEvent::Connected | WatchEvent::Failed(_) => {}
        }
        effect
    }

    /// Drops the records that stayed for Jobs that a list did not contain.
    fn drop_pods_without_job(&mut self) {
        let jobs = &self.jobs;
        self.pods.retain(|pod| !pod.is_deleted || is_result(jobs, pod));
    }

    /// Checks that the Jobs and pods are recent enough to be shown.
    ///
    /// # Errors
    /// They were never listed, or are too old.
    pub fn check(&self, now: Instant) -> Result<(), Unavailable> {
        self.job_watch.check(now).and_then(|()| self.pod_watch.check(now))
    }

    /// Marks the watches as failed, for lack of threads.
    pub fn fail(&mut self) {
        self.job_watch.fail();
        self.pod_watch.fail();
    }

    /// Returns the histories of the watches of the Jobs and of their pods.
    pub fn watch_stats(&self, now: Instant) -> [WatchStats; 2] {
        [self.job_watch.stats(now), self.pod_watch.stats(now)]
    }

    /// Returns a Job.
    pub fn job(&self, name: &str) -> Option<&JobRecord> {
        self.jobs.get(name)
    }

    /// Returns the Jobs before this creation time and name, or all, newest first.
    pub fn newest(&self, before: Option<&(Box<str>, Box<str>)>) -> impl Iterator<Item = (&str, &JobRecord)> {
        let before = before.map_or(Bound::Unbounded, Bound::Excluded);
        let order = self.order.range((Bound::Unbounded, before)).rev();
        order.filter_map(|(_, name)| Some((&**name, self.jobs.get(name)?)))
    }

    /// Returns the pod that decides on the Job with this name and uid.
    pub fn pod(&self, job: &str, uid: &str) -> Option<&PodRecord> {
        self.named_pod(job, uid).map(|(_, pod)| pod)
    }

    /// Returns the same pod with its own name.
    pub fn named_pod(&self, job: &str, uid: &str) -> Option<(&str, &PodRecord)> {
        let pods = self.pods_of(job).filter(|(_, pod)| *pod.job_uid == *uid);
        pods.max_by_key(|(_, pod)| pod.rank())
    }

    /// Returns the pods of all Jobs of this name, also of one that is gone.
    fn pods_of(&self, job: &str) -> impl Iterator<Item = (&str, &PodRecord)> {
        let prefix = job.get(..MAX_PREFIX).unwrap_or(job);
        let pods = self.pods.from(prefix).take_while(move |(name, _)| name.starts_with(prefix));
        pods.filter(move |(_, pod)| *pod.job == *job).map(|(name, pod)| (&**name, pod))
    }
}

/// Tests for an ended pod of a Job that exists.
fn is_result(jobs: &Store<Box<str>, JobRecord>, pod: &PodRecord) -> bool {
    matches!(pod.progress, Progress::Ended(_)) && jobs.get(&*pod.job).is_some_and(|job| job.uid == pod.job_uid)
}

impl JobRecord {
    /// Returns the record of a Job, or `None` for one of another program or one that is being deleted.
    pub fn new(job: &Job, tier: Tier) -> Option<Self> {
        let is_ours = job.labels.get(MANAGED_BY.0) == Some(MANAGED_BY.1)
            && JobName::parse(&job.name).is_some_and(|name| name.tier == tier);
        if job.is_being_deleted || !is_ours {
            return None;
        }
        let dataset = Dataset::parse(job.labels.get(DATASET_LABEL)?)?;
        let phase = match (job.end(), job.state()) {
            (Some((end, is_success)), _) => JobPhase::Ended {
                at: Some(end.since.as_str()).filter(|at| !at.is_empty()).map(Into::into),
                failure: (!is_success).then(|| end.reason.as_str().into()),
            },
            _ if job.is_suspended => JobPhase::Suspended,
            (None, JobState::Waiting) => JobPhase::Waiting,
            (None, JobState::Running | JobState::Finished) => JobPhase::Active,
        };
        Some(Self { uid: job.uid.as_str().into(), created: job.created.as_str().into(), dataset, phase })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::WatchedObject;
    use serde_json::{Value, json};

    fn job(name: &str, second: u32, status: &Value) -> Job {
        let created = format!("2026-01-01T00:00:{second:02}Z");
        let labels = json!({MANAGED_BY.0: MANAGED_BY.1, DATASET_LABEL: "kmnist"});
        let name = format!("free-kmnist-{name}");
        let metadata =
            json!({"name": name, "uid": format!("{name}-{second}"), "creationTimestamp": created, "labels": labels});
        Job::parse(&json!({"metadata": metadata, "status": status}).to_string()).expect("JSON")
    }

    fn pod(job: &Job, name: &str, second: u32, phase: &str) -> JobPod {
        let created = format!("2026-01-01T00:00:{second:02}Z");
        let metadata = json!({"name": format!("{}-{name}", job.name), "creationTimestamp": created,
                              "labels": {"job-name": job.name}, "ownerReferences": [{"uid": job.uid}]});
        JobPod::parse(&json!({"metadata": metadata, "status": {"phase": phase}}).to_string()).expect("JSON")
    }

    fn ended() -> Value {
        json!({"conditions": [{"type": "Complete", "status": "True"}]})
    }

    struct Tester(TierJobs);

    impl Tester {
        fn new() -> Self {
            Self(TierJobs::new(Tier::Free))
        }

        fn job(&mut self, event: &WatchEvent<Job>) -> Effect {
            self.0.apply_job(event, Instant::now())
        }

        fn pod(&mut self, event: &WatchEvent<JobPod>) {
            self.0.apply_pod(event, Instant::now());
        }

        fn names(&self) -> Vec<&str> {
            self.0.newest(None).map(|(name, _)| name.trim_start_matches("free-kmnist-")).collect()
        }

        fn progress(&self, job: &Job) -> Option<Progress> {
            self.0.pod(&job.name, &job.uid).map(|pod| pod.progress.clone())
        }
    }

    #[test]
    fn jobs_are_ordered_newest_first_and_those_of_other_programs_are_not_kept() {
        let mut jobs = Tester::new();
        jobs.job(&WatchEvent::Init);
        for (name, second) in [("b", 1), ("a", 1), ("c", 3), ("d", 2)] {
            jobs.job(&WatchEvent::Apply(job(name, second, &json!({}))));
        }
        let labels = json!({DATASET_LABEL: "mnist"});
        let theirs = json!({"metadata": {"name": "free-mnist-x", "labels": labels}});
        jobs.job(&WatchEvent::Apply(Job::parse(&theirs.to_string()).expect("JSON")));
        jobs.job(&WatchEvent::InitDone);
        assert_eq!(jobs.names(), ["c", "d", "b", "a"]);
        let after = ("2026-01-01T00:00:02Z".into(), "free-kmnist-d".into());
        assert_eq!(jobs.0.newest(Some(&after)).count(), 2);
        // A new Job of the same name, one that is being deleted, and one that is gone.
        jobs.job(&WatchEvent::Apply(job("a", 9, &json!({}))));
        let mut deleting = job("d", 2, &json!({}));
        deleting.is_being_deleted = true;
        jobs.job(&WatchEvent::Apply(deleting));
        jobs.job(&WatchEvent::Delete(job("b", 1, &json!({}))));
        assert_eq!(jobs.names(), ["a", "c"]);
        jobs.job(&WatchEvent::Init);
        jobs.job(&WatchEvent::Apply(job("c", 3, &json!({"active": 1}))));
        jobs.job(&WatchEvent::InitDone);
        assert_eq!(jobs.names(), ["c"]);
        assert_eq!(jobs.0.job("free-kmnist-c").map(|job| &job.phase), Some(&JobPhase::Active));
    }

    #[test]
    fn a_job_that_was_just_created_is_known_before_its_event() {
        let mut jobs = Tester::new();
        jobs.0.add_created("free-kmnist-a", Dataset::Kmnist, "2026-01-01T00:00:09Z".into());
        assert_eq!(jobs.names(), ["a"]);
        jobs.job(&WatchEvent::Apply(job("a", 8, &json!({"active": 1}))));
        jobs.0.add_created("free-kmnist-a", Dataset::Kmnist, "2026-01-01T00:00:09Z".into());
        assert_eq!(jobs.names(), ["a"]);
        assert_eq!(&*jobs.0.job("free-kmnist-a").expect("known").created, "2026-01-01T00:00:08Z");
        jobs.job(&WatchEvent::Connected);
        jobs.job(&WatchEvent::Connected);
        assert_eq!(jobs.names(), ["a"]);
        // Its events came before: it was deleted at once.
        jobs.job(&WatchEvent::Delete(job("a", 8, &json!({}))));
        jobs.0.add_created("free-kmnist-a", Dataset::Kmnist, "2026-01-01T00:00:09Z".into());
        jobs.job(&WatchEvent::Connected);
        assert_eq!(jobs.names(), ["a"], "its event may be on its way");
        jobs.job(&WatchEvent::Connected);
        assert!(jobs.names().is_empty());
    }

    #[test]
    fn the_oldest_ended_job_makes_room_for_a_new_one() {
        let mut jobs = Tester::new();
        jobs.job(&WatchEvent::Apply(job("runs", 0, &json!({"active": 1}))));
        for number in 1..MAX_JOBS {
            jobs.job(&WatchEvent::Apply(job(&number.to_string(), u32::from(number > 7), &ended())));
        }
        assert!(jobs.job(&WatchEvent::Apply(job("new", 9, &json!({})))).is_full);
        assert_eq!(jobs.0.jobs.len(), MAX_JOBS);
        assert_eq!(jobs.0.order.len(), MAX_JOBS);
        assert!(jobs.names().contains(&"runs"));
        assert!(jobs.0.job("free-kmnist-1").is_none() && jobs.0.job("free-kmnist-new").is_some());
    }

    #[test]
    fn the_pod_that_is_to_go_on_decides_and_then_the_newest() {
        let (mut jobs, owner) = (Tester::new(), job("j", 0, &json!({})));
        let other = job("j-other", 0, &json!({}));
        jobs.pod(&WatchEvent::Apply(pod(&other, "1", 9, "Running")));
        assert_eq!(jobs.progress(&owner), None);
        jobs.pod(&WatchEvent::Apply(pod(&owner, "2", 2, "Failed")));
        assert_eq!(jobs.progress(&owner), Some(Progress::Ended(Some("its pod failed".to_owned()))));
        jobs.pod(&WatchEvent::Apply(pod(&owner, "1", 1, "Succeeded")));
        assert_eq!(jobs.progress(&owner), Some(Progress::Ended(None)));
        jobs.pod(&WatchEvent::Apply(pod(&owner, "0", 0, "Running")));
        assert_eq!(jobs.progress(&owner), Some(Progress::Running));
        assert_eq!(jobs.progress(&job("j", 9, &json!({}))), None, "a new Job of the same name");
    }

    #[test]
    fn the_record_of_an_ended_pod_stays_as_long_as_its_job() {
        let (mut jobs, owner) = (Tester::new(), job("j", 0, &ended()));
        let running = job("k", 0, &json!({"active": 1}));
        jobs.job(&WatchEvent::Apply(owner.clone()));
        jobs.job(&WatchEvent::Apply(running.clone()));
        jobs.pod(&WatchEvent::Apply(pod(&owner, "1", 1, "Succeeded")));
        jobs.pod(&WatchEvent::Apply(pod(&running, "1", 1, "Running")));
        jobs.pod(&WatchEvent::Delete(pod(&owner, "1", 1, "Succeeded")));
        jobs.pod(&WatchEvent::Init);
        jobs.pod(&WatchEvent::InitDone);
        assert_eq!((jobs.progress(&owner), jobs.progress(&running)), (Some(Progress::Ended(None)), None));
        jobs.job(&WatchEvent::Init);
        jobs.job(&WatchEvent::Apply(running));
        jobs.job(&WatchEvent::InitDone);
        assert_eq!(jobs.0.pods.len(), 0);
        jobs.job(&WatchEvent::Apply(owner.clone()));
        jobs.pod(&WatchEvent::Apply(pod(&owner, "1", 1, "Succeeded")));
        jobs.job(&WatchEvent::Init);
        jobs.job(&WatchEvent::InitDone);
        assert_eq!(jobs.0.pods.len(), 1, "it exists, and its Job may be newer than the list");
        jobs.job(&WatchEvent::Apply(owner.clone()));
        jobs.pod(&WatchEvent::Delete(pod(&owner, "1", 1, "Succeeded")));
        jobs.job(&WatchEvent::Delete(owner));
        assert_eq!(jobs.0.pods.len(), 0);
    }
}
