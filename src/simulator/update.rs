//! Changes of stored objects: PUT and PATCH, of a whole object or of its status.

use std::sync::Arc;

use serde_json::{Value, json};

use super::json_patch;
use super::resources::{ACCOUNTS, JOBS, PODS, Target};
use super::status::ApiStatus;
use super::store::{Object, Store, merge, name, namespace, text};
use super::validation::{decode, set_defaults, validate};
use super::write::{self, CLIENT_METADATA};

/// Fields that cannot change after creation.
const IMMUTABLE_JOB: [&str; 4] = ["/spec/completions", "/spec/selector", "/spec/template", "/spec/completionMode"];

/// The way in which a request changes an object.
pub enum Change {
    /// PUT.
    Replace(Value),
    /// A merge patch or a strategic merge patch.
    Merge(Value),
    /// A JSON patch.
    Edit(Value),
    /// Server-side apply, which creates a missing object. Field managers are not recorded: an apply never conflicts.
    Apply(Value),
}

/// The options of a change.
#[derive(Clone, Copy)]
pub struct Options {
    /// The request changes the status and nothing of the specification; else the status stays.
    pub is_status: bool,
    pub dry_run: bool,
}

/// Changes an object. Returns it, and true if it is new.
///
/// # Errors
/// As [`write::create`].
pub fn update(
    store: &mut Store,
    target: &Target<'_>,
    change: Change,
    options: Options,
) -> Result<(Object, bool), ApiStatus> {
    let resource = target.resource;
    let Some(old) = store.get(resource, target.namespace, target.name).cloned() else {
        return match change {
            // Kubernetes also creates roles and bindings by PUT.
            Change::Replace(body) if resource.is_rbac() => create(store, target, body, options),
            Change::Apply(body) if !options.is_status => create(store, target, body, options),
            _ => Err(ApiStatus::not_found(resource, target.name)),
        };
    };
    let directive = match &change {
        Change::Merge(patch) => directive(patch).map(str::to_owned),
        _ => None,
    };
    let new = changed(target, &old, change)?;
    check_name(target, &new)?;
    let mut new = decode(target, new)?;
    keep_server_fields(&old, &mut new, options.is_status);
    set_defaults(resource, &mut new);
    check_change(target, &old, &new)?;
    // kubectl apply sends one with each change of an immutable list, for which the error before is right.
    if let Some(directive) = directive {
        let reason = format!("error decoding patch: the simulator does not support the directive {directive}");
        return Err(ApiStatus::bad_request(reason));
    }
    validate(resource, &new)?;
    if new == *old || options.dry_run {
        return Ok((Arc::new(new), false));
    }
    Ok((store.put(resource, new), false))
}

fn create(store: &mut Store, target: &Target<'_>, body: Value, options: Options) -> Result<(Object, bool), ApiStatus> {
    check_name(target, &body)?;
    write::create(store, target, body, options.dry_run).map(|object| (object, true))
}

/// Returns the object as the request wants it.
fn changed(target: &Target<'_>, old: &Value, change: Change) -> Result<Value, ApiStatus> {
    match change {
        Change::Replace(body) => {
            // Kubernetes replaces objects of the other kinds without a version, whatever theirs is.
            if *target.resource == ACCOUNTS && matches!(text(&body, "/metadata/resourceVersion"), "" | "0") {
                let reason = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
                return Err(ApiStatus::invalid(target.resource, target.name, reason));
            }
            Ok(body)
        }
        Change::Merge(patch) | Change::Apply(patch) => {
            let mut new = old.clone();
            merge(&mut new, patch);
            Ok(new)
        }
        Change::Edit(patch) => json_patch::apply(old, &patch).map_err(|problem| match problem {
            json_patch::Problem::Malformed => {
                ApiStatus::bad_request("error decoding patch: a JSON patch is a list of operations")
            }
            json_patch::Problem::Failed(reason) => {
                let message = format!("the server rejected our request due to an error in our request: {reason}");
                ApiStatus::new(422, "Invalid", message)
            }
        }),
    }
}

