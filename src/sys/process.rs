//! Going into the background: fork, and leaving without destructors.

use std::io::{self, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, ptr};

/// Counts the forks between the first process and this one, but for those whose child goes on in its parent's place.
static FORKS: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Marks the process in which something was made that a fork shares with the child: an epoll set, a connection, a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin(u32);

impl Origin {
    /// Returns the mark of this process. From the first call on forks are counted.
    pub(crate) fn here() -> Self {
        static COUNTED: Once = Once::new();
        COUNTED.call_once(|| {
            // SAFETY: the handler does nothing but count. It is called in the child of each `fork`; without it, for lack of memory,
            // forks are not noticed.
            unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
        });
        Origin(FORKS.load(Ordering::Relaxed))
    }

    /// Returns whether this process is a forked copy of the one where that was made: then it is the other's to end.
    #[inline]
    pub(crate) fn is_elsewhere(self) -> bool {
        FORKS.load(Ordering::Relaxed) != self.0
    }
}

/// Which side of the fork this is.
pub(crate) enum Forked {
    /// With the number of the child.
    Parent(i32),
    Child,
}

/// The names of this process's threads besides the calling one.
pub(crate) fn other_threads() -> io::Result<Vec<String>> {
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut names = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        if task.file_name().as_encoded_bytes() == own.as_bytes() {
            continue;
        }
        // One that has ended since is none.
        if let Ok(name) = fs::read_to_string(task.path().join("comm")) {
            names.push(name.trim_end().to_owned());
        }
    }
    Ok(names)
}

/// Forks. What either side prints must not be printed by the other as well, so buffered output goes out first.
///
/// # Errors
/// Refuses when there are other threads, which would be missing in the child with their locks held.
pub(crate) fn fork() -> io::Result<Forked> {
    if !other_threads()?.is_empty() {
        return Err(io::Error::other("the process has other threads"));
    }
    flush_stdio();
    let origin = Origin::here();
    // SAFETY: there is no other thread, so the child finds no lock held and no structure half changed.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // It takes over all that the parent has, which ends without touching it.
            FORKS.store(origin.0, Ordering::Relaxed);
            Ok(Forked::Child)
        }
        child => Ok(Forked::Parent(child)),
    }
}

/// Ends the process now, running no destructor: those would unlink what the child still uses.
pub(crate) fn exit_now(status: i32) -> ! {
    flush_stdio();
    // SAFETY: ends the process.
    unsafe { libc::_exit(status) }
}

fn flush_stdio() {
    let _ = io::stdout().flush();
    // SAFETY: null stands for all of C's streams.
    unsafe { libc::fflush(ptr::null_mut()) };
}
