//! Host names to addresses, by the system's resolver: `/etc/hosts`, DNS, and whatever else nsswitch.conf(5) names. SRV records by
//! DNS.
//!
//! The resolver blocks, so it is called on threads. None is started before the first lookup of a name, and each ends with its
//! answer: a process without a lookup under way has none of these threads, and can fork. IPv6 and IPv4 addresses are queried
//! separately, so that a name server that answers for one family only does not delay that answer. Simultaneous lookups of the
//! same name share their threads.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use super::srv::{self, Srv};
use crate::engine::{Engine, Sleep};
use crate::error::os_text;
use crate::sys::{Family, ResolveError, host_addresses, srv_answer};

/// The name of each thread, as long as the kernel allows.
pub(crate) const LOOKUP_THREAD: &str = "network-lookup";

/// The most threads at a time. Further questions wait for a thread to end, within the timeouts of their lookups.
const THREADS: usize = 64;

/// While fewer threads than this are running, a lookup gets two, one for each family; otherwise one for both, so that many
/// names without an answer leave room for others.
const SEPARATE: usize = 32;

/// The time for which the second address family is awaited after the first has answered (RFC 8305, section 3).
pub(crate) const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// Returns the addresses of a host, with port 0: of both families if the second answers soon after the first.
pub(super) async fn addresses(engine: &Rc<Engine>, host: &str) -> Result<Vec<SocketAddr>, String> {
    let lookup = Lookup::start(host);
    let mut delay = pin!(None::<Sleep>);
    std::future::poll_fn(|context| {
        let answers = lookup.answers(context);
        if !answers.is_complete() {
            if answers.found.is_empty() {
                return Poll::Pending;
            }
            if delay.is_none() {
                delay.set(Some(Sleep::start(engine, RESOLUTION_DELAY)));
            }
            if delay.as_mut().as_pin_mut().is_some_and(|delay| delay.poll(context).is_pending()) {
                return Poll::Pending;
            }
        }
        Poll::Ready(answers.outcome())
    })
    .await
}

/// A question to the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Addresses(Family),
    Services,
}

/// The answer to a question.
#[derive(Clone, Debug)]
enum Found {
    Addresses(Vec<SocketAddr>),
    Services(Vec<Srv>),
}

/// The answers of the resolver so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers {
    found: Vec<SocketAddr>,
    services: Vec<Srv>,
    failed: Option<ResolveError>,
    awaited: Vec<Asked>,
}

impl Answers {
    /// The addresses, with port 0.
    pub(crate) fn found(&self) -> &[SocketAddr] {
        &self.found
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Returns whether IPv6 addresses, which are preferred, may still arrive.
    pub(crate) fn awaits_v6(&self) -> bool {
        self.awaited.iter().any(|asked| *asked != Asked::Addresses(Family::V4))
    }

    /// The addresses, or why there are none.
    pub(crate) fn outcome(self) -> Result<Vec<SocketAddr>, String> {
        match self.failed {
            Some(failed) if self.found.is_empty() => Err(failed.cause),
            None if self.found.is_empty() => Err("the host has no addresses".into()),
            _ => Ok(self.found),
        }
    }

    /// The SRV records, or why there are none.
    pub(crate) fn services(self) -> Result<Vec<Srv>, String> {
        match self.failed {
            Some(failed) => Err(failed.cause),
            None => Ok(self.services),
        }
    }

    fn add(&mut self, asked: Asked, answer: Result<Found, ResolveError>) {
        self.awaited.retain(|awaited| *awaited != asked);
        match answer {
            Ok(Found::Services(services)) => self.services = services,
            Ok(Found::Addresses(found)) => {
                for address in found {
                    if !self.found.contains(&address) {
                        self.found.push(address);
                    }
                }
            }
            // A failed server says more than that the host has no address of the other family.
            Err(failed) if self.failed.as_ref().is_none_or(|known| known.is_answer) => self.failed = Some(failed),
            Err(_) => {}
        }
    }
}

/// A lookup under way. Dropping it cancels.
pub(crate) struct Lookup {
    host: Arc<SharedLookup>,
    number: u64,
}

impl Lookup {
    /// Asks for the addresses of a host.
    pub(crate) fn start(host: &str) -> Lookup {
        join_ended_threads();
        resolver().share_or_begin(Subject::Host, host)
    }

    /// Asks for SRV records.
    pub(crate) fn of_services(name: &str) -> Lookup {
        join_ended_threads();
        resolver().share_or_begin(Subject::Services, name)
    }

