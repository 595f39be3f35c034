//! Tasks, time for them, and the loop for as long as a future takes.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use network::task::Task;
use network::{Error, Server, Socket};

use crate::callbacks::panic_of_loop;
use crate::incoming::draw;
use crate::util::*;

const MOMENT: Duration = Duration::from_millis(2);

/// Nothing here takes this long; whatever does hangs.
const HANGS: Duration = Duration::from_secs(20);

/// One test at a time has the default context of the process.
static DEFAULT: Mutex<()> = Mutex::new(());

/// Awaits something on the context of the test, with a limit.
#[track_caller]
fn run<T>(future: impl Future<Output = T>) -> T {
    network::block_on(network::timeout(HANGS, future)).unwrap().expect("what is awaited does not come")
}

/// Sets a flag when it is dropped.
struct Guard(Rc<Cell<bool>>);

impl Guard {
    fn new() -> (Self, Rc<Cell<bool>>) {
        let flag = Rc::new(Cell::new(false));
        (Guard(flag.clone()), flag)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(true);
    }
}

fn is_cancelled(result: &network::Result) -> bool {
    matches!(result, Err(Error::Cancelled { .. }))
}

#[test]
fn a_task_is_polled_by_the_loop_and_its_result_awaited() {
    on_own_context(|| {
        let steps = Log::<&str>::new();
        let log = steps.clone();
        let task = network::spawn(async move {
            log.add("polled");
            Ok(())
        })
        .unwrap();
        assert_eq!(steps.len(), 0, "not by the call itself");
        assert!(!task.is_finished());
        until(|| task.is_finished());
        assert_eq!(steps.all(), ["polled"]);
        // It is there when it is asked for, and once.
        let mut task = task;
        run(&mut task).unwrap();
        assert!(is_cancelled(&run(&mut task)));
        let failed = network::spawn(async { Err(Error::other("in vain")) }).unwrap();
        assert_eq!(run(failed).unwrap_err().to_string(), "in vain");
    });
}

#[test]
fn a_task_whose_handle_is_dropped_goes_on() {
    on_own_context(|| {
        let done = Rc::new(Cell::new(false));
        let flag = done.clone();
        drop(network::spawn(async move {
            network::sleep(MOMENT).await;
            flag.set(true);
            Ok(())
        }));
        until(|| done.get());
    });
}

/// Where a task is.
type Step = Rc<Cell<usize>>;

/// Goes through one thing that is waited for after the other, and says how far it is.
async fn go_through_it(kind: Kind, step: Step, _guard: Guard) -> network::Result {
    let next = || step.set(step.get() + 1);
    let served = Rc::new(RefCell::new(None));
    let place = served.clone();
    let (_server, address) = serve(kind, move |socket| {
        place.replace(Some(socket));
        Ok(())
    });
    next();
    let client = client(kind).connect_future(address.as_str()).await?;
    next();
    while served.borrow().is_none() {
        network::sleep(MOMENT).await;
    }
    let served = served.take().unwrap();
    next();
    served.sendline_future("hello").await?;
    next();
    client.recv_line_future().await?;
    next();
    let waiting = network::timeout(HANGS, client.recv_exact_future(3));
    served.send(b"abc")?;
    waiting.await??;
    next();
    assert!(network::timeout(MOMENT, client.recv_line_future()).await.is_err());
    next();
    let (tell, told) = oneshot::channel();
    let thread = std::thread::spawn(move || tell.send(()).unwrap());
    told.await.unwrap();
    thread.join().unwrap();
    next();
    network::spawn(async {
        network::sleep(MOMENT).await;
        Ok(())
    })?
    .await?;
    next();
    glib::timeout_future(MOMENT).await;
    next();
    client.send_future(vec![1; 1 << 20]).await?;
    served.recv_exact_future(1 << 20).await?;
    next();
    client.flush_future().await?;
    next();
    Ok(())
}

