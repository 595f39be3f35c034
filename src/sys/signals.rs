//! Signals: SIGINT and SIGTERM as a readable descriptor, and writes that raise no SIGPIPE.
//!
//! A GLib signal source would start GLib's worker thread, after which a process may no longer fork.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::c_int;
use rustix::event::{EventfdFlags, eventfd};

const INTERRUPTS: [c_int; 2] = [libc::SIGINT, libc::SIGTERM];

/// One place for each loop, of any thread, that wants to be told. A fixed number, because a signal handler can neither
/// allocate nor lock.
static PLACES: [AtomicI32; 64] = [const { AtomicI32::new(-1) }; 64];

/// Which of the signals have our handler, and for how many loops.
static CAUGHT: Mutex<Caught> = Mutex::new(Caught { signals: [false; INTERRUPTS.len()], loops: 0 });

struct Caught {
    signals: [bool; INTERRUPTS.len()],
    loops: usize,
}

/// While this lives, its descriptor becomes readable at SIGINT and SIGTERM, as far as the program has left those at their
/// default. The default comes back when the last one goes.
pub(crate) struct Interrupts {
    fd: Rc<OwnedFd>,
    place: usize,
}

thread_local! {
    static HERE: RefCell<Weak<OwnedFd>> = const { RefCell::new(Weak::new()) };
}

/// What tells a wait within a loop of this thread that the loop is to end. It stays readable, for the loop itself. `None`
/// where no loop runs that catches signals: there they do what the program has chosen.
pub(crate) fn interrupts_here() -> Option<Rc<OwnedFd>> {
    HERE.with(|here| here.borrow().upgrade())
}

impl Interrupts {
    /// `None` if the program handles or ignores both signals, or 64 loops wait for them already.
    pub(crate) fn catch() -> io::Result<Option<Interrupts>> {
        let mut caught = caught();
        if caught.loops == 0 {
            for (have, &signal) in caught.signals.iter_mut().zip(&INTERRUPTS) {
                *have = disposition(signal) == libc::SIG_DFL;
            }
        }
        if !caught.signals.contains(&true) {
            return Ok(None);
        }
        let fd = Rc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let taken =
            |place: &AtomicI32| place.compare_exchange(-1, fd.as_raw_fd(), Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let Some(place) = PLACES.iter().position(taken) else { return Ok(None) };
        if caught.loops == 0 {
            for (_, &signal) in caught.signals.iter().zip(&INTERRUPTS).filter(|(have, _)| **have) {
                set_disposition(signal, on_interrupt as *const () as libc::sighandler_t);
            }
        }
        caught.loops += 1;
        HERE.with(|here| here.replace(Rc::downgrade(&fd)));
        Ok(Some(Interrupts { fd, place }))
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        let mut caught = caught();
        caught.loops -= 1;
        if caught.loops == 0 {
            let ours = on_interrupt as *const () as libc::sighandler_t;
            for (_, &signal) in caught.signals.iter().zip(&INTERRUPTS).filter(|(have, _)| **have) {
                // The program may have put a handler of its own in meanwhile.
                if disposition(signal) == ours {
                    set_disposition(signal, libc::SIG_DFL);
                }
            }
        }
        PLACES[self.place].store(-1, Ordering::Release);
    }
}

fn caught() -> MutexGuard<'static, Caught> {
    CAUGHT.lock().unwrap_or_else(PoisonError::into_inner)
}

extern "C" fn on_interrupt(_: c_int) {
    tell(&PLACES);
}

/// Makes the descriptors readable. For signal handlers.
pub(super) fn tell(places: &[AtomicI32]) {
    // SAFETY: only atomics, `write` and errno, all of which a signal handler may use. A descriptor that is closed at this
    // very moment makes the write fail, or wakes a stranger's descriptor once, eight bytes long; the place is cleared
    // before the descriptor is closed, which leaves that to another thread's loop ending in the same instant.
    unsafe {
        let errno = *libc::__errno_location();
        for place in places {
            let fd = place.load(Ordering::Acquire);
            if fd >= 0 {
                let one = 1u64;
                libc::write(fd, (&raw const one).cast(), size_of::<u64>());
            }
        }
        *libc::__errno_location() = errno;
    }
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
