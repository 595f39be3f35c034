//! One connection: its state, and what it is made of. Reading, writing and closing have a file each.
//!
//! ```text
//! connected → (data | line | ready)* → disconnected, once → nothing more
//! ```

mod blocking;
mod closing;
mod flags;
mod handle;
pub(crate) mod handler;
mod idle;
pub(crate) mod inbox;
mod io;
mod lines;
mod options;
mod outbox;
mod polling;
mod pressure;
mod reading;
mod secure;
mod selecting;
mod transport;
pub(crate) mod waiting;
mod writing;

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::net::{SocketAddr, SocketAddrV4};
use std::num::NonZeroU64;
use std::os::fd::BorrowedFd;
use std::rc::{Rc, Weak};

use crate::address::Endpoint;
use crate::engine::{Engine, Handler, Incoming, Key, Next, READ_BUFFER, Ready, Received, Served, TimerKey};
use crate::error::{Error, Result};

use crate::tls::Session;

use flags::{Flag, Flags};
pub use handle::{Socket, WeakSocket};
use handler::{OnDrain, OnEnd, OwnDisconnect, ReadCallback, Reason, SharedDisconnect};
#[cfg(any(test, fuzzing))]
pub(crate) use inbox::check_lines;
pub(crate) use inbox::{Inbox, Mark, Piece, Taken};
use io::Queues;
pub(crate) use lines::Window;
pub(crate) use options::{Options, limit_setters};
pub(crate) use transport::Transport;

/// Who lists connections, each under a number.
pub(crate) trait Roster {
    fn leave(&self, id: NonZeroU64);

    /// Lists it on, and no longer keeps it open.
    fn give_up(&self, id: NonZeroU64);
}

/// What all connections of a server have in common. One that was made here has it to itself.
pub(crate) struct Common {
    pub(crate) options: Options,
    /// Where they are listed.
    roster: Option<Weak<dyn Roster>>,
    on_disconnect: RefCell<Option<SharedDisconnect>>,
    /// The server, and those connections whose end is told to its callback. It goes with the last of them: a connection
    /// that has ended may live on in what the callback holds.
    tellers: Cell<usize>,
}

impl Common {
    /// Of a server, which calls [`Common::leave`] at its end.
    pub(crate) fn new(options: Options, roster: Weak<dyn Roster>, on_disconnect: Option<SharedDisconnect>) -> Rc<Self> {
        let on_disconnect = RefCell::new(on_disconnect);
        Rc::new(Common { options, roster: Some(roster), on_disconnect, tellers: Cell::new(1) })
    }

    /// One more may tell the callback, if there is one.
    fn join(&self) -> bool {
        let joins = self.on_disconnect.borrow().is_some();
        self.tellers.set(self.tellers.get() + usize::from(joins));
        joins
    }

    /// One less will.
    pub(crate) fn leave(&self) {
        let left = self.tellers.get() - 1;
        self.tellers.set(left);
        if left == 0 {
            let callback = self.on_disconnect.take();
            drop(callback);
        }
    }
}

impl From<Options> for Rc<Common> {
    fn from(options: Options) -> Self {
        Rc::new(Common { options, roster: None, on_disconnect: RefCell::default(), tellers: Cell::new(0) })
    }
}

/// What few connections have. Each comes with its first use.
#[derive(Default)]
struct More {
    session: RefCell<Option<Box<Session>>>,
    waiting: RefCell<Option<Box<waiting::Waiting>>>,
    rare: RefCell<Option<Box<Rare>>>,
    /// In place of those that it has in common with others.
    options: RefCell<Option<Box<Options>>>,
    on_disconnect: RefCell<Option<OwnDisconnect>>,
    /// When something came or went last.
    touched: Cell<i64>,
}

