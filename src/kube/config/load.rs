//! The search for a cluster's configuration: options, KUBECONFIG, the home folder, then the in-cluster service account.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::kube::auth::eks::{EksTokens, Recognition};
use crate::kube::config::cluster::Cluster;
use crate::kube::config::in_cluster;
use crate::kube::error::ConfigError;
use crate::kube::files::read_text;
use crate::kube::proxy;

/// The places to search.
pub struct Sources<'a> {
    /// A file that must exist, from the command line.
    pub file: Option<PathBuf>,
    /// The context to use instead of current-context.
    pub context: Option<String>,
    /// The environment: KUBECONFIG (a list; missing files are skipped), HOME, KUBERNETES_SERVICE_HOST and _PORT, and
    /// the proxy variables.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
    /// Make tokens of EKS without the plugin where that is possible.
    pub native_eks: bool,
}

impl Sources<'_> {
    /// Returns a variable's text; an empty variable counts as unset.
    fn text(&self, name: &str) -> Option<String> {
        (self.env)(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty())
    }
}

impl Cluster {
    /// Finds and resolves the cluster's configuration.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file and the field.
    pub fn load(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let mut cluster = find(sources)?;
        if cluster.proxy.is_none() {
            let url = proxy::from_environment(&cluster.server, |name| sources.text(name));
            cluster.proxy_origin = if cluster.server.is_https() { "HTTPS_PROXY" } else { "HTTP_PROXY" };
            cluster.proxy = url.map(|url| proxy::parse_variable(&url).ok_or(ConfigError::Proxy)).transpose()?;
        }
        if let Some(exec) = cluster.user.exec.as_mut().filter(|_| sources.native_eks) {
            match EksTokens::recognise(&exec.program, &exec.args, &exec.env, sources.env) {
                Recognition::Eks(eks) => exec.eks = Some(eks),
                Recognition::Unsupported(reason) => log::info!("{} makes the EKS tokens: {reason}", exec.name()),
                Recognition::Other => {}
            }
        }
        Ok(cluster)
    }
}

fn find(sources: &Sources<'_>) -> Result<Cluster, ConfigError> {
    if let Some(path) = &sources.file {
        let text = read(path)?;
        return Cluster::from_texts(vec![(path.clone(), text)], sources.context.as_deref());
    }
    let listed = (sources.env)("KUBECONFIG").filter(|list| !list.is_empty());
    let candidates: Vec<PathBuf> = match (&listed, (sources.env)("HOME")) {
        (Some(list), _) => std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect(),
        (None, Some(home)) => vec![PathBuf::from(home).join(".kube/config")],
        (None, None) => Vec::new(),
    };
    let texts = read_existing(&candidates)?;
    if !texts.is_empty() {
        return Cluster::from_texts(texts, sources.context.as_deref());
    }
    if listed.is_none() && sources.text("KUBERNETES_SERVICE_HOST").is_some() {
        return in_cluster::load(|name| sources.text(name));
    }
    let searched = match (listed.is_some(), candidates.as_slice()) {
        (_, []) => "KUBECONFIG and HOME are not set".to_owned(),
        (true, paths) => format!("KUBECONFIG names {}, which does not exist", join_paths(paths)),
        (false, paths) => format!("{} does not exist and this is not a pod", join_paths(paths)),
    };
    Err(ConfigError::NotFound { searched })
}

/// Reads those files that exist. An existing but unreadable file is an error: skipping it could select another cluster.
fn read_existing(paths: &[PathBuf]) -> Result<Vec<(PathBuf, String)>, ConfigError> {
    let mut texts = Vec::new();
    for path in paths {
        match read(path) {
            Ok(text) => texts.push((path.clone(), text)),
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(texts)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    read_text(path).map_err(|source| ConfigError::Read { what: "kubeconfig", path: path.into(), source })
}

fn join_paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":")
}
