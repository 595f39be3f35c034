//! Avahi by the crate `zeroconf`, for builds without D-Bus: a thread for each type that is followed and each service that
//! is registered, and one, the sentinel, that notices whether the daemon is there. They start on the engine's turns, after
//! any fork, and talk to it by a bounded mailbox.
//!
//! What that crate does not tell is not known here: TXT records (it aborts the process when it reads one that is not UTF-8,
//! which any machine of the network can send), the interface of a link-local address, which of several interfaces a
//! service has left, when all has been told, and that the host was renamed.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::str::FromStr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use zeroconf::prelude::*;
use zeroconf::{self as mdns, EventLoop, MdnsBrowser, MdnsService, NetworkInterface, TxtRecord};

use super::events::{Announcement, BrowserEvent, LOOPBACK, Origin, Registered, Resolved, Watcher};
use super::names::{ServiceType, Txt};
use super::system_bus::{self, in_sandbox};
pub(crate) use super::worker::end_threads;
use super::worker::{HelperThread, Mail, lock};
use crate::engine::{Engine, TimerKey};
use crate::log;

/// How long a thread waits for the daemon before it looks whether it is to end: nothing can wake it.
const TURN: Duration = Duration::from_millis(100);

/// How soon a daemon that is not there is looked for again; each time twice as long, up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));

/// The most names that are remembered of a type.
const MAX_NAMES: usize = 2048;

/// The most places that one name is remembered at.
const MAX_LOCATIONS: usize = 16;

/// That all has been told is taken for granted when it was quiet for so long, but not before [`FIRST`], nor after [`LAST`].
const QUIET: Duration = Duration::from_millis(500);
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(5);

/// Longer than Avahi's own time-out of look-ups: what is to come of a service that has gone has come.
const STALE: Duration = Duration::from_secs(6);

/// A type that nobody publishes. Followed on the loopback interface, it costs no packet.
const SENTINEL: &str = "_glib-network._tcp";

/// Checks whether a TXT record can be published: its values are C strings on their way.
pub(super) fn check_txt(txt: &Txt) -> Result<(), String> {
    for (key, value) in txt.pairs() {
        if std::str::from_utf8(value).is_err() || value.contains(&0) {
            let key = String::from_utf8_lossy(key);
            return Err(format!(
                "this program was built to use Avahi by the crate zeroconf, which publishes only text in a TXT record, \
                 and the value of {key:?} is none"
            ));
        }
    }
    Ok(())
}

/// What went wrong, as the crate's callbacks said it.
#[derive(Clone, Default)]
struct Failed(Arc<Mutex<Option<String>>>);

impl Failed {
    fn set(&self, cause: String) {
        lock(&self.0).get_or_insert(cause);
    }

    /// Serves what the crate waits for until nobody wants it any more, or something went wrong: then that is returned.
    fn serve<T>(&self, events: &EventLoop, mail: &Mail<T>) -> Option<String> {
        while !mail.is_over() {
            if let Some(cause) = lock(&self.0).take().or_else(danger) {
                return Some(cause);
            }
            if let Err(error) = events.poll(TURN) {
                self.set(error.to_string());
            }
        }
        None
    }
}

/// With its debug log on, the crate reads every TXT record, and aborts at one that is not UTF-8.
fn danger() -> Option<String> {
    ::log::log_enabled!(target: "zeroconf::avahi::browser", ::log::Level::Debug).then(|| {
        "the debug log of the crate zeroconf is on, with which any machine of the network can abort this program: \
         set zeroconf=info"
            .to_owned()
    })
}

