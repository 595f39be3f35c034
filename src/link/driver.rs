//! A link at work: it tells the [`Machine`] what happens, and does what that says. It has one connection or one try, and one timer.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_channel::oneshot;

use super::handle::{Down, Link};
use super::machine::{Action, Event, Fall, Kick, Machine, Phase};
use super::queue::Queue;
use super::telling::Told;
use super::watch::{NetworkChange, NetworkWatch, Subscription, subscribe};
use crate::address::{Address, Endpoint};
use crate::avahi::{News, Presence, presence};
use crate::conn::callbacks::{Disconnect, Reason};
use crate::conn::{Roster, Socket};
use crate::connect::{Attempt, Dialer, Reach};
use crate::engine::{CallbackSlot, Called, Engine, Key, TimerKey};
use crate::error::{Error, Operation, Result};
use crate::log;
use crate::sys;

type OnUp = dyn FnMut(&Socket) -> Result;
type OnDown = dyn FnMut(&Link, &Down);
type OnGaveUp = dyn FnMut(&Link, Error);

#[derive(Default)]
pub(super) struct Callbacks {
    pub(super) up: CallbackSlot<OnUp>,
    pub(super) beat: CallbackSlot<OnUp>,
    pub(super) down: CallbackSlot<OnDown>,
    pub(super) gave_up: CallbackSlot<OnGaveUp>,
}

pub(super) struct Inner {
    pub(super) me: Weak<Inner>,
    pub(super) engine: Rc<Engine>,
    pub(super) address: Address,
    dialer: Dialer,
    machine: RefCell<Machine>,
    pub(super) callbacks: Callbacks,
    /// Counts the tries: the result of an earlier one is of no interest.
    number: Cell<u64>,
    socket: RefCell<Option<Socket>>,
    timer: Cell<Option<TimerKey>>,
    /// Hears of changes of the network, if the target is reached by that.
    subscription: RefCell<Option<Subscription>>,
    /// Browses for a service.
    presence: RefCell<Option<Presence>>,
    queue_limit: usize,
    detached: Cell<Option<Key>>,
    cold: RefCell<Option<Box<Cold>>>,
}

/// State that is needed while there is no connection.
#[derive(Default)]
pub(super) struct Cold {
    attempt: Option<Attempt>,
    /// A try that waits until the program has heard of the one before.
    pub(super) is_held: bool,
    queue: Queue,
    /// Calls of the program that are due.
    pub(super) told: VecDeque<Told>,
    pub(super) is_telling: bool,
    /// The reason of the last failure.
    pub(super) last: Option<Error>,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Cold {
    fn is_at_rest(&self) -> bool {
        self.attempt.is_none()
            && self.queue.is_empty()
            && self.told.is_empty()
            && !self.is_telling
            && self.waiting.is_empty()
    }
}

thread_local! {
    static LINKS: RefCell<Vec<Weak<Inner>>> = const { RefCell::new(Vec::new()) };
}

/// Closes the links of a main context, because its loop was told to end.
pub(crate) fn close_all(engine: &Rc<Engine>) {
    let links = LINKS.with(|links| links.borrow().clone());
    for link in links.iter().filter_map(Weak::upgrade).filter(|link| Rc::ptr_eq(&link.engine, engine)) {
        link.close();
    }
}

/// The end of a try, or of a connection.
struct End {
    reason: Error,
    leftover: Vec<u8>,
    unsent: usize,
}

impl From<Error> for End {
    fn from(reason: Error) -> End {
        End { reason, leftover: Vec::new(), unsent: 0 }
    }
}

impl Inner {
    pub(super) fn new(
        engine: &Rc<Engine>,
        address: Address,
        dialer: Dialer,
        machine: Machine,
        queue_limit: usize,
        callbacks: Callbacks,
    ) -> Rc<Inner> {
        let inner = Rc::new_cyclic(|me| Inner {
            me: me.clone(),
            engine: engine.clone(),
            address,
            dialer,
            machine: RefCell::new(machine),
            callbacks,
            number: Cell::new(0),
            socket: RefCell::default(),
            timer: Cell::default(),
            subscription: RefCell::default(),
            presence: RefCell::default(),
            queue_limit,
            detached: Cell::default(),
            cold: RefCell::default(),
        });
        LINKS.with(|links| {
            let mut links = links.borrow_mut();
            links.retain(|link| link.strong_count() > 0);
            links.push(inner.me.clone());
        });
        inner
    }

    /// Starts on the next turn of the loop: until then nothing is opened, and no thread started.
    pub(super) fn start(&self, reach: Reach) {
        self.later(move |me| {
            if me.phase() != Phase::Over {
                me.subscribe(reach);
                me.happened(Event::Start, None);
            }
        });
    }

