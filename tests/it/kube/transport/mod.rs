//! The transport to the API server: names, certificates, addresses, proxies.

mod proxy;
mod server_address;

use crate::support::api::{ApiServer, Listen, Request};
use crate::support::http::Response;
use crate::support::kubeconfig::Kubeconfig;
use crate::support::server::{Server, Setup};
use serde_json::Value;

/// A kubeconfig for `api` with these fields of its cluster.
fn with(api: &ApiServer, cluster: Value) -> Setup {
    Setup::new().kubeconfig(Kubeconfig::new(&api.url()).cluster(cluster).yaml())
}

/// Returns the Kubernetes request of one POST.
fn seen(setup: Setup, api: &ApiServer) -> Request {
    let server = setup.start();
    let response = server.post_job();
    assert_eq!(response.status, 200, "{}\n{}", response.text(), server.stderr());
    api.requests().pop().unwrap()
}

/// Sends one request to the server.
type Operation = fn(&Server) -> Response;

const OPERATIONS: [(&str, Operation); 3] = [
    ("POST", Server::post_job),
    ("/config", |server| server.get("/config")),
    ("/readyz", |server| server.get("/readyz")),
];

/// Starts a server that cannot reach Kubernetes; returns the status and the log of a POST.
fn failing(setup: Setup, api: &ApiServer) -> (u16, String) {
    let server = setup.start();
    let response = server.post_job();
    response.error();
    assert_eq!(api.requests().len(), 0);
    (response.status, server.log_until_now())
}

fn named(identity: &str) -> ApiServer {
    ApiServer::listen(&Listen { identity: Some(identity), ..Listen::default() })
}
