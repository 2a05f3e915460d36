//! The Kubernetes API, as far as this program needs it: who we are, where the cluster is, and its calls.
//!
//! ureq, rustls and YAML are named in this folder only, and nothing here imports from outside it. It holds no policy of
//! the service: no tiers, no quotas, no HTTP statuses of ours.
//!
//! What holds for every call made through [`Client`]:
//! - it ends by its deadline, retries and a credential refresh included;
//! - a create is repeated under the same name only, so that a lost reply never makes a second object;
//! - a list is whole or an error;
//! - no error text holds a token, a key, or what a credential plugin printed.

pub mod quantity;

mod auth;
mod client;
mod config;
mod error;
mod files;
mod transport;
mod types;
mod watch;
mod yaml;

pub use client::Client;
pub use client::dynamic::Operation;
pub use config::cluster::Cluster;
pub use config::load::Sources;
pub use error::{ConfigError, CredentialError, Error, Status, TlsError, chain};
pub use types::job::{Job, JobState};
pub use types::pod::Pod;
pub use types::quota::Quota;
#[cfg(test)]
pub use types::watched::WatchedObject;
pub use watch::event::WatchEvent;
pub use yaml::documents;
