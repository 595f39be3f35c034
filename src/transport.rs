//! What carries the bytes: a TCP or unix stream socket, or a pair of any other descriptors. Never blocks, never raises
//! SIGPIPE, and never changes the mode of a descriptor that others may share.

use std::cell::Cell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendFlags, SocketType, sockopt};

use crate::address::{Endpoint, plain};
use crate::engine::{Backlog, Descriptor, Registration, backlog, without_sigpipe};

/// What a pipe that polls as writable takes without blocking, by POSIX.
const PIPE_BUF: usize = 4096;

pub(crate) struct Transport {
    input: Descriptor,
    /// Where output goes to another descriptor.
    output: Option<Descriptor>,
    kind: Kind,
    /// The last read ended before the data did: the kernel gives no more in one go than came with one set of descriptors.
    stopped_short: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Unix,
    /// Which of the two block: their mode is left as it is.
    Files {
        input_blocks: bool,
        output_blocks: bool,
    },
}

/// What a look at the input finds.
pub(crate) enum Peek {
    Data,
    Nothing,
    End,
}

impl Transport {
    /// A connected stream socket, to a peer of that kind.
    pub(crate) fn socket(fd: OwnedFd, remote: Option<&Endpoint>) -> Self {
        let kind = if matches!(remote, Some(Endpoint::Inet(_))) { Kind::Tcp } else { Kind::Unix };
        Transport::new(fd, None, kind)
    }

    fn new(input: OwnedFd, output: Option<OwnedFd>, kind: Kind) -> Self {
        let (input, output) = (Descriptor::new(input), output.map(Descriptor::new));
        Transport { input, output, kind, stopped_short: Cell::new(false) }
    }

