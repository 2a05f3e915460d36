//! YAML text to a tree of values. The only file that names serde_yaml.

use std::fmt;

use serde::Deserialize;
pub use serde_yaml::Value;

/// A YAML syntax error, by its (line, column).
///
/// serde_yaml's own message is left out: it may quote the text, and with it a secret.
#[derive(Debug)]
pub struct YamlError(Option<(usize, usize)>);

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((line, column)) => write!(f, "error at line {line}, column {column}"),
            None => write!(f, "too deep nesting, too many aliases, or a merge (<<) of a value that is not a mapping"),
        }
    }
}

impl std::error::Error for YamlError {}

impl From<serde_yaml::Error> for YamlError {
    fn from(error: serde_yaml::Error) -> Self {
        Self(error.location().map(|location| (location.line(), location.column())))
    }
}

/// Parses the first document of a YAML or JSON text, as kubectl does. serde_yaml limits the expansion of aliases.
///
/// # Errors
/// [`YamlError`] if the text is not YAML.
pub fn parse(text: &str) -> Result<Value, YamlError> {
    let document = serde_yaml::Deserializer::from_str(text.trim_start_matches('\u{feff}')).next();
    let mut root = document.map_or(Ok(Value::Null), Value::deserialize)?;
    root.apply_merge()?;
    Ok(root)
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
