//! The D-Bus backend: the state of the Avahi daemon, its objects and their signals. Survives restarts of the daemon and
//! the bus.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use gio::DBusMessage;
use glib::variant::ToVariant;

use super::bus::{BUS, Bus, CallError, Listener, Method, REPLY_TIMEOUT};
use super::events::{Announcement, BrowserEvent, Origin, Registered, Resolved, Watcher};
use super::names::{ServiceType, Txt};
use super::replies::{read_browser, read_resolved};
use super::system_bus::in_sandbox;
use crate::engine::{Engine, TimerKey};
use crate::log;

const NAME: &str = "org.freedesktop.Avahi";
const SERVER: &str = "org.freedesktop.Avahi.Server";
const BROWSER: &str = "org.freedesktop.Avahi.ServiceBrowser";
const RESOLVER: &str = "org.freedesktop.Avahi.ServiceResolver";
const GROUP: &str = "org.freedesktop.Avahi.EntryGroup";
const COLLISION_ERROR: &str = "org.freedesktop.Avahi.CollisionError";

/// Any interface or protocol.
const ANY: i32 = -1;

/// The state of Avahi's server in which it accepts registrations: its host name is established.
const RUNNING: i32 = 2;

/// The states of an entry group.
const ESTABLISHED: i32 = 2;
const COLLISION: i32 = 3;
const FAILURE: i32 = 4;

/// Lookup flag: do not wait for the TXT record, which may be malformed.
const NO_TXT: u32 = 4;

/// The timeout for starting the daemon. The bus itself gives up after 25 s.
const START_TIMEOUT: Duration = Duration::from_secs(26);

/// The first and the longest pause before the bus or a daemon that refuses calls is tried again. The pause doubles each
/// time. No event tells when they are available.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));

/// The most signals that are kept until the reply with the path of their object has arrived.
const MAX_EARLY_SIGNALS: usize = 1024;

/// Checks whether a TXT record can be published. This backend has no restrictions.
pub(super) fn check_txt(_: &Txt) -> Result<(), String> {
    Ok(())
}

/// Waits for threads to end. This backend has none.
pub(crate) fn end_threads() {}

pub(super) struct Backend {
    me: Weak<Backend>,
    engine: Rc<Engine>,
    watcher: Weak<dyn Watcher>,
    bus: RefCell<Option<Rc<Bus>>>,
    /// The unique bus name of the daemon while it is running.
    owner: RefCell<Option<String>>,
    /// The objects of the daemon by their paths.
    routes: RefCell<HashMap<String, Weak<DaemonObject>>>,
    /// The number of pending replies with a path, and the signals that arrived before them.
    expected: Cell<usize>,
    early_signals: RefCell<Vec<DBusMessage>>,
    /// Counts the starts of the daemon: replies of earlier ones are ignored.
    life: Cell<u64>,
    retry: Cell<Option<TimerKey>>,
    pause: Cell<Duration>,
}

type SignalCallback = Box<dyn Fn(&Rc<Engine>, &str, &glib::Variant)>;

/// An object of the daemon whose signals are received. Dropping it frees the daemon's object.
struct DaemonObject {
    backend: Weak<Backend>,
    life: u64,
    interface: &'static str,
    path: RefCell<Option<String>>,
    signal: SignalCallback,
}

impl Drop for DaemonObject {
    fn drop(&mut self) {
        if let (Some(link), Some(path)) = (self.backend.upgrade(), self.path.take())
            && link.life.get() == self.life
        {
            link.free(&path, self.interface);
        }
    }
}

/// Browses for the services of a type until dropped.
pub(super) struct ServiceBrowser {
    kind: ServiceType,
    object: Rc<DaemonObject>,
}

/// Follows the changes of one service until dropped.
pub(super) struct Resolver {
    _object: Rc<DaemonObject>,
}

/// A registered service. Dropping it withdraws the service.
pub(super) struct EntryGroup {
    object: Rc<DaemonObject>,
}

impl Backend {
    pub(super) fn new(engine: &Rc<Engine>, watcher: Weak<dyn Watcher>) -> Rc<Backend> {
        Rc::new_cyclic(|me| Backend {
            me: me.clone(),
            engine: engine.clone(),
            watcher,
            bus: RefCell::new(None),
            owner: RefCell::new(None),
            routes: RefCell::default(),
            expected: Cell::new(0),
            early_signals: RefCell::default(),
            life: Cell::new(0),
            retry: Cell::new(None),
            pause: Cell::new(RETRY.0),
        })
    }

