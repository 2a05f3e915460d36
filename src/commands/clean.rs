//! `clean`: deletes Jobs and waits until their pods are gone and the quotas are free again.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, BufRead, IsTerminal, Write};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::commands::output::{Check, Printer};
use crate::job::{self, JOB_PODS_SELECTOR, MANAGED_SELECTOR, Tier};
use crate::kube::{Client, Error};

/// Width of the widest topic that [`run`] prints.
pub const TOPIC_WIDTH: usize = "free-service".len();

/// Pause between two requests for the state of the cluster.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The Jobs to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The Jobs that this program created.
    Managed,
    /// Every Job of the two namespaces; `confirmed` skips the question.
    All { confirmed: bool },
}

/// An error after which some or all Jobs remain.
#[derive(Debug)]
pub enum CleanError {
    /// --all needs a confirmation, and stdin is no terminal.
    Unconfirmed,
    /// The operator did not answer yes.
    Declined,
    /// A Kubernetes request failed.
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
                write!(f, "--all also deletes Jobs of other programs and stdin is no terminal; fix: confirm with --yes")
            }
            Self::Declined => write!(f, "nothing was deleted"),
            Self::Kube(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for CleanError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Kube(error) => error.source(),
            Self::Unconfirmed | Self::Declined => None,
        }
    }
}

