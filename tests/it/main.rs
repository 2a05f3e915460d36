//! Black-box tests of the built binary, by subject. One crate, so that the support code is compiled once.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "soak, resource_exhaustion and cluster use the other parts")]
mod support;

mod commands {
    mod cli;
    mod doctor;
    mod setup_clean_selftest;
    mod systemd;
}
mod http {
    mod http_protocol;
    mod rate_limit_auth;
    mod routes;
    mod single_flight;
}
mod kube {
    mod circuit_breaker;
    mod credentials;
    mod exec_plugin;
    mod jobs;
    mod kube_errors;
    mod kubeconfig;
    mod transport;
}
mod queue {
    mod requeue;
}
mod simulator {
    mod cluster;
}
