//! The answer of GET /config, written pod by pod as the list streams in. Pure, no I/O.

use serde::Serialize;

use crate::kube::Pod;

/// The answer being written: about 150 bytes a pod, and no pod is kept beside it.
pub struct View {
    json: Vec<u8>,
    count: usize,
}

/// One pod as callers see it; the order of the fields is part of the contract.
#[derive(Serialize)]
struct Row<'a> {
    node: Option<&'a str>,
    ip: Option<&'a str>,
    namespace: &'a str,
    name: &'a str,
    status: &'a str,
}

impl Default for View {
    fn default() -> Self {
        Self { json: br#"{"pods":["#.to_vec(), count: 0 }
    }
}

impl Extend<Pod> for View {
    fn extend<I: IntoIterator<Item = Pod>>(&mut self, pods: I) {
        for pod in pods {
            if self.count > 0 {
                self.json.push(b',');
            }
            self.count += 1;
            let (node, ip) = (pod.node.as_deref(), pod.ip.as_deref());
            let row = Row { node, ip, namespace: &pod.namespace, name: &pod.name, status: &pod.phase };
            serde_json::to_writer(&mut self.json, &row).expect("strings are always JSON and a Vec takes all bytes");
        }
    }
}

impl View {
    /// The whole answer.
    pub fn into_json(mut self) -> Vec<u8> {
        self.json.extend_from_slice(b"]}");
        self.json
    }

    /// How many pods are in it.
    pub fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_without_pods_is_an_empty_list() {
        assert_eq!(View::default().into_json(), br#"{"pods":[]}"#);
    }

    #[test]
    fn the_five_fields_come_in_order_and_what_is_absent_is_null() {
        let mut view = View::default();
        let pod = |node: Option<&str>, name: &str| Pod {
            node: node.map(str::to_owned),
            ip: node.map(|_| "10.0.0.7".to_owned()),
            namespace: "default".into(),
            name: name.into(),
            phase: "Pending".into(),
        };
        view.extend([pod(Some("node-1"), "a"), pod(None, "b")]);
        assert_eq!(
            String::from_utf8(view.into_json()).expect("JSON is UTF-8"),
            concat!(
                r#"{"pods":[{"node":"node-1","ip":"10.0.0.7","namespace":"default","name":"a","status":"Pending"},"#,
                r#"{"node":null,"ip":null,"namespace":"default","name":"b","status":"Pending"}]}"#
            )
        );
    }
}
