//! A connection: its bytes through the codec, messages to whoever wants them, messages to the peer.
//!
//! What the peer sends is taken in until a message is whole. One that nobody has asked for yet is held, and no more is read: that
//! slows the peer down. So control frames are served also where nobody reads.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::close::{Code, Disconnect};
use super::codec::{Codec, Event};
use super::ending::End;
use super::frame::Frame;
use super::handle::WebSocket;
use super::keeping_alive::Pulse;
use super::message::{Message, OwnedMessage};
use crate::conn::Socket;
use crate::engine::{CallbackSlot, Called, Engine, WaitQueue, Wakers};
use crate::error::{Error, Result};

/// The longest message that is accepted by default, in bytes.
const MESSAGE_LIMIT: usize = 1 << 20;

/// The time that the peer has by default to answer a close frame.
const LINGER: Duration = Duration::from_secs(5);

/// A message longer than this one has memory apart, which is to be given back before the next is read.
const LONG: usize = 4096;

/// The most that a blocking call receives at a time.
const PIECE: usize = 64 << 10;

pub(super) type OnMessage = dyn FnMut(&WebSocket, Message<'_>) -> Result;
pub(super) type OnDrain = dyn FnMut(&WebSocket) -> Result;
pub(super) type OnDisconnect = Box<dyn FnOnce(&WebSocket, Disconnect)>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Our close frame is sent, and the peer's awaited.
    Closing,
    /// Nothing more is read or sent.
    Ended,
}

/// Whoever waits.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) messages: WaitQueue,
    pub(super) room: WaitQueue,
}

pub(super) struct Core {
    me: Weak<Core>,
    pub(super) engine: Rc<Engine>,
    pub(super) socket: Socket,
    pub(super) protocol: Option<Box<str>>,
    pub(super) is_server: bool,
    pub(super) phase: Cell<Phase>,
    codec: RefCell<Codec>,
    /// Received, and not taken in.
    pending: RefCell<Vec<u8>>,
    /// The codec may have more to tell of what it has taken in.
    has_more: Cell<bool>,
    /// Bytes are being taken in, or a callback is at it.
    busy: Cell<bool>,
    /// A call on the next turn is due.
    is_due: Cell<bool>,
    /// A whole message that nobody has taken.
    held: RefCell<Option<OwnedMessage>>,
    paused: Cell<bool>,
    /// Pongs wait for room: the newest one.
    pong: RefCell<Vec<u8>>,
    pub(super) reader: CallbackSlot<OnMessage>,
    on_drain: CallbackSlot<OnDrain>,
    pub(super) on_disconnect: RefCell<Option<OnDisconnect>>,
    pub(super) waiting: RefCell<Waiting>,
    /// The number of [`WebSocket`]s, one more while the loop keeps it for its reader.
    handles: Cell<u32>,
    kept: Cell<bool>,
    pub(super) linger: Cell<Duration>,
    pub(super) pulse: Pulse,
    pub(super) end: RefCell<End>,
}

impl Core {
    /// Takes over a connection on which the handshake is done.
    pub(super) fn start(socket: Socket, is_server: bool, protocol: Option<&str>) -> Rc<Core> {
        let engine = socket.conn().engine().clone();
        let core = Rc::new_cyclic(|me| Core {
            me: me.clone(),
            engine,
            protocol: protocol.map(Box::from),
            is_server,
            phase: Cell::new(Phase::Open),
            codec: RefCell::new(Codec::new(is_server, MESSAGE_LIMIT)),
            pending: RefCell::default(),
            has_more: Cell::new(false),
            busy: Cell::new(false),
            is_due: Cell::new(false),
            held: RefCell::default(),
            paused: Cell::new(false),
            pong: RefCell::default(),
            reader: CallbackSlot::default(),
            on_drain: CallbackSlot::default(),
            on_disconnect: RefCell::default(),
            waiting: RefCell::default(),
            handles: Cell::new(0),
            kept: Cell::new(false),
            linger: Cell::new(LINGER),
            pulse: Pulse::default(),
            end: RefCell::default(),
            socket,
        });
        core.attach();
        core.beat();
        core
    }

