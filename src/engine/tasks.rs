//! Tasks: what is polled in the turn that brings what it waits for, instead of one later, as by GLib's executor, which is told
//! by a write to a descriptor. That is for the program's own futures and for those that the library awaits for it.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::slab::{Key, Slab};
use super::{Engine, ThreadId, call, main_depth, remote};

/// Something that is polled in the engine's turns.
pub(crate) trait Task {
    /// No engine state is borrowed meanwhile; anything may be called. Once it is ready it is dropped.
    fn poll(&self, engine: &Rc<Engine>, context: &mut Context<'_>) -> Poll<()>;
}

/// A future for tasks: the program's, or one that may call the program. It may run a nested loop, in which its task is woken
/// again.
pub(crate) struct UserFuture<F> {
    /// Taken out while it is on the stack.
    future: RefCell<Option<Pin<Box<F>>>>,
    /// Woken meanwhile.
    again: Cell<bool>,
}

impl<F: Future> UserFuture<F> {
    pub(crate) fn new(future: F) -> Self {
        UserFuture { future: RefCell::new(Some(Box::pin(future))), again: Cell::new(false) }
    }

    /// Polls it as callbacks are called. Ready with `None` if it panicked. It is dropped once it is ready.
    pub(crate) fn poll(&self, engine: &Engine, context: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let Some(mut future) = self.future.take() else {
            // A nested loop runs in it.
            self.again.set(true);
            return Poll::Pending;
        };
        match call(engine, || future.as_mut().poll(context)) {
            Some(Poll::Pending) => {
                self.future.replace(Some(future));
                if self.again.take() {
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Some(Poll::Ready(output)) => Poll::Ready(Some(output)),
            None => Poll::Ready(None),
        }
    }
}

/// One that nobody waits for is a task by itself.
impl<F: Future<Output = ()>> Task for UserFuture<F> {
    fn poll(&self, engine: &Rc<Engine>, context: &mut Context<'_>) -> Poll<()> {
        UserFuture::poll(self, engine, context).map(drop)
    }
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
    /// Takes a task in. It is polled for the first time before the loop sleeps. Returns its name for [`Engine::drop_task`].
    pub(crate) fn spawn(&self, task: Rc<dyn Task>) -> Key {
        if self.has_ended() {
            return Key::NONE;
        }
        let mut all = self.tasks.all.borrow_mut();
        let key = all.next_key();
        let task_waker =
            TaskWaker { thread: self.thread, key, woken: AtomicBool::new(false), mailbox: self.mailbox.clone() };
        let task_waker = Arc::new(task_waker);
        let waker = Waker::from(task_waker.clone());
        all.insert(Rc::new(Entry { task, task_waker: task_waker.clone(), waker }));
        drop(all);
        task_waker.wake();
        key
    }

    /// Drops a task; one that is on the stack when it returns. Does nothing if it is gone.
    pub(crate) fn drop_task(&self, key: Key) {
        let gone = self.tasks.all.borrow_mut().remove(key);
        drop(gone);
    }

    /// Runs `body` with a task that may borrow. Returns when both the body is over and the task is gone.
    pub(crate) fn with_task<R>(&self, task: Rc<dyn Task + '_>, body: impl FnOnce() -> R) -> R {
        struct Scope<'a>(&'a Engine, Key);
        impl Drop for Scope<'_> {
            fn drop(&mut self) {
                self.0.drop_task(self.1);
            }
        }
        // SAFETY: only the lifetime is made longer. The one reference that is made of this goes into the slab, and leaves it
        // when `Scope` is dropped, also by a panic, or before. `poll_task` copies it for the length of a poll, which happens
        // in frames above that of `body`, and those have returned by then. Wakers refer to a task by its key.
        let task = unsafe { std::mem::transmute::<Rc<dyn Task + '_>, Rc<dyn Task + 'static>>(task) };
        let _scope = Scope(self, self.spawn(task));
        body()
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

    /// Polls a task, on the main context of this engine. Where no turn runs it must not call user code: nobody expects that there.
    pub(crate) fn poll_task(self: &Rc<Self>, key: Key) {
        let entry = self.tasks.all.borrow_mut().get_mut(key).cloned();
        let Some(entry) = entry else { return };
        // Before it is polled: whatever happens meanwhile may be news. And what happened before those who have found it
        // woken already went away is to be seen.
        entry.task_waker.woken.swap(false, Ordering::AcqRel);
        let outer = self.polls_at.replace(main_depth());
        let polled = entry.task.poll(self, &mut Context::from_waker(&entry.waker));
        self.polls_at.set(outer);
        if polled.is_ready() {
            self.drop_task(key);
        }
    }

    /// The context is gone: nothing is polled any more.
    pub(super) fn drop_tasks(&self) {
        let all = self.tasks.all.replace(Slab::new());
        drop(all);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    /// A task that waits for ever, and holds something.
    struct Holds<T>(UserFuture<std::future::Pending<()>>, #[allow(dead_code, reason = "it is only dropped")] T);

    fn holding<T>(held: T) -> Rc<Holds<T>> {
        Rc::new(Holds(UserFuture::new(pending()), held))
    }

    impl<T> Task for Holds<T> {
        fn poll(&self, engine: &Rc<Engine>, context: &mut Context<'_>) -> Poll<()> {
            self.0.poll(engine, context).map(drop)
        }
    }

    struct Flag<'a>(&'a Cell<bool>);

    impl Drop for Flag<'_> {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }

    fn in_engine(test: impl FnOnce(&glib::MainContext, &Rc<Engine>)) {
        let context = glib::MainContext::new();
        context.with_thread_default(|| test(&context, &Engine::current().unwrap())).unwrap();
    }

    fn count(engine: &Engine) -> usize {
        engine.tasks.all.borrow().len()
    }

    #[test]
    fn a_task_that_borrows_is_gone_when_the_call_returns() {
        in_engine(|context, engine| {
            let dropped = Cell::new(false);
            engine.with_task(holding(Flag(&dropped)), || {
                while context.iteration(false) {}
                assert!(count(engine) == 1 && !dropped.get());
            });
            assert!(count(engine) == 0 && dropped.get());
            // Also by a panic.
            dropped.set(false);
            let body = || engine.with_task(holding(Flag(&dropped)), || panic!("on purpose"));
            assert!(catch_unwind(AssertUnwindSafe(body)).is_err());
            assert!(count(engine) == 0 && dropped.get());
        });
    }

    #[test]
    fn a_task_that_was_dropped_is_not_polled_and_its_successor_is_another() {
        in_engine(|context, engine| {
            let first = engine.spawn(holding(()));
            engine.drop_task(first);
            let second = engine.spawn(holding(()));
            engine.drop_task(first);
            while context.iteration(false) {}
            assert_eq!(count(engine), 1);
            engine.drop_task(second);
            assert_eq!(count(engine), 0);
        });
    }

    #[test]
    fn an_engine_that_has_ended_takes_no_task() {
        let engine = {
            let mut kept = None;
            in_engine(|_, engine| kept = Some(engine.clone()));
            kept.unwrap()
        };
        let held = Rc::new(());
        let key = engine.spawn(holding(held.clone()));
        engine.drop_task(key);
        assert_eq!((count(&engine), Rc::strong_count(&held)), (0, 1));
    }
}
