//! What the loop waits for when there is nothing to do: how many descriptors, and for how long. A timer or a source that
//! was left behind shows in the system call in which the thread sleeps.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// The numbers of `poll` and `ppoll`, if the architecture has both.
#[cfg(target_arch = "x86_64")]
const POLLS: [&str; 2] = ["7", "271"];
#[cfg(not(target_arch = "x86_64"))]
const POLLS: [&str; 2] = ["", "73"];

/// In what the loop sleeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sleep {
    pub descriptors: u64,
    pub for_ever: bool,
}

/// Watches the thread that has made it, from another one.
pub struct Watcher {
    contexts: Option<Sender<glib::MainContext>>,
    sleeps: Receiver<Sleep>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub fn new() -> Watcher {
        let path = format!("/proc/self/task/{}/syscall", rustix::thread::gettid().as_raw_nonzero());
        let file = File::open(path).unwrap();
        let (contexts, to_watch) = channel::<glib::MainContext>();
        let (seen, sleeps) = channel();
        let thread = std::thread::spawn(move || {
            for context in to_watch {
                let sleep = loop {
                    if let Some(sleep) = look(&file) {
                        break sleep;
                    }
                    std::thread::yield_now();
                };
                seen.send(sleep).unwrap();
                context.wakeup();
            }
        });
        Watcher { contexts: Some(contexts), sleeps, thread: Some(thread) }
    }

    /// Lets the loop sleep, and wakes it.
    pub fn sleep(&self) -> Sleep {
        let context = glib::MainContext::ref_thread_default();
        self.contexts.as_ref().unwrap().send(context).unwrap();
        loop {
            network::iteration(true);
            if let Ok(sleep) = self.sleeps.try_recv() {
                return sleep;
            }
        }
    }
}

impl Drop for Watcher {
    /// Its descriptor is closed by then.
    fn drop(&mut self) {
        self.contexts = None;
        self.thread.take().unwrap().join().unwrap();
    }
}

/// The line has the number of the call and its arguments, or says that the thread is running.
fn look(file: &File) -> Option<Sleep> {
    let mut line = [0; 200];
    let count = file.read_at(&mut line, 0).unwrap();
    let line = std::str::from_utf8(&line[..count]).unwrap();
    let words = line.split_ascii_whitespace();
    let call = POLLS.iter().position(|number| Some(*number) == words.clone().next())?;
    let mut arguments = words.skip(1).map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap());
    let (descriptors, limit) = (arguments.nth(1)?, arguments.next()?);
    let for_ever = if call == 0 { limit as i32 == -1 } else { limit == 0 };
    Some(Sleep { descriptors, for_ever })
}
