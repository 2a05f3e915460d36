//! What changes objects: for requests and for the controllers alike.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::quota;
use super::resources::{ACCOUNTS, ALL, JOBS, NAMESPACES, PODS, QUOTAS, Resource};
use super::store::{self, Object, Refusal, Store, has_ended, is_going, items, name, namespace, owner, text, uid};
use crate::kube::quantity;

/// Seconds that a pod is given to end, unless it says otherwise; see Kubernetes' terminationGracePeriodSeconds.
const GRACE: i64 = 30;

/// Namespaces that cannot be deleted.
const KEPT: [&str; 3] = ["default", "kube-system", "kube-public"];

/// What a client may say of an object's metadata; the rest is the cluster's.
const METADATA: [&str; 6] = ["name", "generateName", "namespace", "labels", "annotations", "ownerReferences"];

/// What must be a map where it is there at all, and a list of maps; the rest of this program relies on it.
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
const LISTS: [&str; 5] =
    ["metadata/ownerReferences", "rules", "subjects", "spec/containers", "spec/template/spec/containers"];

/// What must be a number of 31 bits.
const NUMBERS: [&str; 5] = [
    "spec/parallelism",
    "spec/completions",
    "spec/backoffLimit",
    "spec/activeDeadlineSeconds",
    "spec/ttlSecondsAfterFinished",
];

/// Stores a new object, or only sees whether it could be.
///
/// # Errors
/// 400, 403, 404, 409 or 422
pub fn create(
    store: &mut Store,
    resource: &Resource,
    space: &str,
    body: Value,
    dry_run: bool,
) -> Result<Object, Refusal> {
    let mut object = checked(resource, space, body)?;
    let fields = object["metadata"].as_object_mut();
    fields.into_iter().for_each(|fields| fields.retain(|key, _| METADATA.contains(&key.as_str())));
    let prefix = text(&object, "/metadata/generateName").to_owned();
    if name(&object).is_empty() && !prefix.is_empty() {
        object["metadata"]["name"] = json!(format!("{prefix}{}", store::suffix()));
    }
    let id = store::hex::<16>();
    let uid = format!("{}-{}-4{}-a{}-{}", &id[..8], &id[8..12], &id[13..16], &id[17..20], &id[20..]);
    object["metadata"]["uid"] = json!(uid);
    object["metadata"]["creationTimestamp"] = json!(store::now());
    if resource.namespaced && store.get(&NAMESPACES, "", space).is_none() {
        return Err(Refusal::not_found(&NAMESPACES, space));
    }
    complete(resource, &mut object);
    check(resource, &object)?;
    quota::admit(store, resource, &object)?;
    if store.get(resource, space, name(&object)).is_some() {
        return Err(Refusal::new(
            409,
            "AlreadyExists",
            format!("{} \"{}\" already exists", resource.qualified(), name(&object)),
        ));
    }
    if dry_run {
        return Ok(Arc::new(object));
    }
    let object = store.put(resource, object);
    if *resource == NAMESPACES {
        let account = json!({"metadata": {"name": "default", "namespace": name(&object)}});
        create(store, &ACCOUNTS, name(&object), account, false)?;
    }
    Ok(object)
}

/// Sees that kind and place are those of the path.
fn checked(resource: &Resource, space: &str, mut object: Value) -> Result<Value, Refusal> {
    if !object.is_object() {
        return Err(Refusal::bad_request(format!(
            "the object provided is unrecognized (must be of type {})",
            resource.kind
        )));
    }
    if let Some(field) = misshapen(&object) {
        let (kind, field) = (resource.kind, field.replace('/', "."));
        return Err(Refusal::bad_request(format!(
            "{kind} in version \"v1\" cannot be handled as a {kind}: json: cannot unmarshal into Go struct field {kind}.{field}"
        )));
    }
    for (key, wanted) in [("apiVersion", resource.api_version()), ("kind", resource.kind.to_owned())] {
        if object[key].is_null() {
            object[key] = json!(wanted);
        } else if object[key] != wanted.as_str() {
            let (kind, version) = (text(&object, "/kind"), text(&object, "/apiVersion"));
            let wanted = resource.kind;
            return Err(Refusal::bad_request(format!(
                "{kind} in version \"{version}\" cannot be handled as a {wanted}"
            )));
        }
    }
    if !namespace(&object).is_empty() && namespace(&object) != space {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Refusal::bad_request(message));
    }
    if resource.namespaced {
        object["metadata"]["namespace"] = json!(space);
    }
    Ok(object)
}

