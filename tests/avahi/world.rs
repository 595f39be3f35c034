//! A private environment for each test: new network, mount and process namespaces with a D-Bus and an Avahi daemon that
//! the test starts, kills and restarts. When the test ends, the kernel ends all processes inside.

#[path = "../common/parties.rs"]
mod parties;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use parties::{has_namespaces, name_root_avahi, party, search_path, unshare, without_proxies};

/// The longest time that a test may take.
const HANGS: Duration = Duration::from_secs(100);

/// The longest time that a test waits for anything.
const NEVER: Duration = Duration::from_secs(20);

const WORLD: &str = "NETWORK_TEST_WORLD";

/// Runs the calling test again in a private environment. Returns true inside.
pub fn in_own_world(test: &str) -> bool {
    enter_own_world(&[test, "--exact", "--nocapture", "--include-ignored", "--test-threads=1"])
}

/// Runs this program with these arguments in a private environment. Returns true inside.
pub fn enter_own_world(arguments: &[&str]) -> bool {
    if let Some(place) = std::env::var_os(WORLD) {
        run("ip", "link set lo up");
        run("mount", "-t tmpfs none /run");
        name_root_avahi(Path::new(&place));
        return true;
    }
    if !has_namespaces() {
        return false;
    }
    let place = tempfile::tempdir().unwrap();
    let mut child = unshare(&["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(arguments)
        .env(WORLD, place.path())
        .env("XDG_DATA_HOME", place.path())
        .env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}/here/bus", place.path().display()))
        .spawn()
        .expect("unshare, of the package util-linux");
    let outcome = wait(&mut child, HANGS);
    assert!(outcome.is_some_and(|status| status.success()), "{arguments:?}: {outcome:?}");
    false
}

/// Waits for a child to exit, and kills it at the limit.
pub fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let ending = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    let deadline = Instant::now() + limit;
    let in_time = loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
        match poll(&mut [PollFd::new(&ending, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ready => break ready.unwrap() > 0,
        }
    };
    if !in_time {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    in_time.then_some(status)
}

#[track_caller]
pub fn run(program: &str, arguments: &str) {
    let status = Command::new(program).args(arguments.split(' ')).status().expect(program);
    assert!(status.success(), "{program} {arguments}: {status}");
}

/// A process that is killed with its handle, and its output.
pub struct Party {
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Party {
    pub fn start(mut command: Command) -> Party {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, lines) = mpsc::channel();
        let outputs: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for output in outputs {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                    let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
                }
            });
        }
        let input = child.stdin.take();
        Party { child, input, lines }
    }

    /// Types a line into its standard input.
    pub fn hears(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Closes its standard input and waits for its exit.
    pub fn dismiss(mut self) {
        self.input = None;
        let ended = wait(&mut self.child, NEVER);
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    }

    /// Waits until it prints a line that contains this text.
    #[track_caller]
    pub fn says(&self, what: &str) -> String {
        let deadline = Instant::now() + NEVER;
        let mut heard = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(what) => return line,
                Ok(line) => heard.push(line),
                Err(_) => panic!("expected {what:?}, heard {heard:#?}"),
            }
        }
    }

    /// Waits for its exit and returns its output.
    pub fn all(mut self) -> Vec<String> {
        let ended = wait(&mut self.child, NEVER);
        assert!(ended.is_some());
        self.lines.iter().collect()
    }

    /// Stops or continues it.
    #[allow(dead_code)]
    pub fn freeze(&self, stop: bool) {
        let signal = if stop { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        let process = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process, signal).unwrap();
    }

    /// Kills it.
    pub fn kill(self) {}
}

impl Drop for Party {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A machine: this one, or another one in a network namespace that is connected to it.
#[derive(Clone, Copy)]
pub struct Host {
    pub name: &'static str,
    /// The network namespace. `None`: that of the test.
    namespace: Option<&'static str>,
}

pub const HERE: Host = Host { name: "here", namespace: None };

/// This machine with another bus. Its daemons are out of reach of this process, unless something forwards them.
pub const BEHIND: Host = Host { name: "behind", namespace: None };

/// Creates another machine that is connected to this one. With `addresses`, both have an IPv4 address; without, only
/// their link-local IPv6 addresses.
pub fn another_host(addresses: bool) -> Host {
    run("ip", "netns add far");
    run("ip", "link add cable type veth peer name cable netns far");
    for (index, prefix) in ["", "-n far "].iter().enumerate() {
        run("ip", &format!("{prefix}link set lo up"));
        run("ip", &format!("{prefix}link set cable up"));
        if addresses {
            run("ip", &format!("{prefix}address add 10.9.8.{}/24 dev cable", index + 1));
        }
    }
    Host { name: "far", namespace: Some("far") }
}

impl Host {
    fn place(self) -> PathBuf {
        let place = PathBuf::from(std::env::var_os(WORLD).unwrap()).join(self.name);
        fs::create_dir_all(&place).unwrap();
        place
    }

