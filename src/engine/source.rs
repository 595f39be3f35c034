//! The engine's two GSources. One at the engine's own priority polls the epoll descriptor; one at a low priority runs
//! only when nothing more urgent waits.

use std::cell::Cell;
use std::mem::size_of;
use std::ptr;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use glib::ffi::{self, GMainContext, GPollFD, GSource, GSourceFuncs, gboolean, gpointer};
use glib::translate::{IntoGlib, ToGlibPtr};

use super::Engine;

/// What GLib allocates for each source: its own part first, then ours.
#[repr(C)]
struct EngineSource {
    base: GSource,
    /// A strong reference, taken by `Rc::into_raw`; null once given back.
    engine: *const Engine,
    /// The poll record. Our own one (`g_source_add_poll`), because `g_source_add_unix_fd` would replace `check()`.
    poll: GPollFD,
}

/// Pointers to the sources, null when the context has destroyed them.
pub(super) struct Sources {
    context: *mut GMainContext,
    main: Cell<*mut GSource>,
    low: Cell<*mut GSource>,
}

static MAIN: GSourceFuncs = GSourceFuncs {
    prepare: Some(prepare),
    check: Some(check),
    dispatch: Some(dispatch),
    finalize: Some(finalize),
    closure_callback: None,
    closure_marshal: None,
};

/// Armed by a flag that `prepare` reads. A ready time would do as well, but each change of it wakes the context: a write
/// and a read of its own, and a round of the loop.
static LOW: GSourceFuncs = GSourceFuncs {
    prepare: Some(prepare_low),
    check: None,
    dispatch: Some(dispatch_low),
    finalize: Some(finalize),
    closure_callback: None,
    closure_marshal: None,
};

impl Sources {
    pub(super) fn none(context: &glib::MainContext) -> Self {
        let context: *mut GMainContext = context.to_glib_none().0;
        Sources { context, main: Cell::new(ptr::null_mut()), low: Cell::new(ptr::null_mut()) }
    }

    /// The context, as the key it has in the list of engines. Never followed: the engine does not keep its context.
    pub(super) fn context_id(&self) -> usize {
        self.context as usize
    }

    /// Wakes the context, from any thread, for as long as its sources live.
    pub(super) fn wakeup(&self) -> Wakeup {
        Wakeup(Mutex::new(self.context))
    }

    /// Attaches both sources to the context they were made for.
    pub(super) fn attach(engine: &Rc<Engine>, context: &glib::MainContext, epoll: i32) {
        let sources = &engine.sources;
        sources.main.set(attach(engine, context, &MAIN, engine.priority(), Some(epoll)));
        sources.low.set(attach(engine, context, &LOW, super::LOW_PRIORITY, None));
    }

    /// Takes the sources off the context, which gives their references to the engine back.
    pub(super) fn destroy(&self) {
        for source in [self.main.get(), self.low.get()] {
            if !source.is_null() {
                // SAFETY: not null, so `finalize` has not run and the source lives.
                unsafe { ffi::g_source_destroy(source) };
            }
        }
    }

    /// Makes the context the thread's default one for as long as the guard lives, so that what callbacks make goes where
    /// their own socket is. `None` if it is already.
    pub(super) fn as_thread_default(&self) -> Option<ThreadDefault> {
        // SAFETY: called from within the context's own iteration, so it lives; comparing pointers touches nothing.
        unsafe {
            let mut current = ffi::g_main_context_get_thread_default();
            if current.is_null() {
                current = ffi::g_main_context_default();
            }
            if current == self.context {
                return None;
            }
            ffi::g_main_context_push_thread_default(self.context);
        }
        Some(ThreadDefault(self.context))
    }
}

/// A context that is not kept: null when its sources have gone.
pub(super) struct Wakeup(Mutex<*mut GMainContext>);

// SAFETY: the pointer is only followed under the lock, by a call that any thread may make.
unsafe impl Send for Wakeup {}
// SAFETY: as above.
unsafe impl Sync for Wakeup {}

impl Wakeup {
    pub(super) fn wake(&self) {
        let context = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !context.is_null() {
            // SAFETY: the context finalizes its sources before it is freed, and that waits for the lock in `forget`.
            unsafe { ffi::g_main_context_wakeup(*context) };
        }
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ptr::null_mut();
    }
}

pub(super) struct ThreadDefault(*mut GMainContext);

impl Drop for ThreadDefault {
    fn drop(&mut self) {
        // SAFETY: pushed by `as_thread_default` on this thread, within an iteration of this context that still goes on.
        unsafe { ffi::g_main_context_pop_thread_default(self.0) };
    }
}

/// How deep this thread is in dispatches of any main context. 0: no loop is running here.
pub(crate) fn main_depth() -> i32 {
    // SAFETY: reads a thread-local counter.
    unsafe { ffi::g_main_depth() }
}