/// Deletes the Jobs of `scope` and waits at most `timeout`. Returns false if something is left then.
///
/// # Errors
/// [`CleanError`]
pub fn run(kube: &Client, printer: Printer, scope: Scope, timeout: Duration) -> Result<bool, CleanError> {
    let load = |tier: Tier| NamespaceCleanup::load(kube, tier.namespace(), scope);
    let cleanups = [load(Tier::Free)?, load(Tier::Premium)?];
    let count: usize = cleanups.iter().map(|cleanup| cleanup.jobs.len()).sum();
    if count > 0 && scope == (Scope::All { confirmed: false }) {
        confirm(count)?;
    }
    for cleanup in &cleanups {
        cleanup.delete(kube, printer)?;
    }
    let deadline = Instant::now() + timeout;
    let mut all_gone = true;
    for cleanup in &cleanups {
        all_gone &= cleanup.wait(kube, printer, deadline)?;
    }
    if all_gone {
        printer.result("ready", &json!({ "ready": true }));
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
    if is_yes { Ok(()) } else { Err(CleanError::Declined) }
}

/// A namespace and its Jobs to delete.
struct NamespaceCleanup {
    namespace: &'static str,
    /// Query parameter that selects the pods to delete.
    pod_selector: &'static str,
    /// Path of the list of the Jobs to delete.
    jobs_path: String,
    /// Names of the Jobs to delete.
    jobs: BTreeSet<String>,
}

impl NamespaceCleanup {
    fn load(kube: &Client, namespace: &'static str, scope: Scope) -> Result<Self, Error> {
        let (query, pod_selector) = match scope {
            Scope::Managed => (format!("?{MANAGED_SELECTOR}"), MANAGED_SELECTOR),
            Scope::All { .. } => (String::new(), JOB_PODS_SELECTOR),
        };
        let jobs_path = format!("/apis/batch/v1/namespaces/{namespace}/jobs{query}");
        let jobs = kube.list(&jobs_path)?.iter().map(name).collect();
        Ok(Self { namespace, pod_selector, jobs_path, jobs })
    }

    fn delete(&self, kube: &Client, printer: Printer) -> Result<(), Error> {
        for job in &self.jobs {
            kube.delete(&format!("/apis/batch/v1/namespaces/{}/jobs/{job}", self.namespace))?;
            printer.check(&Check::ok(self.namespace, format!("deleted job {job}")));
        }
        // Pods whose Job was deleted without them still count in the quota.
        for pod in self.pods(kube)?.iter().filter(|pod| owner(pod).is_none()) {
            kube.delete(&format!("/api/v1/namespaces/{}/pods/{}", self.namespace, name(pod)))?;
            printer.check(&Check::ok(self.namespace, format!("deleted pod {}, which had no Job", name(pod))));
        }
        if self.jobs.is_empty() {
            printer.check(&Check::ok(self.namespace, "no Jobs to delete"));
        }
        Ok(())
    }

    fn pods(&self, kube: &Client) -> Result<Vec<Value>, Error> {
        kube.list(&format!("/api/v1/namespaces/{}/pods?{}", self.namespace, self.pod_selector))
    }

    /// Waits for the pods, then for the Jobs and the quotas. Returns false if something is left at the deadline.
    fn wait(&self, kube: &Client, printer: Printer, deadline: Instant) -> Result<bool, Error> {
        let mut printed = String::new();
        loop {
            let Some(remaining) = self.remaining(kube)? else { return Ok(true) };
            if Instant::now() >= deadline {
                let text = format!("not gone before the timeout: {remaining}");
                let fix = format!("kubectl describe jobs,pods,resourcequotas -n {}", self.namespace);
                printer.check(&Check::fail(self.namespace, text, fix));
                return Ok(false);
            }
            if remaining != printed {
                printer.check(&Check::ok(self.namespace, format!("waiting for {remaining}")));
                printed = remaining;
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Returns the objects that still exist, in words, or `None` if all are gone.
    fn remaining(&self, kube: &Client) -> Result<Option<String>, Error> {
        let pods = self.pods(kube)?;
        // Clients may create Jobs meanwhile; those stay.
        let is_in_scope = |pod: &&Value| owner(pod).is_none_or(|job| self.jobs.contains(job));
        let names: Vec<String> = pods.iter().filter(is_in_scope).map(name).collect();
        if let Some(pods) = counted("pod", &names) {
            return Ok(Some(pods));
        }
        // A finalizer keeps a deleted Job. A Job of the same name without a deletion timestamp is a new one.
        let jobs = kube.list(&self.jobs_path)?;
        let is_kept = |job: &&Value| !job["metadata"]["deletionTimestamp"].is_null() && self.jobs.contains(&name(job));
        let kept: Vec<String> = jobs.iter().filter(is_kept).map(name).collect();
        if let Some(jobs) = counted("job", &kept) {
            return Ok(Some(format!("{jobs}, kept by finalizers")));
        }
        let quotas = kube.list(&format!("/api/v1/namespaces/{}/resourcequotas", self.namespace))?;
        let used: Vec<String> = quotas.iter().flat_map(in_use).collect();
        // Objects outside the scope keep their share of the quota.
        if used.is_empty() || self.has_others(kube)? {
            return Ok(None);
        }
        Ok(Some(format!("the quota controller to count again: {}", used.join(", "))))
    }

    fn has_others(&self, kube: &Client) -> Result<bool, Error> {
        let has_jobs = !kube.list(&format!("/apis/batch/v1/namespaces/{}/jobs", self.namespace))?.is_empty();
        Ok(has_jobs || !kube.list(&format!("/api/v1/namespaces/{}/pods", self.namespace))?.is_empty())
    }
}

/// Returns the used amounts of a quota's limits on CPU, pods and Jobs, such as `pods 2`.
fn in_use(quota: &Value) -> Vec<String> {
    let counts = |key: &str| key.ends_with("cpu") || key.ends_with("pods") || key == "count/jobs.batch";
    let used = quota["status"]["used"].as_object().into_iter().flatten();
    let used = used.filter(|(key, amount)| counts(key) && amount.as_str().is_some_and(|amount| amount != "0"));
    used.map(|(key, amount)| format!("{key} {}", amount.as_str().unwrap_or_default())).collect()
}

/// Returns the one name or the number of names, or `None` if `names` is empty.
fn counted(noun: &str, names: &[String]) -> Option<String> {
    match names {
        [] => None,
        [one] => Some(format!("{noun} {one}")),
        [first, ..] => Some(format!("{} {noun}s, including {first}", names.len())),
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Returns the name of the Job that owns a pod.
fn owner(pod: &Value) -> Option<&str> {
    job::owner(pod)?["name"].as_str()
}