/// What hardly any has, or only at its end.
#[derive(Default)]
struct Rare {
    /// The end, from when it is known until it is told.
    end: Option<Reason>,
    /// Sending failed. What the peer sent before is still to be read, then this is the end.
    write_error: Option<Error>,
    /// What TLS found wrong with what came. What came before it is still to be delivered, then this is the end.
    read_error: Option<Error>,
    shaking: Option<secure::Shaking>,
    /// Who is told that the peer sends nothing more. With one, that is not the end of the connection.
    on_end: Option<OnEnd>,
    /// Who is told that there is room to send again, and a count of those there have been.
    on_drain: Option<OnDrain>,
    drain_epoch: u32,
    /// Some of what was sent never left.
    lost: bool,
    linger_timer: Option<TimerKey>,
    idle_timer: Option<TimerKey>,
    flushed: Vec<Flushed>,
    /// Why it failed, for those who ask after that has been told.
    failed: Option<Error>,
}

/// Somebody who waits for the queue to be empty.
type Flushed = Box<dyn FnOnce(&Rc<Engine>, Result)>;

/// Who the peer is. Most are known by an address of IPv4, which takes little room.
enum Peer {
    V4(SocketAddrV4),
    Other(Box<Endpoint>),
}

impl From<Endpoint> for Peer {
    fn from(endpoint: Endpoint) -> Self {
        match endpoint {
            Endpoint::Inet(SocketAddr::V4(address)) => Peer::V4(address),
            other => Peer::Other(Box::new(other)),
        }
    }
}

/// In little memory: a server may have ten thousand of them that are idle.
pub(crate) struct Conn {
    me: Weak<Conn>,
    engine: Rc<Engine>,
    key: Cell<Option<Key>>,
    transport: Transport,
    common: Rc<Common>,
    /// Under which it is listed.
    number: Cell<Option<NonZeroU64>>,
    remote: OnceCell<Peer>,
    /// How many [`Socket`]s there are, one more while the loop keeps it for its reader.
    handles: Cell<u32>,
    flags: Flags,
    /// What the descriptor was said to be ready for, and has not been found unready for since.
    sticky: Cell<Ready>,
    io: Queues,
    /// Out of here while it is on the stack.
    reader: Cell<Option<Box<dyn ReadCallback>>>,
    more: OnceCell<Box<More>>,
}

impl Conn {
    /// Takes an established connection into the loop, under the registration it has already or a new one.
    pub(crate) fn new(
        engine: &Rc<Engine>,
        transport: Transport,
        common: Rc<Common>,
        remote: Option<Endpoint>,
    ) -> Result<Rc<Conn>> {
        let conn = Rc::new_cyclic(|me| Conn {
            me: me.clone(),
            engine: engine.clone(),
            key: Cell::new(None),
            transport,
            common,
            number: Cell::new(None),
            remote: remote.map(|remote| OnceCell::from(Peer::from(remote))).unwrap_or_default(),
            handles: Cell::new(0),
            flags: Flags::default(),
            sticky: Cell::new(Ready::NONE),
            io: Queues::default(),
            reader: Cell::default(),
            more: OnceCell::new(),
        });
        let registration = conn.transport.registration().ok_or_else(|| conn.closed())?;
        let key = engine
            .register(registration, conn.clone())
            .map_err(|source| Error::from_io("watching", conn.peer_name(), source))?;
        conn.key.set(Some(key));
        let (input, output) = engine.armed_by_hand(key);
        conn.flags.put(Flag::INPUT_BY_HAND, input);
        conn.flags.put(Flag::ARMED_BY_HAND, input || output);
        conn.flags.put(Flag::FILES, !conn.transport.is_socket());
        conn.transport.accept_fds(conn.common.options.tuning.descriptors);
        if conn.common.options.idle_timeout.is_some() {
            conn.watch_idleness();
        }
        Ok(conn)
    }

    pub(crate) fn engine(&self) -> &Rc<Engine> {
        &self.engine
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        !self.flags.has(Flag::ENDED)
    }

