//! Callbacks. [`call`] is the only place that calls user code, of whatever kind. [`CallbackSlot`] keeps a callback that may
//! be replaced, removed or reached again while it runs.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Engine;

/// Calls user code. Returns `None` if it panicked; the engine then resumes the panic where our loop was entered. No state may
/// be borrowed during the call, because user code may call anything.
#[inline]
pub(crate) fn call<R>(engine: &Engine, user: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(user)) {
        Ok(result) => Some(result),
        Err(panic) => {
            engine.panicked(panic);
            None
        }
    }
}

/// Keeps one callback, which is moved out of the slot for each call and back afterwards, so that nothing is borrowed while
/// user code runs.
///
/// While the callback is on the stack
/// - the slot cannot lend it again: a nested loop finds it busy, and its owner serves what came when the call is over;
/// - setting another takes effect at once, a nested loop may even call it; the one on the stack is dropped when it returns;
/// - unsetting it takes effect at once: it is dropped when it returns, not in the middle of its own call.
///
/// A panic does not empty the slot: what it ends is for the owner to decide. A callback is only ever dropped after the slot
/// has its new content, so whatever it captured may use the slot again as it is dropped.
pub(crate) struct CallbackSlot<F: ?Sized> {
    /// `None` while it is on the stack, too.
    callback: Cell<Option<Box<F>>>,
    /// Grows with each change, and is odd while a callback is set. A call compares it with what it was at its start.
    version: Cell<u32>,
}

impl<F: ?Sized> Default for CallbackSlot<F> {
    fn default() -> Self {
        CallbackSlot { callback: Cell::new(None), version: Cell::new(0) }
    }
}

impl<F: ?Sized> From<Option<Box<F>>> for CallbackSlot<F> {
    fn from(callback: Option<Box<F>>) -> Self {
        let version = u32::from(callback.is_some());
        CallbackSlot { callback: Cell::new(callback), version: Cell::new(version) }
    }
}

impl<F: ?Sized> CallbackSlot<F> {
    /// Returns whether a callback is set, be it on the stack or not.
    #[inline]
    pub(crate) fn is_set(&self) -> bool {
        self.version.get() % 2 == 1
    }

    /// Returns whether the callback that is set is on the stack.
    pub(crate) fn is_busy(&self) -> bool {
        let callback = self.callback.take();
        let here = callback.is_some();
        self.callback.set(callback);
        self.is_set() && !here
    }

    /// Sets or unsets the callback and returns the one that was there, for the caller to drop when nothing is borrowed. One
    /// that is on the stack is dropped when it returns.
    #[must_use = "drop it when nothing is borrowed"]
    pub(crate) fn replace(&self, callback: Option<Box<F>>) -> Option<Box<F>> {
        let version = self.version.get();
        // The next odd or even number, as the case may be.
        let step = if self.is_set() == callback.is_some() { 2 } else { 1 };
        self.version.set(version.wrapping_add(step));
        self.callback.replace(callback)
    }

    /// Sets the callback. Drops the previous one.
    pub(crate) fn set(&self, callback: Box<F>) {
        let old = self.replace(Some(callback));
        drop(old);
    }

    /// Unsets the callback and returns it, as [`CallbackSlot::replace`] does. For callbacks that are called once, this is
    /// also how they are called.
    #[must_use = "drop it when nothing is borrowed"]
    pub(crate) fn take(&self) -> Option<Box<F>> {
        self.replace(None)
    }

    /// Lends the callback for one or more calls, each through [`call`]. `None` if there is none or it is on the stack.
    #[inline]
    pub(crate) fn lend(&self) -> Option<Lent<'_, F>> {
        let callback = self.callback.take()?;
        Some(Lent { slot: self, version: self.version.get(), callback: Some(callback) })
    }

    /// Lends the callback for one call.
    #[inline]
    pub(crate) fn call<R>(&self, engine: &Engine, user: impl FnOnce(&mut F) -> R) -> Called<R> {
        let Some(mut callback) = self.lend() else { return Called::Not };
        match call(engine, || user(&mut callback)) {
            Some(result) => Called::Returned(result),
            None => Called::Panicked,
        }
    }
}

/// The outcome of [`CallbackSlot::call`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Called<R> {
    /// No callback is set, or it is on the stack.
    Not,
    Returned(R),
    /// The engine has the panic, and resumes it where our loop was entered.
    Panicked,
}

