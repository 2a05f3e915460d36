//! A minimal Kubernetes: it stores Jobs, lists pods and refuses invalid requests as the real API server does.

use super::api::Request;
use super::response::{ApiResponse, pod_list};
use serde_json::{Value, json};

#[derive(Default)]
pub struct Cluster {
    /// The stored Jobs, oldest first.
    pub jobs: Vec<Value>,
    /// The pods in the pod list.
    pub pods: Vec<Value>,
}

/// The existing namespaces.
const NAMESPACES: [&str; 2] = ["free-service", "default"];

impl Cluster {
    pub fn handle(&mut self, request: &Request) -> ApiResponse {
        let parts: Vec<&str> = request.path().split('/').skip(1).collect();
        match (request.method.as_str(), parts.as_slice()) {
            ("POST", ["apis", "batch", "v1", "namespaces", namespace, "jobs"]) => self.create(namespace, request),
            ("GET", ["apis", "batch", "v1", "namespaces", namespace, "jobs", name]) => self.get(namespace, name),
            ("POST", ["apis", "authorization.k8s.io", "v1", _]) => allowed(request),
            ("GET", ["api", "v1", "pods"]) => ApiResponse::json(200, &pod_list(self.page(request), "")),
            ("GET", ["api", "v1", "namespaces", "free-service", "resourcequotas"]) => {
                let hard = json!({"requests.cpu": "2", "limits.cpu": "2"});
                let quota = json!({"metadata": {"name": "free-cpu", "resourceVersion": "7"}, "spec": {"hard": hard}});
                ApiResponse::json(200, &json!({"kind": "ResourceQuotaList", "metadata": {}, "items": [quota]}))
            }
            ("GET", ["version"]) => {
                ApiResponse::json(200, &json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0"}))
            }
            ("GET", ["healthz" | "livez" | "readyz"]) => ApiResponse::new(200, "text/plain", "ok"),
            ("GET", ["api", "v1", "namespaces", name]) if NAMESPACES.contains(name) => {
                ApiResponse::json(200, &json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}))
            }
            _ => ApiResponse::failure(404, "NotFound", "the server could not find the requested resource"),
        }
    }

    fn create(&mut self, namespace: &str, request: &Request) -> ApiResponse {
        if !NAMESPACES.contains(&namespace) {
            return ApiResponse::failure(404, "NotFound", &format!("namespaces \"{namespace}\" not found"));
        }
        let Ok(mut job) = serde_json::from_slice::<Value>(&request.body) else {
            return ApiResponse::failure(400, "BadRequest", "the object provided is unrecognized");
        };
        let Some(name) = job["metadata"]["name"].as_str().map(str::to_owned) else {
            return ApiResponse::failure(422, "Invalid", "Job.batch \"\" is invalid: metadata.name: Required value");
        };
        if job["kind"] != "Job" || job["apiVersion"] != "batch/v1" || job["metadata"]["namespace"] != namespace {
            return ApiResponse::failure(400, "BadRequest", "the object does not match the path it was sent to");
        }
        let same = |old: &Value| old["metadata"]["name"] == name.as_str() && old["metadata"]["namespace"] == namespace;
        if self.jobs.iter().any(same) {
            return ApiResponse::failure(409, "AlreadyExists", &format!("jobs.batch \"{name}\" already exists"));
        }
        job["metadata"]["uid"] = json!(format!("uid-{}", self.jobs.len()));
        job["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
        job["status"] = json!({});
        self.jobs.push(job.clone());
        ApiResponse::json(201, &job)
    }

    fn get(&self, namespace: &str, name: &str) -> ApiResponse {
        let found =
            self.jobs.iter().find(|job| job["metadata"]["name"] == name && job["metadata"]["namespace"] == namespace);
        match found {
            Some(job) => ApiResponse::json(200, job),
            None => ApiResponse::failure(404, "NotFound", &format!("jobs.batch \"{name}\" not found")),
        }
    }

    /// The first `limit` pods of the request.
    fn page(&self, request: &Request) -> &[Value] {
        let limit = request.query("limit").and_then(|limit| limit.parse().ok());
        // A page that omits pods needs a continue token. This list has none, so only a limit of 1 or of at least all
        // pods is supported.
        match limit {
            Some(1) => &self.pods[..self.pods.len().min(1)],
            Some(limit) => {
                assert!(self.pods.len() <= limit, "script the pages of a list of more than {limit} pods");
                &self.pods
            }
            None => &self.pods,
        }
    }
}

/// An allowing response to a SelfSubjectAccessReview and similar reviews.
fn allowed(request: &Request) -> ApiResponse {
    let mut review: Value = serde_json::from_slice(&request.body).unwrap_or_else(|_| json!({}));
    review["status"] = json!({"allowed": true});
    ApiResponse::json(201, &review)
}

/// A pod as the API server lists it. Without a node it is Pending and has no IP.
pub fn pod(namespace: &str, name: &str, phase: &str, node: Option<(&str, &str)>) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-of-{name}"), "labels": {"app": "x"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": phase},
    });
    if let Some((node, ip)) = node {
        pod["spec"]["nodeName"] = json!(node);
        pod["status"]["podIP"] = json!(ip);
    }
    pod
}
