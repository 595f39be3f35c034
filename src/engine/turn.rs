//! One turn of the loop: collect what is ready, serve it in turns with the calls that are due, write out what was
//! gathered. What takes too long waits for the low source.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::poller::BATCH;
use super::{DATAGRAMS, Engine, Handler, Key, Next, Pending, READS, Ready, Served, fairness, main_depth};
use crate::sys;

/// The most connections whose output waits to go out together. More would gain nothing.
const CORKED: usize = 16;

/// A place in a queue that is not a registration: when it is reached, all before it have been served.
const MARK: Key = Key::NONE;

/// The longest time that the loop may sleep, as far as the engine is concerned.
pub(super) enum Wait {
    Not,
    Until(i64),
    Forever,
}

impl Engine {
    /// Returns whether a dispatch of this engine is on the stack. Output is corked then: it is sent at the end of the turn.
    #[inline]
    pub(crate) fn in_turn(&self) -> bool {
        self.turns.get() > 0
    }

    /// Counts one more unit of work (a line, an accept), and returns whether the time of this iteration is up.
    #[inline]
    pub(crate) fn spent(&self) -> bool {
        self.fairness.spent()
    }

    /// Returns whether futures may go on, or have to yield to the rest of the program.
    pub(crate) fn futures_have_credit(&self, now: i64) -> bool {
        // Those that are polled by ourselves work in the slice of the turn. In a nested loop within it others do not.
        let are_ours = self.polls_at.get() == main_depth();
        if are_ours { self.fairness.lasts(now) } else { self.fairness.futures_have_credit(now) }
    }

    /// Returns whether futures may go on without asking for that.
    #[inline]
    pub(crate) fn futures_in_stride(&self) -> bool {
        self.fairness.futures_in_stride()
    }

    pub(crate) fn start_futures_stride(&self, now: i64) {
        self.fairness.start_futures_stride(now);
    }

    #[inline]
    pub(crate) fn futures_worked(&self, units: u32) {
        self.fairness.futures_worked(units);
    }

    /// The time by the clock that [`Engine::after`] goes by, in microseconds: when this turn began, or now, if this is none.
    pub(crate) fn turn_time(&self) -> i64 {
        let timers = self.timers.borrow();
        if !self.in_turn() || timers.is_empty() {
            timers.look_anew(fairness::now());
        }
        timers.looked()
    }

    /// Notes for the timers that the loop is not held up, if there are any.
    #[inline]
    pub(super) fn look(&self, now: impl FnOnce() -> i64) {
        let timers = self.timers.borrow();
        if !timers.is_empty() {
            timers.look(now());
        }
    }

    pub(super) fn has_corked(&self) -> bool {
        !self.dirty.borrow().is_empty()
    }

    /// Writes out what was gathered. Before every sleep, nested iteration and blocking call, and within a turn.
    pub(crate) fn flush(&self) {
        if self.has_corked() {
            self.send_corked();
        }
    }

    /// In the frame of the loop, see [`Engine::serve`].
    #[inline(always)]
    fn send_corked(&self) {
        let mut dirty = self.dirty.take();
        for key in dirty.drain(..) {
            let handler = self.entries.borrow_mut().get_mut(key).map(|entry| entry.handler.clone());
            let Some(handler) = handler else { continue };
            let Some((fd, bytes)) = handler.outgoing() else {
                handler.flush();
                continue;
            };
            let sent = sys::send(fd, &bytes);
            drop(bytes);
            handler.sent(sent);
        }
        let mut new = self.dirty.borrow_mut();
        if new.is_empty() {
            *new = dirty;
        }
    }

    /// Returns how long the loop may sleep.
    pub(super) fn prepare(&self, now: impl FnOnce() -> i64) -> Wait {
        self.flush();
        if self.fairness.charge_futures() {
            self.arm_low();
        }
        if !self.fairness.has_credit() {
            // Futures have spent it, in no dispatch.
            self.all_hot();
        }
        let may_work = self.fairness.has_credit() && !self.is_panicking();
        if self.mailbox.is_pending() || self.poller.borrow().has_fetched() {
            return Wait::Not;
        }
        if may_work && !(self.ready.borrow().is_empty() && self.deferred.borrow().is_empty()) {
            return Wait::Not;
        }
        let timers = self.timers.borrow();
        let mut wait = if timers.is_empty() { None } else { timers.look_before_sleep(now()) };
        if self.needs_hot_slice() {
            let guard = self.fairness.guard();
            wait = Some(wait.map_or(guard, |wait| wait.min(guard)));
        }
        wait.map_or(Wait::Forever, Wait::Until)
    }

