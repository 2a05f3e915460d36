//! kubeconfig texts, resolved into a [`Cluster`] by the rules of client-go's clientcmd:
//! <https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/>.
//!
//! A kubeconfig that works for kubectl works here. Where kubectl continues without a credential or with localhost, this
//! module returns an error. Errors name fields and never show their values. This module opens no socket and runs no
//! command.

use std::collections::HashSet;
use std::path::PathBuf;

use ureq::Proxy;

use crate::kube::address::Address;
use crate::kube::auth::user::User;
use crate::kube::config::cluster::Cluster;
use crate::kube::config::field::ConfigField;
use crate::kube::config::user;
use crate::kube::error::{ConfigError, TlsError};
use crate::kube::proxy;
use crate::kube::transport::tls::{TlsEndpoint, Trust};
use crate::kube::yaml::{self, Value};

impl Cluster {
    /// Resolves a context of kubeconfig texts, in order of precedence. Their paths resolve relative file names.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file and the field.
    pub fn from_texts(texts: Vec<(PathBuf, String)>, context: Option<&str>) -> Result<Self, ConfigError> {
        let files = texts.into_iter().map(|(path, text)| File::parse(path, text)).collect::<Result<Vec<_>, _>>()?;
        let (name, by) = match context {
            Some(name) => (name.to_owned(), "--context".to_owned()),
            None => {
                let current = files.iter().find_map(|file| file.current_context.clone());
                let known = names(&files, List::Contexts);
                let path = join_paths(&files);
                (current.ok_or(ConfigError::NoContext { path, known })?, "current-context".to_owned())
            }
        };
        let context = find(&files, List::Contexts, &name, by)?;
        let by = format!("the context {name:?}");
        let cluster = context.get("cluster");
        let cluster_name = cluster.text()?.ok_or_else(|| cluster.error("is missing"))?;
        let cluster = find(&files, List::Clusters, cluster_name, by.clone())?;
        let user = match context.get("user").text()? {
            Some(user) => Some(find(&files, List::Users, user, by)?),
            None => None,
        };
        let origin = format!("{}, context {name}", join_paths(&files));
        resolve((origin, cluster_name), &cluster, user.as_ref())
    }
}

/// The lists of a kubeconfig.
#[derive(Clone, Copy)]
enum List {
    Clusters,
    Contexts,
    Users,
}

impl List {
    /// Returns (key of the list, key of an entry's content).
    fn keys(self) -> (&'static str, &'static str) {
        match self {
            Self::Clusters => ("clusters", "cluster"),
            Self::Contexts => ("contexts", "context"),
            Self::Users => ("users", "user"),
        }
    }
}

/// One kubeconfig file. The content of an entry is not checked until a reference names it.
struct File {
    path: PathBuf,
    current_context: Option<String>,
    content: Value,
}

impl File {
    fn parse(path: PathBuf, text: String) -> Result<Self, ConfigError> {
        let content = yaml::parse_file(text).map_err(|source| ConfigError::Yaml { path: path.clone(), source })?;
        let mut file = Self { path, current_context: None, content };
        let root = file.root();
        if !file.content.is_mapping() && !file.content.is_null() {
            return Err(root.error("is not a mapping; is this a kubeconfig?"));
        }
        if !matches!(root.get("kind").text()?, None | Some("Config")) {
            return Err(root.get("kind").error("is not Config; is this a kubeconfig?"));
        }
        if !matches!(root.get("apiVersion").text()?, None | Some("v1")) {
            return Err(root.get("apiVersion").error("is not v1"));
        }
        for list in [List::Clusters, List::Contexts, List::Users] {
            file.check_names(list)?;
        }
        file.current_context = file.root().get("current-context").text()?.map(str::to_owned);
        Ok(file)
    }

    fn root(&self) -> ConfigField<'_> {
        ConfigField::root(&self.path, &self.content)
    }

    fn check_names(&self, list: List) -> Result<(), ConfigError> {
        let mut seen = HashSet::new();
        for (name, _) in self.entries(list)? {
            if !seen.insert(name) {
                let list = list.keys().0;
                return Err(ConfigError::Duplicate { path: self.path.clone(), list, name: name.to_owned() });
            }
        }
        Ok(())
    }

    /// Returns names and contents. Entries without a name are skipped, as no reference can name them.
    fn entries(&self, list: List) -> Result<Vec<(&str, ConfigField<'_>)>, ConfigError> {
        let (list_key, content_key) = list.keys();
        let entries = self.root().get(list_key).items()?;
        Ok(entries
            .into_iter()
            .filter_map(|entry| match entry.value.get("name") {
                Some(Value::String(name)) => Some((name.as_str(), entry.get(content_key))),
                _ => None,
            })
            .collect())
    }
}

/// Finds an entry. The first file with the entry provides all of it: fields of two files never mix.
fn find<'a>(files: &'a [File], list: List, name: &str, by: String) -> Result<ConfigField<'a>, ConfigError> {
    for file in files {
        let found = file.entries(list)?.into_iter().find(|(candidate, _)| *candidate == name);
        if let Some((_, content)) = found {
            return content.mapping();
        }
    }
    let path = join_paths(files);
    Err(ConfigError::Missing { path, kind: list.keys().1, name: name.to_owned(), by, known: names(files, list) })
}

