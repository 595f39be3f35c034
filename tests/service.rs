//! The daemon example as a service: one at a time, told to load anew, replaced under load, and ended in every way.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{LIMIT, Other, Output, Process, TempDir, Watch, command, example, run, until_elsewhere};
use rustix::process::Signal;

/// A client of the daemon that has read its greeting, which tells its process.
struct Client {
    stream: BufReader<UnixStream>,
    pid: i32,
}

impl Client {
    fn try_connect(address: &str) -> std::io::Result<Client> {
        let stream = UnixStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut client = Client { stream: BufReader::new(stream), pid: 0 };
        let line = client.try_line()?;
        let pid = line.trim().strip_prefix("daemon ").and_then(|pid| pid.parse().ok());
        client.pid = pid.ok_or_else(|| std::io::Error::other(format!("the greeting was {line:?}")))?;
        Ok(client)
    }

    #[track_caller]
    fn connect(address: &str) -> Client {
        Client::try_connect(address).unwrap()
    }

    fn try_line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().into()),
        }
    }

    fn try_ask(&mut self, line: &str) -> std::io::Result<String> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        self.try_line()
    }

    #[track_caller]
    fn ask(&mut self, line: &str) -> String {
        self.try_ask(line).unwrap()
    }

    /// The other side has closed.
    #[track_caller]
    fn assert_ended(mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }
}

#[track_caller]
fn start(arguments: &[&str]) -> Other {
    let output = run(&mut command(example("daemon"), arguments), "");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stderr, "");
    Other::new(Client::connect(arguments[0]).pid)
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

// ---- one at a time ----

#[test]
fn a_pid_file_names_the_process_that_serves_and_goes_with_it() {
    let directory = TempDir::new();
    let (address, pid_file) = (directory.address("socket"), directory.address("pid"));
    let daemon = start(&[&address, "--pid-file", &pid_file]);
    let pid = Client::connect(&address).pid;
    assert_eq!(read(&pid_file), format!("{pid}\n"));
    daemon.signal(Signal::TERM);
    daemon.await_end();
    assert!(!Path::new(&pid_file).exists());
}

#[test]
fn a_second_one_is_refused_and_told_which_process_is_the_first() {
    let directory = TempDir::new();
    let (address, pid_file) = (directory.address("socket"), directory.address("pid"));
    let _daemon = start(&[&address, "--pid-file", &pid_file]);
    let pid = Client::connect(&address).pid;
    let other = directory.address("other");
    let output = run(&mut command(example("daemon"), [&other, "--pid-file", &pid_file]), "");
    let line = output.assert_failed();
    assert!(line.contains(&format!("already running as process {pid}")) && line.contains(&pid_file), "{line}");
    assert!(!Path::new(&other).exists(), "it has touched nothing");
    assert_eq!(read(&pid_file), format!("{pid}\n"), "the file of the first is as it was");
    assert_eq!(Client::connect(&address).pid, pid);
}

#[test]
fn of_many_that_start_at_once_there_is_one() {
    for arguments in [&["--pid-file"][..], &[]] {
        let directory = TempDir::new();
        let (address, pid_file) = (directory.address("socket"), directory.address("pid"));
        // What a killed one has left must not make it two.
        drop(UnixListener::bind(&address).unwrap());
        std::fs::write(&pid_file, "1\n").unwrap();
        let start = || {
            let mut daemon = command(example("daemon"), [&address]);
            if !arguments.is_empty() {
                daemon.args(arguments).arg(&pid_file);
            }
            Process::start(&mut daemon, Watch::Stderr)
        };
        let all: Vec<Process> = (0..12).map(|_| start()).collect();
        let outputs: Vec<Output> = all.into_iter().map(Process::finish).collect();
        let pid = Client::connect(&address).pid;
        let _daemon = Other::new(pid);
        let started = outputs.iter().filter(|output| output.status.success()).count();
        assert_eq!(started, 1, "{outputs:?}");
        for refused in outputs.iter().filter(|output| !output.status.success()) {
            let line = refused.assert_failed();
            let known = ["already running as process", "another server is listening"];
            assert!(known.iter().any(|words| line.contains(words)), "{line}");
        }
    }
}

