//! Futures and time: sleeping, limits in time, and futures whose result goes to a callback.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_channel::oneshot;
use gio::prelude::*;

use super::{Engine, Task, TimerKey, call};
use crate::error::{Error, Result};
use crate::log;

/// A stretch of time on the engine's own source. Dropping it ends it.
pub(crate) struct Sleep {
    engine: Rc<Engine>,
    timer: TimerKey,
    over: oneshot::Receiver<()>,
}

impl Sleep {
    pub(crate) fn start(engine: &Rc<Engine>, time: Duration) -> Self {
        let (sender, over) = oneshot::channel();
        let timer = engine.after(time, move |_| {
            let _ = sender.send(());
        });
        Sleep { engine: engine.clone(), timer, over }
    }
}

impl Future for Sleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.over).poll(context).map(|_| ())
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.engine.cancel_timer(self.timer);
    }
}

/// Awaits a future for at most `limit`. `None` if it has not completed by then.
pub(crate) async fn within<T>(engine: &Rc<Engine>, limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut sleep) = (pin!(future), pin!(Sleep::start(engine, limit)));
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
    engine.spawn(Rc::new(Background { parts: RefCell::new(Some((Box::pin(outcome), callback))) }));
}

/// A future and the callback for its result.
struct Background<F, C> {
    /// Taken while it is on the stack.
    parts: RefCell<Option<(Pin<Box<F>>, C)>>,
}

impl<T, F: Future<Output = T>, C: FnOnce(T)> Task for Background<F, C> {
    fn poll(&self, engine: &Rc<Engine>, context: &mut Context<'_>) -> Poll<()> {
        // Else a nested loop runs in the callback.
        let Some((mut future, callback)) = self.parts.take() else { return Poll::Pending };
        let Poll::Ready(outcome) = future.as_mut().poll(context) else {
            self.parts.replace(Some((future, callback)));
            return Poll::Pending;
        };
        drop(future);
        call(engine, || callback(outcome));
        Poll::Ready(())
    }
}
