//! The way in from other threads: asks an engine's loop for a call that was prepared beforehand.

use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use glib::ffi::{self, GMainContext};

use super::slab::Key;
use crate::sys::Origin;

/// The part of an engine that other threads may use.
pub(super) struct Mailbox {
    /// Not a strong reference: a waiting call would keep the context for ever.
    pub(super) context: Wakeup,
    pending: AtomicBool,
    tokens: Mutex<Vec<u64>>,
    pub(super) woken: Woken,
}

impl Mailbox {
    pub(super) fn new(context: Wakeup) -> Self {
        Mailbox { context, pending: AtomicBool::new(false), tokens: Mutex::default(), woken: Woken::default() }
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire) || self.woken.is_some()
    }

    pub(super) fn take(&self) -> Vec<u64> {
        self.pending.store(false, Ordering::Release);
        std::mem::take(&mut self.tokens.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Asks for one prepared call, from any thread, any number of times; it happens once, on the engine's thread.
pub(crate) struct Remote {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) token: u64,
}

impl Remote {
    pub(crate) fn call(&self) {
        self.mailbox.tokens.lock().unwrap_or_else(PoisonError::into_inner).push(self.token);
        self.mailbox.pending.store(true, Ordering::Release);
        self.mailbox.context.wake();
    }

    /// The name under which [`Engine::forget_remote`](super::Engine::forget_remote) takes the call back.
    pub(crate) fn token(&self) -> u64 {
        self.token
    }
}

/// A context that is not kept: null when its sources have been destroyed.
pub(super) struct Wakeup(Mutex<*mut GMainContext>, Origin);

// SAFETY: the pointer is only followed under the lock, by a call that any thread may make.
unsafe impl Send for Wakeup {}
// SAFETY: as above.
unsafe impl Sync for Wakeup {}

impl Wakeup {
    pub(super) fn new(context: *mut GMainContext) -> Self {
        Wakeup(Mutex::new(context), Origin::here())
    }

    pub(super) fn wake(&self) {
        if !self.1.is_here() {
            // It would wake the process that this is a forked copy of.
            return;
        }
        let context = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !context.is_null() {
            // SAFETY: the context destroys its sources before it is freed, and that waits for the lock in `forget`.
            unsafe { ffi::g_main_context_wakeup(*context) };
        }
    }

    pub(super) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ptr::null_mut();
    }
}

/// The keys of woken tasks, in order.
#[derive(Default)]
pub(super) struct Woken {
    some: AtomicBool,
    keys: Mutex<Vec<Key>>,
}

impl Woken {
    pub(super) fn add(&self, key: Key) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).push(key);
        self.some.store(true, Ordering::Release);
    }

    #[inline]
    pub(super) fn is_some(&self) -> bool {
        self.some.load(Ordering::Acquire)
    }

    pub(super) fn move_to(&self, keys: &mut Vec<Key>) {
        self.some.store(false, Ordering::Release);
        keys.append(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
