//! argv and the environment to [`Options`]. Pure: both come in as arguments. One table describes every option for the
//! parser, for --help and for people.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::job;
use crate::simulator;

/// An option: how it is written, its variable, its default, and what it is for. A switch has no value, and an option for
/// one moment no variable.
struct Opt {
    name: &'static str,
    value: &'static str,
    env: &'static str,
    default: &'static str,
    help: &'static str,
}

impl Opt {
    /// A switch without a variable.
    const fn switch(name: &'static str, help: &'static str) -> Self {
        Self { name, value: "", env: "", default: "", help }
    }
}

const LISTEN: Opt = Opt {
    name: "listen",
    value: "ADDR:PORT",
    env: "LISTEN",
    default: "0.0.0.0:5000",
    help: "address to listen on; port 0 is any free port",
};
const IMAGE: Opt = Opt {
    name: "image",
    value: "IMAGE",
    env: "CLASSIFIER_IMAGE",
    default: "mp12-classifier:1.0",
    help: "container image of the classifier",
};
const KUBECONFIG: Opt = Opt {
    name: "kubeconfig",
    value: "PATH",
    env: "KUBECONFIG",
    default: "~/.kube/config, then the in-cluster service account",
    help: "kubeconfig file; the variable may hold a list, as kubectl takes it",
};
const CONTEXT: Opt = Opt {
    name: "context",
    value: "NAME",
    env: "KUBE_CONTEXT",
    default: "the kubeconfig's current-context",
    help: "context of the kubeconfig",
};
const JOB_TTL: Opt = Opt {
    name: "job-ttl",
    value: "SECONDS",
    env: "JOB_TTL",
    default: "3600",
    help: "seconds that Kubernetes keeps a Job after its end",
};
const KUBE_TIMEOUT: Opt = Opt {
    name: "kube-timeout",
    value: "SECONDS",
    env: "KUBE_TIMEOUT",
    default: "10",
    help: "seconds for the whole of one Kubernetes operation, retries included",
};
const POSTS_PER_MINUTE: Opt = Opt {
    name: "posts-per-minute",
    value: "NUMBER",
    env: "POSTS_PER_MINUTE",
    default: "1200",
    help: "POSTs that one address may make in a minute, at once or spread; 0 is without limit",
};
const PREMIUM_TOKEN_FILE: Opt = Opt {
    name: "premium-token-file",
    value: "PATH",
    env: "PREMIUM_TOKEN_FILE",
    default: "none: premium is open to all",
    help: "file with the bearer token that POSTs to premium must carry",
};
const NO_NUDGE: Opt = Opt {
    name: "no-nudge",
    value: "",
    env: "NO_NUDGE",
    default: "off",
    help: "do not watch the free tier and start the oldest Job that waits when there is room; GET /queue is off, too",
};
const LOG_LEVEL: Opt = Opt {
    name: "log-level",
    value: "LEVEL",
    env: "LOG_LEVEL",
    default: "info",
    help: "error, warn, info (a line per request) or debug",
};

const LOCAL: Opt = Opt {
    name: "local",
    value: "",
    env: "LOCAL",
    default: "off",
    help: "a simulated cluster within this process in place of a kubeconfig's; no container is run",
};
const LOCAL_JOB_SECONDS: Opt = Opt {
    name: "local-job-seconds",
    value: "SECONDS",
    env: "LOCAL_JOB_SECONDS",
    default: "20",
    help: "with --local: seconds that a classifier seems to run",
};
const LOCAL_NODES: Opt = Opt {
    name: "local-nodes",
    value: "NUMBER",
    env: "LOCAL_NODES",
    default: "2",
    help: "with --local: nodes, each with room for one classifier",
};
const PRINT: Opt = Opt::switch("print", "only print the YAML; no cluster is asked");
const JSON: Opt = Opt::switch("json", "one JSON object in place of lines");
const AS_SERVICE: Opt = Opt::switch(
    "as-service",
    "look with the environment of the systemd service: /etc/img-classification.env, or the file that \
         IMG_CLASSIFICATION_ENV_FILE names",
);
const ALL: Opt = Opt::switch("all", "every Job of both namespaces, not only those that this program made");
const YES: Opt = Opt::switch("yes", "do not ask");
const TIMEOUT: Opt = Opt {
    name: "timeout",
    value: "SECONDS",
    env: "",
    default: "120",
    help: "longest wait for pods to end; they have 30 s to end by themselves, and a node may be slow",
};
const CLEAN_FIRST: Opt = Opt::switch("clean-first", "begin as `clean` does, with the kubeconfig's cluster");
const CLEAN_AFTER: Opt = Opt::switch("clean-after", "end so, too");