/// Browses until nobody wants it any more, or something goes wrong: then that is returned.
fn follow<T>(
    kind: &str,
    interface: NetworkInterface,
    mail: &Arc<Mail<T>>,
    started: impl FnOnce(),
    tell: impl Fn(ThreadEvent) + Send + Sync + 'static,
) -> Option<String> {
    if let Some(cause) = danger() {
        return Some(cause);
    }
    let kind = match mdns::ServiceType::from_str(kind) {
        Ok(kind) => kind,
        Err(error) => return Some(error.to_string()),
    };
    let failed = Failed::default();
    let failing = failed.clone();
    let mut browser = MdnsBrowser::new(kind);
    browser.set_network_interface(interface);
    browser.set_service_callback(Box::new(move |event, _| match event {
        Ok(mdns::BrowserEvent::Add(found)) => tell(ThreadEvent::Add {
            name: found.name().clone(),
            host: found.host_name().clone(),
            address: found.address().clone(),
            port: *found.port(),
        }),
        Ok(mdns::BrowserEvent::Remove(gone)) => tell(ThreadEvent::Remove(gone.name().clone())),
        Err(error) => match unresolved(&error.to_string()) {
            Some(Unresolved::Name(name)) => tell(ThreadEvent::Unresolved(name.to_owned())),
            Some(Unresolved::Refused) => tell(ThreadEvent::Refused),
            None => failing.set(error.to_string()),
        },
    }));
    let events = match browser.browse_services() {
        Ok(events) => events,
        Err(error) => return Some(error.to_string()),
    };
    started();
    failed.serve(&events, mail)
}

enum Unresolved<'a> {
    Name(&'a str),
    Refused,
}

/// Reads errors of the crate that are about one service alone: it has words for them only.
fn unresolved(error: &str) -> Option<Unresolved<'_>> {
    if error.contains("AvahiServiceResolver") {
        return Some(Unresolved::Refused);
    }
    let rest = error.strip_prefix("failed to resolve service `")?;
    let end = rest.rfind("` of type `")?;
    Some(Unresolved::Name(&rest[..end]))
}

// ---- the daemon ----

enum DaemonState {
    Up,
    Down(String),
}

pub(super) struct Backend {
    engine: Rc<Engine>,
    watcher: Weak<dyn Watcher>,
    sentinel: RefCell<Option<HelperThread<DaemonState>>>,
}

impl Backend {
    pub(super) fn new(engine: &Rc<Engine>, watcher: Weak<dyn Watcher>) -> Rc<Backend> {
        Rc::new(Backend { engine: engine.clone(), watcher, sentinel: RefCell::new(None) })
    }

    /// Begins to find out whether the daemon is there, at once and not only when the sentinel does so next.
    pub(super) fn look(&self) {
        let watcher = self.watcher.clone();
        let hear = move |_: &Rc<Engine>, watched| {
            let Some(watcher) = watcher.upgrade() else { return };
            match watched {
                DaemonState::Up => {
                    watcher.up();
                    watcher.running(true);
                }
                DaemonState::Down(cause) => watcher.down(cause),
            }
        };
        let sentinel = HelperThread::start(&self.engine, hear, DaemonState::Down, |mail| {
            let mut pause = RETRY.0;
            while !mail.is_over() {
                let came = Cell::new(false);
                let up = || {
                    came.set(true);
                    mail.send(DaemonState::Up);
                };
                let interface = NetworkInterface::AtIndex(LOOPBACK);
                let Some(cause) = follow(SENTINEL, interface, mail, up, |_| {}) else { return };
                pause = if came.get() { RETRY.0 } else { (pause * 2).min(RETRY.1) };
                mail.send(DaemonState::Down(match system_bus::open() {
                    Ok(_) if danger().is_some() => cause,
                    Ok(_) => in_sandbox(format!("the Avahi daemon is not running, or does not answer ({cause})")),
                    Err(error) => in_sandbox(format!("there is no D-Bus system bus ({error})")),
                }));
                mail.pause(pause);
            }
        });
        let before = self.sentinel.replace(Some(sentinel));
        drop(before);
    }

