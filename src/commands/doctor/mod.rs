//! `doctor`: checks every step from this host to a running classifier, prints one line each and suggests fixes. It changes
//! nothing: it only sends reads, reviews and dry runs to Kubernetes.
//!
//! Pure functions evaluate what Kubernetes returns. This file sends the requests, a prerequisite before what depends on it.

mod address;
mod admission;
mod api;
mod eks;
mod env_file;
mod fix;
mod host;
mod image;
mod nodes;
mod permission;
mod pods;
mod port;
mod quota;
mod report;
mod server;
mod service;

pub use report::Report;
pub use service::as_service;

use crate::cli::{Env, Options, UsageError};
use crate::commands::output::{Check, CheckStatus};
use crate::commands::scoped_client::{self, ScopedClient};
use crate::job::{self, Tier};
use crate::kube::{Client, Cluster, ConfigError, Error};

use api::ClusterFacts;
use fix::{AS_ADMINISTRATOR, UPDATE_KUBECONFIG};
use server::Server;

/// Width of the widest topic.
pub const TOPIC_WIDTH: usize = "leftover Jobs".len();

/// Words of fixes for EKS, which a simulated cluster does not need.
const EKS_TOOLS: [&str; 4] = ["aws ", "eksctl ", "--eks-kubeconfig", "docker push"];

/// The fix of a check that fails in a simulated cluster.
const SIMULATED: &str =
    "none is needed for a simulated cluster; its options: img-classification help serve, docs/simulator.md";

/// Topic of the checks that were not possible.
const NOT_CHECKED: &str = "not checked";

/// Runs and prints all checks. `server` is the address of the running server, by default that of --listen on this host. `rejected`
/// are invalid variables, each a failed check. Returns true if no check failed.
pub fn run(options: &Options, server: Option<&str>, rejected: &[UsageError], env: Env<'_>, report: Report) -> bool {
    let facts = ClusterFacts::default();
    let mut doctor = Doctor { report, kube: None, facts, not_permitted: Vec::new(), skipped: Vec::new() };
    let port = server.map_or_else(|| port::check(&options.listen), port::check_url);
    let cluster = scoped_client::load(&options.access, env);
    let cluster_name = cluster.as_ref().ok().and_then(|cluster| cluster.name.clone());
    let mut jobs = options.jobs.clone();
    let image = port.server.as_ref().and_then(Server::image);
    jobs.image = image.map_or(jobs.image, str::to_owned);
    let plugin = cluster.as_ref().ok().and_then(|cluster| cluster.plugin(env("PATH")));
    let credential = doctor.connect(cluster, options);
    if let Some(server) = &port.server {
        doctor.add(server.checks(&options.jobs.image, cluster_name.as_deref()));
    }
    doctor.check("identity", |kube| api::identity(kube, &credential));
    doctor.check_cluster(&jobs);
    let server_url = image.and(port.server.as_ref()).map(|server| server.url.as_str());
    doctor.add(image::check(&jobs.image, server_url));
    doctor.check("pull", pods::pull);
    doctor.check("leftover Jobs", pods::leftover);
    doctor.add_not_checked();
    doctor.kube = None;
    let has_unknown_address = server.is_none() && !port.is_private;
    doctor.add(port.checks);
    // A program that is not needed may be missing.
    let plugin = plugin.filter(|(_, found)| found.is_ok() || doctor.facts.eks_identity.is_none());
    doctor.add(host::environment(env, plugin, options));
    doctor.add(rejected.iter().map(host::variable).collect());
    if has_unknown_address {
        doctor.add(vec![address::check(env, &options.listen)]);
    }
    doctor.report.finish()
}

/// The state of a run.
struct Doctor {
    report: Report,
    /// `None` before the connection and after the first outage.
    kube: Option<ScopedClient>,
    facts: ClusterFacts,
    /// Topics that need more permissions.
    not_permitted: Vec<&'static str>,
    /// Topics that need a reachable API server.
    skipped: Vec<&'static str>,
}