/// A command: its argument if it takes one, what it does, and its options.
struct Verb {
    name: &'static str,
    argument: &'static str,
    help: &'static str,
    opts: &'static [&'static Opt],
}

const SERVE: Verb = Verb {
    name: "serve",
    argument: "",
    help: "take requests; this is what no command means, too",
    opts: &[
        &LISTEN,
        &IMAGE,
        &KUBECONFIG,
        &CONTEXT,
        &LOCAL,
        &LOCAL_JOB_SECONDS,
        &LOCAL_NODES,
        &JOB_TTL,
        &KUBE_TIMEOUT,
        &POSTS_PER_MINUTE,
        &PREMIUM_TOKEN_FILE,
        &NO_NUDGE,
        &LOG_LEVEL,
    ],
};
const SETUP: Verb = Verb {
    name: "setup",
    argument: "",
    help: "make or repair the namespace, the quotas and the role in the cluster",
    opts: &[&PRINT, &KUBECONFIG, &CONTEXT, &KUBE_TIMEOUT],
};
const DOCTOR: Verb = Verb {
    name: "doctor",
    argument: "",
    help: "look at everything that the service needs, and say what to do where it is missing",
    opts: &[&AS_SERVICE, &JSON, &LISTEN, &IMAGE, &KUBECONFIG, &CONTEXT, &KUBE_TIMEOUT],
};
const CLEAN: Verb = Verb {
    name: "clean",
    argument: "",
    help: "delete the Jobs that this program made, and wait until their pods are gone",
    opts: &[&ALL, &YES, &TIMEOUT, &KUBECONFIG, &CONTEXT, &KUBE_TIMEOUT],
};
const SELFTEST: Verb = Verb {
    name: "selftest",
    argument: "URL",
    help: "ask a running server, such as http://127.0.0.1:5000, what an autograder asks",
    opts: &[&CLEAN_FIRST, &CLEAN_AFTER, &TIMEOUT, &PREMIUM_TOKEN_FILE, &KUBECONFIG, &CONTEXT, &KUBE_TIMEOUT],
};
const VERBS: [&Verb; 5] = [&SERVE, &SETUP, &DOCTOR, &CLEAN, &SELFTEST];

/// Longest --timeout, in seconds, an hour: a script that waits longer is stuck.
const TIMEOUT_MOST: u64 = 3600;

/// Longest --local-job-seconds, an hour: who waits longer wants a real cluster.
const LOCAL_JOB_SECONDS_MOST: u64 = 3600;

/// Most --local-nodes: each costs next to nothing, but a list of a hundred is long enough.
const LOCAL_NODES_MOST: u64 = 100;

/// Longest --kube-timeout, in seconds: callers have long given up by then.
const KUBE_TIMEOUT_MOST: u64 = 600;

/// Longest --job-ttl, in seconds: Kubernetes keeps the field in 32 bits with a sign.
const JOB_TTL_MOST: u64 = 2_147_483_647;

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Take requests.
    Serve(Box<Options>),
    /// Make or repair what the cluster needs.
    Setup { access: Access, print: bool },
    /// Look at everything. `options` are those that `serve` would have, but for variables with which it would not start.
    Doctor { options: Box<Options>, wrong: Vec<UsageError>, json: bool },
    /// The same as the service would: in another environment, with these arguments.
    DoctorAsService { args: Vec<OsString> },
    /// Delete Jobs.
    Clean { access: Access, all: bool, yes: bool, timeout: Duration },
    /// Ask a server what an autograder asks.
    /// `url` has no slash at its end.
    Selftest {
        url: String,
        access: Access,
        token_file: Option<PathBuf>,
        clean_first: bool,
        clean_after: bool,
        timeout: Duration,
    },
    /// Print this text and end.
    Print(String),
}

