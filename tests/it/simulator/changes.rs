//! PUT and PATCH: versions, immutable fields, the status.

use super::{JOBS, PODS, QUOTAS, ROLES, job, pod, start, text};
use crate::support::eventually;
use crate::support::kubernetes::MERGE;
use serde_json::{Value, json};

fn quota(cpu: &str) -> Value {
    json!({"metadata": {"name": "q"}, "spec": {"hard": {"cpu": cpu}}})
}

#[test]
fn put_replaces_the_version_that_it_names_or_any() {
    let local = start("long");
    let path = format!("{QUOTAS}/q");
    let (status, body) = local.kube.put(&path, &quota("1"));
    assert_eq!((status, text(&body, "/message").as_str()), (404, "resourcequotas \"q\" not found"));
    let old = local.kube.post(QUOTAS, &quota("1")).1;
    let (status, new) = local.kube.put(&path, &quota("2000m"));
    assert_eq!(
        (status, &new["spec"]["hard"], &new["metadata"]["uid"]),
        (200, &json!({"cpu": "2"}), &old["metadata"]["uid"])
    );

    let (status, body) = local.kube.put(&path, &old);
    let message = "Operation cannot be fulfilled on resourcequotas \"q\": the object has been modified; please apply your changes to the latest version and try again";
    assert_eq!((status, text(&body, "/reason"), text(&body, "/message")), (409, "Conflict".into(), message.into()));
    let current = local.kube.get(&path).1;
    assert_eq!(current["spec"]["hard"]["cpu"], "2");
    let (status, same) = local.kube.put(&path, &current);
    assert_eq!((status, &same["metadata"]["resourceVersion"]), (200, &current["metadata"]["resourceVersion"]));
    let (status, _) = local.kube.put(&format!("{path}?dryRun=All"), &quota("9"));
    assert_eq!((status, &local.kube.get(&path).1), (200, &current));

    for (body, status, message) in [
        (
            json!({"metadata": {"name": "other"}}),
            400,
            "the name of the object (other) does not match the name on the URL (q)",
        ),
        (json!({}), 400, "the name of the object (q based on URL) was undeterminable: name must be provided"),
        (
            json!({"metadata": {"name": "q", "namespace": "x"}}),
            400,
            "the namespace of the object (x) does not match the namespace on the request (default)",
        ),
    ] {
        let (found, answer) = local.kube.put(&path, &body);
        assert_eq!((found, text(&answer, "/message").as_str()), (status, message));
    }
    let mut foreign = quota("2");
    foreign["metadata"]["uid"] = json!("x");
    assert_eq!(local.kube.put(&path, &foreign).0, 409);
    // Kubernetes creates roles by PUT, and replaces no service account without a version.
    let role = json!({"metadata": {"name": "r"}, "rules": []});
    assert_eq!(local.kube.put(&format!("{ROLES}/clusterroles/r"), &role).0, 201);
    let account = json!({"metadata": {"name": "default"}});
    assert_eq!(local.kube.put("/api/v1/namespaces/default/serviceaccounts/default", &account).0, 422);
}

#[test]
fn immutable_fields_of_a_job_stay_and_the_others_change() {
    let local = start("long");
    let path = format!("{JOBS}/j");
    local.kube.post(JOBS, &job("j", "long"));
    eventually("its first status", || local.kube.get(&path).1["status"]["active"] == 1);
    let current = local.kube.get(&path).1;
    for pointer in ["/spec/template/spec/containers/0/image", "/spec/selector/matchLabels", "/spec/completions"] {
        let mut changed = current.clone();
        *changed.pointer_mut(pointer).unwrap() = match pointer {
            "/spec/completions" => json!(7),
            "/spec/selector/matchLabels" => json!({"a": "b"}),
            _ => json!("y"),
        };
        let (status, body) = local.kube.put(&path, &changed);
        let message = text(&body, "/message");
        assert!(status == 422 && message.ends_with(": field is immutable"), "{body}");
        assert!(
            message.starts_with(&format!("Job.batch \"j\" is invalid: spec.{}", pointer.split('/').nth(2).unwrap()))
        );
    }
    let mut changed = current.clone();
    changed["metadata"]["labels"]["team"] = json!("a");
    changed["metadata"]["annotations"] = json!({"note": "b"});
    changed["spec"]["backoffLimit"] = json!(3);
    changed["status"]["succeeded"] = json!(9);
    let (status, after) = local.kube.put(&path, &changed);
    assert_eq!(
        (status, &after["spec"]["backoffLimit"], &after["metadata"]["labels"]["team"]),
        (200, &json!(3), &json!("a"))
    );
    assert_eq!((&after["status"], &after["metadata"]["annotations"]["note"]), (&current["status"], &json!("b")));

    local.kube.post(PODS, &pod("p", "long", "1m"));
    let image = json!({"spec": {"containers": [{"name": "c", "image": "other"}]}});
    assert_eq!(local.kube.patch(&format!("{PODS}/p"), MERGE, &image).0, 422);
}