/// A callback that is out of its slot. It goes back at the end, unless the slot has been changed meanwhile: then it is
/// dropped.
pub(crate) struct Lent<'a, F: ?Sized> {
    slot: &'a CallbackSlot<F>,
    version: u32,
    callback: Option<Box<F>>,
}

impl<F: ?Sized> Lent<'_, F> {
    /// Returns whether the slot has been neither set nor unset since: otherwise this one is not to be called again.
    #[inline]
    pub(crate) fn is_current(&self) -> bool {
        self.slot.version.get() == self.version
    }
}

impl<F: ?Sized> Deref for Lent<'_, F> {
    type Target = F;
    fn deref(&self) -> &F {
        self.callback.as_deref().expect("it is there until the drop")
    }
}

impl<F: ?Sized> DerefMut for Lent<'_, F> {
    #[inline]
    fn deref_mut(&mut self) -> &mut F {
        self.callback.as_deref_mut().expect("it is there until the drop")
    }
}

impl<F: ?Sized> Drop for Lent<'_, F> {
    #[inline]
    fn drop(&mut self) {
        if self.is_current() {
            let none = self.slot.callback.replace(self.callback.take());
            // Dropping it would take a call for nothing.
            debug_assert!(none.is_none());
            std::mem::forget(none);
        }
        // Else it goes now, as the slot has its new content already.
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// A slot for callbacks that return a number.
    type Slot = Rc<CallbackSlot<dyn FnMut() -> u32>>;

    fn slot() -> Slot {
        Rc::default()
    }

    fn in_engine(test: impl FnOnce(&Rc<Engine>)) {
        let context = glib::MainContext::new();
        let run = context.with_thread_default(|| {
            let engine = Engine::current().unwrap();
            // As if our own loop were at work here.
            engine.enter_loop(Some(-1));
            test(&engine);
            assert!(engine.take_panic().is_none());
        });
        run.unwrap();
    }

    fn run(engine: &Engine, slot: &Slot) -> Called<u32> {
        slot.call(engine, |callback| callback())
    }

    /// Runs code when it is dropped, as a captured value may.
    struct OnDrop<F: FnMut()>(F);

    impl<F: FnMut()> Drop for OnDrop<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    #[test]
    fn is_called_as_often_as_one_likes_until_it_is_unset() {
        in_engine(|engine| {
            let slot = slot();
            assert_eq!(run(engine, &slot), Called::Not);
            let mut calls = 0;
            slot.set(Box::new(move || {
                calls += 1;
                calls
            }));
            assert!(slot.is_set() && !slot.is_busy());
            assert_eq!((run(engine, &slot), run(engine, &slot)), (Called::Returned(1), Called::Returned(2)));
            slot.set(Box::new(|| 7));
            assert_eq!(run(engine, &slot), Called::Returned(7));
            assert!(slot.take().is_some());
            assert!(!slot.is_set() && !slot.is_busy());
            assert_eq!(run(engine, &slot), Called::Not);
            let made = CallbackSlot::from(Some(Box::new(|| 8)));
            assert!(made.is_set());
            assert_eq!(made.call(engine, |callback| callback()), Called::Returned(8));
        });
    }

    #[test]
    fn one_set_during_the_call_stays_and_the_other_is_dropped_after_it() {
        in_engine(|engine| {
            let (slot, dropped) = (slot(), Rc::new(Cell::new(false)));
            let guard = OnDrop({
                let dropped = dropped.clone();
                move || dropped.set(true)
            });
            let (inner, seen) = (slot.clone(), dropped.clone());
            slot.set(Box::new(move || {
                let _captured = &guard;
                inner.set(Box::new(|| 2));
                assert!(!seen.get(), "it is dropped in the middle of its own call");
                1
            }));
            assert_eq!(run(engine, &slot), Called::Returned(1));
            assert!(dropped.get());
            assert_eq!(run(engine, &slot), Called::Returned(2));
        });
    }

    #[test]
    fn one_unset_during_the_call_is_dropped_after_it_even_if_it_was_set_again_before() {
        in_engine(|engine| {
            for again in [false, true] {
                let slot = slot();
                let inner = slot.clone();
                slot.set(Box::new(move || {
                    if again {
                        inner.set(Box::new(|| 2));
                    }
                    assert_eq!(inner.take().is_some(), again);
                    assert!(!inner.is_set() && !inner.is_busy());
                    1
                }));
                assert_eq!(run(engine, &slot), Called::Returned(1));
                assert_eq!(run(engine, &slot), Called::Not);
                assert_eq!(Rc::strong_count(&slot), 1, "what it had captured is still there");
            }
        });
    }

    #[test]
    fn a_nested_loop_finds_it_busy_but_calls_one_that_was_set_meanwhile() {
        in_engine(|engine| {
            let slot = slot();
            let (inner, nested) = (slot.clone(), engine.clone());
            slot.set(Box::new(move || {
                assert!(inner.is_set() && inner.is_busy());
                assert_eq!(run(&nested, &inner), Called::Not);
                let deeper = inner.clone();
                let deepest = nested.clone();
                inner.set(Box::new(move || {
                    assert!(deeper.is_busy());
                    assert_eq!(run(&deepest, &deeper), Called::Not);
                    2
                }));
                assert!(!inner.is_busy());
                assert_eq!(run(&nested, &inner), Called::Returned(2));
                1
            }));
            assert_eq!(run(engine, &slot), Called::Returned(1));
            assert!(slot.is_set() && !slot.is_busy());
            assert_eq!(run(engine, &slot), Called::Returned(2));
            drop(slot.take());
        });
    }

    #[test]
    fn a_panic_leaves_it_set() {
        in_engine(|engine| {
            let slot = slot();
            let mut calls = 0;
            slot.set(Box::new(move || {
                calls += 1;
                assert!(calls != 1, "the first call panics");
                calls
            }));
            assert_eq!(run(engine, &slot), Called::Panicked);
            assert!(engine.take_panic().is_some());
            assert!(slot.is_set() && !slot.is_busy());
            assert_eq!(run(engine, &slot), Called::Returned(2));
        });
    }

    #[test]
    fn one_replaced_during_a_call_that_panics_is_dropped() {
        in_engine(|engine| {
            let slot = slot();
            let inner = slot.clone();
            slot.set(Box::new(move || {
                inner.set(Box::new(|| 2));
                panic!("after it has set another");
            }));
            assert_eq!(run(engine, &slot), Called::Panicked);
            assert!(engine.take_panic().is_some());
            assert_eq!(Rc::strong_count(&slot), 1);
            assert_eq!(run(engine, &slot), Called::Returned(2));
        });
    }

    #[test]
    fn what_is_captured_may_use_the_slot_as_it_is_dropped() {
        in_engine(|engine| {
            let (slot, seen) = (slot(), Rc::new(RefCell::new(Vec::new())));
            let restless = |number: u32| -> Box<dyn FnMut() -> u32> {
                let (slot, seen, engine) = (slot.clone(), seen.clone(), engine.clone());
                let guard = OnDrop(move || {
                    // What is in the slot by now, and then another instead.
                    seen.borrow_mut().push((number, run(&engine, &slot)));
                    slot.set(Box::new(|| 9));
                });
                Box::new(move || {
                    let _captured = &guard;
                    number
                })
            };
            // By being replaced while it is not called, ...
            slot.set(restless(1));
            slot.set(Box::new(|| 2));
            assert_eq!(run(engine, &slot), Called::Returned(9));
            // ... by being unset, ...
            slot.set(restless(3));
            drop(slot.take());
            assert_eq!(run(engine, &slot), Called::Returned(9));
            // ... and by being replaced during its call.
            slot.set(restless(4));
            let replace = slot.call(engine, |callback| {
                slot.set(Box::new(|| 5));
                callback()
            });
            assert_eq!(replace, Called::Returned(4));
            assert_eq!(run(engine, &slot), Called::Returned(9));
            assert_eq!(*seen.borrow(), [(1, Called::Returned(2)), (3, Called::Not), (4, Called::Returned(5))]);
        });
    }

    #[test]
    fn one_that_is_lent_for_several_calls_is_told_that_it_is_out_of_date() {
        in_engine(|engine| {
            let slot = slot();
            slot.set(Box::new(|| 1));
            let mut lent = slot.lend().unwrap();
            assert_eq!(call(engine, &mut *lent), Some(1));
            assert!(lent.is_current());
            slot.set(Box::new(|| 2));
            assert!(!lent.is_current());
            drop(lent);
            assert_eq!(run(engine, &slot), Called::Returned(2));
        });
    }
}
