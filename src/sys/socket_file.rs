//! Unix sockets at a path: with the right permissions from the first moment on, and in the place of a stale socket.

use std::ffi::OsString;
use std::fs::Permissions;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Gid, Mode, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix};

use super::{Origin, bind as bind_to, connect, stream_socket};
use crate::error::os_text;

/// Longest wait for another server that replaces a stale socket. After that, this one continues without the lock.
const TURN: Duration = Duration::from_secs(2);

/// The path of a unix socket of ours, and the file that it led to when we created it.
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Keeps the file's inode number from being reused.
    file: OwnedFd,
    origin: Origin,
}

impl SocketFile {
    /// # Errors
    /// If the path does not lead to a socket: another process has replaced it.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::Socket {
            return Err(io::Error::other("another process replaced the new socket"));
        }
        // The working directory may change before it is removed.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        Ok(SocketFile { path, file, origin: Origin::here() })
    }

    /// Removes the path if it still leads to the file that we made. In a forked copy of the process nothing is ours.
    ///
    /// # Errors
    /// If the path is left behind, as after setuid. The text says so.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let failed = |error| {
            let text = format!("failed to remove unix socket {}: {}", self.path.display(), os_text(&error));
            io::Error::new(error.kind(), text)
        };
        self.try_to_remove().map_err(failed)
    }

    fn try_to_remove(&self) -> io::Result<()> {
        if !self.origin.is_here() || !self.is_at(&self.path)? {
            return Ok(());
        }
        let aside = self.aside();
        match renameat_with(CWD, &self.path, CWD, &aside, RenameFlags::NOREPLACE) {
            Ok(()) if self.is_at(&aside)? => std::fs::remove_file(&aside),
            // Another file has just been put in its place: it goes back there.
            Ok(()) => Ok(renameat_with(CWD, &aside, CWD, &self.path, RenameFlags::NOREPLACE)?),
            // The file system does not support this rename.
            Err(Errno::INVAL | Errno::NOSYS) => std::fs::remove_file(&self.path),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns an unpredictable path beside the socket.
    fn aside(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(format!(".{:016x}", RandomState::new().build_hasher().finish()));
        self.path.with_file_name(name)
    }

    fn is_at(&self, path: &Path) -> io::Result<bool> {
        let own = rustix::fs::fstat(&self.file)?;
        match std::fs::symlink_metadata(path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (own.st_dev, own.st_ino)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sets the file's group and mode, through a handle on exactly that file.
    fn set_rights(&self, settings: FileSettings) -> io::Result<()> {
        let failed =
            |what: String, error: io::Error| io::Error::new(error.kind(), format!("{what}: {}", os_text(&error)));
        if let Some(group) = settings.group {
            rustix::fs::chownat(&self.file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)
                .map_err(|error| failed(format!("cannot set its group to {group}"), error.into()))?;
        }
        let mode = settings.mode.unwrap_or(0o660);
        let handle = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        std::fs::set_permissions(&handle, Permissions::from_mode(mode))
            .map_err(|error| failed(format!("cannot set its mode to {mode:03o} through {handle}"), error))
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Options of a unix socket's file.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileSettings {
    pub(crate) mode: Option<u32>,
    pub(crate) group: Option<u32>,
    /// Replace a socket that no process has.
    pub(crate) replace_stale: bool,
}

impl FileSettings {
    fn restricts(&self) -> bool {
        self.mode.is_some() || self.group.is_some()
    }
}

/// The steps of making a unix socket.
#[derive(Clone, Copy)]
pub(crate) struct Making<'a> {
    /// Creates the socket, with all options that it has before it is bound.
    pub(crate) open: &'a dyn Fn() -> io::Result<OwnedFd>,
    /// Makes it listen, unless it is one that does not.
    pub(crate) listen: &'a dyn Fn(&OwnedFd) -> io::Result<()>,
    pub(crate) file: FileSettings,
}

/// Makes a socket with a path.
pub(crate) fn bind_path(path: &Path, how: Making<'_>) -> io::Result<(OwnedFd, SocketFile)> {
    let settings = how.file;
    let name = SocketAddrUnix::new(path)?;
    // Between bind and listen, a socket looks stale.
    let turn = if settings.replace_stale { Turn::take(path, Instant::now() + TURN) } else { None };
    let fd = match bind(&name, how) {
        Err(error) if is_taken(&error) && settings.replace_stale => {
            remove_stale(path, &name, turn.is_some())?;
            bind(&name, how)
        }
        bound => bound,
    };
    let fd = fd.map_err(|error| if is_taken(&error) { taken(path, &name) } else { error })?;
    let file = SocketFile::new(path).inspect_err(|_| remove_unopened(path))?;
    let rights = if settings.restricts() { file.set_rights(settings) } else { Ok(()) };
    if let Err(error) = rights.and_then(|()| (how.listen)(&fd)) {
        // Of two errors the first is the cause.
        let _ = file.remove();
        return Err(error);
    }
    Ok((fd, file))
}

/// Removes a socket that has just been bound and cannot be opened, as when no descriptor is left. Another process's socket
/// can be there only if that process removed ours first.
fn remove_unopened(path: &Path) {
    if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        // Of two errors the first is the cause.
        let _ = std::fs::remove_file(path);
    }
}

/// Makes a socket with an abstract name.
pub(crate) fn bind_abstract(name: &SocketAddrUnix, how: Making<'_>) -> io::Result<OwnedFd> {
    let fd = bind(name, how)?;
    (how.listen)(&fd)?;
    Ok(fd)
}

/// Binds a socket to that name. If its file is to get restricted permissions, it starts with none: the file inherits the
/// socket's mode, and a umask is process-wide and so not ours alone.
fn bind(name: &SocketAddrUnix, how: Making<'_>) -> io::Result<OwnedFd> {
    let fd = (how.open)()?;
    if how.file.restricts() {
        rustix::fs::fchmod(&fd, Mode::empty())?;
    }
    bind_to(&fd, name)?;
    Ok(fd)
}

fn is_taken(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ADDRINUSE.raw_os_error())
}

/// Says what lies at the path.
fn taken(path: &Path, name: &SocketAddrUnix) -> io::Error {
    if !std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        return in_use("the path exists and is not a socket");
    }
    match is_answered(name) {
        Ok(true) => in_use(ANSWERED),
        Ok(false) => in_use(
            "the path is a socket that no server listens on, as one leaves behind that was killed; remove the file, or set \
             replace_stale(true)",
        ),
        Err(error) => error,
    }
}

