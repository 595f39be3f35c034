//! Going into the background: fork, and leaving without destructors.

use std::io::{self, Write};
use std::{fs, ptr};

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
    // SAFETY: there is no other thread, so the child finds no lock held and no structure half changed.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
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
