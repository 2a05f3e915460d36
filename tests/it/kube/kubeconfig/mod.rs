//! Kubeconfig files: search, merge, syntax and errors.

mod files;
mod in_cluster;
mod syntax;

use crate::support::api::{ApiServer, Request};
use crate::support::kubeconfig::{Kubeconfig, TOKEN};
use crate::support::server::Setup;
use serde_json::json;

/// Returns the Kubernetes request of one POST.
fn seen(setup: Setup, api: &ApiServer) -> Request {
    let server = setup.start();
    let response = server.post_job();
    assert_eq!(response.status, 200, "{}\n{}", response.text(), server.stderr());
    api.requests().pop().unwrap()
}

fn bearer(request: &Request) -> Option<&str> {
    request.header("Authorization").map(|value| value.strip_prefix("Bearer ").unwrap())
}

/// Checks that the start fails with one line that contains all these words.
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
