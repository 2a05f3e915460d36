//! Creation, change and deletion of objects, for requests and for the controllers.

use std::sync::Arc;

use serde_json::{Value, json};

use super::delete_options::{DeleteOptions, Propagation};
use super::quota;
use super::resources::{ACCOUNTS, ALL, JOBS, NAMESPACES, PODS, Resource, Target};
use super::status::ApiStatus;
use super::store::{self, Object, Store, has_ended, is_terminating, name, namespace, owner, text, uid};
use super::validation::{GRACE_PERIOD, decode, set_defaults, set_initial, validate};

/// Namespaces that cannot be deleted.
const PERMANENT_NAMESPACES: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Metadata fields that clients may set; the server sets all others.
pub const CLIENT_METADATA: [&str; 6] =
    ["name", "generateName", "namespace", "labels", "annotations", "ownerReferences"];

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
    set_initial(resource, &mut object);
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

/// Deletes an object.
///
/// # Errors
/// 403, 404 or 409
pub fn delete(store: &mut Store, target: &Target<'_>, options: &DeleteOptions) -> Result<Value, ApiStatus> {
    let Target { resource, namespace, name } = *target;
    let found = store.get(resource, namespace, name).cloned();
    let object = found.ok_or_else(|| ApiStatus::not_found(resource, name))?;
    options.check(resource, &object)?;
    if *resource == NAMESPACES && PERMANENT_NAMESPACES.contains(&name) {
        return Err(ApiStatus::forbidden(resource.plural, name, "this namespace may not be deleted"));
    }
    if options.dry_run {
        return Ok(Value::clone(&object));
    }
    match (resource.kind, options.propagation) {
        ("Pod", _) => return Ok(delete_pod(store, &object, options.grace_period)),
        ("Job", Propagation::Foreground) => {
            let mut terminating = Value::clone(&object);
            terminating["metadata"]["deletionTimestamp"] = json!(store::now());
            terminating["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
            return Ok(Value::clone(&store.put(&JOBS, terminating)));
        }
        ("Job", Propagation::Orphan) => orphan_pods(store, &object),
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
