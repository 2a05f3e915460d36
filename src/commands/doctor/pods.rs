//! Checks of the pods and Jobs that this program created: image pulls, failures and leftovers.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::commands::output::Check;
use crate::job::{self, MANAGED_SELECTOR, Tier};
use crate::kube::{Client, Error};

/// Reasons of a waiting container that time alone does not resolve, from pkg/kubelet/images and pkg/kubelet/kuberuntime of
/// Kubernetes.
const PULL_FAILURES: [&str; 9] = [
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// Largest number of different failures in the report: more of them usually share a cause.
const MAX_FAILURES: usize = 3;

/// Longest part of a kubelet's message in the report, in characters from its end, where the cause is.
const MAX_MESSAGE_CHARS: usize = 300;

/// Checks for containers that cannot start and for failed pods.
///
/// # Errors
/// [`Error`]
pub fn pull(kube: &Client) -> Result<Vec<Check>, Error> {
    let pods = kube.list(&format!("/api/v1/pods?{MANAGED_SELECTOR}"))?;
    let mut checks: Vec<Check> = pull_failures(&pods)
        .into_iter()
        .take(MAX_FAILURES)
        .map(|mut failure| {
            if failure.reason == "ImagePullBackOff" {
                // The message only reports the wait; an event of the pod has the cause.
                failure.message = cause(kube, failure.pod).unwrap_or(failure.message);
            }
            failure.check()
        })
        .collect();
    if checks.is_empty() {
        checks.push(Check::ok("pull", format!("none of the {} pods of this program waits for its image", pods.len())));
    }
    checks.extend(failures(&pods));
    Ok(checks)
}

/// Pods that wait for the same image and reason.
struct PullFailure<'a> {
    pod: &'a Value,
    others: usize,
    image: &'a str,
    reason: &'a str,
    message: String,
}

fn pull_failures(pods: &[Value]) -> Vec<PullFailure<'_>> {
    let mut found: BTreeMap<(&str, &str), PullFailure<'_>> = BTreeMap::new();
    for pod in pods {
        let status = &pod["status"];
        let lists = [&status["initContainerStatuses"], &status["containerStatuses"]];
        for container in lists.into_iter().filter_map(Value::as_array).flatten() {
            let waiting = &container["state"]["waiting"];
            let (reason, image) = (text(&waiting["reason"]), text(&container["image"]));
            if PULL_FAILURES.contains(&reason) {
                let message = text(&waiting["message"]).to_owned();
                let failure = PullFailure { pod, others: 0, image, reason, message };
                found.entry((image, reason)).and_modify(|first| first.others += 1).or_insert(failure);
            }
        }
    }
    found.into_values().collect()
}

impl PullFailure<'_> {
    fn check(&self) -> Check {
        let others = if self.others == 0 { String::new() } else { format!(" and {} more", self.others) };
        let skipped = self.message.chars().count().saturating_sub(MAX_MESSAGE_CHARS);
        let message: String = self.message.chars().skip(skipped).collect();
        let (meaning, fix) = meaning(self.reason, &self.message);
        let (pod, image, reason) = (name(self.pod), self.image, self.reason);
        Check::fail(
            "pull",
            format!("{pod}{others}: {reason} for {image}: {meaning}; message of the kubelet: {message}"),
            fix,
        )
    }
}

/// Words of container runtimes and registries, their meaning and the fix. The first match wins.
const MEANINGS: [(&[&str], &str, &str); 6] = [
    (
        &["no match for platform", "exec format error", "does not match the specified platform"],
        "the image is for another CPU architecture",
        "docker build --platform linux/amd64, then push it again",
    ),
    (
        &["toomanyrequests", "rate limit"],
        "the pull limit of Docker Hub for this address is reached",
        "push it to ECR, and set --image to the name there",
    ),
    (
        &["denied", "unauthorized", "authorization failed", "no basic auth", "401", "403"],
        "the image does not exist, or the nodes may not pull it",
        "aws ecr describe-images --repository-name NAME; the nodes' role needs AmazonEC2ContainerRegistryPullOnly: aws iam \
         attach-role-policy",
    ),
    (
        &["not found", "notfound", "manifest unknown"],
        "the image or tag does not exist",
        "docker push IMAGE, or set another --image; aws ecr describe-images lists the existing ones",
    ),
    (
        &["no such host", "dial tcp", "timeout", "connection refused", "server misbehaving"],
        "the nodes cannot reach the registry",
        "check its name, and the outbound route of the nodes: a NAT gateway or a VPC endpoint",
    ),
    (&[], "the node cannot start it", "kubectl describe pod, with that name and namespace"),
];

