//! `doctor --as-service`: the environment file of the systemd unit, read by systemd's rules, and this program once more with
//! nothing but what that file has, as the user that the unit names.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::iter::Peekable;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::Chars;

use super::Report;
use crate::Env;
use crate::commands::output::{Finding, Paper};

/// EnvironmentFile= of systemd/img-classification.service.
const FILE: &str = "/etc/img-classification.env";

/// User= of the unit.
const USER: &str = "img-classification";

/// Who is asked as root becomes that user.
const SUDO: &str = "sudo img-classification doctor --as-service";

/// What the unit keeps from the service: ProtectHome= and PrivateTmp= in systemd.exec(5).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// The program that runs, also where its path may not be walked by the service's user.
const SELF: &str = "/proc/self/exe";

/// The variable that names another file. With it nothing is known of the service's user.
const FILE_ENV: &str = "IMG_CLASSIFICATION_ENV_FILE";

/// What systemd gives a service that has no PATH of its own, from systemd.exec(5).
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// systemd reads up to 4 MiB of such a file; ten variables have a kilobyte.
const FILE_LIMIT: u64 = 4 * 1024 * 1024;

/// Becomes this program with `args`, in the service's environment. It returns only if that cannot be.
pub fn as_service(args: &[OsString], env: Env<'_>, paper: Paper) -> bool {
    let other = env(FILE_ENV).filter(|path| !path.is_empty()).map(PathBuf::from);
    let is_unit = other.is_none();
    let path = other.unwrap_or_else(|| PathBuf::from(FILE));
    let mut report = Report::new(args.iter().any(|arg| arg == "--json"), paper);
    let text = match read(&path) {
        Ok(text) => text,
        Err(error) => {
            let fix = match error.kind() {
                io::ErrorKind::PermissionDenied => SUDO.to_owned(),
                _ => format!("cp systemd/img-classification.env {}, and edit it", path.display()),
            };
            let text = format!("the service's {} cannot be read: {error}", path.display());
            report.say(&Finding::fail("environment", text, fix));
            return report.finish();
        }
    };
    let file = parse(&text);
    let mut findings = file.findings(&path.display().to_string());
    let hidden = if is_unit { file.hidden() } else { Vec::new() };
    if !hidden.is_empty() {
        // What comes after would be seen with other eyes than the service's.
        findings.iter().chain(&hidden).for_each(|finding| report.say(finding));
        return report.finish();
    }
    let mut command = Command::new(SELF);
    command.args(args).env_clear().env("PATH", PATH);
    if is_unit {
        let account = fs::read_to_string("/etc/passwd").ok().and_then(|passwd| Account::of(&passwd));
        findings.extend(become_user(&mut command, account, rustix::process::geteuid().as_raw()));
    }
    command.envs(file.variables).envs(env("NO_COLOR").map(|value| ("NO_COLOR", value)));
    // With --json the one object is that of the program to come.
    if !report.json {
        for finding in findings {
            report.say(&finding);
        }
    }
    // Each of its steps has its own deadline.
    let error = command.exec();
    report.say(&Finding::fail("environment", format!("this program cannot be started: {error}"), "reinstall it"));
    report.finish()
}

/// The service's user, as /etc/passwd has it; install.sh puts it there.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    uid: u32,
    gid: u32,
    home: String,
    shell: String,
}

impl Account {
    fn of(passwd: &str) -> Option<Self> {
        let line = passwd.lines().find_map(|line| line.strip_prefix(USER)?.strip_prefix(':'))?;
        let mut fields = line.split(':').skip(1);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let (home, shell) = (fields.nth(1)?.to_owned(), fields.next().unwrap_or_default().to_owned());
        Some(Self { uid, gid, home, shell })
    }
}

/// As systemd does with User=: the user and its group, no other group, and four variables, which the file may change.
fn become_user(command: &mut Command, account: Option<Account>, caller: u32) -> Option<Finding> {
    let Some(account) = account else {
        let text = format!("there is no user {USER}, as whom the service runs");
        return Some(Finding::warning("environment", text, "sudo ./install.sh"));
    };
    command.env("HOME", account.home).env("SHELL", account.shell).env("USER", USER).env("LOGNAME", USER);
    if caller == 0 {
        command.uid(account.uid).gid(account.gid);
    } else if caller != account.uid {
        let text = format!("this is not asked as the user {USER}, which may read other files than you");
        return Some(Finding::warning("environment", text, SUDO));
    }
    None
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(FILE_LIMIT).read_to_string(&mut text)?;
    Ok(text)
}

