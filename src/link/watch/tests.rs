//! Subscriptions by a clock that the test moves. What the kernel tells is shown by `tests/network_watch.rs`.

use std::cell::RefCell;

use super::*;
use crate::engine::turn;
use crate::sys::script;

struct Rig {
    engine: Rc<Engine>,
    context: glib::MainContext,
}

type Log = Rc<RefCell<Vec<NetworkChange>>>;

/// Runs the test on a loop of its own, with a clock that stands still.
fn rig(test: impl FnOnce(&Rig)) {
    script::stop_clock();
    let context = glib::MainContext::new();
    let run = || test(&Rig { engine: Engine::current().unwrap(), context: context.clone() });
    context.with_thread_default(run).unwrap();
}

impl Rig {
    fn run(&self) {
        turn(&self.engine, || while self.context.iteration(false) {});
    }

    fn pass(&self, millis: u64) {
        self.run();
        script::pass(Duration::from_millis(millis));
        self.run();
    }

    fn subscribe(&self) -> (Subscription, Log) {
        let log = Log::default();
        let seen = log.clone();
        (subscribe(&self.engine, move |change| seen.borrow_mut().push(change)), log)
    }
}

const RESUMED: NetworkChange = NetworkChange::Resumed(Duration::from_secs(3600));

fn suspend() {
    script::suspend(Duration::from_secs(3600));
}

#[test]
fn changes_are_gathered_and_told_at_most_once_a_second() {
    rig(|rig| {
        let (subscription, log) = rig.subscribe();
        let shared = &subscription.shared;
        for _ in 0..100 {
            shared.changed();
            rig.pass(2);
        }
        assert!(log.borrow().is_empty());
        rig.pass(50);
        assert_eq!(log.take(), [NetworkChange::Addresses]);
        shared.changed();
        rig.pass(999);
        assert!(log.borrow().is_empty());
        rig.pass(1);
        assert_eq!(log.take(), [NetworkChange::Addresses]);
        rig.pass(5000);
        shared.changed();
        rig.pass(250);
        assert_eq!(log.take(), [NetworkChange::Addresses], "after a pause it is soon again");
    });
}

#[test]
fn a_suspend_is_noticed_by_whoever_looks_and_told_to_all_once() {
    rig(|rig| {
        let ((one, first), (_other, second)) = (rig.subscribe(), rig.subscribe());
        suspend();
        one.look();
        one.look();
        assert!(first.borrow().is_empty(), "not from within the call");
        rig.run();
        assert_eq!((first.take(), second.take()), (vec![RESUMED], vec![RESUMED]));
        one.look();
        // Too short.
        script::suspend(Duration::from_millis(900));
        one.look();
        rig.run();
        assert_eq!((first.take(), second.take()), (vec![], vec![]));
        // But such times add up.
        script::suspend(Duration::from_millis(100));
        one.look();
        rig.run();
        assert_eq!(first.take(), [NetworkChange::Resumed(Duration::from_secs(1))]);
    });
}

#[test]
fn a_suspend_is_noticed_when_the_kernel_says_anything() {
    rig(|rig| {
        for kind in [Kind::Routes, Kind::Clock] {
            let (subscription, log) = rig.subscribe();
            let shared = &subscription.shared;
            let place = if kind == Kind::Routes { &shared.routes } else { &shared.clock };
            let key = place.borrow().as_ref().unwrap().key.get().unwrap();
            suspend();
            rig.engine.tell(key, Ready::READ);
            rig.run();
            assert_eq!(log.take(), [RESUMED]);
        }
    });
}

#[test]
fn suspends_before_the_subscription_are_none() {
    rig(|rig| {
        suspend();
        let (subscription, log) = rig.subscribe();
        subscription.look();
        rig.run();
        assert!(log.borrow().is_empty());
    });
}

