//! Watches: the changes of a resource's objects after a version, as lines of JSON.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::request::Request;
use super::resources::{Resource, Target};
use super::selector::Selector;
use super::status::ApiStatus;
use super::store::{Change, Object, Store, namespace};
use super::table;

/// Longest watch; clients start another.
const MAX_DURATION: Duration = Duration::from_secs(1800);

/// An open watch.
pub struct Watch {
    cluster: Arc<Cluster>,
    resource: &'static Resource,
    namespace: String,
    selector: Selector,
    /// The client wants Tables; true: with complete objects.
    table: Option<bool>,
    /// Resource version of the last change sent.
    version: u64,
    wants_bookmark: bool,
    end: Instant,
    /// Objects that existed before a watch without a version; sent first.
    initial: Vec<Object>,
}

impl Watch {
    /// Opens a watch of the collection `target`.
    ///
    /// # Errors
    /// 400: a malformed parameter.
    pub fn new(
        cluster: &Arc<Cluster>,
        store: &Store,
        request: &Request,
        target: &Target<'_>,
    ) -> Result<Self, ApiStatus> {
        let Target { resource, namespace, .. } = *target;
        let selector = Selector::parse(request, resource)?;
        let from = request.query("resourceVersion");
        let is_new = matches!(from, "" | "0");
        let existing = store.list(resource, namespace).filter(|object| is_new && selector.matches(object));
        let initial = existing.cloned().collect();
        let malformed = |_| ApiStatus::bad_request(format!("resourceVersion: Invalid value: \"{from}\""));
        let version = if is_new { store.version() } else { from.parse().map_err(malformed)? };
        let timeout = request.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
        let timeout = timeout.filter(|seconds| *seconds > 0).map_or(MAX_DURATION, Duration::from_secs);
        let table = request.wants_table().then(|| request.includes_objects());
        Ok(Self {
            cluster: Arc::clone(cluster),
            resource,
            namespace: namespace.to_owned(),
            selector,
            table,
            version,
            wants_bookmark: table.is_none() && request.flag("allowWatchBookmarks"),
            end: Instant::now() + timeout.min(MAX_DURATION),
            initial,
        })
    }

    /// Returns the next lines, or none if nothing changed within `timeout`. Returns `None` at the end of the watch.
    pub fn next(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        if !self.initial.is_empty() {
            let initial = std::mem::take(&mut self.initial);
            return Some(initial.iter().flat_map(|object| self.line("ADDED", object)).collect());
        }
        if Instant::now() >= self.end {
            return std::mem::take(&mut self.wants_bookmark).then(|| self.bookmark());
        }
        let cluster = Arc::clone(&self.cluster);
        let store = cluster.wait(self.version, self.end.min(Instant::now() + timeout))?;
        let Some(changes) = store.since(self.version) else {
            self.end = Instant::now();
            self.wants_bookmark = false;
            let status = ApiStatus::new(410, "Expired", format!("too old resource version: {}", self.version));
            return Some(event("ERROR", &status.into_json()));
        };
        let lines =
            changes.filter_map(|change| Some(self.line(self.kind(change)?, &change.object))).flatten().collect();
        self.version = store.version();
        Some(lines)
    }

    /// Returns the kind of the event for a change, or `None` if the change is of another object. An object enters and leaves the
    /// selection by its modifications.
    fn kind(&self, change: &Change) -> Option<&'static str> {
        let is_here = change.plural == self.resource.plural
            && (self.namespace.is_empty() || namespace(&change.object) == self.namespace);
        let is_selected = is_here && self.selector.matches(&change.object);
        let was_selected = is_here && change.previous.as_ref().is_some_and(|previous| self.selector.matches(previous));
        match (change.kind, was_selected, is_selected) {
            ("MODIFIED", false, true) => Some("ADDED"),
            ("MODIFIED", true, false) => Some("DELETED"),
            (kind, _, true) => Some(kind),
            _ => None,
        }
    }

    /// Returns the last event of a watch that ends normally.
    fn bookmark(&self) -> Vec<u8> {
        let metadata = json!({"resourceVersion": self.version.to_string()});
        let (kind, version) = (self.resource.kind, self.resource.api_version());
        event("BOOKMARK", &json!({"kind": kind, "apiVersion": version, "metadata": metadata}))
    }

    fn line(&self, kind: &str, object: &Object) -> Vec<u8> {
        let shown = match self.table {
            Some(with_objects) => table::table(self.resource, std::slice::from_ref(object), with_objects),
            None => Value::clone(object),
        };
        event(kind, &shown)
    }
}

fn event(kind: &str, object: &Value) -> Vec<u8> {
    format!("{}\n", json!({"type": kind, "object": object})).into_bytes()
}
