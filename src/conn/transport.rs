//! The carrier of the bytes: a TCP or unix stream socket, or a pair of any other descriptors. Never blocks, never
//! raises SIGPIPE, and never changes the mode of a descriptor that others may share.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SocketType, sockopt,
};

use super::space::Space;
use crate::address::{Endpoint, endpoint};
use crate::engine::{Incoming, Received, Registration};
use crate::error::count;
use crate::log;
use crate::sys::{
    self, Backlog, Descriptor, Tuning, backlog, pass_descriptors, passes_descriptors, wait_for_either, without_sigpipe,
};

/// The bytes that a pipe that polls as writable takes without blocking, by POSIX.
const PIPE_BUF: usize = 4096;

pub(crate) struct Transport {
    input: Descriptor,
    kind: Kind,
    /// Nothing but bytes can come: it is TCP, or descriptors are refused to the peer. Else a read stops at them.
    bytes_alone: Cell<bool>,
    /// The last read ended before the data did: the kernel gives no more in one go than came with one set of
    /// descriptors.
    stopped_short: Cell<bool>,
    mode: Cell<Mode>,
    beside: OnceCell<Box<Beside>>,
}

/// State that few have.
enum Beside {
    /// Where output goes to another descriptor.
    Output(Descriptor),
    Passed(Passed),
}

/// Descriptors that came over a unix socket.
#[derive(Default)]
struct Passed {
    most: usize,
    waiting: RefCell<VecDeque<OwnedFd>>,
    /// That some were closed has been logged. Once is enough: the peer can send any number.
    is_logged: Cell<bool>,
}

/// The most that the system passes on in one go.
const PASSED: usize = 253;

/// The blocking mode of a socket. Each call says whether it waits, so the mode matters only to those that do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// It can be made to.
    Ours,
    /// Others may share it, so it is left as it is.
    Shared,
    Blocks,
    DoesNot,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Unix,
    /// The blocking ones of the two: their mode is left as it is.
    Files {
        input_blocks: bool,
        output_blocks: bool,
    },
}

/// The result of a look at the input.
pub(crate) enum Peek {
    Data,
    Nothing,
    End,
}

impl Transport {
    /// A connected stream socket, to a peer of that kind.
    pub(crate) fn socket(fd: OwnedFd, remote: Option<&Endpoint>) -> Self {
        let kind = if remote.is_some_and(|remote| remote.port().is_some()) { Kind::Tcp } else { Kind::Unix };
        let bytes_alone = kind == Kind::Tcp || !passes_descriptors(fd.as_fd());
        Transport { bytes_alone: Cell::new(bytes_alone), ..Transport::new(fd, None, kind) }
    }

    fn new(input: OwnedFd, output: Option<OwnedFd>, kind: Kind) -> Self {
        let output = output.map(|output| Box::new(Beside::Output(Descriptor::new(output))));
        Transport {
            input: Descriptor::new(input),
            kind,
            bytes_alone: Cell::new(false),
            stopped_short: Cell::new(false),
            mode: Cell::new(Mode::Ours),
            beside: output.map(OnceCell::from).unwrap_or_default(),
        }
    }

