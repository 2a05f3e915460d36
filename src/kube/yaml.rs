//! YAML text to a tree of values. The only file that names serde_yaml.

use std::fmt;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
pub use serde_yaml::Value;

/// Most brackets that are open at once, also in strings. serde_yaml allows 128 levels, but first scans the whole text, in a
/// time that grows with the square of the depth.
const MAX_OPEN_BRACKETS: usize = 1000;

/// Longest time to parse a file. 500 KB, a hundred clusters, take 0.05 s, and 1 s on a host with 5 % of a core left.
const PARSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A YAML syntax error, by its (line, column).
///
/// serde_yaml's own message is left out: it may quote the text, and with it a secret.
#[derive(Debug)]
pub struct YamlError(Option<(usize, usize)>);

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((line, column)) => write!(f, "error at line {line}, column {column}"),
            None => write!(f, "nested too deep, too many aliases, or a merge (<<) of a value that is not a mapping"),
        }
    }
}

impl std::error::Error for YamlError {}

impl From<serde_yaml::Error> for YamlError {
    fn from(error: serde_yaml::Error) -> Self {
        Self(error.location().map(|location| (location.line(), location.column())))
    }
}

/// Returns a tree of JSON as a tree of YAML.
pub fn from_json(value: &serde_json::Value) -> Value {
    serde_yaml::to_value(value).unwrap_or_default()
}

/// Parses a file as [`parse`] does, in a limited time: nesting may be hidden from the count of brackets.
///
/// # Errors
/// As [`parse`], or the time limit has passed. The thread then lives on, until it is done or the process ends.
pub fn parse_file(text: String) -> Result<Value, YamlError> {
    let text: Arc<str> = text.into();
    let (sender, receiver) = mpsc::channel();
    let shared = Arc::clone(&text);
    let parse_and_send = move || sender.send(parse(&shared));
    let Ok(_) = thread::Builder::new().name("yaml".into()).spawn(parse_and_send) else { return parse(&text) };
    receiver.recv_timeout(PARSE_TIMEOUT).unwrap_or(Err(YamlError(None)))
}

/// Parses the first document of a YAML or JSON text, as kubectl does. serde_yaml limits the expansion of aliases.
///
/// # Errors
/// [`YamlError`] if the text is not YAML, or has too many open brackets.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    if open_brackets(text) > MAX_OPEN_BRACKETS {
        return Err(YamlError(None));
    }
    let document = serde_yaml::Deserializer::from_str(text.trim_start_matches('\u{feff}')).next();
    let mut root = document.map_or(Ok(Value::Null), Value::deserialize)?;
    root.apply_merge()?;
    Ok(root)
}

/// Counts the brackets that are open at once.
fn open_brackets(text: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// Parses every document of a text with Kubernetes manifests.
///
/// # Errors
/// [`YamlError`] if the text is not YAML, or has a value that JSON cannot express.
pub fn documents(text: &str) -> Result<Vec<serde_json::Value>, YamlError> {
    let read = |document| -> Result<serde_json::Value, YamlError> {
        let mut root = Value::deserialize(document)?;
        root.apply_merge()?;
        serde_json::to_value(root).map_err(|_| YamlError(None))
    };
    serde_yaml::Deserializer::from_str(text).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_gives_the_position_and_quotes_nothing() {
        for text in ["a: b: hush", "t: !!int hush", "a: hush\na: hush", "[hush", "a: *hush", "\"hush"] {
            let error = parse(text).expect_err(text);
            assert!(!error.to_string().contains("hush"), "{error}");
            assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        }
    }
}