    /// Returns the answers so far. Wakes the task when another one arrives.
    pub(crate) fn answers(&self, context: &Context<'_>) -> Answers {
        let mut state = self.host.state();
        let answers = state.answers.clone();
        if answers.is_complete() {
            drop(state);
            // The caller may want to fork, which takes a process without threads.
            join_ended_threads();
        } else {
            state.waiting.insert(self.number, Some(context.waker().clone()));
        }
        answers
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        let waker = self.host.state().waiting.remove(&self.number);
        resolver().cancel_unless_shared(&self.host);
        drop(waker);
    }
}

/// The subject of a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Host,
    Services,
}

/// The lookup of one name, for all who ask for it at the same time.
struct SharedLookup {
    subject: Subject,
    name: Box<str>,
    state: Mutex<SharedState>,
}

#[derive(Default)]
struct SharedState {
    answers: Answers,
    /// The lookups that share it, by number.
    waiting: HashMap<u64, Option<Waker>>,
}

impl SharedLookup {
    fn state(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The question for one thread.
#[derive(Clone)]
struct Question {
    host: Arc<SharedLookup>,
    asked: Asked,
}

impl Question {
    /// Asks the system. **Blocks**.
    fn answer(&self) -> Result<Found, ResolveError> {
        let name = &self.host.name;
        match self.asked {
            Asked::Addresses(family) => host_addresses(name, family).map(Found::Addresses),
            Asked::Services => {
                let read = srv::read(&srv_answer(name)?, name);
                read.map(Found::Services).map_err(|cause| ResolveError { cause, is_answer: true })
            }
        }
    }
}

/// The threads of this process.
#[derive(Default)]
struct Resolver {
    process: u32,
    /// Lookups under way.
    hosts: HashMap<(Subject, Box<str>), Arc<SharedLookup>>,
    /// Questions that wait for a thread.
    queue: VecDeque<Question>,
    running: HashMap<ThreadId, (JoinHandle<()>, Arc<SharedLookup>)>,
    /// Threads that do nothing more, to be joined.
    ended: Vec<JoinHandle<()>>,
    last_number: u64,
}

static RESOLVER: LazyLock<Mutex<Resolver>> = LazyLock::new(Mutex::default);

static THREAD_ENDED: Condvar = Condvar::new();

fn lock() -> MutexGuard<'static, Resolver> {
    RESOLVER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn resolver() -> MutexGuard<'static, Resolver> {
    let mut resolver = lock();
    let process = std::process::id();
    if resolver.process != process {
        // After a fork: the threads belong to the parent process.
        std::mem::forget(std::mem::replace(&mut *resolver, Resolver { process, ..Resolver::default() }));
    }
    resolver
}

/// Joins the threads that have ended, without the lock: they may still be waking tasks, which may start lookups.
fn join_ended_threads() {
    let ended = std::mem::take(&mut resolver().ended);
    join_threads(ended);
}

fn join_threads(ended: Vec<JoinHandle<()>>) {
    for thread in ended {
        // The panic hook has reported a panic.
        let _ = thread.join();
    }
}

impl Resolver {
    /// Shares the lookup of this name, or begins one.
    fn share_or_begin(&mut self, subject: Subject, name: &str) -> Lookup {
        let known = self.hosts.get(&(subject, name.into())).cloned();
        let host = known.unwrap_or_else(|| self.begin(subject, name));
        self.last_number += 1;
        host.state().waiting.insert(self.last_number, None);
        Lookup { host, number: self.last_number }
    }

    fn begin(&mut self, subject: Subject, name: &str) -> Arc<SharedLookup> {
        let all: &[Asked] = match subject {
            Subject::Services => &[Asked::Services],
            Subject::Host if self.running.len() < SEPARATE => {
                &[Asked::Addresses(Family::V6), Asked::Addresses(Family::V4)]
            }
            Subject::Host => &[Asked::Addresses(Family::Both)],
        };
        let host = Arc::new(SharedLookup { subject, name: name.into(), state: Mutex::default() });
        host.state().answers.awaited = all.into();
        self.hosts.insert((subject, name.into()), host.clone());
        for asked in all {
            self.ask(Question { host: host.clone(), asked: *asked });
        }
        host
    }

    fn ask(&mut self, question: Question) {
        if self.running.len() >= THREADS {
            return self.queue.push_back(question);
        }
        let asked = question.clone();
        // The thread takes the lock before it ends, and finds itself in `running`.
        match std::thread::Builder::new().name(LOOKUP_THREAD.into()).spawn(move || work(asked)) {
            Ok(thread) => drop(self.running.insert(thread.thread().id(), (thread, question.host))),
            Err(_) if !self.running.is_empty() => self.queue.push_back(question),
            Err(error) => {
                let cause = format!("cannot start a thread for the lookup: {}", os_text(&error));
                drop(self.record(&question, Err(ResolveError { cause, is_answer: false })));
            }
        }
    }

