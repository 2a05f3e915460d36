//! HTTP and SOCKS5 proxies.

use super::{OPERATIONS, failing, named, seen, with};
use crate::support::api::ApiServer;
use crate::support::proxy::{Kind, Proxy};
use crate::support::tls;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn an_http_proxy_of_the_kubeconfig_is_used() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Connect, api.address());
    let request = seen(with(&api, json!({"proxy-url": format!("http://{}", proxy.address())})), &api);
    assert!(request.header("Authorization").is_some());
    let asked = proxy.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].target, api.address().to_string());
    assert_eq!(asked[0].authorization, None, "Kubernetes' token is none of the proxy's business");
}

#[test]
fn a_proxy_resolves_names_that_are_not_known_here() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Connect, api.address());
    let cluster =
        json!({"server": "https://kubernetes.example:6443", "proxy-url": format!("http://{}", proxy.address())});
    let request = seen(with(&api, cluster), &api);
    assert_eq!(request.sni.as_deref(), Some("kubernetes.example"));
    assert_eq!(proxy.requests()[0].target, "kubernetes.example:6443");
}

#[test]
fn a_proxy_gets_the_credentials_of_its_own_address() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Connect, api.address());
    seen(with(&api, json!({"proxy-url": format!("http://jane:pass@{}", proxy.address())})), &api);
    assert_eq!(proxy.requests()[0].authorization, Some(format!("Basic {}", tls::encode(b"jane:pass"))));
}

#[test]
fn a_socks5_proxy_of_the_kubeconfig_is_used() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Socks5, api.address());
    seen(with(&api, json!({"proxy-url": format!("socks5://{}", proxy.address())})), &api);
    assert_eq!(proxy.requests()[0].target, api.address().to_string());
}

#[test]
fn a_socks5_proxy_resolves_names_that_are_not_known_here() {
    let api = ApiServer::start();
    let name = json!({"server": "https://kubernetes.example:6443"});
    for scheme in ["socks5", "socks5h", "SOCKS5"] {
        let proxy = Proxy::start(Kind::Socks5, api.address());
        let url = format!("{scheme}://{}", proxy.address());
        let mut cluster = name.clone();
        cluster["proxy-url"] = json!(url);
        assert_eq!(seen(with(&api, cluster), &api).sni.as_deref(), Some("kubernetes.example"));
        seen(with(&api, name.clone()).env("HTTPS_PROXY", &url), &api);
        let targets: Vec<String> = proxy.requests().into_iter().map(|asked| asked.target).collect();
        assert_eq!(targets, ["kubernetes.example:6443"; 2], "{scheme}");
    }
}

#[test]
fn a_socks5_proxy_gets_the_credentials_of_its_own_address() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Socks5Login, api.address());
    seen(with(&api, json!({"proxy-url": format!("socks5://jane:pass@{}", proxy.address())})), &api);
    assert_eq!(proxy.requests()[0].authorization.as_deref(), Some("jane:pass"));
}

#[test]
fn a_socks5_proxy_that_refuses_the_login_is_502_at_once() {
    let api = ApiServer::start();
    for login in ["jane:wr0ng@", ""] {
        let proxy = Proxy::start(Kind::Socks5Login, api.address());
        let url = format!("socks5://{login}{}", proxy.address());
        let setup = with(&api, json!({"proxy-url": url})).args(&["--kube-timeout", "6"]);
        let start = Instant::now();
        let (status, log) = failing(setup, &api);
        assert!(!log.contains("wr0ng"), "{log}");
        assert_eq!(status, 502, "{url}: {log}");
        assert!(start.elapsed() < Duration::from_secs(4), "{url}: {:?}", start.elapsed());
    }
}

#[test]
fn a_proxy_behind_tls_is_verified_by_the_authority_of_the_cluster() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::TlsConnect("server"), api.address());
    let by_ip = format!("https://jane:s3cr3t@{}", proxy.address());
    let by_name = format!("https://jane:s3cr3t@localhost:{}", proxy.address().port());
    for url in [by_ip, by_name] {
        for cluster in
            [json!({"proxy-url": url}), json!({"proxy-url": url, "server": "https://kubernetes.example:6443"})]
        {
            let server = with(&api, cluster.clone()).args(&["--log-level", "debug"]).start();
            for (what, ask) in OPERATIONS {
                let response = ask(&server);
                assert_eq!(response.status, 200, "{what} {cluster}: {}\n{}", response.text(), server.stderr());
            }
            let log = server.stderr();
            assert!(!log.contains("s3cr3t") && !log.contains(&tls::encode(b"jane:s3cr3t")), "{log}");
            let asked = proxy.requests().pop().unwrap();
            assert_eq!(asked.authorization, Some(format!("Basic {}", tls::encode(b"jane:s3cr3t"))));
            let server =
                cluster["server"].as_str().map_or_else(|| api.address().to_string(), |url| url.replace("https://", ""));
            assert_eq!(asked.target, server);
        }
    }
    assert_eq!(proxy.requests().len(), 4, "the connections are not kept");
}

#[test]
fn a_proxy_behind_tls_of_another_name_or_authority_is_never_asked() {
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
fn the_credentials_of_a_proxy_are_unescaped_as_in_every_url() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Connect, api.address());
    seen(with(&api, json!({"proxy-url": format!("http://ja%40ne:p%3As%2Fs%25@{}", proxy.address())})), &api);
    assert_eq!(proxy.requests()[0].authorization, Some(format!("Basic {}", tls::encode(b"ja@ne:p:s/s%"))));
}

