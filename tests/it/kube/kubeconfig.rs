//! How kubeconfig files are found, merged and read, and how a broken one is refused.

use crate::support::answer::{Answer, unauthorized};
use crate::support::api::{ApiServer, Listen, Request};
use crate::support::http::{Connection, read_line};
use crate::support::kubeconfig::{Kubeconfig, TOKEN};
use crate::support::plugin::Plugin;
use crate::support::server::Setup;
use crate::support::tls::{self, Clients};
use serde_json::json;
use std::io::BufReader;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The request that a POST to the program causes at the API server.
fn seen(setup: Setup, api: &ApiServer) -> Request {
    let server = setup.start();
    let answer = server.post_job();
    assert_eq!(answer.status, 200, "{}\n{}", answer.text(), server.stderr());
    api.requests().pop().unwrap()
}

fn bearer(request: &Request) -> Option<&str> {
    request.header("Authorization").map(|value| value.strip_prefix("Bearer ").unwrap())
}

/// Refused with one line that has all these words in it.
fn check_refused(setup: Setup, words: &[&str]) {
    let line = setup.refused();
    for word in words {
        assert!(line.to_lowercase().contains(&word.to_lowercase()), "{word:?} is not in {line:?}");
    }
    assert!(!line.contains(TOKEN), "{line:?}");
}

fn good(api: &ApiServer, token: &str) -> String {
    Kubeconfig::new(&api.url()).user(json!({"token": token})).yaml()
}

#[test]
fn without_any_kubeconfig_it_does_not_start() {
    check_refused(Setup::new(), &["kubeconfig"]);
    check_refused(Setup::new().env("KUBECONFIG", ""), &["kubeconfig"]);
}

#[test]
fn outside_a_cluster_the_service_account_is_not_taken_for_granted() {
    let setup = Setup::new().env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", "1");
    check_refused(setup, &["/var/run/secrets/kubernetes.io/serviceaccount"]);
}