/// Where the cluster is, and how long it may take.
#[derive(Debug, Clone)]
pub struct Access {
    /// --kubeconfig; the variable is a list and read with the rest of the kubeconfig's environment.
    pub kubeconfig: Option<PathBuf>,
    /// --context
    pub context: Option<String>,
    /// For one Kubernetes operation.
    pub kube_timeout: Duration,
}

/// The effective configuration, apart from what the kubeconfig says.
#[derive(Debug, Clone)]
pub struct Options {
    /// HOST:PORT
    pub listen: String,
    /// Image and TTL of the Jobs.
    pub jobs: job::Settings,
    /// The cluster.
    pub access: Access,
    /// --local
    pub local: Option<simulator::Settings>,
    /// For one address; 0 is without limit.
    pub posts_per_minute: u32,
    /// --premium-token-file
    pub premium_token_file: Option<PathBuf>,
    /// Not --no-nudge.
    pub nudge: bool,
    /// The least level that is logged.
    pub log_level: LevelFilter,
}

impl Options {
    /// The lines of the effective configuration.
    pub fn lines(&self) -> Vec<String> {
        vec![
            format!("listen: {}", self.listen),
            format!("image: {}", self.jobs.image),
            format!("job-ttl: {} s", self.jobs.ttl),
            format!("kube-timeout: {} s", self.access.kube_timeout.as_secs()),
            match self.posts_per_minute {
                0 => "posts-per-minute: without limit".to_owned(),
                limit => format!("posts-per-minute: {limit} for each address"),
            },
            match &self.premium_token_file {
                Some(path) => format!("premium-token-file: {}", path.display()),
                None => "premium-token-file: none, premium is open to all".to_owned(),
            },
            match self.nudge {
                true => "nudge: when the free tier has room, the oldest Job that waits is started".to_owned(),
                false => "nudge: off".to_owned(),
            },
            format!("log-level: {}", self.log_level.as_str().to_ascii_lowercase()),
        ]
    }
}

/// A command line that makes no sense.
#[derive(Debug, PartialEq, Eq)]
pub enum UsageError {
    /// Not an option or not written as one; lexopt's words.
    Syntax(String),
    /// Not a command.
    Command(String),
    /// The command does not take this option.
    Foreign { command: &'static str, option: &'static str },
    /// The command needs this argument.
    Missing { command: &'static str, argument: &'static str },
    /// Two that exclude each other.
    Conflict(&'static str, &'static str),
    /// A value that the option does not take; `given` is the flag or the variable.
    Value { given: String, value: String, wanted: &'static str },
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(text) => write!(f, "{text}; see img-classification --help"),
            Self::Command(name) => write!(f, "there is no command {name:?}; see img-classification --help"),
            Self::Foreign { command, option } => {
                write!(f, "{command} does not take --{option}; see img-classification {command} --help")
            }
            Self::Missing { command, argument } => {
                write!(f, "{command} needs {argument}: img-classification {command} {argument}")
            }
            Self::Conflict(one, other) => write!(f, "--{one} and --{other} exclude each other; leave one of them out"),
            Self::Value { given, value, wanted } => write!(f, "{given} is {value:?}, but must be {wanted}"),
        }
    }
}

impl std::error::Error for UsageError {}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self::Syntax(error.to_string())
    }
}

