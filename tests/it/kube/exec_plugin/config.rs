//! The `exec` section of a kubeconfig, and the plugin's input.

use super::{authorization, check_post, print, with_user};
use crate::support::api::{ApiServer, Listen};
use crate::support::kubeconfig::Kubeconfig;
use crate::support::plugin::{Plugin, credential};
use crate::support::server::Setup;
use crate::support::tls;
use serde_json::{Value, json};

#[test]
fn plugin_gets_its_version_and_non_interactive_mode() {
    for version in ["v1", "v1beta1"] {
        let api = ApiServer::start();
        let setup = Setup::new();
        let body = format!(
            "test -t 0 && exit 1\nread line && exit 2\necho '{}'",
            credential(version, &json!({"token": "abc"}))
        );
        let plugin = Plugin::write(setup.home(), "plugin", &body);
        let mut user = plugin.user();
        user["exec"]["apiVersion"] = json!(format!("client.authentication.k8s.io/{version}"));
        let server = with_user(setup, &api, user).start();
        check_post(&server);
        let info = plugin.infos().remove(0);
        assert_eq!(info["apiVersion"], format!("client.authentication.k8s.io/{version}"));
        assert_eq!(info["kind"], "ExecCredential");
        assert_eq!(info["spec"]["interactive"], false);
        assert!(info["spec"].get("cluster").is_none(), "{info}");
    }
}

#[test]
fn plugin_gets_cluster_info_only_on_request() {
    for by_file in [false, true] {
        let api = ApiServer::start();
        let setup = Setup::new();
        let plugin = Plugin::write(setup.home(), "plugin", &print(&json!({"token": "abc"})));
        let mut user = plugin.user();
        user["exec"]["provideClusterInfo"] = json!(true);
        let mut cluster = json!({
            "tls-server-name": "kubernetes.example",
            "extensions": [{"name": "client.authentication.k8s.io/exec", "extension": {"audience": "me", "n": [1, 2]}}, {"name": "other", "extension": {}}],
        });
        if by_file {
            cluster["certificate-authority-data"] = Value::Null;
            cluster["certificate-authority"] = json!(tls::path("ca.pem"));
        }
        let config = Kubeconfig::new(&api.url()).cluster(cluster).user(user);
        let server = setup.kubeconfig(config.yaml()).start();
        check_post(&server);
        let recorded = plugin.infos().remove(0)["spec"]["cluster"].take();
        assert_eq!(recorded["server"], api.url());
        assert_eq!(recorded["tls-server-name"], "kubernetes.example");
        assert_eq!(recorded["certificate-authority-data"], tls::base64("ca.pem"));
        assert_eq!(recorded["config"], json!({"audience": "me", "n": [1, 2]}));
    }
}

#[test]
fn arguments_and_environment_extend_the_servers_own() {
    let body = format!(
        "printf '%s\\n' \"$*\" \"$ADDED\" \"$OURS\" \"$CHANGED\" >\"$HERE/recorded\"\n{}",
        print(&json!({"token": "abc"}))
    );
    let api = ApiServer::start();
    let setup = Setup::new();
    let plugin = Plugin::write(setup.home(), "plugin", &body);
    let mut user = plugin.user();
    user["exec"]["args"] = json!(["get-token", "--cluster-name", "a b", ""]);
    user["exec"]["env"] = json!([{"name": "ADDED", "value": "added"}, {"name": "CHANGED", "value": "theirs"}]);
    let server = with_user(setup, &api, user).env("OURS", "ours").env("CHANGED", "ours").start();
    check_post(&server);
    let recorded = std::fs::read_to_string(server.home().join("recorded")).unwrap();
    assert_eq!(recorded, "get-token --cluster-name a b \nadded\nours\ntheirs\n");
}

#[test]
fn null_arguments_and_environment_are_empty() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let plugin = Plugin::write(setup.home(), "plugin", &print(&json!({"token": "abc"})));
    let mut user = plugin.user();
    for field in ["args", "env", "installHint", "provideClusterInfo"] {
        user["exec"][field] = Value::Null;
    }
    check_post(&with_user(setup, &api, user).start());
}

