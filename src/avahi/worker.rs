//! Threads that wait for what no main loop can: each has a bounded mailbox that the main loop empties. For the backend that
//! needs them.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::engine::{Engine, Remote};

/// What a thread has to tell waits for the main loop; when it is so much, the thread waits too.
const MAIL: usize = 1024;

/// How long the end of threads is waited for.
const ENDING: Duration = Duration::from_secs(2);

/// A thread's stack. It runs a few C functions.
const STACK: usize = 512 << 10;

/// What a thread has for the main loop.
pub(super) struct Mail<T> {
    state: Mutex<MailState<T>>,
    /// There is room again, or it is over.
    changed: Condvar,
}

struct MailState<T> {
    events: VecDeque<T>,
    /// Asks the main loop to come and get them. Used up by that.
    remote: Option<Remote>,
    /// Nobody wants to know any more.
    over: bool,
}

/// Whoever panicked with it had not begun to change anything.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Mail<T> {
    pub(super) fn is_over(&self) -> bool {
        lock(&self.state).over
    }

    /// Called by the thread. Waits for room.
    pub(super) fn send(&self, event: T) {
        let full = |state: &mut MailState<T>| state.events.len() >= MAIL && !state.over;
        let state = self.changed.wait_while(lock(&self.state), full);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        if state.over {
            return;
        }
        state.events.push_back(event);
        let remote = state.remote.take();
        drop(state);
        if let Some(remote) = remote {
            remote.call();
        }
    }

    /// Called by the thread: waits for that long, or until it is over.
    pub(super) fn pause(&self, limit: Duration) {
        let over = self.changed.wait_timeout_while(lock(&self.state), limit, |state| !state.over);
        drop(over);
    }
}

/// Threads that were told to end and may not have yet.
static ENDED: Mutex<Vec<JoinHandle<()>>> = Mutex::new(Vec::new());

/// Waits for the end of threads that nobody needs any more. A fork needs that.
pub(crate) fn end_threads() {
    let deadline = Instant::now() + ENDING;
    for thread in std::mem::take(&mut *lock(&ENDED)) {
        while !thread.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            // What it panicked with, it has printed.
            let _ = thread.join();
        } else {
            lock(&ENDED).push(thread);
        }
    }
}

/// A thread as the main loop sees it. Dropping this tells it to end.
pub(super) struct HelperThread<T> {
    engine: Rc<Engine>,
    inbox: Rc<Inbox<T>>,
    thread: Option<JoinHandle<()>>,
}

type EventCallback<T> = Box<dyn Fn(&Rc<Engine>, T)>;

struct Inbox<T> {
    me: Weak<Inbox<T>>,
    engine: Rc<Engine>,
    mail: Arc<Mail<T>>,
    token: Cell<Option<u64>>,
    hear: EventCallback<T>,
}

impl<T: Send + 'static> HelperThread<T> {
    /// Starts a thread that does `work`. What it sends is event from the engine; so is what `failed` makes of it when the
    /// system gives no thread.
    pub(super) fn start(
        engine: &Rc<Engine>,
        hear: impl Fn(&Rc<Engine>, T) + 'static,
        failed: fn(String) -> T,
        work: impl FnOnce(&Arc<Mail<T>>) + Send + 'static,
    ) -> HelperThread<T> {
        let state = MailState { events: VecDeque::new(), remote: None, over: false };
        let mail = Arc::new(Mail { state: Mutex::new(state), changed: Condvar::new() });
        let inbox = Rc::new_cyclic(|me| Inbox {
            me: me.clone(),
            engine: engine.clone(),
            mail: mail.clone(),
            token: Cell::new(None),
            hear: Box::new(hear),
        });
        inbox.arm();
        let spawned = thread::Builder::new().name("network-avahi".into()).stack_size(STACK);
        let spawned = spawned.spawn({
            let mail = mail.clone();
            move || work(&mail)
        });
        let thread = spawned.map_err(|error| mail.send(failed(format!("the system gives no thread: {error}"))));
        HelperThread { engine: engine.clone(), inbox, thread: thread.ok() }
    }
}

impl<T: 'static> Inbox<T> {
    fn arm(&self) {
        let me = self.me.clone();
        let unless_called = Ending(Some(self.mail.clone()));
        let remote = self.engine.remote(move |_| {
            unless_called.not_yet();
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
                if state.over {
                    return;
                }
                state.events.pop_front()
            };
            let Some(event) = event else { return };
            self.mail.changed.notify_all();
            (self.hear)(&self.engine, event);
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

/// Tells a thread to end with the main context, which drops the calls that it prepared.
struct Ending<T>(Option<Arc<Mail<T>>>);

impl<T> Ending<T> {
    fn not_yet(mut self) {
        self.0 = None;
    }
}

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        if let Some(mail) = &self.0 {
            lock(&mail.state).over = true;
            mail.changed.notify_all();
        }
    }
}

impl<T> Drop for HelperThread<T> {
    fn drop(&mut self) {
        let mail = &self.inbox.mail;
        let left = {
            let mut state = lock(&mail.state);
            state.over = true;
            (std::mem::take(&mut state.events), state.remote.take())
        };
        mail.changed.notify_all();
        drop(left);
        if let Some(token) = self.inbox.token.take() {
            self.engine.forget_remote(token);
        }
        let mut ended = lock(&ENDED);
        ended.retain(|thread| !thread.is_finished());
        ended.extend(self.thread.take());
    }
}