    /// The callbacks of the connection lead here. They are dropped with its end.
    fn attach(self: &Rc<Self>) {
        let me = self.clone();
        self.socket.disconnect_cb(move |_, end| me.connection_ended(&end.leftover, end.reason));
        let me = self.clone();
        self.socket.drain_cb(move |_| {
            me.drained();
            Ok(())
        });
        let me = self.clone();
        self.socket.read(move |_, data| {
            me.received(data);
            Ok(())
        });
    }

    pub(super) fn downgrade(&self) -> Weak<Core> {
        self.me.clone()
    }

    pub(super) fn strong(&self) -> Option<Rc<Core>> {
        self.me.upgrade()
    }

    pub(super) fn peer(&self) -> String {
        self.socket.remote().to_string()
    }

    pub(super) fn is_open(&self) -> bool {
        self.phase.get() == Phase::Open && self.socket.is_open()
    }

    pub(super) fn message_limit(&self) -> usize {
        self.codec.borrow().limit()
    }

    pub(super) fn set_message_limit(&self, bytes: usize) {
        self.codec.borrow_mut().set_limit(bytes);
    }

    /// Returns whether the peer's silence may be its own fault: not while it is not read.
    pub(super) fn listens(&self) -> bool {
        !self.has_pending()
    }

    // ---- receiving ----

    /// Returns whether more is to be taken in.
    fn wants(&self) -> bool {
        match self.phase.get() {
            Phase::Open => self.held.borrow().is_none(),
            Phase::Closing => true,
            Phase::Ended => false,
        }
    }

    /// Returns whether messages go to the callback.
    pub(super) fn delivers(&self) -> bool {
        self.reader.is_set() && !self.paused.get()
    }

    /// Bytes have come, in a turn of the loop.
    fn received(&self, data: &[u8]) {
        if self.phase.get() == Phase::Ended {
            return;
        }
        self.pulse.hear();
        if self.busy.get() || !self.wants() || self.has_untaken() {
            self.pending.borrow_mut().extend_from_slice(data);
            self.socket.pause();
            return self.go_on_later();
        }
        let mut rest = data;
        self.take_in(&mut rest);
        self.keep(rest);
    }

    /// Keeps the bytes that could not be taken in, and pauses the connection.
    fn keep(&self, rest: &[u8]) {
        if self.phase.get() == Phase::Ended {
            return;
        }
        // What has come meanwhile, in a nested loop, comes after it.
        if !rest.is_empty() {
            self.pending.borrow_mut().splice(..0, rest.iter().copied());
        }
        if self.has_untaken() {
            if !self.wants() {
                self.socket.pause();
            }
            self.go_on_later();
        }
    }

    /// Takes bytes in until a message is held, the time of this turn is up, or all are taken.
    fn take_in(&self, rest: &mut &[u8]) {
        let Some(me) = self.strong() else { return };
        self.busy.set(true);
        self.has_more.set(true);
        let mut long = None;
        while self.wants() {
            let next = self.codec.borrow_mut().next(rest);
            // Only now: the codec begins with memory anew if a long message still has the old one.
            drop(long.take());
            match next {
                Ok(None) => {
                    self.has_more.set(false);
                    break;
                }
                Ok(Some(Event::Text(text))) => {
                    me.take_message(Message::Text(text.as_str()));
                    long = Some(text).filter(|text| text.len() > LONG).map(tungstenite::Bytes::from);
                }
                Ok(Some(Event::Binary(data))) => {
                    me.take_message(Message::Binary(&data));
                    long = Some(data).filter(|data| data.len() > LONG);
                }
                Ok(Some(Event::Ping(pong))) => self.answer_ping(pong),
                Ok(Some(Event::Pong)) => self.take_pong(),
                Ok(Some(Event::Close(close, reply))) => self.peer_closes(close, &reply),
                Err(violation) => self.refuse(violation.code, violation.problem),
            }
            if self.engine.spent() {
                break;
            }
        }
        self.busy.set(false);
    }

