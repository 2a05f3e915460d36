//! Runs a credential plugin once, with a deadline, and reads its ExecCredential.
//!
//! The protocol: <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins>.
//! When to run it is decided in [`credential`](crate::kube::auth::credential). What the plugin prints on stdout is a secret and goes into no error.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::kube::auth::credential::Secret;
use crate::kube::error::CredentialError;
use crate::kube::transport::tls::Identity;
use crate::kube::yaml::{self, Value};

/// Most that is kept of stdout and of stderr, in bytes; an ExecCredential has 2 to 10 KB.
const OUTPUT_LIMIT: usize = 256 * 1024;

/// Most of stderr that goes into an error, in characters, from its end: there the AWS CLI says what is wrong.
const STDERR_SHOWN: usize = 400;

/// How often a running plugin is looked at. It takes seconds; this adds at most as much to them.
const POLL: Duration = Duration::from_millis(5);

/// After the plugin has ended its output should be complete; a child it left behind may hold the pipe open this long.
const OUTPUT_GRACE: Duration = Duration::from_millis(500);

/// Where programs are looked for without PATH, by glibc's execvp(3).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// How to run a plugin.
#[derive(Debug)]
pub struct Exec {
    pub program: PathBuf,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub api_version: ApiVersion,
    /// installHint: what to tell people if the program is not there.
    pub hint: String,
    /// The cluster's description, with provideClusterInfo.
    pub cluster: Option<serde_json::Value>,
    /// The process group of the present run; 0 if there is none.
    pub running: AtomicU32,
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

/// A usable answer: a token, a client certificate, or both.
#[derive(Debug)]
pub struct Answer {
    pub token: Option<Secret>,
    pub identity: Option<Identity>,
    pub expires: Option<SystemTime>,
}

impl Exec {
    /// The plugin's name for people; its arguments may hold anything and are left out.
    pub fn name(&self) -> String {
        self.program.display().to_string()
    }

    /// The file that is run: the program's own path, or the first of that name that may be run in `path`, or in what the
    /// kubeconfig gives the plugin in its place.
    ///
    /// # Errors
    /// There is no such file, or it may not be run.
    pub fn find(&self, path: Option<OsString>) -> io::Result<PathBuf> {
        if self.program.components().count() > 1 {
            return runnable(&self.program).map(|()| self.program.clone());
        }
        let own = self.env.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.into());
        let path = own.or(path).unwrap_or_else(|| DEFAULT_PATH.into());
        let mut problem = io::Error::from(io::ErrorKind::NotFound);
        for folder in std::env::split_paths(&path) {
            let file = folder.join(&self.program);
            match runnable(&file) {
                Ok(()) => return Ok(file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => problem = error,
            }
        }
        Err(problem)
    }

    /// Ends the plugin, if it runs, and what it started.
    pub fn kill(&self) {
        let group = i32::try_from(self.running.load(Ordering::SeqCst)).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            // An error means that nothing of the group is left.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }

    /// KUBERNETES_EXEC_INFO.
    fn info(&self) -> String {
        let mut spec = serde_json::json!({ "interactive": false });
        if let Some(cluster) = &self.cluster {
            spec["cluster"] = cluster.clone();
        }
        serde_json::json!({ "apiVersion": self.api_version.as_str(), "kind": "ExecCredential", "spec": spec })
            .to_string()
    }
}

fn runnable(file: &Path) -> io::Result<()> {
    if !std::fs::metadata(file)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file"));
    }
    Ok(rustix::fs::access(file, rustix::fs::Access::EXEC_OK)?)
}

/// Runs the plugin in a process group of its own and ends all of that group at the deadline.
///
/// # Errors
/// [`CredentialError`], without anything of stdout in it.
pub fn run(exec: &Exec, limit: Duration) -> Result<Answer, CredentialError> {
    let deadline = Instant::now() + limit;
    let mut child = Command::new(&exec.program)
        .args(&exec.args)
        .envs(exec.env.iter().map(|(name, value)| (name, value)))
        .env("KUBERNETES_EXEC_INFO", exec.info())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| spawn_error(exec, &error))?;
    exec.running.store(child.id(), Ordering::SeqCst);
    let stdout = Drain::start(child.stdout.take());
    let stderr = Drain::start(child.stderr.take());
    let ended = wait(&mut child, deadline);
    let grace = Instant::now() + OUTPUT_GRACE;
    if !(stdout.wait(grace) && stderr.wait(grace) && matches!(ended, Ok(Some(_)))) {
        exec.kill();
        let _ = child.wait();
    }
    exec.running.store(0, Ordering::SeqCst);
    let status = ended.map_err(|error| spawn_error(exec, &error))?;
    let Some(status) = status else {
        return Err(CredentialError::Slow { command: exec.name(), limit });
    };
    if !status.success() {
        let stderr = tail(&String::from_utf8_lossy(&stderr.kept()), STDERR_SHOWN);
        return Err(CredentialError::Failed { command: exec.name(), status: status.to_string(), stderr });
    }
    parse(exec, &stdout.kept())
}

