//! `selftest`: asks a running server what the course's autograder asks, in its order, and judges as it does.
//!
//! It knows the server's contract only, so that any implementation of it can be asked. It waits for pods to appear as a
//! grader would, for a Job is stored a moment before its pod is.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::api::auth::Token;
use crate::commands::client::{self, NoAnswer};
use crate::commands::output::{Finding, Paper, Verdict};
use crate::job::{Dataset, Tier};

/// The widest topic in what [`run`] says.
pub const TOPIC_WIDTH: usize = "3 x POST premium".len();

/// What the autograder takes for all of it.
const TOTAL: Duration = Duration::from_secs(20);

/// Longest wait for one answer, the server's own deadline for Kubernetes.
const ANSWER: Duration = Duration::from_secs(10);

/// Longest wait for pods that a list is to show: Kubernetes takes one second; two such waits leave time for the rest.
const APPEARANCE: Duration = Duration::from_secs(5);

/// Between two looks at the list.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Free pods that live at a time, by the quota.
const FREE_AT_A_TIME: usize = 2;

/// Nodes that the course asks for.
const NODES: usize = 2;

/// Asks the server at `url` (without a slash at its end), with the token that premium may need, and says how each step came out; whether all came out well.
pub fn run(url: &str, token: Option<&Token>, paper: Paper) -> bool {
    let base = url.to_owned();
    let (start, authorization) = (Instant::now(), token.map(Token::header));
    let mut test =
        Selftest { base, authorization, paper, start, failed: 0, jobs: BTreeSet::new(), old: BTreeSet::new() };
    test.all();
    let (took, failed) = (test.start.elapsed(), test.failed);
    match failed {
        0 => paper.line(&format!("passed in {}", seconds(took))),
        _ => paper.line(&format!("failed: {failed} of the steps, in {}", seconds(took))),
    }
    failed == 0
}

struct Selftest {
    base: String,
    /// What premium may want; never shown.
    authorization: Option<String>,
    paper: Paper,
    start: Instant,
    failed: usize,
    /// The Jobs that were named to us.
    jobs: BTreeSet<String>,
    /// The pods that were there before.
    old: BTreeSet<String>,
}

/// What went wrong in a step, and what to do about it.
struct Wrong {
    text: String,
    fix: &'static str,
}

impl Wrong {
    fn new(text: impl Into<String>, fix: &'static str) -> Self {
        Self { text: text.into(), fix }
    }
}

/// What a look at the list shows.
enum Look {
    Seen(String),
    /// It may still come; this is what is wrong if it does not.
    NotYet(Wrong),
    /// It cannot become right any more.
    Never(Wrong),
}

const LOOK_AT_THE_LOG: &str = "look at the server's log, and ask img-classification doctor";

/// The answer of GET /config.
#[derive(Deserialize)]
struct Config {
    pods: Vec<Pod>,
}

/// A row of it; all five keys have to be there, whatever they hold.
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

    /// Neither succeeded nor failed.
    fn is_live(&self) -> bool {
        !matches!(self.status.as_str(), "Succeeded" | "Failed")
    }
}

impl Selftest {
    fn all(&mut self) {
        if !self.step("GET /config", Self::before) {
            return;
        }
        self.step("3 x POST free", |test| test.post(Tier::Free, 3));
        self.step("free pods", |test| test.wait_for(Tier::Free, FREE_AT_A_TIME));
        self.step("3 x POST premium", |test| test.post(Tier::Premium, 3));
        self.step("premium pods", |test| test.wait_for(Tier::Premium, 3));
        self.step("1 x POST premium", |test| test.post(Tier::Premium, 1));
        self.step("premium pods", |test| test.wait_for(Tier::Premium, 4));
        self.step("nodes", Self::nodes);
        self.step("time", |test| match test.start.elapsed() {
            took if took <= TOTAL => Ok(format!("{} of the {} that there are", seconds(took), seconds(TOTAL))),
            took => Err(Wrong::new(format!("{}, more than {}", seconds(took), seconds(TOTAL)), LOOK_AT_THE_LOG)),
        });
    }

    /// Takes a step, times it and says how it came out.
    fn step(&mut self, topic: &str, step: impl FnOnce(&mut Self) -> Result<String, Wrong>) -> bool {
        let start = Instant::now();
        let outcome = step(self);
        let took = seconds(start.elapsed());
        let finding = match outcome {
            Ok(text) => Finding::ok(topic, format!("{text} ({took})")),
            Err(Wrong { text, fix }) => Finding::fail(topic, format!("{text} ({took})"), fix),
        };
        self.failed += usize::from(finding.verdict == Verdict::Fail);
        self.paper.finding(&finding);
        finding.verdict == Verdict::Ok
    }

    /// What is there before.
    fn before(&mut self) -> Result<String, Wrong> {
        let pods = self.config()?;
        let tiers = [Tier::Free, Tier::Premium].map(Tier::namespace);
        let left: Vec<&Pod> = pods.iter().filter(|pod| tiers.contains(&pod.namespace.as_str())).collect();
        if !left.is_empty() {
            let text = format!(
                "{} pods are in {} and {} already; an autograder counts them, too",
                left.len(),
                tiers[0],
                tiers[1]
            );
            self.paper.finding(&Finding::warning("pods", text, "img-classification clean, or --clean-first"));
        }
        self.old = pods.iter().map(Pod::key).collect();
        Ok(format!("{} pods, each with its five keys", pods.len()))
    }

