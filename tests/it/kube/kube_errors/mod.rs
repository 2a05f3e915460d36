//! Responses to callers, and Jobs left in Kubernetes, when Kubernetes or the connection to it fails.

mod broken_responses;
mod connection_reuse;
mod deadlines;
mod retries;
mod statuses;

use crate::support::api::{ApiServer, Request};
use crate::support::http::Response;
use crate::support::kubeconfig::TOKEN;
use crate::support::server::{Server, Setup};

/// A server with this --kube-timeout in seconds, and its API server.
pub fn started(kube_timeout: u32) -> (ApiServer, Server) {
    let api = ApiServer::start();
    let server = Setup::for_api(&api).args(&["--kube-timeout", &kube_timeout.to_string()]).start();
    (api, server)
}

pub fn check_retry_after(response: &Response) {
    let seconds = response.header("Retry-After").expect("Retry-After").parse::<u32>().expect("Retry-After in seconds");
    assert!((1..=3600).contains(&seconds), "{seconds}");
}

fn creates(api: &ApiServer) -> Vec<Request> {
    api.requests().into_iter().filter(Request::is_create).collect()
}

/// Checks an error sentence for clients: no secret, no address of the control plane, no code trace.
pub fn check_sentence(response: &Response) -> String {
    let sentence = response.error();
    for forbidden in [TOKEN, "Bearer", "panicked", ".rs:", "<html", "Err("] {
        assert!(!sentence.contains(forbidden), "{forbidden:?} in {sentence:?}");
    }
    sentence
}
