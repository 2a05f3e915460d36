//! The namespace, its quotas, the permissions and pod admission.

use super::nodes_and_pods::line_text;
use super::{
    GOOD, check, check_healthy, cluster, denied, doctor, expect, forbidden, free_cpu, free_quotas, host, is, list,
    quota, reviews_access,
};
use crate::support::api::Request;
use crate::support::response::ApiResponse;
use crate::support::server::Setup;
use serde_json::{Value, json};

#[test]
fn namespace_and_quota_faults_are_named_with_their_fix() {
    const QUOTAS: &str = "/api/v1/namespaces/free-service/resourcequotas";
    const PREMIUM: &str = "/api/v1/namespaces/default/resourcequotas";
    const NAMESPACE: &str = "/api/v1/namespaces/free-service";
    const SETUP: &str = "img-classification setup";
    check(&[
        (
            "no namespace",
            |r| {
                is(r, "GET", NAMESPACE)
                    .then(|| ApiResponse::failure(404, "NotFound", "namespaces \"free-service\" not found"))
            },
            "FAIL namespace: ",
            "namespace free-service does not exist",
            SETUP,
        ),
        (
            "a namespace that ends",
            |r| {
                is(r, "GET", NAMESPACE)
                    .then(|| ApiResponse::json(200, &json!({"metadata": {}, "status": {"phase": "Terminating"}})))
            },
            "FAIL namespace: ",
            "is terminating",
            SETUP,
        ),
        (
            "no quota",
            |r| is(r, "GET", QUOTAS).then(|| list("ResourceQuota", &[])),
            "FAIL quota: ",
            "no ResourceQuota exists in free-service",
            SETUP,
        ),
        (
            "one key of two",
            |r| is(r, "GET", QUOTAS).then(|| free_cpu(&json!({"requests.cpu": "2"})))?,
            "FAIL quota: ",
            "no quota limits limits.cpu",
            SETUP,
        ),
        (
            "room for one",
            |r| is(r, "GET", QUOTAS).then(|| free_cpu(&json!({"requests.cpu": "0.9", "limits.cpu": "2"})))?,
            "FAIL quota: ",
            "requests.cpu 0.9: only 1 classifier of 900m CPU runs at a time",
            SETUP,
        ),
        (
            "room for none",
            |r| is(r, "GET", QUOTAS).then(|| free_cpu(&json!({"requests.cpu": "2", "limits.cpu": "500m"})))?,
            "FAIL quota: ",
            "none ever runs",
            SETUP,
        ),
        (
            "room for four",
            |r| is(r, "GET", QUOTAS).then(|| free_cpu(&json!({"requests.cpu": "4", "limits.cpu": "4"})))?,
            "warning quota: ",
            "4 classifiers of 900m CPU run at a time, not 2",
            SETUP,
        ),
        (
            "memory",
            |r| {
                is(r, "GET", QUOTAS)
                    .then(|| free_cpu(&json!({"requests.cpu": "2", "limits.cpu": "2", "memory": "1Gi"})))?
            },
            "FAIL quota: ",
            "request no memory",
            SETUP,
        ),
        (
            "another program's quota",
            |r| {
                is(r, "GET", QUOTAS).then(|| {
                    let theirs = quota("theirs", &json!({"pods": "1"}), &json!({}));
                    list("ResourceQuota", &[free_quotas(), vec![theirs]].concat())
                })
            },
            "FAIL quota: ",
            "the quota theirs in free-service has pods 1",
            "kubectl delete quota theirs -n free-service",
        ),
        (
            "a full queue",
            |r| {
                is(r, "GET", QUOTAS).then(|| {
                    let full = quota("free-jobs", &json!({"count/jobs.batch": "3"}), &json!({"count/jobs.batch": "3"}));
                    list("ResourceQuota", &[free_quotas().remove(0), full])
                })
            },
            "FAIL quota: ",
            "429",
            "img-classification clean",
        ),
        (
            "premium is limited",
            |r| {
                is(r, "GET", PREMIUM)
                    .then(|| list("ResourceQuota", &[quota("q", &json!({"requests.cpu": "2"}), &json!({}))]))
            },
            "FAIL quota: ",
            "it limits premium",
            "kubectl delete quota q -n default",
        ),
        (
            "premium is limited, but far away",
            |r| {
                is(r, "GET", PREMIUM).then(|| list("ResourceQuota", &[quota("q", &json!({"pods": "100"}), &json!({}))]))
            },
            "warning quota: ",
            "to 100 classifiers",
            "kubectl delete quota q -n default",
        ),
    ]);
}

