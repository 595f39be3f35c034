//! One connection: its state, and what it is made of. Reading, writing and closing have a file each.
//!
//! ```text
//! connected → (data | line | ready)* → disconnected, once → nothing more
//! ```

mod blocking;
mod closing;
pub(crate) mod handler;
mod idle;
pub(crate) mod inbox;
mod io;
mod lines;
mod options;
mod outbox;
mod pressure;
mod reading;
mod secure;
mod selecting;
pub(crate) mod waiting;
mod writing;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::{SocketAddr, SocketAddrV4};
use std::rc::{Rc, Weak};

use crate::address::Endpoint;
use crate::engine::{Engine, Handler, Key, Next, Ready, TimerKey};
use crate::error::{Error, Result};
use crate::socket::Socket;
use crate::tls::Session;
use crate::transport::Transport;
use handler::{OnDisconnect, OnDrain, OnEnd, Reader, Reason};
#[cfg(any(test, fuzzing))]
pub(crate) use inbox::check_lines;
pub(crate) use inbox::{Inbox, Mark, Piece, TooLong};
use io::LazyIo;
pub(crate) use options::{Options, limit_setters};

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// Ended for the user; the rest of the queue goes out, and the peer's end is awaited, in the background.
    Lingering,
    /// The descriptor is closed.
    Gone,
}

/// Who lists this connection, and under which number.
pub(crate) trait Roster {
    fn leave(&self, id: u64);
}

/// What most connections never have.
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

pub(crate) struct Conn {
    me: Weak<Conn>,
    engine: Rc<Engine>,
    key: Cell<Option<Key>>,
    transport: Transport,
    remote: OnceCell<Peer>,
    options: RefCell<Rc<Options>>,
    /// How many [`Socket`]s there are, one more while the loop keeps it for its reader.
    handles: Cell<u32>,
    kept: Cell<bool>,
    phase: Cell<Phase>,
    /// A callback of this connection is on the stack, and further ones wait.
    busy: Cell<bool>,
    /// Something happened meanwhile.
    again: Cell<bool>,
    /// The disconnect callback is due.
    tell: Cell<bool>,
    /// What the descriptor was said to be ready for, and has not been found unready for since.
    sticky: Cell<Ready>,
    read_ended: Cell<bool>,
    /// The peer's end has been told, and the sending half lives on.
    half_open: Cell<bool>,
    /// What came was no TLS any more. That ends the connection, but it is not the peer's end.
    damaged: Cell<bool>,
    /// A blocking call has told its caller of the end.
    caller_knows: Cell<bool>,
    /// The sending half is to be closed once the queue is empty, or is closed.
    write_ending: Cell<bool>,
    write_ended: Cell<bool>,
    dirty: Cell<bool>,
    write_armed: Cell<bool>,
    /// Input, and either of input and output, that tell their readiness only when asked.
    input_by_hand: Cell<bool>,
    armed_by_hand: Cell<bool>,
    /// Whoever reads our output has gone, which is not a socket. The end comes once there is nothing to read.
    output_gone: Cell<bool>,
    io: LazyIo,
    session: RefCell<Option<Box<Session>>>,
    /// The hand-shake of TLS is going on.
    shaking: Cell<bool>,
    reader: RefCell<Reader>,
    /// Counts the readers there have been, so that one that is on the stack knows whether it still is the one.
    epoch: Cell<u32>,
    has_reader: Cell<bool>,
    /// When something came or went last, if that is to be known.
    touched: Cell<i64>,
    watches_idleness: Cell<bool>,
    /// The reader is given nothing for now.
    paused: Cell<bool>,
    /// The queue has reached its high mark, and not fallen to the low one since.
    full: Cell<bool>,
    /// It has fallen to the low one, and that is to be told.
    drained: Cell<bool>,
    on_disconnect: RefCell<OnDisconnect>,
    roster: Cell<Option<(Weak<dyn Roster>, u64)>>,
    rare: RefCell<Option<Box<Rare>>>,
    waiting: RefCell<Option<Box<waiting::Waiting>>>,
}