    /// The path of its D-Bus socket.
    pub fn bus_path(self) -> PathBuf {
        self.place().join("bus")
    }

    /// The address of its D-Bus.
    pub fn bus_address(self) -> String {
        format!("unix:path={}", self.bus_path().display())
    }

    /// A command that runs on this machine.
    pub fn command(self, program: &str, arguments: &[&str]) -> Command {
        let command = match self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}")).args(["unshare", "--mount", "sh", "-c"]);
                command.args(["mount -t tmpfs none /run && exec \"$@\"", "sh", program]);
                command
            }
        };
        let mut command = without_proxies(command);
        command.args(arguments).env("PATH", search_path()).env("LC_ALL", "C.UTF-8");
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.bus_address());
        command
    }

    fn start_daemon(self, name: &str, arguments: &[&str]) -> Party {
        self.start(party(name).to_str().unwrap(), arguments)
    }

    pub fn start(self, program: &str, arguments: &[&str]) -> Party {
        Party::start(self.command(program, arguments))
    }

    /// Starts its D-Bus daemon.
    pub fn bus(self) -> Party {
        let place = self.place();
        let _ = fs::remove_file(self.bus_path());
        let config = place.join("bus.conf");
        let text = format!(
            "<busconfig><listen>{}</listen><auth>EXTERNAL</auth><policy context=\"default\">\
             <allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/><allow user=\"*\"/>\
             </policy></busconfig>",
            self.bus_address()
        );
        fs::write(&config, text).unwrap();
        let config = format!("--config-file={}", config.display());
        let party = self.start_daemon("dbus-daemon", &[&config, "--nofork", "--nopidfile", "--print-address=1"]);
        party.says("unix:path=");
        party
    }

    /// Starts its Avahi daemon and waits until it is running.
    pub fn avahi(self) -> Party {
        let config = self.place().join("avahi.conf");
        // Without another machine, Avahi runs on the loopback interface.
        let joined = self.command("ip", &["link", "show", "cable"]).output().unwrap().status.success();
        let (interfaces, ipv6) = if joined { ("deny-interfaces=lo", "yes") } else { ("allow-interfaces=lo", "no") };
        let name = self.name;
        let text = format!(
            "[server]\nhost-name={name}\n{interfaces}\nuse-ipv6={ipv6}\n[wide-area]\nenable-wide-area=no\n\
             [rlimits]\n"
        );
        fs::write(&config, text).unwrap();
        let config = config.display().to_string();
        let party =
            self.start_daemon("avahi-daemon", &["-f", &config, "--no-drop-root", "--no-chroot", "--no-rlimits"]);
        party.says("startup complete");
        party
    }

    /// Publishes a service with Avahi's own tool.
    pub fn publish(self, name: &str, port: u16, txt: &[&str]) -> Party {
        let port = port.to_string();
        let arguments = [&["-s", name, "_chat._tcp", &port][..], txt].concat();
        let party = self.start("avahi-publish", &arguments);
        party.says("Established under name");
        party
    }
}

/// Runs the main loop until the condition is met, and returns how long that took.
#[track_caller]
pub fn until(what: impl Fn() -> bool) -> Duration {
    let started = Instant::now();
    let late = Arc::new(AtomicBool::new(false));
    let flag = late.clone();
    let watchdog = glib::source::timeout_source_new(NEVER, None, glib::Priority::HIGH, move || {
        flag.store(true, Ordering::Relaxed);
        glib::ControlFlow::Continue
    });
    watchdog.attach(Some(&glib::MainContext::ref_thread_default()));
    while !what() && !late.load(Ordering::Relaxed) {
        network::iteration(true);
    }
    watchdog.destroy();
    assert!(!late.load(Ordering::Relaxed), "what was waited for did not happen");
    started.elapsed()
}
