//! The registrations: watched descriptors, their handlers, and their places in the queues.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;

use super::poller::Watch;
use super::{Engine, Handler, Key, Ready, far_end};

/// One descriptor of a registration.
pub(super) struct Side {
    fd: RawFd,
    watch: Watch,
    /// epoll refuses regular files and the like: they are always ready.
    always: bool,
}

pub(super) struct Entry {
    pub(super) handler: Rc<dyn Handler>,
    pub(super) input: Side,
    /// Where output goes to another descriptor.
    pub(super) output: Option<Side>,
    pub(super) ready: Ready,
    /// In one of the two queues.
    pub(super) queued: bool,
    /// Flooding: queued with the other hot entries.
    pub(super) hot: bool,
    /// Hot, and its read interest dropped so that the flood wakes nobody.
    pub(super) disarmed: bool,
}

/// One descriptor or two to watch, and whether they block.
pub(crate) struct Registration<'a> {
    pub(crate) input: BorrowedFd<'a>,
    pub(crate) input_blocks: bool,
    /// Where output goes to another descriptor, that, and whether it blocks.
    pub(crate) output: Option<(BorrowedFd<'a>, bool)>,
    /// Watch for room to write from the start, as a connect in progress does.
    pub(crate) write: bool,
}

impl Engine {
    /// Watches descriptors for a handler. They must be deregistered before they are closed or handed on.
    pub(crate) fn register(&self, what: Registration<'_>, handler: Rc<dyn Handler>) -> io::Result<Key> {
        far_end::count_registration();
        let key = self.entries.borrow().next_key();
        let poller = self.poller.borrow();
        let add = |fd: BorrowedFd<'_>, output: bool, watch: Watch| -> io::Result<Side> {
            let always = match poller.add(fd, key.to_bits(output), watch) {
                Ok(()) => false,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => true,
                Err(error) => return Err(error),
            };
            Ok(Side { fd: fd.as_raw_fd(), watch, always })
        };
        // A blocking descriptor is armed by hand when somebody wants to read it.
        let read = !what.input_blocks;
        let single = what.output.is_none();
        let watch = Watch { read, write: what.write && single, one_shot: what.input_blocks };
        let input = add(what.input, false, watch)?;
        let output = match what.output {
            None => None,
            Some((fd, blocks)) => match add(fd, true, Watch { read: false, write: what.write, one_shot: blocks }) {
                Ok(side) => Some(side),
                Err(error) => {
                    let _ = poller.delete(what.input);
                    return Err(error);
                }
            },
        };
        let entry = Entry { handler, input, output, ready: Ready::NONE, queued: false, hot: false, disarmed: false };
        let inserted = self.entries.borrow_mut().insert(entry);
        debug_assert_eq!(key, inserted);
        Ok(key)
    }

    /// Returns whether the handler must ask for each readiness of the input, and of the output, because that descriptor
    /// blocks or because epoll does not support it.
    pub(crate) fn is_oneshot(&self, key: Key) -> (bool, bool) {
        let by_hand = |side: &Side| side.always || side.watch.one_shot;
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return (false, false) };
        (by_hand(&entry.input), by_hand(entry.output.as_ref().unwrap_or(&entry.input)))
    }

    /// Ends a registration. What was queued for it is dropped.
    pub(crate) fn deregister(&self, key: Key) {
        let Some(entry) = self.entries.borrow_mut().remove(key) else { return };
        let poller = self.poller.borrow();
        for side in [Some(&entry.input), entry.output.as_ref()].into_iter().flatten() {
            if !side.always {
                let _ = poller.delete(borrow(side.fd));
            }
        }
        drop(poller);
        drop(entry);
    }

    /// Ends the registration of a separate output descriptor.
    pub(crate) fn deregister_output(&self, key: Key) {
        let mut entries = self.entries.borrow_mut();
        let Some(output) = entries.get_mut(key).and_then(|entry| entry.output.take()) else { return };
        if !output.always {
            let _ = self.poller.borrow().delete(borrow(output.fd));
        }
    }

    /// Says what the handler waits for. Reading is watched for all the time on descriptors that do not block, so that the
    /// end is noticed; on those that do, this arms the next readiness.
    pub(crate) fn set_interest(&self, key: Key, read: bool, write: bool) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return };
        let mut at_once = Ready::NONE;
        let poller = self.poller.borrow();
        let both = entry.output.is_none();
        let mut set = |side: &mut Side, output: bool, read: bool, write: bool, disarmed: bool| {
            if side.always {
                if read {
                    at_once |= Ready::READ;
                }
                if write {
                    at_once |= Ready::WRITE;
                }
                return;
            }
            let blocks = side.watch.one_shot;
            let read = if blocks || output { read } else { !disarmed };
            let watch = Watch { read, write, one_shot: blocks };
            if watch != side.watch || (blocks && (read || write)) {
                side.watch = watch;
                let _ = poller.modify(borrow(side.fd), key.to_bits(output), watch);
            }
        };
        set(&mut entry.input, false, read, write && both, entry.disarmed);
        if let Some(output) = &mut entry.output {
            set(output, true, false, write, false);
        }
        drop(poller);
        drop(entries);
        if at_once != Ready::NONE {
            self.enqueue(key, at_once);
        }
    }

    /// Tells a readiness that a unit test has made up.
    #[cfg(test)]
    pub(crate) fn tell(&self, key: Key, ready: Ready) {
        self.enqueue(key, ready);
    }

    /// Returns what is watched for: input, and room.
    #[cfg(test)]
    pub(crate) fn watches(&self, key: Key) -> (bool, bool) {
        let mut entries = self.entries.borrow_mut();
        let entry = entries.get_mut(key).unwrap();
        (entry.input.watch.read, entry.output.as_ref().unwrap_or(&entry.input).watch.write)
    }

    /// Calls the handler on the next turn, with no readiness added.
    pub(crate) fn requeue(&self, key: Key) {
        self.enqueue(key, Ready::NONE);
    }

    /// Calls the handler on the next turn as if there were room to write.
    pub(crate) fn requeue_write(&self, key: Key) {
        self.enqueue(key, Ready::WRITE);
    }

    /// Calls the handler when nothing more urgent waits.
    pub(crate) fn requeue_hot(&self, key: Key) {
        if let Some(entry) = self.entries.borrow_mut().get_mut(key) {
            entry.hot |= !entry.queued;
        }
        self.enqueue(key, Ready::NONE);
    }

    pub(super) fn enqueue(&self, key: Key, ready: Ready) {
        let mut entries = self.entries.borrow_mut();
        let Some(entry) = entries.get_mut(key) else { return };
        entry.ready |= ready;
        if entry.queued {
            return;
        }
        entry.queued = true;
        if entry.hot {
            drop(entries);
            self.push_hot(key);
        } else {
            self.ready.borrow_mut().push_back(key);
        }
    }

    pub(super) fn push_hot(&self, key: Key) {
        let mut hot = self.hot.borrow_mut();
        if hot.is_empty() {
            self.fairness.start_guard();
        }
        hot.push_back(key);
        drop(hot);
        self.arm_low();
    }

    pub(super) fn arm_low(&self) {
        self.low_armed.set(true);
    }

    /// Marks a registration as having gathered output, to be flushed within the turn.
    #[inline]
    pub(crate) fn mark_dirty(&self, key: Key) {
        self.dirty.borrow_mut().push(key);
    }

    /// Takes the mark back, if it is the last that was made: the output goes out now.
    pub(crate) fn unmark_dirty(&self, key: Key) -> bool {
        self.dirty.borrow_mut().pop_if(|last| *last == key).is_some()
    }

    /// Drops or takes up the read interest of a hot entry. Taken up, epoll looks at the descriptor anew.
    pub(super) fn disarm_read(&self, key: Key, entry: &mut Entry, disarmed: bool) {
        let side = &mut entry.input;
        if side.always || side.watch.one_shot || entry.disarmed == disarmed {
            return;
        }
        entry.disarmed = disarmed;
        side.watch.read = !disarmed;
        let _ = self.poller.borrow().modify(borrow(side.fd), key.to_bits(false), side.watch);
    }

    /// In a forked copy of the process that it belongs to, an engine has nothing to end: whatever it would write, shut down or
    /// deregister is still in use there. So its descriptors mean something else from now on, in this process alone. Returns
    /// whether this is such a copy.
    #[inline]
    pub(crate) fn disown(&self) -> bool {
        let is_elsewhere = !self.origin.is_here();
        if is_elsewhere {
            self.cover_descriptors();
        }
        is_elsewhere
    }

    #[cold]
    fn cover_descriptors(&self) {
        let mut poller = self.poller.borrow_mut();
        if !poller.is_shared() {
            // Done before.
            return;
        }
        // Without a new one the numbers stand for the shared one, which nothing can be sent to either.
        let _ = poller.replace();
        let mut entries = self.entries.borrow_mut();
        for key in entries.keys() {
            let Some(entry) = entries.get_mut(key) else { continue };
            for side in [Some(&entry.input), entry.output.as_ref()].into_iter().flatten() {
                poller.cover(side.fd);
            }
        }
    }

    /// In the child of `bgloop`'s fork: makes a new kernel queue with all registrations. The parent's, which is shared
    /// until it exits, is left alone.
    pub(crate) fn after_fork(&self) -> io::Result<()> {
        let mut poller = self.poller.borrow_mut();
        poller.replace()?;
        let mut entries = self.entries.borrow_mut();
        for key in entries.keys() {
            let Some(entry) = entries.get_mut(key) else { continue };
            let sides = [(false, Some(&entry.input)), (true, entry.output.as_ref())];
            for (output, side) in sides.into_iter().filter_map(|(output, side)| Some((output, side?))) {
                if !side.always {
                    poller.add(borrow(side.fd), key.to_bits(output), side.watch)?;
                }
            }
        }
        Ok(())
    }
}

/// A descriptor of a registration, or the wake-up of a context that is being polled, for a call to epoll.
pub(super) fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: a handler deregisters before it closes or hands on its descriptor, so while the entry is there it is open. A
    // context keeps its wake-up as long as it lives.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