fn spawn_error(exec: &Exec, error: &io::Error) -> CredentialError {
    CredentialError::Spawn { command: exec.name(), hint: exec.hint.clone(), kind: error.kind() }
}

/// Reads a pipe to its end on a thread of its own, so that the plugin never blocks on a full one. What it has read can be
/// had before the end, which a child that the plugin left behind may put off.
struct Drain {
    kept: Arc<Mutex<Vec<u8>>>,
    ended: mpsc::Receiver<()>,
}

impl Drain {
    fn start(pipe: Option<impl Read + Send + 'static>) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let (sender, ended) = mpsc::channel::<()>();
        let into = Arc::clone(&kept);
        let spawned = thread::Builder::new().name("plugin-output".into()).spawn(move || {
            // Dropped at the end, which is the message.
            let _sender = sender;
            let Some(mut pipe) = pipe else { return };
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut piece) {
                let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
                let room = OUTPUT_LIMIT.saturating_sub(kept.len()).min(count);
                kept.extend_from_slice(&piece[..room]);
            }
        });
        if let Err(error) = spawned {
            log::warn!("no thread to read a credential plugin's output: {error}");
        }
        Self { kept, ended }
    }

    /// Whether the pipe has come to its end by `until`.
    fn wait(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        self.ended.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Disconnected)
    }

    fn kept(&self) -> Vec<u8> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The exit status, or none at the deadline.
fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn tail(text: &str, most: usize) -> String {
    let text = text.trim();
    let skipped = text.chars().count().saturating_sub(most);
    text.chars().skip(skipped).collect()
}

/// Reads an ExecCredential. The rules are those of client-go's plugin/pkg/client/auth/exec/exec.go (refreshCredsLocked).
fn parse(exec: &Exec, stdout: &[u8]) -> Result<Answer, CredentialError> {
    let problem = |problem| CredentialError::Answer { command: exec.name(), problem };
    let text = std::str::from_utf8(stdout).map_err(|_| problem("it printed something that is not UTF-8"))?;
    let root = yaml::parse(text).map_err(|_| problem("it printed something that is not JSON"))?;
    if root.get("kind").and_then(Value::as_str) != Some("ExecCredential") {
        return Err(problem("its kind is not ExecCredential"));
    }
    if root.get("apiVersion").and_then(Value::as_str) != Some(exec.api_version.as_str()) {
        return Err(problem("its apiVersion is not the one that the kubeconfig asks for"));
    }
    let text = |key: &str| match root.get("status").and_then(|status| status.get(key)) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(problem("a field of its status is not a string")),
    };
    let token = text("token")?.map(Secret::new);
    let identity = match (text("clientCertificateData")?, text("clientKeyData")?) {
        (None, None) => None,
        (Some(chain), Some(key)) => {
            let identity = Identity::from_pem(chain.as_bytes(), key.as_bytes());
            Some(
                identity
                    .map_err(|error| CredentialError::Identity { command: exec.name(), problem: error.to_string() })?,
            )
        }
        _ => return Err(problem("it has a certificate without a key, or a key without a certificate")),
    };
    if token.is_none() && identity.is_none() {
        return Err(problem("its status has neither a token nor a certificate"));
    }
    let expires = match text("expirationTimestamp")? {
        Some(time) => Some(rfc3339(time).ok_or_else(|| problem("its expirationTimestamp is not RFC 3339"))?),
        None => None,
    };
    Ok(Answer { token, identity, expires })
}

