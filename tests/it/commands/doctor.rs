//! `doctor` against a scripted cluster: begin with one that is well, break one thing at a time, and see it named.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::support::answer::{self, Accept, Answer, Gate, Reply};
use crate::support::api::{ApiServer, Listen, Request};
use crate::support::kubeconfig::{Kubeconfig, TOKEN};
use crate::support::plugin::Plugin;
use crate::support::server::{Finished, Setup};
use serde_json::{Value, json};

/// What a healthy host gives to `doctor`.
const GOOD: &[&str] = &["--listen", "0.0.0.0:0", "--image", "registry.local/classifier:1"];

/// Changes one answer of the healthy cluster; none leaves it.
type Broken = fn(&Request) -> Option<Reply>;

/// (what is wrong, the broken answer, how the line begins, what is in it, what is in its fix)
type Case = (&'static str, Broken, &'static str, &'static str, &'static str);

fn list(kind: &str, items: &[Value]) -> Reply {
    Reply::json(200, &json!({"kind": format!("{kind}List"), "apiVersion": "v1", "metadata": {}, "items": items}))
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

/// The free tier's quotas, but for its first.
fn free_cpu(hard: &Value) -> Option<Reply> {
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

fn version() -> Reply {
    Reply::json(200, &json!({"gitVersion": "v1.31.2"}))
}

/// A cluster after `setup`, with two nodes and nothing to do.
fn healthy(request: &Request) -> Reply {
    let parts: Vec<&str> = request.path().split('/').skip(1).collect();
    match (request.method.as_str(), parts.as_slice()) {
        ("GET", ["version"]) => version().header("Date", &date_in(0)),
        ("POST", ["apis", "authentication.k8s.io", "v1", "selfsubjectreviews"]) => {
            Reply::json(201, &json!({"status": {"userInfo": {"username": "ann", "groups": ["img-classification"]}}}))
        }
        ("POST", ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"]) => {
            Reply::json(201, &json!({"status": {"allowed": true}}))
        }
        ("GET", ["api", "v1", "namespaces", "free-service"]) => Reply::json(
            200,
            &json!({"kind": "Namespace", "metadata": {"name": "free-service"}, "status": {"phase": "Active"}}),
        ),
        ("GET", ["api", "v1", "namespaces", "free-service", "resourcequotas"]) => list("ResourceQuota", &free_quotas()),
        ("GET", ["api", "v1", "namespaces", "default", "resourcequotas"]) => {
            let used = json!({"count/jobs.batch": "0"});
            list("ResourceQuota", &[quota("premium-jobs", &json!({"count/jobs.batch": "1k"}), &used)])
        }
        ("POST", ["api", "v1", "namespaces", _, "pods"]) if request.query("dryRun") == Some("All") => {
            Reply::json(201, &request.json())
        }
        ("GET", ["api", "v1", "nodes"]) => list("Node", &[node("a", "True"), node("b", "True")]),
        ("GET", ["api", "v1", "pods"]) => list("Pod", &[]),
        ("GET", ["apis", "batch", "v1", "namespaces", _, "jobs"]) => list("Job", &[]),
        _ => Reply::failure(404, "NotFound", "the server could not find the requested resource"),
    }
}

fn cluster(broken: Broken) -> ApiServer {
    let api = ApiServer::start();
    api.script(move |request| broken(request).unwrap_or_else(|| healthy(request)).into());
    api
}

fn nothing_broken(_: &Request) -> Option<Reply> {
    None
}

/// Whether the request is for this path.
fn is(request: &Request, method: &str, path: &str) -> bool {
    request.method == method && request.path() == path
}

fn asks(request: &Request, verb: &str, resource: &str, namespace: &Value) -> bool {
    if !request.path().ends_with("/selfsubjectaccessreviews") {
        return false;
    }
    let attributes = &request.json()["spec"]["resourceAttributes"];
    attributes["verb"] == verb && attributes["resource"] == resource && attributes["namespace"] == *namespace
}

fn denied() -> Option<Reply> {
    Some(Reply::json(201, &json!({"status": {"allowed": false, "reason": "no RBAC policy matched"}})))
}

fn forbidden(resource: &str) -> Option<Reply> {
    let message = format!(
        "{resource} is forbidden: User \"ann\" cannot list resource \"{resource}\" in API group \"\" at the cluster scope"
    );
    Some(Reply::failure(403, "Forbidden", &message))
}

/// A setup without a metadata service, wherever the tests run.
fn host(setup: Setup) -> Setup {
    setup.env("AWS_EC2_METADATA_DISABLED", "true")
}

/// Runs `doctor`; nothing it says holds a secret or a control character.
fn doctor(setup: Setup) -> Finished {
    let end = setup.args(&["--kube-timeout", "5"]).run(&["doctor"]);
    for text in [&end.stdout, &end.stderr] {
        assert!(!text.contains(TOKEN) && !text.contains("panicked") && !text.contains('\u{1b}'), "{text}");
    }
    assert_eq!(end.stderr, "", "{end:?}");
    end
}

fn well(end: &Finished) {
    assert!(end.code == Some(0) && !end.stdout.contains("FAIL "), "{}", end.stdout);
}

/// The first line that begins so.
fn line<'a>(end: &'a Finished, start: &str) -> &'a str {
    let found = end.stdout.lines().find(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("no line begins with {start:?}:\n{}", end.stdout))
}

