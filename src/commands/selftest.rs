//! `selftest`: sends a running server the requests of the course's autograder in the same order and applies the same checks.
//!
//! It relies on the HTTP API only, so it can test any implementation. Kubernetes stores a Job a moment before its pod, so
//! `selftest` polls for pods, as the autograder does.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::auth::Token;
use crate::commands::client::{HttpClient, RequestError};
use crate::commands::output::{Check, CheckStatus, Printer};
use crate::commands::server_client::code;
use crate::job::{Dataset, Tier};

/// Width of the widest topic that [`run`] prints.
pub const TOPIC_WIDTH: usize = "3 x POST premium".len();

/// Time limit of the autograder for all steps.
const MAX_TOTAL: Duration = Duration::from_secs(20);

/// Timeout of one request, which is the server's default timeout of a Kubernetes operation.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for new pods in the list. Kubernetes takes one second; two such waits leave time for the other steps.
const MAX_POD_WAIT: Duration = Duration::from_secs(5);

/// Pause between two requests for the list.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Free pods that run at the same time, by the quota.
const MAX_FREE_PODS: usize = 2;

/// Longest part of an unexpected response in a message, in characters.
const MAX_BODY_CHARS: usize = 300;

/// Nodes that the course requires.
const MIN_NODES: usize = 2;

/// Tests a server and prints the result of each step. `token` is the token of the premium tier; `is_cleaned` is true if its Jobs are
/// deleted afterwards. Returns true if all steps passed.
pub fn run(http: HttpClient, token: Option<&Token>, printer: Printer, is_cleaned: bool) -> bool {
    let (start, authorization) = (Instant::now(), token.map(Token::header));
    let (jobs, existing) = (BTreeSet::new(), BTreeSet::new());
    let mut test = Selftest { http, authorization, printer, start, failed: 0, posts: 0, jobs, existing };
    test.all();
    let (took, failed, posts) = (test.start.elapsed(), test.failed, test.posts);
    let left = if posts == 1 { "1 Job left".to_owned() } else { format!("{posts} Jobs left") };
    if posts > 0 && !is_cleaned {
        printer.result(&format!("{left}; img-classification clean"), &json!({ "jobs_left": posts }));
    }
    let text = match failed {
        0 => format!("passed in {}", seconds(took)),
        _ => format!("failed steps: {failed}, in {}", seconds(took)),
    };
    printer.result(&text, &json!({ "passed": failed == 0, "failed_steps": failed, "seconds": took.as_secs_f64() }));
    failed == 0
}

struct Selftest {
    http: HttpClient,
    /// Authorization header of POSTs to premium; never printed.
    authorization: Option<String>,
    printer: Printer,
    start: Instant,
    failed: usize,
    /// POSTs with status 200.
    posts: usize,
    /// Jobs named in responses.
    jobs: BTreeSet<String>,
    /// Pods that existed before the first POST.
    existing: BTreeSet<String>,
}

/// An error of a step and its fix.
struct StepError {
    text: String,
    fix: &'static str,
}

impl StepError {
    fn new(text: impl Into<String>, fix: &'static str) -> Self {
        Self { text: text.into(), fix }
    }
}

/// The result of one request for the list.
enum Poll {
    /// The condition holds.
    Passed(String),
    /// The condition does not hold yet; the error if it never does.
    Pending(StepError),
    /// The condition can no longer hold.
    Failed(StepError),
}

const READ_LOG: &str = "read the server's log and run img-classification doctor";

const POST_LIMIT: &str =
    "wait a minute, or start the server with a larger --posts-per-minute; a selftest sends 7 POSTs";

/// The response of GET /config.
#[derive(Deserialize)]
struct Config {
    pods: Vec<Pod>,
}

/// A pod of the list; all five keys are required, of any value.
#[derive(Deserialize)]
struct Pod {
    node: Value,
    #[serde(rename = "ip")]
    _ip: Value,
    namespace: String,
    name: String,
    status: String,
}

impl Pod {
    fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Tests for a pod that has neither succeeded nor failed.
    fn is_live(&self) -> bool {
        !matches!(self.status.as_str(), "Succeeded" | "Failed")
    }
}