/// Returns the directive of a strategic merge patch that deletes or replaces, if there is one. The others are hints for merging lists.
fn directive(patch: &Value) -> Option<&str> {
    match patch {
        Value::Object(fields) => {
            let own = fields.keys().find(|key| *key == "$patch" || key.starts_with("$deleteFromPrimitiveList/"));
            own.map(String::as_str).or_else(|| fields.values().find_map(directive))
        }
        Value::Array(items) => items.iter().find_map(directive),
        _ => None,
    }
}

/// Refuses a body for another object than that of the path.
fn check_name(target: &Target<'_>, body: &Value) -> Result<(), ApiStatus> {
    let mismatch = |what: &str, found: &str, wanted: &str, place: &str| {
        let message = format!("the {what} of the object ({found}) does not match the {what} on the {place} ({wanted})");
        Err(ApiStatus::bad_request(message))
    };
    match (name(body), namespace(body)) {
        ("", _) => Err(ApiStatus::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            target.name
        ))),
        (found, _) if found != target.name => mismatch("name", found, target.name, "URL"),
        (_, found) if !found.is_empty() && found != target.namespace => {
            mismatch("namespace", found, target.namespace, "request")
        }
        _ => Ok(()),
    }
}

/// Restores what this request cannot change: the metadata of the server, and either the status or all but the status.
fn keep_server_fields(old: &Value, new: &mut Value, is_status: bool) {
    if let (Some(before), Some(after)) = (old["metadata"].as_object(), new["metadata"].as_object_mut()) {
        // A changed uid or version is not restored but refused.
        let is_given = |key: &str| after.get(key).is_some_and(|value| !matches!(value.as_str(), None | Some("" | "0")));
        let refused: Vec<&str> = ["uid", "resourceVersion"].into_iter().filter(|key| is_given(key)).collect();
        let is_client = |key: &str| CLIENT_METADATA.contains(&key) || refused.contains(&key);
        after.retain(|key, _| is_client(key));
        let server = before.iter().filter(|(key, _)| !is_client(key));
        after.extend(server.map(|(key, value)| (key.clone(), value.clone())));
    }
    if is_status {
        let status = Some(new["status"].take()).filter(Value::is_object).unwrap_or_else(|| json!({}));
        let metadata = new["metadata"].take();
        new.clone_from(old);
        (new["metadata"], new["status"]) = (metadata, status);
    } else if let Some(status) = old.get("status") {
        new["status"] = status.clone();
    }
}

/// Refuses a change of an outdated version or of an immutable field.
fn check_change(target: &Target<'_>, old: &Value, new: &Value) -> Result<(), ApiStatus> {
    let Target { resource, name, .. } = *target;
    if new["metadata"]["resourceVersion"] != old["metadata"]["resourceVersion"] {
        let reason = "the object has been modified; please apply your changes to the latest version and try again";
        return Err(ApiStatus::conflict(&resource.qualified(), name, reason));
    }
    if new["metadata"]["uid"] != old["metadata"]["uid"] {
        let (wanted, found) = (text(new, "/metadata/uid"), text(old, "/metadata/uid"));
        let reason = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
        return Err(ApiStatus::conflict(&resource.qualified(), name, &reason));
    }
    let is_changed = |pointer: &str| old.pointer(pointer) != new.pointer(pointer);
    if *resource == PODS && is_changed("/spec") {
        let reason = "spec: Forbidden: pod updates may not change fields of the specification";
        return Err(ApiStatus::invalid(resource, name, reason));
    }
    if is_changed("/roleRef") {
        return Err(ApiStatus::invalid(resource, name, "roleRef: Invalid value: cannot change roleRef"));
    }
    let of_kind = if *resource == JOBS { &IMMUTABLE_JOB[..] } else { &[] };
    match of_kind.iter().find(|pointer| is_changed(pointer)) {
        Some(pointer) => {
            let value = new.pointer(pointer).unwrap_or(&Value::Null);
            let field = pointer[1..].replace('/', ".");
            Err(ApiStatus::invalid(resource, name, &format!("{field}: Invalid value: {value}: field is immutable")))
        }
        None => Ok(()),
    }
}