/// Returns the meaning of a kubelet's message and the fix.
fn meaning(reason: &str, message: &str) -> (&'static str, &'static str) {
    match reason {
        "InvalidImageName" => {
            return ("the image name is invalid", "set --image or CLASSIFIER_IMAGE to REGISTRY/NAME:TAG");
        }
        "ErrImageNeverPull" => {
            return (
                "the node does not have the image and may not pull it",
                "set imagePullPolicy: IfNotPresent in its template",
            );
        }
        _ => {}
    }
    let message = message.to_ascii_lowercase();
    let fits = |words: &[&str]| words.is_empty() || words.iter().any(|word| message.contains(word));
    let found = MEANINGS.iter().find(|(words, ..)| fits(words));
    let (_, meaning, fix) = found.expect("the last entry matches everything");
    (meaning, fix)
}

/// Returns the kubelet's message about its last pull. Returns `None` if the events are not permitted or have expired.
fn cause(kube: &Client, pod: &Value) -> Option<String> {
    let namespace = text(&pod["metadata"]["namespace"]);
    let selector = format!("involvedObject.name%3D{}%2Creason%3DFailed", text(&pod["metadata"]["name"]));
    let events = kube.list(&format!("/api/v1/namespaces/{namespace}/events?fieldSelector={selector}")).ok()?;
    let mut messages = events.iter().map(|event| text(&event["message"]));
    messages.rfind(|message| message.starts_with("Failed to pull")).map(str::to_owned)
}

/// Reports the number of failed pods and the end of the last one.
fn failures(pods: &[Value]) -> Option<Check> {
    let failed: Vec<&Value> = pods.iter().filter(|pod| pod["status"]["phase"] == "Failed").collect();
    let last = failed.iter().max_by_key(|pod| text(&pod["metadata"]["creationTimestamp"]))?;
    let statuses = last["status"]["containerStatuses"].as_array().into_iter().flatten();
    let ended = statuses.map(|container| &container["state"]["terminated"]).find(|ended| ended["exitCode"].is_i64());
    let how = match ended {
        Some(ended) => format!("ended with exit code {} ({})", ended["exitCode"], text(&ended["reason"])),
        None => format!("was ended by Kubernetes: {}", text(&last["status"]["reason"])),
    };
    let meaning = match ended.and_then(|ended| ended["exitCode"].as_i64()) {
        Some(126..=128) => "; its command cannot run: it is missing in the image or for another CPU architecture",
        Some(137) => "; it was killed: the node was out of memory, or the pod was deleted",
        _ => "",
    };
    let text = format!("failed pods of this program: {}; the last, {}, {how}{meaning}", failed.len(), name(last));
    let (namespace, pod) = (self::text(&last["metadata"]["namespace"]), self::text(&last["metadata"]["name"]));
    Some(Check::warning("failed pods", text, format!("kubectl logs {pod} -n {namespace}")))
}

/// Checks for Jobs that already exist, since the autograder counts their pods.
///
/// # Errors
/// [`Error`]
pub fn leftover(kube: &Client) -> Result<Vec<Check>, Error> {
    let mut found = Vec::new();
    let pods = kube.list(&format!("/api/v1/pods?{MANAGED_SELECTOR}"))?;
    for namespace in Tier::ALL.map(Tier::namespace) {
        let jobs = kube.list(&format!("/apis/batch/v1/namespaces/{namespace}/jobs?{MANAGED_SELECTOR}"))?;
        found.extend(count(&jobs, &pods).map(|counts| format!("{counts} in {namespace}")));
    }
    Ok(vec![match found.as_slice() {
        [] => Check::ok("leftover Jobs", "no Jobs of this program exist"),
        found => {
            let text = format!("{}; the autograder counts their pods as well", found.join("; "));
            Check::warning("leftover Jobs", text, "img-classification clean")
        }
    }])
}

/// Counts Jobs by state. Returns `None` if `jobs` is empty. The number of active pods in a Job's status includes those that wait, so the
/// pods decide.
fn count(jobs: &[Value], pods: &[Value]) -> Option<String> {
    let (mut finished, mut running, mut pending, mut queued) = (0, 0, 0, 0);
    for job in jobs {
        let mut conditions = job["status"]["conditions"].as_array().into_iter().flatten();
        let is_finished = |condition: &Value| {
            matches!(condition["type"].as_str(), Some("Complete" | "Failed")) && condition["status"] == "True"
        };
        let has_pod = |phase: &str| pods.iter().any(|pod| is_of(pod, job) && pod["status"]["phase"] == phase);
        if conditions.any(is_finished) {
            finished += 1;
        } else if has_pod("Running") {
            running += 1;
        } else if has_pod("Pending") {
            pending += 1;
        } else {
            queued += 1;
        }
    }
    let counts = || format!("{finished} finished, {running} running, {pending} pending, {queued} queued");
    (!jobs.is_empty()).then(counts)
}

