//! Publishing a service, and keeping it published: through a daemon that is not there yet or restarts, a host that is
//! renamed, and others who have the name already.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use glib::variant::ToVariant;

use super::daemon::{ANY, Client, Daemon, GROUP};
use super::names::{Kind, Txt, alternative, check_name};
use crate::address::Address;
use crate::engine::Engine;
use crate::error::Error;

/// So many names are tried at once, then one every [`SLOWLY`]: a machine that claims each name must not keep us busy.
const RENAMINGS: u32 = 16;

const SLOWLY: Duration = Duration::from_secs(10);

/// States of an entry group.
const ESTABLISHED: i32 = 2;
const COLLISION: i32 = 3;
const FAILURE: i32 = 4;

const COLLISION_ERROR: &str = "org.freedesktop.Avahi.CollisionError";

/// What is to be published.
#[derive(Clone, Debug)]
pub(crate) struct Registration {
    kind: Kind,
    name: String,
    port: u16,
    txt: Txt,
}

impl Registration {
    /// Checks what is to be published, but for the port. `kind` is as it is before the `|` of the address.
    ///
    /// # Errors
    /// `Address`, which says what is wrong with it.
    pub(crate) fn new<'a>(
        address: &Address,
        kind: &str,
        name: &str,
        txt: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Registration, Error> {
        let check = || {
            check_name(name)?;
            let mut record = Txt::default();
            for (key, value) in txt {
                record.add(key, value)?;
            }
            Ok(Registration { kind: Kind::parse(kind)?, name: name.to_owned(), port: 0, txt: record })
        };
        check().map_err(|problem: String| address.unfit(problem))
    }

    pub(crate) fn with_port(self, port: u16) -> Registration {
        Registration { port, ..self }
    }
}

/// What becomes of a publication.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Published {
    /// It is known on the network, under this name.
    Established(String),
    /// It is not, for this reason; it will be when the reason is gone.
    Down(String),
}

/// A service that is published, or will be, while this lives. Dropping it withdraws the service at once.
pub(crate) struct Publication {
    inner: Rc<Inner>,
}

type Then = Box<dyn Fn(&Rc<Engine>, Published)>;

struct Inner {
    me: Weak<Inner>,
    engine: Rc<Engine>,
    what: Registration,
    then: Then,
    daemon: RefCell<Option<Rc<Daemon>>>,
    /// The name that is tried, or established.
    name: RefCell<String>,
    established: RefCell<Option<String>>,
    group: RefCell<Option<String>>,
    /// Counts the groups there have been: answers about an earlier one are not heard.
    attempt: Cell<u64>,
    renamings: Cell<u32>,
    warned: Cell<bool>,
    /// Why it is not established, if it is known.
    failure: RefCell<Option<String>>,
    stopped: Cell<bool>,
}

/// Publishes a service, from the loop's next turn on. `then` is told what becomes of it, from the engine, with nothing
/// borrowed; what goes wrong is logged besides, once each time.
pub(crate) fn publish(
    engine: &Rc<Engine>,
    what: Registration,
    then: impl Fn(&Rc<Engine>, Published) + 'static,
) -> Publication {
    let inner = Rc::new_cyclic(|me: &Weak<Inner>| Inner {
        me: me.clone(),
        engine: engine.clone(),
        name: RefCell::new(what.name.clone()),
        what,
        then: Box::new(then),
        daemon: RefCell::new(None),
        established: RefCell::new(None),
        group: RefCell::new(None),
        attempt: Cell::new(0),
        renamings: Cell::new(0),
        warned: Cell::new(false),
        failure: RefCell::new(None),
        stopped: Cell::new(false),
    });
    let me = inner.me.clone();
    engine.defer(move |engine| {
        if let Some(me) = me.upgrade() {
            let client: Rc<dyn Client> = me.clone();
            let daemon = Daemon::join(engine, &client);
            if !me.stopped.get() {
                me.daemon.replace(Some(daemon));
            }
        }
    });
    Publication { inner }
}

impl Publication {
    /// The name it has on the network now.
    pub(crate) fn name(&self) -> Option<String> {
        self.inner.established.borrow().clone()
    }

    /// Is it established? With the reason if it is known not to be; `None` while it is under way.
    pub(crate) fn outcome(&self) -> Option<Result<(), String>> {
        if self.inner.established.borrow().is_some() {
            return Some(Ok(()));
        }
        self.inner.failure.borrow().clone().map(|cause| {
            let Registration { kind, name, .. } = &self.inner.what;
            Err(format!("the service {name:?} of type {kind} is not published: {cause}"))
        })
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        self.inner.stopped.set(true);
        self.inner.withdraw();
        let daemon = self.inner.daemon.take();
        drop(daemon);
    }
}

