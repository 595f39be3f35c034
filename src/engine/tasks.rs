//! Tasks: what is polled in the turn that brings what it waits for, instead of one later, as by GLib's executor, which is told
//! by a write to a descriptor. That is for what the library itself awaits for its users, callbacks that return futures.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::slab::{Key, Slab};
use super::{Engine, ThreadId, main_depth, remote};

/// A future of the library's own, polled in the engine's turns.
pub(crate) trait Task {
    /// No engine state is borrowed meanwhile; anything may be called. Once it is ready it is dropped.
    fn poll(&self, engine: &Rc<Engine>, context: &mut Context<'_>) -> Poll<()>;
}

/// Wakes a task, from any thread.
struct TaskWaker {
    thread: ThreadId,
    key: Key,
    /// It has been woken, and not been polled since.
    woken: AtomicBool,
    mailbox: Arc<remote::Mailbox>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.swap(true, Ordering::AcqRel) {
            return;
        }
        self.mailbox.woken.add(self.key);
        // Within a dispatch of its own thread the loop looks before it sleeps.
        if !self.thread.is_here() || main_depth() == 0 {
            self.mailbox.context.wake();
        }
    }
}

struct Entry {
    task: Rc<dyn Task>,
    task_waker: Arc<TaskWaker>,
    waker: Waker,
}

#[derive(Default)]
pub(super) struct Tasks {
    all: RefCell<Slab<Rc<Entry>>>,
    /// Kept for its memory.
    keys: RefCell<Vec<Key>>,
}

impl Engine {
    /// Takes a task in. It is polled for the first time before the loop sleeps.
    pub(crate) fn spawn(&self, task: Rc<dyn Task>) {
        if self.has_ended() {
            return;
        }
        let mut all = self.tasks.all.borrow_mut();
        let task_waker = TaskWaker {
            thread: self.thread,
            key: all.next_key(),
            woken: AtomicBool::new(false),
            mailbox: self.mailbox.clone(),
        };
        let task_waker = Arc::new(task_waker);
        let waker = Waker::from(task_waker.clone());
        all.insert(Rc::new(Entry { task, task_waker: task_waker.clone(), waker }));
        drop(all);
        task_waker.wake();
    }

    /// Puts those that were woken among the calls that are due. False if there are none.
    pub(super) fn collect_tasks(&self) -> bool {
        if !self.mailbox.woken.is_some() {
            return false;
        }
        let mut keys = self.tasks.keys.take();
        self.mailbox.woken.move_to(&mut keys);
        self.deferred.borrow_mut().extend(keys.drain(..).map(super::Pending::Task));
        self.tasks.keys.replace(keys);
        true
    }

    pub(super) fn poll_task(self: &Rc<Self>, key: Key) {
        let entry = self.tasks.all.borrow_mut().get_mut(key).cloned();
        let Some(entry) = entry else { return };
        // Before it is polled: whatever happens meanwhile may be news. And what happened before those who have found it
        // woken already went away is to be seen.
        entry.task_waker.woken.swap(false, Ordering::AcqRel);
        let outer = self.polls_at.replace(main_depth());
        let polled = entry.task.poll(self, &mut Context::from_waker(&entry.waker));
        self.polls_at.set(outer);
        if polled.is_ready() {
            let gone = self.tasks.all.borrow_mut().remove(key);
            drop(gone);
        }
    }

    /// The context is gone: nothing is polled any more.
    pub(super) fn drop_tasks(&self) {
        let all = self.tasks.all.replace(Slab::new());
        drop(all);
    }
}