    /// One descriptor for both directions, of any kind.
    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        if is_socket(&fd)? {
            return match sockopt::socket_type(&fd)? {
                SocketType::STREAM => {
                    let remote = rustix::net::getpeername(&fd).ok().flatten().map(endpoint);
                    Ok(Transport::socket(fd, remote.as_ref()))
                }
                _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a stream socket")),
            };
        }
        let blocks = blocks(&fd)?;
        let kind = Kind::Files { input_blocks: blocks, output_blocks: blocks };
        Ok(Transport::new(fd, None, kind))
    }

    /// One descriptor for each direction.
    pub(crate) fn pair(input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        let kind = Kind::Files { input_blocks: blocks(&input)?, output_blocks: blocks(&output)? };
        Ok(Transport::new(input, Some(output), kind))
    }

    pub(crate) fn is_socket(&self) -> bool {
        matches!(self.kind, Kind::Tcp | Kind::Unix)
    }

    /// Is there more to read although the last read was short?
    pub(crate) fn stopped_short(&self) -> bool {
        self.stopped_short.get()
    }

    /// What to give the engine. `None` when closed.
    pub(crate) fn registration(&self) -> Option<Registration<'_>> {
        let (input_blocks, output_blocks) = match self.kind {
            Kind::Tcp | Kind::Unix => (false, false),
            Kind::Files { input_blocks, output_blocks } => (input_blocks, output_blocks),
        };
        let output = self.output.as_ref().and_then(Descriptor::open).map(|fd| (fd, output_blocks));
        Some(Registration { input: self.input.open()?, input_blocks, output, write: false })
    }

    pub(crate) fn lend(&self) -> BorrowedFd<'_> {
        self.input.lend()
    }

    /// Takes a socket's descriptor out.
    pub(crate) fn take(&self) -> Option<OwnedFd> {
        self.input.take()
    }

    pub(crate) fn close(&self) {
        self.input.close();
        if let Some(output) = &self.output {
            output.close();
        }
    }

    fn open_input(&self) -> io::Result<BorrowedFd<'_>> {
        self.input.open().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn open_output(&self) -> io::Result<BorrowedFd<'_>> {
        let output = self.output.as_ref().unwrap_or(&self.input);
        output.open().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Reads what is there. 0 is the end; `WouldBlock` means nothing yet.
    #[inline]
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let fd = self.open_input()?;
        match self.kind {
            Kind::Tcp => return Ok(rustix::net::recv(fd, buffer, RecvFlags::DONTWAIT)?.0),
            Kind::Unix => {
                // Descriptors that come along are turned away, for lack of a place to put them, and that is told.
                let mut none = RecvAncillaryBuffer::default();
                let buffers = &mut [io::IoSliceMut::new(buffer)];
                let message = rustix::net::recvmsg(fd, buffers, &mut none, RecvFlags::DONTWAIT)?;
                self.stopped_short.set(message.flags.contains(ReturnFlags::CTRUNC));
                return Ok(message.bytes);
            }
            Kind::Files { .. } => {}
        }
        if matches!(self.kind, Kind::Files { input_blocks: true, .. }) && !is_ready(fd, PollFlags::IN)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        loop {
            match rustix::io::read(fd, &mut *buffer) {
                Err(rustix::io::Errno::INTR) => {}
                // What a terminal's master reads when the other side has gone.
                Err(rustix::io::Errno::IO) if is_character_device(fd) => return Ok(0),
                result => return Ok(result?),
            }
        }
    }

    /// Writes what there is room for.
    #[inline]
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.open_output()?;
        let blocks = match self.kind {
            Kind::Tcp | Kind::Unix => {
                return Ok(rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?);
            }
            Kind::Files { output_blocks, .. } => output_blocks,
        };
        let mut bytes = bytes;
        if blocks {
            if !is_ready(fd, PollFlags::OUT)? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            bytes = &bytes[..bytes.len().min(PIPE_BUF)];
        }
        without_sigpipe(|| {
            loop {
                match rustix::io::write(fd, bytes) {
                    Err(rustix::io::Errno::INTR) => {}
                    result => return Ok(result?),
                }
            }
        })
    }

    /// As [`Transport::write`], of several pieces. For sockets only.
    pub(crate) fn write_vectored(&self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let fd = self.open_output()?;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        Ok(rustix::net::sendmsg(fd, pieces, &mut rustix::net::SendAncillaryBuffer::default(), flags)?)
    }

    /// What lies in the input, without taking it.
    pub(crate) fn peek(&self) -> io::Result<Peek> {
        let fd = self.open_input()?;
        if self.is_socket() {
            return match rustix::net::recv(fd, &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((0, _)) => Ok(Peek::End),
                Ok(_) => Ok(Peek::Data),
                Err(rustix::io::Errno::AGAIN) => Ok(Peek::Nothing),
                Err(error) => Err(error.into()),
            };
        }
        if rustix::io::ioctl_fionread(fd).is_ok_and(|count| count > 0) {
            return Ok(Peek::Data);
        }
        Ok(if is_ready(fd, PollFlags::IN)? { Peek::End } else { Peek::Nothing })
    }

    /// Tells the peer that nothing more comes. A descriptor that is not a socket, and has one of its own for output, has
    /// that closed; the caller has deregistered it.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match (&self.output, self.kind) {
            (_, Kind::Tcp | Kind::Unix) => {
                Ok(rustix::net::shutdown(self.open_output()?, rustix::net::Shutdown::Write)?)
            }
            (Some(output), _) => {
                output.close();
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    /// What a socket still has to bring to its peer. `None` for anything else, and when closed.
    pub(crate) fn backlog(&self) -> Option<Backlog> {
        if self.is_socket() { backlog(self.input.open()?) } else { None }
    }

    /// Waits until there is something to read, or room to write, whichever of the two is asked for. `None` waits without
    /// end. False when the time is up.
    pub(crate) fn wait(&self, read: bool, write: bool, limit: Option<std::time::Duration>) -> io::Result<bool> {
        let mut fds = Vec::with_capacity(2);
        if read {
            fds.push(PollFd::from_borrowed_fd(self.open_input()?, PollFlags::IN));
        }
        if write {
            fds.push(PollFd::from_borrowed_fd(self.open_output()?, PollFlags::OUT));
        }
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        match poll(&mut fds, limit.as_ref()) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn remote(&self) -> Endpoint {
        match self.input.open() {
            Some(fd) if self.is_socket() => match rustix::net::getpeername(fd) {
                Ok(Some(address)) => endpoint(address),
                _ => Endpoint::Descriptor,
            },
            _ => Endpoint::Descriptor,
        }
    }

    pub(crate) fn local(&self) -> Endpoint {
        match self.input.open() {
            Some(fd) if self.is_socket() => rustix::net::getsockname(fd).map_or(Endpoint::Descriptor, endpoint),
            _ => Endpoint::Descriptor,
        }
    }
}

/// A system's address as a value of ours.
pub(crate) fn endpoint(address: impl Into<rustix::net::SocketAddrAny>) -> Endpoint {
    let address = address.into();
    if let Ok(inet) = std::net::SocketAddr::try_from(address.clone()) {
        return Endpoint::Inet(plain(inet));
    }
    use std::os::unix::ffi::OsStrExt;
    let unix = rustix::net::SocketAddrUnix::try_from(address).ok();
    let path = unix.and_then(|unix| Some(std::ffi::OsStr::from_bytes(unix.path_bytes()?).into()));
    Endpoint::Unix(path)
}

fn is_socket(fd: &OwnedFd) -> io::Result<bool> {
    let status = rustix::fs::fstat(fd)?;
    Ok(FileType::from_raw_mode(status.st_mode) == FileType::Socket)
}

fn blocks(fd: &OwnedFd) -> io::Result<bool> {
    Ok(!rustix::fs::fcntl_getfl(fd)?.contains(OFlags::NONBLOCK))
}

fn is_character_device(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice)
}

fn is_ready(fd: BorrowedFd<'_>, what: PollFlags) -> io::Result<bool> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, what)];
    loop {
        match poll(&mut fds, Some(&now)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result? > 0),
        }
    }
}
