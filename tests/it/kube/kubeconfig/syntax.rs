//! Accepted and refused kubeconfig YAML.

use super::{bearer, check_refused, good, seen};
use crate::support::api::ApiServer;
use crate::support::kubeconfig::{Kubeconfig, TOKEN};
use crate::support::server::Setup;
use crate::support::tls;
use serde_json::json;

#[test]
fn every_form_accepted_by_kubectl_is_accepted() {
    let api = ApiServer::start();
    let yaml = good(&api, TOKEN);
    let with = |extra: &str| format!("{yaml}{extra}");
    let forms = [
        ("CRLF", yaml.replace('\n', "\r\n")),
        ("BOM", format!("\u{feff}{yaml}")),
        ("BOM and JSON", format!("\u{feff}{}", Kubeconfig::new(&api.url()).json())),
        ("JSON", Kubeconfig::new(&api.url()).json()),
        ("document start and comments", format!("# a comment\n---\n{yaml}# the end\n")),
        ("document end", with("---\n")),
        ("document end of the other kind", with("...\n")),
        ("a second document", with("---\nkind: List\nusers: 7\n")),
        ("a second kubeconfig", with(&format!("---\n{}", Kubeconfig::new("https://127.0.0.9:1").yaml()))),
        ("document start and end", format!("---\n{yaml}---\n")),
        ("unknown fields", with("colors: true\nextensions:\n- name: x\n  extension: {a: 1}\npreferences: {}\n")),
        ("null preferences", with("preferences: null\n")),
        ("no kind", yaml.replace("kind: Config\n", "").replace("apiVersion: v1\n", "")),
        (
            "explicit nulls",
            Kubeconfig::new(&api.url()).json()
                .replace("\"token\":", "\"client-certificate\":null,\"client-key-data\":null,\"exec\":null,\"as-groups\":null,\"auth-provider\":null,\"username\":null,\"tokenFile\":null,\"token\":")
                .replace("\"server\":", "\"tls-server-name\":null,\"insecure-skip-tls-verify\":null,\"proxy-url\":null,\"certificate-authority\":null,\"extensions\":null,\"server\":")
                .replace("\"cluster\":\"test\"", "\"namespace\":null,\"extensions\":null,\"cluster\":\"test\""),
        ),
        (
            "empty strings",
            Kubeconfig::new(&api.url()).json()
                .replace("\"token\":", "\"client-certificate\":\"\",\"client-key-data\":\"\",\"username\":\"\",\"password\":\"\",\"tokenFile\":\"\",\"token\":")
                .replace("\"server\":", "\"tls-server-name\":\"\",\"proxy-url\":\"\",\"certificate-authority\":\"\",\"server\":"),
        ),
    ];
    for (form, text) in forms {
        let server = Setup::new().kubeconfig(&text).start();
        let response = server.post_job();
        assert_eq!(response.status, 200, "{form}: {}", response.text());
        assert_eq!(bearer(&api.requests().pop().unwrap()), Some(TOKEN), "{form}");
    }
}

#[test]
fn null_lists_beside_a_complete_file_are_valid() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let first = setup.file(
        "first",
        "apiVersion: v1\nkind: Config\nclusters: null\nusers: null\ncontexts: null\ncurrent-context: null\n",
    );
    let empty = setup.file("empty", "");
    let second = setup.file("second", good(&api, TOKEN));
    let list = [first, empty, second].map(|path| path.display().to_string()).join(":");
    assert_eq!(bearer(&seen(setup.env("KUBECONFIG", &list), &api)), Some(TOKEN));
}

