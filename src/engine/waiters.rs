//! Queues of wakers: the tasks that wait for one thing. A queue knows nothing of what they wait for.
//!
//! Wakers belong to executors, which may run any code when one is woken or dropped. So nothing here wakes or drops them: they
//! are handed out, to be woken and dropped when nothing is borrowed.

use std::collections::VecDeque;
use std::task::Waker;

/// A set of wakers. Usually there is one, which takes no memory.
#[derive(Default)]
pub(crate) struct Wakers {
    one: Option<Waker>,
    more: Vec<Waker>,
}

impl Wakers {
    pub(crate) fn is_empty(&self) -> bool {
        self.one.is_none()
    }

    pub(crate) fn add(&mut self, waker: Waker) {
        if self.one.is_none() {
            self.one = Some(waker);
        } else {
            self.more.push(waker);
        }
    }

    /// Adds the waker unless one that wakes the same task is in the set.
    pub(crate) fn add_once(&mut self, waker: &Waker) {
        if !self.contains(waker) {
            self.add(waker.clone());
        }
    }

    pub(crate) fn contains(&self, waker: &Waker) -> bool {
        self.one.iter().chain(&self.more).any(|known| known.will_wake(waker))
    }

    /// Removes those that wake the same task as this one.
    #[cfg(feature = "http")]
    pub(crate) fn remove(&mut self, waker: &Waker) {
        self.more.retain(|known| !known.will_wake(waker));
        if self.one.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.one = self.more.pop();
        }
    }

    /// Takes all wakers of the other set.
    pub(crate) fn append(&mut self, other: &mut Wakers) {
        let other = std::mem::take(other);
        for waker in other.one.into_iter().chain(other.more) {
            self.add(waker);
        }
    }

    /// Wakes all of them. Nothing may be borrowed.
    pub(crate) fn wake(self) {
        for waker in self.one.into_iter().chain(self.more) {
            waker.wake();
        }
    }
}

/// A future's place in a [`WaitQueue`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ticket {
    /// The future has not had to wait yet; it is queued when it has to.
    New,
    /// The future is queued under this number.
    Queued(u32),
    /// The task never says that it has lost interest, as with a stream, and so cannot be given a place in the order. It is
    /// served when the queue is empty.
    Unordered,
}

impl Ticket {
    pub(crate) fn is_queued(&self) -> bool {
        matches!(self, Ticket::Queued(_))
    }
}

struct Waiter {
    number: u32,
    /// `None` from when it was woken until it is polled again.
    waker: Option<Waker>,
}

/// The tasks that wait for one thing, in the order in which they began to wait.
#[derive(Default)]
pub(crate) struct WaitQueue {
    queue: VecDeque<Waiter>,
    unordered: Wakers,
    last_number: u32,
}

impl WaitQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.unordered.is_empty()
    }

    /// Returns whether the holder of this ticket is served next.
    pub(crate) fn is_first(&self, ticket: &Ticket) -> bool {
        self.queue.front().is_none_or(|first| *ticket == Ticket::Queued(first.number))
    }

    /// Queues the waker, or renews the one that is queued under this ticket. Returns the one that it replaces, to be dropped.
    #[must_use = "to be dropped when nothing is borrowed"]
    pub(crate) fn wait(&mut self, ticket: &mut Ticket, waker: &Waker) -> Option<Waker> {
        match *ticket {
            Ticket::Unordered => self.unordered.add_once(waker),
            Ticket::New => {
                self.last_number = self.last_number.wrapping_add(1);
                *ticket = Ticket::Queued(self.last_number);
                self.queue.push_back(Waiter { number: self.last_number, waker: Some(waker.clone()) });
            }
            Ticket::Queued(number) => {
                let own = self.queue.iter_mut().find(|waiter| waiter.number == number)?;
                if own.waker.as_ref().is_none_or(|known| !known.will_wake(waker)) {
                    return own.waker.replace(waker.clone());
                }
            }
        }
        None
    }

    /// Takes the holder of this ticket out of the queue. If it was first, the next one is to be woken in its place. Returns
    /// its waker, to be dropped.
    #[must_use = "to be dropped when nothing is borrowed"]
    pub(crate) fn leave(&mut self, ticket: &mut Ticket, awake: &mut Wakers) -> Option<Waker> {
        let Ticket::Queued(number) = *ticket else { return None };
        *ticket = Ticket::New;
        if self.queue.front().is_some_and(|first| first.number == number) {
            let left = self.queue.pop_front()?;
            self.wake_next(awake);
            return left.waker;
        }
        let at = self.queue.iter().position(|waiter| waiter.number == number)?;
        self.queue.remove(at)?.waker
    }

    /// Adds the first in the queue to those to be woken, unless it is awake already. If nobody is queued, adds all unordered
    /// ones.
    pub(crate) fn wake_next(&mut self, awake: &mut Wakers) {
        match self.queue.front_mut() {
            Some(first) => first.waker.take().into_iter().for_each(|waker| awake.add(waker)),
            None => awake.append(&mut self.unordered),
        }
    }

    /// Adds all to those to be woken. They keep their places.
    pub(crate) fn wake_all(&mut self, awake: &mut Wakers) {
        for waker in self.queue.iter_mut().filter_map(|waiter| waiter.waker.take()) {
            awake.add(waker);
        }
        awake.append(&mut self.unordered);
    }
}

