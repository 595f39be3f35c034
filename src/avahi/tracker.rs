//! All services of one type: which there are, on which interfaces, and where they are to be reached. Avahi tells each once
//! for every interface and protocol; here they are one.
//!
//! What comes from the network is bounded in number and size: whoever floods it costs a fixed amount of memory and gets a
//! fixed number of look-ups at a time.

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

/// The most services of a type. More are not seen.
const MAX_SERVICES: usize = 1024;

/// The most pairs of interface and protocol that one service is told on.
const MAX_SIGHTINGS: usize = 16;

/// How many look-ups go on at a time. One that nobody answers takes 5 s.
const MAX_LOOKUPS: usize = 32;

/// How many pairs of service and place are followed, with what changes of them. Avahi allows a client 1024 objects; of
/// more services, what was found first stays told.
const MAX_FOLLOWED: usize = 512;

/// A service that has been found on one interface waits this long for its better addresses.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// A service that is listed but does not answer is asked again after these.
const RETRY_PAUSES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60)];

/// How soon browsing begins again when the daemon has ended it.
const RESTART: Duration = Duration::from_secs(5);

/// Names kept of those that are not what was looked for.
const MAX_SEEN: usize = 32;

type Changed = Box<dyn Fn(&Rc<Engine>)>;

pub(super) struct Tracker {
    me: Weak<Tracker>,
    engine: Rc<Engine>,
    daemon: RefCell<Option<Rc<AvahiDaemon>>>,
    kind: ServiceType,
    matcher: Matcher,
    with_txt: bool,
    /// Called when anything has changed, with nothing borrowed.
    changed: Changed,
    table: RefCell<Table>,
    /// Cut off: nothing more is told.
    stopped: Cell<bool>,
}

#[derive(Default)]
struct Table {
    browsing: Option<Rc<ServiceBrowser>>,
    /// `None`: not known yet.
    status: Option<Result<(), String>>,
    all_for_now: bool,
    services: HashMap<Rc<str>, KnownService>,
    /// Services of which something has changed, each once.
    fresh: VecDeque<Rc<str>>,
    waiting: VecDeque<(Rc<str>, u64)>,
    lookups: usize,
    /// Each of those that are followed has a share.
    followed: Rc<()>,
    next_id: u64,
    seen: Vec<String>,
    crowded: bool,
}

/// One service.
#[derive(Default)]
struct KnownService {
    sightings: Vec<Sighting>,
    is_queued: bool,
    hold: Option<TimerKey>,
    /// It has been waited for long enough.
    settled: bool,
    told: Option<Service>,
}

/// One service on one interface by one protocol.
struct Sighting {
    id: u64,
    place: Origin,
    domain: String,
    found: Option<Resolved>,
    tries: usize,
    following: Option<(Resolver, Rc<()>)>,
}

/// What became of a service since it was looked at last.
pub(super) struct Change {
    pub(super) name: Rc<str>,
    /// All that is known of it. `None`: it has gone, or was never reached.
    pub(super) now: Option<Service>,
    /// No better address is to be expected.
    pub(super) settled: bool,
}

impl Table {
    /// Forgets a service that does not answer, so that a flood of them does not keep the others out.
    fn make_room(&mut self) -> bool {
        let is_dead = |entry: &KnownService| {
            entry.told.is_none()
                && entry.is_resolved()
                && entry.sightings.iter().all(|sighting| sighting.found.is_none())
        };
        let dead = self.services.iter().find(|(_, entry)| is_dead(entry)).map(|(name, _)| name.clone());
        dead.is_some_and(|name| {
            self.fresh.retain(|fresh| *fresh != name);
            self.services.remove(&name).is_some()
        })
    }
}

impl KnownService {
    fn is_resolved(&self) -> bool {
        self.sightings.iter().all(|sighting| sighting.found.is_some() || sighting.tries > 0)
    }

    /// Has nothing been found, and one look-up failed, which will be repeated?
    fn will_be_retried(&self) -> bool {
        let is_asked = |sighting: &Sighting| sighting.tries == 1 && sighting.following.is_none();
        self.sightings.iter().all(|sighting| sighting.found.is_none()) && self.sightings.iter().any(is_asked)
    }

