//! One run of a credential plugin, as a child process with a deadline.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::kube::auth::exec::ExecConfig;
use crate::kube::error::CredentialError;

/// Maximum of stdout and of stderr that is kept, in bytes; an ExecCredential has 2 to 10 KB.
const OUTPUT_LIMIT: usize = 256 * 1024;

/// Maximum of stderr in an error, in characters, from its end: the AWS CLI prints the cause last.
const MAX_STDERR_CHARS: usize = 400;

/// Interval between checks for a plugin's exit. A plugin takes seconds; this adds at most one interval.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Time for the output to end after the plugin has ended. A child that it left behind may keep the pipe open.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// The process group of the current run, or `None` if no plugin runs.
#[derive(Default)]
pub struct ProcessGroup(Mutex<Option<Pid>>);

impl ProcessGroup {
    /// Kills the plugin and its children, if it runs. Waits for a spawn in progress, so that no plugin escapes.
    pub fn kill(&self) {
        if let Some(group) = *self.lock() {
            // An error means that the group has no process left.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }

    fn spawn(&self, config: &ExecConfig) -> Result<Child, CredentialError> {
        let mut group = self.lock();
        let child = spawn(config)?;
        *group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(child)
    }

    fn clear(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs the plugin in its own process group, recorded in `group`, and returns its stdout. Kills the group at the
/// deadline.
///
/// # Errors
/// [`CredentialError`], without any of the stdout.
pub fn run(config: &ExecConfig, limit: Duration, group: &ProcessGroup) -> Result<Vec<u8>, CredentialError> {
    let deadline = Instant::now() + limit;
    let mut child = group.spawn(config)?;
    let stdout = OutputReader::start(child.stdout.take());
    let stderr = OutputReader::start(child.stderr.take());
    let ended = wait(&mut child, deadline);
    let grace = Instant::now() + OUTPUT_GRACE;
    if !(stdout.wait(grace) && stderr.wait(grace) && matches!(ended, Ok(Some(_)))) {
        group.kill();
        let _ = child.wait();
    }
    group.clear();
    let status = ended.map_err(|error| spawn_error(config, &error))?;
    let Some(status) = status else {
        return Err(CredentialError::TimedOut { command: config.name(), limit });
    };
    if !status.success() {
        let stderr = tail(&String::from_utf8_lossy(&stderr.kept()), MAX_STDERR_CHARS);
        return Err(CredentialError::Failed { command: config.name(), status: status.to_string(), stderr });
    }
    Ok(stdout.kept())
}

fn spawn(config: &ExecConfig) -> Result<Child, CredentialError> {
    Command::new(&config.program)
        .args(&config.args)
        .envs(config.env.iter().map(|(name, value)| (name, value)))
        .env("KUBERNETES_EXEC_INFO", config.info())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| spawn_error(config, &error))
}

fn spawn_error(config: &ExecConfig, error: &io::Error) -> CredentialError {
    CredentialError::Spawn { command: config.name(), hint: config.hint.clone(), kind: error.kind() }
}

/// Returns the exit status, or `None` at the deadline.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

fn tail(text: &str, max: usize) -> String {
    let text = text.trim();
    let skipped = text.chars().count().saturating_sub(max);
    text.chars().skip(skipped).collect()
}

/// Reads a pipe to its end on a separate thread, so that a full pipe never blocks the plugin. Its bytes are available
/// before the end, which a child of the plugin may delay.
struct OutputReader {
    kept: Arc<Mutex<Vec<u8>>>,
    ended: mpsc::Receiver<()>,
}

impl OutputReader {
    fn start(pipe: Option<impl Read + Send + 'static>) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (sender, ended) = mpsc::channel::<()>();
        let into = Arc::clone(&kept);
        let spawned = thread::Builder::new().name("plugin-output".into()).spawn(move || {
            // The drop of the sender signals the end.
            let _sender = sender;
            let Some(mut pipe) = pipe else { return };
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut chunk) {
                let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
                let capacity = OUTPUT_LIMIT.saturating_sub(kept.len()).min(count);
                kept.extend_from_slice(&chunk[..capacity]);
            }
        });
        if let Err(error) = spawned {
            log::warn!("cannot start a thread to read a credential plugin's output: {error}");
        }
        Self { kept, ended }
    }

    /// Waits for the end of the pipe; returns `false` if it has not come by `until`.
    fn wait(&self, until: Instant) -> bool {
        let remaining = until.saturating_duration_since(Instant::now());
        self.ended.recv_timeout(remaining) == Err(mpsc::RecvTimeoutError::Disconnected)
    }

    fn kept(&self) -> Vec<u8> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::auth::exec::ApiVersion;

    fn shell(script: String) -> ExecConfig {
        let (env, hint, cluster) = (Vec::new(), String::new(), None);
        let (args, api_version) = (vec!["-c".to_owned(), script], ApiVersion::V1);
        ExecConfig { program: "sh".into(), args, env, api_version, hint, cluster }
    }

    #[test]
    fn a_plugin_that_hangs_is_killed_with_its_children_and_its_output_is_not_shown() {
        let config = shell("echo s3cret; sleep 600 & wait".to_owned());
        let error = run(&config, Duration::from_millis(200), &ProcessGroup::default()).expect_err("hangs").to_string();
        assert!(error.contains("exceeded its timeout"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn a_child_that_keeps_a_pipe_open_does_not_delay_the_output() {
        for child in ["sleep 600 &", "sleep 600 >/dev/null &", "sleep 600 2>/dev/null &", "setsid sleep 5 &"] {
            let config = shell(format!("{child} echo reply"));
            let output = run(&config, Duration::from_secs(60), &ProcessGroup::default()).expect("the output is whole");
            assert_eq!(output, b"reply\n", "{child}");
        }
    }
}
