//! The lines that commands print: aligned and coloured on a terminal, plain elsewhere, or JSON objects.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

/// The first failed write to stdout, of which there is one in a process.
static STDOUT_ERROR: Mutex<Option<io::Error>> = Mutex::new(None);

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

    /// Returns the check as a JSON object.
    pub fn to_json(&self) -> Value {
        let result = self.status.as_str().to_ascii_lowercase();
        let fix = self.fix.as_deref().map(one_line);
        json!({ "check": one_line(&self.topic), "result": result, "text": one_line(&self.text), "fix": fix })
    }
}

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Plain,
    Terminal,
    /// One object a line.
    Json,
}

impl Format {
    /// Returns the form for stdout; `json` is true with --json.
    pub fn of_stdout(json: bool) -> Self {
        match (json, io::stdout().is_terminal()) {
            (true, _) => Self::Json,
            (false, true) => Self::Terminal,
            (false, false) => Self::Plain,
        }
    }
}

/// A writer of lines to stdout.
#[derive(Debug, Clone, Copy)]
pub struct Printer {
    format: Format,
    /// The words of a terminal have colours.
    colour: bool,
    topic_width: usize,
}

impl Printer {
    /// Creates a printer. `topic_width` is the width of the widest topic in characters. `no_color` is true if the variable of
    /// <https://no-color.org> is set.
    pub fn stdout(topic_width: usize, json: bool, no_color: bool) -> Self {
        Self { format: Format::of_stdout(json), colour: !no_color, topic_width }
    }

    /// Writes a check.
    pub fn check(self, check: &Check) {
        print_line(&self.format(check));
    }

    /// Writes a result, as text or as a JSON object.
    pub fn result(self, text: &str, object: &Value) {
        match self.format {
            Format::Json => print_line(&object.to_string()),
            _ => print_line(text),
        }
    }

    fn format(self, check: &Check) -> String {
        let Check { status, topic, text, fix } = check;
        let (word, topic, text) = (status.as_str(), one_line(topic), one_line(text));
        let fix = fix.as_deref().map(one_line);
        match self.format {
            Format::Json => return check.to_json().to_string(),
            Format::Plain => {
                let fix = fix.map_or_else(String::new, |fix| format!("; fix: {fix}"));
                return format!("{word} {topic}: {text}{fix}");
            }
            Format::Terminal => {}
        }
        let padded = format!("{word:<7}");
        let word = if self.colour { format!("\x1b[{}m{padded}\x1b[0m", status.colour()) } else { padded };
        let width = self.topic_width;
        let fix = fix.map_or_else(String::new, |fix| format!("\n{:10}{:width$}{fix}", "", "fix: "));
        format!("{word}  {topic:<width$} {text}{fix}")
    }
}

/// Writes a line to stdout. [`stdout_error`] has the first failure.
pub fn print_line(text: &str) {
    print(&format!("{text}\n"));
}

/// Writes text to stdout at once. [`stdout_error`] has the first failure.
pub fn print(text: &str) {
    print_bytes(text.as_bytes());
}

/// Tests for a failed write: stdout is closed or full, and more output has no use.
pub fn has_failed() -> bool {
    STDOUT_ERROR.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Writes bytes to stdout at once. [`stdout_error`] has the first failure.
pub fn print_bytes(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        STDOUT_ERROR.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// Returns the first failed write, such as that to a full disk. A reader that has closed the pipe, such as head(1), did so on purpose.
pub fn stdout_error() -> Option<io::Error> {
    let error = STDOUT_ERROR.lock().unwrap_or_else(PoisonError::into_inner).take();
    error.filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
}

/// Escapes control characters, so that no text from elsewhere can start a line or control the terminal.
pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Some log viewers end a line at U+2028 and U+2029. The others change the direction of the text after them.
        if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
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
        let plain = Printer { format: Format::Plain, colour: false, topic_width: 12 };
        assert_eq!(plain.format(&check), "FAIL namespace: it is\\nmissing; fix: img-classification setup");
        let terminal = Printer { format: Format::Terminal, ..plain };
        let lines = terminal.format(&check);
        let expected = "FAIL     namespace    it is\\nmissing\n          fix:        img-classification setup";
        assert_eq!(lines, expected);
        let coloured = Printer { colour: true, ..terminal };
        assert!(coloured.format(&Check::ok("a", "b")).starts_with("\x1b[32mok     \x1b[0m  a "));
        let json = Printer { format: Format::Json, ..plain };
        let object = r#"{"check":"a","fix":null,"result":"ok","text":"b\\nc"}"#;
        assert_eq!(json.format(&Check::ok("a", "b\nc")), object);
    }
}
