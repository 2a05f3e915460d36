//! The objects, in memory: one version counter for all of them, and a log of the last changes for watches. Objects are not
//! validated here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::resources::{EVENTS, Resource};

/// Changes in the log, which is how far back a watch can start; at most 10 KB each.
const MAX_CHANGES: usize = 1000;

/// Stored events; the oldest are removed first. Kubernetes keeps them for an hour.
const MAX_EVENTS: usize = 500;

/// Kubernetes' alphabet for random names, see k8s.io/apimachinery/pkg/util/rand.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A stored object. It is immutable: a new version replaces it.
pub type Object = Arc<Value>;

/// A change, as a watch reports it.
pub struct Change {
    pub version: u64,
    /// The resource's plural name.
    pub plural: &'static str,
    /// ADDED, MODIFIED or DELETED.
    pub kind: &'static str,
    pub object: Object,
    /// The object before a modification: for a watch with selectors it may have been one of theirs.
    pub previous: Option<Object>,
}

/// All objects, by resource, namespace (empty if cluster-scoped) and name.
#[derive(Default)]
pub struct Store {
    objects: BTreeMap<(&'static str, String, String), Object>,
    version: u64,
    log: VecDeque<Change>,
    events: VecDeque<(String, String)>,
}

impl Store {
    /// Returns the version of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<&Object> {
        self.objects.get(&(resource.plural, namespace.to_owned(), name.to_owned()))
    }

    /// Returns the objects of a namespace in order of names. An empty namespace means all namespaces.
    pub fn list<'a>(&'a self, resource: &Resource, namespace: &'a str) -> impl Iterator<Item = &'a Object> + use<'a> {
        let plural = resource.plural;
        let from = self.objects.range((plural, namespace.to_owned(), String::new())..);
        let inside =
            move |key: &(&str, String, String)| key.0 == plural && (namespace.is_empty() || key.1 == namespace);
        from.take_while(move |(key, _)| inside(key)).map(|(_, object)| object)
    }

    /// Stores an object and replaces the one of the same name.
    pub fn put(&mut self, resource: &Resource, mut object: Value) -> Object {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let (namespace, name) = (text(&object, "/metadata/namespace").to_owned(), name(&object).to_owned());
        let object = Arc::new(object);
        let old = self.objects.insert((resource.plural, namespace.clone(), name.clone()), Arc::clone(&object));
        let is_new = old.is_none();
        self.record(resource, if is_new { "ADDED" } else { "MODIFIED" }, Arc::clone(&object), old);
        if *resource == EVENTS && is_new {
            self.events.push_back((namespace, name));
            if self.events.len() > MAX_EVENTS
                && let Some((namespace, name)) = self.events.pop_front()
            {
                self.remove(&EVENTS, &namespace, &name);
            }
        }
        object
    }

    pub fn remove(&mut self, resource: &Resource, namespace: &str, name: &str) {
        if let Some(old) = self.objects.remove(&(resource.plural, namespace.to_owned(), name.to_owned())) {
            self.version += 1;
            let mut last = Value::clone(&old);
            last["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.record(resource, "DELETED", Arc::new(last), None);
        }
    }

    fn record(&mut self, resource: &Resource, kind: &'static str, object: Object, previous: Option<Object>) {
        self.log.push_back(Change { version: self.version, plural: resource.plural, kind, object, previous });
        if self.log.len() > MAX_CHANGES {
            self.log.pop_front();
        }
    }

    /// Returns the changes after `version`. Returns `None` if the log does not reach back that far.
    pub fn since(&self, version: u64) -> Option<impl Iterator<Item = &Change>> {
        let oldest = self.log.front().map_or(self.version, |change| change.version - 1);
        (version >= oldest).then(|| self.log.iter().filter(move |change| change.version > version))
    }
}

/// Returns the string at a JSON pointer, or an empty one.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// Returns the elements of a list, or none if the value is not a list.
pub fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// Returns the uid of the Job that owns a pod.
pub fn owner(pod: &Value) -> &str {
    items(&pod["metadata"]["ownerReferences"]).first().map_or("", |owner| text(owner, "/uid"))
}

/// Returns true if the pod has succeeded or failed.
pub fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Returns true if this condition of the object is true.
pub fn has_condition(object: &Value, kind: &str) -> bool {
    items(&object["status"]["conditions"]).iter().any(|found| found["type"] == kind && found["status"] == "True")
}

/// Returns true if the object is being deleted.
pub fn is_terminating(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Returns the time in Kubernetes' format.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Returns random bytes. Every supported kernel has a generator; without one, names would repeat and be refused.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let _ = getrandom::getrandom(&mut bytes);
    bytes
}

/// Returns five random letters, as Kubernetes appends to generateName.
pub fn suffix() -> String {
    random::<5>().iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// Returns random hexadecimal digits, two for each of `N` bytes.
pub fn hex<const N: usize>() -> String {
    random::<N>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns a random UUID.
pub fn uuid() -> String {
    let id = hex::<16>();
    format!("{}-{}-4{}-a{}-{}", &id[..8], &id[8..12], &id[13..16], &id[17..20], &id[20..])
}

/// Merges a patch into an object, RFC 7396. Keys that begin with `$` are directives of strategic merge patches and are ignored.
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
