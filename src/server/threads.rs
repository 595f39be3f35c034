//! One server on several threads. Each runs a main context, and nothing is shared but the port.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Server, ServerBuilder, Share};
use crate::address::{Address, Endpoint};
use crate::conn::Socket;
use crate::engine::{Engine, Iterations, Remote, private_context, turn};
use crate::error::{Error, Operation, Result};
use crate::tls::Fingerprint;

impl ServerBuilder {
    /// Serves on several threads, each with its own main context. 0 means one per available CPU.
    ///
    /// `factory` runs once in each thread and returns that thread's client callback; it must be `Send + Sync`, the callback
    /// need not be. A connection stays in its thread. The kernel distributes clients evenly over the threads
    /// (`SO_REUSEPORT`), not by load. For an async callback, see [`async_handler`](crate::server::async_handler).
    ///
    /// All limits of the server apply per thread, such as [`max_connections`](Self::max_connections). One certificate serves
    /// all, and TLS sessions can be resumed on any thread. Not available for unix sockets and services, nor together with
    /// [`disconnect_cb`](Self::disconnect_cb); set that on each socket. Start threads after [`bgloop`](crate::bgloop) has
    /// forked, because a process with threads cannot fork into the background. The
    /// [grace period](crate::daemon::set_grace_period) and [`hand_over_async`](crate::daemon::hand_over_async) are for servers of
    /// the main loop: end this one with [`close_within`](ServerThreads::close_within).
    ///
    /// # Example
    /// ```
    /// use network::{Server, Socket};
    ///
    /// let server = Server::builder()
    ///     .tls(false)
    ///     .threads(2, || {
    ///         let mut clients = 0;
    ///         move |socket: Socket| {
    ///             clients += 1;
    ///             socket.sendline(format!("you are client {clients} of this thread"))
    ///         }
    ///     })
    ///     .listen(0)?;
    /// # let client = Socket::builder().tls(false).connect(("127.0.0.1", server.port()))?;
    /// # assert_eq!(client.recv_line()?, "you are client 1 of this thread");
    /// server.close();
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn threads<F, C>(self, threads: usize, factory: F) -> ThreadsBuilder<F>
    where
        F: Fn() -> C + Send + Sync + 'static,
        C: FnMut(Socket) -> Result + 'static,
    {
        ThreadsBuilder { server: self, threads, factory: Arc::new(factory) }
    }
}

/// A server on several threads that does not listen yet, see [`ServerBuilder::threads`].
#[must_use]
pub struct ThreadsBuilder<F> {
    server: ServerBuilder,
    threads: usize,
    factory: Arc<F>,
}

impl<F> fmt::Debug for ThreadsBuilder<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadsBuilder")
            .field("server", &self.server)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl<F, C> ThreadsBuilder<F>
where
    F: Fn() -> C + Send + Sync + 'static,
    C: FnMut(Socket) -> Result + 'static,
{
    /// Listens and starts the threads.
    ///
    /// # Blocking
    /// Until all threads serve, which takes no longer than starting them.
    ///
    /// # Errors
    /// See [`Server::new`]. Also [`Error::Unsupported`] for a unix socket, a service, or a server with a `disconnect_cb`,
    /// and [`Error::Io`] if the system starts no thread.
    ///
    /// # Panics
    /// Propagates a panic of `factory`.
    pub fn listen<A>(self, address: A) -> Result<ServerThreads>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        let engine = Engine::current()?;
        let count = match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        let shares = self.server.share(address.try_into()?, count)?;
        let local = shares.iter().flat_map(Share::local).collect::<Vec<_>>();
        let fingerprint = shares.first().and_then(Share::fingerprint);
        let local = local[..local.len() / count].to_vec();
        let panics = Arc::new(Panics::default());
        panics.listen(&engine);
        let orders = Arc::new(Orders::default());
        let mut server = ServerThreads { engine, local, fingerprint, panics, orders, workers: Vec::new() };
        for (number, share) in shares.into_iter().enumerate() {
            // If this fails, the threads before it end with `server`.
            server.workers.push(server.start(number, share, self.factory.clone())?);
        }
        Ok(server)
    }
}

/// One server on several threads, made by [`ServerBuilder::threads`].
///
/// A panic of a callback ends its connection and propagates out of the loop ([`fgloop`](crate::fgloop),
/// [`iteration`](crate::iteration)) of the thread that made the server, at the latest when the server is closed. The
/// threads continue.
///
/// Dropping it has the effect of [`close`](ServerThreads::close).
#[must_use = "a server on threads closes when it is dropped"]
pub struct ServerThreads {
    engine: Rc<Engine>,
    local: Vec<Endpoint>,
    fingerprint: Option<Fingerprint>,
    panics: Arc<Panics>,
    orders: Arc<Orders>,
    workers: Vec<Worker>,
}

impl ServerThreads {
    /// Returns the port that all threads listen on.
    pub fn port(&self) -> u16 {
        self.local.first().and_then(Endpoint::port).unwrap_or(0)
    }

    /// Returns the addresses that the server listens on: one, or two if one socket cannot serve both families.
    pub fn local(&self) -> Vec<Endpoint> {
        self.local.clone()
    }

    /// Returns the number of threads.
    pub fn threads(&self) -> usize {
        self.workers.len()
    }

    /// Returns the fingerprint of the certificate, see [`Server::fingerprint`].
    pub fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// Stops listening, closes all connections (see [`Socket::close`]), and waits for the threads to end.
    ///
    /// # Blocking
    /// For at most the [linger time](ServerBuilder::linger), and while callbacks run.
    ///
    /// # Panics
    /// Propagates a panic of a callback that has not been propagated before.
    pub fn close(self) {
        drop(self);
    }

