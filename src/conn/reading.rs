//! The receiving half: from the descriptor through the inbox to the reader, or to whoever calls `recv`.

use std::rc::Rc;
use std::time::Instant;

use super::Conn;
use super::handler::{Reader, Reason, call, with_text};
use super::inbox::TooLong;
use crate::engine::{Engine, Next, READ_BUFFER, Ready};
use crate::error::{Error, Result};
use crate::socket::Socket;
use crate::transport::Peek;

/// So many reads in one turn, then the others get theirs.
const READS: usize = 4;

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
    Nothing,
    Ended,
}

impl Conn {
    /// Reads and delivers until nothing is left, or this connection's share of the turn is used up.
    pub(super) fn serve(self: &Rc<Self>) -> Next {
        let mut reads = 0;
        let mut buffer = None;
        let next = loop {
            if !self.has_reader.get() {
                break self.notice_end();
            }
            match self.deliver() {
                Delivered::All => {}
                Delivered::TimeUp => break Next::Hot,
                Delivered::Stop if self.is_open() => continue,
                Delivered::Stop => break Next::Idle,
                Delivered::Raw => {
                    let more = self.sticky.get().has(Ready::READ) && !self.read_ended.get();
                    let waiting = !self.io.borrow().inbox.is_empty() || more;
                    break if waiting { Next::Again } else { Next::Idle };
                }
            }
            if self.read_ended.get() {
                self.end_of_stream();
                break Next::Idle;
            }
            if !self.sticky.get().has(Ready::READ | Ready::HANGUP | Ready::ERROR) {
                break Next::Idle;
            }
            if reads >= READS {
                break Next::Hot;
            }
            self.give_back(&mut buffer);
            match self.fill(&mut buffer) {
                Filled::Full | Filled::Part => reads += 1,
                Filled::Nothing | Filled::Ended => break Next::Idle,
            }
        };
        self.give_back(&mut buffer);
        next
    }

    pub(super) fn give_back(&self, buffer: &mut Option<Rc<Vec<u8>>>) {
        if let Some(buffer) = buffer.take() {
            self.io.borrow_mut().inbox.settle();
            self.engine.give_buffer(buffer);
        }
    }