impl Inner {
    fn register(&self, daemon: &Rc<Daemon>) {
        self.withdraw_at(daemon);
        let attempt = self.attempt.get();
        let (me, client): (_, Weak<dyn Client>) = (self.me.clone(), self.me.clone());
        daemon.make("EntryGroupNew", GROUP, None, client, move |_, daemon, answer| {
            let Some(me) = me.upgrade() else { return };
            match answer {
                Ok(path) if me.attempt.get() != attempt || me.stopped.get() => daemon.free(&path, GROUP),
                Ok(path) => {
                    me.group.replace(Some(path.clone()));
                    me.fill(daemon, &path);
                }
                Err(error) if me.attempt.get() == attempt => me.failed(&error.message),
                Err(_) => {}
            }
        });
    }

    fn fill(&self, daemon: &Rc<Daemon>, path: &str) {
        let attempt = self.attempt.get();
        let what = &self.what;
        let service = (ANY, ANY, 0u32, &*self.name.borrow(), what.kind.as_str(), "", "", what.port, what.txt.strings())
            .to_variant();
        // The second call need not wait for the answer to the first: they are heard in order, and an empty group that is
        // committed does nothing.
        for (method, body) in [("AddService", Some(&service)), ("Commit", None)] {
            let me = self.me.clone();
            daemon.call(path, GROUP, method, body, move |_, daemon, answer| {
                let Some(me) = me.upgrade().filter(|me| me.attempt.get() == attempt) else { return };
                match answer {
                    Ok(_) => {}
                    Err(error) if error.name == COLLISION_ERROR => me.rename(daemon),
                    Err(error) => me.failed(&error.message),
                }
            });
        }
    }

    /// Somebody else has the name.
    fn rename(&self, daemon: &Rc<Daemon>) {
        let next = alternative(&self.name.borrow());
        self.name.replace(next);
        self.renamings.set(self.renamings.get() + 1);
        if self.renamings.get() <= RENAMINGS {
            self.register(daemon);
            return;
        }
        self.withdraw_at(daemon);
        let (me, daemon, attempt) = (self.me.clone(), Rc::downgrade(daemon), self.attempt.get());
        self.engine.after(SLOWLY, move |_| {
            let (Some(me), Some(daemon)) = (me.upgrade(), daemon.upgrade()) else { return };
            if me.attempt.get() == attempt && !me.stopped.get() {
                me.register(&daemon);
            }
        });
    }

    fn failed(&self, cause: &str) {
        self.withdraw();
        self.lost(cause);
    }

    /// It is not on the network, or not any more.
    fn lost(&self, cause: &str) {
        let before = self.established.take();
        if !self.warned.replace(true) {
            let Registration { kind, name, .. } = &self.what;
            glib::g_warning!("network", "the service {name:?} of type {kind} is not published: {cause}");
        }
        let first = self.failure.replace(Some(cause.to_owned())).is_none();
        if before.is_some() || first {
            (self.then)(&self.engine, Published::Down(cause.to_owned()));
        }
    }

    fn withdraw(&self) {
        let daemon = self.daemon.borrow().clone();
        match daemon {
            Some(daemon) => self.withdraw_at(&daemon),
            None => self.attempt.set(self.attempt.get() + 1),
        }
    }

    fn withdraw_at(&self, daemon: &Rc<Daemon>) {
        self.attempt.set(self.attempt.get() + 1);
        let group = self.group.take();
        if let Some(path) = group {
            daemon.free(&path, GROUP);
        }
    }
}

impl Client for Inner {
    fn up(&self, _engine: &Rc<Engine>, _daemon: &Rc<Daemon>) {
        self.renamings.set(0);
    }

    fn running(&self, _engine: &Rc<Engine>, daemon: &Rc<Daemon>, running: bool) {
        if self.stopped.get() {
            return;
        }
        if running {
            self.register(daemon);
        } else {
            // The host is being renamed: what names it is to be withdrawn, and comes back under the new name.
            self.withdraw_at(daemon);
            let before = self.established.take();
            if before.is_some() {
                (self.then)(&self.engine, Published::Down("the Avahi daemon is choosing its host name".into()));
            }
        }
    }

    fn down(&self, _engine: &Rc<Engine>, cause: &str) {
        if self.stopped.get() {
            return;
        }
        self.attempt.set(self.attempt.get() + 1);
        let group = self.group.take();
        drop(group);
        self.lost(cause);
    }

    fn signal(&self, _engine: &Rc<Engine>, daemon: &Rc<Daemon>, name: &str, body: &glib::Variant) {
        if name != "StateChanged" || self.stopped.get() {
            return;
        }
        let Some((state, error)) = body.get::<(i32, String)>() else { return };
        match state {
            ESTABLISHED => {
                let name = self.name.borrow().clone();
                self.warned.set(false);
                self.renamings.set(0);
                self.failure.replace(None);
                if self.established.replace(Some(name.clone())).is_none() {
                    (self.then)(&self.engine, Published::Established(name));
                }
            }
            COLLISION => {
                let before = self.established.take();
                drop(before);
                self.rename(daemon);
            }
            FAILURE => self.failed(&error),
            _ => {}
        }
    }
}
