//! All services of one type: which there are, on which interfaces, and where they are to be reached. Avahi tells each once
//! for every interface and protocol; here they are one.
//!
//! What comes from the network is bounded in number and size: whoever floods it costs a fixed amount of memory and gets a
//! fixed number of look-ups at a time.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::rc::{Rc, Weak};
use std::time::Duration;

use glib::variant::ToVariant;

use super::Service;
use super::daemon::{ANY, BROWSER, Client, Daemon, SERVER};
use super::names::{Kind, Matcher, Txt};
use crate::engine::{Engine, TimerKey};

/// The most services of a type. More are not seen.
const SERVICES: usize = 1024;

/// The most pairs of interface and protocol that one service is told on.
const INSTANCES: usize = 16;

/// How many look-ups go on at a time. One that nobody answers takes 5 s.
const LOOK_UPS: usize = 32;

/// A service that has been found on one interface waits this long for its better addresses.
const HOLD: Duration = Duration::from_millis(200);

/// A service that is listed but does not answer is asked again after these.
const AGAIN: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(60)];

/// How soon browsing begins again when the daemon has ended it.
const RESTART: Duration = Duration::from_secs(5);

/// The longest names that are taken. Longer ones cannot be, in DNS.
const NAME_MAX: usize = 255;

/// Names kept of those that are not what was looked for.
const SEEN: usize = 32;

const NO_TXT: u32 = 4;
/// Of a look-up's answer: it is about this very machine.
const LOCAL: u32 = 8;

type Changed = Box<dyn Fn(&Rc<Engine>)>;

pub(super) struct Tracker {
    me: Weak<Tracker>,
    engine: Rc<Engine>,
    daemon: RefCell<Option<Rc<Daemon>>>,
    kind: Kind,
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
    /// The daemon's object.
    path: Option<String>,
    /// `None`: not known yet.
    status: Option<Result<(), String>>,
    all_for_now: bool,
    services: HashMap<Rc<str>, Entry>,
    /// Services of which something has changed, each once.
    fresh: VecDeque<Rc<str>>,
    waiting: VecDeque<(Rc<str>, u64)>,
    look_ups: usize,
    next_id: u64,
    seen: Vec<String>,
    crowded: bool,
}

/// One service.
#[derive(Default)]
struct Entry {
    instances: Vec<Instance>,
    is_fresh: bool,
    hold: Option<TimerKey>,
    /// It has been waited for long enough.
    ripe: bool,
    told: Option<Service>,
}

/// One service on one interface by one protocol.
struct Instance {
    id: u64,
    interface: i32,
    protocol: i32,
    domain: String,
    found: Option<Found>,
    tries: usize,
}

struct Found {
    host: String,
    address: SocketAddr,
    txt: Txt,
}

/// What became of a service since it was looked at last.
pub(super) struct Fresh {
    pub(super) name: Rc<str>,
    /// All that is known of it. `None`: it has gone, or was never reached.
    pub(super) now: Option<Service>,
    /// No better address is to be expected.
    pub(super) ripe: bool,
}

impl Table {
    /// Forgets a service that does not answer, so that a flood of them does not keep the others out.
    fn make_room(&mut self) -> bool {
        let is_dead = |entry: &Entry| {
            entry.told.is_none()
                && entry.is_settled()
                && entry.instances.iter().all(|instance| instance.found.is_none())
        };
        let dead = self.services.iter().find(|(_, entry)| is_dead(entry)).map(|(name, _)| name.clone());
        dead.is_some_and(|name| {
            self.fresh.retain(|fresh| *fresh != name);
            self.services.remove(&name).is_some()
        })
    }
}

impl Entry {
    fn is_settled(&self) -> bool {
        self.instances.iter().all(|instance| instance.found.is_some() || instance.tries > 0)
    }

