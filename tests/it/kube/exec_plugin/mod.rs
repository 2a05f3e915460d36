//! Credential plugins: input, output, caching and failures.

mod cache;
mod config;
mod failures;
mod processes;

use crate::support::api::{ApiServer, Request};
use crate::support::http::Response;
use crate::support::kubeconfig::Kubeconfig;
use crate::support::plugin::{Plugin, credential};
use crate::support::server::{Server, Setup};
use serde_json::Value;

const SECRET: &str = "s3cr3t-0f-plugin";

/// A running server whose user is a plugin with this script, its API server, and the plugin.
fn started(body: &str) -> (ApiServer, Server, Plugin) {
    let api = ApiServer::start();
    let setup = Setup::new();
    let plugin = Plugin::write(setup.home(), "plugin", body);
    let server = with_user(setup, &api, plugin.user()).start();
    (api, server, plugin)
}

fn with_user(setup: Setup, api: &ApiServer, user: Value) -> Setup {
    setup.kubeconfig(Kubeconfig::new(&api.url()).user(user).yaml()).args(&["--kube-timeout", "5"])
}

/// A script that prints this ExecCredential status.
fn print(status: &Value) -> String {
    format!("echo '{}'", credential("v1", status))
}

fn check_post(server: &Server) {
    let response = server.post_job();
    assert_eq!(response.status, 200, "{}\n{}", response.text(), server.stderr());
}

fn authorization(request: &Request) -> Option<&str> {
    request.header("Authorization")
}

/// Checks an error response: no request has reached Kubernetes, and no stdout of the plugin appears anywhere.
fn check_failure(api: &ApiServer, server: &Server) -> Response {
    let response = server.post_job();
    assert!((502..=504).contains(&response.status), "{} {}", response.status, response.text());
    response.error();
    assert_eq!(api.requests().len(), 0);
    assert!(!response.text().contains(SECRET), "{}", response.text());
    let log = server.log_until_now();
    assert!(!log.contains(SECRET), "{log}");
    response
}
