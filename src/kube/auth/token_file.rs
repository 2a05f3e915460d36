//! A bearer token in a file that another process replaces, such as the kubelet.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::kube::auth::credential::{Credential, bearer_header};
use crate::kube::auth::secret::Secret;
use crate::kube::files::read_regular_text;
use crate::kube::transport::tls::Identity;

/// Maximum age of a token before the file is read again. The kubelet rotates a mounted token long before it expires,
/// and Kubernetes asks clients to reload it at least once a minute; client-go subtracts ten seconds.
pub const MAX_TOKEN_AGE: Duration = Duration::from_secs(50);

/// Reads a token and trims the white space around it.
///
/// # Errors
/// The file is missing, unreadable or empty.
pub fn read_token(path: &Path) -> io::Result<Secret> {
    // Requests wait for this read.
    let text = read_regular_text(path)?;
    match text.trim() {
        "" => Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty")),
        token => Ok(Secret::new(token)),
    }
}

/// The credential from a token file, reloaded when it is old or rejected.
pub struct TokenFile {
    path: PathBuf,
    max_age: Duration,
    /// (time of the last read, credential)
    state: Mutex<(Instant, Arc<Credential>)>,
}

impl TokenFile {
    /// A token file that was just read, with `token` as its content.
    pub fn new(path: PathBuf, token: &Secret, identity: Option<Arc<Identity>>, max_age: Duration) -> Self {
        let credential = Credential { authorization: bearer_header(token), identity, serial: 0 };
        Self { path, max_age, state: Mutex::new((Instant::now(), Arc::new(credential))) }
    }

    /// Returns the current credential; reads the file if the last read is older than the maximum age.
    pub fn get(&self) -> Arc<Credential> {
        let fresh = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            (state.0.elapsed() < self.max_age).then(|| Arc::clone(&state.1))
        };
        fresh.unwrap_or_else(|| self.reload())
    }

    /// Reads the file again. If that fails, the old token stays in use, because it may still be valid.
    pub fn reload(&self) -> Arc<Credential> {
        let read = read_token(&self.path);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = Instant::now();
        match read.map(|token| bearer_header(&token)) {
            Ok(Some(header)) if Some(&header) != state.1.authorization.as_ref() => {
                let (identity, serial) = (state.1.identity.clone(), state.1.serial + 1);
                state.1 = Arc::new(Credential { authorization: Some(header), identity, serial });
            }
            Ok(Some(_)) => {}
            Ok(None) => log::warn!("token file {} has characters that no HTTP header can carry", self.path.display()),
            Err(error) => log::warn!("cannot reload token file {}: {error}", self.path.display()),
        }
        Arc::clone(&state.1)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_token_file_is_reloaded_when_its_token_is_old_or_rejected() {
        let folder = std::env::temp_dir().join(format!("img-classification-token-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("the temporary folder is writable");
        let path = folder.join("token");
        fs::write(&path, " one \n").expect("written");
        let first = read_token(&path).expect("read");
        let sent = |credential: &Credential| {
            credential.authorization.clone().and_then(|value| value.to_str().map(str::to_owned).ok())
        };

        let fresh = TokenFile::new(path.clone(), &first, None, Duration::from_secs(3600));
        let old = TokenFile::new(path.clone(), &first, None, Duration::ZERO);
        fs::write(&path, "two").expect("written");
        assert_eq!(sent(&fresh.get()).as_deref(), Some("Bearer one"));
        assert_eq!(sent(&old.get()).as_deref(), Some("Bearer two"));
        assert_eq!(sent(&fresh.reload()).as_deref(), Some("Bearer two"));

        fs::remove_file(&path).expect("removed");
        assert_eq!(sent(&old.get()).as_deref(), Some("Bearer two"), "the old token stays while there is no new one");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
