//! The pid file: contains the process ID of the daemon, which keeps it locked, so that there is one instance.

use std::cell::{Cell, RefCell};
use std::fs::{File, FileType, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::fs::OFlags;

use crate::error::{Error, Operation, Result, os_text};
use crate::log;
use crate::sys::{Origin, PID_FILE, take_inherited};

thread_local! {
    /// The running daemon's pid file, which is handed over to a successor.
    static HELD: RefCell<Weak<PidFile>> = const { RefCell::new(Weak::new()) };
}

/// Only its owner may open the file.
const MODE: u32 = 0o600;

/// The attempts to lock the file. Each lost one means that another daemon removed its file at that moment.
const ATTEMPTS: u32 = 100;

/// The largest pid file, in bytes. No process ID is that long, even beside the rest of a longer one that it replaces.
const MAX_SIZE: u64 = 64;

#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    file: File,
    /// The file belongs to another process: to a successor, or still to a predecessor.
    given: Cell<bool>,
    /// A forked copy of the process leaves the file alone.
    origin: Origin,
}

impl PidFile {
    /// Locks the file, creating it if it does not exist. A file handed over by a predecessor is locked already.
    pub(super) fn lock(path: &Path) -> Result<PidFile> {
        let failed =
            |source| Error::Io { operation: Operation::LockPidFile, address: path.display().to_string(), source };
        let path = std::path::absolute(path).map_err(failed)?;
        let handed = |file: &OwnedFd| File::from(file.try_clone()?).metadata().and_then(|own| is_at(&own, &path));
        if let Some(handed) = take_inherited(|one| one.name == PID_FILE && handed(&one.fd).unwrap_or(false)) {
            // It contains the predecessor's ID until this process is ready.
            return Ok(PidFile { path, file: handed.fd.into(), given: Cell::new(true), origin: Origin::here() });
        }
        for _ in 0..ATTEMPTS {
            let Some(Opened { mut file, is_new }) = open(&path).map_err(failed)? else { continue };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::AlreadyRunning { pid: read_soon(&mut file), path });
                }
                // Some network file systems have no locks. A daemon without a lock is better than no daemon.
                Err(TryLockError::Error(error)) => {
                    let event = log::warning("pid file").error(&error);
                    let name = path.display();
                    event.say(format_args!(
                        "cannot lock pid file {name}, a second instance would not be noticed: {}",
                        os_text(&error)
                    ));
                }
            }
            // Its owner may have removed it between opening and locking.
            if !file.metadata().and_then(|own| is_at(&own, &path)).map_err(failed)? {
                continue;
            }
            if !is_new {
                check_content(&mut file).map_err(failed)?;
            }
            let own = PidFile { path, file, given: Cell::new(!is_new), origin: Origin::here() };
            // Anybody who can open the file can lock it, and would keep the next daemon from starting. Some file
            // systems have no modes to change.
            let _ = own.file.set_permissions(Permissions::from_mode(MODE));
            own.write()?;
            return Ok(own);
        }
        Err(failed(io::Error::other("the file keeps being replaced")))
    }

    /// Makes the file available to [`held`](PidFile::held), for as long as the result lives.
    pub(super) fn hold(self) -> Rc<PidFile> {
        let held = Rc::new(self);
        HELD.with(|place| place.replace(Rc::downgrade(&held)));
        held
    }

    pub(super) fn held() -> Option<Rc<PidFile>> {
        HELD.with(|held| held.borrow().upgrade())
    }

    /// Writes the ID of this process.
    pub(super) fn write(&self) -> Result {
        let write = || {
            // Never empty meanwhile: a second instance may be reading it for its error message.
            let text = format!("{}\n", std::process::id());
            let mut file = &self.file;
            file.rewind()?;
            file.write_all(text.as_bytes())?;
            file.set_len(text.len() as u64)
        };
        write().map_err(|source| {
            let address = self.path.display().to_string();
            Error::Io { operation: Operation::WritePidFile, address, source }
        })?;
        self.given.set(false);
        Ok(())
    }

    /// Returns a copy of the descriptor, which keeps the file locked.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// Leaves the file to a successor.
    pub(super) fn release(&self) {
        self.given.set(true);
    }

    pub(super) fn remove(&self) {
        if !self.origin.is_here() || self.given.replace(true) {
            return;
        }
        let remove = || match is_at(&self.file.metadata()?, &self.path)? {
            // While the file is locked, no other daemon has created one of this name.
            true => std::fs::remove_file(&self.path),
            false => Ok(()),
        };
        if let Err(error) = remove() {
            let event = log::warning("pid file").error(&error);
            event.say(format_args!("failed to remove pid file {}: {}", self.path.display(), os_text(&error)));
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Returns whether `path` leads to the file. Fails if that cannot be told, as after setuid in a directory of root's.
fn is_at(own: &Metadata, path: &Path) -> io::Result<bool> {
    // By the call that opened the file: preloaded libraries redirect paths, but not in every call.
    match open_as_it_is(path).and_then(|there| there.metadata()) {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
        Err(error) => Err(error),
    }
}

struct Opened {
    file: File,
    is_new: bool,
}

/// Opens the file, creating it if it does not exist. Returns `None` if it was removed meanwhile.
fn open(path: &Path) -> io::Result<Option<Opened>> {
    let mut options = OpenOptions::new();
    // It may be replaced after the check: a FIFO must not block, and a terminal must not become the controlling one.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    options.read(true).write(true).mode(MODE).custom_flags(flags.bits().cast_signed());
    match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => return result.map(|file| Some(Opened { file, is_new: true })),
    }
    let checked = || -> io::Result<Opened> {
        // Opening a device can have side effects.
        check(&open_as_it_is(path)?.metadata()?)?;
        let file = options.open(path)?;
        check(&file.metadata()?)?;
        Ok(Opened { file, is_new: false })
    };
    match checked() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Opens a path for its metadata only, without following a link or touching a device.
pub(super) fn open_as_it_is(path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Rejects files that writing, locking and removing would damage.
fn check(found: &Metadata) -> io::Result<()> {
    let refused = |text: String| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    let own = rustix::process::geteuid().as_raw();
    if !found.is_file() {
        return refused(format!("expected a regular file, found {}", kind(found.file_type())));
    }
    // Zero if it has been removed just now.
    if found.nlink() > 1 {
        return refused("the file has a second name (hard link)".into());
    }
    if found.uid() != own {
        return refused(format!("the file belongs to user {}, this process runs as user {own}", found.uid()));
    }
    Ok(())
}

fn kind(found: FileType) -> &'static str {
    match found {
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_dir() => "a directory",
        kind if kind.is_fifo() => "a FIFO",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

/// Rejects a file that is neither empty nor a pid file.
fn check_content(file: &mut File) -> io::Result<()> {
    file.rewind()?;
    let mut content = Vec::new();
    file.take(MAX_SIZE + 1).read_to_end(&mut content)?;
    let is_number = content.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_whitespace());
    if is_number && content.len() as u64 <= MAX_SIZE {
        return Ok(());
    }
    let text = "the file exists and does not contain a process ID";
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// Reads the process ID. The owner of a lock that is new may be about to write it.
fn read_soon(file: &mut File) -> Option<i32> {
    for _ in 0..100 {
        let pid = read(file);
        if pid.is_some() {
            return pid;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

fn read(file: &mut File) -> Option<i32> {
    file.rewind().ok()?;
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.lines().next()?.trim().parse().ok()
}