    /// Stops listening, gives the connections this much time to end, and closes the remaining ones. Otherwise see
    /// [`close`](ServerThreads::close).
    ///
    /// # Blocking
    /// Until the connections have ended or the time has expired.
    ///
    /// # Panics
    /// See [`close`](ServerThreads::close).
    pub fn close_within(mut self, limit: Duration) {
        self.end(limit);
    }

    fn start<F, C>(&self, number: usize, share: Share, factory: Arc<F>) -> Result<Worker>
    where
        F: Fn() -> C + Send + Sync + 'static,
        C: FnMut(Socket) -> Result + 'static,
    {
        let (tell, outcome) = mpsc::channel();
        let (orders, panics) = (self.orders.clone(), self.panics.clone());
        let failed =
            |source| Error::Io { operation: Operation::Start, address: "a thread of the server".into(), source };
        let work = move || {
            let context = match private_context() {
                Ok(context) => context,
                Err(source) => return drop(tell.send(Err(failed(source)))),
            };
            // It is new, so nobody else has it.
            let _ = context.with_thread_default(|| work(&context, share, &*factory, &orders, &panics, &tell));
        };
        let thread = std::thread::Builder::new().name(format!("network {number}")).spawn(work).map_err(failed)?;
        match outcome.recv() {
            Ok(Ok(remote)) => Ok(Worker { thread, remote }),
            Ok(Err(error)) => Err(error),
            // It has ended without reporting.
            Err(_) => match thread.join() {
                Err(panic) => resume_unwind(panic),
                Ok(()) => Err(failed(std::io::Error::other("the thread has ended"))),
            },
        }
    }

    fn end(&mut self, limit: Duration) {
        if self.engine.disown() {
            // A forked copy of the process has none of these threads.
            self.workers.drain(..).for_each(std::mem::forget);
            return;
        }
        // This thread sends nothing while it waits.
        Engine::flush_here();
        self.orders.end_at(Instant::now() + limit.min(LONG));
        for worker in &self.workers {
            worker.remote.call();
        }
        for worker in self.workers.drain(..) {
            if let Err(panic) = worker.thread.join() {
                self.panics.add(panic);
            }
        }
        let (panic, remote) = self.panics.take();
        if let Some(remote) = remote {
            self.engine.forget_remote(remote.token());
        }
        if let Some(panic) = panic
            && !std::thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}

/// Longer than any program runs, yet it can be added to an `Instant`.
const LONG: Duration = Duration::from_secs(u32::MAX as u64);

impl Drop for ServerThreads {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

impl fmt::Debug for ServerThreads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerThreads")
            .field("port", &self.port())
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

struct Worker {
    thread: JoinHandle<()>,
    /// Makes the thread look at its orders.
    remote: Remote,
}

/// The deadline for the end, once it is known.
#[derive(Default)]
struct Orders(Mutex<Option<Instant>>);

impl Orders {
    fn end_at(&self, deadline: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(deadline);
    }

    fn end(&self) -> Option<Instant> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Panic = Box<dyn Any + Send>;

/// Panics of callbacks on their way to the thread that made the server.
#[derive(Default)]
struct Panics(Mutex<(Option<Panic>, Option<Remote>)>);

impl Panics {
    /// Lets the next panic propagate out of the loop of this engine.
    fn listen(self: &Arc<Self>, engine: &Engine) {
        let me = self.clone();
        let remote = engine.remote(move |engine| {
            // The server may have been closed meanwhile, which has propagated it already.
            if let (Some(panic), _) = me.take() {
                me.listen(engine);
                engine.panicked(panic);
            }
        });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(remote);
    }

    fn add(&self, panic: Panic) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Of several panics, the first is the cause.
        waiting.0.get_or_insert(panic);
        if let Some(remote) = &waiting.1 {
            remote.call();
        }
    }

    fn take(&self) -> (Option<Panic>, Option<Remote>) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Runs one thread, on its own main context.
fn work<F, C>(
    context: &glib::MainContext,
    share: Share,
    factory: &F,
    orders: &Arc<Orders>,
    panics: &Panics,
    tell: &mpsc::Sender<Result<Remote>>,
) where
    F: Fn() -> C,
    C: FnMut(Socket) -> Result + 'static,
{
    let callback = Box::new(factory());
    let started = Engine::current().and_then(|engine| Ok((share.serve(callback)?, engine)));
    let (server, engine) = match started {
        Ok(started) => started,
        Err(error) => {
            let _ = tell.send(Err(error));
            return;
        }
    };
    let end = Rc::new(Cell::new(None));
    let (told, orders) = (end.clone(), orders.clone());
    let remote = engine.remote(move |_| told.set(orders.end()));
    let _ = tell.send(Ok(remote));
    // The context is this thread's own.
    let Some(mut turns) = Iterations::new(&engine, context) else { return };
    let mut turn = || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| turn(&engine, || turns.next()))) {
            panics.add(panic);
        }
    };
    let deadline = loop {
        match end.get() {
            Some(deadline) => break deadline,
            None if engine.has_ended() => break Instant::now(),
            None => turn(),
        }
    };
    drain(&server, &engine, deadline, turn);
}

/// Waits until the connections have ended, and closes the remaining ones at the deadline.
fn drain(server: &Server, engine: &Rc<Engine>, deadline: Instant, mut turn: impl FnMut()) {
    server.close();
    let left = || deadline.saturating_duration_since(Instant::now());
    // Wakes the loop at the deadline.
    let timer = engine.after_exactly(left(), |_| {});
    while !server.is_deserted() && !left().is_zero() {
        turn();
    }
    engine.cancel_timer(timer);
    for socket in server.connections() {
        socket.close();
    }
    // Queued data is sent at the end of the context, with one linger time for all connections.
}
