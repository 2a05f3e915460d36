//! `clean`: deletes Jobs, and is done when their pods are gone and the quotas are free again.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::commands::output::{Finding, Paper};
use crate::job::Tier;
use crate::kube::{Client, Error};

/// The widest topic in what [`run`] says.
pub const TOPIC_WIDTH: usize = "free-service".len();

/// Between two looks at the cluster.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What this program's Jobs and pods carry; escaped for a query.
pub const OURS: &str = "labelSelector=app.kubernetes.io%2Fmanaged-by%3Dimg-classification";

/// What every Job's pods carry.
const OF_A_JOB: &str = "labelSelector=job-name";

/// What is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// What this program made.
    Ours,
    /// Every Job of the two namespaces; `confirmed` if nobody is to be asked.
    All { confirmed: bool },
}

/// Why nothing, or not all, was deleted.
#[derive(Debug)]
pub enum CleanError {
    /// Somebody has to confirm, and there is no terminal to ask on.
    Unconfirmed,
    /// The answer was not yes.
    Refused,
    /// Kubernetes.
    Kube(Error),
}

impl From<Error> for CleanError {
    fn from(error: Error) -> Self {
        Self::Kube(error)
    }
}

impl fmt::Display for CleanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unconfirmed => {
                write!(f, "--all deletes Jobs of others, too; without a terminal to ask on it needs --yes")
            }
            Self::Refused => write!(f, "nothing was deleted"),
            Self::Kube(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for CleanError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Kube(error) => error.source(),
            Self::Unconfirmed | Self::Refused => None,
        }
    }
}

/// Deletes, waits at most `timeout`, and says so; whether all is gone.
///
/// # Errors
/// [`CleanError`]
pub fn run(kube: &Client, paper: Paper, which: Which, timeout: Duration) -> Result<bool, CleanError> {
    let look = |tier: Tier| Space::look(kube, tier.namespace(), which);
    let spaces = [look(Tier::Free)?, look(Tier::Premium)?];
    let count: usize = spaces.iter().map(|space| space.jobs.len()).sum();
    if count > 0 && which == (Which::All { confirmed: false }) {
        confirm(count)?;
    }
    for space in &spaces {
        space.delete(kube, paper)?;
    }
    let deadline = Instant::now() + timeout;
    let mut all_gone = true;
    for space in &spaces {
        all_gone &= space.wait(kube, paper, deadline)?;
    }
    if all_gone {
        paper.line("ready");
    }
    Ok(all_gone)
}

fn confirm(count: usize) -> Result<(), CleanError> {
    if !io::stdin().is_terminal() {
        return Err(CleanError::Unconfirmed);
    }
    let _ = write!(
        io::stderr(),
        "Delete all {count} Jobs of {} and {}? [y/N] ",
        Tier::Free.namespace(),
        Tier::Premium.namespace()
    );
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    let is_yes = read.is_ok() && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    if is_yes { Ok(()) } else { Err(CleanError::Refused) }
}

/// A namespace, and what is to go from it.
struct Space {
    namespace: &'static str,
    /// Of the pods that are to go.
    selector: &'static str,
    /// The list of the Jobs that are to go.
    jobs_path: String,
    jobs: BTreeSet<String>,
}

impl Space {
    fn look(kube: &Client, namespace: &'static str, which: Which) -> Result<Self, Error> {
        let (query, selector) = match which {
            Which::Ours => (format!("?{OURS}"), OURS),
            Which::All { .. } => (String::new(), OF_A_JOB),
        };
        let jobs_path = format!("/apis/batch/v1/namespaces/{namespace}/jobs{query}");
        let jobs = kube.list(&jobs_path)?.iter().map(name).collect();
        Ok(Self { namespace, selector, jobs_path, jobs })
    }