#[test]
fn what_a_killed_one_leaves_is_in_nobodys_way() {
    let directory = TempDir::new();
    let (address, pid_file) = (directory.address("socket"), directory.address("pid"));
    let arguments = [address.as_str(), "--pid-file", &pid_file];
    let daemon = start(&arguments);
    let first = Client::connect(&address).pid;
    daemon.signal(Signal::KILL);
    daemon.await_end();
    assert!(Path::new(&address).exists() && Path::new(&pid_file).exists(), "it could not clean up");
    let _daemon = start(&arguments);
    let second = Client::connect(&address).pid;
    assert_ne!(first, second);
    assert_eq!(read(&pid_file), format!("{second}\n"));
}

#[test]
fn a_pid_file_that_cannot_be_is_told_to_the_shell() {
    let directory = TempDir::new();
    let (address, pid_file) = (directory.address("socket"), directory.address("no/such/pid"));
    for option in ["--pid-file", "--log-file"] {
        let output = run(&mut command(example("daemon"), [&address, option, &pid_file]), "");
        let line = output.assert_failed();
        assert!(line.contains(&pid_file) && line.contains("No such file"), "{line}");
        assert!(!Path::new(&address).exists());
    }
}

#[test]
fn a_pid_file_counts_in_the_foreground_too() {
    let directory = TempDir::new();
    let (address, pid_file) = (directory.address("socket"), directory.address("pid"));
    let mut daemon = command(example("daemon"), [&address, "--pid-file", &pid_file]);
    let mut daemon = Process::start(daemon.env("NETWORK_NO_FORK", "1"), Watch::Stderr);
    daemon.line_with("NETWORK_NO_FORK");
    assert_eq!(Client::connect(&address).pid, daemon.id());
    assert_eq!(read(&pid_file), format!("{}\n", daemon.id()));
    daemon.signal(Signal::TERM);
    assert!(daemon.await_end().status.success());
    assert!(!Path::new(&pid_file).exists());
}

// ---- killed while it starts ----

#[test]
fn killed_at_whatever_moment_it_leaves_nothing_that_stops_the_next() {
    let directory = TempDir::new();
    let (address, pid_file) = (directory.address("socket"), directory.address("pid"));
    for round in 0..60u64 {
        let arguments = [address.as_str(), "--pid-file", &pid_file];
        let mut killed = command(example("daemon"), arguments).stdout(std::process::Stdio::null()).spawn().unwrap();
        // Wherever that hits it: the moments are spread over all that it does to start.
        std::thread::sleep(Duration::from_micros(round * 150));
        let signal = [Signal::KILL, Signal::TERM, Signal::INT][round as usize % 3];
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&killed), signal);
        killed.wait().unwrap();
        // It may have been too late for that, or have come to its child a moment before the end.
        until_elsewhere("a start", || {
            if let Ok(client) = Client::try_connect(&address) {
                let other = Other::new(client.pid);
                other.signal(Signal::TERM);
                other.await_end();
            }
            run(&mut command(example("daemon"), arguments), "").status.success()
        });
        let daemon = Other::new(Client::connect(&address).pid);
        daemon.signal(Signal::TERM);
        daemon.await_end();
        assert!(!Path::new(&address).exists() && !Path::new(&pid_file).exists(), "round {round}");
    }
}

/// A daemon that is not ready yet: its child waits for a bus that says nothing, which gives us the child's number.
struct Starting {
    starter: Process,
    child: Other,
    bus: UnixStream,
    pid_file: String,
    _directory: TempDir,
}

impl Starting {
    fn new() -> Starting {
        let directory = TempDir::new();
        let pid_file = directory.address("pid");
        let bus = UnixListener::bind(directory.path("bus")).unwrap();
        let mut daemon = command(example("daemon"), ["test-daemon|x", "--pid-file", &pid_file]);
        daemon.env("DBUS_SYSTEM_BUS_ADDRESS", format!("unix:path={}", directory.address("bus")));
        let starter = Process::start(&mut daemon, Watch::Stdout);
        let (bus, _) = bus.accept().unwrap();
        let child = rustix::net::sockopt::socket_peercred(&bus).unwrap().pid.as_raw_nonzero().get();
        assert_ne!(child, starter.id(), "the parent does not talk to the bus");
        assert_eq!(read(&pid_file), format!("{child}\n"));
        Starting { starter, child: Other::new(child), bus, pid_file, _directory: directory }
    }
}

