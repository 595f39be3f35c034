//! The servers that are compared: each a process of its own on the first CPU, whose CPU time, memory and waiting are read from
//! outside. All are started as `PROGRAM TASK ADDRESS [MORE]` and say `PORT PID [PORT]` when they listen.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Signal};
use rustix::thread::CpuSet;

use crate::Result;

/// The nice values of servers, of the load, and of what in the load must not wait for the rest of it.
const SERVER: i32 = -20;
const LOAD: i32 = -10;
pub const PROMPT: i32 = -20;

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A level-triggered epoll loop that knows nothing but its task; for TLS, rustls on one.
    Raw,
    /// The same loop, its messages received and sent by libc's functions, as in a program in C.
    Libc,
    /// The same loop, watched by GLib's: the least that costs.
    InGlib,
    /// This library on `glib::MainLoop`, as in a program with a window.
    Network,
    /// This library under its own `fgloop`.
    Fgloop,
    /// This library with the fairness to others turned off.
    Unfair,
    Tokio,
    /// GLib's main loop with a source for each descriptor, in C.
    PerFd,
    /// GSocketService and the asynchronous streams of GIO, in C.
    Gio,
    /// Debian's python3-network.
    Python,
    /// This library by blocking calls.
    Blocking,
    /// The FTP client of libcurl, in C.
    Libcurl,
    /// The FTP client of Python's standard library.
    Ftplib,
}

impl Kind {
    pub const ALL: [Kind; 13] = {
        use Kind::*;
        [Raw, Libc, InGlib, Network, Fgloop, Unfair, Blocking, Tokio, PerFd, Gio, Python, Libcurl, Ftplib]
    };

    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Raw => "raw",
            Kind::Libc => "libc",
            Kind::InGlib => "in-glib",
            Kind::Network => "network",
            Kind::Fgloop => "fgloop",
            Kind::Unfair => "unfair",
            Kind::Tokio => "tokio",
            Kind::PerFd => "per-fd",
            Kind::Gio => "gio",
            Kind::Python => "python",
            Kind::Blocking => "blocking",
            Kind::Libcurl => "libcurl",
            Kind::Ftplib => "ftplib",
        }
    }

    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Its program and first arguments. None if it is not there: `./dev bench` builds the peers and says where they are.
    pub fn command(self) -> Option<Vec<OsString>> {
        let peer = |name: &str| {
            let path = Path::new(&std::env::var_os("NETWORK_PEERS")?).join(name);
            path.exists().then(|| vec![path.into_os_string()])
        };
        match self {
            Kind::Tokio => peer("tokio-peer"),
            Kind::PerFd => peer("per_fd"),
            Kind::Gio => peer("gio"),
            Kind::Libcurl => peer("libcurl"),
            Kind::Ftplib => {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/python_ftp.py");
                Path::new("/usr/bin/python3").exists().then(|| vec!["/usr/bin/python3".into(), script.into()])
            }
            Kind::Python => {
                if !Path::new("/usr/lib/python3/dist-packages/network.py").exists() {
                    return None;
                }
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/python.py");
                Some(vec!["/usr/bin/python3".into(), script.into()])
            }
            _ => Some(vec![std::env::current_exe().ok()?.into(), "serve".into(), self.name().into()]),
        }
    }
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Place {
    Tcp(u16),
    Unix(PathBuf),
}

/// A server in a process of its own. Ends when dropped, or when this program does.
pub struct Served {
    pub kind: Kind,
    child: Child,
    pid: Pid,
    output: BufReader<ChildStdout>,
    pub place: Place,
    /// Of its second listener, if it has one.
    pub quiet: u16,
}

