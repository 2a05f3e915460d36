//! One run of a credential plugin, as a child process with a deadline.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

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

/// Maximum wait of a stop for a plugin that is being started. A start takes a millisecond, but its exec hangs for as
/// long as a dead file server does not return the program.
const MAX_START_WAIT: Duration = Duration::from_secs(1);

/// The process group of the current run.
#[derive(Default)]
pub struct ProcessGroup {
    state: Mutex<State>,
    started: Condvar,
}

#[derive(Default)]
struct State {
    process: Process,
    is_closed: bool,
}

#[derive(Default)]
enum Process {
    #[default]
    None,
    /// The file with the process IDs of the starting thread's children.
    Starting(PathBuf),
    Running(Pid),
}

impl ProcessGroup {
    /// Kills the plugin and its children, if it runs or is being started. Later runs fail.
    pub fn close(&self) {
        let deadline = Instant::now() + MAX_START_WAIT;
        let mut state = self.lock();
        state.is_closed = true;
        while let Process::Starting(children) = &state.process
            && Instant::now() < deadline
        {
            // A process whose exec hangs dies before it runs the plugin.
            kill_children(children);
            state = self.started.wait_timeout(state, POLL_INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.kill();
    }

    /// Starts the plugin without the lock, because the exec may hang.
    fn spawn(&self, config: &ExecConfig) -> Result<Child, CredentialError> {
        {
            let mut state = self.lock();
            if state.is_closed {
                return Err(spawn_error(config, &io::ErrorKind::Interrupted.into()));
            }
            state.process = Process::Starting(children_of_this_thread());
        }
        let spawned = spawn(config);
        let mut state = self.lock();
        let pid = spawned.as_ref().ok().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?));
        state.process = pid.map_or(Process::None, Process::Running);
        if state.is_closed {
            state.kill();
        }
        drop(state);
        self.started.notify_all();
        spawned
    }

    fn kill(&self) {
        self.lock().kill();
    }

    fn clear(&self) {
        self.lock().process = Process::None;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn kill(&self) {
        if let Process::Running(group) = self.process {
            // An error means that the group has no process left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Returns the path of the list of this thread's children. A plugin is in it from its fork, before its exec.
fn children_of_this_thread() -> PathBuf {
    // Without the list a stop cannot kill a plugin whose exec hangs.
    let thread = fs::read_link("/proc/thread-self").unwrap_or_default();
    Path::new("/proc").join(thread).join("children")
}

fn kill_children(list: &Path) {
    let text = fs::read_to_string(list).unwrap_or_default();
    for pid in text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
        // An error means that the process has ended.
        let _ = kill_process(pid, Signal::KILL);
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
    let stdout = child.stdout.take().map(|pipe| Output::new(pipe.into()));
    let stderr = child.stderr.take().map(|pipe| Output::new(pipe.into()));
    let mut outputs = [stdout.unwrap_or_default(), stderr.unwrap_or_default()];
    let ended = wait(&mut child, &mut outputs, deadline);
    if !(matches!(ended, Ok(Some(_))) && outputs.iter().all(Output::has_ended)) {
        group.kill();
        let _ = child.wait();
    }
    group.clear();
    let [stdout, stderr] = outputs.map(|output| output.kept);
    let status = ended.map_err(|error| spawn_error(config, &error))?;
    let Some(status) = status else {
        return Err(CredentialError::TimedOut { command: config.name(), limit });
    };
    if !status.success() {
        let stderr = tail(&String::from_utf8_lossy(&stderr), MAX_STDERR_CHARS);
        return Err(CredentialError::Failed { command: config.name(), status: status.to_string(), stderr });
    }
    Ok(stdout)
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

/// Reads the outputs until the plugin and they have ended; returns the exit status, or `None` at the deadline. A child
/// that the plugin left behind may keep its output open: that is read for [`OUTPUT_GRACE`] more.
fn wait(child: &mut Child, outputs: &mut [Output; 2], deadline: Instant) -> io::Result<Option<ExitStatus>> {
    let (mut status, mut deadline) = (None, deadline);
    loop {
        if status.is_none() {
            status = child.try_wait()?;
            deadline = status.map_or(deadline, |_| Instant::now() + OUTPUT_GRACE);
        }
        let is_complete = status.is_some() && outputs.iter().all(Output::has_ended);
        if is_complete || Instant::now() >= deadline {
            return Ok(status);
        }
        read_available(outputs)?;
    }
}

/// Reads once from each output that has data or has ended. Waits for one at most [`POLL_INTERVAL`].
fn read_available(outputs: &mut [Output; 2]) -> io::Result<()> {
    let mut open: Vec<&mut Output> = outputs.iter_mut().filter(|output| !output.has_ended()).collect();
    let mut fds: Vec<_> =
        open.iter().filter_map(|output| output.pipe.as_ref()).map(|pipe| PollFd::new(pipe, PollFlags::IN)).collect();
    let timeout = Timespec::try_from(POLL_INTERVAL).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    open.iter_mut().zip(ready).filter(|(_, is_ready)| *is_ready).for_each(|(output, _)| output.read());
    Ok(())
}

fn tail(text: &str, max: usize) -> String {
    let text = text.trim();
    let skipped = text.chars().count().saturating_sub(max);
    text.chars().skip(skipped).collect()
}

/// An output of the plugin: the pipe until its end, and what has come. A full pipe never blocks the plugin.
#[derive(Default)]
struct Output {
    pipe: Option<File>,
    kept: Vec<u8>,
}

impl Output {
    fn new(pipe: OwnedFd) -> Self {
        Self { pipe: Some(pipe.into()), kept: Vec::new() }
    }

    fn has_ended(&self) -> bool {
        self.pipe.is_none()
    }

    fn read(&mut self) {
        let mut chunk = [0; 4096];
        match self.pipe.as_mut().map(|pipe| pipe.read(&mut chunk)) {
            Some(Ok(count @ 1..)) => {
                let capacity = OUTPUT_LIMIT.saturating_sub(self.kept.len()).min(count);
                self.kept.extend_from_slice(&chunk[..capacity]);
            }
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => self.pipe = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::auth::exec::ApiVersion;

    fn shell(script: String) -> ExecConfig {
        let (env, hint, cluster) = (Vec::new(), String::new(), None);
        let (args, api_version) = (vec!["-c".to_owned(), script], ApiVersion::V1);
        ExecConfig { program: "sh".into(), args, env, api_version, hint, cluster, eks: None }
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
