//! The state of the Avahi daemon, shared by all its clients on one main context. After a restart of the daemon, the
//! clients are notified and make their requests again.
//!
//! Everything here, including the first connection, happens in loop iterations. A service that a program publishes
//! before it daemonizes is thus published by the background process.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::backend::Backend;
use super::events::Watcher;
use crate::engine::Engine;

/// A user of the daemon. Called from the engine, and from within [`AvahiDaemon::join`].
pub(super) trait Client {
    /// The daemon is running. It knows nothing of earlier requests.
    fn up(&self, engine: &Rc<Engine>, daemon: &Rc<AvahiDaemon>);
    /// The daemon has begun or stopped to accept registrations.
    fn running(&self, engine: &Rc<Engine>, daemon: &Rc<AvahiDaemon>, running: bool);
    /// The daemon is not running or cannot be reached. May be called several times in a row.
    fn down(&self, engine: &Rc<Engine>, cause: &str);
}

#[derive(Clone, Debug, PartialEq)]
enum Status {
    /// Not known yet.
    Unknown,
    Down(String),
    Up {
        running: bool,
    },
}

pub(super) struct AvahiDaemon {
    me: Weak<AvahiDaemon>,
    engine: Rc<Engine>,
    status: RefCell<Status>,
    clients: RefCell<Vec<Weak<dyn Client>>>,
    backend: Rc<Backend>,
}

thread_local! {
    static DAEMONS: RefCell<Vec<Weak<AvahiDaemon>>> = const { RefCell::new(Vec::new()) };
}

impl AvahiDaemon {
    /// Adds a client. Its callbacks are called at once with the known state, and later with each change.
    pub(super) fn join(engine: &Rc<Engine>, client: &Rc<dyn Client>) -> Rc<AvahiDaemon> {
        let known = DAEMONS.with(|daemons| {
            let mut daemons = daemons.borrow_mut();
            daemons.retain(|daemon| daemon.strong_count() > 0);
            daemons.iter().filter_map(Weak::upgrade).find(|daemon| Rc::ptr_eq(&daemon.engine, engine))
        });
        let daemon = known.unwrap_or_else(|| {
            let daemon = Rc::new_cyclic(|me: &Weak<AvahiDaemon>| {
                let watcher: Weak<dyn Watcher> = me.clone();
                AvahiDaemon {
                    me: me.clone(),
                    engine: engine.clone(),
                    status: RefCell::new(Status::Down(String::new())),
                    clients: RefCell::default(),
                    backend: Backend::new(engine, watcher),
                }
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
            // It may have started since.
            Status::Down(_) => {
                daemon.status.replace(Status::Unknown);
                daemon.backend.look();
            }
            Status::Up { running } => {
                client.up(engine, &daemon);
                if running {
                    client.running(engine, &daemon, true);
                }
            }
        }
        daemon
    }

    /// Returns the reason why nothing is known about the daemon.
    pub(super) fn error_text(&self) -> String {
        match &*self.status.borrow() {
            Status::Down(cause) => cause.clone(),
            _ => "the Avahi daemon does not reply".into(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.status.borrow(), Status::Up { .. })
    }

    /// The backend, for browsing and registering.
    pub(super) fn backend(&self) -> &Rc<Backend> {
        &self.backend
    }

    fn notify(&self, notify: impl Fn(&dyn Client, &Rc<AvahiDaemon>)) {
        let Some(me) = self.me.upgrade() else { return };
        let clients: Vec<_> = self.clients.borrow().iter().filter_map(Weak::upgrade).collect();
        for client in clients {
            notify(&*client, &me);
        }
    }
}

impl Watcher for AvahiDaemon {
    fn up(&self) {
        self.status.replace(Status::Up { running: false });
        self.notify(|client, me| client.up(&me.engine, me));
    }

    fn running(&self, now: bool) {
        match &mut *self.status.borrow_mut() {
            Status::Up { running, .. } if *running != now => *running = now,
            _ => return,
        }
        self.notify(|client, me| client.running(&me.engine, me, now));
    }

    fn down(&self, cause: String) {
        self.status.replace(Status::Down(cause.clone()));
        self.notify(|client, me| client.down(&me.engine, &cause));
    }
}
