//! The other ways to use the library: by futures, and by blocking calls, beside those of std.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::StreamExt;
use network::Socket;

use crate::Result;
use crate::load::{BACKLOG, LINE, REPLY, chunk, repeat};
use crate::process::{Kind, announce};
use crate::report::{Goal, Row, Unit};
use crate::scenarios::{Bench, Samples, sides_of};

const CHUNK: usize = 64 << 10;

/// What a connection of an awaiting server does.
pub async fn awaiting(task: String, socket: Socket) -> network::Result {
    if task.ends_with("-lent-replies") {
        let mut lines = socket.lines();
        while let Some(line) = lines.next_str().await {
            black_box(line?);
            socket.send_future(REPLY).await?;
        }
        return Ok(());
    }
    if task.ends_with("-replies") {
        let mut lines = socket.lines();
        while let Some(line) = lines.next().await {
            black_box(line?);
            socket.send_future(REPLY).await?;
        }
        return Ok(());
    }
    loop {
        let data = socket.recv_future(CHUNK).await?;
        socket.send_future(data).await?;
    }
}

/// All connections by a callback that awaits.
pub fn serve(task: &str, address: &str) -> Result<network::Server> {
    if address != "tcp" {
        return Err("only by TCP".into());
    }
    let builder = network::Server::builder().tls(false).address("127.0.0.1").backlog(BACKLOG).disconnect_cb(|_, _| ());
    let task = task.to_owned();
    Ok(builder.serve(0, move |socket| awaiting(task.clone(), socket))?)
}

/// All connections in one task.
pub fn await_as_one(address: &str) -> Result<u16> {
    if address != "tcp" {
        return Err("only by TCP".into());
    }
    let server = network::Server::builder().tls(false).address("127.0.0.1").backlog(BACKLOG).bind(0)?;
    let port = server.port();
    drop(glib::spawn_future_local(server.incoming().for_each_concurrent(None, async |client| {
        if let Ok(socket) = client {
            drop(awaiting("await".into(), socket).await);
        }
    })));
    Ok(port)
}

/// One client after the other, by blocking calls.
pub fn blocking() -> Result<()> {
    let server = network::Server::builder().tls(false).address("127.0.0.1").bind(0)?;
    announce(server.port(), 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        let socket = server.accept()?;
        while let Ok(count) = socket.recv_into(&mut buffer) {
            socket.send(&buffer[..count])?;
        }
    }
}

/// The same by std.
pub fn raw_blocking() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?.port(), 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        loop {
            match socket.read(&mut buffer)? {
                0 => break,
                count => socket.write_all(&buffer[..count])?,
            }
        }
    }
}

pub fn run(bench: &mut Bench) -> Result<()> {
    let time = bench.time;
    let ours = [Kind::Network, Kind::Fgloop];
    for (task, how) in [("serve", "served"), ("spawn", "spawned"), ("await", "a task each"), ("await-one", "one task")]
    {
        for connections in [1, 16, 256] {
            let mut sides = sides_of(&[Kind::Raw, Kind::Tokio], "echo", None, connections)?;
            sides.extend(sides_of(&ours, task, None, connections)?);
            let outcome = bench.measure(&mut sides, |_, load| Ok(load.echo_for(time, false)? as f64))?;
            let mut goals = vec![Goal::not_above(Kind::Tokio)];
            match task {
                "serve" => goals.insert(0, Goal::at_most(1.3)),
                "spawn" if connections > 1 => goals.insert(0, Goal::at_most(1.2)),
                _ => {}
            }
            bench.add(outcome.row(format!("futures: echo, {connections} conn., {how}"), goals));
        }
    }
    let lines = chunk(true);
    for (task, peers, how) in [
        ("serve-replies", "own-replies", "String, served"),
        ("serve-lent-replies", "replies", "&str, served"),
        ("await-replies", "own-replies", "String, a task"),
        ("await-lent-replies", "replies", "&str, a task"),
    ] {
        let mut sides = sides_of(&[Kind::Raw], "replies", None, 1)?;
        sides.extend(sides_of(&[Kind::Tokio], peers, None, 1)?);
        sides.extend(sides_of(&ours, task, None, 1)?);
        let outcome =
            bench.measure(&mut sides, |_, load| Ok(repeat(time, || load.send_lines(&lines))? as f64 / LINE as f64))?;
        let name = format!("futures: line of 80 B in as {how}, a reply each");
        bench.add(outcome.row(name, [Goal::not_above(Kind::Tokio)]));
    }

    bench.add(sleeps(bench));

    let mut sides = sides_of(&[Kind::Raw, Kind::Network, Kind::Python], "blocking", None, 1)?;
    let outcome = bench.measure(&mut sides, |_, load| Ok(load.echo_for(time, false)? as f64))?;
    bench.add(outcome.row("blocking calls: echo, 1 conn. (raw: std)", []));
    Ok(())
}

/// Timers that are set and then not needed, as those of timeouts mostly are.
fn sleeps(bench: &Bench) -> Row {
    const FAR: Duration = Duration::from_secs(3600);
    let ours = side_by_side(bench.rounds, 100_000, || network::sleep(FAR));
    let glibs = side_by_side(bench.rounds, 10_000, || glib::timeout_future(FAR));
    let name = format!("futures: a sleep begun and dropped, beside {OTHERS} others (GIO: GLib's)");
    Row::new(name, Unit::Nanos, Samples::from([(Kind::Network, ours), (Kind::Gio, glibs)]), [Goal::at_most(300.0)])
}

const OTHERS: usize = 1_000;

/// CPU nanoseconds for each, round by round.
fn side_by_side<F: Future<Output = ()>>(rounds: usize, count: u32, sleep: impl Fn() -> F) -> Vec<f64> {
    let round = || {
        let started = cpu();
        for _ in 0..count {
            begin(pin!(sleep()));
        }
        (cpu() - started) / f64::from(count)
    };
    glib::MainContext::default().block_on(async {
        let mut others: Vec<_> = std::iter::repeat_with(|| Box::pin(sleep())).take(OTHERS).collect();
        others.iter_mut().for_each(|other| begin(other.as_mut()));
        // The first round warms up.
        (0..=rounds).map(|_| round()).skip(1).collect()
    })
}

/// Polls it once.
fn begin<F: Future<Output = ()>>(future: Pin<&mut F>) {
    assert!(black_box(future).poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

/// Of this thread, in nanoseconds.
fn cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}