    /// One descriptor for both directions, of any kind.
    pub(crate) fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        if is_socket(&fd)? {
            return match sockopt::socket_type(&fd)? {
                SocketType::STREAM => {
                    let remote = sys::peer_address(&fd).ok().flatten().map(endpoint);
                    let transport = Transport::socket(fd, remote.as_ref());
                    transport.mode.set(Mode::Shared);
                    if transport.kind == Kind::Unix {
                        // Whatever is so by now, descriptors may have come before.
                        transport.bytes_alone.set(false);
                    }
                    Ok(transport)
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

    /// Where output goes to another descriptor, that.
    fn output(&self) -> Option<&Descriptor> {
        match &**self.beside.get()? {
            Beside::Output(output) => Some(output),
            Beside::Passed(_) => None,
        }
    }

    fn passed(&self) -> Option<&Passed> {
        match &**self.beside.get()? {
            Beside::Passed(passed) => Some(passed),
            Beside::Output(_) => None,
        }
    }

    #[inline]
    pub(crate) fn is_socket(&self) -> bool {
        matches!(self.kind, Kind::Tcp | Kind::Unix)
    }

    /// Why nobody reads what is written: a unix socket keeps it apart whether the peer ended, or broke the connection
    /// off with our data unread.
    pub(crate) fn explain(&self, error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::BrokenPipe {
            return error;
        }
        match self.socket_fd().map(sockopt::socket_error) {
            Some(Ok(Err(cause))) => cause.into(),
            _ => error,
        }
    }

    pub(crate) fn is_tcp(&self) -> bool {
        self.kind == Kind::Tcp
    }

    /// Returns whether there is more to read although the last read was short.
    #[inline]
    pub(crate) fn stopped_short(&self) -> bool {
        self.stopped_short.get()
    }

    /// Returns the registration for the engine. `None` when closed.
    pub(crate) fn registration(&self) -> Option<Registration<'_>> {
        let (input_blocks, output_blocks) = match self.kind {
            Kind::Tcp | Kind::Unix => (false, false),
            Kind::Files { input_blocks, output_blocks } => (input_blocks, output_blocks),
        };
        let output = self.output().and_then(Descriptor::open).map(|fd| (fd, output_blocks));
        Some(Registration { input: self.input.open()?, input_blocks, output, write: false })
    }

    pub(crate) fn lend(&self) -> BorrowedFd<'_> {
        self.input.lend()
    }

    /// Takes a socket's descriptor out.
    pub(crate) fn take(&self) -> Option<OwnedFd> {
        if let (Kind::Unix, true, Some(fd)) = (self.kind, self.bytes_alone.get(), self.input.open()) {
            // Whoever has it from now on may accept some, as from any other.
            pass_descriptors(fd, true);
        }
        self.input.take()
    }

    pub(crate) fn close(&self) {
        self.input.close();
        if let Some(output) = self.output() {
            output.close();
        }
    }

    /// From now on closing resets the connection, which is how TCP tells that something was lost. What the kernel has
    /// not sent yet is lost with it.
    pub(crate) fn break_off(&self) {
        if let (Kind::Tcp, Some(fd)) = (self.kind, self.input.open()) {
            // A descriptor that has no such option closes as ever.
            let _ = sys::reset_on_close(fd);
        }
    }

    #[inline]
    fn open_input(&self) -> io::Result<BorrowedFd<'_>> {
        self.input.open().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    #[inline]
    fn open_output(&self) -> io::Result<BorrowedFd<'_>> {
        let output = self.output().unwrap_or(&self.input);
        output.open().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// For the engine to receive from, so many bytes at most, if there is nothing to it but what that does.
    #[inline]
    pub(crate) fn incoming(&self, most: usize) -> Option<Incoming<'_>> {
        let bytes_alone = self.bytes_alone.get();
        if !bytes_alone && (self.kind != Kind::Unix || self.beside.get().is_some()) {
            return None;
        }
        Some(Incoming { fd: self.input.open()?, is_unix: !bytes_alone, most })
    }

    /// Notes the result of the read.
    #[inline]
    pub(crate) fn received(&self, read: Received) -> rustix::io::Result<usize> {
        let (count, cut) = read?;
        self.stopped_short.set(cut);
        Ok(count)
    }

