//! Changes of the network, and suspends of the machine: noticed once for each main context, and told to everybody who has
//! subscribed there, programs and links.
//!
//! Two descriptors of the engine, opened with the first subscription and closed with the last: a socket of the kernel's for
//! links, addresses and routes, and a timer that the kernel breaks off when the time of day is set, as after a suspend. No
//! thread, no timer while nothing happens.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::engine::{CallbackSlot, Engine, Handler, Key, Next, Ready, Registration, TimerKey, call};
use crate::error::{Result, os_text};
use crate::log;
use crate::sys::{self, Descriptor, RouteChange};

/// Time for the other changes that come along with one: a link that comes up brings addresses and routes.
const GATHER: Duration = Duration::from_millis(250);

/// The shortest time between two changes that are told.
const PACE: Duration = Duration::from_secs(1);

/// Suspends that are shorter are none: the two clocks are not read in the same moment.
const SHORTEST_SUSPEND: Duration = Duration::from_secs(1);

/// The messages that are taken in one turn. There are thousands when a routing daemon starts.
const MESSAGES: usize = 64;

/// A change around this machine, as reported by [`NetworkWatch`]. Connections that are open may be dead by now, and it can
/// help to try to connect now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkChange {
    /// A network interface, an address or a route of this machine has appeared, changed or disappeared. An address whose
    /// lifetime is renewed has not changed.
    Addresses,
    /// The machine was suspended for this time, and runs again.
    Resumed(Duration),
}

/// A handle to a callback for changes of the network. Dropping it, in the callback or elsewhere, ends that: the callback is
/// not called again.
///
/// For programs that show whether there is a network, or that keep connections themselves. Changes within 250 ms are one, and
/// there is at most one [`NetworkChange::Addresses`] per second. Uses rtnetlink(7) and the kernel's clocks: no thread, no bus
/// and no privilege are needed, and nothing runs while nothing changes. All handles of a main context share two file
/// descriptors.
///
/// Where the system refuses the socket, as a systemd unit without `AF_NETLINK` in `RestrictAddressFamilies=` does, one
/// warning is logged, and only [`NetworkChange::Resumed`] is reported.
///
/// # Example: Show whether there is a network
/// ```
/// use network::link::NetworkWatch;
///
/// let show = || println!("{}", if NetworkWatch::has_network() { "online" } else { "offline" });
/// show();
/// let watch = NetworkWatch::new(move |_change| show())?;
/// # drop(watch);
/// # Ok::<(), network::Error>(())
/// ```
#[must_use = "the callback is not called any more when this is dropped"]
pub struct NetworkWatch {
    inner: Rc<Inner>,
}

/// Of one handle.
struct Inner {
    me: Weak<Inner>,
    engine: Rc<Engine>,
    callback: CallbackSlot<dyn FnMut(NetworkChange)>,
    /// Those that the callback has not been told yet, at most one of each kind.
    news: RefCell<VecDeque<NetworkChange>>,
    subscription: RefCell<Option<Subscription>>,
}

impl NetworkWatch {
    /// Calls `callback` for each change from now on, from the main loop. The present state is no change.
    ///
    /// # Errors
    /// [`Error::WrongThread`](crate::Error::WrongThread) if another thread owns the main context.
    pub fn new(callback: impl FnMut(NetworkChange) + 'static) -> Result<NetworkWatch> {
        let engine = Engine::current()?;
        let inner = Rc::new_cyclic(|me: &Weak<Inner>| Inner {
            me: me.clone(),
            engine: engine.clone(),
            callback: Some(Box::new(callback) as Box<dyn FnMut(NetworkChange)>).into(),
            news: RefCell::default(),
            subscription: RefCell::default(),
        });
        let me = inner.me.clone();
        let subscription = subscribe(&engine, move |change| {
            if let Some(me) = me.upgrade() {
                me.add(change);
                me.deliver();
            }
        });
        inner.subscription.replace(Some(subscription));
        Ok(NetworkWatch { inner })
    }

    /// Returns whether some network interface other than the loopback is up and has an address. Also true if the system does
    /// not tell.
    ///
    /// That does not mean that anybody can be reached: interfaces of containers and of VPNs count as well.
    pub fn has_network() -> bool {
        sys::interface_entries()
            .map_or(true, |all| all.iter().any(|entry| entry.is_up && !entry.is_loopback && entry.address.is_some()))
    }
}