#[test]
fn abort_ends_a_task_at_any_step_and_leaves_nothing() {
    for_each_kind(|kind| {
        let whole = Step::default();
        let (guard, _) = Guard::new();
        run(network::spawn(go_through_it(kind, whole.clone(), guard)).unwrap()).unwrap();
        for last in 0..whole.get() {
            let step = Step::default();
            let (guard, is_dropped) = Guard::new();
            let task = network::spawn(go_through_it(kind, step.clone(), guard)).unwrap();
            if last > 0 {
                until(|| step.get() >= last);
            }
            assert!(!is_dropped.get() || task.is_finished());
            task.abort();
            assert!(is_dropped.get(), "at step {last}");
            assert!(task.is_finished());
            let before = step.get();
            let result = run(task);
            assert!(is_cancelled(&result) || before == whole.get(), "{result:?} at step {last}");
            assert_eq!(step.get(), before);
        }
    });
}

#[test]
fn abort_leaves_a_result_that_is_there() {
    on_own_context(|| {
        let task = network::spawn(async { Ok(()) }).unwrap();
        until(|| task.is_finished());
        task.abort();
        run(task).unwrap();
    });
}

#[test]
fn a_task_may_abort_itself_and_is_dropped_when_it_waits_next() {
    on_own_context(|| {
        for completes in [false, true] {
            let handle = Rc::new(RefCell::new(None::<Task>));
            let own = handle.clone();
            let (guard, is_dropped) = Guard::new();
            let seen = is_dropped.clone();
            let task = network::spawn(async move {
                let _guard = guard;
                own.borrow().as_ref().unwrap().abort();
                assert!(!seen.get(), "in the middle of its own poll");
                if !completes {
                    pending::<()>().await;
                }
                Ok(())
            });
            handle.replace(Some(task.unwrap()));
            until(|| is_dropped.get());
            assert!(is_cancelled(&run(handle.take().unwrap())));
        }
    });
}

#[test]
fn whoever_awaits_a_task_hears_of_its_abort() {
    on_own_context(|| {
        let (guard, is_dropped) = Guard::new();
        let task = network::spawn(async move {
            let _guard = guard;
            pending().await
        });
        let task = Rc::new(RefCell::new(task.unwrap()));
        let (awaited, waits) = (task.clone(), Rc::new(Cell::new(false)));
        let flag = waits.clone();
        let other = network::spawn(async move {
            poll_fn(|context| {
                flag.set(true);
                std::pin::Pin::new(&mut *awaited.borrow_mut()).poll(context)
            })
            .await
        });
        until(|| waits.get());
        task.borrow().abort();
        assert!(is_dropped.get());
        assert!(is_cancelled(&run(other.unwrap())));
    });
}

#[test]
fn a_panic_in_a_task_comes_out_of_the_loop_and_the_others_go_on() {
    on_own_context(|| {
        let (guard, is_dropped) = Guard::new();
        let task = network::spawn(async move {
            let _guard = guard;
            network::sleep(MOMENT).await;
            panic!("asked to")
        });
        let other = network::spawn(async {
            network::sleep(MOMENT * 2).await;
            Ok(())
        });
        assert_eq!(panic_of_loop(), "asked to");
        assert!(is_dropped.get());
        assert!(is_cancelled(&run(task.unwrap())));
        run(other.unwrap()).unwrap();
    });
}

#[test]
fn tasks_are_dropped_when_the_context_ends() {
    let (guard, is_dropped) = Guard::new();
    let handle = on_own_context(|| {
        let task = network::spawn(async move {
            let _guard = guard;
            network::sleep(HANGS).await;
            Ok(())
        });
        settle();
        task.unwrap()
    });
    assert!(is_dropped.get() && handle.is_finished());
    // It is told so on another context.
    on_own_context(|| assert!(is_cancelled(&run(handle))));
}

#[test]
fn a_task_is_woken_from_another_thread_while_the_loop_sleeps() {
    on_own_context(|| {
        let task = network::spawn(async {
            for round in 0..200 {
                let (tell, told) = oneshot::channel();
                let thread = std::thread::spawn(move || tell.send(round).unwrap());
                assert_eq!(told.await, Ok(round));
                thread.join().unwrap();
            }
            Ok(())
        });
        run(task.unwrap()).unwrap();
    });
}