/// What a file says.
#[derive(Debug, Default, PartialEq, Eq)]
struct File {
    variables: Vec<(String, String)>,
    /// Lines that systemd leaves out, by their number.
    bad: Vec<usize>,
    /// The line of a quote that nothing closes.
    open_quote: Option<usize>,
}

impl File {
    /// Names are shown, values never.
    fn findings(&self, path: &str) -> Vec<Finding> {
        let names: Vec<&str> = self.variables.iter().map(|(name, _)| name.as_str()).collect();
        let text = format!("as the service, with the variables of {path}: {}", names.join(", "));
        let mut findings = vec![Finding::ok("environment", text)];
        let fix =
            |line: usize| format!("{path}, line {line}: NAME=VALUE, without `export`; a quote ends where it began");
        findings.extend(self.bad.iter().map(|line| {
            Finding::warning("environment", format!("line {line} is not NAME=VALUE; systemd leaves it out"), fix(*line))
        }));
        findings.extend(
            self.open_quote.map(|line| {
                Finding::warning("environment", format!("a quote in line {line} is never closed"), fix(line))
            }),
        );
        findings
    }

    /// Paths that the service does not see, whoever may read them.
    fn hidden(&self) -> Vec<Finding> {
        let is_hidden = |path: &str| HIDDEN.iter().any(|folder| Path::new(path).starts_with(folder));
        // A folder more in PATH does no harm.
        let named = self.variables.iter().filter(|(name, value)| name != "PATH" && value.split(':').any(is_hidden));
        named
            .map(|(name, _)| {
                let text = format!("{name} names a path that the unit hides from the service ({})", HIDDEN.join(", "));
                Finding::fail("environment", text, format!("move it to /var/lib/{USER}, and change {name} in {FILE}"))
            })
            .collect()
    }
}

/// Reads NAME=VALUE lines by the rules of EnvironmentFile= in systemd.exec(5) and of src/basic/env-file.c there: comments
/// begin with # or ;, a value may be made of quoted pieces, and a backslash joins lines or takes the meaning from a character.
fn parse(text: &str) -> File {
    let text = text.replace("\r\n", "\n");
    let mut reader = Reader { chars: text.chars().peekable(), line: 1, file: File::default() };
    while let Some(c) = reader.next() {
        match c {
            '#' | ';' => while !matches!(reader.next(), None | Some('\n')) {},
            c if c.is_whitespace() => {}
            c => reader.assignment(c),
        }
    }
    reader.file
}

struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
    file: File,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.chars.next();
        self.line += usize::from(c == Some('\n'));
        c
    }

    /// A line, or several that backslashes or quotes join.
    fn assignment(&mut self, first: char) {
        let line = self.line;
        let mut name = String::from(first);
        while let Some(c) = self.chars.next_if(|c| !matches!(c, '=' | '\n')) {
            name.push(c);
        }
        if self.next() != Some('=') {
            return self.file.bad.push(line);
        }
        let value = self.value(line);
        let name = name.trim_end();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) || value.contains('\0') {
            return self.file.bad.push(line);
        }
        // The last value of a name counts.
        self.file.variables.retain(|(other, _)| other != name);
        self.file.variables.push((name.to_owned(), value));
    }

    fn value(&mut self, line: usize) -> String {
        let mut value = String::new();
        // Quotes mean something at the beginning, and right after others. White space is not of a value at its beginning
        // and, outside quotes, at its end.
        let (mut may_quote, mut kept) = (true, 0);
        while let Some(c) = self.next() {
            match c {
                '\n' => break,
                '\'' | '"' if may_quote => {
                    self.quoted(c, &mut value, line);
                    kept = value.len();
                }
                '\\' => {
                    may_quote = false;
                    value.extend(self.next().filter(|c| *c != '\n'));
                    kept = value.len();
                }
                c if may_quote && c.is_whitespace() => {}
                c => {
                    may_quote = false;
                    value.push(c);
                }
            }
        }
        value.truncate(kept.max(value.trim_end().len()));
        value
    }

    /// What stands up to the closing quote, over lines if it is so.
    fn quoted(&mut self, quote: char, value: &mut String, line: usize) {
        while let Some(c) = self.next() {
            match c {
                c if c == quote => return,
                '\\' if quote == '"' => match self.next() {
                    None | Some('\n') => {}
                    Some(c @ ('"' | '\\' | '`' | '$')) => value.push(c),
                    Some(c) => value.extend(['\\', c]),
                },
                c => value.push(c),
            }
        }
        self.file.open_quote = Some(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).variables
    }

    #[test]
    fn values_are_read_as_systemd_reads_them() {
        let table = [
            ("A=b", "b"),
            ("A=b\n", "b"),
            ("A=b\r\n", "b"),
            ("  A=b", "b"),
            ("A =b", "b"),
            ("A=  b c  \n", "b c"),
            ("A=", ""),
            ("A=b#c ;d", "b#c ;d"),
            ("A=b=c", "b=c"),
            ("A='b  '", "b  "),
            ("A=\"b c\"  ", "b c"),
            ("A=\"b\"'c'd", "bcd"),
            ("A=b\"c\"", "b\"c\""),
            ("A=\"b\nc\"", "b\nc"),
            ("A=b\\\nc", "bc"),
            ("A=b\\ ", "b "),
            ("A=b\\nc", "bnc"),
            ("A=\"b\\\"c\\$\\x\"", "b\"c$\\x"),
            ("A='b\\c'", "b\\c"),
            ("# A=x\n; A=y\n\nA=b", "b"),
            ("A=x\nA=b", "b"),
        ];
        for (text, value) in table {
            assert_eq!(pairs(text), [("A".to_owned(), value.to_owned())], "{text:?}");
        }
        assert_eq!(pairs("A=1\nB=2"), [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn the_account_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nimg-classification2:x:1:1::/a:/b\n\
                      img-classification:x:998:997:,,,:/var/lib/img-classification:/usr/sbin/nologin\n";
        let (home, shell) = ("/var/lib/img-classification".to_owned(), "/usr/sbin/nologin".to_owned());
        assert_eq!(Account::of(passwd), Some(Account { uid: 998, gid: 997, home, shell }));
        for broken in ["", "root:x:0:0:root:/root:/bin/bash", "img-classification:x:no:1::/:/", "img-classification"] {
            assert_eq!(Account::of(broken), None, "{broken}");
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
            let finding = become_user(&mut Command::new("true"), account, caller);
            assert_eq!(finding.and_then(|finding| finding.fix).as_deref(), fix, "{caller}");
        }
    }

    #[test]
    fn paths_that_the_unit_hides_are_told() {
        let text =
            "KUBECONFIG=/etc/k:/home/ann/.kube/config\nHOME=/root\nPATH=/root/bin\nA=/homes/x\nB=x/tmp\nT=/tmp/t\n";
        let names: Vec<String> = parse(text)
            .hidden()
            .into_iter()
            .map(|finding| finding.text.split(' ').next().unwrap_or("").into())
            .collect();
        assert_eq!(names, ["KUBECONFIG", "HOME", "T"]);
    }

    #[test]
    fn bad_lines_are_told_by_their_number() {
        let file = parse("A=1\nnonsense\nexport B=2\n1C=3\n=4\nD=\"5\n6");
        assert_eq!(file.bad, [2, 3, 4, 5]);
        assert_eq!(file.open_quote, Some(6));
        assert_eq!(file.variables.len(), 2);
        let lines: Vec<String> = file.findings("/e").into_iter().map(|finding| finding.text).collect();
        assert_eq!(lines[0], "as the service, with the variables of /e: A, D");
        assert_eq!(lines[2], "line 3 is not NAME=VALUE; systemd leaves it out");
        assert_eq!(lines[5], "a quote in line 6 is never closed");
    }
}