    fn service(&self, kind: &Kind, name: &str) -> Option<Service> {
        let first = self.instances.iter().find_map(|instance| instance.found.as_ref())?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for found in self.instances.iter().filter_map(|instance| instance.found.as_ref()) {
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
        kind: Kind,
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
                let daemon = Daemon::join(engine, &client);
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
        let daemon = self.daemon.take();
        let table = self.table.take();
        for timer in table.services.values().filter_map(|entry| entry.hold) {
            self.engine.cancel_timer(timer);
        }
        if let (Some(daemon), Some(path)) = (&daemon, &table.path) {
            daemon.free(path, BROWSER);
        }
    }

    // ---- what is known ----

    /// Is the daemon there? `None` while that is being found out.
    pub(super) fn status(&self) -> Option<Result<(), String>> {
        self.table.borrow().status.clone()
    }

    /// What there is to say if nothing was heard at all.
    pub(super) fn complaint(&self) -> String {
        let daemon = self.daemon.borrow();
        daemon.as_ref().map_or_else(|| "the main loop has not run".into(), |daemon| daemon.complaint())
    }

    /// Has the daemon told all that it knows, and has each answered, or failed to?
    pub(super) fn is_complete(&self) -> bool {
        let table = self.table.borrow();
        let told = |entry: &Entry| entry.is_settled() || entry.told.is_some();
        table.all_for_now && table.fresh.is_empty() && table.services.values().all(told)
    }

    /// The names there are, of the whole type.
    pub(super) fn seen(&self) -> Vec<String> {
        self.table.borrow().seen.clone()
    }

    /// The next service of which something has changed.
    pub(super) fn next_fresh(&self) -> Option<Fresh> {
        let mut table = self.table.borrow_mut();
        loop {
            let name = table.fresh.pop_front()?;
            let Some(entry) = table.services.get_mut(&name) else { continue };
            entry.is_fresh = false;
            return Some(Fresh { now: entry.service(&self.kind, &name), ripe: entry.ripe, name });
        }
    }

    /// Remembers how a service was told to the user, and gives back how it was told before.
    pub(super) fn retell(&self, fresh: &Fresh) -> Option<Service> {
        let mut table = self.table.borrow_mut();
        let entry = table.services.get_mut(&fresh.name)?;
        let before = std::mem::replace(&mut entry.told, fresh.now.clone());
        if entry.instances.is_empty() {
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

    fn browse(&self, daemon: &Rc<Daemon>) {
        let asked = (ANY, ANY, self.kind.as_str(), "", 0u32).to_variant();
        let (me, client): (_, Weak<dyn Client>) = (self.me.clone(), self.me.clone());
        daemon.make("ServiceBrowserNew", BROWSER, Some(&asked), client, move |_, daemon, answer| {
            let Some(me) = me.upgrade() else { return };
            match answer {
                Ok(path) if me.stopped.get() => daemon.free(&path, BROWSER),
                Ok(path) => me.table.borrow_mut().path = Some(path),
                Err(error) => me.failed(daemon, error.message),
            }
        });
    }

    /// The daemon is there, but does not browse, as when it has too many clients.
    fn failed(&self, daemon: &Rc<Daemon>, cause: String) {
        let path = self.table.borrow_mut().path.take();
        if let Some(path) = path {
            daemon.free(&path, BROWSER);
        }
        self.forget(format!("the Avahi daemon does not browse ({cause})"));
        let (me, daemon) = (self.me.clone(), Rc::downgrade(daemon));
        self.engine.after(RESTART, move |engine| {
            let (Some(me), Some(daemon)) = (me.upgrade(), daemon.upgrade()) else { return };
            let failed = matches!(me.status(), Some(Err(_))) && me.table.borrow().path.is_none();
            if failed && !me.stopped.get() && daemon.is_up() {
                me.up(engine, &daemon);
            }
        });
    }

    /// Nothing is known any more.
    fn forget(&self, cause: String) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        table.path = None;
        table.status = Some(Err(cause));
        table.all_for_now = false;
        table.waiting.clear();
        table.look_ups = 0;
        for (name, entry) in &mut table.services {
            entry.instances.clear();
            if let Some(timer) = entry.hold.take() {
                self.engine.cancel_timer(timer);
            }
            mark(&mut table.fresh, name, entry);
        }
        table.services.retain(|_, entry| entry.told.is_some());
        table.fresh.retain(|name| table.services.contains_key(name));
    }

    fn appeared(&self, interface: i32, protocol: i32, name: &str, domain: String) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        if name.is_empty() || name.len() > NAME_MAX || domain.len() > NAME_MAX {
            return;
        }
        if table.seen.len() < SEEN && !table.seen.iter().any(|known| known == name) {
            table.seen.push(name.to_owned());
        }
        if !self.matcher.matches(name) {
            return;
        }
        if table.services.len() >= SERVICES && !table.services.contains_key(name) && !table.make_room() {
            if !std::mem::replace(&mut table.crowded, true) {
                glib::g_warning!("network", "more than {SERVICES} services of type {}: not all are seen", self.kind);
            }
            return;
        }
        let name: Rc<str> = name.into();
        let entry = table.services.entry(name.clone()).or_default();
        let is_same = |known: &Instance| (known.interface, known.protocol) == (interface, protocol);
        if entry.instances.iter().any(is_same) || entry.instances.len() >= INSTANCES {
            return;
        }
        let id = table.next_id;
        table.next_id += 1;
        entry.instances.push(Instance { id, interface, protocol, domain, found: None, tries: 0 });
        table.waiting.push_back((name, id));
    }

    fn disappeared(&self, interface: i32, protocol: i32, name: &str) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        let Some(entry) = table.services.get_mut(name) else { return };
        let is_gone = |known: &Instance| (known.interface, known.protocol) == (interface, protocol);
        // One that comes and goes must not fill the queue.
        for unasked in entry.instances.iter().filter(|known| is_gone(known) && known.found.is_none()) {
            table.waiting.retain(|(_, id)| *id != unasked.id);
        }
        entry.instances.retain(|known| !is_gone(known));
        if !entry.instances.is_empty() || entry.told.is_some() {
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
    fn look_up(&self, daemon: &Rc<Daemon>) {
        loop {
            let mut table = self.table.borrow_mut();
            if table.look_ups >= LOOK_UPS {
                return;
            }
            let Some((name, id)) = table.waiting.pop_front() else { return };
            let instance = table.services.get(&name).and_then(|entry| entry.instances.iter().find(|it| it.id == id));
            let Some(instance) = instance else { continue };
            let Instance { interface, protocol, ref domain, .. } = *instance;
            let flags = if self.with_txt { 0 } else { NO_TXT };
            // What was found by IPv4 is reached by IPv4: each pair gives its own kind of address.
            let asked = (interface, protocol, &*name, self.kind.as_str(), domain, protocol, flags).to_variant();
            table.look_ups += 1;
            drop(table);
            let me = self.me.clone();
            daemon.call("/", SERVER, "ResolveService", Some(&asked), move |_, daemon, answer| {
                let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) else { return };
                me.looked_up(name, id, answer.ok().and_then(|body| Found::read(&body)));
                me.look_up(daemon);
                me.tell();
            });
        }
    }

    fn looked_up(&self, name: Rc<str>, id: u64, found: Option<Found>) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        table.look_ups = table.look_ups.saturating_sub(1);
        let Some(entry) = table.services.get_mut(&name) else { return };
        let Some(instance) = entry.instances.iter_mut().find(|it| it.id == id) else { return };
        let failed = found.is_none();
        instance.found = found;
        instance.tries += 1;
        let tries = instance.tries;
        let reached = entry.instances.iter().any(|instance| instance.found.is_some());
        if reached {
            if entry.is_settled() {
                entry.ripe = true;
                if let Some(timer) = entry.hold.take() {
                    self.engine.cancel_timer(timer);
                }
            } else if !entry.ripe && entry.hold.is_none() {
                let (me, name) = (self.me.clone(), name.clone());
                entry.hold = Some(self.engine.after(HOLD, move |_| {
                    if let Some(me) = me.upgrade() {
                        me.ripen(&name);
                        me.tell();
                    }
                }));
            }
            mark(&mut table.fresh, &name, entry);
        } else if let (true, Some(pause)) = (failed, AGAIN.get(tries - 1)) {
            let me = self.me.clone();
            self.engine.after(*pause, move |_| {
                let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) else { return };
                me.table.borrow_mut().waiting.push_back((name, id));
                let daemon = me.daemon.borrow().clone();
                if let Some(daemon) = daemon {
                    me.look_up(&daemon);
                }
            });
        }
    }

    fn ripen(&self, name: &Rc<str>) {
        let mut table = self.table.borrow_mut();
        let table = &mut *table;
        let Some(entry) = table.services.get_mut(name) else { return };
        entry.hold = None;
        entry.ripe = true;
        mark(&mut table.fresh, name, entry);
    }
}

