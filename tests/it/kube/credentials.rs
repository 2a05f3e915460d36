//! Credentials sent to Kubernetes: tokens, passwords, client certificates, impersonation.

use crate::support::api::{ApiServer, Listen, Request};
use crate::support::kubeconfig::Kubeconfig;
use crate::support::response::{Behavior, unauthorized};
use crate::support::server::Setup;
use crate::support::tls::{self, ClientCerts};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

const KINDS: [&str; 5] = ["client-pkcs1", "client-pkcs8", "client-sec1", "client-ed25519", "client-chain"];

/// An API server that requests and verifies client certificates.
fn asking() -> ApiServer {
    ApiServer::listen(&Listen { clients: ClientCerts::Verified, ..Listen::default() })
}

/// Returns the Kubernetes request of one POST, with this user in the kubeconfig.
fn seen_as(user: Value, api: &ApiServer) -> Request {
    seen(Setup::new().kubeconfig(Kubeconfig::new(&api.url()).user(user).yaml()), api)
}

fn seen(setup: Setup, api: &ApiServer) -> Request {
    let server = setup.start();
    let response = server.post_job();
    assert_eq!(response.status, 200, "{}\n{}", response.text(), server.stderr());
    api.requests().pop().unwrap()
}

fn refused(user: Value) -> String {
    let api = ApiServer::start();
    let line = Setup::new().kubeconfig(Kubeconfig::new(&api.url()).user(user).yaml()).refused();
    assert_eq!(api.connections(), 0);
    line
}

#[test]
fn token_is_sent_as_bearer() {
    let api = ApiServer::start();
    let request = seen_as(json!({"token": "abc.def-ghi_~+/="}), &api);
    assert_eq!(request.header("Authorization"), Some("Bearer abc.def-ghi_~+/="));
}

#[test]
fn user_without_credentials_is_anonymous() {
    let api = asking();
    for user in [json!({}), Value::Null, json!({"token": ""})] {
        let request = seen_as(user, &api);
        assert_eq!((request.header("Authorization"), request.client_chain.len()), (None, 0));
    }
}

#[test]
fn token_file_is_trimmed_and_overrides_the_token() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let path = setup.file("token", " \n of-file \r\n\n");
    let setup =
        setup.kubeconfig(Kubeconfig::new(&api.url()).user(json!({"token": "inline", "tokenFile": path})).yaml());
    assert_eq!(seen(setup, &api).header("Authorization"), Some("Bearer of-file"));
}

#[test]
fn token_file_is_read_again_after_a_401() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let path = setup.file("token", "old");
    let user = json!({"tokenFile": path});
    let server = setup.kubeconfig(Kubeconfig::new(&api.url()).user(user).yaml()).start();
    assert_eq!(server.post_job().status, 200);
    api.script(|request| match request.header("Authorization") {
        Some("Bearer new") => Behavior::Default,
        _ => unauthorized().into(),
    });
    assert_eq!(server.post_job().status, 502);
    std::fs::write(&path, "new\n").unwrap();
    let response = server.post_job();
    assert_eq!(response.status, 200, "{}", response.text());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(server.post_job().status, 200, "the last good token stays in use");
    assert_eq!(api.jobs().len(), 3);
}

#[test]
fn token_stays_in_use_while_its_file_is_missing() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let path = setup.home().join("token");
    let user = json!({"token": "inline", "tokenFile": path});
    let server = setup.kubeconfig(Kubeconfig::new(&api.url()).user(user).yaml()).start();
    assert_eq!(server.post_job().status, 200);
    assert_eq!(api.requests()[0].header("Authorization"), Some("Bearer inline"));
    api.script(|request| match request.header("Authorization") {
        Some("Bearer of-file") => Behavior::Default,
        _ => unauthorized().into(),
    });
    assert_eq!(server.post_job().status, 502);
    std::fs::write(&path, "of-file").unwrap();
    assert_eq!(server.post_job().status, 200);
}

