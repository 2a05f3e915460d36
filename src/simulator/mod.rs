//! The simulated cluster of `serve --local`: the part of Kubernetes' API that this program and its users need, in memory.
//!
//! No container runs. A pod is Pending, then Running for a configured time, then Succeeded; its log resembles the classifier's.
//! The tag of a pod's image changes its course: `long` runs until it is deleted, `fails` ends with exit code 1, `missing` cannot
//! be pulled. Quotas, scheduling, backoff, roles and error messages follow Kubernetes' rules as far as clients can observe them.
//!
//! The rest of the program does not depend on it and reaches it over TLS, through the kubeconfig that is written here.

mod api;
mod cluster;
mod controllers;
mod delete_options;
mod folder;
mod http;
mod identity;
mod label_selector;
mod names;
mod pod_log;
mod protobuf;
mod quota;
mod rbac;
mod request;
mod resources;
mod response;
mod seed;
mod selector;
mod status;
mod store;
mod table;
mod training;
mod update;
mod validation;
mod watch;
mod write;

use std::fs;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use cluster::Cluster;
use folder::Folder;

/// The reported version: the newest one whose rules are simulated.
const VERSION: &str = "v1.36.0-local";

/// The options of a simulated cluster.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Run time of a classifier, in seconds.
    pub job_seconds: u32,
    /// Number of nodes, each with enough CPU for one classifier.
    pub nodes: u16,
}

/// A running simulated cluster; dropping it ends it.
pub struct Local {
    /// Contains the kubeconfig.
    _folder: Folder,
    kubeconfig: PathBuf,
    address: SocketAddr,
    cluster: Arc<Cluster>,
}

impl Local {
    /// Starts the API on a free loopback port and writes a kubeconfig for it into a new private folder below TMPDIR.
    ///
    /// # Errors
    /// The port, the folder, a thread or the certificate could not be created.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let certificate = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der()));
        let chain = vec![certificate.cert.der().clone()];
        let tls =
            ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).map_err(io::Error::other)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let token = store::hex::<16>();
        let folder = Folder::create()?;
        let cluster = Arc::new(Cluster::new(settings, &token));
        let kubeconfig = folder.path().join("kubeconfig");
        let local = Self { _folder: folder, kubeconfig, address, cluster: Arc::clone(&cluster) };
        local.write_kubeconfig(&certificate.cert.pem(), &token)?;
        let controlled = Arc::clone(&cluster);
        thread::Builder::new().name("sim-controllers".into()).spawn(move || controlled.run_controllers())?;
        thread::Builder::new()
            .name("sim-acceptor".into())
            .spawn(move || http::serve(&listener, &Arc::new(tls), &cluster))?;
        Ok(local)
    }

    /// The path of the kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn write_kubeconfig(&self, ca: &str, token: &str) -> io::Result<()> {
        let (address, ca) = (self.address, STANDARD.encode(ca));
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.kubeconfig)?;
        write!(
            file,
            "apiVersion: v1\nkind: Config\ncurrent-context: local\n\
             contexts: [{{name: local, context: {{cluster: local, user: local}}}}]\n\
             clusters: [{{name: local, cluster: {{server: \"https://{address}\", certificate-authority-data: {ca}}}}}]\n\
             users: [{{name: local, user: {{token: {token}}}}}]\n"
        )
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.cluster.close();
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
    }
}
