//! The program's files, opened so that none holds up the loop: opening a pipe waits for its other end, and reading it for data.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

fn flags(flags: OFlags) -> i32 {
    i32::try_from((flags | OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0)
}

/// Opens a file for reading, whatever it is.
pub(crate) fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let file = OpenOptions::new().read(true).custom_flags(flags(OFlags::empty())).open(path)?;
    let about = file.metadata()?;
    Ok((file, about))
}

/// Opens a regular file for reading, with its length. `instead` ends the error for what is none.
pub(crate) fn open_regular(path: &Path, instead: &str) -> io::Result<(File, u64)> {
    let (file, about) = open(path)?;
    match about.is_file() {
        true => Ok((file, about.len())),
        false if about.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is not a regular file{instead}"))),
    }
}

/// Opens a partial file for writing. Links are not followed.
pub(crate) fn open_partial(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(flags(OFlags::NOFOLLOW)).open(path)
}

/// The same. `None` if there is no such file, or a pipe that nobody reads.
pub(crate) fn find_partial(path: &Path) -> io::Result<Option<File>> {
    match open_partial(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the path whose place a download takes: a link leads to its file. `None` for anything but a file, which is left alone,
/// and without a path.
pub(crate) fn place_of(path: &Path) -> Option<PathBuf> {
    match path.symlink_metadata() {
        _ if path.as_os_str().is_empty() => None,
        Ok(found) if !found.is_file() => path.canonicalize().ok().filter(|file| file.is_file()),
        _ => Some(path.to_owned()),
    }
}