/// A time with any offset from UTC; humantime itself takes UTC only.
fn rfc3339(text: &str) -> Option<SystemTime> {
    let (local, zone) = text.split_at_checked(text.len().checked_sub("+00:00".len())?)?;
    let [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] = zone.as_bytes() else {
        return humantime::parse_rfc3339(text).ok();
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(10).map(u64::from);
    let hours = digit(h1)? * 10 + digit(h2)?;
    let minutes = digit(m1)? * 10 + digit(m2)?;
    let offset = Duration::from_secs(hours * 3600 + minutes * 60);
    let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    if *sign == b'+' { time.checked_sub(offset) } else { time.checked_add(offset) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(api_version: ApiVersion) -> Exec {
        let (args, env, hint, cluster) = (Vec::new(), Vec::new(), String::new(), None);
        let running = AtomicU32::new(0);
        Exec { program: "aws".into(), args, env, api_version, hint, cluster, running }
    }

    #[test]
    fn a_bare_name_is_found_in_path_and_a_path_is_itself() {
        let find = |program: &str, path: &str| {
            let exec = Exec { program: program.into(), ..plugin(ApiVersion::V1) };
            exec.find(Some(path.into())).map_err(|error| error.kind())
        };
        assert_eq!(find("sh", "/nowhere:/bin"), Ok("/bin/sh".into()));
        assert_eq!(find("/bin/sh", ""), Ok("/bin/sh".into()));
        assert_eq!(find("sh", "/nowhere"), Err(io::ErrorKind::NotFound));
        assert_eq!(find("passwd", "/etc:/nowhere"), Err(io::ErrorKind::PermissionDenied));
        assert_eq!(find("/etc", ""), Err(io::ErrorKind::InvalidInput));
        let own = Exec { program: "sh".into(), env: vec![("PATH".into(), "/bin".into())], ..plugin(ApiVersion::V1) };
        assert_eq!(own.find(Some("/nowhere".into())).ok(), Some("/bin/sh".into()));
    }

    #[test]
    fn an_answer_must_be_an_exec_credential_of_the_same_version_with_something_in_it() {
        let v1 = "client.authentication.k8s.io/v1";
        let reply = |version: &str, kind: &str, status: &str| {
            format!(r#"{{"apiVersion":"{version}","kind":"{kind}","status":{status}}}"#)
        };
        let good = reply(v1, "ExecCredential", r#"{"token":"t","expirationTimestamp":"2026-01-02T03:04:05Z"}"#);
        let answer = parse(&plugin(ApiVersion::V1), good.as_bytes()).expect("a good answer");
        assert_eq!(answer.token, Some(Secret::new("t")));
        assert!(answer.expires.is_some());

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
            let error = parse(&plugin(ApiVersion::V1), text.as_bytes()).expect_err(&text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn times_are_read_with_any_offset() {
        let utc = rfc3339("2026-01-02T03:04:05Z");
        assert!(utc.is_some());
        for same in [
            "2026-01-02T03:04:05+00:00",
            "2026-01-02T05:04:05+02:00",
            "2026-01-01T21:34:05-05:30",
            "2026-01-02T03:04:05.000000Z",
        ] {
            assert_eq!(rfc3339(same), utc, "{same}");
        }
        for bad in ["", "soon", "2026-01-02", "2026-13-02T03:04:05Z", "2026-01-02T03:04:05", "€€€€€€€"] {
            assert_eq!(rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_plugin_that_hangs_is_ended_with_its_children_and_says_nothing_of_its_output() {
        let mut exec = plugin(ApiVersion::V1);
        exec.program = "sh".into();
        exec.args = vec!["-c".into(), "echo s3cret; sleep 600 & wait".into()];
        let started = Instant::now();
        let error = run(&exec, Duration::from_millis(200)).expect_err("it hangs").to_string();
        assert!(error.contains("did not end"), "{error}");
        assert!(!error.contains("s3cret"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(60), "it was waited for");
    }

    #[test]
    fn a_child_that_keeps_a_pipe_open_does_not_hold_up_the_answer() {
        let mut exec = plugin(ApiVersion::V1Beta1);
        exec.program = "sh".into();
        let reply =
            r#"{"apiVersion":"client.authentication.k8s.io/v1beta1","kind":"ExecCredential","status":{"token":"t"}}"#;
        for child in ["sleep 600 &", "sleep 600 >/dev/null &", "sleep 600 2>/dev/null &", "setsid sleep 5 &"] {
            exec.args = vec!["-c".into(), format!("{child} echo '{reply}'")];
            let answer = run(&exec, Duration::from_secs(60)).expect("the answer is complete");
            assert_eq!(answer.token, Some(Secret::new("t")), "{child}");
        }
    }
}