#[test]
fn a_child_whose_starter_is_gone_does_not_stay() {
    let mut daemon = Starting::new();
    daemon.starter.signal(Signal::INT);
    assert!(!daemon.starter.await_end().status.success());
    // Now it can tell, and nobody is there.
    drop(daemon.bus);
    daemon.child.await_end();
    assert!(!Path::new(&daemon.pid_file).exists());
}

#[test]
fn a_child_that_is_told_to_end_before_it_is_ready_says_so_and_cleans_up() {
    let mut daemon = Starting::new();
    daemon.child.signal(Signal::TERM);
    let output = daemon.starter.await_end();
    assert!(output.assert_failed().contains("interrupted before it was ready"), "{}", output.stderr);
    daemon.child.await_end();
    assert!(!Path::new(&daemon.pid_file).exists());
}

#[test]
fn a_child_that_is_killed_before_it_is_ready_is_a_failure_that_the_shell_sees() {
    let mut daemon = Starting::new();
    daemon.child.signal(Signal::KILL);
    let output = daemon.starter.await_end();
    assert!(output.assert_failed().contains("exited before it was ready"), "{}", output.stderr);
}

// ---- told things ----

#[test]
fn what_it_says_goes_to_the_log_file_which_can_be_rotated() {
    let directory = TempDir::new();
    let (address, log) = (directory.address("socket"), directory.address("log"));
    let answer = directory.address("answer");
    std::fs::write(&answer, "Yes:\n").unwrap();
    let daemon = start(&[&address, "--log-file", &log, "--answer", &answer]);
    std::fs::rename(&log, directory.path("log.1")).unwrap();
    daemon.signal(Signal::HUP);
    until_elsewhere("a new log", || Path::new(&log).exists());
    // An error of the next time is in the new file.
    std::fs::remove_file(&answer).unwrap();
    daemon.signal(Signal::HUP);
    until_elsewhere("the complaint", || read(&log).contains("No such file"));
    assert_eq!(Client::connect(&address).ask("?"), "Yes: ?", "what was loaded before is used on");
    daemon.signal(Signal::TERM);
    daemon.await_end();
    let (old, new) = (read(directory.path("log.1")), read(&log));
    assert!(old.contains("info: SIGHUP"), "{old}");
    assert!(new.contains("info: stopping; closing"), "{new}");
    let stamp = new.lines().find(|line| line.contains("info: stopping")).unwrap().split(" info").next().unwrap();
    assert!(glib::DateTime::from_iso8601(&stamp.replace(' ', "T"), Some(&glib::TimeZone::utc())).is_ok(), "{stamp:?}");
}

#[test]
fn sighup_loads_anew_and_ends_nobody() {
    let directory = TempDir::new();
    let (address, answer) = (directory.address("socket"), directory.address("answer"));
    std::fs::write(&answer, "one\n").unwrap();
    let daemon = start(&[&address, "--answer", &answer]);
    let mut client = Client::connect(&address);
    assert_eq!(client.ask("?"), "one ?");
    for word in ["two", "three"] {
        std::fs::write(&answer, word).unwrap();
        daemon.signal(Signal::HUP);
        until_elsewhere("the change", || client.ask("?") == format!("{word} ?"));
    }
    assert_eq!(Client::connect(&address).pid, client.pid);
}

// ---- the end ----

#[test]
fn sigterm_stops_accepting_and_lets_connections_finish() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let daemon = start(&[&address, "--grace-period", "60"]);
    let (mut one, mut two) = (Client::connect(&address), Client::connect(&address));
    daemon.signal(Signal::TERM);
    until_elsewhere("the end of accepting", || UnixStream::connect(&address).is_err());
    assert!(!Path::new(&address).exists());
    assert_eq!(one.ask("still there?"), "You said: still there?");
    drop(one);
    assert_eq!(two.ask("and now?"), "You said: and now?");
    drop(two);
    daemon.await_end();
}

