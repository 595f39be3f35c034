//! The options of connections that are made one after the other to the same address, in little memory.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use super::connecting::{Connecting, Request};
use super::progress::OnProgress;
use super::proxy::Proxy;
use crate::address::Address;
use crate::avahi::Query;
use crate::conn::{Common, Options, Roster, Socket};
use crate::engine::Engine;
use crate::error::Result;
use crate::resolve::{Plan, plan};
use crate::tls::{ClientTls, Tls};

/// Connects, as often as it is asked to.
pub(crate) struct Dialer {
    /// That of the last connection, which keeps the options.
    common: RefCell<Rc<Common>>,
    tls: Option<Box<Tls<ClientTls>>>,
    /// `None` for none.
    proxy: Option<Box<Proxy>>,
    progress: OnProgress,
}

/// The place of a target.
pub(crate) enum Reach {
    /// On this machine, whatever its network does.
    Here,
    /// Wherever Avahi says.
    Service(Query),
    /// On the network.
    Away,
}

/// A try. Dropping it cancels: then its result is [`Error::Cancelled`](crate::Error::Cancelled).
pub(crate) struct Attempt(Rc<Connecting>);

impl Dialer {
    pub(crate) fn new(options: Options, tls: Option<Tls<ClientTls>>, proxy: Proxy, progress: OnProgress) -> Dialer {
        let proxy = (!proxy.is_none()).then(|| Box::new(proxy));
        Dialer { common: RefCell::new(options.into()), tls: tls.map(Box::new), proxy, progress }
    }

    pub(crate) fn options<R>(&self, look: impl FnOnce(&Options) -> R) -> R {
        look(&self.common.borrow().options)
    }

    fn request(&self, address: &Address, common: Rc<Common>) -> Result<(Request, super::Route)> {
        let none = Proxy::none();
        Request::new(address.clone(), common, self.tls.as_deref(), self.proxy.as_deref().unwrap_or(&none))
    }

    /// Checks the options as far as that is possible now, and says where the address leads.
    pub(crate) fn check(&self, address: &Address) -> Result<Reach> {
        self.request(address, self.common.borrow().clone())?;
        Ok(match plan(address)? {
            Plan::Unix(_) => Reach::Here,
            Plan::Direct(addresses) if addresses.iter().all(|address| address.ip().is_loopback()) => Reach::Here,
            Plan::Service(query) => Reach::Service(query),
            Plan::Direct(_) | Plan::Lookup(..) | Plan::Srv(_) => Reach::Away,
        })
    }

    /// Starts a try, whose result `done` gets from the main loop. The list hears of the end of the connection if that is entered
    /// there.
    ///
    /// # Errors
    /// Those that are known at once; `done` is dropped.
    pub(crate) fn attempt(
        &self,
        engine: &Rc<Engine>,
        address: &Address,
        list: Weak<dyn Roster>,
        done: impl FnOnce(Result<Socket>) + 'static,
    ) -> Result<Attempt> {
        let common = Common::listed(self.options(Options::clone), list);
        self.common.replace(common.clone());
        let (request, route) = self.request(address, common)?;
        let done = Box::new(move |_: &Rc<Engine>, result| done(result));
        Ok(Attempt(Connecting::start(engine, request, route, self.progress.clone(), done)))
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
