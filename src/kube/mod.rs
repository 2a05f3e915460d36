//! The Kubernetes API: the cluster's configuration, the credential, and the operations that this program uses.
//!
//! Only this folder names rustls and serde_yaml. It imports only the leaf `metrics` from outside itself and contains
//! no policy of the service: no tiers and no HTTP statuses of our API.
//!
//! Guarantees for every operation of [`Client`]:
//! - It ends by its deadline, retries and a credential refresh included.
//! - A create is retried under the same name only, so that a lost response never causes a second object.
//! - A list is complete or an error.
//! - No error text contains a token, a key or a credential plugin's stdout.

pub mod quantity;
pub mod time;

mod address;
mod agent;
mod auth;
mod client;
mod config;
mod eks_kubeconfig;
mod error;
mod files;
mod proxy;
mod transport;
mod types;
mod watch;
mod yaml;

pub use agent::{direct_agent, is_address};
pub use auth::aws::AwsError;
pub use auth::eks::EksReport;
pub use client::dynamic::Operation;
pub use client::log_stream::{IsRunning, LogStream};
pub use client::retry::{exponential, jitter, random_fraction};
pub use client::{Client, Created};
pub use config::cluster::Cluster;
pub use config::load::Sources;
pub use eks_kubeconfig::{EksKubeconfigError, write_eks_kubeconfig};
pub use error::{ConfigError, CredentialError, Error, Status, TlsError, chain};
pub use transport::connect::{cause, is_not_connected};
pub use types::job::{Job, JobState};
pub use types::job_pod::{ContainerStatus, JobPod};
pub use types::pod::Pod;
pub use types::quota::Quota;
#[cfg(test)]
pub use types::watched::WatchedObject;
pub use watch::event::WatchEvent;
pub use yaml::documents;
