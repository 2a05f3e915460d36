//! Checks of this host: the port, and the environment of the server and the credential plugin.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::env_file::FILE;
use crate::api::auth;
use crate::cli::{self, Env, Options, UsageError};
use crate::commands::client;
use crate::commands::output::Check;
use crate::commands::systemd;

/// Timeout of a request to the program that holds the port: /healthz of this program takes a millisecond.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Response body of GET /healthz.
const HEALTHY: &str = r#"{"status":"ok"}"#;

/// Longest part of another program's response in a message, in characters.
const MAX_BODY_CHARS: usize = 80;

/// Checks that `serve` can listen, or already does.
pub fn port(listen: &str) -> Vec<Check> {
    let addresses = listen.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let Ok([address, ..]) = addresses.as_deref() else {
        let text = format!("{listen} does not resolve");
        return vec![Check::fail("port", text, "set --listen or LISTEN, such as 0.0.0.0:5000")];
    };
    let mut checks = vec![match TcpListener::bind(address) {
        Ok(_) if address.port() == 0 => Check::ok("port", format!("{listen}: any free port, which `serve` prints")),
        Ok(_) => Check::ok("port", format!("{listen} is free")),
        Err(error) => not_free(listen, *address, &error),
    }];
    if address.ip().is_loopback() {
        let text = format!("{listen} accepts connections from this host only");
        checks.push(Check::warning("port", text, format!("set --listen or LISTEN to 0.0.0.0:{}", address.port())));
    }
    checks
}

fn not_free(listen: &str, address: SocketAddr, error: &io::Error) -> Check {
    let text = format!("cannot listen on {listen}: {error}");
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => match other_listener(systemd::reachable(address)) {
            None => Check::ok("port", format!("a server of this program already listens on {listen}")),
            Some(other) => {
                let text = format!("{listen} is in use: {other}");
                Check::fail(
                    "port",
                    text,
                    format!("find the program with ss -ltnp 'sport = :{port}' and stop it, or set another --listen"),
                )
            }
        },
        io::ErrorKind::PermissionDenied => Check::fail(
            "port",
            format!("{text}; ports below 1024 need root"),
            "set --listen to a port above 1023, such as 0.0.0.0:5000, or run it as root",
        ),
        io::ErrorKind::AddrNotAvailable => {
            let text = format!("{text}; this host does not have the address (on EC2 that includes the public address)");
            Check::fail("port", text, format!("set --listen or LISTEN to 0.0.0.0:{port}"))
        }
        _ => Check::fail("port", text, "set --listen or LISTEN, such as 0.0.0.0:5000"),
    }
}

/// Describes the program that holds the port. Returns `None` if it is a server of this program.
fn other_listener(address: SocketAddr) -> Option<String> {
    match client::request("GET", &format!("http://{address}/healthz"), &[], None, PROBE_TIMEOUT) {
        Ok(response) if response.status == 200 && response.body.trim() == HEALTHY => None,
        Ok(response) => {
            let first = response.body.lines().next().unwrap_or_default();
            let shown: String = first.chars().take(MAX_BODY_CHARS).collect();
            Some(format!("another program responds to GET /healthz with status {} and {shown:?}", response.status))
        }
        Err(error) => Some(format!("its program does not respond to GET /healthz ({error})")),
    }
}

/// Checks the environment of `serve` and of the credential plugin. `plugin` is the plugin's name and its path.
pub fn environment(env: Env<'_>, plugin: Option<(String, io::Result<PathBuf>)>, options: &Options) -> Vec<Check> {
    let mut checks = vec![home(env)];
    if let Some((name, found)) = plugin {
        checks.push(self::plugin(&name, found));
    } else if env("PATH").is_none() {
        checks.push(Check::warning("environment", "PATH is not set", format!("PATH=/usr/bin:/bin in {FILE}")));
    }
    let tokens = [
        ("premium", "POSTs to premium", &options.premium_token_file),
        ("admin", "deletions", &options.admin_token_file),
    ];
    let tokens = tokens.into_iter().filter_map(|(name, requests, path)| Some(token(name, requests, path.as_deref()?)));
    checks.extend(tokens);
    if options.local.is_some() {
        let text = "LOCAL is set: `serve` starts a simulated cluster, but these checks are about another one";
        checks.push(Check::warning("environment", text, "unset LOCAL"));
    }
    checks.extend(cli::renamed_variables(env).map(|(old, new)| {
        Check::warning(
            "environment",
            format!("{old} has no effect"),
            format!("set {new} instead, for the service in {FILE}"),
        )
    }));
    checks
}

/// Returns the failed check of a variable that prevents the start of `serve`.
pub fn variable(error: &UsageError) -> Check {
    let fix = format!("correct it, for the service in {FILE}; these checks used its default");
    Check::fail("environment", error.to_string(), fix)
}

fn home(env: Env<'_>) -> Check {
    let fix = format!("set it; for the service, remove HOME from {FILE}, and systemd sets it");
    match env("HOME").map(PathBuf::from) {
        None => Check::warning("environment", "HOME is not set: ~/.kube and ~/.aws are not searched", fix),
        Some(home) if !home.is_dir() => {
            Check::warning("environment", format!("HOME is {}, which is not a folder", home.display()), fix)
        }
        Some(home) => Check::ok("environment", format!("HOME is {}", home.display())),
    }
}

fn plugin(name: &str, found: io::Result<PathBuf>) -> Check {
    match found {
        Ok(file) => Check::ok("environment", format!("the credential plugin {name} is {}", file.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Check::fail(
            "environment",
            format!("the credential plugin {name} of the kubeconfig does not exist"),
            format!(
                "install it (for aws: apt-get install awscli), and add its folder to PATH, for the service in {FILE}"
            ),
        ),
        Err(error) => Check::fail(
            "environment",
            format!("cannot run the credential plugin {name} of the kubeconfig: {error}"),
            "chmod +x the file, or put another file of that name earlier in PATH",
        ),
    }
}

fn token(name: &str, requests: &str, path: &Path) -> Check {
    match auth::Token::read(path) {
        Ok(_) => Check::ok("environment", format!("{requests} need the token in {}", path.display())),
        Err(error) => Check::fail(
            "environment",
            format!("cannot use the {name} token file {}: {error}", path.display()),
            format!("openssl rand -hex 32 >{}", path.display()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::output::CheckStatus;

    #[test]
    fn each_bind_error_has_its_fix() {
        let address = "192.0.2.7:80".parse().expect("an address");
        for (kind, words, fix) in [
            (io::ErrorKind::PermissionDenied, "below 1024", "0.0.0.0:5000"),
            (io::ErrorKind::AddrNotAvailable, "does not have the address", "0.0.0.0:80"),
            (io::ErrorKind::OutOfMemory, "cannot listen on 192.0.2.7:80", "--listen"),
        ] {
            let check = not_free("192.0.2.7:80", address, &kind.into());
            assert_eq!(check.status, CheckStatus::Fail);
            assert!(check.text.contains(words), "{}", check.text);
            assert!(check.fix.is_some_and(|found| found.contains(fix)), "{kind}");
        }
    }
}