/// Reads the command line (without the program's name); a flag wins over its variable, an empty variable is none.
///
/// # Errors
/// [`UsageError`], which names the flag or the variable.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Command, UsageError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut parser = lexopt::Parser::from_args(&args);
    let mut flags: Vec<(&Opt, OsString)> = Vec::new();
    let mut words = Vec::new();
    let mut wants_help = false;
    while let Some(arg) = parser.next()? {
        match arg {
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => wants_help = true,
            lexopt::Arg::Short('V') | lexopt::Arg::Long("version") => {
                return Ok(Command::Print(concat!("img-classification ", env!("CARGO_PKG_VERSION"), "\n").to_owned()));
            }
            lexopt::Arg::Long(name) => match VERBS.iter().flat_map(|verb| verb.opts).find(|opt| opt.name == name) {
                Some(opt) if opt.value.is_empty() => flags.push((opt, "1".into())),
                Some(opt) => flags.push((opt, parser.value()?)),
                None => return Err(arg.unexpected().into()),
            },
            lexopt::Arg::Value(value) => words.push(value),
            lexopt::Arg::Short(_) => return Err(arg.unexpected().into()),
        }
    }
    let mut words = words.into_iter();
    let named = words.next();
    let verb = match &named {
        None => &SERVE,
        Some(name) => *VERBS
            .iter()
            .find(|verb| name == verb.name)
            .ok_or_else(|| UsageError::Command(name.to_string_lossy().into_owned()))?,
    };
    if wants_help {
        return Ok(Command::Print(if named.is_some() { verb_help(verb) } else { help() }));
    }
    let argument = if verb.argument.is_empty() { None } else { words.next() };
    if let Some(extra) = words.next() {
        return Err(lexopt::Arg::Value(extra).unexpected().into());
    }
    if let Some((opt, _)) = flags.iter().find(|(opt, _)| !verb.opts.iter().any(|own| own.name == opt.name)) {
        return Err(UsageError::Foreign { command: verb.name, option: opt.name });
    }
    command(verb.name, argument, &Given { flags, env }, args)
}

fn command(
    name: &'static str,
    argument: Option<OsString>,
    given: &Given<'_>,
    args: Vec<OsString>,
) -> Result<Command, UsageError> {
    let is_set = |opt: &Opt| given.flag(opt).is_some();
    Ok(match name {
        "setup" => Command::Setup { access: access(given)?, print: is_set(&PRINT) },
        "doctor" if is_set(&AS_SERVICE) => {
            let switch = format!("--{}", AS_SERVICE.name);
            Command::DoctorAsService { args: args.into_iter().filter(|arg| *arg != *switch).collect() }
        }
        "doctor" => {
            let (options, wrong) = sound_options(given)?;
            Command::Doctor { options: Box::new(options), wrong, json: is_set(&JSON) }
        }
        "clean" => {
            let (all, yes, timeout) = (is_set(&ALL), is_set(&YES), timeout(given)?);
            Command::Clean { access: access(given)?, all, yes, timeout }
        }
        "selftest" => {
            let url = argument.ok_or(UsageError::Missing { command: "selftest", argument: "URL" })?;
            let (clean_first, clean_after) = (is_set(&CLEAN_FIRST), is_set(&CLEAN_AFTER));
            let url = url.to_str().and_then(base).ok_or_else(|| UsageError::Value {
                given: "the URL".to_owned(),
                value: url.to_string_lossy().into_owned(),
                wanted: "http://HOST:PORT of a server; TLS is not spoken",
            })?;
            let (access, timeout, token_file) = (access(given)?, timeout(given)?, token_file(given)?);
            Command::Selftest { url, access, token_file, clean_first, clean_after, timeout }
        }
        _ => Command::Serve(Box::new(options(given)?)),
    })
}

