//! argv and the environment to [`Options`]. Pure: both come in as arguments. One table describes every option for the
//! parser, for --help and for people.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

use crate::job;

/// An option: how it is written, its variable, its default, and what it is for.
struct Opt {
    name: &'static str,
    value: &'static str,
    env: &'static str,
    default: &'static str,
    help: &'static str,
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
const LOG_LEVEL: Opt = Opt {
    name: "log-level",
    value: "LEVEL",
    env: "LOG_LEVEL",
    default: "info",
    help: "error, warn, info (a line per request) or debug",
};

const OPTS: [&Opt; 9] = [
    &LISTEN,
    &IMAGE,
    &KUBECONFIG,
    &CONTEXT,
    &JOB_TTL,
    &KUBE_TIMEOUT,
    &POSTS_PER_MINUTE,
    &PREMIUM_TOKEN_FILE,
    &LOG_LEVEL,
];

/// Longest --kube-timeout, in seconds: callers have long given up by then.
const KUBE_TIMEOUT_MOST: u64 = 600;

/// Longest --job-ttl, in seconds: Kubernetes keeps the field in 32 bits with a sign.
const JOB_TTL_MOST: u64 = 2_147_483_647;

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Serve.
    Serve(Box<Options>),
    /// Print this text and end.
    Print(String),
}

