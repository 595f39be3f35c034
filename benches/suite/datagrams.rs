//! UDP: datagrams that are sent back, one or several on their way at a time, and datagrams of which only some are answered.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{RecvFlags, SendFlags};

use crate::Result;
use crate::in_glib::Turns;
use crate::load::{MESSAGE, repeat};
use crate::process::{Kind, Served, announce};
use crate::report::Goal;
use crate::scenarios::Bench;

/// Servers of the task `udp-in` answer only datagrams that begin so.
const ASKS: u8 = b'?';
/// So many are sent for one answer. They fit into the buffer of any socket.
const BURST: usize = 64;

// ---- the servers ----

pub fn ours(task: &str) -> Result<network::UdpSocket> {
    let socket = network::UdpSocket::bind("127.0.0.1:0")?;
    let all = task == "udp";
    socket.read(move |socket, data, from| match all || data[0] == ASKS {
        true => socket.send_to(data, from),
        false => Ok(()),
    });
    Ok(socket)
}

pub struct Raw {
    all: bool,
    socket: UdpSocket,
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    buffer: Vec<u8>,
}

pub fn raw(task: &str) -> Result<Raw> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_nonblocking(true)?;
    announce(socket.local_addr()?.port(), 0);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &socket, EventData::new_u64(0), EventFlags::IN)?;
    Ok(Raw { all: task == "udp", socket, epoll, events: Vec::with_capacity(256), buffer: vec![0; 64 << 10] })
}

impl Turns for Raw {
    fn epoll(&self) -> &OwnedFd {
        &self.epoll
    }

    #[inline(always)]
    fn turn(&mut self, waits: bool) -> Result<()> {
        let Raw { all, socket, epoll, events, buffer } = self;
        events.clear();
        let at_once = Timespec::default();
        let timeout = if waits { None } else { Some(&at_once) };
        epoll::wait(&*epoll, rustix::buffer::spare_capacity(events), timeout)?;
        for _ in 0..64 {
            let Ok((count, _, Some(from))) = rustix::net::recvfrom(&*socket, &mut buffer[..], RecvFlags::empty())
            else {
                break;
            };
            if *all || buffer[0] == ASKS {
                rustix::net::sendto(&*socket, &buffer[..count], SendFlags::NOSIGNAL, &from)?;
            }
        }
        Ok(())
    }
}

// ---- the table ----

fn start(kinds: &[Kind], task: &str) -> Result<Vec<(Served, UdpSocket)>> {
    let mut sides = Vec::new();
    for kind in kinds {
        let Some(server) = Served::start(*kind, &[], task, None, &[])? else { continue };
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(("127.0.0.1", server.port()))?;
        // One that is lost is not waited for.
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        sides.push((server, socket));
    }
    Ok(sides)
}

pub fn run(bench: &mut Bench) -> Result<()> {
    let kinds = [Kind::Raw, Kind::InGlib, Kind::Network, Kind::Fgloop, Kind::Tokio, Kind::PerFd, Kind::Gio];
    let time = bench.time;
    let mut buffer = [0; MESSAGE];
    for window in [1, 32] {
        let outcome = bench.measure(&mut start(&kinds, "udp")?, |_, socket| {
            let done = repeat(time, || {
                for _ in 0..window {
                    socket.send(&[b'x'; MESSAGE])?;
                }
                for _ in 0..window {
                    socket.recv(&mut buffer)?;
                }
                Ok(window)
            })?;
            Ok(done as f64)
        })?;
        let name = format!("UDP: echo, {window} at a time");
        bench.add(outcome.row(name, [Goal::not_above(Kind::Tokio)]));
    }
    let outcome = bench.measure(&mut start(&kinds, "udp-in")?, |_, socket| {
        let done = repeat(time, || {
            for _ in 1..BURST {
                socket.send(&[b'x'; MESSAGE])?;
            }
            socket.send(&[ASKS])?;
            socket.recv(&mut buffer)?;
            Ok(BURST as u64)
        })?;
        Ok(done as f64)
    })?;
    bench.add(outcome.row("UDP: datagram in", [Goal::not_above(Kind::Tokio)]));
    Ok(())
}
