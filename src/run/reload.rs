//! SIGHUP: the program's settings are to be loaded anew.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};

use super::systemd;
use crate::engine::{Engine, Handler, Key, Next, Ready, Registration, call};
use crate::error::{Error, Operation, Result};
use crate::log;
use crate::sys::Hangups;

type Callback = Box<dyn FnMut()>;

thread_local! {
    /// Those of this thread's main contexts.
    static RELOADS: RefCell<Vec<Rc<Reload>>> = const { RefCell::new(Vec::new()) };
}

struct Reload {
    /// Does not keep its engine: the engine keeps it.
    engine: Weak<Engine>,
    hangups: Hangups,
    key: Cell<Option<Key>>,
    /// What the library itself does first.
    own: RefCell<Option<Rc<dyn Fn()>>>,
    /// Taken while it runs.
    callback: RefCell<Option<Callback>>,
    set: Cell<bool>,
}

/// Calls `callback`, from the main loop, whenever the process gets SIGHUP, by which services are told to load their
/// settings anew. In the place of the one that was set before; of several signals at once there may be one call.
///
/// Without this SIGHUP does what it did before: by default it ends the process, under `nohup` nothing. From the first call
/// on it is caught, even while no loop runs. For a service of systemd's the callback is what happens between `RELOADING=1`
/// and `READY=1`.
///
/// # Errors
/// [`Error::Unsupported`] if the program handles SIGHUP itself; [`Error::WrongThread`] if another thread has the
/// thread-default main context; [`Error::Io`] if the system gives no descriptor.
///
/// ```
/// network::daemon::on_reload(|| println!("the settings are read again"))?;
/// # Ok::<(), network::Error>(())
/// ```
pub fn on_reload(callback: impl FnMut() + 'static) -> Result {
    let reload = Reload::current()?;
    reload.set.set(true);
    let old = reload.callback.replace(Some(Box::new(callback)));
    drop(old);
    Ok(())
}

/// Has the library itself do something at each SIGHUP, before the program's callback.
pub(crate) fn first(action: impl Fn() + 'static) -> Result {
    Reload::current()?.own.replace(Some(Rc::new(action)));
    Ok(())
}

impl Reload {
    fn current() -> Result<Rc<Reload>> {
        let engine = Engine::current()?;
        let failed = |source| Error::Io { operation: Operation::Signal, address: "SIGHUP".into(), source };
        let known = RELOADS.with(|reloads| {
            let mut reloads = reloads.borrow_mut();
            reloads.retain(|reload| reload.key.get().is_some());
            reloads.iter().find(|reload| reload.engine.as_ptr() == Rc::as_ptr(&engine)).cloned()
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let Some(hangups) = Hangups::catch().map_err(failed)? else {
            return Err(Error::Unsupported("SIGHUP is handled by the program itself".into()));
        };
        let reload = Rc::new(Reload {
            engine: Rc::downgrade(&engine),
            hangups,
            key: Cell::new(None),
            own: RefCell::new(None),
            callback: RefCell::new(None),
            set: Cell::new(false),
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
        // While it is on the stack, in a nested loop, it is told afterwards: the count stays.
        let callback = self.callback.take();
        if callback.is_none() && self.set.get() {
            return Next::Idle;
        }
        if !matches!(rustix::io::read(&self.hangups, &mut [0; 8]), Ok(8)) {
            self.callback.replace(callback);
            return Next::Idle;
        }
        log::info("reload").say(format_args!("SIGHUP: loading anew"));
        systemd::reloading();
        let own = self.own.borrow().clone();
        if let Some(own) = own {
            own();
        }
        if let Some(mut callback) = callback {
            call(engine, &mut callback);
            // It may have set another.
            let mut place = self.callback.borrow_mut();
            if place.is_none() {
                *place = Some(callback);
            }
        }
        systemd::tell("READY=1");
        // There may have been another signal meanwhile.
        Next::Again
    }

    fn context_ended(self: Rc<Self>) {
        self.key.set(None);
        let callback = (self.callback.take(), self.own.take());
        drop(callback);
    }
}
