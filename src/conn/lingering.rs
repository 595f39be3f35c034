//! Lingering: a connection that has ended for the user sends what is queued, shuts the write half down, and reads and
//! discards until the peer's end.

use std::time::{Duration, Instant};

use super::Conn;
use super::state::{Linger, LingerFacts, ReadHalf, WriteHalf};
use crate::engine::Next;
use crate::sys;

/// Reads in one turn.
const DISCARDS: usize = 4;

/// The interval at which a connection that is to be reset checks whether the peer has what was sent: no event tells of
/// that.
const ACKNOWLEDGED: Duration = Duration::from_millis(20);

/// A connection on its way to the end.
pub(super) struct Lingering<'a>(pub(super) &'a Conn);

impl Conn {
    #[inline]
    pub(super) fn lingering(&self) -> Lingering<'_> {
        Lingering(self)
    }

    /// Closes without waiting for the peer's end, where no loop runs that would.
    pub(crate) fn close_without_peer(&self) {
        if self.status.is_lingering() && !self.engine.has_loop() {
            self.lingering().go_on();
            self.lingering().discard(&mut false);
            self.ending().close_descriptor();
        }
    }
}

impl Lingering<'_> {
    /// Goes on towards the end, as far as that goes without waiting.
    pub(super) fn go_on(&self) -> Next {
        let (mut has_written, mut has_ended, mut next) = (false, false, Next::Idle);
        loop {
            let facts = LingerFacts {
                ready: self.0.status.ready(),
                is_sending: self.0.is_sending(),
                has_written,
                has_ended,
                is_impatient: self.limit().is_zero(),
            };
            match self.0.status.get().lingering(facts) {
                Linger::Send => {
                    next = self.0.output().send();
                    has_written = true;
                }
                Linger::EndWriting => {
                    self.0.output().shut_down();
                    has_ended = true;
                }
                Linger::Discard => return next.max(self.discard(&mut false)),
                Linger::Reset if self.awaits_acknowledgement() => return Next::Idle,
                Linger::Reset | Linger::Close => {
                    self.0.ending().close_descriptor();
                    return Next::Idle;
                }
                Linger::Wait => return next,
            }
        }
    }

    /// A reset makes the kernel forget what the peer has not acknowledged yet. Looks again later if there is any.
    fn awaits_acknowledgement(&self) -> bool {
        if !self.0.transport.is_tcp() {
            // There what lies unread makes the reset, and nothing is on its way.
            return false;
        }
        if self.0.status.may_read() && !self.0.status.has_read_all() {
            // One that has broken the connection off acknowledges nothing.
            self.discard(&mut false);
        }
        let waits = self.0.status.is_lingering()
            && !self.limit().is_zero()
            && self.0.transport.backlog().is_some_and(|backlog| backlog.unacknowledged > 0)
            && !self.0.transport.is_cut();
        if waits && self.0.if_cold(|cold| cold.reset_timer).is_none() {
            let me = self.0.me.clone();
            let timer = self.0.engine.after(ACKNOWLEDGED, move |_| {
                if let Some(me) = me.upgrade() {
                    me.cold(|cold| cold.reset_timer = None);
                    me.lingering().go_on();
                }
            });
            self.0.cold(|cold| cold.reset_timer = Some(timer));
        }
        waits
    }

    pub(super) fn flush(&self) {
        if self.0.status.is_lingering() && !self.resets() && self.0.queued() == 0 {
            // It goes with what the session still holds.
            self.0.channel().close_notify();
        }
        self.0.output().send_or_requeue();
        self.go_on();
    }

    /// Reads and throws away. Notes if there was anything.
    fn discard(&self, talks: &mut bool) -> Next {
        let mut buffer = self.0.engine.take_buffer();
        let mut next = Next::Hot;
        for _ in 0..DISCARDS {
            let Some(space) = std::rc::Rc::get_mut(&mut buffer) else { break };
            match self.0.input().read_once(&mut space[..], false) {
                Ok(count) if count > 0 => *talks = true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    next = Next::Idle;
                    break;
                }
                read => {
                    self.0.status.change(|state| state.read.insert(ReadHalf::ENDED | ReadHalf::DISCARDED));
                    // After its end it may still listen, and a reset must not overtake what it is to get.
                    if read.is_err() || !(self.0.is_sending() || self.resets()) {
                        self.0.ending().close_descriptor();
                    }
                    next = Next::Idle;
                    break;
                }
            }
        }
        self.0.engine.give_buffer(buffer);
        next
    }

    fn resets(&self) -> bool {
        self.0.status.get().write.contains(WriteHalf::RESETS)
    }

    fn limit(&self) -> Duration {
        self.0.options(|options| options.linger)
    }

    /// Bytes that the peer's system does not have yet, while some of them wait here.
    fn on_the_way(&self) -> usize {
        let waits = self.0.queued() + usize::from(self.0.channel().holds_output());
        let unacknowledged = || self.0.transport.backlog().map_or(0, |backlog| backlog.unacknowledged);
        // What the kernel has it sends by itself.
        if waits == 0 { 0 } else { waits + unacknowledged() }
    }

    /// Closes when nothing has gone out for the linger time. As long as the peer takes what was sent, that begins anew.
    pub(super) fn start_timer(&self) {
        let (me, before) = (self.0.me.clone(), self.on_the_way());
        let timer = self.0.engine.after(self.limit(), move |_| {
            let Some(me) = me.upgrade() else { return };
            me.cold(|cold| cold.linger_timer = None);
            if !me.lingering().limit().is_zero() && me.lingering().on_the_way() < before {
                me.lingering().start_timer();
            } else {
                me.ending().close_descriptor();
            }
        });
        self.0.cold(|cold| cold.linger_timer = Some(timer));
    }

    pub(super) fn drain_without_loop(&self) {
        self.0.engine.disown();
        if self.0.status.is_lingering() && !self.0.engine.has_loop() && !std::thread::panicking() {
            self.drain();
        }
    }

    /// Without a loop there is no background: waits until the peer's system has everything, as long as it takes some of
    /// it within each linger time. Several that end together have one linger time in all.
    fn drain(&self) {
        let mut patience = Patience::new(self);
        while self.0.is_sending() && patience.lasts(self) {
            if self.0.transport.wait_regardless(false, true, patience.left()).is_err() {
                break;
            }
            self.0.output().send();
        }
        if self.0.status.is_lingering() && !self.0.is_sending() {
            if !self.resets() {
                self.0.output().shut_down();
            }
            self.await_acknowledgement(patience);
        }
        self.0.ending().close_descriptor();
    }

    fn await_acknowledgement(&self, mut patience: Patience) {
        let mut pause = Duration::from_micros(50);
        let mut talks = false;
        while let Some(backlog) = self.0.transport.backlog() {
            self.discard(&mut talks);
            // Once closed, the system resets the connection when the peer sends anything more, and forgets what it
            // still has. If the peer does not talk, it is enough that everything is on its way.
            let waits_for = if talks || self.resets() { backlog.unacknowledged } else { backlog.unsent };
            let is_cut = self.resets() && self.0.transport.is_cut();
            if waits_for == 0 || is_cut || !patience.lasts(self) {
                break;
            }
            // Acknowledgements are no event to wait for.
            let _ = self.0.transport.wait_regardless(true, false, pause.min(patience.left()));
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }
}

/// The time that a drain waits: a linger time from when the peer last took something.
struct Patience {
    on_the_way: usize,
    deadline: Option<Instant>,
}

impl Patience {
    fn new(lingering: &Lingering<'_>) -> Self {
        Patience { on_the_way: lingering.on_the_way(), deadline: Patience::deadline(lingering) }
    }

    fn deadline(lingering: &Lingering<'_>) -> Option<Instant> {
        // While connections end together this stays the same.
        lingering.0.engine.draining_since().checked_add(lingering.limit())
    }

    fn lasts(&mut self, lingering: &Lingering<'_>) -> bool {
        let on_the_way = lingering.on_the_way();
        if on_the_way < self.on_the_way {
            *self = Patience { on_the_way, deadline: Patience::deadline(lingering) };
        }
        !self.left().is_zero()
    }

    fn left(&self) -> Duration {
        self.deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(sys::now()))
    }
}