/// Many threads wake the same task, over and over, also after its end.
#[test]
fn a_task_loses_no_wake_of_many_threads() {
    const THREADS: u64 = 4;
    const WAKES: u64 = 2_000;
    on_own_context(|| {
        let count = Arc::new(AtomicU64::new(0));
        let seen = count.clone();
        let waker = Arc::new(Mutex::new(None::<Waker>));
        let place = waker.clone();
        let task = network::spawn(poll_fn(move |context: &mut Context<'_>| {
            place.lock().unwrap().replace(context.waker().clone());
            if seen.load(Ordering::Acquire) == THREADS * WAKES { Poll::Ready(Ok(())) } else { Poll::Pending }
        }));
        until(|| waker.lock().unwrap().is_some());
        let waker = waker.lock().unwrap().clone().unwrap();
        let wake = || {
            let (waker, count) = (waker.clone(), count.clone());
            std::thread::spawn(move || {
                for _ in 0..WAKES {
                    count.fetch_add(1, Ordering::Release);
                    waker.wake_by_ref();
                }
            })
        };
        let threads: Vec<_> = (0..THREADS).map(|_| wake()).collect();
        run(task.unwrap()).unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        waker.wake();
        settle();
    });
}

#[test]
fn a_nested_loop_in_a_task_keeps_the_others_alive_and_loses_no_wake() {
    on_own_context(|| {
        let (tell, mut told) = futures_channel::mpsc::unbounded::<u32>();
        let other = tell.clone();
        let task = network::spawn(async move {
            let mut sum = 0;
            while sum < 6 {
                let number = poll_fn(|context| futures_core::Stream::poll_next(std::pin::Pin::new(&mut told), context));
                sum += number.await.unwrap();
                if sum == 1 {
                    let done = Rc::new(Cell::new(false));
                    let (flag, other) = (done.clone(), other.clone());
                    let inner = network::spawn(async move {
                        network::sleep(MOMENT).await;
                        other.unbounded_send(2).unwrap();
                        flag.set(true);
                        Ok(())
                    });
                    until(|| done.get());
                    run(inner?)?;
                }
            }
            Ok(())
        });
        tell.unbounded_send(1).unwrap();
        tell.unbounded_send(3).unwrap();
        run(task.unwrap()).unwrap();
    });
}

#[test]
fn tasks_leave_the_rest_of_the_program_its_turn() {
    on_own_context(|| {
        // It wakes itself for ever.
        let busy = network::spawn(poll_fn(|context: &mut Context<'_>| {
            context.waker().wake_by_ref();
            Poll::Pending
        }));
        let (ticks, paint) = draw(None);
        until(|| ticks.get() >= 10);
        busy.unwrap().abort();
        paint.destroy();
    });
}

#[test]
fn another_thread_owns_the_context() {
    let _alone = DEFAULT.lock().unwrap_or_else(PoisonError::into_inner);
    let (go, gone) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let default = glib::MainContext::default();
    let owner = std::thread::spawn(move || {
        let _owned = default.acquire().unwrap();
        go.send(()).unwrap();
        let _ = ended.recv();
    });
    gone.recv().unwrap();
    let (guard, is_dropped) = Guard::new();
    let task = network::spawn(async move {
        drop(guard);
        Ok(())
    });
    assert!(matches!(task, Err(Error::WrongThread)), "{task:?}");
    assert!(is_dropped.get());
    assert!(matches!(network::block_on(async {}), Err(Error::WrongThread)));
    drop(end);
    owner.join().unwrap();
}

// ---- block_on ----

#[test]
fn block_on_gives_what_the_future_gives_and_it_may_borrow() {
    on_own_context(|| {
        let mut lines = Vec::new();
        let outcome = network::block_on(async {
            let (server, address) = serve(Kind::Unix, |socket| {
                socket.readlines(|socket, line| socket.sendline(line));
                Ok(())
            });
            let socket = Socket::connect_future(address.as_str()).await?;
            for line in ["one", "two"] {
                socket.sendline(line)?;
                lines.push(socket.recv_line_future().await?);
            }
            drop(server);
            Ok::<_, Error>(lines.len())
        });
        assert_eq!(outcome.unwrap().unwrap(), 2);
        assert_eq!(lines, ["one", "two"]);
    });
}

