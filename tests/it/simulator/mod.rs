//! The simulator of `serve --local`, from outside: its controllers, its API, and its robustness.
//!
//! tests/cluster runs the same tests against the simulator and a real Kubernetes.

mod api;
mod changes;
mod deletions;
mod jobs;
mod logs;
mod robustness;
mod validation;

use crate::support::eventually;
use crate::support::kubernetes::Kubernetes;
use crate::support::server::{KUBECONFIG, Server, Setup};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

const FREE_JOBS: &str = "/apis/batch/v1/namespaces/free-service/jobs";
const FREE_PODS: &str = "/api/v1/namespaces/free-service/pods";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A server with the simulator, and an administrator's client.
struct Local {
    server: Server,
    kubeconfig: PathBuf,
    kube: Kubernetes,
}

/// Starts with an image of this tag, whose classifier takes a second.
fn start(tag: &str) -> Local {
    start_with(tag, &[])
}

fn start_with(tag: &str, args: &[&str]) -> Local {
    let image = format!("classifier:{tag}");
    let setup = Setup::new().args(&["--local", "--local-job-seconds", "1", "--image", &image]);
    let server = setup.args(args).start();
    let line = server.wait_for_log("with the kubeconfig", |line| line.starts_with(KUBECONFIG));
    let kubeconfig = PathBuf::from(&line[KUBECONFIG.len()..]);
    let kube = Kubernetes::new(&kubeconfig);
    Local { server, kubeconfig, kube }
}

impl Local {
    /// Posts a request for mnist and returns the Job's path.
    fn post(&self, tier: &str) -> String {
        self.post_dataset(tier, "mnist")
    }

    fn post_dataset(&self, tier: &str, dataset: &str) -> String {
        let body = json!({ "dataset": dataset }).to_string();
        let response = self.server.post(&format!("/img-classification/{tier}"), &body);
        assert_eq!(response.status, 200, "{}", response.text());
        let namespace = if tier == "free" { FREE_JOBS } else { JOBS };
        format!("{namespace}/{}", response.json()["job"].as_str().unwrap())
    }

    fn phases(&self, path: &str) -> Vec<String> {
        self.kube.items(path).iter().map(|pod| text(pod, "/status/phase")).collect()
    }

    /// Checks that a Job still runs to its end and that no thread has panicked.
    fn is_sound(&self) {
        let name = format!("sound-{}", self.kube.items(JOBS).len());
        let (status, body) = self.kube.post(JOBS, &job(&name, "short"));
        assert_eq!(status, 201, "{body}");
        let path = format!("{JOBS}/{name}");
        eventually("a Job that succeeds", || self.kube.get(&path).1["status"]["succeeded"] == 1);
        let log = self.server.log_until_now();
        assert!(!log.contains("bug:"), "{log}");
    }
}

fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn names(objects: &[Value]) -> BTreeSet<String> {
    objects.iter().map(|object| text(object, "/metadata/name")).collect()
}

fn container(tag: &str, cpu: &str) -> Value {
    let resources = json!({"requests": {"cpu": cpu}, "limits": {"cpu": cpu}});
    json!({"name": "c", "image": format!("classifier:{tag}"), "resources": resources})
}

fn job(name: &str, tag: &str) -> Value {
    let spec = json!({"restartPolicy": "Never", "containers": [container(tag, "100m")]});
    json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
           "spec": {"backoffLimit": 0, "template": {"spec": spec}}})
}

fn pod(name: &str, tag: &str, cpu: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
           "spec": {"restartPolicy": "Never", "containers": [container(tag, cpu)]}})
}