impl Selftest {
    fn all(&mut self) {
        if !self.step("GET /config", Self::first_list) {
            return;
        }
        self.step("3 x POST free", |test| test.post(Tier::Free, 3));
        self.step("free pods", |test| test.wait_for(Tier::Free, MAX_FREE_PODS));
        self.step("3 x POST premium", |test| test.post(Tier::Premium, 3));
        self.step("premium pods", |test| test.wait_for(Tier::Premium, 3));
        self.step("1 x POST premium", |test| test.post(Tier::Premium, 1));
        self.step("premium pods", |test| test.wait_for(Tier::Premium, 4));
        self.step("nodes", Self::nodes);
        self.step("time", |test| match test.start.elapsed() {
            took if took <= MAX_TOTAL => Ok(format!("{} of at most {}", seconds(took), seconds(MAX_TOTAL))),
            took => {
                Err(StepError::new(format!("{}, but the limit is {}", seconds(took), seconds(MAX_TOTAL)), READ_LOG))
            }
        });
    }

    /// Runs a step, measures its time and prints its result. Returns true if it passed.
    fn step(&mut self, topic: &str, step: impl FnOnce(&mut Self) -> Result<String, StepError>) -> bool {
        let start = Instant::now();
        let result = step(self);
        let took = seconds(start.elapsed());
        let check = match result {
            Ok(text) => Check::ok(topic, format!("{text} ({took})")),
            Err(StepError { text, fix }) => Check::fail(topic, format!("{text} ({took})"), fix),
        };
        self.failed += usize::from(check.status == CheckStatus::Fail);
        self.printer.check(&check);
        check.status == CheckStatus::Ok
    }

    /// Records the pods that exist already.
    fn first_list(&mut self) -> Result<String, StepError> {
        let pods = self.config()?;
        let tiers = Tier::ALL.map(Tier::namespace);
        let existing: Vec<&Pod> = pods.iter().filter(|pod| tiers.contains(&pod.namespace.as_str())).collect();
        if !existing.is_empty() {
            let text = format!(
                "{} pods already exist in {} and {}; the autograder counts them as well",
                existing.len(),
                tiers[0],
                tiers[1]
            );
            self.printer.check(&Check::warning("pods", text, "img-classification clean, or selftest --clean-first"));
        }
        self.existing = pods.iter().map(Pod::key).collect();
        Ok(format!("{} pods, each with its five keys", pods.len()))
    }

