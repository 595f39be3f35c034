//! The backend on the crate `zeroconf`, for builds without D-Bus. It uses one thread for each service type that is
//! browsed for, one for each registered service, and one, the sentinel, that watches the daemon. The threads start in
//! loop iterations, after any fork, and communicate through a bounded mailbox.
//!
//! The crate does not report, or reports only at a risk: TXT records (it aborts the process on one that is not UTF-8,
//! which any machine on the network can send), the interface of a link-local address, the interface that a service has
//! left, the end of the initial reports, and a change of the host name.

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

/// The longest time until a thread notices that it should end: nothing can wake it while it polls the daemon.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The first and the longest pause before the daemon is tried again. The pause doubles each time.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));

/// The most names that are kept for a type.
const MAX_NAMES: usize = 2048;

/// The most locations that are kept for a name.
const MAX_LOCATIONS: usize = 16;

/// The initial reports are taken as complete after this time without a report, not before [`FIRST`] and not after
/// [`LAST`].
const QUIET: Duration = Duration::from_millis(500);
const FIRST: Duration = Duration::from_secs(1);
const LAST: Duration = Duration::from_secs(5);

/// Longer than the timeout of Avahi's lookups: later, no result of a lookup for a removed service can arrive.
const STALE: Duration = Duration::from_secs(6);

/// A service type that nobody publishes. Browsing for it on the loopback interface sends no packets.
const SENTINEL: &str = "_glib-network._tcp";

/// Checks whether a TXT record can be published. The crate passes its values as C strings.
pub(super) fn check_txt(txt: &Txt) -> Result<(), String> {
    for (key, value) in txt.pairs() {
        if std::str::from_utf8(value).is_err() || value.contains(&0) {
            let key = String::from_utf8_lossy(key);
            return Err(format!(
                "TXT value of {key:?} is not text: this program was built with the feature zeroconf, which can publish \
                 only UTF-8 without NUL bytes"
            ));
        }
    }
    Ok(())
}

/// The first error that the crate's callbacks reported.
#[derive(Clone, Default)]
struct FirstError(Arc<Mutex<Option<String>>>);

impl FirstError {
    fn set(&self, cause: String) {
        lock(&self.0).get_or_insert(cause);
    }

    /// Polls the crate's event loop until the thread should end (`None`) or an error has been reported.
    fn serve<T>(&self, events: &EventLoop, mail: &Mail<T>) -> Option<String> {
        while !mail.should_end() {
            if let Some(cause) = lock(&self.0).take().or_else(debug_log_error) {
                return Some(cause);
            }
            if let Err(error) = events.poll(POLL_INTERVAL) {
                self.set(error.to_string());
            }
        }
        None
    }
}

/// Returns an error while the debug log of the crate is on: the crate then reads every TXT record and aborts on one
/// that is not UTF-8.
fn debug_log_error() -> Option<String> {
    ::log::log_enabled!(target: "zeroconf::avahi::browser", ::log::Level::Debug).then(|| {
        "the debug log of the crate zeroconf is on, which lets any machine on the network abort this program; \
         set its level to info (zeroconf=info)"
            .to_owned()
    })
}