/// Where values come from.
struct Given<'a> {
    flags: Vec<(&'a Opt, OsString)>,
    env: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Given<'_> {
    /// The last flag of that name.
    fn flag(&self, opt: &Opt) -> Option<&OsString> {
        self.flags.iter().rev().find(|(flag, _)| flag.name == opt.name).map(|(_, value)| value)
    }

    /// The option's variable; an empty one is none.
    fn variable(&self, opt: &Opt) -> Option<OsString> {
        let value = if opt.env.is_empty() { None } else { (self.env)(opt.env) };
        value.filter(|value| !value.is_empty())
    }

    /// A flag that must not be empty.
    fn flag_only(&self, opt: &Opt, wanted: &'static str) -> Result<Option<&OsString>, UsageError> {
        match self.flag(opt) {
            Some(value) if value.is_empty() => {
                Err(UsageError::Value { given: format!("--{}", opt.name), value: String::new(), wanted })
            }
            flag => Ok(flag),
        }
    }

    /// The value of an option that has no default.
    fn optional(&self, opt: &Opt, wanted: &'static str) -> Result<Option<OsString>, UsageError> {
        Ok(self.flag_only(opt, wanted)?.cloned().or_else(|| self.variable(opt)))
    }

    /// The value as `read` takes it, or the default's.
    fn value<T>(
        &self,
        opt: &Opt,
        wanted: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, UsageError> {
        let (given, value) = match (self.flag(opt), self.variable(opt)) {
            (Some(value), _) => (format!("--{}", opt.name), value.clone()),
            (None, Some(value)) => (opt.env.to_owned(), value),
            (None, None) => return Ok(read(opt.default)),
        };
        match value.to_str().and_then(read) {
            Some(read) => Ok(Some(read)),
            None => Err(UsageError::Value { given, value: value.to_string_lossy().into_owned(), wanted }),
        }
    }
}

const CHECKED: &str = "defaults are good values";

fn access(given: &Given<'_>) -> Result<Access, UsageError> {
    let timeout =
        given.value(&KUBE_TIMEOUT, "a number of seconds from 1 to 600", |text| number(text, 1, KUBE_TIMEOUT_MOST))?;
    let context = given.optional(&CONTEXT, "the name of a context")?.map(|name| name.to_string_lossy().into_owned());
    // Its variable is a list, and read with the rest of the kubeconfig's environment.
    let kubeconfig = given.flag_only(&KUBECONFIG, "the path of a file")?.map(PathBuf::from);
    Ok(Access { kubeconfig, context, kube_timeout: Duration::from_secs(timeout.expect(CHECKED)) })
}

fn timeout(given: &Given<'_>) -> Result<Duration, UsageError> {
    let seconds = given.value(&TIMEOUT, "a number of seconds from 1 to 3600", |text| number(text, 1, TIMEOUT_MOST))?;
    Ok(Duration::from_secs(seconds.expect(CHECKED)))
}

/// The embedded cluster has a kubeconfig of its own. Another one on the command line wins over the variable, as flags do;
/// variables for another one may have been set for other programs.
fn local(given: &Given<'_>) -> Result<Option<simulator::Settings>, UsageError> {
    let other = [&KUBECONFIG, &CONTEXT].into_iter().find(|opt| given.flag(opt).is_some());
    let wanted = match (given.flag(&LOCAL), other) {
        (Some(_), Some(other)) => return Err(UsageError::Conflict(LOCAL.name, other.name)),
        (None, Some(_)) => false,
        (_, None) => switched(given, &LOCAL)?,
    };
    let job_seconds = given.value(&LOCAL_JOB_SECONDS, "a number of seconds from 1 to 3600", |text| {
        u32::try_from(number(text, 1, LOCAL_JOB_SECONDS_MOST)?).ok()
    })?;
    let nodes = given
        .value(&LOCAL_NODES, "a number from 1 to 100", |text| u16::try_from(number(text, 1, LOCAL_NODES_MOST)?).ok())?;
    Ok(wanted.then_some(simulator::Settings { job_seconds: job_seconds.expect(CHECKED), nodes: nodes.expect(CHECKED) }))
}

fn token_file(given: &Given<'_>) -> Result<Option<PathBuf>, UsageError> {
    Ok(given.optional(&PREMIUM_TOKEN_FILE, "the path of a file")?.map(PathBuf::from))
}

/// The options without the variables that make no sense, and what is wrong with those.
fn sound_options(given: &Given<'_>) -> Result<(Options, Vec<UsageError>), UsageError> {
    let mut wrong: Vec<UsageError> = Vec::new();
    loop {
        let is_wrong =
            |name: &str| wrong.iter().any(|error| matches!(error, UsageError::Value { given, .. } if given == name));
        let env = |name: &str| if is_wrong(name) { None } else { (given.env)(name) };
        match options(&Given { flags: given.flags.clone(), env: &env }) {
            Err(error @ UsageError::Value { .. }) if !error.to_string().starts_with("--") => wrong.push(error),
            outcome => return Ok((outcome?, wrong)),
        }
    }
}

fn options(given: &Given<'_>) -> Result<Options, UsageError> {
    let listen = given.value(&LISTEN, "an address and a port, such as 0.0.0.0:5000 or [::]:5000", address)?;
    let image = given.value(&IMAGE, "an image name such as registry/name:tag", image)?;
    let ttl = given.value(&JOB_TTL, "a number of seconds from 0 to 2147483647", |text| {
        u32::try_from(number(text, 0, JOB_TTL_MOST)?).ok()
    })?;
    let posts = given.value(&POSTS_PER_MINUTE, "a number of requests from 0 to 1000000", |text| {
        u32::try_from(number(text, 0, 1_000_000)?).ok()
    })?;
    let log_level = given.value(&LOG_LEVEL, "error, warn, info or debug", level)?;
    let premium_token_file = token_file(given)?;
    Ok(Options {
        listen: listen.expect(CHECKED),
        jobs: job::Settings { image: image.expect(CHECKED), ttl: ttl.expect(CHECKED) },
        access: access(given)?,
        local: local(given)?,
        posts_per_minute: posts.expect(CHECKED),
        premium_token_file,
        nudge: !switched(given, &NO_NUDGE)?,
        log_level: log_level.expect(CHECKED),
    })
}

/// Whether a switch is set.
fn switched(given: &Given<'_>, opt: &Opt) -> Result<bool, UsageError> {
    Ok(given.value(opt, "1 or 0", switch)?.expect(CHECKED))
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "1" | "true" | "on" => Some(true),
        "0" | "false" | "off" => Some(false),
        _ => None,
    }
}