/// The effective configuration, apart from what the kubeconfig says.
#[derive(Debug, Clone)]
pub struct Options {
    /// HOST:PORT
    pub listen: String,
    /// Image and TTL of the Jobs.
    pub jobs: job::Settings,
    /// --kubeconfig; the variable is a list and read with the rest of the kubeconfig's environment.
    pub kubeconfig: Option<PathBuf>,
    /// --context
    pub context: Option<String>,
    /// For one Kubernetes operation.
    pub kube_timeout: Duration,
    /// For one address; 0 is without limit.
    pub posts_per_minute: u32,
    /// --premium-token-file
    pub premium_token_file: Option<PathBuf>,
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
            format!("kube-timeout: {} s", self.kube_timeout.as_secs()),
            match self.posts_per_minute {
                0 => "posts-per-minute: without limit".to_owned(),
                limit => format!("posts-per-minute: {limit} for each address"),
            },
            match &self.premium_token_file {
                Some(path) => format!("premium-token-file: {}", path.display()),
                None => "premium-token-file: none, premium is open to all".to_owned(),
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
    /// A value that the option does not take; `given` is the flag or the variable.
    Value { given: String, value: String, wanted: &'static str },
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax(text) => write!(f, "{text}; see img-classification --help"),
            Self::Command(name) => write!(f, "there is no command {name:?}; see img-classification --help"),
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
    let mut parser = lexopt::Parser::from_args(args);
    let mut flags: Vec<(&Opt, OsString)> = Vec::new();
    let mut command = None;
    while let Some(arg) = parser.next()? {
        match arg {
            lexopt::Arg::Short('h') | lexopt::Arg::Long("help") => return Ok(Command::Print(help())),
            lexopt::Arg::Short('V') | lexopt::Arg::Long("version") => {
                return Ok(Command::Print(concat!("img-classification ", env!("CARGO_PKG_VERSION"), "\n").to_owned()));
            }
            lexopt::Arg::Long(name) => match OPTS.iter().find(|opt| opt.name == name) {
                Some(opt) => flags.push((opt, parser.value()?)),
                None => return Err(arg.unexpected().into()),
            },
            lexopt::Arg::Value(value) if command.is_none() => command = Some(value),
            _ => return Err(arg.unexpected().into()),
        }
    }
    if let Some(name) = command.filter(|name| name != "serve") {
        return Err(UsageError::Command(name.to_string_lossy().into_owned()));
    }
    options(&Given { flags, env }).map(|options| Command::Serve(Box::new(options)))
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
        let from_env = || (self.env)(opt.env).filter(|value| !value.is_empty());
        Ok(self.flag_only(opt, wanted)?.cloned().or_else(from_env))
    }

    /// The value as `read` takes it, or the default's.
    fn value<T>(
        &self,
        opt: &Opt,
        wanted: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, UsageError> {
        let from_env = || (self.env)(opt.env).filter(|value| !value.is_empty());
        let (given, value) = match (self.flag(opt), from_env()) {
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

fn options(given: &Given<'_>) -> Result<Options, UsageError> {
    const CHECKED: &str = "defaults are good values";
    let listen = given.value(&LISTEN, "an address and a port, such as 0.0.0.0:5000 or [::]:5000", address)?;
    let image = given.value(&IMAGE, "an image name such as registry/name:tag", image)?;
    let ttl = given.value(&JOB_TTL, "a number of seconds from 0 to 2147483647", |text| {
        u32::try_from(number(text, 0, JOB_TTL_MOST)?).ok()
    })?;
    let timeout =
        given.value(&KUBE_TIMEOUT, "a number of seconds from 1 to 600", |text| number(text, 1, KUBE_TIMEOUT_MOST))?;
    let posts = given.value(&POSTS_PER_MINUTE, "a number of requests from 0 to 1000000", |text| {
        u32::try_from(number(text, 0, 1_000_000)?).ok()
    })?;
    let log_level = given.value(&LOG_LEVEL, "error, warn, info or debug", level)?;
    let context = given.optional(&CONTEXT, "the name of a context")?.map(|name| name.to_string_lossy().into_owned());
    let premium_token_file = given.optional(&PREMIUM_TOKEN_FILE, "the path of a file")?.map(PathBuf::from);
    // Its variable is a list, and read with the rest of the kubeconfig's environment.
    let kubeconfig = given.flag_only(&KUBECONFIG, "the path of a file")?.map(PathBuf::from);
    Ok(Options {
        listen: listen.expect(CHECKED),
        jobs: job::Settings { image: image.expect(CHECKED), ttl: ttl.expect(CHECKED) },
        kubeconfig,
        context,
        kube_timeout: Duration::from_secs(timeout.expect(CHECKED)),
        posts_per_minute: posts.expect(CHECKED),
        premium_token_file,
        log_level: log_level.expect(CHECKED),
    })
}

fn address(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    (!host.is_empty() && !bare_ipv6 && !host.contains(char::is_whitespace)).then(|| text.to_owned())
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
         Usage: img-classification [serve] [OPTIONS]\n\nOptions (a flag wins over its variable):\n",
    );
    for opt in OPTS {
        text.push_str(&format!(
            "  --{} {}\n        {}\n        [env: {}] [default: {}]\n",
            opt.name, opt.value, opt.help, opt.env, opt.default
        ));
    }
    text.push_str("  -h, --help\n        print this\n  -V, --version\n        print the version\n");
    text.push_str("\nExit codes: 0 done, 1 failed, 2 wrong usage.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str], vars: &[(&str, &str)]) -> Result<Options, UsageError> {
        let env = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        match parse(args.iter().map(OsString::from), &env)? {
            Command::Serve(options) => Ok(*options),
            Command::Print(text) => panic!("{text}"),
        }
    }

    #[test]
    fn defaults_are_good_values() {
        let options = read(&[], &[]).expect("no option is needed");
        assert_eq!(options.listen, "0.0.0.0:5000");
        assert_eq!(options.jobs.ttl, 3600);
        assert_eq!(options.kube_timeout, Duration::from_secs(10));
        assert_eq!((options.context, options.kubeconfig), (None, None));
    }

    #[test]
    fn a_flag_wins_over_its_variable_and_an_empty_variable_is_none() {
        let options =
            read(&["serve", "--listen=[::1]:1", "--context", "a"], &[("LISTEN", "x:2"), ("KUBE_CONTEXT", "b")]);
        let options = options.expect("good");
        assert_eq!((options.listen.as_str(), options.context.as_deref()), ("[::1]:1", Some("a")));
        let options = read(&[], &[("LISTEN", ""), ("KUBE_CONTEXT", "b"), ("JOB_TTL", "0")]).expect("good");
        assert_eq!((options.listen.as_str(), options.context.as_deref()), ("0.0.0.0:5000", Some("b")));
        assert_eq!(options.jobs.ttl, 0);
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
