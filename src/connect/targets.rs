//! The targets of SRV records (RFC 2782): each is raced as a host of its own, in their order, until one connects.

use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use super::race::{Race, Winner};
use crate::address::Address;
use crate::engine::{Engine, Task, TimerKey};
use crate::error::{Error, Result};
use crate::resolve::{Lookup, MOST_TARGETS, Srv, in_order, plan};

/// The time that a target has for itself: if it neither connects nor fails, the next one is tried beside it. Longer than a SYN
/// that is lost once or twice takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// The targets of a race for SRV records.
#[derive(Default)]
pub(super) struct Targets {
    lookup: Option<Lookup>,
    left: VecDeque<Srv>,
    /// Those that are being tried.
    races: Vec<Rc<Race>>,
    /// The timeout of the race, and the time of each target.
    limit: Duration,
    share: Duration,
    patience: Option<TimerKey>,
}

/// Polls the lookup of the records.
struct RecordsTask(Weak<Race>);

impl Task for RecordsTask {
    fn poll(&self, _engine: &Rc<Engine>, context: &mut Context<'_>) -> Poll<()> {
        self.0.upgrade().map_or(Poll::Ready(()), |race| race.ask_for_targets(context))
    }
}

impl Targets {
    pub(super) fn within(limit: Duration) -> Self {
        Targets { limit, ..Targets::default() }
    }

    pub(super) fn has_any(&self) -> bool {
        self.lookup.is_some() || !self.left.is_empty() || !self.races.is_empty()
    }

    /// Ends the races. Returns the timer to cancel.
    pub(super) fn end(self, race: &Race) -> Option<TimerKey> {
        for target in self.races {
            target.finish(Err(race.cancelled()));
        }
        self.patience
    }
}

impl Race {
    pub(super) fn look_up_targets(self: &Rc<Self>, name: &str) {
        self.state.borrow_mut().targets.lookup = Some(Lookup::of_services(name));
        self.engine.spawn(Rc::new(RecordsTask(Rc::downgrade(self))));
    }

    fn ask_for_targets(self: &Rc<Self>, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        let Some(lookup) = &state.targets.lookup else { return Poll::Ready(()) };
        let answers = lookup.answers(context);
        if !answers.is_complete() {
            state.lookup_waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let over = state.targets.lookup.take();
        let outcome = answers.services();
        if let Ok(found) = outcome {
            let targets = &mut state.targets;
            targets.left = in_order(found).into();
            debug_assert!(targets.left.len() <= MOST_TARGETS);
            targets.share = PATIENCE.min(targets.limit / (targets.left.len() as u32 + 1));
            drop((state, over));
            self.try_next_target();
        } else {
            drop((state, over));
            let cause = outcome.err().unwrap_or_default();
            self.keep(Error::Lookup { address: self.address.to_string(), cause });
            self.give_up_if_hopeless();
        }
        Poll::Ready(())
    }

    /// Tries the next target, beside those that are being tried.
    fn try_next_target(self: &Rc<Self>) {
        let patience = self.state.borrow_mut().targets.patience.take();
        if let Some(timer) = patience {
            self.engine.cancel_timer(timer);
        }
        while !self.is_over() {
            let target = self.state.borrow_mut().targets.left.pop_front();
            let Some(target) = target else { break };
            match self.race_to(&target) {
                Ok(race) => {
                    let me = Rc::downgrade(self);
                    let mut state = self.state.borrow_mut();
                    state.targets.races.push(race);
                    let next = move |_: &Rc<Engine>| {
                        if let Some(me) = me.upgrade() {
                            me.state.borrow_mut().targets.patience = None;
                            me.try_next_target();
                        }
                    };
                    state.targets.patience = Some(self.engine.after(state.targets.share, next));
                    return;
                }
                Err(error) => self.keep(error),
            }
        }
        self.give_up_if_hopeless();
    }

    fn race_to(self: &Rc<Self>, target: &Srv) -> Result<Rc<Race>> {
        let host = Address::try_from((target.target.as_str(), target.port))?;
        let address = Address::of_target(format!("{host} of {}", self.address), host.target().clone());
        let plan = plan(&address)?;
        let me = Rc::downgrade(self);
        let done = Box::new(move |_: &Rc<Engine>, result| {
            if let Some(me) = me.upgrade() {
                me.target_ended(result);
            }
        });
        let limit = self.state.borrow().targets.limit;
        let race = Race::start(&self.engine, &address, &self.tuning, plan, limit, done);
        let me = Rc::downgrade(self);
        race.before_first_attempt(move || {
            let call = me.upgrade().and_then(|me| me.before_first_attempt.take());
            call.into_iter().for_each(|call| call());
        });
        Ok(race)
    }

    fn target_ended(self: &Rc<Self>, result: Result<Winner>) {
        if self.is_over() {
            return;
        }
        match result {
            Ok(winner) => self.finish(Ok(winner)),
            Err(error) => {
                let mut state = self.state.borrow_mut();
                let (over, races) = state.targets.races.drain(..).partition(|race| race.is_over());
                state.targets.races = races;
                drop(state);
                // The callers of those that are over hold them.
                drop::<Vec<Rc<Race>>>(over);
                self.keep(error);
                self.try_next_target();
            }
        }
    }
}