    /// Follows the services of a type, and tells of them from the engine, until what is returned is dropped.
    pub(super) fn browse(
        &self,
        kind: &ServiceType,
        hear: impl Fn(&Rc<Engine>, BrowserEvent) + 'static,
    ) -> ServiceBrowser {
        let names = Rc::new(KnownNames {
            engine: self.engine.clone(),
            hear: Box::new(hear),
            known: RefCell::default(),
            started: Cell::new(None),
            last: Cell::new(Instant::now()),
            quiet: Cell::new(None),
            crowded: Cell::new(false),
        });
        let event = names.clone();
        let kind = kind.clone();
        let worker = HelperThread::start(
            &self.engine,
            move |_, told| event.hear(told),
            ThreadEvent::Failure,
            move |mail| {
                let tell = mail.clone();
                let started = || mail.send(ThreadEvent::Started);
                let cause = follow(kind.as_str(), NetworkInterface::Unspec, mail, started, move |told| tell.send(told));
                if let Some(cause) = cause {
                    mail.send(ThreadEvent::Failure(cause));
                }
            },
        );
        ServiceBrowser { names, _worker: worker }
    }

    /// Registers a service until what is returned is dropped, and tells what becomes of it.
    pub(super) fn register(
        &self,
        what: &Announcement,
        name: &str,
        told: impl Fn(&Rc<Engine>, Registered) + 'static,
    ) -> EntryGroup {
        let (what, name) = (what.clone(), name.to_owned());
        let worker = HelperThread::start(&self.engine, told, Registered::Failure, move |mail| {
            let _place = Taken::take(&what.kind, &name, mail);
            if let Some(cause) = serve(&what, &name, mail) {
                mail.send(cause);
            }
        });
        EntryGroup { _worker: worker }
    }
}

// ---- following the services of a type ----

/// What a thread tells that follows a type.
enum ThreadEvent {
    Started,
    Add {
        name: String,
        host: String,
        address: String,
        port: u16,
    },
    Unresolved(String),
    Remove(String),
    /// So many are being looked up that the daemon takes no more.
    Refused,
    Failure(String),
}

pub(super) struct ServiceBrowser {
    names: Rc<KnownNames>,
    _worker: HelperThread<ThreadEvent>,
}

type Callback = Box<dyn Fn(&Rc<Engine>, BrowserEvent)>;

/// The names that were told, on how many places. Each place is told when it has been looked up, or could not be; that one
/// of them has gone is told as soon as it has.
struct KnownNames {
    engine: Rc<Engine>,
    hear: Callback,
    known: RefCell<HashMap<String, KnownName>>,
    started: Cell<Option<Instant>>,
    last: Cell<Instant>,
    quiet: Cell<Option<TimerKey>>,
    crowded: Cell<bool>,
}

struct KnownName {
    /// Places that were told, less those that have gone. Less than 0 while the outcome of a look-up is on its way of what
    /// has gone since.
    balance: i32,
    locations: Vec<Option<Location>>,
    changed: Instant,
}

#[derive(Clone)]
struct Location {
    host: String,
    ip: IpAddr,
    port: u16,
}

impl KnownNames {
    fn hear(self: &Rc<Self>, told: ThreadEvent) {
        self.last.set(Instant::now());
        match told {
            ThreadEvent::Started => {
                self.started.set(Some(Instant::now()));
                self.wait_for_quiet(FIRST);
            }
            ThreadEvent::Add { name, host, address, port } => {
                let answer = address.parse().ok().map(|ip| Location { host, ip, port });
                self.appeared(name, answer);
            }
            ThreadEvent::Unresolved(name) => self.appeared(name, None),
            ThreadEvent::Remove(name) => self.disappeared(name),
            ThreadEvent::Refused if self.crowded.replace(true) => {}
            ThreadEvent::Refused => {
                // Any machine can bring that about: no warning, which some programs make fatal.
                let event = log::info("browse");
                event.say(format_args!("more services of a type than Avahi resolves at a time; ignoring the rest"));
            }
            ThreadEvent::Failure(cause) => (self.hear)(&self.engine, BrowserEvent::Failure(cause)),
        }
    }

