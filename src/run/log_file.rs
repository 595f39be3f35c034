//! The log file: takes the daemon's standard output and error, and is reopened when it has been rotated away.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, PROC_SUPER_MAGIC};
use rustix::io::Errno;

use super::pid_file::open_as_it_is;
use crate::error::{Error, Result};
use crate::log;

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed =
            |source| Error::Io { operation: "opening the log file", address: path.display().to_string(), source };
        // The working directory may be another one when it is opened again.
        let path = std::path::absolute(path).map_err(failed)?;
        let file = open(&path).map_err(failed)?;
        Ok(LogFile { path, file })
    }

    pub(super) fn use_it(&self) -> io::Result<()> {
        use_for_output(&self.file)
    }

    /// Continues in the file that has the name now.
    pub(super) fn reopen(&self) {
        let _ = io::stdout().flush();
        if let Err(error) = open(&self.path).and_then(|file| use_for_output(&file)) {
            let path = self.path.display();
            let event = log::warning("log file").error(&error);
            event.say(format_args!("cannot reopen log file {path}, keeping the old one: {error}"));
        }
    }
}

pub(super) fn use_for_output(file: &File) -> io::Result<()> {
    rustix::stdio::dup2_stdout(file)?;
    rustix::stdio::dup2_stderr(file)?;
    Ok(())
}

/// The number of symbolic links that the kernel follows in one path.
const LINKS: u32 = 40;

/// Opens a log file, which may also be a terminal, a device, or a FIFO with a reader.
///
/// Symbolic links are followed only if this user or root has made them: in a directory like `/tmp`, anybody else could
/// make the daemon append to any of its user's files.
fn open(path: &Path) -> io::Result<File> {
    let mut path = path.to_path_buf();
    for _ in 0..LINKS {
        match open_for_appending(&path, OFlags::NOFOLLOW) {
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => match link_target(&path)? {
                Some(target) => path = target,
                // A link of the kernel's own, as /dev/stderr leads to: its text is not always a path.
                None => return open_for_appending(&path, OFlags::empty()),
            },
            result => return result,
        }
    }
    Err(Errno::LOOP.into())
}

fn open_for_appending(path: &Path, flags: OFlags) -> io::Result<File> {
    // Without NONBLOCK a FIFO that nobody reads would be waited for without end.
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened =
        OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|error| {
        let is_unread = error.raw_os_error() == Some(Errno::NXIO.raw_os_error())
            && std::fs::metadata(path).is_ok_and(|there| there.file_type().is_fifo());
        if is_unread { io::Error::new(error.kind(), "no process reads this FIFO") } else { error }
    })?;
    let now = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, now - OFlags::NONBLOCK)?;
    Ok(file)
}

/// Returns where a symbolic link leads, or `None` for a link of the kernel's in `/proc`.
///
/// # Errors
/// `PermissionDenied` if the link belongs to neither this user nor root.
fn link_target(path: &Path) -> io::Result<Option<PathBuf>> {
    // One look at one link: by its name it could be exchanged between the questions.
    let link = open_as_it_is(path)?;
    let status = link.metadata()?;
    if !status.is_symlink() {
        // Replaced since: the next attempt sees what it is now.
        return Ok(Some(path.to_path_buf()));
    }
    if rustix::fs::fstatfs(&link)?.f_type == PROC_SUPER_MAGIC {
        return Ok(None);
    }
    let owner = status.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        let text = format!("not following a symbolic link made by user {owner}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
    let target = PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes()));
    Ok(Some(path.parent().unwrap_or(Path::new("/")).join(target)))
}
