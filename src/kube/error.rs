//! Errors: [`ConfigError`] before the socket is bound, [`Error`] during a request to Kubernetes.
//!
//! A cause is in `source()` or in the text, never in both; [`chain`] prints all causes on one line.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::kube::yaml::YamlError;

/// Formats an error and its causes on one line: `a: b: c`.
pub fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}

/// An invalid or missing cluster configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// Neither a kubeconfig nor an in-cluster account exists; `searched` names the places.
    NotFound { searched: String },
    /// A file cannot be read; `what` is its role.
    Read { what: &'static str, path: PathBuf, source: io::Error },
    /// A kubeconfig is not YAML.
    Yaml { path: PathBuf, source: YamlError },
    /// A field has the wrong type or a rejected value. The value is not shown: it may be a secret.
    Field { path: PathBuf, field: String, problem: &'static str },
    /// A file that a field names cannot be read.
    FieldFile { path: PathBuf, field: String, named: PathBuf, source: io::Error },
    /// Two entries of one list share a name.
    Duplicate { path: PathBuf, list: &'static str, name: String },
    /// No option names a context, and no file sets current-context.
    NoContext { path: String, known: String },
    /// A reference has no target; `kind` is context, cluster or user, `by` is the field that holds the reference.
    Missing { path: String, kind: &'static str, name: String, by: String, known: String },
    /// A certificate, key or TLS name is invalid; `what` names its field or file.
    Tls { what: String, source: TlsError },
    /// A proxy variable of the environment is not a proxy address.
    Proxy,
    /// The in-cluster environment is incomplete.
    InCluster { problem: &'static str },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound { searched } => write!(
                f,
                "no kubeconfig found ({searched}); fix: set --kubeconfig or KUBECONFIG, \
                 or create one, on EKS with `img-classification setup --eks-kubeconfig CLUSTER --region REGION`"
            ),
            Self::Read { what, path, .. } => write!(f, "cannot read {what} {}", path.display()),
            Self::Yaml { path, .. } => write!(f, "kubeconfig {} is not valid YAML", path.display()),
            Self::Field { path, field, problem } => write!(f, "kubeconfig {}: {field} {problem}", path.display()),
            Self::FieldFile { path, field, named, .. } => {
                write!(f, "kubeconfig {}: {field}: cannot read {}", path.display(), named.display())
            }
            Self::Duplicate { path, list, name } => {
                write!(f, "kubeconfig {}: {list} has two entries named {name:?}; fix: remove one", path.display())
            }
            Self::NoContext { path, known } => {
                write!(f, "kubeconfig {path} has no current-context; fix: set --context (known: {known})")
            }
            Self::Missing { path, kind, name, by, known } => {
                write!(f, "kubeconfig {path}: {by} names the {kind} {name:?}, which does not exist (known: {known})")
            }
            Self::Tls { what, .. } => write!(f, "{what} is not usable"),
            Self::Proxy => write!(
                f,
                "HTTPS_PROXY or HTTP_PROXY is not a proxy address; \
                 fix: use http://HOST:PORT, https://HOST:PORT or socks5://HOST:PORT"
            ),
            Self::InCluster { problem } => write!(f, "in-cluster service account: {problem}"),
        }
    }
}

impl StdError for ConfigError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Read { source, .. } | Self::FieldFile { source, .. } => Some(source),
            Self::Yaml { source, .. } => Some(source),
            Self::Tls { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// An unusable certificate, key, TLS name or trust store.
#[derive(Debug)]
pub enum TlsError {
    /// The PEM text has no block of the expected kind.
    NoPem { expected: &'static str },
    /// The PEM text is malformed.
    BadPem,
    /// The system has no usable trust store and the kubeconfig names no CA.
    NoSystemRoots,
    /// The name to verify is neither a DNS name nor an IP address.
    BadName,
    /// rustls rejects the key or the certificate.
    Rejected(rustls::Error),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPem { expected } => write!(f, "no PEM {expected} found"),
            Self::BadPem => write!(f, "malformed PEM"),
            Self::NoSystemRoots => {
                write!(f, "the kubeconfig names no CA and the system has none; fix: install ca-certificates")
            }
            Self::BadName => write!(f, "the server's name is neither a DNS name nor an IP address"),
            Self::Rejected(error) => write!(f, "{error}"),
        }
    }
}

impl StdError for TlsError {}

/// A failed request to Kubernetes. The text is for the log; the API maps each variant to its own response.
#[derive(Debug)]
pub enum Error {
    /// No connection: refused, no such host, proxy down. No request has been sent.
    Unreachable { url: String, source: ureq::Error },
    /// The circuit breaker is open: the request was not sent.
    CircuitOpen { url: String },
    /// The client or the server refused the TLS handshake. A retry would fail as well.
    Tls { url: String, source: ureq::Error },
    /// The deadline passed before the response was complete.
    Timeout { url: String },
    /// The response is incomplete: the connection broke.
    Truncated { url: String },
    /// The continue token of a list expired before its last page.
    ListExpired { url: String },
    /// The proxy refused the connection.
    ProxyRefused { url: String, reason: String },
    /// The response is not from a Kubernetes API; `found` describes it.
    NotKubernetes { url: String, found: String },
    /// The response to a create was lost, and the retries did not tell if the object exists.
    OutcomeUnknown { source: Box<Error> },
    /// Kubernetes returned an error; `date` is the server's clock, if the response has it.
    Status { url: String, status: Status, retry_after: Option<Duration>, date: Option<SystemTime> },
    /// There is no credential for the request.
    Credential(CredentialError),
}

/// The fields of a Kubernetes `Status` object that describe an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The HTTP status code.
    pub code: u16,
    /// A CamelCase word such as `AlreadyExists`; empty if the response was not a Status object.
    pub reason: String,
    /// The message, shortened.
    pub message: String,
}

