//! The private Unix socket, which has no name in the file system.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// The path through which this process, and no other user's, reaches an open file without a name.
pub fn proc_path(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// A listening Unix socket and a handle on its file, which is removed.
pub fn private_socket() -> io::Result<(UnixListener, OwnedFd)> {
    // A container's root file system may be read-only, without a /tmp; it still has /dev/shm.
    let folders = [std::env::temp_dir(), PathBuf::from("/dev/shm")];
    let [temporary, memory] = &folders;
    private_socket_in(temporary).or_else(|error| private_socket_in(memory).map_err(|_| error))
}

fn private_socket_in(parent: &Path) -> io::Result<(UnixListener, OwnedFd)> {
    let mut random = [0; 8];
    getrandom::getrandom(&mut random).map_err(io::Error::other)?;
    let folder = parent.join(format!("img-classification-{:016x}", u64::from_ne_bytes(random)));
    DirBuilder::new().mode(0o700).create(&folder)?;
    let path = folder.join("socket");
    let bound = UnixListener::bind(&path).and_then(|listener| {
        let handle = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        // Without /proc the socket could never be reached.
        fs::metadata(proc_path(&handle))?;
        Ok((listener, handle))
    });
    let _ = fs::remove_file(&path);
    fs::remove_dir(&folder)?;
    bound
}
