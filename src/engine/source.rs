//! The engine's two GSources. One at the engine's own priority polls the epoll descriptor; one at a low priority runs
//! only when nothing more urgent waits.

use std::cell::Cell;
use std::mem::size_of;
use std::ptr::{self, NonNull};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use glib::ffi::{self, GMainContext, GPollFD, GSource, GSourceCallbackFuncs, GSourceFuncs, gboolean, gpointer};
use glib::translate::{IntoGlib, ToGlibPtr};

use super::remote::{Mailbox, Wakeup};
use super::turn::Wait;
use super::{Engine, ThreadId};
use crate::sys::Origin;

/// The memory that GLib allocates for each source: its own part first, then ours.
#[repr(C)]
struct EngineSource {
    base: GSource,
    /// A strong reference, taken by `Arc::into_raw`, given back by `finalize`.
    link: *const Link,
    /// The poll record. Our own one (`g_source_add_poll`), because `g_source_add_unix_fd` would replace `check()`.
    poll: GPollFD,
}

/// Connects an engine, which lives on one thread, with its sources, which are destroyed with their context on any thread.
pub(super) struct Link {
    thread: ThreadId,
    origin: Origin,
    context: usize,
    mailbox: Arc<Mailbox>,
    /// A strong reference, taken by `Rc::into_raw`; null once given back. Written, and followed, by the engine's own thread
    /// alone.
    engine: AtomicPtr<Engine>,
    /// A source has been destroyed: by the end of its context, or by the program.
    destroyed: AtomicBool,
    /// The context has gone, on another thread.
    orphaned: AtomicBool,
}

impl Link {
    /// The engine, on its own thread, until it has ended.
    pub(super) fn engine(&self) -> Option<Rc<Engine>> {
        let engine = self.peek()?;
        // SAFETY: the pointer came from `Rc::into_raw`, this is the engine's thread, and the link's own reference, which
        // only this thread could give back, is still there.
        unsafe {
            Rc::increment_strong_count(engine.as_ptr());
            Some(Rc::from_raw(engine.as_ptr()))
        }
    }

    /// The same if it is the engine of this context.
    pub(super) fn engine_for(&self, context: &glib::MainContext) -> Option<Rc<Engine>> {
        let context: *mut GMainContext = context.to_glib_none().0;
        let is_it = self.context == context as usize && !self.is_orphaned() && !self.is_elsewhere();
        if is_it { self.engine() } else { None }
    }

    /// Gives the link's reference to the engine back: it ends. `None` on another thread, or if that was done before.
    pub(super) fn take(&self) -> Option<Rc<Engine>> {
        let engine = self.peek()?;
        self.engine.store(ptr::null_mut(), Ordering::Release);
        // SAFETY: as in `engine`; the reference goes to the caller, once, for the pointer to it is gone.
        let engine = unsafe { Rc::from_raw(engine.as_ptr()) };
        engine.sources.forget();
        Some(engine)
    }

    #[inline]
    fn peek(&self) -> Option<NonNull<Engine>> {
        if !self.thread.is_here() {
            return None;
        }
        NonNull::new(self.engine.load(Ordering::Relaxed))
    }

    /// The sources are to go: the engine has ended, or is another process's.
    fn is_over(&self) -> bool {
        self.has_ended() || self.is_elsewhere()
    }

    /// Ends the engine in a forked copy of its process. Returns whether this is one.
    fn end_elsewhere(&self) -> bool {
        if !self.is_elsewhere() {
            return false;
        }
        if let Some(engine) = self.take() {
            engine.end();
        }
        true
    }

    /// The engine has ended, and its sources are to go as well.
    fn has_ended(&self) -> bool {
        self.engine.load(Ordering::Acquire).is_null()
    }

    /// Returns whether this is a forked copy of the process that the engine belongs to.
    #[inline]
    pub(super) fn is_elsewhere(&self) -> bool {
        !self.origin.is_here()
    }

