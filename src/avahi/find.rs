//! Searching for services to connect to. Reports their addresses as they become known, preferred ones first, until the
//! search is dropped.

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

/// The least time before a search fails. Avahi repeats its query after one second, so one lost packet does not hide a
/// service.
const MIN_SEARCH_TIME: Duration = Duration::from_secs(2);

/// The service type and name pattern of a search.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    kind: ServiceType,
    matcher: Matcher,
}

impl Query {
    /// Parses the two parts of a service address.
    ///
    /// # Errors
    /// `Address` if the service type or the regular expression is invalid.
    pub(crate) fn new(address: &Address, kind: &str, rest: &str) -> Result<Query> {
        let query = || {
            let kind = ServiceType::parse(kind)?;
            if !kind.is_tcp() {
                return Err(format!("cannot connect to a service of UDP: {kind}"));
            }
            Ok(Query { kind, matcher: Matcher::parse(rest)? })
        };
        query().map_err(|problem: String| address.unfit(problem))
    }

    pub(super) fn into_parts(self) -> (ServiceType, Matcher) {
        (self.kind, self.matcher)
    }
}

/// A report of a search.
pub(crate) enum SearchEvent {
    /// An address to try, with the name of its service.
    Candidate(Rc<str>, SocketAddr),
    /// The search has ended. Contains the error if there was no candidate.
    End(Option<Error>),
}

type Callback = Box<dyn Fn(&Rc<Engine>, SearchEvent)>;

/// A handle to a running search. Dropping it ends the search.
pub(crate) struct Find {
    search: Rc<Search>,
}

struct Search {
    engine: Rc<Engine>,
    address: Address,
    tracker: RefCell<Option<Rc<Tracker>>>,
    then: Callback,
    reported: RefCell<Vec<(Rc<str>, SocketAddr)>>,
    min_time: Cell<Option<TimerKey>>,
}

/// Starts a search in the next loop iteration. `then` is not called from within this function, nor after
/// [`SearchEvent::End`].
pub(crate) fn find(
    engine: &Rc<Engine>,
    address: &Address,
    query: Query,
    then: impl Fn(&Rc<Engine>, SearchEvent) + 'static,
) -> Find {
    let search = Rc::new_cyclic(|me: &Weak<Search>| {
        let weak = me.clone();
        let tracker = Tracker::start(engine, query.kind, query.matcher, false, move |_| {
            if let Some(search) = weak.upgrade() {
                search.advance();
            }
        });
        let over = me.clone();
        let min_time = engine.after(MIN_SEARCH_TIME, move |_| {
            if let Some(search) = over.upgrade() {
                search.min_time.set(None);
                search.advance();
            }
        });
        Search {
            engine: engine.clone(),
            address: address.clone(),
            tracker: RefCell::new(Some(tracker)),
            then: Box::new(then),
            reported: RefCell::default(),
            min_time: Cell::new(Some(min_time)),
        }
    });
    Find { search }
}

impl Find {
    /// Returns the error for a timeout if there was no candidate so far.
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
    fn advance(self: &Rc<Self>) {
        let Some(tracker) = self.tracker.borrow().clone() else { return };
        while let Some(change) = tracker.next_change() {
            let Some(service) = change.now else { continue };
            for address in service.addresses {
                // Port 0 means that the name is reserved and has no service.
                if address.port() == 0 || (is_link_local(&address) && !change.settled) {
                    continue;
                }
                let candidate = (change.name.clone(), address);
                if self.reported.borrow().contains(&candidate) {
                    continue;
                }
                self.reported.borrow_mut().push(candidate);
                (self.then)(&self.engine, SearchEvent::Candidate(change.name.clone(), address));
                if self.tracker.borrow().is_none() {
                    return;
                }
            }
        }
        let over = match tracker.status() {
            Some(Err(_)) => true,
            Some(Ok(())) => self.min_time.get().is_none() && tracker.is_complete() && !tracker.will_retry(),
            None => false,
        };
        if over {
            let failure = self.failure();
            self.stop();
            (self.then)(&self.engine, SearchEvent::End(failure));
        }
    }

    fn failure(&self) -> Option<Error> {
        if !self.reported.borrow().is_empty() {
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
        if let Some(timer) = self.min_time.take() {
            self.engine.cancel_timer(timer);
        }
        let tracker = self.tracker.take();
        if let Some(tracker) = tracker {
            tracker.stop();
        }
    }
}
