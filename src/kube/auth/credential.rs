//! Who we are: a user resolved from the kubeconfig, and the credential to send with the next request.
//!
//! Two kinds of credential change while the server runs: a token file is read again within a minute, a [plugin](crate::kube::auth::exec_cache)'s answer
//! is replaced when it expires, and either is replaced once when Kubernetes refuses it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use ureq::http::HeaderValue;

use crate::kube::auth::exec::Exec;
use crate::kube::auth::exec_cache::Plugin;
use crate::kube::error::Error;
use crate::kube::transport::tls::Identity;

/// How long a token file's content is used before it is read again: Kubernetes rotates a mounted token long before it
/// expires and asks clients to reload it at least once a minute; client-go takes a minute less ten seconds.
const TOKEN_FILE_AGE: Duration = Duration::from_secs(50);

/// Most that is shown of a token's subject, in characters: a service account has 140 at most.
const SUBJECT_SHOWN: usize = 256;

/// A text that no log and no error may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<set>")
    }
}

/// The user of a kubeconfig context. One without any credential is valid.
#[derive(Debug, Default)]
pub struct User {
    /// A client certificate with its key.
    pub identity: Option<Arc<Identity>>,
    /// A token; goes along with a client certificate.
    pub bearer: Option<Bearer>,
    /// Username and password.
    pub basic: Option<Basic>,
    /// A plugin; only there if none of the above is.
    pub exec: Option<Exec>,
    /// Impersonation headers, in order, checked to be sendable.
    pub impersonate: Vec<(String, String)>,
}

/// A bearer token.
#[derive(Debug)]
pub enum Bearer {
    /// From the kubeconfig itself.
    Fixed(Secret),
    /// From a file, with its first content.
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
    /// The file is missing, not readable, or empty.
    pub fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::File { path: path.to_owned(), first: read_token(path)? })
    }

    /// A token file beside a token, which serves while the file cannot be read.
    pub fn file_or(path: &Path, token: &str) -> Self {
        Self::file(path).unwrap_or_else(|_| Self::File { path: path.to_owned(), first: Secret::new(token) })
    }
}

fn read_token(path: &Path) -> io::Result<Secret> {
    // Requests wait for this: a pipe would hold them up.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    let text = crate::kube::read_text(path)?;
    match text.trim() {
        "" => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")),
        token => Ok(Secret::new(token)),
    }
}

impl User {
    /// There is something here that must not travel in the clear.
    pub fn has_secret(&self) -> bool {
        self.identity.is_some() || self.bearer.is_some() || self.basic.is_some() || self.exec.is_some()
    }

    /// The credential fits into a header: a token with a line break must not start a header of its own.
    pub fn is_sendable(&self) -> bool {
        let token = match &self.bearer {
            Some(Bearer::Fixed(token) | Bearer::File { first: token, .. }) => bearer_header(token).is_some(),
            None => true,
        };
        token && self.basic.as_ref().is_none_or(|basic| basic_header(basic).is_some())
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.identity.as_ref().map(|_| "client certificate".to_owned()));
        parts.extend(self.bearer.as_ref().map(|bearer| match bearer {
            Bearer::Fixed(_) => "token <set>".to_owned(),
            Bearer::File { path, .. } => format!("token file {}", path.display()),
        }));
        parts.extend(self.basic.as_ref().map(|basic| format!("username {}, password <set>", basic.username)));
        parts.extend(self.exec.as_ref().map(|exec| format!("plugin {}", exec.program.display())));
        parts.extend(self.impersonate.first().map(|(_, user)| format!("acting as {user}")));
        f.write_str(&if parts.is_empty() { "none".to_owned() } else { parts.join(", ") })
    }
}

pub fn bearer_header(token: &Secret) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {}", token.expose()))
}

