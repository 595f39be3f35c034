//! Reloading on SIGHUP.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};

use rustix::process::Signal;

use super::{stand_in, systemd};
use crate::engine::{CallbackSlot, Engine, Handler, Key, Next, Ready, Registration};
use crate::error::{Error, Operation, Result};
use crate::log;
use crate::sys::Hangups;

thread_local! {
    /// One for each main context of this thread.
    static RELOADS: RefCell<Vec<Rc<Reload>>> = const { RefCell::new(Vec::new()) };
}

struct Reload {
    /// Weak, because the engine owns this.
    engine: Weak<Engine>,
    hangups: Hangups,
    key: Cell<Option<Key>>,
    /// The library's own action, before the callback.
    own: RefCell<Option<Rc<dyn Fn()>>>,
    callback: CallbackSlot<dyn FnMut()>,
}

/// Sets a callback for SIGHUP, the signal to reload settings. It runs from the main loop.
///
/// Replaces any previous callback. Signals that arrive close together may be coalesced. The signal is caught from the first
/// call on, also while no loop runs; before that, SIGHUP ends the process by default, and is ignored under `nohup`. Under
/// systemd, `RELOADING=1` is sent before the callback, and `READY=1` after it.
///
/// # Errors
/// [`Error::Unsupported`] if the program handles SIGHUP itself. [`Error::WrongThread`] if another thread owns the main
/// context. [`Error::Io`] if no file descriptors are left.
///
/// # Example
/// ```
/// network::daemon::on_reload(|| println!("reading the settings"))?;
/// # Ok::<(), network::Error>(())
/// ```
pub fn on_reload(callback: impl FnMut() + 'static) -> Result {
    Reload::current()?.callback.set(Box::new(callback));
    Ok(())
}

/// Sets the library's own action on SIGHUP, which runs before the program's callback.
pub(crate) fn set_own(action: impl Fn() + 'static) -> Result {
    Reload::current()?.own.replace(Some(Rc::new(action)));
    Ok(())
}

impl Reload {
    fn current() -> Result<Rc<Reload>> {
        let engine = Engine::current()?;
        let failed = |source| Error::Io { operation: Operation::Signal, address: "SIGHUP".into(), source };
        let known = RELOADS.with(|reloads| {
            let mut reloads = reloads.borrow_mut();
            reloads.retain(|reload| reload.key.get().is_some() && reload.hangups.is_here());
            reloads.iter().find(|reload| reload.engine.as_ptr() == Rc::as_ptr(&engine)).cloned()
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let Some(hangups) = Hangups::catch().map_err(failed)? else {
            return Err(Error::Unsupported("the program already handles SIGHUP".into()));
        };
        let reload = Rc::new(Reload {
            engine: Rc::downgrade(&engine),
            hangups,
            key: Cell::new(None),
            own: RefCell::new(None),
            callback: CallbackSlot::default(),
        });
        let registration =
            Registration { input: reload.hangups.as_fd(), input_blocks: false, output: None, write: false };
        reload.key.set(Some(engine.register(registration, reload.clone()).map_err(failed)?));
        RELOADS.with(|reloads| reloads.borrow_mut().push(reload.clone()));
        Ok(reload)
    }
}

impl Handler for Reload {
    fn ready(self: Rc<Self>, engine: &Rc<Engine>, _ready: Ready) -> Next {
        if stand_in::is_standing_in() {
            if matches!(rustix::io::read(&self.hangups, &mut [0; 8]), Ok(8)) {
                stand_in::forward(Signal::HUP);
            }
            return Next::Idle;
        }
        // Not while the callback is on the stack, in a nested loop: the counter keeps the signal.
        if self.callback.is_busy() || !matches!(rustix::io::read(&self.hangups, &mut [0; 8]), Ok(8)) {
            return Next::Idle;
        }
        log::info("reload").say(format_args!("SIGHUP: reloading"));
        systemd::reloading();
        let own = self.own.borrow().clone();
        if let Some(own) = own {
            own();
        }
        self.callback.call(engine, |callback| callback());
        systemd::tell("READY=1");
        // Another signal may have arrived meanwhile.
        Next::Again
    }

    fn context_ended(self: Rc<Self>) {
        self.key.set(None);
        let callback = (self.callback.take(), self.own.take());
        drop(callback);
    }
}
