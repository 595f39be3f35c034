//! SearchEvent services to connect to: yields their addresses as they become known, the good ones first, until whoever
//! connects has had enough.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::names::{Matcher, ServiceType};
use super::tracker::{Tracker, is_link_local};
use super::unavailable;
use crate::address::Address;
use crate::engine::{Engine, TimerKey};
use crate::error::{Error, Result};

/// The question is on the network for at least this long: Avahi asks again after one second, and one lost packet must not
/// make a service unknown.
const MIN_SEARCH_TIME: Duration = Duration::from_secs(2);

/// Which services are looked for.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    kind: ServiceType,
    matcher: Matcher,
}

impl Query {
    /// Reads the two parts of an address of a service.
    ///
    /// # Errors
    /// `Address` if the expression is none.
    pub(crate) fn new(address: &Address, kind: &str, rest: &str) -> Result<Query> {
        let query = || {
            let kind = ServiceType::parse(kind)?;
            if !kind.is_tcp() {
                return Err(format!("expected a service of TCP to connect to, not {kind}"));
            }
            Ok(Query { kind, matcher: Matcher::parse(rest)? })
        };
        query().map_err(|problem: String| address.unfit(problem))
    }
}

/// What a search brings.
pub(crate) enum SearchEvent {
    /// A service, and one of its addresses.
    Candidate(Rc<str>, SocketAddr),
    /// That was all. The error says why, if it was nothing.
    End(Option<Error>),
}

type Then = Box<dyn Fn(&Rc<Engine>, SearchEvent)>;

/// A search. Dropping it ends it, at whatever moment.
pub(crate) struct Find {
    search: Rc<Search>,
}

struct Search {
    engine: Rc<Engine>,
    address: Address,
    tracker: RefCell<Option<Rc<Tracker>>>,
    then: Then,
    yielded: RefCell<Vec<(Rc<str>, SocketAddr)>>,
    patience: Cell<Option<TimerKey>>,
}

/// Looks for services, from the loop's next turn on, and calls `then` with what it finds: never from within this call, and
/// never after [`SearchEvent::End`].
pub(crate) fn find(
    engine: &Rc<Engine>,
    address: &Address,
    query: Query,
    then: impl Fn(&Rc<Engine>, SearchEvent) + 'static,
) -> Find {
    let search = Rc::new_cyclic(|me: &Weak<Search>| {
        let look = me.clone();
        let tracker = Tracker::start(engine, query.kind, query.matcher, false, move |_| {
            if let Some(search) = look.upgrade() {
                search.look();
            }
        });
        let over = me.clone();
        let patience = engine.after(MIN_SEARCH_TIME, move |_| {
            if let Some(search) = over.upgrade() {
                search.patience.set(None);
                search.look();
            }
        });
        Search {
            engine: engine.clone(),
            address: address.clone(),
            tracker: RefCell::new(Some(tracker)),
            then: Box::new(then),
            yielded: RefCell::default(),
            patience: Cell::new(Some(patience)),
        }
    });
    Find { search }
}

impl Find {
    /// Why nothing has been found yet, if nothing has: what there is to say when the time is up.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.search.failure()
    }
}

impl Drop for Find {
    fn drop(&mut self) {
        self.search.stop();
    }
}

impl Search {
    fn look(self: &Rc<Self>) {
        let Some(tracker) = self.tracker.borrow().clone() else { return };
        while let Some(fresh) = tracker.next_change() {
            let Some(service) = fresh.now else { continue };
            for address in service.addresses {
                // A port of 0 says that the name is taken and nothing is there.
                if address.port() == 0 || (is_link_local(&address) && !fresh.settled) {
                    continue;
                }
                let candidate = (fresh.name.clone(), address);
                if self.yielded.borrow().contains(&candidate) {
                    continue;
                }
                self.yielded.borrow_mut().push(candidate);
                (self.then)(&self.engine, SearchEvent::Candidate(fresh.name.clone(), address));
                if self.tracker.borrow().is_none() {
                    return;
                }
            }
        }
        let over = match tracker.status() {
            Some(Err(_)) => true,
            Some(Ok(())) => self.patience.get().is_none() && tracker.is_complete() && !tracker.will_retry(),
            None => false,
        };
        if over {
            let failure = self.failure();
            self.stop();
            (self.then)(&self.engine, SearchEvent::End(failure));
        }
    }

    fn failure(&self) -> Option<Error> {
        if !self.yielded.borrow().is_empty() {
            return None;
        }
        let tracker = self.tracker.borrow().clone()?;
        let address = self.address.to_string();
        Some(match tracker.status() {
            Some(Ok(())) => Error::ServiceNotFound { address, seen: tracker.seen() },
            Some(Err(cause)) => unavailable(address, cause),
            None => unavailable(address, tracker.error_text()),
        })
    }

    fn stop(&self) {
        if let Some(timer) = self.patience.take() {
            self.engine.cancel_timer(timer);
        }
        let tracker = self.tracker.take();
        if let Some(tracker) = tracker {
            tracker.stop();
        }
    }
}