impl Conn {
    /// Takes an established connection into the loop, under the registration it has already or a new one.
    pub(crate) fn new(
        engine: &Rc<Engine>,
        transport: Transport,
        options: Rc<Options>,
        remote: Option<Endpoint>,
    ) -> Result<Rc<Conn>> {
        let conn = Rc::new_cyclic(|me| Conn {
            me: me.clone(),
            engine: engine.clone(),
            key: Cell::new(None),
            transport,
            remote: remote.map(|remote| OnceCell::from(Peer::from(remote))).unwrap_or_default(),
            options: RefCell::new(options),
            handles: Cell::new(0),
            kept: Cell::new(false),
            phase: Cell::new(Phase::Open),
            busy: Cell::new(false),
            again: Cell::new(false),
            tell: Cell::new(false),
            sticky: Cell::new(Ready::NONE),
            read_ended: Cell::new(false),
            half_open: Cell::new(false),
            damaged: Cell::new(false),
            caller_knows: Cell::new(false),
            write_ending: Cell::new(false),
            write_ended: Cell::new(false),
            dirty: Cell::new(false),
            write_armed: Cell::new(false),
            input_by_hand: Cell::new(false),
            armed_by_hand: Cell::new(false),
            output_gone: Cell::new(false),
            io: LazyIo::default(),
            session: RefCell::new(None),
            shaking: Cell::new(false),
            reader: RefCell::default(),
            epoch: Cell::new(0),
            has_reader: Cell::new(false),
            touched: Cell::new(0),
            watches_idleness: Cell::new(false),
            paused: Cell::new(false),
            full: Cell::new(false),
            drained: Cell::new(false),
            on_disconnect: RefCell::default(),
            roster: Cell::new(None),
            rare: RefCell::new(None),
            waiting: RefCell::new(None),
        });
        let registration = conn.transport.registration().ok_or_else(|| conn.closed())?;
        let key = engine
            .register(registration, conn.clone())
            .map_err(|source| Error::from_io("watching", conn.peer_name(), source))?;
        conn.key.set(Some(key));
        let (input, output) = engine.armed_by_hand(key);
        conn.input_by_hand.set(input);
        conn.armed_by_hand.set(input || output);
        let (descriptors, idle_timeout) = {
            let options = conn.options.borrow();
            (options.tuning.descriptors, options.idle_timeout)
        };
        conn.transport.accept_descriptors(descriptors);
        if idle_timeout.is_some() {
            conn.watch_idleness();
        }
        Ok(conn)
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.phase.get() == Phase::Open
    }

    pub(crate) fn change_options(&self, change: impl FnOnce(&mut Options)) {
        change(Rc::make_mut(&mut self.options.borrow_mut()));
    }

