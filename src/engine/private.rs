//! Private main contexts: for blocking calls that need a loop, and for the threads of a server.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use futures_channel::oneshot;
use rustix::event::{EventfdFlags, eventfd};

use super::{Engine, Handler, Key, Next, Ready, Registration};
use crate::error::{Error, Operation, Result};
use crate::sys::{INTERRUPTED, interrupts_here};

/// Makes a main context.
///
/// # Errors
/// The kernel's error if the process has no file descriptor left. GLib would abort the process.
pub(crate) fn private_context() -> io::Result<glib::MainContext> {
    drop(eventfd(0, EventfdFlags::CLOEXEC)?);
    Ok(glib::MainContext::new())
}

/// Makes sure that asking for this thread's default context does not abort the process: GLib makes the default context of the
/// process when it is first asked for.
pub(super) fn check_default_context() -> io::Result<()> {
    static MADE: AtomicBool = AtomicBool::new(false);
    if !MADE.load(Ordering::Relaxed) && glib::MainContext::thread_default().is_none() {
        drop(eventfd(0, EventfdFlags::CLOEXEC)?);
        drop(glib::MainContext::default());
        MADE.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Runs a future to its end on a private main context. **Blocks**; no callback of the caller's context runs meanwhile. A signal
/// that ends the caller's loop ends the call with `Interrupted`.
pub(crate) fn block_on<T, F: Future<Output = Result<T>>>(
    operation: Operation,
    address: &str,
    start: impl FnOnce(Rc<Engine>) -> F,
) -> Result<T> {
    let failed = |source| Error::Io { operation, address: address.into(), source };
    let context = private_context().map_err(failed)?;
    block_on_context(&context, operation, address, start)
}

/// The same on a private main context that the caller keeps.
pub(crate) fn block_on_context<T, F: Future<Output = Result<T>>>(
    context: &glib::MainContext,
    operation: Operation,
    address: &str,
    start: impl FnOnce(Rc<Engine>) -> F,
) -> Result<T> {
    Engine::flush_here();
    let failed = |source| Error::Io { operation, address: address.into(), source };
    let outcome = context.with_thread_default(|| {
        let engine = Engine::current()?;
        let (mut interrupted, key) = Interruption::watch(&engine);
        let mut future = pin!(start(engine.clone()));
        let outcome = context.block_on(poll_fn(|context| match Pin::new(&mut interrupted).poll(context) {
            Poll::Ready(Ok(source)) => Poll::Ready(Err(failed(source))),
            _ => future.as_mut().poll(context),
        }));
        key.into_iter().for_each(|key| engine.deregister(key));
        outcome
    });
    outcome.map_err(|_| Error::WrongThread)?
}

/// Watches for the signal that ends the caller's loop: the blocking call ends first.
struct Interruption {
    tell: Cell<Option<oneshot::Sender<io::Error>>>,
    /// Open as long as it is watched.
    fd: Rc<OwnedFd>,
}

impl Interruption {
    /// Sends the error of an interrupted call if the signal arrives.
    fn watch(engine: &Rc<Engine>) -> (oneshot::Receiver<io::Error>, Option<Key>) {
        let (tell, told) = oneshot::channel();
        let mut key = None;
        if let Some(fd) = interrupts_here() {
            let interruption = Rc::new(Interruption { tell: Cell::new(Some(tell)), fd });
            let input = interruption.fd.as_fd();
            let registration = Registration { input, input_blocks: false, output: None, write: false };
            // If that fails, the call is not ended early.
            key = engine.register(registration, interruption.clone()).ok();
        }
        (told, key)
    }
}

impl Handler for Interruption {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, _ready: Ready) -> Next {
        if let Some(tell) = self.tell.take() {
            // The call may have ended.
            let _ = tell.send(io::Error::new(io::ErrorKind::Interrupted, INTERRUPTED));
        }
        Next::Idle
    }

    fn context_ended(self: Rc<Self>) {}
}
