//! Lifetime of cached credentials, and reruns of the plugin.

use super::{authorization, check_post, print, started, with_user};
use crate::support::api::{ApiServer, Listen};
use crate::support::plugin::{Plugin, credential};
use crate::support::server::Setup;
use crate::support::tls::ClientCerts;
use crate::support::{eventually, response, tls};
use serde_json::json;

/// A script that prints another token at every run: `token-1`, `token-2`...
fn print_numbered(expiry: &str) -> String {
    let status = json!({"token": "token-NUMBER", "expirationTimestamp": expiry});
    format!(
        "number=$(wc -l <\"$HERE/plugin.pids\" | tr -d ' ')\necho '{}' | sed \"s/NUMBER/$number/\"",
        credential("v1", &status)
    )
}

#[test]
fn token_is_fetched_once_for_all_requests() {
    let (api, server, plugin) = started(&print(&json!({"token": "abc"})));
    for _ in 0..5 {
        check_post(&server);
        assert_eq!(server.get("/config").status, 200);
    }
    assert_eq!(plugin.runs(), 1);
    assert!(api.requests().iter().all(|request| authorization(request) == Some("Bearer abc")));
}

#[test]
fn token_is_kept_until_it_expires() {
    let (_api, server, plugin) = started(&print_numbered("2099-01-01T00:00:00Z"));
    for _ in 0..3 {
        check_post(&server);
    }
    assert_eq!(plugin.runs(), 1);
    let (api, server, plugin) = started(&print_numbered("'$(date -u -d '+3 seconds' +%Y-%m-%dT%H:%M:%SZ)'"));
    check_post(&server);
    assert_eq!(authorization(&api.requests()[0]), Some("Bearer token-1"));
    eventually("the next token is used", || {
        check_post(&server);
        authorization(api.requests().last().unwrap()) == Some("Bearer token-2")
    });
    // A refresh may run early, and its token expires in turn; but the plugin does not run for every request.
    assert!(plugin.runs() < api.requests().len() && plugin.runs() <= 3, "{} runs", plugin.runs());
}

#[test]
fn expiry_times_in_every_rfc_3339_form_are_parsed() {
    for expiry in [
        "2099-01-01T00:00:00Z",
        "2099-01-01T00:00:00.123456789Z",
        "2099-01-01T00:00:00+02:00",
        "2099-01-01T00:00:00-07:30",
        "9999-12-31T23:59:59Z",
    ] {
        let (_api, server, plugin) = started(&print_numbered(expiry));
        check_post(&server);
        check_post(&server);
        assert_eq!(plugin.runs(), 1, "{expiry}");
    }
}

#[test]
fn sixty_four_concurrent_requests_run_the_plugin_once() {
    let (api, server, plugin) = started(&format!("sleep 0.3\n{}", print(&json!({"token": "abc"}))));
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| check_post(&server));
        }
    });
    assert_eq!((plugin.runs(), api.jobs().len()), (1, 64));
}

#[test]
fn unauthorized_response_runs_the_plugin_exactly_once_more() {
    let (api, server, plugin) = started(&print_numbered("2099-01-01T00:00:00Z"));
    api.script(|request| match authorization(request) {
        Some("Bearer token-2") => response::Behavior::Default,
        _ => response::unauthorized().into(),
    });
    check_post(&server);
    assert_eq!((plugin.runs(), api.jobs().len()), (2, 1));
    check_post(&server);
    assert_eq!(plugin.runs(), 2, "the second token is good");
    api.always(response::unauthorized());
    assert_eq!(server.post_job().status, 502);
    assert!(plugin.runs() <= 3, "at most one refresh for one request: {}", plugin.runs());
}

#[test]
fn unauthorized_page_of_a_list_refreshes_the_token() {
    let (api, server, _plugin) = started(&print_numbered("2099-01-01T00:00:00Z"));
    let pod = crate::support::cluster::pod("default", "p", "Running", None);
    api.script(move |request| match (authorization(request), request.query("continue")) {
        (Some("Bearer token-1"), Some(_)) => response::unauthorized().into(),
        (_, None) => response::ApiResponse::json(200, &response::pod_list(std::slice::from_ref(&pod), "more")).into(),
        (_, Some(_)) => response::ApiResponse::json(200, &response::pod_list(std::slice::from_ref(&pod), "")).into(),
    });
    let response = server.get("/config");
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["pods"].as_array().unwrap().len(), 2);
}

