//! Back-pressure for callbacks: a full send queue and its draining, pausing and resuming.

use super::Socket;
use crate::error::Result;

/// # Back-pressure
///
/// Data that the peer does not read waits in the send queue, up to the [send
/// limit](crate::socket::SocketBuilder::send_limit). A program that relays data keeps the queue short with two calls:
/// it [pauses](Socket::pause) the source when the destination is [full](Socket::is_full), and [resumes](Socket::resume)
/// it when the destination's queue has [drained](Socket::drain_cb).
///
/// # Example: Relay data between two sockets
/// ```
/// # use network::{Result, Socket};
/// /// Sends everything that arrives at `from` to `to`, however slowly its peer reads.
/// fn relay(from: &Socket, to: &Socket) {
///     let sink = to.clone();
///     from.read(move |from, data| {
///         sink.send(data)?;
///         if sink.is_full() {
///             from.pause();
///         }
///         Ok(())
///     });
///     let from = from.downgrade();
///     to.drain_cb(move |_| {
///         if let Some(from) = from.upgrade() {
///             from.resume();
///         }
///         Ok(())
///     });
/// }
/// ```
impl Socket {
    /// Returns whether the send queue is full.
    ///
    /// It is full from the [high-water mark](crate::socket::SocketBuilder::high_water_mark) (1 MiB) until it has
    /// drained to the [low-water mark](crate::socket::SocketBuilder::low_water_mark) (256 KiB). [`send`](Socket::send)
    /// still succeeds up to the send limit. A `send` that fails with [`Error::QueueFull`](crate::Error::QueueFull)
    /// makes the queue full as well.
    pub fn is_full(&self) -> bool {
        self.conn.is_full()
    }

    /// Sets a callback that runs whenever the send queue was [full](Socket::is_full) and has drained to the low-water
    /// mark.
    ///
    /// If the callback returns an error, the connection closes. The callback does not keep the connection open, and is
    /// dropped when the connection ends. Replaces any previous callback.
    pub fn drain_cb(&self, callback: impl FnMut(&Socket) -> Result + 'static) {
        self.conn.set_on_drain(Some(Box::new(callback)));
    }

    /// Removes the drain callback.
    pub fn unset_drain_cb(&self) {
        self.conn.set_on_drain(None);
    }

    /// Stops delivering data to the read callback.
    ///
    /// Nothing is read from the kernel meanwhile, so a peer that keeps sending is slowed down (back-pressure). May be
    /// called from the read callback; undelivered data is kept. Stays in effect when another read callback is set. Does
    /// not affect [`recv`](Socket::recv), other blocking calls, or futures. Has no effect if already paused. The end of
    /// the connection is noticed only if no data lies before it.
    pub fn pause(&self) {
        self.conn.pause();
    }

    /// Resumes delivery after [`pause`](Socket::pause).
    ///
    /// Delivery continues in the next loop iteration. Has no effect if the socket is not paused.
    pub fn resume(&self) {
        self.conn.resume();
    }

    /// Returns whether delivery is [paused](Socket::pause).
    pub fn is_paused(&self) -> bool {
        self.conn.is_paused()
    }

    /// Sets the [high-water mark](crate::socket::SocketBuilder::high_water_mark), in bytes.
    pub fn set_high_water_mark(&self, bytes: usize) {
        self.conn.set_marks(|options| options.high_water_mark = bytes);
    }

    /// Returns the [high-water mark](crate::socket::SocketBuilder::high_water_mark), in bytes.
    pub fn high_water_mark(&self) -> usize {
        self.conn.options(|options| options.high_water_mark)
    }

    /// Sets the [low-water mark](crate::socket::SocketBuilder::low_water_mark), in bytes.
    pub fn set_low_water_mark(&self, bytes: usize) {
        self.conn.set_marks(|options| options.low_water_mark = bytes);
    }

    /// Returns the [low-water mark](crate::socket::SocketBuilder::low_water_mark), in bytes.
    pub fn low_water_mark(&self) -> usize {
        self.conn.options(|options| options.low_water_mark)
    }
}