    pub(crate) fn change_options(&self, change: impl FnOnce(&mut Options)) {
        let mut options = self.more().options.borrow_mut();
        change(options.get_or_insert_with(|| Box::new(self.common.options.clone())));
        self.flags.raise(Flag::OWN_OPTIONS);
    }

    /// Looks at the options, which nothing changes meanwhile.
    #[inline]
    fn options<R>(&self, look: impl FnOnce(&Options) -> R) -> R {
        match self.own_options() {
            None => look(&self.common.options),
            Some(own) => look(&own),
        }
    }

    #[inline]
    fn own_options(&self) -> Option<Ref<'_, Options>> {
        if !self.flags.has(Flag::OWN_OPTIONS) {
            return None;
        }
        Ref::filter_map(self.more().options.borrow(), Option::as_deref).ok()
    }

    pub(crate) fn queued(&self) -> usize {
        self.io.queued()
    }

    pub(crate) fn remote(&self) -> Endpoint {
        match self.remote.get_or_init(|| self.transport.remote().into()) {
            Peer::V4(address) => Endpoint::Inet((*address).into()),
            Peer::Other(endpoint) => (**endpoint).clone(),
        }
    }

    /// The peer, for messages.
    fn peer_name(&self) -> String {
        self.remote().to_string()
    }

    pub(crate) fn closed(&self) -> Error {
        Error::Closed { peer: self.peer_name() }
    }

    fn strong(&self) -> Option<Rc<Conn>> {
        self.me.upgrade()
    }

    fn more(&self) -> &More {
        self.more.get_or_init(Box::default)
    }

    fn rare<R>(&self, change: impl FnOnce(&mut Rare) -> R) -> R {
        change(self.more().rare.borrow_mut().get_or_insert_default())
    }

    /// The same where there is nothing to do if nothing of it was ever used.
    fn if_rare<R>(&self, change: impl FnOnce(&mut Rare) -> Option<R>) -> Option<R> {
        self.more.get().and_then(|more| more.rare.borrow_mut().as_deref_mut().and_then(change))
    }

    /// Its server lists it under this number until its end, which is told to the server's callback.
    pub(crate) fn join_roster(&self, number: NonZeroU64) {
        self.number.set(Some(number));
        if self.common.join() {
            self.flags.raise(Flag::TELLS_SERVER);
            self.tell_late();
        }
    }

    /// Its server no longer keeps it open.
    fn give_up(&self) {
        let roster = self.common.roster.as_ref().and_then(Weak::upgrade);
        if let (Some(number), Some(roster)) = (self.number.get(), roster) {
            roster.give_up(number);
        }
    }

    /// Has [`Handler::ready`] called on the next turn.
    fn wake(&self) {
        if self.flags.has(Flag::BUSY) {
            self.flags.raise(Flag::AGAIN);
        } else if let Some(key) = self.key.get() {
            self.engine.requeue(key);
        } else if let Some(me) = self.strong() {
            self.engine.defer(move |engine| {
                me.ready(engine, Ready::NONE);
            });
        }
    }

    // ---- handles ----

    #[inline]
    pub(crate) fn add_handle(&self) {
        self.handles.set(self.handles.get() + 1);
    }

    #[inline]
    pub(crate) fn drop_handle(&self) {
        let left = self.handles.get() - 1;
        self.handles.set(left);
        if left == 0 {
            self.last_drop();
        }
    }

    pub(crate) fn has_handles(&self) -> bool {
        self.handles.get() > 0
    }

    /// The loop keeps what it calls: a connection with a reader stays open without any handle.
    fn keep(&self, keep: bool) {
        if self.flags.replace(Flag::KEPT, keep) != keep {
            if keep {
                self.add_handle();
            } else {
                self.drop_handle();
            }
        }
    }

    // ---- callbacks ----

    /// Sets who gets the input. Whoever got it before is dropped when nothing is borrowed.
    pub(crate) fn set_reader(&self, reader: Option<Box<dyn ReadCallback>>) {
        if !self.is_open() {
            return;
        }
        let kind = reader.as_ref().map(|reader| reader.kind());
        let some = kind.is_some();
        self.flags.raise(Flag::CHANGED);
        self.flags.put(Flag::HAS_READER, some);
        self.flags.put(Flag::READS_DATA, kind == Some(handler::Kind::Data));
        self.flags.put(Flag::READS_RAW, kind == Some(handler::Kind::Raw));
        let old = self.reader.replace(reader);
        if some {
            self.wake();
            self.wake_everybody();
        }
        self.keep(some);
        drop(old);
    }

    pub(crate) fn set_on_end(&self, callback: OnEnd) {
        if self.is_open() {
            let old = self.rare(|rare| rare.on_end.replace(callback));
            drop(old);
        }
    }

    /// Sets who is told of the end, in place of the server's callback, if there is one.
    pub(crate) fn set_on_disconnect(&self, callback: Option<OwnDisconnect>) {
        let some = callback.is_some();
        let told_server = self.flags.take(Flag::TELLS_SERVER);
        let old = self.more().on_disconnect.replace(callback);
        if some {
            self.tell_late();
        }
        if told_server {
            self.common.leave();
        }
        drop(old);
    }

    /// The end may have come before its callback, and then nobody was told.
    fn tell_late(&self) {
        if !self.is_open() && !self.flags.has(Flag::TELL) && self.rare(|rare| rare.end.is_some()) {
            self.flags.raise(Flag::TELL);
            self.wake();
        }
    }

    /// Delivers nothing, the end included, before [`Conn::introduce`].
    pub(crate) fn hold(&self) {
        self.flags.raise(Flag::BUSY);
        // There may be something to serve already: what came with the last of a hand-shake.
        self.flags.raise(Flag::AGAIN);
    }

    /// Ends what [`Conn::hold`] began, where no callback is to be introduced.
    pub(crate) fn release(&self) {
        self.flags.lower(Flag::BUSY);
        if self.flags.take(Flag::AGAIN) {
            self.wake();
        }
    }

    /// Runs `user` as the callback for the new connection: nothing else is delivered meanwhile.
    pub(crate) fn introduce(self: &Rc<Self>, user: impl FnOnce(Socket) -> Result) {
        self.flags.raise(Flag::BUSY);
        let socket = Socket::from_conn(self.clone());
        let result = crate::engine::call(&self.engine, || user(socket));
        self.flags.lower(Flag::BUSY);
        match result {
            None => self.abort_silently(),
            Some(Err(error)) => self.finish(Reason::Failed(error), true),
            Some(Ok(())) => {}
        }
        if self.flags.take(Flag::AGAIN) {
            self.wake();
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // Its end was to be told on a turn of a loop that never came.
        if self.flags.has(Flag::TELLS_SERVER) {
            self.common.leave();
        }
    }
}