    fn delete(&self, kube: &Client, paper: Paper) -> Result<(), Error> {
        for job in &self.jobs {
            kube.delete(&format!("/apis/batch/v1/namespaces/{}/jobs/{job}", self.namespace))?;
            paper.finding(&Finding::ok(self.namespace, format!("deleted job {job}")));
        }
        // Somebody may have deleted a Job and left its pods, which hold the quota like others.
        for pod in self.pods(kube)?.iter().filter(|pod| owner(pod).is_none()) {
            kube.delete(&format!("/api/v1/namespaces/{}/pods/{}", self.namespace, name(pod)))?;
            paper.finding(&Finding::ok(self.namespace, format!("deleted pod {}, which had lost its Job", name(pod))));
        }
        if self.jobs.is_empty() {
            paper.finding(&Finding::ok(self.namespace, "no Jobs to delete"));
        }
        Ok(())
    }

    fn pods(&self, kube: &Client) -> Result<Vec<Value>, Error> {
        kube.list(&format!("/api/v1/namespaces/{}/pods?{}", self.namespace, self.selector))
    }

    /// Waits for the pods, then for the Jobs and the quotas; whether all of it is done by the deadline.
    fn wait(&self, kube: &Client, paper: Paper, deadline: Instant) -> Result<bool, Error> {
        let mut said = String::new();
        loop {
            let Some(rest) = self.rest(kube)? else { return Ok(true) };
            if Instant::now() >= deadline {
                let text = format!("still there when the time was up: {rest}");
                let fix = format!("kubectl describe jobs,pods,resourcequotas -n {}", self.namespace);
                paper.finding(&Finding::fail(self.namespace, text, fix));
                return Ok(false);
            }
            if rest != said {
                paper.finding(&Finding::ok(self.namespace, format!("waiting for {rest}")));
                said = rest;
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// What is still to go; none when it is done.
    fn rest(&self, kube: &Client) -> Result<Option<String>, Error> {
        let pods = self.pods(kube)?;
        // Whoever posts meanwhile has a Job that is not to go.
        let is_ours = |pod: &&Value| owner(pod).is_none_or(|job| self.jobs.contains(job));
        let left: Vec<String> = pods.iter().filter(is_ours).map(name).collect();
        if let Some(pods) = counted("pod", &left) {
            return Ok(Some(pods));
        }
        // A Job that finalizers keep is deleted and there all the same. One of its name that is not is somebody's new one.
        let jobs = kube.list(&self.jobs_path)?;
        let is_kept = |job: &&Value| !job["metadata"]["deletionTimestamp"].is_null() && self.jobs.contains(&name(job));
        let kept: Vec<String> = jobs.iter().filter(is_kept).map(name).collect();
        if let Some(jobs) = counted("job", &kept) {
            return Ok(Some(format!("{jobs}, which finalizers keep")));
        }
        let quotas = kube.list(&format!("/api/v1/namespaces/{}/resourcequotas", self.namespace))?;
        let used: Vec<String> = quotas.iter().flat_map(in_use).collect();
        // What others use stays in use.
        if used.is_empty() || self.has_others(kube)? {
            return Ok(None);
        }
        Ok(Some(format!("the quota's use to be counted anew: {}", used.join(", "))))
    }

    fn has_others(&self, kube: &Client) -> Result<bool, Error> {
        let has_jobs = !kube.list(&format!("/apis/batch/v1/namespaces/{}/jobs", self.namespace))?.is_empty();
        Ok(has_jobs || !kube.list(&format!("/api/v1/namespaces/{}/pods", self.namespace))?.is_empty())
    }
}

/// What of a quota's limits on CPU, pods and Jobs is in use.
fn in_use(quota: &Value) -> Vec<String> {
    let counts = |key: &str| key.ends_with("cpu") || key.ends_with("pods") || key == "count/jobs.batch";
    let used = quota["status"]["used"].as_object().into_iter().flatten();
    let used = used.filter(|(key, amount)| counts(key) && amount.as_str().is_some_and(|amount| amount != "0"));
    used.map(|(key, amount)| format!("{key} {}", amount.as_str().unwrap_or_default())).collect()
}

/// The names, or how many there are; none if there are none.
fn counted(noun: &str, names: &[String]) -> Option<String> {
    match names {
        [] => None,
        [one] => Some(format!("{noun} {one}")),
        [first, ..] => Some(format!("{} {noun}s, {first} among them", names.len())),
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// The name of the Job that a pod belongs to.
fn owner(pod: &Value) -> Option<&str> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["kind"] == "Job").and_then(|owner| owner["name"].as_str())
}
