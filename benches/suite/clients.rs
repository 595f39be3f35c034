//! Clients that are compared: each is a process of its own, gets its tasks by standard input, and measures its own CPU time. The server is
//! a daemon that all of them ask.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::{Kind, place};
use crate::report::{Goal, Row, Unit};
use crate::scenarios::{Bench, Samples};

/// Of all threads of this process, in nanoseconds.
pub fn cpu() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// A client in a process of its own.
pub struct Running {
    pub kind: Kind,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// `None` if there is no such program.
    pub fn start(
        kind: Kind,
        program: Option<Vec<OsString>>,
        arguments: impl Iterator<Item = OsString>,
    ) -> Result<Option<Running>> {
        let Some(program) = program else { return Ok(None) };
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(program).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (input, output) =
            (child.stdin.take().ok_or("no input")?, BufReader::new(child.stdout.take().ok_or("no output")?));
        Ok(Some(Running { kind, child, input, output }))
    }

    /// CPU milliseconds of a task.
    pub fn run(&mut self, task: &str) -> Result<f64> {
        writeln!(self.input, "{task}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let nanoseconds: f64 = line.trim().parse().map_err(|_| format!("{} failed", self.kind.name()))?;
        Ok(nanoseconds / 1e6)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server, in the place of servers. It ends when dropped.
pub struct Daemon(Child);

impl Daemon {
    /// Starts it, and waits until it listens.
    pub fn start(program: &mut Command, port: u16) -> Result<Daemon> {
        let name = program.get_program().to_string_lossy().into_owned();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program.get_program()).args(program.get_args());
        place(false);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        place(true);
        let daemon = Daemon(child?);
        let late = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > late {
                return Err(format!("{name} does not accept connections").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Makes a certificate for 127.0.0.1, in a file alone and in one with its key.
pub fn certify(both: &Path, certificate: &Path) -> Result<()> {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30"]);
    openssl.args(["-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout"]).arg(both);
    openssl.arg("-out").arg(certificate).stderr(Stdio::null());
    if !openssl.status()?.success() {
        return Err("openssl made no certificate".into());
    }
    let all = [fs::read(both)?, fs::read(certificate)?].concat();
    fs::write(both, all)?;
    Ok(())
}

/// A daemon as `./dev bench` unpacks it, or as it is installed.
pub fn party(name: &str) -> Option<PathBuf> {
    let unpacked = std::env::var_os("NETWORK_PARTIES").map(|parties| PathBuf::from(parties).join("bin"));
    let path: OsString = std::env::var_os("PATH").unwrap_or_default();
    let places = unpacked.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into()]);
    places.map(|place| place.join(name)).find(|program| program.is_file())
}

/// CPU milliseconds of each client, in rounds that take turns.
pub fn measure(
    bench: &Bench,
    clients: &mut [Running],
    task: &str,
    name: &str,
    goals: impl IntoIterator<Item = Goal>,
) -> Result<Row> {
    let mut times = Samples::new();
    // The first round warms up.
    for round in 0..=bench.rounds {
        for index in 0..clients.len() {
            // Forwards and backwards by turns: none always comes after the same other.
            let index = if round % 2 == 0 { index } else { clients.len() - 1 - index };
            let client = &mut clients[index];
            let time = client.run(task)?;
            if round > 0 {
                times.entry(client.kind).or_default().push(time);
            }
        }
    }
    Ok(Row::new(name, Unit::Millis, times, goals))
}