    fn wait_for_quiet(self: &Rc<Self>, wait: Duration) {
        let me = Rc::downgrade(self);
        let timer = self.engine.after(wait, move |_| {
            let Some(me) = me.upgrade() else { return };
            me.quiet.set(None);
            let late = me.started.get().is_some_and(|started| started.elapsed() >= LAST);
            let left = QUIET.saturating_sub(me.last.get().elapsed());
            if late || left.is_zero() {
                (me.hear)(&me.engine, BrowserEvent::AllForNow);
            } else {
                me.wait_for_quiet(left);
            }
        });
        self.quiet.set(Some(timer));
    }

    fn appeared(&self, name: String, answer: Option<Location>) {
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_NAMES && !known.contains_key(&name) {
            return;
        }
        let entry = known.entry(name.clone()).or_insert_with(KnownName::new);
        entry.expire();
        entry.balance += 1;
        entry.changed = Instant::now();
        if entry.balance <= 0 {
            return;
        }
        if entry.locations.len() >= MAX_LOCATIONS {
            return;
        }
        let place = place(entry.locations.len());
        entry.locations.push(answer);
        drop(known);
        (self.hear)(&self.engine, BrowserEvent::New { place, name, domain: String::new() });
    }

    fn disappeared(&self, name: String) {
        let mut known = self.known.borrow_mut();
        if known.len() >= MAX_NAMES && !known.contains_key(&name) {
            return;
        }
        let entry = known.entry(name.clone()).or_insert_with(KnownName::new);
        entry.expire();
        entry.balance -= 1;
        entry.changed = Instant::now();
        if entry.balance > 0 {
            return;
        }
        let places = std::mem::take(&mut entry.locations).len();
        if entry.balance == 0 {
            known.remove(&name);
        }
        drop(known);
        for number in 0..places {
            (self.hear)(&self.engine, BrowserEvent::Gone { place: place(number), name: name.clone() });
        }
    }
}

impl Drop for KnownNames {
    fn drop(&mut self) {
        if let Some(timer) = self.quiet.take() {
            self.engine.cancel_timer(timer);
        }
    }
}

fn place(number: usize) -> Origin {
    Origin { interface: 0, protocol: i32::try_from(number).unwrap_or(i32::MAX) }
}

impl KnownName {
    fn new() -> Self {
        KnownName { balance: 0, locations: Vec::new(), changed: Instant::now() }
    }

    /// What a look-up has not brought by now it does not bring.
    fn expire(&mut self) {
        if self.balance < 0 && self.changed.elapsed() > STALE {
            self.balance = 0;
        }
    }
}

/// The crate tells once.
pub(super) struct Resolver(());

impl ServiceBrowser {
    /// Changes are not told: those who want them look up as the others do.
    pub(super) fn follow(
        &self,
        _place: Origin,
        _name: &str,
        _domain: &str,
        _told: impl Fn(&Rc<Engine>, Option<Resolved>) + 'static,
    ) -> Option<Resolver> {
        None
    }

    /// Tells where a service is to be reached, on the next turn.
    pub(super) fn look_up(
        &self,
        place: Origin,
        name: &str,
        _domain: &str,
        _with_txt: bool,
        then: impl FnOnce(&Rc<Engine>, Option<Resolved>) + 'static,
    ) {
        let answer = || {
            let known = self.names.known.borrow();
            let number = usize::try_from(place.protocol).ok()?;
            known.get(name)?.locations.get(number)?.clone()
        };
        let found = answer().and_then(|Location { host, ip, port }| {
            Resolved::check(host, ip, port, Txt::default(), 0, ip.is_loopback() && is_alone())
        });
        self.names.engine.defer(move |engine| then(engine, found));
    }
}

/// Is this machine on no network? Only then is what is said to be on it said by it: the crate tells neither on which
/// interface it was event, nor that it is our own.
fn is_alone() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let routes = read("/proc/self/net/route").lines().count() > 1;
    let addresses = read("/proc/self/net/if_inet6").lines().any(|line| !line.ends_with(" lo"));
    !routes && !addresses
}