impl Handler for Conn {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, ready: Ready) -> Next {
        if ready == Ready::READ && self.wake_reader() {
            return Next::Idle;
        }
        self.serve_all(ready, 0)
    }

    fn incoming(&self, ready: Ready) -> Option<Incoming<'_>> {
        // Or it was not all read in its last turn.
        if ready != Ready::READ && (ready != Ready::NONE || !self.sticky.get().has(Ready::READ)) {
            None
        } else if self.expects_a_message() {
            self.transport.incoming(READ_BUFFER)
        } else if self.reads_ahead() {
            self.transport.incoming(waiting::AHEAD)
        } else {
            None
        }
    }

    fn received(self: Rc<Self>, read: Received, buffer: &mut Option<Rc<Vec<u8>>>) -> Served {
        let read = self.transport.received(read);
        if self.flags.has(Flag::HAS_READER) {
            self.serve_message(read, buffer)
        } else {
            self.keep_for_reader(read, buffer);
            Served::Done(Next::Idle)
        }
    }

    fn outgoing(&self) -> Option<(BorrowedFd<'_>, Ref<'_, [u8]>)> {
        if self.flags.has(Flag::NOT_JUST_WRITTEN) {
            return None;
        }
        let answer = self.io.outgoing(writing::PORTION)?;
        let fd = self.transport.outgoing()?;
        self.flags.lower(Flag::DIRTY);
        Some((fd, answer))
    }

    fn sent(&self, sent: rustix::io::Result<usize>) {
        self.message_sent(sent);
    }

    fn flush(&self) {
        self.flags.lower(Flag::DIRTY);
        self.flush_now();
    }

    fn context_ended(self: Rc<Self>) {
        if self.is_open() && !self.flags.has(Flag::SHAKING) {
            if self.is_sending() {
                self.finish(Reason::Local, true);
            } else if self.is_tls() {
                // The end mark, or the peer would have to think that something is missing.
                self.finish(Reason::Local, true);
                self.part();
            }
        }
        self.drain_if_lingering();
        self.abort_silently();
    }
}

