//! The receiving half: from the descriptor through the inbox to the reader. Those who ask for input share it from there.

use std::rc::Rc;

use super::Conn;
use super::flags::Flag;
use super::handle::Socket;
use super::handler::{Kind, ReadCallback, Reason, with_text};
use super::inbox::{Inbox, TooLong};
use super::lines::each_line;
use super::transport::Peek;
use crate::engine::{Next, READ_BUFFER, READS, Ready, Served, call};
use crate::error::{Error, Result, again};

/// How far a delivery came.
enum Delivered {
    /// Everything that makes a whole line or chunk.
    All,
    /// The time of this turn is up, with more to deliver.
    TimeUp,
    /// Nobody reads any more.
    Stop,
    /// The raw reader has had its call.
    Raw,
}

/// What a read brought.
enum Filled {
    /// As much as fits the buffer: there will be more.
    Full,
    Part,
    /// Something that has gone straight to the reader.
    Passed(Delivered),
    Nothing,
    Ended,
}

impl Conn {
    /// Is there nothing to look out for but input, and a reader that is given it? Whatever else [`Conn::serve_all`] does has
    /// its mark here.
    #[inline]
    pub(super) fn expects_a_message(&self) -> bool {
        !self.flags.has(Flag::BESIDES_INPUT)
            && self.flags.has(Flag::HAS_READER)
            && !self.sticky.get().has(Ready::HANGUP | Ready::ERROR)
            && if self.flags.has(Flag::READS_DATA) { !self.io.has_input() } else { self.io.has_no_line() }
    }

    /// The way of most messages: one read, one call, one write, of which the engine does the first and the last.
    #[inline]
    pub(super) fn serve_message(
        self: &Rc<Self>,
        read: rustix::io::Result<usize>,
        held: &mut Option<Rc<Vec<u8>>>,
    ) -> Served {
        self.sticky.set(Ready::READ);
        self.flags.raise(Flag::BUSY);
        let delivered = match (read, held.as_ref()) {
            // Of what `passes` and `note_read` look at, the rest is known from `expects_a_message`.
            (Ok(count), Some(buffer))
                if count > 0
                    && self.flags.has(Flag::READS_DATA)
                    && count <= self.options(|options| options.read_size) =>
            {
                self.touch();
                if count < READ_BUFFER && !self.transport.stopped_short() {
                    self.sticky.set(Ready::NONE);
                }
                self.pass(&buffer[..count])
            }
            (read, buffer) => self.deliver_read(read, buffer),
        };
        self.flags.lower(Flag::BUSY);
        let is_all = !self.sticky.get().has(Ready::READ);
        let next = match delivered {
            Delivered::All if is_all && !self.flags.has(Flag::ENDED | Flag::AGAIN) => Next::Idle,
            Delivered::TimeUp if !self.flags.has(Flag::ENDED | Flag::AGAIN) => Next::Hot,
            Delivered::All if !self.flags.has(Flag::DIRTY | Flag::AGAIN) && self.expects_a_message() => {
                return Served::More;
            }
            _ => {
                self.engine.return_buffer(held);
                return Served::Done(self.serve_rest());
            }
        };
        Served::Done(next)
    }

    /// The same where it goes through the inbox, or is no data.
    #[inline(never)]
    fn deliver_read(self: &Rc<Self>, read: rustix::io::Result<usize>, buffer: Option<&Rc<Vec<u8>>>) -> Delivered {
        match (read, buffer) {
            (Err(error), _) => match self.read_failed(error.into()) {
                true => Delivered::All,
                false => Delivered::Stop,
            },
            (Ok(count), Some(buffer)) if count > 0 => {
                self.note_read(count == READ_BUFFER);
                self.io.receive(buffer.clone(), count);
                let delivered = self.deliver();
                self.io.inbox(Inbox::settle);
                self.io.rest();
                delivered
            }
            _ => {
                self.end_of_stream();
                Delivered::Stop
            }
        }
    }

