//! What this library costs, beside others that do the same: `./dev bench` builds them all, runs everything and writes
//! `docs/benchmarks.md` and `docs/benchmarks.svg`; `./dev bench GROUP …` runs some groups; `quick` tries out the benches themselves.
//!
//! Each server is a process of its own on the first CPU; the load is this process, on the last. What is compared is the CPU
//! time of the servers for each operation. Their rounds take turns, and a time is divided by that of the same round. As root,
//! both come before all other programs, so that a busy machine disturbs them less.

#![allow(unsafe_code)]

mod counts;
mod datagrams;
mod faces;
mod fairness;
#[cfg(feature = "ftp")]
mod ftp;
mod in_glib;
mod load;
mod ours;
mod process;
mod raw;
mod report;
mod scenarios;
mod threads;
mod tls;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use process::{Kind, place, raise_limits};
use report::Report;
use scenarios::Bench;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

type Group = (&'static str, fn(&mut Bench) -> Result<()>);

const GROUPS: &[Group] = &[
    ("echo", scenarios::echo),
    ("bulk", scenarios::bulk),
    ("lines", scenarios::lines),
    ("churn", scenarios::churn),
    ("unix", scenarios::unix),
    ("foreign", scenarios::foreign),
    ("udp", datagrams::run),
    ("faces", faces::run),
    ("tls", tls::run),
    ("counts", counts::run),
    ("threads", threads::run),
    ("fairness", fairness::run),
    #[cfg(feature = "ftp")]
    ("ftp", ftp::run),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let descriptors = raise_limits();
    match arguments[..] {
        #[cfg(feature = "ftp")]
        ["serve", "raw", url, directory] if url.starts_with("ftp") => ftp::bare(url, Path::new(directory)),
        ["serve", "raw", "tls", _, directory] => tls::bare(Path::new(directory)),
        ["serve", "network", "threads", _, count] => threads::serve(count.parse()?),
        ["serve", "raw", task, address] => raw::serve(task, address, false),
        ["serve", "libc", "echo", address] => raw::serve("echo-by-libc", address, false),
        ["serve", "in-glib", task, address] => raw::serve(task, address, true),
        #[cfg(feature = "ftp")]
        ["serve", kind @ ("network" | "blocking"), url, directory, ref more @ ..] if url.starts_with("ftp") => {
            ftp::client(kind, url, Path::new(directory), more.first().copied())
        }
        ["serve", kind, task, address, ref more @ ..] => {
            let kind = Kind::named(kind).ok_or("no such server")?;
            ours::serve(kind, task, address, more.first().copied())
        }
        ["instructions", "--bench"] => counts::of_an_echo(),
        ["hold", port] => load::hold(port.parse()?),
        // Cargo's own.
        [ref words @ .., "--bench"] => run(words, descriptors),
        _ => {
            println!("to run this: ./dev bench [quick] [GROUP …]");
            Ok(())
        }
    }
}

fn run(words: &[&str], descriptors: u64) -> Result<()> {
    let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
    let quick = words.contains(&"quick");
    let wanted: Vec<&str> = words.iter().copied().filter(|word| *word != "quick").collect();
    if let Some(word) = wanted.iter().find(|word| !names.contains(word)) {
        return Err(format!("no group {word:?}: there are {}", names.join(", ")).into());
    }
    let missing: Vec<&str> = Kind::ALL.into_iter().filter(|kind| kind.command().is_none()).map(Kind::name).collect();
    if !missing.is_empty() {
        eprintln!("without {}: ./dev bench builds what is missing", missing.join(", "));
    }
    place(true);
    let (rounds, time) = if quick { (3, Duration::from_millis(20)) } else { (11, Duration::from_millis(60)) };
    let mut bench = Bench { quick, rounds, time, descriptors, report: Report::default() };
    let begun = Instant::now();
    let stolen = stolen();
    for (name, group) in GROUPS.iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name)) {
        eprintln!("{name} ({:.0} s)", begun.elapsed().as_secs_f64());
        bench.report.group(name);
        group(&mut bench)?;
    }
    let machine = format!(
        "{}\n{rounds} rounds of {} ms; {:.0} s in all, of which {:.1} s of CPU were taken by other virtual machines.\n",
        machine(),
        time.as_millis(),
        begun.elapsed().as_secs_f64(),
        self::stolen() - stolen,
    );
    println!("\n{}\n{machine}\n{}", bench.report.table(), bench.report.summary());
    // What is kept is only what is whole.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = match quick || !wanted.is_empty() {
        true => std::env::temp_dir(),
        false => root.join("docs"),
    };
    std::fs::write(directory.join("benchmarks.md"), bench.report.markdown(&machine))?;
    std::fs::write(directory.join("benchmarks.svg"), bench.report.svg())?;
    println!("written: {}", directory.join("benchmarks.{md,svg}").display());
    Ok(())
}

/// Seconds of CPU time that other virtual machines took, of all CPUs since the start of the system.
fn stolen() -> f64 {
    let statistics = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = statistics.lines().next().and_then(|line| line.split_whitespace().nth(8)?.parse().ok());
    ticks.unwrap_or(0.0) / rustix::param::clock_ticks_per_second() as f64
}

/// On what this was measured.
fn machine() -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).trim().to_string())
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown");
    let count = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let glib = said("pkg-config", &["--modversion", "glib-2.0"]);
    format!("{count} CPUs, {model}; Linux {}; GLib {glib}; {}.", said("uname", &["-r"]), said("rustc", &["--version"]))
}