    fn service(&self, kind: &ServiceType, name: &str) -> Option<Service> {
        let first = self.sightings.iter().find_map(|sighting| sighting.found.as_ref())?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for found in self.sightings.iter().filter_map(|sighting| sighting.found.as_ref()) {
            if !addresses.contains(&found.address) {
                addresses.push(found.address);
            }
        }
        // The order in which they were found is kept within each kind.
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

/// An IPv6 address that means something on one interface only.
pub(super) fn is_link_local(address: &SocketAddr) -> bool {
    matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local())
}

impl Tracker {
    /// Follows the services of a type, from the loop's next turn on, until [`stop`](Tracker::stop).
    pub(super) fn start(
        engine: &Rc<Engine>,
        kind: ServiceType,
        matcher: Matcher,
        with_txt: bool,
        changed: impl Fn(&Rc<Engine>) + 'static,
    ) -> Rc<Tracker> {
        let tracker = Rc::new_cyclic(|me| Tracker {
            me: me.clone(),
            engine: engine.clone(),
            daemon: RefCell::new(None),
            kind,
            matcher,
            with_txt,
            changed: Box::new(changed),
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

    /// Lets go of everything.
    pub(super) fn stop(&self) {
        if self.stopped.replace(true) {
            return;
        }
        // The table holds the browsing, which ends before the daemon is let go of.
        let _daemon = self.daemon.take();
        let table = self.table.take();
        for timer in table.services.values().filter_map(|entry| entry.hold) {
            self.engine.cancel_timer(timer);
        }
    }

    // ---- what is known ----

    /// Is the daemon there? `None` while that is being found out.
    pub(super) fn status(&self) -> Option<Result<(), String>> {
        self.table.borrow().status.clone()
    }

    /// What there is to say if nothing was event at all.
    pub(super) fn error_text(&self) -> String {
        let daemon = self.daemon.borrow();
        daemon.as_ref().map_or_else(|| "the main loop has not run".into(), |daemon| daemon.error_text())
    }

    /// Has the daemon told all that it knows, and has each answered, or failed to?
    pub(super) fn is_complete(&self) -> bool {
        let table = self.table.borrow();
        let told = |entry: &KnownService| entry.is_resolved() || entry.told.is_some();
        table.all_for_now && table.fresh.is_empty() && table.services.values().all(told)
    }

    /// Is one that has not answered asked once more? One lost packet must not make a service unknown.
    pub(super) fn will_retry(&self) -> bool {
        self.table.borrow().services.values().any(KnownService::will_be_retried)
    }

    /// The names there are, of the whole type.
    pub(super) fn seen(&self) -> Vec<String> {
        self.table.borrow().seen.clone()
    }

    /// The next service of which something has changed.
    pub(super) fn next_change(&self) -> Option<Change> {
        let mut table = self.table.borrow_mut();
        loop {
            let name = table.fresh.pop_front()?;
            let Some(entry) = table.services.get_mut(&name) else { continue };
            entry.is_queued = false;
            return Some(Change { now: entry.service(&self.kind, &name), settled: entry.settled, name });
        }
    }

    /// Remembers how a service was told to the user, and gives back how it was told before.
    pub(super) fn mark_told(&self, fresh: &Change) -> Option<Service> {
        let mut table = self.table.borrow_mut();
        let entry = table.services.get_mut(&fresh.name)?;
        let before = std::mem::replace(&mut entry.told, fresh.now.clone());
        if entry.sightings.is_empty() {
            table.services.remove(&fresh.name);
        }
        before
    }

    // ---- what happens ----

    fn tell(&self) {
        if !self.stopped.get() {
            (self.changed)(&self.engine);
        }
    }

    fn browse(&self, daemon: &Rc<AvahiDaemon>) {
        let me = self.me.clone();
        let browsing = daemon.backend().browse(&self.kind, move |_, event| {
            if let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) {
                me.hear(event);
            }
        });
        self.table.borrow_mut().browsing = Some(Rc::new(browsing));
    }

    fn hear(&self, event: BrowserEvent) {
        match event {
            BrowserEvent::New { place, name, domain } => {
                self.appeared(place, &name, domain);
                self.look_up();
                return;
            }
            BrowserEvent::Gone { place, name } => self.disappeared(place, &name),
            BrowserEvent::AllForNow => self.table.borrow_mut().all_for_now = true,
            BrowserEvent::Failure(cause) => self.failed(&cause),
        }
        self.tell();
    }

    /// The daemon is there, but does not browse, as when it has too many clients.
    fn failed(&self, cause: &str) {
        self.forget(format!("the Avahi daemon does not browse ({cause})"));
        let me = self.me.clone();
        self.engine.after(RESTART, move |engine| {
            let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) else { return };
            let failed = matches!(me.status(), Some(Err(_)));
            let daemon = me.daemon.borrow().clone();
            if let Some(daemon) = daemon.filter(|daemon| failed && daemon.is_up()) {
                me.up(engine, &daemon);
            }
        });
    }

    /// Nothing is known any more.
    fn forget(&self, cause: String) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        table.browsing = None;
        table.status = Some(Err(cause));
        table.all_for_now = false;
        table.waiting.clear();
        table.lookups = 0;
        for (name, entry) in &mut table.services {
            entry.sightings.clear();
            if let Some(timer) = entry.hold.take() {
                self.engine.cancel_timer(timer);
            }
            mark(&mut table.fresh, name, entry);
        }
        table.services.retain(|_, entry| entry.told.is_some());
        table.fresh.retain(|name| table.services.contains_key(name));
    }

