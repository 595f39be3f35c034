//! Signals: SIGINT and SIGTERM as a readable descriptor, and writes that raise no SIGPIPE.
//!
//! A GLib signal source would start GLib's worker thread, and then the process could no longer fork.

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

/// The descriptors that a signal handler makes readable: one for each loop of any thread. A handler can neither
/// allocate nor lock, so slots are added elsewhere, and never freed.
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

    /// Puts the descriptor into a free slot.
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

/// The state of a signal handler: the process that installed it, and the descriptors that it makes readable.
pub(super) struct Catcher {
    /// A forked copy inherits the handler, and shares the descriptors with this process.
    process: AtomicU32,
    /// Set if the handler has replaced `SIG_IGN`, not the default.
    was_ignored: AtomicBool,
    slots: Slots,
}

impl Catcher {
    pub(super) const fn new() -> Catcher {
        Catcher { process: AtomicU32::new(0), was_ignored: AtomicBool::new(false), slots: Slots::new() }
    }

    /// Makes the handler work for this process. In a forked copy, the descriptors of the original are forgotten.
    pub(super) fn belong_here(&self) {
        let own = std::process::id();
        let before = self.process.swap(own, Ordering::AcqRel);
        if before != 0 && before != own {
            self.slots.each().for_each(|slot| slot.store(FREE, Ordering::Release));
        }
    }

    /// Makes the handler work for the child of [`fork`](super::fork), which replaces its parent.
    pub(super) fn replace_parent(&self) {
        if self.process.load(Ordering::Acquire) != 0 {
            self.process.store(std::process::id(), Ordering::Release);
        }
    }

    pub(super) fn install(&self, signal: c_int, handler: extern "C" fn(c_int)) {
        self.was_ignored.store(disposition(signal) == libc::SIG_IGN, Ordering::Release);
        set_disposition(signal, handler as *const () as libc::sighandler_t);
    }

    /// Makes the handler write to the descriptor until the slot is freed.
    pub(super) fn take_slot(&self, fd: RawFd) -> &AtomicI32 {
        self.slots.take(fd)
    }

    /// The body of the handler.
    pub(super) fn handle(&self, signal: c_int) {
        // SAFETY: only atomics, `getpid`, `sigaction`, `raise`, `write` and errno, all of which a signal handler may use.
        // A slot is freed before its descriptor is closed. Only if another thread's loop ends in this very moment, the write
        // fails, or reaches another descriptor of that number.
        unsafe {
            let errno = *libc::__errno_location();
            if libc::getpid().cast_unsigned() != self.process.load(Ordering::Acquire) {
                // A forked copy: the signal has its former effect, as soon as this returns and it is no longer blocked.
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

/// The signals that have our handler, and for how many loops.
static CAUGHT: Mutex<Caught> = Mutex::new(Caught { signals: [false; INTERRUPTS.len()], loops: 0, origin: None });

struct Caught {
    signals: [bool; INTERRUPTS.len()],
    loops: usize,
    /// The process that counted.
    origin: Option<Origin>,
}

/// A descriptor that becomes readable on SIGINT and SIGTERM, unless the program handles or ignores them, while this
/// lives. When the last one is dropped, the default is restored.
pub(crate) struct Interrupts {
    fd: Rc<OwnedFd>,
    slot: &'static AtomicI32,
    origin: Origin,
}

thread_local! {
    static HERE: RefCell<(Weak<OwnedFd>, Option<Origin>)> = const { RefCell::new((Weak::new(), None)) };
}

/// Returns the descriptor that tells waits within a loop of this thread that a signal ends the loop. They leave it
/// readable for the loop itself. `None` if no loop of this thread catches signals.
pub(crate) fn interrupts_here() -> Option<Rc<OwnedFd>> {
    HERE.with(|here| {
        let here = here.borrow();
        // The signals of its parent are not meant for a forked copy.
        here.0.upgrade().filter(|_| here.1.is_some_and(Origin::is_here))
    })
}

impl Interrupts {
    /// Returns `None` if the program handles or ignores both signals.
    pub(crate) fn catch() -> io::Result<Option<Interrupts>> {
        let mut caught = caught();
        let origin = Origin::here();
        if caught.origin.replace(origin) != Some(origin) {
            caught.loops = 0;
        }
        let ours = on_interrupt as *const () as libc::sighandler_t;
        if caught.loops == 0 {
            for (have, (signal, _)) in caught.signals.iter_mut().zip(INTERRUPTS) {
                // A forked copy has inherited our handler.
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

    /// Returns the names of caught signals that every thread of the process blocks.
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
                // The program may have installed its own handler meanwhile.
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

/// Makes all handlers work for the child of [`fork`](super::fork).
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
    // Programs block signals in worker threads so that the main thread gets them. Without /proc, this thread counts.
    here && fs::read_dir("/proc/self/task").map_or(true, |tasks| {
        tasks.flatten().all(|task| blocks(&fs::read_to_string(task.path().join("status")).unwrap_or_default(), signal))
    })
}

/// Reads the signal mask from a thread's `/proc/…/status`. A thread that has ended receives nothing.
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

/// Runs a `write` on a descriptor that is not a socket. A broken pipe is an error and does not end the program. Rust
/// programs ignore SIGPIPE, but a Rust library in a C program must neither rely on that nor change it.
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
