//! The client side: how the server reaches Kubernetes, and what it makes of its responses.

mod circuit_breaker;
mod credentials;
mod exec_plugin;
mod jobs;
mod kube_errors;
mod kubeconfig;
mod transport;