impl Inner {
    fn add(&self, change: NetworkChange) {
        let mut news = self.news.borrow_mut();
        for known in news.iter_mut() {
            match (known, change) {
                (NetworkChange::Addresses, NetworkChange::Addresses) => return,
                (NetworkChange::Resumed(before), NetworkChange::Resumed(time)) => {
                    *before += time;
                    return;
                }
                _ => {}
            }
        }
        news.push_back(change);
    }

    fn deliver(&self) {
        // One that is on the stack runs a nested loop: delivery continues after it returns.
        while let Some(mut callback) = self.callback.lend() {
            let change = self.news.borrow_mut().pop_front();
            let Some(change) = change else { return };
            if call(&self.engine, || callback(change)).is_none() {
                self.stop();
            }
        }
    }

    fn stop(&self) {
        let ended = (self.callback.take(), self.subscription.take());
        drop(ended);
    }
}

impl Drop for NetworkWatch {
    fn drop(&mut self) {
        self.inner.stop();
    }
}

impl fmt::Debug for NetworkWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkWatch").finish_non_exhaustive()
    }
}

// ---- shared by all of a context ----

/// Hears of changes until it is dropped.
pub(crate) struct Subscription {
    shared: Rc<Shared>,
    _heard: Rc<Heard>,
}

/// Called from the engine, with nothing borrowed. It is no user code, and may drop subscriptions and make others.
type Heard = dyn Fn(NetworkChange);

/// Calls `heard` for each change of the network and each resume, from the loop, and never from within a call of this module.
/// The watch that links and programs share: one for each engine, which lives as long as anybody is subscribed.
pub(crate) fn subscribe(engine: &Rc<Engine>, heard: impl Fn(NetworkChange) + 'static) -> Subscription {
    let shared = Shared::of(engine);
    shared.open();
    let heard: Rc<Heard> = Rc::new(heard);
    shared.subscribers.borrow_mut().push(Rc::downgrade(&heard));
    Subscription { shared, _heard: heard }
}

impl Subscription {
    /// Compares the clocks. To be called when something has happened, or a timer is due: the machine may have been suspended,
    /// and the kernel has not said so yet. If it was, all subscribers hear of that on the next turn.
    pub(crate) fn look(&self) {
        self.shared.look();
    }
}

struct Shared {
    me: Weak<Shared>,
    engine: Rc<Engine>,
    subscribers: RefCell<Vec<Weak<Heard>>>,
    routes: RefCell<Option<Rc<Source>>>,
    clock: RefCell<Option<Rc<Source>>>,
    /// The time suspended by the last look.
    suspended: Cell<Option<Duration>>,
    /// The interfaces and addresses by the last look.
    state: Cell<Option<u64>>,
    gathering: Cell<Option<TimerKey>>,
    told_at: Cell<Option<Instant>>,
}

thread_local! {
    static ALL: RefCell<Vec<Weak<Shared>>> = const { RefCell::new(Vec::new()) };
}

impl Shared {
    fn of(engine: &Rc<Engine>) -> Rc<Shared> {
        ALL.with_borrow_mut(|all| {
            all.retain(|shared| shared.strong_count() > 0);
            let known = all.iter().filter_map(Weak::upgrade).find(|shared| Rc::ptr_eq(&shared.engine, engine));
            known.unwrap_or_else(|| {
                let shared = Rc::new_cyclic(|me: &Weak<Shared>| Shared {
                    me: me.clone(),
                    engine: engine.clone(),
                    subscribers: RefCell::default(),
                    routes: RefCell::default(),
                    clock: RefCell::default(),
                    suspended: Cell::new(sys::time_suspended()),
                    state: Cell::new(None),
                    gathering: Cell::new(None),
                    told_at: Cell::new(None),
                });
                all.push(Rc::downgrade(&shared));
                shared
            })
        })
    }

    /// Opens what is not open, as it is at first, and after a failure: the process may have run out of descriptors.
    fn open(&self) {
        let open = |place: &RefCell<Option<Rc<Source>>>, kind| {
            if place.borrow().is_some() {
                return Ok(());
            }
            let source = Source::open(self, kind)?;
            place.replace(Some(source));
            Ok::<_, io::Error>(())
        };
        let was_open = self.routes.borrow().is_some();
        match open(&self.routes, Kind::Routes) {
            Ok(()) if was_open => {}
            Ok(()) => self.state.set(sys::network_state()),
            Err(error) => warn(&error),
        }
        // Without it, suspends are noticed by whoever looks.
        let _ = open(&self.clock, Kind::Clock);
    }

    /// A link or an address is other than before, if anything is.
    fn may_have_changed(&self) {
        let now = sys::network_state();
        if self.state.replace(now) != now || now.is_none() {
            self.changed();
        }
    }

