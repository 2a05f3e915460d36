//! `doctor --as-service`.

use super::{GOOD, check_healthy, cluster, expect, line, no_fault};
use crate::support::kubeconfig::Kubeconfig;
use crate::support::plugin::Plugin;
use crate::support::server::{Finished, Setup};
use serde_json::{Value, json};

/// Runs `doctor --as-service` with this environment file.
fn as_service(setup: Setup, text: &str) -> Finished {
    let file = setup.file("service.env", text);
    let setup = setup.env("IMG_CLASSIFICATION_ENV_FILE", file.to_str().unwrap());
    setup.run(&["doctor", "--as-service"])
}

#[test]
fn as_service_reads_only_the_environment_file() {
    let api = cluster(no_fault);
    let setup = Setup::new();
    let kubeconfig = setup.file("its own/kubeconfig", Kubeconfig::new(&api.url()).yaml());
    let text = format!(
        "# the service's\nKUBECONFIG=\"{}\"\nCLASSIFIER_IMAGE='r.io/of-the-file:1'\nAWS_EC2_METADATA_DISABLED=true\nLISTEN=0.0.0.0:0\n\
         HOME=/tmp\n",
        kubeconfig.display()
    );
    let end = as_service(setup.env("CLASSIFIER_IMAGE", "of-the-shell").env("PREMIUM_TOKEN_FILE", "/nowhere"), &text);
    check_healthy(&end);
    let first = end.stdout.lines().next().unwrap();
    assert!(
        first.starts_with("ok environment: running as the service, with the variables of ")
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
fn as_service_reports_programs_missing_from_its_path() {
    let api = cluster(no_fault);
    let folder = tempfile::TempDir::new().unwrap();
    // The plugin is in the PATH of the shell, not of the service.
    let plugin = Plugin::printing(folder.path(), "own-aws", &json!({"token": "t"}));
    let user = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "own-aws", "interactiveMode": "Never"}});
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, Kubeconfig::new(&api.url()).user(user).yaml()).unwrap();
    let bin = folder.path().display();
    let setup = Setup::new().env("PATH", &format!("{bin}:/usr/bin:/bin"));
    let common = format!("KUBECONFIG={}\nAWS_EC2_METADATA_DISABLED=true\nLISTEN=0.0.0.0:0\n", kubeconfig.display());
    let end = as_service(setup, &format!("{common}export CLASSIFIER_IMAGE=r.io/a:1\n"));
    expect(
        "PATH",
        &end,
        "FAIL environment: ",
        "own-aws of the kubeconfig does not exist",
        "/etc/img-classification.env",
    );
    expect("a bad line", &end, "warning environment: line 4", "systemd ignores it", "without `export`");
    assert!(end.stdout.contains("warning environment: HOME is not set"), "{}", end.stdout);
    assert_eq!(plugin.runs(), 0);

    let end = as_service(Setup::new(), &format!("{common}PATH={bin}:/usr/bin:/bin\nHOME=/\nCLASSIFIER_IMAGE=r.io/a:1"));
    check_healthy(&end);
}

#[test]
fn as_service_fails_without_the_environment_file() {
    let end = Setup::new().env("IMG_CLASSIFICATION_ENV_FILE", "/nowhere/service.env").run(&["doctor", "--as-service"]);
    expect(
        "no file",
        &end,
        "FAIL environment: ",
        "cannot read the service's /nowhere/service.env",
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
fn as_service_passes_arguments_and_json_on() {
    let api = cluster(no_fault);
    let setup = Setup::for_api(&api).args(GOOD).args(&["--json"]);
    let end = as_service(setup, "HOME=/\nAWS_EC2_METADATA_DISABLED=true\n");
    let report: Value = serde_json::from_str(&end.stdout).unwrap();
    assert_eq!((end.code, &report["result"]), (Some(0), &json!("ok")), "{end:?}");
    let end = as_service(Setup::new(), "JOB_TTL=soon\n");
    assert_eq!(end.code, Some(1), "{end:?}");
    line(&end, "FAIL environment: JOB_TTL is \"soon\"");
}

#[test]
fn as_service_prints_one_json_object_with_the_findings_of_the_file() {
    let setup = Setup::new();
    let text = "HOME=/tmp\nLISTEN=5000\nAWS_EC2_METADATA_DISABLED=true\nnonsense\n";
    let file = setup.file("service.env", text);
    let setup = setup.env("IMG_CLASSIFICATION_ENV_FILE", file.to_str().unwrap());
    let end = setup.run(&["doctor", "--as-service", "--json"]);
    assert_eq!(end.code, Some(1), "{end:?}");
    let object: Value = serde_json::from_str(&end.stdout).unwrap();
    let checks = object["checks"].as_array().unwrap();
    let has = |words: &str| checks.iter().any(|check| check["text"].as_str().unwrap().contains(words));
    assert!(
        has("line 4 is not NAME=VALUE") && has("LISTEN is \"5000\"") && has("no kubeconfig found"),
        "{}",
        end.stdout
    );
    assert_eq!(object["result"], "fail");
}
