//! Checks of the environment of the server and the credential plugin.

use std::io;
use std::path::{Path, PathBuf};

use super::env_file::FILE;
use crate::api::auth;
use crate::cli::{self, Env, Options, UsageError};
use crate::commands::output::Check;

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
