//! What src/kube/mod.rs is to the program: the same modules, but the files that a kubeconfig may name are four that never
//! change. Whatever text a fuzzer makes up, no other file is opened.

#[path = "../../src/kube/address.rs"]
mod address;
#[path = "../../src/kube/auth.rs"]
mod auth;
#[path = "../../src/kube/circuit.rs"]
mod circuit;
#[path = "../../src/kube/client.rs"]
mod client;
#[path = "../../src/kube/connect.rs"]
mod connect;
#[path = "../../src/kube/error.rs"]
mod error;
#[path = "../../src/kube/exec.rs"]
mod exec;
#[path = "../../src/kube/kubeconfig.rs"]
mod kubeconfig;
#[path = "../../src/kube/plugin.rs"]
mod plugin;
#[path = "../../src/kube/protobuf.rs"]
pub mod protobuf;
#[path = "../../src/kube/proxy.rs"]
mod proxy;
#[path = "../../src/kube/tls.rs"]
mod tls;
#[path = "../../src/kube/types.rs"]
mod types;
#[path = "../../src/kube/user.rs"]
mod user;
#[path = "../../src/kube/watch.rs"]
mod watch;
#[path = "../../src/kube/watched.rs"]
mod watched;
#[path = "../../src/kube/yaml.rs"]
mod yaml;

pub use client::Client;
pub use error::{ConfigError, CredentialError, Error, Status, TlsError, chain};
pub use kubeconfig::{Cluster, Sources};
pub use types::{Pod, read_pod_list};
pub use watch::News;
pub use watched::{JobState, Watched};

use std::io;
use std::path::Path;

/// The folder of the kubeconfig that is fuzzed; the files below are there, too, for who asks whether they exist.
pub const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data");

/// The content of the files in [`FOLDER`].
const FILES: [(&str, &[u8]); 4] = [
    ("ca.pem", include_bytes!("../data/ca.pem")),
    ("client.pem", include_bytes!("../data/client.pem")),
    ("client.key", include_bytes!("../data/client.key")),
    ("token", include_bytes!("../data/token")),
];

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let name = path.strip_prefix(FOLDER).ok().and_then(Path::to_str);
    let found = FILES.iter().find(|(known, _)| Some(*known) == name);
    found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_file(path)?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}
