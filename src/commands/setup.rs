//! `setup`: creates or repairs the namespace, the quotas and the roles of the files in k8s/ by server-side apply.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::commands::output::{Check, Printer};
use crate::kube::{self, Client, Error, Operation};

/// The manifests: the namespace comes before the objects in it.
const FILES: [&str; 4] = [
    include_str!("../../k8s/namespace.yaml"),
    include_str!("../../k8s/quota.yaml"),
    include_str!("../../k8s/quota-premium.yaml"),
    include_str!("../../k8s/rbac.yaml"),
];

/// Width of the widest topic that [`run`] prints: a kind, a namespace and a name.
pub const TOPIC_WIDTH: usize = "rolebinding free-service/img-classification-queue".len();

/// Longest wait for the end of a deletion. The pods of a namespace have 30 s to end, and Kubernetes checks again after growing
/// pauses; a test has seen more than a minute.
const MAX_TERMINATION: Duration = Duration::from_secs(300);

/// Pause between two requests for an object that is terminating.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// An error that ends `setup`. Objects applied before it stay.
#[derive(Debug)]
pub enum SetupError {
    /// A Kubernetes request failed.
    Kube(Error),
    /// The object's deletion does not end; its kind and name.
    Terminating(String),
}

impl From<Error> for SetupError {
    fn from(error: Error) -> Self {
        Self::Kube(error)
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kube(error) => write!(f, "{error}"),
            Self::Terminating(topic) => {
                let minutes = MAX_TERMINATION.as_secs() / 60;
                write!(
                    f,
                    "{topic} is still terminating after {minutes} minutes; fix: remove the finalizers that \
                     kubectl get {topic} -o yaml shows"
                )
            }
        }
    }
}

impl std::error::Error for SetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Kube(error) => error.source(),
            Self::Terminating(_) => None,
        }
    }
}

/// Returns all manifests as one YAML text.
pub fn yaml() -> String {
    FILES.join("---\n")
}

/// Applies the manifests, prints the result of each object, and at the end the number of changes.
///
/// # Errors
/// [`SetupError`]
pub fn run(kube: &Client, printer: Printer) -> Result<(), SetupError> {
    let result = |text: &str, changed: usize| printer.result(text, &json!({ "changed": changed }));
    match apply(kube, |check| printer.check(&check))? {
        0 => result("nothing to change", 0),
        1 => result("1 object changed", 1),
        count => result(&format!("{count} objects changed"), count),
    }
    Ok(())
}

const UNCHANGED: &str = "unchanged";

/// Applies the manifests and passes the result of each object to `report`. Returns the number of changed objects.
///
/// # Errors
/// [`SetupError`]
pub fn apply(kube: &Client, mut report: impl FnMut(Check)) -> Result<usize, SetupError> {
    let mut changed = 0;
    for object in objects() {
        let before = after_deletion(kube, &object, &mut report)?;
        let result = apply_one(kube, &object, before)?;
        changed += usize::from(result != UNCHANGED);
        report(Check::ok(topic(&object), result));
    }
    Ok(changed)
}

/// Returns the objects of the manifests.
fn objects() -> Vec<Value> {
    let read = |text| kube::documents(text).expect("a test parses the same files");
    FILES.into_iter().flat_map(read).collect()
}

/// Returns the stored object. Waits for the end of a deletion in progress.
fn after_deletion(kube: &Client, object: &Value, report: &mut impl FnMut(Check)) -> Result<Option<Value>, SetupError> {
    let path = path(object);
    let mut stored = get(kube, &path)?;
    let is_terminating = |stored: &Option<Value>| {
        stored.as_ref().is_some_and(|object| !object["metadata"]["deletionTimestamp"].is_null())
    };
    if is_terminating(&stored) {
        report(Check::ok(topic(object), "waiting for the end of its deletion"));
    }
    let start = Instant::now();
    while is_terminating(&stored) {
        if start.elapsed() >= MAX_TERMINATION {
            return Err(SetupError::Terminating(topic(object)));
        }
        thread::sleep(POLL_INTERVAL);
        stored = get(kube, &path)?;
    }
    Ok(stored)
}