fn mark(fresh: &mut VecDeque<Rc<str>>, name: &Rc<str>, entry: &mut Entry) {
    if !std::mem::replace(&mut entry.is_fresh, true) {
        fresh.push_back(name.clone());
    }
}

impl Found {
    /// Reads a look-up's answer. Its sender may be anybody: an address that cannot be another machine's, of one that says
    /// it is another, is none.
    fn read(body: &glib::Variant) -> Option<Found> {
        type Answer = (i32, i32, String, String, String, String, i32, String, u16, Vec<Vec<u8>>, u32);
        let (interface, _, _, _, _, host, _, address, port, txt, flags) = body.get::<Answer>()?;
        let ip: IpAddr = address.parse().ok()?;
        let ip = ip.to_canonical();
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        if ip.is_unspecified() || ip.is_multicast() || broadcast || (ip.is_loopback() && flags & LOCAL == 0) {
            return None;
        }
        if host.len() > NAME_MAX {
            return None;
        }
        let address = match ip {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => {
                SocketAddrV6::new(v6, port, 0, u32::try_from(interface).ok()?).into()
            }
            ip => SocketAddr::new(ip, port),
        };
        Some(Found { host, address, txt: Txt::received(txt) })
    }
}

impl Client for Tracker {
    fn up(&self, _engine: &Rc<Engine>, daemon: &Rc<Daemon>) {
        if self.stopped.get() {
            return;
        }
        self.table.borrow_mut().status = Some(Ok(()));
        self.browse(daemon);
        self.tell();
    }

