//! Who we are: a user resolved from the kubeconfig, and the credential to send with the next request.
//!
//! Three kinds of credential change while the server runs: a token file is read again within a minute, a plugin's answer
//! is replaced when it expires, and either is replaced once when Kubernetes refuses it. Plugins are run by
//! [`exec`](super::exec); here is only when to run them: never twice at once, and once per lifetime of a token.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use ureq::http::HeaderValue;

use super::error::{CredentialError, Error};
use super::exec::{self, Exec};
use super::tls::Identity;

/// How long a token file's content is used before it is read again: Kubernetes rotates a mounted token long before it
/// expires and asks clients to reload it at least once a minute; client-go takes a minute less ten seconds.
const TOKEN_FILE_AGE: Duration = Duration::from_secs(50);

/// How long a plugin may run. The AWS CLI takes 1 to 5 s, on a t2.nano without CPU credits several times that.
const PLUGIN_TIMEOUT: Duration = Duration::from_secs(30);

/// A plugin's token is replaced this long before it expires, in the background, so that no request waits for it; or a
/// tenth of its lifetime before, if that is less.
const EARLY: Duration = Duration::from_secs(60);

/// After a failed run the next one waits as long as that one took, but no longer than this: a broken plugin costs seconds
/// of CPU at each try and must not take more than half of the host's.
const FAILURE_PAUSE_MOST: Duration = Duration::from_secs(5);

/// Least time between two runs caused by a refusal (401): a cluster that refuses every token must not make us run the
/// plugin for every request.
const REFUSAL_PAUSE: Duration = Duration::from_secs(10);

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
    let text = super::read_text(path)?;
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

fn bearer_header(token: &Secret) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {}", token.expose()))
}

