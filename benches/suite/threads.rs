//! One server on several threads: what a second CPU brings, where callbacks have something to do.

use std::hint::black_box;
use std::time::Instant;

use network::Socket;

use crate::Result;
use crate::load::{BACKLOG, Load};
use crate::process::{Kind, Served, announce, place_anywhere};
use crate::report::{Goal, Row, Unit};
use crate::scenarios::{Bench, Samples};

/// Enough for each thread to have some, however the system deals them out.
const CONNECTIONS: usize = 32;

/// What a callback does for each message, some 100 µs of CPU: the load beside it is hardly to be seen.
const STEPS: u64 = 200_000;

pub fn serve(threads: usize) -> Result<()> {
    place_anywhere();
    let server = network::Server::builder()
        .tls(false)
        .address("127.0.0.1")
        .backlog(BACKLOG)
        .threads(threads, || {
            |socket: Socket| {
                socket.read(|socket, data| {
                    black_box((0..STEPS).fold(data.len() as u64, |sum, step| black_box(sum.rotate_left(5) ^ step)));
                    socket.send(data)
                });
                Ok(())
            }
        })
        .listen(0)?;
    announce(server.port(), 0);
    glib::MainLoop::new(None, false).run();
    Ok(())
}

pub fn run(bench: &mut Bench) -> Result<()> {
    let mut sides = Vec::new();
    for threads in ["1", "2"] {
        let server = Served::start(Kind::Network, &[], "threads", None, &[threads])?.ok_or("no server")?;
        let load = Load::connect(&server.place, CONNECTIONS)?;
        sides.push((server, load));
    }
    let mut gains = Vec::new();
    for _ in 0..bench.rounds {
        let mut rates = Vec::new();
        for (_, load) in &mut sides {
            let started = Instant::now();
            let done = load.echo_for(2 * bench.time, false)?;
            rates.push(done as f64 / started.elapsed().as_secs_f64());
        }
        gains.push(rates[1] / rates[0]);
    }
    let row = Row::new(
        "threads: throughput of two, of one's (100 µs of work a message)",
        Unit::Ratio,
        Samples::from([(Kind::Network, gains)]),
        [Goal::at_least(1.6)],
    );
    bench.add(row);
    Ok(())
}