#[test]
fn block_on_drops_what_it_awaits_before_it_returns() {
    on_own_context(|| {
        for (ends, awaits) in [(true, true), (false, false)] {
            let (guard, is_dropped) = Guard::new();
            let outcome = network::block_on(async {
                let _guard = guard;
                if ends {
                    network::endloop();
                }
                if awaits {
                    pending::<()>().await;
                }
            });
            assert!(is_dropped.get());
            assert_eq!(outcome.is_err(), ends, "{outcome:?}");
        }
    });
}

#[test]
fn endloop_ends_block_on() {
    on_own_context(|| {
        let error = network::block_on(async {
            network::sleep(MOMENT).await;
            network::endloop();
            pending::<()>().await;
        })
        .unwrap_err();
        assert!(matches!(error, Error::Io { .. }) && error.kind() == ErrorKind::Interrupted, "{error:?}");
        assert_eq!(error.to_string(), "cannot wait for a future: the loop was ended");
        // The next one is not ended.
        run(network::sleep(MOMENT));
    });
}

#[test]
fn block_on_nests() {
    on_own_context(|| {
        let beside = Rc::new(Cell::new(0));
        let count = beside.clone();
        let other = network::spawn(async move {
            loop {
                network::sleep(Duration::from_micros(100)).await;
                count.set(count.get() + 1);
            }
        });
        let inner = |depth: u32| {
            let before = beside.get();
            let given = network::block_on(async {
                while beside.get() < before + 3 {
                    network::sleep(Duration::from_micros(50)).await;
                }
                depth
            });
            given.unwrap()
        };
        // In a callback, in a task, and in a future that another one runs for.
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = Socket::from_fd(ours).unwrap();
        let called = Rc::new(Cell::new(false));
        let flag = called.clone();
        socket.readlines(move |_, _| {
            flag.set(network::block_on(network::sleep(MOMENT)).is_ok());
            Ok(())
        });
        theirs.write_all(b"go\n").unwrap();
        until(|| called.get());
        run(network::spawn(async { network::block_on(network::sleep(MOMENT)) }).unwrap()).unwrap();
        let sum = network::block_on(async {
            let one = inner(1);
            network::sleep(MOMENT).await;
            // The innermost is ended, not this one.
            let ended = network::block_on(async {
                network::endloop();
                pending::<()>().await;
            });
            assert!(ended.is_err());
            one + inner(2)
        });
        assert_eq!(sum.unwrap(), 3);
        other.unwrap().abort();
    });
}

#[test]
fn a_panic_comes_out_of_block_on() {
    on_own_context(|| {
        let (guard, is_dropped) = Guard::new();
        let panic = catch_unwind(AssertUnwindSafe(|| {
            network::block_on(async {
                let _guard = guard;
                network::sleep(MOMENT).await;
                panic!("in the future");
            })
        }));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"in the future"));
        assert!(is_dropped.get());
        // And that of a task.
        let panic = catch_unwind(AssertUnwindSafe(|| {
            network::block_on(async {
                let task = network::spawn(async { panic!("in a task") });
                task.unwrap().await
            })
        }));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"in a task"));
        run(network::sleep(MOMENT));
    });
}

// ---- time ----

#[test]
fn ten_thousand_sleeps_end_in_order() {
    on_own_context(|| {
        let order = Log::<(u64, usize)>::new();
        let started = Instant::now();
        let mut seed = 1_u64;
        let mut tasks = Vec::new();
        for number in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Many of them at the same time as others.
            let ms = (seed >> 33) % 50 + 1;
            let log = order.clone();
            tasks.push(network::spawn(async move {
                network::sleep(Duration::from_millis(ms)).await;
                assert!(started.elapsed() >= Duration::from_millis(ms));
                log.add((ms, number));
                Ok(())
            }));
        }
        until(|| order.len() == 10_000);
        assert!(tasks.iter().all(|task| task.as_ref().unwrap().is_finished()));
        // They did not all begin at the same time, but each in its turn.
        let woken = order.all();
        for ms in 1..=50 {
            let alike: Vec<_> = woken.iter().filter(|entry| entry.0 == ms).collect();
            assert!(alike.is_sorted_by_key(|entry| entry.1), "those of {ms} ms");
        }
    });
}