    fn take_message(self: &Rc<Self>, message: Message<'_>) {
        if self.phase.get() != Phase::Open {
            return;
        }
        if self.delivers() {
            let ws = WebSocket::new(self.clone());
            match self.reader.call(&self.engine, |callback| callback(&ws, message)) {
                Called::Returned(Ok(())) => return,
                Called::Returned(Err(error)) => return self.callback_failed(error),
                Called::Panicked => return self.abort_silently(),
                // It is on the stack, in a nested loop.
                Called::Not => {}
            }
        }
        self.held.replace(Some(message.to_owned()));
        self.wake(|waiting| &mut waiting.messages);
        if self.delivers() && !self.reader.is_busy() {
            self.go_on_later();
        }
    }

    /// On the next turn: delivers what is held, and takes in what is pending.
    pub(super) fn go_on_later(&self) {
        if self.is_due.replace(true) {
            return;
        }
        // What the connection has left when it ends nobody else may keep.
        let (weak, kept) = (self.downgrade(), self.has_connection_ended().then(|| self.strong()));
        self.engine.defer(move |_| {
            if let Some(me) = weak.upgrade() {
                me.is_due.set(false);
                me.go_on();
            }
            drop(kept);
        });
    }

    pub(super) fn go_on(self: &Rc<Self>) {
        if self.engine.is_panicking() {
            return self.go_on_later();
        }
        if self.busy.get() || self.phase.get() == Phase::Ended {
            return;
        }
        if self.delivers() {
            self.busy.set(true);
            let held = self.held.take();
            if let Some(message) = held {
                self.take_message(message.as_message());
            }
            self.busy.set(false);
        }
        self.take_in_pending();
        if self.wants() && !self.has_untaken() {
            self.socket.resume();
        }
    }

    /// Takes in what waits here.
    fn take_in_pending(&self) {
        if self.busy.get() || !self.wants() {
            return;
        }
        let pending = self.pending.take();
        let mut rest = pending.as_slice();
        self.take_in(&mut rest);
        self.keep(rest);
        self.finish_if_over();
    }

    /// Returns whether anything that has come is left to take in.
    fn has_untaken(&self) -> bool {
        self.has_more.get() || !self.pending.borrow().is_empty()
    }

    /// Returns whether anything is left to take in, or to take.
    pub(super) fn has_pending(&self) -> bool {
        self.has_untaken() || self.busy.get() || self.held.borrow().is_some()
    }

    /// Takes a message, if one is there, for whoever asks.
    pub(super) fn take_held(&self) -> Option<OwnedMessage> {
        if self.held.borrow().is_none() {
            self.take_in_pending();
        }
        let taken = self.held.take();
        if taken.is_some() && (self.socket.is_paused() || self.has_untaken()) {
            self.go_on_later();
        }
        taken
    }

    /// Fails where messages go to the callback.
    pub(super) fn check_reader(&self) -> Result {
        if !self.delivers() {
            return Ok(());
        }
        let peer = self.peer();
        Err(Error::Unsupported(format!(
            "a read callback is set on the WebSocket to {peer}; remove it with unread(), or pause() it, to receive otherwise"
        )))
    }

    pub(super) fn add_pending(&self, bytes: &[u8]) {
        self.pending.borrow_mut().extend_from_slice(bytes);
    }

    /// Nothing more is taken in.
    pub(super) fn forget_pending(&self) {
        self.pending.take();
        self.pong.take();
    }

    pub(super) fn discard_held(&self) {
        let held = self.held.take();
        drop(held);
    }

    /// Wakes all who wait, to hear of the end.
    pub(super) fn end_waiting(&self) {
        self.wake(|waiting| &mut waiting.messages);
        self.wake(|waiting| &mut waiting.room);
    }

    /// Waits for a message. **Blocks**.
    pub(super) fn recv(&self) -> Result<OwnedMessage> {
        self.check_reader()?;
        if self.busy.get() {
            let peer = self.peer();
            return Err(Error::Unsupported(format!(
                "recv() inside the read callback of the same WebSocket (to {peer})"
            )));
        }
        loop {
            if let Some(message) = self.take_held() {
                return Ok(message);
            }
            if self.phase.get() != Phase::Open {
                return Err(self.closed());
            }
            if self.has_untaken() {
                continue;
            }
            match self.socket.recv(PIECE) {
                Ok(data) => {
                    self.pulse.hear();
                    self.pending.borrow_mut().extend_from_slice(&data);
                }
                Err(error) => self.recv_failed(error)?,
            }
        }
    }