impl Conn {
    /// Whatever it is ready for, and whatever else there is to do.
    #[inline(never)]
    fn serve_all(self: &Rc<Self>, ready: Ready, reads: usize) -> Next {
        self.sticky.set(self.sticky.get() | ready.without(Ready::WRITE));
        let mut next = Next::Idle;
        self.wake_who_made_way();
        if ready.has(Ready::ERROR) && !self.transport.is_socket() {
            self.lose_output();
        }
        if ready.has(Ready::WRITE) {
            self.write_or_requeue();
        }
        if self.flags.has(Flag::BUSY) {
            self.flags.raise(Flag::AGAIN);
            return Next::Idle;
        }
        if self.flags.has(Flag::DRAINED) {
            self.tell_drained();
        }
        if self.is_open() && self.flags.has(Flag::SHAKING) {
            next = next.max(self.shake());
        }
        if self.is_open() && !self.flags.has(Flag::SHAKING) && !self.flags.has(Flag::BUSY) {
            self.flags.raise(Flag::BUSY);
            next = next.max(self.serve(reads));
            self.flags.lower(Flag::BUSY);
            self.flush_own();
            self.io.rest();
            if self.flags.has(Flag::OUTPUT_GONE) && !self.sticky.get().has(Ready::READ) {
                self.finish_without_output();
            }
        }
        if self.flags.has(Flag::TELL) {
            self.tell_end();
        }
        if self.flags.has(Flag::LINGERING) {
            next = self.linger_on();
        }
        if self.flags.take(Flag::AGAIN) {
            next = next.max(Next::Again);
        }
        if self.flags.has(Flag::ARMED_BY_HAND) && next == Next::Idle {
            self.arm();
        }
        next
    }

    /// What was sent to this connection itself while it was served goes out at once: nothing more comes to it in this turn
    /// but what others send, and that is gathered as ever.
    fn flush_own(&self) {
        if self.unmark_dirty() {
            self.flags.lower(Flag::DIRTY);
            self.flush_now();
        }
    }

    /// Takes this connection from those that are flushed within the turn, if it is the last of them.
    fn unmark_dirty(&self) -> bool {
        self.flags.has(Flag::DIRTY) && self.key.get().is_some_and(|key| self.engine.unmark_dirty(key))
    }

    fn flush_now(&self) {
        if self.is_open() {
            self.write_or_requeue();
        } else {
            self.flush_at_end();
        }
    }

    fn flush_at_end(&self) {
        if self.flags.has(Flag::LINGERING) && self.queued() == 0 {
            // The end mark goes with what the session still holds.
            self.close_notify();
        }
        self.write_or_requeue();
        if self.flags.has(Flag::LINGERING) {
            self.linger_on();
        }
    }
}
