//! The commands and options as clap parses and documents them. The resolved form is [`Options`](super::Options).
//!
//! A doc comment here is the help text of its option. [`super::variables`] adds the variable of [`variable`] to it.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{ArgPredicate, TypedValueParser};
use clap::{ArgAction, Args, Parser, Subcommand};
use log::LevelFilter;

use super::values::{self, choice, text};
use crate::job::{Dataset, Tier};
use crate::state::job_status::State;

/// The image of the Jobs if --image and its variable are not set.
pub const DEFAULT_IMAGE: &str = "mp12-classifier:1.0";

/// Image classification as a service: a POST becomes a Kubernetes Job, GET /config shows every pod
#[derive(Debug, Parser)]
#[command(
    name = "img-classification",
    version,
    // The last of several equal flags wins, as with GNU tools; without it clap rejects the second one.
    args_override_self = true,
    next_line_help = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<CliCommand>,
    #[command(flatten)]
    pub serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Runs the server; the default command
    Serve(Box<ServeArgs>),
    /// Creates or repairs the namespace, the quotas and the roles in the cluster
    Setup(SetupArgs),
    /// Checks every step from this host to a running classifier and suggests fixes
    Doctor(DoctorArgs),
    /// Deletes the Jobs that this program created and waits until their pods are gone
    Clean(CleanArgs),
    /// Sends a running server the requests of the course's autograder and checks the responses
    Selftest(SelftestArgs),
    /// Creates a Job through a running server
    Submit(SubmitArgs),
    /// Shows the Jobs of a running server
    Jobs(JobsArgs),
    /// Prints a completion script for a shell
    Completion(CompletionArgs),
    /// Prints the version
    Version(VersionArgs),
    /// Writes the manual pages and the completion scripts into a folder
    #[command(hide = true)]
    Generate(GenerateArgs),
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address to listen on; port 0 means any free port [default: 0.0.0.0:5000, with --local 127.0.0.1:5000]
    #[arg(long, value_name = "ADDR:PORT", value_parser = text(values::address))]
    #[arg(default_value = "0.0.0.0:5000", default_value_if("local", ArgPredicate::IsPresent, "127.0.0.1:5000"))]
    #[arg(hide_default_value = true)]
    pub listen: String,
    #[command(flatten)]
    pub image: ImageArgs,
    #[command(flatten)]
    pub access: Access,
    /// Simulate a cluster in this process instead of using a kubeconfig; no container runs [default: off]
    #[arg(long)]
    pub local: bool,
    /// With --local: run time of a simulated classifier, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = text(values::local_job_seconds), default_value = "20")]
    pub local_job_seconds: u32,
    /// With --local: number of simulated nodes, each with room for one classifier
    #[arg(long, value_name = "NUMBER", value_parser = text(values::local_nodes), default_value = "2")]
    pub local_nodes: u16,
    /// With --local: path of the kubeconfig, which stays the same over restarts [default: a private folder below TMPDIR]
    #[arg(long, value_name = "PATH", value_parser = values::path())]
    pub local_kubeconfig: Option<PathBuf>,
    /// Time that Kubernetes keeps a finished Job, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = text(values::job_ttl), default_value = "3600")]
    pub job_ttl: u32,
    /// Time after which a classifier that has not ended fails, in seconds, from the start of its pod on a node; 0 means none
    #[arg(long, value_name = "SECONDS", value_parser = text(values::job_timeout), default_value = "1800")]
    pub job_timeout: u32,
    /// POSTs per minute of one client network (IPv4 address or IPv6 /64), in a burst or spread out; 0 means unlimited,
    /// and removes the limit of reads
    #[arg(long, value_name = "NUMBER", value_parser = text(values::posts_per_minute), default_value = "120")]
    pub posts_per_minute: u32,
    #[command(flatten)]
    pub premium: PremiumArgs,
    #[command(flatten)]
    pub admin: AdminArgs,
    /// Do not start the oldest waiting free Job when the quota has room
    /// [default: off]
    #[arg(long)]
    pub no_requeue: bool,
    /// Watch nothing: each GET /config asks Kubernetes, waiting Jobs are not started, and GET /jobs and /queue answer 404
    /// [default: off]
    #[arg(long)]
    pub no_watch: bool,
    /// Do not serve the page for browsers at /
    /// [default: off]
    #[arg(long)]
    pub no_page: bool,
    /// Lowest level to log: error, warn, info (one line per request) or debug
    #[arg(long, value_name = "LEVEL", value_parser = text(values::log_level), default_value = "info")]
    pub log_level: LevelFilter,
}

#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Container image of the classifier
    #[arg(long, value_name = "IMAGE", value_parser = text(values::image), default_value = DEFAULT_IMAGE)]
    pub image: String,
}

