//! What became of the pods and Jobs that this program made: images that cannot be had, failures, and what is left over.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::commands::clean::OURS;
use crate::commands::output::Finding;
use crate::job::Tier;
use crate::kube::{Client, Error};

/// A container that waits for one of these does not get further by waiting, from pkg/kubelet/images and
/// pkg/kubelet/kuberuntime of Kubernetes.
const STUCK: [&str; 9] = [
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

/// Different troubles that are told of: more of them have one cause.
const TROUBLES_SHOWN: usize = 3;

/// Most of a kubelet's message that is shown, in characters, from its end: there stands the cause.
const MESSAGE_SHOWN: usize = 300;

/// Pods whose containers cannot be started, and pods that failed.
///
/// # Errors
/// [`Error`]
pub fn pull(kube: &Client) -> Result<Vec<Finding>, Error> {
    let pods = kube.list(&format!("/api/v1/pods?{OURS}"))?;
    let mut findings: Vec<Finding> = troubles(&pods)
        .into_iter()
        .take(TROUBLES_SHOWN)
        .map(|mut trouble| {
            if trouble.reason == "ImagePullBackOff" {
                // That says only that the kubelet waits; why is in an event of the pod's.
                trouble.message = cause(kube, trouble.pod).unwrap_or(trouble.message);
            }
            trouble.finding()
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok("pull", format!("none of the {} pods of ours waits for its image", pods.len())));
    }
    findings.extend(failures(&pods));
    Ok(findings)
}

/// Pods that wait for the same reason.
struct Trouble<'a> {
    pod: &'a Value,
    others: usize,
    image: &'a str,
    reason: &'a str,
    message: String,
}

fn troubles(pods: &[Value]) -> Vec<Trouble<'_>> {
    let mut found: BTreeMap<(&str, &str), Trouble<'_>> = BTreeMap::new();
    for pod in pods {
        let status = &pod["status"];
        let lists = [&status["initContainerStatuses"], &status["containerStatuses"]];
        for container in lists.into_iter().filter_map(Value::as_array).flatten() {
            let waiting = &container["state"]["waiting"];
            let (reason, image) = (text(&waiting["reason"]), text(&container["image"]));
            if STUCK.contains(&reason) {
                let message = text(&waiting["message"]).to_owned();
                let trouble = Trouble { pod, others: 0, image, reason, message };
                found.entry((image, reason)).and_modify(|first| first.others += 1).or_insert(trouble);
            }
        }
    }
    found.into_values().collect()
}

impl Trouble<'_> {
    fn finding(&self) -> Finding {
        let others = if self.others == 0 { String::new() } else { format!(" and {} more", self.others) };
        let skipped = self.message.chars().count().saturating_sub(MESSAGE_SHOWN);
        let message: String = self.message.chars().skip(skipped).collect();
        let (meaning, fix) = meaning(self.reason, &self.message);
        let (pod, image, reason) = (name(self.pod), self.image, self.reason);
        Finding::fail(
            "pull",
            format!("{pod}{others}: {reason} for {image}: {meaning}; the kubelet says: {message}"),
            fix,
        )
    }
}

/// Words of container runtimes and registries, what they mean, and what is to be done; the first that fit count.
const MEANINGS: [(&[&str], &str, &str); 6] = [
    (
        &["no match for platform", "exec format error", "does not match the specified platform"],
        "the image is for another kind of processor",
        "docker build --platform linux/amd64, and push it again",
    ),
    (
        &["toomanyrequests", "rate limit"],
        "Docker Hub gives no more to this address for now",
        "push it to ECR, and name it there by --image",
    ),
    (
        &["denied", "unauthorized", "authorization failed", "no basic auth", "401", "403"],
        "it is not there, or the nodes may not pull it",
        "aws ecr describe-images --repository-name NAME; the nodes' role needs AmazonEC2ContainerRegistryPullOnly: aws iam \
         attach-role-policy",
    ),
    (
        &["not found", "notfound", "manifest unknown"],
        "there is no such image or tag",
        "docker push IMAGE, or another --image; aws ecr describe-images shows what is there",
    ),
    (
        &["no such host", "dial tcp", "timeout", "connection refused", "server misbehaving"],
        "the nodes do not reach the registry",
        "look at its name, and at the nodes' way out: a NAT gateway or a VPC endpoint",
    ),
    (&[], "the node cannot start it", "kubectl describe pod, with that name and namespace"),
];

