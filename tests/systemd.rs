//! The daemon example under a service manager: one that the tests play themselves, by the protocols of `sd_notify` and
//! `sd_listen_fds`, and systemd's own `systemd-socket-activate`.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use common::{LIMIT, Other, Process, TempDir, Watch, activated, command, example, run};
use rustix::process::Signal;

/// What a service manager hears.
struct Manager {
    socket: UnixDatagram,
    address: String,
    _directory: TempDir,
}

impl Manager {
    fn new() -> Manager {
        let directory = TempDir::new();
        let address = directory.address("notify");
        Manager::listening(UnixDatagram::bind(&address).unwrap(), address, directory)
    }

    fn abstract_one() -> Manager {
        let directory = TempDir::new();
        let name = directory.address("notify");
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Manager::listening(socket, format!("@{name}"), directory)
    }

    fn listening(socket: UnixDatagram, address: String, directory: TempDir) -> Manager {
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Manager { socket, address, _directory: directory }
    }

    #[track_caller]
    fn hears(&self) -> String {
        let mut buffer = [0; 4096];
        let count = self.socket.recv(&mut buffer).expect("a notice within the limit");
        String::from_utf8(buffer[..count].into()).unwrap()
    }

    /// The next that is no ping.
    #[track_caller]
    fn hears_news(&self) -> String {
        loop {
            let notice = self.hears();
            if notice != "WATCHDOG=1" {
                return notice;
            }
        }
    }
}

/// The daemon in the foreground, as a unit of type `notify` runs it.
fn service(manager: &Manager, arguments: &[&str]) -> Command {
    let mut daemon = command(example("daemon"), arguments);
    daemon.env("NETWORK_NO_FORK", "1").env("NOTIFY_SOCKET", &manager.address);
    daemon
}

fn greeting(stream: UnixStream) -> i32 {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line.trim().strip_prefix("daemon ").expect("its greeting").parse().unwrap()
}

#[track_caller]
fn pid_at(address: &str) -> i32 {
    greeting(UnixStream::connect(address).unwrap())
}

// ---- what it tells ----

#[test]
fn the_life_of_a_service_is_told() {
    for manager in [Manager::new(), Manager::abstract_one()] {
        let directory = TempDir::new();
        let address = directory.address("socket");
        let mut daemon = Process::start(&mut service(&manager, &[&address]), Watch::Stderr);
        assert_eq!(manager.hears(), "READY=1");
        assert_eq!(pid_at(&address), daemon.id(), "ready means that it serves");
        daemon.signal(Signal::HUP);
        let reloading = manager.hears();
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("the notice of systemd 253");
        let age = glib::monotonic_time() - time.parse::<i64>().unwrap();
        assert!((0..60_000_000).contains(&age), "{age} µs ago");
        assert_eq!(manager.hears(), "READY=1");
        daemon.signal(Signal::TERM);
        assert_eq!(manager.hears(), "STOPPING=1");
        assert!(daemon.await_end().status.success());
    }
}

#[test]
fn without_a_service_manager_nothing_is_told_and_nothing_amiss() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let manager = Manager::new();
    let mut daemon = service(&manager, &[&address]);
    // A manager that has gone is logged, once, and stops nobody.
    drop(manager);
    let mut daemon = Process::start(&mut daemon, Watch::Stderr);
    daemon.line_with("failed to notify the service manager");
    assert_eq!(pid_at(&address), daemon.id());
    daemon.signal(Signal::TERM);
    let output = daemon.await_end();
    assert!(output.status.success());
    assert_eq!(output.stderr.matches("failed to notify").count(), 1, "{}", output.stderr);
}

#[test]
fn going_into_the_background_tells_which_process_it_is_now() {
    let manager = Manager::new();
    let directory = TempDir::new();
    let address = directory.address("socket");
    let mut daemon = service(&manager, &[&address]);
    run(daemon.env_remove("NETWORK_NO_FORK").env("WATCHDOG_USEC", "2000000"), "").assert_clean();
    let pid = pid_at(&address);
    let other = Other::new(pid);
    let mut notices = Vec::new();
    while !notices.contains(&format!("MAINPID={pid}\nREADY=1")) || !notices.contains(&"WATCHDOG=1".into()) {
        notices.push(manager.hears());
    }
    other.signal(Signal::TERM);
    while manager.hears() != "STOPPING=1" {}
    other.await_end();
}

