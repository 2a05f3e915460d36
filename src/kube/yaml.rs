//! The only file that names serde_yaml: text to a tree, and a [`Node`] in it that gives typed values.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use serde::Deserialize;
pub use serde_yaml::Value;

use crate::kube::error::ConfigError;
use crate::kube::read_file;

/// Where a text stops being YAML. What serde_yaml says of it is left out: it may quote the text, and with it a secret.
#[derive(Debug)]
pub struct NotYaml(Option<(usize, usize)>);

impl fmt::Display for NotYaml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some((line, column)) => write!(f, "see line {line}, column {column}"),
            None => write!(f, "it nests too deeply, repeats itself too often, or merges (<<) what is no mapping"),
        }
    }
}

impl std::error::Error for NotYaml {}

impl From<serde_yaml::Error> for NotYaml {
    fn from(error: serde_yaml::Error) -> Self {
        Self(error.location().map(|place| (place.line(), place.column())))
    }
}

/// Reads YAML, and with it JSON. Of several documents the first counts, as for kubectl; aliases that grow without measure
/// are refused by serde_yaml.
///
/// # Errors
/// It is not YAML.
pub fn parse(text: &str) -> Result<Value, NotYaml> {
    let document = serde_yaml::Deserializer::from_str(text.trim_start_matches('\u{feff}')).next();
    let mut root = document.map_or(Ok(Value::Null), Value::deserialize)?;
    root.apply_merge()?;
    Ok(root)
}

/// Reads every document of a YAML text that is about Kubernetes' objects.
///
/// # Errors
/// It is not YAML, or not such YAML as JSON can say.
pub fn documents(text: &str) -> Result<Vec<serde_json::Value>, NotYaml> {
    let read = |document| -> Result<serde_json::Value, NotYaml> {
        let mut root = Value::deserialize(document)?;
        root.apply_merge()?;
        serde_json::to_value(root).map_err(|_| NotYaml(None))
    };
    serde_yaml::Deserializer::from_str(text).map(read).collect()
}

/// A place in a file: gives typed values, and errors that name the field but never its content.
#[derive(Clone)]
pub struct Node<'a> {
    pub path: &'a Path,
    pub field: String,
    pub value: &'a Value,
}

impl<'a> Node<'a> {
    pub fn root(path: &'a Path, value: &'a Value) -> Self {
        Self { path, field: String::new(), value }
    }

    pub fn is_present(&self) -> bool {
        !self.value.is_null()
    }

    /// The keys of a mapping; one that is not a string is none.
    pub fn keys(&self) -> Vec<Option<&'a str>> {
        self.value.as_mapping().into_iter().flat_map(|mapping| mapping.keys()).map(Value::as_str).collect()
    }

    pub fn to_json(&self) -> Result<serde_json::Value, ConfigError> {
        serde_json::to_value(self.value).map_err(|_| self.error("cannot be written as JSON"))
    }

    /// The value under `key`; an absent one is null, as an explicit null is.
    pub fn field(&self, key: &str) -> Node<'a> {
        let field = if self.field.is_empty() { key.to_owned() } else { format!("{}.{key}", self.field) };
        Node { path: self.path, field, value: self.value.get(key).unwrap_or(&Value::Null) }
    }

    pub fn mapping(self) -> Result<Self, ConfigError> {
        match self.value {
            Value::Mapping(_) | Value::Null => Ok(self),
            _ => Err(self.error("is not a mapping")),
        }
    }

    pub fn items(&self) -> Result<Vec<Node<'a>>, ConfigError> {
        match self.value {
            Value::Null => Ok(Vec::new()),
            Value::Sequence(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(i, value)| {
                    // A name tells people more than a position.
                    let label = match value.get("name") {
                        Some(Value::String(name)) => format!("{}[{name}]", self.field),
                        _ => format!("{}[{i}]", self.field),
                    };
                    Node { path: self.path, field: label, value }
                })
                .collect()),
            _ => Err(self.error("is not a list")),
        }
    }

    /// A string; an empty one counts as absent, as in client-go.
    pub fn text(&self) -> Result<Option<&'a str>, ConfigError> {
        match self.value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            _ => Err(self.error("is not a string; put its value in quotes")),
        }
    }

    pub fn texts(&self) -> Result<Vec<String>, ConfigError> {
        self.items()?.iter().map(|item| item.text().map(|text| text.unwrap_or_default().to_owned())).collect()
    }

    pub fn flag(&self) -> Result<bool, ConfigError> {
        match self.value {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.error("is neither true nor false")),
        }
    }

    /// A file name, relative to the kubeconfig that holds it.
    pub fn file(&self) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.text()?.map(|name| self.folder().join(name)))
    }

    pub fn folder(&self) -> &'a Path {
        self.path.parent().unwrap_or_else(|| Path::new(""))
    }

    /// `KEY-data` (base64) or else the file that `KEY` names.
    pub fn data_or_file(&self, key: &str, what: &'static str) -> Result<Option<Vec<u8>>, ConfigError> {
        let data = self.field(&format!("{key}-data"));
        if let Some(text) = data.text()? {
            let compact: String = text.split_ascii_whitespace().collect();
            let decoded = base64::engine::general_purpose::STANDARD.decode(compact);
            return decoded.map(Some).map_err(|_| data.error("is not base64"));
        }
        let Some(path) = self.field(key).file()? else { return Ok(None) };
        read_file(&path).map(Some).map_err(|source| ConfigError::Read { what, path, source })
    }

    /// A field for people: which file has it, and which file it names.
    pub fn place(&self, key: &str) -> String {
        let data = self.field(&format!("{key}-data"));
        let (node, named) = match (data.value, self.field(key)) {
            (Value::Null, node) => (node.clone(), node.file().ok().flatten()),
            (_, _) => (data, None),
        };
        let named = named.map(|path| format!(" ({})", path.display())).unwrap_or_default();
        format!("kubeconfig {}: {}{named}", self.path.display(), node.field)
    }

    pub fn error(&self, problem: &'static str) -> ConfigError {
        let field = if self.field.is_empty() { "the top level" } else { &self.field };
        ConfigError::Field { path: self.path.to_owned(), field: field.to_owned(), problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_a_place_and_quotes_nothing() {
        for text in ["a: b: hush", "t: !!int hush", "a: hush\na: hush", "[hush", "a: *hush", "\"hush"] {
            let error = parse(text).expect_err(text);
            assert!(!error.to_string().contains("hush"), "{error}");
            assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        }
    }
}
