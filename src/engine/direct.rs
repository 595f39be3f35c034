//! The poll function of our own loops. GLib polls the engine's descriptor, and the engine then asks it for its events: two
//! calls of the system for each turn. Where nothing is to be watched but that descriptor and GLib's own wake-up, one call
//! waits and brings the events along.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::slice;

use glib::ffi::{self, GPollFD};

use super::Engine;

thread_local! {
    /// Those of the loops that are running here, the innermost last.
    static ENGINES: RefCell<Vec<Rc<Engine>>> = const { RefCell::new(Vec::new()) };
}

/// While this lives, the engine's context is polled directly.
pub(crate) struct Direct(Rc<Engine>);

impl Engine {
    /// Has the context polled directly, unless the program has given it a poll function.
    pub(crate) fn poll_directly(self: &Rc<Self>) -> Option<Direct> {
        if !self.sources.replace_poll(ffi::g_poll, poll) {
            return None;
        }
        ENGINES.with(|engines| engines.borrow_mut().push(self.clone()));
        Some(Direct(self.clone()))
    }

    /// Waits for events and for GLib's wake-up. `None` if that is for GLib to do.
    fn wait_directly(&self, fds: &mut [GPollFD], timeout: i32) -> Option<i32> {
        let mut poller = self.poller.try_borrow_mut().ok()?;
        let (own, wakeup) = match fds {
            // Of a lower priority than the wake-up, or the same, the engine is never polled without it.
            [a, b] if a.fd == self.epoll && self.sources.priority() >= 0 => (a, b),
            [a, b] if b.fd == self.epoll && self.sources.priority() >= 0 => (b, a),
            _ => {
                poller.forget_wakeup();
                return None;
            }
        };
        if own.events == 0 || poller.has_fetched() {
            return None;
        }
        let woken = match poller.fetch(wakeup.fd, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
            woken => woken.ok()?,
        };
        own.revents = if poller.has_fetched() { ffi::G_IO_IN as u16 } else { 0 };
        wakeup.revents = if woken { ffi::G_IO_IN as u16 } else { 0 };
        Some(i32::from(own.revents != 0) + i32::from(woken))
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        self.0.sources.replace_poll(poll, ffi::g_poll);
        self.0.poller.borrow_mut().forget_wakeup();
        ENGINES.with(|engines| engines.borrow_mut().retain(|engine| !Rc::ptr_eq(engine, &self.0)));
    }
}

unsafe extern "C" fn poll(fds: *mut GPollFD, count: u32, timeout: i32) -> i32 {
    let records = match fds.is_null() {
        true => &mut [],
        // SAFETY: GLib gives so many records, which nobody else touches meanwhile.
        false => unsafe { slice::from_raw_parts_mut(fds, count as usize) },
    };
    let done = ENGINES.try_with(|engines| {
        let engines = engines.borrow();
        let own = engines.iter().rev().find(|engine| records.iter().any(|record| record.fd == engine.epoll));
        own.and_then(|engine| engine.wait_directly(records, timeout))
    });
    let done = done.ok().flatten();
    // SAFETY: as GLib itself would have called it.
    done.unwrap_or_else(|| unsafe { ffi::g_poll(fds, count, timeout) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_calls_it_for_nothing_but_the_time_may() {
        // SAFETY: no records, which is what it says.
        assert_eq!(unsafe { poll(std::ptr::null_mut(), 0, 0) }, 0);
    }
}
