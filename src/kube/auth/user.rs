//! The user of a kubeconfig context, resolved.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::kube::auth::credential::{basic_header, bearer_header};
use crate::kube::auth::exec::ExecConfig;
use crate::kube::auth::secret::Secret;
use crate::kube::auth::token_file::read_token;
use crate::kube::transport::tls::Identity;

/// The user of a kubeconfig context. A user without any credential is valid.
#[derive(Debug, Default)]
pub struct User {
    /// A client certificate with its key.
    pub identity: Option<Arc<Identity>>,
    /// A token; may accompany a client certificate.
    pub bearer: Option<Bearer>,
    /// Username and password.
    pub basic: Option<Basic>,
    /// A credential plugin; set only if all fields above are `None`.
    pub exec: Option<ExecConfig>,
    /// Impersonation headers, in order; each is a valid header.
    pub impersonate: Vec<(String, String)>,
}

/// A bearer token.
#[derive(Debug)]
pub enum Bearer {
    /// A token in the kubeconfig.
    Fixed(Secret),
    /// A token file, with its first content.
    File { path: PathBuf, first: Secret },
}

/// A username and its password.
#[derive(Debug)]
pub struct Basic {
    pub username: String,
    pub password: Secret,
}

impl Bearer {
    /// Reads a token file for the first time.
    ///
    /// # Errors
    /// The file is missing, unreadable or empty.
    pub fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::File { path: path.to_owned(), first: read_token(path)? })
    }

    /// A token file with a fallback token, in use while the file is unreadable.
    pub fn file_or(path: &Path, token: &str) -> Self {
        Self::file(path).unwrap_or_else(|_| Self::File { path: path.to_owned(), first: Secret::new(token) })
    }
}

impl User {
    /// Tests for a secret that must not be sent over plain HTTP.
    pub fn has_secret(&self) -> bool {
        self.identity.is_some() || self.bearer.is_some() || self.basic.is_some() || self.exec.is_some()
    }

    /// Tests that the credential fits into a header: a token with a line break would inject another header.
    pub fn is_sendable(&self) -> bool {
        let token = match &self.bearer {
            Some(Bearer::Fixed(token) | Bearer::File { first: token, .. }) => bearer_header(token).is_some(),
            None => true,
        };
        token && self.basic.as_ref().is_none_or(|basic| basic_header(&basic.username, &basic.password).is_some())
    }
}

/// Describes the kind of credential for the effective configuration; secrets as `<set>`.
impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.identity.as_ref().map(|_| "client certificate".to_owned()));
        parts.extend(self.bearer.as_ref().map(|bearer| match bearer {
            Bearer::Fixed(_) => "token <set>".to_owned(),
            Bearer::File { path, .. } => format!("token file {}", path.display()),
        }));
        parts.extend(self.basic.as_ref().map(|basic| format!("username {}, password <set>", basic.username)));
        parts.extend(self.exec.as_ref().map(|exec| match &exec.eks {
            Some(eks) => format!("tokens of the EKS cluster {}, or plugin {}", eks.cluster, exec.program.display()),
            None => format!("plugin {}", exec.program.display()),
        }));
        parts.extend(self.impersonate.first().map(|(_, user)| format!("acting as {user}")));
        f.write_str(&if parts.is_empty() { "none".to_owned() } else { parts.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_and_display_show_no_secret() {
        let bearer = Bearer::Fixed(Secret::new("t0ken"));
        let basic = Some(Basic { username: "ann".into(), password: Secret::new("pa55") });
        let user = User { bearer: Some(bearer), basic, ..User::default() };
        let shown = format!("{user:?} {user}");
        assert!(!shown.contains("t0ken") && !shown.contains("pa55"), "{shown}");
        assert!(shown.contains("<set>"));
    }

    #[test]
    fn a_token_with_a_line_break_is_not_sendable() {
        let user = User { bearer: Some(Bearer::Fixed(Secret::new("a\r\nX-Admin: yes"))), ..User::default() };
        assert!(!user.is_sendable());
    }
}
