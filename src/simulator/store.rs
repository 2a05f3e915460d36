//! The objects, in memory: one version counter over all of them, and a log of the last changes for those who watch.
//! Nothing here judges an object.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::resources::{EVENTS, Resource};

/// Changes that a watch can still be told of; 10 KB each at the most.
const LOG_MOST: usize = 1000;

/// Events that are kept; the oldest go first. Kubernetes keeps them for an hour.
const EVENTS_MOST: usize = 500;

/// Kubernetes' alphabet for random names, see k8s.io/apimachinery/pkg/util/rand.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// A stored object. It never changes: a new version takes its place.
pub type Object = Arc<Value>;

/// A change, for those who watch.
pub struct Change {
    pub version: u64,
    /// The resource's plural name.
    pub plural: &'static str,
    /// ADDED, MODIFIED or DELETED.
    pub kind: &'static str,
    pub object: Object,
}

/// All objects, by resource, namespace (empty for what has none) and name.
#[derive(Default)]
pub struct Store {
    objects: BTreeMap<(&'static str, String, String), Object>,
    version: u64,
    log: VecDeque<Change>,
    events: VecDeque<(String, String)>,
}

impl Store {
    /// That of the last change.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<&Object> {
        self.objects.get(&(resource.plural, namespace.to_owned(), name.to_owned()))
    }

    /// All of a namespace, or of all namespaces if it is empty, by name.
    pub fn list<'a>(&'a self, resource: &Resource, namespace: &'a str) -> impl Iterator<Item = &'a Object> + use<'a> {
        let plural = resource.plural;
        let from = self.objects.range((plural, namespace.to_owned(), String::new())..);
        let inside =
            move |key: &(&str, String, String)| key.0 == plural && (namespace.is_empty() || key.1 == namespace);
        from.take_while(move |(key, _)| inside(key)).map(|(_, object)| object)
    }

    /// Stores an object in place of the one of its name, if there is one.
    pub fn put(&mut self, resource: &Resource, mut object: Value) -> Object {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let (namespace, name) = (text(&object, "/metadata/namespace").to_owned(), name(&object).to_owned());
        let object = Arc::new(object);
        let old = self.objects.insert((resource.plural, namespace.clone(), name.clone()), Arc::clone(&object));
        self.record(resource, if old.is_some() { "MODIFIED" } else { "ADDED" }, Arc::clone(&object));
        if *resource == EVENTS && old.is_none() {
            self.events.push_back((namespace, name));
            if self.events.len() > EVENTS_MOST
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
            self.record(resource, "DELETED", Arc::new(last));
        }
    }

    fn record(&mut self, resource: &Resource, kind: &'static str, object: Object) {
        self.log.push_back(Change { version: self.version, plural: resource.plural, kind, object });
        if self.log.len() > LOG_MOST {
            self.log.pop_front();
        }
    }

    /// What changed after that version; none if the log does not reach back so far.
    pub fn since(&self, version: u64) -> Option<impl Iterator<Item = &Change>> {
        let oldest = self.log.front().map_or(self.version, |change| change.version - 1);
        (version >= oldest).then(|| self.log.iter().filter(move |change| change.version > version))
    }
}

/// Why the API says no: a `Status` object in Kubernetes' own words.
#[derive(Debug)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
}

impl Refusal {
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.qualified()))
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub fn invalid(resource: &Resource, name: &str, why: &str) -> Self {
        let kind = if resource.group.is_empty() {
            resource.kind.to_owned()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {why}"))
    }

    pub fn forbidden(resource: &str, name: &str, why: &str) -> Self {
        let name = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        Self::new(403, "Forbidden", format!("{resource}{name} is forbidden: {why}"))
    }

    pub fn into_json(self) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
               "message": self.message, "reason": self.reason, "code": self.code})
    }
}

/// The string at a JSON pointer, or an empty one.
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

/// The elements of a list; none of what is no list.
pub fn items(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// The Job that a pod belongs to, as its uid.
pub fn owner(pod: &Value) -> &str {
    items(&pod["metadata"]["ownerReferences"]).first().map_or("", |owner| text(owner, "/uid"))
}

/// The pod has succeeded or failed.
pub fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// The object is on its way out.
pub fn is_going(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// The time as Kubernetes writes it.
pub fn now() -> String {
    humantime::format_rfc3339_seconds(SystemTime::now()).to_string()
}

/// Random bytes. Without a generator, which no kernel of these days lacks, names would repeat and be refused.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let _ = getrandom::getrandom(&mut bytes);
    bytes
}

/// Five random letters, as Kubernetes appends to generateName.
pub fn suffix() -> String {
    random::<5>().iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()])).collect()
}

/// Random hexadecimal digits, two for each of `N` bytes.
pub fn hex<const N: usize>() -> String {
    random::<N>().iter().map(|byte| format!("{byte:02x}")).collect()
}
