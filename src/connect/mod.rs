//! Connecting: look up, race the addresses, give up in time, shake hands. One machine for the three faces, which are in
//! this file; at whatever moment it is cancelled, nothing stays behind.

mod join;
mod race;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use futures_channel::oneshot;
use gio::prelude::*;

use crate::address::{Address, endpoint};
use crate::conn::{Common, Conn, Socket, Transport};
use crate::engine::{Engine, Handler, Next, Ready, Registration, call};
use crate::error::{Error, Operation, Result};
use crate::log;
use crate::resolve::{Plan, look_up_blocking};
use crate::sys::{self, INTERRUPTED, interrupts_here};
use crate::tls::{ClientTls, Session, Tls};
use join::{Joining, Request, found_peer, remote};
pub(crate) use race::unix_address;
use race::{Race, Won};

/// Connects on a main context of its own, then moves to the caller's.
pub(crate) fn blocking(address: Address, common: Rc<Common>, tls: Option<&Tls<ClientTls>>) -> Result<Socket> {
    let engine = Engine::current()?;
    let Request { address, plan, secure, common } = Request::new(address, common, tls)?;
    Engine::flush_here();
    let started = Instant::now();
    let limit = common.options.connect_timeout;
    let plan = match plan {
        Plan::LookUp(host, port) => Plan::Direct(look_up_blocking(&address, &host, port, limit)?),
        plan => plan,
    };
    let left = limit.saturating_sub(started.elapsed());
    let context = glib::MainContext::new();
    let raced = context.with_thread_default(|| {
        let private = Engine::current()?;
        let outcome = Rc::new(Cell::new(None));
        let place = outcome.clone();
        let race = Race::start(
            &private,
            &address,
            &common.options.tuning,
            plan,
            left,
            Box::new(move |_, result| place.set(Some(result))),
        );
        let (racing, text) = (race.clone(), address.to_string());
        Interruption::watch(&private, move |source| {
            racing.finish(Err(Error::Io { operation: Operation::Connect, address: text, source }));
        });
        loop {
            if let Some(result) = outcome.take() {
                return result;
            }
            context.iteration(true);
        }
    });
    let Won { fd, service } = raced.map_err(|_| Error::WrongThread)?.map_err(|error| match error {
        // Not only what was left of it after the look-up.
        Error::TimedOut { operation, address, .. } => Error::TimedOut { operation, address, limit },
        other => other,
    })?;
    let Some((settings, peer)) = secure else {
        let remote = remote(&fd);
        let transport = Transport::socket(fd, remote.as_ref());
        return Ok(Socket::from_conn(Conn::new(&engine, transport, common, remote)?));
    };
    if is_own_server(&fd) {
        return Err(Error::Unsupported(format!(
            "a blocking connect with TLS to {address}, a server of this same thread, cannot work, since nobody would \
             answer the hand-shake: use connect_async or connect_future"
        )));
    }
    let outcome = Rc::new(Cell::new(None));
    let place = outcome.clone();
    // With a handle at once: a connection without any closes.
    let done = Box::new(move |conn: &Rc<Conn>, result: Result| {
        place.set(Some(result.map(|()| Socket::from_conn(conn.clone()))));
    });
    let remote = remote(&fd);
    let peer = found_peer(&address, &peer, service.as_deref(), remote.as_ref());
    let session = Session::client(&settings, &peer)?;
    let transport = Transport::socket(fd, remote.as_ref());
    let conn = Conn::with_session(&engine, transport, common, remote, session, done)?;
    conn.shake_blocking();
    outcome.take().unwrap_or_else(|| Err(conn.closed()))
}

type OnInterrupt = Box<dyn FnOnce(std::io::Error)>;

/// A signal ends the loop that waits for a blocking call which runs a context of its own: that ends first.
pub(crate) struct Interruption {
    then: Cell<Option<OnInterrupt>>,
    /// Open for as long as it is watched.
    fd: Rc<OwnedFd>,
}

impl Interruption {
    /// Calls `then` if that happens.
    pub(crate) fn watch(private: &Rc<Engine>, then: impl FnOnce(std::io::Error) + 'static) {
        let Some(fd) = interrupts_here() else { return };
        let interruption = Rc::new(Interruption { then: Cell::new(Some(Box::new(then))), fd });
        let fd = interruption.fd.as_fd();
        let registration = Registration { input: fd, input_blocks: false, output: None, write: false };
        // The private engine ends with the call. Without this the call is as long as it was.
        let _ = private.register(registration, interruption.clone());
    }
}

