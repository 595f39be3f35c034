//! The least that GLib's main loop costs: the bare loops, with a single source of GLib's over their epoll descriptor, which does
//! no more than it must.

use std::os::fd::{AsRawFd, OwnedFd};

use glib::ffi::{self, GPollFD, GSource, GSourceFunc, GSourceFuncs, gboolean, gpointer};

use crate::Result;

/// A loop that serves what is ready.
pub trait Turns {
    fn epoll(&self) -> &OwnedFd;

    /// Serves what is ready, or waits for it.
    fn turn(&mut self, waits: bool) -> Result<()>;
}

/// Runs one, by itself or watched by GLib, without end.
#[inline(always)]
pub fn run(mut bare: impl Turns, in_glib: bool) -> Result<()> {
    if in_glib {
        return watch(bare);
    }
    loop {
        bare.turn(true)?;
    }
}

#[repr(C)]
struct Source<T> {
    source: GSource,
    poll: GPollFD,
    bare: *mut T,
}

fn watch<T: Turns>(bare: T) -> Result<()> {
    let funcs = Box::leak(Box::new(GSourceFuncs {
        prepare: Some(prepare),
        check: Some(check::<T>),
        dispatch: Some(dispatch::<T>),
        finalize: None,
        closure_callback: None,
        closure_marshal: None,
    }));
    let fd = bare.epoll().as_raw_fd();
    // SAFETY: GLib allocates a `Source`, of which it knows the head. Nothing of it is ever freed: the loop has no end.
    unsafe {
        let source = ffi::g_source_new(funcs, size_of::<Source<T>>() as u32);
        let own = source.cast::<Source<T>>();
        (*own).bare = Box::into_raw(Box::new(bare));
        (*own).poll = GPollFD { fd, events: ffi::G_IO_IN as u16, revents: 0 };
        // Without this GLib takes the descriptor out and puts it back around each call.
        ffi::g_source_set_can_recurse(source, ffi::GTRUE);
        ffi::g_source_add_poll(source, &raw mut (*own).poll);
        ffi::g_source_attach(source, std::ptr::null_mut());
    }
    glib::MainLoop::new(None, false).run();
    Ok(())
}

unsafe extern "C" fn prepare(_: *mut GSource, timeout: *mut i32) -> gboolean {
    // SAFETY: GLib gives a place for it.
    unsafe { *timeout = -1 };
    ffi::GFALSE
}

unsafe extern "C" fn check<T>(source: *mut GSource) -> gboolean {
    // SAFETY: a source of ours.
    i32::from(unsafe { (*source.cast::<Source<T>>()).poll.revents } != 0)
}

unsafe extern "C" fn dispatch<T: Turns>(source: *mut GSource, _: GSourceFunc, _: gpointer) -> gboolean {
    // SAFETY: a source of ours, whose loop nobody else has.
    let bare = unsafe { &mut *(*source.cast::<Source<T>>()).bare };
    i32::from(bare.turn(false).is_ok())
}
