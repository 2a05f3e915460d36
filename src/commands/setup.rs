//! `setup`: the namespace, the quotas and the role, from the very files of k8s/, made or repaired by server-side apply.

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::commands::output::{Finding, Paper};
use crate::kube::{self, Client, Error, Operation};

/// In the order in which one needs the other.
const FILES: [&str; 4] = [
    include_str!("../../k8s/namespace.yaml"),
    include_str!("../../k8s/quota.yaml"),
    include_str!("../../k8s/quota-premium.yaml"),
    include_str!("../../k8s/rbac.yaml"),
];

/// The widest topic in what [`run`] says: a kind, a namespace and a name.
pub const TOPIC_WIDTH: usize = "rolebinding free-service/img-classification-queue".len();

/// How long a namespace that is just being deleted may take for it: its pods have 30 s to end, and Kubernetes looks again
/// after ever longer pauses; over a minute has been seen.
const TERMINATION: Duration = Duration::from_secs(300);

/// Between two looks at it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why not all was applied; what had been until then stays.
#[derive(Debug)]
pub enum SetupError {
    /// Kubernetes said no.
    Kube(Error),
    /// This object's deletion does not end.
    Ending(String),
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
            Self::Ending(topic) => {
                let minutes = TERMINATION.as_secs() / 60;
                write!(
                    f,
                    "{topic} has been being deleted for {minutes} minutes; see what keeps it: kubectl get {topic} -o yaml"
                )
            }
        }
    }
}

impl std::error::Error for SetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Kube(error) => error.source(),
            Self::Ending(_) => None,
        }
    }
}

/// All the files as one YAML text.
pub fn yaml() -> String {
    FILES.join("---\n")
}

/// Applies the files, says what that changed, and ends with what it was good for.
///
/// # Errors
/// [`SetupError`]
pub fn run(kube: &Client, paper: Paper) -> Result<(), SetupError> {
    match apply(kube, |finding| paper.finding(&finding))? {
        0 => paper.line("nothing to change"),
        1 => paper.line("1 object changed"),
        count => paper.line(&format!("{count} objects changed")),
    }
    Ok(())
}

const UNCHANGED: &str = "unchanged";

/// Applies the files, and tells of each object what happened to it; gives the number of those that changed.
///
/// # Errors
/// [`SetupError`]
pub fn apply(kube: &Client, mut tell: impl FnMut(Finding)) -> Result<usize, SetupError> {
    let mut changed = 0;
    for object in objects() {
        let before = look_past_deletion(kube, &object, &mut tell)?;
        let done = apply_one(kube, &object, before)?;
        changed += usize::from(done != UNCHANGED);
        tell(Finding::ok(topic(&object), done));
    }
    Ok(changed)
}

/// What the files hold.
fn objects() -> Vec<Value> {
    let read = |text| kube::documents(text).expect("a test reads these very files");
    FILES.into_iter().flat_map(read).collect()
}

/// What is there now; if it is just being deleted, what is there afterwards.
fn look_past_deletion(
    kube: &Client,
    object: &Value,
    tell: &mut impl FnMut(Finding),
) -> Result<Option<Value>, SetupError> {
    let path = path(object);
    let mut found = look(kube, &path)?;
    let is_ending =
        |found: &Option<Value>| found.as_ref().is_some_and(|old| !old["metadata"]["deletionTimestamp"].is_null());
    if is_ending(&found) {
        tell(Finding::ok(topic(object), "waiting for the end of its deletion"));
    }
    let start = Instant::now();
    while is_ending(&found) {
        if start.elapsed() >= TERMINATION {
            return Err(SetupError::Ending(topic(object)));
        }
        thread::sleep(LOOK_AGAIN);
        found = look(kube, &path)?;
    }
    Ok(found)
}

/// Makes one object as the file has it; what that came to, in words.
fn apply_one(kube: &Client, object: &Value, before: Option<Value>) -> Result<String, Error> {
    let path = path(object);
    let obstacle = before.as_ref().and_then(|old| obstacle(object, old));
    if obstacle.is_some() {
        kube.delete(&path)?;
    }
    let mut after = kube.object(Operation::Apply(object), &path)?;
    // What others have added stays after an apply; in a quota it would hold the classifiers back.
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

/// What is wrong with an object that can never be changed; what it was good for cannot be kept either. The scopes of a quota
/// are of this kind, see <https://kubernetes.io/docs/concepts/policy/resource-quotas/#quota-scopes>.
fn obstacle(object: &Value, old: &Value) -> Option<&'static str> {
    let is_scoped = |quota: &Value| ["scopes", "scopeSelector"].iter().any(|field| !quota["spec"][field].is_null());
    if !object["roleRef"].is_null() && old["roleRef"] != object["roleRef"] {
        Some("it was bound to another role")
    } else if object["kind"] == "ResourceQuota" && is_scoped(old) {
        Some("it was for pods of some scopes only")
    } else {
        None
    }
}

fn look(kube: &Client, path: &str) -> Result<Option<Value>, Error> {
    match kube.object(Operation::Get, path) {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Limits of a quota that the file does not have.
fn foreign_limits(object: &Value, stored: &Value) -> Vec<String> {
    let Some(ours) = object["spec"]["hard"].as_object() else { return Vec::new() };
    let stored = stored["spec"]["hard"].as_object().into_iter().flat_map(Map::keys);
    stored.filter(|key| !ours.contains_key(*key)).cloned().collect()
}

/// The fields of `object` that differ between before and after. Kubernetes writes some values in its own way (1000 becomes
/// 1k), so that the file's own text says nothing.
fn compare(object: &Value, before: &Value, after: &Value, field: &str, changes: &mut Vec<String>) {
    if let Value::Object(fields) = object {
        for (name, value) in fields {
            let inner = if field.is_empty() { name.clone() } else { format!("{field}.{name}") };
            compare(value, &before[name], &after[name], &inner, changes);
        }
    } else if before != after {
        match (before, after) {
            (Value::Array(_), _) | (_, Value::Array(_)) => changes.push(field.to_owned()),
            (Value::Null, after) => changes.push(format!("{field} set to {}", shown(after))),
            (before, after) => changes.push(format!("{field} from {} to {}", shown(before), shown(after))),
        }
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Where the API has an object of our files.
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

/// A kind and a name, as kubectl writes them.
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
    fn all_of_it_is_one_yaml_text() {
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