fn basic_header(basic: &Basic) -> Option<HeaderValue> {
    let pair = format!("{}:{}", basic.username, basic.password.expose());
    sensitive(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

/// The `sub` of a JSON Web Token, RFC 7519: a name, and no secret. Tokens of EKS are of another kind and say nothing.
fn subject(token: &str) -> Option<String> {
    let [_, claims, _] = token.split('.').collect::<Vec<_>>().try_into().ok()?;
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    Some(claims["sub"].as_str()?.chars().take(SUBJECT_SHOWN).collect())
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// What to send with one request.
#[derive(Debug)]
pub struct Credential {
    pub authorization: Option<HeaderValue>,
    pub identity: Option<Arc<Identity>>,
    /// Grows with each replacement, so that a refused credential is told from its successor.
    pub serial: u64,
}

/// Gives the credential of the moment; shared by all threads.
pub struct Credentials(Source);

enum Source {
    Fixed(Arc<Credential>),
    File(TokenFile),
    Plugin(Arc<Plugin>),
}

impl Credentials {
    pub fn new(user: User) -> Self {
        let User { identity, bearer, basic, exec, .. } = user;
        if let Some(exec) = exec {
            return Self(Source::Plugin(Arc::new(Plugin::new(exec))));
        }
        match bearer {
            Some(Bearer::File { path, first }) => {
                Self(Source::File(TokenFile::new(path, &first, identity, TOKEN_FILE_AGE)))
            }
            bearer => {
                let token = match &bearer {
                    Some(Bearer::Fixed(token)) => bearer_header(token),
                    _ => None,
                };
                let authorization = token.or_else(|| basic.as_ref().and_then(basic_header));
                Self(Source::Fixed(Arc::new(Credential { authorization, identity, serial: 0 })))
            }
        }
    }

    /// Starts what takes long, so that the first request need not wait for it.
    pub fn prepare(&self) {
        if let Source::Plugin(plugin) = &self.0 {
            plugin.prepare();
        }
    }

    /// The credential to use now; waits for a plugin at most until `deadline`.
    ///
    /// # Errors
    /// The plugin failed, or is still running at the deadline.
    pub fn get(&self, deadline: Instant) -> Result<Arc<Credential>, Error> {
        match &self.0 {
            Source::Fixed(credential) => Ok(Arc::clone(credential)),
            Source::File(file) => Ok(file.get()),
            Source::Plugin(plugin) => {
                let credential = plugin.get(deadline, None).map_err(Error::Credential)?;
                Ok(credential.expect("only a refused credential can have no successor"))
            }
        }
    }

    /// A credential to use in place of one that Kubernetes refused; none if there is no other.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn renew(&self, refused: &Credential, deadline: Instant) -> Result<Option<Arc<Credential>>, Error> {
        match &self.0 {
            Source::Fixed(_) => Ok(None),
            Source::File(file) => Ok(Some(file.reload()).filter(|new| new.serial != refused.serial)),
            Source::Plugin(plugin) => plugin.get(deadline, Some(refused.serial)).map_err(Error::Credential),
        }
    }

    /// Whose token the current credential holds, by the token itself.
    pub fn subject(&self, deadline: Instant) -> Option<String> {
        let credential = self.get(deadline).ok()?;
        subject(credential.authorization.as_ref()?.to_str().ok()?.strip_prefix("Bearer ")?)
    }

    /// Ends a plugin that is still running.
    pub fn close(&self) {
        if let Source::Plugin(plugin) = &self.0 {
            plugin.close();
        }
    }
}

/// A token that somebody else replaces on disk.
struct TokenFile {
    path: PathBuf,
    max_age: Duration,
    state: Mutex<(Instant, Arc<Credential>)>,
}

impl TokenFile {
    fn new(path: PathBuf, first: &Secret, identity: Option<Arc<Identity>>, max_age: Duration) -> Self {
        let credential = Credential { authorization: bearer_header(first), identity, serial: 0 };
        Self { path, max_age, state: Mutex::new((Instant::now(), Arc::new(credential))) }
    }

    fn get(&self) -> Arc<Credential> {
        let fresh = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.0.elapsed() < self.max_age).then(|| Arc::clone(&state.1))
        };
        fresh.unwrap_or_else(|| self.reload())
    }

    /// Reads the file again. If that fails the old token stays in use: it may well still be valid.
    fn reload(&self) -> Arc<Credential> {
        let read = read_token(&self.path);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = Instant::now();
        match read.map(|token| bearer_header(&token)) {
            Ok(Some(header)) if Some(&header) != state.1.authorization.as_ref() => {
                let (identity, serial) = (state.1.identity.clone(), state.1.serial + 1);
                state.1 = Arc::new(Credential { authorization: Some(header), identity, serial });
            }
            Ok(Some(_)) => {}
            Ok(None) => log::warn!("token file {} holds characters that no header can carry", self.path.display()),
            Err(error) => log::warn!("cannot read token file {} again: {error}", self.path.display()),
        }
        Arc::clone(&state.1)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn no_secret_is_shown_by_debug() {
        let bearer = Bearer::Fixed(Secret::new("t0ken"));
        let basic = Some(Basic { username: "ann".into(), password: Secret::new("pa55") });
        let user = User { bearer: Some(bearer), basic, ..User::default() };
        let shown = format!("{user:?} {user}");
        assert!(!shown.contains("t0ken") && !shown.contains("pa55"), "{shown}");
        assert!(shown.contains("<set>"));
    }

    #[test]
    fn a_token_tells_its_subject_and_nothing_else() {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let jwt = |claims: &str| format!("{}.{}.c2lnbmF0dXJl", encode("{}"), encode(claims));
        let found = subject(&jwt(r#"{"sub":"system:serviceaccount:default:a","jti":"x"}"#));
        assert_eq!(found.as_deref(), Some("system:serviceaccount:default:a"));
        for token in ["", "t0ken", "a.b.c", "k8s-aws-v1.aGk", &jwt("[]"), &jwt(r#"{"sub":1}"#)] {
            assert_eq!(subject(token), None, "{token}");
        }
    }

    #[test]
    fn a_token_with_a_line_break_is_not_sendable() {
        let user = User { bearer: Some(Bearer::Fixed(Secret::new("a\r\nX-Admin: yes"))), ..User::default() };
        assert!(!user.is_sendable());
    }

    #[test]
    fn a_token_file_is_read_again_when_its_content_is_old_or_refused() {
        let folder = std::env::temp_dir().join(format!("img-classification-token-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let path = folder.join("token");
        fs::write(&path, " one \n").expect("written");
        let first = read_token(&path).expect("read");
        let sent = |credential: &Credential| {
            credential.authorization.clone().and_then(|value| value.to_str().map(str::to_owned).ok())
        };

        let kept = TokenFile::new(path.clone(), &first, None, Duration::from_secs(3600));
        let aged = TokenFile::new(path.clone(), &first, None, Duration::ZERO);
        fs::write(&path, "two").expect("written");
        assert_eq!(sent(&kept.get()).as_deref(), Some("Bearer one"));
        assert_eq!(sent(&aged.get()).as_deref(), Some("Bearer two"));
        assert_eq!(sent(&kept.reload()).as_deref(), Some("Bearer two"));

        fs::remove_file(&path).expect("removed");
        assert_eq!(sent(&aged.get()).as_deref(), Some("Bearer two"), "the old token stays while there is no new one");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
