//! The presence of a service: somebody has the name, nobody has it any more, or it has moved.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use super::Service;
use super::find::Query;
use super::tracker::{Change, Tracker};
use crate::engine::Engine;

/// A change among the services that match.
#[derive(Debug)]
pub(crate) enum News {
    /// One has appeared.
    Seen,
    /// One has another host or port.
    Moved,
    /// The last one has gone.
    Gone,
    /// The daemon cannot be asked, for this reason.
    Unavailable(String),
}

/// A handle to the browsing. Dropping it ends that.
pub(crate) struct Presence {
    tracker: Rc<OnceCell<Rc<Tracker>>>,
}

/// Starts browsing in the next loop iteration. `then` is not called from within this function.
pub(crate) fn presence(engine: &Rc<Engine>, query: Query, then: impl Fn(&Rc<Engine>, News) + 'static) -> Presence {
    let (kind, matcher) = query.into_parts();
    let (tracker, known, is_down) = (Rc::new(OnceCell::<Rc<Tracker>>::new()), Cell::new(0_usize), Cell::new(false));
    let own = Rc::downgrade(&tracker);
    let started = Tracker::start(engine, kind, matcher, true, move |engine| {
        while let Some(own) = own.upgrade()
            && let Some(tracker) = own.get()
            && let Some(change) = tracker.next_change()
        {
            if let Some(news) = news(tracker, &change, &known) {
                then(engine, news);
            }
        }
        let status = own.upgrade().and_then(|own| own.get().and_then(|tracker| tracker.status()));
        let cause = status.and_then(Result::err);
        let was_down = is_down.replace(cause.is_some());
        if let Some(cause) = cause.filter(|_| !was_down) {
            then(engine, News::Unavailable(cause));
        }
    });
    let _ = tracker.set(started);
    Presence { tracker }
}

fn news(tracker: &Tracker, change: &Change, known: &Cell<usize>) -> Option<News> {
    if change.now.is_some() && !change.settled {
        return None;
    }
    match (tracker.mark_told(change), &change.now) {
        (None, Some(_)) => {
            known.set(known.get() + 1);
            Some(News::Seen)
        }
        (Some(_), None) => {
            known.set(known.get().saturating_sub(1));
            (known.get() == 0).then_some(News::Gone)
        }
        (Some(before), Some(now)) => has_moved(&before, now).then_some(News::Moved),
        (None, None) => None,
    }
}

/// One more address, of another interface, is no move.
fn has_moved(before: &Service, now: &Service) -> bool {
    before.host != now.host
        || before.port != now.port
        || !before.addresses.iter().any(|address| now.addresses.contains(address))
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(tracker) = self.tracker.get() {
            tracker.stop();
        }
    }
}