#[derive(Debug, Args)]
pub struct PremiumArgs {
    /// File with the bearer token that POSTs to premium must carry [default: none, premium is open to all]
    #[arg(long, value_name = "PATH", value_parser = values::path())]
    pub premium_token_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct AdminArgs {
    /// File with the bearer token that deletions of Jobs must carry [default: none, deleting Jobs is off]
    #[arg(long, value_name = "PATH", value_parser = values::path())]
    pub admin_token_file: Option<PathBuf>,
}

/// The cluster to use, and the time limit of one operation.
#[derive(Debug, Clone, Args)]
pub struct Access {
    /// Kubeconfig file; the variable may hold a list, as for kubectl [default: ~/.kube/config, then the in-cluster
    /// service account]
    #[arg(long, value_name = "PATH", value_parser = values::path())]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: the kubeconfig's current-context]
    #[arg(long, value_name = "NAME", value_parser = text(values::context))]
    pub context: Option<String>,
    /// Deadline of one Kubernetes operation including its retries, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = text(values::kube_timeout), default_value = "10")]
    pub kube_timeout: Duration,
    /// auto: make the tokens of EKS without the aws program where that is possible; off: always run the program
    #[arg(long, value_name = "WHEN", value_parser = choice(&[true, false], auto_or_off), default_value = "auto")]
    #[arg(action = ArgAction::Set)]
    pub native_eks: bool,
}

fn auto_or_off(is_auto: bool) -> &'static str {
    if is_auto { "auto" } else { "off" }
}

#[derive(Debug, Args)]
pub struct SetupArgs {
    /// Print the YAML without contacting a cluster
    #[arg(long)]
    pub print: bool,
    /// Only write a kubeconfig for this EKS cluster, which DescribeCluster describes; existing entries of other clusters stay
    #[arg(long, value_name = "NAME", value_parser = text(values::eks_cluster), conflicts_with = "print")]
    pub eks_kubeconfig: Option<String>,
    /// With --eks-kubeconfig: region of the cluster [default: AWS_REGION, the profile's, or that of this instance]
    #[arg(long, value_name = "REGION", value_parser = text(values::region), requires = "eks_kubeconfig")]
    pub region: Option<String>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

/// The options that `serve` shares are read by its own parser, see [`super::parse`].
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Use the environment of the systemd service: /etc/img-classification.env, or the file in
    /// IMG_CLASSIFICATION_ENV_FILE
    #[arg(long)]
    pub as_service: bool,
    /// Print one JSON object instead of lines
    #[arg(long)]
    pub json: bool,
    /// Address of the running server, as its clients use it [default: the port of --listen on this host]
    #[arg(long, value_name = "URL", value_parser = text(values::server_url))]
    pub server: Option<String>,
    /// Address that the server would listen on [default: 0.0.0.0:5000, with LOCAL=1 127.0.0.1:5000]
    #[arg(long, value_name = "ADDR:PORT", value_parser = text(values::address))]
    pub listen: Option<String>,
    #[command(flatten)]
    pub image: ImageArgs,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct CleanArgs {
    /// Delete every Job of both namespaces, not only those that this program created
    #[arg(long)]
    pub all: bool,
    /// Skip the confirmation
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct SelftestArgs {
    /// Address of the server, such as http://127.0.0.1:5000
    #[arg(value_parser = text(values::server_url))]
    pub url: String,
    #[command(flatten)]
    pub ca: CaArgs,
    /// Run `clean` first, with the kubeconfig's cluster
    #[arg(long)]
    pub clean_first: bool,
    /// Run `clean` at the end
    #[arg(long)]
    pub clean_after: bool,
    #[command(flatten)]
    pub wait: WaitArgs,
    #[command(flatten)]
    pub premium: PremiumArgs,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// Tier of the Job
    #[arg(value_parser = tier())]
    pub tier: Tier,
    /// Dataset to train on
    #[arg(value_parser = dataset())]
    pub dataset: Dataset,
    #[command(flatten)]
    pub server: ServerArgs,
    /// Wait for the end of the Job and print its state as it changes; exit 0 if it succeeds
    #[arg(long)]
    pub wait: bool,
    /// Print the classifier's log as it arrives; implies --wait
    #[arg(long)]
    pub logs: bool,
    /// Longest time for all of it, in seconds; after that exit with 124, and the Job continues [default: none]
    #[arg(long, value_name = "SECONDS", value_parser = text(values::submit_timeout))]
    pub timeout: Option<Duration>,
    /// Key of the Job: a repeat with the same key, tier and dataset returns the same Job [default: random]
    #[arg(long, value_name = "KEY", value_parser = text(values::idempotency_key))]
    pub idempotency_key: Option<String>,
    #[command(flatten)]
    pub premium: PremiumArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Job to show instead of the list
    #[arg(value_parser = text(values::job_name))]
    pub name: Option<String>,
    #[command(flatten)]
    pub server: ServerArgs,
    /// List the Jobs of this tier only
    #[arg(long, value_name = "TIER", value_parser = tier(), conflicts_with = "name")]
    pub tier: Option<Tier>,
    /// List the Jobs in this state only
    #[arg(long, value_name = "STATE", value_parser = state(), conflicts_with = "name")]
    pub state: Option<State>,
    /// Continue, and print each change; with NAME until the Job has ended, and exit 0 if it succeeds
    #[arg(long)]
    pub watch: bool,
    /// Print the log of the Job NAME as it arrives
    #[arg(long, requires = "name")]
    pub logs: bool,
    /// Delete the Job NAME and its pods
    #[arg(long, requires = "name", conflicts_with_all = ["watch", "logs"])]
    pub delete: bool,
    #[command(flatten)]
    pub admin: AdminArgs,
    #[command(flatten)]
    pub output: OutputArgs,
}

/// The server that `submit` and `jobs` use by default: one on this host.
const DEFAULT_SERVER: &str = "http://127.0.0.1:5000";

/// The running server to use.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Address of the server
    #[arg(long, value_name = "URL", value_parser = text(values::server_url), default_value = DEFAULT_SERVER)]
    pub server: String,
    #[command(flatten)]
    pub ca: CaArgs,
}

impl ServerArgs {
    /// Returns the options as words to append to a command, empty for the default server.
    pub fn to_words(&self) -> String {
        let server = Some(&self.server).filter(|server| *server != DEFAULT_SERVER);
        let ca = self.ca.ca.as_ref().map(|path| format!(" --ca {}", values::shell_word(&path.display().to_string())));
        server.map(|server| format!(" --server {server}")).into_iter().chain(ca).collect()
    }
}

#[derive(Debug, Args)]
pub struct CaArgs {
    /// PEM file with the CA certificates of an https server [default: those of the system]
    #[arg(long, value_name = "PATH", value_parser = values::path())]
    pub ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// Shell of the script
    #[arg(value_parser = choice(&Shell::ALL, Shell::as_str))]
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct VersionArgs {
    #[command(flatten)]
    pub output: OutputArgs,
}

#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// Existing folder
    #[arg(value_parser = values::path())]
    pub folder: PathBuf,
}

#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Longest wait for pods to end, in seconds; a pod has 30 s to end by itself, and its node may be slow
    #[arg(long, value_name = "SECONDS", value_parser = text(values::clean_timeout), default_value = "120")]
    pub timeout: Duration,
}

