//! From kubeconfig text, or from the in-cluster service account, to a [`Cluster`] with nothing left to check.
//!
//! The rules are those of client-go's clientcmd, so that what works for kubectl works here:
//! <https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/>. Where kubectl would go on
//! without a credential or to localhost, this is an error instead. Values never appear in an error, only field names.
//! This module reads files; it opens no socket and runs no command.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use ureq::Proxy;

use crate::kube::auth::user::{Bearer, User};
use crate::kube::config::address::Address;
use crate::kube::config::field::ConfigField;
use crate::kube::config::{proxy, user};
use crate::kube::error::{ConfigError, TlsError};
use crate::kube::files::{read_file, read_text};
use crate::kube::transport::tls::{TlsEndpoint, Trust};
use crate::kube::yaml::{self, Value};

/// Where an in-cluster service account lives,
/// <https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/>.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where to look for a cluster.
pub struct Sources<'a> {
    /// One file, given on the command line: it must exist.
    pub file: Option<PathBuf>,
    /// The context to use instead of current-context.
    pub context: Option<String>,
    /// The environment: KUBECONFIG (a list; missing files are skipped), HOME, KUBERNETES_SERVICE_HOST and _PORT, and the
    /// proxy variables.
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Sources<'_> {
    /// A variable's text; an empty one counts as unset.
    fn text(&self, name: &str) -> Option<String> {
        (self.env)(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty())
    }
}

/// A cluster to talk to and the user to be there; every file it names has been read.
#[derive(Debug)]
pub struct Cluster {
    /// Where this came from, for people: files and context.
    pub origin: String,
    /// The API's address.
    pub server: Address,
    /// Whom to trust.
    pub trust: Trust,
    /// The proxy to go through, with its password if it has one.
    pub proxy: Option<Proxy>,
    /// Who we are.
    pub user: User,
}

impl Cluster {
    /// Finds and reads the cluster's description.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file and the field.
    pub fn load(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let mut cluster = Self::find(sources)?;
        if cluster.proxy.is_none() {
            let url = proxy::from_environment(&cluster.server, |name| sources.text(name));
            // Go takes a bare host and port here, too.
            let with_scheme = |url: String| if url.contains("://") { url } else { format!("http://{url}") };
            cluster.proxy = url.map(|url| proxy::parse(&with_scheme(url)).ok_or(ConfigError::Proxy)).transpose()?;
        }
        Ok(cluster)
    }