/// Yielding to the loop. A future that always finds something to do must wait when its share is used up; after the next turn
/// of the loop it is granted another share, however busy the loop is.
#[derive(Clone, Copy, Default)]
pub(crate) struct Yielding {
    has_yielded: bool,
    is_granted: bool,
}

impl Yielding {
    pub(crate) fn has_yielded(self) -> bool {
        self.has_yielded
    }

    pub(crate) fn is_granted(self) -> bool {
        self.is_granted
    }

    pub(crate) fn yield_now(&mut self) {
        *self = Yielding { has_yielded: true, is_granted: false };
    }

    /// The loop has had its turn. Returns whether somebody yielded to it.
    pub(crate) fn resume(&mut self) -> bool {
        let resumes = std::mem::take(&mut self.has_yielded);
        self.is_granted |= resumes;
        resumes
    }

    /// The share that was granted is over.
    pub(crate) fn end(&mut self) {
        self.is_granted = false;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A task that waits, and how often it was woken.
    struct Task {
        count: Arc<Count>,
        waker: Waker,
        ticket: Ticket,
    }

    impl Task {
        fn new(ticket: Ticket) -> Self {
            let count = Arc::new(Count::default());
            Task { waker: count.clone().into(), count, ticket }
        }

        fn waits_in(queue: &mut WaitQueue, ticket: Ticket) -> Self {
            let mut task = Task::new(ticket);
            task.wait(queue);
            task
        }

        fn wait(&mut self, queue: &mut WaitQueue) {
            drop(queue.wait(&mut self.ticket, &self.waker));
        }

        fn leave(&mut self, queue: &mut WaitQueue) {
            let mut awake = Wakers::default();
            drop(queue.leave(&mut self.ticket, &mut awake));
            awake.wake();
        }

        fn woken(&self) -> u32 {
            self.count.0.load(Ordering::Relaxed)
        }
    }

    fn wake_next(queue: &mut WaitQueue) {
        let mut awake = Wakers::default();
        queue.wake_next(&mut awake);
        awake.wake();
    }

    fn wake_all(queue: &mut WaitQueue) {
        let mut awake = Wakers::default();
        queue.wake_all(&mut awake);
        awake.wake();
    }

    #[test]
    fn a_set_wakes_each_once() {
        let (one, two) = (Task::new(Ticket::New), Task::new(Ticket::New));
        let mut wakers = Wakers::default();
        assert!(wakers.is_empty());
        for _ in 0..3 {
            wakers.add_once(&one.waker);
            wakers.add_once(&two.waker);
        }
        assert!(wakers.contains(&one.waker) && wakers.contains(&two.waker));
        let mut all = Wakers::default();
        all.append(&mut wakers);
        assert!(wakers.is_empty() && !wakers.contains(&one.waker));
        all.wake();
        assert_eq!((one.woken(), two.woken()), (1, 1));
    }

    #[test]
    fn the_first_to_wait_is_woken_first_and_once() {
        let mut queue = WaitQueue::default();
        assert!(queue.is_empty() && queue.is_first(&Ticket::New), "nobody is before a new one");
        let mut one = Task::waits_in(&mut queue, Ticket::New);
        let mut two = Task::waits_in(&mut queue, Ticket::New);
        assert!(one.ticket.is_queued() && queue.is_first(&one.ticket));
        assert!(!queue.is_first(&two.ticket) && !queue.is_first(&Ticket::New) && !queue.is_first(&Ticket::Unordered));
        wake_next(&mut queue);
        wake_next(&mut queue);
        assert_eq!((one.woken(), two.woken()), (1, 0), "it knows already");
        // Polled again without success, it keeps its place.
        one.wait(&mut queue);
        two.wait(&mut queue);
        wake_next(&mut queue);
        assert_eq!((one.woken(), two.woken()), (2, 0));
        assert!(queue.is_first(&one.ticket));
    }

    #[test]
    fn the_first_to_leave_wakes_the_next() {
        let mut queue = WaitQueue::default();
        let mut tasks: Vec<_> = (0..3).map(|_| Task::waits_in(&mut queue, Ticket::New)).collect();
        tasks[0].leave(&mut queue);
        assert_eq!(tasks.iter().map(Task::woken).collect::<Vec<_>>(), [0, 1, 0]);
        assert!(!tasks[0].ticket.is_queued() && queue.is_first(&tasks[1].ticket));
        // To leave again does nothing, and to wait again is to wait behind all others.
        tasks[0].leave(&mut queue);
        tasks[0].wait(&mut queue);
        assert!(!queue.is_first(&tasks[0].ticket));
        tasks[2].leave(&mut queue);
        assert_eq!(tasks.iter().map(Task::woken).collect::<Vec<_>>(), [0, 1, 0], "it was not first");
        tasks[1].leave(&mut queue);
        assert_eq!(tasks.iter().map(Task::woken).collect::<Vec<_>>(), [1, 1, 0]);
        tasks[0].leave(&mut queue);
        assert!(queue.is_empty());
    }

    #[test]
    fn all_are_woken_and_keep_their_places() {
        let mut queue = WaitQueue::default();
        let mut tasks: Vec<_> = (0..3).map(|_| Task::waits_in(&mut queue, Ticket::New)).collect();
        let stream = Task::waits_in(&mut queue, Ticket::Unordered);
        wake_all(&mut queue);
        wake_all(&mut queue);
        assert!(tasks.iter().all(|task| task.woken() == 1) && stream.woken() == 1);
        assert!(queue.is_first(&tasks[0].ticket) && !queue.is_first(&tasks[1].ticket));
        tasks.iter_mut().for_each(|task| task.leave(&mut queue));
        assert!(queue.is_empty());
    }

    #[test]
    fn unordered_ones_are_woken_when_nobody_is_queued() {
        let mut queue = WaitQueue::default();
        let mut stream = Task::waits_in(&mut queue, Ticket::Unordered);
        let mut future = Task::waits_in(&mut queue, Ticket::New);
        stream.wait(&mut queue);
        assert!(!stream.ticket.is_queued() && !queue.is_first(&stream.ticket));
        wake_next(&mut queue);
        assert_eq!((future.woken(), stream.woken()), (1, 0));
        // Leaving means nothing to it.
        stream.leave(&mut queue);
        assert!(!queue.is_empty());
        future.leave(&mut queue);
        assert_eq!((future.woken(), stream.woken()), (1, 1), "once, though it waited twice");
        assert!(queue.is_empty());
        wake_next(&mut queue);
        assert_eq!(stream.woken(), 1);
    }

    #[test]
    fn the_waker_of_the_last_poll_counts() {
        let mut queue = WaitQueue::default();
        let mut before = Task::waits_in(&mut queue, Ticket::New);
        let after = Task::new(Ticket::New);
        let old = queue.wait(&mut before.ticket, &after.waker);
        assert!(old.is_some_and(|old| old.will_wake(&before.waker)), "the old one is handed out");
        wake_next(&mut queue);
        assert_eq!((before.woken(), after.woken()), (0, 1));
        drop(queue.wait(&mut before.ticket, &before.waker));
        let left = queue.leave(&mut before.ticket, &mut Wakers::default());
        assert!(left.is_some_and(|left| left.will_wake(&before.waker)), "and so is that of one who leaves");
    }

    #[test]
    fn a_grant_follows_yielding_and_ends() {
        let mut yielding = Yielding::default();
        assert!(!yielding.resume() && !yielding.is_granted(), "nobody has yielded");
        yielding.yield_now();
        assert!(yielding.has_yielded() && !yielding.is_granted());
        assert!(yielding.resume() && yielding.is_granted() && !yielding.has_yielded());
        assert!(!yielding.resume() && yielding.is_granted(), "it lasts until it is used up");
        yielding.end();
        assert!(!yielding.is_granted());
    }
}
