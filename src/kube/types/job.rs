//! The fields of a Job that this program reads.

use crate::kube::types::watched::{Pairs, WatchedObject};

/// Maximum index of a list item: a pod has a few containers. A malformed list must not exhaust the memory.
const MAX_INDEX: usize = 1000;

/// The progress of a Job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// The Job has no pod yet, and will get one.
    Waiting,
    /// The Job has an unfinished pod.
    Running,
    /// The Job is complete, failed, suspended or being deleted: more quota would not start it. A Job with a failed pod
    /// counts as finished, although its backoffLimit may allow another pod; our Jobs allow none.
    Finished,
}

/// A Job.
#[derive(Debug, Clone, Default)]
pub struct Job {
    pub name: String,
    /// metadata.uid: a Job of the same name has another.
    pub uid: String,
    /// metadata.resourceVersion
    pub version: String,
    /// metadata.creationTimestamp, RFC 3339 in whole seconds of UTC, so that the order of texts is the order of times.
    pub created: String,
    pub labels: Pairs,
    pub annotations: Pairs,
    /// status.startTime, when the controller first handled the Job. The Job may have waited since.
    pub started: Option<String>,
    /// The resources of its pod's containers.
    pub containers: Vec<Resources>,
    /// metadata.deletionTimestamp is set.
    pub is_being_deleted: bool,
    /// spec.suspend
    pub is_suspended: bool,
    is_active: bool,
    has_finished_pod: bool,
    conditions: Vec<JobCondition>,
}

/// A condition of a Job.
#[derive(Debug, Clone, Default)]
pub struct JobCondition {
    kind: String,
    status: String,
    pub reason: String,
    /// lastTransitionTime, RFC 3339
    pub since: String,
}

/// The resources of a container, by name.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    pub requests: Pairs,
    pub limits: Pairs,
}

impl Job {
    /// Returns the Job's progress.
    pub fn state(&self) -> JobState {
        match () {
            () if self.is_being_deleted || self.is_suspended || self.end().is_some() => JobState::Finished,
            () if self.is_active => JobState::Running,
            () if self.has_finished_pod => JobState::Finished,
            () => JobState::Waiting,
        }
    }

    /// Returns the condition that ended the Job, and true if that is its success.
    pub fn end(&self) -> Option<(&JobCondition, bool)> {
        let is_end = |condition: &&JobCondition| {
            matches!(condition.kind.as_str(), "Complete" | "Failed") && condition.status == "True"
        };
        self.conditions.iter().find(is_end).map(|condition| (condition, condition.kind == "Complete"))
    }
}

impl WatchedObject for Job {
    fn set(&mut self, path: &[&str], leaf: &str) {
        let text = || leaf.to_owned();
        match path {
            ["metadata", "name"] => self.name = text(),
            ["metadata", "uid"] => self.uid = text(),
            ["metadata", "resourceVersion"] => self.version = text(),
            ["metadata", "creationTimestamp"] => self.created = text(),
            ["metadata", "deletionTimestamp"] => self.is_being_deleted = true,
            ["metadata", "labels", key] => self.labels.add(key, leaf),
            ["metadata", "annotations", key] => self.annotations.add(key, leaf),
            ["spec", "suspend"] => self.is_suspended = leaf == "true",
            ["spec", "template", "spec", "containers", index, "resources", list, resource] => {
                let container = item(&mut self.containers, index);
                let amounts = if *list == "limits" { &mut container.limits } else { &mut container.requests };
                amounts.add(resource, leaf);
            }
            ["status", "active"] => self.is_active = leaf != "0",
            ["status", "succeeded" | "failed"] => self.has_finished_pod |= leaf != "0",
            // Its pod has ended, and the controller has not counted it yet.
            ["status", "uncountedTerminatedPods", ..] => self.has_finished_pod = true,
            ["status", "startTime"] => self.started = Some(text()),
            ["status", "conditions", index, field] => {
                let condition = item(&mut self.conditions, index);
                match *field {
                    "type" => condition.kind = text(),
                    "status" => condition.status = text(),
                    "reason" => condition.reason = text(),
                    "lastTransitionTime" => condition.since = text(),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        &self.version
    }
}

/// Returns the list's item at this index; adds items as needed.
pub(in crate::kube) fn item<'a, T: Default>(list: &'a mut Vec<T>, index: &str) -> &'a mut T {
    let index = index.parse().unwrap_or(MAX_INDEX).min(MAX_INDEX);
    if list.len() <= index {
        list.resize_with(index + 1, T::default);
    }
    &mut list[index]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_waits_while_it_has_no_pod_and_is_to_have_one() {
        let complete = r#"{"succeeded":1,"conditions":[{"status":"True","type":"Complete","reason":null}]}"#;
        for (spec, status, metadata, state) in [
            ("{}", "{}", "", JobState::Waiting),
            ("null", "null", "", JobState::Waiting),
            (r#"{"suspend":false}"#, r#"{"active":0,"conditions":null}"#, "", JobState::Waiting),
            (
                "{}",
                r#"{"conditions":[{"type":"Suspended","status":"True"},{"type":"Failed","status":"False"}]}"#,
                "",
                JobState::Waiting,
            ),
            (
                "{}",
                r#"{"conditions":[{"type":"Suspended","status":"False"},{"type":"Failed","status":"True"}]}"#,
                "",
                JobState::Finished,
            ),
            ("{}", r#"{"active":1,"ready":0}"#, "", JobState::Running),
            ("{}", complete, "", JobState::Finished),
            ("{}", r#"{"failed":1}"#, "", JobState::Finished),
            ("{}", r#"{"uncountedTerminatedPods":{}}"#, "", JobState::Waiting),
            ("{}", r#"{"uncountedTerminatedPods":{"succeeded":["uid"]}}"#, "", JobState::Finished),
            (r#"{"suspend":true}"#, "{}", "", JobState::Finished),
            ("{}", r#"{"active":1}"#, r#","deletionTimestamp":"2026-01-01T00:00:00Z""#, JobState::Finished),
        ] {
            let text =
                format!(r#"{{"metadata":{{"name":"a"{metadata}}},"spec":{spec},"status":{status},"x":[1.5,[]]}}"#);
            assert_eq!(Job::parse(&text).expect(&text).state(), state, "{text}");
        }
    }

    #[test]
    fn the_resources_of_the_containers_are_kept() {
        let containers = r#"[{"name":"c"},{"resources":{"limits":{"cpu":"900m","memory":1},"requests":null}}]"#;
        let metadata =
            r#"{"annotations":{"a/b":"c"},"creationTimestamp":"2026-01-01T00:00:00Z","resourceVersion":"7"}"#;
        let text =
            format!(r#"{{"metadata":{metadata},"spec":{{"template":{{"spec":{{"containers":{containers}}}}}}}}}"#);
        let job = Job::parse(&text).expect("a Job");
        assert_eq!((job.containers.len(), job.containers[1].limits.get("cpu")), (2, Some("900m")));
        assert_eq!((job.containers[1].limits.get("memory"), job.version.as_str()), (Some("1"), "7"));
        assert!(job.containers[1].requests.get("cpu").is_none() && job.annotations.get("a/b") == Some("c"));
    }
}