#[test]
fn in_a_pod_the_service_account_is_used() {
    // Only in a mount namespace of one's own can a test have files under /var/run/secrets.
    let isolated: &[&str] = if permitted(&["--mount"]) {
        &["--mount"]
    } else if permitted(&["--mount", "--map-root-user"]) {
        &["--mount", "--map-root-user"]
    } else {
        eprintln!("SKIPPED: in_a_pod_the_service_account_is_used: unshare --mount is not permitted here");
        return;
    };
    let api = ApiServer::start();
    let port = api.address().port().to_string();
    let home = tempfile::TempDir::new().unwrap();
    std::fs::write(home.path().join("token"), "of-pod\n").unwrap();
    let mounted = "mount -t tmpfs tmpfs /var/run && mkdir -p /var/run/secrets/kubernetes.io && \
                   ln -s \"$HOME\" /var/run/secrets/kubernetes.io/serviceaccount && exec \"$@\"";
    let start = || {
        let mut command = Command::new("unshare");
        command.args(isolated).args(["--", "sh", "-c", mounted, "sh", env!("CARGO_BIN_EXE_img-classification")]);
        command.args(["serve", "--listen", "127.0.0.1:0", "--log-level", "debug"]).env_clear();
        command.env("PATH", std::env::var("PATH").unwrap()).env("HOME", home.path());
        command.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", &port);
        InPod(crate::support::spawn(command.stdin(Stdio::null()).stderr(Stdio::piped())))
    };

    let mut without_ca = start();
    let line = without_ca.read_until("img-classification: ").pop().unwrap();
    assert!(line.contains("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"), "{line}");
    assert_eq!(without_ca.0.wait().unwrap().code(), Some(1));

    std::fs::copy(tls::path("ca.pem"), home.path().join("ca.crt")).unwrap();
    let mut pod = start();
    let lines = pod.read_until("listening on http://");
    assert!(!lines.concat().contains("of-pod"), "{lines:?}");
    let address = lines.last().unwrap().trim_start_matches("listening on http://").parse().unwrap();
    let ask = |method: &str, target: &str, body: Option<&[u8]>| Connection::open(address).request(method, target, body);
    let answer = ask("POST", "/img-classification/free", Some(br#"{"dataset":"mnist"}"#));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(bearer(&api.requests()[0]), Some("of-pod"));
    assert_eq!(ask("GET", "/config", None).status, 200);
    // Kubernetes replaces the token long before it ends.
    std::fs::write(home.path().join("token"), "next\n").unwrap();
    api.script(|request| match bearer(request) {
        Some("next") => Answer::Honest,
        _ => unauthorized().into(),
    });
    assert_eq!(ask("GET", "/readyz", None).status, 200);
}

fn permitted(flags: &[&str]) -> bool {
    let tried = Command::new("unshare").args(flags).args(["--", "mount", "-t", "tmpfs", "tmpfs", "/var/run"]).output();
    tried.is_ok_and(|end| end.status.success())
}

/// The program in a mount namespace; killed when dropped.
struct InPod(Child);

impl InPod {
    /// The lines of stderr up to the one that begins so.
    fn read_until(&mut self, start: &str) -> Vec<String> {
        let mut reader = BufReader::new(self.0.stderr.as_mut().unwrap());
        let mut lines: Vec<String> = Vec::new();
        while !lines.last().is_some_and(|line| line.starts_with(start)) {
            let line = read_line(&mut reader);
            lines.push(line.unwrap_or_else(|error| panic!("{error} after {lines:?}")));
        }
        lines
    }
}

impl Drop for InPod {
    fn drop(&mut self) {
        // The process may have ended already; either way there is nothing left to do about an error.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_kubeconfig_beats_the_in_cluster_account() {
    let api = ApiServer::start();
    let setup = Setup::for_api(&api).env("KUBERNETES_SERVICE_HOST", "127.0.0.9").env("KUBERNETES_SERVICE_PORT", "1");
    assert_eq!(bearer(&seen(setup, &api)), Some(TOKEN));
}

#[test]
fn the_file_is_taken_from_the_flag_then_the_environment_then_the_home_folder() {
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
fn missing_files_and_empty_elements_of_the_list_are_skipped() {
    let api = ApiServer::start();
    let setup = Setup::new();
    let path = setup.file("good", good(&api, "found"));
    let list = format!(":/nowhere/at/all::{}:", path.display());
    assert_eq!(bearer(&seen(setup.env("KUBECONFIG", &list), &api)), Some("found"));
}

#[test]
fn a_list_of_nothing_but_missing_files_is_refused_by_name() {
    check_refused(Setup::new().env("KUBECONFIG", "/nowhere/a:/nowhere/b"), &["/nowhere/a"]);
}

#[test]
fn a_file_of_the_list_that_is_there_but_unreadable_is_never_skipped() {
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
fn an_unreadable_file_in_the_home_folder_does_not_lead_to_the_in_cluster_account() {
    let setup = Setup::new();
    std::fs::create_dir_all(setup.home().join(".kube/config")).unwrap();
    let setup = setup.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", "1");
    check_refused(setup, &[".kube/config"]);
}

#[test]
fn the_first_file_wins_whole_entry_by_whole_entry() {
    let api = ApiServer::start();
    let setup = Setup::new();
    // The first file has the user and says nothing of the rest; the second has another user of that name.
    let first = setup.file("first", "current-context: ''\nusers: [{name: test, user: {token: first}}]\n");
    let second =
        setup.file("second", Kubeconfig::new(&api.url()).user(json!({"token": "second", "as": "somebody"})).yaml());
    let request = seen(setup.env("KUBECONFIG", &format!("{}:{}", first.display(), second.display())), &api);
    assert_eq!(bearer(&request), Some("first"));
    assert_eq!(request.header("Impersonate-User"), None, "a field of the second file's entry was mixed in");
}

#[test]
fn the_current_context_is_the_first_that_is_not_empty() {
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
fn the_context_is_taken_from_the_flag_then_the_environment_then_the_file() {
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
fn relative_paths_start_at_the_file_that_defined_the_entry() {
    let api = ApiServer::listen(&Listen { clients: Clients::Checked, ..Listen::default() });
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
fn a_relative_token_file_starts_at_its_kubeconfig_too() {
    let api = ApiServer::start();
    for relative in [true, false] {
        let setup = Setup::new();
        setup.file("deep/er/token", "of-file\n");
        let config = Kubeconfig::new(&api.url()).user(json!({"tokenFile": "er/token"}));
        let path = setup.file("deep/config", config.yaml());
        // The program runs in its home folder.
        let path = if relative { "deep/config" } else { path.to_str().unwrap() };
        assert_eq!(bearer(&seen(setup.args(&["--kubeconfig", path]), &api)), Some("of-file"));
    }
}

#[test]
fn an_exec_command_with_a_separator_is_relative_and_a_bare_one_is_looked_up_in_path() {
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

#[test]
fn every_form_that_kubectl_reads_is_read() {
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
        let answer = server.post_job();
        assert_eq!(answer.status, 200, "{form}: {}", answer.text());
        assert_eq!(bearer(&api.requests().pop().unwrap()), Some(TOKEN), "{form}");
    }
}

#[test]
fn null_lists_beside_a_file_with_the_entries_are_valid() {
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
fn broken_entries_that_nothing_refers_to_are_ignored() {
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
fn a_broken_file_is_refused_with_its_name_and_the_noun() {
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
        // Where another file is the trouble, naming that one is enough.
        if !line.contains(&path) && !line.contains("/lost.pem") {
            missing.push(format!("the file is not named in {line:?} for {text:?}"));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn files_that_are_none_are_refused_by_name() {
    check_refused(Setup::new().args(&["--kubeconfig", "/nowhere/at/all"]), &["/nowhere/at/all"]);
    check_refused(Setup::new().args(&["--kubeconfig", "/proc"]), &["/proc"]);
    check_refused(Setup::new().kubeconfig(b"\xff\xfe\x00c\x00o"), &["kubeconfig"]);
}

#[test]
fn a_huge_file_is_refused_soon() {
    let start = Instant::now();
    let setup = Setup::new();
    let path = setup.file("huge", "");
    std::fs::File::options().write(true).open(&path).unwrap().set_len(1 << 28).unwrap();
    check_refused(setup.args(&["--kubeconfig", path.to_str().unwrap()]), &["huge"]);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn the_same_name_twice_in_one_list_is_an_error() {
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
fn names_cannot_write_lines_of_their_own_at_start() {
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
        server.wait_for_log("of the POST", |line| line.starts_with("POST "));
        let log = server.stderr();
        assert_eq!(log.lines().filter(|line| line.starts_with("listening on ")).count(), 1, "{log}");
        for line in log.lines() {
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line:?}");
        }
    }
    // The same where the start fails: `refused` sees to it that it is one line.
    for broken in [text.replace("\"cluster\":{", "\"lost\":{"), text.replace("\"server\":\"https", "\"server\":\"ftp")]
    {
        let line = Setup::new().kubeconfig(broken).refused();
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line:?}");
    }
}

#[test]
fn an_alias_bomb_is_refused_soon() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let before = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    text.push_str("current-context: x\nusers: *a11\n");
    let start = Instant::now();
    Setup::new().kubeconfig(text).refused();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow() {
    let text = format!("current-context: x\nextensions: {}{}\n", "[".repeat(5000), "]".repeat(5000));
    Setup::new().kubeconfig(text).refused();
}

#[test]
fn no_refusal_shows_a_secret() {
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
