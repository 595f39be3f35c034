//! Following the services of a type, for the user: by callback, as a stream, or once.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_channel::oneshot;

use super::names::{Kind, Matcher};
use super::tracker::Tracker;
use super::{Service, unavailable};
use crate::engine::{CallbackSlot, Engine, TimerKey, call};
use crate::error::{Error, Operation, Result};

/// What [`resolve_all_async`] waits for at most. Avahi has heard most after a second, and gives up on a name that does not
/// answer after five.
const ALL: Duration = Duration::from_secs(10);

/// What [`browse`] tells.
///
/// ```text
/// Added(a) → Changed(a)* → Removed(a) → Added(a) …      for each name
/// AllForNow                                            once after each start, when what is there has been told
/// Removed(all) → Down → Up → Added …                   when the daemon goes and comes
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A service is there. It is told once, on however many interfaces it is.
    Added(Service),
    /// It has other addresses now, another host, another port, or another TXT record.
    Changed(Service),
    /// It has gone. This is what was known of it last.
    Removed(Service),
    /// Most that is there has been told: from here on, it is news.
    AllForNow,
    /// The Avahi daemon is not there, or has gone; the error, an [`Error::AvahiUnavailable`], says more. All services that
    /// were told have been removed before. Nothing need be done: they come back with it.
    Unavailable(Error),
    /// The daemon is there again. Not told when it is there from the start.
    Available,
}

type Callback = dyn FnMut(Event);

/// Goes on browsing while it lives. Dropping it, in a callback or anywhere else, ends it: nothing is called after that.
#[must_use = "browsing ends when this is dropped"]
pub struct Browser {
    inner: Rc<Inner>,
}

struct Inner {
    me: Weak<Inner>,
    engine: Rc<Engine>,
    kind: Kind,
    tracker: RefCell<Option<Rc<Tracker>>>,
    /// Not set for a stream.
    callback: CallbackSlot<Callback>,
    waker: RefCell<Option<Waker>>,
    scheduled: Cell<bool>,
    is_up: Cell<Option<bool>>,
    all_told: Cell<bool>,
    stopped: Cell<bool>,
}

/// Follows the services of a type: calls `callback`, from the main loop, with each that comes or goes.
///
/// `kind` is the type as it is written before the `|` of an address, as `chat` for `_chat._tcp`, or in full, as
/// `_chat._udp`. Never blocks. What is told is not to be trusted: see [`Service`]. A flood is bounded: of more than 1024
/// services of a type, not all are told. In a build with the feature `zeroconf` instead of `avahi` less is told:
/// `docs/services.md` says what.
///
/// ```no_run
/// use network::services::Event;
///
/// let browse = network::services::browse("chat", |event| match event {
///     Event::Added(service) => println!("{:?} is on {}", service.name, service.host),
///     Event::Removed(service) => println!("{:?} has gone", service.name),
///     _ => {}
/// })?;
/// network::fgloop();
/// # Ok::<(), network::Error>(())
/// ```
///
/// # Errors
/// [`Error::Address`] if that is not a service type; [`Error::WrongThread`]. That there is no Avahi is told as
/// [`Event::Unavailable`].
pub fn browse(kind: impl AsRef<str>, callback: impl FnMut(Event) + 'static) -> Result<Browser> {
    Inner::start(kind.as_ref(), Some(Box::new(callback))).map(|inner| Browser { inner })
}

/// As [`browse`], to be awaited.
///
/// # Errors
/// As there.
pub fn browse_stream(kind: impl AsRef<str>) -> Result<EventStream> {
    let inner = Inner::start(kind.as_ref(), None)?;
    Ok(EventStream { browse: Browser { inner } })
}

/// Services that come and go, one event after the other. Dropping it ends the browsing.
///
/// Whoever reads slowly misses what cancels out: a service that came and went between two reads is not told.
#[must_use = "browsing ends when this is dropped"]
#[derive(Debug)]
pub struct EventStream {
    browse: Browser,
}

