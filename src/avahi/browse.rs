//! Browsing for the services of a type: by callback, as a stream, or once.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gio::prelude::*;

use super::names::{Matcher, ServiceType};
use super::tracker::Tracker;
use super::{Service, unavailable};
use crate::engine::{CallbackSlot, Engine, call, in_background, within};
use crate::error::{Error, Operation, Result};

/// The longest time that [`resolve_all_async`] takes. Avahi knows most services after a second, and gives up after five
/// on one that does not answer.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A change among the services of a type, as reported by [`browse`].
///
/// ```text
/// Added(a) → Changed(a)* → Removed(a) → Added(a) …       for each instance name
/// AllForNow                                             once per start of the daemon, after the services known by then
/// Removed(all) → Unavailable → Available → Added …      when the Avahi daemon stops and starts
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A service has appeared. Reported once, however many interfaces it is on.
    Added(Service),
    /// The addresses, host, port or TXT record of a service have changed. Contains the new values.
    Changed(Service),
    /// A service has disappeared. Contains its last known values.
    Removed(Service),
    /// The services that Avahi knew at the start have been reported. Later events are news.
    AllForNow,
    /// The Avahi daemon is not running or cannot be reached. The error is an [`Error::AvahiUnavailable`]. All services
    /// have been reported as removed before. Browsing continues by itself once the daemon is back.
    Unavailable(Error),
    /// The Avahi daemon is running again. Not reported if it runs from the start.
    Available,
}

type Callback = dyn FnMut(Event);

/// A handle to running browsing. Dropping it, in a callback or elsewhere, stops browsing: the callback is not called
/// again.
#[must_use = "browsing ends when this is dropped"]
pub struct Browser {
    inner: Rc<Inner>,
}

struct Inner {
    me: Weak<Inner>,
    engine: Rc<Engine>,
    kind: ServiceType,
    tracker: RefCell<Option<Rc<Tracker>>>,
    /// Not set for a stream.
    callback: CallbackSlot<Callback>,
    waker: RefCell<Option<Waker>>,
    scheduled: Cell<bool>,
    is_up: Cell<Option<bool>>,
    all_reported: Cell<bool>,
    stopped: Cell<bool>,
}

/// Browses for the services of a type and calls `callback` for each change.
///
/// `kind` is the service type as before the `|` of an address, such as `chat` for `_chat._tcp`, or in full, such as
/// `_chat._udp`. The callback runs from the main loop. Anyone on the local network can publish any service: see
/// [`Service`]. At most 1024 services of a type are reported. With the feature `zeroconf` instead of `avahi`, fewer
/// changes are reported; see `docs/services.md`.
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
/// - [`Error::Address`] if `kind` is not a service type.
/// - [`Error::WrongThread`] if another thread owns the main context.
///
/// A missing Avahi daemon is not an error here, but reported as [`Event::Unavailable`].
pub fn browse(kind: impl AsRef<str>, callback: impl FnMut(Event) + 'static) -> Result<Browser> {
    Inner::start(kind.as_ref(), Some(Box::new(callback))).map(|inner| Browser { inner })
}

/// Browses for the services of a type and returns the changes as a stream.
///
/// See [`browse`] for the arguments.
///
/// # Errors
/// See [`browse`].
pub fn browse_stream(kind: impl AsRef<str>) -> Result<EventStream> {
    let inner = Inner::start(kind.as_ref(), None)?;
    Ok(EventStream { browse: Browser { inner } })
}

/// A stream of changes among the services of a type, returned by [`browse_stream`]. Dropping it stops browsing.
///
/// Changes that cancel each other out between two reads, such as a service that appears and disappears, are not
/// reported.
#[must_use = "browsing ends when this is dropped"]
#[derive(Debug)]
pub struct EventStream {
    browse: Browser,
}

