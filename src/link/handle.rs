//! [`Link`]: the handle, its weak form, and what the program sees of its state.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::builder::LinkBuilder;
use super::driver::Inner;
use super::machine::{Kick, Phase};
use crate::address::Address;
use crate::conn::Socket;
use crate::engine::{Engine, Task};
use crate::error::{Error, Result, in_words};

/// A handle that stays connected to an address: it connects, and connects again whenever the connection ends.
///
/// For programs that keep a connection for days: over restarts of the server, other networks, and the machine's sleep. Each
/// connection is an ordinary [`Socket`], which `up` gets first. `up` logs in and registers readers; if it returns an error, the
/// connection closes, and that counts as a failed try.
///
/// Cloning returns another handle to the same link. When the last handle is dropped, the link closes without a callback. Call
/// [`detach`](Link::detach) to keep it without a handle. SIGINT or SIGTERM that ends the [loop](crate::fgloop) closes it, too. A link
/// belongs to the thread-default main context in which it was created.
///
/// # Callbacks
/// Callbacks run only from the main loop, never inside a method call, in this order:
///
/// ```text
/// (up? → down)* → gave_up?
/// ```
///
/// Every try ends in exactly one `down`, so two `up` never follow one another. A try that is started anew because the network has
/// changed is the same try. Nothing is called after [`close`](Link::close). A callback may call any method, drop the last handle, run a
/// nested loop or panic. The callbacks get the link, so they need not capture it; to capture it nevertheless, in `up` for example, capture
/// a weak reference (`glib::clone!(#[weak] link, …)`). All callbacks are dropped when the link is over.
///
/// A socket's own [`disconnect_cb`](Socket::disconnect_cb) may be set in `up`. It is called before `down`.
///
/// # Tries
/// After an end, or a failed try, the link waits as [`Backoff`](crate::link::Backoff) says: up to a second first, then longer, up to 30 s. A connection that
/// lasted for 10 s begins with the first wait again. A change of the network and [`retry_now`](Link::retry_now) cut the wait short. Without
/// an address that others can reach, the link waits for one ([`State::Offline`]), unless the target is a unix socket, a loopback
/// address or a service of this machine.
///
/// An error for which another try is of no use, such as [`Error::CertificateChanged`], ends the link at once: see
/// [`Error::is_temporary`]. An error that `up` returns does not, nor does the end of a connection that was up.
///
/// A [service](crate::Address) is looked up for each connection. While nobody has its name, the link waits for Avahi's word
/// ([`State::Searching`]) and tries nothing. If the service moves while it is connected, that connection stays as long as it works.
///
/// # Not promised
/// - That anything sent arrived, once or at all. A protocol's own answers tell. What was passed to a connection that ended is never
///   sent again.
/// - Order across connections.
/// - That the same machine answers. [Pins](crate::ClientTls::pinned) do that.
/// - That [`State::Up`] means alive this second, or that a loss is seen sooner than keep-alive, user timeout or
///   [heartbeat](LinkBuilder::heartbeat) say: by default within a minute.
/// - That [`State::Offline`] is right under a VPN.
/// - The state of a session: `up` begins anew.
/// - Anything before the machine sleeps.
/// - More than one try at a time.
///
/// # Example
/// ```
/// # let server = network::Server::builder().tls(false).listen(0, |socket| socket.sendline("21 °C"))?;
/// # let address = format!("tcp://localhost:{}", server.port());
/// use network::Link;
///
/// let link = Link::builder()
///     .down_cb(|_, down| println!("gone: {down}"))
///     .start(address, |socket| {
///         socket.readlines(|_, line| {
///             println!("{line}");
/// #           network::endloop();
///             Ok(())
///         });
///         socket.sendline("SUBSCRIBE temperature")
///     })?;
/// network::fgloop();
/// # Ok::<(), network::Error>(())
/// ```
#[must_use = "a link closes when its last handle is dropped: hold it, or call detach()"]
pub struct Link {
    pub(super) inner: Rc<Inner>,
}

/// The state of a [`Link`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// A try goes on, `up` included.
    Connecting,
    /// There is a connection.
    Up,
    /// A try has failed, or the connection has ended.
    Waiting {
        /// The time of the next try.
        until: Instant,
    },
    /// There is no network. The link waits for one.
    Offline,
    /// Nobody has the name of the service. The link waits for it.
    Searching,
    /// The link is closed, or has given up.
    Over,
}

/// A try that has failed, or a connection that has ended, as passed to [`LinkBuilder::down_cb`].
///
/// Displayed as the reason and the time until the next try.
#[derive(Debug)]
#[non_exhaustive]
pub struct Down {
    /// The reason. [`Error::Closed`] if the connection was closed, by the peer or on this side.
    pub reason: Error,
    /// The time that the connection was up. `None` if it was not: nothing answered, or `up` returned an error.
    pub was_up: Option<Duration>,
    /// The number of failed tries in a row, with this one; see [`LinkBuilder::attempts`]. 0 after a connection that lasted.
    pub attempt: u32,
    /// The time until the next try. `None` if the link gives up, or waits for a network or a service.
    pub next: Option<Duration>,
    /// The number of bytes that were sent to the connection and had not reached the system when it ended. They are lost, and the last
    /// of them may be half a message. After the program's own [`Socket::close`] they still go out.
    pub unsent: usize,
    /// The data that was received and not delivered.
    pub leftover: Vec<u8>,
}

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)?;
        match self.next {
            None => Ok(()),
            Some(next) => write!(f, "; next try in {}", in_words(Duration::from_millis(next.as_millis() as u64))),
        }
    }
}