#[test]
fn missing_permissions_are_named_with_their_fix() {
    let free = json!("free-service");
    let grant = "aws eks create-access-entry";
    for (verb, resource, namespace, start, words, fix) in [
        ("create", "jobs", &free, "FAIL", "create jobs.batch in free-service: no RBAC policy matched", grant),
        ("create", "jobs", &json!("default"), "FAIL", "create jobs.batch in default", "img-classification setup"),
        ("list", "pods", &Value::Null, "FAIL", "list pods in all namespaces", grant),
        (
            "patch",
            "jobs",
            &free,
            "warning",
            "patch jobs.batch in free-service; without it waiting Jobs start only",
            grant,
        ),
        (
            "watch",
            "pods",
            &Value::Null,
            "warning",
            "watch pods in all namespaces; without it each GET /config lists",
            grant,
        ),
        ("watch", "jobs", &free, "warning", "own retry, and GET /queue returns 502, and GET /jobs returns 502", grant),
        ("watch", "pods", &free, "warning", "watch pods in free-service; without it GET /queue returns 502", grant),
        (
            "list",
            "jobs",
            &json!("default"),
            "warning",
            "list jobs.batch in default; without it GET /jobs returns 502",
            grant,
        ),
        (
            "delete",
            "jobs",
            &free,
            "warning",
            "delete jobs.batch in free-service; without it DELETE /jobs/NAME returns 502",
            grant,
        ),
        (
            "get",
            "pods",
            &json!("default"),
            "warning",
            "get pods/log in default; without it GET /jobs/NAME/logs returns 502",
            grant,
        ),
        (
            "list",
            "resourcequotas",
            &json!("default"),
            "warning",
            "list resourcequotas in default; only `clean`",
            "img-classification clean",
        ),
    ] {
        let denied_namespace = namespace.clone();
        let api =
            cluster(move |request| reviews_access(request, verb, resource, &denied_namespace).then(denied).flatten());
        let end = doctor(host(Setup::for_api(&api)).args(GOOD));
        let what = format!("{verb} {resource} in {namespace}");
        expect(&what, &end, &format!("{start} permission: may not "), words, fix);
        assert_eq!(end.stdout.contains("GET /queue"), words.contains("GET /queue"), "{what}: {}", end.stdout);
    }
}

#[test]
fn missing_permissions_of_the_checks_are_no_verdict() {
    check(&[
        (
            "nodes are not shown",
            |r| is(r, "GET", "/api/v1/nodes").then(|| forbidden("nodes"))?,
            "warning not checked: ",
            "nodes: ",
            "administrator",
        ),
        (
            "the namespace is not shown",
            |r| is(r, "GET", "/api/v1/namespaces/free-service").then(|| forbidden("namespaces"))?,
            "warning not checked: ",
            "namespace: ",
            "administrator",
        ),
        (
            "nobody",
            |r| {
                let anonymous = json!({"status": {"userInfo": {"username": "system:anonymous"}}});
                r.path().ends_with("/selfsubjectreviews").then(|| ApiResponse::json(201, &anonymous))
            },
            "warning identity: ",
            "accepted no credential",
            "img-classification setup --eks-kubeconfig",
        ),
    ]);
}

#[test]
fn pod_admission_errors_quote_kubernetes() {
    fn refuse(request: &Request, message: &str) -> Option<ApiResponse> {
        (request.query("dryRun") == Some("All")).then(|| ApiResponse::failure(403, "Forbidden", message))
    }
    let line = "FAIL dry run: ";
    check(&[
        (
            "memory",
            |r| refuse(r, "pods \"x\" is forbidden: failed quota: q: must specify limits.memory"),
            line,
            "must specify limits.memory",
            "kubectl get quota -n free-service",
        ),
        (
            "a limit range",
            |r| refuse(r, "pods \"x\" is forbidden: maximum cpu usage per Container is 500m, but limit is 900m"),
            line,
            "maximum cpu usage",
            "kubectl delete limitrange",
        ),
        (
            "pod security",
            |r| refuse(r, "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": runAsNonRoot != true"),
            line,
            "violates PodSecurity",
            "pod-security.kubernetes.io/enforce",
        ),
        (
            "a webhook",
            |r| refuse(r, "admission webhook \"policy.example\" denied the request: because"),
            line,
            "denied the request: because",
            "webhookconfigurations",
        ),
        (
            "too small a quota",
            |r| {
                refuse(
                    r,
                    "exceeded quota: q, requested: requests.cpu=900m, used: requests.cpu=0, limited: requests.cpu=500m",
                )
            },
            line,
            "exceeded quota",
            "kubectl get quota",
        ),
        (
            "a webhook that has no dry run",
            |r| refuse(r, "admission webhook \"w\" does not support dry run"),
            "warning dry run: ",
            "not tried",
            "selftest",
        ),
        (
            "no permission",
            |r| (r.query("dryRun").is_some()).then(|| forbidden("pods"))?,
            "warning not checked: ",
            "dry run",
            "administrator",
        ),
    ]);
    let api = cluster(|r| {
        refuse(
            r,
            "exceeded quota: free-cpu, requested: requests.cpu=900m, used: requests.cpu=1800m, limited: requests.cpu=2",
        )
    });
    let end = doctor(host(Setup::for_api(&api)).args(GOOD));
    check_healthy(&end);
    assert!(
        line_text(&end, "ok dry run: ")
            .contains("the quota of free-service is used up (requests.cpu=1800m): a new Job waits")
    );
}
