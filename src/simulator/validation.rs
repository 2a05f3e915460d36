//! Defaults and validation of new and changed objects.

use serde_json::{Map, Value, json};

use super::names;
use super::quota;
use super::resources::{JOBS, NAMESPACES, PODS, QUOTAS, Resource, Target};
use super::schema;
use super::status::ApiStatus;
use super::store::{items, merge, name, namespace, text, uid};
use super::unsupported;
use crate::kube::quantity;

/// Seconds that a pod has to end unless it sets another limit; see Kubernetes' terminationGracePeriodSeconds.
pub const GRACE_PERIOD: i64 = 30;

/// The label by which a Job selects its pods.
pub const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// Checks the types of the fields, and that kind and namespace match the path. Returns the object with both set.
///
/// # Errors
/// 400
pub fn decode(target: &Target<'_>, mut object: Value) -> Result<Value, ApiStatus> {
    let kind = target.resource.kind;
    if !object.is_object() {
        let message = format!("the object provided is unrecognized (must be of type {kind})");
        return Err(ApiStatus::bad_request(message));
    }
    // The request's own unknown fields were reported before.
    unknown_fields(target.resource, &mut object)?;
    for (key, expected) in [("apiVersion", target.resource.api_version()), ("kind", kind.to_owned())] {
        if object[key].is_null() {
            object[key] = json!(expected);
        } else if object[key] != expected.as_str() {
            let (other, version) = (text(&object, "/kind"), text(&object, "/apiVersion"));
            let message = format!("{other} in version \"{version}\" cannot be handled as a {kind}");
            return Err(ApiStatus::bad_request(message));
        }
    }
    if !namespace(&object).is_empty() && namespace(&object) != target.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiStatus::bad_request(message));
    }
    if target.resource.namespaced {
        object["metadata"]["namespace"] = json!(target.namespace);
    }
    Ok(object)
}

/// Checks the types of the fields of an object, and removes those that Kubernetes does not have. Returns their paths.
///
/// # Errors
/// 400
pub fn unknown_fields(resource: &Resource, object: &mut Value) -> Result<Vec<String>, ApiStatus> {
    schema::check(resource.kind, object).map_err(|problem| not_handled(resource, &problem))
}

/// Returns the status of an object that cannot be decoded.
pub fn not_handled(resource: &Resource, problem: &str) -> ApiStatus {
    let kind = resource.kind;
    ApiStatus::bad_request(format!("{kind} in version \"v1\" cannot be handled as a {kind}: {problem}"))
}

/// Sets the fields that were left out.
pub fn set_defaults(resource: &Resource, object: &mut Value) {
    if *resource == PODS {
        set_missing(&mut object["spec"], json!({"restartPolicy": "Always"}));
        set_pod_defaults(&mut object["spec"]);
    } else if *resource == JOBS {
        let job = json!({"parallelism": 1, "completions": 1, "backoffLimit": 6, "suspend": false});
        set_missing(&mut object["spec"], job);
        set_pod_defaults(&mut object["spec"]["template"]["spec"]);
    } else if *resource == QUOTAS {
        for limit in object["spec"]["hard"].as_object_mut().into_iter().flat_map(Map::values_mut) {
            let canonical = limit.as_str().and_then(|text| Some(quota::canonical(quantity::parse(text)?, text)));
            canonical.into_iter().for_each(|canonical| *limit = json!(canonical));
        }
    }
}

/// Sets what a new object has beside its defaults: a first status, and the selector of a Job.
pub fn set_initial(resource: &Resource, object: &mut Value) {
    let status = match resource.kind {
        "Pod" => json!({"phase": "Pending", "qosClass": qos_class(&object["spec"])}),
        "Namespace" => json!({"phase": "Active"}),
        "Job" => json!({}),
        _ => return,
    };
    object["status"] = status;
    if *resource == JOBS {
        label_job(object);
    }
}