    /// For the engine to send to.
    #[inline]
    pub(crate) fn outgoing(&self) -> Option<BorrowedFd<'_>> {
        if self.is_socket() { self.input.open() } else { None }
    }

    /// Reads what is there. 0 is the end; `WouldBlock` means nothing yet. Of a [plain socket](Self::is_plain_socket), into any
    /// memory; else it must be initialized.
    #[inline]
    pub(crate) fn read(&self, space: &mut (impl Space + ?Sized)) -> io::Result<usize> {
        match (self.bytes_alone.get(), self.input.open()) {
            (true, Some(fd)) => Ok(space.receive(fd)?),
            _ => self.receive(space.initialized().ok_or(io::ErrorKind::Unsupported)?, RecvFlags::DONTWAIT),
        }
    }

    /// Returns whether reading is one system call.
    pub(crate) fn is_plain_socket(&self) -> bool {
        self.bytes_alone.get() && self.input.open().is_some()
    }

    /// As [`Transport::read`], and waits, without end, if [`Transport::can_wait`].
    #[inline]
    pub(crate) fn read_waiting(&self, space: &mut (impl Space + ?Sized)) -> io::Result<usize> {
        self.receive(space.initialized().ok_or(io::ErrorKind::Unsupported)?, RecvFlags::empty())
    }

    /// Returns whether [`Transport::read_waiting`] waits.
    pub(crate) fn can_wait(&self) -> bool {
        let mode = match (self.mode.get(), self.input.open()) {
            _ if !self.is_socket() => Mode::DoesNot,
            (Mode::Ours, Some(fd)) if rustix::io::ioctl_fionbio(fd, false).is_ok() => Mode::Blocks,
            (Mode::Shared, Some(fd)) if blocks(fd).is_ok_and(|blocks| blocks) => Mode::Blocks,
            (Mode::Blocks, Some(_)) => return true,
            _ => Mode::DoesNot,
        };
        self.mode.set(mode);
        mode == Mode::Blocks
    }

    #[inline(never)]
    fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        let fd = self.open_input()?;
        if self.bytes_alone.get() {
            return Ok(sys::receive(fd, buffer, flags)?);
        }
        if self.kind == Kind::Unix {
            if let Some(passed) = self.passed() {
                return self.receive_with_descriptors(fd, passed, buffer, flags);
            }
            return Ok(self.received(sys::receive_alone(fd, buffer, flags))?);
        }
        if matches!(self.kind, Kind::Files { input_blocks: true, .. }) && !is_ready(fd, PollFlags::IN)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        loop {
            match sys::read(fd, &mut *buffer) {
                Err(rustix::io::Errno::INTR) => {}
                // What a terminal's master reads when the other side has gone.
                Err(rustix::io::Errno::IO) if is_character_device(fd) => return Ok(0),
                result => return Ok(result?),
            }
        }
    }

    fn receive_with_descriptors(
        &self,
        fd: BorrowedFd<'_>,
        passed: &Passed,
        buffer: &mut [u8],
        flags: RecvFlags,
    ) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let buffers = &mut [io::IoSliceMut::new(buffer)];
        let message = rustix::net::recvmsg(fd, buffers, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC)?;
        let came: Vec<OwnedFd> = ancillary
            .drain()
            .flat_map(|part| match part {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
                _ => Vec::new(),
            })
            .collect();
        let cut = message.flags.contains(ReturnFlags::CTRUNC);
        self.stopped_short.set(cut || !came.is_empty());
        let number = came.len();
        let room = passed.most.saturating_sub(passed.waiting.borrow().len());
        passed.waiting.borrow_mut().extend(came.into_iter().take(room));
        if number > room && !passed.is_logged.replace(true) {
            let received = count(number, "received file descriptor");
            let (closed, most) = (number - room, passed.most);
            log::message("receive").say(format_args!("closed {closed} of {received}: the limit is {most}"));
        }
        Ok(message.bytes)
    }

    /// From now on so many descriptors may wait that come along.
    pub(crate) fn accept_fds(&self, most: usize) {
        if most > 0 {
            if let (Kind::Unix, Some(fd)) = (self.kind, self.input.open()) {
                // It was made for less, or accepted from a listening socket that was.
                pass_descriptors(fd, true);
                self.bytes_alone.set(false);
            }
            self.beside.get_or_init(|| Box::new(Beside::Passed(Passed { most, ..Passed::default() })));
        }
    }

    pub(crate) fn accepts_descriptors(&self) -> bool {
        self.passed().is_some()
    }

    pub(crate) fn next_descriptor(&self) -> Option<OwnedFd> {
        self.passed()?.waiting.borrow_mut().pop_front()
    }

    pub(crate) fn take_fds(&self) -> Vec<OwnedFd> {
        self.passed().map(|passed| passed.waiting.take().into()).unwrap_or_default()
    }

    /// As [`Transport::write`], with descriptors that go along. For unix sockets.
    pub(crate) fn write_with_descriptors(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if bytes.is_empty() || fds.is_empty() || !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
            let text = "1 to 253 descriptors go along with at least one byte";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        match rustix::net::sendmsg(self.open_output()?, &[io::IoSlice::new(bytes)], &mut ancillary, sys::SEND) {
            Err(rustix::io::Errno::PERM) => {
                Err(io::Error::new(io::ErrorKind::PermissionDenied, "the peer accepts no descriptors"))
            }
            sent => Ok(sent?),
        }
    }

    /// Sets options on a socket that was connected by somebody else.
    pub(crate) fn tune(&self, tuning: &Tuning) -> io::Result<()> {
        match (self.kind, self.input.open()) {
            (Kind::Tcp | Kind::Unix, Some(fd)) => tuning.apply(fd, sockopt::socket_domain(fd)?),
            _ => Ok(()),
        }
    }

    /// Sets what a unix socket does not take over from the one that listens. A TCP socket takes over everything.
    pub(crate) fn tune_accepted(&self, tuning: &Tuning) {
        if self.kind == Kind::Unix && (tuning.recv_buffer.is_some() || tuning.send_buffer.is_some()) {
            // The one that listens has taken the same.
            let _ = self.tune(tuning);
        }
    }

    /// The descriptor of a socket. `None` once closed.
    pub(crate) fn socket_fd(&self) -> Option<BorrowedFd<'_>> {
        if self.is_socket() { self.input.open() } else { None }
    }

    /// Writes what there is room for.
    #[inline]
    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match (self.is_socket(), self.input.open()) {
            (true, Some(fd)) => Ok(sys::send(fd, bytes)?),
            _ => self.write_file(bytes),
        }
    }

    #[inline(never)]
    fn write_file(&self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.open_output()?;
        let blocks = matches!(self.kind, Kind::Files { output_blocks: true, .. });
        let mut bytes = bytes;
        if blocks {
            if !is_ready(fd, PollFlags::OUT)? {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            bytes = &bytes[..bytes.len().min(PIPE_BUF)];
        }
        without_sigpipe(|| {
            loop {
                match sys::write(fd, bytes) {
                    Err(rustix::io::Errno::INTR) => {}
                    result => return Ok(result?),
                }
            }
        })
    }

    /// As [`Transport::write`], of several pieces. For sockets only.
    pub(crate) fn write_vectored(&self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(sys::send_pieces(self.open_output()?, pieces)?)
    }

    /// Looks at the input without taking it.
    pub(crate) fn peek(&self) -> io::Result<Peek> {
        let fd = self.open_input()?;
        if self.is_socket() {
            return match sys::receive(fd, &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok(0) => Ok(Peek::End),
                Ok(_) => Ok(Peek::Data),
                Err(rustix::io::Errno::AGAIN) => Ok(Peek::Nothing),
                Err(error) => Err(error.into()),
            };
        }
        if sys::available(fd).is_ok_and(|count| count > 0) {
            return Ok(Peek::Data);
        }
        Ok(if is_ready(fd, PollFlags::IN)? { Peek::End } else { Peek::Nothing })
    }

    /// Tells the peer that nothing more comes. A descriptor that is not a socket, and has one of its own for output,
    /// has that closed; the caller has deregistered it.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        match (self.output(), self.kind) {
            (_, Kind::Tcp | Kind::Unix) => Ok(sys::end_sending(self.open_output()?)?),
            (Some(output), _) => {
                // A socket may have other descriptors, as where both of a pair are the same one: then closing ends nothing.
                if let Some(fd) = output.open() {
                    let _ = sys::end_sending(fd);
                }
                output.close();
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    /// Returns the bytes that a socket still has to bring to its peer. `None` for anything else, and when closed.
    pub(crate) fn backlog(&self) -> Option<Backlog> {
        if self.is_socket() { backlog(self.input.open()?) } else { None }
    }

    /// Returns whether nothing that was sent can arrive any more. Of a socket whose write half is open.
    pub(crate) fn is_cut(&self) -> bool {
        let Some(fd) = self.input.open() else { return true };
        let flags = sys::readiness(fd, PollFlags::empty());
        flags.is_ok_and(|flags| flags.intersects(PollFlags::HUP | PollFlags::ERR))
    }

    /// Waits until there is something to read, or room to write, whichever of the two is asked for, or a signal ends
    /// the loop, as [`wait_for`].
    pub(crate) fn wait(&self, read: bool, write: bool, limit: Option<std::time::Duration>) -> io::Result<bool> {
        let (input, output) = self.sides(read, write)?;
        wait_for_either(input, output, limit, true)
    }

    /// As [`Transport::wait`], whatever signals come: the end of a connection takes its time.
    pub(crate) fn wait_regardless(&self, read: bool, write: bool, limit: std::time::Duration) -> io::Result<bool> {
        let (input, output) = self.sides(read, write)?;
        wait_for_either(input, output, Some(limit), false)
    }

    /// Where to read from and write to, for whichever is asked for.
    fn sides(&self, read: bool, write: bool) -> io::Result<(Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>)> {
        let input = read.then(|| self.open_input()).transpose()?;
        Ok((input, write.then(|| self.open_output()).transpose()?))
    }

    /// Returns the readiness of the input just now.
    pub(crate) fn readiness(&self) -> io::Result<PollFlags> {
        Ok(sys::readiness(self.open_input()?, PollFlags::IN)?)
    }

    /// Adds what a poll has to watch for that.
    pub(crate) fn watch<'a>(&'a self, read: bool, write: bool, fds: &mut Vec<PollFd<'a>>) -> io::Result<()> {
        let (input, output) = self.sides(read, write)?;
        fds.extend(input.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        fds.extend(output.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::OUT)));
        Ok(())
    }

    pub(crate) fn remote(&self) -> Endpoint {
        match self.input.open() {
            Some(fd) if self.is_socket() => match sys::peer_address(fd) {
                Ok(Some(address)) => endpoint(address),
                _ => Endpoint::Descriptor,
            },
            _ => Endpoint::Descriptor,
        }
    }

    pub(crate) fn local(&self) -> Endpoint {
        match self.input.open() {
            Some(fd) if self.is_socket() => sys::local_address(fd).map_or(Endpoint::Descriptor, endpoint),
            _ => Endpoint::Descriptor,
        }
    }
}

