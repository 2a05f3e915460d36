//! Writes the entry of an EKS cluster into a kubeconfig, as `aws eks update-kubeconfig` does: entries of other clusters stay, comments do
//! not.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::kube::auth::aws::eks_api::ClusterDescription;
use crate::kube::error::ConfigError;
use crate::kube::files::read_text;
use crate::kube::yaml::{self, Value};

/// Only the user may read a kubeconfig.
const MODE: u32 = 0o600;

/// A cluster of EKS, and the way to its tokens.
#[derive(Debug)]
pub struct EksEntry<'a> {
    pub cluster: &'a ClusterDescription,
    pub name: &'a str,
    pub region: &'a str,
    /// AWS_PROFILE.
    pub profile: Option<&'a str>,
}

impl EksEntry<'_> {
    /// Adds the entry to the kubeconfig at `path`, or replaces it, and makes it the current context. Creates a missing file.
    ///
    /// # Errors
    /// [`ConfigError`]; the file is unchanged then.
    pub fn write(&self, path: &Path) -> Result<(), ConfigError> {
        let failed = |source| ConfigError::Read { what: "or write kubeconfig", path: path.into(), source };
        // The target of a link is replaced, not the link.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let text = match read_text(&target) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        let invalid = |source| ConfigError::Yaml { path: path.into(), source };
        let old = if text.trim().is_empty() { Value::Null } else { yaml::parse_file(text).map_err(invalid)? };
        let wrong = ConfigError::Field {
            path: path.into(),
            field: "the file".to_owned(),
            problem: "is not a kubeconfig; fix: name another one with --kubeconfig",
        };
        let merged = yaml::to_text(&self.merge(old).ok_or(wrong)?).map_err(invalid)?;
        replace(&target, merged.as_bytes()).map_err(failed)
    }

    /// Returns `config` with this entry, or `None` if it is no kubeconfig.
    fn merge(&self, config: Value) -> Option<Value> {
        let arn = &self.cluster.arn;
        let args = ["--region", self.region, "eks", "get-token", "--cluster-name", self.name, "--output", "json"];
        let mut exec = json!({"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "aws", "args": args});
        if let Some(profile) = self.profile {
            exec["env"] = json!([{"name": "AWS_PROFILE", "value": profile}]);
        }
        let cluster = json!({"server": self.cluster.endpoint, "certificate-authority-data": self.cluster.ca});
        let mut config = match config {
            Value::Null => yaml::from_json(&json!({"apiVersion": "v1", "kind": "Config", "preferences": {}})),
            config => config,
        };
        let fields = config.as_mapping_mut()?;
        for (list, key, value) in [
            ("clusters", "cluster", cluster),
            ("users", "user", json!({ "exec": exec })),
            ("contexts", "context", json!({"cluster": arn, "user": arn})),
        ] {
            let entries = fields.entry(list.into()).or_insert(Value::Null);
            if entries.is_null() {
                *entries = Value::Sequence(Vec::new());
            }
            let entries = entries.as_sequence_mut()?;
            entries.retain(|entry| entry.get("name").and_then(Value::as_str) != Some(arn));
            let mut entry = json!({ "name": arn });
            entry[key] = value;
            entries.push(yaml::from_json(&entry));
        }
        fields.insert("current-context".into(), arn.as_str().into());
        Some(config)
    }
}

/// Replaces a file as a whole, so that a reader sees the old content or the new one.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new: PathBuf = folder.join(name);
    let written = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&new).and_then(|mut file| {
        file.write_all(content)?;
        file.sync_all()
    });
    let replaced = written.and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        // It may not exist.
        let _ = fs::remove_file(&new);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(config: &str) -> Option<Value> {
        let cluster = ClusterDescription { arn: "arn:a".into(), endpoint: "https://a".into(), ca: "Q0E=".into() };
        let entry = EksEntry { cluster: &cluster, name: "a", region: "us-east-1", profile: None };
        entry.merge(yaml::parse(config).expect(config))
    }

    #[test]
    fn other_entries_stay_and_an_equal_one_is_replaced() {
        let old = "{current-context: b, extensions: [1], contexts: [{name: b}, {name: 'arn:a', old: 1}], clusters: null, users: []}";
        let new = merged(old).expect("a kubeconfig");
        let names = |list: &str| -> Vec<String> {
            let entries = new.get(list).and_then(Value::as_sequence).expect("a list");
            entries.iter().filter_map(|entry| Some(entry.get("name")?.as_str()?.to_owned())).collect()
        };
        assert_eq!(
            (names("contexts"), names("clusters"), names("users")),
            (vec!["b".into(), "arn:a".into()], vec!["arn:a".into()], vec!["arn:a".into()])
        );
        assert_eq!(new.get("current-context").and_then(Value::as_str), Some("arn:a"));
        assert!(new.get("extensions").is_some() && new.get("kind").is_none());
        assert_eq!(merged("null").and_then(|new| new.get("kind").cloned()), Some("Config".into()));
        for bad in ["[]", "text", "{users: 1}"] {
            assert_eq!(merged(bad), None, "{bad}");
        }
    }
}