/// The first field that is not of its type.
fn misshapen(object: &Value) -> Option<&'static str> {
    let wrong = |paths: &[&'static str], fits: &dyn Fn(&Value) -> bool| {
        let value = |path: &str| object.pointer(&format!("/{path}")).filter(|value| !value.is_null());
        paths.iter().find(|path| value(path).is_some_and(|value| !fits(value))).copied()
    };
    wrong(&MAPS, &Value::is_object)
        .or_else(|| wrong(&LISTS, &|list| list.is_array() && items(list).iter().all(Value::is_object)))
        .or_else(|| wrong(&NUMBERS, &|number| number.as_u64().is_some_and(|number| number < 1 << 31)))
}

/// Sets what was left out.
fn complete(resource: &Resource, object: &mut Value) {
    let set = |object: &mut Value, key: &str, value: Value| {
        if object[key].is_null() {
            object[key] = value;
        }
    };
    if *resource == PODS {
        set(&mut object["spec"], "restartPolicy", json!("Always"));
        set(&mut object["spec"], "terminationGracePeriodSeconds", json!(GRACE));
        object["status"] = json!({"phase": "Pending"});
    } else if *resource == JOBS {
        let labels = json!({"controller-uid": uid(object), "job-name": name(object)});
        for (key, value) in [("parallelism", 1), ("completions", 1), ("backoffLimit", 6)] {
            set(&mut object["spec"], key, json!(value));
        }
        object["spec"]["selector"] = json!({"matchLabels": {"controller-uid": uid(object)}});
        merge(&mut object["spec"]["template"], json!({"metadata": {"labels": labels}}));
        object["status"] = json!({});
    } else if *resource == NAMESPACES {
        object["status"] = json!({"phase": "Active"});
    } else if *resource == QUOTAS {
        for limit in object["spec"]["hard"].as_object_mut().into_iter().flat_map(Map::values_mut) {
            let shown = limit.as_str().and_then(|text| Some(quota::shortest(quantity::parse(text)?, text)));
            shown.into_iter().for_each(|shown| *limit = json!(shown));
        }
    }
}

/// The rules that people run into; Kubernetes has many more.
fn check(resource: &Resource, object: &Value) -> Result<(), Refusal> {
    let invalid = |why: &str| Err(Refusal::invalid(resource, name(object), why));
    let is_rbac = resource.group.starts_with("rbac");
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    match name(object) {
        "" => return invalid("metadata.name: Required value: name or generateName is required"),
        name if !is_rbac && (!name.chars().all(known) || name.len() > 253 || name.starts_with(['-', '.'])) => {
            return invalid(&format!(
                "metadata.name: Invalid value: \"{name}\": a lowercase RFC 1123 subdomain is needed"
            ));
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

/// Lays a patch over an object, RFC 7396. Keys that begin with `$` are directives of strategic merge patches and pass by.
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch.into_iter().filter(|(key, _)| !key.starts_with('$')) {
        match (value, target.as_object_mut()) {
            (Value::Null, Some(fields)) => drop(fields.remove(&key)),
            (value, _) => merge(&mut target[key], value),
        }
    }
}

/// Patches an object; an apply makes it if it is missing. Who manages which field is not kept: an apply never conflicts.
/// Gives the object, and whether it is new.
///
/// # Errors
/// As [`create`].
pub fn patch(
    store: &mut Store,
    resource: &Resource,
    (space, path_name): (&str, &str),
    body: Value,
    (is_apply, dry_run): (bool, bool),
) -> Result<(Object, bool), Refusal> {
    let Some(old) = store.get(resource, space, path_name).cloned() else {
        return match is_apply {
            true => create(store, resource, space, body, dry_run).map(|object| (object, true)),
            false => Err(Refusal::not_found(resource, path_name)),
        };
    };
    let mut new = Value::clone(&old);
    merge(&mut new, body);
    let mut new = checked(resource, space, new)?;
    // Its status and the rest of its metadata are not a client's to change.
    let (before, after) = (old["metadata"].as_object(), new["metadata"].as_object_mut());
    if let (Some(before), Some(after)) = (before, after) {
        let is_theirs = |key: &str| METADATA.contains(&key) || ["uid", "resourceVersion"].contains(&key);
        after.retain(|key, _| is_theirs(key));
        after.extend(before.iter().filter(|(key, _)| !is_theirs(key)).map(|(key, value)| (key.clone(), value.clone())));
    }
    if let Some(status) = old.get("status") {
        new["status"] = status.clone();
    }
    if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        let what = resource.qualified();
        return Err(Refusal::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {what} \"{path_name}\": {why}"),
        ));
    }
    let is_changed = |pointer: &str| old.pointer(pointer) != new.pointer(pointer);
    if *resource == PODS && is_changed("/spec") {
        let why = "spec: Forbidden: pod updates may not change fields of the specification";
        return Err(Refusal::invalid(resource, path_name, why));
    }
    for (pointer, why) in [
        ("/roleRef", "roleRef: Invalid value: cannot change roleRef"),
        ("/spec/template", "spec.template: Invalid value: field is immutable"),
        ("/metadata/name", "metadata.name: Invalid value: field is immutable"),
        ("/metadata/uid", "metadata.uid: Invalid value: field is immutable"),
    ] {
        if is_changed(pointer) {
            return Err(Refusal::invalid(resource, path_name, why));
        }
    }
    if *resource == QUOTAS {
        complete(resource, &mut new);
    }
    check(resource, &new)?;
    if new == *old || dry_run {
        return Ok((Arc::new(new), false));
    }
    Ok((store.put(resource, new), false))
}