impl EventStream {
    /// Returns the next event, or `None` after the main context has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Polls for the next event, for use in hand-written futures. See [`next`](EventStream::next).
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

/// Finds the services of a type that are published now, and passes them to a callback, sorted by name.
///
/// The callback runs once, in a later loop iteration: after one to two seconds as a rule, after 10 seconds at the latest,
/// with what has been found by then. Cancelling `cancellable` completes it with [`Error::Cancelled`]. For the other errors
/// see [`resolve_all_future`].
pub fn resolve_all_async(
    kind: impl AsRef<str>,
    cancellable: Option<&impl IsA<gio::Cancellable>>,
    callback: impl FnOnce(Result<Vec<Service>>) + 'static,
) {
    let kind = kind.as_ref().to_owned();
    let cancelled = Error::Cancelled { operation: Operation::Browse, address: kind.clone() };
    in_background("resolve_all_async", resolve_all_future(kind), cancellable, cancelled, callback);
}

/// Finds the services of a type that are published now, sorted by name.
///
/// Takes one to two seconds as a rule, and 10 seconds at most, after which it returns what has been found. Dropping the
/// future cancels the call.
///
/// # Errors
/// See [`browse`]. [`Error::AvahiUnavailable`] if the Avahi daemon cannot be reached.
pub async fn resolve_all_future(kind: impl AsRef<str>) -> Result<Vec<Service>> {
    let engine = Engine::current()?;
    let mut events = browse_stream(&kind)?;
    let mut services = BTreeMap::new();
    let known = async {
        while let Some(event) = events.next().await {
            match event {
                Event::Added(service) | Event::Changed(service) => drop(services.insert(service.name.clone(), service)),
                Event::Removed(service) => drop(services.remove(&service.name)),
                Event::AllForNow => return Ok(()),
                Event::Unavailable(error) => return Err(error),
                Event::Available => {}
            }
        }
        Err(Error::Cancelled { operation: Operation::Browse, address: kind.as_ref().to_owned() })
    };
    within(&engine, RESOLVE_TIMEOUT, known).await.unwrap_or(Ok(()))?;
    Ok(services.into_values().collect())
}

impl Inner {
    fn start(text: &str, callback: Option<Box<Callback>>) -> Result<Rc<Inner>> {
        let kind = ServiceType::parse(text).map_err(|problem| Error::Address { address: text.to_owned(), problem })?;
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
            all_reported: Cell::new(false),
            stopped: Cell::new(false),
        });
        let me = inner.me.clone();
        let tracker = Tracker::start(&engine, kind, Matcher::Any, true, move |_| {
            if let Some(me) = me.upgrade() {
                me.schedule();
            }
        });
        inner.tracker.replace(Some(tracker));
        Ok(inner)
    }

    /// Schedules a delivery, as there may be an event.
    fn schedule(&self) {
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
        if self.callback.is_set() && !self.scheduled.replace(true) {
            let me = self.me.clone();
            self.engine.defer(move |_| {
                if let Some(me) = me.upgrade() {
                    me.scheduled.set(false);
                    me.deliver();
                }
            });
        }
    }

    fn deliver(&self) {
        while !self.stopped.get() {
            // The callback is on the stack and runs a nested loop: delivery continues after it returns.
            let Some(mut callback) = self.callback.lend() else { return };
            let Some(event) = self.next_event() else { return };
            if call(&self.engine, || callback(event)).is_none() {
                self.stop();
            }
            if callback.is_current() && self.engine.spent() {
                self.schedule();
                return;
            }
        }
    }

    /// Derives the next event from what was reported last and what is known now. However slowly the events are read,
    /// nothing more needs to be stored.
    fn next_event(&self) -> Option<Event> {
        let tracker = self.tracker.borrow().clone()?;
        let status = tracker.status()?;
        if status.is_ok() {
            let before = self.is_up.replace(Some(true));
            if before == Some(false) {
                return Some(Event::Available);
            }
        }
        while let Some(change) = tracker.next_change() {
            if change.now.is_some() && !change.settled {
                continue;
            }
            match (tracker.mark_told(&change), change.now) {
                (None, Some(now)) => return Some(Event::Added(now)),
                (Some(before), Some(now)) if before != now => return Some(Event::Changed(now)),
                (Some(before), None) => return Some(Event::Removed(before)),
                _ => {}
            }
        }
        match status {
            Err(cause) => {
                self.all_reported.set(false);
                let told = self.is_up.replace(Some(false)) == Some(false);
                (!told).then(|| Event::Unavailable(unavailable(&self.kind, cause)))
            }
            Ok(()) if !self.all_reported.get() && tracker.is_complete() => {
                self.all_reported.set(true);
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
