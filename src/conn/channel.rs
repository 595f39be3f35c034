//! The transport, with a TLS session on it or not, as one channel for bytes. Lends what belongs to the connection for
//! the length of one call.

use std::cell::RefCell;
use std::io;

use super::transport::Transport;
use crate::tls::Session;

/// The place of a session, which may be empty.
pub(super) type SessionSlot = RefCell<Option<Box<Session>>>;

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

/// The sink that the session writes to.
struct Sink<'a>(&'a Transport);

impl io::Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Channel<'_> {
    fn with<R>(&self, ask: impl FnOnce(&mut Session) -> R) -> Option<R> {
        self.session?.borrow_mut().as_deref_mut().map(ask)
    }

    /// Gives bytes to the peer, as many as there is room for.
    #[inline]
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        if self.session.is_none() { self.transport.write(bytes) } else { self.write_sealed(bytes) }
    }

    fn write_sealed(&self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.with(|session| {
            self.write_all_of(session)?;
            if self.is_handshaking {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = session.send(bytes);
            match self.write_all_of(session) {
                // It is in the session now, which will be asked to write before anything else.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && count > 0 => Ok(count),
                Err(error) => Err(error),
                Ok(()) if count == 0 => Err(io::ErrorKind::BrokenPipe.into()),
                Ok(()) => Ok(count),
            }
        });
        written.unwrap_or(Ok(0))
    }

    fn write_all_of(&self, session: &mut Session) -> io::Result<()> {
        while session.wants_write() {
            session.write_output(&mut Sink(self.transport))?;
        }
        Ok(())
    }

    /// Writes what the session holds. `WouldBlock` if some is left.
    #[inline]
    pub(super) fn write_held(&self) -> io::Result<()> {
        self.with(|session| self.write_all_of(session)).unwrap_or(Ok(()))
    }

    /// Returns whether the session holds something that is to be written.
    #[inline]
    pub(super) fn holds_output(&self) -> bool {
        self.with(|session| session.wants_write()).unwrap_or(false)
    }

    /// Queues TLS's close_notify.
    pub(super) fn close_notify(&self) {
        self.with(Session::close_notify);
    }

    /// Decrypts what was read, which is the end if it is nothing. The plaintext is put into `plain`.
    pub(super) fn decrypt(&self, cipher: &[u8], plain: &mut Vec<u8>) -> Option<Decrypted> {
        self.with(|session| {
            let outcome = if cipher.is_empty() { session.end() } else { session.receive(cipher, plain) };
            let has_ended = cipher.is_empty() || outcome.is_err() || session.peer_closed();
            Decrypted { outcome, has_ended, has_answers: session.wants_write() }
        })
    }
}
