//! From kubeconfig text, or from the in-cluster service account, to a [`Cluster`] with nothing left to check.
//!
//! The rules are those of client-go's clientcmd, so that what works for kubectl works here:
//! <https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/>. Where kubectl would go on
//! without a credential or to localhost, this is an error instead. Values never appear in an error, only field names.
//! This module reads files; it opens no socket and runs no command.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;

use base64::Engine;
use serde::Deserialize;
use serde_yaml::Value;
use ureq::Proxy;
use ureq::http::Uri;

use super::auth::{Basic, Bearer, Secret, User};
use super::error::{ConfigError, TlsError};
use super::exec::{ApiVersion, Exec};
use super::tls::{Identity, Leg, Trust};
use super::{proxy, read_file};

/// Where an in-cluster service account lives,
/// <https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/>.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The name of the cluster extension that is handed to an exec plugin, from client-go's clientcmd/api/v1/conversion.go.
const EXEC_EXTENSION: &str = "client.authentication.k8s.io/exec";

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
            cluster.proxy = url.map(|url| parse_proxy(&with_scheme(url)).ok_or(ConfigError::Proxy)).transpose()?;
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
        let looked = match (listed.is_some(), candidates.as_slice()) {
            (_, []) => "KUBECONFIG and HOME are not set".to_owned(),
            (true, paths) => format!("KUBECONFIG names {}, which does not exist", display(paths)),
            (false, paths) => format!("{} does not exist and this is not a pod", display(paths)),
        };
        Err(ConfigError::NotFound { looked })
    }

    /// The same from texts in order of precedence; their paths resolve relative file names.
    fn from_texts(texts: Vec<(PathBuf, String)>, context: Option<&str>) -> Result<Self, ConfigError> {
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
    super::read_text(path).map_err(|source| ConfigError::Read { what: "kubeconfig", path: path.into(), source })
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
        let text = text.trim_start_matches('\u{feff}');
        // Of several documents the first counts, as for kubectl.
        let document = serde_yaml::Deserializer::from_str(text).next();
        let root = document
            .map_or(Ok(Value::Null), Value::deserialize)
            .and_then(|mut root| root.apply_merge().map(|()| root))
            .map_err(|source| ConfigError::Yaml { path: path.clone(), source })?;
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

    fn node(&self) -> Node<'_> {
        Node { path: &self.path, field: String::new(), value: &self.root }
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
    fn entries(&self, list: List) -> Result<Vec<(&str, Node<'_>)>, ConfigError> {
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
fn find<'a>(files: &'a [File], list: List, name: &str, by: String) -> Result<Node<'a>, ConfigError> {
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

/// A place in a file: gives typed values, and errors that name the field but never its content.
#[derive(Clone)]
struct Node<'a> {
    path: &'a Path,
    field: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    /// The value under `key`; an absent one is null, as an explicit null is.
    fn field(&self, key: &str) -> Node<'a> {
        let field = if self.field.is_empty() { key.to_owned() } else { format!("{}.{key}", self.field) };
        Node { path: self.path, field, value: self.value.get(key).unwrap_or(&Value::Null) }
    }

    fn mapping(self) -> Result<Self, ConfigError> {
        match self.value {
            Value::Mapping(_) | Value::Null => Ok(self),
            _ => Err(self.error("is not a mapping")),
        }
    }

    fn items(&self) -> Result<Vec<Node<'a>>, ConfigError> {
        match self.value {
            Value::Null => Ok(Vec::new()),
            Value::Sequence(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(i, value)| {
                    // A name tells people more than a position.
                    let label = match value.get("name") {
                        Some(Value::String(name)) => format!("{}[{name}]", self.field),
                        _ => format!("{}[{i}]", self.field),
                    };
                    Node { path: self.path, field: label, value }
                })
                .collect()),
            _ => Err(self.error("is not a list")),
        }
    }

    /// A string; an empty one counts as absent, as in client-go.
    fn text(&self) -> Result<Option<&'a str>, ConfigError> {
        match self.value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            _ => Err(self.error("is not a string; put its value in quotes")),
        }
    }

    fn texts(&self) -> Result<Vec<String>, ConfigError> {
        self.items()?.iter().map(|item| item.text().map(|text| text.unwrap_or_default().to_owned())).collect()
    }

    fn flag(&self) -> Result<bool, ConfigError> {
        match self.value {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.error("is neither true nor false")),
        }
    }

    /// A file name, relative to the kubeconfig that holds it.
    fn file(&self) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.text()?.map(|name| self.folder().join(name)))
    }

    fn folder(&self) -> &'a Path {
        self.path.parent().unwrap_or_else(|| Path::new(""))
    }

    /// `KEY-data` (base64) or else the file that `KEY` names.
    fn data_or_file(&self, key: &str, what: &'static str) -> Result<Option<Vec<u8>>, ConfigError> {
        let data = self.field(&format!("{key}-data"));
        if let Some(text) = data.text()? {
            let compact: String = text.split_ascii_whitespace().collect();
            let decoded = base64::engine::general_purpose::STANDARD.decode(compact);
            return decoded.map(Some).map_err(|_| data.error("is not base64"));
        }
        let Some(path) = self.field(key).file()? else { return Ok(None) };
        read_file(&path).map(Some).map_err(|source| ConfigError::Read { what, path, source })
    }

    /// A field for people: which file has it, and which file it names.
    fn place(&self, key: &str) -> String {
        let data = self.field(&format!("{key}-data"));
        let (node, named) = match (data.value, self.field(key)) {
            (Value::Null, node) => (node.clone(), node.file().ok().flatten()),
            (_, _) => (data, None),
        };
        let named = named.map(|path| format!(" ({})", path.display())).unwrap_or_default();
        format!("kubeconfig {}: {}{named}", self.path.display(), node.field)
    }

    fn error(&self, problem: &'static str) -> ConfigError {
        let field = if self.field.is_empty() { "the top level" } else { &self.field };
        ConfigError::Field { path: self.path.to_owned(), field: field.to_owned(), problem }
    }
}

