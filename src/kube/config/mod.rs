//! kubeconfig files and the environment, read into a `Cluster`.

pub mod address;
pub mod field;
pub mod kubeconfig;
pub mod proxy;
pub mod user;
