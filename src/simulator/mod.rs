//! The embedded cluster of `serve --local`: the part of Kubernetes' API that this program and its users touch, in memory.
//!
//! It simulates: no container is run. A pod is Pending, then Running for as long as an option says, then Succeeded; its
//! log reads like the classifier's. What a pod's image is called decides what becomes of it: a tag `long` runs until it is
//! deleted, `fails` ends with exit code 1, `missing` cannot be pulled. Quotas, scheduling, back-off, roles and refusals are
//! Kubernetes' own rules, as far as they are seen from outside.
//!
//! The rest of the program does not know of it: it is reached over TLS by the kubeconfig that is written here.

mod api;
mod controllers;
mod http;
mod protobuf;
mod quota;
mod rbac;
mod resources;
mod seed;
mod store;
mod table;
mod write;

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use controllers::{Clock, Round};
use rbac::User;
use store::Store;

/// The version that it says it is: the newest whose rules are played.
const VERSION: &str = "v1.36.0-local";

/// Tokens of service accounts that are known at a time; the oldest goes first.
const TOKENS_MOST: usize = 1000;

/// Longest sleep of the controllers; a change wakes them.
const ROUND: Duration = Duration::from_secs(60);

/// Pause of the controllers after a fault of ours, so that it does not keep the processor busy.
const AFTER_FAULT: Duration = Duration::from_secs(1);

/// How the embedded cluster is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Seconds that a classifier seems to run.
    pub job_seconds: u32,
    /// Nodes, each with room for one classifier.
    pub nodes: u16,
}

/// A running cluster; it ends when this is dropped.
pub struct Local {
    folder: PathBuf,
    kubeconfig: PathBuf,
    address: std::net::SocketAddr,
    cluster: Arc<Cluster>,
}

impl Local {
    /// Starts the API on a loopback port of its own, and writes a kubeconfig for it into a new private folder.
    ///
    /// # Errors
    /// No port, no folder, no thread, no certificate.
    pub fn start(settings: &Settings) -> io::Result<Self> {
        let certificate = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).map_err(io::Error::other)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certificate.signing_key.serialize_der()));
        let chain = vec![certificate.cert.der().clone()];
        let tls =
            ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).map_err(io::Error::other)?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let token = store::hex::<16>();
        let folder = std::env::temp_dir().join(format!("img-classification-local-{}", store::hex::<8>()));
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let cluster = Arc::new(Cluster::new(settings, &token));
        // From here on the folder goes with it.
        let local = Self { kubeconfig: folder.join("kubeconfig"), folder, address, cluster: Arc::clone(&cluster) };
        let ca = STANDARD.encode(certificate.cert.pem());
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&local.kubeconfig)?;
        write!(
            file,
            "apiVersion: v1\nkind: Config\ncurrent-context: local\n\
             contexts: [{{name: local, context: {{cluster: local, user: local}}}}]\n\
             clusters: [{{name: local, cluster: {{server: \"https://{address}\", certificate-authority-data: {ca}}}}}]\n\
             users: [{{name: local, user: {{token: {token}}}}}]\n"
        )?;
        let controlled = Arc::clone(&cluster);
        thread::Builder::new().name("controllers".into()).spawn(move || controlled.control())?;
        thread::Builder::new()
            .name("local-api".into())
            .spawn(move || http::serve(&listener, &Arc::new(tls), &cluster))?;
        Ok(local)
    }

    /// The file for it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.cluster.closed.store(true, Ordering::SeqCst);
        self.cluster.ring();
        // Wakes the one that accepts.
        let _ = TcpStream::connect(self.address);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What the threads share.
pub struct Cluster {
    store: Mutex<Store>,
    changed: Condvar,
    closed: AtomicBool,
    tokens: Mutex<VecDeque<(String, User)>>,
    admin: (String, User),
    job_time: Duration,
}

impl Cluster {
    fn new(settings: &Settings, token: &str) -> Self {
        let mut store = Store::default();
        seed::fill(&mut store, settings.nodes);
        let admin = (token.to_owned(), User::named("local-admin", &["system:masters".to_owned()]));
        let job_time = Duration::from_secs(settings.job_seconds.into());
        let (store, tokens) = (Mutex::new(store), Mutex::default());
        Self { store, changed: Condvar::new(), closed: AtomicBool::new(false), tokens, admin, job_time }
    }

    /// The objects. A thread that panicked left none half done: they are replaced whole.
    fn lock(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits for a change.
    fn ring(&self) {
        self.changed.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// The objects once they are of a later version, or at `deadline`; none when the cluster ends.
    fn wait(&self, version: u64, deadline: Instant) -> Option<MutexGuard<'_, Store>> {
        let mut store = self.lock();
        while store.version() == version && !self.is_closed() && Instant::now() < deadline {
            let left = deadline.saturating_duration_since(Instant::now());
            store = self.changed.wait_timeout(store, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        (!self.is_closed()).then_some(store)
    }

    /// Does what a cluster does by itself, until it ends.
    fn control(&self) {
        let (mut clock, mut version, mut due) = (Clock::default(), 0, Instant::now());
        while let Some(mut store) = self.wait(version, due) {
            // A fault of ours must not be the end of the cluster: the next round begins anew.
            let round = AssertUnwindSafe(|| Round::new(&mut store, &mut clock, self.job_time).run());
            let next = catch_unwind(round).unwrap_or_else(|_| Some(Instant::now() + AFTER_FAULT));
            due = next.unwrap_or_else(|| Instant::now() + ROUND);
            // What it has just changed may be the next one's work.
            if store.version() != version {
                due = Instant::now();
            }
            version = store.version();
            drop(store);
            self.ring();
        }
    }

    /// Whose token this is.
    fn user(&self, token: &str) -> Option<User> {
        if token == self.admin.0 {
            return Some(self.admin.1.clone());
        }
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.iter().find(|(known, _)| known == token).map(|(_, user)| user.clone())
    }

    /// A new token for a user.
    fn issue(&self, user: &str) -> String {
        let token = store::hex::<16>();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.push_back((token.clone(), User::named(user, &[])));
        if tokens.len() > TOKENS_MOST {
            tokens.pop_front();
        }
        token
    }
}
