//! The cached credential of a plugin: one run at a time, before the credential expires and when Kubernetes rejects it. A token of EKS is
//! made without the plugin where that is possible.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::kube::auth::aws::AwsError;
use crate::kube::auth::credential::{Credential, bearer_header};
use crate::kube::auth::exec::{ExecConfig, ExecCredential};
use crate::kube::auth::exec_process::{self, ProcessGroup};
use crate::kube::error::CredentialError;

/// Maximum duration of a run. The AWS CLI takes 1.5 s of CPU. A t2.nano without CPU credits has 5 % of a core: 30 s for
/// that CLI alone, and several times that beside a busy server.
const RUN_TIMEOUT: Duration = Duration::from_secs(180);

/// A background run replaces a credential this long before it expires, so that no request waits; or a tenth of its
/// lifetime before, if that is less.
const REFRESH_MARGIN: Duration = Duration::from_secs(60);

/// Maximum pause after a failed run, which otherwise equals the run's duration. A broken plugin costs seconds of CPU
/// each time and must not take more than half of the host's.
const MAX_FAILURE_PAUSE: Duration = Duration::from_secs(5);

/// Minimum interval between two runs caused by a rejection (401). A cluster that rejects every token must not cause a
/// run for every request.
const REJECTION_PAUSE: Duration = Duration::from_secs(10);

/// The credentials of a plugin, shared by all threads.
pub struct ExecCredentialCache {
    config: ExecConfig,
    process: ProcessGroup,
    state: Mutex<CacheState>,
    changed: Condvar,
    /// The log tells that the plugin makes the tokens of EKS.
    has_fallen_back: AtomicBool,
}

#[derive(Default)]
struct CacheState {
    current: Option<CachedCredential>,
    /// Start of the current run.
    running: Option<Instant>,
    /// Number of finished runs. The last one produced the credential of this serial, or failed.
    finished: u64,
    failed: Option<FailedRun>,
    /// Time of the last run that a rejection caused.
    renewed: Option<Instant>,
}

struct FailedRun {
    error: CredentialError,
    /// The number of the run.
    run: u64,
    not_before: Instant,
}

struct CachedCredential {
    credential: Arc<Credential>,
    /// (time of the next run, expiry)
    lifetime: Option<(SystemTime, SystemTime)>,
}

impl CachedCredential {
    fn new(credential: Credential, expires: Option<SystemTime>) -> Self {
        let now = SystemTime::now();
        // A credential that has expired on arrival indicates a clock difference: Kubernetes rejects it in time.
        let remaining = expires.and_then(|expires| expires.duration_since(now).ok());
        let lifetime = remaining.map(|remaining| {
            let end = now + remaining;
            (end - REFRESH_MARGIN.min(remaining / 10), end)
        });
        Self { credential: Arc::new(credential), lifetime }
    }

    fn is_expired(&self) -> bool {
        self.lifetime.is_some_and(|(_, end)| SystemTime::now() >= end)
    }

    fn is_due(&self) -> bool {
        self.lifetime.is_some_and(|(due, _)| SystemTime::now() >= due)
    }
}

impl CacheState {
    /// Returns the credential unless it has expired or is the rejected one, and `true` if it is due for a refresh.
    fn usable(&self, rejected: Option<u64>) -> Option<(Arc<Credential>, bool)> {
        self.current
            .as_ref()
            .filter(|cached| !cached.is_expired() && Some(cached.credential.serial) != rejected)
            .map(|cached| (Arc::clone(&cached.credential), cached.is_due()))
    }

    /// Returns the error of a run after `seen`, or of the last run if the next one must still wait.
    fn error(&self, seen: u64) -> Option<CredentialError> {
        let failed = self.failed.as_ref().filter(|failed| failed.run > seen || Instant::now() < failed.not_before);
        failed.map(|failed| failed.error.clone())
    }

    /// Records a run caused by a rejection; returns `false` if the last one was too recent.
    fn may_renew(&mut self) -> bool {
        if self.renewed.is_some_and(|at| at.elapsed() < REJECTION_PAUSE) {
            return false;
        }
        self.renewed = Some(Instant::now());
        true
    }
}

impl ExecCredentialCache {
    pub fn new(config: ExecConfig) -> Self {
        Self {
            config,
            process: ProcessGroup::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            has_fallen_back: AtomicBool::new(false),
        }
    }

    /// Runs the plugin before the first request.
    pub fn warm_up(self: &Arc<Self>) {
        self.start(self.lock());
    }

    /// Kills the plugin if it runs, and starts no other.
    pub fn close(&self) {
        self.process.close();
    }

