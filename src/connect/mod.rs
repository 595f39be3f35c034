//! Connecting: name lookup, a race of the addresses, a proxy's consent, the TLS handshake. The blocking call, the one with a
//! callback and the future, all in this file, share these steps. An attempt can be cancelled at any step, and leaves nothing
//! behind.

mod connecting;
mod dialer;
pub(crate) mod progress;
pub(crate) mod proxy;
mod race;
pub(crate) mod start_tls;
mod targets;

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_channel::oneshot;
use gio::prelude::*;

use crate::address::Address;
use crate::conn::{Common, Socket};
use crate::engine::{Engine, FarEnd, block_on, call};
use crate::error::{Error, Result};
use crate::log;
use crate::tls::{ClientTls, Tls};
use connecting::{Connecting, Opened, Request, Route};
pub(crate) use dialer::{Attempt, Dialer, Reach};
use progress::OnProgress;
use proxy::{Means, Proxy};
use race::{OPERATION, Racing};

/// Connects. **Blocks**. The race runs on a private main context, the connection belongs to the caller's.
pub(crate) fn blocking(
    address: Address,
    common: Rc<Common>,
    tls: Option<&Tls<ClientTls>>,
    proxy: &Proxy,
) -> Result<Socket> {
    let engine = Engine::current()?;
    let (request, route) = Request::new(address, common, tls, proxy)?;
    let address = &request.address;
    let options = &request.common.options;
    let won = block_on(OPERATION, &address.to_string(), |private| async move {
        match route {
            Route::Direct(plan) => {
                Racing::start(&private, address, &options.tuning, plan, options.connect_timeout).await
            }
            Route::Proxied(passage) => passage.connect(&private, Means::new(options, true)).await,
        }
    })?;
    if request.secure.is_some() && leads_to_this_thread(&won.fd) {
        return Err(Error::Unsupported(format!(
            "cannot connect to {address}: the server runs on this thread, which a blocking TLS handshake would block; \
             use connect_async or connect_future"
        )));
    }
    let outcome = Rc::new(Cell::new(None));
    let place = outcome.clone();
    match request.open(&engine, won, move |result| place.set(Some(result)))? {
        Opened::Ready(socket) => Ok(socket),
        Opened::Handshaking(conn) => {
            conn.shake_blocking();
            outcome.take().unwrap_or_else(|| Err(conn.closed()))
        }
    }
}

/// Returns whether this thread has the other end of a connection, so that no blocking call may wait for it.
fn leads_to_this_thread(fd: impl AsFd) -> bool {
    Engine::far_end_here(fd) != FarEnd::Elsewhere
}

/// Connects in the background and passes the result to a callback.
pub(crate) fn in_background(
    address: Result<Address>,
    common: Rc<Common>,
    tls: Option<&Tls<ClientTls>>,
    proxy: &Proxy,
    progress: OnProgress,
    cancellable: Option<gio::Cancellable>,
    callback: impl FnOnce(Result<Socket>) + 'static,
) {
    let engine = match Engine::current() {
        Ok(engine) => engine,
        Err(error) => {
            // There is no loop to call back from.
            log::critical("connect").error(&error).say(format_args!("connect_async: {error}"));
            return;
        }
    };
    let (request, route) = match address.and_then(|address| Request::new(address, common, tls, proxy)) {
        Ok(request) => request,
        Err(error) => {
            engine.defer(move |engine| {
                call(engine, || callback(Err(error)));
            });
            return;
        }
    };
    let watch = Rc::new(RefCell::new(None::<CancelWatch>));
    let watched = watch.clone();
    let done = Box::new(move |engine: &Rc<Engine>, result| {
        drop(watched.take());
        call(engine, || callback(result));
    });
    let connecting = Connecting::start(&engine, request, route, progress, done);
    if let Some(cancellable) = cancellable {
        watch.replace(Some(CancelWatch::start(&engine, cancellable, move |_| connecting.cancel())));
    }
}

/// Watches a cancellable, which any thread may cancel.
struct CancelWatch {
    engine: Rc<Engine>,
    cancellable: gio::Cancellable,
    handler: Option<gio::CancelledHandlerId>,
    token: u64,
}

impl CancelWatch {
    fn start(engine: &Rc<Engine>, cancellable: gio::Cancellable, then: impl FnOnce(&Rc<Engine>) + 'static) -> Self {
        let remote = engine.remote(then);
        let token = remote.token();
        let handler = cancellable.connect_cancelled(move |_| remote.call());
        CancelWatch { engine: engine.clone(), cancellable, handler, token }
    }
}

impl Drop for CancelWatch {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            self.cancellable.disconnect_cancelled(handler);
        }
        self.engine.forget_remote(self.token);
    }
}

/// Connects in the background.
pub(crate) fn future(
    address: Address,
    common: Rc<Common>,
    tls: Option<&Tls<ClientTls>>,
    proxy: &Proxy,
    progress: OnProgress,
) -> Result<ConnectFuture> {
    let engine = Engine::current()?;
    let (request, route) = Request::new(address, common, tls, proxy)?;
    let (sender, receiver) = oneshot::channel();
    let done = Box::new(move |_: &Rc<Engine>, result| {
        // The future may have been dropped.
        let _ = sender.send(result);
    });
    Ok(ConnectFuture { connecting: Connecting::start(&engine, request, route, progress, done), receiver })
}

/// A connection attempt as a future. Dropping it cancels.
pub(crate) struct ConnectFuture {
    connecting: Rc<Connecting>,
    receiver: oneshot::Receiver<Result<Socket>>,
}

impl Future for ConnectFuture {
    type Output = Result<Socket>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let me = &mut *self;
        Pin::new(&mut me.receiver).poll(context).map(|answer| {
            let address = me.connecting.request.address.to_string();
            answer.unwrap_or(Err(Error::Cancelled { operation: OPERATION, address }))
        })
    }
}

impl Drop for ConnectFuture {
    fn drop(&mut self) {
        self.connecting.cancel();
    }
}
