//! What is measured: the servers of all kinds side by side, in rounds that take turns, and the rows that come of it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::load::{Idle, LINE, Load, chunk, frames, repeat};
use crate::process::{Kind, Served};
use crate::report::{Goal, Report, Row, Unit};

/// For each kind, one figure of each round.
pub type Samples = BTreeMap<Kind, Vec<f64>>;

/// Those that all plain scenarios compare.
pub const SERVERS: [Kind; 8] =
    [Kind::Raw, Kind::InGlib, Kind::Network, Kind::Fgloop, Kind::Tokio, Kind::PerFd, Kind::Gio, Kind::Python];

/// The same for echoes.
const ECHOING: [Kind; 9] = [
    Kind::Raw,
    Kind::Libc,
    Kind::InGlib,
    Kind::Network,
    Kind::Fgloop,
    Kind::Tokio,
    Kind::PerFd,
    Kind::Gio,
    Kind::Python,
];

pub struct Bench {
    pub quick: bool,
    pub rounds: usize,
    /// Of one server in one round.
    pub time: Duration,
    /// How many descriptors a process may have.
    pub descriptors: u64,
    pub report: Report,
}

impl Bench {
    pub fn add(&mut self, row: Row) {
        self.report.add(row);
    }

    /// CPU nanoseconds of each server per operation, round by round. `run` returns how many operations it did.
    pub fn measure<L>(
        &self,
        sides: &mut [(Served, L)],
        mut run: impl FnMut(&Served, &mut L) -> Result<f64>,
    ) -> Result<Outcome> {
        let mut times = Samples::new();
        let (mut waited, mut used) = (0.0, 0.0);
        // The first round warms up.
        for round in 0..=self.rounds {
            // Forwards and backwards by turns: none always comes after the same other.
            let order: Vec<usize> = match round % 2 {
                0 => (0..sides.len()).collect(),
                _ => (0..sides.len()).rev().collect(),
            };
            for index in order {
                let (server, load) = &mut sides[index];
                let (cpu, wait) = (server.cpu(), server.waited());
                let count = run(server, load).map_err(|error| format!("{}: {error}", server.kind.name()))?;
                let cpu = (server.cpu() - cpu).as_nanos() as f64;
                if round > 0 {
                    times.entry(server.kind).or_default().push(cpu / count);
                    waited += (server.waited() - wait).as_nanos() as f64;
                    used += cpu;
                }
            }
        }
        Ok(Outcome { times, waited: 100.0 * waited / (waited + used) })
    }
}

/// What was measured for all servers of a scenario.
pub struct Outcome {
    pub times: Samples,
    /// Of the time that the servers wanted to run, how much others had their CPU, in percent.
    pub waited: f64,
}

impl Outcome {
    /// Each time divided by that of another kind in the same round.
    pub fn ratios(&self, base: Kind) -> Samples {
        let base = &self.times[&base];
        let divide = |times: &Vec<f64>| times.iter().zip(base).map(|(time, base)| time / base).collect();
        self.times.iter().map(|(kind, times)| (*kind, divide(times))).collect()
    }

    pub fn row(self, name: impl Into<String>, goals: impl IntoIterator<Item = Goal>) -> Row {
        let mut cells = self.ratios(Kind::Raw);
        cells.insert(Kind::Raw, self.times[&Kind::Raw].clone());
        Row::new(name, Unit::Cpu, cells, goals).waited(self.waited)
    }
}

/// Starts the servers that are there, each with its load.
pub fn sides_of(
    kinds: &[Kind],
    task: &str,
    directory: Option<&Path>,
    connections: usize,
) -> Result<Vec<(Served, Load)>> {
    let mut sides = Vec::new();
    for kind in kinds {
        let path = directory.map(|directory| directory.join(kind.name()));
        if let Some(server) = Served::start(*kind, &[], task, path.as_deref(), &[])? {
            let load =
                Load::connect(&server.place, connections).map_err(|error| format!("{}: {error}", kind.name()))?;
            sides.push((server, load));
        }
    }
    Ok(sides)
}

/// Those whose lines may be had as bytes.
const BYTE_LINES: [Kind; 7] =
    [Kind::Raw, Kind::InGlib, Kind::Network, Kind::Fgloop, Kind::Tokio, Kind::PerFd, Kind::Gio];

// ---- echo ----

/// The goal for echoes on so many connections.
fn echo_goals(connections: usize) -> Vec<Goal> {
    let mut goals = match connections {
        1 => vec![Goal::at_most(1.15), Goal::at_most(1.05).of(Kind::Fgloop)],
        16 => vec![Goal::at_most(1.05)],
        _ => vec![Goal::at_most(1.00)],
    };
    goals.push(Goal::not_above(Kind::Tokio));
    goals
}