    fn find(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        if let Some(path) = &sources.file {
            let text = read(path)?;
            return Self::from_texts(vec![(path.clone(), text)], sources.context.as_deref());
        }
        let listed = (sources.env)("KUBECONFIG").filter(|list| !list.is_empty());
        let candidates: Vec<PathBuf> = match (&listed, (sources.env)("HOME")) {
            (Some(list), _) => std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect(),
            (None, Some(home)) => vec![PathBuf::from(home).join(".kube/config")],
            (None, None) => Vec::new(),
        };
        let mut texts = Vec::new();
        for path in &candidates {
            match read(path) {
                Ok(text) => texts.push((path.clone(), text)),
                // Only a file that is not there: one that may not be read must not lead to another cluster.
                Err(ConfigError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if !texts.is_empty() {
            return Self::from_texts(texts, sources.context.as_deref());
        }
        if listed.is_none() && sources.text("KUBERNETES_SERVICE_HOST").is_some() {
            return in_cluster(sources, Path::new(SERVICE_ACCOUNT));
        }
        let searched = match (listed.is_some(), candidates.as_slice()) {
            (_, []) => "KUBECONFIG and HOME are not set".to_owned(),
            (true, paths) => format!("KUBECONFIG names {}, which does not exist", display(paths)),
            (false, paths) => format!("{} does not exist and this is not a pod", display(paths)),
        };
        Err(ConfigError::NotFound { searched })
    }

    /// The same from texts in order of precedence; their paths resolve relative file names.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file and the field.
    pub fn from_texts(texts: Vec<(PathBuf, String)>, context: Option<&str>) -> Result<Self, ConfigError> {
        let files = texts.into_iter().map(|(path, text)| File::parse(path, &text)).collect::<Result<Vec<_>, _>>()?;
        let (name, by) = match context {
            Some(name) => (name.to_owned(), "--context".to_owned()),
            None => {
                let current = files.iter().find_map(|file| file.current_context.clone());
                let known = names(&files, List::Contexts);
                let path = display(files.iter().map(|file| &file.path));
                (current.ok_or(ConfigError::NoContext { path, known })?, "current-context".to_owned())
            }
        };
        let context = find(&files, List::Contexts, &name, by)?;
        let by = format!("the context {name:?}");
        let cluster = context.field("cluster");
        let cluster_name = cluster.text()?.ok_or_else(|| cluster.error("is missing"))?;
        let cluster = find(&files, List::Clusters, cluster_name, by.clone())?;
        let user = match context.field("user").text()? {
            Some(user) => Some(find(&files, List::Users, user, by)?),
            None => None,
        };
        let origin = format!("{}, context {name}", display(files.iter().map(|file| &file.path)));
        resolve(origin, &cluster, user.as_ref())
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    read_text(path).map_err(|source| ConfigError::Read { what: "kubeconfig", path: path.into(), source })
}

fn display<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>) -> String {
    paths.into_iter().map(|path| path.as_ref().display().to_string()).collect::<Vec<_>>().join(":")
}

/// The three lists of a kubeconfig, each with the key of its entries' content.
#[derive(Clone, Copy)]
enum List {
    Clusters,
    Contexts,
    Users,
}

impl List {
    /// (key of the list, key of an entry's content)
    fn keys(self) -> (&'static str, &'static str) {
        match self {
            Self::Clusters => ("clusters", "cluster"),
            Self::Contexts => ("contexts", "context"),
            Self::Users => ("users", "user"),
        }
    }
}

/// One kubeconfig file, split into named entries whose content is not looked at until something refers to it.
struct File {
    path: PathBuf,
    current_context: Option<String>,
    root: Value,
}

impl File {
    fn parse(path: PathBuf, text: &str) -> Result<Self, ConfigError> {
        let root = yaml::parse(text).map_err(|source| ConfigError::Yaml { path: path.clone(), source })?;
        let mut file = Self { path, current_context: None, root };
        let node = file.node();
        if !file.root.is_mapping() && !file.root.is_null() {
            return Err(node.error("is not a mapping; is this a kubeconfig?"));
        }
        if !matches!(node.field("kind").text()?, None | Some("Config")) {
            return Err(node.field("kind").error("is not Config; is this a kubeconfig?"));
        }
        if !matches!(node.field("apiVersion").text()?, None | Some("v1")) {
            return Err(node.field("apiVersion").error("is not v1"));
        }
        for list in [List::Clusters, List::Contexts, List::Users] {
            file.check_names(list)?;
        }
        file.current_context = file.node().field("current-context").text()?.map(str::to_owned);
        Ok(file)
    }

    fn node(&self) -> ConfigField<'_> {
        ConfigField::root(&self.path, &self.root)
    }

    fn check_names(&self, list: List) -> Result<(), ConfigError> {
        let mut seen = std::collections::HashSet::new();
        for (name, _) in self.entries(list)? {
            if !seen.insert(name) {
                let list = list.keys().0;
                return Err(ConfigError::Duplicate { path: self.path.clone(), list, name: name.to_owned() });
            }
        }
        Ok(())
    }

    /// Names and contents; entries without a name can't be referred to and are left out.
    fn entries(&self, list: List) -> Result<Vec<(&str, ConfigField<'_>)>, ConfigError> {
        let (list_key, content_key) = list.keys();
        let entries = self.node().field(list_key).items()?;
        Ok(entries
            .into_iter()
            .filter_map(|entry| match entry.value.get("name") {
                Some(Value::String(name)) => Some((name.as_str(), entry.field(content_key))),
                _ => None,
            })
            .collect())
    }
}

/// The first file that has the entry gives all of it: fields of two files never mix.
fn find<'a>(files: &'a [File], list: List, name: &str, by: String) -> Result<ConfigField<'a>, ConfigError> {
    for file in files {
        let found = file.entries(list)?.into_iter().find(|(candidate, _)| *candidate == name);
        if let Some((_, node)) = found {
            return node.mapping();
        }
    }
    let path = display(files.iter().map(|file| &file.path));
    Err(ConfigError::Missing { path, kind: list.keys().1, name: name.to_owned(), by, known: names(files, list) })
}

