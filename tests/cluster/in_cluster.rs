//! The server inside the cluster, with Dockerfile and k8s/server.yaml: its image, its service account's token, its
//! probes.

use std::net::{IpAddr, SocketAddr};

use super::support::http::Connection;
use super::*;

/// containerPort of k8s/server.yaml.
const PORT: u16 = 5000;

const SELECTOR: &str = "app.kubernetes.io/component=server";

/// The Deployment of k8s/server.yaml; deleted when dropped, so that no other test finds its pod.
struct Deployed;

impl Deployed {
    /// Starts the server in an empty cluster. Returns `None` if the nodes lack the image or this host has no route to
    /// the pods.
    fn new() -> Option<Deployed> {
        if std::env::var_os("TEST_SERVER_IMAGE").is_none() {
            println!("skipped: TEST_SERVER_IMAGE is not set, so the nodes lack the image of k8s/server.yaml");
            return None;
        }
        let deployed = Deployed;
        // Leftovers of a killed run.
        kubectl(&["delete", "--ignore-not-found", "-f", &manifest("server.yaml")]);
        // A Deployment of the same name would adopt the terminating ReplicaSet, and lose it again.
        within(2 * SOON, "the end of an earlier Deployment", || {
            items(&["get", "replicasets", "-n", PREMIUM, "-l", SELECTOR]).is_empty().then_some(())
        });
        empty_cluster();
        let yaml = std::fs::read_to_string(manifest("server.yaml")).unwrap();
        // An image that these nodes have: a pod with a missing image takes 40 s to terminate.
        let yaml = yaml.replace("value: mp12-classifier:1.0", &format!("value: {}", image("long")));
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("server.yaml");
        std::fs::write(&file, yaml).unwrap();
        kubectl_ok(&["apply", "-f", file.to_str().unwrap()]);
        Some(deployed)
    }

    /// The address of its only pod, once that is ready.
    fn address(&self) -> SocketAddr {
        // The old server ends within 3 s, but the kubelet removes its pod 2 to 39 s later, and once over a minute later.
        let ip = within(3 * SOON, "the server's pod, ready and alone", || {
            let pods = items(&["get", "pods", "-n", PREMIUM, "-l", SELECTOR]);
            let ready =
                kubectl_ok(&["get", "deployment", "img-classification", "-o", "jsonpath={.status.readyReplicas}"]);
            (pods.len() == 1 && ready == "1").then(|| text(&pods[0], "/status/podIP").parse::<IpAddr>().unwrap())
        });
        SocketAddr::new(ip, PORT)
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        kubectl(&["delete", "-f", &manifest("server.yaml")]);
    }
}

fn post_to(address: SocketAddr, tier: &str) -> Response {
    let body = json!({ "dataset": "mnist" }).to_string();
    Connection::open(address).request("POST", &format!("/img-classification/{tier}"), Some(body.as_bytes()))
}

fn log() -> String {
    kubectl_ok(&["logs", "-n", PREMIUM, "-l", SELECTOR, "--tail=-1"])
}

#[test]
fn in_cluster_server_works_with_its_service_account_alone() {
    let Some(deployed) = Deployed::new() else { return };
    let address = deployed.address();
    for (tier, namespace) in [("free", FREE), ("premium", PREMIUM)] {
        let response = post_to(address, tier);
        assert_eq!(response.status, 200, "{}\n{}", response.text(), log());
        assert!(names(&jobs(namespace)).contains(response.json()["job"].as_str().unwrap()));
    }
    within(SOON, "/config as the administrator has it", || {
        (pods_of(&Connection::open(address).request("GET", "/config", None)) == expected_config()).then_some(())
    });
    let log = log();
    for line in [
        "kubeconfig: in-cluster service account",
        "credentials: token file /var/run/secrets/kubernetes.io/serviceaccount/token",
        "listening on http://0.0.0.0:5000",
    ] {
        assert!(log.lines().any(|found| found == line), "no {line:?} in\n{log}");
    }
}

#[test]
fn in_cluster_rollout_starts_the_new_server_before_the_old_one_stops() {
    let Some(deployed) = Deployed::new() else { return };
    let old = deployed.address();
    kubectl_ok(&["rollout", "restart", "deployment/img-classification", "-n", PREMIUM]);
    within(SOON, "another pod in its place", || {
        let available = ["get", "deployment", "img-classification", "-o", "jsonpath={.status.availableReplicas}"];
        assert_ne!(kubectl_ok(&available), "", "none is ready");
        (items(&["get", "pods", "-n", PREMIUM, "-l", SELECTOR]).len() == 2).then_some(())
    });
    let new = within(SOON, "the old pod's end", || {
        let address = deployed.address();
        (address != old).then_some(address)
    });
    assert_eq!(post_to(new, "free").status, 200, "{}", log());
}
