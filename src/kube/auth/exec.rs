//! A credential plugin: the kubeconfig's settings, and the ExecCredential that the plugin prints. Plain data.
//!
//! The protocol:
//! <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins>. The plugin's
//! stdout is a secret, and no error contains it.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::kube::auth::eks::EksTokens;
use crate::kube::auth::secret::Secret;
use crate::kube::error::CredentialError;
use crate::kube::time;
use crate::kube::transport::tls::Identity;
use crate::kube::yaml::{self, Value};

/// The search path if PATH is not set, as in glibc's execvp(3).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// The settings of a plugin.
pub struct ExecConfig {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub api_version: ApiVersion,
    /// installHint: advice for the operator if the program is missing.
    pub hint: String,
    /// The cluster's description, with provideClusterInfo.
    pub cluster: Option<serde_json::Value>,
    /// The way to make its credential without it.
    pub eks: Option<Box<EksTokens>>,
}

/// Shows neither the arguments nor the values of variables, which may be secrets.
impl fmt::Debug for ExecConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecConfig").field("program", &self.program).finish_non_exhaustive()
    }
}

/// The version of the protocol; both have the same fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiVersion {
    V1,
    V1Beta1,
}

impl ApiVersion {
    fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "client.authentication.k8s.io/v1",
            Self::V1Beta1 => "client.authentication.k8s.io/v1beta1",
        }
    }
}

impl ExecConfig {
    /// Returns the plugin's name for messages, without its arguments, which may hold secrets.
    pub fn name(&self) -> String {
        self.program.display().to_string()
    }

    /// Finds the file to execute: the program's own path, or its first executable in PATH. The PATH in the plugin's own
    /// environment replaces `path`.
    ///
    /// # Errors
    /// The file does not exist, or is not executable.
    pub fn find(&self, path: Option<OsString>) -> io::Result<PathBuf> {
        if self.program.components().count() > 1 {
            return check_executable(&self.program).map(|()| self.program.clone());
        }
        let own = self.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.into());
        let path = own.or(path).unwrap_or_else(|| DEFAULT_PATH.into());
        let mut problem = io::Error::from(io::ErrorKind::NotFound);
        for folder in std::env::split_paths(&path) {
            let file = folder.join(&self.program);
            match check_executable(&file) {
                Ok(()) => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    /// Builds KUBERNETES_EXEC_INFO.
    pub fn info(&self) -> String {
        let mut spec = serde_json::json!({ "interactive": false });
        if let Some(cluster) = &self.cluster {
            spec["cluster"] = cluster.clone();
        }
        serde_json::json!({ "apiVersion": self.api_version.as_str(), "kind": "ExecCredential", "spec": spec })
            .to_string()
    }
}

fn check_executable(file: &Path) -> io::Result<()> {
    if !std::fs::metadata(file)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(rustix::fs::access(file, rustix::fs::Access::EXEC_OK)?)
}

/// The credential that a plugin prints: a token, a client certificate, or both.
#[derive(Debug)]
pub struct ExecCredential {
    pub token: Option<Secret>,
    pub identity: Option<Identity>,
    pub expires: Option<SystemTime>,
}

impl ExecCredential {
    /// Parses a plugin's stdout by the rules of client-go's plugin/pkg/client/auth/exec/exec.go (refreshCredsLocked).
    ///
    /// # Errors
    /// [`CredentialError::Malformed`] or [`CredentialError::Certificate`].
    pub fn parse(config: &ExecConfig, stdout: &[u8]) -> Result<Self, CredentialError> {
        let problem = |problem| CredentialError::Malformed { command: config.name(), problem };
        let text = std::str::from_utf8(stdout).map_err(|_| problem("the output is not UTF-8"))?;
        let root = yaml::parse(text).map_err(|_| problem("the output is not JSON"))?;
        if root.get("kind").and_then(Value::as_str) != Some("ExecCredential") {
            return Err(problem("its kind is not ExecCredential"));
        }
        if root.get("apiVersion").and_then(Value::as_str) != Some(config.api_version.as_str()) {
            return Err(problem("its apiVersion differs from the kubeconfig's"));
        }
        let text = |key: &str| match root.get("status").and_then(|status| status.get(key)) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(problem("a field of its status is not a string")),
        };
        let token = text("token")?.map(Secret::new);
        let identity = match (text("clientCertificateData")?, text("clientKeyData")?) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some(identity(config, chain, key)?),
            _ => return Err(problem("it has a certificate without a key, or a key without a certificate")),
        };
        if token.is_none() && identity.is_none() {
            return Err(problem("its status has neither a token nor a certificate"));
        }
        let expires = match text("expirationTimestamp")? {
            Some(time) => Some(time::parse(time).ok_or_else(|| problem("its expirationTimestamp is not RFC 3339"))?),
            None => None,
        };
        Ok(Self { token, identity, expires })
    }
}