    fn appeared(&self, place: Origin, name: &str, domain: String) {
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
            if !std::mem::replace(&mut table.crowded, true) {
                // Any machine can bring that about: no warning, which some programs make fatal.
                log::info("browse")
                    .peer(&self.kind)
                    .say(format_args!("more than {MAX_SERVICES} services of type {}; ignoring the rest", self.kind));
            }
            return;
        }
        let name: Rc<str> = name.into();
        let entry = table.services.entry(name.clone()).or_default();
        if entry.sightings.iter().any(|known| known.place == place) || entry.sightings.len() >= MAX_SIGHTINGS {
            return;
        }
        let id = table.next_id;
        table.next_id += 1;
        entry.sightings.push(Sighting { id, place, domain, found: None, tries: 0, following: None });
        table.waiting.push_back((name, id));
    }

    fn disappeared(&self, place: Origin, name: &str) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        let Some(entry) = table.services.get_mut(name) else { return };
        let is_gone = |known: &Sighting| known.place == place;
        // One that comes and goes must not fill the queue.
        for unasked in entry.sightings.iter().filter(|known| is_gone(known) && known.found.is_none()) {
            table.waiting.retain(|(_, id)| *id != unasked.id);
        }
        entry.sightings.retain(|known| !is_gone(known));
        if !entry.sightings.is_empty() || entry.told.is_some() {
            mark(&mut table.fresh, &Rc::from(name), entry);
            return;
        }
        let gone = table.services.remove(name);
        table.fresh.retain(|fresh| **fresh != *name);
        if let Some(timer) = gone.and_then(|entry| entry.hold) {
            self.engine.cancel_timer(timer);
        }
    }

    /// Starts as many look-ups as there may be.
    fn look_up(&self) {
        loop {
            let mut table = self.table.borrow_mut();
            if table.lookups >= MAX_LOOKUPS {
                return;
            }
            let Some(browsing) = table.browsing.clone() else { return };
            let Some((name, id)) = table.waiting.pop_front() else { return };
            let sighting = table.services.get(&name).and_then(|entry| entry.sightings.iter().find(|it| it.id == id));
            let Some(Sighting { place, domain, .. }) = sighting else { continue };
            let (place, domain) = (*place, domain.clone());
            if self.with_txt && Rc::strong_count(&table.followed) <= MAX_FOLLOWED {
                let share = table.followed.clone();
                drop(table);
                if self.follow(&browsing, place, &name, &domain, id, share) {
                    continue;
                }
                table = self.table.borrow_mut();
            }
            table.lookups += 1;
            drop(table);
            let (me, asked) = (self.me.clone(), name.clone());
            browsing.look_up(place, &asked, &domain, self.with_txt, move |_, found| {
                let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) else { return };
                {
                    let mut table = me.table.borrow_mut();
                    table.lookups = table.lookups.saturating_sub(1);
                }
                me.looked_up(name, id, found);
                me.look_up();
                me.tell();
            });
        }
    }

    /// Follows what is told of a service at one place. It takes none of the look-ups at a time: one that does not answer
    /// keeps nobody else waiting.
    fn follow(
        &self,
        browsing: &ServiceBrowser,
        place: Origin,
        name: &Rc<str>,
        domain: &str,
        id: u64,
        share: Rc<()>,
    ) -> bool {
        let (me, asked) = (self.me.clone(), name.clone());
        let following = browsing.follow(place, name, domain, move |_, found| {
            if let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) {
                me.looked_up(asked.clone(), id, found);
                me.tell();
            }
        });
        let Some(following) = following else { return false };
        let mut table = self.table.borrow_mut();
        let entry = table.services.get_mut(name);
        if let Some(sighting) = entry.and_then(|entry| entry.sightings.iter_mut().find(|it| it.id == id)) {
            sighting.following = Some((following, share));
        }
        true
    }

    fn looked_up(&self, name: Rc<str>, id: u64, found: Option<Resolved>) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        let Some(entry) = table.services.get_mut(&name) else { return };
        let Some(sighting) = entry.sightings.iter_mut().find(|it| it.id == id) else { return };
        // One that is followed is told when it answers.
        let failed = found.is_none() && sighting.following.is_none();
        sighting.found = found;
        sighting.tries += 1;
        let tries = sighting.tries;
        let reached = entry.sightings.iter().any(|sighting| sighting.found.is_some());
        if reached {
            if entry.is_resolved() {
                entry.settled = true;
                if let Some(timer) = entry.hold.take() {
                    self.engine.cancel_timer(timer);
                }
            } else if !entry.settled && entry.hold.is_none() {
                let (me, name) = (self.me.clone(), name.clone());
                entry.hold = Some(self.engine.after(SETTLE_TIME, move |_| {
                    if let Some(me) = me.upgrade() {
                        me.settle(&name);
                        me.tell();
                    }
                }));
            }
            mark(&mut table.fresh, &name, entry);
            return;
        }
        if entry.told.is_some() {
            mark(&mut table.fresh, &name, entry);
        }
        if let (true, Some(pause)) = (failed, RETRY_PAUSES.get(tries - 1)) {
            let me = self.me.clone();
            self.engine.after(*pause, move |_| {
                let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) else { return };
                me.table.borrow_mut().waiting.push_back((name, id));
                me.look_up();
            });
        }
    }

    fn settle(&self, name: &Rc<str>) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        let Some(entry) = table.services.get_mut(name) else { return };
        entry.hold = None;
        entry.settled = true;
        mark(&mut table.fresh, name, entry);
    }
}

fn mark(fresh: &mut VecDeque<Rc<str>>, name: &Rc<str>, entry: &mut KnownService) {
    if !std::mem::replace(&mut entry.is_queued, true) {
        fresh.push_back(name.clone());
    }
}

impl Client for Tracker {
    fn up(&self, _engine: &Rc<Engine>, daemon: &Rc<AvahiDaemon>) {
        if self.stopped.get() {
            return;
        }
        self.table.borrow_mut().status = Some(Ok(()));
        self.browse(daemon);
        self.tell();
    }

    fn running(&self, _engine: &Rc<Engine>, _daemon: &Rc<AvahiDaemon>, _running: bool) {}

    fn down(&self, _engine: &Rc<Engine>, cause: &str) {
        if self.stopped.get() {
            return;
        }
        self.forget(cause.to_owned());
        self.tell();
    }
}
