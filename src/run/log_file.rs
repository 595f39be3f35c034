//! The log file: takes the daemon's standard output and error, and is reopened when it has been rotated away.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{OFlags, PROC_SUPER_MAGIC};
use rustix::io::Errno;

use super::pid_file::open_as_it_is;
use crate::error::{Error, Operation, Result, os_text};
use crate::log;

/// The open log file and its path.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
}

impl LogFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed =
            |source| Error::Io { operation: Operation::OpenLogFile, address: path.display().to_string(), source };
        // The working directory may have changed when the file is reopened.
        let path = std::path::absolute(path).map_err(failed)?;
        let file = open(&path).map_err(failed)?;
        Ok(LogFile { path, file })
    }

    pub(super) fn use_it(&self) -> io::Result<()> {
        use_for_output(&self.file)
    }

    /// Opens the path again, and continues in that file.
    pub(super) fn reopen(&self) {
        let _ = io::stdout().flush();
        if let Err(error) = open(&self.path).and_then(|file| use_for_output(&file)) {
            let path = self.path.display();
            let event = log::warning("log file").error(&error);
            event.say(format_args!("cannot reopen log file {path}, keeping the old one: {}", os_text(&error)));
        }
    }
}

pub(super) fn use_for_output(file: &File) -> io::Result<()> {
    rustix::stdio::dup2_stdout(file)?;
    rustix::stdio::dup2_stderr(file)?;
    Ok(())
}

/// The maximum number of symbolic links in one path, as in the kernel.
const LINKS: u32 = 40;

/// Opens a log file, which may also be a terminal, a device, or a FIFO with a reader.
///
/// Symbolic links are followed only if they belong to this user or to root. In a directory like `/tmp`, another user could
/// otherwise make the daemon append to any of its files.
fn open(path: &Path) -> io::Result<File> {
    let mut path = path.to_path_buf();
    for _ in 0..LINKS {
        match open_for_appending(&path, OFlags::NOFOLLOW) {
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => match link_target(&path)? {
                Some(target) => path = target,
                // One of the kernel's links, to which /dev/stderr leads: its text is not always a path.
                None => return open_for_appending(&path, OFlags::empty()).or_else(|error| copy_of(&path, error)),
            },
            result => return result,
        }
    }
    Err(Errno::LOOP.into())
}

fn open_for_appending(path: &Path, flags: OFlags) -> io::Result<File> {
    // Without NONBLOCK, opening a FIFO blocks until a process reads it.
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

/// Copies a standard stream that is a socket, as under systemd: its name in `/proc` cannot be opened.
fn copy_of(path: &Path, error: io::Error) -> io::Result<File> {
    let stream = match path.file_name().and_then(OsStr::to_str) {
        Some("1") => rustix::stdio::stdout(),
        Some("2") => rustix::stdio::stderr(),
        _ => return Err(error),
    };
    let is_that =
        std::fs::metadata(path)?.file_type().is_socket() && error.raw_os_error() == Some(Errno::NXIO.raw_os_error());
    if is_that { Ok(stream.try_clone_to_owned()?.into()) } else { Err(error) }
}

/// Returns the target of a symbolic link, or `None` for one of the kernel's links in `/proc`.
///
/// # Errors
/// `PermissionDenied` if the link belongs to neither this user nor root.
fn link_target(path: &Path) -> io::Result<Option<PathBuf>> {
    // All questions are about one descriptor: by name, the link could be replaced between them.
    let link = open_as_it_is(path)?;
    let status = link.metadata()?;
    if !status.is_symlink() {
        // It has been replaced. The next attempt sees what it is now.
        return Ok(Some(path.to_path_buf()));
    }
    if rustix::fs::fstatfs(&link)?.f_type == PROC_SUPER_MAGIC {
        return Ok(None);
    }
    let owner = status.uid();
    if owner != 0 && owner != rustix::process::geteuid().as_raw() {
        let text = format!("not following a symbolic link of user {owner}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let target = rustix::fs::readlinkat(&link, "", Vec::new())?;
    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
    Ok(Some(path.parent().unwrap_or(Path::new("/")).join(target)))
}
