use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use proptest::prelude::*;

use super::*;
use crate::engine::turn;
use crate::sys::script;

const SECOND: Duration = Duration::from_secs(1);

/// Calls on a loop of its own, with a clock that stands still.
struct Rig {
    context: glib::MainContext,
    engine: Rc<Engine>,
    calls: Calls<String>,
    heard: Heard,
}

type Heard = Rc<RefCell<Vec<(u64, String)>>>;

fn rig<T>(test: impl FnOnce(&Rig) -> T) -> T {
    script::stop_clock();
    let context = glib::MainContext::new();
    let run = || {
        let engine = Engine::current().unwrap();
        test(&Rig { context: context.clone(), engine, calls: Calls::new().unwrap(), heard: Heard::default() })
    };
    context.with_thread_default(run).unwrap()
}

impl Rig {
    fn run(&self) {
        turn(&self.engine, || while self.context.iteration(false) {});
    }

    /// Lets time pass, in which the loop runs.
    fn pass(&self, time: Duration) {
        script::pass_running(time, || self.run());
    }

    fn begin(&self, timeout: impl Into<Option<Duration>>) -> (u64, Answer<String>) {
        self.calls.begin(timeout).unwrap()
    }

    /// Notes the result when it is told.
    fn hear(&self, answer: Answer<String>) {
        let (number, heard) = (answer.number(), self.heard.clone());
        answer.then(move |result| heard.borrow_mut().push((number, words(result))));
    }

    fn heard(&self) -> Vec<(u64, String)> {
        self.heard.take()
    }

    fn finish(&self, number: u64) -> bool {
        self.calls.finish(number, format!("reply {number}"))
    }

    /// Nothing is left: no call, no deadline, no timer.
    fn assert_empty(&self) {
        let pending = self.calls.table.pending.borrow();
        assert!(pending.calls.is_empty() && pending.deadlines.is_empty() && pending.timer.is_none());
    }
}