/// Applies one object and returns the result in words.
fn apply_one(kube: &Client, object: &Value, before: Option<Value>) -> Result<String, Error> {
    let path = path(object);
    let obstacle = before.as_ref().and_then(|old| obstacle(object, old));
    if obstacle.is_some() {
        kube.delete(&path)?;
    }
    let mut after = kube.object(Operation::Apply(object), &path)?;
    // An apply keeps the fields of other managers; an added limit of a quota would block the classifiers.
    let foreign = foreign_limits(object, &after);
    if !foreign.is_empty() {
        let removal: Map<String, Value> = foreign.iter().map(|key| (key.clone(), Value::Null)).collect();
        after = kube.object(Operation::Merge(&json!({ "spec": { "hard": removal } })), &path)?;
    }
    let Some(before) = before else { return Ok("created".to_owned()) };
    if let Some(obstacle) = obstacle {
        return Ok(format!("replaced: {obstacle}"));
    }
    let mut changes = Vec::new();
    compare(object, &before, &after, "", &mut changes);
    changes.extend(foreign.iter().map(|key| format!("spec.hard.{key} removed")));
    Ok(if changes.is_empty() { UNCHANGED.to_owned() } else { format!("changed: {}", changes.join(", ")) })
}

/// Returns the reason to replace an object instead of changing it: roleRef and the scopes of a quota are immutable, see
/// <https://kubernetes.io/docs/concepts/policy/resource-quotas/#quota-scopes>.
fn obstacle(object: &Value, old: &Value) -> Option<&'static str> {
    let is_scoped = |quota: &Value| ["scopes", "scopeSelector"].iter().any(|field| !quota["spec"][field].is_null());
    if !object["roleRef"].is_null() && old["roleRef"] != object["roleRef"] {
        Some("it was bound to another role")
    } else if object["kind"] == "ResourceQuota" && is_scoped(old) {
        Some("it counted only the pods of some scopes")
    } else {
        None
    }
}

fn get(kube: &Client, path: &str) -> Result<Option<Value>, Error> {
    match kube.object(Operation::Get, path) {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the limits of a stored quota that the manifest does not have.
fn foreign_limits(object: &Value, stored: &Value) -> Vec<String> {
    let Some(ours) = object["spec"]["hard"].as_object() else { return Vec::new() };
    let stored = stored["spec"]["hard"].as_object().into_iter().flat_map(Map::keys);
    stored.filter(|key| !ours.contains_key(*key)).cloned().collect()
}

/// Collects the fields of `object` that differ between `before` and `after`. Kubernetes rewrites some values (1000 becomes 1k),
/// so a comparison with the manifest's own text would report false changes.
fn compare(object: &Value, before: &Value, after: &Value, field: &str, changes: &mut Vec<String>) {
    if let Value::Object(fields) = object {
        for (name, value) in fields {
            let inner = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
            compare(value, &before[name], &after[name], &inner, changes);
        }
    } else if before != after {
        match (before, after) {
            (Value::Array(_), _) | (_, Value::Array(_)) => changes.push(field.to_owned()),
            (Value::Null, after) => changes.push(format!("{field} set to {}", to_text(after))),
            (before, after) => changes.push(format!("{field} from {} to {}", to_text(before), to_text(after))),
        }
    }
}

fn to_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Returns the API path of an object.
fn path(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let group = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let namespace = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("/namespaces/{namespace}"),
        None => String::new(),
    };
    format!("{group}{namespace}/{}s/{}", text(&object["kind"]).to_lowercase(), text(&object["metadata"]["name"]))
}

/// Returns the kind and the name in the notation of kubectl.
fn topic(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespace = object["metadata"]["namespace"].as_str().map_or_else(String::new, |name| format!("{name}/"));
    format!("{} {namespace}{}", text(&object["kind"]).to_lowercase(), text(&object["metadata"]["name"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_of_the_files_has_its_path_and_fits_the_column() {
        let objects = objects();
        let paths: Vec<String> = objects.iter().map(path).collect();
        assert_eq!(
            paths[..2],
            ["/api/v1/namespaces/free-service", "/api/v1/namespaces/free-service/resourcequotas/free-cpu"]
        );
        let queue = "/apis/rbac.authorization.k8s.io/v1/namespaces/free-service/rolebindings/img-classification-queue";
        assert_eq!(paths.last().map(String::as_str), Some(queue));
        assert!(objects.iter().all(|object| topic(object).len() <= TOPIC_WIDTH));
    }

    #[test]
    fn the_printed_yaml_parses_to_the_same_objects() {
        assert_eq!(kube::documents(&yaml()).expect("YAML"), objects());
    }

    #[test]
    fn only_what_differs_in_the_cluster_is_a_change() {
        let object = json!({"spec": {"hard": {"a": "1000", "b": "2"}}, "rules": [1]});
        let before = json!({"spec": {"hard": {"a": "1k"}}, "rules": [2], "other": 1});
        let after = json!({"spec": {"hard": {"a": "1k", "b": "2", "c": "3"}}, "rules": [1], "other": 2});
        let mut changes = Vec::new();
        compare(&object, &before, &after, "", &mut changes);
        changes.sort();
        assert_eq!(changes, ["rules", "spec.hard.b set to 2"]);
        assert_eq!(foreign_limits(&object, &after), ["c"]);
    }
}