    pub(super) fn dispatch(self: &Rc<Self>, has_events: bool) {
        let _default = self.sources.as_thread_default();
        self.turns.set(self.turns.get() + 1);
        self.collect_calls();
        if self.needs_hot_slice() && self.fairness.guard() <= fairness::now() {
            self.hot_slice();
        }
        let batch = if has_events { self.poll() } else { 0 };
        if self.timers.borrow().start_waiting() {
            self.serve_before_timers();
        }
        if self.fairness.has_credit() {
            self.cold_slice(batch);
        }
        self.turns.set(self.turns.get() - 1);
        if !self.fairness.has_credit() {
            self.all_hot();
        }
        if self.fairness.wants_refill() {
            self.arm_low();
        }
    }

    fn cold_slice(self: &Rc<Self>, mut batch: usize) {
        let outer = self.fairness.start_cold();
        let mut left = BATCH;
        // Only after a batch of several is another look worth a system call.
        while !self.work(&self.ready, &mut left) {
            // What they have brought may be what tasks wait for. Else, only after a batch of several another look is worth a
            // system call.
            if self.collect_tasks() {
                continue;
            }
            batch = if batch >= 2 { self.poll() } else { 0 };
            if batch == 0 {
                break;
            }
        }
        self.fairness.end_cold(outer);
    }

    pub(super) fn dispatch_low(self: &Rc<Self>) {
        self.fairness.refill();
        self.look(fairness::now);
        if !self.hot.borrow().is_empty() || !self.deferred.borrow().is_empty() {
            let _default = self.sources.as_thread_default();
            self.turns.set(self.turns.get() + 1);
            self.hot_slice();
            self.turns.set(self.turns.get() - 1);
        }
        if self.hot.borrow().is_empty() && !self.fairness.wants_refill() {
            self.low_armed.set(false);
        }
    }

    /// Returns whether anything waits that only the guard serves if the program is always busy.
    fn needs_hot_slice(&self) -> bool {
        !self.hot.borrow().is_empty() || (!self.fairness.has_credit() && !self.deferred.borrow().is_empty())
    }

    fn hot_slice(self: &Rc<Self>) {
        let outer = self.fairness.start_hot();
        // Round robin: those that stay hot go to the back.
        let mut left = usize::MAX;
        while !self.work(&self.hot, &mut left) && self.collect_tasks() {}
        self.fairness.end_hot(outer);
    }

    /// Takes the kernel's events into the queue.
    fn poll(&self) -> usize {
        let mut entries = self.entries.borrow_mut();
        let mut ready = self.ready.borrow_mut();
        let mut flooded = Vec::new();
        let count = self.poller.borrow_mut().poll(|bits, what| {
            let (key, output) = Key::from_bits(bits);
            let Some(entry) = entries.get_mut(key) else { return };
            let is_known = entry.ready.has(Ready::READ);
            entry.ready |= match (output, entry.output.is_some()) {
                // The reader of our output has gone.
                (true, _) if what.has(Ready::HANGUP) => what.without(Ready::HANGUP) | Ready::ERROR,
                // Of two descriptors the input's error is found by reading; `ERROR` is the output's.
                (false, true) if what.has(Ready::ERROR) => what.without(Ready::ERROR) | Ready::READ | Ready::HANGUP,
                _ => what,
            };
            // One piece of news while it waits is what most bring, and costs less than two system calls.
            if entry.hot && !entry.disarmed && is_known && what.has(Ready::READ) {
                flooded.push(key);
            }
            if !entry.queued {
                entry.queued = true;
                if entry.hot {
                    self.push_hot(key);
                } else {
                    ready.push_back(key);
                }
            }
        });
        for key in flooded {
            if let Some(entry) = entries.get_mut(key) {
                self.disarm_read(key, entry, true);
            }
        }
        count
    }

