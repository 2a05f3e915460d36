//! Black-box tests of the built binary, by subject. One crate, so that the support code is compiled once.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "soak, resource_exhaustion and cluster use the other parts")]
mod support;

mod commands;
mod http;
mod kube;
mod metrics;
mod queue;
mod simulator;
mod state;
