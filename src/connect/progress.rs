//! The progress of connecting, told to whoever asked for it.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use crate::engine::{Engine, call};

/// A step of connecting, as [`SocketBuilder::progress_cb`](crate::socket::SocketBuilder::progress_cb) reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectProgress {
    /// The host name or the service is being looked up.
    LookingUp,
    /// A connection to the host, or to its proxy, is being established.
    Connecting,
    /// The TLS handshake is in progress.
    Handshaking,
}

/// The callback of a builder, if it has one.
#[derive(Clone, Default)]
pub(crate) struct OnProgress(Option<Rc<dyn Fn(ConnectProgress)>>);

impl OnProgress {
    pub(crate) fn new(callback: impl Fn(ConnectProgress) + 'static) -> Self {
        OnProgress(Some(Rc::new(callback)))
    }
}

impl fmt::Debug for OnProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "a callback" } else { "none" })
    }
}

/// The progress of one attempt.
#[derive(Clone)]
pub(super) struct Progress {
    engine: Rc<Engine>,
    callback: OnProgress,
    is_over: Rc<Cell<bool>>,
}

impl Progress {
    pub(super) fn new(engine: &Rc<Engine>, callback: OnProgress) -> Self {
        Progress { engine: engine.clone(), callback, is_over: Rc::default() }
    }

    /// Calls back on the next turn, unless the attempt is over by then.
    pub(super) fn report(&self, step: ConnectProgress) {
        let (Some(callback), is_over) = (self.callback.0.clone(), self.is_over.clone()) else { return };
        self.engine.defer(move |engine| {
            if !is_over.get() {
                call(engine, || callback(step));
            }
        });
    }

    pub(super) fn end(&self) {
        self.is_over.set(true);
    }
}
