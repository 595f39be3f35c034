//! What the connections of a server on one main context share: its rules, its handlers, and whether it goes on.

use std::cell::Cell;
use std::rc::{Rc, Weak};

use super::access::{Access, OnAccess};
use super::connection;
use super::routes::Routes;
use super::settings::Settings;
use super::visit::Visits;
use crate::conn::Socket;
use crate::engine::{Engine, LogQuota, call};
use crate::error::{Error, Result, count};
use crate::log;
use crate::server::has_successor;

/// The most records about failing handlers, per second.
const FAILURES_LOGGED: u32 = 10;

pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) routes: Routes,
    pub(super) visits: Visits,
    on_access: Option<OnAccess>,
    failures: Rc<LogQuota>,
    /// No more requests are served.
    stopping: Cell<bool>,
    /// The server has told that it will say when it stops.
    is_told: Cell<bool>,
}

impl Core {
    pub(super) fn new(settings: Settings, routes: Routes, on_access: Option<OnAccess>) -> Rc<Self> {
        let failures = LogQuota::new(FAILURES_LOGGED, |missed| {
            let requests = count(missed, "more request");
            log::warning("serve").say(format_args!("{requests} failed"));
        });
        Rc::new(Core {
            settings,
            routes,
            visits: Visits::default(),
            on_access,
            failures,
            stopping: Cell::new(false),
            is_told: Cell::new(false),
        })
    }

    /// Serves one client.
    pub(super) fn welcome(self: &Rc<Self>, socket: Socket) -> Result {
        if !self.is_told.replace(true) {
            let me: Weak<Core> = Rc::downgrade(self);
            socket.conn().when_server_stops(Rc::new(move || {
                if let Some(me) = me.upgrade() {
                    me.stop();
                }
            }));
        }
        connection::start(self, socket);
        Ok(())
    }

    /// Lets requests that are being served finish. Connections without one close.
    fn stop(&self) {
        self.stopping.set(true);
        self.visits.wake();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Returns whether requests are turned away. With a successor, a client that this process has accepted would otherwise see an
    /// error only because it was early.
    pub(super) fn is_refusing(&self) -> bool {
        self.stopping.get() && !has_successor()
    }

    /// Logs that a handler has failed; its client does not learn why.
    pub(super) fn failed(&self, engine: &Engine, request: &dyn std::fmt::Display, error: &Error) {
        self.failures.log(engine, || {
            log::warning("serve").error(error).say(format_args!("{request}: {error}"));
        });
    }

    /// Tells the program about a request that is done with.
    pub(super) fn tell(&self, engine: &Engine, access: &Access) {
        if let Some(on_access) = &self.on_access {
            call(engine, || on_access(access));
        }
    }

    pub(super) fn logs_access(&self) -> bool {
        self.on_access.is_some()
    }
}
