//! Nodes, pods, Jobs and the image.

use super::{check, cluster, doctor, expect, host, is, line, list, no_fault, node};
use crate::support::api::Request;
use crate::support::response::ApiResponse;
use crate::support::server::{Finished, Setup};
use serde_json::{Value, json};

pub fn line_text(end: &Finished, start: &str) -> String {
    line(end, start).to_owned()
}

#[test]
fn node_pod_and_job_faults_are_named() {
    fn ours(request: &Request, pod: &Value) -> Option<ApiResponse> {
        let wanted = request.target.contains("labelSelector=app.kubernetes.io%2Fmanaged-by%3Dimg-classification");
        (is(request, "GET", "/api/v1/pods") && wanted).then(|| list("Pod", std::slice::from_ref(pod)))
    }
    fn waiting(reason: &str, message: &str) -> Value {
        json!({"metadata": {"name": "p", "namespace": "default"}, "status": {"phase": "Pending", "containerStatuses": [
            {"image": "r/a:1", "state": {"waiting": {"reason": reason, "message": message}}}]}})
    }
    const NODES: &str = "/api/v1/nodes";
    check(&[
        (
            "no nodes",
            |r| is(r, "GET", NODES).then(|| list("Node", &[])),
            "FAIL nodes: ",
            "0 of 0 nodes are ready",
            "eksctl scale nodegroup",
        ),
        (
            "no ready node",
            |r| is(r, "GET", NODES).then(|| list("Node", &[node("a", "Unknown")])),
            "FAIL nodes: ",
            "0 of 1",
            "kubectl get nodes",
        ),
        (
            "one node",
            |r| is(r, "GET", NODES).then(|| list("Node", &[node("a", "True")])),
            "warning nodes: ",
            "expects 2 nodes",
            "eksctl scale nodegroup",
        ),
        (
            "cordoned nodes",
            |r| {
                let mut node = node("a", "True");
                node["spec"]["unschedulable"] = json!(true);
                is(r, "GET", NODES).then(|| list("Node", &[node]))
            },
            "FAIL nodes: ",
            "the scheduler can use none",
            "kubectl uncordon",
        ),
        (
            "full nodes",
            |r| {
                let pod = |node: &str| {
                    let container = json!({"resources": {"requests": {"cpu": "1100m"}}});
                    json!({"spec": {"nodeName": node, "containers": [container]}, "status": {"phase": "Running"}})
                };
                (is(r, "GET", "/api/v1/pods") && r.query("fieldSelector").is_some())
                    .then(|| list("Pod", &[pod("a"), pod("b")]))
            },
            "warning nodes: ",
            "Pending, as intended",
            "img-classification clean",
        ),
        (
            "no such tag",
            |r| ours(r, &waiting("ErrImagePull", "r/a:1: not found")),
            "FAIL pull: ",
            "default/p: ErrImagePull for r/a:1: the image or tag does not exist",
            "docker push",
        ),
        (
            "the cause is in an event",
            |r| {
                if is(r, "GET", "/api/v1/namespaces/default/events") {
                    return Some(list(
                        "Event",
                        &[
                            json!({"message": "Failed to pull image \"r/a:1\": manifest unknown"}),
                            json!({"message": "Error: ImagePullBackOff"}),
                        ],
                    ));
                }
                ours(r, &waiting("ImagePullBackOff", "Back-off pulling image"))
            },
            "FAIL pull: ",
            "manifest unknown",
            "docker push",
        ),
        (
            "a failed pod",
            |r| {
                let ended = json!({"terminated": {"exitCode": 127, "reason": "Error"}});
                ours(
                    r,
                    &json!({"metadata": {"name": "p", "namespace": "default"},
                    "status": {"phase": "Failed", "containerStatuses": [{"state": ended}]}}),
                )
            },
            "warning failed pods: ",
            "default/p, ended with exit code 127",
            "kubectl logs p -n default",
        ),
        (
            "Jobs that are left",
            |r| {
                let over = json!({"status": {"conditions": [{"type": "Complete", "status": "True"}]}});
                is(r, "GET", "/apis/batch/v1/namespaces/default/jobs").then(|| list("Job", &[over, json!({})]))
            },
            "warning leftover Jobs: ",
            "1 finished, 0 running, 0 pending, 1 queued in default",
            "img-classification clean",
        ),
    ]);
}

#[test]
fn missing_or_unpullable_image_is_named() {
    let api = cluster(no_fault);
    for (image, start, words, fix) in [
        ("mp12-classifier:1.0", "warning image: ", "has no registry", "docker push ACCOUNT.dkr.ecr"),
        ("r.io/a:latest", "warning image: ", "no tag or :latest", ":1.0"),
        ("r.io/a", "warning image: ", "no tag or :latest", ":1.0"),
        ("r.io/A:1", "FAIL image: ", "lower case", "docker push"),
        ("r.io/a:1:2", "FAIL image: ", "tag", "--image"),
    ] {
        let end = doctor(host(Setup::for_api(&api)).args(&["--listen", "0.0.0.0:0", "--image", image]));
        expect(image, &end, start, words, fix);
    }
}
