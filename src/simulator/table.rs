//! Tables, the format that kubectl prints.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::resources::Resource;
use super::store::{Object, has_condition, has_ended, is_terminating, items, name, text};
use super::validation::CONTROLLER_UID;

/// Units of a duration, largest first.
const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)];

/// Returns a Table of these objects. A row contains its object if `with_objects`, else only the metadata.
pub fn table(resource: &Resource, objects: &[Object], with_objects: bool) -> Value {
    let column = |name: &&str| {
        let (name, priority) = name.strip_prefix('+').map_or((*name, 0), |name| (name, 1));
        json!({"name": name, "type": "string", "format": if name == "Name" { "name" } else { "" }, "description": name, "priority": priority})
    };
    let columns: Vec<Value> = columns(resource).iter().map(column).collect();
    let row = |object: &Object| {
        let metadata =
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]});
        json!({"cells": cells(resource, object), "object": if with_objects { Value::clone(object) } else { metadata }})
    };
    let rows: Vec<Value> = objects.iter().map(row).collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns, "rows": rows})
}

/// Returns the columns; -o wide adds those that begin with +.
fn columns(resource: &Resource) -> &'static [&'static str] {
    match resource.kind {
        "Pod" => &["Name", "Ready", "Status", "Restarts", "Age", "+IP", "+Node", "+Nominated Node", "+Readiness Gates"],
        "Job" => &["Name", "Status", "Completions", "Duration", "Age", "+Containers", "+Images", "+Selector"],
        "Node" => &[
            "Name",
            "Status",
            "Roles",
            "Age",
            "Version",
            "+Internal-IP",
            "+External-IP",
            "+OS-Image",
            "+Kernel-Version",
            "+Container-Runtime",
        ],
        "ResourceQuota" => &["Name", "Age", "Request", "Limit"],
        "Namespace" => &["Name", "Status", "Age"],
        "Event" => &["Last Seen", "Type", "Reason", "Object", "Message"],
        _ => &["Name", "Age"],
    }
}

fn cells(resource: &Resource, object: &Value) -> Value {
    let (name, age) = (name(object), since(text(object, "/metadata/creationTimestamp")));
    match resource.kind {
        "Pod" => pod_cells(object, name, &age),
        "Job" => job_cells(object, name, &age),
        "Node" => {
            let ready = if object["spec"]["unschedulable"] == true { "Ready,SchedulingDisabled" } else { "Ready" };
            let info = |field: &str| text(object, &format!("/status/nodeInfo/{field}"));
            let (version, address) = (info("kubeletVersion"), text(object, "/status/addresses/0/address"));
            let wide = (info("osImage"), info("kernelVersion"), info("containerRuntimeVersion"));
            json!([name, ready, "<none>", age, version, address, "<none>", wide.0, wide.1, wide.2])
        }
        "ResourceQuota" => json!([name, age, quota_cell(object, false), quota_cell(object, true)]),
        "Namespace" => json!([name, text(object, "/status/phase"), age]),
        "Event" => {
            let involved = &object["involvedObject"];
            let involved = format!("{}/{}", text(involved, "/kind").to_lowercase(), text(involved, "/name"));
            let seen = since(text(object, "/lastTimestamp"));
            json!([seen, text(object, "/type"), text(object, "/reason"), involved, text(object, "/message")])
        }
        _ => json!([name, age]),
    }
}

fn pod_cells(pod: &Value, name: &str, age: &str) -> Value {
    let containers = items(&pod["status"]["containerStatuses"]);
    let ready = containers.iter().filter(|container| container["ready"] == true).count();
    let ready = format!("{ready}/{}", items(&pod["spec"]["containers"]).len());
    let or_none = |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
    let (ip, node) = (or_none(text(pod, "/status/podIP")), or_none(text(pod, "/spec/nodeName")));
    json!([name, ready, pod_status(pod), "0", age, ip, node, "<none>", "<none>"])
}

fn job_cells(job: &Value, name: &str, age: &str) -> Value {
    let status = &job["status"];
    let done = format!("{}/{}", status["succeeded"].as_u64().unwrap_or_default(), job["spec"]["completions"]);
    let duration = match text(status, "/completionTime") {
        "" => since(text(status, "/startTime")),
        end => between(text(status, "/startTime"), end),
    };
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let selector = format!("{CONTROLLER_UID}={}", text(job, "/metadata/uid"));
    json!([name, job_status(job), done, duration, age, text(container, "/name"), text(container, "/image"), selector])
}

fn job_status(job: &Value) -> &'static str {
    match ["Complete", "Failed", "Suspended"].into_iter().find(|kind| has_condition(job, kind)) {
        Some("Suspended") | None if is_terminating(job) => "Terminating",
        found => found.unwrap_or("Running"),
    }
}

/// Returns the used and hard amounts of a quota's limits, or of its requests and counts.
fn quota_cell(quota: &Value, is_limits: bool) -> String {
    let status = &quota["status"];
    let hard = status["hard"].as_object().into_iter().flatten();
    let shown = hard.filter(|(key, _)| key.starts_with("limits.") == is_limits).map(|(key, limit)| {
        let used = status["used"][key].as_str().unwrap_or("0");
        format!("{key}: {used}/{}", limit.as_str().unwrap_or_default())
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn pod_status(pod: &Value) -> &str {
    let state = &pod["status"]["containerStatuses"][0]["state"];
    match (state["waiting"]["reason"].as_str(), state["terminated"]["reason"].as_str()) {
        _ if is_terminating(pod) => "Terminating",
        (Some(reason), _) | (_, Some(reason)) => reason,
        _ if !has_ended(pod) && !text(pod, "/spec/nodeName").is_empty() && state.is_null() => "ContainerCreating",
        _ => text(pod, "/status/phase"),
    }
}

fn since(time: &str) -> String {
    between(time, &super::store::now())
}

fn between(start: &str, end: &str) -> String {
    let read = |time: &str| humantime::parse_rfc3339(time).unwrap_or(SystemTime::UNIX_EPOCH);
    if start.is_empty() {
        return "<unknown>".to_owned();
    }
    duration(read(end).duration_since(read(start)).unwrap_or(Duration::ZERO).as_secs())
}

/// Formats a duration like kubectl: in seconds up to two minutes, then in two units if the first is below 10.
fn duration(seconds: u64) -> String {
    let limit = |unit: u64| if unit == 60 { 120 } else { unit };
    let Some(at) = UNITS.iter().position(|(_, unit)| seconds >= limit(*unit)) else { return "0s".to_owned() };
    let (name, unit) = UNITS[at];
    let (count, rest) = (seconds / unit, seconds % unit);
    match UNITS.get(at + 1) {
        Some((small, size)) if count < 10 && rest >= *size => format!("{count}{name}{}{small}", rest / size),
        _ => format!("{count}{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_formatted_like_kubectls() {
        for (seconds, text) in
            [(0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (700, "11m"), (3700, "1h1m"), (200_000, "2d7h")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