fn words(result: Result<String>) -> String {
    result.unwrap_or_else(|error| format!("{error:?}").split(':').next().unwrap().to_owned())
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn poll<R>(answer: &mut Answer<R>) -> Poll<Result<R>> {
    pin!(answer).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn an_answer_is_told_once_and_on_a_later_turn() {
    rig(|rig| {
        let (number, answer) = rig.begin(SECOND);
        assert_eq!((number, rig.calls.len()), (1, 1));
        rig.hear(answer);
        assert!(rig.finish(1));
        assert!(rig.heard().is_empty(), "not from inside the method");
        rig.run();
        assert_eq!(rig.heard(), [(1, "reply 1".into())]);
        assert!(!rig.finish(1), "it was answered");
        assert!(!rig.finish(2), "it was never begun");
        rig.pass(2 * SECOND);
        assert!(rig.heard().is_empty());
        rig.assert_empty();
    });
}

#[test]
fn who_asks_for_an_answer_that_has_come_is_told_on_a_later_turn() {
    rig(|rig| {
        let (number, answer) = rig.begin(None);
        assert!(rig.finish(number));
        rig.hear(answer);
        assert!(rig.heard().is_empty());
        rig.run();
        assert_eq!(rig.heard(), [(1, "reply 1".into())]);
    });
}

#[test]
fn a_future_is_woken_by_its_answer() {
    rig(|rig| {
        let (number, mut answer) = rig.begin(SECOND);
        let woken = Arc::new(Woken::default());
        let waker = woken.clone().into();
        assert!(pin!(&mut answer).poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(pin!(&mut answer).poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(rig.finish(number));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(matches!(poll(&mut answer), Poll::Ready(Ok(reply)) if reply == "reply 1"));
        assert!(matches!(poll(&mut answer), Poll::Ready(Err(Error::Cancelled { .. }))), "it was taken");
        rig.assert_empty();
    });
}

#[test]
fn a_late_answer_finds_its_call_timed_out() {
    rig(|rig| {
        let (_, first) = rig.begin(3 * SECOND);
        let (second, answer) = rig.begin(SECOND);
        rig.hear(first);
        rig.hear(answer);
        rig.pass(Duration::from_millis(950));
        assert!(rig.heard().is_empty());
        rig.pass(Duration::from_millis(100));
        assert_eq!(rig.heard(), [(2, "TimedOut".into())]);
        assert!(!rig.finish(second));
        rig.pass(2 * SECOND);
        assert_eq!(rig.heard(), [(1, "TimedOut".into())]);
        rig.assert_empty();
    });
}

#[test]
fn the_error_names_the_call_and_the_timeout() {
    rig(|rig| {
        let (_, mut answer) = rig.begin(SECOND);
        rig.pass(2 * SECOND);
        let Poll::Ready(Err(error)) = poll(&mut answer) else { panic!() };
        assert_eq!(error.to_string(), "timed out after 1 s while waiting for the answer to call 1");
    });
}

#[test]
fn time_in_which_the_loop_is_held_up_does_not_count() {
    rig(|rig| {
        let (number, answer) = rig.begin(10 * SECOND);
        rig.hear(answer);
        rig.pass(SECOND);
        // A callback that blocks for a minute; or the process is stopped.
        script::pass(60 * SECOND);
        rig.run();
        assert!(rig.heard().is_empty());
        let (_, other) = rig.begin(10 * SECOND);
        rig.hear(other);
        assert!(rig.finish(number));
        rig.pass(9 * SECOND);
        assert_eq!(rig.heard(), [(1, "reply 1".into())]);
        rig.pass(2 * SECOND);
        assert_eq!(rig.heard(), [(2, "TimedOut".into())]);
    });
}

#[test]
fn a_timeout_that_never_comes_is_none_and_one_of_zero_has_come() {
    rig(|rig| {
        let (_, endless) = rig.begin(Duration::MAX);
        let (_, none) = rig.begin(None);
        let (_, zero) = rig.begin(Duration::ZERO);
        [endless, none, zero].into_iter().for_each(|answer| rig.hear(answer));
        assert!(rig.heard().is_empty());
        rig.pass(SECOND);
        assert_eq!(rig.heard(), [(3, "TimedOut".into())]);
        rig.pass(100 * SECOND);
        assert_eq!(rig.calls.len(), 2);
        assert!(rig.calls.table.pending.borrow().timer.is_none());
    });
}

#[test]
fn all_fail_for_the_reason_in_the_order_in_which_they_began() {
    rig(|rig| {
        let answers: Vec<_> = (0..3).map(|_| rig.begin(SECOND).1).collect();
        answers.into_iter().for_each(|answer| rig.hear(answer));
        rig.calls.fail_all(&Error::Reset { peer: "x".into() });
        assert!(!rig.finish(2));
        rig.assert_empty();
        rig.run();
        assert_eq!(rig.heard(), [(1, "Reset".into()), (2, "Reset".into()), (3, "Reset".into())]);
        // And it goes on.
        let (number, mut answer) = rig.begin(SECOND);
        assert_eq!(number, 4);
        rig.calls.fail_all(&Error::other("no more"));
        assert!(matches!(poll(&mut answer), Poll::Ready(Err(error)) if error.to_string() == "no more"));
    });
}

#[test]
fn an_answer_that_is_dropped_is_forgotten() {
    rig(|rig| {
        let (number, answer) = rig.begin(SECOND);
        drop(answer);
        rig.assert_empty();
        assert!(!rig.finish(number));
        // One that was answered is not forgotten twice.
        let (number, answer) = rig.begin(SECOND);
        assert!(rig.finish(number));
        drop(answer);
        rig.assert_empty();
    });
}

#[test]
fn the_last_handle_that_is_dropped_ends_all_calls() {
    rig(|rig| {
        let calls = Calls::<String>::new().unwrap();
        let more = calls.clone();
        let (_, mut awaited) = calls.begin(SECOND).unwrap();
        let (_, told) = more.begin(SECOND).unwrap();
        let (_, late) = calls.begin(None).unwrap();
        rig.hear(told);
        drop(calls);
        assert!(poll(&mut awaited).is_pending());
        drop(more);
        let Poll::Ready(Err(error)) = poll(&mut awaited) else { panic!() };
        assert_eq!(error.to_string(), "cancelled while waiting for the answer to call 1");
        rig.hear(late);
        rig.run();
        assert_eq!(rig.heard(), [(2, "Cancelled".into()), (3, "Cancelled".into())]);
        rig.pass(2 * SECOND);
        assert!(rig.heard().is_empty());
    });
}

#[test]
fn no_more_are_pending_than_the_limit() {
    rig(|rig| {
        assert_eq!(rig.calls.limit(), 1024);
        rig.calls.set_limit(2);
        let (first, _one) = rig.begin(None);
        let _two = rig.begin(None);
        let error = rig.calls.begin(SECOND).unwrap_err();
        assert!(matches!(error, Error::QueueFull { queued: 2, limit: 2, .. }));
        assert_eq!(
            error.to_string(),
            "too many calls: 2 are pending, and the limit is 2; wait for answers or raise Calls::set_limit"
        );
        assert!(rig.finish(first));
        assert_eq!(rig.begin(None).0, 3, "what was refused has no number");
    });
}

#[test]
fn a_callback_may_do_anything() {
    rig(|rig| {
        let (calls, heard) = (rig.calls.clone(), rig.heard.clone());
        let (first, answer) = rig.begin(SECOND);
        rig.hear(rig.begin(SECOND).1);
        answer.then(move |result| {
            heard.borrow_mut().push((1, words(result)));
            assert!(calls.finish(2, "from within".into()));
            calls.fail_all(&Error::Reset { peer: "x".into() });
            let (third, answer) = calls.begin(None).unwrap();
            answer.then(move |result| heard.borrow_mut().push((3, words(result))));
            calls.finish(third, "nested".into());
        });
        rig.finish(first);
        rig.run();
        rig.run();
        let heard = rig.heard();
        assert_eq!(heard, [(1, "reply 1".into()), (2, "from within".into()), (3, "nested".into())]);
    });
}

#[test]
fn what_a_callback_holds_goes_with_its_call() {
    rig(|rig| {
        let held = Rc::new(());
        let (first, answer) = rig.begin(None);
        let holds = (held.clone(), rig.calls.clone());
        answer.then(move |_| drop(holds));
        let (_, answer) = rig.begin(SECOND);
        let holds = (held.clone(), rig.calls.clone());
        answer.then(move |_| drop(holds));
        rig.finish(first);
        rig.pass(2 * SECOND);
        assert_eq!((Rc::strong_count(&held), Rc::strong_count(&rig.calls.table)), (1, 1));
    });
}

#[test]
fn a_panic_in_a_callback_comes_out_of_the_loop_and_the_others_are_told() {
    rig(|rig| {
        rig.begin(None).1.then(|_| panic!("with this"));
        rig.hear(rig.begin(None).1);
        rig.calls.fail_all(&Error::Reset { peer: "x".into() });
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rig.run())).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"with this"));
        rig.run();
        assert_eq!(rig.heard(), [(2, "Reset".into())]);
    });
}