fn basic_header(basic: &Basic) -> Option<HeaderValue> {
    let pair = format!("{}:{}", basic.username, basic.password.expose());
    sensitive(&format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
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
    serial: u64,
}

/// Gives the credential of the moment; shared by all workers.
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
            plugin.start(plugin.lock());
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

    /// Ends a plugin that is still running.
    pub fn close(&self) {
        if let Source::Plugin(plugin) = &self.0 {
            plugin.exec.kill();
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

/// The answers of a credential plugin.
struct Plugin {
    exec: Exec,
    state: Mutex<PluginState>,
    changed: Condvar,
}

#[derive(Default)]
struct PluginState {
    current: Option<Fetched>,
    /// When the present run began.
    running: Option<Instant>,
    /// Runs that have ended; the last of them made a credential of this serial, or failed.
    ended: u64,
    failed: Option<Failed>,
    /// When a refusal last caused a run.
    renewed: Option<Instant>,
}

struct Failed {
    error: CredentialError,
    /// The number of the run.
    run: u64,
    not_before: Instant,
}

struct Fetched {
    credential: Arc<Credential>,
    /// (when to look for the next, when this one ends)
    lifetime: Option<(SystemTime, SystemTime)>,
}

impl Fetched {
    fn new(credential: Credential, expires: Option<SystemTime>) -> Self {
        let now = SystemTime::now();
        // One that is over on arrival comes from a clock that differs from ours: Kubernetes will say when it is over.
        let left = expires.and_then(|expires| expires.duration_since(now).ok());
        let lifetime = left.map(|left| {
            let end = now + left;
            (end - EARLY.min(left / 10), end)
        });
        Self { credential: Arc::new(credential), lifetime }
    }

    fn ended(&self) -> bool {
        self.lifetime.is_some_and(|(_, end)| SystemTime::now() >= end)
    }

    fn due(&self) -> bool {
        self.lifetime.is_some_and(|(due, _)| SystemTime::now() >= due)
    }
}

impl Plugin {
    fn new(exec: Exec) -> Self {
        Self { exec, state: Mutex::default(), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, PluginState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The credential, unless it is the refused one; none if that has no successor and may not get one yet.
    ///
    /// A failed run is the answer of all who waited for it, and of those who come before the next run may begin.
    fn get(
        self: &Arc<Self>,
        deadline: Instant,
        refused: Option<u64>,
    ) -> Result<Option<Arc<Credential>>, CredentialError> {
        let mut state = self.lock();
        let seen = state.ended;
        loop {
            let now = Instant::now();
            let usable = state
                .current
                .as_ref()
                .filter(|fetched| !fetched.ended() && Some(fetched.credential.serial) != refused)
                .map(|fetched| (Arc::clone(&fetched.credential), fetched.due()));
            let failed = state.failed.as_ref().filter(|failed| failed.run > seen || now < failed.not_before);
            match (usable, failed.map(|failed| failed.error.clone())) {
                (Some((credential, due)), failed) => {
                    if due && failed.is_none() && state.running.is_none() {
                        self.start(state);
                    }
                    return Ok(Some(credential));
                }
                (None, Some(error)) => return Err(error),
                (None, None) if state.running.is_none() => {
                    if refused.is_some() {
                        if state.renewed.is_some_and(|at| at.elapsed() < REFUSAL_PAUSE) {
                            return Ok(None);
                        }
                        state.renewed = Some(now);
                    }
                    self.start(state);
                    state = self.lock();
                }
                (None, None) => {
                    let left = deadline.saturating_duration_since(now);
                    if left.is_zero() {
                        // What went wrong the last time says more than that it has not gone right yet.
                        let last = state.failed.as_ref().map(|failed| failed.error.clone());
                        return Err(last.unwrap_or_else(|| CredentialError::Waiting { command: self.exec.name() }));
                    }
                    state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Runs the plugin on a thread of its own: a request may give up at its deadline while the plugin goes on, and the
    /// next request has its answer.
    fn start(self: &Arc<Self>, mut state: MutexGuard<'_, PluginState>) {
        state.running = Some(Instant::now());
        drop(state);
        let plugin = Arc::clone(self);
        let spawned = thread::Builder::new().name("credential".into()).spawn(move || {
            // A run that does not end, were it by a bug of ours, would leave everybody waiting.
            let answer = catch_unwind(AssertUnwindSafe(|| exec::run(&plugin.exec, PLUGIN_TIMEOUT)));
            plugin.finish(answer.unwrap_or_else(|_| {
                let command = plugin.exec.name();
                Err(CredentialError::Answer { command, problem: "the server failed to read it; this is a bug" })
            }));
        });
        if let Err(error) = spawned {
            let (command, hint) = (self.exec.name(), String::new());
            self.finish(Err(CredentialError::Spawn { command, hint, kind: error.kind() }));
        }
    }

    fn finish(&self, answer: Result<exec::Answer, CredentialError>) {
        let mut state = self.lock();
        let run = state.ended + 1;
        let took = state.running.take().map_or(Duration::ZERO, |began| began.elapsed());
        let mut failed = None;
        match answer.and_then(|answer| self.fetched(answer, run)) {
            Ok(fetched) => {
                state.current = Some(fetched);
                state.failed = None;
            }
            Err(error) => {
                failed = Some(error.to_string());
                state.failed = Some(Failed { error, run, not_before: Instant::now() + took.min(FAILURE_PAUSE_MOST) });
            }
        }
        state.ended = run;
        drop(state);
        self.changed.notify_all();
        match failed {
            Some(error) => log::warn!("{error}"),
            None => log::debug!("the credential plugin {} gave credential {run}", self.exec.name()),
        }
    }

    fn fetched(&self, answer: exec::Answer, serial: u64) -> Result<Fetched, CredentialError> {
        let authorization = match &answer.token {
            Some(token) => Some(bearer_header(token).ok_or_else(|| CredentialError::Answer {
                command: self.exec.name(),
                problem: "its token holds characters that no HTTP header can carry",
            })?),
            None => None,
        };
        let identity = answer.identity.map(Arc::new);
        Ok(Fetched::new(Credential { authorization, identity, serial }, answer.expires))
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

    #[test]
    fn a_credential_that_is_over_on_arrival_is_used_until_it_is_refused() {
        let credential = || Credential { authorization: None, identity: None, serial: 1 };
        let past = Fetched::new(credential(), Some(SystemTime::now() - Duration::from_secs(5)));
        assert!(!past.ended() && !past.due());
        let future = Fetched::new(credential(), Some(SystemTime::now() + Duration::from_secs(840)));
        assert!(!future.ended() && !future.due());
        let closing = Fetched::new(credential(), Some(SystemTime::now() + Duration::from_millis(1)));
        assert!(closing.lifetime.is_some_and(|(due, end)| due < end));
    }
}