#[test]
fn a_second_signal_ends_at_once() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let daemon = start(&[&address, "--grace-period", "600"]);
    let mut client = Client::connect(&address);
    daemon.signal(Signal::TERM);
    until_elsewhere("the end of accepting", || UnixStream::connect(&address).is_err());
    assert_eq!(client.ask("?"), "You said: ?");
    daemon.signal(Signal::INT);
    daemon.await_end();
    client.assert_ended();
}

#[test]
fn who_does_not_finish_in_time_is_closed() {
    let directory = TempDir::new();
    let (address, log) = (directory.address("socket"), directory.address("log"));
    let daemon = start(&[&address, "--grace-period", "1", "--log-file", &log]);
    let client = Client::connect(&address);
    daemon.signal(Signal::TERM);
    client.assert_ended();
    daemon.await_end();
    // Whoever looked whether the daemon is there may still be counted.
    assert!(read(&log).contains("waiting up to 1 s"), "{}", read(&log));
    assert!(read(&log).contains("grace period expired; closing 1 connection\n"), "{}", read(&log));
}

#[test]
fn without_a_time_to_drain_it_ends_at_once_and_what_was_sent_arrives() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let daemon = start(&[&address]);
    let mut client = Client::connect(&address);
    assert_eq!(client.ask("?"), "You said: ?");
    daemon.signal(Signal::TERM);
    daemon.await_end();
    client.assert_ended();
}

// ---- a successor ----

/// Clients that connect and ask without a pause, until told to stop. Gives back how many were served, and each failure.
fn load<R>(ask: impl Fn() -> std::io::Result<()> + Sync, meanwhile: impl FnOnce(&AtomicUsize) -> R) -> (usize, R) {
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut result = None;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        ask()?;
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok::<(), std::io::Error>(())
                })
            })
            .collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(&served)));
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap().expect("no client is refused or cut off");
        }
        result = Some(outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
    });
    (served.into_inner(), result.unwrap())
}

#[test]
fn a_successor_takes_over_and_no_client_is_refused() {
    let directory = TempDir::new();
    let (address, pid_file) = (directory.address("socket"), directory.address("pid"));
    let arguments = [address.as_str(), "--pid-file", &pid_file, "--renew", "--grace-period", "30"];
    let mut daemon = start(&arguments);
    let ask = || match Client::try_connect(&address)?.try_ask("?")?.as_str() {
        "You said: ?" => Ok(()),
        other => Err(std::io::Error::other(other.to_owned())),
    };
    let (served, ()) = load(ask, |served| {
        for round in 0..10 {
            let before = Client::connect(&address).pid;
            let mut staying = Client::connect(&address);
            let count = served.load(Ordering::Relaxed);
            daemon.signal(Signal::HUP);
            // For a moment both serve.
            let mut after = before;
            until_elsewhere("another process", || {
                after = Client::connect(&address).pid;
                after != before
            });
            let successor = Other::new(after);
            // Whoever is connected may finish with the old one.
            assert_eq!(staying.ask("still?"), "You said: still?", "round {round}");
            until_elsewhere("its number", || read(&pid_file) == format!("{after}\n"));
            drop(staying);
            daemon.await_end();
            daemon = successor;
            until_elsewhere("further clients", || served.load(Ordering::Relaxed) > count + 10);
        }
    });
    assert!(served > 100, "{served} clients");
    daemon.signal(Signal::TERM);
    daemon.await_end();
    assert!(!Path::new(&address).exists() && !Path::new(&pid_file).exists(), "the last one cleans up");
}

