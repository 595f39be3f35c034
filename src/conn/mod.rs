//! One connection. What it knows and decides is a value, [`state`], told what happened and asked what to do next; this
//! room's other files carry that out.
//!
//! ```text
//!                   handshake done                   close, error, the peer's end
//!   Handshaking ──────────────────────▶ Open ──────────────────────────────────────▶ Lingering ──────────▶ Closed
//!        │                               │  reads, delivers, sends          ▲          sends the rest,        ▲
//!        │    ◀──────────────────────────│  peer half-closes: HALF_OPEN     │          awaits the peer's end  │
//!        │ fails, late, closed start_tls │                                  │                                 │
//!        └───────────────────────────────┼──────────────────────────────────┘                                 │
//!                                        └─────────── abort, error of the system, context ended ──────────────┘
//!
//!   callbacks:  connected → (data | line | ready)* → disconnected, once → nothing more
//! ```
//!
//! | to find | look into |
//! |---|---|
//! | what happens when the descriptor is ready | [`serving`], steps in [`state`]; the word that the short way reads: [`status`] |
//! | reading; delivering to callbacks | [`reading`]; [`delivering`] |
//! | sending, the queue, half-close, flushing, back-pressure | [`writing`] |
//! | how it ends: reason, closing, handles; what is still sent then | [`ending`], [`end`]; [`lingering`] |
//! | readers, callbacks, options and their setters | [`callbacks`], [`setters`], [`options`], [`idle`], [`probing`] |
//! | the TLS handshake | [`handshaking`], [`handshake`] |
//! | futures: who waits, and what a poll does; their memory | [`waiting`], [`polling`]; [`space`] |
//! | blocking calls; selectors | [`blocking`], of connections within one thread [`far_end`]; [`selecting`] |
//! | bytes: received, to be sent, cut into lines | [`inbox`], [`outbox`], [`lines`], [`line_ending`], [`queues`] |
//! | the same, cut into frames | [`frames`], [`framing`], [`cutting`] |
//! | sockets, pipes, TLS on them | [`transport`], [`channel`] |

mod blocking;
pub(crate) mod callbacks;
mod channel;
pub(crate) mod copying;
mod cutting;
mod delivering;
mod end;
mod ending;
mod far_end;
mod frames;
mod framing;
mod handle;
mod handshake;
mod handshaking;
mod idle;
pub(crate) mod inbox;
mod line_ending;
mod lines;
mod lingering;
mod options;
mod outbox;
mod polling;
pub(crate) mod probing;
mod queues;
mod reading;
mod selecting;
mod serving;
mod setters;
mod space;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod total;
mod transport;
pub(crate) mod waiting;
mod writing;

use std::cell::{Cell, OnceCell, Ref, RefCell};
use std::net::{SocketAddr, SocketAddrV4};
use std::num::NonZeroU64;
use std::rc::{Rc, Weak};

use crate::address::Endpoint;
use crate::engine::{Engine, Handler, Key, Ready, TimerKey};
use crate::error::{Error, Operation, Result};
use crate::tls::PeerName;
use callbacks::{Disconnect, OnDrain, OnEnd, OnUpgraded, OwnDisconnect, ReadCallback, SharedDisconnect};
use channel::{Channel, SessionSlot};
use end::End;
pub use framing::Framing;
pub(crate) use framing::Refusal;
#[cfg(any(test, fuzzing))]
pub(crate) use framing::checks::check_frames;
pub use handle::{Socket, WeakSocket};
pub(crate) use handshake::Shaken;
#[cfg(any(test, fuzzing))]
pub(crate) use inbox::check_lines;
pub(crate) use inbox::{Inbox, Mark, Piece, Search, Taken};
pub use line_ending::LineEnding;
pub(crate) use line_ending::LineRule;
pub(crate) use lines::Window;
pub(crate) use options::{Options, limit_setters};
use queues::Queues;
#[cfg(feature = "http")]
pub(crate) use space::Space;
use state::{Duties, Look, Wire, WriteHalf};
use status::Status;
use total::Total;
pub(crate) use transport::Transport;