/// A server's load: the connections in use, and those that are idle.
struct Mixed {
    load: Load,
    idle: Option<Idle>,
}

impl Mixed {
    fn idle(&mut self) -> Result<&mut Idle> {
        Ok(self.idle.as_mut().ok_or("no process to hold them")?)
    }
}

/// So many connections are opened for each round of measuring that.
const PART: usize = 20;

/// Echoes on few and many connections, beside more and more idle ones; with it what it costs to open those, and to have them.
pub fn echo(bench: &mut Bench) -> Result<()> {
    let levels: &[usize] = if bench.quick { &[0, 200, 400] } else { &[0, 1_000, 5_000, 10_000] };
    let (time, step) = (bench.time, PART * (bench.rounds + 1));
    let mut sides = Vec::new();
    for (server, mut load) in sides_of(&ECHOING, "echo", None, 1)? {
        load.echo_for(time, false)?;
        sides.push((server, Mixed { load, idle: None }));
    }
    let before = sides.iter().map(|(server, _)| server.resident()).collect::<Result<Vec<_>>>()?;
    let mut opened = Vec::new();
    // For each number of connections, the ratios beside more and more idle ones.
    let mut flat: BTreeMap<usize, Vec<Samples>> = BTreeMap::new();
    let mut open = 0;
    for &level in levels {
        if level as u64 + 512 > bench.descriptors {
            eprintln!("no more than {open} idle connections: a process may have {} descriptors", bench.descriptors);
            break;
        }
        if level > 0 {
            if open == 0 {
                // Its select loop ends at 1024 descriptors.
                sides.retain(|(server, _)| server.kind != Kind::Python);
                for (server, mixed) in &mut sides {
                    mixed.idle = Some(Idle::new(server.port())?);
                }
                connect(bench, &mut sides, &mut opened, open)?;
                open = step;
            }
            // Most of them many at a time, the last ones by themselves.
            for (_, mixed) in &mut sides {
                mixed.idle()?.open(level - open - step, 256)?;
            }
            connect(bench, &mut sides, &mut opened, level)?;
            open = level;
        }
        for connections in [1, 16, 256] {
            for (server, mixed) in &mut sides {
                mixed.load = Load::connect(&server.place, connections)?;
            }
            let outcome = bench.measure(&mut sides, |_, mixed| Ok(mixed.load.echo_for(time, false)? as f64))?;
            flat.entry(connections).or_default().push(outcome.ratios(Kind::Raw));
            let beside = if open > 0 { format!(", {open} idle") } else { String::new() };
            bench.add(outcome.row(format!("echo, {connections} conn.{beside}"), echo_goals(connections)));
        }
    }
    for (connections, samples) in flat {
        let name = format!("echo, {connections} conn.: beside {open} idle to beside none");
        bench.add(Row::new(name, Unit::Ratio, quotients(&samples), [Goal::at_most(1.05)]));
    }
    let name = format!("connect and first echo: {open} open to none");
    bench.add(Row::new(name, Unit::Ratio, quotients(&opened), [Goal::at_most(1.05)]));
    let mut resident = Samples::new();
    for ((server, _), before) in sides.iter().zip(before) {
        let more = server.resident()?.saturating_sub(before);
        resident.insert(server.kind, vec![more as f64 / open as f64]);
    }
    bench.add(Row::new("resident per idle connection", Unit::Bytes, resident, [Goal::at_most(256.0)]));
    Ok(())
}

/// What it costs to open connections one by one when so many are open. They stay.
fn connect(bench: &mut Bench, sides: &mut [(Served, Mixed)], ratios: &mut Vec<Samples>, open: usize) -> Result<()> {
    let outcome = bench.measure(sides, |_, mixed| {
        mixed.idle()?.open(PART, 1)?;
        Ok(PART as f64)
    })?;
    ratios.push(outcome.ratios(Kind::Raw));
    bench.add(outcome.row(format!("connect and first echo, {open} open"), [Goal::not_above(Kind::Tokio)]));
    Ok(())
}

/// The last of the samples by the first.
fn quotients(samples: &[Samples]) -> Samples {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Samples::new() };
    let divide =
        |kind: &Kind, last: &Vec<f64>| last.iter().zip(&first[kind]).map(|(last, first)| last / first).collect();
    last.iter().map(|(kind, last)| (*kind, divide(kind, last))).collect()
}

// ---- the others ----

/// How the load uses its connections.
#[derive(Clone, Copy)]
enum Traffic {
    Echo,
    /// Each connection ends after its first echo.
    Churn,
    /// Answered by one byte now and then.
    In {
        lines: bool,
    },
    Out,
    /// Lines that are answered one by one.
    Replies,
}

