//! The body of GET /config: every pod with five fields, in the order of Kubernetes, and its entity tag. Pure.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use serde::Serialize;

use crate::kube::Pod;
use crate::state::rows::Snapshot;

/// The begin and the end of the body.
const BEGIN: &[u8] = br#"{"pods":["#;
const END: &[u8] = b"]}";

/// A body, shared by concurrent callers, and the digest of its rows.
pub type Body = (Digest, Arc<Vec<u8>>);

/// One pod. The order of the fields is part of the interface.
#[derive(Serialize)]
struct Row<'a> {
    node: Option<&'a str>,
    ip: Option<&'a str>,
    namespace: &'a str,
    name: &'a str,
    status: &'a str,
}

/// Appends a pod as a JSON object. A pod without a phase is in the phase of one whose node cannot be asked.
pub fn write_row(json: &mut Vec<u8>, pod: &Pod) {
    let Pod { node, ip, namespace, name, phase, .. } = pod;
    let status = if phase.is_empty() { "Unknown" } else { phase };
    let row = Row { node: node.as_deref(), ip: ip.as_deref(), namespace, name, status };
    serde_json::to_writer(json, &row).expect("strings are always JSON and a Vec takes all bytes");
}

/// A digest of a list that changes with each of its rows: their number, and the sum of their hashes. A row is added and removed
/// without the others. It ignores the order of the rows, which their names decide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    pub rows: usize,
    sum: u64,
}

impl Digest {
    pub fn add(&mut self, row: &[u8]) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hash(row));
    }

    pub fn remove(&mut self, row: &[u8]) {
        self.rows -= 1;
        self.sum = self.sum.wrapping_sub(hash(row));
    }

    /// The entity tag, RFC 9110, section 8.8.3.
    pub fn etag(&self) -> String {
        format!("\"{:x}-{:016x}\"", self.rows, self.sum)
    }
}

/// Returns the hash of an entity tag, the same for all servers of one build.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The body being written: about 150 bytes a pod. The pods themselves are not kept.
pub struct PodList {
    json: Vec<u8>,
    pub digest: Digest,
}

impl Default for PodList {
    fn default() -> Self {
        Self { json: BEGIN.to_vec(), digest: Digest::default() }
    }
}

impl Extend<Pod> for PodList {
    fn extend<I: IntoIterator<Item = Pod>>(&mut self, pods: I) {
        for pod in pods {
            if self.digest.rows > 0 {
                self.json.push(b',');
            }
            let start = self.json.len();
            write_row(&mut self.json, &pod);
            self.digest.add(&self.json[start..]);
        }
    }
}

impl PodList {
    /// Returns the whole body.
    pub fn into_json(mut self) -> Vec<u8> {
        self.json.extend_from_slice(END);
        self.json
    }
}

/// Returns the whole body of these rows.
pub fn join(rows: &Snapshot) -> Vec<u8> {
    let mut json = Vec::with_capacity(BEGIN.len() + rows.totals.bytes + rows.totals.digest.rows + END.len());
    json.extend_from_slice(BEGIN);
    for (index, row) in rows.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        json.extend_from_slice(row);
    }
    json.extend_from_slice(END);
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::rows::Rows;

    fn pod(node: Option<&str>, name: &str, phase: &str) -> Pod {
        Pod {
            node: node.map(str::to_owned),
            ip: node.map(|_| "10.0.0.7".to_owned()),
            namespace: "default".into(),
            name: name.into(),
            phase: phase.into(),
            version: String::new(),
        }
    }

    #[test]
    fn a_cluster_without_pods_is_an_empty_list() {
        assert_eq!(PodList::default().into_json(), br#"{"pods":[]}"#);
        assert_eq!(join(&Rows::default().snapshot()), br#"{"pods":[]}"#);
    }

    #[test]
    fn the_five_fields_keep_their_order_and_absent_ones_are_null() {
        let pods = [pod(Some("node-1"), "a", "Pending"), pod(None, "b", "")];
        let mut rows = Rows::default();
        for pod in &pods {
            let mut row = Vec::new();
            write_row(&mut row, pod);
            rows.insert(pod.name.as_str().into(), row.into());
        }
        let joined = join(&rows.snapshot());
        let mut list = PodList::default();
        list.extend(pods);
        assert_eq!(list.into_json(), joined);
        assert_eq!(
            String::from_utf8(joined).expect("JSON is UTF-8"),
            concat!(
                r#"{"pods":[{"node":"node-1","ip":"10.0.0.7","namespace":"default","name":"a","status":"Pending"},"#,
                r#"{"node":null,"ip":null,"namespace":"default","name":"b","status":"Unknown"}]}"#
            )
        );
    }

    #[test]
    fn the_entity_tag_depends_on_every_row_and_on_nothing_else() {
        let digest = |rows: &[&str]| {
            let mut digest = Digest::default();
            rows.iter().for_each(|row| digest.add(row.as_bytes()));
            digest
        };
        let mut changed = digest(&["a", "b", "c"]);
        assert_ne!(changed.etag(), digest(&["a", "b", "d"]).etag());
        changed.remove(b"b");
        assert_eq!(changed.etag(), digest(&["c", "a"]).etag());
        assert!(changed.etag().starts_with("\"2-") && changed.etag().ends_with('"'), "{}", changed.etag());
    }
}