    pub(crate) fn queued(&self) -> usize {
        self.io.borrow().outbox.len()
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

    fn rare<R>(&self, change: impl FnOnce(&mut Rare) -> R) -> R {
        change(self.rare.borrow_mut().get_or_insert_default())
    }

    pub(crate) fn join_roster(&self, roster: Weak<dyn Roster>, id: u64) {
        self.roster.replace(Some((roster, id)));
    }

    /// Has [`Handler::ready`] called on the next turn.
    fn wake(&self) {
        if self.busy.get() {
            self.again.set(true);
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
        if self.kept.replace(keep) != keep {
            if keep {
                self.add_handle();
            } else {
                self.drop_handle();
            }
        }
    }

    // ---- callbacks ----

    /// Sets who gets the input, and returns who got it before, to be dropped when nothing is borrowed.
    pub(crate) fn set_reader(&self, reader: Reader) {
        if !self.is_open() {
            return;
        }
        let some = !matches!(reader, Reader::None);
        self.epoch.set(self.epoch.get().wrapping_add(1));
        self.has_reader.set(some);
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

    pub(crate) fn set_on_disconnect(&self, callback: OnDisconnect) {
        let some = !callback.is_none();
        let old = self.on_disconnect.replace(callback);
        // The end may have come before its callback, and then nobody was told.
        if some && !self.is_open() && !self.tell.get() && self.rare(|rare| rare.end.is_some()) {
            self.tell.set(true);
            self.wake();
        }
        drop(old);
    }

    /// Delivers nothing, the end included, before [`Conn::introduce`].
    pub(crate) fn hold(&self) {
        self.busy.set(true);
        // There may be something to serve already: what came with the last of a hand-shake.
        self.again.set(true);
    }

    /// Ends what [`Conn::hold`] began, where no callback is to be introduced.
    pub(crate) fn release(&self) {
        self.busy.set(false);
        if self.again.take() {
            self.wake();
        }
    }

    /// Runs `user` as the callback for the new connection: nothing else is delivered meanwhile.
    pub(crate) fn introduce(self: &Rc<Self>, user: impl FnOnce(Socket) -> Result) {
        self.busy.set(true);
        let socket = Socket::from_conn(self.clone());
        let result = handler::call(&self.engine, || user(socket));
        self.busy.set(false);
        match result {
            None => self.abort_silently(),
            Some(Err(error)) => self.finish(Reason::Failed(error), true),
            Some(Ok(())) => {}
        }
        if self.again.take() {
            self.wake();
        }
    }
}

impl Handler for Conn {
    fn ready(self: Rc<Self>, _engine: &Rc<Engine>, ready: Ready) -> Next {
        if ready != Ready::READ || !self.expects_a_message() {
            return self.serve_all(ready, 0, None);
        }
        let mut held = None;
        match self.serve_message(&mut held) {
            Some(next) => next,
            None => self.serve_all(Ready::NONE, 1, held),
        }
    }

    fn flush(&self, _engine: &Rc<Engine>) {
        self.dirty.set(false);
        self.flush_now();
    }

    fn context_ended(self: Rc<Self>) {
        // Not everything has gone out yet.
        if self.is_open() && self.is_sending() && !self.shaking.get() {
            self.finish(Reason::Local, true);
        }
        self.drain_if_lingering();
        self.abort_silently();
    }
}

impl Conn {
    /// Whatever it is ready for, and whatever else there is to do.
    #[inline(never)]
    fn serve_all(self: &Rc<Self>, ready: Ready, reads: usize, held: Option<Rc<Vec<u8>>>) -> Next {
        self.sticky.set(self.sticky.get() | ready.without(Ready::WRITE));
        let mut next = Next::Idle;
        self.wake_who_made_way();
        if ready.has(Ready::ERROR) && !self.transport.is_socket() {
            self.lose_output();
        }
        if ready.has(Ready::WRITE) {
            self.write_or_requeue();
        }
        if self.busy.get() {
            self.again.set(true);
            return Next::Idle;
        }
        if self.drained.get() {
            self.tell_drained();
        }
        if self.is_open() && self.shaking.get() {
            next = next.max(self.shake());
        }
        if self.is_open() && !self.shaking.get() && !self.busy.get() {
            self.busy.set(true);
            next = next.max(self.serve(reads, held));
            self.busy.set(false);
            self.flush_own();
            if self.output_gone.get() && !self.sticky.get().has(Ready::READ) {
                self.finish_without_output();
            }
        }
        if self.tell.get() {
            self.tell_end();
        }
        if self.phase.get() == Phase::Lingering {
            next = self.linger_on();
        }
        if self.again.take() {
            next = next.max(Next::Again);
        }
        if self.armed_by_hand.get() && next == Next::Idle {
            self.arm();
        }
        next
    }

    /// What was sent to this connection itself while it was served goes out at once: nothing more comes to it in this turn
    /// but what others send, and that is gathered as ever.
    #[inline]
    fn flush_own(&self) {
        if self.dirty.get()
            && let Some(key) = self.key.get()
            && self.engine.unmark_dirty(key)
        {
            self.dirty.set(false);
            self.flush_now();
        }
    }

    #[inline]
    fn flush_now(&self) {
        if self.phase.get() == Phase::Open {
            if self.write_message().is_none() {
                self.write_or_requeue();
            }
        } else {
            self.flush_at_end();
        }
    }

    fn flush_at_end(&self) {
        if self.phase.get() == Phase::Lingering && self.queued() == 0 {
            // The end mark goes with what the session still holds.
            self.close_notify();
        }
        self.write_or_requeue();
        if self.phase.get() == Phase::Lingering {
            self.linger_on();
        }
    }
}
