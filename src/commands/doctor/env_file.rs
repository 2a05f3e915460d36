//! The environment file of a systemd unit, parsed by systemd's rules.

use std::iter::Peekable;
use std::path::Path;
use std::str::Chars;

use crate::commands::output::Check;

/// EnvironmentFile= of systemd/img-classification.service.
pub const FILE: &str = "/etc/img-classification.env";

/// User= of the unit.
pub const USER: &str = "img-classification";

/// Folders that the unit hides from the service: ProtectHome= and PrivateTmp= in systemd.exec(5).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// A parsed environment file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct EnvFile {
    /// Names and values; the last value of a name.
    pub variables: Vec<(String, String)>,
    /// Numbers of the lines that systemd ignores.
    ignored: Vec<usize>,
    /// Number of the line with a quote that is never closed.
    open_quote: Option<usize>,
}

impl EnvFile {
    /// Parses NAME=VALUE lines by the rules of EnvironmentFile= in systemd.exec(5) and of systemd's src/basic/env-file.c. A comment
    /// begins with # or ;. A value may consist of quoted pieces. A backslash joins lines or escapes a character.
    pub fn parse(text: &str) -> Self {
        let text = text.replace("\r\n", "\n");
        let mut reader = Reader { chars: text.chars().peekable(), line: 1, file: Self::default() };
        while let Some(c) = reader.next() {
            match c {
                '#' | ';' => while !matches!(reader.next(), None | Some('\n')) {},
                c if c.is_whitespace() => {}
                c => reader.assignment(c),
            }
        }
        reader.file
    }

    /// Returns the checks of the file at `path`. They show names, never values.
    pub fn checks(&self, path: &str) -> Vec<Check> {
        let names: Vec<&str> = self.variables.iter().map(|(name, _)| name.as_str()).collect();
        let text = format!("running as the service, with the variables of {path}: {}", names.join(", "));
        let mut checks = vec![Check::ok("environment", text)];
        let fix = |line: usize| format!("{path}, line {line}: write NAME=VALUE without `export`, and close each quote");
        checks.extend(self.ignored.iter().map(|line| {
            Check::warning("environment", format!("line {line} is not NAME=VALUE; systemd ignores it"), fix(*line))
        }));
        checks.extend(
            self.open_quote.map(|line| {
                Check::warning("environment", format!("a quote in line {line} is never closed"), fix(line))
            }),
        );
        checks
    }

    /// Returns a failed check for each variable with a path that the service does not see.
    pub fn hidden_paths(&self) -> Vec<Check> {
        let is_hidden = |path: &str| HIDDEN.iter().any(|folder| Path::new(path).starts_with(folder));
        // A hidden folder in PATH is harmless.
        let hidden = self.variables.iter().filter(|(name, value)| name != "PATH" && value.split(':').any(is_hidden));
        hidden
            .map(|(name, _)| {
                let text = format!("{name} is a path that the unit hides from the service ({})", HIDDEN.join(", "));
                Check::fail(
                    "environment",
                    text,
                    format!("move the file to /var/lib/{USER}, and change {name} in {FILE}"),
                )
            })
            .collect()
    }
}

/// The state of the parser.
struct Reader<'a> {
    chars: Peekable<Chars<'a>>,
    line: usize,
    file: EnvFile,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.chars.next();
        self.line += usize::from(c == Some('\n'));
        c
    }

    /// Reads an assignment: one line, or several lines that backslashes or quotes join.
    fn assignment(&mut self, first: char) {
        let line = self.line;
        let mut name = String::from(first);
        while let Some(c) = self.chars.next_if(|c| !matches!(c, '=' | '\n')) {
            name.push(c);
        }
        if self.next() != Some('=') {
            return self.file.ignored.push(line);
        }
        let value = self.value(line);
        let name = name.trim_end();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.starts_with(|c: char| c.is_ascii_digit()) || !name.chars().all(is_name) || value.contains('\0') {
            return self.file.ignored.push(line);
        }
        // The last value of a name wins.
        self.file.variables.retain(|(other, _)| other != name);
        self.file.variables.push((name.to_owned(), value));
    }

    fn value(&mut self, line: usize) -> String {
        let mut value = String::new();
        // A quote is special at the start of a value and right after another quoted piece. White space at the start of a value
        // and, outside quotes, at its end does not belong to the value.
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

    /// Reads to the closing quote, possibly over several lines.
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
        EnvFile::parse(text).variables
    }

    #[test]
    fn values_are_parsed_as_systemd_parses_them() {
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
    fn paths_that_the_unit_hides_fail() {
        let text =
            "KUBECONFIG=/etc/k:/home/ann/.kube/config\nHOME=/root\nPATH=/root/bin\nA=/homes/x\nB=x/tmp\nT=/tmp/t\n";
        let names: Vec<String> = EnvFile::parse(text)
            .hidden_paths()
            .into_iter()
            .map(|check| check.text.split(' ').next().unwrap_or("").into())
            .collect();
        assert_eq!(names, ["KUBECONFIG", "HOME", "T"]);
    }

    #[test]
    fn ignored_lines_are_reported_by_number() {
        let file = EnvFile::parse("A=1\nnonsense\nexport B=2\n1C=3\n=4\nD=\"5\n6");
        assert_eq!(file.ignored, [2, 3, 4, 5]);
        assert_eq!(file.open_quote, Some(6));
        assert_eq!(file.variables.len(), 2);
        let lines: Vec<String> = file.checks("/e").into_iter().map(|check| check.text).collect();
        assert_eq!(lines[0], "running as the service, with the variables of /e: A, D");
        assert_eq!(lines[2], "line 3 is not NAME=VALUE; systemd ignores it");
        assert_eq!(lines[5], "a quote in line 6 is never closed");
    }
}
