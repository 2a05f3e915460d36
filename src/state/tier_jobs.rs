//! The Jobs of one tier with their pods, as the watches leave them. Pure.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::job::{Dataset, MANAGED_BY};
use crate::kube::{Job, JobPod, WatchEvent};
use crate::state::pod_record::{PodRecord, Progress};
use crate::state::store::Store;
use crate::state::watch_state::{Change, Unavailable, WatchState};

/// Maximum number of Jobs, and of pods, in memory, of 400 bytes each. The quota of k8s/ allows 300 free Jobs.
pub const MAX_OBJECTS: usize = 20_000;

/// The Jobs of one tier.
#[derive(Default)]
pub struct TierJobs {
    jobs: Store<Box<str>, JobRecord>,
    /// Creation time and name: the order of GET /jobs, from the end.
    order: BTreeSet<(Box<str>, Box<str>)>,
    /// By the names of Job and pod.
    pods: Store<(Box<str>, Box<str>), PodRecord>,
    job_watch: WatchState,
    pod_watch: WatchState,
}

/// A Job of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    /// RFC 3339
    pub created: Box<str>,
    pub dataset: Dataset,
    pub phase: JobPhase,
}

/// What Kubernetes tells of a Job itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobPhase {
    /// It has no pod yet.
    Waiting,
    /// Another program holds it back.
    Suspended,
    /// It has a pod.
    Active,
    /// It has ended, at this time, RFC 3339; with the reason of a failure, such as `DeadlineExceeded`.
    Ended { at: Box<str>, failure: Option<Box<str>> },
}

/// The effect of an event on one of the two watches.
#[derive(Default)]
pub struct Effect {
    /// The change of the watch's condition.
    pub change: Option<Change>,
    /// The memory is full; the object was dropped.
    pub is_full: bool,
    /// The Job of a pod that cannot start, and the reason.
    pub failure: Option<(String, String)>,
}

impl TierJobs {
    /// Applies an event of the watch of the Jobs. Those of other programs are not kept.
    pub fn apply_job(&mut self, event: &WatchEvent<Job>, now: Instant) -> Effect {
        let mut effect = Effect { change: self.job_watch.follow(event, now), ..Effect::default() };
        match event {
            WatchEvent::Init => self.jobs.begin_list(),
            WatchEvent::InitDone => {
                self.jobs.finish_list();
                self.order.retain(|(_, name)| self.jobs.get(name).is_some());
            }
            WatchEvent::Apply(job) => match JobRecord::new(job) {
                Some(_) if self.jobs.len() >= MAX_OBJECTS && self.jobs.get(&*job.name).is_none() => {
                    effect.is_full = true;
                }
                Some(record) => {
                    let (name, created): (Box<str>, _) = (job.name.as_str().into(), record.created.clone());
                    let previous = self.jobs.insert(name.clone(), record);
                    if let Some(previous) = previous.filter(|previous| previous.created != created) {
                        self.order.remove(&(previous.created, name.clone()));
                    }
                    self.order.insert((created, name));
                }
                None => self.delete_job(&job.name),
            },
            WatchEvent::Delete(job) => self.delete_job(&job.name),
            WatchEvent::Connected | WatchEvent::Failed(_) => {}
        }
        effect
    }

    fn delete_job(&mut self, name: &str) {
        if let Some(record) = self.jobs.remove(name) {
            self.order.remove(&(record.created, name.into()));
        }
    }