    // ---- the bus and the daemon ----

    /// Starts to determine whether the daemon is running.
    pub(super) fn look(self: &Rc<Self>) {
        if let Some(timer) = self.retry.take() {
            self.engine.cancel_timer(timer);
        }
        if self.bus.borrow().is_none() {
            let listener: Weak<dyn Listener> = self.me.clone();
            let connected = Bus::connect(&self.engine, listener);
            match connected {
                Ok(bus) => {
                    for rule in [
                        format!(
                            "type='signal',sender='{0}',interface='{0}',member='NameOwnerChanged',arg0='{NAME}'",
                            BUS_NAME
                        ),
                        format!("type='signal',sender='{NAME}',interface='{SERVER}'"),
                    ] {
                        bus.call(BUS.method("AddMatch"), Some(&(rule,).to_variant()), REPLY_TIMEOUT, |_, reply| {
                            if let Err(CallError { message, .. }) = reply {
                                let event = log::warning("avahi").error(&message);
                                event.say(format_args!("cannot follow the state of the Avahi daemon: {message}"));
                            }
                        });
                    }
                    self.bus.replace(Some(bus));
                }
                Err(cause) => {
                    // Not from within join(): clients are notified in a later loop iteration, as always.
                    let me = self.me.clone();
                    self.engine.defer(move |_| {
                        if let Some(me) = me.upgrade() {
                            me.no_bus(cause);
                        }
                    });
                    return;
                }
            }
        }
        self.ask_owner(true);
    }

    fn no_bus(&self, cause: String) {
        self.set_down(in_sandbox(format!("there is no D-Bus system bus ({cause})")));
        self.look_later();
    }

    /// Looks again after a pause.
    fn look_later(&self) {
        let pause = self.pause.get();
        self.pause.set((pause * 2).min(RETRY.1));
        let me = self.me.clone();
        let retry = self.engine.after(pause, move |_| {
            if let Some(me) = me.upgrade() {
                me.retry.set(None);
                me.look();
            }
        });
        if let Some(old) = self.retry.replace(Some(retry)) {
            self.engine.cancel_timer(old);
        }
    }

    /// Asks the bus for the daemon and, with `start`, has the bus start it.
    fn ask_owner(self: &Rc<Self>, start: bool) {
        let Some(bus) = self.bus.borrow().clone() else { return };
        let me = self.me.clone();
        bus.call(BUS.method("GetNameOwner"), Some(&(NAME,).to_variant()), REPLY_TIMEOUT, move |_, reply| {
            let Some(me) = me.upgrade() else { return };
            match reply.map(|body| body.get::<(String,)>()) {
                Ok(Some((owner,))) => me.set_up(owner),
                Ok(None) => me.set_down("unexpected reply of the bus to GetNameOwner".into()),
                Err(_) if start => me.start_daemon(),
                Err(error) => me.set_no_daemon(&error),
            }
        });
    }

    fn start_daemon(self: &Rc<Self>) {
        let Some(bus) = self.bus.borrow().clone() else { return };
        let me = self.me.clone();
        bus.call(BUS.method("StartServiceByName"), Some(&(NAME, 0u32).to_variant()), START_TIMEOUT, move |_, reply| {
            let Some(me) = me.upgrade() else { return };
            match reply {
                Ok(_) => me.ask_owner(false),
                Err(error) => me.set_no_daemon(&error),
            }
        });
    }

    fn set_no_daemon(self: &Rc<Self>, error: &CallError) {
        // It may have started by itself meanwhile.
        if self.owner.borrow().is_some() {
            return;
        }
        self.pause.set(RETRY.0);
        self.set_down(in_sandbox(format!("the Avahi daemon is not running ({})", error.message)));
    }

    fn set_up(&self, owner: String) {
        let known = self.owner.replace(Some(owner.clone()));
        if known.as_ref() == Some(&owner) {
            return;
        }
        if known.is_some() {
            self.set_down("the Avahi daemon was restarted".into());
            self.owner.replace(Some(owner));
        }
        self.life.set(self.life.get() + 1);
        // Behind a filter, the daemon may be visible and yet refuse every call.
        self.call("/", SERVER, "GetState", None, |_, me, reply| match reply.map(|body| body.get::<(i32,)>()) {
            Ok(Some((state,))) => me.state_received(state),
            Ok(None) => me.refused("unexpected reply to GetState"),
            Err(error) => me.refused(&error.message),
        });
    }

