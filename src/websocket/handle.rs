//! [`WebSocket`], a handle to one connection, and [`WeakWebSocket`].

use std::fmt;
use std::rc::{Rc, Weak};
use std::time::Duration;

use gio::prelude::*;

use super::builder::Builder;
use super::close::{Close, Code, Disconnect};
use super::limits::{check_message_limit, check_ping_interval, check_pong_timeout, check_send_limit};
use super::message::{Message, OwnedMessage, ToMessage};
use super::session::Core;
use crate::conn::Socket;
use crate::error::Result;

/// A handle to one WebSocket connection.
///
/// Cloning returns another handle to the same connection. It belongs to the thread-default main context in which it was created.
///
/// The connection stays open while a handle exists or a read callback is set. When the last of these is gone, it closes with
/// [`Code::GOING_AWAY`], without calling the disconnect callback.
///
/// # Callbacks
/// They run only from the main loop, never inside a method call, in this order:
///
/// ```text
/// message* → disconnected
/// ```
///
/// A callback may close the connection, drop the last handle, replace itself, run a nested loop or panic. If it returns an error,
/// the peer gets [`Code::INTERNAL`], and the connection ends with that error as the reason. All callbacks are dropped when the
/// connection ends.
///
/// # Limits
/// | limit | default | beyond it |
/// |---|---|---|
/// | a [message](WebSocket::set_message_limit) of the peer | 1 MiB | closed with 1009 |
/// | the heads of the fragments of a message | 64 KiB | closed with 1009 |
/// | [pings](WebSocket::set_ping_limit) of the peer | 100 in 10 s | closed with 1008 |
/// | silence of the peer | a [ping](WebSocket::set_ping_interval) after 30 s, 20 s for the [answer](WebSocket::set_pong_timeout) | [`Error::TimedOut`](crate::Error::TimedOut) |
/// | the [send queue](WebSocket::set_send_limit) | 16 MiB | [`Error::QueueFull`](crate::Error::QueueFull) |
/// | the peer's [answer to a close frame](WebSocket::set_linger) | 5 s | reset |
///
/// Without a read callback and while it is [paused](WebSocket::pause), one message is received ahead, so that control frames are
/// served all the same. When that message is there, nothing more is read, and the peer's silence does not count.
///
/// Extensions, as permessage-deflate, are not supported.
pub struct WebSocket {
    pub(super) core: Rc<Core>,
}

impl WebSocket {
    pub(super) fn new(core: Rc<Core>) -> Self {
        core.add_handle();
        WebSocket { core }
    }

    /// Takes over a connection on which the handshake is done.
    pub(crate) fn over(socket: Socket, is_server: bool, protocol: Option<&str>) -> Self {
        WebSocket::new(Core::start(socket, is_server, protocol))
    }

    /// Connects to a server: `ws://host/path`, or `wss://host/path` for TLS.
    ///
    /// The timeout is 30 seconds for connecting, and 10 more for the handshake. Both are options of [`builder`](Self::builder).
    ///
    /// # Blocking
    /// Until connected. No callback runs meanwhile.
    ///
    /// # Errors
    /// - [`Error::Address`](crate::Error::Address) if the URL is invalid.
    /// - Those of [`Socket::connect`].
    /// - [`Error::WebSocket`](crate::Error::WebSocket) with the status of HTTP if the server does not accept a WebSocket there. A
    ///   redirect is not followed.
    /// - [`Error::Http`](crate::Error::Http) if it does not speak HTTP.
    /// - [`Error::TimedOut`](crate::Error::TimedOut).
    ///
    /// # Example: Ask, and print the answer
    /// ```no_run
    /// use network::websocket::WebSocket;
    ///
    /// let ws = WebSocket::connect("wss://example.org/chat")?;
    /// ws.send("Hello")?;
    /// println!("{}", ws.recv()?);
    /// # Ok::<(), network::Error>(())
    /// ```
    pub fn connect(url: impl AsRef<str>) -> Result<WebSocket> {
        WebSocket::builder().connect(url)
    }