#[test]
fn a_successor_takes_over_a_port_and_tls_with_it() {
    let output = run(&mut command(example("daemon"), ["127.0.0.1:0", "--renew", "--grace-period", "30"]), "");
    output.assert_clean();
    let address = output.text().trim().strip_prefix("listening on ").unwrap().to_owned();
    let ask = || {
        let output = run(&mut command(example("netcat"), [&address]), "?\n");
        let text = output.text();
        let pid = text.lines().next().and_then(|line| line.strip_prefix("daemon ")?.parse::<i32>().ok());
        match pid {
            Some(pid) if output.status.success() && text.ends_with("You said: ?\n") => Ok(pid),
            _ => Err(std::io::Error::other(format!("{output:?}"))),
        }
    };
    let first = ask().unwrap();
    let old = Other::new(first);
    let ask_all = || ask().map(drop);
    // The certificates of this thread's tests are those of its clients as well.
    let home = common::data_home();
    let ask_elsewhere = || {
        let output = run(command(example("netcat"), [&address]).env("XDG_DATA_HOME", &home), "?\n");
        let well = output.status.success() && output.text().ends_with("You said: ?\n");
        if well { Ok(()) } else { Err(std::io::Error::other(format!("{output:?}"))) }
    };
    load(ask_elsewhere, |served| {
        old.signal(Signal::HUP);
        until_elsewhere("another process", || ask().unwrap() != first);
        old.await_end();
        let count = served.load(Ordering::Relaxed);
        until_elsewhere("further clients", || served.load(Ordering::Relaxed) > count + 4);
    });
    ask_all().unwrap();
    let new = Other::new(ask().unwrap());
    new.signal(Signal::TERM);
    new.await_end();
}

/// Sends the signal to the process that a supervisor would send it to.
fn to_child_of(process: &Process, signal: Signal) {
    let id = process.id();
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let child = children.split_whitespace().next().expect("it has a child").parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(child).unwrap(), signal).unwrap();
}

/// As a script starts one in the background.
#[test]
fn a_signal_that_the_parent_ignores_stays_ignored() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let mut daemon = command("sh", ["-c", "trap '' INT; exec \"$@\"", "sh"]);
    daemon.arg(example("daemon")).arg(&address).env("NETWORK_NO_FORK", "1");
    let mut daemon = Process::start(&mut daemon, Watch::Stderr);
    daemon.line_with("NETWORK_NO_FORK");
    let mut client = Client::connect(&address);
    daemon.signal(Signal::INT);
    assert_eq!(client.ask("still?"), "You said: still?");
    daemon.signal(Signal::TERM);
    let output = daemon.await_end();
    assert!(output.status.success(), "{output:?}");
}

/// A daemon in the foreground, of which nobody but its parent knows.
fn a_supervised_one_stays(mut supervised: Process, address: &str, signal: impl Fn(&Process, Signal)) {
    supervised.line_with("NETWORK_NO_FORK");
    let mut serving = Client::connect(address).pid;
    for round in 0..3 {
        let mut staying = Client::connect(address);
        signal(&supervised, Signal::HUP);
        let before = serving;
        until_elsewhere("another process", || {
            serving = Client::connect(address).pid;
            serving != before
        });
        assert_eq!(staying.ask("still?"), "You said: still?", "round {round}");
    }
    // Once those have gone that were between the first and the last.
    signal(&supervised, Signal::TERM);
    let output = supervised.await_end();
    assert!(output.status.success(), "{output:?}");
    assert!(UnixStream::connect(address).is_err(), "the last one has ended");
    assert!(!Path::new(address).exists(), "and cleaned up");
}

#[test]
fn whoever_waits_for_a_process_that_hands_over_sees_it_end_with_its_successors() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let mut daemon = command(example("daemon"), [&address, "--renew", "--grace-period", "30"]);
    let daemon = Process::start(daemon.env("NETWORK_NO_FORK", "1").env_remove("NOTIFY_SOCKET"), Watch::Stderr);
    a_supervised_one_stays(daemon, &address, Process::signal);
}

#[test]
fn a_container_goes_on_when_its_first_process_hands_over() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let options = ["--map-root-user", "--pid", "--fork", "--kill-child"];
    let allowed = common::tool("/usr/bin/unshare").args(options).arg("true").status().unwrap();
    if !allowed.success() {
        eprintln!("not tested: this user may not have a namespace of processes");
        return;
    }
    let mut unshare = common::tool("/usr/bin/unshare");
    unshare.args(options).arg(example("daemon"));
    unshare.args([&address, "--renew", "--grace-period", "30"]).env("NETWORK_NO_FORK", "1").env_remove("NOTIFY_SOCKET");
    a_supervised_one_stays(Process::start(&mut unshare, Watch::Stderr), &address, to_child_of);
}

