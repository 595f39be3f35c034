//! The services of one type: their names, the interfaces they are on, and their addresses. Avahi reports each service
//! once per interface and protocol; here they are merged.
//!
//! Everything from the network is bounded in number and size: a flood costs a fixed amount of memory and a fixed number
//! of lookups at a time.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::Service;
use super::backend::{Resolver, ServiceBrowser};
use super::daemon::{AvahiDaemon, Client};
use super::events::{BrowserEvent, NAME_MAX, Origin, Resolved};
use super::names::{Matcher, ServiceType};
use crate::engine::{Engine, TimerKey};
use crate::log;

/// The most services of a type. Further ones are ignored.
const MAX_SERVICES: usize = 1024;

/// The most pairs of interface and protocol per service.
const MAX_SIGHTINGS: usize = 16;

/// The most lookups at a time. One without a reply takes 5 s.
const MAX_LOOKUPS: usize = 32;

/// The most resolvers at a time: each follows the changes of one service on one interface and protocol. Avahi allows a
/// client 1024 objects. Further services keep their first result.
const MAX_FOLLOWED: usize = 512;

/// The time that a resolved service waits for better addresses from other interfaces.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// The pauses before the lookup of a service without a reply is repeated.
const RETRY_PAUSES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60)];

/// The pause before browsing starts again after the daemon has ended it.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// The most names that are kept for the error that nothing matches.
const MAX_SEEN: usize = 32;

type OnChange = Box<dyn Fn(&Rc<Engine>)>;

pub(super) struct Tracker {
    me: Weak<Tracker>,
    engine: Rc<Engine>,
    daemon: RefCell<Option<Rc<AvahiDaemon>>>,
    kind: ServiceType,
    matcher: Matcher,
    with_txt: bool,
    /// Called after each change, with nothing borrowed.
    on_change: OnChange,
    table: RefCell<Table>,
    /// Set by [`stop`](Tracker::stop): nothing is reported any more.
    stopped: Cell<bool>,
}

#[derive(Default)]
struct Table {
    browser: Option<Rc<ServiceBrowser>>,
    /// The state of the daemon. `None`: not known yet.
    status: Option<Result<(), String>>,
    all_for_now: bool,
    services: HashMap<Rc<str>, KnownService>,
    /// The names of services with unreported changes, each once.
    changed: VecDeque<Rc<str>>,
    queue: VecDeque<(Rc<str>, u64)>,
    lookups: usize,
    /// Its reference count is one more than the number of resolvers.
    followed: Rc<()>,
    next_id: u64,
    seen: Vec<String>,
    is_full: bool,
}

/// A service, on all its interfaces.
#[derive(Default)]
struct KnownService {
    sightings: Vec<Sighting>,
    is_queued: bool,
    settle_timer: Option<TimerKey>,
    /// All lookups are done, or [`SETTLE_TIME`] has passed.
    settled: bool,
    told: Option<Service>,
}

/// A service as seen on one interface and protocol.
struct Sighting {
    id: u64,
    origin: Origin,
    domain: String,
    resolved: Option<Resolved>,
    tries: usize,
    resolver: Option<(Resolver, Rc<()>)>,
}

/// The state of a service that has changed.
pub(super) struct Change {
    pub(super) name: Rc<str>,
    /// The current values. `None`: it has disappeared or was never resolved.
    pub(super) now: Option<Service>,
    /// No better address is to be expected.
    pub(super) settled: bool,
}

impl Table {
    /// Removes a service without a reply, so that a flood of such services does not keep others out. Returns whether
    /// there was one.
    fn make_room(&mut self) -> bool {
        let is_dead = |entry: &KnownService| {
            entry.told.is_none()
                && entry.is_resolved()
                && entry.sightings.iter().all(|sighting| sighting.resolved.is_none())
        };
        let dead = self.services.iter().find(|(_, entry)| is_dead(entry)).map(|(name, _)| name.clone());
        dead.is_some_and(|name| {
            self.changed.retain(|changed| *changed != name);
            self.services.remove(&name).is_some()
        })
    }
}

impl KnownService {
    fn is_resolved(&self) -> bool {
        self.sightings.iter().all(|sighting| sighting.resolved.is_some() || sighting.tries > 0)
    }

    /// Returns whether nothing has been resolved and a lookup that failed will be repeated.
    fn will_be_retried(&self) -> bool {
        let is_asked = |sighting: &Sighting| sighting.tries == 1 && sighting.resolver.is_none();
        self.sightings.iter().all(|sighting| sighting.resolved.is_none()) && self.sightings.iter().any(is_asked)
    }