    // ---- the callbacks ----

    pub(super) fn set_reader(&self, reader: Option<Box<OnMessage>>) {
        if self.phase.get() != Phase::Open {
            return;
        }
        let is_set = reader.is_some();
        let old = self.reader.replace(reader);
        self.keep_open(is_set);
        if is_set {
            // Those who wait hear that they wait in vain.
            self.wake(|waiting| &mut waiting.messages);
            self.go_on_later();
        }
        drop(old);
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.get()
    }

    pub(super) fn set_paused(&self, paused: bool) {
        if self.paused.replace(paused) && !paused {
            self.go_on_later();
        }
    }

    pub(super) fn set_on_drain(&self, callback: Option<Box<OnDrain>>) {
        if self.phase.get() != Phase::Ended {
            let old = self.on_drain.replace(callback);
            drop(old);
        }
    }

    /// Drops the callbacks, at the end.
    pub(super) fn drop_callbacks(&self) {
        let old = (self.reader.take(), self.on_drain.take());
        self.keep_open(false);
        drop(old);
    }

    pub(super) fn wake(&self, queue: impl FnOnce(&mut Waiting) -> &mut WaitQueue) {
        let mut awake = Wakers::default();
        queue(&mut self.waiting.borrow_mut()).wake_all(&mut awake);
        awake.wake();
    }

    // ---- sending ----

    /// Queues a message, all of it or nothing.
    pub(super) fn send(&self, message: Message<'_>) -> Result {
        if self.phase.get() != Phase::Open {
            return Err(self.closed());
        }
        self.send_frame(&Frame::message(message, self.is_server)?)
    }

    pub(super) fn send_frame(&self, frame: &Frame<'_>) -> Result {
        let parts = frame.parts();
        self.socket.conn().send_parts(parts)?;
        self.pulse.sent(parts.iter().map(|part| part.len()).sum());
        Ok(())
    }

    pub(super) fn ping(&self, payload: &[u8]) -> Result {
        if payload.len() > 125 {
            let length = payload.len();
            return Err(Error::InvalidOption(format!("a ping carries at most 125 bytes, and this one has {length}")));
        }
        if self.phase.get() != Phase::Open {
            return Err(self.closed());
        }
        self.send_frame(&Frame::ping(payload, self.is_server)?)?;
        self.pulse.asked();
        Ok(())
    }

    /// Sends a pong, or keeps it until there is room. The newest one counts (RFC 6455, section 5.5.3).
    pub(super) fn send_pong(&self, pong: Vec<u8>) {
        if self.phase.get() != Phase::Open {
            return;
        }
        if self.socket.is_full() || self.socket.send(&pong).is_err() {
            self.pong.replace(pong);
        } else {
            self.pulse.sent(pong.len());
        }
    }

    /// The send queue was full, and has drained.
    fn drained(self: &Rc<Self>) {
        let pong = self.pong.take();
        if !pong.is_empty() {
            self.send_pong(pong);
        }
        self.wake(|waiting| &mut waiting.room);
        if self.phase.get() == Phase::Ended {
            return;
        }
        let ws = WebSocket::new(self.clone());
        match self.on_drain.call(&self.engine, |callback| callback(&ws)) {
            Called::Returned(Err(error)) => self.callback_failed(error),
            Called::Panicked => self.abort_silently(),
            Called::Returned(Ok(())) | Called::Not => {}
        }
    }

    pub(super) fn callback_failed(&self, error: Error) {
        self.fail(Code::INTERNAL, "", error);
    }

    // ---- handles ----

    pub(super) fn add_handle(&self) {
        self.handles.set(self.handles.get() + 1);
    }

    pub(super) fn drop_handle(&self) {
        let left = self.handles.get() - 1;
        self.handles.set(left);
        if left == 0 {
            self.last_drop();
        }
    }

    pub(super) fn has_handles(&self) -> bool {
        self.handles.get() > 0
    }

    /// The loop keeps what it calls.
    fn keep_open(&self, keep: bool) {
        if self.kept.replace(keep) != keep {
            if keep { self.add_handle() } else { self.drop_handle() }
        }
    }
}