#[test]
fn a_signal_ends_a_successor_that_is_starting_too() {
    let directory = TempDir::new();
    let (address, answer) = (directory.address("socket"), directory.address("answer"));
    std::fs::write(&answer, "Yes:").unwrap();
    let mut daemon = command(example("daemon"), [&address, "--renew", "--answer", &answer]);
    let mut daemon = Process::start(daemon.env("NETWORK_NO_FORK", "1").env_remove("NOTIFY_SOCKET"), Watch::Stderr);
    daemon.line_with("NETWORK_NO_FORK");
    Client::connect(&address);
    // The next one waits for its settings without end.
    std::fs::remove_file(&answer).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &answer, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    daemon.signal(Signal::HUP);
    let mut child = None;
    until_elsewhere("a child", || {
        let id = daemon.id();
        let children = read(format!("/proc/{id}/task/{id}/children"));
        child = children.split_whitespace().next().map(|child| child.parse().unwrap());
        child.is_some()
    });
    let child = Other::new(child.unwrap());
    daemon.signal(Signal::TERM);
    child.await_end();
    assert!(daemon.await_end().status.success());
    assert!(!Path::new(&address).exists());
}

#[test]
fn a_successor_that_is_killed_ends_the_process_that_stands_in_for_it() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let mut daemon = command(example("daemon"), [&address, "--renew"]);
    let mut first = Process::start(daemon.env("NETWORK_NO_FORK", "1").env_remove("NOTIFY_SOCKET"), Watch::Stderr);
    first.line_with("NETWORK_NO_FORK");
    let mut client = Client::connect(&address);
    first.signal(Signal::HUP);
    until_elsewhere("another process", || Client::connect(&address).pid != first.id());
    // Without a time to drain its connections are closed, though it stays.
    assert!(client.try_line().is_err());
    let successor = Other::new(Client::connect(&address).pid);
    successor.signal(Signal::KILL);
    assert!(first.await_end().status.success());
}

#[test]
fn a_successor_that_fails_changes_nothing() {
    let directory = TempDir::new();
    let (address, log, pid_file) = (directory.address("socket"), directory.address("log"), directory.address("pid"));
    let answer = directory.address("answer");
    std::fs::write(&answer, "Yes:").unwrap();
    // It fails before it goes into the background, and its end is that of our child.
    let arguments = [address.as_str(), "--renew", "--log-file", &log, "--answer", &answer, "--pid-file", &pid_file];
    let daemon = start(&arguments);
    let pid = Client::connect(&address).pid;
    std::fs::remove_file(&answer).unwrap();
    for round in 1..=3 {
        daemon.signal(Signal::HUP);
        until_elsewhere("the complaint", || {
            read(&log).matches("exited before it was ready (exit status: 1)").count() == round
        });
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        assert_eq!(children, "", "no zombie stays");
        assert_eq!(Client::connect(&address).pid, pid);
        assert_eq!(Client::connect(&address).ask("?"), "Yes: ?");
        assert_eq!(read(&pid_file), format!("{pid}\n"));
    }
    std::fs::write(&answer, "Well:").unwrap();
    daemon.signal(Signal::HUP);
    daemon.await_end();
    let mut client = Client::connect(&address);
    let _new = Other::new(client.pid);
    assert_eq!(client.ask("?"), "Well: ?");
}

#[test]
fn restarted_under_load_it_serves_again_each_time() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let served = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    // Between two of them there is nobody.
                    if Client::try_connect(&address).and_then(|mut client| client.try_ask("?")).is_ok() {
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let outcome = std::panic::catch_unwind(|| {
            for round in 0..20 {
                let daemon = start(&[&address]);
                let before = served.load(Ordering::Relaxed);
                until_elsewhere("clients", || served.load(Ordering::Relaxed) > before + 5);
                daemon.signal(if round % 2 == 0 { Signal::TERM } else { Signal::KILL });
                daemon.await_end();
            }
        });
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}
