//! The values that options take: text to types. An error is the noun phrase that follows "must be".

use std::error::Error;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, PossibleValuesParser, TypedValueParser};
use log::LevelFilter;

use crate::api::idempotency;
use crate::job::JobName;
use crate::kube;

/// Longest --timeout, in seconds: one hour. A script that waits longer is stuck.
const MAX_CLEAN_TIMEOUT: u64 = 3600;

/// Longest --timeout of `submit`, in seconds: a week, longer than any queue of a course.
const MAX_SUBMIT_TIMEOUT: u64 = 7 * 24 * 3600;

/// Longest --local-job-seconds: one hour. Longer runs need a real cluster.
const MAX_LOCAL_JOB_SECONDS: u64 = 3600;

/// Largest --local-nodes: more nodes would only make lists longer.
const MAX_LOCAL_NODES: u64 = 100;

/// Longest --kube-timeout, in seconds: clients give up earlier.
const MAX_KUBE_TIMEOUT: u64 = 600;

/// Longest --job-ttl and --job-timeout, in seconds: Kubernetes stores the fields as signed 32-bit numbers.
const MAX_JOB_SECONDS: u64 = 2_147_483_647;

/// Largest --posts-per-minute: above it a limit has no effect.
const MAX_POSTS_PER_MINUTE: u64 = 1_000_000;

/// Returns a parser of text. clap's own conversion from bytes that are not UTF-8 does not name the option.
pub fn text<T, E>(parse: fn(&str) -> Result<T, E>) -> impl TypedValueParser<Value = T>
where
    T: Clone + Send + Sync + 'static,
    E: Into<Box<dyn Error + Send + Sync>> + 'static,
{
    OsStringValueParser::new().try_map(move |value| match value.to_str() {
        Some(text) => parse(text).map_err(Into::into),
        None => Err("valid UTF-8".into()),
    })
}

/// Returns a parser of one of `values`, which completion scripts offer. `name` returns the name of a value.
pub fn choice<T>(values: &'static [T], name: fn(T) -> &'static str) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let names = values.iter().map(move |value| name(*value));
    let find = move |text: String| values.iter().copied().find(|value| name(*value) == text).ok_or("a known name");
    PossibleValuesParser::new(names).try_map(find)
}

/// Returns a parser of paths. clap's own reports an empty path as a missing value.
pub fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().try_map(|value| match value.is_empty() {
        true => Err("the path of a file"),
        false => Ok(PathBuf::from(value)),
    })
}

/// Checks HOST:PORT; an IPv6 address needs brackets.
pub fn address(text: &str) -> Result<String, &'static str> {
    const WANTED: &str = "an address and a port, such as 0.0.0.0:5000 or [::]:5000";
    let (host, port) = text.rsplit_once(':').ok_or(WANTED)?;
    let is_bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let is_host = !host.is_empty() && !is_bare_ipv6 && !host.contains(char::is_whitespace);
    if is_host && port.parse::<u16>().is_ok() { Ok(text.to_owned()) } else { Err(WANTED) }
}

/// Parses the address of a server. Returns it with its scheme and without a trailing slash; `http://` may be left out.
pub fn server_url(text: &str) -> Result<String, &'static str> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme.to_ascii_lowercase(), rest),
        None => ("http".to_owned(), text),
    };
    let rest = rest.trim_end_matches('/');
    let is_forbidden = |c: char| c.is_whitespace() || c.is_control() || "?#@\\".contains(c);
    let authority = rest.split('/').next().unwrap_or_default();
    let port = authority.rsplit_once(':').filter(|_| !authority.ends_with(']'));
    let is_port = port.is_none_or(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
    // The hyphen is that of the next option, after one whose value is missing.
    let has_host = !authority.is_empty() && !authority.starts_with([':', '-']);
    let url = format!("{scheme}://{rest}");
    let is_known = ["http", "https"].contains(&&*scheme) && kube::is_address(&url);
    if is_known && has_host && is_port && !rest.contains(is_forbidden) {
        Ok(url)
    } else {
        Err("http://HOST:PORT or https://HOST of a server")
    }
}