fn compare(
    bench: &mut Bench,
    name: &str,
    (task, traffic): (&str, Traffic),
    kinds: &[Kind],
    directory: Option<&Path>,
    connections: usize,
    goals: impl IntoIterator<Item = Goal>,
) -> Result<()> {
    // A connection that ends after each message is opened anew, and so is the first.
    let mut sides = sides_of(kinds, task, directory, connections)?;
    let data = chunk(matches!(traffic, Traffic::In { lines: true } | Traffic::Replies));
    let mut buffer = vec![0; 64 << 10];
    let time = bench.time;
    let outcome = bench.measure(&mut sides, |_, load| {
        let (bytes, unit) = match traffic {
            Traffic::Echo => return Ok(load.echo_for(time, false)? as f64),
            Traffic::Churn => return Ok(load.echo_for(time, true)? as f64),
            Traffic::In { lines: false } => (repeat(time, || load.send_block(&data))?, buffer.len()),
            Traffic::In { lines: true } => (repeat(time, || load.send_block(&data))?, LINE),
            Traffic::Out => (repeat(time, || load.receive_block(&mut buffer))?, buffer.len()),
            Traffic::Replies => (repeat(time, || load.send_lines(&data))?, LINE),
        };
        Ok(bytes as f64 / unit as f64)
    })?;
    bench.add(outcome.row(name, goals));
    Ok(())
}

pub fn bulk(bench: &mut Bench) -> Result<()> {
    let goals = || [Goal::at_most(1.02), Goal::not_above(Kind::Tokio)];
    compare(bench, "64 KiB in", ("in", Traffic::In { lines: false }), &SERVERS, None, 1, goals())?;
    compare(bench, "64 KiB out", ("out", Traffic::Out), &SERVERS, None, 1, goals())
}

pub fn lines(bench: &mut Bench) -> Result<()> {
    let goals = |limit| [Goal::at_most(limit), Goal::not_above(Kind::Tokio)];
    let lines = Traffic::In { lines: true };
    compare(bench, "line of 80 B in, as bytes", ("lines", lines), &BYTE_LINES, None, 1, goals(1.05))?;
    compare(bench, "line of 80 B in, as text (raw: bytes)", ("text", lines), &SERVERS, None, 1, goals(1.5))?;
    let mut sides = sides_of(&[Kind::Raw, Kind::Tokio], "lines", None, 1)?;
    sides.extend(sides_of(&[Kind::Network, Kind::Fgloop], "frames", None, 1)?);
    let (bytes, messages, time) = (chunk(true), frames(), bench.time);
    let outcome = bench.measure(&mut sides, |served, load| {
        let data = if matches!(served.kind, Kind::Raw | Kind::Tokio) { &bytes } else { &messages };
        Ok(repeat(time, || load.send_block(data))? as f64 / LINE as f64)
    })?;
    bench.add(outcome.row("frame of 80 B in (raw, tokio: lines as bytes)", []));
    let goals = [Goal::not_above(Kind::Tokio)];
    compare(bench, "line of 80 B in, a reply each", ("replies", Traffic::Replies), &SERVERS, None, 1, goals)
}

pub fn churn(bench: &mut Bench) -> Result<()> {
    for connections in [1, 32] {
        let name = format!("connect, echo, close, {connections} at a time");
        compare(bench, &name, ("echo", Traffic::Churn), &SERVERS, None, connections, [Goal::not_above(Kind::Tokio)])?;
    }
    Ok(())
}

pub fn unix(bench: &mut Bench) -> Result<()> {
    for connections in [1, 16, 256] {
        let directory = tempfile::tempdir()?;
        let name = format!("unix socket: echo, {connections} conn.");
        let goals = echo_goals(connections);
        compare(bench, &name, ("echo", Traffic::Echo), &ECHOING, Some(directory.path()), connections, goals)?;
    }
    let directory = tempfile::tempdir()?;
    let goals = [Goal::at_most(1.02), Goal::not_above(Kind::Tokio)];
    let traffic = Traffic::In { lines: false };
    compare(bench, "unix socket: 64 KiB in", ("in", traffic), &SERVERS, Some(directory.path()), 1, goals)
}

/// With the descriptors and timers of others on the same context. The raw loop has none: what GLib does for them is not ours.
pub fn foreign(bench: &mut Bench) -> Result<()> {
    for connections in [1, 16, 256] {
        let name = format!("echo, {connections} conn., 20 foreign fds, 10 timers");
        let mut sides = sides_of(&[Kind::Raw], "echo", None, connections)?;
        let glib = [Kind::Network, Kind::Fgloop, Kind::PerFd, Kind::Gio];
        sides.extend(sides_of(&glib, "foreign", None, connections)?);
        let time = bench.time;
        let outcome = bench.measure(&mut sides, |_, load| Ok(load.echo_for(time, false)? as f64))?;
        bench.add(outcome.row(name, []));
    }
    Ok(())
}
