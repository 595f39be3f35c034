//! Threads for calls that no main loop can wait for. Each has a bounded mailbox that the main loop empties. For the
//! backend that needs them.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::engine::{Engine, Remote};

/// The most events in a mailbox. A thread waits while its mailbox is full.
const MAILBOX_SIZE: usize = 1024;

/// The longest wait for threads to end.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2);

/// The stack size of a thread, in bytes. It runs a few C functions.
const STACK_SIZE: usize = 512 << 10;

/// The mailbox between a thread and the main loop.
pub(super) struct Mail<T> {
    state: Mutex<MailState<T>>,
    /// Notified when there is room, or when the thread should end.
    changed: Condvar,
}

struct MailState<T> {
    events: VecDeque<T>,
    /// Schedules a delivery on the main loop. Can be used once.
    remote: Option<Remote>,
    /// The thread should end.
    ended: bool,
}

/// Locks a mutex. A thread that panicked with it had not begun to change anything.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Mail<T> {
    pub(super) fn should_end(&self) -> bool {
        lock(&self.state).ended
    }

    /// Sends an event from the thread. Waits while the mailbox is full.
    pub(super) fn send(&self, event: T) {
        let full = |state: &mut MailState<T>| state.events.len() >= MAILBOX_SIZE && !state.ended;
        let state = self.changed.wait_while(lock(&self.state), full);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return;
        }
        state.events.push_back(event);
        let remote = state.remote.take();
        drop(state);
        if let Some(remote) = remote {
            remote.call();
        }
    }

    /// Makes the thread wait for this time, or until it should end.
    pub(super) fn pause(&self, limit: Duration) {
        let over = self.changed.wait_timeout_while(lock(&self.state), limit, |state| !state.ended);
        drop(over);
    }
}

/// Threads that should end and may still be running.
static ENDED: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Waits for the end of threads that are no longer needed, as a fork requires.
pub(crate) fn end_threads() {
    let deadline = Instant::now() + JOIN_TIMEOUT;
    for thread in std::mem::take(&mut *lock(&ENDED)) {
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            // It has printed its panic.
            let _ = thread.join();
        } else {
            lock(&ENDED).push(thread);
        }
    }
}

/// The main loop's handle to a thread. Dropping it tells the thread to end.
pub(super) struct HelperThread<T> {
    engine: Rc<Engine>,
    receiver: Rc<Receiver<T>>,
    thread: Option<JoinHandle<()>>,
}

type EventCallback<T> = Box<dyn Fn(&Rc<Engine>, T)>;

struct Receiver<T> {
    me: Weak<Receiver<T>>,
    engine: Rc<Engine>,
    mail: Arc<Mail<T>>,
    token: Cell<Option<u64>>,
    callback: EventCallback<T>,
}

impl<T: Send + 'static> HelperThread<T> {
    /// Starts a thread that runs `work`. Its events are passed to the callback from the engine, and so is what `failed`
    /// makes of the error if no thread can be created.
    pub(super) fn start(
        engine: &Rc<Engine>,
        callback: impl Fn(&Rc<Engine>, T) + 'static,
        failed: fn(String) -> T,
        work: impl FnOnce(&Arc<Mail<T>>) + Send + 'static,
    ) -> HelperThread<T> {
        let state = MailState { events: VecDeque::new(), remote: None, ended: false };
        let mail = Arc::new(Mail { state: Mutex::new(state), changed: Condvar::new() });
        let receiver = Rc::new_cyclic(|me| Receiver {
            me: me.clone(),
            engine: engine.clone(),
            mail: mail.clone(),
            token: Cell::new(None),
            callback: Box::new(callback),
        });
        receiver.arm();
        let spawned = thread::Builder::new().name("network-avahi".into()).stack_size(STACK_SIZE);
        let spawned = spawned.spawn({
            let mail = mail.clone();
            move || work(&mail)
        });
        let thread = spawned.map_err(|error| mail.send(failed(format!("cannot create a thread: {error}"))));
        HelperThread { engine: engine.clone(), receiver, thread: thread.ok() }
    }
}

impl<T: 'static> Receiver<T> {
    fn arm(&self) {
        let me = self.me.clone();
        let guard = EndGuard(Some(self.mail.clone()));
        let remote = self.engine.remote(move |_| {
            guard.defuse();
            if let Some(me) = me.upgrade() {
                me.arm();
                me.deliver();
            }
        });
        self.token.set(Some(remote.token()));
        let unused = lock(&self.mail.state).remote.replace(remote);
        drop(unused);
    }

    fn deliver(&self) {
        loop {
            let event = {
                let mut state = lock(&self.mail.state);
                if state.ended {
                    return;
                }
                state.events.pop_front()
            };
            let Some(event) = event else { return };
            self.mail.changed.notify_all();
            (self.callback)(&self.engine, event);
            if self.engine.spent() {
                let me = self.me.clone();
                self.engine.defer(move |_| {
                    if let Some(me) = me.upgrade() {
                        me.deliver();
                    }
                });
                return;
            }
        }
    }
}

/// Tells a thread to end when the main context ends and drops its prepared calls.
struct EndGuard<T>(Option<Arc<Mail<T>>>);

impl<T> EndGuard<T> {
    fn defuse(mut self) {
        self.0 = None;
    }
}

impl<T> Drop for EndGuard<T> {
    fn drop(&mut self) {
        if let Some(mail) = &self.0 {
            lock(&mail.state).ended = true;
            mail.changed.notify_all();
        }
    }
}

impl<T> Drop for HelperThread<T> {
    fn drop(&mut self) {
        let mail = &self.receiver.mail;
        let left = {
            let mut state = lock(&mail.state);
            state.ended = true;
            (std::mem::take(&mut state.events), state.remote.take())
        };
        mail.changed.notify_all();
        drop(left);
        if let Some(token) = self.receiver.token.take() {
            self.engine.forget_remote(token);
        }
        let mut ended = lock(&ENDED);
        ended.retain(|thread| !thread.is_finished());
        ended.extend(self.thread.take());
    }
}
