//! The environment and the address of the host.

use super::{GOOD, check_healthy, cluster, doctor, expect, host, line, no_fault};
use crate::support::api::{ApiServer, Listen};
use crate::support::kubeconfig::Kubeconfig;
use crate::support::response::ApiResponse;
use crate::support::server::{KUBECONFIG, Setup};
use serde_json::json;
use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;

#[test]
fn service_environment_is_checked() {
    let api = cluster(no_fault);
    let end = doctor(host(Setup::for_api(&api)).args(GOOD).env("HOME", "/nowhere/at/all"));
    expect(
        "HOME",
        &end,
        "warning environment: ",
        "/nowhere/at/all, which is not a folder",
        "remove HOME from /etc/img-classification.env",
    );
    let setup = host(Setup::for_api(&api)).args(GOOD);
    let token = setup.file("premium", "hunter2");
    let end = doctor(setup.env("PREMIUM_TOKEN_FILE", token.to_str().unwrap()));
    check_healthy(&end);
    assert!(
        end.stdout.contains("ok environment: POSTs to premium need the token in ") && !end.stdout.contains("hunter2")
    );
    let end = doctor(host(Setup::for_api(&api)).args(GOOD).env("ADMIN_TOKEN_FILE", "/nowhere/token"));
    expect("token", &end, "FAIL environment: ", "cannot use the admin token file /nowhere/token", "openssl rand");
    let end = doctor(host(Setup::for_api(&api)).args(GOOD).env("PREMIUM_TOKEN_FILE", "/nowhere/token"));
    expect("token", &end, "FAIL environment: ", "cannot use the premium token file /nowhere/token", "openssl rand");
    let setup = host(Setup::new());
    let kubeconfig = setup.file("kubeconfig", Kubeconfig::new(&api.url()).yaml());
    let end = doctor(setup.env("KUBECONFIG", kubeconfig.to_str().unwrap()).args(GOOD).env("LOCAL", "1"));
    expect("local", &end, "warning environment: ", "simulated cluster", "unset LOCAL");
}

#[test]
fn invalid_server_variables_are_reported() {
    let api = cluster(no_fault);
    let end = doctor(host(Setup::for_api(&api)).env("LISTEN", "5000").env("JOB_TTL", "soon"));
    assert_eq!(end.code, Some(1), "{end:?}");
    line(&end, "FAIL environment: LISTEN is \"5000\", but must be an address and a port");
    line(&end, "FAIL environment: JOB_TTL is \"soon\", but must be");
    line(&end, "ok API: ");
    let end = doctor(host(Setup::for_api(&api)).env("LISTEN", OsStr::from_bytes(b"\xff")).env("NO_NUDGE", "1"));
    line(&end, "FAIL environment: LISTEN is ");
    expect("old name", &end, "warning environment: ", "NO_NUDGE has no effect", "set NO_REQUEUE instead");
    line(&end, "ok API: ");
    let flag = host(Setup::for_api(&api)).run(&["doctor", "--listen", "5000"]);
    assert_eq!((flag.code, flag.stdout.as_str()), (Some(2), ""), "{flag:?}");
}

#[test]
fn default_address_is_the_one_of_serve_as_the_help_says() {
    let api = cluster(no_fault);
    let help = Setup::new().run(&["doctor", "--help"]).stdout;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for (local, address) in [("", "default: 0.0.0.0:5000"), ("1", "with LOCAL=1 127.0.0.1:5000]")] {
        assert!(help.contains(address), "{help}");
        let setup = host(Setup::new()).args(&["--image", "r.io/a:1"]).env("LOCAL", local);
        let kubeconfig = setup.file("kubeconfig", Kubeconfig::new(&api.url()).yaml());
        let end = doctor(setup.env("KUBECONFIG", kubeconfig.to_str().unwrap()));
        let address = address.rsplit(' ').next().unwrap().trim_end_matches(']');
        // Another program may hold the port; the check names the address in any case.
        let is_named = |line: &str| line.contains(" port: ") && line.contains(address);
        assert!(end.stdout.lines().any(is_named), "{local:?}: {}", end.stdout);
    }
}

/// An EC2 metadata service, version 2: it requires a token.
pub fn metadata(public: &'static str) -> ApiServer {
    let service = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    service.script(move |request| {
        let has_token = request.header("X-aws-ec2-metadata-token") == Some("metadata-token");
        let wants_token = request.header("X-aws-ec2-metadata-token-ttl-seconds").is_some();
        let reply = match (request.method.as_str(), request.path()) {
            ("PUT", "/latest/api/token") if wants_token => ApiResponse::new(200, "text/plain", "metadata-token"),
            _ if !has_token => ApiResponse::new(401, "text/plain", ""),
            ("GET", "/latest/meta-data/public-ipv4") if !public.is_empty() => {
                ApiResponse::new(200, "text/plain", public)
            }
            _ => ApiResponse::html(404),
        };
        reply.into()
    });
    service
}

