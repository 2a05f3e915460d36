//! Authentication to the cluster: a user's credential, from the kubeconfig, a token file or a credential plugin.

pub mod aws;
pub mod credential;
pub mod credentials;
pub mod eks;
pub mod exec;
pub mod exec_cache;
pub mod exec_process;
pub mod secret;
pub mod token_file;
pub mod user;
