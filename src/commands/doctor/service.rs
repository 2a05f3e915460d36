//! `doctor --as-service`: runs this program again with the environment of the systemd service and as its user.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::env_file::{EnvFile, FILE, USER};
use super::report::Report;
use crate::cli::Env;
use crate::commands::output::{Check, Printer};

/// Fix that runs the check as root, which may become [`USER`].
const SUDO: &str = "sudo img-classification doctor --as-service";

/// The running program, also if its path is not accessible to [`USER`].
const SELF: &str = "/proc/self/exe";

/// Variable with the path of another environment file. It implies no user of the service.
const FILE_ENV: &str = "IMG_CLASSIFICATION_ENV_FILE";

/// PATH of a systemd service that sets none, from systemd.exec(5).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// Longest environment file, in bytes: systemd reads up to 4 MiB; ten variables take a kilobyte.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Replaces this process by the same program with `args` in the service's environment. Returns false if that failed.
pub fn as_service(args: &[OsString], env: Env<'_>, printer: Printer) -> bool {
    let other = env(FILE_ENV).filter(|path| !path.is_empty()).map(PathBuf::from);
    let is_unit = other.is_none();
    let path = other.unwrap_or_else(|| PathBuf::from(FILE));
    let mut report = Report::new(args.iter().any(|arg| arg == "--json"), printer);
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) => {
            report.add(&unreadable(&path, &error));
            return report.finish();
        }
    };
    let file = EnvFile::parse(&text);
    let mut checks = file.checks(&path.display().to_string());
    let hidden = if is_unit { file.hidden_paths() } else { Vec::new() };
    if !hidden.is_empty() {
        // The checks that follow would see files that the service does not see.
        checks.iter().chain(&hidden).for_each(|check| report.add(check));
        return report.finish();
    }
    let mut command = Command::new(SELF);
    command.args(args).env_clear().env("PATH", PATH);
    if is_unit {
        let account = fs::read_to_string("/etc/passwd").ok().and_then(|passwd| Account::find(&passwd));
        checks.extend(become_user(&mut command, account, rustix::process::geteuid().as_raw()));
    }
    command.envs(file.variables).envs(env("NO_COLOR").map(|value| ("NO_COLOR", value)));
    checks.iter().for_each(|check| report.add(check));
    if report.json {
        // One object for the checks of the file and those of the new program.
        add_checks_of(&mut command, &mut report);
        return report.finish();
    }
    // No deadline is needed: each check of the new program has its own.
    let error = command.exec();
    report.add(&Check::fail("environment", format!("cannot start this program again: {error}"), "reinstall it"));
    report.finish()
}

/// Runs `doctor --json` and adds its checks.
fn add_checks_of(command: &mut Command, report: &mut Report) {
    let failed = |problem: String| {
        Check::fail("environment", format!("cannot run this program again: {problem}"), "reinstall it")
    };
    match command.stderr(Stdio::inherit()).output() {
        Ok(output) => match serde_json::from_slice::<Value>(&output.stdout) {
            Ok(object) => report.extend(&object),
            Err(_) => report.add(&failed(output.status.to_string())),
        },
        Err(error) => report.add(&failed(error.to_string())),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> Check {
    let path = path.display();
    let fix = match error.kind() {
        io::ErrorKind::PermissionDenied => SUDO.to_owned(),
        _ => format!("cp systemd/img-classification.env {path}, and edit it"),
    };
    Check::fail("environment", format!("cannot read the service's {path}: {error}"), fix)
}

/// The service's user as /etc/passwd describes it; install.sh creates it.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    uid: u32,
    gid: u32,
    home: String,
    shell: String,
}

impl Account {
    fn find(passwd: &str) -> Option<Self> {
        let line = passwd.lines().find_map(|line| line.strip_prefix(USER)?.strip_prefix(':'))?;
        let mut fields = line.split(':').skip(1);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let (home, shell) = (fields.nth(1)?.to_owned(), fields.next().unwrap_or_default().to_owned());
        Some(Self { uid, gid, home, shell })
    }
}

/// Sets four variables and, for root, the user and its group, as systemd does for User=. The environment file may override
/// the variables.
/// Returns a warning if the program will not run as the service's user.
fn become_user(command: &mut Command, account: Option<Account>, caller: u32) -> Option<Check> {
    let Some(account) = account else {
        let text = format!("the service's user {USER} does not exist");
        return Some(Check::warning("environment", text, "sudo ./install.sh"));
    };
    command.env("HOME", account.home).env("SHELL", account.shell).env("USER", USER).env("LOGNAME", USER);
    if caller == 0 {
        command.uid(account.uid).gid(account.gid);
    } else if caller != account.uid {
        let text = format!("not running as the user {USER}, which may read other files than you");
        return Some(Check::warning("environment", text, SUDO));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nimg-classification2:x:1:1::/a:/b\n\
                      img-classification:x:998:997:,,,:/var/lib/img-classification:/usr/sbin/nologin\n";
        let (home, shell) = ("/var/lib/img-classification".to_owned(), "/usr/sbin/nologin".to_owned());
        assert_eq!(Account::find(passwd), Some(Account { uid: 998, gid: 997, home, shell }));
        for broken in ["", "root:x:0:0:root:/root:/bin/bash", "img-classification:x:no:1::/:/", "img-classification"] {
            assert_eq!(Account::find(broken), None, "{broken}");
        }
    }

    #[test]
    fn another_caller_than_root_or_the_service_is_warned() {
        let account = || Some(Account { uid: 998, gid: 997, home: "/h".to_owned(), shell: String::new() });
        for (account, caller, fix) in [
            (None, 0, Some("sudo ./install.sh")),
            (account(), 0, None),
            (account(), 998, None),
            (account(), 5, Some(SUDO)),
        ] {
            let check = become_user(&mut Command::new("true"), account, caller);
            assert_eq!(check.and_then(|check| check.fix).as_deref(), fix, "{caller}");
        }
    }
}