#[test]
fn the_watchdog_is_fed_by_the_loop_itself() {
    let manager = Manager::new();
    let directory = TempDir::new();
    let address = directory.address("socket");
    let mut daemon = service(&manager, &[&address]);
    let mut daemon = Process::start(daemon.env("WATCHDOG_USEC", "20000"), Watch::Stderr);
    assert_eq!(manager.hears(), "READY=1");
    for _ in 0..10 {
        assert_eq!(manager.hears(), "WATCHDOG=1");
    }
    daemon.signal(Signal::TERM);
    assert_eq!(manager.hears_news(), "STOPPING=1");
    assert!(daemon.await_end().status.success());
}

/// Not a scenario of its own: [`a_stuck_loop_falls_silent`] runs it as a process.
#[test]
fn role_of_a_server_that_can_be_stuck() {
    let Some(address) = std::env::var_os("TEST_STUCK_SERVER") else { return };
    let server = network::Server::new(Path::new(&address), |socket| {
        socket.readlines(|socket, _| {
            socket.sendline("stuck")?;
            // On purpose: until the test says something.
            let mut line = String::new();
            std::io::stdin().read_line(&mut line)?;
            socket.sendline(line)
        });
        Ok(())
    });
    server.unwrap().detach();
    network::fgloop();
}

#[test]
fn a_stuck_loop_falls_silent() {
    let manager = Manager::new();
    let directory = TempDir::new();
    let address = directory.address("socket");
    let program = std::env::current_exe().unwrap();
    let mut server = command(program, ["--exact", "role_of_a_server_that_can_be_stuck", "--nocapture"]);
    server.env("TEST_STUCK_SERVER", &address).env("NOTIFY_SOCKET", &manager.address).env("WATCHDOG_USEC", "20000");
    let mut server = Process::start(&mut server, Watch::Stderr);
    assert_eq!(manager.hears(), "READY=1");
    assert_eq!(manager.hears(), "WATCHDOG=1");
    let mut client = UnixStream::connect(&address).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.write_all(b"go\n").unwrap();
    // What it sends inside a callback goes out when that is over: that it is stuck shows in the silence alone. Pings that
    // came before lie in the queue; then none comes for ten times the interval.
    manager.socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 64];
    while manager.socket.recv(&mut buffer).is_ok() {}
    manager.socket.set_read_timeout(Some(LIMIT)).unwrap();
    server.send("on\n");
    assert_eq!(manager.hears(), "WATCHDOG=1", "it goes round again");
    let mut lines = BufReader::new(client).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "stuck");
    assert_eq!(lines.next().unwrap().unwrap(), "on");
    server.signal(Signal::TERM);
    assert!(server.await_end().status.success());
}

#[test]
fn a_watchdog_for_another_process_is_left_alone() {
    let manager = Manager::new();
    let directory = TempDir::new();
    let address = directory.address("socket");
    let mut daemon = service(&manager, &[&address]);
    daemon.env("WATCHDOG_USEC", "2000").env("WATCHDOG_PID", std::process::id().to_string());
    let mut daemon = Process::start(&mut daemon, Watch::Stderr);
    assert_eq!(manager.hears(), "READY=1");
    pid_at(&address);
    daemon.signal(Signal::TERM);
    assert_eq!(manager.hears(), "STOPPING=1", "no ping before it");
    daemon.await_end();
}

#[test]
fn a_hand_over_tells_which_process_serves_now() {
    let manager = Manager::new();
    let directory = TempDir::new();
    let address = directory.address("socket");
    let mut daemon = service(&manager, &[&address, "--renew"]);
    daemon.env("WATCHDOG_USEC", "120000000");
    // The first process is known to the manager by its number.
    let mut shell = command("/bin/sh", ["-c", "WATCHDOG_PID=$$; export WATCHDOG_PID; exec \"$@\"", "sh"]);
    shell.arg(daemon.get_program()).args(daemon.get_args());
    for (name, value) in daemon.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let mut first = Process::start(&mut shell, Watch::Stderr);
    assert_eq!([manager.hears(), manager.hears()], ["READY=1", "WATCHDOG=1"]);
    first.signal(Signal::HUP);
    assert!(manager.hears_news().starts_with("RELOADING=1\n"));
    let mut notices = Vec::new();
    let told = loop {
        let notice = manager.hears();
        if let Some(pid) = notice.strip_prefix("MAINPID=") {
            break pid.parse().unwrap();
        }
        notices.push(notice);
    };
    let second = Other::new(told);
    assert_ne!(told, first.id());
    // Its streams are the successor's as well: only its own end is waited for.
    Other::new(first.id()).await_end();
    assert_eq!(pid_at(&address), told);
    second.signal(Signal::TERM);
    loop {
        match manager.hears() {
            stopping if stopping == "STOPPING=1" => break,
            notice => notices.push(notice),
        }
    }
    let count = |what: &str| notices.iter().filter(|notice| *notice == what).count();
    assert_eq!(count("READY=1"), 2, "of the reload, and of the new one");
    // The interval is far longer than the test: the first process has told it once, before its reload.
    assert_eq!(count("WATCHDOG=1"), 1, "the successor feeds the watchdog");
    first.await_end();
    second.await_end();
}

