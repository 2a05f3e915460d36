//! Fields that would change the course of a Job or pod, and limits of quotas, that are not simulated. An object with one is refused, so
//! that no success is a wrong answer.

use serde_json::{Value, json};

use super::quota;
use super::store::items;

/// Fields of pods that have no effect here.
const POD: [&str; 7] = [
    "affinity",
    "ephemeralContainers",
    "initContainers",
    "priorityClassName",
    "resourceClaims",
    "schedulingGates",
    "topologySpreadConstraints",
];

/// Fields of Jobs that have no effect here.
const JOB: [&str; 4] = ["backoffLimitPerIndex", "managedBy", "maxFailedIndexes", "successPolicy"];

/// Fields of quotas that have no effect here.
const QUOTA: [&str; 2] = ["scopeSelector", "scopes"];

/// Adds the problems of a pod's specification in `field`.
pub fn pod(field: &str, spec: &Value, problems: &mut Vec<String>) {
    used(field, spec, &POD, problems);
    if !spec["schedulerName"].is_null() && spec["schedulerName"] != "default-scheduler" {
        problems.push(forbidden(&format!("{field}.schedulerName"), "runs no other scheduler"));
    }
}

/// Adds the problems of a Job's specification. The conditions of a podFailurePolicy have no effect, since no pod here is disrupted.
pub fn job(spec: &Value, problems: &mut Vec<String>) {
    used("spec", spec, &JOB, problems);
    for (field, allowed) in
        [("parallelism", json!(1)), ("completions", json!(1)), ("completionMode", json!("NonIndexed"))]
    {
        if !spec[field].is_null() && spec[field] != allowed {
            problems.push(forbidden(
                &format!("spec.{field}"),
                &format!("runs one pod of a Job at a time: {field} must be {allowed}"),
            ));
        }
    }
    if spec["manualSelector"] == true {
        problems.push(forbidden("spec.manualSelector", "selects the pods of a Job by its uid"));
    }
    for (index, rule) in items(&spec["podFailurePolicy"]["rules"]).iter().enumerate() {
        if !rule["onExitCodes"].is_null() {
            let field = format!("spec.podFailurePolicy.rules[{index}].onExitCodes");
            problems.push(forbidden(&field, "counts a failed pod whatever its exit code"));
        }
    }
}

/// Adds the problems of a quota's specification.
pub fn quota(spec: &Value, problems: &mut Vec<String>) {
    used("spec", spec, &QUOTA, problems);
    let hard = spec["hard"].as_object().into_iter().flatten();
    for (key, _) in hard.filter(|(key, _)| !quota::is_counted(key)) {
        problems.push(forbidden(&format!("spec.hard[{key}]"), "does not count it"));
    }
}

fn used(field: &str, spec: &Value, names: &[&str], problems: &mut Vec<String>) {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    let set = names.iter().filter(|name| !is_empty(&spec[**name]));
    problems.extend(set.map(|name| forbidden(&format!("{field}.{name}"), "does not support it")));
}

fn forbidden(field: &str, reason: &str) -> String {
    format!("{field}: Forbidden: the simulator {reason}")
}