#[test]
fn interactive_modes_match_client_go() {
    let api = ApiServer::start();
    let cases = [
        ("v1", Some("Never"), true),
        ("v1", Some("IfAvailable"), true),
        ("v1", Some("Always"), false),
        ("v1", None, false),
        ("v1", Some("Sometimes"), false),
        ("v1beta1", None, true),
        ("v1beta1", Some("IfAvailable"), true),
        ("v1beta1", Some("Always"), false),
        ("v1alpha1", Some("Never"), false),
        ("v2", Some("Never"), false),
    ];
    for (version, mode, works) in cases {
        // A separate folder: the records of a run must outlive the server.
        let folder = tempfile::TempDir::new().unwrap();
        let body = format!("echo '{}'", credential(version, &json!({"token": "abc"})));
        let plugin = Plugin::write(folder.path(), "plugin", &body);
        let user = json!({"exec": {
            "apiVersion": format!("client.authentication.k8s.io/{version}"), "command": plugin.path(), "interactiveMode": mode,
        }});
        let setup = with_user(Setup::new(), &api, user);
        if works {
            check_post(&setup.start());
            assert_eq!(plugin.runs(), 1);
        } else {
            let line = setup.refused();
            let field =
                if version.starts_with("v1beta1") || version == "v1" { "interactiveMode" } else { "apiVersion" };
            assert!(line.contains(field), "{version} {mode:?}: {line}");
            assert_eq!(plugin.runs(), 0);
        }
    }
}

#[test]
fn plugin_without_a_command_or_a_version_is_refused_by_field() {
    let api = ApiServer::start();
    for (exec, field) in [
        (json!({"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never"}), "command"),
        (
            json!({"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", "command": ""}),
            "command",
        ),
        (json!({"command": "x", "interactiveMode": "Never"}), "apiVersion"),
    ] {
        let line = with_user(Setup::new(), &api, json!({"exec": exec})).refused();
        assert!(line.contains(field), "{field}: {line}");
    }
}

#[test]
fn plugin_is_not_run_if_the_user_has_a_token() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let plugin = Plugin::printing(setup.home(), "plugin", &json!({"token": "of-plugin"}));
    let mut user = plugin.user();
    user["token"] = json!("inline");
    let server = with_user(setup, &api, user).start();
    check_post(&server);
    assert_eq!(authorization(&api.requests()[0]), Some("Bearer inline"));
    assert_eq!(plugin.runs(), 0);
}

#[test]
fn plugin_token_is_never_sent_over_http() {
    let plain = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    let setup = Setup::new();
    let plugin = Plugin::printing(setup.home(), "plugin", &json!({"token": "abc"}));
    let config = Kubeconfig::new(&plain.url()).cluster(json!({"certificate-authority-data": null})).user(plugin.user());
    match setup.kubeconfig(config.yaml()).start_or_refusal() {
        Ok(server) => assert_eq!(server.post_job().status, 502),
        Err(line) => assert!(line.contains("https"), "{line}"),
    }
    assert_eq!(plain.requests().len(), 0);
}

#[test]
fn eks_kubeconfig_works_unchanged() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let folder = setup.home().join("bin");
    let expiry = "2099-01-01T00:00:00Z";
    let response = json!({
        "kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1beta1", "spec": {},
        "status": {"expirationTimestamp": expiry, "token": "k8s-aws-v1.abc"},
    });
    let aws =
        Plugin::write(&folder, "aws", &format!("echo \"$*\" \"$AWS_PROFILE\" >\"$HERE/recorded\"\necho '{response}'"));
    let text = eks_kubeconfig(&api, &tls::base64("ca.pem"));
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let server = setup.env("PATH", &path).kubeconfig(text).start();
    check_post(&server);
    assert_eq!(authorization(&api.requests()[0]), Some("Bearer k8s-aws-v1.abc"));
    assert_eq!(aws.runs(), 1);
    let recorded = std::fs::read_to_string(folder.join("recorded")).unwrap();
    assert_eq!(recorded, "--region us-east-1 eks get-token --cluster-name mp12 --output json me\n");
}

/// The output of `aws eks update-kubeconfig`; only the names differ.
fn eks_kubeconfig(api: &ApiServer, ca: &str) -> String {
    let url = api.url();
    format!(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {ca}
    server: {url}
  name: arn:aws:eks:us-east-1:123456789012:cluster/mp12
contexts:
- context:
    cluster: arn:aws:eks:us-east-1:123456789012:cluster/mp12
    user: arn:aws:eks:us-east-1:123456789012:cluster/mp12
  name: arn:aws:eks:us-east-1:123456789012:cluster/mp12
current-context: arn:aws:eks:us-east-1:123456789012:cluster/mp12
kind: Config
preferences: {{}}
users:
- name: arn:aws:eks:us-east-1:123456789012:cluster/mp12
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1beta1
      args:
      - --region
      - us-east-1
      - eks
      - get-token
      - --cluster-name
      - mp12
      - --output
      - json
      command: aws
      env:
      - name: AWS_PROFILE
        value: me
"
    )
}
