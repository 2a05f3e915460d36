//! The log of a pod's container, as a stream.

use std::io::{self, Read};
use std::sync::Arc;
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
    path: String,
    /// `None` until a followed log is opened.
    body: Option<BodyReader<'static>>,
    /// Tells, after a silence of the client's timeout, whether to wait on.
    is_running: IsRunning,
}

impl LogStream {
    /// Opens the log at `path`, which has a query.
    ///
    /// # Errors
    /// [`Error`], by `deadline`.
    pub fn open(client: &Arc<Client>, path: &str, deadline: Instant) -> Result<Self, Error> {
        let mut log = Self::closed(client, path.to_owned(), Box::new(|| false), deadline)?;
        client.retry_until(Verb::Get, deadline, |attempt| log.connect(attempt))?;
        Ok(log)
    }

    /// Returns the log at `path` with all that the container will print, after a check that it can be read. The kubelet may send no
    /// head of a response before the first line, so the first read opens the stream.
    ///
    /// # Errors
    /// [`Error`], by `deadline`.
    pub fn follow(client: &Arc<Client>, path: &str, is_running: IsRunning, deadline: Instant) -> Result<Self, Error> {
        let check = format!("{path}&limitBytes=1");
        client.retry_until(Verb::Get, deadline, |attempt| attempt.send("GET", &check, None).map(drop))?;
        Self::closed(client, format!("{path}&follow=true"), is_running, deadline)
    }

    fn closed(client: &Arc<Client>, path: String, is_running: IsRunning, deadline: Instant) -> Result<Self, Error> {
        let credential = client.credentials.get(deadline).map_err(Error::Credential)?;
        let agent = client.connections.separate_agent(credential.identity.as_ref());
        let agent = agent.map_err(|error| tls_error(client.connections.server.to_string(), error))?;
        Ok(Self { client: Arc::clone(client), agent, path, body: None, is_running })
    }

    /// Returns a function that ends the stream, also while a read waits.
    pub fn stop(&self) -> impl FnOnce() + Send + use<> {
        let agent = self.agent.clone();
        move || agent.shutdown()
    }

    fn connect(&mut self, attempt: &Attempt<'_>) -> Result<(), Error> {
        let response = attempt.open_stream(&self.agent, &self.path, self.client.timeout)?;
        self.body = Some(response.into_body().into_reader());
        Ok(())
    }

    /// Reads once, and opens the stream if necessary.
    fn read_once(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        if self.body.is_none() {
            let client = Arc::clone(&self.client);
            self.connect(&client.first_attempt(Verb::Get, client.deadline())?)?;
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