impl Doctor {
    fn add(&mut self, checks: Vec<Check>) {
        for mut check in checks {
            let is_for_eks = |fix: &String| EKS_TOOLS.iter().any(|tool| fix.contains(tool));
            if self.facts.is_simulated && check.fix.as_ref().is_some_and(is_for_eks) {
                check.fix = Some(SIMULATED.to_owned());
            }
            self.report.add(&check);
        }
    }

    /// Checks the kubeconfig, the API server and the clock. Returns the kind of the credential.
    fn connect(&mut self, cluster: Result<Cluster, ConfigError>, options: &Options) -> String {
        let (check, cluster) = api::kubeconfig(cluster);
        self.report.add(&check);
        let Some(cluster) = cluster else { return String::new() };
        let (server, credential) = (cluster.server.to_string(), cluster.user.to_string());
        self.facts = ClusterFacts::of(&cluster);
        if let Some(made) = cluster.eks_report() {
            self.add(vec![eks::token(&made)]);
            self.facts.eks_identity = made.ok().map(|report| report.identity.unwrap_or_default());
        }
        match ScopedClient::new(cluster, &options.access) {
            Ok(kube) => {
                let (checks, is_reachable) = api::reach(&kube, &server, &self.facts);
                self.add(checks);
                self.kube = is_reachable.then_some(kube);
            }
            Err(error) => self.report.add(&Check::fail("kubeconfig", error.to_string(), UPDATE_KUBECONFIG)),
        }
        credential
    }

    fn check_cluster(&mut self, jobs: &job::Settings) {
        self.check("permission", permission::check);
        let mut has_namespace = true;
        self.check("namespace", |kube| {
            let check = permission::namespace(kube)?;
            has_namespace = check.status != CheckStatus::Fail;
            Ok(vec![check])
        });
        let tiers: &[Tier] = if has_namespace { &Tier::ALL } else { &[Tier::Premium] };
        for tier in tiers {
            self.check("quota", |kube| {
                let path = format!("/api/v1/namespaces/{}/resourcequotas", tier.namespace());
                Ok(quota::check(*tier, &kube.list(&path)?, jobs.timeout > 0))
            });
        }
        for tier in tiers {
            self.check("dry run", |kube| admission::check(kube, jobs, *tier).map(|check| vec![check]));
        }
        self.check("nodes", nodes::check);
    }

    /// Runs a check that needs the API server. An error of the request is no verdict on the topic.
    fn check(&mut self, topic: &'static str, check: impl FnOnce(&Client) -> Result<Vec<Check>, Error>) {
        let Some(kube) = &self.kube else { return self.skipped.push(topic) };
        match check(kube) {
            Ok(checks) => self.add(checks),
            Err(error) if error.not_permitted() => self.not_permitted.push(topic),
            Err(error) if api::is_outage(&error) => {
                self.kube = None;
                self.report.add(&api::failure(topic, &error, &self.facts));
            }
            Err(error) => {
                let text = format!("not checked: {}", api::message(&error));
                self.report.add(&Check::warning(topic, text, "run img-classification doctor again"));
            }
        }
    }

    /// Adds one line for the topics that were not checked for the same reason.
    fn add_not_checked(&mut self) {
        for topics in [&mut self.not_permitted, &mut self.skipped] {
            topics.dedup();
        }
        if !self.not_permitted.is_empty() {
            let text = format!("{}: not permitted for this identity", self.not_permitted.join(", "));
            self.report.add(&Check::warning(NOT_CHECKED, text, AS_ADMINISTRATOR));
        }
        if !self.skipped.is_empty() {
            let text = format!("{}: no API server reachable", self.skipped.join(", "));
            self.report.add(&Check { fix: None, ..Check::warning(NOT_CHECKED, text, "") });
        }
    }
}
