//! Sleeping: a future that ends when a time has passed. Its timer is one of the engine's, without a source of its own.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::{Engine, Pending, TimerKey, fairness, main_depth, micros, private};

/// A stretch of time. Dropping it ends it.
pub(crate) struct Sleep {
    time: Duration,
    /// It limits what others do, see [`Engine::after`].
    is_limit: bool,
    timer: Timer,
}

enum Timer {
    /// It is set by the first poll, on the context that polls.
    Unset,
    Own(OwnTimer),
    Glib(GlibTimer),
    Over,
}

impl Sleep {
    /// Starts one that limits what others do on this engine.
    pub(crate) fn start(engine: &Rc<Engine>, time: Duration) -> Self {
        Sleep { time, is_limit: true, timer: Timer::Own(OwnTimer::set(engine, time, true)) }
    }

    /// One that begins when it is first polled.
    pub(crate) fn new(time: Duration) -> Self {
        Sleep { time, is_limit: false, timer: Timer::Unset }
    }

    /// The same for what limits others.
    pub(crate) fn limit(time: Duration) -> Self {
        Sleep { time, is_limit: true, timer: Timer::Unset }
    }

    /// Returns the time for which a timer is to be set: there is none yet, or not any more.
    fn unset(&self) -> Option<Duration> {
        match &self.timer {
            Timer::Unset => Some(self.time),
            Timer::Own(timer) => timer.left_behind(),
            Timer::Glib(timer) => timer.left_over(),
            Timer::Over => None,
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let me = self.get_mut();
        if let Some(left) = me.unset() {
            if main_depth() == 0 && private::check_default_context().is_err() {
                // No loop runs here, and if there is no context to set it on, GLib would end the process over that.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            me.timer = match Engine::of_poll() {
                Some(engine) => Timer::Own(OwnTimer::set(&engine, left, me.is_limit)),
                None => Timer::Glib(GlibTimer::set(left)),
            };
        }
        let is_over = match &me.timer {
            Timer::Own(timer) => timer.alarm.is_over(context.waker()),
            Timer::Glib(timer) => timer.is_over(context.waker()),
            Timer::Unset | Timer::Over => true,
        };
        if is_over {
            me.timer = Timer::Over;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

/// Wakes whoever sleeps when a timer is due.
#[derive(Default)]
pub(super) struct Alarm {
    has_rung: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Alarm {
    pub(super) fn ring(&self) {
        self.has_rung.set(true);
        self.wake();
    }

    /// Wakes whoever sleeps, to look anew.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn is_over(&self, waker: &Waker) -> bool {
        if self.has_rung.get() {
            return true;
        }
        let known = self.waker.take().filter(|known| known.will_wake(waker));
        self.waker.set(Some(known.unwrap_or_else(|| waker.clone())));
        false
    }
}

/// A timer of the engine's.
struct OwnTimer {
    engine: Rc<Engine>,
    key: TimerKey,
    alarm: Rc<Alarm>,
    /// In microseconds of GLib's clock.
    until: i64,
}

impl OwnTimer {
    fn set(engine: &Rc<Engine>, time: Duration, is_limit: bool) -> Self {
        let (now, delay) = (fairness::now(), micros(time));
        let alarm = Rc::<Alarm>::default();
        let call = Pending::Alarm(alarm.clone());
        let mut timers = engine.timers.borrow_mut();
        let key = if is_limit { timers.add(now, delay, call) } else { timers.add_exact(now, delay, call) };
        drop(timers);
        OwnTimer { engine: engine.clone(), key, alarm, until: now.saturating_add(delay) }
    }

    /// The context is gone: another has to go on with the rest.
    fn left_behind(&self) -> Option<Duration> {
        let is_left = self.engine.has_ended() && !self.alarm.has_rung.get();
        is_left.then(|| Duration::from_micros(u64::try_from(self.until.saturating_sub(fairness::now())).unwrap_or(0)))
    }
}

impl Drop for OwnTimer {
    fn drop(&mut self) {
        // It may be due already, and be about to ring.
        let waker = self.alarm.waker.take();
        self.engine.cancel_timer(self.key);
        drop(waker);
    }
}

/// The longest that a timer of GLib's can take.
const LONGEST: Duration = Duration::from_millis(u32::MAX as u64);

/// A timer of GLib's, where another executor polls, on a context that this thread does not run.
struct GlibTimer {
    source: glib::Source,
    bell: Arc<Mutex<Bell>>,
    /// `None` for without end.
    until: Option<Instant>,
}

/// As [`Alarm`], for all threads.
#[derive(Default)]
struct Bell {
    has_rung: bool,
    waker: Option<Waker>,
}

impl GlibTimer {
    fn set(time: Duration) -> Self {
        let bell = Arc::<Mutex<Bell>>::default();
        let ringing = bell.clone();
        // It counts whole milliseconds.
        let rounded = time.saturating_add(Duration::from_nanos(999_999)).min(LONGEST);
        let source = glib::timeout_source_new(rounded, None, glib::Priority::DEFAULT, move || {
            let mut bell = ringing.lock().unwrap_or_else(PoisonError::into_inner);
            bell.has_rung = true;
            let waker = bell.waker.take();
            drop(bell);
            waker.into_iter().for_each(Waker::wake);
            glib::ControlFlow::Break
        });
        source.attach(Some(&glib::MainContext::ref_thread_default()));
        GlibTimer { source, bell, until: Instant::now().checked_add(time) }
    }

    fn has_rung(&self) -> bool {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner).has_rung
    }

    /// It has rung too early, because that was the longest it could take.
    fn left_over(&self) -> Option<Duration> {
        if !self.has_rung() {
            return None;
        }
        let left = self.until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        (!left.is_zero()).then_some(left)
    }

    fn is_over(&self, waker: &Waker) -> bool {
        let mut bell = self.bell.lock().unwrap_or_else(PoisonError::into_inner);
        if bell.has_rung {
            return true;
        }
        let old = bell.waker.replace(waker.clone());
        drop(bell);
        drop(old);
        false
    }
}

impl Drop for GlibTimer {
    fn drop(&mut self) {
        self.source.destroy();
    }
}

impl Engine {
    /// The engine that whatever is polled here belongs to: that of the thread-default main context. It is made if this thread
    /// runs that context, as it does while an executor on it polls. `None` if another thread runs it, or nobody, and if there
    /// are no descriptors left.
    pub(super) fn of_poll() -> Option<Rc<Engine>> {
        let context = glib::MainContext::ref_thread_default();
        Engine::known(&context).or_else(|| if context.is_owner() { Engine::current().ok() } else { None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(1000);

    fn poll(sleep: &mut Sleep) -> Poll<()> {
        Pin::new(sleep).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn the_timer_is_set_by_the_first_poll_and_goes_with_the_future() {
        let context = glib::MainContext::new();
        let check = context.with_thread_default(|| {
            let engine = Engine::current().unwrap();
            let is_set = || !engine.timers.borrow().is_empty();
            for new in [Sleep::new, Sleep::limit] {
                let mut sleep = new(LONG);
                assert!(!is_set());
                assert!(poll(&mut sleep).is_pending() && poll(&mut sleep).is_pending() && is_set());
                drop(sleep);
                assert!(!is_set());
                // It is over once, and for good.
                let mut sleep = new(Duration::ZERO);
                assert!(poll(&mut sleep).is_pending());
                while poll(&mut sleep).is_pending() {
                    context.iteration(true);
                }
                assert!(!is_set() && poll(&mut sleep).is_ready());
            }
            let sleep = Sleep::start(&engine, LONG);
            assert!(is_set());
            drop(sleep);
            assert!(!is_set());
        });
        check.unwrap();
    }

    #[test]
    fn one_of_glibs_that_rings_too_early_is_set_again() {
        let context = glib::MainContext::new();
        let check = context.with_thread_default(|| {
            let timer = GlibTimer::set(LONG);
            assert_eq!(timer.left_over(), None);
            timer.bell.lock().unwrap().has_rung = true;
            assert!(timer.left_over().is_some_and(|left| left <= LONG && left > LONG / 2));
            // For ever is always too early, and no time at all never.
            let timer = GlibTimer::set(Duration::MAX);
            timer.bell.lock().unwrap().has_rung = true;
            assert_eq!(timer.left_over(), Some(Duration::MAX));
            let timer = GlibTimer::set(Duration::ZERO);
            timer.bell.lock().unwrap().has_rung = true;
            assert_eq!(timer.left_over(), None);
            let source = timer.source.clone();
            drop(timer);
            assert!(source.is_destroyed());
        });
        check.unwrap();
    }
}