fn resolve(origin: String, cluster: &Node<'_>, user: Option<&Node<'_>>) -> Result<Cluster, ConfigError> {
    let ca = cluster.data_or_file("certificate-authority", "certificate-authority")?;
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
        Some(user) => resolve_user(user, || exec_cluster(cluster, &server, ca.as_deref()))?,
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
        Leg::cluster(&trust, user.identity.as_deref(), server.host()).map(drop)
    } else {
        Ok(())
    };
    checked.map_err(|source| {
        let field = match (&source, &trust.server_name) {
            (TlsError::BadName, Some(_)) => "tls-server-name",
            (TlsError::BadName, None) => "server",
            _ => "certificate-authority",
        };
        ConfigError::Tls { what: cluster.place(field), source }
    })?;
    Ok(Cluster { origin, server, trust, proxy, user })
}

/// The address of an API: a scheme in small letters, an authority and a path prefix, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    text: String,
    https: bool,
    host: String,
    port: u16,
}

impl Address {
    /// Checks an address. Without a scheme it is http unless `tls_by_default`.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn parse(text: &str, tls_by_default: bool) -> Result<Self, &'static str> {
        let full = match (text.contains("://"), tls_by_default) {
            (true, _) => text.to_owned(),
            (false, true) => format!("https://{text}"),
            (false, false) => format!("http://{text}"),
        };
        let uri: Uri = full.parse().map_err(|_| "is not a URL like https://host:6443")?;
        let https = match uri.scheme_str() {
            Some(scheme) if scheme.eq_ignore_ascii_case("https") => true,
            Some(scheme) if scheme.eq_ignore_ascii_case("http") => false,
            _ => return Err("is neither https:// nor http://"),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or("names no host")?;
        if authority.as_str().contains('@') || uri.query().is_some() || full.contains('#') {
            return Err("holds more than a scheme, a host, a port and a path");
        }
        let given = &authority.as_str()[authority.host().len()..];
        let port = match (given.strip_prefix(':'), https) {
            (None | Some(""), true) => 443,
            (None | Some(""), false) => 80,
            (Some(digits), _) => digits.parse().map_err(|_| "has a port that is no port number")?,
        };
        let (scheme, host) = (if https { "https" } else { "http" }, authority.host().to_owned());
        let path = uri.path().trim_end_matches('/');
        Ok(Self { text: format!("{scheme}://{authority}{path}"), https, host, port })
    }

    pub fn is_https(&self) -> bool {
        self.https
    }

    /// The host, an IPv6 address in its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Without a scheme the address is http unless there is something to do TLS with, as in client-go's rest/url_utils.go
/// (DefaultServerUrlFor).
fn server(cluster: &Node<'_>, tls_by_default: bool) -> Result<Address, ConfigError> {
    let node = cluster.field("server");
    let text = node.text()?.ok_or_else(|| node.error("is missing; it is the address of the Kubernetes API"))?;
    Address::parse(text, tls_by_default).map_err(|problem| node.error(problem))
}

/// A proxy from the kubeconfig or the environment. As for Go, socks5 leaves names to the proxy, which is what people with
/// a tunnel to a private network need.
fn parse_proxy(url: &str) -> Option<Proxy> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "socks5" | "socks5h" => "socks5h",
        "http" => "http",
        "https" => "https",
        _ => return None,
    };
    let url = format!("{scheme}://{rest}");
    // ureq would take another port for one that is out of range.
    let uri: Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    let port_is_good = authority.port().is_none_or(|port| port.as_str().parse::<u16>().is_ok());
    let after_host = authority.as_str().rsplit_once(authority.host())?.1;
    (port_is_good && (after_host.is_empty() || authority.port_u16().is_some())).then(|| Proxy::new(&url).ok())?
}