#[test]
fn a_kind_of_socket_that_is_not_known_is_told_as_such() {
    let directory = TempDir::new();
    let mut daemon = command(example("daemon"), [directory.address("socket")]);
    daemon.env("NETWORK_NO_FORK", "1").env("NOTIFY_SOCKET", "vsock:2:1234");
    let mut daemon = Process::start(&mut daemon, Watch::Stderr);
    let line = daemon.line_with("vsock:2:1234");
    assert!(line.contains("other kinds of sockets are not supported"), "{line}");
    assert_eq!(pid_at(&directory.address("socket")), daemon.id());
    daemon.signal(Signal::TERM);
    assert!(daemon.await_end().status.success());
}

// ---- what it is given ----

fn activate(sockets: Vec<OwnedFd>, names: &str, arguments: &[&str]) -> Command {
    let mut command = activated(example("daemon"), sockets, arguments);
    command.env("LISTEN_FDNAMES", names);
    command
}

/// With what it says on standard error alone.
fn start(command: &mut Command) -> Process {
    Process::start_with_error_alone(command)
}

#[test]
fn a_socket_that_is_passed_is_listened_on_with_who_waited_there() {
    for address in ["127.0.0.1", "0.0.0.0"] {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        // It has connected before there is any daemon.
        let early = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let text = if address == "0.0.0.0" { port.to_string() } else { format!("{address}:{port}") };
        let mut daemon = start(&mut activate(vec![listener.into()], "web", &[&text]));
        daemon.line_with(&format!("listening on {address}:{port}"));
        early.set_read_timeout(Some(LIMIT)).unwrap();
        // A hello of TLS is answered: no plaintext greeting comes first.
        let mut early = early;
        early.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        daemon.line_with("rejected a client");
        daemon.signal(Signal::TERM);
        let output = daemon.await_end();
        assert!(output.status.success() && !output.stderr.contains("unused socket passed"), "{}", output.stderr);
    }
}

#[test]
fn a_unix_socket_that_is_passed_keeps_its_path() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let listener = UnixListener::bind(&address).unwrap();
    let early = UnixStream::connect(&address).unwrap();
    let mut daemon = start(&mut activate(vec![listener.as_fd().try_clone_to_owned().unwrap()], "", &[&address]));
    assert_eq!(greeting(early), daemon.id());
    assert_eq!(pid_at(&address), daemon.id());
    daemon.signal(Signal::TERM);
    assert!(daemon.await_end().status.success());
    assert!(Path::new(&address).exists(), "it belongs to whoever made it");
    let late = UnixStream::connect(&address).unwrap();
    let mut daemon = start(&mut activate(vec![listener.into()], "", &[&address]));
    assert_eq!(greeting(late), daemon.id(), "between two daemons nobody is refused");
    daemon.signal(Signal::TERM);
    daemon.await_end();
}

#[test]
fn a_unix_socket_that_is_passed_is_found_by_any_path_that_leads_to_it() {
    let directory = TempDir::new();
    std::fs::create_dir(directory.path("real")).unwrap();
    std::os::unix::fs::symlink("real", directory.path("link")).unwrap();
    // As systemd rewrites /var/run/socket to /run/socket.
    let bound = directory.address("real/socket");
    let listener = UnixListener::bind(&bound).unwrap();
    std::os::unix::fs::symlink("real/socket", directory.path("alias")).unwrap();
    for path in ["link/socket", "real/../real/./socket", "alias"] {
        let address = directory.address(path);
        let passed = listener.as_fd().try_clone_to_owned().unwrap();
        let mut daemon = start(&mut activate(vec![passed], "", &[&address]));
        assert_eq!(pid_at(&bound), daemon.id(), "{path}");
        daemon.signal(Signal::TERM);
        assert!(daemon.await_end().status.success(), "{path}");
    }
    // Once its path has gone, it is known by the directory and the name.
    std::fs::remove_file(&bound).unwrap();
    let daemon = start(&mut activate(vec![listener.into()], "", &[&directory.address("link/socket")]));
    daemon.line_with("listening on");
}