/// What a kubelet's message means, and what is to be done.
fn meaning(reason: &str, message: &str) -> (&'static str, &'static str) {
    match reason {
        "InvalidImageName" => return ("that is no image name", "--image REGISTRY/NAME:TAG, or CLASSIFIER_IMAGE"),
        "ErrImageNeverPull" => {
            return ("the node does not have it and may not pull it", "imagePullPolicy: IfNotPresent in its template");
        }
        _ => {}
    }
    let message = message.to_ascii_lowercase();
    let fits = |words: &[&str]| words.is_empty() || words.iter().any(|word| message.contains(word));
    let found = MEANINGS.iter().find(|(words, ..)| fits(words));
    let (_, meaning, fix) = found.expect("the last fits always");
    (meaning, fix)
}

/// What the kubelet said when it last tried to pull; none if nobody may see that, or it is forgotten.
fn cause(kube: &Client, pod: &Value) -> Option<String> {
    let namespace = text(&pod["metadata"]["namespace"]);
    let selector = format!("involvedObject.name%3D{}%2Creason%3DFailed", text(&pod["metadata"]["name"]));
    let events = kube.list(&format!("/api/v1/namespaces/{namespace}/events?fieldSelector={selector}")).ok()?;
    let mut messages = events.iter().map(|event| text(&event["message"]));
    messages.rfind(|message| message.starts_with("Failed to pull")).map(str::to_owned)
}

/// How the failed pods ended.
fn failures(pods: &[Value]) -> Option<Finding> {
    let failed: Vec<&Value> = pods.iter().filter(|pod| pod["status"]["phase"] == "Failed").collect();
    let last = failed.iter().max_by_key(|pod| text(&pod["metadata"]["creationTimestamp"]))?;
    let statuses = last["status"]["containerStatuses"].as_array().into_iter().flatten();
    let ended = statuses.map(|container| &container["state"]["terminated"]).find(|ended| ended["exitCode"].is_i64());
    let how = match ended {
        Some(ended) => format!("ended with exit code {} ({})", ended["exitCode"], text(&ended["reason"])),
        None => format!("was ended: {}", text(&last["status"]["reason"])),
    };
    let meaning = match ended.and_then(|ended| ended["exitCode"].as_i64()) {
        Some(126..=128) => "; its command cannot be run: is it in the image, and for this processor?",
        Some(137) => "; it was killed: the node had no memory left, or somebody deleted it",
        _ => "",
    };
    let text = format!("pods of ours that failed: {}; the last, {}, {how}{meaning}", failed.len(), name(last));
    let (namespace, pod) = (self::text(&last["metadata"]["namespace"]), self::text(&last["metadata"]["name"]));
    Some(Finding::warning("failed pods", text, format!("kubectl logs {pod} -n {namespace}")))
}

/// The Jobs that are there already: an autograder counts pods.
///
/// # Errors
/// [`Error`]
pub fn leftover(kube: &Client) -> Result<Vec<Finding>, Error> {
    let mut found = Vec::new();
    for namespace in [Tier::Free, Tier::Premium].map(Tier::namespace) {
        let jobs = kube.list(&format!("/apis/batch/v1/namespaces/{namespace}/jobs?{OURS}"))?;
        found.extend(count(&jobs).map(|counts| format!("{counts} in {namespace}")));
    }
    Ok(vec![match found.as_slice() {
        [] => Finding::ok("leftover Jobs", "none of ours is there"),
        found => {
            let text = format!("{}; an autograder counts their pods, too", found.join("; "));
            Finding::warning("leftover Jobs", text, "img-classification clean")
        }
    }])
}

