//! Reads the files that a kubeconfig names, each up to a limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Maximum size of a file, in bytes: a kubeconfig with a hundred clusters has 500 KB.
const FILE_LIMIT: u64 = 4 * 1024 * 1024;

/// Reads a kubeconfig, a certificate or a key.
///
/// # Errors
/// The file cannot be read, or exceeds 4 MiB.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
    }
    Ok(bytes)
}

/// Reads a file as [`read_file`] does, but not a pipe or a device, for which the caller would wait.
///
/// # Errors
/// As [`read_file`], or it is not a regular file.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    read_file(path)
}

/// Reads a text file that is not a pipe or a device.
///
/// # Errors
/// As [`read_regular`], or the content is not UTF-8.
pub fn read_regular_text(path: &Path) -> io::Result<String> {
    to_text(read_regular(path)?)
}

/// Reads a text file, such as a kubeconfig or a token.
///
/// # Errors
/// As [`read_file`], or the content is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    to_text(read_file(path)?)
}

fn to_text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not valid UTF-8"))
}
