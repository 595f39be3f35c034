//! A file descriptor that can be closed while a shared handle has lent it out.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use super::sockopt::set_number;

const CLOSED: RawFd = -1;

/// Owns a file descriptor. If its number has been lent out, through `AsFd` of some handle, closing puts `/dev/null` under that
/// number until this is dropped, so the number cannot come to mean another file.
pub(crate) struct Descriptor {
    fd: Cell<RawFd>,
    lent: Cell<bool>,
    closed: Cell<bool>,
}

impl Descriptor {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Descriptor { fd: Cell::new(fd.into_raw_fd()), lent: Cell::new(false), closed: Cell::new(false) }
    }

    /// Borrows the descriptor for one system call of this crate. `None` once closed.
    #[inline]
    pub(crate) fn open(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: open until `close` or `take`, which no caller in this crate calls while it holds the answer.
        (!self.closed.get()).then(|| unsafe { BorrowedFd::borrow_raw(self.fd.get()) })
    }

    /// Lends the descriptor out for as long as this lives. Once closed, lends `/dev/null`.
    pub(crate) fn lend(&self) -> BorrowedFd<'_> {
        if self.fd.get() == CLOSED {
            return null().map_or_else(|_| rustix::stdio::stdin(), |null| null.as_fd());
        }
        self.lent.set(true);
        // SAFETY: a number that has been lent stays open, if only on /dev/null, until `drop`.
        unsafe { BorrowedFd::borrow_raw(self.fd.get()) }
    }

    pub(crate) fn close(&self) {
        #[cfg(test)]
        super::script::closes(self.fd.get());
        drop(self.take());
    }

    /// Takes the open descriptor out, or `None` if it is closed.
    pub(crate) fn take(&self) -> Option<OwnedFd> {
        let old = self.open()?;
        if self.lent.get() {
            let moved = old.try_clone_to_owned();
            // SAFETY: the number is ours; it is put back below, still open, under what was lent.
            let mut number = unsafe { OwnedFd::from_raw_fd(self.fd.get()) };
            if let Ok(null) = null() {
                let _ = rustix::io::dup3(null, &mut number, rustix::io::DupFlags::CLOEXEC);
            }
            self.fd.set(number.into_raw_fd());
            self.closed.set(true);
            return moved.ok();
        }
        let number = self.fd.replace(CLOSED);
        self.closed.set(true);
        // SAFETY: open, owned, never lent, and forgotten here.
        Some(unsafe { OwnedFd::from_raw_fd(number) })
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.fd.get() != CLOSED {
            // SAFETY: owned, and no borrow can exist any more.
            drop(unsafe { OwnedFd::from_raw_fd(self.fd.get()) });
        }
    }
}

fn null() -> io::Result<&'static File> {
    static NULL: OnceLock<File> = OnceLock::new();
    if let Some(file) = NULL.get() {
        return Ok(file);
    }
    let file = File::options().read(true).write(true).open("/dev/null")?;
    Ok(NULL.get_or_init(|| file))
}

/// The bytes that a socket still has of those written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// Bytes not sent yet. On a unix socket always zero: the peer has them at once.
    pub(crate) unsent: usize,
    /// Bytes not acknowledged yet (on a unix socket: not read), including those not sent.
    pub(crate) unacknowledged: usize,
}

/// Returns the backlog of a socket, or `None` for any other descriptor.
pub(crate) fn backlog(fd: BorrowedFd<'_>) -> Option<Backlog> {
    #[cfg(test)]
    if let Some(script) = super::script::of(fd) {
        return Some(script.backlog());
    }
    /// From `linux/sockios.h`. The libc crate does not have it.
    const SIOCOUTQNSD: libc::Ioctl = 0x894b;
    let count = |request| {
        let mut count: libc::c_int = 0;
        // SAFETY: both requests write one int, and the descriptor is open.
        let done = unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut count) };
        (done == 0).then(|| usize::try_from(count).unwrap_or(0))
    };
    Some(Backlog { unsent: count(SIOCOUTQNSD).unwrap_or(0), unacknowledged: count(libc::TIOCOUTQ)? })
}

/// Makes the kernel report the ICMP errors of each datagram with its destination, also on an unconnected socket.
pub(crate) fn keep_refusals(fd: BorrowedFd<'_>, is_v6: bool) -> io::Result<()> {
    set_number(fd, libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
    if is_v6 {
        set_number(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_lent_number_never_means_another_file() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let descriptor = Descriptor::new(ours.into());
        let lent = descriptor.lend();
        descriptor.close();
        assert!(descriptor.open().is_none());
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "the connection itself is closed");
        let other = File::open("/dev/null").unwrap();
        assert_ne!(other.as_raw_fd(), lent.as_raw_fd());
        assert_eq!(rustix::io::read(lent, &mut [0u8; 1]), Ok(0), "what was lent reads as /dev/null");
    }

    #[test]
    fn one_that_was_never_lent_is_closed_at_once() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let descriptor = Descriptor::new(ours.into());
        descriptor.close();
        assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
        assert_eq!(rustix::io::read(descriptor.lend(), &mut [0u8; 1]), Ok(0));
    }
}
