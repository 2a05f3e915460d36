//! The cluster's configuration, from kubeconfig files, the in-cluster service account and the environment.

pub mod cluster;
pub mod field;
mod in_cluster;
mod kubeconfig;
pub mod load;
mod user;
pub mod write;
