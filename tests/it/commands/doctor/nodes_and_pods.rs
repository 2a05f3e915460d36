//! Nodes, pods, Jobs and the image.

use super::{check, cluster, doctor, expect, host, is, line, list, node, nothing_broken};
use crate::support::api::Request;
use crate::support::response::ApiResponse;
use crate::support::server::{Finished, Setup};
use serde_json::{Value, json};

pub fn line_text(end: &Finished, start: &str) -> String {
    line(end, start).to_owned()
}

#[test]
fn nodes_pods_and_jobs_that_are_not_as_they_should_be_are_named() {
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
            "wants 2 nodes",
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
            "no pod can be put on them",
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
            "Pending, as it should be",
            "img-classification clean",
        ),
        (
            "no such tag",
            |r| ours(r, &waiting("ErrImagePull", "r/a:1: not found")),
            "FAIL pull: ",
            "default/p: ErrImagePull for r/a:1: there is no such image or tag",
            "docker push",
        ),
        (
            "no access",
            |r| ours(r, &waiting("ErrImagePull", "unexpected status: 403 Forbidden")),
            "FAIL pull: ",
            "may not pull it",
            "AmazonEC2ContainerRegistryPullOnly",
        ),
        (
            "another processor",
            |r| ours(r, &waiting("ErrImagePull", "no match for platform in manifest")),
            "FAIL pull: ",
            "another kind of processor",
            "--platform linux/amd64",
        ),
        (
            "a bad name",
            |r| ours(r, &waiting("InvalidImageName", "couldn't parse")),
            "FAIL pull: ",
            "no image name",
            "--image",
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
            "1 finished, 0 running, 1 waiting in default",
            "img-classification clean",
        ),
    ]);
}

#[test]
fn an_image_that_cannot_be_or_may_not_be_found_is_named() {
    let api = cluster(nothing_broken);
    for (image, start, words, fix) in [
        ("mp12-classifier:1.0", "warning image: ", "names no registry", "docker push ACCOUNT.dkr.ecr"),
        ("r.io/a:latest", "warning image: ", "no tag but :latest", ":1.0"),
        ("r.io/a", "warning image: ", "no tag but :latest", ":1.0"),
        ("r.io/A:1", "FAIL image: ", "lower case", "docker push"),
        ("r.io/a:1:2", "FAIL image: ", "tag", "--image"),
    ] {
        let end = doctor(host(Setup::for_api(&api)).args(&["--listen", "0.0.0.0:0", "--image", image]));
        expect(image, &end, start, words, fix);
    }
}