#[test]
fn a_slow_proxy_never_makes_an_operation_outlive_its_deadline() {
    let api = ApiServer::start();
    let pause = Duration::from_millis(300);
    let kinds = [
        ("http", "dripping", Kind::Dripping(pause)),
        // Long enough that what is left of the deadline is less than a whole one.
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
            let server = Arc::new(with(&api, json!({"proxy-url": url})).start());
            for (operation, ask) in OPERATIONS {
                let server = server.clone();
                scope.spawn(move || {
                    let start = Instant::now();
                    let response = ask(&server);
                    let (elapsed, status) = (start.elapsed(), if operation == "/readyz" { 503 } else { 504 });
                    assert_eq!(response.status, status, "{scheme} {what} {operation}: {}", response.text());
                    let due = Duration::from_millis(1900)..Duration::from_millis(3200);
                    assert!(due.contains(&elapsed), "{scheme} {what} {operation}: {elapsed:?}");
                });
            }
        }
    });
    assert_eq!(api.connections(), 0);
}

#[test]
fn a_proxy_that_refuses_is_502_at_once() {
    let api = ApiServer::start();
    for status in [403, 407] {
        let proxy = Proxy::start(Kind::Refusing(status), api.address());
        let url = format!("http://jane:s3cr3t@{}", proxy.address());
        let setup = with(&api, json!({"proxy-url": url})).args(&["--kube-timeout", "20"]);
        let start = Instant::now();
        let (seen, log) = failing(setup, &api);
        assert_eq!(seen, 502, "{status}: {log}");
        assert!(start.elapsed() < Duration::from_secs(10), "{status}: {:?}", start.elapsed());
        assert!(log.contains(&status.to_string()) && !log.contains("s3cr3t"), "{log}");
        assert_eq!(proxy.requests().len(), 1, "{status}: repeated");
    }
}

#[test]
fn an_outage_that_an_http_proxy_tells_of_is_503() {
    for status in [502, 503, 504] {
        check_outage("http", Kind::Refusing(status));
    }
}

#[test]
fn an_outage_that_a_socks5_proxy_tells_of_is_503() {
    // Network unreachable, host unreachable, connection refused.
    for code in [3, 4, 5] {
        check_outage("socks5", Kind::Socks5Refusing(code));
    }
}

/// The proxy lets us through, but says that it cannot reach Kubernetes itself.
fn check_outage(scheme: &str, kind: Kind) {
    let api = ApiServer::start();
    let proxy = Proxy::start(kind, api.address());
    let url = format!("{scheme}://{}", proxy.address());
    let setup = with(&api, json!({"proxy-url": url})).args(&["--kube-timeout", "1"]);
    let (status, log) = failing(setup, &api);
    assert_eq!(status, 503, "{log}");
}

#[test]
fn tls_server_name_and_a_proxy_go_together() {
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
fn the_proxy_of_the_environment_is_used_where_the_kubeconfig_names_none() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Connect, api.address());
    let setup = with(&api, json!({"server": "https://kubernetes.example:6443"}));
    seen(setup.env("HTTPS_PROXY", &format!("http://{}", proxy.address())), &api);
    assert_eq!(proxy.requests()[0].target, "kubernetes.example:6443");
}

#[test]
fn the_proxy_of_the_kubeconfig_beats_that_of_the_environment() {
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
fn no_proxy_exempts_from_the_proxy_of_the_environment() {
    let api = ApiServer::start();
    let setup = with(&api, json!({})).env("HTTPS_PROXY", "http://127.0.0.9:1");
    seen(setup.env("NO_PROXY", "example.com,127.0.0.1"), &api);
}

#[test]
fn no_proxy_knows_the_port_that_a_url_leaves_out() {
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
fn no_proxy_does_not_overrule_the_proxy_of_the_kubeconfig() {
    let api = ApiServer::start();
    let proxy = Proxy::start(Kind::Connect, api.address());
    let setup = with(&api, json!({"proxy-url": format!("http://{}", proxy.address())}));
    seen(setup.env("NO_PROXY", "*").env("no_proxy", "127.0.0.1"), &api);
    assert_eq!(proxy.requests().len(), 1);
}

#[test]
fn a_proxy_that_is_down_or_forbids_is_never_gone_around() {
    let api = ApiServer::start();
    let forbidding = Proxy::start(Kind::Refusing(403), api.address());
    // Port 1 of an address nobody listens on: refused at once.
    for url in [
        "http://127.0.0.9:1".to_owned(),
        "socks5://127.0.0.9:1".to_owned(),
        "https://127.0.0.9:1".to_owned(),
        format!("http://{}", forbidding.address()),
    ] {
        let (status, log) = failing(with(&api, json!({"proxy-url": url})), &api);
        assert!((502..=504).contains(&status), "{url}: {status} {log}");
    }
    assert_eq!(api.connections(), 0);
}

#[test]
fn a_proxy_url_that_is_none_is_refused() {
    let api = ApiServer::start();
    for url in ["ftp://127.0.0.1:1", "::nonsense::", "http://"] {
        let line = with(&api, json!({"proxy-url": url})).refused();
        assert!(line.contains("proxy-url"), "{line}");
    }
}

#[test]
fn the_password_of_a_proxy_is_never_shown() {
    let api = ApiServer::start();
    let (_, log) = failing(with(&api, json!({"proxy-url": "http://jane:s3cr3t@127.0.0.9:1"})), &api);
    assert!(!log.contains("s3cr3t"), "{log}");
    let line = with(&api, json!({"proxy-url": "ftp://jane:s3cr3t@127.0.0.9:1"})).refused();
    assert!(!line.contains("s3cr3t"), "{line}");
}
