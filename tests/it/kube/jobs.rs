//! The Job sent to Kubernetes and the pods read from it, field by field.

use crate::support::api::{ApiServer, Request};
use crate::support::cluster::pod;
use crate::support::response::{ApiResponse, Behavior, pod_list};
use crate::support::server::{Server, Setup};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn started() -> (ApiServer, Server) {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).start();
    (api, server)
}

/// Returns the create request of one POST.
fn created(setup: Setup, api: &ApiServer, tier: &str, dataset: &str) -> Request {
    let server = setup.start();
    let response = server.post(&format!("/img-classification/{tier}"), format!(r#"{{"dataset":"{dataset}"}}"#));
    assert_eq!(response.status, 200, "{}", response.text());
    let mut creates: Vec<Request> = api.requests().into_iter().filter(Request::is_create).collect();
    assert_eq!(creates.len(), 1);
    creates.remove(0)
}

fn pod_spec(job: &Value) -> &Value {
    &job["spec"]["template"]["spec"]
}

#[test]
fn job_matches_the_contract() {
    for (tier, namespace, kind) in [("free", "free-service", "ff"), ("premium", "default", "cnn")] {
        for dataset in ["mnist", "kmnist"] {
            let api = ApiServer::start();
            let request = created(Setup::for_api(&api), &api, tier, dataset);
            assert_eq!(request.path(), format!("/apis/batch/v1/namespaces/{namespace}/jobs"));
            assert_eq!(request.header("Content-Type"), Some("application/json"));
            let job = request.json();
            assert_eq!((&job["apiVersion"], &job["kind"]), (&json!("batch/v1"), &json!("Job")));
            assert_eq!(job["metadata"]["namespace"], namespace);
            let labels = &job["metadata"]["labels"];
            assert_eq!(labels["app.kubernetes.io/name"], "img-classification");
            assert_eq!(labels["app.kubernetes.io/managed-by"], "img-classification");
            assert_eq!(labels["img-classification/tier"], tier);
            assert_eq!(labels["img-classification/dataset"], dataset);
            assert_eq!(job["spec"]["backoffLimit"], 0);
            assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 3600);
            check_drain_rule(&job["spec"]["podFailurePolicy"]);
            assert_eq!(pod_spec(&job)["restartPolicy"], "Never");
            assert_eq!(
                (&pod_spec(&job)["activeDeadlineSeconds"], &job["spec"]["activeDeadlineSeconds"]),
                (&json!(1800), &Value::Null)
            );
            assert_eq!(pod_spec(&job)["automountServiceAccountToken"], false);
            check_container(pod_spec(&job), dataset, kind);
        }
    }
}

fn check_drain_rule(policy: &Value) {
    let rules = policy["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 1);
    assert_eq!(rules[0]["action"], "Ignore");
    assert_eq!(rules[0]["onPodConditions"][0]["type"], "DisruptionTarget");
}

fn check_container(spec: &Value, dataset: &str, kind: &str) {
    let containers = spec["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    let container = &containers[0];
    assert_eq!(container["name"], "classifier");
    assert_eq!(container["image"], "mp12-classifier:1.0");
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(container["terminationMessagePolicy"], "FallbackToLogsOnError");
    let env: BTreeSet<(&str, &str)> = container["env"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair["name"].as_str().unwrap(), pair["value"].as_str().unwrap()))
        .collect();
    assert_eq!(env, BTreeSet::from([("DATASET", dataset), ("TYPE", kind), ("PYTHONUNBUFFERED", "1")]));
    assert_eq!(container["resources"], json!({"requests": {"cpu": "900m"}, "limits": {"cpu": "900m"}}));
    assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
    let profiles =
        [&container["securityContext"]["seccompProfile"]["type"], &spec["securityContext"]["seccompProfile"]["type"]];
    assert!(profiles.contains(&&json!("RuntimeDefault")), "{profiles:?}");
}

#[test]
fn kubectl_manifests_are_the_same_jobs() {
    for tier in ["free", "premium"] {
        let path = format!("{}/k8s/{tier}-job.yaml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut file: Value = serde_yaml::from_str(&text).unwrap();
        let dataset = file["metadata"]["labels"]["img-classification/dataset"].as_str().unwrap().to_owned();
        let api = ApiServer::start();
        let mut job = created(Setup::for_api(&api), &api, tier, &dataset).json();
        let name = job["metadata"].as_object_mut().unwrap().remove("name").unwrap();
        let prefix = file["metadata"].as_object_mut().unwrap().remove("generateName").unwrap();
        assert_eq!(prefix, format!("{tier}-{dataset}-"));
        assert!(name.as_str().unwrap().starts_with(prefix.as_str().unwrap()));
        assert_eq!(job, file, "{path}");
    }
}

#[test]
fn job_names_are_unique_dns_labels_with_tier_and_dataset() {
    let server = Setup::local().start();
    let mut connection = server.connect();
    for tier in ["free", "premium"] {
        for dataset in ["mnist", "kmnist"] {
            for _ in 0..50 {
                let body = format!(r#"{{"dataset":"{dataset}"}}"#);
                let response =
                    connection.request("POST", &format!("/img-classification/{tier}"), Some(body.as_bytes()));
                let response = response.json();
                let name = response["job"].as_str().unwrap();
                let suffix = name.strip_prefix(&format!("{tier}-{dataset}-")).unwrap_or_else(|| panic!("{name}"));
                assert!(suffix.len() >= 5, "{name}");
                assert!(suffix.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()), "{name}");
                assert!(name.len() <= 63, "{name}");
            }
        }
    }
    let names: BTreeSet<String> = server.jobs().iter().map(|job| job["metadata"]["name"].to_string()).collect();
    assert_eq!(names.len(), 200);
}

#[test]
fn image_ttl_and_timeout_come_from_options_or_variables() {
    let image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mp12:v2";
    for by_flag in [true, false] {
        let api = ApiServer::start();
        let setup = Setup::for_api(&api);
        let setup = if by_flag {
            setup.args(&["--image", image, "--job-ttl", "60", "--job-timeout", "70"])
        } else {
            setup.env("CLASSIFIER_IMAGE", image).env("JOB_TTL", "60").env("JOB_TIMEOUT", "70")
        };
        let job = created(setup, &api, "free", "mnist").json();
        assert_eq!(pod_spec(&job)["containers"][0]["image"], image);
        assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 60);
        assert_eq!(pod_spec(&job)["activeDeadlineSeconds"], 70);
    }
    let api = ApiServer::start();
    let job = created(Setup::for_api(&api).args(&["--job-timeout", "0"]), &api, "free", "mnist").json();
    assert_eq!(pod_spec(&job)["activeDeadlineSeconds"], Value::Null);
}

#[test]
fn config_lists_every_pod_with_five_fields_in_order() {
    let (api, server) = started();
    api.set_pods(vec![
        pod("free-service", "free-mnist-abc-x", "Running", Some(("node-1", "10.0.0.1"))),
        pod("default", "premium-kmnist-def-y", "Pending", None),
        pod("kube-system", "coredns", "Succeeded", Some(("node-2", "fd00::2"))),
        pod("default", "lost", "Unknown", Some(("node-2", "10.0.0.3"))),
        pod("default", "broken", "Failed", Some(("node-1", "10.0.0.4"))),
    ]);
    let response = server.get("/config");
    assert_eq!(response.status, 200);
    let promised = concat!(
        r#"{"pods":[{"node":"node-1","ip":"10.0.0.1","namespace":"free-service","name":"free-mnist-abc-x","status":"Running"},"#,
        r#"{"node":null,"ip":null,"namespace":"default","name":"premium-kmnist-def-y","status":"Pending"},"#,
        r#"{"node":"node-2","ip":"fd00::2","namespace":"kube-system","name":"coredns","status":"Succeeded"},"#,
        r#"{"node":"node-2","ip":"10.0.0.3","namespace":"default","name":"lost","status":"Unknown"},"#,
        r#"{"node":"node-1","ip":"10.0.0.4","namespace":"default","name":"broken","status":"Failed"}]}"#,
    );
    let json = response.json();
    let expected: Value = serde_json::from_str(promised).unwrap();
    // The contract fixes the order of the keys, not of the pods.
    let by_name = |pods: &Value| {
        let mut pods = pods["pods"].as_array().unwrap().clone();
        pods.sort_by_key(|pod| pod["name"].to_string());
        pods
    };
    assert_eq!(by_name(&json), by_name(&expected));
    for fragment in promised.split('{').filter(|part| part.contains("node")) {
        let object = fragment.split('}').next().unwrap();
        assert!(response.text().contains(object), "{object} is not in {}", response.text());
    }
}

#[test]
fn pod_without_optional_fields_is_listed() {
    let (api, server) = started();
    api.set_pods(vec![
        json!({"metadata": {"name": "a", "namespace": "default"}, "spec": {"nodeName": null}, "status": {"phase": "Pending", "podIP": null}}),
        json!({"metadata": {"name": "b", "namespace": "default"}, "spec": {"nodeName": "n", "unknown": {"x": 1}}, "status": {"phase": "Running", "podIPs": []}}),
        json!({"metadata": {"name": "c", "namespace": "default", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {}, "status": {"phase": "Running"}}),
    ]);
    let response = server.get("/config").json();
    assert_eq!(
        response,
        json!({"pods": [
            {"node": null, "ip": null, "namespace": "default", "name": "a", "status": "Pending"},
            {"node": "n", "ip": null, "namespace": "default", "name": "b", "status": "Running"},
            {"node": null, "ip": null, "namespace": "default", "name": "c", "status": "Running"},
        ]})
    );
}

#[test]
fn empty_or_null_pod_list_gives_an_empty_list() {
    let (api, server) = started();
    assert_eq!(server.get("/config").json(), json!({"pods": []}));
    api.always(ApiResponse::json(200, &json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": null})));
    assert_eq!(server.get("/config").json(), json!({"pods": []}));
}

fn many(count: usize) -> Vec<Value> {
    (0..count).map(|n| pod("default", &format!("pod-{n:04}"), "Running", Some(("node", "10.1.2.3")))).collect()
}

fn names(response: &Value) -> BTreeSet<String> {
    response["pods"].as_array().unwrap().iter().map(|pod| pod["name"].as_str().unwrap().to_owned()).collect()
}

/// Changes the encoding of a response.
type Dress = fn(ApiResponse) -> ApiResponse;

/// Serves `pods` in pages of at most 700, or of the request's `limit`.
fn paged(api: &ApiServer, pods: Vec<Value>, dress: Dress) {
    api.script(move |request| {
        if request.path() != "/api/v1/pods" {
            return Behavior::Default;
        }
        let limit = request.query("limit").map_or(700, |limit| limit.parse::<usize>().unwrap()).min(700);
        let start = match request.query("continue") {
            Some(token) => token.strip_prefix("at%2B").expect("an escaped token").parse().unwrap(),
            None => 0,
        };
        let end = (start + limit).min(pods.len());
        let next = if end < pods.len() { format!("at+{end}") } else { String::new() };
        dress(ApiResponse::json(200, &pod_list(&pods[start..end], &next))).into()
    });
}

#[test]
fn two_thousand_pods_are_listed_in_every_encoding() {
    let encodings: [(&str, Dress); 7] = [
        ("protobuf", ApiResponse::into_protobuf_pods),
        ("protobuf in gzip", |reply| reply.into_protobuf_pods().gzip()),
        ("protobuf in gzip in chunks", |reply| reply.into_protobuf_pods().gzip().chunked()),
        ("plain", |reply| reply),
        ("gzip", ApiResponse::gzip),
        ("chunked", ApiResponse::chunked),
        ("gzip in chunks", |reply| reply.gzip().chunked()),
    ];
    let (api, server) = started();
    for (encoding, dress) in encodings {
        paged(&api, many(2000), dress);
        let response = server.get("/config");
        assert_eq!(response.status, 200, "{encoding}: {}", response.text());
        let response = response.json();
        assert_eq!((response["pods"].as_array().unwrap().len(), names(&response).len()), (2000, 2000), "{encoding}");
    }
}

#[test]
fn list_in_one_huge_page_is_read_completely() {
    let (api, server) = started();
    // Over 10 MiB, a common limit of HTTP clients.
    let mut pods = many(2000);
    for pod in &mut pods {
        pod["metadata"]["annotations"] = json!({"big": "x".repeat(6000)});
    }
    let page = ApiResponse::json(200, &pod_list(&pods, "")).gzip();
    api.always(page);
    let response = server.get("/config");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(names(&response.json()).len(), 2000);
}

#[test]
fn expired_page_restarts_the_list_or_fails_but_never_truncates_it() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).args(&["--kube-timeout", "2"]).start();
    let pods = many(30);
    for expirations in [1, 1000] {
        let pods = pods.clone();
        let mut left = expirations;
        api.script(move |request| match request.query("continue") {
            None => ApiResponse::json(200, &pod_list(&pods[..10], "next/+ =&")).into(),
            Some(_) if left > 0 => {
                left -= 1;
                ApiResponse::failure(410, "Expired", "The provided continue parameter is too old").into()
            }
            Some(_) => ApiResponse::json(200, &pod_list(&pods[10..], "")).into(),
        });
        let response = server.get("/config");
        if response.status == 200 {
            assert_eq!((expirations, names(&response.json()).len()), (1, 30));
        } else {
            assert!(response.status >= 500, "{}", response.status);
            response.error();
        }
    }
    let target =
        api.requests().iter().filter_map(|request| request.query("continue").map(str::to_owned)).next().unwrap();
    assert!(target.contains("%2F") || target.contains('/'), "{target}");
    assert!(target.contains("%26") && target.contains("%2B") && !target.contains(' '), "{target}");
}

#[test]
fn list_with_endless_pages_fails_at_the_deadline() {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).args(&["--kube-timeout", "1"]).start();
    let page = many(1);
    api.always(ApiResponse::json(200, &pod_list(&page, "again")));
    let response = server.get("/config");
    assert!(response.status >= 500, "{}", response.status);
    response.error();
    assert_eq!(server.get("/healthz").status, 200);
}

#[test]
fn indented_json_is_not_requested() {
    let (api, server) = started();
    server.get("/config");
    let request = api.requests().pop().unwrap();
    assert!(!request.header("User-Agent").unwrap_or_default().starts_with("curl"));
    assert!(request.header("Accept-Encoding").is_some_and(|codings| codings.contains("gzip")));
    assert_eq!(request.header("Accept"), Some("application/vnd.kubernetes.protobuf,application/json"));
}
