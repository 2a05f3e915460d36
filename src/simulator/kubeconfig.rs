//! The kubeconfig of a simulated cluster: in a private folder below TMPDIR, or at the path of --local-kubeconfig.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::folder::Folder;
use super::store;

/// First line of the file. A file without it belongs to the user, and is not replaced.
const MARK: &str = "# A simulated cluster of img-classification serve --local; replaced at its next start.\n";

/// A kubeconfig; removed when dropped.
pub struct Kubeconfig {
    path: PathBuf,
    text: String,
    _folder: Option<Folder>,
}

impl Kubeconfig {
    /// Writes a kubeconfig for the API at `address` with this certificate in PEM. Without a `path` it is in a new folder.
    ///
    /// # Errors
    /// The folder does not exist, or another program's file is at `path`.
    pub fn write(path: Option<&Path>, address: SocketAddr, certificate: &str, token: &str) -> io::Result<Self> {
        let ca = STANDARD.encode(certificate);
        let text = format!(
            "{MARK}apiVersion: v1\nkind: Config\ncurrent-context: local\n\
             contexts: [{{name: local, context: {{cluster: local, user: local}}}}]\n\
             clusters: [{{name: local, cluster: {{server: \"https://{address}\", certificate-authority-data: {ca}}}}}]\n\
             users: [{{name: local, user: {{token: {token}}}}}]\n"
        );
        let (path, folder) = match path {
            Some(path) => (std::path::absolute(path)?, None),
            None => {
                let folder = Folder::create()?;
                (folder.path().join("kubeconfig"), Some(folder))
            }
        };
        replace(&path, &text)?;
        Ok(Self { path, text, _folder: folder })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Kubeconfig {
    fn drop(&mut self) {
        // A later server may have replaced the file.
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes a private file, which appears with its whole content. Replaces only the file of an earlier simulator.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    match fs::read(path) {
        Ok(old) if !old.starts_with(MARK.as_bytes()) => {
            let problem =
                "the file exists, and is not that of a simulator; fix: choose another path, or remove the file";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, problem));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", store::hex::<8>()));
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    let written = written.and_then(|mut file| file.write_all(text.as_bytes())).and_then(|()| fs::rename(&new, path));
    written.inspect_err(|_| drop(fs::remove_file(&new)))
}