/// Browses until the thread should end (`None`) or something has failed.
fn follow<T>(
    kind: &str,
    interface: NetworkInterface,
    mail: &Arc<Mail<T>>,
    started: impl FnOnce(),
    tell: impl Fn(ThreadEvent) + Send + Sync + 'static,
) -> Option<String> {
    if let Some(cause) = debug_log_error() {
        return Some(cause);
    }
    let kind = match mdns::ServiceType::from_str(kind) {
        Ok(kind) => kind,
        Err(error) => return Some(error.to_string()),
    };
    let failed = FirstError::default();
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

/// Recognises errors that concern one service only. The crate distinguishes them by their text.
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

    /// Starts to determine whether the daemon is running, now and not only when the sentinel tries next.
    pub(super) fn look(&self) {
        let watcher = self.watcher.clone();
        let callback = move |_: &Rc<Engine>, state| {
            let Some(watcher) = watcher.upgrade() else { return };
            match state {
                DaemonState::Up => {
                    watcher.up();
                    watcher.running(true);
                }
                DaemonState::Down(cause) => watcher.down(cause),
            }
        };
        let sentinel = HelperThread::start(&self.engine, callback, DaemonState::Down, |mail| {
            let mut pause = RETRY.0;
            while !mail.should_end() {
                let came = Cell::new(false);
                let up = || {
                    came.set(true);
                    mail.send(DaemonState::Up);
                };
                let interface = NetworkInterface::AtIndex(LOOPBACK);
                let Some(cause) = follow(SENTINEL, interface, mail, up, |_| {}) else { return };
                pause = if came.get() { RETRY.0 } else { (pause * 2).min(RETRY.1) };
                mail.send(DaemonState::Down(match system_bus::open() {
                    Ok(_) if debug_log_error().is_some() => cause,
                    Ok(_) => in_sandbox(format!("the Avahi daemon is not running or does not reply ({cause})")),
                    Err(error) => in_sandbox(format!("there is no D-Bus system bus ({error})")),
                }));
                mail.pause(pause);
            }
        });
        let before = self.sentinel.replace(Some(sentinel));
        drop(before);
    }

    /// Browses for the services of a type until the returned browser is dropped.
    pub(super) fn browse(
        &self,
        kind: &ServiceType,
        callback: impl Fn(&Rc<Engine>, BrowserEvent) + 'static,
    ) -> ServiceBrowser {
        let names = Rc::new(KnownNames {
            engine: self.engine.clone(),
            callback: Box::new(callback),
            known: RefCell::default(),
            started: Cell::new(None),
            last: Cell::new(Instant::now()),
            quiet: Cell::new(None),
            is_full: Cell::new(false),
        });
        let handler = names.clone();
        let kind = kind.clone();
        let worker = HelperThread::start(
            &self.engine,
            move |_, event| handler.handle(event),
            ThreadEvent::Failure,
            move |mail| {
                let outbox = mail.clone();
                let started = || mail.send(ThreadEvent::Started);
                let cause =
                    follow(kind.as_str(), NetworkInterface::Unspec, mail, started, move |event| outbox.send(event));
                if let Some(cause) = cause {
                    mail.send(ThreadEvent::Failure(cause));
                }
            },
        );
        ServiceBrowser { names, _worker: worker }
    }

    /// Registers a service until the returned group is dropped, and reports the outcome.
    pub(super) fn register(
        &self,
        announcement: &Announcement,
        name: &str,
        callback: impl Fn(&Rc<Engine>, Registered) + 'static,
    ) -> EntryGroup {
        let (announcement, name) = (announcement.clone(), name.to_owned());
        let worker = HelperThread::start(&self.engine, callback, Registered::Failure, move |mail| {
            let _place = NameClaim::take(&announcement.kind, &name, mail);
            if let Some(cause) = serve(&announcement, &name, mail) {
                mail.send(cause);
            }
        });
        EntryGroup { _worker: worker }
    }
}

// ---- browsing ----

/// A report of a thread that browses.
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
    /// The daemon refuses further lookups.
    Refused,
    Failure(String),
}

pub(super) struct ServiceBrowser {
    names: Rc<KnownNames>,
    _worker: HelperThread<ThreadEvent>,
}

type Callback = Box<dyn Fn(&Rc<Engine>, BrowserEvent)>;

/// The reported names with their locations. A location is reported once its lookup is done; its removal is reported at
/// once, without saying which one.
struct KnownNames {
    engine: Rc<Engine>,
    callback: Callback,
    known: RefCell<HashMap<String, KnownName>>,
    started: Cell<Option<Instant>>,
    last: Cell<Instant>,
    quiet: Cell<Option<TimerKey>>,
    is_full: Cell<bool>,
}

