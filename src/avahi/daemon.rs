//! The Avahi daemon as seen from one main context: is it there, does it run, and which of its signals go to whom. It
//! survives restarts of the daemon and of the bus; those who use it are told and begin anew.
//!
//! Everything here happens on the engine's turns, the first contact included, so that what a program publishes before it
//! goes into the background is published by the process that stays.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use gio::DBusMessage;
use glib::variant::ToVariant;

use super::bus::{ANSWER, BUS, Bus, CallError, Listener, Method};
use crate::engine::{Engine, TimerKey};

const NAME: &str = "org.freedesktop.Avahi";
pub(super) const SERVER: &str = "org.freedesktop.Avahi.Server";
pub(super) const BROWSER: &str = "org.freedesktop.Avahi.ServiceBrowser";
pub(super) const GROUP: &str = "org.freedesktop.Avahi.EntryGroup";

/// Any interface, any protocol.
pub(super) const ANY: i32 = -1;

/// The state of Avahi's server in which it takes registrations: its host name is established.
const RUNNING: i32 = 2;

/// How long the bus may take to start the daemon. The bus itself gives up after 25 s.
const START: Duration = Duration::from_secs(26);

/// How soon a bus that is not there is looked for again; each time twice as long, up to the second. There is no event for
/// its coming.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));

/// Signals that came before the answer that names their object.
const ORPHANS: usize = 1024;

/// Who uses the daemon. Called from the engine, never from within a call of theirs but [`Daemon::join`].
pub(super) trait Client {
    /// The daemon is there, and knows nothing of what was asked of any before.
    fn up(&self, engine: &Rc<Engine>, daemon: &Rc<Daemon>);
    /// It takes registrations, or does not any more.
    fn running(&self, engine: &Rc<Engine>, daemon: &Rc<Daemon>, running: bool);
    /// It is not there. May be told several times.
    fn down(&self, engine: &Rc<Engine>, cause: &str);
    /// A signal of an object that was routed here.
    fn signal(&self, engine: &Rc<Engine>, daemon: &Rc<Daemon>, name: &str, body: &glib::Variant);
}

#[derive(Clone, Debug, PartialEq)]
enum Status {
    /// Being found out.
    Unknown,
    Down(String),
    Up {
        owner: String,
        running: bool,
    },
}

pub(super) struct Daemon {
    me: Weak<Daemon>,
    engine: Rc<Engine>,
    bus: RefCell<Option<Rc<Bus>>>,
    status: RefCell<Status>,
    clients: RefCell<Vec<Weak<dyn Client>>>,
    /// Whose which object of the daemon is.
    routes: RefCell<HashMap<String, Weak<dyn Client>>>,
    /// Answers that will name an object, and signals that came before.
    expected: Cell<usize>,
    orphans: RefCell<Vec<DBusMessage>>,
    /// Counts the daemons there have been: what answers a call to an earlier one is not heard.
    life: Cell<u64>,
    retry: Cell<Option<TimerKey>>,
    pause: Cell<Duration>,
}

thread_local! {
    static DAEMONS: RefCell<Vec<Weak<Daemon>>> = const { RefCell::new(Vec::new()) };
}

impl Daemon {
    /// Begins to use the daemon: what is known of it is told at once, the rest as it becomes known.
    pub(super) fn join(engine: &Rc<Engine>, client: &Rc<dyn Client>) -> Rc<Daemon> {
        let known = DAEMONS.with(|daemons| {
            let mut daemons = daemons.borrow_mut();
            daemons.retain(|daemon| daemon.strong_count() > 0);
            daemons.iter().filter_map(Weak::upgrade).find(|daemon| Rc::ptr_eq(&daemon.engine, engine))
        });
        let daemon = known.unwrap_or_else(|| {
            let daemon = Rc::new_cyclic(|me| Daemon {
                me: me.clone(),
                engine: engine.clone(),
                bus: RefCell::new(None),
                status: RefCell::new(Status::Down(String::new())),
                clients: RefCell::default(),
                routes: RefCell::default(),
                expected: Cell::new(0),
                orphans: RefCell::default(),
                life: Cell::new(0),
                retry: Cell::new(None),
                pause: Cell::new(RETRY.0),
            });
            DAEMONS.with(|daemons| daemons.borrow_mut().push(Rc::downgrade(&daemon)));
            daemon
        });
        let mut clients = daemon.clients.borrow_mut();
        clients.retain(|client| client.strong_count() > 0);
        clients.push(Rc::downgrade(client));
        drop(clients);
        let status = daemon.status.borrow().clone();
        match status {
            Status::Unknown => {}
            // It may have come since.
            Status::Down(_) => daemon.look(),
            Status::Up { running, .. } => {
                client.up(engine, &daemon);
                if running {
                    client.running(engine, &daemon, true);
                }
            }
        }
        daemon
    }

