//! Does a flood leave the rest of the program its turns? A timer at the priority of GDK's redraw, one at the default
//! priority, and a quiet connection, all on the context that receives the flood.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use glib::ControlFlow;

use crate::load::{MESSAGE, chunk};
use crate::process::{Kind, PROMPT, Served, announce};
use crate::report::{Goal, Row, Unit};
use crate::scenarios::{Bench, Samples, sides_of};
use crate::{Result, ours};

const TICK: Duration = Duration::from_millis(16);
const TIMER: Duration = Duration::from_millis(50);
const PING: Duration = Duration::from_millis(5);
/// Where GDK paints.
const REDRAW: i32 = 120;

// ---- the server, which watches itself; that of the C peers is in benches/peers/peer.h ----

/// Receives for a while, then tells how often the first timer ran in a second, how late the second was in milliseconds, and
/// how many bytes came in per second.
pub struct Watch {
    time: Duration,
    ticks: Rc<Cell<u32>>,
    late: Rc<RefCell<Vec<Duration>>>,
    received: Rc<Cell<usize>>,
}

impl Watch {
    pub fn new(seconds: f64) -> Watch {
        Watch {
            time: Duration::from_secs_f64(seconds),
            ticks: Rc::default(),
            late: Rc::default(),
            received: Rc::default(),
        }
    }

    pub fn run(self, task: &str) -> Result<()> {
        let received = self.received.clone();
        let sink = ours::listen("tcp", task, move |more| received.set(received.get() + more))?;
        let quiet = ours::listen("tcp", "echo", |_| {})?;
        announce(sink.port(), quiet.port());

        redraw(self.ticks.clone(), Instant::now() + TICK);
        let late = self.late.clone();
        let mut last = Instant::now();
        glib::timeout_add_local(TIMER, move || {
            let now = Instant::now();
            late.borrow_mut().push((now - last).saturating_sub(TIMER));
            last = now;
            ControlFlow::Continue
        });
        let main = glib::MainLoop::new(None, false);
        let end = main.clone();
        let over = move || {
            end.quit();
            ControlFlow::Break
        };
        glib::source::timeout_add_local_full(self.time, glib::Priority::HIGH, over);
        let begun = Instant::now();
        main.run();
        let seconds = begun.elapsed().as_secs_f64();
        let late = percentile_99(&mut self.late.borrow_mut()).unwrap_or(seconds * 1000.0);
        println!("{} {late} {}", f64::from(self.ticks.get()) / seconds, self.received.get() as f64 / seconds);
        Ok(())
    }
}

/// Ticks by deadlines, as a window's frame clock does: one that is a whole frame late is lost, one that is less late does
/// not put off the next.
fn redraw(ticks: Rc<Cell<u32>>, mut due: Instant) {
    // GLib counts in milliseconds, rounded down here: not before its time.
    let wait = due.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    let tick = move || {
        ticks.set(ticks.get() + 1);
        while due <= Instant::now() {
            due += TICK;
        }
        redraw(ticks.clone(), due);
        ControlFlow::Break
    };
    glib::source::timeout_add_local_full(wait, glib::Priority::from(REDRAW), tick);
}

/// In milliseconds.
fn percentile_99(times: &mut [Duration]) -> Option<f64> {
    times.sort();
    let at = (times.len() * 99 / 100).min(times.len().checked_sub(1)?);
    Some(times[at].as_secs_f64() * 1000.0)
}

// ---- the flood ----

/// Of one server in one round.
struct Figures {
    ticks: f64,
    late: f64,
    received: f64,
    ping: f64,
    /// How much of the time it waited for its CPU, in percent.
    waited: f64,
}

fn flood(kind: Kind, task: &str, connections: usize, time: Duration) -> Result<Option<Figures>> {
    let kind_of_data = if task == "messages" { "in" } else { task };
    let seconds = time.as_secs_f64().to_string();
    let Some(server) = Served::start(kind, &[], kind_of_data, None, &[&seconds])? else { return Ok(None) };
    let (sink, quiet) = (server.port(), server.quiet);
    let over = Arc::new(AtomicBool::new(false));
    let sockets = (0..connections).map(|_| TcpStream::connect(("127.0.0.1", sink)));
    let sockets = sockets.collect::<std::io::Result<Vec<_>>>()?;
    let chunk = if task == "messages" { vec![b'x'; MESSAGE] } else { chunk(task == "text") };
    let stop = over.clone();
    let flood = std::thread::spawn(move || {
        for mut socket in sockets.iter().cycle() {
            if stop.load(Ordering::Relaxed) || socket.write_all(&chunk).is_err() {
                break;
            }
        }
    });
    let ping = std::thread::spawn(move || ping(quiet));
    let (words, waited) = server.last_words()?;
    over.store(true, Ordering::Relaxed);
    let _ = flood.join();
    let ping = ping.join().map_err(|_| "the ping failed")?;
    let figures = words.split_whitespace().map(str::parse).collect::<std::result::Result<Vec<f64>, _>>()?;
    let [ticks, late, received] = figures[..] else { return Err("the server gave no figures".into()) };
    let ping = ping.unwrap_or(time.as_secs_f64() * 1000.0);
    let waited = 100.0 * waited.as_secs_f64() / time.as_secs_f64();
    Ok(Some(Figures { ticks, late, received, ping, waited }))
}

