//! The files that are read, their merge order, and the base of relative paths.

use super::{bearer, check_refused, good, seen};
use crate::support::api::{ApiServer, Listen};
use crate::support::kubeconfig::Kubeconfig;
use crate::support::plugin::Plugin;
use crate::support::server::Setup;
use crate::support::tls::{self, ClientCerts};
use serde_json::json;

#[test]
fn missing_kubeconfig_ends_the_start() {
    check_refused(Setup::new(), &["kubeconfig"]);
    check_refused(Setup::new().env("KUBECONFIG", ""), &["kubeconfig"]);
}

#[test]
fn kubeconfig_path_comes_from_the_option_then_the_variable_then_the_home_folder() {
    let api = ApiServer::start();
    let setup = Setup::new();
    setup.file(".kube/config", good(&api, "of-home"));
    assert_eq!(bearer(&seen(setup, &api)), Some("of-home"));

    let setup = Setup::new();
    setup.file(".kube/config", good(&api, "of-home"));
    let path = setup.file("other", good(&api, "of-environment"));
    assert_eq!(bearer(&seen(setup.env("KUBECONFIG", path.to_str().unwrap()), &api)), Some("of-environment"));

    let setup = Setup::new().kubeconfig(good(&api, "of-flag"));
    let path = setup.file("other", good(&api, "of-environment"));
    assert_eq!(bearer(&seen(setup.env("KUBECONFIG", path.to_str().unwrap()), &api)), Some("of-flag"));
}

#[test]
fn missing_files_and_empty_list_elements_are_skipped() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let path = setup.file("good", good(&api, "found"));
    let list = format!(":/nowhere/at/all::{}:", path.display());
    assert_eq!(bearer(&seen(setup.env("KUBECONFIG", &list), &api)), Some("found"));
}

#[test]
fn list_of_missing_files_is_refused_by_name() {
    check_refused(Setup::new().env("KUBECONFIG", "/nowhere/a:/nowhere/b"), &["/nowhere/a"]);
}

#[test]
fn unreadable_file_of_a_list_is_never_skipped() {
    let api = ApiServer::start();
    for listed in ["unreadable", "plain/x"] {
        let setup = Setup::new();
        std::fs::create_dir(setup.home().join("unreadable")).unwrap();
        setup.file("plain", "");
        let good = setup.file("good", good(&api, "found"));
        let bad = setup.home().join(listed).display().to_string();
        let first = Setup::new().env("KUBECONFIG", &format!("{bad}:{}", good.display()));
        check_refused(first, &[&bad]);
        let last = Setup::new().env("KUBECONFIG", &format!("{}:{bad}", good.display()));
        check_refused(last, &[&bad]);
    }
}

#[test]
fn first_file_wins_for_each_complete_entry() {
    let api = ApiServer::start();
    let setup = Setup::new();
    // The first file holds only the user; the second holds another user of that name.
    let first = setup.file("first", "current-context: ''\nusers: [{name: test, user: {token: first}}]\n");
    let second =
        setup.file("second", Kubeconfig::new(&api.url()).user(json!({"token": "second", "as": "somebody"})).yaml());
    let request = seen(setup.env("KUBECONFIG", &format!("{}:{}", first.display(), second.display())), &api);
    assert_eq!(bearer(&request), Some("first"));
    assert_eq!(request.header("Impersonate-User"), None, "a field of the second file's entry was mixed in");
}

#[test]
fn first_nonempty_current_context_wins() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let first = setup.file("first", "current-context: ''\n");
    let second = setup.file(
        "second",
        "current-context: chosen\nusers: [{name: u, user: {token: chosen}}]\ncontexts: [{name: chosen, context: {cluster: test, user: u}}]\n",
    );
    let third = setup.file("third", good(&api, "not-chosen"));
    let list = [first, second, third].map(|path| path.display().to_string()).join(":");
    assert_eq!(bearer(&seen(setup.env("KUBECONFIG", &list), &api)), Some("chosen"));
}

#[test]
fn context_comes_from_the_option_then_the_variable_then_the_file() {
    let api = ApiServer::start();
    let text = format!(
        "current-context: a\nclusters: [{{name: c, cluster: {{server: '{}', certificate-authority: '{}'}}}}]\n\
         users: [{{name: a, user: {{token: a}}}}, {{name: b, user: {{token: b}}}}, {{name: c, user: {{token: c}}}}]\n\
         contexts: [{{name: a, context: {{cluster: c, user: a}}}}, {{name: b, context: {{cluster: c, user: b}}}}, {{name: c, context: {{cluster: c, user: c}}}}]\n",
        api.url(),
        tls::path("ca.pem").display()
    );
    let setup = || Setup::new().kubeconfig(&text);
    assert_eq!(bearer(&seen(setup(), &api)), Some("a"));
    assert_eq!(bearer(&seen(setup().env("KUBE_CONTEXT", "b"), &api)), Some("b"));
    assert_eq!(bearer(&seen(setup().env("KUBE_CONTEXT", "b").args(&["--context", "c"]), &api)), Some("c"));
    check_refused(setup().args(&["--context", "nowhere"]), &["nowhere", "context"]);
}

