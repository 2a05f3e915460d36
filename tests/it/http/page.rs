//! GET / and GET /info over HTTP. tests/page uses the page in a browser.

use crate::support::api::ApiServer;
use crate::support::eventually;
use crate::support::response::Behavior;
use crate::support::server::Setup;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const HTML: &str = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";

/// The paths that the quoted attributes `name="/..."` of a text name.
fn linked(text: &str, name: &str) -> BTreeSet<String> {
    let start = format!("{name}=\"");
    let values = text.split(&start).skip(1).filter_map(|rest| rest.split('"').next());
    values.filter(|value| value.starts_with('/')).map(str::to_owned).collect()
}

#[test]
fn page_and_its_files_have_entity_tags_and_a_strict_policy() {
    let server = Setup::local().start();
    let mut client = server.connect();
    let page = client.request_with("GET", "/", HTML, b"");
    assert_eq!((page.status, page.header("Content-Type")), (200, Some("text/html; charset=utf-8")));
    let mut paths = linked(page.text(), "href");
    paths.extend(linked(page.text(), "src"));
    paths.retain(|path| path.starts_with("/page/"));
    assert!(paths.len() > 2, "{paths:?}");
    // Every file that the page loads, and those that its scripts import.
    let mut files = vec!["/".to_owned()];
    while let Some(path) = paths.pop_first() {
        if !files.contains(&path) {
            let script = client.request("GET", &path, None);
            let imports = script.text().split("from \"./").skip(1).filter_map(|rest| rest.split('"').next());
            paths.extend(imports.map(|name| format!("/page/{name}")));
            files.push(path);
        }
    }
    let mut size = 0;
    for path in &files {
        let response = client.request_with("GET", path, HTML, b"");
        assert_eq!(response.status, 200, "{path}");
        size += response.body.len();
        for (name, value) in [
            (
                "Content-Security-Policy",
                "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
            ),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-cache"),
            ("Vary", "Accept"),
        ] {
            assert_eq!(response.header(name), Some(value), "{path}");
        }
        assert_eq!(response.header("Set-Cookie"), None, "{path}");
        let known = format!("{HTML}If-None-Match: {}\r\n", response.header("ETag").expect("an entity tag"));
        assert_eq!(client.request_with("GET", path, &known, b"").status, 304, "{path}");
        let head = client.request_with("HEAD", path, HTML, b"");
        assert_eq!((head.status, head.header("ETag")), (200, response.header("ETag")), "{path}");
        assert_eq!(client.request("POST", path, Some(b"{}")).status, 405, "{path}");
    }
    assert!(size < 60 * 1024, "{size} bytes in {files:?}");
}

#[test]
fn only_a_client_that_names_html_gets_the_page() {
    let server = Setup::local().start();
    let mut client = server.connect();
    for accept in ["", "Accept: */*\r\n", "Accept: application/json\r\n"] {
        let response = client.request_with("GET", "/", accept, b"");
        assert_eq!((response.status, response.json()["code"].as_str()), (404, Some("not_found")), "{accept}");
    }
}

#[test]
fn no_page_turns_the_page_off() {
    for setup in [Setup::local().args(&["--no-page"]), Setup::local().env("NO_PAGE", "1")] {
        let server = setup.start();
        for path in ["/", "/page/style.css"] {
            assert_eq!(server.connect().request_with("GET", path, HTML, b"").status, 404, "{path}");
        }
    }
}

#[test]
fn page_without_javascript_lists_the_jobs_as_text() {
    let server = Setup::local().env("NO_WATCH", "0").args(&["--local-job-seconds", "3600"]).start();
    let job = server.post("/img-classification/free", r#"{"dataset":"mnist"}"#).json()["job"].clone();
    let name = job.as_str().unwrap();
    let mut text = String::new();
    eventually("the Job has its slot", || {
        text = server.connect().request_with("GET", "/", HTML, b"").text().to_owned();
        text.contains("Free tier: 1 of 2 slots in use, Jobs waiting: 0.")
    });
    assert!(text.contains(&format!("<a href=\"/jobs/{name}\">{name}</a>")), "{text}");
    assert!(text.contains("No Jobs yet."), "the premium tier has none: {text}");
}

#[test]
fn info_has_the_facts_of_the_server_and_its_cluster() {
    let tokens = Setup::local();
    let token = tokens.file("token", "secret").to_str().unwrap().to_owned();
    let server = tokens
        .env("NO_WATCH", "0")
        .args(&["--image", "x:1", "--admin-token-file", &token, "--premium-token-file", &token])
        .start();
    // The version of Kubernetes and the quota arrive a moment later.
    let mut info = Value::Null;
    eventually("all facts are known", || {
        info = server.get("/info").json();
        !info["kubernetes"].is_null() && !info["free_slots"].is_null()
    });
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"), "image": "x:1", "cluster": "local", "kubernetes": info["kubernetes"],
        "local": true, "watch": true, "free_slots": 2, "premium_token": true, "deletion": true,
    });
    assert_eq!(info, expected);
    let response = server.get("/info");
    let known = format!("If-None-Match: {}\r\n", response.header("ETag").unwrap());
    assert_eq!(server.connect().request_with("GET", "/info", &known, b"").status, 304);
}

#[test]
fn info_waits_for_nothing_while_kubernetes_is_silent() {
    let api = ApiServer::start();
    api.always(Behavior::Hang);
    let server = Setup::for_api(&api).start();
    for _ in 0..2 {
        let info = server.get("/info").json();
        assert_eq!((&info["kubernetes"], &info["watch"], &info["local"]), (&Value::Null, &json!(false), &json!(false)));
    }
}
