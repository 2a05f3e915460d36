//! `doctor` against a scripted cluster: each test breaks one thing in a healthy cluster and expects the check that
//! names it.

mod api_server;
mod as_service;
mod eks;
mod host;
mod namespace;
mod nodes_and_pods;
mod output;
mod port;
mod server;

use crate::support::api::{ApiServer, Request};
use crate::support::kubeconfig::TOKEN;
use crate::support::response::ApiResponse;
use crate::support::server::{Finished, Setup};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// Arguments for a healthy host.
const GOOD: &[&str] = &["--listen", "0.0.0.0:0", "--image", "registry.local/classifier:1"];

/// Replaces responses of the healthy cluster; `None` keeps the response.
type Fault = fn(&Request) -> Option<ApiResponse>;

/// (name of the fault, replaced response, start of the line, text in the line, text in the fix)
type Case = (&'static str, Fault, &'static str, &'static str, &'static str);

fn list(kind: &str, items: &[Value]) -> ApiResponse {
    ApiResponse::json(200, &json!({"kind": format!("{kind}List"), "apiVersion": "v1", "metadata": {}, "items": items}))
}

fn quota(name: &str, hard: &Value, used: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"hard": hard}, "status": {"used": used}})
}

fn free_quotas() -> Vec<Value> {
    vec![
        quota("free-cpu", &json!({"requests.cpu": "2", "limits.cpu": "2"}), &json!({"requests.cpu": "0"})),
        quota("free-jobs", &json!({"count/jobs.batch": "300"}), &json!({"count/jobs.batch": "7"})),
    ]
}

/// The free tier's quotas with another CPU quota.
fn free_cpu(hard: &Value) -> Option<ApiResponse> {
    Some(list("ResourceQuota", &[quota("free-cpu", hard, &json!({})), free_quotas().remove(1)]))
}

fn node(name: &str, ready: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {}, "status": {
        "allocatable": {"cpu": "1930m"}, "conditions": [{"type": "Ready", "status": ready}]}})
}

fn date_in(seconds: i64) -> String {
    let gap = Duration::from_secs(seconds.unsigned_abs());
    let now = SystemTime::now();
    httpdate::fmt_http_date(if seconds >= 0 { now + gap } else { now - gap })
}

fn version() -> ApiResponse {
    ApiResponse::json(200, &json!({"gitVersion": "v1.31.2"}))
}

/// A cluster after `setup`, with two idle nodes.
fn healthy(request: &Request) -> ApiResponse {
    let parts: Vec<&str> = request.path().split('/').skip(1).collect();
    match (request.method.as_str(), parts.as_slice()) {
        ("GET", ["version"]) => version().header("Date", &date_in(0)),
        ("POST", ["apis", "authentication.k8s.io", "v1", "selfsubjectreviews"]) => ApiResponse::json(
            201,
            &json!({"status": {"userInfo": {"username": "ann", "groups": ["img-classification"]}}}),
        ),
        ("POST", ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"]) => {
            ApiResponse::json(201, &json!({"status": {"allowed": true}}))
        }
        ("GET", ["api", "v1", "namespaces", "free-service"]) => ApiResponse::json(
            200,
            &json!({"kind": "Namespace", "metadata": {"name": "free-service"}, "status": {"phase": "Active"}}),
        ),
        ("GET", ["api", "v1", "namespaces", "free-service", "resourcequotas"]) => list("ResourceQuota", &free_quotas()),
        ("GET", ["api", "v1", "namespaces", "default", "resourcequotas"]) => {
            let used = json!({"count/jobs.batch": "0"});
            list("ResourceQuota", &[quota("premium-jobs", &json!({"count/jobs.batch": "1k"}), &used)])
        }
        ("POST", ["api", "v1", "namespaces", _, "pods"]) if request.query("dryRun") == Some("All") => {
            ApiResponse::json(201, &request.json())
        }
        ("GET", ["api", "v1", "nodes"]) => list("Node", &[node("a", "True"), node("b", "True")]),
        ("GET", ["api", "v1", "pods"]) => list("Pod", &[]),
        ("GET", ["apis", "batch", "v1", "namespaces", _, "jobs"]) => list("Job", &[]),
        _ => ApiResponse::failure(404, "NotFound", "the server could not find the requested resource"),
    }
}

fn cluster(fault: impl Fn(&Request) -> Option<ApiResponse> + Send + 'static) -> ApiServer {
    let api = ApiServer::start();
    api.script(move |request| fault(request).unwrap_or_else(|| healthy(request)).into());
    api
}