    fn lock(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the credential, unless its serial is `rejected`. Returns `None` if the rejected credential cannot have a
    /// successor yet. Waits for a run until `deadline`.
    ///
    /// # Errors
    /// The run failed. All requests that waited for it share its error, as do those before the next run may start.
    pub fn get(
        self: &Arc<Self>,
        deadline: Instant,
        rejected: Option<u64>,
    ) -> Result<Option<Arc<Credential>>, CredentialError> {
        let mut state = self.lock();
        let seen = state.finished;
        loop {
            let is_idle = state.running.is_none();
            match (state.usable(rejected), state.error(seen)) {
                (Some((credential, is_due)), error) => {
                    if is_due && error.is_none() && is_idle {
                        self.start(state);
                    }
                    return Ok(Some(credential));
                }
                (None, Some(error)) => return Err(error),
                (None, None) if is_idle && rejected.is_some() && !state.may_renew() => return Ok(None),
                (None, None) if is_idle => {
                    self.start(state);
                    state = self.lock();
                }
                (None, None) => {
                    let remaining = deadline.saturating_duration_since(Instant::now());
                    if remaining.is_zero() {
                        // The error of the last run explains more than a timeout.
                        let last = state.failed.as_ref().map(|failed| failed.error.clone());
                        return Err(last.unwrap_or_else(|| CredentialError::Pending { command: self.config.name() }));
                    }
                    state = self.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Runs the plugin on a separate thread: the run may outlast the request that caused it, and serves the next one.
    fn start(self: &Arc<Self>, mut state: MutexGuard<'_, CacheState>) {
        state.running = Some(Instant::now());
        drop(state);
        let cache = Arc::clone(self);
        let spawned = thread::Builder::new().name("credential".into()).spawn(move || {
            // A run that never finishes, even after a panic, would block every request.
            let outcome = catch_unwind(AssertUnwindSafe(|| cache.run()));
            cache.finish(outcome.unwrap_or_else(|_| {
                let command = cache.config.name();
                Err(CredentialError::Malformed { command, problem: "the server failed to read it; this is a bug" })
            }));
        });
        if let Err(error) = spawned {
            let (command, hint) = (self.config.name(), String::new());
            self.finish(Err(CredentialError::Spawn { command, hint, kind: error.kind() }));
        }
    }

    fn run(&self) -> Result<ExecCredential, CredentialError> {
        if let Some(eks) = &self.config.eks {
            match eks.make() {
                Ok((token, expires)) => {
                    return Ok(ExecCredential { token: Some(token), identity: None, expires: Some(expires) });
                }
                Err(AwsError::Failed(problem)) => return Err(CredentialError::Eks { problem }),
                Err(AwsError::Unsupported(reason) | AwsError::NoCredentials(reason)) => self.fall_back(&reason)?,
            }
        }
        let stdout = exec_process::run(&self.config, RUN_TIMEOUT, &self.process)?;
        ExecCredential::parse(&self.config, &stdout)
    }

    /// Prepares a run of the plugin for a token that cannot be made here: logs the reason once.
    ///
    /// # Errors
    /// The plugin is not installed.
    fn fall_back(&self, reason: &str) -> Result<(), CredentialError> {
        let name = self.config.name();
        if let Err(error) = self.config.find(std::env::var_os("PATH")) {
            let hint = &self.config.hint;
            let hint = if hint.is_empty() { String::new() } else { format!(" ({hint})") };
            let problem =
                format!("{reason}; and the program {name}, which might know more, cannot run: {}{hint}", error.kind());
            return Err(CredentialError::Eks { problem });
        }
        if !self.has_fallen_back.swap(true, Ordering::Relaxed) {
            log::info!("{name} makes the EKS tokens: {reason}");
        }
        Ok(())
    }

    fn finish(&self, outcome: Result<ExecCredential, CredentialError>) {
        // No other run ends meanwhile.
        let run = self.lock().finished + 1;
        let outcome = outcome.and_then(|credential| self.cached(credential, run));
        // Before the waiting requests wake up: their log lines follow the cause.
        match &outcome {
            Ok(_) => log::debug!("the credential plugin {} returned credential {run}", self.config.name()),
            Err(error) => log::warn!("{error}"),
        }
        let mut state = self.lock();
        let duration = state.running.take().map_or(Duration::ZERO, |began| began.elapsed());
        match outcome {
            Ok(cached) => {
                state.current = Some(cached);
                state.failed = None;
            }
            Err(error) => {
                let not_before = Instant::now() + duration.min(MAX_FAILURE_PAUSE);
                state.failed = Some(FailedRun { error, run, not_before });
            }
        }
        state.finished = run;
        drop(state);
        self.changed.notify_all();
    }

    fn cached(&self, credential: ExecCredential, serial: u64) -> Result<CachedCredential, CredentialError> {
        let authorization = match &credential.token {
            Some(token) => Some(bearer_header(token).ok_or_else(|| CredentialError::Malformed {
                command: self.config.name(),
                problem: "its token has characters that no HTTP header can carry",
            })?),
            None => None,
        };
        let identity = credential.identity.map(Arc::new);
        Ok(CachedCredential::new(Credential { authorization, identity, serial }, credential.expires))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_that_has_expired_on_arrival_is_used_until_it_is_rejected() {
        let credential = || Credential { authorization: None, identity: None, serial: 1 };
        let past = CachedCredential::new(credential(), Some(SystemTime::now() - Duration::from_secs(5)));
        assert!(!past.is_expired() && !past.is_due());
        let future = CachedCredential::new(credential(), Some(SystemTime::now() + Duration::from_secs(840)));
        assert!(!future.is_expired() && !future.is_due());
        let closing = CachedCredential::new(credential(), Some(SystemTime::now() + Duration::from_millis(1)));
        assert!(closing.lifetime.is_some_and(|(due, end)| due < end));
    }
}
