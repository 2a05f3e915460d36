//! Authentication to the cluster: the credential of the next request, and the exec plugins that provide one.

pub mod credential;
pub mod exec;
pub mod exec_cache;