const ANSWERED: &str = "another server is listening on this path";

fn in_use(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, why)
}

/// The turn to replace a stale socket. One server at a time looks for it: two that start at once must not remove each
/// other's socket.
///
/// The turn is a lock on a file that only this user can open, so no other user can hold it. The directory itself can be
/// locked by anybody who can read it.
struct Turn {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Turn {
    /// Waits for the turn. `None` if there can be no lock: the directory is not writable, another user's file lies there,
    /// the file system has no locks, or the holder keeps the lock too long.
    fn take(socket: &Path, deadline: Instant) -> Option<Turn> {
        let mut name = OsString::from(".");
        name.push(socket.file_name()?);
        name.push(".lock");
        let path = socket.with_file_name(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        loop {
            let lock = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).ok()?;
            let found = rustix::fs::fstat(&lock).ok()?;
            let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
            let is_own = found.st_uid == rustix::process::geteuid().as_raw() && found.st_mode & 0o077 == 0;
            if !is_file || !is_own {
                return None;
            }
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                // Not if the previous holder has removed the file.
                Ok(()) if identity(&path) == Some((found.st_dev, found.st_ino)) => {
                    return Some(Turn { path, _lock: lock });
                }
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                Err(_) => return None,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Without the lock, another server may be between bind and listen. After this long it is not.
const START: Duration = Duration::from_millis(100);

/// Removes the socket of a server that is gone, and nothing else.
fn remove_stale(path: &Path, name: &SocketAddrUnix, has_turn: bool) -> io::Result<()> {
    let stale = match SocketFile::new(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => return Err(in_use("the path exists and is not a socket")),
        Ok(stale) => stale,
    };
    if !has_turn && !is_answered(name)? {
        std::thread::sleep(START);
    }
    if is_answered(name)? {
        return Err(in_use(ANSWERED));
    }
    stale.remove()
}

/// Returns whether a server listens on that path.
fn is_answered(name: &SocketAddrUnix) -> io::Result<bool> {
    let probe = stream_socket(AddressFamily::UNIX)?;
    match connect(&probe, name) {
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(false),
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        // One for messages does not take a stream, but somebody has it.
        Err(Errno::PROTOTYPE) => Err(in_use("another process is using a socket on this path")),
        Err(error) => {
            Err(in_use(&format!("cannot determine whether another server uses this path: {}", os_text(&error.into()))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn making(file: FileSettings) -> Making<'static> {
        let open = &|| stream_socket(AddressFamily::UNIX);
        Making { open, listen: &|fd| Ok(crate::sys::listen(fd, 1)?), file }
    }

    #[test]
    fn a_restricted_socket_begins_with_no_rights_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let file = FileSettings { mode: Some(0o666), ..FileSettings::default() };
        let _fd = bind(&SocketAddrUnix::new(&path).unwrap(), making(file)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0, "before it is given its mode");
    }

    #[test]
    fn only_a_socket_is_ours() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        std::fs::write(&path, "precious").unwrap();
        assert!(SocketFile::new(&path).is_err());
        let beside = directory.path().join("beside");
        let _listener = std::os::unix::net::UnixListener::bind(&beside).unwrap();
        let file = SocketFile::new(&beside).unwrap();
        std::fs::rename(&path, &beside).unwrap();
        file.set_rights(FileSettings { mode: Some(0o777), ..FileSettings::default() }).unwrap();
        file.remove().unwrap();
        assert_eq!(std::fs::read(&beside).unwrap(), b"precious");
        assert_ne!(std::fs::metadata(&beside).unwrap().mode() & 0o777, 0o777);
    }

    #[test]
    fn without_a_choice_the_umask_decides() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let beside = directory.path().join("beside");
        std::os::unix::net::UnixListener::bind(&beside).unwrap();
        let (_fd, _file) = bind_path(&path, making(FileSettings::default())).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode();
        assert_eq!(mode(&path), mode(&beside));
    }
}
