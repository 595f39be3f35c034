//! "A window keeps drawing": a GTK 4 window under a private Xvfb paints as often beside a busy network, on the same main
//! context, as beside none, and a quiet connection is answered meanwhile.

#[path = "../../common/mod.rs"]
mod common;
mod load;
mod ping;
mod window;

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use load::Load;
use ping::Ping;
use window::{Frames, Window};

/// How long each scenario is watched.
const TIME: Duration = Duration::from_millis(1500);
/// An interval between frames may be so much longer than the longest without a network; a ping may take so long.
const LATE: Duration = Duration::from_millis(100);
/// A machine that is busy with something else may spoil a scenario: it has so many tries, each with a reference of its own.
const TRIES: usize = 3;
/// Whatever takes this long hangs.
const HANGS: Duration = Duration::from_secs(120);

/// Set for the process that has the window.
const INNER: &str = "NETWORK_TEST_WINDOW";

fn main() -> ExitCode {
    if std::env::var_os(INNER).is_some() { test() } else { with_display() }
}

// ---- outside: the display, and an environment that knows nothing of the user's desktop ----

fn with_display() -> ExitCode {
    // Its own choice of a number; it ends with its last client at the latest.
    let mut xvfb = common::tool("/usr/bin/Xvfb");
    xvfb.args(["-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp", "-terminate"]).stdin(Stdio::null());
    let xvfb = common::Process::start_as_set(&mut xvfb, common::Watch::Stdout);
    let display = format!(":{}", xvfb.line());
    let data = common::TempDir::new();
    let status = Command::new(std::env::current_exe().unwrap())
        .env(INNER, "1")
        .env("DISPLAY", display)
        .env("GDK_BACKEND", "x11")
        .env("GDK_DEBUG", "gl-disable")
        .env("GSK_RENDERER", "cairo")
        .env("GSETTINGS_BACKEND", "memory")
        .env("GTK_A11Y", "none")
        .env("DBUS_SESSION_BUS_ADDRESS", "disabled:")
        .env("XDG_DATA_HOME", data.path(""))
        .env_remove("WAYLAND_DISPLAY")
        .status()
        .unwrap();
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

// ---- inside ----

struct Scenario {
    name: &'static str,
    load: fn() -> Load,
    unit: &'static str,
    /// What the load must get done at least, in that unit: little, but not nothing.
    least: u64,
}

const SCENARIOS: [Scenario; 9] = [
    Scenario { name: "bulk", load: Load::bulk, unit: "bytes", least: 10 << 20 },
    Scenario { name: "bulk over TLS", load: Load::secret_bulk, unit: "bytes", least: 1 << 20 },
    Scenario { name: "a download by HTTP", load: Load::download, unit: "bytes", least: 10 << 20 },
    Scenario { name: "lines of 80 bytes", load: Load::lines, unit: "lines", least: 10_000 },
    Scenario {
        name: "lines, served by a callback that awaits",
        load: Load::awaited_lines,
        unit: "lines",
        least: 10_000,
    },
    Scenario { name: "lines, in a task of GLib's", load: Load::lines_by_task, unit: "lines", least: 10_000 },
    Scenario { name: "connects", load: Load::connects, unit: "connections", least: 1000 },
    Scenario { name: "messages on 200 connections, echoed", load: Load::messages, unit: "messages", least: 1000 },
    Scenario { name: "peers that do not answer, lookups", load: Load::unanswered, unit: "lookups", least: 10 },
];

struct Figures {
    frames: Frames,
    ping: Duration,
    done: u64,
}

fn test() -> ExitCode {
    std::thread::spawn(|| {
        std::thread::sleep(HANGS);
        eprintln!("still running after {HANGS:?}");
        std::process::exit(1);
    });
    let window = Window::open();
    let reference = measure(&window, Load::none);
    report("no network but the ping", None, &reference);
    assert!(reference.frames.count >= 15, "the window does not even draw undisturbed");

    let mut failed = Vec::new();
    for Scenario { name, load, unit, least } in &SCENARIOS {
        let mut outcome = Err(String::new());
        for attempt in 0..TRIES {
            let again = (attempt > 0).then(|| measure(&window, Load::none));
            let figures = measure(&window, *load);
            report(name, Some(unit), &figures);
            outcome = judge(again.as_ref().unwrap_or(&reference), &figures, *least);
            match &outcome {
                Ok(()) => break,
                Err(reason) => println!("    {reason}"),
            }
        }
        if let Err(reason) = outcome {
            failed.push(format!("{name}: {reason}"));
        }
    }

    // What is measured here can be lost: a network that does not yield takes it all.
    let mut greedy = network::mainloop::Fairness::default();
    greedy.flood_priority = greedy.priority;
    network::mainloop::set_fairness(&greedy).unwrap();
    let figures = measure(&window, Load::awaited_lines);
    report("the awaited lines, at the default priority", Some("lines"), &figures);
    if judge(&reference, &figures, 0).is_ok() {
        failed.push("the window draws beside a flood at the default priority: this test shows nothing".into());
    }

    for reason in &failed {
        eprintln!("{reason}");
    }
    let (word, passed) = (if failed.is_empty() { "ok" } else { "FAILED" }, SCENARIOS.len() + 1 - failed.len());
    println!("test result: {word}. {passed} passed; {} failed", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn measure(window: &Window, load: fn() -> Load) -> Figures {
    let load = load();
    let ping = Ping::start();
    let frames = window.watch(TIME);
    Figures { frames, ping: ping.end(), done: load.end() }
}

fn report(name: &str, unit: Option<&str>, Figures { frames, ping, done }: &Figures) {
    let per_second = |count: f64| count / TIME.as_secs_f64();
    let millis = |time: &Duration| time.as_secs_f64() * 1000.0;
    print!(
        "{name}: {:.1} frames/s, longest interval {:.1} ms, ping p99 {:.1} ms",
        per_second(frames.count as f64),
        millis(&frames.longest),
        millis(ping)
    );
    println!("{}", unit.map_or_else(String::new, |unit| format!(", {:.0} {unit}/s", per_second(*done as f64))));
}

fn judge(reference: &Figures, figures: &Figures, least: u64) -> Result<(), String> {
    let (usual, frames) = (&reference.frames, &figures.frames);
    if frames.count * 10 < usual.count * 9 {
        return Err(format!("{} frames, {} without a network", frames.count, usual.count));
    }
    if frames.longest > usual.longest + LATE {
        return Err(format!("{:?} without a frame, {:?} without a network", frames.longest, usual.longest));
    }
    if figures.ping > LATE {
        return Err(format!("the quiet connection waited {:?}", figures.ping));
    }
    if figures.done < least {
        return Err(format!("the load got {} done, and {least} is little", figures.done));
    }
    Ok(())
}