fn names(files: &[File], list: List) -> String {
    let mut names: Vec<&str> =
        files.iter().flat_map(|file| file.entries(list).unwrap_or_default()).map(|(name, _)| name).collect();
    names.dedup();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn resolve(origin: String, cluster: &ConfigField<'_>, user: Option<&ConfigField<'_>>) -> Result<Cluster, ConfigError> {
    let ca = cluster.data_or_file("certificate-authority")?;
    let ca = ca.filter(|pem| !pem.is_empty());
    let insecure = cluster.field("insecure-skip-tls-verify").flag()?;
    if insecure && ca.is_some() {
        return Err(cluster.field("insecure-skip-tls-verify").error("excludes a certificate-authority; remove one"));
    }
    let has_identity = user.is_some_and(|user| {
        ["client-certificate", "client-certificate-data"].iter().any(|key| !user.field(key).value.is_null())
    });
    let server = server(cluster, ca.is_some() || insecure || has_identity)?;
    let server_name = cluster.field("tls-server-name").text()?.map(str::to_owned);
    let proxy = proxy_url(cluster)?;
    let user = match user {
        Some(user) => user::resolve(user, || user::exec_cluster(cluster, &server, ca.as_deref()))?,
        None => User::default(),
    };
    if !server.is_https() && user.has_secret() {
        return Err(cluster
            .field("server")
            .error("is http, over which no credential is sent; use https, or a context without a user"));
    }
    let trust = Trust { ca, insecure, server_name };
    // Built here only to be checked: what is wrong with it should be said at start.
    let checked = if server.is_https() {
        TlsEndpoint::cluster(&trust, user.identity.as_deref(), server.host()).map(drop)
    } else {
        Ok(())
    };
    checked.map_err(|source| {
        let field = match (&source, &trust.server_name) {
            (TlsError::BadName, Some(_)) => "tls-server-name",
            (TlsError::BadName, None) => "server",
            _ => "certificate-authority",
        };
        ConfigError::Tls { what: cluster.location(field), source }
    })?;
    Ok(Cluster { origin, server, trust, proxy, user })
}

/// Without a scheme the address is http unless there is something to do TLS with, as in client-go's rest/url_utils.go
/// (DefaultServerUrlFor).
fn server(cluster: &ConfigField<'_>, tls_by_default: bool) -> Result<Address, ConfigError> {
    let node = cluster.field("server");
    let text = node.text()?.ok_or_else(|| node.error("is missing; it is the address of the Kubernetes API"))?;
    Address::parse(text, tls_by_default).map_err(|problem| node.error(problem))
}

fn proxy_url(cluster: &ConfigField<'_>) -> Result<Option<Proxy>, ConfigError> {
    let node = cluster.field("proxy-url");
    let Some(url) = node.text()? else { return Ok(None) };
    proxy::parse(url)
        .map(Some)
        .ok_or_else(|| node.error("is not a proxy address: http://, https:// or socks5://, a host and a port"))
}

/// The account that Kubernetes mounts into a pod.
fn in_cluster(sources: &Sources<'_>, folder: &Path) -> Result<Cluster, ConfigError> {
    let address = sources.text("KUBERNETES_SERVICE_HOST").zip(sources.text("KUBERNETES_SERVICE_PORT"));
    let Some((host, port)) = address else {
        return Err(ConfigError::InCluster {
            problem: "KUBERNETES_SERVICE_HOST or KUBERNETES_SERVICE_PORT is missing",
        });
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let server = Address::parse(&format!("https://{host}:{port}"), true)
        .map_err(|_| ConfigError::InCluster { problem: "KUBERNETES_SERVICE_HOST and _PORT make no address" })?;
    let token = folder.join("token");
    let bearer = Bearer::file(&token).map_err(|source| ConfigError::Read {
        what: "service-account token",
        path: token.clone(),
        source,
    })?;
    let path = folder.join("ca.crt");
    let ca = read_file(&path).map_err(|source| ConfigError::Read { what: "service-account CA", path, source })?;
    let trust = Trust { ca: Some(ca), insecure: false, server_name: None };
    TlsEndpoint::cluster(&trust, None, server.host())
        .map(drop)
        .map_err(|source| ConfigError::Tls { what: "the service-account CA".to_owned(), source })?;
    let user = User { bearer: Some(bearer), ..User::default() };
    Ok(Cluster { origin: "in-cluster service account".to_owned(), server, trust, proxy: None, user })
}

impl Cluster {
    /// The name of the credential plugin, if there is one, and the file that it is with this PATH.
    pub fn plugin(&self, path: Option<OsString>) -> Option<(String, std::io::Result<PathBuf>)> {
        self.user.exec.as_ref().map(|exec| (exec.name(), exec.find(path)))
    }

    /// The lines of the effective configuration; secrets as `<set>`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("kubeconfig: {}", self.origin), format!("cluster: {}", self.server)];
        if self.trust.insecure {
            lines
                .push("insecure-skip-tls-verify: true (anyone on the way can read and change what is sent)".to_owned());
        }
        lines.extend(self.trust.server_name.as_ref().map(|name| format!("tls-server-name: {name}")));
        lines.extend(self.proxy.as_ref().map(|_| "proxy: <set>".to_owned()));
        lines.push(format!("credentials: {}", self.user));
        lines
    }
}
