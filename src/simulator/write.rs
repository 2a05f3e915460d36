//! Creation, change and deletion of objects, for requests and for the controllers.

use std::sync::Arc;

use serde_json::{Value, json};

use super::quota;
use super::resources::{ACCOUNTS, ALL, JOBS, NAMESPACES, PODS, QUOTAS, Resource, Target};
use super::status::ApiStatus;
use super::store::{self, Object, Store, has_ended, is_terminating, items, merge, name, namespace, owner, text, uid};
use super::validation::{GRACE_PERIOD, decode, set_defaults, validate};

/// Namespaces that cannot be deleted.
const PERMANENT_NAMESPACES: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Metadata fields that clients may set; the server sets all others.
const CLIENT_METADATA: [&str; 6] = ["name", "generateName", "namespace", "labels", "annotations", "ownerReferences"];

/// Fields that cannot change after creation, with the message for an attempt.
const IMMUTABLE: [(&str, &str); 4] = [
    ("/roleRef", "roleRef: Invalid value: cannot change roleRef"),
    ("/spec/template", "spec.template: Invalid value: field is immutable"),
    ("/metadata/name", "metadata.name: Invalid value: field is immutable"),
    ("/metadata/uid", "metadata.uid: Invalid value: field is immutable"),
];

/// The kind of a patch.
#[derive(Clone, Copy)]
pub struct PatchOptions {
    /// Server-side apply, which creates a missing object.
    pub is_apply: bool,
    pub dry_run: bool,
}

/// Stores a new object in the collection `target`. A dry run only checks it.
///
/// # Errors
/// 400, 403, 404, 409 or 422
pub fn create(store: &mut Store, target: &Target<'_>, body: Value, dry_run: bool) -> Result<Object, ApiStatus> {
    let Target { resource, namespace, .. } = *target;
    let mut object = decode(target, body)?;
    set_identity(&mut object);
    if resource.namespaced && store.get(&NAMESPACES, "", namespace).is_none() {
        return Err(ApiStatus::not_found(&NAMESPACES, namespace));
    }
    set_defaults(resource, &mut object);
    validate(resource, &object)?;
    quota::admit(store, resource, &object)?;
    if store.get(resource, namespace, name(&object)).is_some() {
        let message = format!("{} \"{}\" already exists", resource.qualified(), name(&object));
        return Err(ApiStatus::new(409, "AlreadyExists", message));
    }
    if dry_run {
        return Ok(Arc::new(object));
    }
    let object = store.put(resource, object);
    if *resource == NAMESPACES {
        let account = json!({"metadata": {"name": "default", "namespace": name(&object)}});
        create(store, &Target::collection(&ACCOUNTS, name(&object)), account, false)?;
    }
    Ok(object)
}

/// Drops metadata that clients may not set. Adds a generated name, a uid and the creation time.
fn set_identity(object: &mut Value) {
    let fields = object["metadata"].as_object_mut();
    fields.into_iter().for_each(|fields| fields.retain(|key, _| CLIENT_METADATA.contains(&key.as_str())));
    let prefix = text(object, "/metadata/generateName").to_owned();
    if name(object).is_empty() && !prefix.is_empty() {
        object["metadata"]["name"] = json!(format!("{prefix}{}", store::suffix()));
    }
    object["metadata"]["uid"] = json!(store::uuid());
    object["metadata"]["creationTimestamp"] = json!(store::now());
}

/// Patches an object. Returns it, and true if an apply created it. Field managers are not recorded: an apply never
/// conflicts.
///
/// # Errors
/// As [`create`].
pub fn patch(
    store: &mut Store,
    target: &Target<'_>,
    body: Value,
    options: PatchOptions,
) -> Result<(Object, bool), ApiStatus> {
    let resource = target.resource;
    let Some(old) = store.get(resource, target.namespace, target.name).cloned() else {
        return match options.is_apply {
            true => create(store, target, body, options.dry_run).map(|object| (object, true)),
            false => Err(ApiStatus::not_found(resource, target.name)),
        };
    };
    let mut new = Value::clone(&old);
    merge(&mut new, body);
    let mut new = decode(target, new)?;
    keep_server_fields(&old, &mut new);
    check_change(target, &old, &new)?;
    if *resource == QUOTAS {
        set_defaults(resource, &mut new);
    }
    validate(resource, &new)?;
    if new == *old || options.dry_run {
        return Ok((Arc::new(new), false));
    }
    Ok((store.put(resource, new), false))
}

/// Restores the status and the metadata that clients may not change.
fn keep_server_fields(old: &Value, new: &mut Value) {
    if let (Some(before), Some(after)) = (old["metadata"].as_object(), new["metadata"].as_object_mut()) {
        // A changed uid or version is not restored but refused.
        let is_client = |key: &str| CLIENT_METADATA.contains(&key) || ["uid", "resourceVersion"].contains(&key);
        after.retain(|key, _| is_client(key));
        let server = before.iter().filter(|(key, _)| !is_client(key));
        after.extend(server.map(|(key, value)| (key.clone(), value.clone())));
    }
    if let Some(status) = old.get("status") {
        new["status"] = status.clone();
    }
}

