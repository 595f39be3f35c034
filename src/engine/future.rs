//! Futures with limits in time, and futures whose result goes to a callback.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use gio::prelude::*;

use super::{Engine, Sleep, Task, UserFuture, call};
use crate::error::{Error, Result};
use crate::log;

/// Awaits a future for at most `limit`. `None` if it has not completed by then.
pub(crate) async fn within<T>(engine: &Rc<Engine>, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    before(Sleep::start(engine, limit), future).await
}

/// Awaits a future until the other one is over. It comes first if both have what they wait for.
pub(crate) async fn before<T>(sleep: Sleep, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut sleep) = (pin!(future), pin!(sleep));
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => sleep.as_mut().poll(context).map(|()| None),
    })
    .await
}

/// Drives a future on the thread-default main context and calls back with what it gives. `cancelled` is for when the
/// cancellable comes first.
pub(crate) fn in_background<T: 'static>(
    name: &str,
    future: impl Future<Output = Result<T>> + 'static,
    cancellable: Option<&impl IsA<gio::Cancellable>>,
    cancelled: Error,
    callback: impl FnOnce(Result<T>) + 'static,
) {
    let engine = match Engine::current() {
        Ok(engine) => engine,
        Err(error) => {
            // There is no loop here to call back from.
            log::critical("look up").error(&error).say(format_args!("{name}: {error}"));
            return;
        }
    };
    let cancellable = cancellable.map_or_else(gio::Cancellable::new, |cancellable| cancellable.as_ref().clone());
    let outcome = async { gio::CancellableFuture::new(future, cancellable).await.unwrap_or(Err(cancelled)) };
    // Not a task of GLib's: that has the default priority, and what asks again in its callback would stop a window's redraw.
    engine.spawn(Rc::new(Background { future: UserFuture::new(outcome), callback: Cell::new(Some(callback)) }));
}

/// A future and the callback for its result.
struct Background<F, C> {
    future: UserFuture<F>,
    callback: Cell<Option<C>>,
}

impl<T, F: Future<Output = T>, C: FnOnce(T)> Task for Background<F, C> {
    fn poll(&self, engine: &Rc<Engine>, context: &mut Context<'_>) -> Poll<()> {
        self.future.poll(engine, context).map(|outcome| {
            if let (Some(outcome), Some(callback)) = (outcome, self.callback.take()) {
                call(engine, || callback(outcome));
            }
        })
    }
}