    /// Calls on the next turn of the loop, unless there is no handle by then.
    pub(super) fn later(&self, call: impl FnOnce(&Rc<Inner>) + 'static) {
        let me = self.me.clone();
        self.engine.defer(move |_| {
            if let Some(me) = me.upgrade() {
                call(&me);
            }
        });
    }

    fn subscribe(&self, reach: Reach) {
        if matches!(reach, Reach::Here) {
            return;
        }
        let me = self.me.clone();
        self.subscription.replace(Some(subscribe(&self.engine, move |change| {
            if let Some(me) = me.upgrade() {
                me.kick(match change {
                    NetworkChange::Addresses => Kick::Network { has_address: NetworkWatch::has_network() },
                    NetworkChange::Resumed(_) => Kick::Resumed,
                });
            }
        })));
        // It may have changed since it was made.
        self.kick(Kick::Network { has_address: NetworkWatch::has_network() });
        let Reach::Service(query) = reach else { return };
        let me = self.me.clone();
        self.presence.replace(Some(presence(&self.engine, query, move |_, news| {
            let Some(me) = me.upgrade() else { return };
            match news {
                News::Seen => me.kick(Kick::Seen),
                News::Moved => me.kick(Kick::Moved),
                News::Gone => me.kick(Kick::Gone),
                News::Unavailable(cause) => me.has_no_avahi(cause),
            }
        })));
    }

    /// The link waits for the daemon, as for the service.
    fn has_no_avahi(&self, cause: String) {
        let error = Error::AvahiUnavailable { address: self.address.to_string(), cause };
        let event = log::message("link").peer(&self.address).error(&error);
        event.say(format_args!("{error}; waiting for it"));
        let before = self.cold(|cold| cold.last.replace(error));
        drop(before);
    }

    pub(super) fn phase(&self) -> Phase {
        if self.engine.has_ended() { Phase::Over } else { self.machine.borrow().phase() }
    }

    pub(super) fn kick(&self, kick: Kick) {
        self.happened(Event::Kick(kick), None);
    }

    pub(super) fn cold<R>(&self, change: impl FnOnce(&mut Cold) -> R) -> R {
        change(self.cold.borrow_mut().get_or_insert_default())
    }

    /// Something has happened; with the end that it is, if it is one.
    fn happened(&self, event: Event, mut end: Option<End>) {
        if self.engine.has_ended() {
            return;
        }
        if let Some(subscription) = &*self.subscription.borrow() {
            // The machine may have slept.
            subscription.look();
        }
        let mut actions = Vec::new();
        self.machine.borrow_mut().handle(event, sys::now(), &mut actions);
        for action in actions {
            match action {
                Action::Connect => self.connect(),
                Action::Cancel => self.cancel(),
                Action::Down(fall) => self.fell(fall, end.take()),
                Action::GiveUp => self.tell(Told::GaveUp),
                Action::Check => self.check(),
                Action::Beat => self.beat(),
            }
        }
        self.set_timer();
    }

    // ---- tries ----

    /// Starts a try. The program is to have heard of the one before.
    pub(super) fn connect(&self) {
        let must_wait = self.cold(|cold| {
            cold.is_held = !cold.told.is_empty();
            cold.is_held
        });
        if must_wait {
            return;
        }
        let number = self.number.get() + 1;
        self.number.set(number);
        let me = self.me.clone();
        let done = move |result| {
            if let Some(me) = me.upgrade().filter(|me| me.number.get() == number) {
                me.tried(result);
            }
        };
        let list: Weak<dyn Roster> = self.me.clone();
        match self.dialer.attempt(&self.engine, &self.address, list, done) {
            Ok(attempt) => drop(self.cold(|cold| cold.attempt.replace(attempt))),
            Err(error) => {
                // They were fit to be used at the start: it is the machine that has changed.
                self.later(move |me| {
                    if me.number.get() == number {
                        me.happened(Event::Failed { for_good: false }, Some(error.into()));
                    }
                });
            }
        }
    }

    fn cancel(&self) {
        self.number.set(self.number.get() + 1);
        let attempt = self.cold(|cold| {
            cold.is_held = false;
            cold.attempt.take()
        });
        drop(attempt);
    }

    fn tried(&self, result: Result<Socket>) {
        let attempt = self.cold(|cold| cold.attempt.take());
        drop(attempt);
        match result {
            Ok(socket) => self.introduce(socket),
            Err(error) => {
                let event = match &error {
                    Error::ServiceNotFound { .. } => Event::Missing,
                    error => Event::Failed { for_good: !error.is_temporary() },
                };
                self.happened(event, Some(error.into()));
            }
        }
    }