#[test]
fn relative_paths_start_at_the_file_of_their_entry() {
    let api = ApiServer::listen(&Listen { clients: ClientCerts::Verified, ..Listen::default() });
    let setup = Setup::new();
    setup.file("one/pki/ca.pem", tls::pem("ca.pem"));
    setup.file("two/client.pem", tls::pem("client-pkcs8.pem"));
    setup.file("two/client.key", tls::pem("client-pkcs8.key.pem"));
    let first = setup.file(
        "one/config",
        format!(
            "clusters: [{{name: test, cluster: {{server: '{}', certificate-authority: pki/ca.pem}}}}]\n",
            api.url()
        ),
    );
    let second = setup.file(
        "two/config",
        "current-context: test\ncontexts: [{name: test, context: {cluster: test, user: test}}]\n\
         users: [{name: test, user: {client-certificate: client.pem, client-key: ./client.key}}]\n",
    );
    let request = seen(setup.env("KUBECONFIG", &format!("{}:{}", first.display(), second.display())), &api);
    assert_eq!(request.client_chain, tls::der("client-pkcs8.pem"));
}

#[test]
fn missing_or_unreadable_file_is_named_with_its_kubeconfig_and_field() {
    let [cert, key] = ["client-pkcs8.pem", "client-pkcs8.key.pem"].map(tls::base64);
    // A folder cannot be read, not even by root.
    for path in ["no/file", "."] {
        for (field, user, cluster) in [
            (
                "clusters[test].cluster.certificate-authority",
                json!({}),
                json!({"certificate-authority": path, "certificate-authority-data": null}),
            ),
            (
                "users[test].user.client-certificate",
                json!({"client-certificate": path, "client-key-data": key}),
                json!({}),
            ),
            ("users[test].user.client-key", json!({"client-key": path, "client-certificate-data": cert}), json!({})),
            ("users[test].user.tokenFile", json!({"tokenFile": path}), json!({})),
        ] {
            let setup = Setup::new();
            let text = Kubeconfig::new("https://127.0.0.1:1").user(user).cluster(cluster).yaml();
            let config = setup.file("config", text);
            let named = setup.home().join(path).display().to_string();
            let line = format!("img-classification: kubeconfig {}: {field}: cannot read {named}: ", config.display());
            let refused = setup.args(&["--kubeconfig", config.to_str().unwrap()]).refused();
            assert!(refused.starts_with(&line), "{refused}\n{line}");
        }
    }
}

#[test]
fn relative_token_file_starts_at_its_kubeconfig() {
    let api = ApiServer::start();
    for relative in [true, false] {
        let setup = Setup::new();
        setup.file("deep/er/token", "of-file\n");
        let config = Kubeconfig::new(&api.url()).user(json!({"tokenFile": "er/token"}));
        let path = setup.file("deep/config", config.yaml());
        // The working directory of the server is its home folder.
        let path = if relative { "deep/config" } else { path.to_str().unwrap() };
        assert_eq!(bearer(&seen(setup.args(&["--kubeconfig", path]), &api)), Some("of-file"));
    }
}

#[test]
fn exec_command_with_a_slash_is_relative_and_without_one_looked_up_in_path() {
    let api = ApiServer::start();
    let exec = |command: &str| json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never", "command": command}});
    let setup = Setup::new();
    Plugin::printing(&setup.home().join("deep/bin"), "plugin", &json!({"token": "relative"}));
    let path = setup.file("deep/config", Kubeconfig::new(&api.url()).user(exec("bin/plugin")).yaml());
    assert_eq!(bearer(&seen(setup.args(&["--kubeconfig", path.to_str().unwrap()]), &api)), Some("relative"));

    let setup = Setup::new();
    Plugin::printing(&setup.home().join("bin"), "plugin", &json!({"token": "of-path"}));
    Plugin::printing(setup.home(), "plugin", &json!({"token": "beside-the-file"}));
    let path = format!("{}:{}", setup.home().join("bin").display(), std::env::var("PATH").unwrap());
    let setup = setup.env("PATH", &path).kubeconfig(Kubeconfig::new(&api.url()).user(exec("plugin")).yaml());
    assert_eq!(bearer(&seen(setup, &api)), Some("of-path"));
}