    fn state_received(&self, state: i32) {
        self.pause.set(RETRY.0);
        self.notify(|watcher| watcher.up());
        self.notify(|watcher| watcher.running(state == RUNNING));
    }

    fn refused(&self, cause: &str) {
        self.set_down(in_sandbox(format!("the Avahi daemon cannot be called ({cause})")));
        self.look_later();
    }

    fn set_down(&self, cause: String) {
        self.owner.replace(None);
        self.life.set(self.life.get() + 1);
        self.routes.borrow_mut().clear();
        self.early_signals.borrow_mut().clear();
        self.expected.set(0);
        self.notify(|watcher| watcher.down(cause));
    }

    fn notify(&self, notify: impl FnOnce(&dyn Watcher)) {
        if let Some(watcher) = self.watcher.upgrade() {
            notify(&*watcher);
        }
    }

    // ---- calls and objects ----

    /// Calls the daemon. `then` is not called if the daemon stops first.
    fn call(
        &self,
        path: &str,
        interface: &str,
        name: &str,
        body: Option<&glib::Variant>,
        then: impl FnOnce(&Rc<Engine>, &Rc<Backend>, Result<glib::Variant, CallError>) + 'static,
    ) {
        let Some((bus, destination)) = self.destination() else { return };
        let method = Method { destination: &destination, path, interface, name };
        let (me, life) = (self.me.clone(), self.life.get());
        bus.call(method, body, REPLY_TIMEOUT, move |engine, reply| {
            if let Some(me) = me.upgrade().filter(|me| me.life.get() == life) {
                then(engine, &me, reply);
            }
        });
    }

    /// Creates an object of the daemon and receives its signals. `then` gets its path. If the returned object has been
    /// dropped by then, the daemon's object is freed.
    fn make(
        &self,
        name: &str,
        interface: &'static str,
        body: Option<&glib::Variant>,
        signal: impl Fn(&Rc<Engine>, &str, &glib::Variant) + 'static,
        then: impl FnOnce(&Rc<Engine>, &Rc<Backend>, &Rc<DaemonObject>, Result<String, CallError>) + 'static,
    ) -> Rc<DaemonObject> {
        let (backend, life) = (self.me.clone(), self.life.get());
        let object =
            Rc::new(DaemonObject { backend, life, interface, path: RefCell::new(None), signal: Box::new(signal) });
        let made = Rc::downgrade(&object);
        self.expected.set(self.expected.get() + 1);
        self.call("/", SERVER, name, body, move |engine, me, reply| {
            me.expected.set(me.expected.get().saturating_sub(1));
            let path = reply.and_then(|body| {
                let path = body.try_child_value(0).and_then(|path| path.str().map(str::to_owned));
                path.ok_or_else(|| CallError {
                    name: String::new(),
                    message: "unexpected reply without an object path".into(),
                })
            });
            let Some(made) = made.upgrade() else {
                if let Ok(path) = path {
                    me.free(&path, interface);
                }
                return;
            };
            let known = path.as_ref().ok().cloned();
            if let Some(path) = &known {
                made.path.replace(Some(path.clone()));
                me.routes.borrow_mut().insert(path.clone(), Rc::downgrade(&made));
            }
            then(engine, me, &made, path);
            let early =
                if me.expected.get() == 0 { me.early_signals.take() } else { me.early_signals.borrow().clone() };
            for message in early.iter().filter(|message| message.path().as_deref() == known.as_deref()) {
                me.pass_on(message);
            }
        });
        object
    }

    /// Frees an object of the daemon.
    fn free(&self, path: &str, interface: &'static str) {
        let route = self.routes.borrow_mut().remove(path);
        drop(route);
        if let Some((bus, destination)) = self.destination() {
            bus.tell(Method { destination: &destination, path, interface, name: "Free" }, None);
        }
    }

    fn destination(&self) -> Option<(Rc<Bus>, String)> {
        Some((self.bus.borrow().clone()?, self.owner.borrow().clone()?))
    }

