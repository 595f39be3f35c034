//! Unix sockets to listen on: with the rights that they are to have from the first moment on, and in the place of what a
//! server has left that is gone.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Gid, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::AddressFamily;

use super::listening::{FileSettings, ListenOptions};
use crate::address::UnixName;
use crate::connect::unix_address;
use crate::sys::{Origin, pass_descriptors, stream_socket};

/// How long another server may take to take a path over, before we give up waiting for our turn to look.
const TURN: Duration = Duration::from_secs(2);

/// The path of a unix socket, and which file it was when we made it.
pub(super) struct SocketFile {
    path: PathBuf,
    identity: Option<(u64, u64)>,
    origin: Origin,
}

impl SocketFile {
    pub(super) fn new(path: &Path) -> Self {
        // The working directory may change before it is removed.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.into());
        SocketFile { identity: identity(&path), path, origin: Origin::here() }
    }

    /// Removes it, if it is still the one that was made. While the socket is open no other file can have its number.
    pub(super) fn remove(&self) {
        // A forked copy of the process leaves it to that.
        let is_own = self.identity.is_some() && !self.origin.is_elsewhere();
        if is_own && identity(&self.path) == self.identity {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Gives the file its group and mode, by a handle on just that file.
    fn set_rights(&self, settings: FileSettings) -> io::Result<()> {
        let failed = |what: String, error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
        let fd = rustix::fs::open(&self.path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let status = rustix::fs::fstat(&fd)?;
        if Some((status.st_dev, status.st_ino)) != self.identity {
            return Err(io::Error::other("somebody has replaced the socket that was just made"));
        }
        if let Some(group) = settings.group {
            rustix::fs::chownat(&fd, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)
                .map_err(|error| failed(format!("its group cannot be {group}"), error.into()))?;
        }
        let mode = settings.mode.unwrap_or(0o660);
        std::fs::set_permissions(format!("/proc/self/fd/{}", fd.as_raw_fd()), Permissions::from_mode(mode))
            .map_err(|error| failed(format!("its mode cannot be {mode:03o}"), error))
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Listens on a path.
pub(super) fn bind_path(path: &Path, how: ListenOptions<'_>) -> io::Result<(OwnedFd, SocketFile)> {
    let settings = how.file;
    let name = UnixName::Path(path.into());
    // Until it listens, it looks as if nobody did.
    let _turn = if settings.replace_stale { take_turn(path)? } else { None };
    let fd = match bind(&name, how) {
        Err(error) if is_taken(&error) && settings.replace_stale => {
            remove_stale(path, &name)?;
            bind(&name, how)
        }
        bound => bound,
    };
    let is_socket = || std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let fd = fd.map_err(|error| match is_taken(&error) {
        true if is_socket() => in_use(
            "that path exists already; if no other server uses it, remove it first, or have it taken over (replace_stale)",
        ),
        true => in_use("that path exists already, and is no socket"),
        false => error,
    })?;
    let file = SocketFile::new(path);
    let rights = if settings.restricts() { file.set_rights(settings) } else { Ok(()) };
    if let Err(error) = rights.and_then(|()| Ok(rustix::net::listen(&fd, how.backlog)?)) {
        file.remove();
        return Err(error);
    }
    Ok((fd, file))
}

/// Listens on an abstract name.
pub(super) fn bind_abstract(name: &UnixName, how: ListenOptions<'_>) -> io::Result<OwnedFd> {
    let fd = bind(name, how)?;
    rustix::net::listen(&fd, how.backlog)?;
    Ok(fd)
}

/// A socket with that name. If its file is to have rights of its own, it has none at all yet: the file gets the mode that
/// the socket has, and what is chosen by a process-wide umask would not be ours alone.
fn bind(name: &UnixName, how: ListenOptions<'_>) -> io::Result<OwnedFd> {
    let fd = stream_socket(AddressFamily::UNIX)?;
    how.tuning.apply(fd.as_fd(), AddressFamily::UNIX)?;
    pass_descriptors(fd.as_fd(), how.tuning.descriptors > 0);
    if how.file.restricts() {
        rustix::fs::fchmod(&fd, Mode::empty())?;
    }
    rustix::net::bind(&fd, &unix_address(name)?)?;
    Ok(fd)
}

fn is_taken(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ADDRINUSE.raw_os_error())
}

fn in_use(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, why)
}

/// One server at a time looks for what is left over: two that start at once must not each remove the other's socket.
/// `None` where the directory cannot be locked because it cannot be read.
fn take_turn(path: &Path) -> io::Result<Option<OwnedFd>> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(directory, flags, Mode::empty()) {
        Err(Errno::ACCESS) => return Ok(None),
        opened => opened?,
    };
    let deadline = Instant::now() + TURN;
    loop {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Err(Errno::WOULDBLOCK) => return Err(in_use("another program keeps the directory of that path locked")),
            locked => return locked.map(|()| Some(directory)).map_err(io::Error::from),
        }
    }
}

/// Removes the socket of a server that is gone, and nothing else.
fn remove_stale(path: &Path, name: &UnixName) -> io::Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(in_use("that path exists already, and is no socket: it is left alone"));
    }
    let probe = stream_socket(AddressFamily::UNIX)?;
    match rustix::net::connect(&probe, &unix_address(name)?) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::CONNREFUSED) if identity(path) == Some((found.dev(), found.ino())) => std::fs::remove_file(path),
        Ok(()) | Err(Errno::AGAIN) => Err(in_use("another server answers on that path")),
        Err(error) => Err(in_use(&format!("whether another server uses that path cannot be found out: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Tuning;

    #[test]
    fn a_restricted_socket_begins_with_no_rights_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let file = FileSettings { mode: Some(0o666), ..FileSettings::default() };
        let _fd = bind(&UnixName::Path(path.clone()), ListenOptions { backlog: 1, tuning: &Tuning::default(), file })
            .unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0, "before it is given its mode");
    }

    #[test]
    fn without_a_choice_the_umask_decides() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let beside = directory.path().join("beside");
        std::os::unix::net::UnixListener::bind(&beside).unwrap();
        let (_fd, _file) =
            bind_path(&path, ListenOptions { backlog: 1, tuning: &Tuning::default(), file: FileSettings::default() })
                .unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode();
        assert_eq!(mode(&path), mode(&beside));
    }
}
