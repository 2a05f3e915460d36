//! A field of a kubeconfig: typed access to its value, and errors that name it.

use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;

use crate::kube::error::ConfigError;
use crate::kube::files::read_file;
use crate::kube::yaml::Value;

/// A field with its path in the file. Errors name the field and never show its value, which may be a secret.
#[derive(Clone)]
pub struct ConfigField<'a> {
    pub path: &'a Path,
    pub field: String,
    pub value: &'a Value,
}

impl<'a> ConfigField<'a> {
    /// Returns the top level of a file.
    pub fn root(path: &'a Path, value: &'a Value) -> Self {
        Self { path, field: String::new(), value }
    }

    /// Tests for a value other than null.
    pub fn is_present(&self) -> bool {
        !self.value.is_null()
    }

    /// Returns the keys of a mapping, `None` for a key that is not a string.
    pub fn keys(&self) -> Vec<Option<&'a str>> {
        self.value.as_mapping().into_iter().flat_map(|mapping| mapping.keys()).map(Value::as_str).collect()
    }

    /// Converts the value to JSON.
    pub fn to_json(&self) -> Result<serde_json::Value, ConfigError> {
        serde_json::to_value(self.value).map_err(|_| self.error("has a value that JSON cannot express"))
    }

    /// Returns the field under `key`. An absent key counts as null.
    pub fn get(&self, key: &str) -> ConfigField<'a> {
        let field = if self.field.is_empty() { key.to_owned() } else { format!("{}.{key}", self.field) };
        ConfigField { path: self.path, field, value: self.value.get(key).unwrap_or(&Value::Null) }
    }

    /// Checks for a mapping or null.
    pub fn mapping(self) -> Result<Self, ConfigError> {
        match self.value {
            Value::Mapping(_) | Value::Null => Ok(self),
            _ => Err(self.error("must be a mapping")),
        }
    }

    /// Returns the items of a list; null counts as an empty list.
    pub fn items(&self) -> Result<Vec<ConfigField<'a>>, ConfigError> {
        let items = match self.value {
            Value::Null => return Ok(Vec::new()),
            Value::Sequence(items) => items,
            _ => return Err(self.error("must be a list")),
        };
        let item = |(i, value): (usize, &'a Value)| {
            // Readers find an entry by its name sooner than by its position.
            let field = match value.get("name") {
                Some(Value::String(name)) => format!("{}[{name}]", self.field),
                _ => format!("{}[{i}]", self.field),
            };
            ConfigField { path: self.path, field, value }
        };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// Returns a string. An empty string counts as absent, as in client-go.
    pub fn text(&self) -> Result<Option<&'a str>, ConfigError> {
        match self.value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            _ => Err(self.error("must be a string; fix: put the value in quotes")),
        }
    }

    /// Returns a list of strings.
    pub fn texts(&self) -> Result<Vec<String>, ConfigError> {
        self.items()?.iter().map(|item| item.text().map(|text| text.unwrap_or_default().to_owned())).collect()
    }

    /// Returns a boolean; null counts as false.
    pub fn flag(&self) -> Result<bool, ConfigError> {
        match self.value {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.error("must be true or false")),
        }
    }

    /// Returns a path, resolved against the kubeconfig's folder.
    pub fn file(&self) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.text()?.map(|name| self.folder().join(name)))
    }

    /// Returns the kubeconfig's folder.
    pub fn folder(&self) -> &'a Path {
        self.path.parent().unwrap_or_else(|| Path::new(""))
    }

    /// Returns the bytes of `KEY-data` (base64), or of the file that `KEY` names.
    pub fn data_or_file(&self, key: &'static str) -> Result<Option<Vec<u8>>, ConfigError> {
        let data = self.get(&format!("{key}-data"));
        if let Some(text) = data.text()? {
            let compact: String = text.split_ascii_whitespace().collect();
            let decoded = base64::engine::general_purpose::STANDARD.decode(compact);
            return decoded.map(Some).map_err(|_| data.error("is not valid base64"));
        }
        let field = self.get(key);
        let Some(path) = field.file()? else { return Ok(None) };
        read_file(&path).map(Some).map_err(|source| field.unreadable(path, source))
    }

    /// Returns the location of `KEY-data` or `KEY` for an error: the kubeconfig, the field, and the file that it names.
    pub fn location(&self, key: &str) -> String {
        let data = self.get(&format!("{key}-data"));
        let (field, named) = match (data.value, self.get(key)) {
            (Value::Null, field) => (field.clone(), field.file().ok().flatten()),
            (_, _) => (data, None),
        };
        let named = named.map(|path| format!(" ({})", path.display())).unwrap_or_default();
        format!("kubeconfig {}: {}{named}", self.path.display(), field.field)
    }

    /// Returns an error about the file that the field names.
    pub fn unreadable(&self, named: PathBuf, source: io::Error) -> ConfigError {
        ConfigError::FieldFile { path: self.path.to_owned(), field: self.field.clone(), named, source }
    }

    /// Returns an error; `problem` is the end of a sentence whose subject is the field.
    pub fn error(&self, problem: &'static str) -> ConfigError {
        let field = if self.field.is_empty() { "the top level" } else { &self.field };
        ConfigError::Field { path: self.path.to_owned(), field: field.to_owned(), problem }
    }
}