/// None if there are none.
fn count(jobs: &[Value]) -> Option<String> {
    let (mut finished, mut running, mut waiting) = (0, 0, 0);
    for job in jobs {
        let mut conditions = job["status"]["conditions"].as_array().into_iter().flatten();
        let is_over = |condition: &Value| {
            matches!(condition["type"].as_str(), Some("Complete" | "Failed")) && condition["status"] == "True"
        };
        if conditions.any(is_over) {
            finished += 1;
        } else if job["status"]["active"].as_u64().unwrap_or_default() > 0 {
            running += 1;
        } else {
            waiting += 1;
        }
    }
    (!jobs.is_empty()).then(|| format!("{finished} finished, {running} running, {waiting} waiting"))
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
    fn each_trouble_has_plain_words_and_a_fix() {
        let table = [
            (
                "ErrImagePull",
                "rpc error: code = NotFound desc = r/a:1: not found",
                "no such image or tag",
                "docker push",
            ),
            (
                "ErrImagePull",
                "pull access denied, repository does not exist",
                "not there, or the nodes",
                "attach-role-policy",
            ),
            ("ErrImagePull", "unexpected status: 403 Forbidden", "the nodes may not pull it", "PullOnly"),
            ("ErrImagePull", "no match for platform in manifest: not found", "another kind of processor", "--platform"),
            ("ErrImagePull", "dial tcp: lookup r: no such host", "do not reach the registry", "way out"),
            ("ErrImagePull", "toomanyrequests: You have reached", "Docker Hub", "ECR"),
            ("ErrImagePull", "", "cannot start it", "kubectl describe pod"),
            ("InvalidImageName", "couldn't parse", "no image name", "--image"),
            ("ErrImageNeverPull", "", "may not pull it", "IfNotPresent"),
            ("CreateContainerConfigError", "secret \"x\" missing", "cannot start it", "kubectl describe pod"),
            ("RunContainerError", "exec format error", "another kind of processor", "--platform"),
        ];
        for (reason, message, words, fix) in table {
            let pods = [waiting("p", reason, message), waiting("q", reason, message)];
            let found = troubles(&pods);
            assert_eq!(found.len(), 1, "{reason}");
            let finding = found[0].finding();
            let start = format!("default/p and 1 more: {reason} for r/a:1: ");
            assert!(finding.text.starts_with(&start) && finding.text.contains(words), "{}", finding.text);
            assert!(finding.fix.as_ref().is_some_and(|found| found.contains(fix)), "{:?}", finding.fix);
        }
        for harmless in ["ContainerCreating", "PodInitializing", ""] {
            assert!(troubles(&[waiting("p", harmless, "")]).is_empty(), "{harmless}");
        }
    }

    #[test]
    fn the_last_failure_is_told_with_its_exit_code() {
        let failed = |name: &str, time: &str, code: i64| {
            json!({"metadata": {"name": name, "namespace": "default", "creationTimestamp": time},
                   "status": {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": code, "reason": "Error"}}}]}})
        };
        let pods = [failed("new", "2026-01-02T00:00:00Z", 127), failed("old", "2026-01-01T00:00:00Z", 1)];
        let finding = failures(&pods).expect("two failed");
        assert!(
            finding.text.starts_with(
                "pods of ours that failed: 2; the last, default/new, ended with exit code 127 (Error); its"
            ),
            "{}",
            finding.text
        );
        assert_eq!(finding.fix.as_deref(), Some("kubectl logs new -n default"));
        let evicted = json!({"metadata": {"name": "e", "namespace": "default"}, "status": {"phase": "Failed", "reason": "Evicted"}});
        assert!(failures(&[evicted]).is_some_and(|finding| finding.text.ends_with("was ended: Evicted")));
        assert!(failures(&[]).is_none());
    }

    #[test]
    fn jobs_are_counted_by_how_far_they_are() {
        let over = json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}});
        let jobs = [over, json!({"status": {"active": 1}}), json!({"status": {}}), json!({})];
        assert_eq!(count(&jobs).as_deref(), Some("1 finished, 1 running, 2 waiting"));
        assert_eq!(count(&[]), None);
    }
}