    /// Connects in the background and passes the result to a callback, which runs once, in a later loop iteration. Cancelling
    /// `cancellable` completes it with [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn connect_async(
        url: impl AsRef<str>,
        cancellable: Option<&impl IsA<gio::Cancellable>>,
        callback: impl FnOnce(Result<WebSocket>) + 'static,
    ) {
        WebSocket::builder().connect_async(url, cancellable, callback);
    }

    /// Connects in the background. Dropping the future cancels.
    ///
    /// # Errors
    /// See [`connect`](Self::connect).
    pub fn connect_future(url: impl AsRef<str>) -> impl Future<Output = Result<WebSocket>> + 'static {
        WebSocket::builder().connect_future(url)
    }

    /// Returns a builder, which sets the request, trust, a proxy and limits before it connects.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Returns a handle that does not keep the connection open.
    pub fn downgrade(&self) -> WeakWebSocket {
        WeakWebSocket { core: Rc::downgrade(&self.core) }
    }

    // ---- sending ----

    /// Queues a message for sending and returns at once: a string as text, bytes as a binary message.
    ///
    /// The message is accepted completely or not at all, and messages are sent in order, each as one frame.
    ///
    /// # Errors
    /// - [`Error::QueueFull`](crate::Error::QueueFull) if the send queue would exceed the
    ///   [send limit](Self::set_send_limit) (16 MiB). Nothing is queued.
    /// - [`Error::Closed`](crate::Error::Closed) or the error that ended the connection, also after [`close`](Self::close).
    pub fn send(&self, message: impl ToMessage) -> Result {
        self.core.send(message.to_message())
    }

    /// Sends a ping with up to 125 bytes. Pongs are not told to the program.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for more bytes, else as [`send`](Self::send).
    pub fn ping(&self, data: impl AsRef<[u8]>) -> Result {
        self.core.ping(data.as_ref())
    }

    /// Waits until the kernel has accepted all queued data. **Blocks**. See [`Socket::flush`].
    ///
    /// # Errors
    /// See [`Socket::flush`].
    pub fn flush(&self) -> Result {
        self.core.socket.flush()
    }

    /// Calls `callback` when the kernel has accepted all data that was queued before, or when sending has failed.
    pub fn flush_async(&self, callback: impl FnOnce(Result) + 'static) {
        self.core.socket.flush_async(callback);
    }

    /// Returns the length of the send queue, in bytes.
    pub fn queued(&self) -> usize {
        self.core.socket.queued()
    }

    /// Returns whether the send queue is full: from 1 MiB on until it has drained to 256 KiB. See [`Socket::is_full`].
    pub fn is_full(&self) -> bool {
        self.core.socket.is_full()
    }

    /// Sets a callback that runs whenever the send queue was [full](Self::is_full) and has drained. It does not keep the
    /// connection open.
    pub fn drain_cb(&self, callback: impl FnMut(&WebSocket) -> Result + 'static) {
        self.core.set_on_drain(Some(Box::new(callback)));
    }

    /// Removes the drain callback.
    pub fn unset_drain_cb(&self) {
        self.core.set_on_drain(None);
    }

    // ---- receiving ----

    /// Sets a callback that receives each message. Replaces any other one. A message that was received ahead goes to it first.
    ///
    /// # Example: Answer each text
    /// ```no_run
    /// # fn example(ws: &network::websocket::WebSocket) {
    /// ws.read(|ws, message| match message.text() {
    ///     Some(text) => ws.send(text.to_uppercase()),
    ///     None => ws.send(message),
    /// });
    /// # }
    /// ```
    pub fn read(&self, callback: impl FnMut(&WebSocket, Message<'_>) -> Result + 'static) {
        self.core.set_reader(Some(Box::new(callback)));
    }

    /// Removes the read callback. Messages that follow are received by the next callback, future or blocking call.
    pub fn unread(&self) {
        self.core.set_reader(None);
    }

    /// Stops delivering messages to the read callback. The peer is slowed down (back-pressure).
    pub fn pause(&self) {
        self.core.set_paused(true);
    }

    /// Resumes delivery in the next loop iteration.
    pub fn resume(&self) {
        self.core.set_paused(false);
    }

    /// Returns whether delivery is [paused](Self::pause).
    pub fn is_paused(&self) -> bool {
        self.core.is_paused()
    }

    /// Receives a message. **Blocks** until one is there, the connection ends, or the timeout
    /// ([`socket().set_timeout`](Socket::set_timeout)) expires. Pings are answered meanwhile.
    ///
    /// # Errors
    /// - [`Error::Closed`](crate::Error::Closed) if the connection has ended normally, else its failure, see
    ///   [`Disconnect::reason`].
    /// - [`Error::TimedOut`](crate::Error::TimedOut), or [`Error::NotReady`](crate::Error::NotReady) if the timeout is zero. No
    ///   message is lost.
    /// - [`Error::Unsupported`](crate::Error::Unsupported) inside the read callback of this connection, and while one is set
    ///   and not paused; otherwise as from [`Socket::recv`].
    pub fn recv(&self) -> Result<OwnedMessage> {
        self.core.recv()
    }

    // ---- the end ----

    /// Closes the connection: sends what is queued and a close frame, and awaits the peer's for up to the
    /// [linger time](Self::set_linger). Returns at once.
    ///
    /// Messages that still arrive are discarded. The disconnect callback is called when the peer's close frame has come, or the
    /// time is over. Has no effect on a connection that is closing or has ended.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for a code that [cannot be sent](Code::is_sendable), or a reason of
    /// more than 123 bytes. The connection stays open.
    pub fn close(&self, code: Code, reason: impl AsRef<str>) -> Result {
        self.core.close(code, reason.as_ref())
    }

    /// Closes the connection at once, without a close frame, and discards queued data. See [`Socket::abort`].
    pub fn abort(&self) {
        self.core.abort();
    }

    /// Returns whether the connection is open: neither side has begun to close it.
    pub fn is_open(&self) -> bool {
        self.core.is_open()
    }

    /// Sets a callback for the end of the connection. Replaces any other one.
    ///
    /// It is called once, in a later loop iteration, whichever side ended the connection. Without it, an error that ends the
    /// connection is logged: at level Message, for connections that a server has accepted at level Debug.
    ///
    /// # Example
    /// ```no_run
    /// # fn example(ws: &network::websocket::WebSocket) {
    /// ws.disconnect_cb(|_, end| match end.close {
    ///     Some(close) => println!("closed by the peer: {close}"),
    ///     None => println!("{}", end.reason),
    /// });
    /// # }
    /// ```
    pub fn disconnect_cb(&self, callback: impl FnOnce(&WebSocket, Disconnect) + 'static) {
        self.core.set_on_disconnect(Some(Box::new(callback)));
    }

    /// Removes the disconnect callback.
    pub fn unset_disconnect_cb(&self) {
        self.core.set_on_disconnect(None);
    }

    /// Returns the peer's close frame, if one has come.
    pub fn close_frame(&self) -> Option<Close> {
        self.core.close_frame()
    }

    // ---- about it ----

    /// Returns the sub-protocol that both sides have agreed on.
    pub fn protocol(&self) -> Option<&str> {
        self.core.protocol.as_deref()
    }

    /// Returns the connection below, to look at its addresses or certificate. Reading from it, writing to it, or setting its
    /// callbacks breaks the session.
    pub fn socket(&self) -> &Socket {
        &self.core.socket
    }

    // ---- limits ----

    /// Sets the longest message that is accepted, in bytes. Default: 1 MiB. It holds for the frames that begin from now on.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for zero.
    pub fn set_message_limit(&self, bytes: usize) -> Result {
        check_message_limit(bytes)?;
        self.core.set_message_limit(bytes);
        Ok(())
    }

    /// Returns the longest message that is accepted, in bytes.
    pub fn message_limit(&self) -> usize {
        self.core.message_limit()
    }

    /// Sets the time after which a ping is sent if nothing has come from the peer. Default: 30 s. `None`: no pings, and no limit
    /// to the peer's silence. Less than 1 ms counts as 1 ms.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for zero.
    pub fn set_ping_interval(&self, interval: impl Into<Option<Duration>>) -> Result {
        let interval = interval.into();
        check_ping_interval(interval)?;
        self.core.set_ping_interval(interval);
        Ok(())
    }

    /// Sets the time in which anything must come after such a ping. Default: 20 s.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for zero.
    pub fn set_pong_timeout(&self, limit: Duration) -> Result {
        check_pong_timeout(limit)?;
        self.core.set_pong_timeout(limit);
        Ok(())
    }

    /// Sets the number of pings that are accepted in ten seconds; pongs that were not asked for count as well. Default: 100. With 0,
    /// the first ping ends the connection.
    pub fn set_ping_limit(&self, pings: u32) {
        self.core.pulse.set_limit(pings);
    }

    /// Sets the limit of the send queue, in bytes. Default: 16 MiB.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for zero.
    pub fn set_send_limit(&self, bytes: usize) -> Result {
        check_send_limit(bytes)?;
        self.core.socket.set_send_limit(bytes);
        Ok(())
    }

    /// Sets the time that the peer has to answer a close frame. Default: 5 s. As long as it takes what is queued, the time begins
    /// anew. With zero, only what the kernel takes at once is sent, and no answer is awaited.
    pub fn set_linger(&self, limit: Duration) {
        self.core.linger.set(limit);
        self.core.socket.set_linger(limit);
    }
}