#[test]
fn unused_invalid_entries_are_ignored() {
    let api = ApiServer::start();
    let text = format!(
        "current-context: test\n\
         clusters:\n- name: test\n  cluster: {{server: '{}', certificate-authority: '{}'}}\n\
         - name: broken\n  cluster: {{server: '::nonsense::', certificate-authority-data: '***'}}\n- name: empty\n\
         users:\n- name: test\n  user: {{token: {TOKEN}}}\n\
         - name: broken\n  user: {{client-certificate: /nowhere, client-key-data: '***'}}\n\
         - name: old\n  user: {{auth-provider: {{name: gcp}}}}\n- name: v1alpha1\n  user: {{exec: {{apiVersion: client.authentication.k8s.io/v1alpha1, command: x}}}}\n\
         contexts:\n- name: test\n  context: {{cluster: test, user: test}}\n- name: broken\n  context: {{cluster: nowhere, user: nobody}}\n",
        api.url(),
        tls::path("ca.pem").display()
    );
    assert_eq!(bearer(&seen(Setup::new().kubeconfig(text), &api)), Some(TOKEN));
}

#[test]
fn invalid_file_is_refused_with_its_name_and_the_field() {
    let files: [(&str, &[&str]); 16] = [
        ("", &["context"]),
        ("\t: not yaml: [", &[]),
        ("- a\n- list\n", &[]),
        ("just text", &[]),
        ("clusters: 7\ncurrent-context: a\n", &["clusters"]),
        ("current-context: a\n", &["context", "a"]),
        ("current-context: [a]\n", &["current-context"]),
        ("contexts: [{name: a, context: {cluster: b, user: u}}]\n", &["current-context"]),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: lost, user: u}}]\nusers: [{name: u, user: {}}]\n",
            &["cluster", "lost"],
        ),
        ("current-context: a\ncontexts: [{name: a, context: {user: u}}]\nusers: [{name: u, user: {}}]\n", &["cluster"]),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: lost}}]\nclusters: [{name: c, cluster: {server: 'https://x'}}]\n",
            &["user", "lost"],
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {}}]\nusers: [{name: u, user: {}}]\n",
            &["server"],
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: ''}}]\nusers: [{name: u, user: {}}]\n",
            &["server"],
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'ftp://x'}}]\nusers: [{name: u, user: {}}]\n",
            &["server"],
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://x', certificate-authority: lost.pem}}]\nusers: [{name: u, user: {}}]\n",
            &["certificate-authority", "lost.pem"],
        ),
        (
            "current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://x', certificate-authority-data: '*'}}]\nusers: [{name: u, user: {}}]\n",
            &["certificate-authority-data"],
        ),
    ];
    let mut missing = Vec::new();
    for (text, words) in files {
        let setup = Setup::new().kubeconfig(text);
        let path = setup.home().join("kubeconfig").display().to_string();
        let line = setup.refused();
        let lacks = words.iter().filter(|word| !line.contains(**word));
        missing.extend(lacks.map(|word| format!("{word:?} is not in {line:?} for {text:?}")));
        // If another file has the error, its name alone is enough.
        if !line.contains(&path) && !line.contains("/lost.pem") {
            missing.push(format!("the file is not named in {line:?} for {text:?}"));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn invalid_referenced_files_are_refused_by_name() {
    check_refused(Setup::new().args(&["--kubeconfig", "/nowhere/at/all"]), &["/nowhere/at/all"]);
    check_refused(Setup::new().args(&["--kubeconfig", "/proc"]), &["/proc"]);
    check_refused(Setup::new().kubeconfig(b"\xff\xfe\x00c\x00o"), &["kubeconfig"]);
}

#[test]
fn huge_file_is_refused() {
    let setup = Setup::new();
    let path = setup.file("huge", "");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 28).unwrap();
    check_refused(setup.args(&["--kubeconfig", path.to_str().unwrap()]), &["huge"]);
}

#[test]
fn duplicate_name_in_one_list_is_an_error() {
    let api = ApiServer::start();
    let base = Kubeconfig::new(&api.url()).json();
    for (list, entry) in [
        ("users", r#"{"name":"test","user":{}}"#),
        ("clusters", r#"{"name":"test","cluster":{"server":"https://x"}}"#),
        ("contexts", r#"{"name":"test","context":{}}"#),
    ] {
        let text = base.replace(&format!("\"{list}\":["), &format!("\"{list}\":[{entry},"));
        check_refused(Setup::new().kubeconfig(text), &["test", list.trim_end_matches('s')]);
    }
}

#[test]
fn entry_names_cannot_inject_log_lines() {
    let api = ApiServer::start();
    let forged = "x\nlistening on http://192.0.2.1:1\r\u{1b}[2J\u{2028}\u{85}credentials: none";
    let text = Kubeconfig::new(&api.url()).json().replace("\"name\":\"test\"", "\"name\":FORGED");
    let text = text.replace("\"current-context\":\"test\"", "\"current-context\":FORGED");
    let text =
        text.replace("\"cluster\":\"test\"", "\"cluster\":FORGED").replace("\"user\":\"test\"", "\"user\":FORGED");
    assert_eq!(text.matches("FORGED").count(), 6);
    let text = text.replace("FORGED", &json!(forged).to_string());
    let basic = text.replace(
        &format!("\"token\":\"{TOKEN}\""),
        &json!({"username": forged, "password": "x", "as": "jane"}).to_string().replace(['{', '}'], ""),
    );
    let plugin = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", "command": format!("/{forged}")}});
    let plugin = text.replace(&format!("\"token\":\"{TOKEN}\""), &plugin.to_string()[1..plugin.to_string().len() - 1]);
    for text in [&text, &basic, &plugin] {
        let server = Setup::new().kubeconfig(text).start();
        server.post_job();
        let log = server.log_until_now();
        assert_eq!(log.lines().filter(|line| line.starts_with("listening on ")).count(), 1, "{log}");
        for line in log.lines() {
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line:?}");
        }
    }
    // The same for a failed start: `refused` checks for one line.
    for broken in [text.replace("\"cluster\":{", "\"lost\":{"), text.replace("\"server\":\"https", "\"server\":\"ftp")]
    {
        let line = Setup::new().kubeconfig(broken).refused();
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line:?}");
    }
}

#[test]
fn alias_bomb_is_refused() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    text.push_str("current-context: x\nusers: *a11\n");
    Setup::new().kubeconfig(text).refused();
}

#[test]
fn deep_nesting_is_refused_without_overflow() {
    let text = format!("current-context: x\nextensions: {}{}\n", "[".repeat(5000), "]".repeat(5000));
    Setup::new().kubeconfig(text).refused();
}

#[test]
fn nesting_that_would_take_hours_is_refused() {
    // The scanner's time grows with the square of the depth: it would read these 4 MB for hours.
    let open = "[a: ".repeat(1_000_000);
    // The brackets in strings hide the depth.
    let hidden = "[\"]\", a: ".repeat(400_000);
    for text in [open, hidden] {
        let line = Setup::new().kubeconfig(text).refused();
        assert!(line.contains("is not valid YAML: nested too deep, "), "{line}");
    }
}

#[test]
fn errors_show_no_secret() {
    let api = ApiServer::start();
    let secret = "s3cr3t-0f-m1ne";
    let users = [
        json!({"token": secret, "username": "u", "password": secret}),
        json!({"token": [secret]}),
        json!({"token": {secret: secret}}),
        json!({"password": {"a": secret}, "username": "u"}),
        json!({"client-key-data": secret, "client-certificate-data": secret}),
        json!({"client-key-data": tls::encode(secret.as_bytes()), "client-certificate-data": tls::base64("client-pkcs8.pem")}),
        json!({"token": secret, "auth-provider": {"name": "oidc", "config": {"id-token": secret}}}),
        json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1alpha1", "command": "x", "env": [{"name": "A", "value": secret}]}}),
    ];
    for user in users {
        let line = Setup::new().kubeconfig(Kubeconfig::new(&api.url()).user(user.clone()).yaml()).refused();
        assert!(!line.contains(secret), "{line:?} for {user}");
    }
    assert_eq!(api.connections(), 0);
}