    /// It has become more than a message.
    #[inline(never)]
    fn serve_rest(self: &Rc<Self>) -> Next {
        self.flush_own();
        self.serve_all(Ready::NONE, 1)
    }

    /// Reads and delivers until nothing is left, or this connection's share of the turn is used up, so many reads of
    /// which it has had.
    pub(super) fn serve(self: &Rc<Self>, mut reads: usize) -> Next {
        let mut buffer = None;
        let mut delivered = Delivered::Stop;
        let next = loop {
            match delivered {
                Delivered::All => {}
                Delivered::TimeUp => break Next::Hot,
                Delivered::Stop if !self.is_open() => break Next::Idle,
                Delivered::Stop if !self.delivers() => {
                    break self.wake_for_input().unwrap_or_else(|| self.notice_end());
                }
                // Another reader, or the first time here.
                Delivered::Stop => {
                    delivered = self.deliver();
                    continue;
                }
                Delivered::Raw => {
                    let more = self.sticky.get().has(Ready::READ) && !self.flags.has(Flag::READ_ENDED);
                    let waiting = self.io.has_input() || more;
                    break if waiting { Next::Again } else { Next::Idle };
                }
            }
            if self.flags.has(Flag::READ_ENDED) {
                self.end_of_stream();
                break Next::Idle;
            }
            if !self.sticky.get().has(Ready::READ | Ready::HANGUP | Ready::ERROR) {
                break Next::Idle;
            }
            if reads >= READS || (reads > 0 && self.engine.spent()) {
                break Next::Hot;
            }
            reads += 1;
            self.give_back(&mut buffer);
            delivered = match self.fill(&mut buffer) {
                Filled::Full | Filled::Part => self.deliver(),
                Filled::Passed(delivered) => delivered,
                Filled::Nothing | Filled::Ended => break Next::Idle,
            };
        };
        self.give_back(&mut buffer);
        next
    }

    #[inline]
    pub(super) fn give_back(&self, buffer: &mut Option<Rc<Vec<u8>>>) {
        if let Some(buffer) = buffer.take() {
            self.settle(buffer);
        }
    }

    #[inline(never)]
    fn settle(&self, buffer: Rc<Vec<u8>>) {
        self.io.inbox(Inbox::settle);
        self.engine.give_buffer(buffer);
    }

    /// One read, into the inbox, or past it if the reader takes it all.
    fn fill(self: &Rc<Self>, held: &mut Option<Rc<Vec<u8>>>) -> Filled {
        if self.is_tls() {
            return self.fill_from_session(held);
        }
        let mut buffer = self.engine.take_buffer();
        let Some(space) = Rc::get_mut(&mut buffer) else { return Filled::Nothing };
        match self.transport.read(space) {
            Ok(0) => {
                self.engine.give_buffer(buffer);
                self.end_of_stream();
                Filled::Ended
            }
            Ok(count) => {
                self.note_read(count == READ_BUFFER);
                if self.passes(count) {
                    let delivered = self.pass(&buffer[..count]);
                    self.engine.give_buffer(buffer);
                    return Filled::Passed(delivered);
                }
                self.io.receive(buffer.clone(), count);
                *held = Some(buffer);
                if count == READ_BUFFER { Filled::Full } else { Filled::Part }
            }
            Err(error) => {
                self.engine.give_buffer(buffer);
                if self.read_failed(error) { Filled::Nothing } else { Filled::Ended }
            }
        }
    }

    fn fill_from_session(&self, held: &mut Option<Rc<Vec<u8>>>) -> Filled {
        match self.read_session(held, false) {
            Ok(count) if count == READ_BUFFER => Filled::Full,
            Ok(_) => Filled::Part,
            Err(error) => {
                if self.read_failed(error) {
                    Filled::Nothing
                } else {
                    Filled::Ended
                }
            }
        }
    }

