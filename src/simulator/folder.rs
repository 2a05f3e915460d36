//! The private folder of a simulated cluster, below TMPDIR.
//!
//! A killed server leaves its folder behind; the next start removes it. A lock on the folder shows that its server runs. The kernel
//! releases the lock at any end of the process, so a reused process ID does not matter.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::store;

/// Start of the names of all folders.
const PREFIX: &str = "img-classification-local-";

/// A locked folder; removed when dropped.
pub struct Folder {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Folder {
    /// Creates a folder, and removes those of killed servers.
    ///
    /// # Errors
    /// The folder could not be created.
    pub fn create() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        remove_abandoned(&parent);
        let name = format!("{PREFIX}{}", store::hex::<8>());
        // The final name only comes with the lock, so that no other server takes the folder for an abandoned one.
        let (new, path) = (parent.join(format!(".{name}")), parent.join(name));
        fs::DirBuilder::new().mode(0o700).create(&new)?;
        let lock = open(&new).and_then(|folder| {
            // Without locks on this file system no server can remove the folder.
            let _ = lock(&folder);
            fs::rename(&new, &path).map(|()| folder)
        });
        match lock {
            Ok(_lock) => Ok(Self { path, _lock }),
            Err(error) => {
                let _ = fs::remove_dir(&new);
                Err(error)
            }
        }
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes the folders that no running server has locked. Other users' folders and links, which anyone may create in /tmp, stay.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    let is_named = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes());
    for path in entries.flatten().filter(is_named).map(|entry| entry.path()) {
        // The lock lasts until the folder is gone.
        let Ok(folder) = open(&path) else { continue };
        if is_own(&folder) && lock(&folder).is_ok() && fs::remove_dir_all(&path).is_ok() {
            log::info!("removed {}, which a killed server left behind", path.display());
        }
    }
}

/// Opens a folder, but no link to one.
fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn is_own(folder: &OwnedFd) -> bool {
    rustix::fs::fstat(folder).is_ok_and(|stat| stat.st_uid == rustix::process::geteuid().as_raw())
}

fn lock(folder: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::flock(folder, FlockOperation::NonBlockingLockExclusive)?)
}