#[test]
fn token_file_replaced_by_a_pipe_does_not_hang_the_server() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let path = setup.file("token", "old");
    let user = json!({"tokenFile": path});
    let server = setup.kubeconfig(Kubeconfig::new(&api.url()).user(user.clone()).yaml()).start();
    assert_eq!(server.post_job().status, 200);
    std::fs::remove_file(&path).unwrap();
    make_pipe(&path);
    // A 401 makes the server read the file again.
    api.queue([unauthorized().into()]);
    assert_eq!(server.post_job().status, 502);
    for _ in 0..20 {
        assert_eq!(server.post_job().status, 200, "the last good token stays in use");
    }
    let line = Setup::new().kubeconfig(Kubeconfig::new(&api.url()).user(user).yaml()).refused();
    assert!(line.contains(path.to_str().unwrap()), "{line}");
}

/// A named pipe without a writer.
fn make_pipe(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn missing_or_empty_token_file_is_refused_by_name() {
    assert!(refused(json!({"tokenFile": "/nowhere/token"})).contains("/nowhere/token"));
    let setup = Setup::new();
    let path = setup.file("token", " \n");
    let line =
        setup.kubeconfig(Kubeconfig::new("https://127.0.0.1:1").user(json!({"tokenFile": path})).yaml()).refused();
    assert!(line.contains(path.to_str().unwrap()), "{line}");
}

#[test]
fn user_name_and_password_are_sent_as_basic() {
    let api = ApiServer::start();
    let request = seen_as(json!({"username": "jane", "password": "pä:ss"}), &api);
    let expected = format!("Basic {}", tls::encode("jane:pä:ss".as_bytes()));
    assert_eq!(request.header("Authorization"), Some(expected.as_str()));
}

#[test]
fn token_with_a_user_name_is_an_error() {
    let line = refused(json!({"token": "abc", "username": "jane", "password": "x"}));
    assert!(line.contains("token") && line.contains("username"), "{line}");
}

#[test]
fn client_certificates_of_every_kind_are_sent_with_their_chain() {
    let api = asking();
    for kind in KINDS {
        let (certificate, key) = (format!("{kind}.pem"), format!("{kind}.key.pem"));
        let by_data =
            json!({"client-certificate-data": tls::base64(&certificate), "client-key-data": tls::base64(&key)});
        let by_file = json!({"client-certificate": tls::path(&certificate), "client-key": tls::path(&key)});
        for user in [by_data, by_file] {
            let request = seen_as(user, &api);
            assert_eq!(request.client_chain, tls::der(&certificate), "{kind}");
            assert_eq!(request.header("Authorization"), None, "{kind}");
        }
    }
    assert_eq!(tls::der("client-chain.pem").len(), 2);
}

#[test]
fn client_certificate_of_x509_version_1_is_sent() {
    let api = ApiServer::listen(&Listen { clients: ClientCerts::AnyAccepted, ..Listen::default() });
    let user = json!({"client-certificate": tls::path("client-v1.pem"), "client-key": tls::path("client-v1.key.pem")});
    let request = seen_as(user, &api);
    assert_eq!(request.client_chain, tls::der("client-v1.pem"));
}

#[test]
fn inline_data_overrides_the_file() {
    let api = asking();
    let user = json!({
        "client-certificate": tls::path("client-sec1.pem"), "client-certificate-data": tls::base64("client-pkcs1.pem"),
        "client-key": "/nowhere", "client-key-data": tls::base64("client-pkcs1.key.pem"),
    });
    assert_eq!(seen_as(user, &api).client_chain, tls::der("client-pkcs1.pem"));
    let cluster = json!({"certificate-authority": "/nowhere"});
    let config = Kubeconfig::new(&api.url()).cluster(cluster).user(json!({}));
    seen(Setup::new().kubeconfig(config.yaml()), &api);
}

#[test]
fn base64_data_may_contain_line_breaks() {
    let api = asking();
    let broken = |name: &str| {
        let text = tls::base64(name);
        let lines: Vec<&str> = text.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        lines.join("\n") + "\n"
    };
    let user = json!({"client-certificate-data": broken("client-sec1.pem"), "client-key-data": broken("client-sec1.key.pem").replace('\n', "\r\n")});
    let config =
        Kubeconfig::new(&api.url()).cluster(json!({"certificate-authority-data": broken("ca.pem")})).user(user);
    assert_eq!(seen(Setup::new().kubeconfig(config.yaml()), &api).client_chain, tls::der("client-sec1.pem"));
}

#[test]
fn token_and_client_certificate_are_sent_together() {
    let api = asking();
    let user = json!({
        "token": "abc",
        "client-certificate-data": tls::base64("client-pkcs8.pem"), "client-key-data": tls::base64("client-pkcs8.key.pem"),
    });
    let request = seen_as(user, &api);
    assert_eq!(request.header("Authorization"), Some("Bearer abc"));
    assert_eq!(request.client_chain, tls::der("client-pkcs8.pem"));
}

#[test]
fn certificate_with_another_key_is_refused() {
    let (certificate, key) = (tls::base64("client-pkcs8.pem"), tls::base64("client-pkcs8.key.pem"));
    for (user, field) in [
        (json!({"client-certificate-data": certificate}), "client-key"),
        (json!({"client-key-data": key}), "client-certificate"),
        (
            json!({"client-certificate-data": certificate, "client-key-data": tls::base64("client-pkcs8.pem")}),
            "client-key",
        ),
        (json!({"client-certificate-data": key, "client-key-data": key}), "client-certificate"),
        (
            json!({"client-certificate-data": certificate, "client-key-data": tls::base64("client-sec1.key.pem")}),
            "client-",
        ),
        (json!({"client-certificate-data": "*", "client-key-data": key}), "client-certificate-data"),
        (json!({"client-certificate": "/nowhere.pem", "client-key-data": key}), "/nowhere.pem"),
    ] {
        let line = refused(user);
        assert!(line.contains(field), "{field} is not in {line:?}");
    }
}

#[test]
fn token_with_a_line_break_adds_no_header() {
    let api = ApiServer::start();
    let with_file = |text: &str| {
        let setup = Setup::new();
        let path = setup.file("token", text);
        setup.kubeconfig(Kubeconfig::new(&api.url()).user(json!({"tokenFile": path})).yaml())
    };
    let inline = |text: &str| Setup::new().kubeconfig(Kubeconfig::new(&api.url()).user(json!({"token": text})).yaml());
    for setup in
        [inline("abc\r\nX-Injected: yes"), inline("abc\nX-Injected: yes"), with_file("abc\r\nX-Injected: yes\r\n")]
    {
        let line = setup.refused();
        assert!(!line.contains("abc"), "{line}");
    }
    assert_eq!(api.requests().len(), 0);
}

#[test]
fn secrets_are_never_sent_over_http() {
    let plain = ApiServer::listen(&Listen { identity: None, ..Listen::default() });
    for user in [json!({"token": "abc"}), json!({"username": "jane", "password": "abc"})] {
        let config = Kubeconfig::new(&plain.url()).cluster(json!({"certificate-authority-data": null})).user(user);
        let line = Setup::new().kubeconfig(config.yaml()).refused();
        assert!(line.contains("https"), "{line}");
    }
    assert_eq!(plain.requests().len(), 0);
}

#[test]
fn impersonation_is_applied_or_refused_but_never_dropped() {
    let api = ApiServer::start();
    for (field, value, header, sent) in [
        ("as", json!("jane"), "Impersonate-User", "jane"),
        ("as-groups", json!(["ops"]), "Impersonate-Group", "ops"),
        ("as-uid", json!("u-1"), "Impersonate-Uid", "u-1"),
        ("as-user-extra", json!({"reason": ["why"]}), "Impersonate-Extra-reason", "why"),
    ] {
        let mut user = json!({"token": "abc", "as": "jane"});
        user[field] = value;
        let setup = Setup::new().kubeconfig(Kubeconfig::new(&api.url()).user(user.clone()).yaml());
        match setup.start_or_refusal() {
            Ok(server) => {
                assert_eq!(server.post_job().status, 200);
                assert_eq!(api.requests().pop().unwrap().header(header), Some(sent), "{user}");
            }
            Err(line) => assert!(line.contains("as") || line.contains("mpersonat"), "{line}"),
        }
    }
}

#[test]
fn auth_provider_is_refused() {
    let line = refused(json!({"auth-provider": {"name": "gcp", "config": {}}}));
    assert!(line.contains("auth-provider"), "{line}");
    refused(json!({"token": "abc", "auth-provider": {"name": "gcp", "config": {}}}));
}

#[test]
fn rejected_credentials_are_not_retried_forever() {
    let api = ApiServer::start();
    api.always(unauthorized());
    let server = Setup::for_api(&api).start();
    assert_eq!(server.post_job().status, 502);
    assert!(api.requests().len() <= 2, "{} requests", api.requests().len());
    assert_eq!(server.get("/readyz").status, 503);
}