    /// Serves a queue and makes the calls that are due, in turns, so that neither holds up the other. True when the time
    /// of this dispatch, or the number it may serve, is used up.
    ///
    /// Their output goes out for several connections at a time: a system call costs less when the one before was of the same
    /// kind. But when as many wait to be sent as wait to be served, they go out, so that the peers have something to do
    /// meanwhile. The slice bounds how long that can take.
    fn work(self: &Rc<Self>, queue: &RefCell<VecDeque<Key>>, left: &mut usize) -> bool {
        // Those that are there now: a call that defers another must not keep the loop here.
        let mut calls = self.deferred.borrow().len();
        let mut buffer = None;
        loop {
            let is_over = self.step(queue, left, &mut calls, &mut buffer);
            if self.disown() {
                // The callback has forked, and this is the child: what waits here is the parent's to serve.
                return true;
            }
            let waiting = if is_over.is_some() { 0 } else { queue.borrow().len() + calls };
            let enough = waiting.clamp(1, CORKED);
            if self.dirty.borrow().len() >= enough {
                self.send_corked();
            }
            if let Some(is_over) = is_over {
                self.return_buffer(&mut buffer);
                return is_over;
            }
        }
    }

    /// Makes one call, if there is one, and serves one entry, if there is one. If that is to be all, says whether the time is
    /// up.
    #[inline(always)]
    fn step(
        self: &Rc<Self>,
        queue: &RefCell<VecDeque<Key>>,
        left: &mut usize,
        calls: &mut usize,
        buffer: &mut Option<Rc<Vec<u8>>>,
    ) -> Option<bool> {
        if self.is_panicking() {
            return Some(true);
        }
        if *calls > 0 {
            let due = self.deferred.borrow_mut().pop_front();
            // A nested loop in one of them may have made the others.
            *calls = if due.is_some() { *calls - 1 } else { 0 };
            if let Some(due) = due {
                self.return_buffer(buffer);
                match due {
                    Pending::Call(call) => call(self),
                    Pending::Task(key) => self.poll_task(key),
                    Pending::Alarm(alarm) => alarm.ring(),
                }
                if self.fairness.spent() {
                    return Some(true);
                }
            }
        }
        let key = if *left > 0 { queue.borrow_mut().pop_front() } else { None };
        match key {
            Some(key) => {
                self.serve(key, buffer);
                *left -= 1;
                self.fairness.spent().then_some(true)
            }
            None if *calls > 0 => None,
            None => Some(*left == 0),
        }
    }

