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
mod transport;
mod types;
mod watch;
mod yaml;

pub use client::Client;
pub use client::dynamic::Verb;
pub use config::kubeconfig::{Cluster, Sources};
pub use error::{ConfigError, CredentialError, Error, Status, TlsError, chain};
pub use types::job::{JobState, Watched};
pub use types::pod::Pod;
pub use watch::watcher::News;
pub use yaml::documents;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Longest file that is read, in bytes: a kubeconfig with a hundred clusters has 500 KB.
const FILE_LIMIT: u64 = 4 * 1024 * 1024;

/// Reads a kubeconfig, a certificate, a key or a token.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has over 4 MiB"));
    }
    Ok(bytes)
}

fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_file(path)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}