    /// A read was full or short. A short one means that nothing is left, unless the end is known to have come: that is
    /// not told again.
    #[inline]
    pub(super) fn note_read(&self, full: bool) {
        self.touch();
        let sticky = self.sticky.get();
        let by_hand = self.flags.has(Flag::INPUT_BY_HAND) && !self.flags.has(Flag::OUTPUT_GONE);
        if by_hand || (!full && !sticky.has(Ready::HANGUP | Ready::ERROR) && !self.transport.stopped_short()) {
            self.sticky.set(sticky.without(Ready::READ));
        }
    }

    /// True if the read only found nothing.
    pub(super) fn read_failed(&self, error: std::io::Error) -> bool {
        if error.kind() == std::io::ErrorKind::WouldBlock {
            self.sticky.set(self.sticky.get().without(Ready::READ | Ready::HANGUP | Ready::ERROR));
            return true;
        }
        let error = Error::from_io("reading from", self.peer_name(), error);
        self.finish(Reason::Failed(error), false);
        false
    }

    /// Nothing more comes. If TLS found something wrong, or sending has failed before, that is the reason.
    fn end_of_stream(&self) {
        self.flags.raise(Flag::READ_ENDED);
        let failed = self.if_rare(|rare| {
            // A copy stays for whoever asks later, who must not take it for a clean end.
            let stays = rare.read_error.as_ref().and_then(Error::again);
            let failed = std::mem::replace(&mut rare.read_error, stays);
            failed.or_else(|| rare.write_error.take())
        });
        if failed.is_none() && self.stays_half_open() {
            return;
        }
        self.finish(failed.map_or(Reason::Remote, Reason::Failed), true);
    }

    /// Tells of the peer's end, if somebody wants to know. True if the connection goes on in the other direction.
    fn stays_half_open(&self) -> bool {
        let callback = self.if_rare(|rare| rare.on_end.take());
        if let (Some(callback), Some(me)) = (callback, self.strong()) {
            self.flags.raise(Flag::HALF_OPEN);
            let socket = Socket::from_conn(me);
            match call(&self.engine, || callback(&socket)) {
                None => self.abort_silently(),
                Some(Err(error)) => self.finish(Reason::Failed(error), true),
                Some(Ok(())) => {}
            }
        }
        let broken = self.sticky.get().has(Ready::ERROR);
        !self.is_open() || (self.flags.has(Flag::HALF_OPEN) && !self.flags.has(Flag::WRITE_ENDED) && !broken)
    }

    /// Nobody reads: nothing is taken, but the end is noticed once nothing lies before it.
    fn notice_end(&self) -> Next {
        if !self.sticky.get().has(Ready::HANGUP | Ready::ERROR) && !self.flags.has(Flag::READ_ENDED) {
            return Next::Idle;
        }
        if self.io.has_input() && !self.flags.has(Flag::CALLER_KNOWS) {
            return Next::Idle;
        }
        if self.flags.has(Flag::READ_ENDED) {
            self.end_of_stream();
            return Next::Idle;
        }
        if self.is_tls() {
            return self.notice_end_of_session();
        }
        self.look_into_kernel();
        Next::Idle
    }

    /// Before the end of a TLS connection lies its end mark, which looks like data until it is decrypted.
    fn notice_end_of_session(&self) -> Next {
        let mut held = None;
        let filled = self.fill_from_session(&mut held);
        self.give_back(&mut held);
        match filled {
            Filled::Nothing | Filled::Ended => Next::Idle,
            // Looks again: by now there is data in the inbox, or the end is known, or more is to be read.
            Filled::Full | Filled::Part | Filled::Passed(_) => Next::Again,
        }
    }

    /// Is there data in the kernel? Its end, or an error, ends the connection.
    fn look_into_kernel(&self) -> bool {
        match self.transport.peek() {
            Ok(Peek::Data) => return true,
            Ok(Peek::Nothing) => self.sticky.set(self.sticky.get().without(Ready::READ | Ready::HANGUP | Ready::ERROR)),
            Ok(Peek::End) => self.end_of_stream(),
            Err(error) => {
                self.read_failed(error);
            }
        }
        false
    }

