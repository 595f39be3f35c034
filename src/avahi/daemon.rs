//! The Avahi daemon as seen from one main context: is it there, does it run, and who wants to know. It survives restarts of
//! the daemon; those who use it are told and begin anew.
//!
//! Everything here happens on the engine's turns, the first contact included, so that what a program publishes before it
//! goes into the background is published by the process that stays.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::backend::Backend;
use super::events::Watcher;
use crate::engine::Engine;

/// Who uses the daemon. Called from the engine, never from within a call of theirs but [`AvahiDaemon::join`].
pub(super) trait Client {
    /// The daemon is there, and knows nothing of what was asked of any before.
    fn up(&self, engine: &Rc<Engine>, daemon: &Rc<AvahiDaemon>);
    /// It takes registrations, or does not any more.
    fn running(&self, engine: &Rc<Engine>, daemon: &Rc<AvahiDaemon>, running: bool);
    /// It is not there. May be told several times.
    fn down(&self, engine: &Rc<Engine>, cause: &str);
}

#[derive(Clone, Debug, PartialEq)]
enum Status {
    /// Being found out.
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
    /// Begins to use the daemon: what is known of it is told at once, the rest as it becomes known.
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
            // It may have come since.
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

    /// What there is to say of a daemon that has not been event of.
    pub(super) fn error_text(&self) -> String {
        match &*self.status.borrow() {
            Status::Down(cause) => cause.clone(),
            _ => "the Avahi daemon does not answer".into(),
        }
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.status.borrow(), Status::Up { .. })
    }

    /// To browse and to register by.
    pub(super) fn backend(&self) -> &Rc<Backend> {
        &self.backend
    }

    fn tell(&self, what: impl Fn(&dyn Client, &Rc<AvahiDaemon>)) {
        let Some(me) = self.me.upgrade() else { return };
        let clients: Vec<_> = self.clients.borrow().iter().filter_map(Weak::upgrade).collect();
        for client in clients {
            what(&*client, &me);
        }
    }
}

impl Watcher for AvahiDaemon {
    fn up(&self) {
        self.status.replace(Status::Up { running: false });
        self.tell(|client, me| client.up(&me.engine, me));
    }

    fn running(&self, now: bool) {
        match &mut *self.status.borrow_mut() {
            Status::Up { running, .. } if *running != now => *running = now,
            _ => return,
        }
        self.tell(|client, me| client.running(&me.engine, me, now));
    }

    fn down(&self, cause: String) {
        self.status.replace(Status::Down(cause.clone()));
        self.tell(|client, me| client.down(&me.engine, &cause));
    }
}
