//! One client's connection: what its parts share. Those are the gate, the requests, the replies, and the task that runs hyper.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::core::Core;
use futures_io::AsyncWrite;

use super::discard::Discard;
use super::gate::Refusal;
use crate::address::Endpoint;
use crate::conn::Socket;
use crate::engine::{Engine, Key, Wakers};
use crate::error::{Error, Result};

/// The shared state of one connection.
pub(super) struct Visit {
    pub(super) core: Rc<Core>,
    pub(super) engine: Rc<Engine>,
    pub(super) socket: Socket,
    pub(super) remote: Endpoint,
    pub(super) is_tls: bool,
    /// The server is reached at an address of this machine alone, so a request's host has to be one of this machine.
    pub(super) is_loopback: bool,
    /// Set by the gate for the request that hyper is given instead of one that is refused.
    pub(super) refusal: Cell<Option<Refusal>>,
    /// The status for a body that broke a rule, if the handler fails over that.
    pub(super) body_status: Cell<Option<u16>>,
    pub(super) discard: RefCell<Option<Discard>>,
    /// More comes than anybody wants.
    pub(super) is_overlong: Cell<bool>,
    /// Takes the connection once the reply that switches protocols is out.
    pub(super) upgrade: RefCell<Option<Upgrade>>,
    pub(super) requests: Cell<u32>,
    /// Replies that hyper has the whole of, or will never have.
    replies: Cell<u32>,
    /// The task is over.
    is_over: Cell<bool>,
    /// It goes on where nothing of the program may be called.
    is_held: Cell<bool>,
    pub(super) task: Cell<Option<Key>>,
    /// Those who wait for the next reply to go out.
    senders: RefCell<Wakers>,
    pub(super) deadlines: Deadlines,
    /// Of the connection's task.
    waker: RefCell<Option<Waker>>,
}

/// Takes the connection over, in another protocol.
pub(super) type Upgrade = Box<dyn FnOnce(Socket)>;

/// The limits in time that run, by the loop's clock. Timers are set for them now and then, see [`Visit::poll_deadlines`].
#[derive(Default)]
pub(super) struct Deadlines {
    pub(super) read: Cell<Option<Deadline>>,
    pub(super) write: Cell<Option<Deadline>>,
    /// The send queue when the write deadline was set.
    pub(super) queued: Cell<usize>,
}

/// A limit that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deadline {
    pub(super) at: Duration,
    pub(super) of: Limit,
}

/// The cause of a limit in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// Between two requests.
    Idle,
    Head,
    Body,
    /// For a body that nobody wants.
    Discard,
    Write,
}

impl Visit {
    pub(super) fn new(core: &Rc<Core>, socket: Socket) -> Rc<Self> {
        let engine = socket.conn().engine().clone();
        let local = socket.local();
        Rc::new(Visit {
            core: core.clone(),
            engine,
            remote: socket.remote(),
            is_tls: socket.conn().is_tls(),
            is_loopback: local.inet().is_some_and(|local| local.ip().is_loopback()),
            socket,
            refusal: Cell::new(None),
            body_status: Cell::new(None),
            discard: RefCell::new(None),
            upgrade: RefCell::new(None),
            is_overlong: Cell::new(false),
            requests: Cell::new(0),
            replies: Cell::new(0),
            is_over: Cell::new(false),
            is_held: Cell::new(false),
            task: Cell::new(None),
            senders: RefCell::default(),
            deadlines: Deadlines::default(),
            waker: RefCell::new(None),
        })
    }

    /// Returns whether the connection is over if no request has begun. One that has not had any yet may ask the process that has
    /// accepted it.
    pub(super) fn is_over_when_idle(&self) -> bool {
        self.core.is_refusing() || self.core.is_stopping() && self.requests.get() > 0
    }

