//! The two queues of a connection. Their memory comes with the first bytes and goes with the last: most connections of
//! a large server have nothing in either.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::io;
use std::mem::ManuallyDrop;
use std::rc::Rc;

use super::inbox::Inbox;
use super::line_ending::LineEnding;
use super::outbox::Outbox;

/// The number of empty pairs of queues that a thread keeps for reuse.
const MOST: u32 = 64;

thread_local! {
    /// Those that were given back, the last of them first. Without a destructor they cost next to nothing to get at;
    /// [`End`] sees to theirs.
    static SPARES: Cell<Option<ManuallyDrop<Box<Io>>>> = const { Cell::new(None) };
    /// The thread ends, and nothing is kept any more.
    static OVER: Cell<bool> = const { Cell::new(false) };
    static END: End = const { End };
}

struct End;

impl Drop for End {
    fn drop(&mut self) {
        OVER.set(true);
        drop(SPARES.take().map(ManuallyDrop::into_inner));
    }
}

#[derive(Default)]
pub(super) struct Io {
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
    /// While it is a spare: the next one, and how many there are from there on.
    next: Option<ManuallyDrop<Box<Io>>>,
    behind: u32,
}

impl Io {
    #[inline]
    fn is_at_rest(&mut self) -> bool {
        self.outbox.is_empty() && self.inbox.is_at_rest()
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut io) = next.map(ManuallyDrop::into_inner) {
            next = io.next.take();
        }
    }
}

#[derive(Default)]
pub(super) struct Queues(RefCell<Option<Box<Io>>>);

impl Queues {
    /// The queues, if anything is in them.
    #[inline]
    pub(super) fn get(&self) -> RefMut<'_, Option<Box<Io>>> {
        self.0.borrow_mut()
    }

    /// The queues, to put something in. Whoever takes the last of it out calls [`Queues::rest`] some time.
    #[inline]
    pub(super) fn open(&self) -> RefMut<'_, Io> {
        RefMut::map(self.get(), |io| &mut **io.get_or_insert_with(spare))
    }

    /// Passes the undelivered data to `take`, if there is any.
    #[inline]
    pub(super) fn inbox<R>(&self, take: impl FnOnce(&mut Inbox) -> R) -> Option<R> {
        self.get().as_deref_mut().map(|io| take(&mut io.inbox))
    }

    #[inline]
    pub(super) fn has_input(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(|io| !io.inbox.is_empty())
    }

    /// As [`Inbox::is_partial_line`], or nothing at all.
    #[inline]
    pub(super) fn has_no_line(&self) -> bool {
        self.0.borrow().as_ref().is_none_or(|io| io.inbox.is_partial_line())
    }

    #[inline]
    pub(super) fn has_output(&self) -> bool {
        self.0.borrow().as_ref().is_some_and(|io| !io.outbox.is_empty())
    }

    /// Returns the number of undelivered bytes.
    pub(super) fn received(&self) -> usize {
        self.0.borrow().as_ref().map_or(0, |io| io.inbox.len())
    }

    /// Returns the length of the send queue.
    #[inline]
    pub(super) fn queued(&self) -> usize {
        self.0.borrow().as_ref().map_or(0, |io| io.outbox.len())
    }

    /// Adds what a read brought: the first `count` bytes of the buffer.
    pub(super) fn receive(&self, buffer: Rc<Vec<u8>>, count: usize) {
        if count > 0 {
            self.open().inbox.push_batch(buffer, count);
        }
    }

    /// Adds to what is to be sent, a line with its ending, unless that came to so many bytes or more.
    #[inline]
    pub(super) fn push(&self, bytes: &[u8], ending: Option<LineEnding>, bound: usize) -> bool {
        let mut slot = self.get();
        let queued = slot.as_ref().map_or(0, |io| io.outbox.len());
        let size = bytes.len() + ending.map_or(0, |ending| ending.as_str().len());
        if queued + size >= bound {
            return false;
        }
        if size == 0 {
            return true;
        }
        let outbox = &mut slot.get_or_insert_with(spare).outbox;
        outbox.push(bytes);
        match ending {
            None => {}
            // A length that is known costs less.
            Some(LineEnding::Lf) => outbox.push(b"\n"),
            Some(LineEnding::CrLf) => outbox.push(b"\r\n"),
        }
        true
    }

    /// Adds these to what is to be sent, one after the other, unless that came to so many bytes or more.
    #[inline]
    pub(super) fn push_parts(&self, parts: [&[u8]; 3], bound: usize) -> bool {
        let mut slot = self.get();
        let queued = slot.as_ref().map_or(0, |io| io.outbox.len());
        let size: usize = parts.iter().map(|part| part.len()).sum();
        if queued.saturating_add(size) >= bound {
            return false;
        }
        let outbox = &mut slot.get_or_insert_with(spare).outbox;
        parts.iter().for_each(|part| outbox.push(part));
        true
    }

    /// Returns the send queue, unless it is empty or longer than `most` bytes.
    #[inline]
    pub(super) fn outgoing(&self, most: usize) -> Option<Ref<'_, [u8]>> {
        Ref::filter_map(self.0.borrow(), |io| {
            let front = io.as_ref()?.outbox.front();
            (!front.is_empty() && front.len() <= most).then_some(front)
        })
        .ok()
    }

    /// So much of it is sent. True if that was all.
    #[inline(always)]
    pub(super) fn sent(&self, count: usize) -> bool {
        let mut slot = self.get();
        let Some(io) = slot.as_deref_mut() else { return true };
        io.outbox.advance(count);
        if !io.outbox.is_empty() {
            return false;
        }
        if io.is_at_rest() {
            give_back(slot.take());
        }
        true
    }

    /// Writes from the send queue. True if it is empty afterwards; `None` if it was empty before.
    pub(super) fn write(&self, write: impl FnOnce(&[u8]) -> io::Result<usize>) -> Option<io::Result<bool>> {
        let written = write(&self.outgoing(usize::MAX)?);
        Some(written.map(|count| self.sent(count)))
    }

    /// Takes all that waits to be handed over.
    pub(super) fn take_input(&self) -> Vec<u8> {
        let input = self.inbox(Inbox::take_all).unwrap_or_default();
        self.rest();
        input
    }

    /// Drops all that waits to be sent.
    pub(super) fn drop_output(&self) {
        if let Some(io) = self.get().as_deref_mut() {
            io.outbox.clear();
        }
        self.rest();
    }

    /// Gives the memory back if nothing is in the queues.
    #[inline]
    pub(super) fn rest(&self) {
        let mut io = self.get();
        if io.as_deref_mut().is_some_and(Io::is_at_rest) {
            give_back(io.take());
        }
    }
}

