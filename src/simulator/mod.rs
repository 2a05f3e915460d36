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
mod json_patch;
mod kubeconfig;
mod label_selector;
mod names;
mod pod_log;
mod protobuf;
mod quota;
mod rbac;
mod request;
mod resources;
mod response;
mod schema;
mod seed;
mod selector;
mod status;
mod store;
mod table;
mod training;
mod unsupported;
mod update;
mod validation;
mod watch;
mod write;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use cluster::Cluster;
use kubeconfig::Kubeconfig;

/// The reported version: the newest one whose rules are simulated.
const VERSION: &str = "v1.36.0-local";

/// The options of a simulated cluster.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Run time of a classifier, in seconds.
    pub job_seconds: u32,
    /// Number of nodes, each with enough CPU for one classifier.
    pub nodes: u16,
    /// Path of the kubeconfig, instead of a private folder below TMPDIR.
    pub kubeconfig: Option<PathBuf>,
}

/// A running simulated cluster; dropping it ends it.
pub struct Local {
    kubeconfig: Kubeconfig,
    address: SocketAddr,
    cluster: Arc<Cluster>,
}

impl Local {
    /// Starts the API on a free loopback port and writes a kubeconfig for it.
    ///
    /// # Errors
    /// The port, the kubeconfig, a thread or the certificate could not be created.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let certificate = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der()));
        let chain = vec![certificate.cert.der().clone()];
        let tls =
            ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).map_err(io::Error::other)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let token = store::hex::<16>();
        let kubeconfig = Kubeconfig::write(settings.kubeconfig.as_deref(), address, &certificate.cert.pem(), &token)?;
        let cluster = Arc::new(Cluster::new(settings, &token));
        let local = Self { kubeconfig, address, cluster: Arc::clone(&cluster) };
        let controlled = Arc::clone(&cluster);
        thread::Builder::new().name("sim-controllers".into()).spawn(move || controlled.run_controllers())?;
        thread::Builder::new()
            .name("sim-acceptor".into())
            .spawn(move || http::serve(&listener, &Arc::new(tls), &cluster))?;
        Ok(local)
    }

    /// The path of the kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        self.kubeconfig.path()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.cluster.close();
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
    }
}
