//! Memory of those who read, to receive into without another copy.

use std::os::fd::BorrowedFd;

use rustix::net::RecvFlags;

use super::copying::copy;
#[cfg(feature = "http")]
use super::copying::pieces;
use crate::sys;

/// Memory to receive into.
pub(crate) trait Space {
    /// Returns how many bytes fit.
    fn room(&self) -> usize;

    /// Copies bytes, which fit.
    fn put(&mut self, bytes: &[u8]);

    /// Receives from a socket, at most what fits.
    fn receive(&mut self, socket: BorrowedFd<'_>) -> rustix::io::Result<usize>;

    /// Returns the memory as it is. `None` if it is not initialized.
    fn initialized(&mut self) -> Option<&mut [u8]>;
}

impl Space for [u8] {
    fn room(&self) -> usize {
        self.len()
    }

    fn put(&mut self, bytes: &[u8]) {
        copy(self, bytes);
    }

    #[inline(always)]
    fn receive(&mut self, socket: BorrowedFd<'_>) -> rustix::io::Result<usize> {
        sys::receive(socket, self, RecvFlags::DONTWAIT)
    }

    fn initialized(&mut self) -> Option<&mut [u8]> {
        Some(self)
    }
}

#[cfg(feature = "http")]
impl Space for hyper::rt::ReadBufCursor<'_> {
    fn room(&self) -> usize {
        self.remaining()
    }

    fn put(&mut self, bytes: &[u8]) {
        pieces(bytes).for_each(|piece| self.put_slice(piece));
    }

    fn receive(&mut self, socket: BorrowedFd<'_>) -> rustix::io::Result<usize> {
        sys::receive_uninit(socket, self, RecvFlags::DONTWAIT)
    }

    fn initialized(&mut self) -> Option<&mut [u8]> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// There is room for four bytes.
    fn fill(space: &mut (impl Space + ?Sized)) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"abcdef").unwrap();
        assert_eq!(space.room(), 4);
        assert_eq!(space.receive(ours.as_fd()), Ok(4));
        assert_eq!(space.receive(theirs.as_fd()), Err(rustix::io::Errno::AGAIN), "it does not wait");
    }

    #[test]
    fn a_slice_is_filled_from_its_beginning() {
        let mut bytes = [0; 4];
        fill(&mut bytes[..]);
        assert_eq!(&bytes, b"abcd");
        bytes[..].put(b"xy");
        assert_eq!(bytes[..].initialized().unwrap(), b"xycd");
    }

    #[cfg(feature = "http")]
    #[test]
    fn memory_of_hypers_need_not_be_initialized() {
        let mut memory = [std::mem::MaybeUninit::uninit(); 6];
        let mut buffer = hyper::rt::ReadBuf::uninit(&mut memory);
        buffer.unfilled().put(b"xy");
        assert!(buffer.unfilled().initialized().is_none());
        fill(&mut buffer.unfilled());
        assert_eq!(buffer.filled(), b"xyabcd");
    }
}