/// Tests for a pod of this Job.
fn is_of(pod: &Value, job: &Value) -> bool {
    job::owner(pod).is_some_and(|owner| owner["uid"] == job["metadata"]["uid"])
}

fn name(pod: &Value) -> String {
    format!("{}/{}", text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn waiting(name: &str, reason: &str, message: &str) -> Value {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        json!({"metadata": {"name": name, "namespace": "default"},
               "status": {"phase": "Pending", "containerStatuses": [{"image": "r/a:1", "state": state}]}})
    }

    #[test]
    fn each_pull_failure_has_a_meaning_and_a_fix() {
        let table = [
            (
                "ErrImagePull",
                "rpc error: code = NotFound desc = r/a:1: not found",
                "image or tag does not exist",
                "docker push",
            ),
            (
                "ErrImagePull",
                "pull access denied, repository does not exist",
                "not exist, or the nodes",
                "attach-role-policy",
            ),
            ("ErrImagePull", "unexpected status: 403 Forbidden", "the nodes may not pull it", "PullOnly"),
            ("ErrImagePull", "no match for platform in manifest: not found", "another CPU architecture", "--platform"),
            ("ErrImagePull", "dial tcp: lookup r: no such host", "cannot reach the registry", "outbound route"),
            ("ErrImagePull", "toomanyrequests: You have reached", "Docker Hub", "ECR"),
            ("ErrImagePull", "", "cannot start it", "kubectl describe pod"),
            ("InvalidImageName", "couldn't parse", "image name is invalid", "--image"),
            ("ErrImageNeverPull", "", "may not pull it", "IfNotPresent"),
            ("CreateContainerConfigError", "secret \"x\" missing", "cannot start it", "kubectl describe pod"),
            ("RunContainerError", "exec format error", "another CPU architecture", "--platform"),
        ];
        for (reason, message, words, fix) in table {
            let pods = [waiting("p", reason, message), waiting("q", reason, message)];
            let found = pull_failures(&pods);
            assert_eq!(found.len(), 1, "{reason}");
            let check = found[0].check();
            let start = format!("default/p and 1 more: {reason} for r/a:1: ");
            assert!(check.text.starts_with(&start) && check.text.contains(words), "{}", check.text);
            assert!(check.fix.as_ref().is_some_and(|found| found.contains(fix)), "{:?}", check.fix);
        }
        for harmless in ["ContainerCreating", "PodInitializing", ""] {
            assert!(pull_failures(&[waiting("p", harmless, "")]).is_empty(), "{harmless}");
        }
    }

    #[test]
    fn the_last_failure_is_reported_with_its_exit_code() {
        let failed = |name: &str, time: &str, code: i64| {
            json!({"metadata": {"name": name, "namespace": "default", "creationTimestamp": time},
                   "status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": code, "reason": "Error"}}}]}})
        };
        let pods = [failed("new", "2026-01-02T00:00:00Z", 127), failed("old", "2026-01-01T00:00:00Z", 1)];
        let check = failures(&pods).expect("two failed");
        assert!(
            check.text.starts_with(
                "failed pods of this program: 2; the last, default/new, ended with exit code 127 (Error); its"
            ),
            "{}",
            check.text
        );
        assert_eq!(check.fix.as_deref(), Some("kubectl logs new -n default"));
        let evicted = json!({"metadata": {"name": "e", "namespace": "default"}, "status": {"phase": "Failed", "reason": "Evicted"}});
        assert!(failures(&[evicted]).is_some_and(|check| check.text.ends_with("was ended by Kubernetes: Evicted")));
        assert!(failures(&[]).is_none());
    }

    #[test]
    fn jobs_are_counted_by_state() {
        let job = |uid: &str| json!({"metadata": {"uid": uid}, "status": {"active": 1}});
        let mut finished = job("f");
        finished["status"]["conditions"] = json!([{"type": "Complete", "status": "True"}]);
        let pod = |uid: &str, phase: &str| json!({"metadata": {"ownerReferences": [{"kind": "Job", "uid": uid}]}, "status": {"phase": phase}});
        let jobs = [finished, job("r"), job("p"), job("q"), job("")];
        let pods = [pod("f", "Succeeded"), pod("r", "Running"), pod("p", "Pending"), pod("other", "Running")];
        assert_eq!(count(&jobs, &pods).as_deref(), Some("1 finished, 1 running, 1 pending, 2 queued"));
        assert_eq!(count(&[], &[]), None);
    }
}
