//! HTTP and SOCKS5 proxies.

use super::{OPERATIONS, failing, named, seen, with};
use crate::support::LONG_KUBE_TIMEOUT;
use crate::support::api::ApiServer;
use crate::support::proxy::{Kind, Proxy};
use crate::support::tls;
use serde_json::json;
use std::time::{Duration, Instant};

#[test]
fn http_proxy_of_the_kubeconfig_is_used() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Connect, api.address());
    let request = seen(with(&api, json!({"proxy-url": format!("http://{}", proxy.address())})), &api);
    assert!(request.header("Authorization").is_some());
    let requests = proxy.requests();
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].target, api.address().to_string());
    assert_eq!(requests[0].authorization, None, "the proxy must not get the Kubernetes token");
}

#[test]
fn http_proxy_resolves_names_unknown_to_this_host() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Connect, api.address());
    let cluster =
        json!({"server": "https://kubernetes.example:6443", "proxy-url": format!("http://{}", proxy.address())});
    let request = seen(with(&api, cluster), &api);
    assert_eq!(request.sni.as_deref(), Some("kubernetes.example"));
    assert_eq!(proxy.requests()[0].target, "kubernetes.example:6443");
}

#[test]
fn http_proxy_gets_the_credentials_of_its_url() {
    let api = ApiServer::start();
    for (encoded, decoded) in [("jane:pass", "jane:pass"), ("ja%40ne:p%3As%2Fs%25", "ja@ne:p:s/s%")] {
        let proxy = Proxy::start(Kind::Connect, api.address());
        seen(with(&api, json!({"proxy-url": format!("http://{encoded}@{}", proxy.address())})), &api);
        assert_eq!(proxy.requests()[0].authorization, Some(format!("Basic {}", tls::encode(decoded.as_bytes()))));
    }
}

#[test]
fn socks5_proxy_of_the_kubeconfig_is_used() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Socks5, api.address());
    seen(with(&api, json!({"proxy-url": format!("socks5://{}", proxy.address())})), &api);
    assert_eq!(proxy.requests()[0].target, api.address().to_string());
}

#[test]
fn socks5_proxy_resolves_names_unknown_to_this_host() {
    let api = ApiServer::start();
    let name = json!({"server": "https://kubernetes.example:6443"});
    for scheme in ["socks5", "socks5h", "SOCKS5"] {
        let proxy = Proxy::start(Kind::Socks5, api.address());
        let url = format!("{scheme}://{}", proxy.address());
        let mut cluster = name.clone();
        cluster["proxy-url"] = json!(url);
        assert_eq!(seen(with(&api, cluster), &api).sni.as_deref(), Some("kubernetes.example"));
        seen(with(&api, name.clone()).env("HTTPS_PROXY", &url), &api);
        let targets: Vec<String> = proxy.requests().into_iter().map(|requests| requests.target).collect();
        assert_eq!(targets, ["kubernetes.example:6443"; 2], "{scheme}");
    }
}

#[test]
fn socks5_proxy_gets_the_credentials_of_its_url() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Socks5Login, api.address());
    seen(with(&api, json!({"proxy-url": format!("socks5://jane:pass@{}", proxy.address())})), &api);
    assert_eq!(proxy.requests()[0].authorization.as_deref(), Some("jane:pass"));
}

#[test]
fn socks5_proxy_that_rejects_the_login_is_502_at_once() {
    let api = ApiServer::start();
    for login in ["jane:wr0ng@", ""] {
        let proxy = Proxy::start(Kind::Socks5Login, api.address());
        let url = format!("socks5://{login}{}", proxy.address());
        let setup = with(&api, json!({"proxy-url": url})).args(&["--kube-timeout", &LONG_KUBE_TIMEOUT.to_string()]);
        let (status, log) = failing(setup, &api);
        assert!(!log.contains("wr0ng"), "{log}");
        assert_eq!(status, 502, "{url}: {log}");
    }
}

