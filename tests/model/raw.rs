//! An end that is no socket of ours: descriptors that the test reads and writes, without blocking.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use network::Socket;
use rustix::io::Errno;

use crate::ground::Fds;
use crate::model::{Event, Face, Side, Told};
use crate::program::{Act, Kind};
use crate::world::World;

pub struct Raw {
    kind: Kind,
    input: Option<Rc<OwnedFd>>,
    output: Option<Rc<OwnedFd>>,
    /// The end of its input was seen.
    pub ended: bool,
}

impl Raw {
    pub fn new(fds: Fds, kind: Kind) -> Raw {
        let (input, output) = match fds {
            Fds::One(fd) => {
                let fd = Rc::new(fd);
                (fd.clone(), fd)
            }
            Fds::Two(input, output) => (Rc::new(input), Rc::new(output)),
        };
        for fd in [&input, &output] {
            rustix::io::ioctl_fionbio(fd, true).unwrap();
        }
        Raw { kind, input: Some(input), output: Some(output), ended: false }
    }

    pub fn is_open(&self) -> bool {
        self.input.is_some()
    }

    /// Writes what fits, and returns how much that is. What is told is a reset: the kernel does not tell it again.
    pub fn write(&mut self, bytes: &[u8]) -> (usize, Option<Told>) {
        let Some(output) = &self.output else { return (0, None) };
        let mut written = 0;
        while written < bytes.len() {
            match rustix::io::write(output, &bytes[written..]) {
                Ok(count) => written += count,
                Err(Errno::INTR) => {}
                // With a descriptor of its own the input is another matter.
                Err(Errno::CONNRESET | Errno::PIPE) if matches!(self.kind, Kind::Tcp | Kind::Unix) && !self.ended => {
                    self.ended = true;
                    return (written, Some(Told::Reset));
                }
                Err(_) => break,
            }
        }
        (written, None)
    }

    /// Reads up to so many bytes of what is there. What is told is an end.
    pub fn read(&mut self, most: usize) -> (Vec<u8>, Option<Told>) {
        let Some(input) = self.input.as_ref().filter(|_| !self.ended) else { return (Vec::new(), None) };
        let mut all = Vec::new();
        let mut buffer = vec![0; most.min(64 << 10)];
        let told = loop {
            let room = buffer.len().min(most - all.len());
            if room == 0 {
                break None;
            }
            match rustix::io::read(input, &mut buffer[..room]) {
                Ok(0) => break Some(Told::Closed),
                Ok(count) => all.extend_from_slice(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break None,
                Err(Errno::CONNRESET) => break Some(Told::Reset),
                Err(error) => break Some(Told::Other(error.to_string())),
            }
        };
        self.ended = told.is_some();
        (all, told)
    }

    /// Ends its sending half. True if it had one.
    pub fn shutdown(&mut self) -> bool {
        let Some(output) = self.output.take() else { return false };
        if !matches!(self.kind, Kind::Pipes | Kind::Wrapped) {
            // It may be gone already.
            let _ = rustix::net::shutdown(&output, rustix::net::Shutdown::Write);
        }
        true
    }

    /// Closes. Returns if it has left something unread, which the kernel answers by a reset; `None` if it was closed.
    pub fn close(&mut self) -> Option<bool> {
        let input = self.input.take()?;
        let unread = rustix::io::ioctl_fionread(&input).unwrap_or(0) > 0;
        self.output = None;
        Some(unread && matches!(self.kind, Kind::Tcp | Kind::Unix))
    }

    /// Closes by a reset. False if there is no such thing, as there is for TCP alone.
    pub fn reset(&mut self) -> bool {
        let Some(input) = self.input.take_if(|_| self.kind == Kind::Tcp) else { return false };
        rustix::net::sockopt::set_socket_linger(&input, Some(Duration::ZERO)).unwrap();
        self.output = None;
        true
    }
}

impl World {
    /// Has the kernel something that nobody has read? Closing then resets the connection.
    pub fn is_unread(&self, socket: &Socket) -> bool {
        let resets = matches!(self.kind, Kind::Tcp | Kind::Unix);
        resets && rustix::io::ioctl_fionread(socket).unwrap_or(0) > 0
    }

    pub fn act_raw(self: &Rc<Self>, side: Side, act: Act) {
        let mut place = self.end(side).raw.borrow_mut();
        let Some(raw) = place.as_mut().filter(|raw| raw.is_open()) else { return };
        match act {
            Act::RawWrite(count) => {
                let (written, told) = raw.write(self.next(side, count));
                drop(place);
                self.accepted(side, written);
                if let Some(told) = told {
                    self.see(side, &Event::Told(Face::Raw, told, false));
                }
            }
            Act::RawRead(most) => {
                let (bytes, told) = raw.read(most);
                drop(place);
                self.got(side, Face::Raw, &bytes);
                if let Some(told) = told {
                    self.see(side, &Event::Told(Face::Raw, told, false));
                }
            }
            Act::RawShutdown => {
                if raw.shutdown() {
                    self.see(side, &Event::RawShutdown);
                }
            }
            Act::RawReset if raw.reset() => self.see(side, &Event::RawReset),
            _ => {
                if let Some(unread) = raw.close() {
                    self.see(side, &Event::RawClose { unread });
                }
            }
        }
    }

    /// Breaks the connection of a socket of ours off behind its back, as a crash of its program would.
    pub fn break_below(&self, side: Side, act: Act) {
        if !self.is_open(side) {
            return;
        }
        self.end(side).broken.set(true);
        if act == Act::Cut {
            self.see(side, &Event::Cut);
            self.call(side, |socket| rustix::net::shutdown(socket, rustix::net::Shutdown::Write));
        } else {
            self.see(side, &Event::RawReset);
            self.call(side, |socket| rustix::net::connect_unspec(socket));
        }
    }
}
