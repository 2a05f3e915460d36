//! Credential plugins: shell scripts in the test's own folder that record every run.

use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A script and the files with the records of its runs.
pub struct Plugin {
    path: PathBuf,
}

impl Plugin {
    /// Writes an executable script into `folder`. Every run first appends its KUBERNETES_EXEC_INFO and its process ID,
    /// one line each, to files. Then `body` runs, which finds the folder in `$HERE`.
    pub fn write(folder: &Path, name: &str, body: &str) -> Plugin {
        let path = folder.join(name);
        std::fs::create_dir_all(folder).unwrap();
        let text = format!(
            "#!/bin/sh\nHERE='{}'\necho $$ >>\"$HERE/{name}.pids\"\n\
             printf '%s\\n' \"$KUBERNETES_EXEC_INFO\" >>\"$HERE/{name}.infos\"\n{body}\n",
            folder.display()
        );
        let guard = super::SCRIPTS.write().unwrap();
        std::fs::write(&path, text).unwrap();
        drop(guard);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Plugin { path }
    }

    /// A script that prints a v1 ExecCredential with this status.
    pub fn printing(folder: &Path, name: &str, status: &Value) -> Plugin {
        Plugin::write(folder, name, &format!("cat <<'END'\n{}\nEND", credential("v1", status)))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A kubeconfig user that runs this script, as v1, never interactive.
    pub fn user(&self) -> Value {
        json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": self.path, "interactiveMode": "Never"}})
    }

    pub fn runs(&self) -> usize {
        self.notes("pids").len()
    }

    /// The process IDs of the runs, and those that `body` added.
    pub fn pids(&self) -> Vec<u32> {
        self.notes("pids").iter().map(|pid| pid.parse().unwrap()).collect()
    }

    /// The value of KUBERNETES_EXEC_INFO at each run.
    pub fn infos(&self) -> Vec<Value> {
        self.notes("infos").iter().map(|info| serde_json::from_str(info).unwrap_or(Value::Null)).collect()
    }

    fn notes(&self, extension: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path.with_extension(extension)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

/// An ExecCredential of this version.
pub fn credential(version: &str, status: &Value) -> Value {
    json!({"apiVersion": format!("client.authentication.k8s.io/{version}"), "kind": "ExecCredential", "status": status})
}

/// Returns `true` if the process exists and is not a zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}
