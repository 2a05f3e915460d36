//! The server's role, and a token that expires.

use super::{
    FREE, PREMIUM, SOON, config, empty_cluster, expected_config, jobs, kubectl, kubectl_file, kubectl_ok, names,
    own_cluster, post, post_ok, server_with, text, within,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The service account of k8s/rbac.yaml.
const ACCOUNT: &str = "system:serviceaccount:default:img-classification";

/// A kubeconfig of this cluster with another user.
pub fn kubeconfig_of(home: &Path, user: &Value) -> PathBuf {
    let view = kubectl_ok(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]);
    let mut config: Value = serde_json::from_str(&view).unwrap();
    config["users"][0]["user"] = user.clone();
    let path = home.join("kubeconfig-of-another-user");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// A token of the service account, from the TokenRequest API: Kubernetes 1.20 has no `kubectl create token`.
pub fn account_token() -> String {
    let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {} });
    let path = "/api/v1/namespaces/default/serviceaccounts/img-classification/token";
    let made = kubectl_file(&["create", "--raw", path, "-f"], &request);
    let made: Value = serde_json::from_str(&made).unwrap();
    text(&made, "/status/token").to_owned()
}

#[test]
fn role_grants_exactly_the_needed_permissions() {
    empty_cluster();
    let home = tempfile::TempDir::new().unwrap();
    let token = account_token();
    let path = kubeconfig_of(home.path(), &json!({ "token": token }));
    let server = server_with(&path, "long");
    assert_eq!(server.get("/readyz").status, 200, "{}", server.stderr());
    post_ok(&server, "free", "mnist");
    post_ok(&server, "premium", "mnist");
    within(SOON, "/config as the administrator has it", || (config(&server) == expected_config()).then_some(()));

    let as_account = |args: &[&str]| {
        let output = Command::new("kubectl").arg("--kubeconfig").arg(&path).args(args).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for args in [
        &["get", "secrets", "-n", "default"][..],
        &["get", "jobs", "-n", "kube-system"],
        &["delete", "pods", "--all", "-n", FREE],
        &["get", "nodes"],
    ] {
        let (done, output) = as_account(args);
        assert!(!done && output.contains("orbidden"), "kubectl {args:?} as the account: {output}");
    }
    for (verb, resource, namespace, allowed) in [
        ("create", "jobs", FREE, true),
        ("create", "jobs", PREMIUM, true),
        ("list", "pods", "kube-system", true),
        ("create", "jobs", "kube-system", false),
        ("delete", "jobs", FREE, true),
        ("delete", "jobs", PREMIUM, true),
        ("delete", "jobs", "kube-system", false),
        ("deletecollection", "jobs", FREE, false),
        ("get", "pods/log", FREE, true),
        ("get", "pods/log", PREMIUM, true),
        ("get", "pods/log", "kube-system", false),
        ("get", "jobs", FREE, true),
        ("watch", "jobs", FREE, true),
        ("patch", "jobs", FREE, true),
        ("watch", "resourcequotas", FREE, true),
        ("patch", "resourcequotas", FREE, false),
        ("update", "jobs", FREE, false),
        ("watch", "jobs", PREMIUM, true),
        ("patch", "jobs", PREMIUM, false),
        ("create", "pods", FREE, false),
        ("delete", "pods", PREMIUM, false),
        ("watch", "pods", FREE, true),
        ("watch", "pods", PREMIUM, true),
        ("watch", "pods", "kube-system", true),
        ("list", "events", FREE, true),
        ("watch", "events", FREE, false),
        ("get", "pods", FREE, false),
        ("get", "secrets", "default", false),
    ] {
        let (plural, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let subresource = format!("--subresource={subresource}");
        let response = kubectl(&["auth", "can-i", verb, plural, &subresource, "-n", namespace, "--as", ACCOUNT]);
        let output = String::from_utf8_lossy(&response.stdout).trim().to_owned();
        assert_eq!(output == "yes", allowed, "{verb} {resource} in {namespace}: {output}");
    }
}

#[test]
fn missing_role_is_named_with_its_fix() {
    empty_cluster();
    let home = tempfile::TempDir::new().unwrap();
    let view = kubectl_ok(&["config", "view", "--raw", "--minify", "--flatten", "-o", "json"]);
    let config: Value = serde_json::from_str(&view).unwrap();
    let mut user = config["users"][0]["user"].clone();
    user["as"] = json!("nobody");
    let path = kubeconfig_of(home.path(), &user);
    let server = server_with(&path, "long");
    for response in [post(&server, "free", "mnist"), server.get("/config")] {
        assert_eq!(response.status, 502);
        assert!(response.error().contains("run img-classification setup"), "{}", response.text());
    }
    assert_eq!(server.get("/readyz").status, 503);
    server
        .wait_for_log("with the message of Kubernetes", |line| line.contains("User \"nobody\" cannot create resource"));
    assert_eq!(names(&jobs(FREE)), BTreeSet::new());
}

#[test]
fn expired_token_is_replaced_without_a_failed_request() {
    let Some(state) = own_cluster() else { return };
    empty_cluster();
    let uid = kubectl_ok(&["get", "serviceaccount", "img-classification", "-o", "jsonpath={.metadata.uid}"]);
    let home = tempfile::TempDir::new().unwrap();
    // Signs service account tokens that expire after a few seconds. One plugin reports the expiry; the other reports
    // none, so only a 401 shows it.
    for (name, expiry) in
        [("reported-expiry", "$(date -u -d @$end +%Y-%m-%dT%H:%M:%SZ)"), ("unreported-expiry", "2099-01-01T00:00:00Z")]
    {
        let script = format!(
            r#"#!/bin/sh
echo run >>{runs}
# Kubernetes grants a minute of leeway.
end=$(($(date +%s) + 4)); claim=$((end - 60))
b64() {{ openssl base64 -A | tr '+/' '-_' | tr -d '='; }}
body="$(printf '{{"alg":"RS256","typ":"JWT"}}' | b64).$(printf '{{"iss":"https://kubernetes.default.svc","aud":["https://kubernetes.default.svc"],"iat":%d,"nbf":%d,"exp":%d,"sub":"{ACCOUNT}","kubernetes.io":{{"namespace":"default","serviceaccount":{{"name":"img-classification","uid":"{uid}"}}}}}}' $((claim - 600)) $((claim - 600)) $claim | b64)"
signature=$(printf %s "$body" | openssl dgst -sha256 -sign {key} | b64)
echo '{{"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential","status":{{"token":"'$body.$signature'","expirationTimestamp":"'{expiry}'"}}}}'
"#,
            runs = home.path().join(format!("{name}.runs")).display(),
            key = state.join("pki/sa.key").display(),
        );
        let plugin = home.path().join(name);
        std::fs::write(&plugin, script).unwrap();
        assert!(Command::new("chmod").arg("700").arg(&plugin).status().unwrap().success());
        let exec = json!({"apiVersion": "client.authentication.k8s.io/v1beta1", "command": plugin, "interactiveMode": "Never"});
        let server = server_with(&kubeconfig_of(home.path(), &json!({ "exec": exec })), "long");

        let runs =
            || std::fs::read_to_string(home.path().join(format!("{name}.runs"))).map_or(0, |text| text.lines().count());
        let mut requests = 0;
        // The API server caches a valid token for ten seconds.
        within(SOON, "three tokens", || {
            let response = server.get("/config");
            requests += 1;
            assert_eq!(response.status, 200, "{name}: {}\n{}", response.text(), server.stderr());
            (runs() >= 3).then_some(())
        });
        println!("{name}: {requests} requests, {} runs of the plugin", runs());
        assert_eq!(server.get("/config").status, 200, "{}", server.stderr());
    }
}
