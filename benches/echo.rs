//! Server CPU per operation, beside a level-triggered epoll loop that knows nothing but its task.
//!
//! `cargo bench --bench echo` prints the table, `… -- WORD` the rows that hold that word. `… -- callgrind` counts user instructions per echo, `… -- strace` and
//! `… -- perf` system calls; each wants that program installed. The load comes from this process, each server is one of its own, and the two
//! sit on different CPUs. Rounds of both servers alternate; times and ratios are medians of the rounds.

#![allow(unsafe_code)]

mod support;

use std::collections::HashMap;
use std::hint::black_box;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use support::{LINE, Load, MESSAGE, ROUND_BYTES, Result, Served, announce, chunk, median, pin, raise_limits};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(200);

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    raise_limits();
    match arguments[..] {
        ["serve", "raw", task] => raw(task),
        ["serve", "ours", task] => ours(task),
        ["callgrind", ..] => instructions(),
        ["strace", ..] => system_calls(false),
        ["perf", ..] => system_calls(true),
        ["--bench"] => table(""),
        [only, "--bench"] => table(only),
        _ => {
            println!("to run this: cargo bench --bench echo [-- WORD | callgrind | strace | perf]");
            Ok(())
        }
    }
}

// ---- the servers ----

fn ours(task: &str) -> Result<()> {
    pin(false);
    let task = task.to_owned();
    let server = network::Server::builder().address("127.0.0.1").tls(false).listen(0, move |socket| {
        let mut seen = 0;
        match &task[..] {
            "echo" => socket.read(|socket, data| socket.send(data)),
            "bulk" => {
                socket.read(move |socket, data| if passes(&mut seen, data.len()) { socket.send(b".") } else { Ok(()) })
            }
            _ => socket.readlines(move |socket, line| {
                black_box(line);
                if passes(&mut seen, line.len() + 1) { socket.send(b".") } else { Ok(()) }
            }),
        }
        Ok(())
    })?;
    announce(server.port());
    glib::MainLoop::new(None, false).run();
    Ok(())
}

/// Counts on; true when another round is full.
fn passes(seen: &mut u64, more: usize) -> bool {
    let before = *seen / ROUND_BYTES;
    *seen += more as u64;
    *seen / ROUND_BYTES > before
}

fn raw(task: &str) -> Result<()> {
    pin(false);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    announce(listener.local_addr()?.port());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(listener.as_raw_fd() as u64), EventFlags::IN)?;
    let mut events = Vec::with_capacity(256);
    let mut buffer = vec![0; 64 << 10];
    let mut seen = 0;
    let mut carry = Vec::new();
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let fd = { event.data }.u64() as i32;
            // SAFETY: a connection is closed below, after its registration has ended, so no event names a closed one.
            let socket = unsafe { BorrowedFd::borrow_raw(fd) };
            if fd == listener.as_raw_fd() {
                let accepted = rustix::net::accept_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
                rustix::net::sockopt::set_tcp_nodelay(&accepted, true)?;
                let data = EventData::new_u64(accepted.as_raw_fd() as u64);
                epoll::add(&epoll, &accepted, data, EventFlags::IN)?;
                let _ = accepted.into_raw_fd();
                continue;
            }
            let count = match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((0, _)) | Err(_) => {
                    epoll::delete(&epoll, socket)?;
                    // SAFETY: ours since `accept`, and used by nobody else.
                    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) });
                    continue;
                }
                Ok((count, _)) => count,
            };
            let data = &buffer[..count];
            let full = match task {
                "echo" => {
                    rustix::net::send(socket, data, SendFlags::NOSIGNAL)?;
                    continue;
                }
                "bulk" => passes(&mut seen, count),
                _ => split(data, &mut carry, &mut seen),
            };
            if full {
                rustix::net::send(socket, b".", SendFlags::NOSIGNAL)?;
            }
        }
    }
}

/// Lines as bytes, the rest carried over: what any line server does at the least.
fn split(mut data: &[u8], carry: &mut Vec<u8>, seen: &mut u64) -> bool {
    let mut full = false;
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
        data = &data[at + 1..];
    }
    carry.extend_from_slice(data);
    full
}

// ---- the table ----

/// One server with its load on it.
struct Side {
    server: Served,
    load: Load,
}

impl Side {
    fn start(name: &str, task: &str, connections: usize, idle: usize) -> Result<Side> {
        let server = Served::start(&[], &["serve", name, task])?;
        let load = Load::connect(server.port, connections, idle)?;
        Ok(Side { server, load })
    }

    /// CPU nanoseconds per operation.
    fn round(&mut self, run: &mut dyn FnMut(&mut Load) -> Result<u64>) -> Result<f64> {
        let before = self.server.cpu();
        let count = run(&mut self.load)?;
        Ok((self.server.cpu() - before).as_nanos() as f64 / count as f64)
    }
}

fn compare(
    name: &str,
    task: &str,
    connections: usize,
    idle: usize,
    mut run: impl FnMut(&mut Load) -> Result<u64>,
) -> Result<()> {
    let mut raw = Side::start("raw", task, connections, idle)?;
    let mut ours = Side::start("ours", task, connections, idle)?;
    let (mut raws, mut our, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (one, other) = if round % 2 == 0 {
            let one = raw.round(&mut run)?;
            (one, ours.round(&mut run)?)
        } else {
            let other = ours.round(&mut run)?;
            (raw.round(&mut run)?, other)
        };
        // The first round warms up.
        if round > 0 {
            raws.push(one);
            our.push(other);
            ratios.push(other / one);
        }
    }
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let (raws, our, ratio) = (median(&raws), median(&our), median(&ratios));
    println!("| {name:<31} | {raws:>8.0} | {our:>8.0} | {ratio:>5.2} | {least:.2} – {most:.2} |");
    Ok(())
}

