//! The load: connections, and what is sent over them. It is this process, on the last CPU.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::Result;
use crate::process::Place;

pub const MESSAGE: usize = 64;
pub const LINE: usize = 80;
/// After so many bytes on one connection, servers that do not echo answer with one byte; so many they send for one byte.
/// Whole lines, and whole chunks of 64 KiB. The peers have the same number.
pub const BLOCK: u64 = 8_192_000;
/// So many clients may wait to be accepted: all that a scenario opens at a time.
pub const BACKLOG: u32 = 1024;
/// The answer to a line.
pub const REPLY: &[u8] = b"ok\n";
/// So many lines are sent before their replies are read.
const LINES: usize = 1024;

/// A connection of the load. Its calls block.
struct Wire(OwnedFd);

impl Wire {
    fn connect(place: &Place) -> Result<Wire> {
        match place {
            Place::Tcp(port) => {
                let socket =
                    rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
                rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, *port))?;
                sockopt::set_tcp_nodelay(&socket, true)?;
                Ok(Wire(socket))
            }
            Place::Unix(path) => {
                let socket =
                    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
                rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
                Ok(Wire(socket))
            }
        }
    }

    fn send(&self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let sent = rustix::net::send(&self.0, data, SendFlags::NOSIGNAL)?;
            data = &data[sent..];
        }
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize> {
        match rustix::net::recv(&self.0, buffer, RecvFlags::empty())? {
            (0, _) => Err("the server closed a connection".into()),
            (count, _) => Ok(count),
        }
    }

    fn receive_all(&self, buffer: &mut [u8], mut left: u64) -> Result<()> {
        while left > 0 {
            let room = buffer.len().min(left as usize);
            left -= self.receive(&mut buffer[..room])? as u64;
        }
        Ok(())
    }
}

/// Connections to a server, all of them in use.
pub struct Load {
    place: Place,
    wires: Vec<Wire>,
    received: Vec<usize>,
    epoll: OwnedFd,
}

impl Load {
    pub fn connect(place: &Place, connections: usize) -> Result<Load> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut load = Load { place: place.clone(), wires: Vec::new(), received: vec![0; connections], epoll };
        for index in 0..connections {
            let wire = load.open(index)?;
            load.wires.push(wire);
        }
        Ok(load)
    }

    fn open(&self, index: usize) -> Result<Wire> {
        let wire = Wire::connect(&self.place)?;
        epoll::add(&self.epoll, &wire.0, EventData::new_u64(index as u64), EventFlags::IN)?;
        Ok(wire)
    }

    /// Every connection sends a message, and the next one when its echo is back, until `enough` says so of their number.
    /// With `anew` a connection is closed after each, and another one opened.
    pub fn echo(&mut self, anew: bool, mut enough: impl FnMut(u64) -> bool) -> Result<u64> {
        let message = [b'x'; MESSAGE];
        let mut buffer = [0; MESSAGE];
        let mut events = Vec::with_capacity(256);
        let mut done = 0;
        let mut waiting = 0;
        for wire in &self.wires {
            wire.send(&message)?;
            waiting += 1;
        }
        while waiting > 0 {
            events.clear();
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None)?;
            let stop = enough(done);
            for event in &events {
                let index = { event.data }.u64() as usize;
                self.received[index] += self.wires[index].receive(&mut buffer)?;
                if self.received[index] < MESSAGE {
                    continue;
                }
                self.received[index] = 0;
                done += 1;
                if anew {
                    self.wires[index] = self.open(index)?;
                }
                if stop {
                    waiting -= 1;
                } else {
                    self.wires[index].send(&message)?;
                }
            }
        }
        Ok(done)
    }

    pub fn echo_for(&mut self, time: Duration, anew: bool) -> Result<u64> {
        let end = Instant::now() + time;
        self.echo(anew, |_| Instant::now() >= end)
    }

    /// Sends a block over the first connection, and waits until it has been read.
    pub fn send_block(&mut self, chunk: &[u8]) -> Result<u64> {
        let mut left = BLOCK as usize;
        while left > 0 {
            let part = &chunk[..chunk.len().min(left)];
            self.wires[0].send(part)?;
            left -= part.len();
        }
        self.wires[0].receive(&mut [0])?;
        Ok(BLOCK)
    }

    /// Asks for a block, and reads it.
    pub fn receive_block(&mut self, buffer: &mut [u8]) -> Result<u64> {
        self.wires[0].send(b".")?;
        self.wires[0].receive_all(buffer, BLOCK)?;
        Ok(BLOCK)
    }

    /// Sends lines, and reads the replies to them; how many bytes the lines have.
    pub fn send_lines(&mut self, chunk: &[u8]) -> Result<u64> {
        let chunk = &chunk[..LINES * LINE];
        self.wires[0].send(chunk)?;
        self.wires[0].receive_all(&mut [0; LINES * REPLY.len()], (LINES * REPLY.len()) as u64)?;
        Ok(chunk.len() as u64)
    }
}

/// Again and again for a while; the sum of what was returned.
pub fn repeat(time: Duration, mut run: impl FnMut() -> Result<u64>) -> Result<u64> {
    let end = Instant::now() + time;
    let mut sum = 0;
    while Instant::now() < end {
        sum += run()?;
    }
    Ok(sum)
}

/// Lines, or plain bytes, to be sent.
pub fn chunk(lines: bool) -> Vec<u8> {
    let mut line = [b'x'; LINE];
    line[LINE - 1] = if lines { b'\n' } else { b'x' };
    line.iter().copied().cycle().take(LINE * LINES).collect()
}

/// Messages with their length in front, as long as lines together with it.
pub fn frames() -> Vec<u8> {
    let mut frame = [b'x'; LINE];
    frame[..4].copy_from_slice(&(LINE as u32 - 4).to_be_bytes());
    frame.iter().copied().cycle().take(LINE * LINES).collect()
}

// ---- idle connections ----

/// Connections that are open and silent. In a process of their own, which has descriptors of its own.
pub struct Idle {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Idle {
    pub fn new(port: u16) -> Result<Idle> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(std::env::current_exe()?).arg("hold").arg(port.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().ok_or("no input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Idle { child, input, output })
    }

    /// Opens more of them, so many at a time. Each has had an echo.
    pub fn open(&mut self, more: usize, at_a_time: usize) -> Result<()> {
        writeln!(self.input, "{more} {at_a_time}")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        if answer.is_empty() { Err("idle connections could not be opened".into()) } else { Ok(()) }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process that holds them.
pub fn hold(port: u16) -> Result<()> {
    let mut held = Vec::new();
    let mut buffer = [0; MESSAGE];
    for line in std::io::stdin().lines() {
        let line = line?;
        let (more, at_a_time) = line.split_once(' ').ok_or("MORE AT_A_TIME")?;
        let (mut left, at_a_time): (usize, usize) = (more.parse()?, at_a_time.parse()?);
        while left > 0 {
            let start = held.len();
            for _ in 0..left.min(at_a_time) {
                let wire = Wire::connect(&Place::Tcp(port))?;
                wire.send(&[b'x'; MESSAGE])?;
                held.push(wire);
            }
            for wire in &held[start..] {
                wire.receive_all(&mut buffer, MESSAGE as u64)?;
            }
            left -= held.len() - start;
        }
        println!("{}", held.len());
    }
    Ok(())
}
