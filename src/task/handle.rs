//! Spawned futures, and the handles to them.

use std::cell::RefCell;
use std::fmt;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::engine::{self, Engine, Key, UserFuture};
use crate::error::{Error, Operation, Result};
use crate::log;

/// Runs a future on the thread-default main context.
///
/// The future is polled in the loop iteration in which what it waits for arrives, at the priority of connections (see
/// [`set_fairness`](crate::mainloop::set_fairness)); a task of GLib's executor is polled one iteration later. It may await
/// anything: the [futures](crate::Socket#futures) of sockets, [`sleep`](crate::sleep), those of glib, a channel. Its waker may
/// be used on any thread. It must not block. It is polled for the first time by the loop, not by this call.
///
/// Dropping the returned [`Task`] detaches it, so a call that ignores it starts a task in the background. An error that the
/// future returns goes to whoever awaits the [`Task`]; if nobody does, it is [logged](crate::log) with the
/// place of this call. A panic is treated as in any callback: it propagates from [`fgloop`](crate::fgloop), and ends the process
/// under a foreign main loop. The future is dropped when it completes, on [`abort`](Task::abort), and when the main context ends.
///
/// No thread is started, so [`bgloop`](crate::bgloop) can follow; the tasks go on in the child.
///
/// # Errors
/// [`Error::WrongThread`] if another thread runs this thread's main context. [`Error::Io`] if no file descriptors are left.
/// The future is dropped.
///
/// # Example: Report every ten seconds while the program does something else
/// ```
/// use std::time::Duration;
///
/// let reports = network::spawn(async {
///     loop {
///         println!("still here");
///         network::sleep(Duration::from_secs(10)).await;
///     }
/// })?;
/// # network::iteration(true);
/// // …
/// reports.abort();
/// # Ok::<(), network::Error>(())
/// ```
#[track_caller]
pub fn spawn(future: impl Future<Output = Result> + 'static) -> Result<Task> {
    let engine = Engine::current()?;
    let outcome = Rc::new(Outcome { state: RefCell::default(), place: Location::caller() });
    let key = engine.spawn(Rc::new(Spawned { future: UserFuture::new(future), outcome: outcome.clone() }));
    Ok(Task { engine, key, outcome })
}

/// A handle to a future that was started with [`spawn`](crate::spawn).
///
/// Awaiting it gives the result of the future. Dropping it detaches the task, which goes on.
///
/// # Example: Two requests at a time
/// ```
/// # async fn request(name: &str) -> network::Result {
/// #     network::sleep(std::time::Duration::from_millis(1)).await;
/// #     Ok(())
/// # }
/// let all = network::block_on(async {
///     let (one, two) = (network::spawn(request("one"))?, network::spawn(request("two"))?);
///     one.await?;
///     two.await
/// })?;
/// assert!(all.is_ok());
/// # Ok::<(), network::Error>(())
/// ```
pub struct Task {
    engine: Rc<Engine>,
    key: Key,
    outcome: Rc<Outcome>,
}

impl Task {
    /// Ends the task: drops its future, at once unless the task itself is calling.
    ///
    /// Whatever the future has not done is left undone. Whoever awaits the task gets [`Error::Cancelled`]. Does nothing to a
    /// task that has completed.
    pub fn abort(&self) {
        self.outcome.settle(None);
        self.engine.drop_task(self.key);
    }

    /// Returns whether the future has completed or been dropped.
    pub fn is_finished(&self) -> bool {
        !matches!(*self.outcome.state.borrow(), State::Runs { .. })
    }
}

/// Completes with the result of the task's future.
///
/// It completes once; whoever polls it again gets [`Error::Cancelled`].
///
/// # Errors
/// The error that the future returned. [`Error::Cancelled`] if the future was dropped before it had completed: by
/// [`abort`](Task::abort), by the end of its main context, or after a panic.
impl Future for Task {
    type Output = Result;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result> {
        self.outcome.poll(context.waker())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.outcome.detach();
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("is_finished", &self.is_finished()).finish()
    }
}

/// The task in the engine.
struct Spawned<F> {
    future: UserFuture<F>,
    outcome: Rc<Outcome>,
}

impl<F: Future<Output = Result>> engine::Task for Spawned<F> {
    fn poll(&self, engine: &Rc<Engine>, context: &mut Context<'_>) -> Poll<()> {
        self.future.poll(engine, context).map(|result| self.outcome.settle(result))
    }
}

impl<F> Drop for Spawned<F> {
    fn drop(&mut self) {
        self.outcome.settle(None);
    }
}

/// The result of a task on its way to whoever awaits it.
struct Outcome {
    state: RefCell<State>,
    /// The call of `spawn`, which is all that is known of a task.
    place: &'static Location<'static>,
}

enum State {
    Runs {
        /// Of whoever awaits it.
        waker: Option<Waker>,
    },
    /// Nobody has a handle any more.
    Detached,
    /// `None` if the future was dropped.
    Done(Option<Result>),
    Taken,
}

impl Default for State {
    fn default() -> Self {
        State::Runs { waker: None }
    }
}

impl Outcome {
    /// The future has completed, or is dropped. The first time counts.
    fn settle(&self, result: Option<Result>) {
        let mut state = self.state.borrow_mut();
        match &mut *state {
            State::Runs { waker } => {
                let waker = waker.take();
                *state = State::Done(result);
                drop(state);
                waker.into_iter().for_each(Waker::wake);
            }
            State::Detached => {
                *state = State::Taken;
                drop(state);
                self.complain(result);
            }
            State::Done(_) | State::Taken => {}
        }
    }

    fn poll(&self, waker: &Waker) -> Poll<Result> {
        let mut state = self.state.borrow_mut();
        if let State::Runs { waker: known } = &mut *state {
            let is_known = known.as_ref().is_some_and(|known| known.will_wake(waker));
            let old = if is_known { None } else { known.replace(waker.clone()) };
            drop(state);
            drop(old);
            return Poll::Pending;
        }
        let result = match std::mem::replace(&mut *state, State::Taken) {
            State::Done(Some(result)) => result,
            _ => Err(Error::Cancelled { operation: Operation::Wait, address: "a task".into() }),
        };
        Poll::Ready(result)
    }

    /// Nobody is there for an error.
    fn complain(&self, result: Option<Result>) {
        if let Some(Err(error)) = result {
            log::message("task").error(&error).say(format_args!("task spawned at {} failed: {error}", self.place));
        }
    }

    /// Nobody awaits the task any more.
    fn detach(&self) {
        let mut state = self.state.borrow_mut();
        let next = if matches!(*state, State::Runs { .. }) { State::Detached } else { State::Taken };
        let old = std::mem::replace(&mut *state, next);
        drop(state);
        if let State::Done(result) = old {
            self.complain(result);
        }
    }
}
