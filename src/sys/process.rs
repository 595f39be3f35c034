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
        let read = |file| fs::read_to_string(task.path().join(file));
        let (Ok(name), Ok(stat)) = (read("comm"), read("stat")) else { continue };
        if !is_exiting(&stat) {
            names.push(name.trim_end().to_owned());
        }
    }
    Ok(names)
}

/// Whether a thread has ended but for what the kernel does with it. One that was joined may be listed for a moment more.
fn is_exiting(stat: &str) -> bool {
    const PF_EXITING: u32 = 4;
    // The seventh field behind the name, which is in parentheses and may hold anything.
    let flags = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_ascii_whitespace().nth(6));
    flags.and_then(|flags| flags.parse::<u32>().ok()).is_some_and(|flags| flags & PF_EXITING != 0)
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

#[cfg(test)]
mod tests {
    use super::*;

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
