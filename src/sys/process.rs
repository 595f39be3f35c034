//! Processes: telling a forked copy from the original, daemonizing by fork, and exiting without destructors.

use std::io::{self, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, ptr};

/// Counts the forks between the first process and this one.
static FORKS: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// The process in which a value was created.
///
/// A forked child has copies of values that share their files, sockets and signals with the parent. A type that would
/// change these on drop keeps an `Origin` and does nothing if [`is_here`](Origin::is_here) is false. The child of
/// [`fork`] replaces its parent, so for it everything created before counts as its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin(u32);

impl Origin {
    /// Returns the origin of a value created now. From the first call on, forks are counted.
    pub(crate) fn here() -> Origin {
        static COUNTED: Once = Once::new();
        COUNTED.call_once(|| {
            // SAFETY: in the child of each `fork` the handler does nothing but count. If there is no memory for it, forks
            // go unnoticed.
            unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
        });
        Origin(FORKS.load(Ordering::Relaxed))
    }

    /// Returns false in a forked copy of the process that created the value. Makes no system call: the engine asks in
    /// each loop iteration. A child made by a bare `clone` system call is not noticed.
    #[inline]
    pub(crate) fn is_here(self) -> bool {
        FORKS.load(Ordering::Relaxed) == self.0
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_recognized_where_they_were_created() {
        let origin = Origin::here();
        assert!(origin.is_here());
        // SAFETY: the child makes system calls only, and ends without running anything else.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let own = Origin::here();
            let known = !origin.is_here() && own.is_here() && own != origin;
            // SAFETY: ends the child.
            unsafe { libc::_exit(i32::from(!known)) };
        }
        let mut status = 0;
        // SAFETY: waits for the child made above; the status has a place.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0, "the child takes itself for its parent");
        assert!(origin.is_here());
    }
}