/// A list of connections, each under a number.
pub(crate) trait Roster {
    fn leave(&self, id: NonZeroU64);

    /// Lists it on, and no longer keeps it open.
    fn give_up(&self, id: NonZeroU64);

    /// Logs a record about one that has ended by an error, unless there have been too many: peers can cause them.
    fn log_end(&self, record: &dyn Fn());

    /// Returns whether it is told about the ends, by [`Roster::ended`].
    fn hears_ends(&self) -> bool {
        false
    }

    /// In place of [`Roster::leave`]: one has ended, and its own callback has been called.
    fn ended(&self, id: NonZeroU64, _: Disconnect) {
        self.leave(id);
    }
}

/// The shared state of all connections of a server. An outgoing connection has one of its own.
pub(crate) struct Common {
    pub(crate) options: Options,
    /// Where they are listed.
    roster: Option<Weak<dyn Roster>>,
    total: Total,
    /// The peer as the program named it when it connected, to be verified if TLS starts later.
    peer: OnceCell<PeerName>,
    on_disconnect: RefCell<Option<SharedDisconnect>>,
    /// The server, and those connections whose end is told to its callback. It goes with the last of them: a connection
    /// that has ended may live on in what the callback holds.
    tellers: Cell<usize>,
    /// The server has stopped.
    #[cfg(feature = "http")]
    stopped: Cell<bool>,
    /// Protocols above that are told when it does. They call no code of the program's.
    #[cfg(feature = "http")]
    on_stop: RefCell<Vec<Rc<dyn Fn()>>>,
}

impl Common {
    /// Of a server, which calls [`Common::leave`] at its end.
    pub(crate) fn new(
        options: Options,
        total_send_limit: usize,
        roster: Weak<dyn Roster>,
        on_disconnect: Option<SharedDisconnect>,
    ) -> Rc<Self> {
        Rc::new(Common {
            options,
            roster: Some(roster),
            total: Total::new(total_send_limit),
            peer: OnceCell::new(),
            on_disconnect: RefCell::new(on_disconnect),
            tellers: Cell::new(1),
            #[cfg(feature = "http")]
            stopped: Cell::new(false),
            #[cfg(feature = "http")]
            on_stop: RefCell::default(),
        })
    }

    /// Of an outgoing connection that is listed.
    pub(crate) fn listed(options: Options, roster: Weak<dyn Roster>) -> Rc<Self> {
        Rc::new(Common { roster: Some(roster), ..Common::from(options) })
    }

    /// Of an outgoing connection: notes whom the program connected to.
    pub(crate) fn set_peer(&self, peer: PeerName) {
        // Several attempts with the same builder have a value each.
        let _ = self.peer.set(peer);
    }

    /// One more tells the callback, if there is one by then.
    fn join(&self) {
        self.tellers.set(self.tellers.get() + 1);
    }

    fn has_on_disconnect(&self) -> bool {
        self.on_disconnect.borrow().is_some()
    }

    /// The server accepts no more clients.
    pub(crate) fn stop(&self) {
        #[cfg(feature = "http")]
        if !self.stopped.replace(true) {
            let told = self.on_stop.take();
            told.iter().for_each(|told| told());
        }
    }

