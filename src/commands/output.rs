//! The lines that commands print: aligned and coloured on a terminal, plain elsewhere.

use std::io::{self, IsTerminal, Write};

/// The result of a check, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CheckStatus {
    /// Good.
    Ok,
    /// Possibly intended, or a problem later.
    Warning,
    /// The service cannot work.
    Fail,
}

impl CheckStatus {
    /// Returns the word that begins a line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Fail => "FAIL",
        }
    }

    /// Returns the SGR colour number of ECMA-48.
    fn colour(self) -> u8 {
        match self {
            Self::Ok => 32,
            Self::Warning => 33,
            Self::Fail => 31,
        }
    }
}

/// A check and its result: one line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The result.
    pub status: CheckStatus,
    /// The subject of the check, in one to three words.
    pub topic: String,
    /// The finding, a sentence without a full stop.
    pub text: String,
    /// The fix, a command where one exists.
    pub fix: Option<String>,
}

impl Check {
    /// Creates a check that passed.
    pub fn ok(topic: impl Into<String>, text: impl Into<String>) -> Self {
        Self { status: CheckStatus::Ok, topic: topic.into(), text: text.into(), fix: None }
    }

    /// Creates a check with a warning.
    pub fn warning(topic: impl Into<String>, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: CheckStatus::Warning, topic: topic.into(), text: text.into(), fix: Some(fix.into()) }
    }

    /// Creates a check that failed.
    pub fn fail(topic: impl Into<String>, text: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status: CheckStatus::Fail, topic: topic.into(), text: text.into(), fix: Some(fix.into()) }
    }
}

/// A writer of lines to stdout.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    terminal: bool,
    colour: bool,
    topic_width: usize,
}

impl Printer {
    /// Creates a printer. `topic_width` is the width of the widest topic in characters. `no_color` is true if the variable of
    /// <https://no-color.org> is set.
    pub fn stdout(topic_width: usize, no_color: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        Self { terminal, colour: terminal && !no_color, topic_width }
    }

    /// Writes a check.
    pub fn check(self, check: &Check) {
        self.line(&self.format(check));
    }

    /// Writes a line unchanged.
    pub fn line(self, text: &str) {
        // The exit code still reports the result if stdout is closed.
        let _ = writeln!(io::stdout(), "{text}");
    }

    fn format(self, check: &Check) -> String {
        let Check { status, topic, text, fix } = check;
        let (word, topic, text) = (status.as_str(), one_line(topic), one_line(text));
        let fix = fix.as_deref().map(one_line);
        if !self.terminal {
            let fix = fix.map_or_else(String::new, |fix| format!("; fix: {fix}"));
            return format!("{word} {topic}: {text}{fix}");
        }
        let padded = format!("{word:<7}");
        let word = if self.colour { format!("\x1b[{}m{padded}\x1b[0m", status.colour()) } else { padded };
        let width = self.topic_width;
        let fix = fix.map_or_else(String::new, |fix| format!("\n{:10}{:width$}{fix}", "", "fix: "));
        format!("{word}  {topic:<width$} {text}{fix}")
    }
}

/// Escapes control characters, so that no text from elsewhere can start a line or control the terminal.
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Some log viewers end a line at U+2028 and U+2029.
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
    fn a_line_is_plain_in_a_pipe_and_aligned_on_a_terminal() {
        let check = Check::fail("namespace", "it is\nmissing", "img-classification setup");
        let plain = Printer { terminal: false, colour: false, topic_width: 12 };
        assert_eq!(plain.format(&check), "FAIL namespace: it is\\nmissing; fix: img-classification setup");
        let terminal = Printer { terminal: true, ..plain };
        let lines = terminal.format(&check);
        let expected = "FAIL     namespace    it is\\nmissing\n          fix:        img-classification setup";
        assert_eq!(lines, expected);
        let coloured = Printer { colour: true, ..terminal };
        assert!(coloured.format(&Check::ok("a", "b")).starts_with("\x1b[32mok     \x1b[0m  a "));
    }
}