    /// Passes a connection to the program.
    fn introduce(&self, socket: Socket) {
        self.happened(Event::Connected, None);
        if self.phase() != Phase::Introducing {
            return;
        }
        let conn = socket.conn().clone();
        conn.join_roster(NonZeroU64::MIN.saturating_add(self.number.get()));
        let before = self.socket.replace(Some(socket));
        drop(before);
        let mut is_taken = false;
        conn.introduce(|socket| {
            let Some(mut up) = self.callbacks.up.lend() else { return Ok(()) };
            let result = up(&socket);
            is_taken = result.is_ok();
            result
        });
        if is_taken && self.phase() == Phase::Introducing {
            self.happened(Event::Taken, None);
            self.send_queue();
            self.wake();
            self.rest();
        }
    }

    /// The connection that the program was told of has ended. `None`: without a word.
    fn ended(&self, end: Option<Disconnect>) {
        let Some(socket) = self.socket.take() else { return };
        let closed = || Error::Closed { peer: socket.remote().to_string() };
        let end = match end {
            None => End::from(closed()),
            Some(Disconnect { leftover, reason, unsent }) => {
                let is_own = matches!(reason, Reason::Local | Reason::Failed(Error::Other(_)));
                let is_silent = matches!(reason, Reason::Failed(Error::TimedOut { .. }));
                if is_silent || (unsent > 0 && !is_own) {
                    // Nobody reads it, and what is said to be unsent must not arrive.
                    socket.abort();
                }
                let reason = match reason {
                    Reason::Failed(error) => error,
                    Reason::Remote | Reason::Local => closed(),
                };
                End { reason, leftover, unsent }
            }
        };
        let is_new = self.phase() == Phase::Introducing;
        self.happened(if is_new { Event::Failed { for_good: false } } else { Event::Ended }, Some(end));
    }

    fn fell(&self, fall: Fall, end: Option<End>) {
        let End { reason, leftover, unsent } = end.unwrap_or_else(|| self.late().into());
        let Fall { was_up, attempt, next } = fall;
        let down = Down { reason, was_up, attempt, next, unsent, leftover };
        self.tell(Told::Down(Box::new(down)));
    }

    /// The error of a limit of time.
    pub(super) fn late(&self) -> Error {
        let limit = self.machine.borrow().give_up_after().unwrap_or_default();
        Error::TimedOut { operation: Operation::Connect, address: self.address.to_string(), limit }
    }

    // ---- the timer ----

    fn set_timer(&self) {
        let due = self.machine.borrow().timer();
        if let Some(timer) = self.timer.take() {
            self.engine.cancel_timer(timer);
        }
        let Some(due) = due else { return };
        let me = self.me.clone();
        // Rounded up, or it would be early.
        let left = due.saturating_duration_since(sys::now()) + Duration::from_micros(1);
        let timer = self.engine.after_exactly(left, move |_| {
            if let Some(me) = me.upgrade() {
                me.timer.set(None);
                me.happened(Event::Timer, None);
            }
        });
        self.timer.set(Some(timer));
    }

    // ---- while up ----

    /// The connection is suspect.
    fn check(&self) {
        let Some(socket) = self.socket.borrow().clone() else { return };
        let Endpoint::Inet(own) = socket.local() else { return };
        if sys::address_is_here(own) {
            // What cannot be asked is left to keep-alive.
            drop(socket.probe());
            return;
        }
        let gone = format!("this machine no longer has the address {}", own.ip());
        let source = io::Error::new(io::ErrorKind::AddrNotAvailable, gone);
        let address = self.address.to_string();
        socket.conn().was_served(Err(Error::Unreachable { address, source }));
        socket.abort();
    }

    fn beat(&self) {
        let Some(socket) = self.socket.borrow().clone() else { return };
        match self.callbacks.beat.call(&self.engine, |beat| beat(&socket)) {
            Called::Returned(Err(error)) => socket.conn().was_served(Err(error)),
            Called::Panicked => socket.conn().abort_silently(),
            Called::Returned(Ok(())) | Called::Not => {}
        }
    }

    /// The connection, while it is up and open.
    pub(super) fn open(&self) -> Option<Socket> {
        self.up().filter(Socket::is_open)
    }

    pub(super) fn up(&self) -> Option<Socket> {
        matches!(self.phase(), Phase::Up { .. }).then(|| self.socket.borrow().clone()).flatten()
    }

    // ---- sending ----