/// The line is there with these words and this fix, and the exit code is as it says.
fn expect(what: &str, end: &Finished, start: &str, words: &str, fix: &str) {
    let line = line(end, start);
    let (text, to_do) = line.split_once("; to do: ").unwrap_or_else(|| panic!("{what}: no fix in {line:?}"));
    assert!(text.contains(words), "{what}: no {words:?} in {text:?}");
    assert!(to_do.contains(fix), "{what}: no {fix:?} in {to_do:?}");
    let code = i32::from(end.stdout.lines().any(|line| line.starts_with("FAIL ")));
    assert_eq!(end.code, Some(code), "{what}:\n{}", end.stdout);
    if start.starts_with("FAIL") {
        assert_eq!(code, 1, "{what}");
    }
}

fn check(cases: &[Case]) {
    for (what, broken, start, words, fix) in cases {
        let api = cluster(*broken);
        let end = doctor(host(Setup::for_api(&api)).args(GOOD));
        expect(what, &end, start, words, fix);
        if start.starts_with("warning") {
            well(&end);
        }
    }
}

#[test]
fn a_healthy_cluster_is_all_ok_in_plain_lines_and_nothing_is_changed() {
    let api = cluster(nothing_broken);
    let end = doctor(host(Setup::for_api(&api)).args(GOOD));
    well(&end);
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

#[test]
fn what_is_wrong_with_the_namespace_and_its_quotas_is_named_with_its_fix() {
    const QUOTAS: &str = "/api/v1/namespaces/free-service/resourcequotas";
    const PREMIUM: &str = "/api/v1/namespaces/default/resourcequotas";
    const NAMESPACE: &str = "/api/v1/namespaces/free-service";
    const SETUP: &str = "img-classification setup";
    check(&[
        (
            "no namespace",
            |r| {
                is(r, "GET", NAMESPACE)
                    .then(|| Reply::failure(404, "NotFound", "namespaces \"free-service\" not found"))
            },
            "FAIL namespace: ",
            "there is no namespace free-service",
            SETUP,
        ),
        (
            "a namespace that ends",
            |r| {
                is(r, "GET", NAMESPACE)
                    .then(|| Reply::json(200, &json!({"metadata": {}, "status": {"phase": "Terminating"}})))
            },
            "FAIL namespace: ",
            "is being deleted",
            SETUP,
        ),
        (
            "no quota",
            |r| is(r, "GET", QUOTAS).then(|| list("ResourceQuota", &[])),
            "FAIL quota: ",
            "there is no ResourceQuota in free-service",
            SETUP,
        ),
        (
            "one key of two",
            |r| is(r, "GET", QUOTAS).then(|| free_cpu(&json!({"requests.cpu": "2"})))?,
            "FAIL quota: ",
            "nothing there limits limits.cpu",
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
            "name no memory",
            SETUP,
        ),
        (
            "somebody else's quota",
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
fn what_this_identity_may_not_do_is_named_with_its_fix() {
    let grant = "aws eks create-access-entry";
    check(&[
        (
            "no free Jobs",
            |r| asks(r, "create", "jobs", &json!("free-service")).then(denied)?,
            "FAIL permission: ",
            "may not create jobs.batch in free-service: no RBAC policy matched",
            grant,
        ),
        (
            "no premium Jobs",
            |r| asks(r, "create", "jobs", &json!("default")).then(denied)?,
            "FAIL permission: ",
            "may not create jobs.batch in default",
            "img-classification setup",
        ),
        (
            "no pods",
            |r| asks(r, "list", "pods", &Value::Null).then(denied)?,
            "FAIL permission: ",
            "may not list pods in all namespaces",
            grant,
        ),
        (
            "no touching",
            |r| asks(r, "patch", "jobs", &json!("free-service")).then(denied)?,
            "warning permission: ",
            "may not patch jobs.batch in free-service; without it a free slot waits",
            grant,
        ),
        (
            "no deleting",
            |r| asks(r, "delete", "jobs", &json!("default")).then(denied)?,
            "warning permission: ",
            "may not delete jobs.batch in default; `clean`",
            "img-classification clean",
        ),
        (
            "nodes are not shown",
            |r| is(r, "GET", "/api/v1/nodes").then(|| forbidden("nodes"))?,
            "warning not looked at: ",
            "nodes: ",
            "administrator",
        ),
        (
            "the namespace is not shown",
            |r| is(r, "GET", "/api/v1/namespaces/free-service").then(|| forbidden("namespaces"))?,
            "warning not looked at: ",
            "namespace: ",
            "administrator",
        ),
        (
            "nobody",
            |r| {
                let anonymous = json!({"status": {"userInfo": {"username": "system:anonymous"}}});
                r.path().ends_with("/selfsubjectreviews").then(|| Reply::json(201, &anonymous))
            },
            "warning identity: ",
            "no credential that counts",
            "aws eks update-kubeconfig",
        ),
    ]);
}

#[test]
fn why_a_pod_is_not_let_in_is_said_in_kubernetes_words() {
    fn refuse(request: &Request, message: &str) -> Option<Reply> {
        (request.query("dryRun") == Some("All")).then(|| Reply::failure(403, "Forbidden", message))
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
            "warning not looked at: ",
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
    well(&end);
    assert!(
        line_text(&end, "ok dry run: ").contains("free-service is in full use (requests.cpu=1800m): a Job would wait")
    );
}

fn line_text(end: &Finished, start: &str) -> String {
    line(end, start).to_owned()
}

#[test]
fn nodes_pods_and_jobs_that_are_not_as_they_should_be_are_named() {
    fn ours(request: &Request, pod: &Value) -> Option<Reply> {
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

#[test]
fn a_clock_that_is_off_is_named_even_where_we_are_refused_for_it() {
    for (seconds, start, words) in [(-60, "warning clock: ", " s ahead of"), (1000, "FAIL clock: ", " s behind")] {
        for is_refused in [false, true] {
            let api = ApiServer::start();
            api.script(move |request| {
                let reply = match request.path() {
                    _ if is_refused => answer::unauthorized(),
                    "/version" => version(),
                    _ => return healthy(request).into(),
                };
                reply.header("Date", &date_in(seconds)).into()
            });
            let end = doctor(host(Setup::for_api(&api)).args(GOOD));
            expect("a clock", &end, start, words, "timedatectl set-ntp true");
        }
    }
}

/// What follows an API that cannot be asked: one line for all of it, and the host's own checks.
fn expect_no_api(what: &str, end: &Finished, start: &str, words: &str, fix: &str) {
    expect(what, end, start, words, fix);
    let skipped = line(end, "warning not looked at: ");
    assert!(
        skipped.contains("identity, permission, namespace, quota, dry run, nodes, pull, leftover Jobs"),
        "{skipped}"
    );
    for start in ["ok image: ", "ok port: ", "ok environment: ", "ok address: "] {
        line(end, start);
    }
    assert_eq!(end.code, Some(1), "{what}");
}

#[test]
fn a_kubeconfig_that_is_missing_or_wrong_is_named_and_the_host_looked_at_all_the_same() {
    let end = doctor(host(Setup::new()).args(GOOD));
    expect_no_api("no kubeconfig", &end, "FAIL kubeconfig: ", "no kubeconfig found", "aws eks update-kubeconfig");
    let end = doctor(host(Setup::new()).kubeconfig("current-context: nowhere\n").args(GOOD));
    expect_no_api("no context", &end, "FAIL kubeconfig: ", "nowhere", "--kubeconfig");
}

#[test]
fn an_api_that_cannot_be_asked_is_named_by_how_it_fails() {
    let mut api = cluster(nothing_broken);
    let setup = host(Setup::for_api(&api)).args(GOOD);
    api.close_port();
    let end = setup.args(&["--kube-timeout", "1"]).run(&["doctor"]);
    expect_no_api("refused", &end, "FAIL API: ", "cannot reach https://127.0.0.1", "security group");
    assert_eq!(end.stderr, "", "the line says it");

    let cases: [(&str, Answer, &str, &str); 4] = [
        ("401", answer::unauthorized().into(), "401 Unauthorized", "aws sts get-caller-identity"),
        ("no Kubernetes", Reply::html(200).into(), "not a Kubernetes answer", "something else answers there"),
        ("500", answer::internal_error().into(), "500 InternalError", "readyz"),
        ("silence", Answer::Never, "no answer in time", "--kube-timeout"),
    ];
    for (what, answer, words, fix) in cases {
        let api = ApiServer::start();
        api.always(answer);
        let end = host(Setup::for_api(&api)).args(GOOD).args(&["--kube-timeout", "1"]).run(&["doctor"]);
        expect_no_api(what, &end, "FAIL API: ", words, fix);
    }

    let api = cluster(nothing_broken);
    let other_ca = Kubeconfig::new(&api.url())
        .cluster(json!({"certificate-authority-data": crate::support::tls::base64("other-ca.pem")}));
    let end = doctor(host(Setup::new()).kubeconfig(other_ca.yaml()).args(GOOD));
    expect_no_api("another CA", &end, "FAIL API: ", "no trusted connection", "writes the cluster's CA anew");

    api.on_accept([Accept::Hang; 8]);
    let end = host(Setup::for_api(&api)).args(GOOD).args(&["--kube-timeout", "1"]).run(&["doctor"]);
    expect_no_api("no handshake", &end, "FAIL API: ", "", "let this host in");
}

#[test]
fn an_api_that_stops_answering_half_way_is_said_once() {
    let api = cluster(|request| is(request, "GET", "/api/v1/nodes").then(|| Reply::html(200)));
    let end = doctor(host(Setup::for_api(&api)).args(GOOD));
    expect("half way", &end, "FAIL nodes: ", "not a Kubernetes answer", "something else answers there");
    assert!(line(&end, "warning not looked at: ").ends_with("pull, leftover Jobs: there is no API to ask"));
}

#[test]
fn an_older_kubernetes_does_not_say_who_we_are() {
    let old: Broken = |request| {
        let not_found = || Reply::new(404, "text/plain", "404 page not found");
        request.path().ends_with("/selfsubjectreviews").then(not_found)
    };
    let api = cluster(old);
    let end = doctor(host(Setup::for_api(&api)).args(GOOD));
    assert!(
        line(&end, "ok identity: ").ends_with("this Kubernetes does not say; our credential is: token <set>"),
        "{}",
        end.stdout
    );
    // {"alg":"none"} . {"sub":"system:serviceaccount:default:ann"}
    let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6ZGVmYXVsdDphbm4ifQ.c2lnbmF0dXJl";
    let kubeconfig = Kubeconfig::new(&api.url()).user(json!({ "token": token }));
    let end = doctor(host(Setup::new()).kubeconfig(kubeconfig.yaml()).args(GOOD));
    assert!(line(&end, "ok identity: ").contains("system:serviceaccount:default:ann, by our token"), "{}", end.stdout);
    assert!(!end.stdout.contains("c2lnbmF0dXJl"), "{}", end.stdout);
    let beta: Broken = |request| match request.path() {
        "/apis/authentication.k8s.io/v1/selfsubjectreviews" => forbidden("selfsubjectreviews"),
        "/apis/authentication.k8s.io/v1beta1/selfsubjectreviews" => {
            Some(Reply::json(201, &json!({"status": {"userInfo": {"username": "beth", "groups": []}}})))
        }
        _ => None,
    };
    let api = cluster(beta);
    assert!(line(&doctor(host(Setup::for_api(&api)).args(GOOD)), "ok identity: ").contains("beth"));
}

#[test]
fn a_credential_plugin_is_found_and_run_or_it_is_said_why_not() {
    let api = cluster(nothing_broken);
    let user = |command: &str| json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "interactiveMode": "Never"}});
    let with = |user: Value| host(Setup::new()).kubeconfig(Kubeconfig::new(&api.url()).user(user).yaml()).args(GOOD);

    let end = doctor(with(user("aws-that-is-not-there")));
    expect("missing", &end, "FAIL API: ", "cannot run the credential plugin aws-that-is-not-there", "awscli");
    expect(
        "missing",
        &end,
        "FAIL environment: ",
        "aws-that-is-not-there of the kubeconfig is not found",
        "PATH, for the service in /etc/img-classification.env",
    );

    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("plain"), "").unwrap();
    let end = doctor(with(user("plain")).env("PATH", folder.path().to_str().unwrap()));
    expect("no program", &end, "FAIL environment: ", "plain of the kubeconfig may not be run", "chmod +x");

    let failing = Plugin::write(folder.path(), "failing", "echo >&2 'Unable to locate credentials'; exit 255");
    let end = doctor(with(failing.user()));
    expect("failing", &end, "FAIL API: ", "Unable to locate credentials", "aws sts get-caller-identity");

    let nonsense = Plugin::write(folder.path(), "nonsense", "echo secret-on-stdout");
    let end = doctor(with(nonsense.user()));
    expect("nonsense", &end, "FAIL API: ", "gave no usable ExecCredential", "aws eks update-kubeconfig");
    assert!(!end.stdout.contains("secret-on-stdout"), "{}", end.stdout);

    let slow = Plugin::write(folder.path(), "slow", "exec sleep 60");
    let end = with(slow.user()).args(&["--kube-timeout", "1"]).run(&["doctor"]);
    expect("slow", &end, "FAIL API: ", "has not answered yet", "--kube-timeout");
    crate::support::eventually("the slow plugin's end", || {
        slow.pids().iter().all(|pid| !crate::support::plugin::is_alive(*pid))
    });

    let good = Plugin::printing(folder.path(), "good", &json!({"token": "t0p-secret"}));
    let end = doctor(with(good.user()));
    well(&end);
    assert!(end.stdout.contains("ok environment: the credential plugin ") && !end.stdout.contains("t0p-secret"));
    assert_eq!(good.runs(), 1);
}

#[test]
fn the_environment_of_a_service_is_looked_at() {
    let api = cluster(nothing_broken);
    let end = doctor(host(Setup::for_api(&api)).args(GOOD).env("HOME", "/nowhere/at/all"));
    expect(
        "HOME",
        &end,
        "warning environment: ",
        "/nowhere/at/all, which is no folder",
        "leave HOME out of /etc/img-classification.env",
    );
    let setup = host(Setup::for_api(&api)).args(GOOD);
    let token = setup.file("premium", "hunter2");
    let end = doctor(setup.env("PREMIUM_TOKEN_FILE", token.to_str().unwrap()));
    well(&end);
    assert!(end.stdout.contains("ok environment: premium needs the token in ") && !end.stdout.contains("hunter2"));
    let end = doctor(host(Setup::for_api(&api)).args(GOOD).env("PREMIUM_TOKEN_FILE", "/nowhere/token"));
    expect("token", &end, "FAIL environment: ", "/nowhere/token, cannot be used", "openssl rand");
    let setup = host(Setup::new());
    let kubeconfig = setup.file("kubeconfig", Kubeconfig::new(&api.url()).yaml());
    let end = doctor(setup.env("KUBECONFIG", kubeconfig.to_str().unwrap()).args(GOOD).env("LOCAL", "1"));
    expect("local", &end, "warning environment: ", "simulated cluster", "unset LOCAL");
}

#[test]
fn variables_with_which_the_server_would_not_start_are_named_among_the_rest() {
    let api = cluster(nothing_broken);
    let end = doctor(host(Setup::for_api(&api)).env("LISTEN", "5000").env("JOB_TTL", "soon"));
    assert_eq!(end.code, Some(1), "{end:?}");
    line(&end, "FAIL environment: LISTEN is \"5000\", but must be an address and a port");
    line(&end, "FAIL environment: JOB_TTL is \"soon\", but must be");
    line(&end, "ok API: ");
    let flag = host(Setup::for_api(&api)).run(&["doctor", "--listen", "5000"]);
    assert_eq!((flag.code, flag.stdout.as_str()), (Some(2), ""), "{flag:?}");
}

#[test]
fn a_port_that_is_taken_is_ours_or_somebody_elses() {
    let api = cluster(nothing_broken);
    let port = |listen: &str| doctor(host(Setup::for_api(&api)).args(&["--image", "r.io/a:1", "--listen", listen]));

    let end = port("127.0.0.1:0");
    well(&end);
    expect("loopback", &end, "warning port: ", "from this host only", "--listen 0.0.0.0:");

    let server = Setup::for_api(&api).start_with(&["serve", "--listen", "0.0.0.0:0"]);
    let end = port(&format!("0.0.0.0:{}", server.address().port()));
    well(&end);
    assert!(line(&end, "ok port: ").contains("this program already listens on 0.0.0.0:"), "{}", end.stdout);

    let other = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    other.always(Reply::html(404));
    let end = port(&other.address().to_string());
    expect("another server", &end, "FAIL port: ", "status 404 and \"<html>", "ss -ltnp 'sport = :");

    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let end = port(&mute.local_addr().unwrap().to_string());
    expect("a mute one", &end, "FAIL port: ", "gives no answer to GET /healthz", "ss -ltnp");

    let end = port("192.0.2.77:5000");
    expect("not ours", &end, "FAIL port: ", "not this host's own", "--listen 0.0.0.0:5000");
    let end = port("no.such.host.invalid:5000");
    expect("no address", &end, "FAIL port: ", "leads to no address", "--listen 0.0.0.0:5000");
}

/// A metadata service of EC2, version 2: without its token it says nothing.
fn metadata(public: &'static str) -> ApiServer {
    let service = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    service.script(move |request| {
        let has_token = request.header("X-aws-ec2-metadata-token") == Some("metadata-token");
        let wants_token = request.header("X-aws-ec2-metadata-token-ttl-seconds").is_some();
        let reply = match (request.method.as_str(), request.path()) {
            ("PUT", "/latest/api/token") if wants_token => Reply::new(200, "text/plain", "metadata-token"),
            _ if !has_token => Reply::new(401, "text/plain", ""),
            ("GET", "/latest/meta-data/public-ipv4") if !public.is_empty() => Reply::new(200, "text/plain", public),
            _ => Reply::html(404),
        };
        reply.into()
    });
    service
}

#[test]
fn on_ec2_the_address_to_give_away_is_the_public_one() {
    let api = cluster(nothing_broken);
    let on_ec2 = |endpoint: &str, listen: &str| {
        let setup = Setup::for_api(&api).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint);
        doctor(setup.args(&["--image", "r.io/a:1", "--listen", listen]))
    };
    let service = metadata("203.0.113.9");
    let end = on_ec2(&service.url(), "0.0.0.0:54321");
    well(&end);
    let found = line(&end, "ok address: ");
    assert!(found.contains("give 203.0.113.9:54321 to the autograder") && found.contains("TCP port 54321"), "{found}");
    assert!(!end.stdout.contains("metadata-token"));
    assert!(line(&on_ec2(&service.url(), "0.0.0.0:0"), "ok address: ").contains("203.0.113.9 and the port"));

    let end = on_ec2(&metadata("").url(), "0.0.0.0:0");
    well(&end);
    expect("private only", &end, "warning address: ", "started without one", "aws ec2 associate-address");

    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = std::time::Instant::now();
    let end = on_ec2(&format!("http://{}", mute.local_addr().unwrap()), "0.0.0.0:0");
    expect("mute", &end, "warning address: ", "gives no answer", "aws ec2");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());

    let off = host(Setup::for_api(&api)).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service.url());
    let asked = service.requests().len();
    assert!(line(&doctor(off.args(GOOD)), "ok address: ").ends_with("if it can be reached from there"));
    assert_eq!(service.requests().len(), asked, "it is not asked where it is turned off");
}

#[test]
fn json_is_one_object_and_says_the_same() {
    let api =
        cluster(|r| is(r, "GET", "/api/v1/namespaces/free-service/resourcequotas").then(|| list("ResourceQuota", &[])));
    let end = doctor(host(Setup::for_api(&api)).args(GOOD).args(&["--json"]));
    assert_eq!((end.code, end.stdout.lines().count()), (Some(1), 1), "{end:?}");
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!(report["result"], "fail");
    let checks = report["checks"].as_array().unwrap();
    for check in checks {
        let keys: Vec<&str> = check.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys.len(), 4, "{keys:?}");
        assert!(check["check"].is_string() && check["text"].is_string(), "{check}");
        assert!(["ok", "warning", "fail"].contains(&check["result"].as_str().unwrap()), "{check}");
        assert_eq!(check["fix"].is_null(), check["result"] == "ok", "{check}");
    }
    let failed: Vec<&Value> = checks.iter().filter(|check| check["result"] == "fail").collect();
    assert_eq!(
        (failed.len(), &failed[0]["check"], &failed[0]["fix"]),
        (1, &json!("quota"), &json!("img-classification setup"))
    );

    let api = cluster(nothing_broken);
    let end = doctor(host(Setup::for_api(&api)).args(GOOD).args(&["--json"]));
    assert_eq!(serde_json::from_str::<Value>(&end.stdout).unwrap()["result"], "ok");
    assert_eq!(end.code, Some(0));
}