#[test]
fn sleeps_that_begin_together_end_by_their_time() {
    on_own_context(|| {
        let order = Log::<u64>::new();
        run(poll_all((0..1_000_u64).map(|n| {
            let (micros, log) = ((n * 7919) % 1_000, order.clone());
            async move {
                network::sleep(Duration::from_micros(20_000 + micros * 10)).await;
                log.add(micros);
            }
        })));
        assert_eq!(order.len(), 1_000);
        assert!(order.all().is_sorted(), "{:?}", order.all());
    });
}

/// Polls all whenever it is woken, in the order in which they are.
async fn poll_all<F: Future<Output = ()>>(futures: impl Iterator<Item = F>) {
    let mut futures: Vec<_> = futures.map(|future| Some(Box::pin(future))).collect();
    let mut orders: Vec<usize> = (0..futures.len()).collect();
    orders.sort_by_key(|n| (n * 7919) % 1_000);
    poll_fn(|context| {
        for number in &orders {
            if futures[*number].as_mut().is_some_and(|future| future.as_mut().poll(context).is_ready()) {
                futures[*number] = None;
            }
        }
        if futures.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[test]
fn endless_times_neither_end_nor_panic() {
    on_own_context(|| {
        let endless = [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_micros(i64::MAX as u64)];
        for time in endless {
            let is_over = network::timeout(MOMENT, network::sleep(time));
            assert!(run(is_over).is_err());
            assert_eq!(run(network::timeout(time, async { 7 })).unwrap(), 7);
            assert_eq!(
                run(network::timeout(time, network::timeout(time, network::sleep(MOMENT)))).unwrap().unwrap(),
                ()
            );
            // And where no engine is.
            let context = glib::MainContext::new();
            context.block_on(glib::future_with_timeout(MOMENT, network::sleep(time))).unwrap_err();
        }
    });
}

#[test]
fn a_timeout_says_what_it_was_and_drops_what_it_awaited() {
    on_own_context(|| {
        let (guard, is_dropped) = Guard::new();
        let outcome = run(network::timeout(MOMENT, async {
            let _guard = guard;
            pending::<()>().await;
        }));
        assert!(is_dropped.get());
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::TimedOut { limit: MOMENT, .. }), "{error:?}");
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "timed out after 2 ms while waiting for a future");
        // What is ready needs no time.
        assert_eq!(run(network::timeout(Duration::ZERO, async { 7 })).unwrap(), 7);
        assert!(run(network::timeout(Duration::ZERO, pending::<()>())).is_err());
    });
}

#[test]
fn timeouts_lose_no_data() {
    const SIZE: usize = 60_000;
    for_each_kind(|kind| {
        let sent = pattern(SIZE);
        let Joined { client, served, server: _server } = join(kind);
        let all = sent.clone();
        let task = network::spawn(async move {
            for piece in all.chunks(97) {
                client.send_future(piece).await?;
                if piece[0] % 3 == 0 {
                    network::sleep(Duration::from_micros(300)).await;
                }
            }
            client.shutdown_write()
        });
        let (mut received, mut late) = (Vec::new(), 0);
        run(async {
            while received.len() < SIZE {
                let count = (SIZE - received.len()).min(1_000);
                match network::timeout(Duration::from_micros(200), served.recv_exact_future(count)).await {
                    Ok(data) => received.extend(data.unwrap()),
                    Err(_) => late += 1,
                }
            }
        });
        assert!(received == sent, "after {late} timeouts");
        assert!(late > 0, "none of them came in time");
        run(task.unwrap()).unwrap();
    });
}

#[test]
fn what_came_in_time_is_no_timeout_although_the_loop_is_late() {
    const LIMIT: Duration = Duration::from_millis(100);
    on_own_context(|| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = Socket::from_fd(ours).unwrap();
        let reading = network::timeout(LIMIT, socket.recv_line_future());
        let slow = network::spawn(async move {
            network::sleep(MOMENT).await;
            // A slow callback, and then what came during it and the limit are found at the same time.
            std::thread::sleep(LIMIT * 3);
            theirs.write_all(b"in time\n").unwrap();
            Ok(())
        });
        assert_eq!(run(reading).unwrap().unwrap(), "in time");
        run(slow.unwrap()).unwrap();
    });
}

