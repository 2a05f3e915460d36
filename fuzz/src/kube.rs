//! The modules of src/kube for the fuzz targets, with one replacement: only four constant files exist. A fuzzed
//! kubeconfig can open no other file.

#[path = "../../src/kube/address.rs"]
mod address;
#[path = "../../src/kube/agent.rs"]
mod agent;
#[path = "../../src/kube/auth/mod.rs"]
mod auth;
#[path = "../../src/kube/client/mod.rs"]
mod client;
#[path = "../../src/kube/config/mod.rs"]
mod config;
#[path = "../../src/kube/error.rs"]
mod error;
#[path = "../../src/kube/proxy.rs"]
mod proxy;
#[path = "../../src/kube/quantity.rs"]
pub mod quantity;
#[path = "../../src/kube/time.rs"]
mod time;
#[path = "../../src/kube/transport/mod.rs"]
mod transport;
#[path = "../../src/kube/types/mod.rs"]
pub mod types;
#[path = "../../src/kube/watch/mod.rs"]
mod watch;
#[path = "../../src/kube/yaml.rs"]
mod yaml;

pub use client::log_stream::{IsRunning, LogStream};
pub use client::retry::{exponential, random_fraction};
pub use client::{Client, Created};
pub use config::cluster::Cluster;
pub use config::load::Sources;
pub use error::{ConfigError, CredentialError, Error, Status, TlsError, chain};
pub use types::job::{Job, JobState};
pub use types::job_pod::{ContainerStatus, JobPod};
pub use types::pod::{Pod, read_pod_list};
pub use types::protobuf;
pub use types::quota::Quota;
pub use watch::event::WatchEvent;

/// The folder of the kubeconfig that is fuzzed. The files below exist in it as well, for tests of their existence.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data");

/// Replaces src/kube/files.rs.
mod files {
    use std::io;
    use std::path::Path;

    use super::FOLDER;

    /// The content of the files in [`FOLDER`].
    const FILES: [(&str, &[u8]); 4] = [
        ("ca.pem", include_bytes!("../data/ca.pem")),
        ("client.pem", include_bytes!("../data/client.pem")),
        ("client.key", include_bytes!("../data/client.key")),
        ("token", include_bytes!("../data/token")),
    ];

    pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
        let name = path.strip_prefix(FOLDER).ok().and_then(Path::to_str);
        let found = FILES.iter().find(|(known, _)| Some(*known) == name);
        found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
        read_file(path)
    }

    pub fn read_regular_text(path: &Path) -> io::Result<String> {
        read_text(path)
    }

    pub fn read_text(path: &Path) -> io::Result<String> {
        String::from_utf8(read_file(path)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not valid UTF-8"))
    }
}
