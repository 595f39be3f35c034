//! What all is measured against: a level-triggered epoll loop that knows nothing but its task.

use std::hint::black_box;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use crate::in_glib::Turns;
use crate::load::{BACKLOG, BLOCK, REPLY};
use crate::process::announce;
use crate::{Result, datagrams, faces, in_glib};

const CHUNK: usize = 64 << 10;

struct Connection {
    fd: OwnedFd,
    /// The start of a line.
    carry: Vec<u8>,
    seen: u64,
    /// Still to be sent.
    owed: usize,
}

struct Loop<'a> {
    task: &'a str,
    is_tcp: bool,
    listener: OwnedFd,
    epoll: OwnedFd,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
}

/// By itself, or watched by GLib.
pub fn serve(task: &str, address: &str, in_glib: bool) -> Result<()> {
    match task {
        "udp" | "udp-in" => return in_glib::run(datagrams::raw(task)?, in_glib),
        "blocking" => return faces::raw_blocking(),
        _ => {}
    }
    let is_tcp = address == "tcp";
    let listener: OwnedFd = if is_tcp {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        announce(listener.local_addr()?.port(), 0);
        listener.into()
    } else {
        let listener = UnixListener::bind(address)?;
        announce(0, 0);
        listener.into()
    };
    rustix::net::listen(&listener, BACKLOG as i32)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(listener.as_raw_fd() as u64), EventFlags::IN)?;
    let (events, buffer) = (Vec::with_capacity(256), vec![0; CHUNK]);
    in_glib::run(Loop { task, is_tcp, listener, epoll, connections: Vec::new(), events, buffer }, in_glib)
}

impl Turns for Loop<'_> {
    fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    #[inline(always)]
    fn turn(&mut self, waits: bool) -> Result<()> {
        let Loop { task, is_tcp, listener, epoll, connections, events, buffer } = self;
        events.clear();
        let at_once = Timespec::default();
        let timeout = if waits { None } else { Some(&at_once) };
        epoll::wait(&*epoll, rustix::buffer::spare_capacity(events), timeout)?;
        for event in &*events {
            let fd = { event.data }.u64() as usize;
            if fd == listener.as_raw_fd() as usize {
                let accepted = rustix::net::accept_with(&*listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
                if *is_tcp {
                    rustix::net::sockopt::set_tcp_nodelay(&accepted, true)?;
                }
                let fd = accepted.as_raw_fd() as usize;
                epoll::add(&*epoll, &accepted, EventData::new_u64(fd as u64), EventFlags::IN)?;
                if connections.len() <= fd {
                    connections.resize_with(fd + 1, || None);
                }
                connections[fd] = Some(Connection { fd: accepted, carry: Vec::new(), seen: 0, owed: 0 });
                continue;
            }
            let Some(connection) = &mut connections[fd] else { continue };
            let open = match { event.flags }.contains(EventFlags::IN) {
                true if *task == "echo-by-libc" => echo_by_libc(connection, buffer),
                true => readable(task, connection, epoll, buffer)?,
                false => true,
            };
            if !open {
                connections[fd] = None;
            } else if connection.owed > 0 {
                writable(connection, epoll, buffer)?;
            }
        }
        Ok(())
    }
}

/// By functions that return past their system call, which costs something, see docs/performance.md.
fn echo_by_libc(connection: &Connection, buffer: &mut [u8]) -> bool {
    let fd = connection.fd.as_raw_fd();
    // SAFETY: writes at most as many bytes as there is room for.
    let count = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    let Ok(count @ 1..) = usize::try_from(count) else { return false };
    // SAFETY: so many bytes have just been written there.
    unsafe { libc::send(fd, buffer.as_ptr().cast(), count, libc::MSG_NOSIGNAL) };
    true
}

/// False when it has ended. In the frame of the loop, as all that makes system calls: docs/performance.md tells why.
#[inline(always)]
fn readable(task: &str, connection: &mut Connection, epoll: &OwnedFd, buffer: &mut [u8]) -> Result<bool> {
    let count = match rustix::net::recv(&connection.fd, &mut *buffer, RecvFlags::empty()) {
        Ok((0, _)) | Err(_) => return Ok(false),
        Ok((count, _)) => count,
    };
    let data = &buffer[..count];
    let full = match task {
        "echo" => {
            rustix::net::send(&connection.fd, data, SendFlags::NOSIGNAL)?;
            false
        }
        "out" => {
            connection.owed += BLOCK as usize;
            epoll::modify(
                epoll,
                &connection.fd,
                EventData::new_u64(connection.fd.as_raw_fd() as u64),
                EventFlags::OUT,
            )?;
            false
        }
        "replies" => {
            let (lines, _) = split(data, connection);
            if lines > 0 {
                rustix::net::send(&connection.fd, &REPLY.repeat(lines), SendFlags::NOSIGNAL)?;
            }
            false
        }
        "in" => passes(&mut connection.seen, count),
        _ => split(data, connection).1,
    };
    if full {
        rustix::net::send(&connection.fd, b".", SendFlags::NOSIGNAL)?;
    }
    Ok(true)
}

#[inline(always)]
fn writable(connection: &mut Connection, epoll: &OwnedFd, chunk: &[u8]) -> Result<()> {
    while connection.owed > 0 {
        let part = &chunk[..chunk.len().min(connection.owed)];
        match rustix::net::send(connection.fd.as_fd(), part, SendFlags::NOSIGNAL) {
            Ok(count) => connection.owed -= count,
            Err(Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    epoll::modify(epoll, &connection.fd, EventData::new_u64(connection.fd.as_raw_fd() as u64), EventFlags::IN)?;
    Ok(())
}

/// Lines as bytes, the rest carried over: what any line server does at the least. How many, and whether a block is full.
fn split(mut data: &[u8], Connection { carry, seen, .. }: &mut Connection) -> (usize, bool) {
    let (mut count, mut full) = (0, false);
    while let Some(at) = memchr::memchr(b'\n', data) {
        if carry.is_empty() {
            black_box(&data[..at]);
            full |= passes(seen, at + 1);
        } else {
            carry.extend_from_slice(&data[..at]);
            black_box(&carry[..]);
            full |= passes(seen, carry.len() + 1);
            carry.clear();
        }
        count += 1;
        data = &data[at + 1..];
    }
    carry.extend_from_slice(data);
    (count, full)
}

/// Counts on; true when another block is full.
pub fn passes(seen: &mut u64, more: usize) -> bool {
    let before = *seen / BLOCK;
    *seen += more as u64;
    *seen / BLOCK > before
}