    /// Records an answer. Returns the tasks to wake.
    fn record(&mut self, question: &Question, answer: Result<Found, ResolveError>) -> Vec<Waker> {
        let mut state = question.host.state();
        state.answers.add(question.asked, answer);
        if state.answers.is_complete() {
            self.hosts.remove(&(question.host.subject, question.host.name.clone()));
        }
        state.waiting.values_mut().filter_map(Option::take).collect()
    }

    /// Returns the next question for the calling thread. Without one the thread must end, after joining the ended threads returned.
    fn next(&mut self) -> Result<Question, Vec<JoinHandle<()>>> {
        let own = std::thread::current().id();
        if let Some(question) = self.queue.pop_front() {
            if let Some((_, host)) = self.running.get_mut(&own) {
                *host = question.host.clone();
            }
            return Ok(question);
        }
        let ended = std::mem::take(&mut self.ended);
        self.ended.extend(self.running.remove(&own).map(|(thread, _)| thread));
        Err(ended)
    }

    /// Drops questions that wait for a thread if no lookup needs them any more.
    fn cancel_unless_shared(&mut self, host: &Arc<SharedLookup>) {
        let mut state = host.state();
        if !state.waiting.is_empty() {
            return;
        }
        self.queue.retain(|question| {
            let is_other = !Arc::ptr_eq(&question.host, host);
            if !is_other {
                state.answers.awaited.retain(|asked| *asked != question.asked);
            }
            is_other
        });
        if state.answers.is_complete() {
            self.hosts.retain(|_, known| !Arc::ptr_eq(known, host));
        }
    }
}

fn work(mut question: Question) {
    loop {
        let answer = question.answer();
        let (woken, next) = {
            let mut resolver = lock();
            (resolver.record(&question, answer), resolver.next())
        };
        woken.into_iter().for_each(Waker::wake);
        match next {
            Ok(next) => question = next,
            Err(ended) => {
                THREAD_ENDED.notify_all();
                // Joining this thread thus means that those have ended too.
                return join_threads(ended);
            }
        }
    }
}

/// Waits up to `limit` until no lookup has a thread any more. Returns the names still being resolved. **Blocks**.
pub(crate) fn wait_for_lookups(limit: Duration) -> Vec<String> {
    let deadline = Instant::now() + limit;
    let mut resolver = resolver();
    while !resolver.running.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        resolver = THREAD_ENDED.wait_timeout(resolver, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    let mut names: Vec<String> = resolver.running.values().map(|(_, host)| host.name.to_string()).collect();
    let ended = std::mem::take(&mut resolver.ended);
    drop(resolver);
    join_threads(ended);
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Result<Vec<SocketAddr>, ResolveError> {
        Ok(vec![text.parse().unwrap()])
    }

    fn unresolved(cause: &str, is_answer: bool) -> Result<Vec<SocketAddr>, ResolveError> {
        Err(ResolveError { cause: cause.into(), is_answer })
    }

    fn of(answers: [(Family, Result<Vec<SocketAddr>, ResolveError>); 2]) -> Answers {
        let awaited = [Family::V6, Family::V4].map(Asked::Addresses).into();
        let mut all = Answers { awaited, ..Answers::default() };
        for (family, answer) in answers {
            assert!(!all.is_complete());
            all.add(Asked::Addresses(family), answer.map(Found::Addresses));
        }
        assert!(all.is_complete());
        all
    }

    #[test]
    fn one_family_is_enough() {
        let v4 = || found("192.0.2.1:0");
        for v6 in [unresolved("no such name", true), unresolved("the server failed", false), Ok(Vec::new())] {
            for answers in
                [of([(Family::V6, v6.clone()), (Family::V4, v4())]), of([(Family::V4, v4()), (Family::V6, v6)])]
            {
                assert_eq!(answers.outcome(), Ok(v4().unwrap()));
            }
        }
    }

    #[test]
    fn a_failure_says_more_than_an_answer_without_addresses() {
        let (no, failed) = (unresolved("no", true), unresolved("failed", false));
        for order in [[no.clone(), failed.clone()], [failed, no]] {
            let [v6, v4] = order;
            assert_eq!(of([(Family::V6, v6), (Family::V4, v4)]).outcome(), Err("failed".into()));
        }
        assert_eq!(
            of([(Family::V6, Ok(Vec::new())), (Family::V4, Ok(Vec::new()))]).outcome().unwrap_err(),
            "the host has no addresses"
        );
    }

    #[test]
    fn an_address_is_found_once() {
        let twice = of([(Family::V6, found("192.0.2.1:0")), (Family::V4, found("192.0.2.1:0"))]);
        assert_eq!(twice.found().len(), 1);
    }
}