impl Handler for Interruption {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, _ready: Ready) -> Next {
        if let Some(then) = self.then.take() {
            then(std::io::Error::new(std::io::ErrorKind::Interrupted, INTERRUPTED));
        }
        Next::Idle
    }

    fn context_ended(self: Rc<Self>) {}
}

/// Connects in the background and calls back.
pub(crate) fn in_background(
    address: Result<Address>,
    common: Rc<Common>,
    tls: Option<&Tls<ClientTls>>,
    cancellable: Option<gio::Cancellable>,
    callback: impl FnOnce(Result<Socket>) + 'static,
) {
    let engine = match Engine::current() {
        Ok(engine) => engine,
        Err(error) => {
            // There is no loop here to call back from.
            log::critical("connect").error(&error).say(format_args!("connect_async: {error}"));
            return;
        }
    };
    let request = match address.and_then(|address| Request::new(address, common, tls)) {
        Ok(request) => request,
        Err(error) => {
            engine.defer(move |engine| {
                call(engine, || callback(Err(error)));
            });
            return;
        }
    };
    let watch = Rc::new(RefCell::new(None::<Watch>));
    let watched = watch.clone();
    let done = Box::new(move |engine: &Rc<Engine>, result| {
        drop(watched.take());
        call(engine, || callback(result));
    });
    let joining = Joining::start(&engine, request, done);
    if let Some(cancellable) = cancellable {
        watch.replace(Some(Watch::start(&engine, cancellable, move |_| joining.cancel())));
    }
}

/// Waits for a cancellable, which any thread may cancel.
struct Watch {
    engine: Rc<Engine>,
    cancellable: gio::Cancellable,
    handler: Option<gio::CancelledHandlerId>,
    token: u64,
}

impl Watch {
    fn start(engine: &Rc<Engine>, cancellable: gio::Cancellable, then: impl FnOnce(&Rc<Engine>) + 'static) -> Self {
        let remote = engine.remote(then);
        let token = remote.token();
        let handler = cancellable.connect_cancelled(move |_| remote.call());
        Watch { engine: engine.clone(), cancellable, handler, token }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            self.cancellable.disconnect_cancelled(handler);
        }
        self.engine.forget_remote(self.token);
    }
}

/// Connects for whoever awaits it.
pub(crate) fn future(address: Address, common: Rc<Common>, tls: Option<&Tls<ClientTls>>) -> Result<Connecting> {
    let engine = Engine::current()?;
    let request = Request::new(address, common, tls)?;
    let (sender, receiver) = oneshot::channel();
    let done = Box::new(move |_: &Rc<Engine>, result| {
        // Whoever waited may have gone.
        let _ = sender.send(result);
    });
    Ok(Connecting { joining: Joining::start(&engine, request, done), receiver })
}

/// A connection in the making. Dropping it cancels.
pub(crate) struct Connecting {
    joining: Rc<Joining>,
    receiver: oneshot::Receiver<Result<Socket>>,
}

impl Future for Connecting {
    type Output = Result<Socket>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let me = &mut *self;
        Pin::new(&mut me.receiver).poll(context).map(|answer| {
            let address = me.joining.address.to_string();
            answer.unwrap_or(Err(Error::Cancelled { operation: Operation::Connect, address }))
        })
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.joining.cancel();
    }
}

// ---- servers of the same thread ----

thread_local! {
    /// Where this thread itself listens. A blocking hand-shake with such a server would wait for itself.
    static LISTENING: RefCell<Vec<SocketAddr>> = const { RefCell::new(Vec::new()) };
}

/// A server of this thread listens there from now on, or no longer.
pub(crate) fn note_listening(address: SocketAddr, listening: bool) {
    // At the end of the thread there is nobody left to ask.
    let _ = LISTENING.try_with(|all| {
        let mut all = all.borrow_mut();
        match (listening, all.iter().position(|known| *known == address)) {
            (true, _) => all.push(address),
            (false, Some(place)) => drop(all.swap_remove(place)),
            (false, None) => {}
        }
    });
}

fn is_own_server(fd: &OwnedFd) -> bool {
    let peer = remote(fd).and_then(|peer| peer.inet());
    let own = sys::local_address(fd).ok().map(endpoint).and_then(|own| own.inet());
    let (Some(peer), Some(own)) = (peer, own) else { return false };
    let here = peer.ip() == own.ip() || peer.ip().is_loopback();
    LISTENING.with(|all| {
        let matches = |known: &SocketAddr| {
            known.port() == peer.port() && (known.ip() == peer.ip() || (known.ip().is_unspecified() && here))
        };
        all.borrow().iter().any(matches)
    })
}
