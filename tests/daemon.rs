//! The daemon example as a process: in the background only when it can be reached, and gone without a trace.

mod common;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;

use common::{LIMIT, Other, Output, Process, TempDir, Watch, command, example, run};
use rustix::process::Signal;

/// The daemon behind a unix socket: its greeting tells its process.
fn pid_of(address: &str) -> i32 {
    let stream = UnixStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    line.trim().strip_prefix("daemon ").expect("its greeting").parse().unwrap()
}

/// The daemon that was given this test's own directory, known without a word from it: it must end though it be mute.
fn pid_by_environment() -> i32 {
    let mark = common::data_home().into_os_string().into_encoded_bytes();
    let processes = std::fs::read_dir("/proc").unwrap();
    let ids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let is_it = |id: &i32| {
        let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry.ends_with(&mark))
    };
    ids.into_iter().find(is_it).expect("it runs")
}

fn shell(script: &str, arguments: &[&str]) -> Output {
    run(command("/bin/sh", ["-c", script, "sh"]).args(arguments), "")
}

#[test]
fn accepts_from_the_moment_the_shell_goes_on() {
    let directory = TempDir::new();
    let (program, client) = (example("daemon"), example("client"));
    let (program, client) = (program.to_str().unwrap(), client.to_str().unwrap());
    for round in 0..100 {
        let address = directory.address(&round.to_string());
        let output = shell(r#""$1" "$2" && "$3" "$2""#, &[program, &address, client]);
        let pid = pid_of(&address);
        let daemon = Other::new(pid);
        output.assert_clean();
        let expected = format!(
            "listening on {address}\nThe server said: daemon {pid}\nThe server replied: You said: This is data.\n"
        );
        assert_eq!(output.text(), expected, "round {round}");
        daemon.signal(Signal::TERM);
        daemon.await_end();
        assert!(!directory.path(&round.to_string()).exists(), "the path is removed");
    }
}

#[test]
fn accepts_over_tcp() {
    let output = run(&mut command(example("daemon"), ["127.0.0.1:0"]), "");
    output.assert_clean();
    let port: u16 = output.text().trim().strip_prefix("listening on 127.0.0.1:").unwrap().parse().unwrap();
    let daemon = Other::new(pid_by_environment());
    // It speaks TLS, and this is the same user.
    let mut client = Process::start(&mut command(example("netcat"), [format!("127.0.0.1:{port}")]), Watch::Stdout);
    assert!(client.line().starts_with("daemon "));
    client.send("hello\n");
    assert_eq!(client.line(), "You said: hello");
    client.finish().assert_clean();
    daemon.signal(Signal::TERM);
    daemon.await_end();
}

#[test]
fn is_a_process_of_its_own() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    // Its output is a pipe here: a daemon that held on to it would keep `run` waiting.
    run(&mut command(example("daemon"), [&address]), "").assert_clean();
    let pid = pid_of(&address);
    let _daemon = Other::new(pid);
    let session = rustix::process::getsid(rustix::process::Pid::from_raw(pid)).unwrap();
    assert_eq!(session.as_raw_nonzero().get(), pid, "a session of its own");
    for number in 0..3 {
        let open = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
        assert_eq!(open.to_str().unwrap(), "/dev/null", "descriptor {number}");
    }
    let listening = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    assert!(listening < 16, "{listening} descriptors are open");
}

#[test]
fn a_path_that_exists_is_an_error_that_the_shell_sees() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    std::fs::write(directory.path("socket"), "a file of somebody's").unwrap();
    let output = run(&mut command(example("daemon"), [&address]), "");
    let line = output.assert_failed();
    assert!(line.contains(&address) && line.contains("exists"), "{line}");
    assert_eq!(std::fs::read(directory.path("socket")).unwrap(), b"a file of somebody's", "it is left alone");
}

#[test]
fn a_port_in_use_is_an_error_that_the_shell_sees() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&mut command(example("daemon"), [&address]), "");
    let line = output.assert_failed();
    assert!(line.contains(&address) && line.contains("in use"), "{line}");
}

#[test]
fn a_bad_address_is_an_error_that_the_shell_sees() {
    let output = run(&mut command(example("daemon"), ["host:99999"]), "");
    assert!(output.assert_failed().contains("65535"));
}

#[test]
fn stays_in_the_foreground_when_told_to() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let mut daemon = command(example("daemon"), [&address]);
    let mut daemon = Process::start(daemon.env("NETWORK_NO_FORK", "1"), Watch::Stderr);
    assert!(daemon.line().contains("NETWORK_NO_FORK"), "it says so");
    assert_eq!(pid_of(&address), daemon.id());
    daemon.signal(Signal::TERM);
    let output = daemon.await_end();
    assert!(output.status.success(), "{output:?}");
    assert!(!directory.path("socket").exists());
}

#[test]
fn an_interrupt_ends_it_too_and_connections_with_it() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let mut daemon = command(example("daemon"), [&address]);
    let mut daemon = Process::start(daemon.env("NETWORK_NO_FORK", "1"), Watch::Stderr);
    daemon.line();
    let client = UnixStream::connect(&address).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    let mut lines = BufReader::new(&client).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("daemon "));
    daemon.signal(Signal::INT);
    assert!(daemon.await_end().status.success());
    assert!(lines.next().is_none(), "the end of the stream");
    assert!(!directory.path("socket").exists());
}

#[test]
fn the_end_of_the_starting_terminal_does_not_end_it() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let script = format!("'{}' '{address}'", example("daemon").display());
    let mut terminal = common::tool("/usr/bin/script");
    let output = run(terminal.args(["--quiet", "--return", "--command", &script, "/dev/null"]), "");
    assert!(output.status.success(), "{output:?}");
    // Its terminal is gone: whoever belonged to it has been hung up.
    let pid = pid_of(&address);
    let daemon = Other::new(pid);
    assert_eq!(pid_of(&address), pid, "it still serves");
    daemon.signal(Signal::TERM);
    daemon.await_end();
}

#[test]
fn without_proc_it_says_that_it_cannot_count_its_threads() {
    let directory = TempDir::new();
    let script = r#"mount -t tmpfs none /proc && exec "$@""#;
    let options = ["--map-root-user", "--mount", "/bin/sh", "-c", script, "sh"];
    let allowed = common::tool("/usr/bin/unshare").args(options).arg("/bin/true").status().unwrap();
    if !allowed.success() {
        eprintln!("not tested: this user may not have a namespace of mounts");
        return;
    }
    let mut unshare = common::tool("/usr/bin/unshare");
    let output = run(unshare.args(options).arg(example("daemon")).arg(directory.address("socket")), "");
    let line = output.assert_failed();
    assert!(line.contains("/proc/self/task, is /proc mounted?"), "{line}");
}
