//! Keeping a service published, for servers and for programs: when the daemon starts later or restarts, when the host is
//! renamed, and when other services have the name.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::backend::EntryGroup;
use super::daemon::{AvahiDaemon, Client};
use super::events::{Announcement, Registered};
use super::names::{Txt, alternative};
use crate::engine::{Engine, TimerKey};
use crate::log;

/// The number of names that are tried without a pause; then one is tried every [`RETRY_PAUSE`]. A machine that claims
/// every name must not keep this one busy.
const MAX_FAST_RENAMES: u32 = 16;

/// The pause before the next attempt after Avahi has refused a registration.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// A change in the state of a publication.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Published {
    /// The service is published under this name.
    Established(String),
    /// The service is not published, for this reason. It will be once the reason is gone.
    Down(String),
}

/// A handle to a published service. Dropping it withdraws the service at once.
pub(crate) struct Publication {
    inner: Rc<Inner>,
}

type Callback = Box<dyn Fn(&Rc<Engine>, Published)>;

struct Inner {
    me: Weak<Inner>,
    engine: Rc<Engine>,
    announcement: RefCell<Announcement>,
    then: Callback,
    daemon: RefCell<Option<Rc<AvahiDaemon>>>,
    /// The name of the current attempt, or the established one.
    name: RefCell<String>,
    established: RefCell<Option<String>>,
    group: RefCell<Option<EntryGroup>>,
    again: Cell<Option<TimerKey>>,
    renamings: Cell<u32>,
    warned: Cell<bool>,
    /// The reason why the service is not published, if known.
    failure: RefCell<Option<String>>,
    stopped: Cell<bool>,
}

thread_local! {
    static PUBLICATIONS: RefCell<Vec<Weak<Inner>>> = const { RefCell::new(Vec::new()) };
}

/// Returns the reasons why services of a main context are not published, or `None` while any of them is being published.
pub(crate) fn unpublished(engine: &Rc<Engine>) -> Option<Vec<String>> {
    let known = PUBLICATIONS.with(|known| known.borrow().clone());
    let mut complaints = Vec::new();
    for one in
        known.iter().filter_map(Weak::upgrade).filter(|one| Rc::ptr_eq(&one.engine, engine) && !one.stopped.get())
    {
        complaints.extend(one.outcome()?.err());
    }
    Some(complaints)
}

/// Publishes a service, starting in the next loop iteration. `then` receives each change of its state, from the engine,
/// with nothing borrowed. A failure is also logged, once until the service has been published.
pub(crate) fn announce(
    engine: &Rc<Engine>,
    announcement: Announcement,
    then: impl Fn(&Rc<Engine>, Published) + 'static,
) -> Publication {
    let inner = Rc::new_cyclic(|me: &Weak<Inner>| Inner {
        me: me.clone(),
        engine: engine.clone(),
        name: RefCell::new(announcement.name.clone()),
        announcement: RefCell::new(announcement),
        then: Box::new(then),
        daemon: RefCell::new(None),
        established: RefCell::new(None),
        group: RefCell::new(None),
        again: Cell::new(None),
        renamings: Cell::new(0),
        warned: Cell::new(false),
        failure: RefCell::new(None),
        stopped: Cell::new(false),
    });
    PUBLICATIONS.with(|known| {
        let mut known = known.borrow_mut();
        known.retain(|one| one.strong_count() > 0);
        known.push(inner.me.clone());
    });
    let me = inner.me.clone();
    engine.defer(move |engine| {
        if let Some(me) = me.upgrade() {
            let client: Rc<dyn Client> = me.clone();
            let daemon = AvahiDaemon::join(engine, &client);
            if !me.stopped.get() {
                me.daemon.replace(Some(daemon));
            }
        }
    });
    Publication { inner }
}

impl Publication {
    /// Returns the name under which the service is published.
    pub(crate) fn name(&self) -> Option<String> {
        self.inner.established.borrow().clone()
    }

    /// Returns the name that was asked for.
    pub(super) fn given_name(&self) -> String {
        self.inner.announcement.borrow().name.clone()
    }

    /// Returns the TXT record.
    pub(super) fn txt(&self) -> Txt {
        self.inner.announcement.borrow().txt.clone()
    }

