//! A client for somebody who waits at a terminal: it asks one thing at a time, and a credential plugin that is still running
//! ends with the command, however that ends. (The server has its own way to stop.)

use std::ops::Deref;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::commands::signals;
use crate::kube::{Client, Cluster, TlsError};

/// Connections that are kept: a command asks one thing at a time.
const CONNECTIONS: usize = 1;

/// A client that closes itself.
pub struct Attended(Arc<Client>);

impl Attended {
    /// As [`Client::new`].
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn new(cluster: Cluster, timeout: Duration) -> Result<Self, TlsError> {
        let client = Arc::new(Client::new(cluster, timeout, CONNECTIONS)?);
        close_on_signals(&client);
        Ok(Self(client))
    }
}

impl Deref for Attended {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.0
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A plugin is in a process group of its own, so that Ctrl-C at the terminal does not reach it. Without signals or threads
/// the command works all the same.
fn close_on_signals(client: &Arc<Client>) {
    let Ok(mut signals) = Signals::new(signals::ending()) else { return };
    let client = Arc::clone(client);
    let wait = move || {
        if let Some(signal) = signals.forever().next() {
            client.close();
            // The end is that of a program that does not know the signal.
            let _ = emulate_default_handler(signal);
        }
    };
    let _ = thread::Builder::new().name("signals".into()).spawn(wait);
}