    pub(super) fn is_orphaned(&self) -> bool {
        self.orphaned.load(Ordering::Acquire)
    }

    /// A source has been destroyed: nobody may wake the context any more, and the engine ends. While callbacks of the engine are
    /// on the stack, it ends when they have returned, which [`Link::after_dispatch`] sees.
    fn destroy(&self) {
        self.mailbox.context.forget();
        self.destroyed.store(true, Ordering::Release);
        self.after_dispatch();
    }

    /// Ends the engine if a source has been destroyed meanwhile.
    fn after_dispatch(&self) {
        if !self.destroyed.load(Ordering::Acquire) || self.has_ended() {
            return;
        }
        if !self.thread.is_here() {
            // The engine's own thread will find that, at its own time.
            super::forget_owner(self.context, self.thread);
            self.orphaned.store(true, Ordering::Release);
        } else if self.engine().is_some_and(|engine| !engine.in_turn())
            && let Some(engine) = self.take()
        {
            engine.end();
        }
    }
}

/// Pointers to the sources, null when they are no longer the engine's.
pub(super) struct Sources {
    context: *mut GMainContext,
    main: Cell<*mut GSource>,
    low: Cell<*mut GSource>,
    /// The context has been iterated, and not by a loop of ours that has returned.
    iterated: Cell<bool>,
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

/// GLib takes a source's callback from it when the source is destroyed, whoever still holds a reference to it: `finalize` may
/// come long after its context has been freed. Our sources have no callback to call, but this is how they hear of that.
static CALLBACK: GSourceCallbackFuncs =
    GSourceCallbackFuncs { ref_: Some(keep_callback), unref: Some(drop_callback), get: Some(no_callback) };

impl Sources {
    pub(super) fn none(context: &glib::MainContext) -> Self {
        let context: *mut GMainContext = context.to_glib_none().0;
        let none = || Cell::new(ptr::null_mut());
        Sources { context, main: none(), low: none(), iterated: Cell::new(false) }
    }

    /// The context, as the key it has in the list of engines. Never followed: the engine does not keep its context.
    pub(super) fn context_id(&self) -> usize {
        self.context as usize
    }

    /// Wakes the context, from any thread, for as long as its sources live.
    pub(super) fn wakeup(&self) -> Wakeup {
        Wakeup::new(self.context)
    }

    /// Attaches both sources to the context they were made for.
    pub(super) fn attach(engine: &Rc<Engine>, context: &glib::MainContext, epoll: i32) -> Arc<Link> {
        let link = Arc::new(Link {
            thread: engine.thread,
            origin: engine.origin,
            context: engine.sources.context_id(),
            mailbox: engine.mailbox.clone(),
            engine: AtomicPtr::new(Rc::into_raw(engine.clone()).cast_mut()),
            destroyed: AtomicBool::new(false),
            orphaned: AtomicBool::new(false),
        });
        let sources = &engine.sources;
        let default = super::Fairness::default();
        sources.main.set(attach(&link, context, &MAIN, default.priority, Some(epoll)));
        sources.low.set(attach(&link, context, &LOW, default.flood_priority, None));
        link
    }

    pub(super) fn set_priorities(&self, main: glib::Priority, low: glib::Priority) {
        for (source, priority) in [(self.main.get(), main), (self.low.get(), low)] {
            if !source.is_null() {
                // SAFETY: not null, and the context is this thread's default one: it lives, and its sources with it.
                unsafe { ffi::g_source_set_priority(source, priority.into_glib()) };
            }
        }
    }

    pub(super) fn priority(&self) -> i32 {
        let source = self.main.get();
        // SAFETY: not null, so the context lives, and the source with it.
        if source.is_null() { 0 } else { unsafe { ffi::g_source_get_priority(source) } }
    }