struct KnownName {
    /// The number of reported locations less the removed ones. Negative while the result of a lookup is outstanding for
    /// a service that has been removed since.
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
    fn handle(self: &Rc<Self>, event: ThreadEvent) {
        self.last.set(Instant::now());
        match event {
            ThreadEvent::Started => {
                self.started.set(Some(Instant::now()));
                self.wait_for_quiet(FIRST);
            }
            ThreadEvent::Add { name, host, address, port } => {
                let location = address.parse().ok().map(|ip| Location { host, ip, port });
                self.added(name, location);
            }
            ThreadEvent::Unresolved(name) => self.added(name, None),
            ThreadEvent::Remove(name) => self.removed(name),
            ThreadEvent::Refused if self.is_full.replace(true) => {}
            ThreadEvent::Refused => {
                // Any machine can cause this, so it is not a warning: some programs make warnings fatal.
                let event = log::message("browse");
                event.say(format_args!("more services of a type than Avahi resolves at a time; ignoring the rest"));
            }
            ThreadEvent::Failure(cause) => (self.callback)(&self.engine, BrowserEvent::Failure(cause)),
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
                (me.callback)(&me.engine, BrowserEvent::AllForNow);
            } else {
                me.wait_for_quiet(left);
            }
        });
        self.quiet.set(Some(timer));
    }

    fn added(&self, name: String, location: Option<Location>) {
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
        let origin = origin(entry.locations.len());
        entry.locations.push(location);
        drop(known);
        (self.callback)(&self.engine, BrowserEvent::New { origin, name, domain: String::new() });
    }

    fn removed(&self, name: String) {
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
            (self.callback)(&self.engine, BrowserEvent::Gone { origin: origin(number), name: name.clone() });
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

fn origin(number: usize) -> Origin {
    Origin { interface: 0, protocol: i32::try_from(number).unwrap_or(i32::MAX) }
}

impl KnownName {
    fn new() -> Self {
        KnownName { balance: 0, locations: Vec::new(), changed: Instant::now() }
    }

    /// Forgets a removal whose lookup has not had a result by now.
    fn expire(&mut self) {
        if self.balance < 0 && self.changed.elapsed() > STALE {
            self.balance = 0;
        }
    }
}

/// The crate does not report changes.
pub(super) struct Resolver(());

impl ServiceBrowser {
    /// Returns `None`: the caller makes a lookup instead.
    pub(super) fn follow(
        &self,
        _origin: Origin,
        _name: &str,
        _domain: &str,
        _callback: impl Fn(&Rc<Engine>, Option<Resolved>) + 'static,
    ) -> Option<Resolver> {
        None
    }

    /// Reports the location of a service in the next loop iteration.
    pub(super) fn look_up(
        &self,
        origin: Origin,
        name: &str,
        _domain: &str,
        _with_txt: bool,
        then: impl FnOnce(&Rc<Engine>, Option<Resolved>) + 'static,
    ) {
        let location = || {
            let known = self.names.known.borrow();
            let number = usize::try_from(origin.protocol).ok()?;
            known.get(name)?.locations.get(number)?.clone()
        };
        let resolved = location().and_then(|Location { host, ip, port }| {
            Resolved::check(host, ip, port, Txt::default(), 0, ip.is_loopback() && is_alone())
        });
        self.names.engine.defer(move |engine| then(engine, resolved));
    }
}

/// Returns whether this machine is on no network. Only then is a loopback address certain to be its own: the crate
/// reports neither the interface of an announcement nor whether it is local.
fn is_alone() -> bool {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let routes = read("/proc/self/net/route").lines().count() > 1;
    let addresses = read("/proc/self/net/if_inet6").lines().any(|line| !line.ends_with(" lo"));
    !routes && !addresses
}

// ---- registering ----

/// A registered service. After a drop, its thread withdraws the service within [`POLL_INTERVAL`].
pub(super) struct EntryGroup {
    _worker: HelperThread<Registered>,
}

impl EntryGroup {
    /// Returns false: the crate cannot change a registered service, so it has to be registered anew.
    pub(super) fn update(&self, _announcement: &Announcement, _name: &str, _refused: impl FnOnce() + 'static) -> bool {
        false
    }
}

/// Registers a service until the thread should end (`None`) or something has failed.
fn serve(announcement: &Announcement, name: &str, mail: &Arc<Mail<Registered>>) -> Option<Registered> {
    let failed = FirstError::default();
    let (failing, tell) = (failed.clone(), mail.clone());
    let kind = match mdns::ServiceType::from_str(announcement.kind.as_str()) {
        Ok(kind) => kind,
        Err(error) => return Some(Registered::Failure(error.to_string())),
    };
    let mut service = MdnsService::new(kind, announcement.port);
    service.set_name(name);
    service.set_network_interface(announcement.interface.map_or(NetworkInterface::Unspec, NetworkInterface::AtIndex));
    let mut txt = TxtRecord::new();
    for (key, value) in announcement.txt.pairs() {
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
    // The crate distinguishes errors by their text. Avahi's is "Local name collision".
    Some(if cause.contains("collision") { Registered::Collision } else { Registered::Failure(cause) })
}

/// The names that threads have registered: a name can be registered again as soon as it has been withdrawn.
static CLAIMS: Mutex<Vec<Claim>> = Mutex::new(Vec::new());
static WITHDRAWN: Condvar = Condvar::new();

type Claim = (ServiceType, String, Arc<Mail<Registered>>);

struct NameClaim(Arc<Mail<Registered>>);

impl NameClaim {
    /// Waits until threads that are about to end have withdrawn the name.
    fn take(kind: &ServiceType, name: &str, mail: &Arc<Mail<Registered>>) -> NameClaim {
        let leaving = |taken: &mut Vec<Claim>| {
            taken.iter().any(|(other, theirs, mail)| other == kind && theirs == name && mail.should_end())
        };
        let taken = WITHDRAWN.wait_while(lock(&CLAIMS), leaving);
        let mut taken = taken.unwrap_or_else(PoisonError::into_inner);
        taken.push((kind.clone(), name.to_owned(), mail.clone()));
        NameClaim(mail.clone())
    }
}

impl Drop for NameClaim {
    fn drop(&mut self) {
        lock(&CLAIMS).retain(|(_, _, mail)| !Arc::ptr_eq(mail, &self.0));
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
        assert_eq!(name("Daemon connection failed"), None);
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
