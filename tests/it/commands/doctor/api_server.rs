//! The kubeconfig, the credential plugin, the clock and a failing API server.

use super::{
    Fault, GOOD, check_healthy, cluster, date_in, doctor, expect, forbidden, healthy, host, is, line, no_fault, version,
};
use crate::support::LONG_KUBE_TIMEOUT;
use crate::support::api::ApiServer;
use crate::support::kubeconfig::Kubeconfig;
use crate::support::plugin::Plugin;
use crate::support::response::{self, Accept, ApiResponse, Behavior};
use crate::support::server::{Finished, Setup};
use serde_json::{Value, json};

#[test]
fn clock_difference_is_named_even_with_refused_credentials() {
    for (seconds, start, words) in [(-60, "warning clock: ", " s ahead of"), (1000, "FAIL clock: ", " s behind")] {
        for is_refused in [false, true] {
            let api = ApiServer::start();
            api.script(move |request| {
                let reply = match request.path() {
                    _ if is_refused => response::unauthorized(),
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

/// Checks the output without a usable API server: one line skips the cluster checks, and the host checks still run.
fn expect_no_api(what: &str, end: &Finished, start: &str, words: &str, fix: &str) {
    expect(what, end, start, words, fix);
    let skipped = line(end, "warning not checked: ");
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
fn missing_or_invalid_kubeconfig_is_named_and_the_host_still_checked() {
    let end = doctor(host(Setup::new()).args(GOOD));
    expect_no_api(
        "no kubeconfig",
        &end,
        "FAIL kubeconfig: ",
        "no kubeconfig found",
        "img-classification setup --eks-kubeconfig",
    );
    assert_eq!(line(&end, "FAIL kubeconfig: ").matches("fix: ").count(), 1, "{}", end.stdout);
    let end = doctor(host(Setup::new()).kubeconfig("current-context: nowhere\n").args(GOOD));
    expect_no_api("no context", &end, "FAIL kubeconfig: ", "nowhere", "--kubeconfig");
}

#[test]
fn unreachable_api_server_is_named_with_its_error() {
    let mut api = cluster(no_fault);
    let setup = host(Setup::for_api(&api)).args(GOOD);
    api.close_port();
    let end = setup.args(&["--kube-timeout", "1"]).run(&["doctor"]);
    expect_no_api("refused", &end, "FAIL API: ", "cannot reach https://127.0.0.1", "security group");
    assert_eq!(end.stderr, "", "stdout holds the line");

    let cases: [(&str, Behavior, u32, &str, &str); 4] = [
        ("401", response::unauthorized().into(), LONG_KUBE_TIMEOUT, "401 Unauthorized", "aws sts get-caller-identity"),
        (
            "no Kubernetes",
            ApiResponse::html(200).into(),
            LONG_KUBE_TIMEOUT,
            "expected a response from the Kubernetes API",
            "another server responds at that address",
        ),
        ("500", response::internal_error().into(), 10, "500 InternalError", "readyz"),
        ("silence", Behavior::Hang, 1, "timed out", "--kube-timeout"),
    ];
    for (what, response, kube_timeout, words, fix) in cases {
        let api = ApiServer::start();
        api.always(response);
        let setup = host(Setup::for_api(&api)).args(GOOD).args(&["--kube-timeout", &kube_timeout.to_string()]);
        let end = setup.run(&["doctor"]);
        expect_no_api(what, &end, "FAIL API: ", words, fix);
    }

    let api = cluster(no_fault);
    let other_ca = Kubeconfig::new(&api.url())
        .cluster(json!({"certificate-authority-data": crate::support::tls::base64("other-ca.pem")}));
    let end = doctor(host(Setup::new()).kubeconfig(other_ca.yaml()).args(GOOD));
    expect_no_api("another CA", &end, "FAIL API: ", "TLS connection to", "writes the cluster's current CA");

    api.on_accept([Accept::Hang; 8]);
    let end = host(Setup::for_api(&api)).args(GOOD).args(&["--kube-timeout", "1"]).run(&["doctor"]);
    expect_no_api("no handshake", &end, "FAIL API: ", "", "allow this host to reach");
}

#[test]
fn api_server_that_stops_responding_is_reported_once() {
    let api = cluster(|request| is(request, "GET", "/api/v1/nodes").then(|| ApiResponse::html(200)));
    let end = doctor(host(Setup::for_api(&api)).args(GOOD));
    expect(
        "half way",
        &end,
        "FAIL nodes: ",
        "expected a response from the Kubernetes API",
        "another server responds at that address",
    );
    assert!(line(&end, "warning not checked: ").ends_with("pull, leftover Jobs: no API server reachable"));
}

#[test]
fn older_kubernetes_without_self_subject_review_uses_the_token_subject() {
    let old: Fault = |request| {
        let not_found = || ApiResponse::new(404, "text/plain", "404 page not found");
        request.path().ends_with("/selfsubjectreviews").then(not_found)
    };
    let api = cluster(old);
    let end = doctor(host(Setup::for_api(&api)).args(GOOD));
    assert!(
        line(&end, "ok identity: ")
            .ends_with("this Kubernetes does not return the identity; the credential is: token <set>"),
        "{}",
        end.stdout
    );
    // {"alg":"none"} . {"sub":"system:serviceaccount:default:ann"}
    let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6ZGVmYXVsdDphbm4ifQ.c2lnbmF0dXJl";
    let kubeconfig = Kubeconfig::new(&api.url()).user(json!({ "token": token }));
    let end = doctor(host(Setup::new()).kubeconfig(kubeconfig.yaml()).args(GOOD));
    assert!(
        line(&end, "ok identity: ").contains("system:serviceaccount:default:ann, from the token"),
        "{}",
        end.stdout
    );
    assert!(!end.stdout.contains("c2lnbmF0dXJl"), "{}", end.stdout);
    let beta: Fault = |request| match request.path() {
        "/apis/authentication.k8s.io/v1/selfsubjectreviews" => forbidden("selfsubjectreviews"),
        "/apis/authentication.k8s.io/v1beta1/selfsubjectreviews" => {
            Some(ApiResponse::json(201, &json!({"status": {"userInfo": {"username": "beth", "groups": []}}})))
        }
        _ => None,
    };
    let api = cluster(beta);
    assert!(line(&doctor(host(Setup::for_api(&api)).args(GOOD)), "ok identity: ").contains("beth"));
}

#[test]
fn credential_plugin_is_found_and_run_or_its_failure_explained() {
    let api = cluster(no_fault);
    let user = |command: &str| json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command, "interactiveMode": "Never"}});
    let with = |user: Value| host(Setup::new()).kubeconfig(Kubeconfig::new(&api.url()).user(user).yaml()).args(GOOD);

    let end = doctor(with(user("aws-that-is-not-there")));
    expect("missing", &end, "FAIL API: ", "cannot run the credential plugin aws-that-is-not-there", "awscli");
    expect(
        "missing",
        &end,
        "FAIL environment: ",
        "aws-that-is-not-there of the kubeconfig does not exist",
        "PATH, for the service in /etc/img-classification.env",
    );

    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("plain"), "").unwrap();
    let end = doctor(with(user("plain")).env("PATH", folder.path().to_str().unwrap()));
    expect(
        "no program",
        &end,
        "FAIL environment: ",
        "cannot run the credential plugin plain of the kubeconfig",
        "chmod +x",
    );

    let failing = Plugin::write(folder.path(), "failing", "echo >&2 'Unable to locate credentials'; exit 255");
    let end = doctor(with(failing.user()));
    expect("failing", &end, "FAIL API: ", "Unable to locate credentials", "aws sts get-caller-identity");

    let nonsense = Plugin::write(folder.path(), "nonsense", "echo secret-on-stdout");
    let end = doctor(with(nonsense.user()));
    expect(
        "nonsense",
        &end,
        "FAIL API: ",
        "printed no usable ExecCredential",
        "img-classification setup --eks-kubeconfig",
    );
    assert!(!end.stdout.contains("secret-on-stdout"), "{}", end.stdout);

    let slow = Plugin::write(folder.path(), "slow", "exec sleep 60");
    let end = with(slow.user()).args(&["--kube-timeout", "1"]).run(&["doctor"]);
    expect("slow", &end, "FAIL API: ", "is still running", "--kube-timeout");
    crate::support::eventually("the slow plugin's end", || {
        slow.pids().iter().all(|pid| !crate::support::plugin::is_alive(*pid))
    });

    let good = Plugin::printing(folder.path(), "good", &json!({"token": "t0p-secret"}));
    let end = doctor(with(good.user()));
    check_healthy(&end);
    assert!(end.stdout.contains("ok environment: the credential plugin ") && !end.stdout.contains("t0p-secret"));
    assert_eq!(good.runs(), 1);
}