    /// Changes the TXT record of the service, which keeps its name.
    pub(super) fn set_txt(&self, txt: Txt) {
        self.inner.announcement.borrow_mut().txt = txt;
        self.inner.update();
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
    /// Returns whether the service is published: `None` while that is being established, an error if it has failed.
    fn outcome(&self) -> Option<Result<(), String>> {
        if self.established.borrow().is_some() {
            return Some(Ok(()));
        }
        self.failure.borrow().clone().map(|cause| Err(self.complaint(&cause)))
    }

    fn complaint(&self, cause: &str) -> String {
        let announcement = self.announcement.borrow();
        let Announcement { kind, name, .. } = &*announcement;
        format!("failed to publish service {name:?} of type {kind}: {cause}")
    }

    fn register(&self, daemon: &Rc<AvahiDaemon>) {
        self.withdraw();
        let me = self.me.clone();
        let name = self.name.borrow().clone();
        let announcement = self.announcement.borrow().clone();
        let group = daemon.backend().register(&announcement, &name, move |_, registered| {
            if let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) {
                me.handle(registered);
            }
        });
        self.group.replace(Some(group));
    }

    /// Passes on a change of the TXT record, if the service has been registered with another one.
    fn update(&self) {
        let (daemon, name) = (self.daemon.borrow().clone(), self.name.borrow().clone());
        let announcement = self.announcement.borrow().clone();
        let me = self.me.clone();
        let refused = move || {
            let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) else { return };
            let daemon = me.daemon.borrow().clone();
            if let Some(daemon) = daemon.filter(|_| me.group.borrow().is_some()) {
                me.register(&daemon);
            }
        };
        let updated = self.group.borrow().as_ref().map(|group| group.update(&announcement, &name, refused));
        if let (Some(false), Some(daemon)) = (updated, daemon) {
            self.register(&daemon);
        }
    }

    fn handle(&self, registered: Registered) {
        match registered {
            Registered::Established(name) => {
                self.name.replace(name.clone());
                self.warned.set(false);
                self.renamings.set(0);
                self.failure.replace(None);
                if self.established.replace(Some(name.clone())).as_ref() != Some(&name) {
                    (self.then)(&self.engine, Published::Established(name));
                }
            }
            Registered::Collision => self.rename(),
            Registered::Failure(cause) => {
                self.withdraw();
                self.lost(&cause);
                self.register_slowly();
            }
        }
    }

    /// Another service has the name: tries the next one.
    fn rename(&self) {
        let before = self.established.take();
        drop(before);
        let next = alternative(&self.name.borrow());
        self.name.replace(next);
        self.renamings.set(self.renamings.get() + 1);
        let daemon = self.daemon.borrow().clone();
        match daemon {
            Some(daemon) if self.renamings.get() <= MAX_FAST_RENAMES => self.register(&daemon),
            _ => {
                self.withdraw();
                self.register_slowly();
            }
        }
    }

    fn register_slowly(&self) {
        let me = self.me.clone();
        let again = self.engine.after(RETRY_PAUSE, move |_| {
            let Some(me) = me.upgrade().filter(|me| !me.stopped.get()) else { return };
            me.again.set(None);
            let daemon = me.daemon.borrow().clone();
            if let Some(daemon) = daemon.filter(|daemon| daemon.is_up()) {
                me.register(&daemon);
            }
        });
        self.again.set(Some(again));
    }

    /// The service is not published, or no longer.
    fn lost(&self, cause: &str) {
        let before = self.established.take();
        if !self.warned.replace(true) {
            let name = self.announcement.borrow().name.clone();
            log::warning("publish").peer(&name).error(&cause).say(format_args!("{}", self.complaint(cause)));
        }
        let first = self.failure.replace(Some(cause.to_owned())).is_none();
        if before.is_some() || first {
            (self.then)(&self.engine, Published::Down(cause.to_owned()));
        }
    }

    fn withdraw(&self) {
        if let Some(again) = self.again.take() {
            self.engine.cancel_timer(again);
        }
        let group = self.group.take();
        drop(group);
    }
}

impl Client for Inner {
    fn up(&self, _engine: &Rc<Engine>, _daemon: &Rc<AvahiDaemon>) {
        self.renamings.set(0);
    }

    fn running(&self, _engine: &Rc<Engine>, daemon: &Rc<AvahiDaemon>, running: bool) {
        if self.stopped.get() {
            return;
        }
        if running {
            self.register(daemon);
        } else {
            // The host is being renamed: Avahi wants its services withdrawn, and registered again under the new host
            // name.
            self.withdraw();
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
        self.withdraw();
        self.lost(cause);
    }
}