    /// Applies an event of the watch of the pods. Those without a Job are not kept.
    pub fn apply_pod(&mut self, event: &WatchEvent<JobPod>, now: Instant) -> Effect {
        let mut effect = Effect { change: self.pod_watch.follow(event, now), ..Effect::default() };
        let key = |pod: &JobPod| (pod.job.as_str().into(), pod.name.as_str().into());
        match event {
            WatchEvent::Init => self.pods.begin_list(),
            WatchEvent::InitDone => self.pods.finish_list(),
            WatchEvent::Apply(pod) if pod.job.is_empty() => {}
            WatchEvent::Apply(pod) => {
                let key = key(pod);
                let previous = self.pods.get(&key);
                if self.pods.len() >= MAX_OBJECTS && previous.is_none() {
                    effect.is_full = true;
                    return effect;
                }
                let record = PodRecord::new(pod, previous);
                if let Progress::Failing(reason) = &record.progress {
                    effect.failure = Some((pod.job.clone(), reason.clone()));
                }
                self.pods.insert(key, record);
            }
            WatchEvent::Delete(pod) => drop(self.pods.remove(&key(pod))),
            WatchEvent::Connected | WatchEvent::Failed(_) => {}
        }
        effect
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

    /// Returns a Job.
    pub fn job(&self, name: &str) -> Option<&JobRecord> {
        self.jobs.get(name)
    }

    /// Returns the Jobs before this creation time and name, or all, newest first.
    pub fn newest(&self, before: Option<&(Box<str>, Box<str>)>) -> impl Iterator<Item = (&str, &JobRecord)> {
        let before = before.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let order = self.order.range((std::ops::Bound::Unbounded, before)).rev();
        order.filter_map(|(_, name)| Some((&**name, self.jobs.get(name)?)))
    }

    /// Returns the pod that decides on a Job, of several.
    pub fn pod(&self, job: &str) -> Option<&PodRecord> {
        let first = (Box::from(job), Box::default());
        let pods = self.pods.from(&first).take_while(|((owner, _), _)| **owner == *job).map(|(_, pod)| pod);
        pods.max_by_key(|pod| pod.rank())
    }
}

impl JobRecord {
    /// Returns the record of a Job, or `None` for one of another program or one that is being deleted.
    fn new(job: &Job) -> Option<Self> {
        if job.is_being_deleted || job.labels.get(MANAGED_BY.0) != Some(MANAGED_BY.1) {
            return None;
        }
        let dataset = Dataset::parse(job.labels.get("img-classification/dataset")?)?;
        let phase = match job.end() {
            Some((end, is_success)) => JobPhase::Ended {
                at: end.since.as_str().into(),
                failure: (!is_success).then(|| end.reason.as_str().into()),
            },
            None if job.is_suspended => JobPhase::Suspended,
            None if job.is_active => JobPhase::Active,
            None => JobPhase::Waiting,
        };
        Some(Self { created: job.created.as_str().into(), dataset, phase })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::WatchedObject;
    use serde_json::{Value, json};

    fn job(name: &str, second: u32, status: &Value) -> Job {
        let created = format!("2026-01-01T00:00:{second:02}Z");
        let labels = json!({MANAGED_BY.0: MANAGED_BY.1, "img-classification/dataset": "kmnist"});
        let metadata = json!({"name": name, "creationTimestamp": created, "labels": labels});
        Job::parse(&json!({"metadata": metadata, "status": status}).to_string()).expect("JSON")
    }

    fn pod(job: &str, name: &str, created: &str, phase: &str) -> WatchEvent<JobPod> {
        let metadata = json!({"name": name, "creationTimestamp": created, "labels": {"job-name": job}});
        WatchEvent::Apply(
            JobPod::parse(&json!({"metadata": metadata, "status": {"phase": phase}}).to_string()).expect("JSON"),
        )
    }

    fn names(jobs: &TierJobs) -> Vec<&str> {
        jobs.newest(None).map(|(name, _)| name).collect()
    }

    #[test]
    fn jobs_are_ordered_newest_first_and_those_of_other_programs_are_not_kept() {
        let (mut jobs, now) = (TierJobs::default(), Instant::now());
        jobs.apply_job(&WatchEvent::Init, now);
        for (name, second) in [("b", 1), ("a", 1), ("c", 3), ("d", 2)] {
            jobs.apply_job(&WatchEvent::Apply(job(name, second, &json!({}))), now);
        }
        let theirs = json!({"metadata": {"name": "x", "labels": {"img-classification/dataset": "mnist"}}});
        jobs.apply_job(&WatchEvent::Apply(Job::parse(&theirs.to_string()).expect("JSON")), now);
        jobs.apply_job(&WatchEvent::InitDone, now);
        assert_eq!(names(&jobs), ["c", "d", "b", "a"]);
        let after = ("2026-01-01T00:00:02Z".into(), "d".into());
        assert_eq!(jobs.newest(Some(&after)).map(|(name, _)| name).collect::<Vec<_>>(), ["b", "a"]);
        // A new Job of the same name, one that is being deleted, and one that is gone.
        jobs.apply_job(&WatchEvent::Apply(job("a", 9, &json!({}))), now);
        let mut deleting = job("d", 2, &json!({}));
        deleting.is_being_deleted = true;
        jobs.apply_job(&WatchEvent::Apply(deleting), now);
        jobs.apply_job(&WatchEvent::Delete(job("b", 1, &json!({}))), now);
        assert_eq!(names(&jobs), ["a", "c"]);
        jobs.apply_job(&WatchEvent::Init, now);
        jobs.apply_job(&WatchEvent::Apply(job("c", 3, &json!({"active": 1}))), now);
        jobs.apply_job(&WatchEvent::InitDone, now);
        assert_eq!(names(&jobs), ["c"]);
        assert_eq!(jobs.job("c").map(|job| &job.phase), Some(&JobPhase::Active));
    }

    #[test]
    fn of_several_pods_one_that_has_not_ended_decides_and_then_the_newest() {
        let (mut jobs, now) = (TierJobs::default(), Instant::now());
        let progress = |jobs: &TierJobs| jobs.pod("j").map(|pod| pod.progress.clone());
        jobs.apply_pod(&pod("j-other", "j-other-1", "2026-01-01T00:00:00Z", "Running"), now);
        assert_eq!(progress(&jobs), None);
        jobs.apply_pod(&pod("j", "j-2", "2026-01-01T00:00:02Z", "Failed"), now);
        jobs.apply_pod(&pod("j", "j-1", "2026-01-01T00:00:01Z", "Succeeded"), now);
        assert_eq!(progress(&jobs), Some(Progress::Ended(Some("its pod failed".to_owned()))));
        jobs.apply_pod(&pod("j", "j-0", "2026-01-01T00:00:00Z", "Running"), now);
        assert_eq!(progress(&jobs), Some(Progress::Running));
    }
}