fn join_paths(files: &[File]) -> String {
    files.iter().map(|file| file.path.display().to_string()).collect::<Vec<_>>().join(":")
}

fn names(files: &[File], list: List) -> String {
    let mut names: Vec<&str> =
        files.iter().flat_map(|file| file.entries(list).unwrap_or_default()).map(|(name, _)| name).collect();
    names.dedup();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn resolve(
    (origin, name): (String, &str),
    cluster: &ConfigField<'_>,
    user: Option<&ConfigField<'_>>,
) -> Result<Cluster, ConfigError> {
    let ca = cluster.data_or_file("certificate-authority")?;
    let ca = ca.filter(|pem| !pem.is_empty());
    let insecure = cluster.get("insecure-skip-tls-verify").flag()?;
    if insecure && ca.is_some() {
        return Err(cluster
            .get("insecure-skip-tls-verify")
            .error("conflicts with certificate-authority; fix: remove one"));
    }
    let has_identity = user.is_some_and(|user| {
        ["client-certificate", "client-certificate-data"].iter().any(|key| user.get(key).is_present())
    });
    let server = server(cluster, ca.is_some() || insecure || has_identity)?;
    let server_name = cluster.get("tls-server-name").text()?.map(str::to_owned);
    let proxy = proxy_url(cluster)?;
    let user = match user {
        Some(user) => user::resolve(user, || user::exec_cluster(cluster, &server, ca.as_deref()))?,
        None => User::default(),
    };
    if !server.is_https() && user.has_secret() {
        return Err(cluster
            .get("server")
            .error("is http, over which no credential is sent; fix: use https, or a context without a user"));
    }
    let trust = Trust { ca, insecure, server_name };
    if server.is_https() {
        check_tls(cluster, &server, &trust, &user)?;
    }
    Ok(Cluster { origin, name: Some(name.to_owned()), server, trust, proxy, proxy_origin: "proxy-url", user })
}

/// Builds the TLS configuration once and drops it, so that an unusable CA is a start-up error.
fn check_tls(cluster: &ConfigField<'_>, server: &Address, trust: &Trust, user: &User) -> Result<(), ConfigError> {
    let built = TlsEndpoint::cluster(trust, user.identity.as_deref(), server.host());
    built.map(drop).map_err(|source| {
        let field = match (&source, &trust.server_name) {
            (TlsError::BadName, Some(_)) => "tls-server-name",
            (TlsError::BadName, None) => "server",
            _ => "certificate-authority",
        };
        ConfigError::Tls { what: cluster.location(field), source }
    })
}

/// Reads the server's address. Without a scheme it is http, unless the configuration has TLS settings: client-go's
/// rest/url_utils.go (DefaultServerUrlFor).
fn server(cluster: &ConfigField<'_>, tls_by_default: bool) -> Result<Address, ConfigError> {
    let field = cluster.get("server");
    let text =
        field.text()?.ok_or_else(|| field.error("is missing; fix: set it to the address of the Kubernetes API"))?;
    Address::parse(text, tls_by_default).map_err(|problem| field.error(problem))
}

fn proxy_url(cluster: &ConfigField<'_>) -> Result<Option<Proxy>, ConfigError> {
    let field = cluster.get("proxy-url");
    let Some(url) = field.text()? else { return Ok(None) };
    proxy::parse(url).map(Some).ok_or_else(|| {
        field.error("is not a proxy address; fix: use http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: &str =
        "clusters: [{name: c, cluster: {server: 'http://first:1', insecure-skip-tls-verify: true}}]\n";
    const CONTEXTS: &str = "contexts: [{name: a, context: {cluster: c}}, {name: b, context: {cluster: lost}}]\n";

    fn from(texts: &[&str], context: Option<&str>) -> Result<Cluster, String> {
        let texts = texts.iter().map(|text| (PathBuf::from("/etc/config"), (*text).to_owned())).collect();
        Cluster::from_texts(texts, context).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_file_with_an_entry_provides_all_of_it() {
        let second = "current-context: a\nclusters: [{name: c, cluster: {server: 'http://second:2'}}]\n";
        let cluster = from(&[CONTEXTS, CLUSTER, second], None).expect("a cluster");
        assert_eq!((cluster.server.to_string().as_str(), cluster.trust.insecure), ("http://first:1", true));
        let cluster = from(&[CONTEXTS, second, CLUSTER], None).expect("a cluster");
        assert_eq!((cluster.server.to_string().as_str(), cluster.trust.insecure), ("http://second:2", false));
    }

    #[test]
    fn an_error_names_the_reference_and_the_known_entries() {
        for (context, words) in [
            (None, &["current-context", "known: a, b"][..]),
            (Some("x"), &["--context", "\"x\"", "known: a, b"]),
            (Some("b"), &["context \"b\"", "cluster \"lost\"", "known: c"]),
        ] {
            let error = from(&[CONTEXTS, CLUSTER], context).expect_err("no such entry");
            assert!(words.iter().all(|word| error.contains(word)), "{context:?}: {error}");
        }
    }
}
