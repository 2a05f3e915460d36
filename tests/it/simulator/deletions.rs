//! Deletions, of one object and of collections.

use super::{JOBS, PODS, STRATEGIC, job, names, pod, start, text};
use crate::support::eventually;
use serde_json::{Value, json};

#[test]
fn options_of_a_deletion_that_are_not_understood_are_refused() {
    let local = start("long");
    let path = local.post("premium");
    for (options, status) in [
        (json!({"ignoreStoreReadErrorWithClusterBreakingPotential": true}), 400),
        (json!({"gracePeriodSeconds": "1"}), 400),
        (json!({"preconditions": {"generation": 1}}), 400),
        (json!({"propagationPolicy": "foreground"}), 422),
        (json!({"propagationPolicy": "Orphan", "orphanDependents": true}), 422),
        (json!([]), 400),
    ] {
        assert_eq!(local.kube.delete(&path, &options).0, status, "{options}");
    }
    assert_eq!(local.kube.delete(&format!("{path}?gracePeriodSeconds=x"), &json!({})).0, 400);
    assert_eq!(local.kube.get(&path).1["metadata"]["deletionTimestamp"], Value::Null);
}

#[test]
fn preconditions_of_a_deletion_are_honoured() {
    let local = start("long");
    let path = local.post("premium");
    eventually("its first status", || local.kube.get(&path).1["status"]["active"] == 1);
    let metadata = local.kube.get(&path).1["metadata"].clone();
    let (uid, version) = (text(&metadata, "/uid"), text(&metadata, "/resourceVersion"));
    let delete = |uid: &str, version: &str| {
        let preconditions = json!({"uid": uid, "resourceVersion": version});
        local.kube.delete(&path, &json!({"propagationPolicy": "Background", "preconditions": preconditions}))
    };
    let (status, body) = delete("x", &version);
    assert_eq!((status, text(&body, "/reason")), (409, "Conflict".into()));
    let (status, body) = delete(&uid, "1");
    let message =
        format!("the ResourceVersion in the precondition (1) does not match the ResourceVersion in record ({version})");
    assert!(status == 409 && text(&body, "/message").contains(&message), "{body}");
    assert_eq!(delete(&uid, &version).0, 200);
    assert_eq!(local.kube.get(&path).0, 404);
}

#[test]
fn deletion_of_a_job_keeps_its_pods_by_default_and_warns() {
    let local = start("long");
    let path = local.post("premium");
    eventually("a pod that runs", || local.phases(PODS) == ["Running"]);
    let response = local.kube.send(&format!("DELETE {path}"), "", b"").unwrap();
    let warning = response.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("Warning")).unwrap().1.clone();
    assert_eq!(response.status, 200);
    assert!(warning.starts_with("299 - \"child pods are preserved by default when jobs are deleted;"), "{warning}");
    assert_eq!(local.kube.items(PODS)[0]["metadata"]["ownerReferences"], Value::Null);

    for (query, is_kept) in
        [("orphanDependents=true", true), ("orphanDependents=false", false), ("propagationPolicy=Background", false)]
    {
        local.kube.delete(PODS, &json!({"gracePeriodSeconds": 0}));
        let path = local.post("premium");
        eventually("a pod that runs", || local.phases(PODS) == ["Running"]);
        let response = local.kube.send(&format!("DELETE {path}?{query}"), "", b"").unwrap();
        assert!(response.headers.iter().all(|(name, _)| !name.eq_ignore_ascii_case("Warning")), "{query}");
        let is_gone = || local.kube.items(PODS).is_empty();
        if is_kept { assert!(!is_gone()) } else { eventually("no pod", is_gone) }
    }
}

#[test]
fn selected_objects_of_a_collection_are_deleted() {
    let local = start("long");
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        assert_eq!(local.kube.post(JOBS, &job(name, "long")).0, 201);
        let label = json!({"metadata": {"labels": {"team": label}}});
        assert_eq!(local.kube.patch(&format!("{JOBS}/{name}"), STRATEGIC, &label).0, 200);
    }
    let left = || names(&local.kube.items(JOBS)).into_iter().collect::<Vec<_>>().concat();
    let background = json!({"propagationPolicy": "Background"});
    for (query, status, expected) in [
        ("labelSelector=team%20in%20(", 400, "abc"),
        ("fieldSelector=metadata.nam=a", 400, "abc"),
        ("limit=1", 400, "abc"),
        ("dryRun=All", 200, "abc"),
        ("labelSelector=team%20in%20(x,z)&fieldSelector=metadata.name!=b", 200, "bc"),
        ("labelSelector=team%20notin%20(y)", 200, "c"),
        ("", 200, ""),
    ] {
        let (found, list) = local.kube.delete(&format!("{JOBS}?{query}"), &background);
        assert_eq!((found, left().as_str()), (status, expected), "{query}: {list}");
        assert!(found != 200 || list["kind"] == "JobList", "{list}");
    }
    eventually("no pod", || local.kube.items(PODS).is_empty());
    for path in ["/apis/batch/v1/jobs", "/api/v1/namespaces"] {
        assert_eq!(local.kube.delete(path, &json!({})).0, 405, "{path}");
    }
    assert_eq!(local.kube.post("/api/v1/pods", &pod("p", "long", "1m")).0, 405);
    for path in ["/api/v1/namespaces/default/nodes", "/api/v1/pods/p", "/api/v1/namespaces/default/finalize"] {
        assert_eq!(local.kube.get(path).0, 404, "{path}");
    }
    assert_eq!(local.kube.get("/api/v1/namespaces/default/status").1["kind"], "Namespace");
}
