//! `doctor`: looks at everything between this host and a running classifier, a line each, and says what to do where
//! something is missing. It changes nothing: what it sends to Kubernetes are questions and dry runs.
//!
//! What was found is judged by pure functions; this file asks, in the order in which one thing needs the other.

mod address;
mod admission;
mod api;
mod env_file;
mod host;
mod image;
mod nodes;
mod permission;
mod pods;
mod quota;

pub use env_file::as_service;

use serde_json::{Value, json};

use crate::Env;
use crate::cli::{Options, UsageError};
use crate::commands::output::{Finding, Paper, Verdict, one_line};
use crate::commands::scoped_client::Attended;
use crate::job::Tier;
use crate::kube::{Client, Cluster, ConfigError, Error, Sources};

/// The widest topic.
pub const TOPIC_WIDTH: usize = "leftover Jobs".len();

/// The topic of what has none of its own.
const NOT_LOOKED_AT: &str = "not looked at";

/// What an administrator's kubeconfig sees, and the server's needs not.
const AS_ADMINISTRATOR: &str = "img-classification doctor --kubeconfig FILE, with an administrator's kubeconfig";

/// How a kubeconfig for EKS is written.
const UPDATE_KUBECONFIG: &str = "aws eks update-kubeconfig --region REGION --name CLUSTER";

/// Makes or repairs what the cluster needs.
const SETUP: &str = "img-classification setup";

/// Looks, and says what there is, `wrong` variables included; whether nothing of it keeps the service from working.
pub fn run(options: &Options, wrong: &[UsageError], json: bool, env: Env<'_>, paper: Paper) -> bool {
    let mut look = Look { report: Report::new(json, paper), kube: None, hidden: Vec::new(), skipped: Vec::new() };
    let (file, context) = (options.access.kubeconfig.clone(), options.access.context.clone());
    let cluster = Cluster::load(&Sources { file, context, env });
    let plugin = cluster.as_ref().ok().and_then(|cluster| cluster.plugin(env("PATH")));
    let credential = look.connect(cluster, options);
    look.ask("identity", |kube| api::identity(kube, &credential));
    look.cluster(options);
    look.say(image::judge(&options.jobs.image));
    look.ask("pull", pods::pull);
    look.ask("leftover Jobs", pods::leftover);
    look.say_skipped();
    look.kube = None;
    look.say(host::port(&options.listen));
    look.say(host::environment(env, plugin, options));
    look.say(wrong.iter().map(host::variable).collect());
    look.say(vec![address::look(env, &options.listen)]);
    look.report.finish()
}

/// A look at a cluster, as far as it can be asked.
struct Look {
    report: Report,
    /// None from the first sign that it does not answer.
    kube: Option<Attended>,
    /// What this identity may not look at.
    hidden: Vec<&'static str>,
    /// What could not be looked at without an API.
    skipped: Vec<&'static str>,
}

impl Look {
    fn say(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            self.report.say(&finding);
        }
    }

    /// Kubeconfig, API and clock; the rest needs them. It gives the kind of the credential.
    fn connect(&mut self, cluster: Result<Cluster, ConfigError>, options: &Options) -> String {
        let (finding, cluster) = api::kubeconfig(cluster);
        self.report.say(&finding);
        let Some(cluster) = cluster else { return String::new() };
        let (server, credential) = (cluster.server.to_string(), cluster.user.to_string());
        match Attended::new(cluster, options.access.kube_timeout) {
            Ok(kube) => {
                let (findings, answers) = api::reach(&kube, &server);
                self.say(findings);
                self.kube = answers.then_some(kube);
            }
            Err(error) => self.report.say(&Finding::fail("kubeconfig", error.to_string(), UPDATE_KUBECONFIG)),
        }
        credential
    }

    fn cluster(&mut self, options: &Options) {
        self.ask("permission", permission::look);
        let mut is_there = true;
        self.ask("namespace", |kube| {
            let finding = permission::namespace(kube)?;
            is_there = finding.verdict != Verdict::Fail;
            Ok(vec![finding])
        });
        let tiers: &[Tier] = if is_there { &[Tier::Free, Tier::Premium] } else { &[Tier::Premium] };
        for tier in tiers {
            self.ask("quota", |kube| {
                let path = format!("/api/v1/namespaces/{}/resourcequotas", tier.namespace());
                Ok(quota::judge(*tier, &kube.list(&path)?))
            });
        }
        for tier in tiers {
            self.ask("dry run", |kube| admission::look(kube, &options.jobs, *tier).map(|finding| vec![finding]));
        }
        self.ask("nodes", nodes::look);
    }

    /// Asks the cluster, if it answers. A check that cannot be made is no verdict on what it was about.
    fn ask(&mut self, topic: &'static str, check: impl FnOnce(&Client) -> Result<Vec<Finding>, Error>) {
        let Some(kube) = &self.kube else { return self.skipped.push(topic) };
        match check(kube) {
            Ok(findings) => self.say(findings),
            Err(error) if error.not_permitted() => self.hidden.push(topic),
            Err(error) if api::is_outage(&error) => {
                self.kube = None;
                self.report.say(&api::failure(topic, &error));
            }
            Err(error) => {
                let text = format!("not looked at: {}", api::words(&error));
                self.report.say(&Finding::warning(topic, text, "img-classification doctor, once more"));
            }
        }
    }

    /// A line for all that has none of its own.
    fn say_skipped(&mut self) {
        for topics in [&mut self.hidden, &mut self.skipped] {
            topics.dedup();
        }
        if !self.hidden.is_empty() {
            let text =
                format!("{}: this identity may not look at that; an administrator's may", self.hidden.join(", "));
            self.report.say(&Finding::warning(NOT_LOOKED_AT, text, AS_ADMINISTRATOR));
        }
        if !self.skipped.is_empty() {
            let text = format!("{}: there is no API to ask", self.skipped.join(", "));
            self.report.say(&Finding { fix: None, ..Finding::warning(NOT_LOOKED_AT, text, "") });
        }
    }
}

/// Takes findings as they come: a line each at once, or one JSON object at the end.
struct Report {
    paper: Paper,
    json: bool,
    checks: Vec<Value>,
    worst: Verdict,
}

impl Report {
    fn new(json: bool, paper: Paper) -> Self {
        Self { paper, json, checks: Vec::new(), worst: Verdict::Ok }
    }

    fn say(&mut self, finding: &Finding) {
        self.worst = self.worst.max(finding.verdict);
        if self.json {
            let fix = finding.fix.as_deref().map(one_line);
            let result = finding.verdict.as_str().to_ascii_lowercase();
            let (check, text) = (one_line(&finding.topic), one_line(&finding.text));
            self.checks.push(json!({ "check": check, "result": result, "text": text, "fix": fix }));
        } else {
            self.paper.finding(finding);
        }
    }

    /// Whether nothing has failed.
    fn finish(self) -> bool {
        let is_well = self.worst < Verdict::Fail;
        if self.json {
            let result = if is_well { "ok" } else { "fail" };
            self.paper.line(&json!({ "checks": self.checks, "result": result }).to_string());
        }
        is_well
    }
}
