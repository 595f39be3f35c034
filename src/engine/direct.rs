//! The iterations of our own loops. GLib's loop polls the engine's descriptor, and the engine then asks it for its events:
//! two calls of the system for each turn. Where nothing is to be watched but that descriptor and GLib's own wake-up, one
//! call waits and brings the events along. It is made in the frame of the loop, see [`Engine::serve`].

use std::io;
use std::panic::resume_unwind;
use std::rc::Rc;

use glib::ffi::{self, GMainContext, GPollFD};
use glib::translate::ToGlibPtr;

use super::{Engine, main_depth};

/// A loop of ours that is on the stack.
pub(crate) struct Iterations<'a> {
    engine: &'a Rc<Engine>,
    context: &'a glib::MainContext,
    /// The poll records of GLib.
    records: Vec<GPollFD>,
    _owned: glib::MainContextAcquireGuard<'a>,
}

impl<'a> Iterations<'a> {
    /// `None` if another thread runs the context.
    pub(crate) fn new(engine: &'a Rc<Engine>, context: &'a glib::MainContext) -> Option<Self> {
        Some(Iterations { engine, context, records: Vec::new(), _owned: context.acquire().ok()? })
    }

    /// One turn: waits for something, and does it.
    #[inline(always)]
    pub(crate) fn next(&mut self) {
        let context: *mut GMainContext = self.context.to_glib_none().0;
        let (mut priority, mut timeout) = (0, 0);
        // SAFETY: the context lives, and belongs to this thread.
        unsafe { ffi::g_main_context_prepare(context, &raw mut priority) };
        let count = loop {
            let (records, room) = (self.records.as_mut_ptr(), self.records.len());
            // SAFETY: as above, and GLib writes no more records than there is room for.
            let count = unsafe { ffi::g_main_context_query(context, priority, &raw mut timeout, records, room as i32) }
                as usize;
            if count <= room {
                break count;
            }
            self.records.resize(count, GPollFD { fd: -1, events: 0, revents: 0 });
        };
        let records = &mut self.records[..count];
        if !self.engine.wait_directly(context, records, timeout) {
            poll(context, records, timeout);
        }
        // SAFETY: as above; these are the records that were asked for.
        unsafe {
            if ffi::g_main_context_check(context, priority, records.as_mut_ptr(), count as i32) != ffi::GFALSE {
                ffi::g_main_context_dispatch(context);
            }
        }
    }
}

impl Drop for Iterations<'_> {
    fn drop(&mut self) {
        self.engine.poller.borrow_mut().forget_wakeup();
    }
}

impl Engine {
    /// Waits for events and for GLib's wake-up. False if that is for GLib to do.
    #[inline(always)]
    fn wait_directly(&self, context: *mut GMainContext, records: &mut [GPollFD], timeout: i32) -> bool {
        let Ok(mut poller) = self.poller.try_borrow_mut() else { return false };
        let (own, wakeup) = match records {
            // Of a lower priority than the wake-up, or the same, the engine is never polled without it.
            [a, b] if a.fd == self.epoll && self.sources.priority() >= 0 => (a, b),
            [a, b] if b.fd == self.epoll && self.sources.priority() >= 0 => (b, a),
            _ => {
                poller.forget_wakeup();
                return false;
            }
        };
        if own.events == 0 || poller.has_fetched() || !polls_itself(context) {
            return false;
        }
        let woken = match poller.fetch(wakeup.fd, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
            Err(_) => return false,
            Ok(woken) => woken,
        };
        own.revents = if poller.has_fetched() { ffi::G_IO_IN as u16 } else { 0 };
        wakeup.revents = if woken { ffi::G_IO_IN as u16 } else { 0 };
        true
    }
}

/// Returns whether the context has GLib's own poll function, not one of the program's.
fn polls_itself(context: *mut GMainContext) -> bool {
    // SAFETY: the context lives, as its loop does that calls this.
    let poll = unsafe { ffi::g_main_context_get_poll_func(context) };
    poll.is_some_and(|poll| poll as usize == ffi::g_poll as *const () as usize)
}

fn poll(context: *mut GMainContext, records: &mut [GPollFD], timeout: i32) {
    // SAFETY: as GLib itself would have called it.
    unsafe {
        if let Some(poll) = ffi::g_main_context_get_poll_func(context) {
            poll(records.as_mut_ptr(), records.len() as u32, timeout);
        }
    }
}

/// A turn of a loop of ours: the panic of a callback comes out of it.
#[inline(always)]
pub(crate) fn turn<R>(engine: &Rc<Engine>, turn: impl FnOnce() -> R) -> R {
    let depth = main_depth();
    if depth > 0 {
        // Of other contexts as well: this one may wait for the answer. Its own goes out before it sleeps.
        Engine::flush_here();
    }
    let outer = engine.enter_loop(Some(depth));
    let done = turn();
    engine.enter_loop(outer);
    if depth == 0 {
        engine.sources.loop_returned();
    }
    if let Some(panic) = engine.take_panic() {
        resume_unwind(panic);
    }
    done
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    static CALLS: AtomicU32 = AtomicU32::new(0);

    unsafe extern "C" fn counting(records: *mut GPollFD, count: u32, timeout: i32) -> i32 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: handed on.
        unsafe { ffi::g_poll(records, count, timeout) }
    }

    #[test]
    fn a_poll_function_of_the_programs_own_is_called() {
        let context = glib::MainContext::new();
        let of_its_own = context.with_thread_default(|| {
            let engine = Engine::current().unwrap();
            let mut turns = Iterations::new(&engine, &context).unwrap();
            for (own, calls) in [(false, 0), (true, 1), (false, 1), (true, 2)] {
                let poll = if own { counting } else { ffi::g_poll };
                // SAFETY: the context lives.
                unsafe { ffi::g_main_context_set_poll_func(context.to_glib_none().0, Some(poll)) };
                // So that there is nothing to wait for.
                engine.defer(|_| ());
                turns.next();
                assert_eq!(CALLS.load(Ordering::Relaxed), calls);
            }
        });
        of_its_own.unwrap();
    }
}