    /// Passes a signal to its object.
    fn pass_on(&self, message: &DBusMessage) {
        let (Some(path), Some(member)) = (message.path(), message.member()) else { return };
        let object = self.routes.borrow().get(path.as_str()).map(Weak::upgrade);
        match object {
            Some(Some(object)) => (object.signal)(&self.engine, &member, &body_of(message)),
            Some(None) => {}
            None if self.expected.get() > 0 && self.early_signals.borrow().len() < MAX_EARLY_SIGNALS => {
                self.early_signals.borrow_mut().push(message.clone());
            }
            None => {}
        }
    }

    // ---- browsing and registering ----

    /// Browses for the services of a type until the returned browser is dropped.
    pub(super) fn browse(
        &self,
        kind: &ServiceType,
        callback: impl Fn(&Rc<Engine>, BrowserEvent) + 'static,
    ) -> ServiceBrowser {
        let query = (ANY, ANY, kind.as_str(), "", 0u32).to_variant();
        let callback = Rc::new(callback);
        let report = callback.clone();
        let signal = move |engine: &Rc<Engine>, name: &str, body: &glib::Variant| {
            if let Some(event) = read_browser(name, body) {
                report(engine, event);
            }
        };
        let object = self.make("ServiceBrowserNew", BROWSER, Some(&query), signal, move |engine, _, _, path| {
            if let Err(error) = path {
                callback(engine, BrowserEvent::Failure(error.message));
            }
        });
        ServiceBrowser { kind: kind.clone(), object }
    }

    /// Registers a service until the returned group is dropped, and reports the outcome.
    pub(super) fn register(
        &self,
        announcement: &Announcement,
        name: &str,
        report: impl Fn(&Rc<Engine>, Registered) + 'static,
    ) -> EntryGroup {
        let report = Rc::new(report);
        let own = name.to_owned();
        let report_state = report.clone();
        let signal = move |engine: &Rc<Engine>, name: &str, body: &glib::Variant| {
            let Some((state, error)) = body.get::<(i32, String)>().filter(|_| name == "StateChanged") else { return };
            match state {
                ESTABLISHED => report_state(engine, Registered::Established(own.clone())),
                COLLISION => report_state(engine, Registered::Collision),
                FAILURE => report_state(engine, Registered::Failure(error)),
                _ => {}
            }
        };
        let service = (
            interface_of(announcement),
            ANY,
            0u32,
            name,
            announcement.kind.as_str(),
            "",
            "",
            announcement.port,
            announcement.txt.strings(),
        )
            .to_variant();
        let object = self.make("EntryGroupNew", GROUP, None, signal, move |engine, me, object, path| {
            let path = match path {
                Ok(path) => path,
                Err(error) => return report(engine, Registered::Failure(error.message)),
            };
            // The second call need not wait for the first reply: calls are handled in order, and committing an empty
            // group has no effect.
            for (method, body) in [("AddService", Some(&service)), ("Commit", None)] {
                let (report, object) = (report.clone(), Rc::downgrade(object));
                me.call(&path, GROUP, method, body, move |engine, _, reply| {
                    if object.strong_count() == 0 {
                        return;
                    }
                    match reply {
                        Ok(_) => {}
                        Err(error) if error.name == COLLISION_ERROR => report(engine, Registered::Collision),
                        Err(error) => report(engine, Registered::Failure(error.message)),
                    }
                });
            }
        });
        EntryGroup { object }
    }
}

/// Returns the number of the only interface to publish on, for Avahi.
fn interface_of(announcement: &Announcement) -> i32 {
    announcement.interface.and_then(|interface| i32::try_from(interface).ok()).unwrap_or(ANY)
}

impl EntryGroup {
    /// Changes the TXT record of the service in place. Returns false if it has to be registered anew; `refused` is called if
    /// that turns out later.
    pub(super) fn update(&self, announcement: &Announcement, name: &str, refused: impl FnOnce() + 'static) -> bool {
        let (Some(backend), Some(path)) = (self.object.backend.upgrade(), self.object.path.borrow().clone()) else {
            return false;
        };
        let (kind, txt) = (announcement.kind.as_str(), announcement.txt.strings());
        let body = (interface_of(announcement), ANY, 0u32, name, kind, "", txt).to_variant();
        let object = Rc::downgrade(&self.object);
        backend.call(&path, GROUP, "UpdateServiceTxt", Some(&body), move |_, _, reply| {
            if reply.is_err() && object.strong_count() > 0 {
                refused();
            }
        });
        true
    }
}