fn address(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    (!host.is_empty() && !bare_ipv6 && !host.contains(char::is_whitespace)).then(|| text.to_owned())
}

/// The address of a server, with http:// and without a slash at its end. An autograder is given a host and a port only.
fn base(text: &str) -> Option<String> {
    let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let odd = |c: char| c.is_whitespace() || c.is_control() || "?#@\\".contains(c);
    let authority = rest.split('/').next().unwrap_or_default();
    // Without a port it is 80. The client would take that for one that is out of range, too.
    let port = authority.rsplit_once(':').filter(|_| !authority.ends_with(']'));
    let port_is_good = port.is_none_or(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
    let has_host = !authority.is_empty() && !authority.starts_with(':');
    let is_http = !rest.contains("://");
    (is_http && has_host && port_is_good && !rest.contains(odd)).then(|| format!("http://{rest}"))
}

/// The characters of <https://github.com/distribution/reference>; Kubernetes checks no more, and the node says the rest.
fn image(text: &str) -> Option<String> {
    let known = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    (text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(known)).then(|| text.to_owned())
}

fn number(text: &str, least: u64, most: u64) -> Option<u64> {
    text.parse().ok().filter(|number| (least..=most).contains(number))
}

fn level(text: &str) -> Option<LevelFilter> {
    match text {
        "error" => Some(LevelFilter::Error),
        "warn" => Some(LevelFilter::Warn),
        "info" => Some(LevelFilter::Info),
        "debug" => Some(LevelFilter::Debug),
        _ => None,
    }
}

fn help() -> String {
    let mut text = String::from(
        "Image classification as a service: a POST becomes a Kubernetes Job, GET /config shows every pod.\n\n\
         Usage: img-classification [COMMAND] [OPTIONS]\n\nCommands (each has a --help of its own):\n",
    );
    for verb in VERBS {
        text.push_str(&format!("  {:<13} {}\n", format!("{} {}", verb.name, verb.argument), verb.help));
    }
    text.push_str("\nOptions of serve (a flag wins over its variable):\n");
    text + &opts_help(&SERVE)
}

fn verb_help(verb: &Verb) -> String {
    let Verb { name, argument, help, .. } = verb;
    let argument = if argument.is_empty() { String::new() } else { format!(" {argument}") };
    let head = format!("img-classification {name}: {help}.\n\nUsage: img-classification {name}{argument} [OPTIONS]\n");
    head + "\nOptions (a flag wins over its variable):\n" + &opts_help(verb)
}

fn opts_help(verb: &Verb) -> String {
    let mut text = String::new();
    for Opt { name, value, env, default, help } in verb.opts {
        let value = if value.is_empty() { String::new() } else { format!(" {value}") };
        text.push_str(&format!("  --{name}{value}\n        {help}\n"));
        // A switch's variable is set to 1.
        let set = if value.is_empty() { "=1" } else { "" };
        match (env.is_empty(), default.is_empty()) {
            (false, _) => text.push_str(&format!("        [env: {env}{set}] [default: {default}]\n")),
            (true, false) => text.push_str(&format!("        [default: {default}]\n")),
            (true, true) => {}
        }
    }
    text + "  -h, --help\n        print this\n  -V, --version\n        print the version\n\n\
            Exit codes: 0 done, 1 failed, 2 wrong usage.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], vars: &[(&str, &str)]) -> Result<Options, UsageError> {
        let env = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        match parse(args.iter().map(OsString::from), &env)? {
            Command::Serve(options) => Ok(*options),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_good_values() {
        let options = read(&[], &[]).expect("no option is needed");
        assert_eq!(options.listen, "0.0.0.0:5000");
        assert_eq!(options.jobs.ttl, 3600);
        assert_eq!(options.access.kube_timeout, Duration::from_secs(10));
        assert_eq!((options.access.context, options.access.kubeconfig), (None, None));
        assert!(options.local.is_none());
    }

    #[test]
    fn a_flag_wins_over_its_variable_and_an_empty_variable_is_none() {
        let options =
            read(&["serve", "--listen=[::1]:1", "--context", "a"], &[("LISTEN", "x:2"), ("KUBE_CONTEXT", "b")]);
        let options = options.expect("good");
        assert_eq!((options.listen.as_str(), options.access.context.as_deref()), ("[::1]:1", Some("a")));
        let options = read(&[], &[("LISTEN", ""), ("KUBE_CONTEXT", "b"), ("JOB_TTL", "0")]).expect("good");
        assert_eq!((options.listen.as_str(), options.access.context.as_deref()), ("0.0.0.0:5000", Some("b")));
        assert_eq!(options.jobs.ttl, 0);
    }

    #[test]
    fn a_cluster_on_the_command_line_wins_over_the_variable_for_the_embedded_one() {
        let is_local = |args: &[&str], local: &str| Ok(read(args, &[("LOCAL", local)])?.local.is_some());
        assert_eq!(is_local(&[], "1"), Ok(true));
        assert_eq!(is_local(&["--local"], "0"), Ok(true));
        assert_eq!(is_local(&["--kubeconfig", "x"], "1"), Ok(false));
        assert_eq!(is_local(&["--local", "--context", "x"], ""), Err(UsageError::Conflict("local", "context")));
    }

    #[test]
    fn bad_values_name_the_flag_or_the_variable() {
        let flags: [&[&str]; 16] = [
            &["--listen", "5000"],
            &["--listen", ":5000"],
            &["--listen", "::1:5000"],
            &["--listen", "0.0.0.0:65536"],
            &["--image", ""],
            &["--image", "a b"],
            &["--image", "-a"],
            &["--job-ttl", "-1"],
            &["--job-ttl", "2147483648"],
            &["--kube-timeout", "0"],
            &["--kube-timeout", "1.5"],
            &["--log-level", "loud"],
            &["--context", ""],
            &["--kubeconfig", ""],
            &["--posts-per-minute", "many"],
            &["--premium-token-file", ""],
        ];
        for args in flags {
            let error = read(args, &[]).expect_err(args[1]).to_string();
            assert!(error.starts_with(args[0]), "{error}");
        }
        let error = read(&[], &[("KUBE_TIMEOUT", "soon")]).expect_err("not a number").to_string();
        assert!(error.starts_with("KUBE_TIMEOUT is \"soon\""), "{error}");
        for args in [&["--nonsense"][..], &["--listen"], &["serve", "serve"], &["-x"]] {
            assert!(matches!(read(args, &[]), Err(UsageError::Syntax(_))), "{args:?}");
        }
        assert!(matches!(read(&["dance"], &[]), Err(UsageError::Command(_))));
    }
}