impl Served {
    /// Starts it, under a tool such as strace if one is given. None if that kind is not there.
    pub fn start(kind: Kind, tool: &[&str], task: &str, path: Option<&Path>, more: &[&str]) -> Result<Option<Served>> {
        let Some(program) = kind.command() else { return Ok(None) };
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(tool).args(program).arg(task);
        command.arg(path.map_or("tcp".as_ref(), Path::as_os_str)).args(more).stdout(Stdio::piped());
        if !tool.is_empty() {
            // It would report how its program ended.
            command.stderr(Stdio::null());
        }
        // A child begins where its parent is.
        place(false);
        let child = command.spawn();
        place(true);
        let mut child = child?;
        let mut output = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let told: Vec<u16> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let pid = line.split_whitespace().nth(1).and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        let pid = pid.ok_or_else(|| format!("the {} server did not start", kind.name()))?;
        let place = path.map_or(Place::Tcp(*told.first().unwrap_or(&0)), |path| Place::Unix(path.into()));
        let quiet = line.split_whitespace().nth(2).and_then(|port| port.parse().ok()).unwrap_or(0);
        Ok(Some(Served { kind, child, pid, output, place, quiet }))
    }

    pub fn port(&self) -> u16 {
        match self.place {
            Place::Tcp(port) => port,
            Place::Unix(_) => 0,
        }
    }

    /// CPU time that the server has taken, once it has nothing more to do: while it runs, the clock of another process lacks what
    /// it did since the last tick, which may be 4 ms.
    pub fn cpu(&self) -> Duration {
        loop {
            let time = self.clock();
            std::thread::sleep(Duration::from_micros(200));
            if self.sleeps() && self.clock() == time {
                return time;
            }
        }
    }

    fn sleeps(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", self.pid.as_raw_nonzero())).unwrap_or_default();
        // The name before it may hold anything.
        status.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S'))
    }

    fn clock(&self) -> Duration {
        let mut clock = 0;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: both calls write to the one place they are given, which is valid.
        let failed = unsafe {
            libc::clock_getcpuclockid(self.pid.as_raw_nonzero().get(), &raw mut clock) != 0
                || libc::clock_gettime(clock, &raw mut time) != 0
        };
        assert!(!failed, "the {} server has gone", self.kind.name());
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// How long the server was ready to run while something else had its CPU.
    pub fn waited(&self) -> Duration {
        let statistics = std::fs::read_to_string(format!("/proc/{}/schedstat", self.pid.as_raw_nonzero()));
        let time = statistics.ok().and_then(|text| text.split(' ').nth(1)?.parse().ok());
        Duration::from_nanos(time.unwrap_or(0))
    }

    /// Bytes of memory that the server has in use.
    pub fn resident(&self) -> Result<u64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.pid.as_raw_nonzero()))?;
        let pages: u64 = statm.split(' ').nth(1).ok_or("no memory")?.parse()?;
        Ok(pages * rustix::param::page_size() as u64)
    }

    /// What it has to say before it ends, and for how long it [waited](Served::waited).
    pub fn last_words(mut self) -> Result<(String, Duration)> {
        let mut words = String::new();
        self.output.read_to_string(&mut words)?;
        // Ended or not, it is there until we have seen to it.
        let waited = self.waited();
        Ok((words, waited))
    }

    /// Ends it, and waits until the tool around it has written its report.
    pub fn stop(self) {}
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.pid, Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Keeps this thread, and what it starts, on one CPU, the load on the last and servers on the first, where there are two; and
/// before all other programs there, where the system lets us.
pub fn place(load: bool) {
    // Not those that this process may use: that changes here.
    let cpus = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let cpus = cpus.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count().max(1);
    let mut set = CpuSet::new();
    set.set(if load { cpus - 1 } else { 0 });
    let _ = rustix::thread::sched_setaffinity(None, &set);
    let _ = rustix::process::setpriority_process(None, if load { LOAD } else { SERVER });
}

/// Lets this thread, and what it starts, run on every CPU.
pub fn place_anywhere() {
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu));
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// Allows as many descriptors as the system lets us have; how many.
pub fn raise_limits() -> u64 {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(Resource::Nofile, limit);
    limit.current.unwrap_or(u64::MAX)
}

/// Called by a server: tells where it listens.
pub fn announce(port: u16, quiet: u16) {
    use std::io::Write;
    println!("{port} {} {quiet}", std::process::id());
    let _ = std::io::stdout().flush();
}