    /// Returns whether a loop that is not ours may be running on this thread. GLib does not tell: what it drops between two
    /// dispatches looks like a call from outside. Whoever runs a loop owns the context. That some own it for longer, as GTK
    /// does, only means that what is left to the loop may wait for the end of the thread.
    pub(super) fn may_be_iterated(&self) -> bool {
        if !self.iterated.get() || self.main.get().is_null() {
            return false;
        }
        // SAFETY: there are sources, so the context lives.
        unsafe { ffi::g_main_context_is_owner(self.context) != ffi::GFALSE }
    }

    /// Notes that a loop of ours has returned, and no other runs around it.
    pub(super) fn loop_returned(&self) {
        self.iterated.set(false);
    }

    /// Forgets the sources: the context may be freed from now on.
    fn forget(&self) {
        self.main.set(ptr::null_mut());
        self.low.set(ptr::null_mut());
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

pub(super) struct ThreadDefault(*mut GMainContext);

impl Drop for ThreadDefault {
    fn drop(&mut self) {
        // SAFETY: pushed by `as_thread_default` on this thread, within an iteration of this context that still goes on.
        unsafe { ffi::g_main_context_pop_thread_default(self.0) };
    }
}

/// Returns the dispatch depth of this thread, over all main contexts. 0 means that no loop is running here.
pub(crate) fn main_depth() -> i32 {
    // SAFETY: reads a thread-local counter.
    unsafe { ffi::g_main_depth() }
}

fn attach(
    link: &Arc<Link>,
    context: &glib::MainContext,
    funcs: &'static GSourceFuncs,
    priority: glib::Priority,
    poll: Option<i32>,
) -> *mut GSource {
    // SAFETY: GLib allocates an `EngineSource`, zeroed, of which it knows the head. It never writes to the functions. The
    // poll record lies in the source itself, so it lives as long as the source. The context takes the reference that
    // keeps the source alive; `finalize` runs when it lets go.
    unsafe {
        let source = ffi::g_source_new(ptr::from_ref(funcs).cast_mut(), size_of::<EngineSource>() as u32);
        let own = source.cast::<EngineSource>();
        (*own).link = Arc::into_raw(link.clone());
        ffi::g_source_set_callback_indirect(source, source.cast(), ptr::from_ref(&CALLBACK).cast_mut());
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

/// The link of a source.
///
/// # Safety
/// `source` is one of ours, and stays alive for as long as the answer is used.
unsafe fn link_of<'a>(source: *mut GSource) -> &'a Link {
    // SAFETY: the source holds a reference to the link until `finalize`.
    unsafe { &*(*source.cast::<EngineSource>()).link }
}

/// The engine of a source, if this is the thread it lives on.
///
/// # Safety
/// As for [`link_of`]; and the answer is not used beyond anything that may end the engine.
unsafe fn engine_of<'a>(source: *mut GSource) -> Option<&'a Engine> {
    // SAFETY: this is the engine's thread, and the link's reference is there.
    unsafe { link_of(source).peek().map(|engine| engine.as_ref()) }
}

/// The time of this iteration of the loop.
///
/// # Safety
/// `source` is one of ours, in the thread that iterates its context.
#[inline(always)]
unsafe fn time_of(source: *mut GSource) -> i64 {
    #[cfg(test)]
    if crate::sys::script::passed().is_some() {
        return super::now();
    }
    // SAFETY: the source lives, and so does its context.
    unsafe { ffi::g_source_get_time(source) }
}

unsafe extern "C" fn prepare(source: *mut GSource, timeout: *mut i32) -> gboolean {
    // SAFETY: GLib calls this with one of our living sources, in the thread that iterates the context, which alone reads
    // or writes the poll record, and with a valid place for the timeout.
    unsafe {
        let own = source.cast::<EngineSource>();
        if link_of(source).is_over() {
            // `dispatch` has the context remove it.
            *timeout = 0;
            return ffi::GTRUE;
        }
        let Some(engine) = engine_of(source) else {
            // Poll nothing while the wrong thread runs the context: it would find the descriptor ready forever.
            (*own).poll.events = 0;
            *timeout = -1;
            super::complain_of_thread();
            return ffi::GFALSE;
        };
        (*own).poll.events = ffi::G_IO_IN as u16;
        engine.sources.iterated.set(true);
        match engine.prepare(|| time_of(source)) {
            Wait::Not => {
                *timeout = 0;
                ffi::GTRUE
            }
            Wait::Until(deadline) => {
                let left = (deadline - time_of(source)).max(0);
                // Rounded up, or the loop would spin through the last millisecond.
                *timeout = (left.saturating_add(999) / 1000).min(i64::from(i32::MAX)) as i32;
                (left == 0).into_glib()
            }
            Wait::Forever => {
                *timeout = -1;
                ffi::GFALSE
            }
        }
    }
}

unsafe extern "C" fn prepare_low(source: *mut GSource, timeout: *mut i32) -> gboolean {
    // SAFETY: as for `prepare`.
    unsafe {
        let armed = engine_of(source).is_some_and(|engine| engine.low_armed.get()) || link_of(source).is_over();
        *timeout = -1;
        armed.into_glib()
    }
}

unsafe extern "C" fn check(source: *mut GSource) -> gboolean {
    // SAFETY: as for `prepare`.
    unsafe {
        let Some(engine) = engine_of(source) else { return ffi::GFALSE };
        let time = || time_of(source);
        let due = (*source.cast::<EngineSource>()).poll.revents != 0
            || match engine.prepare(time) {
                Wait::Not => true,
                Wait::Until(deadline) => deadline <= time(),
                Wait::Forever => false,
            };
        // It is up, and other sources may hold it up now, before this one has its turn.
        engine.look(time);
        due.into_glib()
    }
}

unsafe extern "C" fn dispatch(source: *mut GSource, _: ffi::GSourceFunc, _: gpointer) -> gboolean {
    // SAFETY: GLib calls this with one of our living sources, and keeps it for the length of the call.
    unsafe {
        let link = link_of(source);
        if link.end_elsewhere() {
            return ffi::GFALSE;
        }
        // Kept while it works, whatever callbacks do to its context.
        if let Some(engine) = link.engine() {
            engine.dispatch((*source.cast::<EngineSource>()).poll.revents != 0 || engine.poller.borrow().has_fetched());
        }
        (!link.has_ended()).into_glib()
    }
}

unsafe extern "C" fn dispatch_low(source: *mut GSource, _: ffi::GSourceFunc, _: gpointer) -> gboolean {
    // SAFETY: as for `dispatch`.
    let link = unsafe { link_of(source) };
    if link.end_elsewhere() {
        return ffi::GFALSE;
    }
    if let Some(engine) = link.engine() {
        engine.dispatch_low();
    }
    (!link.has_ended()).into_glib()
}

/// Before each dispatch. Nothing is counted: see `drop_callback`.
unsafe extern "C" fn keep_callback(_: gpointer) {}

unsafe extern "C" fn no_callback(_: gpointer, _: *mut GSource, callback: *mut ffi::GSourceFunc, data: *mut gpointer) {
    // SAFETY: GLib asks with two valid places.
    unsafe {
        *callback = None;
        *data = ptr::null_mut();
    }
}

/// After each dispatch, and when the source is destroyed, on any thread. Its context is still there then, and not locked.
unsafe extern "C" fn drop_callback(source: gpointer) {
    let source = source.cast::<GSource>();
    // SAFETY: the data is the source itself, one of ours, to which GLib holds a reference during the call.
    let link = unsafe { link_of(source) };
    // SAFETY: as above; any thread may ask that.
    if unsafe { ffi::g_source_is_destroyed(source) } == ffi::GFALSE {
        link.after_dispatch();
    } else {
        link.destroy();
    }
}

unsafe extern "C" fn finalize(source: *mut GSource) {
    // SAFETY: GLib calls this once, when the last reference is gone, on whichever thread that happens. It has been destroyed before.
    drop(unsafe { Arc::from_raw((*source.cast::<EngineSource>()).link) });
}