/// Checks the characters only, as Kubernetes does; see <https://github.com/distribution/reference>.
pub fn image(text: &str) -> Result<String, &'static str> {
    let is_known = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    if text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_known) {
        Ok(text.to_owned())
    } else {
        Err("an image name such as registry/name:tag")
    }
}

/// Checks the name of an EKS cluster: <https://docs.aws.amazon.com/eks/latest/APIReference/API_CreateCluster.html>.
pub fn eks_cluster(text: &str) -> Result<String, &'static str> {
    const MAX_LENGTH: usize = 100;
    let is_known = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    let is_name = text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_known);
    if is_name && text.len() <= MAX_LENGTH { Ok(text.to_owned()) } else { Err("the name of an EKS cluster") }
}

/// Checks the characters of a region.
pub fn region(text: &str) -> Result<String, &'static str> {
    let is_known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(is_known) {
        Ok(text.to_owned())
    } else {
        Err("the name of an AWS region, such as us-east-1")
    }
}

/// Checks the name of a context.
pub fn context(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Err("the name of a context") } else { Ok(text.to_owned()) }
}

/// Parses a log level.
pub fn log_level(text: &str) -> Result<LevelFilter, &'static str> {
    match text {
        "error" => Ok(LevelFilter::Error),
        "warn" => Ok(LevelFilter::Warn),
        "info" => Ok(LevelFilter::Info),
        "debug" => Ok(LevelFilter::Debug),
        _ => Err("error, warn, info or debug"),
    }
}

/// Parses the variable of a switch.
pub fn switch(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("1 or 0"),
    }
}

/// Parses --timeout.
pub fn clean_timeout(text: &str) -> Result<Duration, String> {
    number(text, "seconds", 1..=MAX_CLEAN_TIMEOUT).map(Duration::from_secs)
}

/// Parses --timeout of `submit`.
pub fn submit_timeout(text: &str) -> Result<Duration, String> {
    number(text, "seconds", 1..=MAX_SUBMIT_TIMEOUT).map(Duration::from_secs)
}

/// Checks an Idempotency-Key as the server does.
pub fn idempotency_key(text: &str) -> Result<String, &'static str> {
    if idempotency::is_valid(text) { Ok(text.to_owned()) } else { Err("1 to 255 visible ASCII characters") }
}

/// Checks the name of a Job.
pub fn job_name(text: &str) -> Result<String, &'static str> {
    JobName::parse(text).map(|name| name.text.to_owned()).ok_or("the name of a Job, such as free-mnist-g6rf9qkgqr")
}

/// Parses --kube-timeout.
pub fn kube_timeout(text: &str) -> Result<Duration, String> {
    number(text, "seconds", 1..=MAX_KUBE_TIMEOUT).map(Duration::from_secs)
}

/// Parses --job-ttl, in seconds.
pub fn job_ttl(text: &str) -> Result<u32, String> {
    number(text, "seconds", 0..=MAX_JOB_SECONDS)
}

/// Parses --job-timeout, in seconds.
pub fn job_timeout(text: &str) -> Result<u32, String> {
    number(text, "seconds", 0..=MAX_JOB_SECONDS)
}

/// Parses --local-job-seconds.
pub fn local_job_seconds(text: &str) -> Result<u32, String> {
    number(text, "seconds", 1..=MAX_LOCAL_JOB_SECONDS)
}

/// Parses --local-nodes.
pub fn local_nodes(text: &str) -> Result<u16, String> {
    number(text, "nodes", 1..=MAX_LOCAL_NODES)
}

/// Parses --posts-per-minute.
pub fn posts_per_minute(text: &str) -> Result<u32, String> {
    number(text, "requests", 0..=MAX_POSTS_PER_MINUTE)
}

/// Returns a text as a word of a shell command, quoted if necessary.
pub fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:=@%+-".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn number<T: TryFrom<u64>>(text: &str, unit: &str, range: RangeInclusive<u64>) -> Result<T, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("a number of {unit} from {} to {}", range.start(), range.end()))
}
