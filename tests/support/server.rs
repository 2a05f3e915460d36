//! The built binary as a child process, with its own environment and home folder.

use super::TIMEOUT;
use super::api::ApiServer;
use super::http::{Connection, Response};
use super::kubeconfig::Kubeconfig;
use super::kubernetes::Kubernetes;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;
use tempfile::TempDir;

/// Leading arguments for `serve` on a free port.
const SERVE: &[&str] = &["serve", "--listen", "127.0.0.1:0"];

/// Prefix of the line with the simulator's kubeconfig.
pub const KUBECONFIG: &str = "export KUBECONFIG=";

/// Prefix of the line with the bound address.
const LISTENING: &str = "listening on http://";

/// In the log line of a stop that gave up on requests after its time limit.
pub const UNFINISHED: &str = "did not finish in time";

/// A process to start: its arguments, complete environment and home folder.
pub struct Setup {
    home: TempDir,
    args: Vec<String>,
    env: Vec<(String, OsString)>,
    through: Vec<String>,
    stdin: Option<OwnedFd>,
}

/// The running server; killed when dropped.
pub struct Server {
    child: Child,
    lines: Arc<Lines>,
    address: SocketAddr,
    home: TempDir,
}

/// A process that exited.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The lines on stderr so far, and a flag for the end of stderr.
#[derive(Default)]
struct Lines {
    state: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
    stop_reading: AtomicBool,
}

impl Setup {
    pub fn new() -> Setup {
        let home = TempDir::new().unwrap();
        let env = vec![
            ("PATH".to_owned(), std::env::var_os("PATH").unwrap()),
            ("HOME".to_owned(), home.path().into()),
            // A killed process leaves its temporary folder behind; here the home folder contains it.
            ("TMPDIR".to_owned(), home.path().into()),
            // Only HTTP requests cause Kubernetes requests; tests of watches override this.
            ("NO_WATCH".to_owned(), "1".into()),
            // Tests of other subjects send as many POSTs as they need.
            ("POSTS_PER_MINUTE".to_owned(), "0".into()),
        ];
        Setup { home, args: Vec::new(), env, through: Vec::new(), stdin: None }
    }

    /// `serve --local`: for tests that need no fault and no record of requests.
    pub fn local() -> Setup {
        Setup::new().args(&["--local"])
    }

    /// A kubeconfig for `api` with the token `test-token`.
    pub fn for_api(api: &ApiServer) -> Setup {
        Setup::new().kubeconfig(Kubeconfig::new(&api.url()).yaml())
    }

    /// Writes a kubeconfig into the home folder and passes it by --kubeconfig.
    pub fn kubeconfig(self, text: impl AsRef<[u8]>) -> Setup {
        let path = self.file("kubeconfig", text);
        self.args(&["--kubeconfig", path.to_str().unwrap()])
    }

    pub fn args(mut self, args: &[&str]) -> Setup {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    pub fn env(mut self, name: &str, value: &(impl AsRef<OsStr> + ?Sized)) -> Setup {
        self.env.retain(|(key, _)| key != name);
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts the program through this command, which receives the program and its arguments and must exec them.
    pub fn through(mut self, command: &[&str]) -> Setup {
        self.through = command.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Replaces the empty standard input.
    pub fn stdin(mut self, stdin: impl Into<OwnedFd>) -> Setup {
        self.stdin = Some(stdin.into());
        self
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Writes a file under the home folder.
    pub fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Starts `serve` on a free port and waits until it listens.
    pub fn start(self) -> Server {
        self.start_with(SERVE)
    }

    /// Starts with exactly these leading arguments and waits until the server listens.
    pub fn start_with(self, leading: &[&str]) -> Server {
        self.try_start(leading).unwrap_or_else(|end| panic!("the server never listened: {end:?}"))
    }

    /// Returns the running server, or the error line of a start that failed because of the kubeconfig.
    pub fn start_or_refusal(self) -> Result<Server, String> {
        self.start_or_refusal_with(1)
    }

    /// Returns the running server, or the error line of a start that failed with this exit code.
    pub fn start_or_refusal_with(self, code: i32) -> Result<Server, String> {
        self.try_start(SERVE).map_err(|end| end.refusal(code).to_owned())
    }

    fn try_start(self, leading: &[&str]) -> Result<Server, Finished> {
        let mut child = super::spawn(self.command(leading).stdout(Stdio::null()));
        let lines = Lines::read(child.stderr.take().unwrap());
        let Some(line) = lines.wait(|line| line.starts_with(LISTENING)) else {
            child.kill().unwrap();
            let code = child.wait().unwrap().code();
            return Err(Finished { code, stdout: String::new(), stderr: lines.all().join("\n") });
        };
        let address = line[LISTENING.len()..].trim().parse().unwrap_or_else(|error| panic!("{error} in {line:?}"));
        Ok(Server { child, lines, address, home: self.home })
    }

    /// Runs a command until it exits, with these arguments before those of the setup.
    pub fn run(self, leading: &[&str]) -> Finished {
        let mut child = super::spawn(self.command(leading).stdout(Stdio::piped()));
        let mut out = child.stdout.take().unwrap();
        let stdout = std::thread::spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).map(|_| text)
        });
        let lines = Lines::read(child.stderr.take().unwrap());
        let listening = lines.wait(|line| line.starts_with(LISTENING)).is_some();
        if listening || !lines.wait_for_end() {
            child.kill().unwrap();
            panic!("it should have ended by itself; stderr:\n{}", lines.all().join("\n"));
        }
        let code = child.wait().unwrap().code();
        Finished { code, stdout: stdout.join().unwrap().unwrap(), stderr: lines.all().join("\n") }
    }

    /// The error line of a `serve` that exits because of the kubeconfig.
    pub fn refused(self) -> String {
        self.run(SERVE).refusal(1).to_owned()
    }

    fn command(&self, leading: &[&str]) -> Command {
        let program = env!("CARGO_BIN_EXE_img-classification");
        let mut command = match self.through.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        command.args(leading).args(&self.args).env_clear().envs(self.env.clone());
        let stdin = self.stdin.as_ref().map_or_else(Stdio::null, |stdin| stdin.try_clone().unwrap().into());
        command.current_dir(self.home.path()).stdin(stdin).stderr(Stdio::piped());
        command
    }
}

impl Server {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    pub fn get(&self, target: &str) -> Response {
        self.connect().request("GET", target, None)
    }

