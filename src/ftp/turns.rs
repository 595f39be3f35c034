//! One command after the other: who waits for the session, in the order of the calls.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Default)]
pub(super) struct Turns {
    is_taken: Cell<bool>,
    waiting: RefCell<VecDeque<Rc<Place>>>,
}

#[derive(Default)]
struct Place {
    is_called: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Turns {
    /// Takes the turn if nobody has it.
    pub(super) fn take(self: &Rc<Self>) -> Option<Turn> {
        (!self.is_taken.replace(true)).then(|| Turn(self.clone()))
    }

    /// Waits for the turn.
    pub(super) fn wait(self: &Rc<Self>) -> Waiting {
        Waiting { turns: self.clone(), place: None }
    }

    fn pass_on(&self) {
        let next = self.waiting.borrow_mut().pop_front();
        match next {
            None => self.is_taken.set(false),
            Some(place) => {
                place.is_called.set(true);
                if let Some(waker) = place.waker.take() {
                    waker.wake();
                }
            }
        }
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
    place: Option<Rc<Place>>,
}

impl Future for Waiting {
    type Output = Turn;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Turn> {
        let me = &mut *self;
        let place = match &me.place {
            Some(place) => place,
            None => match me.turns.take() {
                Some(turn) => return Poll::Ready(turn),
                None => {
                    let place = me.place.insert(Rc::default());
                    me.turns.waiting.borrow_mut().push_back(place.clone());
                    place
                }
            },
        };
        if place.is_called.get() {
            me.place = None;
            return Poll::Ready(Turn(me.turns.clone()));
        }
        place.waker.set(Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        if place.is_called.get() {
            self.turns.pass_on();
        } else {
            self.turns.waiting.borrow_mut().retain(|other| !Rc::ptr_eq(other, &place));
        }
    }
}

#[cfg(test)]
mod tests {
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
