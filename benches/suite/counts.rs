//! What can be counted instead of timed: user instructions, by callgrind, and system calls. A run is compared with a shorter one,
//! so that the start of the program is not counted.

use std::path::PathBuf;

use crate::Result;
use crate::load::{LINE, Load, chunk, frames};
use crate::process::{Kind, Served};
use crate::report::{Goal, Row, Unit};
use crate::scenarios::{Bench, Samples};

pub fn run(bench: &mut Bench) -> Result<()> {
    instructions(bench)?;
    system_calls(bench)
}

/// What is counted per operation. `run` does so many operations, or a few more.
fn per_operation(
    kind: Kind,
    task: &str,
    connections: usize,
    (short, long): (u64, u64),
    tool: &[&str],
    run: &dyn Fn(&mut Load, u64) -> Result<u64>,
    total: &dyn Fn() -> Result<f64>,
) -> Result<Option<f64>> {
    let count = |operations| -> Result<Option<(u64, f64)>> {
        let Some(server) = Served::start(kind, tool, task, None, &[])? else { return Ok(None) };
        let mut load = Load::connect(&server.place, connections)?;
        let done = run(&mut load, operations)?;
        server.stop();
        Ok(Some((done, total()?)))
    };
    let (Some((few, less)), Some((many, more))) = (count(short)?, count(long)?) else { return Ok(None) };
    Ok(Some((more - less) / (many - few) as f64))
}

const TRIES: usize = 3;

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("network-bench-{name}.{}", std::process::id()))
}

fn echoes(load: &mut Load, count: u64) -> Result<u64> {
    load.echo(false, |done| done >= count)
}

/// Sends so many blocks of messages; how many messages those were.
fn stream(load: &mut Load, blocks: u64, messages: &[u8]) -> Result<u64> {
    let mut bytes = 0;
    for _ in 0..blocks {
        bytes += load.send_block(messages)?;
    }
    Ok(bytes / LINE as u64)
}

fn instructions(bench: &mut Bench) -> Result<()> {
    let file = temporary("callgrind");
    let out = format!("--callgrind-out-file={}", file.display());
    let tool = ["valgrind", "-q", "--tool=callgrind", &out];
    let total = || totals(&file);
    let kinds = [Kind::Raw, Kind::InGlib, Kind::Network, Kind::Fgloop, Kind::Tokio, Kind::PerFd, Kind::Gio];
    for (connections, goals) in [(1, vec![]), (64, vec![Goal::at_most(300.0)])] {
        let mut cells = Samples::new();
        for kind in kinds {
            if let Some(count) = per_operation(kind, "echo", connections, (500, 3_000), &tool, &echoes, &total)? {
                cells.insert(kind, vec![count]);
            }
        }
        bench.add(Row::new(format!("user instructions per echo, {connections} conn."), Unit::Count, cells, goals));
    }
    let lines = chunk(true);
    let stream = |load: &mut Load, blocks| stream(load, blocks, &lines);
    let mut cells = Samples::new();
    for kind in [Kind::Raw, Kind::Network, Kind::Tokio, Kind::PerFd] {
        if let Some(count) = per_operation(kind, "text", 1, (1, 2), &tool, &stream, &total)? {
            cells.insert(kind, vec![count]);
        }
    }
    bench.add(Row::new("user instructions per line as text (raw: bytes)", Unit::Count, cells, []));
    let _ = std::fs::remove_file(&file);
    Ok(())
}

/// For `tests/instructions.rs`: those of an echo with 64 connections, of the bare loop and of this library, and of what is done
/// by futures.
pub fn of_an_echo() -> Result<()> {
    let file = temporary("callgrind");
    let out = format!("--callgrind-out-file={}", file.display());
    let tool = ["valgrind", "-q", "--tool=callgrind", &out];
    let total = || totals(&file);
    for (name, kind) in [("raw", Kind::Raw), ("network", Kind::Network)] {
        let count = per_operation(kind, "echo", 64, (2_000, 12_000), &tool, &echoes, &total)?;
        println!("{name} {:.0}", count.ok_or("no such server")?);
    }
    for (name, task) in [("served", "serve"), ("futures", "await"), ("one-task", "await-one")] {
        let count = per_operation(Kind::Network, task, 16, (1_000, 5_000), &tool, &echoes, &total)?;
        println!("{name} {:.0}", count.ok_or("no such server")?);
    }
    let lines = chunk(true);
    let replies = |load: &mut Load, rounds: u64| {
        let mut bytes = 0;
        for _ in 0..rounds {
            bytes += load.send_lines(&lines)?;
        }
        Ok(bytes / LINE as u64)
    };
    for (name, task) in [("lines", "serve-replies"), ("lent-lines", "serve-lent-replies")] {
        let count = per_operation(Kind::Network, task, 1, (10, 50), &tool, &replies, &total)?;
        println!("{name} {:.0}", count.ok_or("no such server")?);
    }
    for (name, task, data) in
        [("text-in", "text", &lines), ("lines-in", "lines", &lines), ("frames-in", "frames", &frames())]
    {
        let stream = |load: &mut Load, blocks| stream(load, blocks, data);
        let count = per_operation(Kind::Network, task, 1, (1, 2), &tool, &stream, &total)?;
        println!("{name} {:.1}", count.ok_or("no such server")?);
    }
    let _ = std::fs::remove_file(&file);
    Ok(())
}

/// What callgrind counted in all.
fn totals(file: &std::path::Path) -> Result<f64> {
    let report = std::fs::read_to_string(file)?;
    let line = report.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("no totals")?;
    Ok(line.trim().parse()?)
}

/// With the kernel's tracepoints by way of perf, where they may be used; else with strace. That slows the server down: it
/// runs out of credit sooner, and the calls that follow from that are counted too.
fn system_calls(bench: &mut Bench) -> Result<()> {
    let file = temporary("calls");
    let name = file.display().to_string();
    let perf = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-o", &name];
    let works = std::process::Command::new(perf[0])
        .args(&perf[1..])
        .arg("true")
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let strace = ["strace", "-f", "-c", "-U", "calls,name", "-o", &name];
    let tool = if works { &perf[..] } else { &strace[..] };
    let total = || -> Result<f64> {
        let report = std::fs::read_to_string(&file)?;
        let line = report.lines().find(|line| line.contains("raw_syscalls") || line.ends_with(" total"));
        let line = line.ok_or("no count of system calls")?.trim();
        let digits = line.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        Ok(digits.parse()?)
    };
    let goals =
        [(1, vec![Goal::at_most(4.05), Goal::at_most(3.05).of(Kind::Fgloop)]), (256, vec![Goal::at_most(2.05)])];
    for (connections, goals) in goals {
        let mut cells = Samples::new();
        // How many echoes share a turn of the loop is a matter of luck.
        for kind in [crate::scenarios::SERVERS; TRIES].concat() {
            if let Some(count) = per_operation(kind, "echo", connections, (2_000, 12_000), tool, &echoes, &total)? {
                cells.entry(kind).or_default().push(count);
            }
        }
        bench.add(Row::new(format!("system calls per echo, {connections} conn."), Unit::Calls, cells, goals));
    }
    let _ = std::fs::remove_file(&file);
    Ok(())
}
