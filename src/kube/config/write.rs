//! Writes the entry of an EKS cluster into a kubeconfig, as `aws eks update-kubeconfig` does: entries of other clusters stay, comments do
//! not.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::kube::auth::aws::eks_api::ClusterDescription;
use crate::kube::error::ConfigError;
use crate::kube::files::read_regular_text;
use crate::kube::yaml::{self, Value};

/// Only the user may read a new kubeconfig.
const MODE: u32 = 0o600;

/// Longest wait for the lock of another program, which takes milliseconds for its change.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_POLL: Duration = Duration::from_millis(20);

/// Longest chain of links, as in Linux.
const MAX_LINKS: usize = 40;

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
        let file = LockedFile::open(path).map_err(failed)?;
        let wrong = |problem| ConfigError::Field { path: path.into(), field: "the file".to_owned(), problem };
        let old = match file.old.as_deref().map(str::trim) {
            None | Some("") => Value::Null,
            Some(text) => {
                let invalid = |source| ConfigError::Yaml { path: path.into(), source };
                let old = yaml::parse_file(text.to_owned()).map_err(invalid)?;
                // Another document would be lost.
                if yaml::documents(text).map_err(invalid)?.len() > 1 {
                    return Err(wrong("has several documents; fix: name another one with --kubeconfig"));
                }
                old
            }
        };
        let merged = self.merge(old);
        let merged = merged.ok_or_else(|| wrong("is not a kubeconfig; fix: name another one with --kubeconfig"))?;
        let mut text = String::new();
        write_block(&merged, 0, &mut text);
        file.replace(text.as_bytes()).map_err(failed)
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

/// A file that is replaced as a whole, so that a reader sees the old content or the new one. Its lock, which kubectl honours as well, is
/// the new file.
struct LockedFile {
    path: PathBuf,
    lock: PathBuf,
    new: File,
    old: Option<String>,
    is_replaced: bool,
}

impl LockedFile {
    /// Locks a file and reads it. Waits a moment for another program's change.
    fn open(path: &Path) -> io::Result<Self> {
        let path = target(path);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(folder)?;
        let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(".lock");
        let lock = folder.join(name);
        let start = Instant::now();
        let new = loop {
            match OpenOptions::new().write(true).create_new(true).mode(MODE).open(&lock) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if start.elapsed() >= LOCK_TIMEOUT {
                        let problem = format!("{} exists; fix: remove it if no other program runs", lock.display());
                        return Err(io::Error::new(error.kind(), problem));
                    }
                    thread::sleep(LOCK_POLL);
                }
                other => break other?,
            }
        };
        let mut file = Self { path, lock, new, old: None, is_replaced: false };
        match fs::metadata(&file.path) {
            Ok(old) => {
                file.old = Some(read_regular_text(&file.path)?);
                file.new.set_permissions(old.permissions())?;
                // Only root may give a file away; another user has its own.
                if (old.uid(), old.gid()) != (file.new.metadata()?.uid(), file.new.metadata()?.gid()) {
                    std::os::unix::fs::fchown(&file.new, Some(old.uid()), Some(old.gid()))?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(file)
    }

    fn replace(mut self, content: &[u8]) -> io::Result<()> {
        self.new.write_all(content)?;
        self.new.sync_all()?;
        fs::rename(&self.lock, &self.path)?;
        self.is_replaced = true;
        Ok(())
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        if !self.is_replaced {
            // An error leaves the lock, which the next run names.
            let _ = fs::remove_file(&self.lock);
        }
    }
}

/// Returns the file to which links lead, also if it does not exist.
fn target(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(next) = fs::read_link(&path) else { break };
        path = path.parent().map_or_else(|| next.clone(), |folder| folder.join(&next));
    }
    path
}

/// Writes a value as YAML in block style. A string is in double quotes, as in JSON: YAML 1.1 takes a plain `yes` for a boolean.
fn write_block(value: &Value, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    match value {
        Value::Mapping(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                out.push_str(&pad);
                write_key(key, out);
                write_nested(value, indent, out);
            }
        }
        Value::Sequence(items) if !items.is_empty() => {
            for item in items {
                let start = out.len();
                write_block(item, indent + 1, out);
                // The dash takes the place of the item's first spaces.
                out.replace_range(start..start + pad.len() + 2, &format!("{pad}- "));
            }
        }
        scalar => out.push_str(&format!("{pad}{}\n", inline(scalar))),
    }
}

/// Writes the value of a key.
fn write_nested(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Mapping(fields) if !fields.is_empty() => {
            out.push('\n');
            write_block(value, indent + 1, out);
        }
        Value::Sequence(items) if !items.is_empty() => {
            out.push('\n');
            write_block(value, indent, out);
        }
        scalar => out.push_str(&format!(" {}\n", inline(scalar))),
    }
}

fn write_key(key: &Value, out: &mut String) {
    let is_plain = |text: &str| {
        text.len() > 3
            && text.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
            && !["true", "false", "null"].contains(&&*text.to_ascii_lowercase())
    };
    match key.as_str().filter(|text| is_plain(text)) {
        Some(text) => out.push_str(text),
        None => out.push_str(&inline(key)),
    }
    out.push(':');
}

/// Returns a scalar or an empty collection, which YAML shares with JSON.
fn inline(value: &Value) -> String {
    serde_json::to_value(value).map_or_else(|_| "null".to_owned(), |value| value.to_string())
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

    #[test]
    fn a_written_tree_is_the_same_when_it_is_read() {
        let text = "{a: {b: 'yes', c: [1, '1_000', {d: 'x: y', e: [[], {}]}, [2, 3]], 'on': null}, '12:30': 1.5, true: false, name: \"a\\nb\"}";
        let tree = yaml::parse(text).expect(text);
        let mut written = String::new();
        write_block(&tree, 0, &mut written);
        assert_eq!(yaml::parse(&written).expect(&written), tree, "{written}");
        assert!(written.contains("    b: \"yes\"") || written.contains("\"b\": \"yes\""), "{written}");
        assert!(
            written.contains("\"on\": null")
                && written.contains("\"12:30\": 1.5")
                && written.contains("name: \"a\\nb\""),
            "{written}"
        );
    }
}
