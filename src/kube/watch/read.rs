//! A single read of a Job and its pods, with the types of the watches.

use std::time::Instant;

use crate::kube::client::Client;
use crate::kube::client::attempt::Attempt;
use crate::kube::client::stats::Verb;
use crate::kube::error::Error;
use crate::kube::types::job::Job;
use crate::kube::types::job_pod::JobPod;
use crate::kube::watch::event::{Events, WatchEvent};
use crate::kube::watch::watcher::read_json;

impl Client {
    /// Reads a Job and then its pods, as one operation by `deadline`.
    ///
    /// # Errors
    /// [`Error`]
    pub fn job(&self, namespace: &str, name: &str, deadline: Instant) -> Result<(Job, Vec<JobPod>), Error> {
        let job = format!("/apis/batch/v1/namespaces/{namespace}/jobs/{name}");
        // The Job controller sets this label. The list has no limit, and so one page.
        let pods = format!("/api/v1/namespaces/{namespace}/pods?labelSelector=job-name%3D{name}");
        self.retry_until(Verb::Get, deadline, |attempt| Ok((attempt.job(&job, name)?, list_pods(attempt, &pods)?)))
    }
}

fn list_pods(attempt: &Attempt<'_>, path: &str) -> Result<Vec<JobPod>, Error> {
    let mut pods = Vec::new();
    let mut on_event = |event| {
        if let WatchEvent::Apply(pod) = event {
            pods.push(pod);
        }
    };
    read_json(attempt, path, &mut Events::new(&mut on_event))?;
    Ok(pods)
}