    pub fn post(&self, target: &str, body: impl AsRef<[u8]>) -> Response {
        self.connect().request("POST", target, Some(body.as_ref()))
    }

    /// The simulator of [`Setup::local`].
    pub fn kubernetes(&self) -> Kubernetes {
        let line = self.wait_for_log("with the kubeconfig", |line| line.contains(KUBECONFIG));
        Kubernetes::new(Path::new(line.split_once(KUBECONFIG).unwrap().1))
    }

    /// The Jobs in the simulator.
    pub fn jobs(&self) -> Vec<Value> {
        self.kubernetes().items("/apis/batch/v1/jobs")
    }

    /// Posts a valid free mnist Job.
    pub fn post_job(&self) -> Response {
        self.post("/img-classification/free", r#"{"dataset":"mnist"}"#)
    }

    /// The log up to the responses that this test has received. The thread that reads stderr may lag behind the sockets, so
    /// a marker request follows, and its line ends the log.
    pub fn log_until_now(&self) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let marker = format!("/marker-{}", NEXT.fetch_add(1, Ordering::SeqCst));
        assert_eq!(self.get(&marker).status, 404);
        let start = format!("GET {marker} 404 ");
        self.wait_for_log("of the marker request", |line| line.starts_with(&start));
        self.stderr()
    }

    /// The lines read from stderr so far, for the message of a failure. [`Server::log_until_now`] is complete.
    pub fn stderr(&self) -> String {
        self.lines.all().join("\n")
    }

    /// Waits for the first matching line on stderr and returns it.
    pub fn wait_for_log(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.lines.wait(wanted).unwrap_or_else(|| panic!("no log line {what}; stderr:\n{}", self.stderr()))
    }

    /// Closes the pipe after the next line on stderr.
    pub fn stop_reading_log(&self) {
        self.lines.stop_reading.store(true, Ordering::SeqCst);
    }

    /// Waits for the end of stderr.
    pub fn wait_for_end_of_log(&self) {
        assert!(self.lines.wait_for_end(), "stderr is still open");
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for the exit after a signal.
    pub fn wait(&mut self) -> ExitStatus {
        assert!(self.lines.wait_for_end(), "still running; stderr:\n{}", self.stderr());
        self.child.wait().unwrap()
    }

    pub fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may have exited already; an error needs no handling.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    /// Checks a failed start: this exit code, empty stdout, one line on stderr that begins with the program's name.
    /// Returns that line.
    pub fn refusal(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.stderr.lines().count(), 1, "not one line: {self:?}");
        assert!(self.stderr.starts_with("img-classification: "), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        &self.stderr
    }
}

impl Lines {
    fn read(stderr: impl Read + Send + 'static) -> Arc<Lines> {
        let lines = Arc::new(Lines::default());
        let writer = lines.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stderr);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                writer.state.lock().unwrap().0.push(text);
                writer.changed.notify_all();
                line.clear();
                if writer.stop_reading.load(Ordering::SeqCst) {
                    break;
                }
            }
            drop(reader);
            writer.state.lock().unwrap().1 = true;
            writer.changed.notify_all();
        });
        lines
    }

    fn all(&self) -> Vec<String> {
        self.state.lock().unwrap().0.clone()
    }

    /// Waits for the first wanted line; returns `None` at the end of the stream or at the timeout.
    fn wait(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + TIMEOUT;
        let mut state = self.state.lock().unwrap();
        loop {
            let found = state.0.iter().find(|line| wanted(line));
            if found.is_some() || state.1 || Instant::now() >= deadline {
                return found.cloned();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    fn wait_for_end(&self) -> bool {
        let state = self.state.lock().unwrap();
        self.changed.wait_timeout_while(state, TIMEOUT, |state| !state.1).unwrap().0.1
    }
}
