//! The fields of a pod that this program reads. Lists are parsed as they stream, and all other fields are skipped.

use std::fmt;
use std::io::{self, Read};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use crate::kube::types::watched::WatchedObject;

/// A pod, with the fields in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// spec.nodeName; absent until the pod is scheduled.
    pub node: Option<String>,
    /// status.podIP; absent until its sandbox runs.
    pub ip: Option<String>,
    pub namespace: String,
    pub name: String,
    /// status.phase; empty while Kubernetes has none.
    pub phase: String,
    /// metadata.resourceVersion of a watched pod; empty in a list.
    pub version: String,
}

/// The metadata of one page of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListMeta {
    /// The continue token; empty on the last page.
    pub next: String,
    /// The list's resource version.
    pub version: String,
}

/// Any object, to check its kind and name; also a `Status` with its reason and message.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Object {
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
    #[serde(deserialize_with = "or_default")]
    pub message: String,
}

/// Metadata of an object or of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Metadata {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    /// The continue token of a list; empty on the last page.
    #[serde(rename = "continue", deserialize_with = "or_default")]
    pub next: String,
    #[serde(rename = "resourceVersion", deserialize_with = "or_default")]
    pub version: String,
}

/// Deserializes null, which Kubernetes sends for some absent values, as the default.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::<T>::deserialize(from).map(Option::unwrap_or_default)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPod {
    metadata: Metadata,
    #[serde(default, deserialize_with = "or_default")]
    spec: Spec,
    #[serde(default, deserialize_with = "or_default")]
    status: PodStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PodStatus {
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    phase: Option<String>,
}

impl Pod {
    /// Creates a pod; an empty text counts as absent.
    pub(in crate::kube) fn new(
        node: Option<String>,
        ip: Option<String>,
        namespace: String,
        name: String,
        phase: Option<String>,
    ) -> Self {
        let present = |text: Option<String>| text.filter(|text| !text.is_empty());
        let phase = phase.unwrap_or_default();
        Self { node: present(node), ip: present(ip), namespace, name, phase, version: String::new() }
    }

    /// Calls `leaf` with each leaf of a pod, as its JSON has it.
    pub(in crate::kube) fn leaves(&self, mut leaf: impl FnMut(&[&str], &str)) {
        leaf(&["metadata", "namespace"], &self.namespace);
        leaf(&["metadata", "name"], &self.name);
        leaf(&["spec", "nodeName"], self.node.as_deref().unwrap_or_default());
        leaf(&["status", "podIP"], self.ip.as_deref().unwrap_or_default());
        leaf(&["status", "phase"], &self.phase);
    }
}

impl WatchedObject for Pod {
    fn set(&mut self, path: &[&str], leaf: &str) {
        match path {
            ["metadata", "namespace"] => leaf.clone_into(&mut self.namespace),
            ["metadata", "name"] => leaf.clone_into(&mut self.name),
            ["metadata", "resourceVersion"] => leaf.clone_into(&mut self.version),
            ["spec", "nodeName"] => self.node = Some(leaf.to_owned()).filter(|node| !node.is_empty()),
            ["status", "podIP"] => self.ip = Some(leaf.to_owned()).filter(|ip| !ip.is_empty()),
            ["status", "phase"] => leaf.clone_into(&mut self.phase),
            _ => {}
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        &self.version
    }
}

impl From<RawPod> for Pod {
    fn from(RawPod { metadata, spec, status }: RawPod) -> Self {
        Self::new(spec.node_name, status.pod_ip, metadata.namespace, metadata.name, status.phase)
    }
}

/// An unreadable list, in JSON or in protocol buffers.
#[derive(Debug)]
pub enum DecodeError {
    /// The text or the connection ended early.
    Io(io::Error),
    /// The text is not a list of pods.
    Malformed,
}

impl From<io::Error> for DecodeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<serde_json::Error> for DecodeError {
    fn from(error: serde_json::Error) -> Self {
        match error.classify() {
            serde_json::error::Category::Io => Self::Io(error.into()),
            serde_json::error::Category::Eof => Self::Io(io::ErrorKind::UnexpectedEof.into()),
            _ => Self::Malformed,
        }
    }
}

/// Reads one page of a PodList as it arrives, and adds each pod to `pods`.
///
/// # Errors
/// The text ended early, is unreadable, or is not a PodList. `pods` then holds an unusable part.
pub fn read_pod_list<C: Extend<Pod>>(from: impl Read, pods: &mut C) -> Result<ListMeta, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_reader(from);
    let page = ListSeed(pods).deserialize(&mut json)?;
    // Reads to the very end, where gzip has its checksum.
    json.end()?;
    Ok(page)
}