/// Returns the quality of service of a pod, see
/// <https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>. A request that is left out equals its limit.
fn qos_class(spec: &Value) -> &'static str {
    let containers = items(&spec["containers"]);
    let amount = |container: &Value, list: &str, key: &str| milli(&container["resources"][list][key]);
    let is_guaranteed = |container: &Value| {
        ["cpu", "memory"].into_iter().all(|key| {
            let limit = amount(container, "limits", key);
            limit.is_some() && amount(container, "requests", key).is_none_or(|request| Some(request) == limit)
        })
    };
    let is_empty = |container: &Value| {
        ["limits", "requests"]
            .iter()
            .all(|list| ["cpu", "memory"].iter().all(|key| amount(container, list, key).is_none()))
    };
    match containers {
        all if all.iter().all(is_empty) => "BestEffort",
        all if all.iter().all(is_guaranteed) => "Guaranteed",
        _ => "Burstable",
    }
}

/// Sets the fields of a pod that users leave out and clients show, as k8s.io/kubernetes/pkg/apis/core/v1/defaults.go.
fn set_pod_defaults(spec: &mut Value) {
    let pod = json!({"dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler", "securityContext": {},
                     "terminationGracePeriodSeconds": GRACE_PERIOD});
    set_missing(spec, pod);
    for container in spec.get_mut("containers").and_then(Value::as_array_mut).into_iter().flatten() {
        let image = text(container, "/image").rsplit('/').next().unwrap_or_default();
        let is_latest = !image.contains([':', '@']) || image.ends_with(":latest");
        let pull = if is_latest { "Always" } else { "IfNotPresent" };
        let defaults = json!({"imagePullPolicy": pull, "resources": {}, "terminationMessagePath": "/dev/termination-log",
                              "terminationMessagePolicy": "File"});
        set_missing(container, defaults);
    }
}

/// Sets the fields that an object lacks or that are null.
fn set_missing(object: &mut Value, defaults: Value) {
    let Value::Object(defaults) = defaults else { return };
    for (key, value) in defaults.into_iter().filter(|(key, _)| object[key].is_null()).collect::<Vec<_>>() {
        object[key] = value;
    }
}

/// Adds the labels of Kubernetes 1.27 and later to a Job's template, beside those of older versions, and the selector of the Job.
fn label_job(job: &mut Value) {
    let (uid, name) = (uid(job).to_owned(), name(job).to_owned());
    let selector = selector(job);
    set_missing(&mut job["spec"], json!({ "selector": selector }));
    let labels =
        json!({"controller-uid": uid, "job-name": name, CONTROLLER_UID: uid, "batch.kubernetes.io/job-name": name});
    merge(&mut job["spec"]["template"], json!({"metadata": {"labels": labels}}));
    if job["metadata"]["labels"].as_object().is_none_or(Map::is_empty) {
        job["metadata"]["labels"] = job["spec"]["template"]["metadata"]["labels"].clone();
    }
}

/// Returns the selector that each Job has.
fn selector(job: &Value) -> Value {
    json!({"matchLabels": {CONTROLLER_UID: uid(job)}})
}

/// Checks the rules that users meet most often; Kubernetes has many more.
///
/// # Errors
/// 422
pub fn validate(resource: &Resource, object: &Value) -> Result<(), ApiStatus> {
    let mut problems = Vec::new();
    let check = if *resource == NAMESPACES { names::check_label } else { names::check_subdomain };
    match name(object) {
        "" => problems.push("metadata.name: Required value: name or generateName is required".to_owned()),
        name if !resource.is_rbac() => problems.extend(malformed("metadata.name", name, check)),
        _ => {}
    }
    labels("metadata.labels", &object["metadata"]["labels"], &mut problems);
    match resource.kind {
        "Pod" => pod_spec("spec", &object["spec"], &mut problems),
        "Job" => job_spec(object, &mut problems),
        "ResourceQuota" => {
            let hard = object["spec"]["hard"].as_object().into_iter().flatten();
            hard.for_each(|(key, limit)| problems.extend(amount(&format!("spec.hard[{key}]"), limit)));
            unsupported::quota(&object["spec"], &mut problems);
        }
        _ => {}
    }
    if problems.is_empty() { Ok(()) } else { Err(ApiStatus::all_invalid(resource, name(object), &problems)) }
}