/// Deletes an object. `options` are the DeleteOptions of the request.
///
/// # Errors
/// 403, 404 or 409
pub fn delete(
    store: &mut Store,
    resource: &Resource,
    (space, path_name): (&str, &str),
    options: &Value,
) -> Result<Value, Refusal> {
    let found = store.get(resource, space, path_name).cloned();
    let object = found.ok_or_else(|| Refusal::not_found(resource, path_name))?;
    if options["preconditions"]["uid"].as_str().is_some_and(|wanted| wanted != uid(&object)) {
        return Err(Refusal::new(409, "Conflict", "the UID in the precondition does not match the UID in record"));
    }
    if *resource == NAMESPACES && KEPT.contains(&path_name) {
        return Err(Refusal::forbidden(resource.plural, path_name, "this namespace may not be deleted"));
    }
    if !items(&options["dryRun"]).is_empty() {
        return Ok(Value::clone(&object));
    }
    if *resource == PODS {
        return Ok(delete_pod(store, &object, options["gracePeriodSeconds"].as_i64()));
    }
    if *resource == JOBS && text(options, "/propagationPolicy") == "Foreground" {
        let mut going = Value::clone(&object);
        going["metadata"]["deletionTimestamp"] = json!(store::now());
        going["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
        return Ok(Value::clone(&store.put(&JOBS, going)));
    }
    if *resource == JOBS && text(options, "/propagationPolicy") == "Orphan" {
        for pod in pods_of(store, &object) {
            let mut orphan = Value::clone(&pod);
            orphan["metadata"].as_object_mut().and_then(|fields| fields.remove("ownerReferences"));
            store.put(&PODS, orphan);
        }
    }
    if *resource == NAMESPACES {
        for inner in ALL.iter().filter(|inner| inner.namespaced) {
            let names: Vec<String> = store.list(inner, path_name).map(|object| name(object).to_owned()).collect();
            names.iter().for_each(|name| store.remove(inner, path_name, name));
        }
    }
    store.remove(resource, space, path_name);
    let details = json!({"name": path_name, "group": resource.group, "kind": resource.plural, "uid": uid(&object)});
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}))
}

/// A pod that may be running is given its time by its node; any other goes at once.
pub fn delete_pod(store: &mut Store, pod: &Object, grace: Option<i64>) -> Value {
    let grace = grace.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(GRACE);
    if grace == 0 || has_ended(pod) || text(pod, "/spec/nodeName").is_empty() {
        store.remove(&PODS, namespace(pod), name(pod));
    } else if !is_going(pod) {
        let mut going = Value::clone(pod);
        going["metadata"]["deletionTimestamp"] = json!(store::now());
        going["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        return Value::clone(&store.put(&PODS, going));
    }
    Value::clone(pod)
}

/// The pods of a Job.
fn pods_of(store: &Store, job: &Value) -> Vec<Object> {
    store.list(&PODS, namespace(job)).filter(|pod| owner(pod) == uid(job)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_takes_away_lists_are_replaced_and_directives_pass_by() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "s": "text"});
        merge(&mut object, json!({"a": {"b": null, "d": {"e": null}}, "l": [3], "s": {"t": 1}, "$x": ["y"]}));
        assert_eq!(object, json!({"a": {"c": 2, "d": {}}, "l": [3], "s": {"t": 1}}));
    }
}
