//! The servers of this library: one for each task, and programs around them.

use std::hint::black_box;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use glib::ControlFlow;
use network::{Server, Socket, UdpSocket, mainloop::Fairness, socket::Framing};

use crate::fairness::Watch;
#[cfg(feature = "http")]
use crate::http;
use crate::load::{BACKLOG, BLOCK, REPLY};
use crate::process::{Kind, announce};
use crate::raw::passes;
use crate::{Result, datagrams, faces, tls};

const CHUNK: usize = 64 << 10;

/// `more` is the directory of the certificate for TLS, or for how many seconds the server watches itself.
pub fn serve(kind: Kind, task: &str, address: &str, more: Option<&str>) -> Result<()> {
    if kind == Kind::Unfair {
        let mut none = Fairness::default();
        none.flood_priority = none.priority;
        none.credit = Duration::from_millis(10);
        none.slice = none.credit;
        network::mainloop::set_fairness(&none)?;
    }
    let _others = if task == "foreign" { foreign()? } else { Vec::new() };
    if task == "blocking" {
        return faces::blocking();
    }
    #[cfg(feature = "http")]
    if let "http" | "websocket" = task {
        let (_server, port) = http::serve(task)?;
        announce(port, 0);
        return run(kind);
    }
    // What is dropped ends.
    let (mut server, mut datagrams) = (None, None);
    match (task, more) {
        ("udp" | "udp-in", _) => datagrams = Some(datagrams::ours(task)?),
        ("await-one", _) => {
            announce(faces::await_as_one(address)?, 0);
            return run(kind);
        }
        ("serve" | "serve-replies" | "serve-lent-replies", _) => server = Some(faces::serve(task, address)?),
        ("tls", Some(directory)) => server = Some(tls::ours(directory)?),
        (_, Some(seconds)) => return Watch::new(seconds.parse()?).run(task),
        _ => server = Some(listen(address, task, |_| {})?),
    }
    let port = server.as_ref().map(Server::port).or(datagrams.as_ref().map(UdpSocket::port));
    announce(port.unwrap_or(0), 0);
    run(kind)
}

fn run(kind: Kind) -> Result<()> {
    if kind == Kind::Fgloop {
        network::fgloop();
    } else {
        glib::MainLoop::new(None, false).run();
    }
    Ok(())
}

/// `count` is told of the bytes that came in.
pub fn listen(address: &str, task: &str, count: impl Fn(usize) + Clone + 'static) -> network::Result<Server> {
    let task = task.to_owned();
    let obj = move |socket: Socket| {
        let mut seen = 0;
        let count = count.clone();
        match &task[..] {
            "in" => socket.read(move |socket, data| {
                count(black_box(data).len());
                if passes(&mut seen, data.len()) { socket.send(b".") } else { Ok(()) }
            }),
            "out" => {
                let chunk: Rc<[u8]> = vec![b'x'; CHUNK].into();
                socket.read(move |socket, _| {
                    send(socket.clone(), chunk.clone(), BLOCK as usize);
                    Ok(())
                });
            }
            "text" => socket.readlines(move |socket, line| {
                count(black_box(line).len() + 1);
                if passes(&mut seen, line.len() + 1) { socket.send(b".") } else { Ok(()) }
            }),
            "lines" => socket.readlines_bytes(move |socket, line| {
                black_box(line);
                if passes(&mut seen, line.len() + 1) { socket.send(b".") } else { Ok(()) }
            }),
            "frames" => socket.readframes(Framing::length32(), move |socket, message| {
                black_box(message);
                if passes(&mut seen, message.len() + 4) { socket.send(b".") } else { Ok(()) }
            }),
            "replies" => socket.readlines(|socket, line| {
                black_box(line);
                socket.send(REPLY)
            }),
            "await" | "await-replies" | "await-lent-replies" => {
                drop(glib::spawn_future_local(faces::awaiting(task.clone(), socket)));
            }
            "spawn" => drop(network::spawn(faces::awaiting(task.clone(), socket))?),
            _ => socket.read(|socket, data| socket.send(data)),
        }
        Ok(())
    };
    // A connection that is reset is not worth a word in the log.
    let builder = Server::builder().backlog(BACKLOG).disconnect_cb(|_, _| ());
    match address {
        "tcp" => builder.tls(false).address("127.0.0.1").listen(0, obj),
        path => builder.listen(std::path::Path::new(path), obj),
    }
}

/// Sends so many bytes, no faster than the peer takes them.
fn send(socket: Socket, chunk: Rc<[u8]>, left: usize) {
    const AHEAD: usize = 4 * CHUNK;
    let now = left.min(AHEAD);
    for _ in 0..now / CHUNK {
        let _ = socket.send(&chunk);
    }
    if left > now {
        let next = socket.clone();
        socket.flush_async(move |result| {
            if result.is_ok() {
                send(next, chunk, left - now);
            }
        });
    }
}

/// Descriptors and timers of others on the same context.
fn foreign() -> Result<Vec<OwnedFd>> {
    let mut descriptors = Vec::new();
    for _ in 0..20 {
        let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        glib_unix::unix_fd_add_local(fd.as_raw_fd(), glib::IOCondition::IN, |_, _| ControlFlow::Continue);
        descriptors.push(fd);
    }
    for _ in 0..10 {
        glib::timeout_add_local(Duration::from_millis(100), || ControlFlow::Continue);
    }
    Ok(descriptors)
}