    /// What there is to say of a daemon that has not been heard of.
    pub(super) fn complaint(&self) -> String {
        match &*self.status.borrow() {
            Status::Down(cause) => cause.clone(),
            _ => "the Avahi daemon does not answer".into(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.status.borrow(), Status::Up { .. })
    }

    // ---- the bus, and who is on it ----

    fn look(self: &Rc<Self>) {
        self.status.replace(Status::Unknown);
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
                        bus.call(BUS.method("AddMatch"), Some(&(rule,).to_variant()), ANSWER, |_, _| {});
                    }
                    self.bus.replace(Some(bus));
                }
                Err(cause) => {
                    // Not from within join(): those who join are told on a later turn, as of everything else.
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

    fn no_bus(self: &Rc<Self>, cause: String) {
        self.set_down(format!("there is no D-Bus system bus ({cause})"));
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

    /// Asks the bus who the daemon is, and if it is nobody, to start it.
    fn ask_owner(self: &Rc<Self>, start: bool) {
        let Some(bus) = self.bus.borrow().clone() else { return };
        let me = self.me.clone();
        bus.call(BUS.method("GetNameOwner"), Some(&(NAME,).to_variant()), ANSWER, move |_, answer| {
            let Some(me) = me.upgrade() else { return };
            me.pause.set(RETRY.0);
            match answer.map(|body| body.get::<(String,)>()) {
                Ok(Some((owner,))) => me.set_up(owner),
                Ok(None) => me.set_down("the bus does not say who the Avahi daemon is".into()),
                Err(_) if start => me.start_daemon(),
                Err(error) => me.set_no_daemon(&error),
            }
        });
    }

    fn start_daemon(self: &Rc<Self>) {
        let Some(bus) = self.bus.borrow().clone() else { return };
        let me = self.me.clone();
        bus.call(BUS.method("StartServiceByName"), Some(&(NAME, 0u32).to_variant()), START, move |_, answer| {
            let Some(me) = me.upgrade() else { return };
            match answer {
                Ok(_) => me.ask_owner(false),
                Err(error) => me.set_no_daemon(&error),
            }
        });
    }

    fn set_no_daemon(self: &Rc<Self>, error: &CallError) {
        // It may have come by itself meanwhile.
        if self.is_up() {
            return;
        }
        self.set_down(format!("the Avahi daemon is not running ({})", error.message));
    }

    fn set_up(self: &Rc<Self>, owner: String) {
        let same = matches!(&*self.status.borrow(), Status::Up { owner: known, .. } if *known == owner);
        if same {
            return;
        }
        if self.is_up() {
            self.set_down("the Avahi daemon was restarted".into());
        }
        self.status.replace(Status::Up { owner, running: false });
        self.life.set(self.life.get() + 1);
        for client in self.clients() {
            client.up(&self.engine, self);
        }
        self.call("/", SERVER, "GetState", None, |_, me, answer| {
            if let Some((state,)) = answer.ok().and_then(|body| body.get::<(i32,)>()) {
                me.set_running(state == RUNNING);
            }
        });
    }

    fn set_running(self: &Rc<Self>, now: bool) {
        match &mut *self.status.borrow_mut() {
            Status::Up { running, .. } if *running != now => *running = now,
            _ => return,
        }
        for client in self.clients() {
            client.running(&self.engine, self, now);
        }
    }

    fn set_down(self: &Rc<Self>, cause: String) {
        self.status.replace(Status::Down(cause.clone()));
        self.life.set(self.life.get() + 1);
        self.routes.borrow_mut().clear();
        self.orphans.borrow_mut().clear();
        self.expected.set(0);
        for client in self.clients() {
            client.down(&self.engine, &cause);
        }
    }

    fn clients(&self) -> Vec<Rc<dyn Client>> {
        self.clients.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    // ---- what clients call ----

    /// Calls the daemon. Not answered if that daemon goes first: then its clients are told that instead.
    pub(super) fn call(
        &self,
        path: &str,
        interface: &str,
        name: &str,
        body: Option<&glib::Variant>,
        then: impl FnOnce(&Rc<Engine>, &Rc<Daemon>, Result<glib::Variant, CallError>) + 'static,
    ) {
        let Some((bus, destination)) = self.addressee() else { return };
        let method = Method { destination: &destination, path, interface, name };
        let (me, life) = (self.me.clone(), self.life.get());
        bus.call(method, body, ANSWER, move |engine, answer| {
            if let Some(me) = me.upgrade().filter(|me| me.life.get() == life) {
                then(engine, &me, answer);
            }
        });
    }

    /// Has the daemon make an object whose signals go to a client. `then` gets its path. If the client is gone by then, so
    /// is the object.
    pub(super) fn make(
        &self,
        name: &str,
        interface: &'static str,
        body: Option<&glib::Variant>,
        client: Weak<dyn Client>,
        then: impl FnOnce(&Rc<Engine>, &Rc<Daemon>, Result<String, CallError>) + 'static,
    ) {
        self.expected.set(self.expected.get() + 1);
        self.call("/", SERVER, name, body, move |engine, me, answer| {
            me.expected.set(me.expected.get().saturating_sub(1));
            let path = answer.and_then(|body| {
                let path = body.try_child_value(0).and_then(|path| path.str().map(str::to_owned));
                path.ok_or_else(|| CallError { name: String::new(), message: "it names no object".into() })
            });
            let made = match (&path, client.strong_count() > 0) {
                (Ok(path), true) => Some(path.clone()),
                (Ok(path), false) => {
                    me.free(path, interface);
                    return;
                }
                (Err(_), _) => None,
            };
            if let Some(path) = &made {
                me.routes.borrow_mut().insert(path.clone(), client);
            }
            then(engine, me, path);
            let early = if me.expected.get() == 0 { me.orphans.take() } else { me.orphans.borrow().clone() };
            for message in early.iter().filter(|message| message.path().as_deref() == made.as_deref()) {
                me.pass_on(message);
            }
        });
    }

    /// Has the daemon drop an object.
    pub(super) fn free(&self, path: &str, interface: &'static str) {
        let route = self.routes.borrow_mut().remove(path);
        drop(route);
        if let Some((bus, destination)) = self.addressee() {
            bus.tell(Method { destination: &destination, path, interface, name: "Free" }, None);
        }
    }

    fn addressee(&self) -> Option<(Rc<Bus>, String)> {
        match &*self.status.borrow() {
            Status::Up { owner, .. } => Some((self.bus.borrow().clone()?, owner.clone())),
            _ => None,
        }
    }

    /// A signal of one of the daemon's objects.
    fn pass_on(self: &Rc<Self>, message: &DBusMessage) {
        let (Some(path), Some(member)) = (message.path(), message.member()) else { return };
        let client = self.routes.borrow().get(path.as_str()).map(Weak::upgrade);
        match client {
            Some(Some(client)) => client.signal(&self.engine, self, &member, &body_of(message)),
            Some(None) => {}
            None if self.expected.get() > 0 && self.orphans.borrow().len() < ORPHANS => {
                self.orphans.borrow_mut().push(message.clone());
            }
            None => {}
        }
    }
}

const BUS_NAME: &str = "org.freedesktop.DBus";

fn body_of(message: &DBusMessage) -> glib::Variant {
    message.body().unwrap_or_else(|| ().to_variant())
}

impl Listener for Daemon {
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
        // Anybody on the bus can send us anything.
        let genuine = matches!(&*self.status.borrow(), Status::Up { owner, .. } if sender == owner.as_str());
        if !genuine {
            return;
        }
        if message.interface().as_deref() == Some(SERVER) {
            if member == "StateChanged"
                && let Some((state, _)) = body.get::<(i32, String)>()
            {
                me.set_running(state == RUNNING);
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

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(timer) = self.retry.take() {
            self.engine.cancel_timer(timer);
        }
        if let Some(bus) = self.bus.take() {
            bus.close();
        }
    }
}