fn identity(config: &ExecConfig, chain: &str, key: &str) -> Result<Identity, CredentialError> {
    Identity::from_pem(chain.as_bytes(), key.as_bytes())
        .map_err(|error| CredentialError::Certificate { command: config.name(), problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(api_version: ApiVersion) -> ExecConfig {
        let (args, env, hint) = (Vec::new(), Vec::new(), String::new());
        ExecConfig { program: "aws".into(), args, env, api_version, hint, cluster: None, eks: None }
    }

    #[test]
    fn a_bare_name_is_found_in_path_and_a_path_is_itself() {
        let find = |program: &str, path: &str| {
            let exec = ExecConfig { program: program.into(), ..plugin(ApiVersion::V1) };
            exec.find(Some(path.into())).map_err(|error| error.kind())
        };
        assert_eq!(find("sh", "/nowhere:/bin"), Ok("/bin/sh".into()));
        assert_eq!(find("/bin/sh", ""), Ok("/bin/sh".into()));
        assert_eq!(find("sh", "/nowhere"), Err(io::ErrorKind::NotFound));
        assert_eq!(find("passwd", "/etc:/nowhere"), Err(io::ErrorKind::PermissionDenied));
        assert_eq!(find("/etc", ""), Err(io::ErrorKind::InvalidInput));
        let own =
            ExecConfig { program: "sh".into(), env: vec![("PATH".into(), "/bin".into())], ..plugin(ApiVersion::V1) };
        assert_eq!(own.find(Some("/nowhere".into())).ok(), Some("/bin/sh".into()));
    }

    #[test]
    fn parse_accepts_only_an_exec_credential_of_the_same_version_with_a_credential() {
        let v1 = "client.authentication.k8s.io/v1";
        let reply = |version: &str, kind: &str, status: &str| {
            format!(r#"{{"apiVersion":"{version}","kind":"{kind}","status":{status}}}"#)
        };
        let good = reply(v1, "ExecCredential", r#"{"token":"t","expirationTimestamp":"2026-01-02T03:04:05Z"}"#);
        let found = ExecCredential::parse(&plugin(ApiVersion::V1), good.as_bytes()).expect("valid");
        assert_eq!(found.token, Some(Secret::new("t")));
        assert!(found.expires.is_some());

        let bad = [
            (reply(v1, "ExecCredential", "{}"), "neither a token"),
            (reply(v1, "ExecCredential", "null"), "neither a token"),
            (reply(v1, "ExecCredential", r#"{"token":""}"#), "neither a token"),
            (reply(v1, "ExecCredential", r#"{"token":17}"#), "not a string"),
            (reply(v1, "ExecCredential", r#"{"clientCertificateData":"x"}"#), "without a key"),
            (reply(v1, "ExecCredential", r#"{"clientKeyData":"x"}"#), "without a key"),
            (reply(v1, "ExecCredential", r#"{"token":"t","expirationTimestamp":"soon"}"#), "RFC 3339"),
            (reply("client.authentication.k8s.io/v1beta1", "ExecCredential", r#"{"token":"t"}"#), "apiVersion"),
            (reply(v1, "Secret", r#"{"token":"t"}"#), "kind"),
            ("s3cret: [".to_owned(), "not JSON"),
            ("s3cret".to_owned(), "kind"),
            (String::new(), "kind"),
        ];
        for (text, expected) in bad {
            let error = ExecCredential::parse(&plugin(ApiVersion::V1), text.as_bytes()).expect_err(&text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