impl EventStream {
    /// Waits for the next event. `None` when the main context is gone.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`next`](EventStream::next), for those who write futures by hand.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let inner = &self.browse.inner;
        if inner.engine.has_ended() {
            return Poll::Ready(None);
        }
        match inner.next_event() {
            Some(event) => Poll::Ready(Some(event)),
            None => {
                inner.waker.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// Finds the services of a type that are there now, and calls `callback` with them, sorted by name, after a second or
/// two; never later than after ten. Dropping what is returned cancels that.
///
/// # Errors
/// As [`browse`]. The callback gets [`Error::AvahiUnavailable`] if there is no Avahi.
pub fn resolve_all_async(
    kind: impl AsRef<str>,
    callback: impl FnOnce(Result<Vec<Service>>) + 'static,
) -> Result<PendingResolve> {
    let engine = Engine::current()?;
    let gathering = Rc::new(Gathering {
        services: RefCell::default(),
        callback: RefCell::new(Some(Box::new(callback))),
        browse: RefCell::new(None),
        timer: Cell::new(None),
    });
    let gatherer = Rc::downgrade(&gathering);
    let browse = browse(kind, move |event| {
        if let Some(gathering) = gatherer.upgrade() {
            gathering.hear(event);
        }
    })?;
    gathering.browse.replace(Some(browse));
    let late = Rc::downgrade(&gathering);
    gathering.timer.set(Some(engine.after(ALL, move |engine| {
        if let Some(late) = late.upgrade() {
            late.timer.set(None);
            call(engine, || late.finish(None));
        }
    })));
    Ok(PendingResolve { engine, gathering })
}

/// As [`resolve_all_async`], to be awaited. Dropping the future cancels it.
///
/// # Errors
/// As there, and [`Error::AvahiUnavailable`].
pub async fn resolve_all_future(kind: impl AsRef<str>) -> Result<Vec<Service>> {
    let (sender, receiver) = oneshot::channel();
    let kind = kind.as_ref().to_owned();
    let cancelled = Error::Cancelled { operation: Operation::Browse, address: kind.clone() };
    let _going_on = resolve_all_async(kind, move |result| {
        // Whoever waited may have gone.
        let _ = sender.send(result);
    })?;
    pin!(receiver).await.unwrap_or(Err(cancelled))
}

/// A call of [`resolve_all_async`] that is under way. Dropping it cancels.
#[must_use = "dropping this cancels"]
pub struct PendingResolve {
    engine: Rc<Engine>,
    gathering: Rc<Gathering>,
}

type Gathered = Box<dyn FnOnce(Result<Vec<Service>>)>;

struct Gathering {
    services: RefCell<Vec<Service>>,
    callback: RefCell<Option<Gathered>>,
    browse: RefCell<Option<Browser>>,
    timer: Cell<Option<TimerKey>>,
}

impl Gathering {
    fn hear(&self, event: Event) {
        match event {
            Event::Added(service) => self.services.borrow_mut().push(service),
            Event::Changed(service) => {
                let mut services = self.services.borrow_mut();
                if let Some(known) = services.iter_mut().find(|known| known.name == service.name) {
                    *known = service;
                }
            }
            Event::Removed(service) => {
                self.services.borrow_mut().retain(|known| known.name != service.name);
            }
            Event::AllForNow => self.finish(None),
            Event::Unavailable(error) => self.finish(Some(error)),
            Event::Available => {}
        }
    }

    /// Called from within the one door.
    fn finish(&self, error: Option<Error>) {
        let browse = self.browse.take();
        drop(browse);
        let callback = self.callback.take();
        let mut services = self.services.take();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(callback) = callback {
            callback(error.map_or(Ok(services), Err));
        }
    }
}

impl Drop for PendingResolve {
    fn drop(&mut self) {
        if let Some(timer) = self.gathering.timer.take() {
            self.engine.cancel_timer(timer);
        }
        let (browse, callback) = (self.gathering.browse.take(), self.gathering.callback.take());
        drop((browse, callback));
    }
}

impl fmt::Debug for PendingResolve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingResolve").finish_non_exhaustive()
    }
}

impl Inner {
    fn start(text: &str, callback: Option<Box<Callback>>) -> Result<Rc<Inner>> {
        let kind = Kind::parse(text).map_err(|problem| Error::Address { address: text.to_owned(), problem })?;
        let engine = Engine::current()?;
        let inner = Rc::new_cyclic(|me: &Weak<Inner>| Inner {
            me: me.clone(),
            engine: engine.clone(),
            kind: kind.clone(),
            tracker: RefCell::new(None),
            callback: callback.into(),
            waker: RefCell::new(None),
            scheduled: Cell::new(false),
            is_up: Cell::new(None),
            all_told: Cell::new(false),
            stopped: Cell::new(false),
        });
        let me = inner.me.clone();
        let tracker = Tracker::start(&engine, kind, Matcher::Any, true, move |_| {
            if let Some(me) = me.upgrade() {
                me.wake();
            }
        });
        inner.tracker.replace(Some(tracker));
        Ok(inner)
    }

    /// There may be something to tell.
    fn wake(&self) {
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
        if self.callback.is_set() && !self.scheduled.replace(true) {
            let me = self.me.clone();
            self.engine.defer(move |_| {
                if let Some(me) = me.upgrade() {
                    me.scheduled.set(false);
                    me.tell();
                }
            });
        }
    }

    fn tell(&self) {
        while !self.stopped.get() {
            // Already on the stack, with a nested loop: it goes on when that is over.
            let Some(mut callback) = self.callback.lend() else { return };
            let Some(event) = self.next_event() else { return };
            if call(&self.engine, || callback(event)).is_none() {
                self.stop();
            }
            if callback.is_current() && self.engine.spent() {
                self.wake();
                return;
            }
        }
    }

    /// What there is to tell next, worked out from what was told last and what is so now: however slow the user is, there
    /// is never more to remember than that.
    fn next_event(&self) -> Option<Event> {
        let tracker = self.tracker.borrow().clone()?;
        let status = tracker.status()?;
        if status.is_ok() {
            let before = self.is_up.replace(Some(true));
            if before == Some(false) {
                return Some(Event::Available);
            }
        }
        while let Some(fresh) = tracker.next_fresh() {
            if fresh.now.is_some() && !fresh.ripe {
                continue;
            }
            match (tracker.retell(&fresh), fresh.now) {
                (None, Some(now)) => return Some(Event::Added(now)),
                (Some(before), Some(now)) if before != now => return Some(Event::Changed(now)),
                (Some(before), None) => return Some(Event::Removed(before)),
                _ => {}
            }
        }
        match status {
            Err(cause) => {
                self.all_told.set(false);
                let told = self.is_up.replace(Some(false)) == Some(false);
                (!told).then(|| Event::Unavailable(unavailable(&self.kind, cause)))
            }
            Ok(()) if !self.all_told.get() && tracker.is_complete() => {
                self.all_told.set(true);
                Some(Event::AllForNow)
            }
            Ok(()) => None,
        }
    }

    fn stop(&self) {
        self.stopped.set(true);
        let tracker = self.tracker.take();
        if let Some(tracker) = &tracker {
            tracker.stop();
        }
        let callback = self.callback.take();
        drop((tracker, callback));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.inner.stop();
    }
}

impl fmt::Debug for Browser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Browser").field("kind", &self.inner.kind.to_string()).finish_non_exhaustive()
    }
}
