//! Objects that Kubernetes refuses, with its words: wrong types, quantities, unknown fields, names and labels.

use super::{JOBS, Local, PODS, QUOTAS, ROLES, job, pod, start};
use crate::support::kubernetes::MERGE;
use serde_json::{Value, json};

/// Sends a Job in which `change` has changed something, and returns the status and the message.
fn create(local: &Local, query: &str, change: impl Fn(&mut Value)) -> (u16, String) {
    let mut object = job("a", "long");
    change(&mut object);
    let (status, body) = local.kube.post(&format!("{JOBS}?dryRun=All{query}"), &object);
    (status, body["message"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn wrong_types_and_quantities_are_400() {
    let local = start("long");
    let container = "/spec/template/spec/containers/0";
    for (pointer, value, words) in [
        (
            "/spec/backoffLimit",
            json!("4"),
            "cannot unmarshal string into Go struct field JobSpec.spec.backoffLimit of type int32",
        ),
        (
            container,
            json!({"name": "c", "image": "i", "env": [{"name": "A", "value": 1}]}),
            "EnvVar.spec.template.spec.containers.env.value",
        ),
        (
            &*format!("{container}/resources/requests/cpu"),
            json!("0.9 CPU"),
            "quantities must match the regular expression '^([+-]?[0-9.]+)",
        ),
        (&*format!("{container}/resources/limits/cpu"), json!("900 m"), "quantities must match the regular expression"),
        (&*format!("{container}/resources/limits/cpu"), json!("900mi"), "unable to parse quantity's suffix"),
    ] {
        let (status, message) = create(&local, "", |job| *job.pointer_mut(pointer).unwrap() = value.clone());
        assert_eq!(status, 400, "{pointer} {value}: {message}");
        let start = "Job in version \"v1\" cannot be handled as a Job: ";
        assert!(message.starts_with(start) && message.contains(words), "{pointer} {value}: {message}");
    }
    let (status, body) = local.kube.patch(&format!("{PODS}/nowhere"), MERGE, &json!({"spec": 1}));
    assert_eq!(status, 400, "{body}");
}

#[test]
fn broken_rules_are_422() {
    let local = start("long");
    let container = "/spec/template/spec/containers/0";
    let field = "spec.template.spec.containers[0]";
    for (pointer, value, words) in [
        (
            "/metadata/name",
            json!("A_b"),
            "metadata.name: Invalid value: \"A_b\": a lowercase RFC 1123 subdomain must consist".into(),
        ),
        (
            "/metadata",
            json!({"name": "a", "labels": {"k": "b c"}}),
            "metadata.labels: Invalid value: \"b c\": a valid label must be".into(),
        ),
        (
            "/spec/backoffLimit",
            json!(-1),
            "spec.backoffLimit: Invalid value: -1: must be greater than or equal to 0".into(),
        ),
        (
            "/spec/template/spec/restartPolicy",
            json!("Always"),
            "restartPolicy: Unsupported value: \"Always\": supported values".into(),
        ),
        ("/spec/template/spec/containers", json!([]), "spec.template.spec.containers: Required value".into()),
        (container, json!({"image": "x"}), format!("{field}.name: Required value")),
        (
            container,
            json!({"name": "C", "image": "x"}),
            format!("{field}.name: Invalid value: \"C\": a lowercase RFC 1123 label"),
        ),
        (container, json!({"name": "c"}), format!("{field}.image: Required value")),
        (
            &*format!("{container}/resources"),
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "900m"}}),
            format!(
                "{field}.resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 900m"
            ),
        ),
        (
            &*format!("{container}/resources"),
            json!({"requests": {"cpu": "-1"}}),
            format!("{field}.resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"),
        ),
    ] {
        let (status, message) = create(&local, "", |job| *job.pointer_mut(pointer).unwrap() = value.clone());
        assert!(status == 422 && message.contains(&*words), "{pointer} {value}: {status} {message}");
    }
    let (status, body) = local.kube.patch(
        "/api/v1/namespaces/free-service/resourcequotas/free-cpu",
        MERGE,
        &json!({"spec": {"$patch": "delete"}}),
    );
    assert!(status == 400 && body["message"].as_str().unwrap().contains("the directive $patch"), "{status} {body}");
    // All problems are named at once.
    let (_, message) = create(&local, "", |job| {
        job["spec"]["template"]["spec"] = json!({"containers": [{"name": "c"}]});
    });
    assert!(
        message.contains("[spec.template.spec.containers[0].image: Required value, spec.template.spec.restartPolicy: ")
    );
}