fn attach(
    engine: &Rc<Engine>,
    context: &glib::MainContext,
    funcs: &'static GSourceFuncs,
    priority: glib::Priority,
    poll: Option<i32>,
) -> *mut GSource {
    // SAFETY: GLib allocates an `EngineSource`, zeroed, of which it knows the head. It never writes to the functions. The
    // poll record lies in the source itself, so it lives as long as the source. The context takes the reference that
    // keeps the source alive; `finalize` clears our pointer when it lets go.
    unsafe {
        let source = ffi::g_source_new(ptr::from_ref(funcs).cast_mut(), size_of::<EngineSource>() as u32);
        let own = source.cast::<EngineSource>();
        (*own).engine = Rc::into_raw(engine.clone());
        ffi::g_source_set_name(source, c"network".as_ptr());
        ffi::g_source_set_priority(source, priority.into_glib());
        // Without this GLib takes the poll record out and puts it back around every dispatch, and callbacks that run a
        // nested loop would silence all connections.
        ffi::g_source_set_can_recurse(source, ffi::GTRUE);
        if let Some(fd) = poll {
            (*own).poll = GPollFD { fd, events: ffi::G_IO_IN as u16, revents: 0 };
            ffi::g_source_add_poll(source, &raw mut (*own).poll);
        }
        ffi::g_source_attach(source, context.to_glib_none().0);
        ffi::g_source_unref(source);
        source
    }
}

/// The engine of a source, if this is the thread it lives on.
///
/// # Safety
/// `source` is one of ours, and stays alive for as long as the answer is used.
unsafe fn engine_of<'a>(source: *mut GSource) -> Option<&'a Engine> {
    // SAFETY: the source holds a reference to the engine until `finalize`. Its home never changes, so any thread may read
    // it; nothing else is touched before that is known to be this one.
    unsafe {
        let engine = (*source.cast::<EngineSource>()).engine;
        (*engine).home.is_here().then(|| &*engine)
    }
}

unsafe extern "C" fn prepare(source: *mut GSource, timeout: *mut i32) -> gboolean {
    // SAFETY: GLib calls this with one of our living sources, in the thread that iterates the context, which alone reads
    // or writes the poll record, and with a valid place for the time-out.
    unsafe {
        let own = source.cast::<EngineSource>();
        let Some(engine) = engine_of(source) else {
            // Poll nothing while the wrong thread runs the context: it would find the descriptor ready forever.
            (*own).poll.events = 0;
            *timeout = -1;
            super::complain_of_thread();
            return ffi::GFALSE;
        };
        (*own).poll.events = ffi::G_IO_IN as u16;
        match engine.prepare() {
            super::Wait::Not => {
                *timeout = 0;
                ffi::GTRUE
            }
            super::Wait::Until(deadline) => {
                let left = (deadline - ffi::g_source_get_time(source)).max(0);
                // Rounded up, or the loop would spin through the last millisecond.
                *timeout = ((left + 999) / 1000).min(i64::from(i32::MAX)) as i32;
                (left == 0).into_glib()
            }
            super::Wait::Forever => {
                *timeout = -1;
                ffi::GFALSE
            }
        }
    }
}

unsafe extern "C" fn prepare_low(source: *mut GSource, timeout: *mut i32) -> gboolean {
    // SAFETY: as for `prepare`.
    unsafe {
        *timeout = -1;
        engine_of(source).is_some_and(|engine| engine.low_armed.get()).into_glib()
    }
}

unsafe extern "C" fn check(source: *mut GSource) -> gboolean {
    // SAFETY: as for `prepare`.
    unsafe {
        let Some(engine) = engine_of(source) else { return ffi::GFALSE };
        let due = (*source.cast::<EngineSource>()).poll.revents != 0
            || match engine.prepare() {
                super::Wait::Not => true,
                super::Wait::Until(deadline) => deadline <= ffi::g_source_get_time(source),
                super::Wait::Forever => false,
            };
        due.into_glib()
    }
}

/// Keeps the engine alive while it works, whatever callbacks do to its context.
///
/// # Safety
/// As for [`engine_of`].
unsafe fn strong(source: *mut GSource) -> Option<Rc<Engine>> {
    // SAFETY: the pointer came from `Rc::into_raw`, the source's reference is still there, and this is its thread.
    unsafe {
        let engine = ptr::from_ref(engine_of(source)?);
        Rc::increment_strong_count(engine);
        Some(Rc::from_raw(engine))
    }
}

unsafe extern "C" fn dispatch(source: *mut GSource, _: ffi::GSourceFunc, _: gpointer) -> gboolean {
    // SAFETY: GLib calls this with one of our living sources.
    unsafe {
        if let Some(engine) = strong(source) {
            engine.dispatch((*source.cast::<EngineSource>()).poll.revents != 0);
        }
    }
    ffi::GTRUE
}

unsafe extern "C" fn dispatch_low(source: *mut GSource, _: ffi::GSourceFunc, _: gpointer) -> gboolean {
    // SAFETY: GLib calls this with one of our living sources.
    if let Some(engine) = unsafe { strong(source) } {
        engine.dispatch_low();
    }
    ffi::GTRUE
}

unsafe extern "C" fn finalize(source: *mut GSource) {
    // SAFETY: GLib calls this once, when the last reference is gone, so the engine's pointers to it are cleared and the
    // source's reference is given back. On another thread nothing of the engine may be touched, not even its count: it is
    // left as it is, and only what is behind a lock learns of its end.
    unsafe {
        let engine = (*source.cast::<EngineSource>()).engine;
        super::forget_home((*engine).sources.context_id());
        let inbound = &(*engine).inbound;
        inbound.context.forget();
        if !(*engine).home.is_here() {
            return;
        }
        let engine = Rc::from_raw(engine);
        for place in [&engine.sources.main, &engine.sources.low] {
            if place.get() == source {
                place.set(ptr::null_mut());
            }
        }
        engine.end();
    }
}
