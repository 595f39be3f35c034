//! Does a flood leave the rest of the program its turns? A timer at the priority of GDK's redraw, one at the default
//! priority, and a quiet connection, all on the context that receives the flood. Run by `cargo bench --bench fairness`.

#![allow(unsafe_code)]

mod support;

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use glib::ControlFlow;

use support::{LINE, MESSAGE, Result, chunk, pin, raise_limits};

const TIME: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(16);
const TIMER: Duration = Duration::from_millis(50);
const PING: Duration = Duration::from_millis(5);
/// Where GDK paints.
const REDRAW: i32 = 120;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    raise_limits();
    match arguments[..] {
        ["serve", task] => serve(task),
        ["--bench"] => table(),
        _ => {
            println!("to run this: cargo bench --bench fairness");
            Ok(())
        }
    }
}

/// Receives for a while, then prints how often the first timer ran, how late the second was, and how much came in.
fn serve(task: &str) -> Result<()> {
    pin(false);
    let received = Rc::new(Cell::new(0));
    let lines = task == "lines";
    let count = received.clone();
    let sink = network::Server::builder().address("127.0.0.1").tls(false).listen(0, move |socket| {
        let count = count.clone();
        if lines {
            socket.readlines(move |_, line| {
                count.set(count.get() + black_box(line).len() + 1);
                Ok(())
            });
        } else {
            socket.read(move |_, data| {
                count.set(count.get() + black_box(data).len());
                Ok(())
            });
        }
        Ok(())
    })?;
    let quiet = network::Server::builder().address("127.0.0.1").tls(false).listen(0, |socket| {
        socket.read(|socket, data| socket.send(data));
        Ok(())
    })?;
    println!("{} {}", sink.port(), quiet.port());

    let main = glib::MainLoop::new(None, false);
    let ticks = Rc::new(Cell::new(0));
    redraw(ticks.clone(), Instant::now() + TICK);
    let late = Rc::new(RefCell::new(Vec::new()));
    let lateness = late.clone();
    let mut last = Instant::now();
    glib::timeout_add_local(TIMER, move || {
        let now = Instant::now();
        lateness.borrow_mut().push((now - last).saturating_sub(TIMER));
        last = now;
        ControlFlow::Continue
    });
    let end = main.clone();
    glib::timeout_add_local_once(TIME, move || end.quit());
    let begun = Instant::now();
    main.run();
    let seconds = begun.elapsed().as_secs_f64();
    let late = percentile_99(&mut late.borrow_mut());
    let rate = received.get() as f64 / seconds / 1e6;
    println!("{} {late} {rate} {}", f64::from(ticks.get()) / seconds, waited() / seconds);
    Ok(())
}

/// Milliseconds that this process was ready to run and other processes had its CPU.
fn waited() -> f64 {
    let statistics = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    statistics.split(' ').nth(1).and_then(|time| time.parse().ok()).map_or(f64::NAN, |time: f64| time / 1e6)
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
fn percentile_99(times: &mut [Duration]) -> f64 {
    times.sort();
    let at = (times.len() * 99 / 100).min(times.len().saturating_sub(1));
    times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
}

fn table() -> Result<()> {
    pin(true);
    println!("The last column tells how long the server waited for its CPU: rows with much of that say nothing\n");
    println!(
        "| flood                    | redraws/s | of undisturbed | timer late, p99 | ping p99 |   MB/s | waited    |"
    );
    println!(
        "|--------------------------|----------:|---------------:|----------------:|---------:|-------:|----------:|"
    );
    let mut undisturbed = None;
    for (name, task, connections) in [
        ("none", "none", 0),
        ("bulk", "bulk", 1),
        ("80-byte lines", "lines", 1),
        ("64 bytes on each of 200", "messages", 200),
    ] {
        let (ticks, late, ping, rate, waited) = round(task, connections)?;
        let share = 100.0 * ticks / *undisturbed.get_or_insert(ticks);
        print!("| {name:<24} | {ticks:>9.1} | {share:>12.1} % | {late:>12.2} ms | {ping:>5.2} ms ");
        println!("| {rate:>6.0} | {waited:>4.0} ms/s |");
    }
    Ok(())
}

fn round(task: &str, connections: usize) -> Result<(f64, f64, f64, f64, f64)> {
    let mut server = Command::new(std::env::current_exe()?).args(["serve", task]).stdout(Stdio::piped()).spawn()?;
    let mut output = BufReader::new(server.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    output.read_line(&mut line)?;
    let (sink, quiet) = line.trim().split_once(' ').ok_or("the server did not start")?;
    let (sink, quiet): (u16, u16) = (sink.parse()?, quiet.parse()?);

    let over = Arc::new(AtomicBool::new(false));
    let sockets = (0..connections).map(|_| TcpStream::connect(("127.0.0.1", sink)));
    let sockets = sockets.collect::<std::io::Result<Vec<_>>>()?;
    let chunk = if task == "messages" { vec![b'x'; MESSAGE] } else { chunk(task == "lines") };
    debug_assert!(chunk.len() % LINE == 0 || task == "messages");
    let stop = over.clone();
    let flood = std::thread::spawn(move || {
        for mut socket in sockets.iter().cycle() {
            if stop.load(Ordering::Relaxed) || socket.write_all(&chunk).is_err() {
                break;
            }
        }
    });
    let ping = std::thread::spawn(move || ping(quiet));
    line.clear();
    output.read_line(&mut line)?;
    over.store(true, Ordering::Relaxed);
    server.wait()?;
    let figures = line.trim().split(' ').map(str::parse).collect::<std::result::Result<Vec<f64>, _>>()?;
    let [ticks, late, rate, waited] = figures[..] else { return Err("the server gave no figures".into()) };
    let _ = flood.join();
    let ping = ping.join().map_err(|_| "the ping failed")?;
    Ok((ticks, late, ping, rate, waited))
}

/// Sends a message now and then, until the server ends.
fn ping(port: u16) -> f64 {
    // The flood's own thread, on the same CPU, must not be what the ping waits for.
    // SAFETY: takes and changes nothing but this thread's priority. Refused, the figures are worse.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, -19) };
    let mut times = Vec::new();
    let Ok(mut socket) = TcpStream::connect(("127.0.0.1", port)) else { return f64::NAN };
    let _ = socket.set_nodelay(true);
    let mut buffer = [0; MESSAGE];
    loop {
        let sent = Instant::now();
        if socket.write_all(&[b'p'; MESSAGE]).is_err() || socket.read_exact(&mut buffer).is_err() {
            return percentile_99(&mut times);
        }
        times.push(sent.elapsed());
        std::thread::sleep(PING);
    }
}