impl Drop for Queues {
    fn drop(&mut self) {
        give_back(self.0.get_mut().take_if(|io| io.is_at_rest()));
    }
}

#[inline]
fn spare() -> Box<Io> {
    let Some(mut io) = SPARES.take().map(ManuallyDrop::into_inner) else { return one_more() };
    SPARES.set(io.next.take());
    io
}

#[inline]
fn give_back(io: Option<Box<Io>>) {
    let Some(mut io) = io else { return };
    let next = SPARES.take();
    let behind = next.as_ref().map_or(0, |next| next.behind + 1);
    if behind > MOST || OVER.get() {
        SPARES.set(next);
    } else {
        (io.next, io.behind) = (next, behind);
        SPARES.set(Some(ManuallyDrop::new(io)));
    }
}

#[cold]
fn one_more() -> Box<Io> {
    // Whatever is given back from now on has an end.
    let _ = END.try_with(|_| ());
    Box::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spares() -> u32 {
        let first = SPARES.take();
        let count = first.as_ref().map_or(0, |first| first.behind + 1);
        SPARES.set(first);
        count
    }

    #[test]
    fn empty_queues_keep_no_memory() {
        let queues = Queues::default();
        assert!(!queues.has_output() && !queues.has_input() && queues.get().is_none());
        queues.open().outbox.push(b"some");
        queues.receive(Rc::new(b"more".to_vec()), 4);
        queues.drop_output();
        assert_eq!((queues.queued(), queues.received()), (0, 4), "one of the two is not empty");
        assert_eq!(queues.take_input(), b"more");
        assert!(queues.get().is_none());
        assert_eq!(spares(), 1);
        // And what was given back is used again.
        queues.open();
        assert_eq!(spares(), 0);
    }

    #[test]
    fn what_is_lent_is_known_by_its_place_until_it_is_taken() {
        let queues = Queues::default();
        queues.receive(Rc::new(b"one".to_vec()), 3);
        let (_, mark) = queues.open().inbox.lend().unwrap();
        assert_eq!(queues.take_input(), b"one", "somebody else takes it");
        queues.receive(Rc::new(b"two".to_vec()), 3);
        queues.open().inbox.skip(mark, 3);
        assert_eq!(queues.take_input(), b"two");
    }

    #[test]
    fn what_is_nothing_takes_no_memory() {
        let queues = Queues::default();
        assert!(queues.push(b"", None, usize::MAX));
        assert!(queues.get().is_none());
        assert!(queues.push(b"", Some(LineEnding::Lf), usize::MAX));
        assert_eq!(queues.queued(), 1);
        assert!(!queues.push(b"", Some(LineEnding::CrLf), 3), "two bytes more come to the bound");
        assert!(queues.push(b"", Some(LineEnding::CrLf), usize::MAX));
        assert_eq!(queues.queued(), 3);
    }

    #[test]
    fn parts_are_queued_together_or_not_at_all() {
        let queues = Queues::default();
        assert!(!queues.push_parts([b"ab", b"", b"c"], 3), "they come to the bound");
        assert!(queues.get().is_none());
        assert!(queues.push_parts([b"ab", b"", b"c"], 4));
        assert_eq!(queues.outgoing(9).as_deref(), Some(&b"abc"[..]));
    }

    #[test]
    fn a_thread_that_ends_keeps_nothing() {
        /// Goes after what it has drawn from, as the connections of a thread do that ends with them.
        struct Late(Queues, std::sync::mpsc::Sender<u32>);
        impl Drop for Late {
            fn drop(&mut self) {
                assert!(END.try_with(|_| ()).is_err(), "those have gone");
                self.0.drop_output();
                let _ = self.1.send(spares());
            }
        }
        thread_local!(static LATE: RefCell<Option<Late>> = const { RefCell::new(None) });
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            LATE.set(Some(Late(Queues::default(), tell)));
            LATE.with_borrow(|late| late.as_ref().unwrap().0.push(b"x", None, usize::MAX));
        });
        thread.join().unwrap();
        assert_eq!(told.recv(), Ok(0));
    }

    #[test]
    fn a_thread_keeps_few_spares() {
        let many: Vec<Queues> = (0..2 * MOST).map(|_| Queues::default()).collect();
        for queues in &many {
            queues.open().outbox.push(b"x");
        }
        for queues in &many {
            queues.drop_output();
        }
        assert_eq!(spares(), MOST + 1);
    }
}