impl Clone for WebSocket {
    fn clone(&self) -> Self {
        WebSocket::new(self.core.clone())
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        self.core.drop_handle();
    }
}

impl PartialEq for WebSocket {
    /// Returns whether both are handles to the same connection.
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.core, &other.core)
    }
}

impl Eq for WebSocket {}

impl std::hash::Hash for WebSocket {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        Rc::as_ptr(&self.core).hash(state);
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let remote = self.core.socket.remote();
        f.debug_struct("WebSocket").field("remote", &remote).field("open", &self.is_open()).finish_non_exhaustive()
    }
}

/// A handle that does not keep the connection open.
#[derive(Clone)]
pub struct WeakWebSocket {
    core: Weak<Core>,
}

impl WeakWebSocket {
    /// Returns whether anything of the connection is left.
    pub(super) fn is_alive(&self) -> bool {
        self.core.strong_count() > 0
    }

    /// Returns a handle, or `None` if nothing keeps the connection open any more.
    pub fn upgrade(&self) -> Option<WebSocket> {
        let core = self.core.upgrade()?;
        core.has_handles().then(|| WebSocket::new(core))
    }
}

impl fmt::Debug for WeakWebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakWebSocket").finish_non_exhaustive()
    }
}

impl glib::clone::Downgrade for WebSocket {
    type Weak = WeakWebSocket;
    fn downgrade(&self) -> WeakWebSocket {
        WebSocket::downgrade(self)
    }
}

impl glib::clone::Upgrade for WeakWebSocket {
    type Strong = WebSocket;
    fn upgrade(&self) -> Option<WebSocket> {
        WeakWebSocket::upgrade(self)
    }
}