    fn post(&mut self, tier: Tier, count: usize) -> Result<String, StepError> {
        let path = format!("/img-classification/{}", tier.as_str());
        for number in 0..count {
            let dataset = if number % 2 == 0 { Dataset::Mnist } else { Dataset::Kmnist };
            let body = self.request("POST", &path, Some(&format!(r#"{{"dataset":"{}"}}"#, dataset.as_str())))?;
            self.posts += 1;
            let body: Value = serde_json::from_str(&body).unwrap_or_default();
            // A server that names the Job in its response must use a new name for each request.
            if let Some(job) = body["job"].as_str()
                && !self.jobs.insert(job.to_owned())
            {
                return Err(StepError::new(
                    format!("two requests created the Job {job}"),
                    "the server must create a Job with a new name for each request",
                ));
            }
        }
        Ok(format!("{count} x status 200"))
    }

    /// Waits until the list has `count` new pods of the tier.
    fn wait_for(&mut self, tier: Tier, count: usize) -> Result<String, StepError> {
        self.poll_until(|pods| {
            let new = |pod: &&Pod| !self.existing.contains(&pod.key());
            let of = |tier: Tier| pods.iter().filter(new).filter(move |pod| pod.namespace == tier.namespace());
            let free = of(Tier::Free).filter(|pod| pod.is_live()).count();
            if free > MAX_FREE_PODS {
                let text =
                    format!("{free} free pods run at the same time, but the quota must allow only {MAX_FREE_PODS}");
                return Poll::Failed(StepError::new(text, "img-classification setup"));
            }
            let (found, namespace) = (of(tier).count(), tier.namespace());
            if found >= count {
                return Poll::Passed(format!("{found} new in {namespace}: {}", phases(of(tier))));
            }
            let text = format!("{found} new pods in {namespace} after {}, expected {count}", seconds(MAX_POD_WAIT));
            Poll::Pending(StepError::new(
                text,
                "img-classification clean, then img-classification doctor, which checks the quotas",
            ))
        })
    }

    /// Waits until the list has pods on two nodes.
    fn nodes(&mut self) -> Result<String, StepError> {
        self.poll_until(|pods| {
            let nodes: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.node.as_str()).collect();
            if nodes.len() >= MIN_NODES {
                return Poll::Passed(format!("pods on {} nodes", nodes.len()));
            }
            let text = format!("pods on {} nodes, expected {MIN_NODES}", nodes.len());
            Poll::Pending(StepError::new(text, "kubectl get nodes; cluster.yaml describes a group of two"))
        })
    }

    /// Requests the list until `poll` decides, for at most [`MAX_POD_WAIT`].
    fn poll_until(&self, poll: impl Fn(&[Pod]) -> Poll) -> Result<String, StepError> {
        let end = Instant::now() + MAX_POD_WAIT;
        loop {
            match poll(&self.config()?) {
                Poll::Passed(text) => return Ok(text),
                Poll::Pending(_) if Instant::now() < end => thread::sleep(POLL_INTERVAL),
                Poll::Pending(error) | Poll::Failed(error) => return Err(error),
            }
        }
    }

    /// Requests GET /config and checks the response.
    fn config(&self) -> Result<Vec<Pod>, StepError> {
        const FIX: &str = r#"GET /config must return {"pods":[{"node","ip","namespace","name","status"}]}"#;
        let text = self.request("GET", "/config", None)?;
        let body: Value =
            serde_json::from_str(&text).map_err(|_| StepError::new("GET /config returned no JSON", FIX))?;
        let Config { pods } = Config::deserialize(body)
            .map_err(|error| StepError::new(format!("GET /config returned another structure: {error}"), FIX))?;
        let mut seen = BTreeSet::new();
        match pods.iter().find(|pod| !seen.insert(pod.key())) {
            Some(duplicate) => Err(StepError::new(format!("GET /config lists the pod {} twice", duplicate.key()), FIX)),
            None => Ok(pods),
        }
    }

    /// Sends a request and returns the body of a 200 response.
    fn request(&self, method: &str, path: &str, body: Option<&str>) -> Result<String, StepError> {
        let mut headers = Vec::new();
        if body.is_some() {
            headers.push(("Content-Type", "application/json"));
            headers.extend(self.authorization.as_deref().map(|token| ("Authorization", token)));
        }
        let response = self.http.request((method, path), &headers, body, REQUEST_TIMEOUT);
        let to_step_error = |error: RequestError| {
            StepError::new(format!("{method} {}{path}: {error}", self.http.base), "start the server, or open its port")
        };
        let response = response.map_err(to_step_error)?;
        if response.status == 200 {
            return Ok(response.body);
        }
        let body: String = response.body.trim().chars().take(MAX_BODY_CHARS).collect();
        let fix = if response.status == 429 && code(&response) == "rate_limited" { POST_LIMIT } else { READ_LOG };
        Err(StepError::new(format!("{method} {path} returned {}: {body}", response.status), fix))
    }
}

/// Counts pods by phase, such as `1 Running, 2 Pending for CPU`. A pending pod without a node waits for CPU.
fn phases<'a>(pods: impl Iterator<Item = &'a Pod>) -> String {
    let mut counts = BTreeMap::from([("Running", 0)]);
    for pod in pods {
        let is_waiting = pod.status == "Pending" && pod.node.is_null();
        *counts.entry(if is_waiting { "Pending for CPU" } else { &pod.status }).or_default() += 1;
    }
    let mut counts: Vec<String> = counts.into_iter().map(|(phase, count)| format!("{count} {phase}")).collect();
    counts.reverse(); // Running comes before Pending
    counts.join(", ")
}

/// Formats a time in seconds with two decimals.
fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
