//! The pid file: names the process that serves, and is locked by it, so that there is one.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

use crate::error::{Error, Operation, Result};
use crate::sys::{PID_FILE, take_inherited};

thread_local! {
    /// The one of the daemon that runs, to be handed over.
    static HELD: RefCell<Weak<PidFile>> = const { RefCell::new(Weak::new()) };
}

#[derive(Debug)]
pub(super) struct PidFile {
    path: PathBuf,
    file: File,
    /// It is another's: a successor's now, or a predecessor's still.
    given: Cell<bool>,
}

impl PidFile {
    /// Locks the file of that name, which is made if there is none. A predecessor's comes locked.
    pub(super) fn lock(path: &Path) -> Result<PidFile> {
        let failed =
            |source| Error::Io { operation: Operation::LockPidFile, address: path.display().to_string(), source };
        let path = std::path::absolute(path).map_err(failed)?;
        let handed = |file: &OwnedFd| File::from(file.try_clone()?).metadata().map(|own| is_at(&own, &path));
        if let Some(handed) = take_inherited(|one| one.name == PID_FILE && handed(&one.fd).unwrap_or(false)) {
            // It names the predecessor until this process is ready.
            return Ok(PidFile { path, file: handed.fd.into(), given: Cell::new(true) });
        }
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let opened = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o644));
            let mut file = File::from(opened.map_err(|error| failed(error.into()))?);
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(Error::AlreadyRunning { pid: read_soon(&mut file), path }),
                Err(error) => return Err(failed(error.into())),
            }
            // Its owner may have removed it between the two calls.
            if is_at(&file.metadata().map_err(failed)?, &path) {
                let own = PidFile { path, file, given: Cell::new(false) };
                own.write()?;
                return Ok(own);
            }
        }
    }

    /// From here on it can be handed over.
    pub(super) fn hold(self) -> Rc<PidFile> {
        let held = Rc::new(self);
        HELD.with(|place| place.replace(Rc::downgrade(&held)));
        held
    }

    pub(super) fn held() -> Option<Rc<PidFile>> {
        HELD.with(|held| held.borrow().upgrade())
    }

    /// Has it name this process.
    pub(super) fn write(&self) -> Result {
        let write = || {
            // It is never empty meanwhile: somebody may want to know who has it.
            let text = format!("{}\n", std::process::id());
            let mut file = &self.file;
            file.rewind()?;
            file.write_all(text.as_bytes())?;
            file.set_len(text.len() as u64)
        };
        self.given.set(false);
        write().map_err(|source| {
            let address = self.path.display().to_string();
            Error::Io { operation: Operation::WritePidFile, address, source }
        })
    }

    /// A copy that keeps it locked.
    pub(super) fn copy(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }

    /// It is a successor's from now on.
    pub(super) fn give(&self) {
        self.given.set(true);
    }

    pub(super) fn remove(&self) {
        // While it is locked, nobody else has a file of that name that counts.
        if !self.given.replace(true) && self.file.metadata().is_ok_and(|own| is_at(&own, &self.path)) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        self.remove();
    }
}

fn is_at(own: &std::fs::Metadata, path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (own.dev(), own.ino()))
}

/// Whoever has it locked just now may be about to write it.
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
    text.trim().parse().ok()
}