/// Sends a message now and then, until the server ends; the time that 99 of 100 echoes took at the most.
fn ping(port: u16) -> Option<f64> {
    // The flood's own thread, on the same CPU, must not be what the ping waits for. Refused, the figures are worse.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), PROMPT);
    let mut times = Vec::new();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let _ = socket.set_nodelay(true);
    let mut buffer = [0; MESSAGE];
    loop {
        let sent = Instant::now();
        let ended = socket.write_all(&[b'p'; MESSAGE]).is_err() || socket.read_exact(&mut buffer).is_err();
        times.push(sent.elapsed());
        if ended {
            // That one may have waited for all of the time.
            return percentile_99(&mut times);
        }
        std::thread::sleep(PING);
    }
}

// ---- the table ----

pub fn run(bench: &mut Bench) -> Result<()> {
    // Long, and so fewer.
    let (rounds, time) = if bench.quick { (1, 1000) } else { (5, 1500) };
    let time = Duration::from_millis(time);
    let kinds = [Kind::Network, Kind::Unfair, Kind::PerFd, Kind::Gio];
    let floods = [
        ("no flood", "none", 0),
        ("bulk", "in", 1),
        ("80-byte lines", "text", 1),
        ("64 bytes on each of 200", "messages", 200),
    ];
    // By flood and kind, the figures of all rounds.
    let mut all: BTreeMap<(usize, Kind), Vec<Figures>> = BTreeMap::new();
    for _ in 0..rounds {
        for (index, (_, task, connections)) in floods.iter().enumerate() {
            for kind in kinds {
                let figures =
                    flood(kind, task, *connections, time).map_err(|error| format!("{}: {error}", kind.name()))?;
                if let Some(figures) = figures {
                    all.entry((index, kind)).or_default().push(figures);
                }
            }
        }
    }
    let of = |index: usize, figure: &dyn Fn(Kind, usize, &Figures) -> f64| -> Samples {
        let cells = kinds.iter().filter_map(|kind| {
            let rounds = all.get(&(index, *kind))?;
            Some((*kind, rounds.iter().enumerate().map(|(at, round)| figure(*kind, at, round)).collect()))
        });
        cells.collect()
    };
    for (index, (name, ..)) in floods.iter().enumerate().skip(1) {
        let undisturbed = |kind, at: usize| all[&(0, kind)][at].ticks;
        let unfair = |at: usize| all[&(index, Kind::Unfair)][at].received;
        let share = of(index, &|kind, at, round| 100.0 * round.ticks / undisturbed(kind, at));
        let waited = all[&(index, Kind::Network)].iter().map(|round| round.waited).sum::<f64>() / f64::from(rounds);
        let mut add = |what: &str, unit, cells, goal| {
            bench.add(Row::new(format!("{name}: {what}"), unit, cells, [goal]).waited(waited));
        };
        add("redraws, of undisturbed", Unit::Percent, share, Goal::at_least(98.0));
        let late = of(index, &|_, _, round| round.late);
        add("50 ms timer late, p99", Unit::Millis, late, Goal::at_most(5.0));
        let ping = of(index, &|_, _, round| round.ping);
        add("ping beside it, p99", Unit::Millis, ping, Goal::at_most(5.0));
        let rate = of(index, &|_, at, round| 100.0 * round.received / unfair(at));
        add("throughput, of unfair", Unit::Percent, rate, Goal::at_least(80.0));
    }
    undisturbed(bench)
}

/// What fairness costs where there is nobody to be fair to.
fn undisturbed(bench: &mut Bench) -> Result<()> {
    let chunk = chunk(true);
    for (name, task, connections) in
        [("echo, 256 conn.", "echo", 256), ("bulk in", "in", 1), ("80-byte lines", "text", 1)]
    {
        let mut sides = sides_of(&[Kind::Unfair, Kind::Network], task, None, connections)?;
        let time = bench.time;
        let outcome = bench.measure(&mut sides, |_, load| match task {
            "echo" => Ok(load.echo_for(time, false)? as f64),
            _ => Ok(crate::load::repeat(time, || load.send_block(&chunk))? as f64),
        })?;
        let cost = outcome.ratios(Kind::Unfair);
        let cost =
            cost.into_iter().map(|(kind, all)| (kind, all.iter().map(|ratio| 100.0 * ratio).collect())).collect();
        let name = format!("{name}, nobody else: CPU, of unfair");
        bench.add(Row::new(name, Unit::Percent, cost, [Goal::at_most(102.0)]).waited(outcome.waited));
    }
    Ok(())
}