#[test]
fn a_sleep_that_is_dropped_wakes_nobody() {
    on_own_context(|| {
        let polls = Rc::new(Cell::new(0));
        let count = polls.clone();
        let mut sleep = Some(Box::pin(network::sleep(MOMENT)));
        let task = network::spawn(poll_fn(move |context: &mut Context<'_>| {
            count.set(count.get() + 1);
            if let Some(sleep) = &mut sleep {
                assert!(sleep.as_mut().poll(context).is_pending());
            }
            sleep = None;
            Poll::Pending
        }));
        network::fgloop_for(MOMENT * 10);
        assert_eq!(polls.get(), 1);
        task.unwrap().abort();
    });
}

// ---- other executors ----

#[test]
fn under_glibs_executor_it_sleeps_as_well() {
    on_own_context(|| {
        let context = glib::MainContext::ref_thread_default();
        let done = Log::<u32>::new();
        for number in [2, 1] {
            let log = done.clone();
            context.spawn_local(async move {
                network::sleep(MOMENT * number).await;
                assert!(network::timeout(MOMENT, pending::<()>()).await.is_err());
                network::spawn(async { Ok(()) }).unwrap().await.unwrap();
                log.add(number);
            });
        }
        // By GLib's own loop.
        while done.len() < 2 {
            context.iteration(true);
        }
        let started = Instant::now();
        context.block_on(network::sleep(MOMENT));
        assert!(started.elapsed() >= MOMENT);
    });
}

/// Wakes a thread that polls.
struct Thread(std::thread::Thread, AtomicBool);

impl Wake for Thread {
    fn wake(self: Arc<Self>) {
        self.1.store(true, Ordering::Release);
        self.0.unpark();
    }
}

/// An executor that knows nothing of GLib.
fn poll_by_hand<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    let woken = Arc::new(Thread(std::thread::current(), AtomicBool::new(true)));
    let waker = Waker::from(woken.clone());
    let started = Instant::now();
    loop {
        if woken.1.swap(false, Ordering::AcqRel)
            && let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker))
        {
            return output;
        }
        assert!(started.elapsed() < HANGS, "what is polled is not woken");
        std::thread::park_timeout(HANGS / 10);
    }
}

#[test]
fn an_executor_on_another_thread_gets_a_timer_of_the_default_context() {
    let _alone = DEFAULT.lock().unwrap_or_else(PoisonError::into_inner);
    let default = glib::MainContext::default();
    let over = Arc::new(AtomicBool::new(false));
    let (flag, context) = (over.clone(), default.clone());
    let (go, gone) = std::sync::mpsc::channel();
    let runner = std::thread::spawn(move || {
        let _owned = context.acquire().unwrap();
        go.send(()).unwrap();
        while !flag.load(Ordering::Acquire) {
            context.iteration(true);
        }
    });
    gone.recv().unwrap();
    let started = Instant::now();
    poll_by_hand(network::sleep(MOMENT));
    assert!(started.elapsed() >= MOMENT);
    assert!(poll_by_hand(network::timeout(MOMENT, pending::<()>())).is_err());
    assert_eq!(poll_by_hand(network::timeout(Duration::MAX, async { 7 })).unwrap(), 7);
    over.store(true, Ordering::Release);
    default.wakeup();
    runner.join().unwrap();
}

#[test]
fn a_sleep_goes_on_elsewhere_when_its_context_ends() {
    on_own_context(|| {
        let started = Instant::now();
        let time = Duration::from_millis(50);
        let sleep = Rc::new(RefCell::new(Box::pin(network::sleep(time))));
        on_own_context(|| {
            let polled = sleep.clone();
            let task = network::spawn(async move {
                poll_fn(|context| polled.borrow_mut().as_mut().poll(context)).await;
                Ok(())
            });
            settle();
            assert!(!task.unwrap().is_finished());
        });
        run(poll_fn(|context| sleep.borrow_mut().as_mut().poll(context)));
        assert!(started.elapsed() >= time);
    });
}

// ---- servers with state, and much to send ----

