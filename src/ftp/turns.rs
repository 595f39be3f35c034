//! One command after the other: who waits for the session, in the order of the calls.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::engine::{Ticket, WaitQueue, Wakers};

#[derive(Default)]
pub(super) struct Turns {
    is_taken: Cell<bool>,
    queue: RefCell<WaitQueue>,
}

impl Turns {
    /// Takes the turn if nobody has it or waits for it.
    pub(super) fn take(self: &Rc<Self>) -> Option<Turn> {
        self.take_with(&Ticket::New)
    }

    /// Waits for the turn.
    pub(super) fn wait(self: &Rc<Self>) -> Waiting {
        Waiting { turns: self.clone(), ticket: Ticket::New }
    }

    fn take_with(self: &Rc<Self>, ticket: &Ticket) -> Option<Turn> {
        let is_next = !self.is_taken.get() && self.queue.borrow().is_first(ticket);
        is_next.then(|| {
            self.is_taken.set(true);
            Turn(self.clone())
        })
    }

    fn pass_on(&self) {
        self.is_taken.set(false);
        let mut awake = Wakers::default();
        self.queue.borrow_mut().wake_next(&mut awake);
        awake.wake();
    }
}

/// The turn. Dropping it passes it on.
pub(super) struct Turn(Rc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

/// Somebody who waits, from the first poll on.
pub(super) struct Waiting {
    turns: Rc<Turns>,
    ticket: Ticket,
}

impl Waiting {
    /// Gives the place up. The one behind may be next now.
    fn leave(&mut self) {
        let mut awake = Wakers::default();
        let waker = self.turns.queue.borrow_mut().leave(&mut self.ticket, &mut awake);
        drop(waker);
        awake.wake();
    }
}

impl Future for Waiting {
    type Output = Turn;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Turn> {
        let me = &mut *self;
        if let Some(turn) = me.turns.take_with(&me.ticket) {
            me.leave();
            return Poll::Ready(turn);
        }
        let before = me.turns.queue.borrow_mut().wait(&mut me.ticket, context.waker());
        drop(before);
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn poll(future: &mut Pin<Box<Waiting>>) -> Option<Turn> {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn turns_come_in_order() {
        let turns = Rc::<Turns>::default();
        let first = turns.take().unwrap();
        assert!(turns.take().is_none());
        let (mut second, mut third) = (Box::pin(turns.wait()), Box::pin(turns.wait()));
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
        drop(first);
        assert!(turns.take().is_none(), "it has been passed on");
        assert!(poll(&mut third).is_none());
        let turn = poll(&mut second).unwrap();
        assert!(poll(&mut third).is_none());
        drop(turn);
        drop(poll(&mut third).unwrap());
        assert!(turns.take().is_some());
    }

    #[test]
    fn who_gives_up_does_not_hold_up_the_others() {
        let turns = Rc::<Turns>::default();
        let first = turns.take().unwrap();
        let (mut second, mut third) = (Box::pin(turns.wait()), Box::pin(turns.wait()));
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
        drop(second);
        drop(first);
        drop(poll(&mut third).unwrap());
        // Called, and not taken.
        let first = turns.take().unwrap();
        let (mut second, mut third) = (Box::pin(turns.wait()), Box::pin(turns.wait()));
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
        drop(first);
        drop(second);
        assert!(poll(&mut third).is_some());
        // Never polled.
        drop(turns.wait());
        assert!(turns.take().is_some());
    }
}
