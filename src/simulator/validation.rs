//! Defaults and validation of new and changed objects.

use serde_json::{Map, Value, json};

use super::names;
use super::quota;
use super::resources::{JOBS, NAMESPACES, PODS, QUOTAS, Resource, Target};
use super::status::ApiStatus;
use super::store::{items, merge, name, namespace, text, uid};
use crate::kube::quantity;

/// Seconds that a pod has to end unless it sets another limit; see Kubernetes' terminationGracePeriodSeconds.
pub const GRACE_PERIOD: i64 = 30;

/// The label by which a Job selects its pods.
pub const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// Fields that must be maps if present; the controllers rely on it.
const MAPS: [&str; 10] = [
    "metadata",
    "metadata/labels",
    "metadata/annotations",
    "spec",
    "spec/hard",
    "spec/template",
    "spec/template/metadata",
    "spec/template/metadata/labels",
    "spec/template/spec",
    "status",
];

/// Fields that must be lists of maps if present.
const LISTS: [&str; 5] =
    ["metadata/ownerReferences", "rules", "subjects", "spec/containers", "spec/template/spec/containers"];

/// Fields that must be numbers of 31 bits if present.
const NUMBERS: [&str; 6] = [
    "spec/parallelism",
    "spec/completions",
    "spec/backoffLimit",
    "spec/activeDeadlineSeconds",
    "spec/ttlSecondsAfterFinished",
    "spec/template/spec/activeDeadlineSeconds",
];

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
    if let Some(field) = mistyped(&object) {
        let field = field.replace('/', ".");
        return Err(ApiStatus::bad_request(format!(
            "{kind} in version \"v1\" cannot be handled as a {kind}: json: cannot unmarshal into Go struct field {kind}.{field}"
        )));
    }
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

/// Returns the first field of a wrong type.
fn mistyped(object: &Value) -> Option<&'static str> {
    let wrong = |paths: &[&'static str], matches: &dyn Fn(&Value) -> bool| {
        let value = |path: &str| object.pointer(&format!("/{path}")).filter(|value| !value.is_null());
        paths.iter().find(|path| value(path).is_some_and(|value| !matches(value))).copied()
    };
    wrong(&MAPS, &Value::is_object)
        .or_else(|| wrong(&LISTS, &|list| list.is_array() && items(list).iter().all(Value::is_object)))
        .or_else(|| wrong(&NUMBERS, &|number| number.as_u64().is_some_and(|number| number < 1 << 31)))
}

/// Sets the fields that were left out.
pub fn set_defaults(resource: &Resource, object: &mut Value) {
    let set = |object: &mut Value, key: &str, value: Value| {
        if object[key].is_null() {
            object[key] = value;
        }
    };
    if *resource == PODS {
        set(&mut object["spec"], "restartPolicy", json!("Always"));
        set(&mut object["spec"], "terminationGracePeriodSeconds", json!(GRACE_PERIOD));
    } else if *resource == JOBS {
        for (key, value) in [("parallelism", 1), ("completions", 1), ("backoffLimit", 6)] {
            set(&mut object["spec"], key, json!(value));
        }
        set(&mut object["spec"], "suspend", json!(false));
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
        "Pod" => json!({"phase": "Pending"}),
        "Namespace" => json!({"phase": "Active"}),
        "Job" => json!({}),
        _ => return,
    };
    object["status"] = status;
    if *resource == JOBS {
        label_job(object);
    }
}

/// Adds the labels of Kubernetes 1.27 and later to a Job's template, beside those of older versions, and the selector of the Job.
fn label_job(job: &mut Value) {
    let (uid, name) = (uid(job).to_owned(), name(job).to_owned());
    job["spec"]["selector"] = json!({"matchLabels": {CONTROLLER_UID: uid}});
    let labels =
        json!({"controller-uid": uid, "job-name": name, CONTROLLER_UID: uid, "batch.kubernetes.io/job-name": name});
    merge(&mut job["spec"]["template"], json!({"metadata": {"labels": labels}}));
    if job["metadata"]["labels"].as_object().is_none_or(Map::is_empty) {
        job["metadata"]["labels"] = job["spec"]["template"]["metadata"]["labels"].clone();
    }
}

/// Checks the rules that users meet most often; Kubernetes has many more.
///
/// # Errors
/// 422
pub fn validate(resource: &Resource, object: &Value) -> Result<(), ApiStatus> {
    let invalid = |reason: &str| Err(ApiStatus::invalid(resource, name(object), reason));
    let check = if *resource == NAMESPACES { names::check_label } else { names::check_subdomain };
    match name(object) {
        "" => return invalid("metadata.name: Required value: name or generateName is required"),
        name if !resource.is_rbac() => {
            if let Err(reason) = check(name) {
                return invalid(&format!("metadata.name: Invalid value: {name:?}: {reason}"));
            }
        }
        _ => {}
    }
    let (spec, field) = match resource.kind {
        "Pod" => (&object["spec"], "spec"),
        "Job" => (&object["spec"]["template"]["spec"], "spec.template.spec"),
        _ => return Ok(()),
    };
    if items(&spec["containers"]).is_empty() {
        return invalid(&format!("{field}.containers: Required value"));
    }
    if *resource == JOBS && !matches!(text(spec, "/restartPolicy"), "Never" | "OnFailure") {
        return invalid("spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"");
    }
    Ok(())
}
