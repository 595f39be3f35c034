//! Waiting for a datagram, or for room to send one: blocking calls until a deadline, futures until they are woken.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::core::Core;
use super::receiving::Received;
use crate::engine::{Engine, Ticket, Wakers};
use crate::error::{Error, Operation, Result};
use crate::sys::wait_for;

/// The event that a future or a blocking call waits for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum For {
    Input,
    Room,
}

/// A future that waits. Dropped, it leaves the queue.
pub(super) struct Waiting {
    core: Rc<Core>,
    what: For,
    ticket: Ticket,
}

impl Waiting {
    pub(super) fn new(core: &Rc<Core>, what: For) -> Self {
        Waiting { core: core.clone(), what, ticket: Ticket::New }
    }

    pub(super) fn wait(&mut self, waker: &Waker) {
        let old = self.core.waiters(self.what).borrow_mut().wait(&mut self.ticket, waker);
        drop(old);
        if self.what == For::Room {
            self.core.arm_write(true);
        }
    }

    /// The future has what it waited for.
    fn leave(&mut self) {
        if self.ticket.is_queued() {
            let mut awake = Wakers::default();
            let left = self.core.waiters(self.what).borrow_mut().leave(&mut self.ticket, &mut awake);
            awake.wake();
            drop(left);
        }
    }

    /// Receives a datagram, or waits for one.
    pub(super) fn poll_received(&mut self, context: &mut Context<'_>, max: usize) -> Poll<Result<Received>> {
        match self.core.try_recv_from(max).transpose() {
            Some(outcome) => {
                self.leave();
                Poll::Ready(outcome)
            }
            None => {
                self.wait(context.waker());
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.leave();
    }
}

pub(super) struct Deadline {
    /// `None` for one that never comes.
    end: Option<Instant>,
    limit: Option<Duration>,
}

impl Core {
    /// Returns the deadline of a blocking call that starts now.
    pub(super) fn deadline(&self) -> Deadline {
        let limit = self.timeout.get();
        Deadline { end: limit.and_then(|limit| Instant::now().checked_add(limit)), limit }
    }

    /// Fails with `NotReady` if the call may not block.
    pub(super) fn may_wait(&self, what: For, deadline: &Deadline) -> Result {
        if deadline.limit == Some(Duration::ZERO) || (what == For::Room && self.engine().in_turn()) {
            return Err(Error::NotReady { peer: self.name() });
        }
        Ok(())
    }

    /// Waits until the deadline, if the call may block.
    pub(super) fn wait(&self, what: For, deadline: &Deadline) -> Result {
        self.may_wait(what, deadline)?;
        Engine::flush_here();
        let operation = if what == For::Input { Operation::Wait } else { Operation::Send };
        let left = deadline.end.map(|end| end.saturating_duration_since(Instant::now()));
        let flags = if what == For::Input { PollFlags::IN } else { PollFlags::OUT };
        let waited = wait_for(vec![PollFd::from_borrowed_fd(self.open()?, flags)], left);
        match (waited, deadline.limit) {
            (Ok(false), Some(limit)) => Err(Error::TimedOut { operation, address: self.name(), limit }),
            (Ok(_), _) => Ok(()),
            (Err(source), _) => Err(Error::Io { operation, address: self.name(), source }),
        }
    }
}