#[test]
fn ec2_public_address_is_reported() {
    let api = cluster(no_fault);
    let on_ec2 = |endpoint: &str, listen: &str| {
        let setup = Setup::for_api(&api).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint);
        doctor(setup.args(&["--image", "r.io/a:1", "--listen", listen]))
    };
    let service = metadata("203.0.113.9");
    let end = on_ec2(&service.url(), "0.0.0.0:54321");
    check_healthy(&end);
    let found = line(&end, "ok address: ");
    assert!(found.contains("give 203.0.113.9:54321 to the autograder") && found.contains("TCP port 54321"), "{found}");
    assert!(!end.stdout.contains("metadata-token"));
    assert!(line(&on_ec2(&service.url(), "0.0.0.0:0"), "ok address: ").contains("203.0.113.9 and the port"));

    let end = on_ec2(&metadata("").url(), "0.0.0.0:0");
    check_healthy(&end);
    expect("private only", &end, "warning address: ", "started without a public address", "aws ec2 associate-address");

    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let end = on_ec2(&format!("http://{}", mute.local_addr().unwrap()), "0.0.0.0:0");
    expect("mute", &end, "warning address: ", "does not respond", "aws ec2");

    let off = host(Setup::for_api(&api)).env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service.url());
    let requests_before = service.requests().len();
    assert!(line(&doctor(off.args(GOOD)), "ok address: ").ends_with("if the clients can reach it"));
    assert_eq!(service.requests().len(), requests_before, "a disabled metadata service gets no request");
}

#[test]
fn proxy_that_does_not_lead_to_the_cluster_is_named_without_its_password() {
    let forbidding = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    forbidding.always(ApiResponse::new(403, "text/plain", ""));
    let address = forbidding.address().to_string();
    for (proxy, shown) in
        [(format!("http://ann:pa55@{address}"), address), ("http://127.0.0.1:1".into(), "127.0.0.1:1".into())]
    {
        let config = Kubeconfig::new("https://cluster.invalid:6443");
        let end =
            Setup::new().kubeconfig(config.yaml()).env("HTTPS_PROXY", &proxy).run(&["doctor", "--kube-timeout", "2"]);
        let line = line(&end, "FAIL API: ");
        assert!(line.contains(&format!("the proxy {shown} (HTTPS_PROXY) does not lead to the cluster: ")), "{line}");
        assert!(line.contains("fix: correct HTTPS_PROXY or unset it, or add") && !line.contains("pa55"), "{line}");
        let config = Kubeconfig::new("https://cluster.invalid:6443").cluster(json!({"proxy-url": proxy}));
        let end = Setup::new().kubeconfig(config.yaml()).run(&["doctor", "--kube-timeout", "2"]);
        let line = super::line(&end, "FAIL API: ");
        assert!(
            line.contains("(proxy-url) does not lead") && line.contains("fix: correct proxy-url in the kubeconfig"),
            "{line}"
        );
    }
}

#[test]
fn simulated_cluster_gets_no_advice_for_eks() {
    let mut server = Setup::local().env("NO_WATCH", "").args(&["--image", "x:missing"]).start();
    let kubeconfig = server.wait_for_log("with the kubeconfig", |line| line.starts_with(KUBECONFIG));
    let text = std::fs::read_to_string(&kubeconfig[KUBECONFIG.len()..]).unwrap();
    assert_eq!(server.post_job().status, 200);
    crate::support::eventually("the image cannot be pulled", || {
        server
            .kubernetes()
            .items("/api/v1/pods?labelSelector=job-name")
            .iter()
            .any(|pod| !pod["status"]["containerStatuses"][0]["state"]["waiting"].is_null())
    });
    let doctor =
        || Setup::new().kubeconfig(&text).run(&["doctor", "--server", &format!("http://{}", server.address())]);
    let end = doctor();
    assert!(
        end.stdout.contains("FAIL pull: ") && end.stdout.contains("fix: none is needed for a simulated cluster"),
        "{}",
        end.stdout
    );
    for word in ["aws ", "eksctl", "EKS", "docker push"] {
        assert!(!end.stdout.contains(word), "{word} in {}", end.stdout);
    }
    let end = {
        server.signal(rustix::process::Signal::TERM);
        server.wait();
        Setup::new().kubeconfig(&text).args(&["--kube-timeout", "1"]).run(&["doctor"])
    };
    assert!(
        line(&end, "FAIL API: ")
            .ends_with("fix: img-classification serve --local, and set KUBECONFIG to the path that it prints")
    );
}
