//! Lines for the person, or the script, that runs a command: aligned and coloured on a terminal, plain elsewhere.

use std::io::{self, IsTerminal, Write};

/// How something came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It may be as meant, or may bite later.
    Warning,
    /// It keeps the service from working.
    Fail,
}

impl Verdict {
    /// The word that begins a line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fail => "FAIL",
        }
    }

    /// The colour's number in SGR, ECMA-48.
    fn colour(self) -> u8 {
        match self {
            Self::Ok => 32,
            Self::Warning => 33,
            Self::Fail => 31,
        }
    }
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it came out.
    pub verdict: Verdict,
    /// What was looked at, in a word or three.
    pub topic: String,
    /// What was found.
    pub text: String,
    /// What to do about it: a command where there is one.
    pub fix: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(topic: impl Into<String>, text: impl Into<String>) -> Self {
        Self { verdict: Verdict::Ok, topic: topic.into(), text: text.into(), fix: None }
    }

    /// Worth knowing.
    pub fn warning(topic: impl Into<String>, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warning, topic: topic.into(), text: text.into(), fix: Some(fix.into()) }
    }

    /// It does not work so.
    pub fn fail(topic: impl Into<String>, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, topic: topic.into(), text: text.into(), fix: Some(fix.into()) }
    }
}

/// Where lines go, and how they look there.
#[derive(Debug, Clone, Copy)]
pub struct Paper {
    terminal: bool,
    colour: bool,
    topic_width: usize,
}

impl Paper {
    /// stdout. `topic_width` is that of the widest topic, in characters; `no_color` is whether the variable of
    /// <https://no-color.org> is set.
    pub fn stdout(topic_width: usize, no_color: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        Self { terminal, colour: terminal && !no_color, topic_width }
    }

    /// Writes a finding.
    pub fn finding(self, finding: &Finding) {
        self.line(&self.format(finding));
    }

    /// Writes a line as it is.
    pub fn line(self, text: &str) {
        // A closed stdout leaves nobody to tell; the exit code still does.
        let _ = writeln!(io::stdout(), "{text}");
    }

    fn format(self, finding: &Finding) -> String {
        let Finding { verdict, topic, text, fix } = finding;
        let (word, topic, text) = (verdict.as_str(), one_line(topic), one_line(text));
        let fix = fix.as_deref().map(one_line);
        if !self.terminal {
            let fix = fix.map_or_else(String::new, |fix| format!("; to do: {fix}"));
            return format!("{word} {topic}: {text}{fix}");
        }
        let padded = format!("{word:<7}");
        let word = if self.colour { format!("\x1b[{}m{padded}\x1b[0m", verdict.colour()) } else { padded };
        let width = self.topic_width;
        let fix = fix.map_or_else(String::new, |fix| format!("\n{:10}{:width$}{fix}", "", "to do: "));
        format!("{word}  {topic:<width$} {text}{fix}")
    }
}

/// Control characters are written as escapes: nothing from elsewhere can start a line, or command a terminal.
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Line and paragraph separators end a line for some readers of logs.
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_plain_where_nobody_looks_and_aligned_where_somebody_does() {
        let finding = Finding::fail("namespace", "it is\nmissing", "img-classification setup");
        let plain = Paper { terminal: false, colour: false, topic_width: 12 };
        assert_eq!(plain.format(&finding), "FAIL namespace: it is\\nmissing; to do: img-classification setup");
        let terminal = Paper { terminal: true, ..plain };
        let lines = terminal.format(&finding);
        let expected = "FAIL     namespace    it is\\nmissing\n          to do:      img-classification setup";
        assert_eq!(lines, expected);
        let coloured = Paper { colour: true, ..terminal };
        assert!(coloured.format(&Finding::ok("a", "b")).starts_with("\x1b[32mok     \x1b[0m  a "));
    }
}