    /// May so much that was just read go to the reader without a stay in the inbox?
    #[inline]
    fn passes(&self, count: usize) -> bool {
        !self.flags.has(Flag::PAUSED)
            && self.flags.has(Flag::READS_DATA)
            && !self.io.has_input()
            && count <= self.options(|options| options.read_size)
    }

    /// Hands over what was just read.
    #[inline(always)]
    fn pass(self: &Rc<Self>, data: &[u8]) -> Delivered {
        self.flags.lower(Flag::CHANGED);
        let mut reader = self.reader.take();
        let Some(user) = &mut reader else { return Delivered::Stop };
        let socket = Socket::from_conn(self.clone());
        // The time is looked at by who serves, before the next read: this is all there is just now.
        let delivered = match call(&self.engine, || self.goes_on(user.data(&socket, data))) {
            Some(true) => Delivered::All,
            Some(false) => Delivered::Stop,
            None => {
                self.abort_silently();
                Delivered::Stop
            }
        };
        self.put_back(reader);
        delivered
    }

    /// Hands over what the inbox holds. After every call the state is looked at anew: the callback may have closed the
    /// connection, set another reader, or taken the rest away.
    fn deliver(self: &Rc<Self>) -> Delivered {
        if !self.io.has_input() && !self.flags.has(Flag::READS_RAW) {
            return Delivered::All;
        }
        self.flags.lower(Flag::CHANGED);
        let mut reader = self.reader.take();
        let Some(user) = &mut reader else { return Delivered::Stop };
        let kind = user.kind();
        let (line_limit, read_size) = self.options(|options| (options.line_limit, options.read_size));
        let socket = Socket::from_conn(self.clone());
        let delivered = loop {
            // Most lines go this way, with one passage through the door for all of a batch.
            let lines = call(&self.engine, || match kind {
                Kind::Lines => each_line(&self.io, line_limit, |line: &str| self.enough(user.line(&socket, line))),
                Kind::ByteLines => each_line(&self.io, line_limit, |line: &[u8]| self.enough(user.data(&socket, line))),
                Kind::Data | Kind::Raw => None,
            });
            match lines {
                Some(None) => {}
                Some(Some(enough)) => break enough,
                None => {
                    self.abort_silently();
                    break Delivered::Stop;
                }
            }
            let piece = match kind {
                Kind::Data => Ok(self.io.inbox(|inbox| inbox.next_chunk(read_size)).flatten()),
                Kind::Lines | Kind::ByteLines => self.io.inbox(|inbox| inbox.next_line(line_limit)).unwrap_or(Ok(None)),
                Kind::Raw => match self.look() {
                    true => Ok(None),
                    false => break Delivered::Raw,
                },
            };
            let piece = match piece {
                Ok(piece) => piece,
                Err(TooLong) => {
                    self.refuse_line(line_limit);
                    break Delivered::Stop;
                }
            };
            if piece.is_none() && kind != Kind::Raw {
                break Delivered::All;
            }
            let result = call(&self.engine, || match &piece {
                Some(piece) if kind == Kind::Lines => with_text(piece.as_slice(), |text| user.line(&socket, text)),
                Some(piece) => user.data(&socket, piece.as_slice()),
                None => user.ready(&socket),
            });
            let Some(result) = result else {
                self.abort_silently();
                break Delivered::Stop;
            };
            let enough = self.enough(result);
            if kind == Kind::Raw && self.is_open() {
                // Also if it has set itself anew: once each turn.
                break Delivered::Raw;
            }
            if let Some(enough) = enough {
                break enough;
            }
        };
        self.put_back(reader);
        delivered
    }

    /// The reader is back from its calls. It stays, unless there is another by now.
    #[inline(always)]
    fn put_back(&self, reader: Option<Box<dyn ReadCallback>>) {
        if !self.flags.has(Flag::CHANGED | Flag::ENDED) {
            let none = self.reader.replace(reader);
            // Dropping it would take a call for nothing.
            if none.is_none() {
                std::mem::forget(none);
            }
        } else {
            // It captured who knows what: nothing is borrowed here.
            drop(reader);
        }
    }

