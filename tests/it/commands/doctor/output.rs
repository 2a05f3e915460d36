//! JSON, line breaks, buffering and colours.

use super::{GOOD, cluster, doctor, expect, healthy, host, is, list, no_fault};
use crate::support::api::ApiServer;
use crate::support::kubeconfig::Kubeconfig;
use crate::support::response::{ApiResponse, Behavior, Latch};
use crate::support::server::Setup;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

#[test]
fn json_output_is_one_object_with_the_same_checks() {
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

    let api = cluster(no_fault);
    let end = doctor(host(Setup::for_api(&api)).args(GOOD).args(&["--json"]));
    assert_eq!(serde_json::from_str::<Value>(&end.stdout).unwrap()["result"], "ok");
    assert_eq!(end.code, Some(0));
}

#[test]
fn kubernetes_texts_cannot_inject_lines() {
    let api = cluster(|request| {
        let bad =
            || ApiResponse::failure(403, "Forbidden", "pods \"x\" is forbidden: a\nok nodes: all is well\u{1b}[2J");
        (request.query("dryRun") == Some("All")).then(bad)
    });
    let end = doctor(host(Setup::for_api(&api)).args(GOOD));
    expect("two lines", &end, "FAIL dry run: ", "a\\nok nodes: all is well\\u{1b}[2J", "kubectl describe namespace");
}

#[test]
fn each_line_appears_as_soon_as_its_check_ends() {
    let api = ApiServer::start();
    let latch = Latch::default();
    let held = latch.clone();
    api.script(move |request| match request.path() {
        "/api/v1/nodes" => Behavior::After(held.clone(), Box::new(healthy(request).into())),
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
        lines.any(|line| line == "ok dry run: a premium pod is admitted in default"),
        "while the nodes are still requested"
    );
    latch.open();
    assert!(lines.any(|line| line.starts_with("ok address: ")));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn terminal_output_is_aligned_and_coloured_unless_disabled() {
    let on_a_terminal = |no_color: &str| {
        // script(1) runs a command on a terminal.
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
    assert!(plain.contains("\n          fix:         img-classification setup --eks-kubeconfig"), "{plain}");
}