/// Returns the problem of a text that `check` refuses.
fn malformed(field: &str, text: &str, check: fn(&str) -> Result<(), String>) -> Option<String> {
    check(text).err().map(|reason| format!("{field}: Invalid value: {text:?}: {reason}"))
}

fn labels(field: &str, labels: &Value, problems: &mut Vec<String>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        problems.extend(malformed(field, key, names::check_key));
        problems.extend(malformed(field, value.as_str().unwrap_or_default(), names::check_value));
    }
}

fn job_spec(job: &Value, problems: &mut Vec<String>) {
    let spec = &job["spec"];
    for field in ["parallelism", "completions", "backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"] {
        if let Some(number) = spec[field].as_i64().filter(|number| *number < 0) {
            problems.push(format!("spec.{field}: Invalid value: {number}: must be greater than or equal to 0"));
        }
    }
    if spec["selector"] != selector(job) && spec["manualSelector"] != true {
        problems.push(format!("spec.selector: Invalid value: {}: `selector` not auto-generated", spec["selector"]));
    }
    unsupported::job(spec, problems);
    let template = &spec["template"];
    labels("spec.template.labels", &template["metadata"]["labels"], problems);
    pod_spec("spec.template.spec", &template["spec"], problems);
    let field = "spec.template.spec.restartPolicy";
    match text(&template["spec"], "/restartPolicy") {
        "Never" | "OnFailure" => {}
        "" => problems.push(format!("{field}: Required value: valid values: \"OnFailure\", \"Never\"")),
        other => problems
            .push(format!("{field}: Unsupported value: \"{other}\": supported values: \"OnFailure\", \"Never\"")),
    }
}

fn pod_spec(field: &str, spec: &Value, problems: &mut Vec<String>) {
    unsupported::pod(field, spec, problems);
    let containers = items(&spec["containers"]);
    if containers.is_empty() {
        problems.push(format!("{field}.containers: Required value"));
    }
    for (index, container) in containers.iter().enumerate() {
        let field = format!("{field}.containers[{index}]");
        match text(container, "/name") {
            "" => problems.push(format!("{field}.name: Required value")),
            name if containers[..index].iter().any(|other| text(other, "/name") == name) => {
                problems.push(format!("{field}.name: Duplicate value: \"{name}\""));
            }
            name => problems.extend(malformed(&format!("{field}.name"), name, names::check_label)),
        }
        if text(container, "/image").is_empty() {
            problems.push(format!("{field}.image: Required value"));
        }
        resources(&format!("{field}.resources"), &container["resources"], problems);
    }
}

fn resources(field: &str, resources: &Value, problems: &mut Vec<String>) {
    for list in ["limits", "requests"] {
        let amounts = resources[list].as_object().into_iter().flatten();
        amounts.for_each(|(key, value)| problems.extend(amount(&format!("{field}.{list}[{key}]"), value)));
    }
    for (key, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][key];
        if milli(limit).is_some_and(|limit| milli(request).is_some_and(|request| request > limit)) {
            let (request, limit) = (amount_text(request), amount_text(limit));
            let rule = format!("must be less than or equal to {key} limit of {limit}");
            problems.push(format!("{field}.requests: Invalid value: \"{request}\": {rule}"));
        }
    }
}

/// Refuses a negative amount.
fn amount(field: &str, value: &Value) -> Option<String> {
    let is_negative = milli(value).is_some_and(|milli| milli < 0);
    let text = amount_text(value);
    is_negative.then(|| format!("{field}: Invalid value: \"{text}\": must be greater than or equal to 0"))
}

fn amount_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn milli(value: &Value) -> Option<quantity::Milli> {
    if value.is_null() { None } else { quantity::parse(&amount_text(value)) }
}
