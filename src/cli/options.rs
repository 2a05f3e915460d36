//! The effective configuration.

use std::path::PathBuf;

use log::LevelFilter;

use super::args::{Access, ServeArgs};
use crate::job;
use crate::simulator;

/// The effective configuration of the server without the contents of the kubeconfig.
#[derive(Debug, Clone)]
pub struct Options {
    /// HOST:PORT
    pub listen: String,
    /// Image, TTL and timeout of the Jobs.
    pub jobs: job::Settings,
    /// The cluster.
    pub access: Access,
    /// The simulated cluster of --local.
    pub local: Option<simulator::Settings>,
    /// POSTs per minute of one client network; 0 means unlimited.
    pub posts_per_minute: u32,
    /// --premium-token-file
    pub premium_token_file: Option<PathBuf>,
    /// --admin-token-file
    pub admin_token_file: Option<PathBuf>,
    /// Start the oldest waiting free Job; false with --no-requeue.
    pub requeue: bool,
    /// Keep watched state; false with --no-watch.
    pub watch: bool,
    /// Serve the page; false with --no-page.
    pub page: bool,
    /// Lowest level that is logged.
    pub log_level: LevelFilter,
}

impl Options {
    /// Returns the lines of the effective configuration.
    pub fn lines(&self) -> Vec<String> {
        vec![
            format!("listen: {}", self.listen),
            format!("image: {}", self.jobs.image),
            format!("job-ttl: {} s", self.jobs.ttl),
            match self.jobs.timeout {
                0 => "job-timeout: none".to_owned(),
                seconds => format!("job-timeout: {seconds} s"),
            },
            format!("kube-timeout: {} s", self.access.kube_timeout.as_secs()),
            format!("native-eks: {}", if self.access.native_eks { "auto" } else { "off" }),
            match self.posts_per_minute {
                0 => "posts-per-minute: unlimited".to_owned(),
                limit => format!("posts-per-minute: {limit} per client network"),
            },
            match &self.premium_token_file {
                Some(path) => format!("premium-token-file: {}", path.display()),
                None => "premium-token-file: none, premium is open to all".to_owned(),
            },
            match &self.admin_token_file {
                Some(path) => format!("admin-token-file: {}", path.display()),
                None => "admin-token-file: none, deleting Jobs is off".to_owned(),
            },
            match self.requeue && self.watch {
                true => "requeue: on, the oldest waiting free Job starts when the quota has room".to_owned(),
                false => "requeue: off".to_owned(),
            },
            match self.watch {
                true => "watch: on, GET /config, /queue and /jobs are answered from watched state".to_owned(),
                false => "watch: off".to_owned(),
            },
            format!("page: {}", if self.page { "on" } else { "off" }),
            format!("log-level: {}", self.log_level.as_str().to_ascii_lowercase()),
        ]
    }
}

impl From<ServeArgs> for Options {
    fn from(args: ServeArgs) -> Self {
        let (job_seconds, nodes, kubeconfig) = (args.local_job_seconds, args.local_nodes, args.local_kubeconfig);
        let simulator = simulator::Settings { job_seconds, nodes, kubeconfig };
        Self {
            listen: args.listen,
            jobs: job::Settings { image: args.image.image, ttl: args.job_ttl, timeout: args.job_timeout },
            access: args.access,
            local: args.local.then_some(simulator),
            posts_per_minute: args.posts_per_minute,
            premium_token_file: args.premium.premium_token_file,
            admin_token_file: args.admin.admin_token_file,
            requeue: !args.no_requeue,
            watch: !args.no_watch,
            page: !args.no_page,
            log_level: args.log_level,
        }
    }
}
