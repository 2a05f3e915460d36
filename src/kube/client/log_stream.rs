//! The log of a pod's container, as a stream.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ureq::{Agent, BodyReader};

use crate::kube::client::Client;
use crate::kube::client::attempt::Attempt;
use crate::kube::client::response::{read_error, tls_error};
use crate::kube::client::stats::Verb;
use crate::kube::error::{Error, chain};

/// Returns true while the container of a silent log runs.
pub type IsRunning = Box<dyn Fn() -> bool + Send>;

/// A log that is read as it arrives.
pub struct LogStream {
    client: Arc<Client>,
    /// Connections of its own, so that a shutdown ends no other request.
    agent: Agent,
    is_stopped: Arc<AtomicBool>,
    path: String,
    /// `None` until the log is opened.
    body: Option<BodyReader<'static>>,
    /// Tells, after a silence of the client's timeout, whether to wait on.
    is_running: IsRunning,
}

impl LogStream {
    /// Returns the log at `path`, which has a query, without a request.
    ///
    /// # Errors
    /// [`Error`] without a credential by `deadline`.
    pub fn new(client: &Arc<Client>, path: String, deadline: Instant) -> Result<Self, Error> {
        let credential = client.credentials.get(deadline).map_err(Error::Credential)?;
        let agent = client.connections.separate_agent(credential.identity.as_ref());
        let agent = agent.map_err(|error| tls_error(client.connections.server.to_string(), error))?;
        let (client, is_stopped, is_running) = (Arc::clone(client), Arc::default(), Box::new(|| false));
        Ok(Self { client, agent, is_stopped, path, body: None, is_running })
    }

    /// Returns a function that ends the stream, also while it is opened or a read waits.
    pub fn stop(&self) -> impl FnOnce() + Send + use<> {
        let (agent, is_stopped) = (self.agent.clone(), Arc::clone(&self.is_stopped));
        move || {
            is_stopped.store(true, Ordering::SeqCst);
            agent.shutdown();
        }
    }

    /// Opens the log as it is.
    ///
    /// # Errors
    /// [`Error`], by `deadline`.
    pub fn open(&mut self, deadline: Instant) -> Result<(), Error> {
        self.body = self.get(&self.path, deadline)?;
        Ok(())
    }

    /// Checks that the log can be read, and makes the first read open it with all that the container will print: the kubelet may send
    /// no head of a response before the first line.
    ///
    /// # Errors
    /// [`Error`], by `deadline`.
    pub fn follow(&mut self, is_running: IsRunning, deadline: Instant) -> Result<(), Error> {
        drop(self.get(&format!("{}&limitBytes=1", self.path), deadline)?);
        self.path.push_str("&follow=true");
        self.is_running = is_running;
        Ok(())
    }

    /// Sends the request, and repeats it as necessary. Returns `None` if the stream was stopped meanwhile.
    fn get(&self, path: &str, deadline: Instant) -> Result<Option<BodyReader<'static>>, Error> {
        self.client.retry_until(Verb::Get, deadline, |attempt| match self.connect(attempt, path) {
            // The failure is not that of Kubernetes: no retry, and no doubt about the other connections.
            Err(_) if self.is_stopped.load(Ordering::SeqCst) => Ok(None),
            body => body.map(Some),
        })
    }

    fn connect(&self, attempt: &Attempt<'_>, path: &str) -> Result<BodyReader<'static>, Error> {
        Ok(attempt.open_stream(&self.agent, path, self.client.timeout)?.into_body().into_reader())
    }

    /// Reads once, and opens the stream if necessary.
    fn read_once(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if self.body.is_none() {
            let attempt = self.client.first_attempt(Verb::Get, self.client.deadline())?;
            self.body = Some(self.connect(&attempt, &self.path)?);
        }
        let Some(body) = &mut self.body else { return Ok(0) };
        loop {
            match body.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read.map_err(|error| read_error(self.path.clone(), error)),
            }
        }
    }
}

impl Read for LogStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.read_once(buffer) {
                Err(Error::Timeout { .. }) if (self.is_running)() => {}
                read => return read.map_err(|error| io::Error::other(chain(&error))),
            }
        }
    }
}