/// The fate of a call.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Answered,
    Doubled,
    Late,
    Never,
    Dropped,
    Awaited,
}

/// Ten thousand at a time: each ends exactly once, whatever happens to it, and nothing is left of any.
#[test]
fn ten_thousand_calls_end_once_each() {
    const COUNT: u64 = 10_000;
    rig(|rig| {
        rig.calls.set_limit(COUNT as usize);
        let fate = |number: u64| {
            // In another order than they began.
            [Fate::Answered, Fate::Doubled, Fate::Late, Fate::Never, Fate::Dropped, Fate::Awaited][number as usize % 6]
        };
        let begin = |number| rig.begin(Duration::from_millis(500 + number * 7919 % 1000));
        let begun: Vec<_> = (1..=COUNT).map(begin).collect();
        assert!(rig.calls.begin(None).is_err());
        let mut awaited = Vec::new();
        for (expected, (number, answer)) in (1..).zip(begun) {
            assert_eq!(number, expected);
            match fate(number) {
                Fate::Dropped => drop(answer),
                Fate::Awaited => awaited.push(answer),
                _ => rig.hear(answer),
            }
        }
        // 7919 is a prime: each number once.
        let shuffled = || (1..=COUNT).map(|step| step * 7919 % COUNT + 1);
        for number in shuffled() {
            match fate(number) {
                Fate::Answered => assert!(rig.finish(number)),
                Fate::Doubled => assert!(rig.finish(number) && !rig.finish(number)),
                Fate::Awaited if number % 4 == 1 => assert!(rig.finish(number)),
                Fate::Dropped => assert!(!rig.finish(number)),
                _ => {}
            }
        }
        rig.pass(SECOND);
        // The link is lost, with some of them still pending.
        assert!(!rig.calls.is_empty());
        rig.calls.fail_all(&Error::Closed { peer: "x".into() });
        for number in shuffled() {
            assert!(!rig.finish(number), "late");
        }
        rig.pass(2 * SECOND);
        rig.assert_empty();
        let mut heard = rig.heard();
        for mut answer in awaited {
            let number = answer.number();
            let Poll::Ready(result) = poll(&mut answer) else { panic!("{number} has not ended") };
            heard.push((number, words(result)));
        }
        heard.sort();
        let (mut timed_out, mut lost) = (0, 0);
        let mut ends = heard.into_iter();
        for number in (1..=COUNT).filter(|number| !matches!(fate(*number), Fate::Dropped)) {
            let (ended, how) = ends.next().unwrap();
            assert_eq!(ended, number);
            match (fate(number), &how[..]) {
                (Fate::Answered | Fate::Doubled | Fate::Awaited, how) if how == format!("reply {number}") => {}
                (Fate::Late | Fate::Never | Fate::Awaited, "TimedOut") => timed_out += 1,
                (Fate::Late | Fate::Never | Fate::Awaited, "Closed") => lost += 1,
                (fate, how) => panic!("{number}: {fate:?}, {how}"),
            }
        }
        assert_eq!(ends.next(), None);
        assert!(timed_out > 1000 && lost > 1000, "{timed_out} timed out, {lost} were lost");
    });
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Begin(Option<u64>),
    Finish(usize),
    Drop(usize),
    Pass(u64),
    FailAll,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::option::of(0u64..400).prop_map(Step::Begin),
        2 => (0usize..40).prop_map(Step::Finish),
        1 => (0usize..40).prop_map(Step::Drop),
        2 => (0u64..200).prop_map(Step::Pass),
        1 => Just(Step::FailAll),
    ]
}