#[test]
fn nothing_that_kubernetes_says_starts_a_line_of_its_own() {
    let api = cluster(|request| {
        let bad = || Reply::failure(403, "Forbidden", "pods \"x\" is forbidden: a\nok nodes: all is well\u{1b}[2J");
        (request.query("dryRun") == Some("All")).then(bad)
    });
    let end = doctor(host(Setup::for_api(&api)).args(GOOD));
    expect("two lines", &end, "FAIL dry run: ", "a\\nok nodes: all is well\\u{1b}[2J", "kubectl describe namespace");
}

#[test]
fn a_line_is_there_as_soon_as_its_check_is_done() {
    let api = ApiServer::start();
    let gate = Gate::default();
    let held = gate.clone();
    api.script(move |request| match request.path() {
        "/api/v1/nodes" => Answer::After(held.clone(), Box::new(healthy(request).into())),
        _ => healthy(request).into(),
    });
    let folder = tempfile::TempDir::new().unwrap();
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, Kubeconfig::new(&api.url()).yaml()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_img-classification"));
    command.args(["doctor", "--kube-timeout", "60", "--kubeconfig"]).arg(&kubeconfig);
    let mut child = crate::support::spawn(command.env("AWS_EC2_METADATA_DISABLED", "true").stdout(Stdio::piped()));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(
        lines.any(|line| line == "ok dry run: a premium pod is let into default"),
        "while the nodes are still asked for"
    );
    gate.open();
    assert!(lines.any(|line| line.starts_with("ok address: ")));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn on_a_terminal_lines_are_aligned_and_coloured_unless_that_is_not_wanted() {
    let on_a_terminal = |no_color: &str| {
        // script(1) gives a command a terminal.
        let program = env!("CARGO_BIN_EXE_img-classification");
        let output = Command::new("script")
            .args([
                "-qec",
                &format!("{program} doctor --listen 127.0.0.1:0 --image a@ --kubeconfig /nowhere"),
                "/dev/null",
            ])
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("NO_COLOR", no_color)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stdout).unwrap().replace('\r', "")
    };
    let coloured = on_a_terminal("");
    assert!(coloured.contains("\u{1b}[31mFAIL   \u{1b}[0m  kubeconfig    cannot read"), "{coloured}");
    let plain = on_a_terminal("1");
    assert!(!plain.contains('\u{1b}'), "{plain}");
    assert!(plain.contains("FAIL     kubeconfig    cannot read"), "{plain}");
    assert!(plain.contains("\n          to do:       aws eks update-kubeconfig"), "{plain}");
}

