//! The Kubernetes client of one command. It closes when the command ends or a signal ends the process, which also ends a
//! credential plugin that still runs. `serve` stops its client itself.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use super::error::CommandError;
use super::signals;
use crate::cli::{Access, Env};
use crate::kube::{Client, Cluster, ConfigError, Sources, TlsError};

/// Pooled connections: a command sends one request at a time.
const CONNECTIONS: usize = 1;

/// A client that closes itself when dropped. The lock is held while a signal ends the process.
pub struct ScopedClient(Arc<Client>, Arc<Mutex<()>>);

impl ScopedClient {
    /// Creates a client of `cluster`, as [`Client::new`] does. `access` holds the time limit of an operation.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn new(cluster: Cluster, access: &Access) -> Result<Self, TlsError> {
        let client = Arc::new(Client::new(cluster, access.kube_timeout, CONNECTIONS)?);
        let ending = close_on_signals(&client);
        Ok(Self(client, ending))
    }

    /// Creates a client of the cluster of `access`.
    ///
    /// # Errors
    /// [`CommandError::Config`] or [`CommandError::Tls`]
    pub fn connect(access: &Access, env: Env<'_>) -> Result<Self, CommandError> {
        Self::new(load(access, env).map_err(CommandError::Config)?, access).map_err(CommandError::Tls)
    }
}

/// Loads the cluster that the options and the kubeconfig name.
///
/// # Errors
/// [`ConfigError`]
pub fn load(access: &Access, env: Env<'_>) -> Result<Cluster, ConfigError> {
    let (file, context) = (access.kubeconfig.clone(), access.context.clone());
    Cluster::load(&Sources { file, context, env, native_eks: access.native_eks })
}

impl Deref for ScopedClient {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

impl Drop for ScopedClient {
    fn drop(&mut self) {
        // The closed client fails the command, which must not exit before the signal ends the process.
        let _ending = self.1.lock();
        self.0.close();
    }
}

/// Closes the client before a signal ends the process: a plugin has a process group of its own, so Ctrl-C does not reach it.
/// Without a signal handler or a thread the command works, and a signal may leave a plugin behind.
fn close_on_signals(client: &Arc<Client>) -> Arc<Mutex<()>> {
    let ending = Arc::<Mutex<()>>::default();
    let (client, lock) = (Arc::clone(client), Arc::clone(&ending));
    signals::before_end(move |end| {
        let _ending = lock.lock();
        client.close();
        end();
    });
    ending
}
