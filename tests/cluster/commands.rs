//! The commands setup, clean and selftest.

use super::*;

/// Runs a command against this cluster.
fn command(args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_img-classification"));
    let output = command.args(args).env("KUBECONFIG", kubeconfig()).output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
    )
}

fn command_ok(args: &[&str]) -> String {
    let (code, output) = command(args);
    assert_eq!(code, Some(0), "{args:?}: {output}");
    output
}

#[test]
fn setup_creates_and_repairs_objects_and_repeated_has_nothing_to_do() {
    empty_cluster();
    command_ok(&["setup"]);
    let again = command_ok(&["setup"]);
    assert!(again.ends_with("nothing to change\n"), "{again}");

    let wrong = r#"{"spec":{"hard":{"requests.cpu":"900m","requests.memory":"1Gi"}}}"#;
    kubectl_ok(&["patch", "resourcequota", "free-cpu", "-n", FREE, "--type", "merge", "-p", wrong]);
    kubectl_ok(&["delete", "rolebinding", "img-classification-jobs", "-n", PREMIUM]);
    kubectl_ok(&["delete", "clusterrolebinding", "img-classification-pods"]);
    create(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "img-classification-pods"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "nobody"}],
    }));
    let repaired = command_ok(&["setup"]);
    for line in [
        "ok resourcequota free-service/free-cpu: changed: spec.hard.requests.cpu from 900m to 2, spec.hard.requests.memory removed",
        "ok rolebinding default/img-classification-jobs: created",
        "ok clusterrolebinding img-classification-pods: replaced: it was bound to another role",
        "ok namespace free-service: unchanged",
        "3 objects changed",
    ] {
        assert!(repaired.lines().any(|output| output == line), "no {line:?} in\n{repaired}");
    }
    let hard = items(&["get", "resourcequotas", "-n", FREE, "--field-selector", "metadata.name=free-cpu"]);
    assert_eq!(hard[0]["spec"]["hard"], json!({"requests.cpu": "2", "limits.cpu": "2"}));
    assert!(command_ok(&["setup"]).ends_with("nothing to change\n"));
}

#[test]
fn setup_waits_for_a_terminating_namespace_and_recreates_it() {
    empty_cluster();
    let server = server("long");
    post_ok(&server, "free", "mnist");
    within(SOON, "its pod", || (!pods(FREE).is_empty()).then_some(()));
    kubectl_ok(&["delete", "namespace", FREE, "--wait=false"]);
    let output = command_ok(&["setup"]);
    assert!(output.contains("ok namespace free-service: created\n"), "{output}");
    assert_eq!(jobs(FREE).len(), 0);
    post_ok(&server, "free", "mnist");
}

#[test]
fn clean_deletes_our_jobs_and_waits_until_their_quota_is_free() {
    empty_cluster();
    let server = server("long");
    let posted: Vec<String> =
        ["free", "free", "free", "premium"].iter().map(|tier| post_ok(&server, tier, "mnist")).collect();
    let container = json!({"name": "c", "image": image("short")});
    create(&json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "of-another-program", "namespace": PREMIUM},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
    }));
    within(SOON, "two pods", || (pods(FREE).len() == 2 && pods(PREMIUM).len() == 2).then_some(()));

    let output = command_ok(&["clean"]);
    for job in &posted {
        assert!(output.contains(&format!("deleted job {job}\n")), "{output}");
    }
    assert!(output.ends_with("ready\n") && !output.contains("of-another-program"), "{output}");
    assert_eq!((jobs(FREE).len(), pods(FREE).len()), (0, 0));
    assert_eq!(names(&jobs(PREMIUM)), BTreeSet::from(["of-another-program".to_owned()]));
    for quota in items(&["get", "resourcequotas", "-n", FREE]) {
        let used = quota["status"]["used"].as_object().unwrap();
        assert!(used.values().all(|amount| amount == "0"), "{quota}");
    }

    let (code, output) = command(&["clean", "--all"]);
    assert!(code == Some(2) && output.contains("--yes"), "{code:?} {output}");
    assert_eq!(jobs(PREMIUM).len(), 1);
    let output = command_ok(&["clean", "--all", "--yes"]);
    assert!(output.contains("deleted job of-another-program\n") && output.ends_with("ready\n"), "{output}");
    assert_eq!((jobs(PREMIUM).len(), pods(PREMIUM).len()), (0, 0));
    let output = command_ok(&["clean"]);
    assert_eq!(output, "ok free-service: no Jobs to delete\nok default: no Jobs to delete\nready\n");
}

#[test]
fn clean_deletes_pods_without_a_job() {
    empty_cluster();
    let job = post_ok(&server("long"), "free", "mnist");
    within(SOON, "its pod", || (!pods(FREE).is_empty()).then_some(()));
    let orphan = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Orphan"});
    let path = format!("/apis/batch/v1/namespaces/{FREE}/jobs/{job}");
    kubectl_file(&["delete", "--raw", &path, "-f"], &orphan);
    within(SOON, "an orphan", || {
        (jobs(FREE).is_empty() && pods(FREE).iter().all(|pod| pod["metadata"]["ownerReferences"].is_null()))
            .then_some(())
    });
    let output = command_ok(&["clean"]);
    assert!(output.contains("which had no Job") && output.ends_with("ready\n"), "{output}");
    assert!(pods(FREE).is_empty());
}

#[test]
fn selftest_passes_on_a_healthy_server_and_cleans_up_on_request() {
    empty_cluster();
    let server = server("long");
    post_ok(&server, "free", "mnist");
    let url = format!("http://{}/", server.address());
    let output = command_ok(&["selftest", &url, "--clean-first", "--clean-after"]);
    assert!(output.lines().any(|line| line.starts_with("passed in ")), "{output}");
    assert!(!output.contains("FAIL") && output.ends_with("ready\n"), "{output}");
    assert!(jobs(FREE).is_empty() && jobs(PREMIUM).is_empty());
}

#[test]
fn selftest_names_the_failed_step() {
    empty_cluster();
    let server = server("long");
    let url = server.address().to_string();
    let wide = r#"{"spec":{"hard":{"requests.cpu":"4","limits.cpu":"4"}}}"#;
    kubectl_ok(&["patch", "resourcequota", "free-cpu", "-n", FREE, "--type", "merge", "-p", wide]);
    let (code, output) = command(&["selftest", &url]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("FAIL") && output.contains("3 free pods run at the same time"), "{output}");

    empty_cluster();
    kubectl_ok(&["delete", "resourcequota", "free-jobs", "-n", FREE]);
    create(&json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "free-jobs", "namespace": FREE},
        "spec": {"hard": {"count/jobs.batch": "1"}},
    }));
    within(SOON, "the quota in force", || {
        let path = "jsonpath={.status.hard.count/jobs\\.batch}";
        (kubectl_ok(&["get", "resourcequota", "free-jobs", "-n", FREE, "-o", path]) == "1").then_some(())
    });
    let (code, output) = command(&["selftest", &url]);
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("FAIL 3 x POST free: POST /img-classification/free returned 429"), "{output}");
    assert!(output.contains("FAIL free pods: 1 new pods"), "{output}");
    kubectl_ok(&["delete", "resourcequota", "free-jobs", "-n", FREE]);
}