/// The service's environment file, and `doctor --as-service` with it.
fn as_service(setup: Setup, text: &str) -> Finished {
    let file = setup.file("service.env", text);
    let setup = setup.env("IMG_CLASSIFICATION_ENV_FILE", file.to_str().unwrap());
    setup.run(&["doctor", "--as-service"])
}

#[test]
fn as_the_service_only_the_environment_file_counts() {
    let api = cluster(nothing_broken);
    let setup = Setup::new();
    let kubeconfig = setup.file("its own/kubeconfig", Kubeconfig::new(&api.url()).yaml());
    let text = format!(
        "# the service's\nKUBECONFIG=\"{}\"\nCLASSIFIER_IMAGE='r.io/of-the-file:1'\nAWS_EC2_METADATA_DISABLED=true\nLISTEN=0.0.0.0:0\n\
         HOME=/tmp\n",
        kubeconfig.display()
    );
    let end = as_service(setup.env("CLASSIFIER_IMAGE", "of-the-shell").env("PREMIUM_TOKEN_FILE", "/nowhere"), &text);
    well(&end);
    let first = end.stdout.lines().next().unwrap();
    assert!(
        first.starts_with("ok environment: as the service, with the variables of ")
            && first.contains("service.env: KUBECONFIG, CLASSIFIER_IMAGE"),
        "{first}"
    );
    assert!(
        end.stdout.contains("r.io/of-the-file:1 is well formed") && !end.stdout.contains("of-the-shell"),
        "{}",
        end.stdout
    );
    assert!(end.stdout.contains("HOME is /tmp") && !end.stdout.contains("PATH is not set"), "{}", end.stdout);
}