struct ListSeed<'a, C>(&'a mut C);

impl<'de, C: Extend<Pod>> DeserializeSeed<'de> for ListSeed<'_, C> {
    type Value = ListMeta;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<ListMeta, D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, C: Extend<Pod>> Visitor<'de> for ListSeed<'_, C> {
    type Value = ListMeta;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a PodList")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<ListMeta, M::Error> {
        let (mut kind, mut page, mut items) = (String::new(), Metadata::default(), false);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "kind" => kind = map.next_value()?,
                "metadata" => page = map.next_value::<Option<Metadata>>()?.unwrap_or_default(),
                "items" if items => return Err(de::Error::duplicate_field("items")),
                "items" => {
                    map.next_value_seed(ItemsSeed(&mut *self.0))?;
                    items = true;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if kind != "PodList" || !items {
            return Err(de::Error::custom("not a PodList"));
        }
        Ok(ListMeta { next: page.next, version: page.version })
    }
}

struct ItemsSeed<'a, C>(&'a mut C);

impl<'de, C: Extend<Pod>> DeserializeSeed<'de> for ItemsSeed<'_, C> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_option(self)
    }
}

impl<'de, C: Extend<Pod>> Visitor<'de> for ItemsSeed<'_, C> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of pods")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(self)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        while let Some(pod) = seq.next_element::<RawPod>()? {
            self.0.extend(Some(Pod::from(pod)));
        }
        Ok(())
    }
}

/// A collection that drops its pods, for a list that only tests the permission.
#[derive(Default)]
pub struct DiscardPods;

impl Extend<Pod> for DiscardPods {
    fn extend<I: IntoIterator<Item = Pod>>(&mut self, pods: I) {
        pods.into_iter().for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Vec<Pod>, ListMeta), serde_json::Error> {
        let mut pods = Vec::new();
        read_pod_list(text.as_bytes(), &mut pods).map(|page| (pods, page))
    }

    #[test]
    fn a_pod_without_node_and_ip_is_read_without_them() {
        let (pods, page) = read(
            r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7","continue":"a+b"},"items":[
                {"metadata":{"name":"p","namespace":"n","labels":{"x":"y"}},"spec":{"containers":[{}]},"status":{"phase":"Pending"}},
                {"metadata":{"name":"q","namespace":"n"},"spec":{"nodeName":"w"},"status":{"phase":"Running","podIP":"10.0.0.1"}},
                {"metadata":{"name":"r","namespace":"n"},"spec":null,"status":null}]}"#,
        )
        .expect("a valid list");
        assert_eq!(page, ListMeta { next: "a+b".to_owned(), version: "7".to_owned() });
        assert_eq!((pods[0].node.as_deref(), pods[0].ip.as_deref(), pods[0].phase.as_str()), (None, None, "Pending"));
        assert_eq!((pods[1].node.as_deref(), pods[1].ip.as_deref()), (Some("w"), Some("10.0.0.1")));
        assert_eq!(pods[2].phase, "");
    }

    #[test]
    fn items_may_be_null_but_not_missing() {
        assert_eq!(read(r#"{"items":null,"kind":"PodList","metadata":null}"#).expect("empty").0, []);
        assert!(read(r#"{"kind":"PodList","metadata":{}}"#).is_err());
    }

    #[test]
    fn anything_but_one_complete_pod_list_is_an_error() {
        for text in [
            "",
            "null",
            "[]",
            r#"{"kind":"PodList","items":[{"metadata":{"name":"p","namespace":"n"}}"#,
            r#"{"kind":"PodList","items":[{}]}"#,
            r#"{"kind":"PodList","items":[]} trailing"#,
            r#"{"kind":"Table","items":[]}"#,
            r#"{"kind":"Status","message":"no"}"#,
            "<html></html>",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
