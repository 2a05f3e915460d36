//! What can go wrong: [`ConfigError`] before the socket is bound, [`Error`] during a call.
//!
//! A cause is in `source()` or in the text, never in both; [`chain`] prints them as one line.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::kube::yaml;

/// An error and its causes on one line, `a: b: c`.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

/// Why no cluster could be made of the kubeconfig (or of the in-cluster account).
#[derive(Debug)]
pub enum ConfigError {
    /// Neither a kubeconfig nor an in-cluster account was found; `looked` names the places.
    NotFound { looked: String },
    /// A file could not be read; `what` is its role.
    Read { what: &'static str, path: PathBuf, source: io::Error },
    /// A kubeconfig is not YAML.
    Yaml { path: PathBuf, source: yaml::NotYaml },
    /// A field has the wrong type or a value that we refuse. The value itself is not shown: it may be a secret.
    Field { path: PathBuf, field: String, problem: &'static str },
    /// Two entries of one list share a name.
    Duplicate { path: PathBuf, list: &'static str, name: String },
    /// No context was asked for and no file sets current-context.
    NoContext { path: String, known: String },
    /// A name leads nowhere; `kind` is context, cluster or user, `by` what named it.
    Missing { path: String, kind: &'static str, name: String, by: String, known: String },
    /// Certificates or keys that cannot be used.
    Tls { what: String, source: TlsError },
    /// A proxy variable of the environment is no proxy address.
    Proxy,
    /// The in-cluster environment is incomplete.
    InCluster { problem: &'static str },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { looked } => write!(
                f,
                "no kubeconfig found ({looked}); name one with --kubeconfig or KUBECONFIG, \
                 or make one with `aws eks update-kubeconfig`"
            ),
            Self::Read { what, path, .. } => write!(f, "cannot read {what} {}", path.display()),
            Self::Yaml { path, .. } => write!(f, "kubeconfig {} is not YAML", path.display()),
            Self::Field { path, field, problem } => write!(f, "kubeconfig {}: {field} {problem}", path.display()),
            Self::Duplicate { path, list, name } => {
                write!(f, "kubeconfig {}: {list} names {name:?} twice; remove one of the two", path.display())
            }
            Self::NoContext { path, known } => {
                write!(f, "kubeconfig {path} has no current-context; choose one with --context (known: {known})")
            }
            Self::Missing { path, kind, name, by, known } => {
                write!(f, "kubeconfig {path}: {by} names the {kind} {name:?}, which is not there (known: {known})")
            }
            Self::Tls { what, .. } => write!(f, "{what} cannot be used"),
            Self::Proxy => {
                write!(
                    f,
                    "HTTPS_PROXY or HTTP_PROXY is not a proxy address: http://, https:// or socks5://, a host and a port"
                )
            }
            Self::InCluster { problem } => write!(f, "in-cluster service account: {problem}"),
        }
    }
}

impl StdError for ConfigError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Read { source, .. } => Some(source),
            Self::Yaml { source, .. } => Some(source),
            Self::Tls { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// What is wrong with a certificate, a key or a trust store.
#[derive(Debug)]
pub enum TlsError {
    /// No block of the wanted kind in the PEM text.
    NoPem { wanted: &'static str },
    /// The PEM text is broken.
    BadPem,
    /// The system has no usable trust store and the kubeconfig names no CA.
    NoSystemRoots,
    /// The name to verify is no DNS name and no IP address.
    BadName,
    /// rustls refuses the key or the certificate.
    Refused(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPem { wanted } => write!(f, "it holds no PEM {wanted}"),
            Self::BadPem => write!(f, "its PEM text is broken"),
            Self::NoSystemRoots => {
                write!(f, "the system has no CA certificates (install ca-certificates) and the kubeconfig names none")
            }
            Self::BadName => write!(f, "the server's name is neither a DNS name nor an IP address"),
            Self::Refused(error) => write!(f, "{error}"),
        }
    }
}

impl StdError for TlsError {}

/// Why a call to Kubernetes failed. The caller decides what its own client is told.
#[derive(Debug)]
pub enum Error {
    /// No connection, or it broke: refused, reset, no such host, proxy down.
    Unreachable { url: String, source: ureq::Error },
    /// Others have just tried in vain for long; not tried again.
    Down { url: String },
    /// TLS was refused by us or by the server; trying again would not help.
    Untrusted { url: String, source: ureq::Error },
    /// The deadline passed first.
    Timeout { url: String },
    /// The answer ended too early.
    Truncated { url: String },
    /// The proxy answered, but does not let us through.
    ProxyRefused { url: String, reason: String },
    /// An answer that is not from a Kubernetes API: `found` says what it was instead.
    NotKubernetes { url: String, found: String },
    /// The answer to a create was lost, and then a quota was full: the object may be there or not.
    Unconfirmed { url: String },
    /// Kubernetes answered with an error of its own; `date` is its clock, if it showed it.
    Status { url: String, status: Status, retry_after: Option<Duration>, date: Option<SystemTime> },
    /// There is no credential to send.
    Credential(CredentialError),
}

/// The parts of a Kubernetes `Status` object that say what went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// A CamelCase word such as `AlreadyExists`; empty where the answer was not a Status object.
    pub reason: String,
    /// The sentence for people, shortened.
    pub message: String,
}

impl Status {
    /// A create found an object of that name.
    pub fn already_exists(&self) -> bool {
        self.code == 409 && self.reason == "AlreadyExists"
    }

    /// A ResourceQuota refused the object. Kubernetes has no reason of its own for it, only this text, see
    /// <https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/apiserver/pkg/admission/plugin/resourcequota/controller.go>.
    pub fn quota_exceeded(&self) -> bool {
        self.code == 403 && self.message.contains("exceeded quota")
    }

    /// The role lacks a permission. Other refusals with the same code come from admission.
    pub fn not_permitted(&self) -> bool {
        let rbac = ["User \"", "\" cannot ", " resource \""];
        self.code == 403 && rbac.iter().all(|words| self.message.contains(words))
    }

    /// The namespace of the request does not exist.
    pub fn namespace_missing(&self) -> bool {
        self.code == 404 && self.message.starts_with("namespaces ")
    }

    /// Worth another try: overload, a server error, or a write that lost a race (a quota that others update too).
    pub fn passes(&self) -> bool {
        // 410: the pages of a list have become too old to go on with; a new list will do.
        matches!(self.code, 410 | 429 | 500..) || (self.code == 409 && self.reason == "Conflict")
    }
}

impl Error {
    /// Kubernetes has no such object, or no such kind.
    pub fn not_found(&self) -> bool {
        matches!(self, Self::Status { status, .. } if status.code == 404)
    }

    /// Kubernetes does not take this credential.
    pub fn unauthorized(&self) -> bool {
        matches!(self, Self::Status { status, .. } if status.code == 401)
    }

    /// The server's clock, which stands in its refusals, too.
    pub fn date(&self) -> Option<SystemTime> {
        match self {
            Self::Status { date, .. } => *date,
            _ => None,
        }
    }

    /// The role of this credential lacks a permission.
    pub fn not_permitted(&self) -> bool {
        matches!(self, Self::Status { status, .. } if status.not_permitted())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { url, .. } => write!(f, "cannot reach {url}"),
            Self::Down { url } => write!(f, "{url} cannot be reached; not tried now"),
            Self::Untrusted { url, .. } => write!(f, "no trusted connection to {url}"),
            Self::Timeout { url } => write!(f, "no answer in time from {url}"),
            Self::Truncated { url } => write!(f, "the answer of {url} ended too early"),
            Self::ProxyRefused { url, reason } => write!(f, "no way through the proxy to {url}: {reason}"),
            Self::NotKubernetes { url, found } => {
                write!(f, "{url} answered with {found}, which is not a Kubernetes answer")
            }
            Self::Unconfirmed { url } => {
                write!(f, "an answer of {url} was lost, and now the quota is full: the Job may be stored")
            }
            Self::Status { url, status, .. } => {
                write!(f, "{url} answered {} {}: {}", status.code, status.reason, status.message)
            }
            Self::Credential(error) => write!(f, "{error}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unreachable { source, .. } | Self::Untrusted { source, .. } => Some(source),
            Self::Credential(error) => error.source(),
            Self::Down { .. }
            | Self::Timeout { .. }
            | Self::Truncated { .. }
            | Self::ProxyRefused { .. }
            | Self::NotKubernetes { .. }
            | Self::Unconfirmed { .. }
            | Self::Status { .. } => None,
        }
    }
}

/// Why there is no credential. One run of a plugin is shared by all who waited for it, hence `Clone`.
#[derive(Debug, Clone)]
pub enum CredentialError {
    /// The plugin could not be started.
    Spawn { command: String, hint: String, kind: io::ErrorKind },
    /// The plugin ran longer than its deadline and was ended.
    Slow { command: String, limit: Duration },
    /// The plugin ended with a failure; `stderr` is the end of what it said there.
    Failed { command: String, status: String, stderr: String },
    /// The plugin's answer cannot be used.
    Answer { command: String, problem: &'static str },
    /// The certificate in the plugin's answer cannot be used.
    Identity { command: String, problem: String },
    /// The plugin is still running while the caller's own deadline has passed.
    Waiting { command: String },
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn { command, hint, kind } => {
                write!(f, "cannot run the credential plugin {command}: {kind}; is it installed and in PATH?")?;
                if hint.is_empty() { Ok(()) } else { write!(f, " {hint}") }
            }
            Self::Slow { command, limit } => {
                write!(f, "the credential plugin {command} did not end within {} s", limit.as_secs())
            }
            Self::Failed { command, status, stderr } => {
                let said = if stderr.is_empty() { "it said nothing on stderr" } else { stderr };
                write!(f, "the credential plugin {command} failed ({status}): {said}")
            }
            Self::Answer { command, problem } => {
                write!(f, "the credential plugin {command} gave no usable ExecCredential: {problem}")
            }
            Self::Identity { command, problem } => {
                write!(f, "the credential plugin {command} gave a certificate that cannot be used: {problem}")
            }
            Self::Waiting { command } => write!(f, "the credential plugin {command} has not answered yet"),
        }
    }
}

impl StdError for CredentialError {}
