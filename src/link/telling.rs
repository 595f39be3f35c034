//! The calls of the program: each is due on a turn of the loop, and comes after the one before has returned.

use std::rc::Rc;

use super::driver::Inner;
use super::handle::{Down, Link};
use super::machine::Phase;
use crate::engine::{Called, call};
use crate::log;

/// Something that the program is to hear.
pub(super) enum Told {
    Down(Box<Down>),
    GaveUp,
}

impl Inner {
    pub(super) fn tell(&self, told: Told) {
        self.cold(|cold| cold.told.push_back(told));
        self.tell_later();
    }

    fn tell_later(&self) {
        if self.cold(|cold| std::mem::replace(&mut cold.is_telling, true)) {
            return;
        }
        self.later(|me| {
            me.cold(|cold| cold.is_telling = false);
            me.tell_all();
        });
    }

    fn tell_all(self: &Rc<Self>) {
        loop {
            if self.engine.is_panicking() {
                return self.tell_later();
            }
            if self.callbacks.down.is_busy() || self.callbacks.gave_up.is_busy() {
                // A nested loop runs in it. The rest comes when it returns.
                return;
            }
            let next = self.cold(|cold| cold.told.pop_front());
            match next {
                None => break,
                Some(Told::Down(down)) => self.tell_down(down),
                Some(Told::GaveUp) => {
                    self.tell_gave_up();
                    self.wake();
                    self.release();
                }
            }
        }
        if self.cold(|cold| std::mem::take(&mut cold.is_held)) {
            self.connect();
        }
    }

    fn tell_down(self: &Rc<Self>, down: Box<Down>) {
        let link = Link { inner: self.clone() };
        if self.callbacks.down.call(&self.engine, |callback| callback(&link, &down)) == Called::Not {
            let event = log::info("link").peer(&self.address).error(&down.reason);
            event.say(format_args!("{}: {down}", self.address));
        }
        let is_closed = self.phase() == Phase::Over && self.cold(|cold| cold.told.is_empty());
        if !is_closed {
            let before = self.cold(|cold| cold.last.replace(down.reason));
            drop(before);
        }
    }

    fn tell_gave_up(self: &Rc<Self>) {
        let last = self.cold(|cold| cold.last.take());
        let error = last.unwrap_or_else(|| self.late());
        self.cold(|cold| cold.last = Some(error.copy()));
        let link = Link { inner: self.clone() };
        match self.callbacks.gave_up.take() {
            Some(mut callback) => drop(call(&self.engine, || callback(&link, error))),
            None => {
                let event = log::message("link").peer(&self.address).error(&error);
                event.say(format_args!("gave up connecting to {}: {error}", self.address));
            }
        }
    }
}
