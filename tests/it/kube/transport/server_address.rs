//! The address of the API server and its certificate.

use super::{failing, named, seen, with};
use crate::support::api::{ApiServer, Listen};
use crate::support::kubeconfig::Kubeconfig;
use crate::support::server::Setup;
use crate::support::tls;
use serde_json::json;

fn plain() -> ApiServer {
    ApiServer::listen(&Listen { identity: None, ..Listen::default() })
}

#[test]
fn ip_address_is_verified_without_sni_and_a_name_with_sni() {
    let api = ApiServer::start();
    assert_eq!(seen(with(&api, json!({})), &api).sni, None);
    let by_name = format!("https://localhost:{}", api.address().port());
    assert_eq!(seen(with(&api, json!({"server": by_name})), &api).sni.as_deref(), Some("localhost"));
}

#[test]
fn tls_server_name_is_sent_and_verified_at_the_real_address() {
    let api = named("named-server");
    let request = seen(with(&api, json!({"tls-server-name": "kubernetes.example"})), &api);
    assert_eq!(request.sni.as_deref(), Some("kubernetes.example"));
}

#[test]
fn certificate_for_another_name_is_502() {
    let api = named("named-server");
    let (status, log) = failing(with(&api, json!({})), &api);
    assert_eq!(status, 502, "{log}");
    let api = ApiServer::start();
    let (status, log) = failing(with(&api, json!({"tls-server-name": "wrong.example"})), &api);
    assert_eq!(status, 502, "{log}");
}

#[test]
fn certificate_of_another_ca_is_502_and_does_not_end_the_start() {
    let api = ApiServer::start();
    for cluster in [
        json!({"certificate-authority-data": tls::base64("other-ca.pem")}),
        json!({"certificate-authority-data": null, "certificate-authority": tls::path("other-ca.pem")}),
        json!({"certificate-authority-data": null}),
    ] {
        let (status, log) = failing(with(&api, cluster.clone()), &api);
        assert_eq!(status, 502, "{cluster}: {log}");
        assert!(log.to_lowercase().contains("certificate"), "{log}");
    }
}

#[test]
fn insecure_skip_tls_verify_skips_the_verification() {
    for identity in ["server", "named-server"] {
        let api = named(identity);
        let cluster = json!({"insecure-skip-tls-verify": true, "certificate-authority-data": null});
        seen(with(&api, cluster), &api);
        let empty = json!({"insecure-skip-tls-verify": true, "certificate-authority-data": ""});
        seen(with(&api, empty), &api);
    }
}

#[test]
fn insecure_skip_tls_verify_with_a_ca_is_refused() {
    let api = ApiServer::start();
    let line = with(&api, json!({"insecure-skip-tls-verify": true})).refused();
    assert!(line.contains("insecure-skip-tls-verify"), "{line}");
    let file = json!({"insecure-skip-tls-verify": true, "certificate-authority-data": null, "certificate-authority": tls::path("ca.pem")});
    with(&api, file).refused();
    seen(with(&api, json!({"insecure-skip-tls-verify": false})), &api);
}

#[test]
fn ca_bundle_is_trusted_completely() {
    let api = ApiServer::start();
    let bundle =
        format!("a comment\n{}\n# another\n{}", tls::pem("other-ca.pem"), tls::pem("ca.pem").replace('\n', "\r\n"));
    seen(with(&api, json!({"certificate-authority-data": tls::encode(bundle.as_bytes())})), &api);
}

#[test]
fn invalid_ca_is_refused_by_field_and_file() {
    let api = ApiServer::start();
    let line = with(&api, json!({"certificate-authority-data": tls::encode(b"no certificate")})).refused();
    assert!(line.contains("certificate-authority-data"), "{line}");
    let key = tls::path("client-pkcs8.key.pem");
    let line = with(&api, json!({"certificate-authority-data": null, "certificate-authority": key})).refused();
    assert!(line.contains("certificate-authority") && line.contains("client-pkcs8.key.pem"), "{line}");
    assert!(!line.contains("PRIVATE"), "{line}");
}

#[test]
fn path_of_the_server_url_is_joined_with_one_slash() {
    let api = ApiServer::start();
    api.script(|request| {
        // Behind a gateway: the prefix is removed before Kubernetes.
        let mut inner = request.clone();
        inner.target = request.target.replacen("/k8s/clusters/c-1", "", 1);
        crate::support::cluster::Cluster::default().handle(&inner).into()
    });
    for (suffix, prefix) in
        [("", ""), ("/", ""), ("/k8s/clusters/c-1", "/k8s/clusters/c-1"), ("/k8s/clusters/c-1/", "/k8s/clusters/c-1")]
    {
        let server = with(&api, json!({"server": format!("{}{suffix}", api.url())})).start();
        assert_eq!(server.post_job().status, 200, "{suffix}");
        let target = api.requests().pop().unwrap().path().to_owned();
        assert_eq!(target, format!("{prefix}/apis/batch/v1/namespaces/free-service/jobs"));
        assert_eq!(server.get("/config").status, 200, "{suffix}");
        assert_eq!(api.requests().pop().unwrap().path(), format!("{prefix}/api/v1/pods"));
    }
}

#[test]
fn ipv6_address_is_reached_and_verified() {
    let api = ApiServer::listen(&Listen { ip: "::1", ..Listen::default() });
    assert_eq!(seen(with(&api, json!({})), &api).sni, None);
}

#[test]
fn address_without_a_scheme_is_http() {
    let api = plain();
    for server in
        [api.address().to_string(), format!("http://{}", api.address()), format!("localhost:{}", api.address().port())]
    {
        let config = Kubeconfig::new(&server).cluster(json!({"certificate-authority-data": null})).user(json!({}));
        let request = seen(Setup::new().kubeconfig(config.yaml()), &api);
        assert_eq!(request.header("Authorization"), None);
    }
}

#[test]
fn scheme_is_case_insensitive() {
    let api = ApiServer::start();
    for scheme in ["HTTPS", "Https"] {
        let request = seen(with(&api, json!({"server": format!("{scheme}://{}", api.address())})), &api);
        assert!(request.header("Authorization").is_some());
    }
    let plain = plain();
    for scheme in ["http", "HTTP", "hTTp"] {
        let server = format!("{scheme}://{}", plain.address());
        let config = Kubeconfig::new(&server).cluster(json!({"certificate-authority-data": null}));
        let line = Setup::new().kubeconfig(config.yaml()).refused();
        assert!(line.contains("https"), "{scheme}: {line}");
        seen(Setup::new().kubeconfig(config.user(json!({})).yaml()), &plain);
    }
    assert!(plain.requests().iter().all(|request| request.header("Authorization").is_none()));
}

#[test]
fn invalid_port_is_refused() {
    let api = ApiServer::start();
    for port in ["65536", "99999", "4294967739", "-1", "x", "1x"] {
        for server in
            [format!("https://127.0.0.1:{port}"), format!("https://[::1]:{port}"), format!("127.0.0.1:{port}")]
        {
            let line = with(&api, json!({"server": server})).refused();
            assert!(line.contains("server"), "{server}: {line}");
        }
        for scheme in ["http", "https", "socks5"] {
            let url = format!("{scheme}://127.0.0.1:{port}");
            let line = with(&api, json!({"proxy-url": url})).refused();
            assert!(line.contains("proxy-url"), "{url}: {line}");
            let setup = with(&api, json!({"server": "https://kubernetes.example:6443"}));
            let line = setup.env("HTTPS_PROXY", &url).refused();
            assert!(line.contains("HTTPS_PROXY"), "{url}: {line}");
        }
    }
}