/// A shell with a completion script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    pub const ALL: [Self; 3] = [Self::Bash, Self::Zsh, Self::Fish];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Zsh => "zsh",
            Self::Fish => "fish",
        }
    }
}

fn tier() -> impl TypedValueParser<Value = Tier> {
    choice(&Tier::ALL, Tier::as_str)
}

fn dataset() -> impl TypedValueParser<Value = Dataset> {
    choice(&Dataset::ALL, Dataset::as_str)
}

fn state() -> impl TypedValueParser<Value = State> {
    choice(&State::ALL, State::as_str)
}

/// Returns the variable of the option --`long`. Options of a single run, such as --yes, have none.
pub fn variable(long: &str) -> Option<&'static str> {
    Some(match long {
        "listen" => "LISTEN",
        "image" => "CLASSIFIER_IMAGE",
        "kubeconfig" => "KUBECONFIG",
        "context" => "KUBE_CONTEXT",
        "local" => "LOCAL",
        "local-job-seconds" => "LOCAL_JOB_SECONDS",
        "local-nodes" => "LOCAL_NODES",
        "local-kubeconfig" => "LOCAL_KUBECONFIG",
        "job-ttl" => "JOB_TTL",
        "job-timeout" => "JOB_TIMEOUT",
        "kube-timeout" => "KUBE_TIMEOUT",
        "native-eks" => "NATIVE_EKS",
        "posts-per-minute" => "POSTS_PER_MINUTE",
        "premium-token-file" => "PREMIUM_TOKEN_FILE",
        "admin-token-file" => "ADMIN_TOKEN_FILE",
        "no-requeue" => "NO_REQUEUE",
        "no-watch" => "NO_WATCH",
        "no-page" => "NO_PAGE",
        "log-level" => "LOG_LEVEL",
        "server" => "IMG_CLASSIFICATION_SERVER",
        "ca" => "IMG_CLASSIFICATION_CA",
        _ => return None,
    })
}

/// The names of earlier builds that are refused or ignored, each with the present name.
pub const RENAMED: [(&str, &str); 2] = [("--no-nudge", "--no-requeue"), ("NO_NUDGE", "NO_REQUEUE")];

/// Returns the option --`long` of any command.
pub fn option<'a>(root: &'a clap::Command, long: &str) -> Option<&'a clap::Arg> {
    root.get_subcommands().flat_map(clap::Command::get_arguments).find(|arg| arg.get_long() == Some(long))
}
