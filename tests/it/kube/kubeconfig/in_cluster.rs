//! The service account of a pod.

use super::{bearer, check_refused, seen};
use crate::support::api::ApiServer;
use crate::support::http::{Connection, read_line};
use crate::support::kubeconfig::TOKEN;
use crate::support::response::{Behavior, unauthorized};
use crate::support::server::Setup;
use crate::support::tls;
use std::io::BufReader;
use std::process::{Child, Command, Stdio};

#[test]
fn service_account_is_not_assumed_outside_a_cluster() {
    let setup = Setup::new().env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", "1");
    check_refused(setup, &["/var/run/secrets/kubernetes.io/serviceaccount"]);
}

#[test]
fn service_account_is_used_in_a_pod() {
    // A test can have files under /var/run/secrets only in its own mount namespace.
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
    let send =
        |method: &str, target: &str, body: Option<&[u8]>| Connection::open(address).request(method, target, body);
    let response = send("POST", "/img-classification/free", Some(br#"{"dataset":"mnist"}"#));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(bearer(&api.requests()[0]), Some("of-pod"));
    assert_eq!(send("GET", "/config", None).status, 200);
    // Kubernetes replaces the token long before it expires.
    std::fs::write(home.path().join("token"), "next\n").unwrap();
    api.script(|request| match bearer(request) {
        Some("next") => Behavior::Default,
        _ => unauthorized().into(),
    });
    assert_eq!(send("GET", "/readyz", None).status, 200);
}

fn permitted(flags: &[&str]) -> bool {
    let tried = Command::new("unshare").args(flags).args(["--", "mount", "-t", "tmpfs", "tmpfs", "/var/run"]).output();
    tried.is_ok_and(|end| end.status.success())
}

/// The server in a mount namespace; killed when dropped.
struct InPod(Child);

impl InPod {
    /// The lines on stderr up to the first one with this start.
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
        // The process may have exited already; an error needs no handling.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn kubeconfig_overrides_the_service_account() {
    let api = ApiServer::start();
    let setup = Setup::for_api(&api).env("KUBERNETES_SERVICE_HOST", "127.0.0.9").env("KUBERNETES_SERVICE_PORT", "1");
    assert_eq!(bearer(&seen(setup, &api)), Some(TOKEN));
}

#[test]
fn unreadable_default_kubeconfig_does_not_fall_back_to_the_service_account() {
    let setup = Setup::new();
    std::fs::create_dir_all(setup.home().join(".kube/config")).unwrap();
    let setup = setup.env("KUBERNETES_SERVICE_HOST", "127.0.0.1").env("KUBERNETES_SERVICE_PORT", "1");
    check_refused(setup, &[".kube/config"]);
}