#[test]
fn client_certificate_of_a_plugin_is_sent() {
    let api = ApiServer::listen(&Listen { clients: ClientCerts::Verified, ..Listen::default() });
    for kind in ["client-chain", "client-sec1"] {
        let (certificate, key) = (format!("{kind}.pem"), format!("{kind}.key.pem"));
        let setup = Setup::new();
        let status = json!({"clientCertificateData": tls::pem(&certificate), "clientKeyData": tls::pem(&key)});
        let plugin = Plugin::printing(setup.home(), "plugin", &status);
        let server = with_user(setup, &api, plugin.user()).start();
        check_post(&server);
        let request = api.requests().pop().unwrap();
        assert_eq!(request.client_chain, tls::der(&certificate));
        assert_eq!(authorization(&request), None);
        assert_eq!(plugin.runs(), 1);
    }
}

#[test]
fn new_client_certificate_is_used_after_a_401() {
    let api = ApiServer::listen(&Listen { clients: ClientCerts::Verified, ..Listen::default() });
    let setup = Setup::new();
    let status = |kind: &str| json!({"clientCertificateData": tls::pem(&format!("{kind}.pem")), "clientKeyData": tls::pem(&format!("{kind}.key.pem"))});
    setup.file("first", credential("v1", &status("client-pkcs8")).to_string());
    setup.file("second", credential("v1", &status("client-sec1")).to_string());
    let body = "if test -e \"$HERE/ran\"; then cat \"$HERE/second\"; else cat \"$HERE/first\"; fi\ntouch \"$HERE/ran\"";
    let plugin = Plugin::write(setup.home(), "plugin", body);
    let good = tls::der("client-sec1.pem");
    api.script(move |request| {
        if request.client_chain == good { response::Behavior::Default } else { response::unauthorized().into() }
    });
    let server = with_user(setup, &api, plugin.user()).start();
    check_post(&server);
    assert_eq!(plugin.runs(), 2);
}

#[test]
fn client_certificate_is_dropped_if_the_next_credential_has_none() {
    let api = ApiServer::listen(&Listen { clients: ClientCerts::Verified, ..Listen::default() });
    let setup = Setup::new();
    let first = json!({
        "token": "first",
        "clientCertificateData": tls::pem("client-sec1.pem"), "clientKeyData": tls::pem("client-sec1.key.pem"),
    });
    setup.file("first", credential("v1", &first).to_string());
    setup.file("second", credential("v1", &json!({"token": "second"})).to_string());
    let body = "if test -e \"$HERE/ran\"; then cat \"$HERE/second\"; else cat \"$HERE/first\"; fi\ntouch \"$HERE/ran\"";
    let plugin = Plugin::write(setup.home(), "plugin", body);
    let server = with_user(setup, &api, plugin.user()).start();
    check_post(&server);
    assert_eq!(api.requests()[0].client_chain, tls::der("client-sec1.pem"));
    api.script(|request| match authorization(request) {
        Some("Bearer second") => response::Behavior::Default,
        _ => response::unauthorized().into(),
    });
    for _ in 0..3 {
        check_post(&server);
        let request = api.requests().pop().unwrap();
        assert_eq!((authorization(&request), request.client_chain.len()), (Some("Bearer second"), 0));
    }
    assert_eq!(plugin.runs(), 2);
}

#[test]
fn failed_plugin_is_run_again() {
    let body =
        format!("test -e \"$HERE/ran\" || {{ touch \"$HERE/ran\"; exit 77; }}\n{}", print(&json!({"token": "abc"})));
    let (api, server, _plugin) = started(&body);
    // The first run comes with the start or with the first request.
    let first = server.post_job();
    assert!([200, 502].contains(&first.status), "{}", first.text());
    server.wait_for_log("of the failure", |line| line.contains("77"));
    if first.status == 200 {
        return;
    }
    // The rerun may come at once, or after a pause that limits the cost of a broken plugin.
    eventually("the plugin is given another chance", || server.post_job().status == 200);
    assert_eq!(api.jobs().len(), 1);
}