    /// A link, an address or a route has changed.
    fn changed(&self) {
        if self.gathering.get().is_some() {
            return;
        }
        let since = self.told_at.get().map(|told| sys::now().saturating_duration_since(told));
        let delay = GATHER.max(since.map_or(Duration::ZERO, |since| PACE.saturating_sub(since)));
        let me = self.me.clone();
        let timer = self.engine.after_exactly(delay, move |_| {
            if let Some(me) = me.upgrade() {
                me.gathering.set(None);
                me.told_at.set(Some(sys::now()));
                me.state.set(sys::network_state());
                me.tell(NetworkChange::Addresses);
            }
        });
        self.gathering.set(Some(timer));
    }

    fn look(&self) {
        let Some(now) = sys::time_suspended() else { return };
        let before = self.suspended.get().unwrap_or(now);
        let time = now.saturating_sub(before);
        if time < SHORTEST_SUSPEND {
            self.suspended.set(Some(before));
            return;
        }
        self.suspended.set(Some(now));
        let me = self.me.clone();
        self.engine.defer(move |_| {
            if let Some(me) = me.upgrade() {
                me.tell(NetworkChange::Resumed(time));
            }
        });
    }

    fn tell(&self, change: NetworkChange) {
        let subscribers = self.subscribers.borrow().clone();
        for heard in subscribers {
            // One of those before may have dropped it.
            if let Some(heard) = heard.upgrade() {
                heard(change);
            }
        }
        self.subscribers.borrow_mut().retain(|heard| heard.strong_count() > 0);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for source in [self.routes.take(), self.clock.take()].into_iter().flatten() {
            source.close();
        }
        if let Some(timer) = self.gathering.take() {
            self.engine.cancel_timer(timer);
        }
    }
}

/// One warning in the life of the process: links come and go.
fn warn(error: &io::Error) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        let cause = os_text(error);
        log::warning("watch").error(&cause).say(format_args!("cannot notice changes of the network: {cause}"));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Routes,
    Clock,
}

/// One of the two descriptors.
struct Source {
    kind: Kind,
    fd: Descriptor,
    key: Cell<Option<Key>>,
    engine: Rc<Engine>,
    shared: Weak<Shared>,
}

impl Source {
    fn open(shared: &Shared, kind: Kind) -> io::Result<Rc<Source>> {
        let fd = match kind {
            Kind::Routes => sys::route_changes()?,
            Kind::Clock => sys::clock_changes()?,
        };
        let (engine, key) = (shared.engine.clone(), Cell::new(None));
        let source = Rc::new(Source { kind, fd: Descriptor::new(fd), key, engine, shared: shared.me.clone() });
        let input = source.fd.open().ok_or(io::ErrorKind::NotConnected)?;
        let registration = Registration { input, input_blocks: false, output: None, write: false };
        source.key.set(Some(shared.engine.register(registration, source.clone())?));
        Ok(source)
    }

    fn close(&self) {
        if let Some(key) = self.key.take() {
            self.engine.deregister(key);
        }
        self.fd.close();
    }

    /// Takes the kernel's messages.
    fn take(&self, shared: &Shared) -> Next {
        let Some(fd) = self.fd.open() else { return Next::Idle };
        let mut change = None;
        let mut next = Next::Hot;
        for _ in 0..MESSAGES {
            match sys::take_route_change(fd) {
                Ok(Some(taken)) if change != Some(RouteChange::Certain) => change = Some(taken),
                Ok(Some(_)) => {}
                Ok(None) => {
                    next = Next::Idle;
                    break;
                }
                Err(error) => {
                    warn(&error);
                    next = Next::Idle;
                    break;
                }
            }
        }
        match change {
            Some(RouteChange::Certain) => shared.changed(),
            Some(RouteChange::Possible) => shared.may_have_changed(),
            None => {}
        }
        next
    }
}

impl Handler for Source {
    fn ready(self: Rc<Self>, _: &Rc<Engine>, _: Ready) -> Next {
        let Some(shared) = self.shared.upgrade() else { return Next::Idle };
        // Whatever it is that has happened.
        shared.look();
        match self.kind {
            Kind::Routes => self.take(&shared),
            Kind::Clock => {
                if let Some(fd) = self.fd.open() {
                    sys::take_clock_change(fd);
                }
                Next::Idle
            }
        }
    }

    fn context_ended(self: Rc<Self>) {
        self.close();
    }
}

#[cfg(test)]
mod tests;