#[test]
fn the_last_subscription_closes_what_the_first_has_opened() {
    rig(|rig| {
        let ((one, _), (other, _)) = (rig.subscribe(), rig.subscribe());
        assert!(Rc::ptr_eq(&one.shared, &other.shared));
        let source = one.shared.routes.borrow().clone().unwrap();
        one.shared.changed();
        drop(one);
        assert!(source.fd.open().is_some());
        drop(other);
        assert!(source.fd.open().is_none());
        rig.pass(2000);
        let (again, log) = rig.subscribe();
        rig.pass(2000);
        assert!(again.shared.routes.borrow().is_some() && log.borrow().is_empty());
    });
}

#[test]
fn the_end_of_the_context_closes_it() {
    script::stop_clock();
    let context = glib::MainContext::new();
    let kept = context
        .with_thread_default(|| {
            let engine = Engine::current().unwrap();
            subscribe(&engine, |_| ())
        })
        .unwrap();
    drop(context);
    assert!(kept.shared.routes.borrow().as_ref().unwrap().fd.open().is_none());
    kept.look();
}

#[test]
fn subscribers_may_come_and_go_within_the_call() {
    rig(|rig| {
        let place: Rc<RefCell<Vec<Subscription>>> = Rc::default();
        let (kept, engine) = (place.clone(), rig.engine.clone());
        let (late, heard) = (Log::default(), Log::default());
        let (seen, noted) = (late.clone(), heard.clone());
        let changer = subscribe(&rig.engine, move |change| {
            noted.borrow_mut().push(change);
            let seen = seen.clone();
            // The one behind it is dropped before it has heard.
            let before = kept.replace(vec![subscribe(&engine, move |change| seen.borrow_mut().push(change))]);
            drop(before);
        });
        let (dropped, log) = rig.subscribe();
        place.borrow_mut().push(dropped);
        changer.shared.changed();
        rig.pass(250);
        assert_eq!((heard.take(), log.take(), late.take()), (vec![NetworkChange::Addresses], vec![], vec![]));
    });
}

#[test]
fn a_program_is_told_what_it_has_missed_while_it_was_busy() {
    rig(|rig| {
        let log = Log::default();
        let (seen, context, engine) = (log.clone(), rig.context.clone(), rig.engine.clone());
        let place: Rc<RefCell<Option<NetworkWatch>>> = Rc::default();
        let own = place.clone();
        let watch = NetworkWatch::new(move |change| {
            seen.borrow_mut().push(change);
            if seen.borrow().len() > 1 {
                return;
            }
            let shared = own.borrow().as_ref().unwrap().inner.subscription.borrow().as_ref().unwrap().shared.clone();
            for _ in 0..2 {
                suspend();
                shared.changed();
                shared.look();
                turn(&engine, || while context.iteration(false) {});
                script::pass(Duration::from_secs(1));
                turn(&engine, || while context.iteration(false) {});
            }
            assert_eq!(seen.borrow().len(), 1, "the callback is busy");
        });
        place.replace(Some(watch.unwrap()));
        place.borrow().as_ref().unwrap().inner.subscription.borrow().as_ref().unwrap().shared.changed();
        rig.pass(250);
        let twice = NetworkChange::Resumed(Duration::from_secs(7200));
        assert_eq!(log.take(), [NetworkChange::Addresses, twice, NetworkChange::Addresses]);
        drop(place.take());
        rig.pass(1000);
    });
}

#[test]
fn the_callback_may_drop_its_handle() {
    rig(|rig| {
        let place: Rc<RefCell<Option<NetworkWatch>>> = Rc::default();
        let (own, calls) = (place.clone(), Rc::new(Cell::new(0)));
        let count = calls.clone();
        let watch = NetworkWatch::new(move |_| {
            count.set(count.get() + 1);
            drop(own.take());
        });
        place.replace(Some(watch.unwrap()));
        let (subscription, _) = rig.subscribe();
        suspend();
        subscription.shared.changed();
        subscription.look();
        rig.pass(1000);
        assert_eq!(calls.get(), 1);
        assert_eq!(Rc::strong_count(&calls), 1, "the callback is dropped");
    });
}