    /// A callback has returned this: is nothing more to go to it just now?
    #[inline]
    fn enough(&self, result: Result) -> Option<Delivered> {
        let goes_on = self.goes_on(result);
        let time_up = self.engine.spent();
        if time_up && self.is_open() {
            Some(Delivered::TimeUp)
        } else if goes_on {
            None
        } else {
            Some(Delivered::Stop)
        }
    }

    /// The same, but for the time.
    #[inline]
    fn goes_on(&self, result: Result) -> bool {
        if let Err(error) = result {
            self.finish(Reason::Failed(error), true);
        }
        !self.flags.has(Flag::ENDED | Flag::PAUSED | Flag::CHANGED)
    }

    /// Is there anything for a raw reader?
    fn look(&self) -> bool {
        if self.io.has_input() {
            return true;
        }
        if self.flags.has(Flag::READ_ENDED) {
            self.end_of_stream();
            return false;
        }
        if !self.sticky.get().has(Ready::READ | Ready::HANGUP | Ready::ERROR) {
            return false;
        }
        if !self.is_tls() {
            return self.look_into_kernel();
        }
        while self.sticky.get().has(Ready::READ | Ready::HANGUP | Ready::ERROR) && !self.flags.has(Flag::READ_ENDED) {
            let mut held = None;
            let filled = self.fill_from_session(&mut held);
            self.give_back(&mut held);
            if self.io.has_input() {
                return true;
            }
            if matches!(filled, Filled::Nothing | Filled::Ended) {
                return false;
            }
        }
        if self.flags.has(Flag::READ_ENDED) {
            self.end_of_stream();
        }
        false
    }

    // ---- for those who ask, blocking or not ----

    /// Everything that has been received and not handed over.
    pub(crate) fn take_leftover(&self) -> Vec<u8> {
        let leftover = self.io.take_input();
        if !leftover.is_empty() {
            self.taken();
        }
        leftover
    }

    /// Somebody has taken data that may have lain before the end.
    pub(super) fn taken(&self) {
        self.io.rest();
        let at_end = self.sticky.get().has(Ready::HANGUP | Ready::ERROR) || self.flags.has(Flag::READ_ENDED);
        if self.is_open() && (at_end || self.awaits_input()) {
            self.wake();
        }
    }

    /// An error of a read that somebody has asked for. None, if the read only found nothing.
    pub(super) fn reading_failed(&self, error: std::io::Error) -> Result {
        let copy = again(&error);
        if self.read_failed(error) { Ok(()) } else { Err(Error::from_io("reading from", self.peer_name(), copy)) }
    }

    pub(super) fn read_plain(&self, max: usize, held: &mut Option<Rc<Vec<u8>>>, waits: bool) -> std::io::Result<usize> {
        let mut buffer = self.engine.take_buffer();
        let space = Rc::get_mut(&mut buffer).ok_or(std::io::ErrorKind::WouldBlock)?;
        let max = max.min(space.len());
        let space = &mut space[..max];
        let read = if waits { self.transport.read_waiting(space) } else { self.transport.read(space) };
        match read {
            Ok(0) => self.flags.raise(Flag::READ_ENDED),
            Ok(count) => {
                self.note_read(count == max);
                self.io.receive(buffer.clone(), count);
            }
            Err(_) => {}
        }
        *held = Some(buffer);
        read
    }

    /// What a blocking call gets at the end. The loop is told as well.
    pub(super) fn end_for_caller(&self) -> Error {
        self.flags.raise(Flag::CALLER_KNOWS);
        self.wake();
        let failed = self.if_rare(|rare| rare.read_error.as_ref().or(rare.failed.as_ref()).and_then(Error::again));
        failed.unwrap_or_else(|| self.closed())
    }

    /// A line over the limit is the end of the connection. Gives the error for whoever asked.
    pub(super) fn refuse_line(&self, limit: usize) -> Error {
        let error = || Error::LineTooLong { peer: self.peer_name(), limit };
        self.finish(Reason::Failed(error()), true);
        error()
    }
}