impl Status {
    /// Tests for a create that found an object of the same name.
    pub fn already_exists(&self) -> bool {
        self.code == 409 && self.reason == "AlreadyExists"
    }

    /// Tests for a refusal by a ResourceQuota. Kubernetes has no reason word for it, only this text, see
    /// <https://github.com/kubernetes/kubernetes/blob/master/staging/src/k8s.io/apiserver/pkg/admission/plugin/resourcequota/controller.go>.
    pub fn quota_exceeded(&self) -> bool {
        self.code == 403 && self.message.contains("exceeded quota")
    }

    /// Tests for a ResourceQuota without computed usage. The quota controller computes it moments after the quota's creation.
    pub fn quota_not_computed(&self) -> bool {
        self.code == 403 && self.message.contains("status unknown for quota")
    }

    /// Tests for a create in a namespace that is being deleted.
    pub fn namespace_terminating(&self) -> bool {
        self.code == 403 && self.message.contains("because it is being terminated")
    }

    /// Tests for a missing RBAC permission. Admission refuses with the same code and another text.
    pub fn not_permitted(&self) -> bool {
        let rbac = ["User \"", "\" cannot ", " resource \""];
        self.code == 403 && rbac.iter().all(|words| self.message.contains(words))
    }

    /// Tests for a request in a namespace that does not exist.
    pub fn namespace_missing(&self) -> bool {
        self.code == 404 && self.message.starts_with("namespaces ")
    }

    /// Tests for the log of a container that has not started, or of a pod without a node.
    pub fn container_waiting(&self) -> bool {
        self.code == 400
            && ["is waiting to start", "does not have a host assigned"].iter().any(|words| self.message.contains(words))
    }

    /// Tests for a node whose kubelet the API server cannot reach. The message is that of Go's client, or of a proxy to the nodes.
    pub fn kubelet_unreachable(&self) -> bool {
        let words = ["/containerLogs/", "dial tcp", "while dialing", "No agent available"];
        (500..=504).contains(&self.code) && words.iter().any(|words| self.message.contains(words))
    }

    /// Tests for an error that a retry may resolve: overload, a failing server, or a conflict with another write. For a
    /// create that is a write to its quota.
    pub fn is_retryable(&self) -> bool {
        matches!(self.code, 429 | 500 | 502..=504) || (self.code == 409 && self.reason == "Conflict")
    }
}

