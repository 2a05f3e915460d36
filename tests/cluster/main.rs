//! The binary against a real Kubernetes: behavior that no scripted server can show.
//!
//! `tests/cluster/run` starts a cluster on this machine and runs these tests; with TEST_KUBECONFIG they run against any
//! cluster whose nodes have the images of TEST_CLASSIFIER (`:short` ends after 5 s, `:long` runs until it is killed).
//! TEST_REAL_CLASSIFIER names the image of Dockerfile.classifier, if the nodes have it. TEST_SERVER_IMAGE names the
//! image of k8s/server.yaml, if the nodes have it and this machine has a route to the pods. The tests share one cluster
//! and run one after another; each begins with an empty cluster.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "each test crate uses a part")]
mod support;

mod classifier;
mod commands;
mod doctor;
mod in_cluster;
mod jobs;
mod permissions;
mod queue;
mod state;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};
use support::http::Response;
use support::server::{Server, Setup};

/// The Job controller retries a pod that the quota refused after at most a minute.
const QUOTA_BACKOFF: Duration = Duration::from_secs(120);

/// Longest time of any other change in the cluster.
const SOON: Duration = Duration::from_secs(60);

/// Interval between two checks of the cluster.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const FREE: &str = "free-service";
const PREMIUM: &str = "default";

fn kubeconfig() -> PathBuf {
    let path = std::env::var_os("TEST_KUBECONFIG");
    path.expect("TEST_KUBECONFIG names no cluster; use tests/cluster/run, which starts one").into()
}

/// The state folder of a cluster started by tests/cluster/up; `None` for any other cluster.
fn own_cluster() -> Option<PathBuf> {
    let state = std::env::var_os("TEST_CLUSTER_STATE").map(PathBuf::from);
    if state.is_none() {
        println!("skipped: it needs the keys and the API server's process of a cluster of tests/cluster/up");
    }
    state
}

fn image(tag: &str) -> String {
    let name = std::env::var("TEST_CLASSIFIER").unwrap_or_else(|_| "registry.local/classifier".to_owned());
    format!("{name}:{tag}")
}

fn kubectl(args: &[&str]) -> Output {
    Command::new("kubectl").arg("--kubeconfig").arg(kubeconfig()).args(args).output().unwrap()
}

/// Runs kubectl, which must succeed, and returns its output.
fn kubectl_ok(args: &[&str]) -> String {
    let output = kubectl(args);
    assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn items(args: &[&str]) -> Vec<Value> {
    let text = kubectl_ok(&[args, &["-o", "json"]].concat());
    serde_json::from_str::<Value>(&text).unwrap()["items"].as_array().unwrap().clone()
}

fn pods(namespace: &str) -> Vec<Value> {
    items(&["get", "pods", "-n", namespace])
}

fn jobs(namespace: &str) -> Vec<Value> {
    items(&["get", "jobs", "-n", namespace])
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn names(objects: &[Value]) -> BTreeSet<String> {
    objects.iter().map(|object| text(object, "/metadata/name").to_owned()).collect()
}

/// The names of the Jobs that own these pods.
fn owners(pods: &[Value]) -> BTreeSet<String> {
    pods.iter().map(|pod| text(pod, "/metadata/labels/job-name").to_owned()).collect()
}

fn in_phase(pods: &[Value], phase: &str) -> usize {
    pods.iter().filter(|pod| text(pod, "/status/phase") == phase).count()
}

/// Polls until `look` returns a value.
fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        thread::park_timeout(POLL_INTERVAL);
    }
}

/// Runs kubectl with a file of this content as its last argument.
fn kubectl_file(args: &[&str], content: &Value) -> String {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("file.json");
    std::fs::write(&file, content.to_string()).unwrap();
    kubectl_ok(&[args, &[file.to_str().unwrap()]].concat())
}

/// Creates an object from a manifest. Since 1.32 `kubectl create job` and similar commands use protocol buffers, which
/// the simulator does not support.
fn create(object: &Value) {
    kubectl_file(&["create", "-f"], object);
}

/// The path of a manifest in k8s/.
fn manifest(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("k8s").join(name).display().to_string()
}

/// Applies the manifests and deletes every Job and pod.
fn empty_cluster() {
    for name in ["namespace.yaml", "quota.yaml", "quota-premium.yaml", "rbac.yaml"] {
        kubectl_ok(&["apply", "-f", &manifest(name)]);
    }
    for namespace in [FREE, PREMIUM] {
        kubectl_ok(&["delete", "jobs,pods", "--all", "--wait=false", "-n", namespace]);
    }
    for namespace in [FREE, PREMIUM] {
        within(QUOTA_BACKOFF, "an empty namespace", || {
            (jobs(namespace).is_empty() && pods(namespace).is_empty()).then_some(())
        });
        within(SOON, "a quota of which nothing is used", || {
            let used = items(&["get", "resourcequotas", "-n", namespace]);
            let unused = |quota: &Value| {
                let used = quota.pointer("/status/used").and_then(Value::as_object);
                used.is_some_and(|used| used.values().all(|amount| amount == "0"))
            };
            used.iter().all(unused).then_some(())
        });
    }
}

/// A server with the kubeconfig's own user and an image of this tag.
fn server(tag: &str) -> Server {
    server_with(&kubeconfig(), tag)
}

fn server_with(kubeconfig: &Path, tag: &str) -> Server {
    Setup::new().args(&["--kubeconfig", kubeconfig.to_str().unwrap(), "--image", &image(tag)]).start()
}

fn post(server: &Server, tier: &str, dataset: &str) -> Response {
    server.post(&format!("/img-classification/{tier}"), json!({ "dataset": dataset }).to_string())
}

/// Posts and returns the Job's name.
fn post_ok(server: &Server, tier: &str, dataset: &str) -> String {
    let response = post(server, tier, dataset);
    assert_eq!(response.status, 200, "{}\n{}", response.text(), server.stderr());
    response.json()["job"].as_str().unwrap().to_owned()
}

/// All pods in GET /config, by namespace and name.
fn config(server: &Server) -> BTreeMap<String, Value> {
    pods_of(&server.get("/config"))
}

fn pods_of(response: &Response) -> BTreeMap<String, Value> {
    assert_eq!(response.status, 200, "{}", response.text());
    let pods = response.json()["pods"].as_array().unwrap().clone();
    pods.into_iter().map(|pod| (format!("{}/{}", text(&pod, "/namespace"), text(&pod, "/name")), pod)).collect()
}

/// The same from kubectl.
fn expected_config() -> BTreeMap<String, Value> {
    let field = |pod: &Value, pointer: &str| pod.pointer(pointer).cloned().unwrap_or(Value::Null);
    let row = |pod: &Value| {
        json!({
            "node": field(pod, "/spec/nodeName"),
            "ip": field(pod, "/status/podIP"),
            "namespace": field(pod, "/metadata/namespace"),
            "name": field(pod, "/metadata/name"),
            "status": field(pod, "/status/phase"),
        })
    };
    let pods = items(&["get", "pods", "-A"]);
    pods.iter()
        .map(|pod| (format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name")), row(pod)))
        .collect()
}

/// Runs a command of the program as the kubeconfig's own user; returns its output and whether it succeeded.
fn command(name: &str, args: &[&str]) -> (String, bool) {
    let setup =
        Setup::new().env("AWS_EC2_METADATA_DISABLED", "true").args(&["--kubeconfig", kubeconfig().to_str().unwrap()]);
    let end = setup.args(args).run(&[name]);
    (format!("{}{}", end.stdout, end.stderr), end.code == Some(0))
}