    fn service(&self, kind: &ServiceType, name: &str) -> Option<Service> {
        let first = self.sightings.iter().find_map(|sighting| sighting.resolved.as_ref())?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for resolved in self.sightings.iter().filter_map(|sighting| sighting.resolved.as_ref()) {
            if !addresses.contains(&resolved.address) {
                addresses.push(resolved.address);
            }
        }
        // The sort is stable: the order of arrival is kept among equals.
        addresses.sort_by_key(is_link_local);
        Some(Service {
            kind: kind.to_string(),
            name: name.to_owned(),
            host: first.host.clone(),
            port: first.address.port(),
            addresses,
            txt: first.txt.clone(),
        })
    }
}

/// Returns whether an address needs a scope: it is valid on one interface only.
pub(super) fn is_link_local(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local())
}

impl Tracker {
    /// Starts browsing in the next loop iteration, until [`stop`](Tracker::stop).
    pub(super) fn start(
        engine: &Rc<Engine>,
        kind: ServiceType,
        matcher: Matcher,
        with_txt: bool,
        on_change: impl Fn(&Rc<Engine>) + 'static,
    ) -> Rc<Tracker> {
        let tracker = Rc::new_cyclic(|me| Tracker {
            me: me.clone(),
            engine: engine.clone(),
            daemon: RefCell::new(None),
            kind,
            matcher,
            with_txt,
            on_change: Box::new(on_change),
            table: RefCell::default(),
            stopped: Cell::new(false),
        });
        let me = tracker.me.clone();
        engine.defer(move |engine| {
            if let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) {
                let client: Rc<dyn Client> = me.clone();
                let daemon = AvahiDaemon::join(engine, &client);
                me.daemon.replace(Some(daemon));
            }
        });
        tracker
    }

    /// Stops browsing and releases everything.
    pub(super) fn stop(&self) {
        if self.stopped.replace(true) {
            return;
        }
        // The table holds the browser, which must end before the daemon is released.
        let _daemon = self.daemon.take();
        let table = self.table.take();
        for timer in table.services.values().filter_map(|entry| entry.settle_timer) {
            self.engine.cancel_timer(timer);
        }
    }

    // ---- state ----

    /// Returns whether the daemon is running. `None`: not known yet.
    pub(super) fn status(&self) -> Option<Result<(), String>> {
        self.table.borrow().status.clone()
    }

    /// Returns the reason why nothing is known about the daemon.
    pub(super) fn error_text(&self) -> String {
        let daemon = self.daemon.borrow();
        daemon.as_ref().map_or_else(|| "the main loop is not running yet".into(), |daemon| daemon.error_text())
    }

    /// Returns whether the daemon has reported all that it knows, and every lookup is done.
    pub(super) fn is_complete(&self) -> bool {
        let table = self.table.borrow();
        let told = |entry: &KnownService| entry.is_resolved() || entry.told.is_some();
        table.all_for_now && table.changed.is_empty() && table.services.values().all(told)
    }

    /// Returns whether a lookup that failed will be repeated: one lost packet must not hide a service.
    pub(super) fn will_retry(&self) -> bool {
        self.table.borrow().services.values().any(KnownService::will_be_retried)
    }

    /// Returns the names of all services of the type, including those that do not match.
    pub(super) fn seen(&self) -> Vec<String> {
        self.table.borrow().seen.clone()
    }

    /// Takes the next service with an unreported change.
    pub(super) fn next_change(&self) -> Option<Change> {
        let mut table = self.table.borrow_mut();
        loop {
            let name = table.changed.pop_front()?;
            let Some(entry) = table.services.get_mut(&name) else { continue };
            entry.is_queued = false;
            return Some(Change { now: entry.service(&self.kind, &name), settled: entry.settled, name });
        }
    }

    /// Records the values that were reported to the user. Returns those that were reported before.
    pub(super) fn mark_told(&self, change: &Change) -> Option<Service> {
        let mut table = self.table.borrow_mut();
        let entry = table.services.get_mut(&change.name)?;
        let before = std::mem::replace(&mut entry.told, change.now.clone());
        if entry.sightings.is_empty() {
            table.services.remove(&change.name);
        }
        before
    }

    // ---- events ----

    fn notify(&self) {
        if !self.stopped.get() {
            (self.on_change)(&self.engine);
        }
    }

    fn browse(&self, daemon: &Rc<AvahiDaemon>) {
        let me = self.me.clone();
        let browser = daemon.backend().browse(&self.kind, move |_, event| {
            if let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) {
                me.handle(event);
            }
        });
        self.table.borrow_mut().browser = Some(Rc::new(browser));
    }

    fn handle(&self, event: BrowserEvent) {
        match event {
            BrowserEvent::New { origin, name, domain } => {
                self.added(origin, &name, domain);
                self.start_lookups();
                return;
            }
            BrowserEvent::Gone { origin, name } => self.removed(origin, &name),
            BrowserEvent::AllForNow => self.table.borrow_mut().all_for_now = true,
            BrowserEvent::Failure(cause) => self.failed(&cause),
        }
        self.notify();
    }

    /// Browsing has failed, for example because the daemon has too many clients. It starts again after a pause.
    fn failed(&self, cause: &str) {
        self.forget(format!("the Avahi daemon refused to browse: {cause}"));
        let me = self.me.clone();
        self.engine.after(RESTART_PAUSE, move |engine| {
            let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) else { return };
            let failed = matches!(me.status(), Some(Err(_)));
            let daemon = me.daemon.borrow().clone();
            if let Some(daemon) = daemon.filter(|daemon| failed && daemon.is_up()) {
                me.up(engine, &daemon);
            }
        });
    }

    /// Discards everything that is known.
    fn forget(&self, cause: String) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        table.browser = None;
        table.status = Some(Err(cause));
        table.all_for_now = false;
        table.queue.clear();
        table.lookups = 0;
        for (name, entry) in &mut table.services {
            entry.sightings.clear();
            if let Some(timer) = entry.settle_timer.take() {
                self.engine.cancel_timer(timer);
            }
            mark(&mut table.changed, name, entry);
        }
        table.services.retain(|_, entry| entry.told.is_some());
        table.changed.retain(|name| table.services.contains_key(name));
    }

    fn added(&self, origin: Origin, name: &str, domain: String) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        if name.is_empty() || name.len() > NAME_MAX || domain.len() > NAME_MAX {
            return;
        }
        if table.seen.len() < MAX_SEEN && !table.seen.iter().any(|known| known == name) {
            table.seen.push(name.to_owned());
        }
        if !self.matcher.matches(name) {
            return;
        }
        if table.services.len() >= MAX_SERVICES && !table.services.contains_key(name) && !table.make_room() {
            if !std::mem::replace(&mut table.is_full, true) {
                // Any machine can cause this, so it is not a warning: some programs make warnings fatal.
                log::message("browse")
                    .peer(&self.kind)
                    .say(format_args!("more than {MAX_SERVICES} services of type {}; ignoring the rest", self.kind));
            }
            return;
        }
        let name: Rc<str> = name.into();
        let entry = table.services.entry(name.clone()).or_default();
        if entry.sightings.iter().any(|known| known.origin == origin) || entry.sightings.len() >= MAX_SIGHTINGS {
            return;
        }
        let id = table.next_id;
        table.next_id += 1;
        entry.sightings.push(Sighting { id, origin, domain, resolved: None, tries: 0, resolver: None });
        table.queue.push_back((name, id));
    }

    fn removed(&self, origin: Origin, name: &str) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        let Some(entry) = table.services.get_mut(name) else { return };
        let is_gone = |known: &Sighting| known.origin == origin;
        // A service that keeps appearing and disappearing must not fill the queue.
        for unasked in entry.sightings.iter().filter(|known| is_gone(known) && known.resolved.is_none()) {
            table.queue.retain(|(_, id)| *id != unasked.id);
        }
        entry.sightings.retain(|known| !is_gone(known));
        if !entry.sightings.is_empty() || entry.told.is_some() {
            mark(&mut table.changed, &Rc::from(name), entry);
            return;
        }
        let gone = table.services.remove(name);
        table.changed.retain(|changed| **changed != *name);
        if let Some(timer) = gone.and_then(|entry| entry.settle_timer) {
            self.engine.cancel_timer(timer);
        }
    }

    /// Starts lookups from the queue, up to the limit.
    fn start_lookups(&self) {
        loop {
            let mut table = self.table.borrow_mut();
            if table.lookups >= MAX_LOOKUPS {
                return;
            }
            let Some(browser) = table.browser.clone() else { return };
            let Some((name, id)) = table.queue.pop_front() else { return };
            let sighting = table.services.get(&name).and_then(|entry| entry.sightings.iter().find(|it| it.id == id));
            let Some(Sighting { origin, domain, .. }) = sighting else { continue };
            let (origin, domain) = (*origin, domain.clone());
            if self.with_txt && Rc::strong_count(&table.followed) <= MAX_FOLLOWED {
                let share = table.followed.clone();
                drop(table);
                if self.follow(&browser, origin, &name, &domain, id, share) {
                    continue;
                }
                table = self.table.borrow_mut();
            }
            table.lookups += 1;
            drop(table);
            let (me, service_name) = (self.me.clone(), name.clone());
            browser.look_up(origin, &service_name, &domain, self.with_txt, move |_, resolved| {
                let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) else { return };
                {
                    let mut table = me.table.borrow_mut();
                    table.lookups = table.lookups.saturating_sub(1);
                }
                me.lookup_done(name, id, resolved);
                me.start_lookups();
                me.notify();
            });
        }
    }

    /// Starts a resolver, which reports changes of a service as well. It does not count as a lookup, so a service
    /// without a reply delays no other. Returns false if there can be no resolver.
    fn follow(
        &self,
        browser: &ServiceBrowser,
        origin: Origin,
        name: &Rc<str>,
        domain: &str,
        id: u64,
        share: Rc<()>,
    ) -> bool {
        let (me, service_name) = (self.me.clone(), name.clone());
        let resolver = browser.follow(origin, name, domain, move |_, resolved| {
            if let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) {
                me.lookup_done(service_name.clone(), id, resolved);
                me.notify();
            }
        });
        let Some(resolver) = resolver else { return false };
        let mut table = self.table.borrow_mut();
        let entry = table.services.get_mut(name);
        if let Some(sighting) = entry.and_then(|entry| entry.sightings.iter_mut().find(|it| it.id == id)) {
            sighting.resolver = Some((resolver, share));
        }
        true
    }

    fn lookup_done(&self, name: Rc<str>, id: u64, resolved: Option<Resolved>) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        let Some(entry) = table.services.get_mut(&name) else { return };
        let Some(sighting) = entry.sightings.iter_mut().find(|it| it.id == id) else { return };
        // A resolver reports as soon as there is a reply: that is no failure.
        let failed = resolved.is_none() && sighting.resolver.is_none();
        sighting.resolved = resolved;
        sighting.tries += 1;
        let tries = sighting.tries;
        let reached = entry.sightings.iter().any(|sighting| sighting.resolved.is_some());
        if reached {
            if entry.is_resolved() {
                entry.settled = true;
                if let Some(timer) = entry.settle_timer.take() {
                    self.engine.cancel_timer(timer);
                }
            } else if !entry.settled && entry.settle_timer.is_none() {
                let (me, name) = (self.me.clone(), name.clone());
                entry.settle_timer = Some(self.engine.after(SETTLE_TIME, move |_| {
                    if let Some(me) = me.upgrade() {
                        me.settle(&name);
                        me.notify();
                    }
                }));
            }
            mark(&mut table.changed, &name, entry);
            return;
        }
        if entry.told.is_some() {
            mark(&mut table.changed, &name, entry);
        }
        if let (true, Some(pause)) = (failed, RETRY_PAUSES.get(tries - 1)) {
            let me = self.me.clone();
            self.engine.after(*pause, move |_| {
                let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) else { return };
                me.table.borrow_mut().queue.push_back((name, id));
                me.start_lookups();
            });
        }
    }

    fn settle(&self, name: &Rc<str>) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        let Some(entry) = table.services.get_mut(name) else { return };
        entry.settle_timer = None;
        entry.settled = true;
        mark(&mut table.changed, name, entry);
    }
}

fn mark(changed: &mut VecDeque<Rc<str>>, name: &Rc<str>, entry: &mut KnownService) {
    if !std::mem::replace(&mut entry.is_queued, true) {
        changed.push_back(name.clone());
    }
}

impl Client for Tracker {
    fn up(&self, _engine: &Rc<Engine>, daemon: &Rc<AvahiDaemon>) {
        if self.stopped.get() {
            return;
        }
        self.table.borrow_mut().status = Some(Ok(()));
        self.browse(daemon);
        self.notify();
    }

    fn running(&self, _engine: &Rc<Engine>, _daemon: &Rc<AvahiDaemon>, _running: bool) {}

    fn down(&self, _engine: &Rc<Engine>, cause: &str) {
        if self.stopped.get() {
            return;
        }
        self.forget(cause.to_owned());
        self.notify();
    }
}
