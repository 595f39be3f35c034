//! The main loop for as long as a future takes.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::mainloop::{Entered, Work, run_for};
use crate::engine::{Engine, Task, UserFuture};
use crate::error::{Error, Operation, Result};
use crate::sys::INTERRUPTED;

/// Runs the main loop until a future completes, and returns what it gives.
///
/// This is [`fgloop`](crate::fgloop) for programs whose `main` is a future: servers, callbacks and [tasks](crate::spawn) run
/// meanwhile, and SIGINT and SIGTERM close the servers of this context and remove the paths of their unix sockets. The
/// [grace period](crate::daemon::set_grace_period) applies: until it is over the future goes on, and if it completes in
/// that time, what it gives is returned when the loop ends. Under systemd, the outermost loop sends `READY=1` after the
/// future was polled for the first time, so a server that the future starts before it first waits is ready by then.
///
/// The future is polled on the thread-default main context as those of [`spawn`](crate::spawn) are, and it may borrow. It is
/// dropped before this returns. Within a running loop this nests, as [`iteration`](crate::iteration) does.
///
/// # Blocking
/// Until the future has completed or the loop is ended.
///
/// # Errors
/// - [`Error::Io`] of kind [`Interrupted`](std::io::ErrorKind::Interrupted) if SIGINT, SIGTERM or
///   [`endloop`](crate::endloop) came first, or a successor [serves](crate::daemon::hand_over_async).
/// - [`Error::WrongThread`] if another thread runs this thread's main context. [`Error::Io`] if no file descriptors are left.
///
/// # Panics
/// Propagates a panic of the future or of a callback.
///
/// # Example
/// ```
/// use network::{Server, Socket};
///
/// fn main() -> network::Result {
///     network::block_on(async {
///         let server = Server::builder().tls(false).serve(0, async |socket: Socket| {
///             let line = socket.recv_line_future().await?;
///             socket.sendline_future(format!("You said: {line}")).await
///         })?;
///         let client = Socket::builder().tls(false).connect_future(server.port()).await?;
///         client.sendline_future("Hello").await?;
///         assert_eq!(client.recv_line_future().await?, "You said: Hello");
///         Ok(())
///     })?
/// }
/// ```
pub fn block_on<F: Future>(future: F) -> Result<F::Output> {
    let engine = Engine::current()?;
    let main =
        Rc::new(Main { future: UserFuture::new(future), output: Cell::new(None), work: Cell::new(Work::Starting) });
    let entered = Entered::new(&engine, None);
    let ended = engine.with_task(main.clone(), || run_for(entered, || main.work.get()));
    let Some(ended) = ended else { return Err(Error::WrongThread) };
    main.output.take().ok_or_else(|| {
        let cause = match ended.is_interrupted() {
            true if ended.is_handed_over() => "a successor serves",
            true => INTERRUPTED,
            false => "the loop was ended",
        };
        let source = io::Error::new(io::ErrorKind::Interrupted, cause);
        Error::Io { operation: Operation::Wait, address: "a future".into(), source }
    })
}

/// The future that a loop runs for.
struct Main<F: Future> {
    future: UserFuture<F>,
    output: Cell<Option<F::Output>>,
    work: Cell<Work>,
}

impl<F: Future> Task for Main<F> {
    fn poll(&self, engine: &Rc<Engine>, context: &mut Context<'_>) -> Poll<()> {
        let polled = self.future.poll(engine, context);
        self.work.set(if polled.is_ready() { Work::Done } else { Work::Goes });
        polled.map(|output| self.output.set(output))
    }
}