#[test]
fn each_client_gets_the_state() {
    for_each_kind(|kind| {
        let visitors = Rc::new(Cell::new(0));
        let path = listen_address(kind);
        let serve_it = async |socket: Socket, visitors: Rc<Cell<u32>>| {
            visitors.set(visitors.get() + 1);
            socket.sendline_future(visitors.get().to_string()).await
        };
        let server = server(kind).serve_with(path.as_str(), visitors.clone(), serve_it).unwrap();
        let address = address_of(&server, kind);
        for number in 1..=3 {
            let client = connect(&address);
            assert_eq!(run(client.recv_line_future()).unwrap(), number.to_string());
        }
        assert_eq!(visitors.get(), 3);
        drop(server);
        until(|| Rc::strong_count(&visitors) == 1);
    });
    on_own_context(|| {
        let greeting: Rc<str> = "Hello".into();
        let server = Server::serve_with("127.0.0.1:0", greeting, async |socket, greeting| {
            socket.sendline_future(&greeting).await
        });
        assert!(server.is_ok());
    });
}

#[test]
fn more_than_the_send_limit_goes_in_pieces() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        client.set_high_water_mark(64 << 10);
        client.set_low_water_mark(16 << 10);
        client.set_send_limit(100_000);
        let sent = pattern(3_000_000);
        let most = Rc::new(Cell::new(0));
        run(async {
            let all = async {
                client.send_future(&sent).await.unwrap();
                // In its turn, although it would have fitted before.
                client.send_future(b"end").await.unwrap();
            };
            let reading = async {
                let mut received = Vec::new();
                while received.len() < sent.len() + 3 {
                    most.set(most.get().max(client.queued()));
                    received.extend(served.recv_future(10_000).await.unwrap());
                }
                received
            };
            let ((), received) = futures_util::future::join(all, reading).await;
            assert!(received.len() == sent.len() + 3 && received.starts_with(&sent) && received.ends_with(b"end"));
        });
        assert!(most.get() <= 100_000, "{} bytes were queued", most.get());
    });
}

#[test]
fn cancelling_it_in_the_middle_sends_each_byte_once_and_in_order() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        client.set_send_limit(100_000);
        let sent = pattern(8_000_000);
        run(async {
            let cut = network::timeout(Duration::from_millis(1), client.send_future(&sent)).await;
            assert!(cut.is_err(), "the kernel took it all");
        });
        let received = run(async {
            // Whoever comes after it is not held up.
            let end = async {
                client.send_future(b"END").await.unwrap();
                client.close();
            };
            futures_util::future::join(end, served.recv_to_end_future(sent.len() + 3)).await.1.unwrap()
        });
        let body = received.strip_suffix(b"END").expect("what was sent after it");
        assert!(sent.starts_with(body), "{} bytes, not in order", body.len());
    });
}

#[test]
fn in_pieces_it_gets_on_although_the_server_has_no_room() {
    on_own_context(|| {
        let served = Log::<Rc<Socket>>::new();
        let log = served.clone();
        let builder = server(Kind::Unix).total_send_limit(300_000).send_limit(300_000);
        let (_server, address) = serve_with(builder, Kind::Unix, move |socket| {
            log.add(socket);
            Ok(())
        });
        let (silent, reader) = (connect(&address), connect(&address));
        until(|| served.len() == 2);
        let [stuck, sender] = &served.all()[..] else { panic!() };
        // The other one uses up all there is.
        while stuck.send([0; 30_000]).is_ok() {}
        let sent = pattern(2_000_000);
        run(async {
            let all = sender.send_future(&sent);
            let (all, received) = futures_util::future::join(all, reader.recv_exact_future(sent.len())).await;
            all.unwrap();
            assert!(received.unwrap() == sent);
        });
        drop(silent);
        stuck.abort();
    });
}

#[test]
fn a_peer_that_leaves_ends_sending_in_pieces() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        client.set_send_limit(100_000);
        let task = network::spawn(async move {
            network::sleep(MOMENT).await;
            served.abort();
            Ok(())
        });
        let error = run(client.send_future(vec![7; 50_000_000])).unwrap_err();
        assert!(matches!(error, Error::Reset { .. } | Error::Closed { .. } | Error::Truncated { .. }), "{error:?}");
        run(task.unwrap()).unwrap();
    });
}
