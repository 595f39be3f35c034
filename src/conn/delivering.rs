//! Delivery: received data to the read callback. Bytes go through here, and user code is called; nothing is borrowed meanwhile.

use std::rc::Rc;

use super::callbacks::{Kind, ReadCallback, Reason, with_text};
use super::frames::each_frame;
use super::framing::Refusal;
use super::handle::Socket;
use super::lines::each_line;
use super::state::{Delivered, Look, Manner};
use super::{Conn, Options};
use crate::engine::call;
use crate::error::Result;

/// The reader, out of its place while it is called. It goes back there, unless there is another by then.
struct Delivering<'a> {
    conn: &'a Rc<Conn>,
    reader: Option<Box<dyn ReadCallback>>,
    socket: Socket,
}

impl Conn {
    /// Returns whether what was just read goes to the reader in one call, past the inbox.
    #[inline]
    pub(super) fn fits_one_call(&self, count: usize) -> bool {
        !self.status.is(Look::PAUSED)
            && self.status.is(Look::READS_DATA)
            && !self.io.has_input()
            && count <= self.options(|options| options.read_size)
    }

    /// Delivers what was just read.
    #[inline(always)]
    pub(super) fn deliver_directly(self: &Rc<Self>, data: &[u8]) -> Delivered {
        // Without a `Delivering`: its destructor is a call, which most messages would pay for.
        self.status.mark(Look::READER_REPLACED, false);
        let mut reader = self.reader.take();
        let Some(user) = &mut reader else { return Delivered::Stop };
        let socket = Socket::from_conn(self.clone());
        // All there is just now. The clock is looked at by the caller, before the next read.
        let delivered = match call(&self.engine, || goes_on(self, user.data(&socket, data))) {
            Some(true) => Delivered::All,
            Some(false) => Delivered::Stop,
            None => panicked(self),
        };
        put_back(self, reader);
        delivered
    }

    /// Delivers what the inbox holds. After every call the state is looked at anew: the callback may have closed the
    /// connection, set another reader, or taken the rest away.
    pub(super) fn deliver(self: &Rc<Self>) -> Delivered {
        let kind = self.status.get().delivery.reader;
        if !self.io.has_input() && kind != Some(Kind::Raw) {
            return Delivered::All;
        }
        let (Some(mut delivering), Some(kind)) = (Delivering::begin(self), kind) else { return Delivered::Stop };
        if kind == Kind::Raw {
            return delivering.readiness();
        }
        loop {
            if let Some(enough) = delivering.piece(kind) {
                return enough;
            }
        }
    }
}

impl<'a> Delivering<'a> {
    fn begin(conn: &'a Rc<Conn>) -> Option<Self> {
        conn.status.mark(Look::READER_REPLACED, false);
        let reader = Some(conn.reader.take()?);
        Some(Delivering { conn, reader, socket: Socket::from_conn(conn.clone()) })
    }

    /// Tells a raw reader that there is something: once in each turn.
    fn readiness(&mut self) -> Delivered {
        let Delivering { conn, reader: Some(user), socket } = self else { return Delivered::Stop };
        if !conn.has_something() {
            return Delivered::Raw;
        }
        let Some(result) = call(&conn.engine, || user.ready(socket)) else { return panicked(conn) };
        let enough = enough(conn, result);
        // Also if it has set itself anew.
        if conn.is_open() { Delivered::Raw } else { enough.unwrap_or(Delivered::Stop) }
    }

    /// Delivers many short lines or frames, or one piece. Returns how far that came, if it is to be all for now.
    fn piece(&mut self, kind: Kind) -> Option<Delivered> {
        let Delivering { conn, reader: Some(user), socket } = self else { return Some(Delivered::Stop) };
        let rule = conn.options(Options::line_rule);
        let framing = if kind == Kind::Frames { user.framing() } else { None };
        // Most lines go this way, with one passage through the door for all of a batch.
        let lines = call(&conn.engine, || match kind {
            Kind::Lines => each_line(&conn.io, rule, |line: &str| enough(conn, user.line(socket, line))),
            Kind::ByteLines => each_line(&conn.io, rule, |line: &[u8]| enough(conn, user.data(socket, line))),
            Kind::Frames => framing.and_then(|framing| {
                each_frame(&conn.io, framing, rule.limit, |message| enough(conn, user.data(socket, message)))
            }),
            Kind::Data | Kind::Raw => None,
        });
        match lines {
            Some(None) => {}
            Some(enough) => return enough,
            None => return Some(panicked(conn)),
        }
        // Read anew: a callback may have changed them.
        let (rule, read_size) = conn.options(|options| (options.line_rule(), options.read_size));
        let piece = conn.io.inbox(|inbox| match (kind, framing) {
            (Kind::Data, _) => Ok(inbox.next_chunk(read_size)),
            (_, Some(framing)) => inbox.next_frame(framing, rule.limit),
            _ => inbox.next_line(rule).map_err(Refusal::from),
        });
        let piece = match piece.unwrap_or(Ok(None)) {
            Ok(Some(piece)) => piece,
            Ok(None) => return Some(Delivered::All),
            Err(refusal) => {
                conn.refuse(refusal, rule.limit);
                return Some(Delivered::Stop);
            }
        };
        let result = call(&conn.engine, || match kind {
            Kind::Lines => with_text(piece.as_slice(), |text| user.line(socket, text)),
            _ => user.data(socket, piece.as_slice()),
        });
        match result {
            Some(result) => enough(conn, result),
            None => Some(panicked(conn)),
        }
    }
}

impl Drop for Delivering<'_> {
    fn drop(&mut self) {
        put_back(self.conn, self.reader.take());
    }
}

/// The reader is back from its calls. It stays, unless there is another by now.
#[inline(always)]
fn put_back(conn: &Conn, reader: Option<Box<dyn ReadCallback>>) {
    if !conn.status.is(Look::READER_REPLACED | Look::ENDED) {
        let none = conn.reader.replace(reader);
        // Dropping it would take a call for nothing.
        if none.is_none() {
            std::mem::forget(none);
        }
    } else {
        // It captured who knows what: nothing is borrowed here.
        drop(reader);
    }
}

/// A callback has returned this. Returns how far delivery came if nothing more is to be delivered just now.
#[inline]
fn enough(conn: &Conn, result: Result) -> Option<Delivered> {
    let goes_on = goes_on(conn, result);
    let time_up = conn.engine.spent();
    if time_up && conn.is_open() {
        Some(Delivered::TimeUp)
    } else if goes_on {
        None
    } else {
        Some(Delivered::Stop)
    }
}

/// The same, but for the time.
#[inline]
fn goes_on(conn: &Conn, result: Result) -> bool {
    if let Err(error) = result {
        conn.finish(Reason::Failed(error), Manner::Graceful);
    }
    !conn.status.is(Look::ENDED | Look::PAUSED | Look::READER_REPLACED)
}

#[cold]
fn panicked(conn: &Conn) -> Delivered {
    conn.abort_silently();
    Delivered::Stop
}