fn proxy_url(cluster: &Node<'_>) -> Result<Option<Proxy>, ConfigError> {
    let node = cluster.field("proxy-url");
    let Some(url) = node.text()? else { return Ok(None) };
    parse_proxy(url)
        .map(Some)
        .ok_or_else(|| node.error("is not a proxy address: http://, https:// or socks5://, a host and a port"))
}

fn resolve_user(
    node: &Node<'_>,
    exec_cluster: impl FnOnce() -> Result<serde_json::Value, ConfigError>,
) -> Result<User, ConfigError> {
    if !node.field("auth-provider").value.is_null() {
        return Err(node.field("auth-provider").error("is no longer supported by Kubernetes; use an exec plugin"));
    }
    let mut user = User { identity: identity(node)?, impersonate: impersonation(node)?, ..User::default() };
    let username = node.field("username").text()?;
    let password = node.field("password").text()?;
    let token = node.field("token").text()?;
    let token_file = node.field("tokenFile").file()?;
    if (token.is_some() || token_file.is_some()) && (username.is_some() || password.is_some()) {
        return Err(node.error("has a token and a username; keep one of them"));
    }
    user.bearer = match (token_file, token) {
        (Some(path), Some(token)) => Some(Bearer::file_or(&path, token)),
        (Some(path), None) => {
            Some(Bearer::file(&path).map_err(|source| ConfigError::Read { what: "tokenFile", path, source })?)
        }
        (None, Some(token)) => Some(Bearer::Fixed(Secret::new(token))),
        (None, None) => None,
    };
    if username.is_some() || password.is_some() {
        let password = Secret::new(password.unwrap_or_default());
        user.basic = Some(Basic { username: username.unwrap_or_default().to_owned(), password });
    }
    if !user.is_sendable() {
        return Err(node.error("holds a credential with characters that no HTTP header can carry"));
    }
    // A plugin is not run where there is a credential already, as in client-go's plugin/pkg/client/auth/exec.
    if !node.field("exec").value.is_null() && !user.has_secret() {
        user.exec = Some(exec(&node.field("exec").mapping()?, exec_cluster)?);
    }
    Ok(user)
}

fn identity(node: &Node<'_>) -> Result<Option<std::sync::Arc<Identity>>, ConfigError> {
    let chain = node.data_or_file("client-certificate", "client-certificate")?;
    let key = node.data_or_file("client-key", "client-key")?;
    match (chain, key) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) => {
            let what =
                format!("kubeconfig {}: the client-certificate or client-key of {}", node.path.display(), node.field);
            Identity::from_pem(&chain, &key)
                .map(|identity| Some(identity.into()))
                .map_err(|source| ConfigError::Tls { what, source })
        }
        (Some(_), None) => Err(node.field("client-key").error("is missing, but there is a client-certificate")),
        (None, Some(_)) => Err(node.field("client-certificate").error("is missing, but there is a client-key")),
    }
}

/// Headers, from <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#user-impersonation>.
fn impersonation(node: &Node<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut headers = Vec::new();
    let user = node.field("as").text()?;
    headers.extend(user.map(|user| ("Impersonate-User".to_owned(), user.to_owned())));
    headers.extend(node.field("as-uid").text()?.map(|uid| ("Impersonate-Uid".to_owned(), uid.to_owned())));
    let groups = node.field("as-groups").texts()?;
    headers.extend(groups.into_iter().map(|group| ("Impersonate-Group".to_owned(), group)));
    let extra = node.field("as-user-extra").mapping()?;
    for key in extra.value.as_mapping().into_iter().flat_map(|mapping| mapping.keys()) {
        let key = key.as_str().ok_or_else(|| extra.error("has a key that is not a string"))?;
        let name = format!("Impersonate-Extra-{}", percent_encode(key));
        headers.extend(extra.field(key).texts()?.into_iter().map(|value| (name.clone(), value)));
    }
    if user.is_none() && !headers.is_empty() {
        return Err(node.field("as").error("is missing, but other as-... fields are there"));
    }
    let sendable = headers.iter().all(|(name, value)| {
        use ureq::http::{HeaderName, HeaderValue};
        HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok()
    });
    if sendable { Ok(headers) } else { Err(node.field("as").error("holds characters that no HTTP header can carry")) }
}