    fn post(&mut self, tier: Tier, count: usize) -> Result<String, Wrong> {
        let path = format!("/img-classification/{}", tier.as_str());
        for number in 0..count {
            let dataset = if number % 2 == 0 { Dataset::Mnist } else { Dataset::Kmnist };
            let answer = self.ask("POST", &path, Some(&format!(r#"{{"dataset":"{}"}}"#, dataset.as_str())))?;
            let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
            // Who names the Job has to name another one each time.
            if let Some(job) = answer["job"].as_str()
                && !self.jobs.insert(job.to_owned())
            {
                return Err(Wrong::new(
                    format!("two requests made the Job {job}"),
                    "each request needs a name of its own",
                ));
            }
        }
        Ok(format!("{count} times 200"))
    }

    /// Waits until that many of the tier's new pods are there.
    fn wait_for(&mut self, tier: Tier, count: usize) -> Result<String, Wrong> {
        self.look_until(|pods| {
            let new = |pod: &&Pod| !self.old.contains(&pod.key());
            let of = |tier: Tier| pods.iter().filter(new).filter(move |pod| pod.namespace == tier.namespace());
            let free = of(Tier::Free).filter(|pod| pod.is_live()).count();
            if free > FREE_AT_A_TIME {
                let text = format!("{free} free pods live at a time; the quota is to let {FREE_AT_A_TIME}");
                return Look::Never(Wrong::new(text, "img-classification setup"));
            }
            let (found, namespace) = (of(tier).count(), tier.namespace());
            if found >= count {
                return Look::Seen(format!("{found} new in {namespace}"));
            }
            let text = format!("{found} new pods in {namespace} in place of {count}, after {}", seconds(APPEARANCE));
            Look::NotYet(Wrong::new(
                text,
                "img-classification clean, then doctor: a quota that is used up, or of other numbers?",
            ))
        })
    }

    /// Two nodes show in the list.
    fn nodes(&mut self) -> Result<String, Wrong> {
        self.look_until(|pods| {
            let nodes: BTreeSet<&str> = pods.iter().filter_map(|pod| pod.node.as_str()).collect();
            if nodes.len() >= NODES {
                return Look::Seen(format!("pods on {} nodes", nodes.len()));
            }
            let text = format!("pods on {} nodes in place of {NODES}", nodes.len());
            Look::NotYet(Wrong::new(text, "kubectl get nodes; see cluster.yaml for a group of two"))
        })
    }

    /// Looks at the list again and again, for as long as pods may take to appear.
    fn look_until(&self, look: impl Fn(&[Pod]) -> Look) -> Result<String, Wrong> {
        let end = Instant::now() + APPEARANCE;
        loop {
            match look(&self.config()?) {
                Look::Seen(text) => return Ok(text),
                Look::NotYet(_) if Instant::now() < end => thread::sleep(LOOK_AGAIN),
                Look::NotYet(wrong) | Look::Never(wrong) => return Err(wrong),
            }
        }
    }

    /// GET /config, checked.
    fn config(&self) -> Result<Vec<Pod>, Wrong> {
        const FIX: &str = r#"GET /config answers {"pods":[{"node","ip","namespace","name","status"}]}"#;
        let text = self.ask("GET", "/config", None)?;
        let answer: Value = serde_json::from_str(&text).map_err(|_| Wrong::new("GET /config gave no JSON", FIX))?;
        let Config { pods } = Config::deserialize(answer)
            .map_err(|error| Wrong::new(format!("GET /config gave another list of pods: {error}"), FIX))?;
        let mut seen = BTreeSet::new();
        match pods.iter().find(|pod| !seen.insert(pod.key())) {
            Some(twice) => Err(Wrong::new(format!("GET /config has the pod {} twice", twice.key()), FIX)),
            None => Ok(pods),
        }
    }

    /// The body of a 200.
    fn ask(&self, method: &str, path: &str, body: Option<&str>) -> Result<String, Wrong> {
        let mut headers = Vec::new();
        if body.is_some() {
            headers.push(("Content-Type", "application/json"));
            headers.extend(self.authorization.as_deref().map(|token| ("Authorization", token)));
        }
        let answer = client::request(method, &format!("{}{path}", self.base), &headers, body, ANSWER);
        let no_answer = |error: NoAnswer| {
            Wrong::new(format!("{method} {}{path}: {error}", self.base), "is the server running, and its port open?")
        };
        let answer = answer.map_err(no_answer)?;
        if answer.status == 200 {
            return Ok(answer.body);
        }
        let said: String = answer.body.trim().chars().take(300).collect();
        Err(Wrong::new(format!("{method} {path} was answered with {}: {said}", answer.status), LOOK_AT_THE_LOG))
    }
}

/// To hundredths, with the unit.
fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