    /// Serves one entry. The buffer stays from message to message.
    ///
    /// The system calls for messages and their answers are made here and in [`Engine::send_corked`], in the frame of the
    /// loop that fetches the events: on machines where the kernel leaves the processor's stack of return addresses in
    /// disorder, a return from a function that was entered before the call costs far more than the function does (450 ns on
    /// an AMD EPYC of 2024, of 2200 ns that the call takes). Returns from functions entered after it are as cheap as ever.
    #[inline(always)]
    fn serve(self: &Rc<Self>, key: Key, buffer: &mut Option<Rc<Vec<u8>>>) {
        let (handler, mut ready, was_hot) = {
            let mut entries = self.entries.borrow_mut();
            let Some(entry) = entries.get_mut(key) else {
                drop(entries);
                return self.pass(key);
            };
            entry.queued = false;
            (entry.handler.clone(), std::mem::replace(&mut entry.ready, Ready::NONE), entry.hot)
        };
        let mut reads = 0;
        let next = loop {
            let Some(from) = handler.incoming(ready) else {
                self.return_buffer(buffer);
                // It has had what it was ready for, if that was not all.
                let next = handler.clone().ready(self, if reads == 0 { ready } else { Ready::NONE });
                break next.max(self.receive_datagrams(&handler, buffer));
            };
            let received = from.receive(self.usable(buffer));
            match handler.clone().received(received, buffer) {
                Served::Done(next) => break next,
                Served::More if reads + 1 == READS || self.fairness.spent() => break Next::Hot,
                Served::More => {}
            }
            reads += 1;
            ready = Ready::READ;
        };
        if next == Next::Idle && !was_hot {
            return;
        }
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return };
        entry.hot = next == Next::Hot;
        if !entry.hot {
            self.disarm_read(key, entry, false);
        }
        let queue = next != Next::Idle;
        drop(entries);
        if queue {
            self.requeue(key);
        }
    }

    /// If it is datagrams that it wants. In the same frame.
    #[inline(always)]
    fn receive_datagrams(&self, handler: &Rc<dyn Handler>, buffer: &mut Option<Rc<Vec<u8>>>) -> Next {
        for _ in 0..DATAGRAMS {
            let Some(source) = handler.datagrams() else { return Next::Idle };
            let received = source.receive(self.usable(buffer));
            if let Served::Done(next) = handler.clone().datagram(received, buffer) {
                return next;
            }
        }
        Next::Hot
    }

    /// The credit is spent: whatever waits, waits for the low source. Those that get more input meanwhile are disarmed then:
    /// most are served before that.
    fn all_hot(&self) {
        let mut waiting = self.ready.borrow_mut();
        while let Some(key) = waiting.pop_front() {
            match self.entries.borrow_mut().get_mut(key) {
                Some(entry) => entry.hot = true,
                None if key == MARK => {}
                None => continue,
            }
            self.push_hot(key);
        }
        drop(waiting);
        if !self.deferred.borrow().is_empty() {
            self.arm_low();
        }
    }

    /// Moves calls whose time has come, and those that other threads ask for, to the deferred ones.
    fn collect_calls(&self) {
        if self.mailbox.is_pending() {
            for token in self.mailbox.take() {
                if let Some(call) = self.remote_calls.borrow_mut().remove(&token) {
                    self.deferred.borrow_mut().push_back(Pending::Call(call));
                }
            }
            self.collect_tasks();
        }
        let mut timers = self.timers.borrow_mut();
        if !timers.is_empty() {
            let now = fairness::now();
            timers.look(now);
            while let Some(call) = timers.pop_exact(now) {
                self.deferred.borrow_mut().push_back(call);
            }
        }
    }

    // ---- timers that limit what others do ----

    /// Such timers are due. What has come by now, for whomever, may be what they would miss: it is taken out of the kernel, and
    /// marks behind all that waits to be served tell when that has been.
    fn serve_before_timers(&self) {
        // An entry is queued once, so what comes after so many batches is news, and not of the time that is up.
        let batches = self.entries.borrow().len() / BATCH + 1;
        let _ = (0..batches).find(|_| self.poll() < BATCH);
        let mut marks = 0;
        for queue in [&self.ready, &self.hot] {
            let mut queue = queue.borrow_mut();
            if !queue.is_empty() {
                queue.push_back(MARK);
                marks += 1;
            }
        }
        self.judgement.set((marks, self.timers.borrow().looked()));
        if marks == 0 {
            self.call_timers();
        }
    }

    /// Handles a queued key that is not a registration: one that has ended, or a mark.
    #[cold]
    fn pass(&self, key: Key) {
        if key == MARK {
            let (marks, found) = self.judgement.get();
            self.judgement.set((marks - 1, found));
            if marks == 1 {
                self.call_timers();
            }
        }
    }

    /// All that had come when they were found due has been served.
    fn call_timers(&self) {
        let (_, found) = self.judgement.get();
        let mut timers = self.timers.borrow_mut();
        while let Some(call) = timers.pop_due(found) {
            self.deferred.borrow_mut().push_back(call);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::engine::{Handler, Next, Registration};

    struct Idle;

    impl Handler for Idle {
        fn ready(self: Rc<Self>, _: &Rc<Engine>, _: Ready) -> Next {
            Next::Idle
        }

        fn context_ended(self: Rc<Self>) {}
    }

    #[test]
    fn a_busy_connection_is_silenced_by_the_second_news_of_it() {
        let context = glib::MainContext::new();
        let check = context.with_thread_default(|| {
            let engine = Engine::current().unwrap();
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let registration = Registration { input: ours.as_fd(), input_blocks: false, output: None, write: false };
            let key = engine.register(registration, Rc::new(Idle)).unwrap();
            while context.iteration(false) {}
            engine.requeue_hot(key);
            for is_watched in [true, false] {
                theirs.write_all(b"x").unwrap();
                engine.poll();
                assert_eq!(engine.watches(key).0, is_watched);
            }
            while context.iteration(false) {}
            assert!(engine.watches(key).0, "it is served, and has nothing to do any more");
            engine.deregister(key);
        });
        check.unwrap();
    }
}