#[test]
fn tls_proxy_is_verified_with_the_ca_of_the_cluster() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::TlsConnect("server"), api.address());
    let by_ip = format!("https://jane:s3cr3t@{}", proxy.address());
    let by_name = format!("https://jane:s3cr3t@localhost:{}", proxy.address().port());
    for url in [by_ip, by_name] {
        for cluster in
            [json!({"proxy-url": url}), json!({"proxy-url": url, "server": "https://kubernetes.example:6443"})]
        {
            let server = with(&api, cluster.clone()).args(&["--log-level", "debug"]).start();
            for (what, send) in OPERATIONS {
                let response = send(&server);
                assert_eq!(response.status, 200, "{what} {cluster}: {}\n{}", response.text(), server.stderr());
            }
            let log = server.log_until_now();
            assert!(!log.contains("s3cr3t") && !log.contains(&tls::encode(b"jane:s3cr3t")), "{log}");
            let requests = proxy.requests().pop().unwrap();
            assert_eq!(requests.authorization, Some(format!("Basic {}", tls::encode(b"jane:s3cr3t"))));
            let server =
                cluster["server"].as_str().map_or_else(|| api.address().to_string(), |url| url.replace("https://", ""));
            assert_eq!(requests.target, server);
        }
    }
    assert_eq!(proxy.requests().len(), 4, "the connections are not kept");
}

#[test]
fn tls_proxy_with_an_invalid_certificate_gets_no_request() {
    let api = ApiServer::start();
    let other_name = Proxy::start(Kind::TlsConnect("named-server"), api.address());
    let cluster = json!({"proxy-url": format!("https://jane:s3cr3t@{}", other_name.address())});
    let (status, log) = failing(with(&api, cluster), &api);
    assert_eq!(status, 502, "{log}");
    let proxy = Proxy::start(Kind::TlsConnect("server"), api.address());
    let cluster = json!({
        "proxy-url": format!("https://{}", proxy.address()), "certificate-authority-data": tls::base64("other-ca.pem"),
    });
    let (status, log) = failing(with(&api, cluster), &api);
    assert_eq!(status, 502, "{log}");
    assert_eq!((proxy.requests(), other_name.requests()), (Vec::new(), Vec::new()));
}

#[test]
fn slow_proxy_does_not_extend_the_deadline() {
    let api = ApiServer::start();
    let pause = Duration::from_millis(300);
    let kinds = [
        ("http", "dripping", Kind::Dripping(pause)),
        // Long enough to leave less than a full deadline.
        ("http", "late", Kind::DelayedThenSilent(Duration::from_millis(1200))),
        ("http", "mute", Kind::Silent),
        ("https", "mute", Kind::Silent),
        ("socks5", "mute", Kind::Silent),
        ("socks5", "dripping", Kind::Socks5Dripping(pause)),
    ];
    std::thread::scope(|scope| {
        for (scheme, what, kind) in kinds {
            let proxy = Proxy::start(kind, api.address());
            let url = format!("{scheme}://{}", proxy.address());
            for (operation, send) in OPERATIONS {
                // The first failure opens the circuit of its server.
                let server = with(&api, json!({"proxy-url": url})).args(&["--kube-timeout", "2"]).start();
                scope.spawn(move || {
                    let start = Instant::now();
                    let response = send(&server);
                    let elapsed = start.elapsed();
                    assert_eq!(response.status, 503, "{scheme} {what} {operation}: {}", response.text());
                    assert!(elapsed >= Duration::from_millis(1900), "{scheme} {what} {operation}: {elapsed:?}");
                });
            }
        }
    });
    assert_eq!(api.connections(), 0);
}

#[test]
fn proxy_error_status_is_502_at_once() {
    let api = ApiServer::start();
    for status in [403, 407] {
        let proxy = Proxy::start(Kind::Refusing(status), api.address());
        let url = format!("http://jane:s3cr3t@{}", proxy.address());
        let setup = with(&api, json!({"proxy-url": url})).args(&["--kube-timeout", &LONG_KUBE_TIMEOUT.to_string()]);
        let (seen, log) = failing(setup, &api);
        assert_eq!(seen, 502, "{status}: {log}");
        assert!(log.contains(&status.to_string()) && !log.contains("s3cr3t"), "{log}");
        assert_eq!(proxy.requests().len(), 1, "{status}: repeated");
    }
}

#[test]
fn outage_reported_by_an_http_proxy_is_503() {
    for status in [502, 503, 504] {
        check_outage("http", Kind::Refusing(status));
    }
}

#[test]
fn outage_reported_by_a_socks5_proxy_is_503() {
    // Network unreachable, host unreachable, connection refused.
    for code in [3, 4, 5] {
        check_outage("socks5", Kind::Socks5Refusing(code));
    }
}

/// Checks a proxy that accepts the client but cannot reach Kubernetes.
fn check_outage(scheme: &str, kind: Kind) {
    let api = ApiServer::start();
    let proxy = Proxy::start(kind, api.address());
    let url = format!("{scheme}://{}", proxy.address());
    let setup = with(&api, json!({"proxy-url": url})).args(&["--kube-timeout", "1"]);
    let (status, log) = failing(setup, &api);
    assert_eq!(status, 503, "{log}");
}

