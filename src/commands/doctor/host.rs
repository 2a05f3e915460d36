//! This host: the port, and the environment that the credential plugin needs.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Env;
use crate::api::auth;
use crate::cli::{Options, UsageError};
use crate::commands::client;
use crate::commands::output::Finding;
use crate::commands::systemd;

/// Longest wait for whoever has the port: our own /healthz takes a millisecond.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// What our own /healthz says.
const HEALTHY: &str = r#"{"status":"ok"}"#;

/// Most that is shown of an answer that is not ours, in characters.
const ANSWER_SHOWN: usize = 80;

/// Where the service's variables stand.
const ENV_FILE: &str = "/etc/img-classification.env";

/// Whether `serve` could listen, or does.
pub fn port(listen: &str) -> Vec<Finding> {
    let addresses = listen.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let Ok([address, ..]) = addresses.as_deref() else {
        let text = format!("{listen} leads to no address of a host");
        return vec![Finding::fail("port", text, "--listen 0.0.0.0:5000, or LISTEN")];
    };
    let mut findings = vec![match TcpListener::bind(address) {
        Ok(_) if address.port() == 0 => Finding::ok("port", format!("{listen}: any free port; `serve` tells which")),
        Ok(_) => Finding::ok("port", format!("{listen} is free")),
        Err(error) => not_free(listen, *address, &error),
    }];
    if address.ip().is_loopback() {
        let text = format!("{listen} is reached from this host only");
        findings.push(Finding::warning("port", text, format!("--listen 0.0.0.0:{}, or LISTEN", address.port())));
    }
    findings
}

fn not_free(listen: &str, address: SocketAddr, error: &io::Error) -> Finding {
    let text = format!("cannot listen on {listen}: {error}");
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => match who_answers(systemd::reachable(address)) {
            None => Finding::ok("port", format!("this program already listens on {listen}")),
            Some(other) => {
                let text = format!("{listen} is taken: {other}");
                Finding::fail(
                    "port",
                    text,
                    format!("ss -ltnp 'sport = :{port}' shows by what; end that, or another --listen"),
                )
            }
        },
        io::ErrorKind::PermissionDenied => Finding::fail(
            "port",
            format!("{text}; ports below 1024 are root's"),
            "--listen 0.0.0.0:5000, or run it as root",
        ),
        io::ErrorKind::AddrNotAvailable => {
            let text = format!("{text}; it is not this host's own (on EC2 the public address is not, either)");
            Finding::fail("port", text, format!("--listen 0.0.0.0:{port}, or LISTEN"))
        }
        _ => Finding::fail("port", text, "--listen 0.0.0.0:5000, or LISTEN"),
    }
}

/// Who has the port; none if it is us.
fn who_answers(address: SocketAddr) -> Option<String> {
    match client::request("GET", &format!("http://{address}/healthz"), &[], None, PROBE_LIMIT) {
        Ok(answer) if answer.status == 200 && answer.body.trim() == HEALTHY => None,
        Ok(answer) => {
            let first = answer.body.lines().next().unwrap_or_default();
            let shown: String = first.chars().take(ANSWER_SHOWN).collect();
            Some(format!("its /healthz is not ours but status {} and {shown:?}", answer.status))
        }
        Err(error) => Some(format!("what has it gives no answer to GET /healthz ({error})")),
    }
}

/// What `serve` and the credential plugin take from the environment; `plugin` is its name and the file that it is.
pub fn environment(env: Env<'_>, plugin: Option<(String, io::Result<PathBuf>)>, options: &Options) -> Vec<Finding> {
    let mut findings = vec![home(env)];
    if let Some((name, found)) = plugin {
        findings.push(self::plugin(&name, found));
    } else if env("PATH").is_none() {
        findings.push(Finding::warning("environment", "PATH is not set", format!("PATH=/usr/bin:/bin in {ENV_FILE}")));
    }
    if let Some(path) = &options.premium_token_file {
        findings.push(token(path));
    }
    if options.local.is_some() {
        let text = "LOCAL is set: `serve` starts a simulated cluster, and what is said here is about another one";
        findings.push(Finding::warning("environment", text, "unset LOCAL"));
    }
    findings
}

/// A variable with which `serve` would not start.
pub fn variable(error: &UsageError) -> Finding {
    let fix = format!("set it right, for the service in {ENV_FILE}; its default was looked at here");
    Finding::fail("environment", error.to_string(), fix)
}

fn home(env: Env<'_>) -> Finding {
    let fix = format!("set it; for the service, leave HOME out of {ENV_FILE}: it is then its user's");
    match env("HOME").map(PathBuf::from) {
        None => Finding::warning("environment", "HOME is not set: ~/.kube and ~/.aws are not looked into", fix),
        Some(home) if !home.is_dir() => {
            Finding::warning("environment", format!("HOME is {}, which is no folder", home.display()), fix)
        }
        Some(home) => Finding::ok("environment", format!("HOME is {}", home.display())),
    }
}

fn plugin(name: &str, found: io::Result<PathBuf>) -> Finding {
    match found {
        Ok(file) => Finding::ok("environment", format!("the credential plugin {name} is {}", file.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::fail(
            "environment",
            format!("the credential plugin {name} of the kubeconfig is not found"),
            format!(
                "install it (for aws: apt-get install awscli), and name its folder in PATH, for the service in {ENV_FILE}"
            ),
        ),
        Err(error) => Finding::fail(
            "environment",
            format!("the credential plugin {name} of the kubeconfig may not be run: {error}"),
            "chmod +x, or another file of that name earlier in PATH",
        ),
    }
}

fn token(path: &Path) -> Finding {
    match auth::Token::read(path) {
        Ok(_) => Finding::ok("environment", format!("premium needs the token in {}", path.display())),
        Err(error) => Finding::fail(
            "environment",
            format!("the token file of premium, {}, cannot be used: {error}", path.display()),
            format!("openssl rand -hex 32 >{}", path.display()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::output::Verdict;

    #[test]
    fn each_reason_not_to_listen_has_its_fix() {
        let address = "192.0.2.7:80".parse().expect("an address");
        for (kind, words, fix) in [
            (io::ErrorKind::PermissionDenied, "below 1024", "0.0.0.0:5000"),
            (io::ErrorKind::AddrNotAvailable, "not this host's own", "0.0.0.0:80"),
            (io::ErrorKind::OutOfMemory, "cannot listen on 192.0.2.7:80", "--listen"),
        ] {
            let finding = not_free("192.0.2.7:80", address, &kind.into());
            assert_eq!(finding.verdict, Verdict::Fail);
            assert!(finding.text.contains(words), "{}", finding.text);
            assert!(finding.fix.is_some_and(|found| found.contains(fix)), "{kind}");
        }
    }
}