proptest! {
    /// In any order: a call is pending until the first of what ends it, there is a timer if there is a deadline, and one that is
    /// not late.
    #[test]
    fn a_call_is_pending_until_the_first_of_what_ends_it(steps in proptest::collection::vec(step(), 0..60)) {
        rig(|rig| {
            // The deadlines of those pending, and all answers.
            let mut pending: BTreeMap<u64, Option<u64>> = BTreeMap::new();
            let mut answers: Vec<Option<Answer<String>>> = Vec::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Begin(timeout) => {
                        let (number, answer) = rig.begin(timeout.map(Duration::from_millis));
                        pending.insert(number, timeout.map(|timeout| now + timeout));
                        answers.push(Some(answer));
                        prop_assert_eq!(number, answers.len() as u64);
                    }
                    Step::Finish(index) => {
                        let number = index as u64 + 1;
                        prop_assert_eq!(rig.finish(number), pending.remove(&number).is_some());
                    }
                    Step::Drop(index) => {
                        if let Some(answer) = answers.get_mut(index) {
                            drop(answer.take());
                            pending.remove(&(index as u64 + 1));
                        }
                    }
                    Step::Pass(time) => {
                        rig.pass(Duration::from_millis(time));
                        rig.run();
                        now += time;
                        pending.retain(|_, deadline| deadline.is_none_or(|deadline| deadline > now));
                    }
                    Step::FailAll => {
                        rig.calls.fail_all(&Error::Reset { peer: "x".into() });
                        pending.clear();
                    }
                }
                let table = rig.calls.table.pending.borrow();
                prop_assert!(table.calls.keys().eq(pending.keys()), "{:?}, {:?}", table.calls.keys(), pending);
                let first = table.deadlines.first().map(|(deadline, _)| *deadline);
                prop_assert_eq!(table.timer.is_some(), first.is_some());
                prop_assert!(table.timer.is_none_or(|(due, _)| Some(due) <= first));
            }
            for (index, answer) in answers.iter_mut().enumerate() {
                let is_over = answer.as_mut().is_none_or(|answer| poll(answer).is_ready());
                prop_assert_eq!(is_over, !pending.contains_key(&(index as u64 + 1)));
            }
            Ok(())
        })?;
    }
}