    fn running(&self, _engine: &Rc<Engine>, _daemon: &Rc<Daemon>, _running: bool) {}

    fn down(&self, _engine: &Rc<Engine>, cause: &str) {
        if self.stopped.get() {
            return;
        }
        self.forget(cause.to_owned());
        self.tell();
    }

    fn signal(&self, _engine: &Rc<Engine>, daemon: &Rc<Daemon>, name: &str, body: &glib::Variant) {
        if self.stopped.get() {
            return;
        }
        type Item = (i32, i32, String, String, String, u32);
        match name {
            "ItemNew" => {
                let Some((interface, protocol, name, _, domain, _)) = body.get::<Item>() else { return };
                self.appeared(interface, protocol, &name, domain);
                self.look_up(daemon);
            }
            "ItemRemove" => {
                let Some((interface, protocol, name, ..)) = body.get::<Item>() else { return };
                self.disappeared(interface, protocol, &name);
                self.tell();
            }
            "AllForNow" => {
                self.table.borrow_mut().all_for_now = true;
                self.tell();
            }
            "Failure" => {
                let cause = body.get::<(String,)>().map_or_else(|| "no cause given".into(), |(cause,)| cause);
                self.failed(daemon, cause);
                self.tell();
            }
            _ => {}
        }
    }
}