    pub(super) fn send(&self, data: &[u8], is_line: bool) -> Result {
        let has_queue = self.cold.borrow().as_ref().is_some_and(|cold| !cold.queue.is_empty());
        if let Some(socket) = self.open().filter(|_| !has_queue) {
            match socket.conn().send(data, is_line) {
                // It has ended, which the program is about to hear.
                Err(Error::Closed { .. } | Error::Reset { .. }) if self.queue_limit > 0 => {}
                sent => return sent,
            }
        }
        let address = || self.address.to_string();
        if self.phase() == Phase::Over {
            return Err(Error::Closed { peer: address() });
        }
        if self.queue_limit == 0 {
            return Err(Error::Down { address: address(), next: self.next_try() });
        }
        let ending = if is_line { self.dialer.options(|options| options.line_ending.as_str()) } else { "" };
        self.cold(|cold| cold.queue.push(data, ending, self.queue_limit, &self.address))
    }

    fn next_try(&self) -> Option<Duration> {
        match self.phase() {
            Phase::Waiting { until } => Some(until.saturating_duration_since(sys::now())),
            _ => None,
        }
    }

    /// Passes on what was sent while there was no connection, as far as it fits.
    fn send_queue(&self) {
        let Some(socket) = self.open() else { return };
        let mut queue = self.cold(|cold| std::mem::take(&mut cold.queue));
        let passed = queue.pass_on(|call| socket.conn().send(call, false));
        self.cold(|cold| {
            queue.append(std::mem::take(&mut cold.queue));
            cold.queue = queue;
        });
        if matches!(passed, Err(Error::QueueFull { .. })) {
            let me = self.me.clone();
            socket.conn().when_flushed(Box::new(move |_, _| {
                if let Some(me) = me.upgrade() {
                    me.send_queue();
                    me.rest();
                }
            }));
        }
    }

    /// While it is up, there is mostly nothing to keep beside the connection.
    fn rest(&self) {
        let cold = self.cold.borrow_mut().take_if(|cold| cold.is_at_rest());
        drop(cold);
    }

    // ---- the end ----

    /// Calls a future that waits for the link to be up, or over.
    pub(super) fn wake(&self) {
        for sender in self.cold(|cold| std::mem::take(&mut cold.waiting)) {
            // The future may have been dropped.
            let _ = sender.send(());
        }
    }

    /// Returns the result for a future that waits for a connection. `None`: it goes on waiting.
    pub(super) fn outcome(&self) -> Option<Result<Socket>> {
        if self.phase() != Phase::Over {
            return self.open().map(Ok);
        }
        let cold = self.cold.borrow();
        if cold.as_ref().is_some_and(|cold| !cold.told.is_empty()) && !self.engine.has_ended() {
            // The program hears of that first.
            return None;
        }
        let reason = cold.as_ref().and_then(|cold| cold.last.as_ref().map(Error::copy));
        Some(Err(reason.unwrap_or_else(|| Error::Closed { peer: self.address.to_string() })))
    }

    pub(super) fn when_settled(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.cold(|cold| {
            cold.waiting.retain(|sender| !sender.is_canceled());
            cold.waiting.push(sender);
        });
        receiver
    }

    pub(super) fn detach(&self, key: Key) {
        self.detached.set(Some(key));
    }

    /// Ends it. What was passed to the connection goes out.
    pub(super) fn close(&self) {
        self.send_queue();
        self.happened(Event::Close, None);
        let socket = self.socket.take();
        if let Some(socket) = &socket {
            socket.close();
        }
        self.wake();
        let cold = self.cold.take();
        drop((socket, cold));
        self.release();
    }

    /// It is over: lets go of everything, and of what the program's callbacks hold.
    pub(super) fn release(&self) {
        let Callbacks { up, beat, down, gave_up } = &self.callbacks;
        let callbacks = (up.take(), beat.take(), down.take(), gave_up.take());
        let watches = (self.subscription.take(), self.presence.take());
        let queue = self.cold(|cold| std::mem::take(&mut cold.queue));
        drop((callbacks, watches, queue));
        if let Some(key) = self.detached.take() {
            // It may hold the last handle.
            let me = self.me.upgrade();
            self.engine.drop_task(key);
            drop(me);
        }
    }
}

impl Roster for Inner {
    fn leave(&self, number: NonZeroU64) {
        if number.get() == self.number.get() + 1 {
            self.ended(None);
        }
    }

    fn give_up(&self, _: NonZeroU64) {}

    fn log_end(&self, record: &dyn Fn()) {
        record();
    }

    fn hears_ends(&self) -> bool {
        true
    }

    fn ended(&self, number: NonZeroU64, end: Disconnect) {
        if number.get() == self.number.get() + 1 {
            Inner::ended(self, Some(end));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            self.engine.cancel_timer(timer);
        }
        let Some(socket) = self.socket.take() else { return };
        let weak = socket.downgrade();
        socket.unread();
        drop(socket);
        // Somebody else has it, too.
        if let Some(socket) = weak.upgrade() {
            socket.close();
        }
    }
}
