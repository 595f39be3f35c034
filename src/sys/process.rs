//! Processes: telling a forked copy from the original, daemonizing by fork, and exiting without destructors.

use std::io::{self, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, ptr};

use crate::error::os_text;

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

/// The two sides of a fork.
pub(crate) enum Forked {
    /// The parent, with the ID of the child.
    Parent(i32),
    Child,
}

/// Returns the names of all threads of this process except the calling one.
pub(crate) fn other_threads() -> io::Result<Vec<String>> {
    const TASKS: &str = "/proc/self/task";
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut names = Vec::new();
    let tasks = fs::read_dir(TASKS).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot count the threads in {TASKS}, is /proc mounted? ({})", os_text(&error)),
        )
    });
    for task in tasks? {
        let task = task?;
        if task.file_name().as_encoded_bytes() == own.as_bytes() {
            continue;
        }
        // One that has ended since is none.
        let read = |file| fs::read_to_string(task.path().join(file));
        let (Ok(name), Ok(stat)) = (read("comm"), read("stat")) else { continue };
        if !is_exiting(&stat) {
            names.push(name.trim_end().to_owned());
        }
    }
    Ok(names)
}

/// Returns whether a thread has ended but for what the kernel does with it. One that was joined may be listed for a
/// moment more.
fn is_exiting(stat: &str) -> bool {
    const PF_EXITING: u32 = 4;
    // The seventh field behind the name, which is in parentheses and may hold anything.
    let flags = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_ascii_whitespace().nth(6));
    flags.and_then(|flags| flags.parse::<u32>().ok()).is_some_and(|flags| flags & PF_EXITING != 0)
}

/// Forks, after flushing buffered output, which both sides would print otherwise. The child replaces the parent: see
/// [`Origin`].
///
/// # Errors
/// Fails if there are other threads: they would be missing in the child, with their locks held.
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
            super::signals::replace_parent();
            Ok(Forked::Child)
        }
        child => Ok(Forked::Parent(child)),
    }
}

/// Exits at once without running destructors, which would remove files that the child still uses.
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

    #[test]
    fn a_thread_that_was_joined_is_none() {
        for _ in 0..1000 {
            let name = "will be joined";
            std::thread::Builder::new().name(name.into()).spawn(|| ()).unwrap().join().unwrap();
            assert!(!other_threads().unwrap().iter().any(|other| other == name));
        }
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::Builder::new().name("runs (still) 4".into()).spawn(move || wait.recv()).unwrap();
        // It gives itself its name when it has begun.
        while !other_threads().unwrap().iter().any(|name| name == "runs (still) 4") {
            std::thread::yield_now();
        }
        drop(end);
        assert!(other.join().unwrap().is_err());
    }
}