#[test]
fn tls_server_name_applies_through_a_proxy() {
    let api = named("named-server");
    let proxy = Proxy::start(Kind::Connect, api.address());
    let cluster = json!({"tls-server-name": "kubernetes.example", "proxy-url": format!("http://{}", proxy.address())});
    assert_eq!(seen(with(&api, cluster), &api).sni.as_deref(), Some("kubernetes.example"));
    assert_eq!(
        proxy.requests()[0].target,
        api.address().to_string(),
        "the proxy must lead to the server's own address"
    );
}

#[test]
fn environment_proxy_is_used_without_a_kubeconfig_proxy() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Connect, api.address());
    let setup = with(&api, json!({"server": "https://kubernetes.example:6443"}));
    seen(setup.env("HTTPS_PROXY", &format!("http://{}", proxy.address())), &api);
    assert_eq!(proxy.requests()[0].target, "kubernetes.example:6443");
}

#[test]
fn kubeconfig_proxy_overrides_the_environment() {
    let api = ApiServer::start();
    let (ours, other) = (Proxy::start(Kind::Connect, api.address()), Proxy::start(Kind::Connect, api.address()));
    let setup = with(
        &api,
        json!({"server": "https://kubernetes.example:6443", "proxy-url": format!("http://{}", ours.address())}),
    );
    let setup = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"]
        .into_iter()
        .fold(setup, |setup, name| setup.env(name, &format!("http://{}", other.address())));
    seen(setup, &api);
    assert_eq!((ours.requests().len(), other.requests().len()), (1, 0));
}

#[test]
fn no_proxy_exempts_from_the_environment_proxy() {
    let api = ApiServer::start();
    let setup = with(&api, json!({})).env("HTTPS_PROXY", "http://127.0.0.9:1");
    seen(setup.env("NO_PROXY", "example.com,127.0.0.1"), &api);
}

#[test]
fn no_proxy_matches_the_default_port() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Connect, api.address());
    let url = format!("http://{}", proxy.address());
    let through = |no_proxy: &str| {
        let setup = with(&api, json!({"server": "https://kubernetes.invalid"})).args(&["--kube-timeout", "1"]);
        let before = proxy.requests().len();
        setup.env("HTTPS_PROXY", &url).env("NO_PROXY", no_proxy).start().post_job();
        proxy.requests().len() > before
    };
    assert!(!through("kubernetes.invalid:443"));
    assert!(through("kubernetes.invalid:6443"));
}

#[test]
fn no_proxy_does_not_affect_the_kubeconfig_proxy() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Connect, api.address());
    let setup = with(&api, json!({"proxy-url": format!("http://{}", proxy.address())}));
    seen(setup.env("NO_PROXY", "*").env("no_proxy", "127.0.0.1"), &api);
    assert_eq!(proxy.requests().len(), 1);
}

#[test]
fn failed_proxy_is_never_bypassed() {
    let api = ApiServer::start();
    let forbidding = Proxy::start(Kind::Refusing(403), api.address());
    // Port 1 of an unused address refuses connections at once.
    for url in [
        "http://127.0.0.9:1".to_owned(),
        "socks5://127.0.0.9:1".to_owned(),
        "https://127.0.0.9:1".to_owned(),
        format!("http://{}", forbidding.address()),
    ] {
        let (status, log) = failing(with(&api, json!({"proxy-url": url})).args(&["--kube-timeout", "2"]), &api);
        assert!((502..=504).contains(&status), "{url}: {status} {log}");
    }
    assert_eq!(api.connections(), 0);
}

#[test]
fn invalid_proxy_url_is_refused() {
    let api = ApiServer::start();
    for url in ["ftp://127.0.0.1:1", "::nonsense::", "http://"] {
        let line = with(&api, json!({"proxy-url": url})).refused();
        assert!(line.contains("proxy-url"), "{line}");
    }
}

#[test]
fn proxy_password_is_never_shown() {
    let api = ApiServer::start();
    let setup = with(&api, json!({"proxy-url": "http://jane:s3cr3t@127.0.0.9:1"})).args(&["--kube-timeout", "2"]);
    let (_, log) = failing(setup, &api);
    assert!(!log.contains("s3cr3t"), "{log}");
    let line = with(&api, json!({"proxy-url": "ftp://jane:s3cr3t@127.0.0.9:1"})).refused();
    assert!(!line.contains("s3cr3t"), "{line}");
}
