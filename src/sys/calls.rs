//! The system calls on connected descriptors, in one place, so that a unit test can answer them from a
//! script. Other builds make the calls and nothing else.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::time::Instant;

#[cfg(feature = "http")]
use hyper::rt::ReadBufCursor;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, Result};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendFlags};

#[cfg(test)]
use super::script;

/// The flags of all sends.
pub(crate) const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// Receives from a socket.
#[inline(always)]
pub(crate) fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> Result<usize> {
    #[cfg(test)]
    if let Some(script) = script::of(fd) {
        return Ok(script.receive(buffer, flags)?.0);
    }
    Ok(rustix::net::recv(fd, buffer, flags)?.1)
}

/// Receives from a socket into memory that need not be initialized.
#[cfg(feature = "http")]
pub(crate) fn receive_uninit(fd: BorrowedFd<'_>, space: &mut ReadBufCursor<'_>, flags: RecvFlags) -> Result<usize> {
    #[cfg(test)]
    if let Some(script) = script::of(fd) {
        let mut buffer = vec![0; space.remaining()];
        let count = script.receive(&mut buffer, flags)?.0;
        space.put_slice(&buffer[..count]);
        return Ok(count);
    }
    // SAFETY: the kernel only writes to it, from its beginning, as many bytes as it says.
    unsafe {
        let (_, count) = rustix::net::recv(fd, space.as_mut(), flags)?;
        space.advance(count);
        Ok(count)
    }
}

/// Receives bytes from a unix socket. Descriptors that came along are turned away. Returns whether there were any.
#[inline(always)]
pub(crate) fn receive_alone(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> Result<(usize, bool)> {
    #[cfg(test)]
    if let Some(script) = script::of(fd) {
        return script.receive(buffer, flags);
    }
    let mut none = RecvAncillaryBuffer::default();
    let message = rustix::net::recvmsg(fd, &mut [IoSliceMut::new(buffer)], &mut none, flags)?;
    Ok((message.bytes, message.flags.contains(ReturnFlags::CTRUNC)))
}

/// Reads from any other descriptor.
pub(crate) fn read(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize> {
    #[cfg(test)]
    if let Some(script) = script::of(fd) {
        return Ok(script.receive(buffer, RecvFlags::DONTWAIT)?.0);
    }
    rustix::io::read(fd, buffer)
}

/// Sends to a socket what there is room for.
#[inline(always)]
pub(crate) fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize> {
    #[cfg(test)]
    if let Some(script) = script::of(fd) {
        return script.send(&[IoSlice::new(bytes)]);
    }
    rustix::net::send(fd, bytes, SEND)
}

/// The same of several pieces.
pub(crate) fn send_pieces(fd: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> Result<usize> {
    #[cfg(test)]
    if let Some(script) = script::of(fd) {
        return script.send(pieces);
    }
    rustix::net::sendmsg(fd, pieces, &mut SendAncillaryBuffer::default(), SEND)
}

/// Writes to any other descriptor.
pub(crate) fn write(fd: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize> {
    #[cfg(test)]
    if let Some(script) = script::of(fd) {
        return script.send(&[IoSlice::new(bytes)]);
    }
    rustix::io::write(fd, bytes)
}

/// Shuts the sending half of a socket down.
pub(crate) fn end_sending(fd: BorrowedFd<'_>) -> Result<()> {
    #[cfg(test)]
    if let Some(script) = script::of(fd) {
        script.note("shutdown");
        return Ok(());
    }
    rustix::net::shutdown(fd, rustix::net::Shutdown::Write)
}

/// From now on closing resets the connection.
pub(crate) fn reset_on_close(fd: BorrowedFd<'_>) -> Result<()> {
    #[cfg(test)]
    if let Some(script) = script::of(fd) {
        script.note("reset");
        return Ok(());
    }
    rustix::net::sockopt::set_socket_linger(fd, Some(std::time::Duration::ZERO))
}

/// Returns the number of bytes that can be read, where the descriptor tells it.
pub(crate) fn available(fd: BorrowedFd<'_>) -> Result<u64> {
    #[cfg(test)]
    if let Some(script) = script::of(fd) {
        return Ok(script.available());
    }
    rustix::io::ioctl_fionread(fd)
}

/// Returns what a descriptor is ready for just now, of this, and whether it has failed or hung up.
pub(crate) fn readiness(fd: BorrowedFd<'_>, what: PollFlags) -> Result<PollFlags> {
    #[cfg(test)]
    if let Some(script) = script::of(fd) {
        return Ok(script.readiness(what));
    }
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, what)];
    loop {
        match poll(&mut fds, Some(&now)) {
            Err(Errno::INTR) => {}
            result => return result.map(|_| fds[0].revents()),
        }
    }
}

/// Returns the time by the clock of timeouts.
#[inline]
pub(crate) fn now() -> Instant {
    #[cfg(test)]
    if let Some(now) = script::instant() {
        return now;
    }
    Instant::now()
}
