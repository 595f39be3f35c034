//! Back-pressure for callbacks: who sends learns when there is room, who receives can have a pause.

use super::Socket;
use crate::error::Result;

/// # Back-pressure
///
/// What the peer does not take waits in a queue, up to the [send limit](crate::socket::SocketBuilder::send_limit). A
/// program that passes on what it receives keeps the queue short by two calls: it [pauses](Socket::pause) the source when
/// the destination [is full](Socket::is_full), and [resumes](Socket::resume) it when that [has room](Socket::drain_cb)
/// again.
///
/// ```
/// # use network::{Result, Socket};
/// /// Sends to one what comes from the other, however slowly that takes it.
/// fn pass_on(from: &Socket, to: &Socket) {
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
    /// Do so many bytes wait to be sent that it is time to pause? True from when the [high
    /// mark](crate::socket::SocketBuilder::high_water_mark) (1 MiB) is reached until no more than the [low
    /// mark](crate::socket::SocketBuilder::low_water_mark) (256 KiB) are left. Sending is still possible, up to the send
    /// limit; a send that is refused because others wait makes it full as well. Never blocks.
    pub fn is_full(&self) -> bool {
        self.conn.is_full()
    }

    /// Sets who is told that there is room again: each time that the socket was [full](Socket::is_full) and is so no
    /// longer. Called from the main loop. Replaces the one before. An error that it returns closes the connection. It does
    /// not keep the connection open, and is dropped at its end.
    pub fn drain_cb(&self, callback: impl FnMut(&Socket) -> Result + 'static) {
        self.conn.set_on_drain(Some(Box::new(callback)));
    }

    /// Takes the callback for room away.
    pub fn unset_drain_cb(&self) {
        self.conn.set_on_drain(None);
    }

    /// Gives the read callback nothing more until [`resume`](Socket::resume). Nothing is read from the system meanwhile
    /// either, so that a peer that goes on sending has to wait; its end is noticed if nothing lies before it. A callback
    /// may call this: what is left of its batch stays for later. It holds for callbacks that are set afterwards as well,
    /// and not for those who ask, as by [`recv`](Socket::recv). Never blocks.
    pub fn pause(&self) {
        self.conn.pause();
    }

    /// Goes on after [`pause`](Socket::pause), on the next turn of the main loop. Never blocks.
    pub fn resume(&self) {
        self.conn.resume();
    }

    /// Is it [paused](Socket::pause)?
    pub fn is_paused(&self) -> bool {
        self.conn.is_paused()
    }

    /// Changes the [high mark](crate::socket::SocketBuilder::high_water_mark) from now on.
    pub fn set_high_water_mark(&self, bytes: usize) {
        self.conn.set_marks(|options| options.high_water_mark = bytes);
    }

    /// Changes the [low mark](crate::socket::SocketBuilder::low_water_mark) from now on.
    pub fn set_low_water_mark(&self, bytes: usize) {
        self.conn.set_marks(|options| options.low_water_mark = bytes);
    }
}
