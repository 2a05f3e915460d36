//! `doctor --as-service`.

use super::{GOOD, cluster, expect, line, nothing_broken, well};
use crate::support::kubeconfig::Kubeconfig;
use crate::support::plugin::Plugin;
use crate::support::server::{Finished, Setup};
use serde_json::{Value, json};

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