impl Link {
    /// Starts to connect to an address, and calls `up` for each connection. See [`LinkBuilder::start`].
    ///
    /// # Errors
    /// See [`LinkBuilder::start`].
    pub fn new<A>(address: A, up: impl FnMut(&Socket) -> Result + 'static) -> Result<Link>
    where
        A: TryInto<Address>,
        Error: From<A::Error>,
    {
        Link::builder().start(address, up)
    }

    /// Returns a builder with all options of a link.
    pub fn builder() -> LinkBuilder {
        LinkBuilder::new()
    }

    /// Returns the connection, if there is one: from the return of `up` to the call of `down`.
    pub fn socket(&self) -> Option<Socket> {
        self.inner.up()
    }

    /// Returns the state.
    pub fn state(&self) -> State {
        match self.inner.phase() {
            Phase::Ready | Phase::Connecting | Phase::Introducing => State::Connecting,
            Phase::Up { .. } => State::Up,
            Phase::Waiting { until } => State::Waiting { until },
            Phase::Offline => State::Offline,
            Phase::Searching => State::Searching,
            Phase::Over => State::Over,
        }
    }

    /// Sends data on the connection, as [`Socket::send`] does. While there is none, it is kept if [`LinkBuilder::queue`] is set.
    ///
    /// # Errors
    /// - [`Error::Down`] if there is no connection, and no queue.
    /// - [`Error::QueueFull`] if it does not fit into the queue. Nothing of it is kept.
    /// - [`Error::Closed`] if the link is over.
    /// - Otherwise those of [`Socket::send`].
    pub fn send(&self, data: impl AsRef<[u8]>) -> Result {
        self.inner.send(data.as_ref(), false)
    }

    /// Sends a line of text, as [`Socket::sendline`] does. A line that is kept gets the
    /// [line ending](crate::socket::SocketBuilder::line_ending) that [`LinkBuilder::socket`] has set.
    ///
    /// # Errors
    /// See [`send`](Link::send).
    pub fn sendline(&self, line: impl AsRef<str>) -> Result {
        self.inner.send(line.as_ref().as_bytes(), true)
    }

    /// Tries at once instead of waiting: for a button, or when the program knows more.
    ///
    /// A try that goes on begins anew. Without a network, one try is made all the same. Does nothing while connected, while nobody has the
    /// name of the service, and when the link is over.
    pub fn retry_now(&self) {
        self.inner.kick(Kick::Retry);
    }

    /// Closes the link. No callback is called after this.
    ///
    /// The connection closes as by [`Socket::close`]: what was sent goes out first. What waits in the queue for a connection is dropped.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Keeps the link without a handle, until [`close`](Link::close) is called on one, it gives up, or the main context ends. Has no
    /// effect on a link that is over.
    pub fn detach(&self) {
        if self.inner.phase() != Phase::Over {
            self.inner.detach(self.inner.engine.spawn(Rc::new(Kept(self.clone()))));
        }
    }

    /// Waits until there is a connection, and returns it: at once if there is one.
    ///
    /// The future does not keep the link. Cancel-safe.
    ///
    /// # Errors
    /// The reason why the link has given up; [`Error::Closed`] if it is closed.
    pub fn up_future(&self) -> impl Future<Output = Result<Socket>> + use<> {
        let (weak, address) = (self.downgrade(), self.inner.address.to_string());
        let mut receiver = None;
        poll_fn(move |context| {
            let Some(link) = weak.upgrade() else { return Poll::Ready(Err(Error::Closed { peer: address.clone() })) };
            loop {
                if let Some(outcome) = link.inner.outcome() {
                    return Poll::Ready(outcome);
                }
                let waiting = receiver.get_or_insert_with(|| link.inner.when_settled());
                if Pin::new(waiting).poll(context).is_pending() {
                    return Poll::Pending;
                }
                receiver = None;
            }
        })
    }

    /// Returns a handle that does not keep the link.
    pub fn downgrade(&self) -> WeakLink {
        WeakLink { inner: Rc::downgrade(&self.inner) }
    }
}

/// Keeps a link that nobody has a handle to. It goes with the main context.
struct Kept(#[allow(dead_code, reason = "it is only held")] Link);

impl Task for Kept {
    fn poll(&self, _: &Rc<Engine>, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Clone for Link {
    fn clone(&self) -> Link {
        Link { inner: self.inner.clone() }
    }
}

impl PartialEq for Link {
    /// Returns whether both are handles to the same link.
    fn eq(&self, other: &Link) -> bool {
        Rc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Link {}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.inner.address.to_string();
        f.debug_struct("Link").field("address", &address).field("state", &self.state()).finish_non_exhaustive()
    }
}

/// A handle to a [`Link`] that does not keep it.
#[derive(Clone)]
pub struct WeakLink {
    inner: Weak<Inner>,
}

impl WeakLink {
    /// Returns a handle to the link, or `None` if all handles have been dropped.
    pub fn upgrade(&self) -> Option<Link> {
        self.inner.upgrade().map(|inner| Link { inner })
    }
}

impl fmt::Debug for WeakLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakLink").finish_non_exhaustive()
    }
}

impl glib::clone::Downgrade for Link {
    type Weak = WeakLink;
    fn downgrade(&self) -> WeakLink {
        Link::downgrade(self)
    }
}

impl glib::clone::Upgrade for WeakLink {
    type Strong = Link;
    fn upgrade(&self) -> Option<Link> {
        WeakLink::upgrade(self)
    }
}