#[test]
fn fields_that_are_not_simulated_are_422() {
    let local = start("long");
    let pod = "/spec/template/spec";
    for (pointer, field, value) in [
        ("/spec", "parallelism", json!(2)),
        ("/spec", "parallelism", json!(0)),
        ("/spec", "completions", json!(3)),
        ("/spec", "completionMode", json!("Indexed")),
        ("/spec", "manualSelector", json!(true)),
        ("/spec", "backoffLimitPerIndex", json!(1)),
        ("/spec", "managedBy", json!("example.com/other")),
        ("/spec", "successPolicy", json!({"rules": [{"succeededCount": 1}]})),
        (pod, "initContainers", json!([{"name": "i", "image": "x"}])),
        (pod, "affinity", json!({"nodeAffinity": {}})),
        (pod, "schedulerName", json!("other")),
        (pod, "topologySpreadConstraints", json!([{"maxSkew": 1}])),
    ] {
        let (status, message) = create(&local, "", |job| job.pointer_mut(pointer).unwrap()[field] = value.clone());
        let path = format!("{}.{field}: Forbidden: the simulator", pointer[1..].replace('/', "."));
        assert!(status == 422 && message.contains(&path), "{field} {value}: {status} {message}");
    }
    let exit_code = json!({"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]});
    let (status, message) = create(&local, "", |job| job["spec"]["podFailurePolicy"] = exit_code.clone());
    assert!(status == 422 && message.contains("spec.podFailurePolicy.rules[0].onExitCodes: Forbidden"), "{message}");
    let selector = json!({"matchLabels": {"app": "x"}});
    let (status, message) = create(&local, "", |job| job["spec"]["selector"] = selector.clone());
    let words = "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: `selector` not auto-generated";
    assert!(status == 422 && message.contains(words), "{message}");
    let quota = |spec: Value| {
        let quota = json!({"metadata": {"name": "q"}, "spec": spec});
        let (status, body) = local.kube.post(&format!("{QUOTAS}?dryRun=All"), &quota);
        (status, body["message"].as_str().unwrap_or_default().to_owned())
    };
    for spec in
        [json!({"hard": {"requests.ephemeral-storage": "1Gi"}}), json!({"hard": {"pods": 1}, "scopes": ["BestEffort"]})]
    {
        let (status, message) = quota(spec.clone());
        assert!(status == 422 && message.contains("Forbidden: the simulator does not"), "{spec}: {status} {message}");
    }
    assert_eq!(quota(json!({"hard": {"services": "1", "count/deployments.apps": "2", "configmaps": "3"}})).0, 201);
    // What the server itself and kubectl send is accepted.
    let plain = |job: &mut Value| {
        for (field, value) in
            [("parallelism", json!(1)), ("completions", json!(1)), ("completionMode", json!("NonIndexed"))]
        {
            job["spec"][field] = value;
        }
        job["spec"]["template"]["spec"]["initContainers"] = json!([]);
    };
    assert_eq!(create(&local, "", plain).0, 201);
}

#[test]
fn unknown_fields_are_errors_warnings_or_nothing() {
    let local = start("long");
    let add = |job: &mut Value| {
        job["spec"]["foo"] = json!(1);
        job["spec"]["template"]["spec"]["containers"][0]["imagee"] = json!("x");
    };
    let (status, message) = create(&local, "&fieldValidation=Strict", add);
    let expected = "Job in version \"v1\" cannot be handled as a Job: strict decoding error: unknown field \"spec.foo\", \
                    unknown field \"spec.template.spec.containers[0].imagee\"";
    assert_eq!((status, message.as_str()), (400, expected));
    assert_eq!(create(&local, "&fieldValidation=Maybe", add).0, 400);
    let mut object = job("a", "long");
    add(&mut object);
    for (query, warnings) in [("", 2), ("?fieldValidation=Warn", 2), ("?fieldValidation=Ignore", 0)] {
        object["metadata"] = json!({"generateName": "a-"});
        let body = object.to_string();
        let framing = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let response = local.kube.send(&format!("POST {JOBS}{query}"), &framing, body.as_bytes()).unwrap();
        let texts: Vec<&String> = response
            .headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case("warning"))
            .map(|(_, text)| text)
            .collect();
        assert_eq!((response.status, texts.len()), (201, warnings), "{query}");
        assert!(warnings == 0 || texts[0] == r#"299 - "unknown field \"spec.foo\"""#, "{texts:?}");
        assert!(response.json()["spec"]["foo"].is_null(), "{query}");
    }
    let (_, body) =
        local.kube.patch(&format!("{ROLES}/clusterroles/x?fieldValidation=Strict"), MERGE, &json!({"rulez": []}));
    assert!(body["message"].as_str().unwrap().contains("unknown field \"rulez\""), "{body}");
}

#[test]
fn yaml_and_unknown_protocol_buffers_are_415() {
    let local = start("long");
    for (media_type, body, words) in [
        ("application/yaml", &b"kind: Pod"[..], "the simulator reads no YAML"),
        (
            "application/vnd.kubernetes.protobuf",
            b"k8s\0\x0a\x0a\x0a\x02v1\x12\x04Node",
            "cannot decode this object in protocol buffers",
        ),
    ] {
        let framing = format!("Content-Type: {media_type}\r\nContent-Length: {}\r\n", body.len());
        let response = local.kube.send(&format!("POST {PODS}"), &framing, body).unwrap();
        let message = response.json()["message"].as_str().unwrap().to_owned();
        assert!(response.status == 415 && message.contains(words), "{media_type}: {message}");
    }
    assert_eq!(local.kube.post(PODS, &pod("a", "long", "100m")).0, 201);
}

#[test]
fn rules_of_a_user_are_listed() {
    let local = start("long");
    let reviews = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let review = json!({"spec": {"namespace": "free-service"}});
    let rules = |kube: &crate::support::kubernetes::Kubernetes| {
        let (status, body) = kube.post(reviews, &review);
        assert_eq!(status, 201, "{body}");
        body["status"]["resourceRules"].clone()
    };
    assert_eq!(rules(&local.kube), json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]));
    let account = local.kube.with("Impersonate-User", "system:serviceaccount:default:img-classification");
    let listed = rules(&account);
    assert!(listed.as_array().unwrap().iter().any(|rule| rule["resources"] == json!(["pods/log"])), "{listed}");
}