#[test]
fn status_is_read_and_changed_alone() {
    let local = start("long");
    let (path, status_path) = (format!("{JOBS}/j"), format!("{JOBS}/j/status"));
    let mut suspended = job("j", "long");
    suspended["spec"]["suspend"] = json!(true);
    local.kube.post(JOBS, &suspended);
    eventually("its condition", || local.kube.get(&path).1["status"]["conditions"].is_array());
    assert_eq!(local.kube.get(&status_path), local.kube.get(&path));
    let complete = json!([{"type": "Complete", "status": "True"}]);
    let patch = json!({"status": {"conditions": complete, "succeeded": 3}, "spec": {"backoffLimit": 9}});
    let (status, after) = local.kube.patch(&status_path, MERGE, &patch);
    assert_eq!((status, &after["status"]["succeeded"], &after["spec"]["backoffLimit"]), (200, &json!(3), &json!(0)));
    let stale = after.clone();
    let mut next = after;
    next["status"] = json!({"conditions": complete, "succeeded": 4});
    next["spec"] = json!({});
    let (status, after) = local.kube.put(&status_path, &next);
    assert_eq!((status, &after["status"], &after["spec"]), (200, &next["status"], &stale["spec"]));
    assert_eq!(local.kube.put(&status_path, &stale).0, 409);
    assert_eq!(local.kube.delete(&status_path, &json!({})).0, 405);
    assert_eq!(local.kube.get("/api/v1/namespaces/default/secrets/x/status").0, 404);
    // Other statuses are those of their controllers again.
    for status in [json!(1), json!({"conditions": 1}), json!({"phase": "odd", "containerStatuses": [1]})] {
        local.kube.post(PODS, &pod("p", "long", "1m"));
        local.kube.patch(&format!("{PODS}/p/status"), MERGE, &json!({"status": status}));
    }
    local.kube.delete(&format!("{PODS}/p"), &json!({"gracePeriodSeconds": 0}));
    local.kube.delete(&path, &json!({}));
    local.is_sound();
}

#[test]
fn json_patch_changes_lists_and_is_checked_like_any_change() {
    let local = start("long");
    let path = format!("{QUOTAS}/q");
    local.kube.post(QUOTAS, &quota("1"));
    let patch = |operations: Value| local.kube.patch(&path, "application/json-patch+json", &operations);
    let (status, body) = patch(json!([
        {"op": "test", "path": "/spec/hard/cpu", "value": "1"},
        {"op": "add", "path": "/spec/hard/requests.memory", "value": "1024Mi"},
        {"op": "replace", "path": "/spec/hard/cpu", "value": "2000m"},
    ]));
    assert_eq!((status, &body["spec"]["hard"]), (200, &json!({"cpu": "2", "requests.memory": "1Gi"})), "{body}");
    for (operation, status) in [
        (json!({"op": "remove", "path": "/spec/nothing"}), 422),
        (json!({"op": "test", "path": "/spec/hard/cpu", "value": "1"}), 422),
        (json!({"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}), 409),
        (json!({"op": "replace", "path": "/spec/hard/cpu", "value": "2 CPU"}), 400),
        (json!({"op": "dance", "path": "/spec"}), 400),
    ] {
        assert_eq!(patch(json!([operation])).0, status, "{operation}");
    }
}