    /// Sets or removes the callback, for the connections that are open as well.
    pub(crate) fn set_on_disconnect(&self, callback: Option<SharedDisconnect>) {
        let old = self.on_disconnect.replace(callback);
        drop(old);
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

impl From<Options> for Common {
    fn from(options: Options) -> Self {
        Common {
            options,
            roster: None,
            total: Total::new(usize::MAX),
            peer: OnceCell::new(),
            on_disconnect: RefCell::default(),
            tellers: Cell::new(0),
            #[cfg(feature = "http")]
            stopped: Cell::new(false),
            #[cfg(feature = "http")]
            on_stop: RefCell::default(),
        }
    }
}

impl From<Options> for Rc<Common> {
    fn from(options: Options) -> Self {
        Rc::new(options.into())
    }
}

/// State that few connections need. Each part comes with its first use.
#[derive(Default)]
struct Extras {
    session: SessionSlot,
    waiting: RefCell<Option<Box<waiting::Waiting>>>,
    cold: RefCell<Option<Box<Cold>>>,
    /// In place of those that are shared.
    options: RefCell<Option<Box<Options>>>,
    on_disconnect: RefCell<Option<OwnDisconnect>>,
    touched: Cell<idle::Touched>,
}

/// State that hardly any connection needs, or only at its end.
#[derive(Default)]
struct Cold {
    end: End,
    handshake: Option<handshake::Handshake>,
    on_upgraded: Option<OnUpgraded>,
    /// The callback for the peer's half-close. With one, that is not the end of the connection.
    on_end: Option<OnEnd>,
    on_drain: Option<OnDrain>,
    /// Counts the drain callbacks there have been.
    drain_epoch: u32,
    linger_timer: Option<TimerKey>,
    reset_timer: Option<TimerKey>,
    idle_timer: Option<TimerKey>,
    probing: Option<Box<probing::Probing>>,
    flushed: Vec<Flushed>,
    /// The length of the send queue as the server counts it.
    counted: usize,
    /// After so many registrations of this thread the far end was elsewhere.
    elsewhere_at: u64,
}

/// Called when the queue is empty, or will never be.
type Flushed = Box<dyn FnOnce(&Rc<Engine>, Result)>;

/// The identity of the peer. Most are known by an address of IPv4, which takes little room.
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

/// In little memory: a server may have ten thousand that are idle.
pub(crate) struct Conn {
    me: Weak<Conn>,
    engine: Rc<Engine>,
    key: Cell<Option<Key>>,
    transport: Transport,
    common: Rc<Common>,
    /// Under which the server lists it.
    number: Cell<Option<NonZeroU64>>,
    remote: OnceCell<Peer>,
    /// The number of [`Socket`]s, one more while the loop keeps it for its reader.
    handles: Cell<u32>,
    status: Status,
    io: Queues,
    /// Out of here while it is on the stack.
    reader: Cell<Option<Box<dyn ReadCallback>>>,
    extras: OnceCell<Box<Extras>>,
}

impl Conn {
    /// Takes an established connection into the loop.
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
            status: Status::default(),
            io: Queues::default(),
            reader: Cell::default(),
            extras: OnceCell::new(),
        });
        let registration = conn.transport.registration().ok_or_else(|| conn.closed())?;
        let key = engine
            .register(registration, conn.clone() as Rc<dyn Handler>)
            .map_err(|source| Error::from_io(Operation::Watch, conn.peer_name(), source))?;
        conn.key.set(Some(key));
        let (input, output) = engine.is_oneshot(key);
        conn.status.change(|state| {
            state.wire.set(Wire::INPUT_ONESHOT, input);
            state.wire.set(Wire::ONESHOT, input || output);
            state.wire.set(Wire::FILES, !conn.transport.is_socket());
        });
        conn.transport.accept_fds(conn.common.options.tuning.descriptors);
        if conn.common.options.idle_timeout.is_some() || conn.common.options.receive_timeout.is_some() {
            conn.watch_idleness();
        }
        Ok(conn)
    }

    pub(crate) fn engine(&self) -> &Rc<Engine> {
        &self.engine
    }

    /// Calls `told` when the server of this connection stops accepting clients, or now if it has. It must call no code of the
    /// program's.
    #[cfg(feature = "http")]
    pub(crate) fn when_server_stops(&self, told: Rc<dyn Fn()>) {
        if self.common.stopped.get() {
            told();
        } else {
            self.common.on_stop.borrow_mut().push(told);
        }
    }

    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }

    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.status.is_open()
    }

    // ---- options ----

    pub(crate) fn change_options(&self, change: impl FnOnce(&mut Options)) {
        let mut options = self.extras().options.borrow_mut();
        change(options.get_or_insert_with(|| Box::new(self.common.options.clone())));
        self.status.change(|state| state.duties.insert(Duties::OWN_OPTIONS));
        // They count from the next line of a batch on.
        self.io.inbox(Inbox::recall);
    }

    /// Looks at the options, which nothing changes meanwhile.
    #[inline]
    pub(crate) fn options<R>(&self, look: impl FnOnce(&Options) -> R) -> R {
        match self.own_options() {
            None => look(&self.common.options),
            Some(own) => look(&own),
        }
    }

    #[inline]
    fn own_options(&self) -> Option<Ref<'_, Options>> {
        if !self.status.is(Look::OWN_OPTIONS) {
            return None;
        }
        Ref::filter_map(self.extras().options.borrow(), Option::as_deref).ok()
    }

    // ---- about it ----

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

    /// The error of using the connection after its end: why it failed, if it did.
    pub(crate) fn closed(&self) -> Error {
        let failure = self.if_cold(|cold| cold.end.failure());
        failure.unwrap_or_else(|| Error::Closed { peer: self.peer_name() })
    }

    #[inline]
    pub(crate) fn is_tls(&self) -> bool {
        self.status.is(Look::TLS)
    }

    #[inline]
    fn channel(&self) -> Channel<'_> {
        let session = if self.is_tls() { self.extras.get().map(|extras| &extras.session) } else { None };
        Channel { transport: &self.transport, session, is_handshaking: self.is_shaking() }
    }

    pub(crate) fn is_shaking(&self) -> bool {
        self.status.is_handshaking()
    }

    // ---- parts that come with their first use ----

    fn extras(&self) -> &Extras {
        self.extras.get_or_init(Box::default)
    }

    fn cold<R>(&self, change: impl FnOnce(&mut Cold) -> R) -> R {
        change(self.extras().cold.borrow_mut().get_or_insert_default())
    }

    /// The same where there is nothing to do if nothing of it was ever used.
    fn if_cold<R>(&self, change: impl FnOnce(&mut Cold) -> Option<R>) -> Option<R> {
        self.extras.get().and_then(|extras| extras.cold.borrow_mut().as_deref_mut().and_then(change))
    }

    fn cancel_timer(&self, timer: impl FnOnce(&mut Cold) -> Option<TimerKey>) {
        if let Some(timer) = self.if_cold(timer) {
            self.engine.cancel_timer(timer);
        }
    }

    fn strong(&self) -> Option<Rc<Conn>> {
        self.me.upgrade()
    }

    // ---- the loop ----

    /// Schedules the connection for the next loop iteration.
    fn wake(&self) {
        if self.status.is(Look::IN_CALLBACK) {
            self.status.mark(Look::REQUEUE, true);
        } else if let Some(key) = self.key.get() {
            self.engine.requeue(key);
        } else if let Some(me) = self.strong() {
            self.engine.defer(move |engine| {
                me.ready(engine, Ready::NONE);
            });
        }
    }

    /// Tells the engine what is waited for.
    fn arm(&self) {
        if let Some(key) = self.key.get() {
            let (read, write) = self.status.get().interest();
            self.engine.set_interest(key, read, write);
        }
    }

    /// Waits for room to write, or no longer.
    #[inline]
    fn arm_write(&self, armed: bool) {
        if self.status.get().write.contains(WriteHalf::ARMED) != armed {
            self.status.change(|state| state.write.set(WriteHalf::ARMED, armed));
            self.arm();
        }
    }

    /// Schedules the send queue for the end of this loop iteration.
    #[inline]
    fn cork(&self) {
        if let Some(key) = self.key.get()
            && !self.status.mark(Look::CORKED, true)
        {
            self.engine.mark_dirty(key);
        }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // Its end was to be told on a turn of a loop that never came.
        if self.status.get().duties.contains(Duties::TELLS_SERVER) {
            self.common.leave();
        }
    }
}
