//! The way in from other threads: asks an engine's loop for a call that was prepared beforehand.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::source::Wakeup;
use super::tasks::Woken;

/// What an engine shares with other threads.
pub(super) struct Inbound {
    /// Does not keep the context: what waits for a call would keep it for ever.
    pub(super) context: Wakeup,
    pending: AtomicBool,
    tokens: Mutex<Vec<u64>>,
    pub(super) woken: Woken,
}

impl Inbound {
    pub(super) fn new(context: Wakeup) -> Self {
        Inbound { context, pending: AtomicBool::new(false), tokens: Mutex::default(), woken: Woken::default() }
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
    pub(super) inbound: Arc<Inbound>,
    pub(super) token: u64,
}

impl Remote {
    pub(crate) fn call(&self) {
        self.inbound.tokens.lock().unwrap_or_else(PoisonError::into_inner).push(self.token);
        self.inbound.pending.store(true, Ordering::Release);
        self.inbound.context.wake();
    }

    /// The name under which [`Engine::forget_remote`](super::Engine::forget_remote) takes the call back.
    pub(crate) fn token(&self) -> u64 {
        self.token
    }
}