    /// One read into the inbox.
    fn fill(&self, held: &mut Option<Rc<Vec<u8>>>) -> Filled {
        if self.is_tls() {
            return match self.read_session(held) {
                Ok(count) if count == READ_BUFFER => Filled::Full,
                Ok(_) => Filled::Part,
                Err(error) => {
                    if self.read_failed(error) {
                        Filled::Nothing
                    } else {
                        Filled::Ended
                    }
                }
            };
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
                self.io.borrow_mut().inbox.push_batch(buffer.clone(), count);
                *held = Some(buffer);
                if count == READ_BUFFER { Filled::Full } else { Filled::Part }
            }
            Err(error) => {
                self.engine.give_buffer(buffer);
                if self.read_failed(error) { Filled::Nothing } else { Filled::Ended }
            }
        }
    }

    /// A read was full or short. A short one means that nothing is left, unless the end is known to have come: that is
    /// not told again.
    #[inline]
    pub(super) fn note_read(&self, full: bool) {
        let sticky = self.sticky.get();
        let by_hand = self.input_by_hand.get() && !self.output_gone.get();
        if by_hand || (!full && !sticky.has(Ready::HANGUP | Ready::ERROR) && !self.transport.stopped_short()) {
            self.sticky.set(sticky.without(Ready::READ));
        }
    }

    /// True if the read only found nothing.
    fn read_failed(&self, error: std::io::Error) -> bool {
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
        self.read_ended.set(true);
        let failed =
            self.rare.borrow_mut().as_mut().and_then(|rare| rare.read_error.take().or(rare.write_error.take()));
        if failed.is_none() && self.stays_half_open() {
            return;
        }
        self.finish(failed.map_or(Reason::Remote, Reason::Failed), true);
    }

    /// Tells of the peer's end, if somebody wants to know. True if the connection goes on in the other direction.
    fn stays_half_open(&self) -> bool {
        let callback = self.rare.borrow_mut().as_mut().and_then(|rare| rare.on_end.take());
        if let (Some(callback), Some(me)) = (callback, self.strong()) {
            self.half_open.set(true);
            let socket = Socket::from_conn(me);
            match call(&self.engine, || callback(&socket)) {
                None => self.abort_silently(),
                Some(Err(error)) => self.finish(Reason::Failed(error), true),
                Some(Ok(())) => {}
            }
        }
        let broken = self.sticky.get().has(Ready::ERROR);
        !self.is_open() || (self.half_open.get() && !self.write_ended.get() && !broken)
    }

    /// Nobody reads: nothing is taken, but the end is noticed once nothing lies before it.
    fn notice_end(&self) -> Next {
        if !self.sticky.get().has(Ready::HANGUP | Ready::ERROR) && !self.read_ended.get() {
            return Next::Idle;
        }
        if !self.io.borrow().inbox.is_empty() && !self.caller_knows.get() {
            return Next::Idle;
        }
        if self.read_ended.get() {
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
        let filled = self.fill(&mut held);
        self.give_back(&mut held);
        match filled {
            Filled::Nothing | Filled::Ended => Next::Idle,
            // Looks again: by now there is data in the inbox, or the end is known, or more is to be read.
            Filled::Full | Filled::Part => Next::Again,
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

    /// Hands over what the inbox holds. After every call the state is looked at anew: the callback may have closed the
    /// connection, set another reader, or taken the rest away.
    fn deliver(self: &Rc<Self>) -> Delivered {
        if self.io.borrow().inbox.is_empty() && !matches!(*self.reader.borrow(), Reader::Raw(_)) {
            return Delivered::All;
        }
        let epoch = self.epoch.get();
        let mut reader = self.reader.take();
        let (line_limit, read_size) = {
            let options = self.options.borrow();
            (options.line_limit, options.read_size)
        };
        let mut handle = None;
        let delivered = loop {
            let piece = match &reader {
                Reader::None => break Delivered::Stop,
                Reader::Data(_) => Ok(self.io.borrow_mut().inbox.next_chunk(read_size)),
                Reader::Lines(_) => self.io.borrow_mut().inbox.next_line(line_limit),
                Reader::Raw(_) => match self.look() {
                    true => Ok(None),
                    false => break Delivered::Raw,
                },
            };
            let piece = match piece {
                Ok(piece) => piece,
                Err(TooLong) => {
                    let error = Error::LineTooLong { peer: self.peer_name(), limit: line_limit };
                    self.finish(Reason::Failed(error), true);
                    break Delivered::Stop;
                }
            };
            if piece.is_none() && !matches!(reader, Reader::Raw(_)) {
                break Delivered::All;
            }
            let socket = handle.get_or_insert_with(|| Socket::from_conn(self.clone()));
            let result = call(&self.engine, || match (&mut reader, &piece) {
                (Reader::Data(user), Some(piece)) => user(socket, piece.as_slice()),
                (Reader::Lines(user), Some(piece)) => with_text(piece.as_slice(), |text| user(socket, text)),
                (Reader::Raw(user), _) => user(socket),
                _ => Ok(()),
            });
            match result {
                None => {
                    self.abort_silently();
                    break Delivered::Stop;
                }
                Some(Err(error)) => self.finish(Reason::Failed(error), true),
                Some(Ok(())) => {}
            }
            let time_up = self.engine.spent();
            if !self.is_open() {
                break Delivered::Stop;
            }
            if matches!(reader, Reader::Raw(_)) {
                // Also if it has set itself anew: once each turn.
                break Delivered::Raw;
            }
            if time_up {
                break Delivered::TimeUp;
            }
            if self.epoch.get() != epoch {
                break Delivered::Stop;
            }
        };
        if self.epoch.get() == epoch && self.is_open() {
            self.reader.replace(reader);
        } else {
            // It captured who knows what: nothing is borrowed here.
            drop(reader);
        }
        delivered
    }

    /// Is there anything for a raw reader?
    fn look(&self) -> bool {
        if !self.io.borrow().inbox.is_empty() {
            return true;
        }
        if self.read_ended.get() {
            self.end_of_stream();
            return false;
        }
        if !self.sticky.get().has(Ready::READ | Ready::HANGUP | Ready::ERROR) {
            return false;
        }
        if !self.is_tls() {
            return self.look_into_kernel();
        }
        while self.sticky.get().has(Ready::READ | Ready::HANGUP | Ready::ERROR) && !self.read_ended.get() {
            let mut held = None;
            let filled = self.fill(&mut held);
            self.give_back(&mut held);
            if !self.io.borrow().inbox.is_empty() {
                return true;
            }
            if matches!(filled, Filled::Nothing | Filled::Ended) {
                return false;
            }
        }
        if self.read_ended.get() {
            self.end_of_stream();
        }
        false
    }

    // ---- blocking ----

    /// Waits for data and takes up to `max` bytes of it.
    pub(crate) fn recv(&self, max: usize) -> Result<Vec<u8>> {
        let max = max.clamp(1, READ_BUFFER);
        let deadline = self.deadline();
        loop {
            if let Some(piece) = self.io.borrow_mut().inbox.next_chunk(max) {
                self.taken();
                return Ok(piece.as_slice().to_vec());
            }
            self.receive(max, deadline)?;
        }
    }

    /// Waits for a whole line. What comes after it stays for the next call.
    pub(crate) fn recv_line(&self) -> Result<String> {
        let limit = self.options.borrow().line_limit;
        let deadline = self.deadline();
        loop {
            let line = self.io.borrow_mut().inbox.next_line(limit);
            match line {
                Ok(Some(line)) => {
                    self.taken();
                    return Ok(String::from_utf8_lossy(line.as_slice()).into_owned());
                }
                Ok(None) => {}
                Err(TooLong) => {
                    let error = || Error::LineTooLong { peer: self.peer_name(), limit };
                    self.finish(Reason::Failed(error()), true);
                    return Err(error());
                }
            }
            self.receive(READ_BUFFER, deadline)?;
        }
    }

    /// Everything that has been received and not handed over.
    pub(crate) fn take_leftover(&self) -> Vec<u8> {
        let leftover = self.io.borrow_mut().inbox.take_all();
        if !leftover.is_empty() {
            self.taken();
        }
        leftover
    }

    /// Somebody has taken data that may have lain before the end.
    fn taken(&self) {
        if self.sticky.get().has(Ready::HANGUP | Ready::ERROR) || self.read_ended.get() {
            self.wake();
        }
    }

    /// Waits for something to come and puts it into the inbox, of a plain connection no more than `max` bytes.
    fn receive(&self, max: usize, deadline: Deadline) -> Result {
        let mut held = None;
        loop {
            if !self.is_open() || self.read_ended.get() {
                return Err(self.end_for_caller());
            }
            let read = if self.is_tls() { self.read_session(&mut held) } else { self.read_plain(max, &mut held) };
            self.give_back(&mut held);
            match read {
                Ok(_) if !self.io.borrow().inbox.is_empty() => return Ok(()),
                // The connection stays open for sending until the loop's next turn, or for good where none runs. And TLS
                // has more to say than data.
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => self.wait_for_input(deadline)?,
                Err(error) => {
                    let copy = std::io::Error::from(error.kind());
                    let copy = error.raw_os_error().map_or(copy, std::io::Error::from_raw_os_error);
                    self.read_failed(error);
                    return Err(Error::from_io("reading from", self.peer_name(), copy));
                }
            }
        }
    }

    fn read_plain(&self, max: usize, held: &mut Option<Rc<Vec<u8>>>) -> std::io::Result<usize> {
        let mut buffer = self.engine.take_buffer();
        let space = Rc::get_mut(&mut buffer).ok_or(std::io::ErrorKind::WouldBlock)?;
        let max = max.min(space.len());
        let read = self.transport.read(&mut space[..max]);
        match read {
            Ok(0) => self.read_ended.set(true),
            Ok(count) => {
                self.note_read(count == max);
                self.io.borrow_mut().inbox.push_batch(buffer.clone(), count);
            }
            Err(_) => {}
        }
        *held = Some(buffer);
        read
    }

    /// What a blocking call gets at the end. The loop is told as well.
    fn end_for_caller(&self) -> Error {
        self.caller_knows.set(true);
        self.wake();
        match self.rare.borrow().as_ref().and_then(|rare| rare.read_error.as_ref()) {
            Some(Error::Truncated { peer }) => Error::Truncated { peer: peer.clone() },
            Some(Error::Rejected { peer, problem }) => Error::Rejected { peer: peer.clone(), problem: problem.clone() },
            Some(Error::Tls { peer, problem }) => Error::Tls { peer: peer.clone(), problem: problem.clone() },
            _ => self.closed(),
        }
    }

    /// When a blocking call that starts now gives up, and after how long that is.
    pub(super) fn deadline(&self) -> Deadline {
        let limit = self.options.borrow().timeout;
        limit.map(|limit| (Instant::now() + limit, limit))
    }

    /// Waits until there is something to read. What is queued goes out meanwhile: the peer may wait for it.
    fn wait_for_input(&self, deadline: Deadline) -> Result {
        for engine in Engine::all_here() {
            engine.flush();
        }
        let sending = self.is_sending();
        self.wait(true, sending, deadline, "waiting for")?;
        if sending {
            self.write_out();
        }
        Ok(())
    }

    pub(super) fn wait(&self, read: bool, write: bool, deadline: Deadline, operation: &'static str) -> Result {
        let left = deadline.map(|(end, _)| end.saturating_duration_since(Instant::now()));
        match (self.transport.wait(read, write, left), deadline) {
            (Ok(true), _) | (Ok(false), None) => Ok(()),
            (Ok(false), Some((_, limit))) => Err(Error::TimedOut { operation, address: self.peer_name(), limit }),
            (Err(error), _) => Err(Error::from_io(operation, self.peer_name(), error)),
        }
    }
}

pub(super) type Deadline = Option<(Instant, std::time::Duration)>;