fn no_fault(_: &Request) -> Option<ApiResponse> {
    None
}

/// Returns `true` if the request has this path.
fn is(request: &Request, method: &str, path: &str) -> bool {
    request.method == method && request.path() == path
}

fn reviews_access(request: &Request, verb: &str, resource: &str, namespace: &Value) -> bool {
    if !request.path().ends_with("/selfsubjectaccessreviews") {
        return false;
    }
    let attributes = &request.json()["spec"]["resourceAttributes"];
    attributes["verb"] == verb && attributes["resource"] == resource && attributes["namespace"] == *namespace
}

fn denied() -> Option<ApiResponse> {
    Some(ApiResponse::json(201, &json!({"status": {"allowed": false, "reason": "no RBAC policy matched"}})))
}

fn forbidden(resource: &str) -> Option<ApiResponse> {
    let message = format!(
        "{resource} is forbidden: User \"ann\" cannot list resource \"{resource}\" in API group \"\" at the cluster scope"
    );
    Some(ApiResponse::failure(403, "Forbidden", &message))
}

/// A setup without a metadata service, even if the tests run on EC2.
fn host(setup: Setup) -> Setup {
    setup.env("AWS_EC2_METADATA_DISABLED", "true")
}

/// Runs `doctor` and checks that its output holds no secret and no control character.
fn doctor(setup: Setup) -> Finished {
    let end = setup.args(&["--kube-timeout", "5"]).run(&["doctor"]);
    for text in [&end.stdout, &end.stderr] {
        assert!(!text.contains(TOKEN) && !text.contains("panicked") && !text.contains('\u{1b}'), "{text}");
    }
    assert_eq!(end.stderr, "", "{end:?}");
    end
}

fn check_healthy(end: &Finished) {
    assert!(end.code == Some(0) && !end.stdout.contains("FAIL "), "{}", end.stdout);
}

/// The first line with this start.
fn line<'a>(end: &'a Finished, start: &str) -> &'a str {
    let found = end.stdout.lines().find(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("no line begins with {start:?}:\n{}", end.stdout))
}

/// Checks the line's text, its fix, and the exit code that follows from its status.
fn expect(what: &str, end: &Finished, start: &str, words: &str, fix: &str) {
    let line = line(end, start);
    let (text, found) = line.split_once("; fix: ").unwrap_or_else(|| panic!("{what}: no fix in {line:?}"));
    assert!(text.contains(words), "{what}: no {words:?} in {text:?}");
    assert!(found.contains(fix), "{what}: no {fix:?} in {found:?}");
    let code = i32::from(end.stdout.lines().any(|line| line.starts_with("FAIL ")));
    assert_eq!(end.code, Some(code), "{what}:\n{}", end.stdout);
    if start.starts_with("FAIL") {
        assert_eq!(code, 1, "{what}");
    }
}

fn check(cases: &[Case]) {
    for (what, fault, start, words, fix) in cases {
        let api = cluster(*fault);
        let end = doctor(host(Setup::for_api(&api)).args(GOOD));
        expect(what, &end, start, words, fix);
        if start.starts_with("warning") {
            check_healthy(&end);
        }
    }
}

#[test]
fn healthy_cluster_is_all_ok_and_stays_unchanged() {
    let api = cluster(no_fault);
    let end = doctor(host(Setup::for_api(&api)).args(GOOD));
    check_healthy(&end);
    let lines: Vec<&str> = end.stdout.lines().collect();
    assert!(lines.iter().all(|line| line.starts_with("ok ")), "{}", end.stdout);
    let topics = [
        "kubeconfig",
        "API",
        "clock",
        "identity",
        "permission",
        "permission",
        "permission",
        "permission",
        "permission",
        "permission",
        "permission",
        "permission",
        "permission",
        "namespace",
        "quota",
        "quota",
        "quota",
        "quota",
        "dry run",
        "dry run",
        "nodes",
        "image",
        "pull",
        "leftover Jobs",
        "port",
        "environment",
        "address",
    ];
    let found: Vec<&str> = lines.iter().map(|line| line["ok ".len()..].split(':').next().unwrap()).collect();
    assert_eq!(found, topics);
    assert!(line(&end, "ok identity: ").contains("ann, in the groups img-classification"));
    assert!(line(&end, "ok API: ").contains("Kubernetes v1.31.2"));
    for request in api.requests() {
        let harmless = request.method == "GET"
            || request.path().contains("/selfsubject")
            || request.query("dryRun") == Some("All");
        assert!(harmless, "{} {}", request.method, request.target);
    }
    assert!(api.jobs().is_empty());
}
