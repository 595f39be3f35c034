//! Waiting for the disk, which no main loop can poll for: on a thread, which waits a moment for the next file.

use std::fs::File;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, SendError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// The name of the threads.
const NAME: &str = "network-sync";

/// The time that a thread waits for another file. A directory full of small ones needs one thread then, not one for each.
const IDLE: Duration = Duration::from_millis(100);

type Job = Box<dyn FnOnce() + Send>;

struct Threads {
    /// A thread without a job.
    idle: Option<Sender<Job>>,
    all: Vec<JoinHandle<()>>,
}

static THREADS: Mutex<Threads> = Mutex::new(Threads { idle: None, all: Vec::new() });

/// Nothing panics while it holds the lock.
fn threads() -> MutexGuard<'static, Threads> {
    THREADS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the disk has everything of a file. To drop the future only stops waiting.
///
/// # Errors
/// Fails if no thread can be created, or the disk fails.
pub(crate) async fn sync(file: File) -> io::Result<()> {
    let (sender, receiver) = futures_channel::oneshot::channel();
    sync_on_thread(file, move |synced| {
        // The future may have been dropped.
        let _ = sender.send(synced);
    })?;
    receiver.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
}

/// Waits on another thread until the disk has everything of a file, and calls `done` there. A disk that does not answer keeps no other
/// file waiting.
///
/// # Errors
/// Fails if no thread can be created.
fn sync_on_thread(file: File, done: impl FnOnce(io::Result<()>) + Send + 'static) -> io::Result<()> {
    let mut job: Job = Box::new(move || done(file.sync_all()));
    let mut threads = threads();
    if let Some(idle) = threads.idle.take() {
        match idle.send(job) {
            Ok(()) => return Ok(()),
            Err(SendError(back)) => job = back,
        }
    }
    threads.all.retain(|thread| !thread.is_finished());
    let thread = Builder::new().name(NAME.into()).spawn(move || work(job))?;
    threads.all.push(thread);
    Ok(())
}

fn work(mut job: Job) {
    loop {
        job();
        let (sender, receiver) = mpsc::channel();
        {
            let mut threads = threads();
            if threads.idle.is_some() {
                return;
            }
            threads.idle = Some(sender);
        }
        job = match receiver.recv_timeout(IDLE) {
            Ok(next) => next,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let mut threads = threads();
                // Who takes the sender uses it under the lock.
                let Ok(next) = receiver.try_recv() else {
                    threads.idle = None;
                    return;
                };
                next
            }
        };
    }
}

/// Waits for the end of all such threads, as a fork requires: for what the disk still has to do.
pub(crate) fn end_sync_threads() {
    let all = {
        let mut threads = threads();
        threads.idle = None;
        std::mem::take(&mut threads.all)
    };
    for thread in all {
        // The panic hook has reported a panic.
        let _ = thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync(path: &std::path::Path) -> (std::thread::ThreadId, io::Result<()>) {
        let (told, result) = mpsc::channel();
        let tell = move |synced| told.send((std::thread::current().id(), synced)).unwrap();
        sync_on_thread(File::create(path).unwrap(), tell).unwrap();
        result.recv().unwrap()
    }

    #[test]
    fn files_are_synced_and_their_threads_end() {
        let directory = tempfile::tempdir().unwrap();
        let (first, result) = sync(&directory.path().join("x"));
        result.unwrap();
        assert_ne!(first, std::thread::current().id());
        // Two at once: neither waits for the other.
        let (told, results) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let slow = told.clone();
        let waits = move |_| {
            let _ = wait.recv();
            slow.send("slow").unwrap();
        };
        sync_on_thread(File::create(directory.path().join("slow")).unwrap(), waits).unwrap();
        let fast = move |_| told.send("fast").unwrap();
        sync_on_thread(File::create(directory.path().join("fast")).unwrap(), fast).unwrap();
        assert_eq!(results.recv().unwrap(), "fast");
        drop(go);
        assert_eq!(results.recv().unwrap(), "slow");
        end_sync_threads();
        let left = crate::sys::other_threads().unwrap();
        assert!(!left.iter().any(|name| name == NAME), "{left:?}");
        // And new ones begin.
        sync(&directory.path().join("y")).1.unwrap();
        end_sync_threads();
    }
}