impl ServiceBrowser {
    /// Follows a service: reports its address and TXT record now and after each change, or `None` if they cannot be
    /// determined. Returns `None` if there can be no resolver.
    pub(super) fn follow(
        &self,
        origin: Origin,
        name: &str,
        domain: &str,
        report: impl Fn(&Rc<Engine>, Option<Resolved>) + 'static,
    ) -> Option<Resolver> {
        let link = self.object.backend.upgrade()?;
        let report = Rc::new(report);
        let report_state = report.clone();
        let signal = move |engine: &Rc<Engine>, name: &str, body: &glib::Variant| match name {
            "Found" => report_state(engine, read_resolved(body)),
            "Failure" => report_state(engine, None),
            _ => {}
        };
        let query = self.query(origin, name, domain, 0);
        let object =
            link.make("ServiceResolverNew", RESOLVER, Some(&query.clone()), signal, move |_, link, _, path| {
                if path.is_err() {
                    // The daemon refuses further objects: a single result is better than none.
                    link.resolve(&query, move |engine, resolved| report(engine, resolved));
                }
            });
        Some(Resolver { _object: object })
    }

    /// Looks up the address of a service, and its TXT record if `with_txt` is set. `then` is not called if the daemon
    /// stops first.
    pub(super) fn look_up(
        &self,
        origin: Origin,
        name: &str,
        domain: &str,
        with_txt: bool,
        then: impl FnOnce(&Rc<Engine>, Option<Resolved>) + 'static,
    ) {
        let Some(link) = self.object.backend.upgrade() else { return };
        link.resolve(&self.query(origin, name, domain, if with_txt { 0 } else { NO_TXT }), then);
    }

    fn query(&self, origin: Origin, name: &str, domain: &str, flags: u32) -> glib::Variant {
        let Origin { interface, protocol } = origin;
        // A service found over IPv4 is looked up by IPv4: each protocol yields its own kind of address.
        (interface, protocol, name, self.kind.as_str(), domain, protocol, flags).to_variant()
    }
}

impl Backend {
    fn resolve(&self, query: &glib::Variant, then: impl FnOnce(&Rc<Engine>, Option<Resolved>) + 'static) {
        self.call("/", SERVER, "ResolveService", Some(query), move |engine, _, reply| {
            then(engine, reply.ok().and_then(|body| read_resolved(&body)));
        });
    }
}

const BUS_NAME: &str = "org.freedesktop.DBus";

fn body_of(message: &DBusMessage) -> glib::Variant {
    message.body().unwrap_or_else(|| ().to_variant())
}

impl Listener for Backend {
    fn signal(&self, _engine: &Rc<Engine>, message: &DBusMessage) {
        let Some(me) = self.me.upgrade() else { return };
        let (Some(sender), Some(member)) = (message.sender(), message.member()) else { return };
        let body = body_of(message);
        if sender == BUS_NAME {
            if member == "NameOwnerChanged"
                && let Some((name, _, owner)) = body.get::<(String, String, String)>()
                && name == NAME
            {
                match owner.is_empty() {
                    true => me.set_down("the Avahi daemon has stopped".into()),
                    false => me.set_up(owner),
                }
            }
            return;
        }
        // Any process on the bus can send signals to this one.
        let genuine = self.owner.borrow().as_deref() == Some(sender.as_str());
        if !genuine {
            return;
        }
        if message.interface().as_deref() == Some(SERVER) {
            if member == "StateChanged"
                && let Some((state, _)) = body.get::<(i32, String)>()
            {
                me.notify(|watcher| watcher.running(state == RUNNING));
            }
            return;
        }
        me.pass_on(message);
    }

    fn closed(&self, _engine: &Rc<Engine>, cause: String) {
        let bus = self.bus.take();
        drop(bus);
        if let Some(me) = self.me.upgrade() {
            me.no_bus(cause);
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(timer) = self.retry.take() {
            self.engine.cancel_timer(timer);
        }
        if let Some(bus) = self.bus.take() {
            bus.close();
        }
    }
}