    /// Goes on at once with a connection of a private main context, on which no loop runs now, as far as that calls nothing of
    /// the program. The rest is for the next blocking call.
    pub(super) fn go_on_apart(&self, context: &glib::MainContext) {
        let Some(task) = self.task.get().filter(|_| !self.engine.in_turn()) else {
            // The loop does run.
            return;
        };
        self.is_held.set(true);
        // Nobody else has that context: what belongs to it stays on its thread.
        let _ = context.with_thread_default(|| self.engine.poll_task(task));
        self.is_held.set(false);
        self.wake();
    }

    /// Returns whether nothing of the program may be called now.
    pub(super) fn is_held(&self) -> bool {
        self.is_held.get()
    }

    /// Lets the task look at everything anew.
    pub(super) fn wake(&self) {
        let waker = self.waker.borrow().clone();
        waker.into_iter().for_each(Waker::wake);
    }

    pub(super) fn set_waker(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            let old = known.replace(waker.clone());
            drop(known);
            drop(old);
        }
    }

    /// A reply is done with.
    pub(super) fn replied(&self) {
        self.replies.set(self.replies.get() + 1);
        self.senders.take().wake();
    }

    /// The connection is done with.
    pub(super) fn finish(&self) {
        self.is_over.set(true);
        self.senders.take().wake();
    }

    /// Ready when every request has its reply, or none will get one any more.
    pub(super) fn poll_sent(&self, context: &Context<'_>) -> Poll<Result> {
        if self.is_over.get() || self.replies.get() >= self.requests.get() {
            return Poll::Ready(Ok(()));
        }
        self.senders.borrow_mut().add_once(context.waker());
        Poll::Pending
    }

    fn deadline(&self, of: Limit) -> Option<Deadline> {
        let settings = &self.core.settings;
        let limit = match of {
            Limit::Idle => settings.keep_idle,
            Limit::Head => settings.header_timeout,
            Limit::Body => settings.body_timeout,
            Limit::Discard => Some(super::settings::DISCARD_TIME),
            Limit::Write => settings.write_timeout,
        };
        Some(Deadline { at: self.engine.loop_time().saturating_add(limit?), of })
    }

    /// The input is awaited. The limit for that begins unless it runs already.
    pub(super) fn await_input(&self, of: Limit) {
        if self.deadlines.read.get().is_none_or(|deadline| deadline.of != of) {
            self.deadlines.read.set(self.deadline(of));
        }
    }

    /// Input has come.
    pub(super) fn got_input(&self) {
        self.deadlines.read.set(None);
    }

    /// Ready when the send queue has room. The limit for that runs meanwhile.
    pub(super) fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        if Pin::new(&mut &self.socket).poll_write(context, &[]).is_pending() {
            self.await_room();
            return Poll::Pending;
        }
        self.deadlines.write.set(None);
        Poll::Ready(())
    }

    /// The kernel has to take some of what is queued.
    pub(super) fn await_room(&self) {
        if self.deadlines.write.get().is_none() {
            self.deadlines.write.set(self.deadline(Limit::Write));
            self.deadlines.queued.set(self.socket.queued());
        }
    }

    /// A body broke a rule: if the handler fails over it, this is why.
    pub(super) fn blame_body(&self, status: u16, error: Error) -> Error {
        self.body_status.set(Some(status));
        self.is_overlong.set(true);
        error
    }
}

/// The connections of a server on this main context, to be told when it stops.
#[derive(Default)]
pub(super) struct Visits(RefCell<Vec<Weak<Visit>>>);

impl Visits {
    pub(super) fn add(&self, visit: &Rc<Visit>) {
        let mut visits = self.0.borrow_mut();
        if visits.len() == visits.capacity() {
            visits.retain(|visit| visit.strong_count() > 0);
        }
        visits.push(Rc::downgrade(visit));
    }

    pub(super) fn wake(&self) {
        let visits = self.0.borrow().clone();
        visits.iter().filter_map(Weak::upgrade).for_each(|visit| visit.wake());
    }
}