#[test]
fn as_the_service_what_works_in_a_shell_may_be_missing() {
    let api = cluster(nothing_broken);
    let folder = tempfile::TempDir::new().unwrap();
    // The plugin is in the shell's PATH and not in the service's.
    let plugin = Plugin::printing(folder.path(), "own-aws", &json!({"token": "t"}));
    let user = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "own-aws", "interactiveMode": "Never"}});
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, Kubeconfig::new(&api.url()).user(user).yaml()).unwrap();
    let bin = folder.path().display();
    let setup = Setup::new().env("PATH", &format!("{bin}:/usr/bin:/bin"));
    let common = format!("KUBECONFIG={}\nAWS_EC2_METADATA_DISABLED=true\nLISTEN=0.0.0.0:0\n", kubeconfig.display());
    let end = as_service(setup, &format!("{common}export CLASSIFIER_IMAGE=r.io/a:1\n"));
    expect("PATH", &end, "FAIL environment: ", "own-aws of the kubeconfig is not found", "/etc/img-classification.env");
    expect("a bad line", &end, "warning environment: line 4", "systemd leaves it out", "without `export`");
    assert!(end.stdout.contains("warning environment: HOME is not set"), "{}", end.stdout);
    assert_eq!(plugin.runs(), 0);

    let end = as_service(Setup::new(), &format!("{common}PATH={bin}:/usr/bin:/bin\nHOME=/\nCLASSIFIER_IMAGE=r.io/a:1"));
    well(&end);
}

