//! Hosts for a test: namespaces, each with a cable to the test's own, which forwards nothing. Devices are processes of the
//! application without its window. Host 0 is 10.9.N.1 for the host N, which is 10.9.N.2.

#![allow(dead_code)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const INSIDE: &str = "NEAR_INSIDE";
const LIMIT: Duration = Duration::from_secs(60);

pub const NEAR: &str = env!("CARGO_BIN_EXE_near");

/// Runs the calling test once more in namespaces of its own. Returns the world if this is in there.
pub fn world(test: &str, others: usize) -> Option<World> {
    if std::env::var_os(INSIDE).is_some() {
        return Some(World::new(test, others));
    }
    if std::env::var_os("NETWORK_NO_NAMESPACES").is_some() {
        println!("left out: this system allows no namespaces");
        return None;
    }
    let mut unshare = Command::new("unshare");
    if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) != 0) {
        unshare.arg("--map-root-user");
    }
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    unshare.arg(std::env::current_exe().unwrap()).args([test, "--exact", "--include-ignored", "--nocapture"]);
    let status = unshare.env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "{test}: see above");
    None
}

/// Runs a command that must succeed.
pub fn shell(command: &str) {
    let status = Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(status.success(), "{command}");
}

pub struct World {
    pub directory: PathBuf,
    others: Vec<Child>,
}

impl World {
    fn new(test: &str, others: usize) -> World {
        let directory = std::env::temp_dir().join(format!("near-{test}-{}", rand()));
        std::fs::create_dir_all(&directory).unwrap();
        shell("ip link set lo up && mount -t tmpfs none /run");
        let mut world = World { directory, others: Vec::new() };
        for n in 1..=others {
            let mut holder = Command::new("unshare");
            holder.args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec sleep 1000"]);
            let mut other = holder.stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            BufReader::new(other.stdout.take().unwrap()).read_line(&mut line).unwrap();
            shell(&format!("ip link add v{n} type veth peer name eth0 netns {}", other.id()));
            world.others.push(other);
            shell(&format!("ip addr add 10.9.{n}.1/24 brd + dev v{n} && ip link set v{n} up"));
            let there = format!("ip addr add 10.9.{n}.2/24 brd + dev eth0 && ip link set eth0 up");
            world.there(n, &format!("{there} && ip route add default via 10.9.{n}.1"));
        }
        shell("ip route add default via 10.9.1.2");
        world
    }

    /// Runs a command on another host.
    pub fn there(&self, host: usize, command: &str) {
        shell(&format!("nsenter --net=/proc/{}/ns/net sh -c '{command}'", self.others[host - 1].id()));
    }

    /// A command on one of the hosts.
    pub fn command(&self, host: usize, program: &str) -> Command {
        if host == 0 {
            return Command::new(program);
        }
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.others[host - 1].id())).arg(program);
        command
    }

    /// Starts a device that cannot start, and returns what it says.
    pub fn start_in_vain(&self, host: usize, name: &str) -> String {
        let (mut command, data) = (self.command(host, NEAR), self.path(&format!("{name}.data")));
        command.args(["--headless", "--data", &data]).env("HOME", &data);
        let output = command.env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere").output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    }

    /// Connections that a host has opened so far.
    pub fn attempts(&self, host: usize) -> u64 {
        let output = self.command(host, "cat").arg("/proc/net/snmp").output().unwrap();
        let counters = String::from_utf8(output.stdout).unwrap();
        let mut lines = counters.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
        let (mut names, mut values) = (lines.next().unwrap(), lines.next().unwrap());
        let at = names.position(|name| name == "ActiveOpens").unwrap();
        values.nth(at).unwrap().parse().unwrap()
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().unwrap().into()
    }

    /// Starts a device. Its data stays from one start to the next.
    pub fn device(&self, host: usize, name: &str, script: &str) -> Device {
        self.device_with_bus(host, name, script, "unix:path=/nowhere")
    }

    /// Starts a device that has a system bus, and Avahi if that is on it.
    pub fn device_with_bus(&self, host: usize, name: &str, script: &str, bus: &str) -> Device {
        let file = self.path(&format!("{name}.script"));
        std::fs::write(&file, script).unwrap();
        let mut command = self.command(host, NEAR);
        let data = self.path(&format!("{name}.data"));
        command.args(["--headless", "--name", name, "--data", &data]);
        command.args(["--downloads", &self.path(&format!("{name}.files")), "--script", &file]);
        command.env("HOME", &data).env("XDG_DATA_HOME", &data).env("G_MESSAGES_DEBUG", "near");
        command.env("DBUS_SYSTEM_BUS_ADDRESS", bus);
        Device::start(name, command)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for other in &mut self.others {
            let _ = other.kill();
            let _ = other.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub struct Device {
    name: String,
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Device {
    pub fn start(name: &str, mut command: Command) -> Device {
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Device { name: name.into(), child, lines, seen: Vec::new() }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that contains this, and returns it.
    pub fn wait(&mut self, wanted: &str) -> String {
        self.wait_for(wanted, LIMIT)
    }

    pub fn wait_for(&mut self, wanted: &str, limit: Duration) -> String {
        let until = Instant::now() + limit;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            println!("{}: {line}", self.name);
            self.seen.push(line.clone());
            if line.contains(wanted) {
                return line;
            }
        }
        panic!("{}: waited in vain for {wanted:?}; the last lines: {:#?}", self.name, self.seen.iter().rev().take(10))
    }

    /// Waits for the end of the script, and returns all lines.
    pub fn finish(mut self) -> Vec<String> {
        let until = Instant::now() + LIMIT;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            println!("{}: {line}", self.name);
            self.seen.push(line);
        }
        let ended = self.child.try_wait().unwrap().is_some() || Instant::now() < until;
        assert!(ended, "{} did not come to its end: {:#?}", self.name, self.seen.iter().rev().take(10));
        assert!(self.child.wait().unwrap().success());
        std::mem::take(&mut self.seen)
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The lines so far.
    pub fn seen(&mut self) -> &[String] {
        self.seen.extend(self.lines.try_iter());
        &self.seen
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number that another test hardly has at the same time.
pub fn rand() -> u32 {
    std::process::id() ^ std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos()
}

/// The names in a directory, also hidden ones.
pub fn names(directory: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(Path::new(directory)) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub fn finish_both(first: Device, second: Device) -> (Vec<String>, Vec<String>) {
    let first = std::thread::spawn(move || first.finish());
    let second = second.finish();
    (first.join().unwrap(), second)
}

pub fn says(lines: &[String], wanted: &str) -> bool {
    lines.iter().any(|line| line.contains(wanted))
}

/// Pairs anna on host 0 with bert on host 1.
pub fn paired(world: &World) {
    let code = world.path("code");
    let mut anna = world.device(0, "anna", &format!("wait-device bert\naccept\ncode-to {code}\nwait-paired\nquit"));
    anna.wait("started");
    let bert = format!("wait-device anna\npair anna\ncode-from {code}\nwait-paired\nquit");
    let (anna, bert) = finish_both(anna, world.device(1, "bert", &bert));
    assert!(says(&anna, "paired, strong: true") && says(&bert, "paired, strong: true"));
}
