//! Services by name: the time to find one, and the cost of idling.
//!
//! `cargo bench --bench avahi` prints the table. It starts a D-Bus and an Avahi daemon in private namespaces. Server and
//! client are one process, and the times include the daemon's share. For comparison, each is followed by the time to
//! connect to a known port. Each value is the median of its rounds.

#[allow(dead_code)]
#[path = "../tests/avahi/world.rs"]
mod world;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use network::{Server, Socket};
use world::{HERE, enter_own_world, until};

const ROUNDS: usize = 21;
/// Fewer rounds, since Avahi checks for about a second that a name is free.
const PUBLISHINGS: usize = 5;
const IDLE: Duration = Duration::from_secs(10);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments != ["--bench"] {
        println!("to run this: cargo bench --bench avahi");
        return;
    }
    if enter_own_world(&["--bench"]) {
        measure();
    }
}

fn measure() {
    let (_bus, _avahi) = (HERE.bus(), HERE.avahi());
    let backend = if cfg!(feature = "avahi") { "D-Bus" } else { "zeroconf" };
    println!("services by name, by {backend}");
    for tls in [false, true] {
        let kind = if tls { "TLS" } else { "plain" };
        row(&format!("published, then connected, {kind}"), (0..PUBLISHINGS).map(|round| publish(tls, round)));
    }
    for tls in [false, true] {
        let kind = if tls { "TLS" } else { "plain" };
        let server = serve(tls, "room");
        until(|| server.published_name().is_some());
        row(&format!("connected to what is published, {kind}"), (0..ROUNDS).map(|_| connect("chat|^room$", tls)));
        let direct = format!("localhost:{}", server.port());
        row(&format!("connected to a known port, {kind}"), (0..ROUNDS).map(|_| connect(&direct, tls)));
        server.close();
    }
    let server = serve(true, "room");
    let _browse = network::services::browse("chat", |_| {}).expect("a service type");
    until(|| server.published_name().is_some());
    // What follows the publishing is over by then.
    network::fgloop_for(Duration::from_secs(3));
    let before = cpu();
    network::fgloop_for(IDLE);
    println!("{:42} {:>9.2} ms of CPU in {IDLE:?}", "idle, published and browsing", millis(cpu() - before));
}

fn row(what: &str, times: impl Iterator<Item = Duration>) {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    let (median, last) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what:42} {:>9.2} ms, at most {:.2} ms", millis(median), millis(last));
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn serve(tls: bool, name: &str) -> Server {
    let builder = Server::builder();
    let builder = if tls { builder } else { builder.tls(false) };
    builder.listen(format!("chat|{name}"), |socket| socket.sendline("hello")).expect("a server")
}

/// The time from listening to the first line at a client that is already searching.
fn publish(tls: bool, round: usize) -> Duration {
    let name = format!("round {round} {tls}");
    let started = Instant::now();
    let server = serve(tls, &name);
    connect(&format!("chat|^{name}$"), tls);
    let took = started.elapsed();
    server.close();
    took
}

/// The time until the first line.
fn connect(address: &str, tls: bool) -> Duration {
    let socket = Rc::new(RefCell::new(None));
    let heard = Rc::new(RefCell::new(false));
    let (place, told) = (socket.clone(), heard.clone());
    let builder = Socket::builder();
    let builder = if tls { builder } else { builder.tls(false) };
    let started = Instant::now();
    builder.connect_async(address, gio::Cancellable::NONE, move |result| {
        let connected = result.expect("a connection");
        connected.readlines(move |_, _| {
            told.replace(true);
            Ok(())
        });
        place.replace(Some(connected));
    });
    until(|| *heard.borrow());
    started.elapsed()
}

/// The CPU time of this process.
fn cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
