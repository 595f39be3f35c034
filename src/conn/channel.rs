//! The transport, with a TLS session on it or not, as one channel for bytes. Lends what belongs to the connection for
//! the length of one call.

use std::cell::RefCell;
use std::io;

use super::transport::Transport;
use crate::tls::Session;

/// The place of a session, which may be empty.
pub(super) type SessionSlot = RefCell<Option<Box<Sealed>>>;

/// A session, and the plaintext that goes out before it.
pub(super) struct Sealed {
    pub(super) session: Session,
    /// So many bytes at the front of the send queue were queued before there was a session.
    plain: usize,
    /// So many bytes of plaintext are in the session, in records that the kernel has not taken to their ends.
    held: usize,
}

/// The plaintext of a record, but for the last one of a write.
const RECORD: usize = 16 << 10;

impl Sealed {
    pub(super) fn after(plain: usize, session: Session) -> Box<Self> {
        Box::new(Sealed { session, plain, held: 0 })
    }

    fn holds_output(&self) -> bool {
        self.plain > 0 || self.session.wants_write()
    }
}

pub(super) struct Channel<'a> {
    pub(super) transport: &'a Transport,
    /// `None` without TLS.
    pub(super) session: Option<&'a SessionSlot>,
    pub(super) is_handshaking: bool,
}

/// The result of decrypting.
pub(super) struct Decrypted {
    pub(super) outcome: crate::error::Result,
    /// Nothing more comes.
    pub(super) has_ended: bool,
    /// TLS has something to say by itself, such as new keys.
    pub(super) has_answers: bool,
}

/// The sink that the session writes to, a record in each slice.
struct Sink<'a> {
    transport: &'a Transport,
    /// The records that the kernel has taken to their ends.
    records: usize,
}

impl io::Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.transport.write(bytes)?;
        self.records += usize::from(count == bytes.len());
        Ok(count)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        if self.transport.is_socket() {
            let count = self.transport.write_vectored(slices)?;
            let mut left = count;
            let is_taken = |slice: &&io::IoSlice<'_>| {
                let taken = slice.len() <= left;
                left = left.saturating_sub(slice.len());
                taken
            };
            self.records += slices.iter().take_while(is_taken).count();
            return Ok(count);
        }
        slices.iter().find(|slice| !slice.is_empty()).map_or(Ok(0), |slice| self.write(slice))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Channel<'_> {
    fn with<R>(&self, ask: impl FnOnce(&mut Sealed) -> R) -> Option<R> {
        self.session?.borrow_mut().as_deref_mut().map(ask)
    }

    /// Gives bytes to the peer, as many as there is room for.
    #[inline]
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.session.is_none() { self.transport.write(bytes) } else { self.write_sealed(bytes) }
    }

    fn write_sealed(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.with(|sealed| {
            if sealed.plain > 0 {
                let count = self.transport.write(&bytes[..bytes.len().min(sealed.plain)])?;
                sealed.plain -= count;
                return Ok(count);
            }
            self.write_all_of(sealed)?;
            if self.is_handshaking {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = sealed.session.send(bytes);
            sealed.held = count;
            match self.write_all_of(sealed) {
                // It is in the session now, which will be asked to write before anything else.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && count > 0 => Ok(count),
                Err(error) => Err(error),
                Ok(()) if count == 0 => Err(io::ErrorKind::BrokenPipe.into()),
                Ok(()) => Ok(count),
            }
        });
        written.unwrap_or(Ok(0))
    }

    fn write_all_of(&self, sealed: &mut Sealed) -> io::Result<()> {
        if sealed.plain > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        while sealed.session.wants_write() {
            let mut sink = Sink { transport: self.transport, records: 0 };
            let written = sealed.session.write_output(&mut sink);
            sealed.held = sealed.held.saturating_sub(sink.records * RECORD);
            written?;
        }
        sealed.held = 0;
        Ok(())
    }

    /// Writes what the session holds. `WouldBlock` if some is left, or has to wait for plaintext that goes out first.
    #[inline]
    pub(super) fn write_held(&self) -> io::Result<()> {
        self.with(|sealed| self.write_all_of(sealed)).unwrap_or(Ok(()))
    }

    /// Returns whether the session holds something that is to be written, or plaintext goes out first.
    #[inline]
    pub(super) fn holds_output(&self) -> bool {
        self.with(|sealed| sealed.holds_output()).unwrap_or(false)
    }

    /// Returns the number of bytes in the session whose records the kernel has not taken.
    pub(super) fn held(&self) -> usize {
        self.with(|sealed| sealed.held).unwrap_or(0)
    }

    /// The send queue has been dropped, and the plaintext with it.
    pub(super) fn forget_plain(&self) {
        self.with(|sealed| (sealed.plain, sealed.held) = (0, 0));
    }

    /// Queues TLS's close_notify.
    pub(super) fn close_notify(&self) {
        self.with(|sealed| sealed.session.close_notify());
    }

    /// Decrypts what was read, which is the end if it is nothing. The plaintext is put into `plain`.
    pub(super) fn decrypt(&self, cipher: &[u8], plain: &mut Vec<u8>) -> Option<Decrypted> {
        self.with(|Sealed { session, .. }| {
            let outcome = if cipher.is_empty() { session.end() } else { session.receive(cipher, plain) };
            let has_ended = cipher.is_empty() || outcome.is_err() || session.peer_closed();
            Decrypted { outcome, has_ended, has_answers: session.wants_write() }
        })
    }
}
