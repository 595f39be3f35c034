//! Signals: SIGINT and SIGTERM as a readable descriptor, and writes that raise no SIGPIPE.
//!
//! A GLib signal source would start GLib's worker thread, after which a process may no longer fork.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use libc::c_int;

use super::{Origin, counter};

const INTERRUPTS: [(c_int, &str); 2] = [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM")];

/// What a signal handler makes readable: one descriptor for each loop, of any thread. A handler can neither allocate nor
/// lock, so slots are added outside of it and never freed.
struct Slots {
    slots: [AtomicI32; 64],
    more: OnceLock<Box<Slots>>,
}

impl Slots {
    const fn new() -> Slots {
        Slots { slots: [const { AtomicI32::new(FREE) }; 64], more: OnceLock::new() }
    }

    fn each(&self) -> impl Iterator<Item = &AtomicI32> {
        std::iter::successors(Some(self), |slots| slots.more.get().map(|more| &**more)).flat_map(|slots| &slots.slots)
    }

    /// Takes a free slot for that descriptor.
    fn take(&self, fd: RawFd) -> &AtomicI32 {
        let mut block = self;
        loop {
            let taken =
                |slot: &&AtomicI32| slot.compare_exchange(FREE, fd, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if let Some(slot) = block.slots.iter().find(taken) {
                return slot;
            }
            block = block.more.get_or_init(|| Box::new(Slots::new()));
        }
    }
}

const FREE: c_int = -1;

/// A signal handler of ours: the process that installed it, and whom it tells.
pub(super) struct Catcher {
    /// A forked copy inherits the handler and the descriptors, which it shares with the process that they belong to.
    process: AtomicU32,
    /// What the handler has replaced: ignoring the signal, or the default.
    was_ignored: AtomicBool,
    slots: Slots,
}

impl Catcher {
    pub(super) const fn new() -> Catcher {
        Catcher { process: AtomicU32::new(0), was_ignored: AtomicBool::new(false), slots: Slots::new() }
    }

    /// Makes the handler tell this process. What it told in the process that this one is a copy of is forgotten.
    pub(super) fn belong_here(&self) {
        let own = std::process::id();
        let before = self.process.swap(own, Ordering::AcqRel);
        if before != 0 && before != own {
            self.slots.each().for_each(|slot| slot.store(FREE, Ordering::Release));
        }
    }

    /// In the child of [`fork`](super::fork), which goes on in the place of its parent.
    pub(super) fn replace_parent(&self) {
        if self.process.load(Ordering::Acquire) != 0 {
            self.process.store(std::process::id(), Ordering::Release);
        }
    }

    pub(super) fn install(&self, signal: c_int, handler: extern "C" fn(c_int)) {
        self.was_ignored.store(disposition(signal) == libc::SIG_IGN, Ordering::Release);
        set_disposition(signal, handler as *const () as libc::sighandler_t);
    }

    /// Has the handler make the descriptor readable, until the slot is freed.
    pub(super) fn take_slot(&self, fd: RawFd) -> &AtomicI32 {
        self.slots.take(fd)
    }

    /// For the handler.
    pub(super) fn handle(&self, signal: c_int) {
        // SAFETY: only atomics, `getpid`, `sigaction`, `raise`, `write` and errno, all of which a signal handler may use.
        // A descriptor that is closed at this very moment makes the write fail, or wakes a stranger's descriptor once,
        // eight bytes long; the slot is freed before the descriptor is closed, which leaves that to another thread's loop
        // ending in the same instant.
        unsafe {
            let errno = *libc::__errno_location();
            if libc::getpid().cast_unsigned() != self.process.load(Ordering::Acquire) {
                // A forked copy: the signal is its own, and does what it did before. It is blocked until we return.
                if !self.was_ignored.load(Ordering::Acquire) {
                    set_disposition(signal, libc::SIG_DFL);
                    libc::raise(signal);
                }
            } else {
                for fd in self.slots.each().map(|slot| slot.load(Ordering::Acquire)).filter(|fd| *fd != FREE) {
                    let one = 1u64;
                    libc::write(fd, (&raw const one).cast(), size_of::<u64>());
                }
            }
            *libc::__errno_location() = errno;
        }
    }
}

pub(super) fn free_slot(slot: &AtomicI32) {
    slot.store(FREE, Ordering::Release);
}

static CATCHER: Catcher = Catcher::new();

/// Which of the signals have our handler, and for how many loops.
static CAUGHT: Mutex<Caught> = Mutex::new(Caught { signals: [false; INTERRUPTS.len()], loops: 0, origin: None });

struct Caught {
    signals: [bool; INTERRUPTS.len()],
    loops: usize,
    /// Who counted.
    origin: Option<Origin>,
}

/// While this lives, its descriptor becomes readable at SIGINT and SIGTERM, as far as the program has left those at their
/// default. The default comes back when the last one goes.
pub(crate) struct Interrupts {
    fd: Rc<OwnedFd>,
    slot: &'static AtomicI32,
    origin: Origin,
}

thread_local! {
    static HERE: RefCell<(Weak<OwnedFd>, Option<Origin>)> = const { RefCell::new((Weak::new(), None)) };
}

/// What tells a wait within a loop of this thread that the loop is to end. It stays readable, for the loop itself. `None`
/// where no loop runs that catches signals: there they do what the program has chosen.
pub(crate) fn interrupts_here() -> Option<Rc<OwnedFd>> {
    HERE.with(|here| {
        let here = here.borrow();
        // A forked copy is not meant by the signals of its parent.
        here.0.upgrade().filter(|_| here.1.is_some_and(Origin::is_here))
    })
}

impl Interrupts {
    /// `None` if the program handles or ignores both signals.
    pub(crate) fn catch() -> io::Result<Option<Interrupts>> {
        let mut caught = caught();
        let origin = Origin::here();
        if caught.origin.replace(origin) != Some(origin) {
            caught.loops = 0;
        }
        let ours = on_interrupt as *const () as libc::sighandler_t;
        if caught.loops == 0 {
            for (have, (signal, _)) in caught.signals.iter_mut().zip(INTERRUPTS) {
                // Ours: inherited by a forked copy.
                *have = [libc::SIG_DFL, ours].contains(&disposition(signal));
            }
        }
        if !caught.signals.contains(&true) {
            return Ok(None);
        }
        let fd = Rc::new(counter()?);
        CATCHER.belong_here();
        let slot = CATCHER.take_slot(fd.as_raw_fd());
        if caught.loops == 0 {
            for (_, (signal, _)) in caught.signals.iter().zip(INTERRUPTS).filter(|(have, _)| **have) {
                set_disposition(signal, ours);
            }
        }
        caught.loops += 1;
        HERE.with(|here| here.replace((Rc::downgrade(&fd), Some(origin))));
        Ok(Some(Interrupts { fd, slot, origin }))
    }

    /// Returns the names of signals that this would tell, and that every thread of the process has blocked.
    pub(crate) fn blocked() -> Vec<&'static str> {
        let signals = caught().signals;
        let caught = INTERRUPTS.iter().zip(signals).filter(|(_, have)| *have);
        caught.map(|(signal, _)| *signal).filter(|(signal, _)| is_blocked(*signal)).map(|(_, name)| name).collect()
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        if !self.origin.is_here() {
            return;
        }
        let mut caught = caught();
        caught.loops -= 1;
        if caught.loops == 0 {
            let ours = on_interrupt as *const () as libc::sighandler_t;
            for (_, (signal, _)) in caught.signals.iter().zip(INTERRUPTS).filter(|(have, _)| **have) {
                // The program may have put a handler of its own in meanwhile.
                if disposition(signal) == ours {
                    set_disposition(signal, libc::SIG_DFL);
                }
            }
        }
        free_slot(self.slot);
    }
}

fn caught() -> MutexGuard<'static, Caught> {
    CAUGHT.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn on_interrupt(signal: c_int) {
    CATCHER.handle(signal);
}

/// In the child of [`fork`](super::fork): the handlers are its own now.
pub(super) fn replace_parent() {
    CATCHER.replace_parent();
    super::hangups::CATCHER.replace_parent();
}

/// Returns whether no thread of the process can receive the signal.
fn is_blocked(signal: c_int) -> bool {
    let mut mask = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: asks only, into a set, for which all zeros is a valid value.
    let here = unsafe {
        libc::pthread_sigmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr());
        libc::sigismember(mask.as_ptr(), signal) == 1
    };
    // Programs block signals in their worker threads, so that the main thread gets them. Without /proc this one counts.
    here && fs::read_dir("/proc/self/task").map_or(true, |tasks| {
        tasks.flatten().all(|task| blocks(&fs::read_to_string(task.path().join("status")).unwrap_or_default(), signal))
    })
}