impl Error {
    /// Tests for an object or a kind that does not exist.
    pub fn not_found(&self) -> bool {
        matches!(self, Self::Status { status, .. } if status.code == 404)
    }

    /// Tests for a credential that Kubernetes rejects.
    pub fn unauthorized(&self) -> bool {
        matches!(self, Self::Status { status, .. } if status.code == 401)
    }

    /// Returns the server's clock from an error response.
    pub fn date(&self) -> Option<SystemTime> {
        match self {
            Self::Status { date, .. } => *date,
            _ => None,
        }
    }

    /// Returns the Retry-After of an error response.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Tests for a permission that the credential's role lacks.
    pub fn not_permitted(&self) -> bool {
        matches!(self, Self::Status { status, .. } if status.not_permitted())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { url, .. } => write!(f, "cannot reach {url}"),
            Self::CircuitOpen { url } => write!(f, "{url} is unreachable (circuit breaker open); request not sent"),
            Self::Tls { url, .. } => write!(f, "TLS connection to {url} failed"),
            Self::Timeout { url } => write!(f, "request to {url} timed out"),
            Self::Truncated { url } => write!(f, "response from {url} is incomplete"),
            Self::ListExpired { url } => write!(f, "the continue token of {url} expired"),
            Self::ProxyRefused { url, reason } => write!(f, "proxy refused the connection to {url}: {reason}"),
            Self::NotKubernetes { url, found } => {
                write!(f, "{url} returned {found}; expected a response from the Kubernetes API")
            }
            Self::OutcomeUnknown { .. } => write!(f, "a response was lost, so the Job may exist"),
            Self::Status { url, status, .. } => {
                write!(f, "{url} returned {} {}: {}", status.code, status.reason, status.message)
            }
            Self::Credential(error) => write!(f, "{error}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unreachable { source, .. } | Self::Tls { source, .. } => Some(source),
            Self::Credential(error) => error.source(),
            Self::OutcomeUnknown { source } => Some(source),
            Self::CircuitOpen { .. }
            | Self::Timeout { .. }
            | Self::Truncated { .. }
            | Self::ListExpired { .. }
            | Self::ProxyRefused { .. }
            | Self::NotKubernetes { .. }
            | Self::Status { .. } => None,
        }
    }
}

/// A failed run of a credential plugin. All requests that wait for the run share the error, hence `Clone`.
#[derive(Debug, Clone)]
pub enum CredentialError {
    /// The plugin could not be started.
    Spawn { command: String, hint: String, kind: io::ErrorKind },
    /// The plugin exceeded its deadline and was killed.
    TimedOut { command: String, limit: Duration },
    /// The plugin exited with a failure; `stderr` is the end of its error output.
    Failed { command: String, status: String, stderr: String },
    /// The plugin's output is not a usable ExecCredential.
    Malformed { command: String, problem: &'static str },
    /// The certificate in the plugin's output is not usable.
    Certificate { command: String, problem: String },
    /// The plugin is still running at the request's deadline.
    Pending { command: String },
    /// No EKS token could be made, and the plugin would not do better.
    Eks { problem: String },
}

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn { command, hint, kind } => {
                write!(f, "cannot run the credential plugin {command}: {kind}; fix: install it in a folder of PATH")?;
                if hint.is_empty() { Ok(()) } else { write!(f, " ({hint})") }
            }
            Self::TimedOut { command, limit } => {
                write!(f, "the credential plugin {command} exceeded its timeout of {} s", limit.as_secs())
            }
            Self::Failed { command, status, stderr } => {
                let output = if stderr.is_empty() { "no output on stderr" } else { stderr };
                write!(f, "the credential plugin {command} failed ({status}): {output}")
            }
            Self::Malformed { command, problem } => {
                write!(f, "the credential plugin {command} printed no usable ExecCredential: {problem}")
            }
            Self::Certificate { command, problem } => {
                write!(f, "the credential plugin {command} printed an unusable certificate: {problem}")
            }
            Self::Pending { command } => write!(f, "the credential plugin {command} is still running"),
            Self::Eks { problem } => write!(f, "cannot make an EKS token: {problem}"),
        }
    }
}

impl StdError for CredentialError {}