#[test]
fn a_unix_socket_of_another_path_is_not_taken_for_it() {
    let directory = TempDir::new();
    let listener = UnixListener::bind(directory.path("socket")).unwrap();
    std::fs::create_dir(directory.path("beside")).unwrap();
    let daemon = start(&mut activate(vec![listener.into()], "", &[&directory.address("beside/socket")]));
    daemon.line_with("unused socket");
}

/// A path of the most bytes that a unix socket can have.
fn longest_path(directory: &TempDir) -> String {
    let start = directory.address("");
    format!("{start}{}", "x".repeat(107 - start.len()))
}

#[test]
fn the_longest_path_is_passed_as_any_other() {
    let directory = TempDir::new();
    let address = longest_path(&directory);
    let listener = UnixListener::bind(&address).unwrap();
    let mut daemon = start(&mut activate(vec![listener.into()], "", &[&address]));
    assert_eq!(pid_at(&address), daemon.id());
    daemon.signal(Signal::TERM);
    assert!(daemon.await_end().status.success());
}

#[test]
fn an_abstract_socket_that_is_passed_is_found_by_its_name() {
    let directory = TempDir::new();
    let name = directory.address("socket");
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let mut daemon = start(&mut activate(vec![listener.into()], "", &[&format!("@{name}")]));
    daemon.line_with(&format!("listening on @{name}"));
    assert_eq!(greeting(UnixStream::connect_addr(&address).unwrap()), daemon.id());
    daemon.signal(Signal::TERM);
    assert!(daemon.await_end().status.success());
}

#[test]
fn what_nobody_listens_on_is_named() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let wanted = UnixListener::bind(&address).unwrap();
    let stray = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = stray.local_addr().unwrap().port();
    let mut daemon = start(&mut activate(vec![wanted.into(), stray.into()], "lines:web", &[&address]));
    let line = daemon.line_with("unused socket passed");
    assert!(line.contains(&format!("127.0.0.1:{port}")) && line.contains("\"web\""), "{line}");
    assert_eq!(pid_at(&address), daemon.id(), "the other is served all the same");
    for number in [3, 4] {
        // Neither goes on to programs that the daemon may start.
        let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/{number}", daemon.id())).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
        assert_ne!(
            u32::from_str_radix(flags, 8).unwrap() & 0o2000000,
            0,
            "descriptor {number} closes at exec: {flags}"
        );
    }
    daemon.signal(Signal::TERM);
    daemon.await_end();
}

#[test]
fn sockets_for_another_process_are_not_touched() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let mut daemon = command(example("daemon"), [&address]);
    daemon.env("LISTEN_FDS", "1").env("LISTEN_PID", std::process::id().to_string()).env("NETWORK_NO_FORK", "1");
    let mut daemon = Process::start(&mut daemon, Watch::Stdout);
    daemon.line_with("listening");
    assert_eq!(pid_at(&address), daemon.id());
    daemon.signal(Signal::TERM);
    assert!(daemon.await_end().status.success());
    assert!(!Path::new(&address).exists(), "the socket is its own");
}

#[test]
fn systemds_own_activation_starts_it_at_the_first_client() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let mut activate = common::party("systemd-socket-activate");
    activate.args(["--listen", &address, "--setenv", "NETWORK_NO_FORK=1"]);
    for name in ["XDG_DATA_HOME", "PATH"] {
        activate.args(["--setenv", name]);
    }
    let mut activate = Process::start(activate.arg(example("daemon")).arg(&address), Watch::Stderr);
    activate.line_with("Listening on");
    let client = UnixStream::connect(&address).unwrap();
    assert_eq!(greeting(client), activate.id(), "it has become the daemon");
    assert_eq!(pid_at(&address), activate.id());
    activate.signal(Signal::TERM);
    let output = activate.await_end();
    assert!(output.status.success() && !output.stderr.contains("WARNING"), "{}", output.stderr);
}

// ---- the units to copy ----

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let directory = TempDir::new();
    let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systemd");
    for name in ["lines.service", "lines.socket"] {
        let text = std::fs::read_to_string(units.join(name)).unwrap();
        let program = example("daemon");
        std::fs::write(directory.path(name), text.replace("/usr/local/bin/daemon", program.to_str().unwrap())).unwrap();
    }
    let mut verify = common::party("systemd-analyze");
    verify.args(["verify", "--man=no", &directory.address("lines.service"), &directory.address("lines.socket")]);
    run(&mut verify, "").assert_clean();
    let mut security = common::party("systemd-analyze");
    security.args(["security", "--offline=true", "--threshold=20", &directory.address("lines.service")]);
    let output = run(&mut security, "");
    assert!(output.status.success(), "exposed by more than 2.0 of 10: {output:?}");
}
