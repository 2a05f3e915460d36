//! When to run a credential plugin: never twice at once, once per lifetime of its token, once more when Kubernetes refuses
//! one. How to run it is [`exec`]'s affair.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::kube::auth::credential::{Credential, bearer_header};
use crate::kube::auth::exec::{self, Exec};
use crate::kube::error::CredentialError;

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

/// The answers of a credential plugin.
pub struct Plugin {
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
    pub fn new(exec: Exec) -> Self {
        Self { exec, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Runs it before anybody asks.
    pub fn prepare(self: &Arc<Self>) {
        self.start(self.lock());
    }

    /// Ends it if it is running.
    pub fn close(&self) {
        self.exec.kill();
    }

    fn lock(&self) -> MutexGuard<'_, PluginState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The credential, unless it is the refused one; none if that has no successor and may not get one yet.
    ///
    /// A failed run is the answer of all who waited for it, and of those who come before the next run may begin.
    pub fn get(
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
    use super::*;

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
