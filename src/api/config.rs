//! GET /config: every pod of the cluster, written pod by pod as the list streams in.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::api::App;
use crate::api::error::ApiError;
use crate::api::response::Response;
use crate::kube::Pod;

/// A body of GET /config, shared by concurrent callers, and the number of its pods.
pub type List = (Arc<Vec<u8>>, usize);

/// Lists the pods within `timeout`, or shares the list of another caller.
///
/// # Errors
/// The failure of Kubernetes, or no list ended in time.
pub fn list(app: &App, timeout: Duration) -> Result<Response, ApiError> {
    let list = app.lists.run(timeout, |deadline| {
        let view: View = app.kube.list_pods(deadline).map_err(|error| ApiError::Kube(Arc::new(error), None))?;
        let count = view.count;
        Ok((Arc::new(view.into_json()), count))
    });
    let (body, count) = list.map_err(ApiError::from)??;
    Ok(Response::json(200, body).with_detail(format!("{count} pods")))
}

/// The body being written: about 150 bytes a pod. The pods themselves are not kept.
pub struct View {
    json: Vec<u8>,
    /// The number of pods written.
    pub count: usize,
}

/// One pod. The order of the fields is part of the interface.
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
    /// The whole body.
    pub fn into_json(mut self) -> Vec<u8> {
        self.json.extend_from_slice(b"]}");
        self.json
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
    fn the_five_fields_keep_their_order_and_absent_ones_are_null() {
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