/// Reads a thread's mask from its `/proc/…/status`. A thread that has ended since receives nothing.
fn blocks(status: &str, signal: c_int) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|mask| mask >> (signal - 1) & 1 == 1)
}

pub(super) fn disposition(signal: c_int) -> libc::sighandler_t {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks only, into a structure of the right type, for which all zeros is a valid value.
    unsafe {
        libc::sigaction(signal, ptr::null(), old.as_mut_ptr());
        old.assume_init().sa_sigaction
    }
}

pub(super) fn set_disposition(signal: c_int, handler: libc::sighandler_t) {
    // SAFETY: all zeros is a valid `sigaction`; the handler is async-signal-safe and takes one argument, so it goes
    // without SA_SIGINFO. SA_RESTART spares other code's system calls from EINTR; our loop is woken by the descriptor.
    unsafe {
        let mut new = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
        new.sa_sigaction = handler;
        new.sa_flags = libc::SA_RESTART;
        libc::sigaction(signal, &new, ptr::null_mut());
    }
}

/// Runs a `write` on a descriptor that is not a socket, so that a broken pipe is an error and not the end of the program.
/// Rust programs ignore SIGPIPE, but a Rust library in a C program must not count on it, nor change it for the others.
pub(crate) fn without_sigpipe<T>(write: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if disposition(libc::SIGPIPE) == libc::SIG_IGN {
        return write();
    }
    // SAFETY: sets of signals on the stack, for which all zeros is valid, given to calls that change this thread's mask
    // alone; it is put back as it was. A SIGPIPE that our write raised is directed at this thread and is pending, so
    // taking it does not wait.
    unsafe {
        let mut pipe = MaybeUninit::<libc::sigset_t>::zeroed().assume_init();
        let mut before = pipe;
        let mut pending = pipe;
        libc::sigemptyset(&mut pipe);
        libc::sigaddset(&mut pipe, libc::SIGPIPE);
        libc::sigpending(&mut pending);
        let was_pending = libc::sigismember(&pending, libc::SIGPIPE) == 1;
        libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, &mut before);
        let result = write();
        let broken = result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if broken && !was_pending {
            let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            libc::sigtimedwait(&pipe, ptr::null_mut(), &now);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        result
    }
}
