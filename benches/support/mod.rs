//! What the benches share: servers as processes of their own, their CPU time, and the load.

#![allow(dead_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::process::{Pid, Resource, Signal};
use rustix::thread::CpuSet;

pub const MESSAGE: usize = 64;
pub const LINE: usize = 80;
/// After so many bytes on one connection, servers that do not echo answer with one byte.
/// Whole lines, and whole blocks of 64 KiB.
pub const ROUND_BYTES: u64 = (LINE as u64) << 10 << 10;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Keeps this process on one CPU, the load on the last and servers on the first, where there are two.
pub fn pin(load: bool) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(if load { cpus - 1 } else { 0 });
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// Allows as many descriptors as the system lets us have.
pub fn raise_limits() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
}

/// Called by a server: tells the load where it listens, and ends with it.
pub fn announce(port: u16) {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    println!("{port} {}", std::process::id());
    let _ = io::stdout().flush();
}

/// A server in a process of its own. Ends when dropped.
pub struct Served {
    child: Child,
    pid: Pid,
    pub port: u16,
}

impl Served {
    /// Runs this program again with those arguments, under a tool such as strace if one is given.
    pub fn start(tool: &[&str], arguments: &[&str]) -> Result<Served> {
        let own = std::env::current_exe()?;
        let mut command = match tool {
            [] => Command::new(own),
            [tool, flags @ ..] => {
                let mut command = Command::new(tool);
                // It would report how its program ended.
                command.args(flags).arg(own).stderr(Stdio::null());
                command
            }
        };
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let (port, pid) = line.trim().split_once(' ').ok_or("the server did not start")?;
        let pid = Pid::from_raw(pid.parse()?).ok_or("no process")?;
        Ok(Served { child, pid, port: port.parse()? })
    }

    /// CPU time that the server has taken.
    pub fn cpu(&self) -> Duration {
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both calls write to the one place they are given, which is valid.
        let failed = unsafe {
            libc::clock_getcpuclockid(self.pid.as_raw_nonzero().get(), &raw mut clock) != 0
                || libc::clock_gettime(clock, &raw mut time) != 0
        };
        assert!(!failed, "the server has gone");
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// Bytes of memory that the server has in use.
    pub fn resident(&self) -> Result<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid.as_raw_nonzero()))?;
        let pages: u64 = statm.split(' ').nth(1).ok_or("no memory")?.parse()?;
        Ok(pages * rustix::param::page_size() as u64)
    }

    /// Ends it, and waits until the tool around it has written its report.
    pub fn stop(mut self) {
        let _ = rustix::process::kill_process(self.pid, Signal::TERM);
        let _ = self.child.wait();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.pid, Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Connections to a server, and what they send.
pub struct Load {
    sockets: Vec<TcpStream>,
    received: Vec<usize>,
    idle: Vec<TcpStream>,
    epoll: rustix::fd::OwnedFd,
}

impl Load {
    pub fn connect(port: u16, connections: usize, idle: usize) -> Result<Load> {
        let connect = || -> io::Result<TcpStream> {
            let socket = TcpStream::connect(("127.0.0.1", port))?;
            socket.set_nodelay(true)?;
            Ok(socket)
        };
        let idle = (0..idle).map(|_| connect()).collect::<io::Result<Vec<_>>>()?;
        let sockets = (0..connections).map(|_| connect()).collect::<io::Result<Vec<_>>>()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, socket) in sockets.iter().enumerate() {
            epoll::add(&epoll, socket, EventData::new_u64(index as u64), EventFlags::IN)?;
        }
        Ok(Load { received: vec![0; sockets.len()], sockets, idle, epoll })
    }

    /// Every connection sends a message and the next one when its echo is back, until `enough` says so of their number.
    pub fn echo(&mut self, mut enough: impl FnMut(u64) -> bool) -> Result<u64> {
        let message = [b'x'; MESSAGE];
        let mut buffer = [0; MESSAGE];
        let mut events = Vec::with_capacity(256);
        let mut done = 0;
        let mut waiting = 0;
        for mut socket in &self.sockets {
            socket.write_all(&message)?;
            waiting += 1;
        }
        while waiting > 0 {
            events.clear();
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None)?;
            let stop = enough(done);
            for event in &events {
                let index = { event.data }.u64() as usize;
                let mut socket = &self.sockets[index];
                let count = socket.read(&mut buffer)?;
                if count == 0 {
                    return Err("the server closed a connection".into());
                }
                self.received[index] += count;
                if self.received[index] == MESSAGE {
                    self.received[index] = 0;
                    done += 1;
                    if stop {
                        waiting -= 1;
                    } else {
                        socket.write_all(&message)?;
                    }
                }
            }
        }
        Ok(done)
    }

    pub fn echo_for(&mut self, time: Duration) -> Result<u64> {
        let end = Instant::now() + time;
        self.echo(|_| Instant::now() >= end)
    }

    /// Sends [`ROUND_BYTES`] over the first connection and waits until they have been read.
    pub fn stream(&mut self, chunk: &[u8]) -> Result<()> {
        let mut socket = &self.sockets[0];
        let mut left = ROUND_BYTES as usize;
        while left > 0 {
            let part = &chunk[..chunk.len().min(left)];
            socket.write_all(part)?;
            left -= part.len();
        }
        socket.read_exact(&mut [0])?;
        Ok(())
    }
}

/// Lines, or plain bytes, to be streamed.
pub fn chunk(lines: bool) -> Vec<u8> {
    let mut line = [b'x'; LINE];
    line[LINE - 1] = if lines { b'\n' } else { b'x' };
    line.iter().copied().cycle().take(LINE * 1024).collect()
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