/// client-go's transport/round_trippers.go (headerKeyEscape): what is no token character of RFC 9110 is escaped.
fn percent_encode(key: &str) -> String {
    let mut out = String::new();
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out.push(char::from(byte)),
            _ if b"!#$&'*+-.^_`|~".contains(&byte) => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn exec(
    node: &Node<'_>,
    cluster: impl FnOnce() -> Result<serde_json::Value, ConfigError>,
) -> Result<Exec, ConfigError> {
    let api_version = match node.field("apiVersion").text()? {
        Some("client.authentication.k8s.io/v1") => ApiVersion::V1,
        Some("client.authentication.k8s.io/v1beta1") => ApiVersion::V1Beta1,
        Some("client.authentication.k8s.io/v1alpha1") => {
            return Err(node.field("apiVersion").error(
                "is v1alpha1, which Kubernetes has removed; write the kubeconfig anew, e.g. by aws eks update-kubeconfig",
            ));
        }
        _ => return Err(node.field("apiVersion").error("is neither client.authentication.k8s.io/v1 nor v1beta1")),
    };
    let mode = node.field("interactiveMode");
    match (mode.text()?, api_version) {
        (Some("Never" | "IfAvailable"), _) | (None, ApiVersion::V1Beta1) => {}
        (Some("Always"), _) => return Err(mode.error("is Always, but a server has no terminal to ask on")),
        (Some(_), _) => return Err(mode.error("is not one of Never, IfAvailable, Always")),
        (None, ApiVersion::V1) => return Err(mode.error("is missing; v1 needs Never, IfAvailable or Always")),
    }
    let command = node.field("command");
    let name = command.text()?.ok_or_else(|| command.error("is missing"))?;
    // Only a command with a separator is a path; a bare one is looked up in PATH.
    let program = if name.contains('/') { node.folder().join(name) } else { PathBuf::from(name) };
    let mut env = Vec::new();
    for item in node.field("env").items()? {
        let value = item.field("value").text()?.unwrap_or_default().to_owned();
        let name = item.field("name").text()?.filter(|name| !name.contains(['=', '\0']));
        env.push((name.ok_or_else(|| item.error("has no usable name"))?.to_owned(), value));
    }
    let args = node.field("args").texts()?;
    if args.iter().chain(env.iter().map(|(_, value)| value)).any(|text| text.contains('\0')) {
        return Err(node.error("holds a NUL character"));
    }
    let cluster = if node.field("provideClusterInfo").flag()? { Some(cluster()?) } else { None };
    let hint = node.field("installHint").text()?.unwrap_or_default().to_owned();
    Ok(Exec { program, args, env, api_version, hint, cluster, running: AtomicU32::new(0) })
}

/// What a plugin is told about the cluster (ExecCredentialSpec.cluster),
/// <https://kubernetes.io/docs/reference/config-api/client-authentication.v1/#client-authentication-k8s-io-v1-Cluster>.
fn exec_cluster(cluster: &Node<'_>, server: &Address, ca: Option<&[u8]>) -> Result<serde_json::Value, ConfigError> {
    let mut info = serde_json::Map::new();
    info.insert("server".into(), server.to_string().into());
    for key in ["tls-server-name", "proxy-url"] {
        if let Some(text) = cluster.field(key).text()? {
            info.insert(key.into(), text.into());
        }
    }
    if cluster.field("insecure-skip-tls-verify").flag()? {
        info.insert("insecure-skip-tls-verify".into(), true.into());
    }
    if let Some(pem) = ca {
        let data = base64::engine::general_purpose::STANDARD.encode(pem);
        info.insert("certificate-authority-data".into(), data.into());
    }
    let extensions = cluster.field("extensions").items()?;
    let exec = extensions.iter().find(|item| item.value.get("name").and_then(Value::as_str) == Some(EXEC_EXTENSION));
    if let Some(extension) = exec {
        let config = serde_json::to_value(extension.field("extension").value)
            .map_err(|_| extension.error("cannot be written as JSON"))?;
        info.insert("config".into(), config);
    }
    Ok(info.into())
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
    Leg::cluster(&trust, None, server.host())
        .map(drop)
        .map_err(|source| ConfigError::Tls { what: "the service-account CA".to_owned(), source })?;
    let user = User { bearer: Some(bearer), ..User::default() };
    Ok(Cluster { origin: "in-cluster service account".to_owned(), server, trust, proxy: None, user })
}

impl Cluster {
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
