//! The Kubernetes client: configuration, credentials, transport, retries and errors.

mod circuit_breaker;
mod credentials;
mod eks;
mod exec_plugin;
mod idempotency;
mod jobs;
mod kube_errors;
mod kubeconfig;
mod name_server;
mod transport;