/// Refuses a change of an outdated version or of an immutable field.
fn check_change(target: &Target<'_>, old: &Value, new: &Value) -> Result<(), ApiStatus> {
    let Target { resource, name, .. } = *target;
    if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
        let reason = "the object has been modified; please apply your changes to the latest version and try again";
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {reason}", resource.qualified());
        return Err(ApiStatus::new(409, "Conflict", message));
    }
    let is_changed = |pointer: &str| old.pointer(pointer) != new.pointer(pointer);
    if *resource == PODS && is_changed("/spec") {
        let reason = "spec: Forbidden: pod updates may not change fields of the specification";
        return Err(ApiStatus::invalid(resource, name, reason));
    }
    match IMMUTABLE.iter().find(|(pointer, _)| is_changed(pointer)) {
        Some((_, reason)) => Err(ApiStatus::invalid(resource, name, reason)),
        None => Ok(()),
    }
}

/// Deletes an object. `options` are the DeleteOptions of the request.
///
/// # Errors
/// 403, 404 or 409
pub fn delete(store: &mut Store, target: &Target<'_>, options: &Value) -> Result<Value, ApiStatus> {
    let Target { resource, namespace, name } = *target;
    let found = store.get(resource, namespace, name).cloned();
    let object = found.ok_or_else(|| ApiStatus::not_found(resource, name))?;
    if options["preconditions"]["uid"].as_str().is_some_and(|expected| expected != uid(&object)) {
        return Err(ApiStatus::new(409, "Conflict", "the UID in the precondition does not match the UID in record"));
    }
    if *resource == NAMESPACES && PERMANENT_NAMESPACES.contains(&name) {
        return Err(ApiStatus::forbidden(resource.plural, name, "this namespace may not be deleted"));
    }
    if !items(&options["dryRun"]).is_empty() {
        return Ok(Value::clone(&object));
    }
    match (resource.kind, text(options, "/propagationPolicy")) {
        ("Pod", _) => return Ok(delete_pod(store, &object, options["gracePeriodSeconds"].as_i64())),
        ("Job", "Foreground") => {
            let mut terminating = Value::clone(&object);
            terminating["metadata"]["deletionTimestamp"] = json!(store::now());
            terminating["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
            return Ok(Value::clone(&store.put(&JOBS, terminating)));
        }
        ("Job", "Orphan") => orphan_pods(store, &object),
        ("Namespace", _) => empty_namespace(store, name),
        _ => {}
    }
    store.remove(resource, namespace, name);
    let details = json!({"name": name, "group": resource.group, "kind": resource.plural, "uid": uid(&object)});
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}))
}

/// Deletes a pod. The node of a pod that may be running ends it within its grace period; any other is removed at once.
pub fn delete_pod(store: &mut Store, pod: &Object, grace: Option<i64>) -> Value {
    let grace = grace.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(GRACE_PERIOD);
    if grace == 0 || has_ended(pod) || text(pod, "/spec/nodeName").is_empty() {
        store.remove(&PODS, namespace(pod), name(pod));
    } else if !is_terminating(pod) {
        let mut terminating = Value::clone(pod);
        terminating["metadata"]["deletionTimestamp"] = json!(store::now());
        terminating["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        return Value::clone(&store.put(&PODS, terminating));
    }
    Value::clone(pod)
}

/// Removes the owner from the pods of a Job, so that they outlive it.
fn orphan_pods(store: &mut Store, job: &Value) {
    let pods = store.list(&PODS, namespace(job)).filter(|pod| owner(pod) == uid(job));
    for pod in pods.cloned().collect::<Vec<_>>() {
        let mut orphan = Value::clone(&pod);
        orphan["metadata"].as_object_mut().and_then(|fields| fields.remove("ownerReferences"));
        store.put(&PODS, orphan);
    }
}

/// Removes all objects of a namespace.
fn empty_namespace(store: &mut Store, namespace: &str) {
    for resource in ALL.iter().filter(|resource: &&Resource| resource.namespaced) {
        let names: Vec<String> = store.list(resource, namespace).map(|object| name(object).to_owned()).collect();
        names.iter().for_each(|name| store.remove(resource, namespace, name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_removes_a_key_lists_are_replaced_and_directives_are_ignored() {
        let mut object = json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "s": "text"});
        merge(&mut object, json!({"a": {"b": null, "d": {"e": null}}, "l": [3], "s": {"t": 1}, "$x": ["y"]}));
        assert_eq!(object, json!({"a": {"c": 2, "d": {}}, "l": [3], "s": {"t": 1}}));
    }
}