fn is_socket(fd: &OwnedFd) -> io::Result<bool> {
    let status = rustix::fs::fstat(fd)?;
    Ok(FileType::from_raw_mode(status.st_mode) == FileType::Socket)
}

fn blocks(fd: impl AsFd) -> io::Result<bool> {
    Ok(!rustix::fs::fcntl_getfl(fd)?.contains(OFlags::NONBLOCK))
}

fn is_character_device(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice)
}

fn is_ready(fd: BorrowedFd<'_>, what: PollFlags) -> io::Result<bool> {
    Ok(!sys::readiness(fd, what)?.is_empty())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_are_accepted_over_a_socket_that_was_made_for_none() {
        let (ours, peer) = UnixStream::pair().unwrap();
        pass_descriptors(ours.as_fd(), false);
        let transport = Transport::socket(ours.into(), None);
        transport.accept_fds(1);
        let peer = Transport::socket(peer.into(), None);
        let (input, _) = std::io::pipe().unwrap();
        assert_eq!(peer.write_with_descriptors(b"one", &[input.as_fd()]).unwrap(), 3);
        assert!(transport.incoming(10).is_none(), "the engine would drop it");
        assert_eq!(transport.read(&mut [0; 10][..]).unwrap(), 3);
        assert!(transport.next_descriptor().is_some());
    }
}