#[test]
fn as_the_service_without_its_file_is_a_failure() {
    let end = Setup::new().env("IMG_CLASSIFICATION_ENV_FILE", "/nowhere/service.env").run(&["doctor", "--as-service"]);
    expect(
        "no file",
        &end,
        "FAIL environment: ",
        "/nowhere/service.env cannot be read",
        "cp systemd/img-classification.env",
    );
    let end = Setup::new().env("IMG_CLASSIFICATION_ENV_FILE", "/nowhere/x").run(&["doctor", "--as-service", "--json"]);
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!(
        (end.code, &report["result"], &report["checks"][0]["result"]),
        (Some(1), &json!("fail"), &json!("fail"))
    );
}

#[test]
fn as_the_service_arguments_and_json_are_passed_on() {
    let api = cluster(nothing_broken);
    let setup = Setup::for_api(&api).args(GOOD).args(&["--json"]);
    let end = as_service(setup, "HOME=/\nAWS_EC2_METADATA_DISABLED=true\n");
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!((end.code, &report["result"]), (Some(0), &json!("ok")), "{end:?}");
    let end = as_service(Setup::new(), "JOB_TTL=soon\n");
    assert_eq!(end.code, Some(1), "{end:?}");
    line(&end, "FAIL environment: JOB_TTL is \"soon\"");
}