// ---- registering ----

/// A service that is registered while this lives; the thread withdraws it within [`TURN`].
pub(super) struct EntryGroup {
    _worker: HelperThread<Registered>,
}

/// Registers a service and serves that, until nobody wants it any more or something goes wrong: then that is returned.
fn serve(what: &Announcement, name: &str, mail: &Arc<Mail<Registered>>) -> Option<Registered> {
    let failed = Failed::default();
    let (failing, tell) = (failed.clone(), mail.clone());
    let kind = match mdns::ServiceType::from_str(what.kind.as_str()) {
        Ok(kind) => kind,
        Err(error) => return Some(Registered::Failure(error.to_string())),
    };
    let mut service = MdnsService::new(kind, what.port);
    service.set_name(name);
    service.set_network_interface(what.interface.map_or(NetworkInterface::Unspec, NetworkInterface::AtIndex));
    let mut txt = TxtRecord::new();
    for (key, value) in what.txt.pairs() {
        let (Ok(key), Ok(value)) = (std::str::from_utf8(key), std::str::from_utf8(value)) else { continue };
        if let Err(error) = txt.insert(key, value) {
            return Some(Registered::Failure(error.to_string()));
        }
    }
    service.set_txt_record(txt);
    service.set_registered_callback(Box::new(move |registered, _| match registered {
        Ok(registered) => tell.send(Registered::Established(registered.name().clone())),
        Err(error) => failing.set(error.to_string()),
    }));
    let cause = match service.register() {
        Ok(events) => failed.serve(&events, mail)?,
        Err(error) => error.to_string(),
    };
    // The crate has words for it only; Avahi's are "Local name collision".
    Some(if cause.contains("collision") { Registered::Collision } else { Registered::Failure(cause) })
}

/// The names that threads have registered, so that one that is withdrawn can be given again at once.
static TAKEN: Mutex<Vec<Claim>> = Mutex::new(Vec::new());
static WITHDRAWN: Condvar = Condvar::new();

type Claim = (ServiceType, String, Arc<Mail<Registered>>);

struct Taken(Arc<Mail<Registered>>);

impl Taken {
    /// Waits until those have withdrawn the name that are about to.
    fn take(kind: &ServiceType, name: &str, mail: &Arc<Mail<Registered>>) -> Taken {
        let leaving = |taken: &mut Vec<Claim>| {
            taken.iter().any(|(other, theirs, mail)| other == kind && theirs == name && mail.is_over())
        };
        let taken = WITHDRAWN.wait_while(lock(&TAKEN), leaving);
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        taken.push((kind.clone(), name.to_owned(), mail.clone()));
        Taken(mail.clone())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        lock(&TAKEN).retain(|(_, _, mail)| !Arc::ptr_eq(mail, &self.0));
        WITHDRAWN.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_one_service_alone_ends_nothing() {
        let name = |error: &str| match unresolved(error) {
            Some(Unresolved::Name(name)) => Some(name.to_owned()),
            _ => None,
        };
        let odd = "a` of type `b` in domain `c";
        let error = format!("failed to resolve service `{odd}` of type `_chat._tcp` in domain `local`");
        assert_eq!(name(&error).as_deref(), Some(odd));
        assert_eq!(name("failed to resolve service `x"), None);
        assert_eq!(name("AvahiDaemon connection failed"), None);
        let refused = unresolved("could not initialize AvahiServiceResolver");
        assert!(matches!(refused, Some(Unresolved::Refused)));
    }

    #[test]
    fn only_text_can_be_published() {
        let mut txt = Txt::default();
        txt.add("colour", "züri blue".as_bytes()).unwrap();
        assert_eq!(check_txt(&txt), Ok(()));
        for value in [&b"\xff"[..], b"a\0b"] {
            let mut other = txt.clone();
            other.add("raw", value).unwrap();
            assert!(check_txt(&other).unwrap_err().contains("\"raw\""));
        }
    }
}
