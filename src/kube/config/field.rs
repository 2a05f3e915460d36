//! A field of a kubeconfig: typed access to its value, and errors that name it.

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
    /// The top level of a file.
    pub fn root(path: &'a Path, value: &'a Value) -> Self {
        Self { path, field: String::new(), value }
    }

    pub fn is_present(&self) -> bool {
        !self.value.is_null()
    }

    /// The keys of a mapping; `None` stands for a key that is not a string.
    pub fn keys(&self) -> Vec<Option<&'a str>> {
        self.value.as_mapping().into_iter().flat_map(|mapping| mapping.keys()).map(Value::as_str).collect()
    }

    pub fn to_json(&self) -> Result<serde_json::Value, ConfigError> {
        serde_json::to_value(self.value).map_err(|_| self.error("has a value that JSON cannot express"))
    }

    /// The field under `key`. An absent key reads as null.
    pub fn field(&self, key: &str) -> ConfigField<'a> {
        let field = if self.field.is_empty() { key.to_owned() } else { format!("{}.{key}", self.field) };
        ConfigField { path: self.path, field, value: self.value.get(key).unwrap_or(&Value::Null) }
    }

    pub fn mapping(self) -> Result<Self, ConfigError> {
        match self.value {
            Value::Mapping(_) | Value::Null => Ok(self),
            _ => Err(self.error("must be a mapping")),
        }
    }

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

    /// A string. An empty string counts as absent, as in client-go.
    pub fn text(&self) -> Result<Option<&'a str>, ConfigError> {
        match self.value {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            _ => Err(self.error("must be a string; fix: put the value in quotes")),
        }
    }

    pub fn texts(&self) -> Result<Vec<String>, ConfigError> {
        self.items()?.iter().map(|item| item.text().map(|text| text.unwrap_or_default().to_owned())).collect()
    }

    pub fn flag(&self) -> Result<bool, ConfigError> {
        match self.value {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.error("must be true or false")),
        }
    }

    /// A file name, resolved against the kubeconfig's folder.
    pub fn file(&self) -> Result<Option<PathBuf>, ConfigError> {
        Ok(self.text()?.map(|name| self.folder().join(name)))
    }

    pub fn folder(&self) -> &'a Path {
        self.path.parent().unwrap_or_else(|| Path::new(""))
    }

    /// The bytes of `KEY-data` (base64), or else of the file that `KEY` names.
    pub fn data_or_file(&self, key: &'static str) -> Result<Option<Vec<u8>>, ConfigError> {
        let data = self.field(&format!("{key}-data"));
        if let Some(text) = data.text()? {
            let compact: String = text.split_ascii_whitespace().collect();
            let decoded = base64::engine::general_purpose::STANDARD.decode(compact);
            return decoded.map(Some).map_err(|_| data.error("is not valid base64"));
        }
        let Some(path) = self.field(key).file()? else { return Ok(None) };
        read_file(&path).map(Some).map_err(|source| ConfigError::Read { what: key, path, source })
    }

    /// The location of `KEY-data` or `KEY` for an error: the kubeconfig, the field, and the file that it names.
    pub fn location(&self, key: &str) -> String {
        let data = self.field(&format!("{key}-data"));
        let (field, named) = match (data.value, self.field(key)) {
            (Value::Null, field) => (field.clone(), field.file().ok().flatten()),
            (_, _) => (data, None),
        };
        let named = named.map(|path| format!(" ({})", path.display())).unwrap_or_default();
        format!("kubeconfig {}: {}{named}", self.path.display(), field.field)
    }

    pub fn error(&self, problem: &'static str) -> ConfigError {
        let field = if self.field.is_empty() { "the top level" } else { &self.field };
        ConfigError::Field { path: self.path.to_owned(), field: field.to_owned(), problem }
    }
}