fn table(only: &str) -> Result<()> {
    let begun = Instant::now();
    pin(true);
    println!("Server CPU in ns per operation, medians of {ROUNDS} rounds\n");
    println!("| {:<31} | raw epoll | network | ratio | spread      |", "");
    println!("|{}|----------:|--------:|------:|-------------|", "-".repeat(33));
    for (connections, idle) in [(1, 0), (16, 0), (64, 0), (64, 1000), (256, 0)] {
        let beside = if idle > 0 { format!(", {idle} idle") } else { String::new() };
        let name = format!("echo {MESSAGE} B, {connections} conn.{beside}");
        if name.contains(only) {
            compare(&name, "echo", connections, idle, |load| load.echo_for(ROUND))?;
        }
    }
    let streams = [("line of 80 B in (raw: not text)", "lines", LINE), ("64 KiB in", "bulk", 64 << 10)];
    for (name, task, unit) in streams.into_iter().filter(|(name, ..)| name.contains(only)) {
        let chunk = chunk(task == "lines");
        compare(name, task, 1, 0, |load| {
            load.stream(&chunk)?;
            Ok(ROUND_BYTES / unit as u64)
        })?;
    }
    println!("\ntook {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

// ---- counting ----

/// Counts something per echo: what a long run adds to a short one.
fn per_echo(
    server: &str,
    connections: usize,
    tool: &[&str],
    total: impl Fn() -> Result<HashMap<String, u64>>,
) -> Result<HashMap<String, f64>> {
    const SHORT: u64 = 2_000;
    const LONG: u64 = 12_000;
    let count = |echoes: u64| -> Result<(u64, HashMap<String, u64>)> {
        let server = Served::start(tool, &["serve", server, "echo"])?;
        let mut load = Load::connect(server.port, connections, 0)?;
        let done = load.echo(|done| done >= echoes)?;
        server.stop();
        Ok((done, total()?))
    };
    let (few, less) = count(SHORT)?;
    let (many, more) = count(LONG)?;
    let each = |(name, count): (String, u64)| {
        let added = count as f64 - *less.get(&name).unwrap_or(&0) as f64;
        (name, added / (many - few) as f64)
    };
    Ok(more.into_iter().map(each).collect())
}

fn instructions() -> Result<()> {
    let file = std::env::temp_dir().join(format!("callgrind.{}", std::process::id()));
    let out = format!("--callgrind-out-file={}", file.display());
    let tool = ["valgrind", "-q", "--tool=callgrind", &out];
    println!("User instructions per echo\n");
    println!("| connections | raw epoll | network |\n|------------:|----------:|--------:|");
    for connections in [1, 64] {
        let total = || {
            let report = std::fs::read_to_string(&file)?;
            let line = report.lines().find_map(|line| line.strip_prefix("totals: ")).ok_or("no totals")?;
            Ok(HashMap::from([("all".to_owned(), line.trim().parse()?)]))
        };
        let raw = per_echo("raw", connections, &tool, total)?["all"];
        let ours = per_echo("ours", connections, &tool, total)?["all"];
        println!("| {connections:>11} | {raw:>9.0} | {ours:>7.0} |");
    }
    println!("\nthe last report, for callgrind_annotate: {}", file.display());
    Ok(())
}

/// With strace, or with the kernel's tracepoints by way of perf, which do not slow the server down: slowed down, it runs out
/// of credit sooner, and the calls that follow from that are counted too.
fn system_calls(perf: bool) -> Result<()> {
    let file = std::env::temp_dir().join(format!("calls.{}", std::process::id()));
    let name = file.display().to_string();
    let events = ["poll", "epoll_wait", "epoll_pwait", "epoll_ctl", "recvfrom", "sendto", "read", "write"]
        .map(|name| format!("syscalls:sys_enter_{name}"))
        .join(",");
    let tool: &[&str] = match perf {
        false => &["strace", "-f", "-c", "-U", "calls,name", "-o", &name],
        true => &["perf", "stat", "-x,", "-e", &events, "-o", &name],
    };
    println!("System calls per echo\n");
    println!("| connections | raw epoll | network | of these                                     |");
    println!("|------------:|----------:|--------:|----------------------------------------------|");
    for connections in [1, 256] {
        let total = || {
            let report = std::fs::read_to_string(&file)?;
            let row = |line: &str| {
                let line = line.trim().replace(",,syscalls:sys_enter_", " ");
                let (count, name) = line.split_once(' ')?;
                let name = name.trim().split(',').next()?;
                Some((name.to_owned(), count.parse().ok()?))
            };
            Ok(report.lines().filter_map(row).filter(|(name, _)| name != "total").collect())
        };
        let raw: f64 = per_echo("raw", connections, tool, total)?.values().sum();
        let ours = per_echo("ours", connections, tool, total)?;
        let mut parts: Vec<_> = ours.iter().filter(|(_, each)| **each >= 0.001).collect();
        parts.sort_by(|one, other| other.1.total_cmp(one.1));
        let parts: Vec<_> = parts.iter().map(|(name, each)| format!("{name} {each:.3}")).collect();
        let sum: f64 = ours.values().sum();
        println!("| {connections:>11} | {raw:>9.2} | {sum:>7.2} | {} |", parts.join(", "));
    }
    let _ = std::fs::remove_file(&file);
    Ok(())
}
