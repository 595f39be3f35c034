//! The netcat example as a program: the tool that proves the rest must be exact itself.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use common::{LIMIT, Process, TempDir, Watch, command, example, noise, run};
use rustix::process::Signal;

fn netcat<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    command(example("netcat"), arguments)
}

/// A netcat that listens on a port it picks, and the address.
fn listen<'a>(arguments: impl IntoIterator<Item = &'a str>) -> (Process, String) {
    let mut command = netcat(["--verbose", "--listen", "127.0.0.1:0"]);
    let process = Process::start(command.args(arguments), Watch::Stderr);
    let address = format!("127.0.0.1:{}", process.port("listening on port"));
    (process, address)
}

/// The same on a unix socket.
fn listen_unix<'a>(address: &'a str, arguments: impl IntoIterator<Item = &'a str>) -> Process {
    let mut command = netcat(["--verbose", "--listen", address]);
    let process = Process::start(command.args(arguments), Watch::Stderr);
    process.line_with("listening on");
    process
}

#[test]
fn joins_both_ends() {
    let (mut server, address) = listen([]);
    let mut client = Process::start(&mut netcat([address.as_str()]), Watch::Stdout);
    client.send("from the client\n");
    server.send("from the server\n");
    assert_eq!(client.line(), "from the server");
    server.end_input();
    let client = client.finish();
    client.assert_clean();
    let server = server.finish();
    assert!(server.status.success());
    assert_eq!(server.text(), "from the client\n");
}

#[test]
fn fifty_megabytes_arrive_as_they_were_both_ways_at_once() {
    let directory = TempDir::new();
    for unix in [true, false] {
        let path = directory.address("socket");
        let (mut server, address) = if unix { (listen_unix(&path, []), path) } else { listen([]) };
        let (up, down) = (noise(50 << 20, 1), noise(20 << 20, 2));
        let mut client = Process::start(&mut netcat([address.as_str()]), Watch::Stderr);
        client.feed(up.clone());
        server.feed(down.clone());
        let (client, server) = (client.await_end(), server.await_end());
        client.assert_clean();
        assert!(server.status.success(), "{}", server.stderr);
        assert!(client.stdout == down, "{} bytes of {} came down", client.stdout.len(), down.len());
        assert!(server.stdout == up, "{} bytes of {} came up", server.stdout.len(), up.len());
    }
}

#[test]
fn echo_sends_everything_back() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let server = listen_unix(&address, ["--echo"]);
    let sent = noise(50 << 20, 3);
    let client = run(&mut netcat([address.as_str()]), sent.clone());
    client.assert_clean();
    assert!(client.stdout == sent, "{} bytes of {} came back", client.stdout.len(), sent.len());
    assert!(server.finish().status.success());
    assert!(!directory.path("socket").exists(), "the path is removed");
}

#[test]
fn a_peer_that_half_closes_at_once_still_gets_everything() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let sent = noise(20 << 20, 4);
    let mut server = listen_unix(&address, []);
    server.feed(sent.clone());
    let mut client = netcat([address.as_str()]);
    let client = Process::start_as_set(client.stdin(Stdio::null()), Watch::Stderr).finish();
    client.assert_clean();
    assert!(client.stdout == sent, "{} bytes of {} came", client.stdout.len(), sent.len());
    assert!(server.finish().status.success());
}

#[test]
fn files_are_read_and_written() {
    let directory = TempDir::new();
    let (input, output) = (directory.path("input"), directory.path("output"));
    let sent = noise(5 << 20, 5);
    std::fs::write(&input, &sent).unwrap();
    let (server, address) = listen(["--echo"]);
    let mut client = netcat([address.as_str()]);
    client.stdin(File::open(&input).unwrap()).stdout(File::create(&output).unwrap());
    let mut client = client.stderr(Stdio::piped()).spawn().unwrap();
    assert!(server.finish().status.success());
    assert!(client.wait().unwrap().success());
    assert!(std::fs::read(&output).unwrap() == sent);
}

#[test]
fn a_slow_reader_loses_nothing_and_is_waited_for() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let sent = noise(30 << 20, 6);
    let mut client = {
        let mut server = listen_unix(&address, []);
        server.feed(sent.clone());
        let mut client = netcat([address.as_str()]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        // Nothing is read before the server has been asked to end: it waits for its reader.
        let mut output = client.stdout.take().unwrap();
        let mut received = vec![0; 1];
        output.read_exact(&mut received).unwrap();
        let resident = resident_bytes(server.id());
        assert!(resident < 40 << 20, "{resident} bytes in memory: it reads ahead without bounds");
        output.read_to_end(&mut received).unwrap();
        assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
        assert!(server.finish().status.success());
        client
    };
    assert!(client.wait().unwrap().success());
}

fn resident_bytes(pid: i32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
fn ends_cleanly_when_nobody_reads_its_output() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let listener = UnixListener::bind(&address).unwrap();
    // Its input stays open: only the output ends it.
    let mut client =
        netcat([address.as_str()]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let client = client.as_mut().unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(b"first\nsecond\n").unwrap();
    let mut output = client.stdout.take().unwrap();
    let mut first = [0; 6];
    output.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first\n");
    drop(output);
    let mut rest = Vec::new();
    // It notices without anything more to write.
    peer.read_to_end(&mut rest).unwrap();
    assert!(client.wait().unwrap().success());
    let mut complaint = String::new();
    client.stderr.take().unwrap().read_to_string(&mut complaint).unwrap();
    assert_eq!(complaint, "");
}

#[test]
fn a_shell_s_head_ends_it() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let listener = UnixListener::bind(&address).unwrap();
    let script = format!("set -o pipefail; '{}' '{address}' | head -n 1", example("netcat").display());
    let mut shell = Process::start(&mut command("/bin/bash", ["-c", &script]), Watch::Stdout);
    let (mut peer, _) = listener.accept().unwrap();
    // It writes for as long as somebody reads.
    let flood = std::thread::spawn(move || while peer.write_all(b"line\n").is_ok() {});
    let shell = shell.await_end();
    flood.join().unwrap();
    shell.assert_clean();
    assert_eq!(shell.text(), "line\n");
}

#[test]
fn a_terminal_is_joined_line_by_line() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let listener = UnixListener::bind(&address).unwrap();
    let script = format!("'{}' '{address}'", example("netcat").display());
    // A terminal of its own.
    let mut terminal = common::tool("/usr/bin/script");
    terminal.args(["--quiet", "--return", "--echo", "never", "--command", &script, "/dev/null"]);
    let mut terminal = Process::start(&mut terminal, Watch::Stdout);
    let (peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(LIMIT)).unwrap();
    let mut lines = std::io::BufReader::new(peer.try_clone().unwrap());
    for line in ["one\n", "two\n", "three\n"] {
        terminal.send(line);
        assert_eq!(read_line(&mut lines), line);
        (&peer).write_all(b"got ").unwrap();
        (&peer).write_all(line.as_bytes()).unwrap();
        assert_eq!(terminal.line(), format!("got {}", line.trim()));
    }
    // End of transmission: the terminal's end of input.
    terminal.send([4]);
    assert_eq!(read_line(&mut lines), "", "it half-closes");
    (&peer).write_all(b"the last word\n").unwrap();
    assert_eq!(terminal.line(), "the last word");
    drop((peer, lines));
    assert!(terminal.await_end().status.success());
}

fn read_line(lines: &mut impl std::io::BufRead) -> String {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    line
}

#[test]
fn ends_when_the_peer_ends_though_its_input_is_open() {
    for unix in [true, false] {
        let directory = TempDir::new();
        let address = directory.address("socket");
        let mut client;
        if unix {
            let listener = UnixListener::bind(&address).unwrap();
            client = Process::start(&mut netcat([address.as_str()]), Watch::Stdout);
            listener.accept().unwrap().0.write_all(b"bye\n").unwrap();
        } else {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            client = Process::start(&mut netcat([address.as_str()]), Watch::Stdout);
            listener.accept().unwrap().0.write_all(b"bye\n").unwrap();
        }
        let client = client.await_end();
        client.assert_clean();
        assert_eq!(client.text(), "bye\n");
    }
}

#[test]
fn a_reset_is_told_in_one_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut client = Process::start(&mut netcat([address.as_str()]), Watch::Stdout);
    let (mut peer, _) = listener.accept().unwrap();
    client.send("something\n");
    peer.read_exact(&mut [0]).unwrap();
    // With the rest unread, the system resets the connection.
    drop(peer);
    let client = client.await_end();
    assert_eq!(client.assert_failed(), format!("netcat: {address} reset the connection"));
}

#[test]
fn keep_serves_one_after_the_other() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let server = listen_unix(&address, ["--keep"]);
    let mut first = UnixStream::connect(&address).unwrap();
    let mut second = UnixStream::connect(&address).unwrap();
    second.write_all(b"second\n").unwrap();
    first.write_all(b"first\n").unwrap();
    drop((first, second));
    let mut third = UnixStream::connect(&address).unwrap();
    third.write_all(b"third\n").unwrap();
    third.shutdown(std::net::Shutdown::Write).unwrap();
    third.set_read_timeout(Some(LIMIT)).unwrap();
    assert_eq!(third.read(&mut [0]).unwrap(), 0, "it ends its side, too");
    server.signal(Signal::TERM);
    let server = server.finish();
    assert!(server.status.success());
    assert_eq!(server.text(), "first\nsecond\nthird\n");
    assert!(!directory.path("socket").exists());
}

#[test]
fn keep_echo_serves_all_at_once() {
    let (server, address) = listen(["--keep", "--echo"]);
    let mut clients: Vec<_> = (0..5).map(|_| Process::start(&mut netcat([address.as_str()]), Watch::Stdout)).collect();
    for client in clients.iter_mut().rev() {
        client.send("hello\n");
        assert_eq!(client.line(), "hello");
    }
    for client in clients {
        client.finish().assert_clean();
    }
    server.signal(Signal::TERM);
    assert!(server.finish().status.success());
}

#[test]
fn mistakes_are_told_in_one_line() {
    let directory = TempDir::new();
    let nowhere = directory.address("nowhere");
    let unlistenable = directory.address("no/such/directory");
    let cases: &[&[&str]] = &[
        &[],
        &[""],
        &[":"],
        &["host:"],
        &["localhost:99999"],
        &["no-such-service-as-this"],
        &["|"],
        &["a b c"],
        &["http://"],
        &[&nowhere],
        &["--listen", &unlistenable],
        &["--listen", ""],
        &["--listen", "203.0.113.1:1"],
        &["--no-such-option", "1"],
        &["--keep", "1"],
        &["1", "2"],
        &["--", "--listen"],
        &["two\nlines"],
    ];
    for case in cases {
        let output = run(&mut netcat(case.iter().copied()), "");
        let line = output.assert_failed();
        assert!(line.starts_with("netcat: "), "{case:?}: {line}");
        assert_eq!(output.text(), "", "{case:?}");
        eprintln!("{case:?}: {line}");
    }
}

#[test]
fn a_refused_connection_is_told_in_one_line() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let address = format!("127.0.0.1:{port}");
    let output = run(&mut netcat([address.as_str()]), "");
    assert_eq!(
        output.assert_failed(),
        format!("netcat: cannot connect to {address}: Connection refused (os error 111)")
    );
}

#[test]
fn after_two_dashes_everything_is_an_address() {
    let directory = TempDir::new();
    let mut server = netcat(["--verbose", "--listen", "--echo", "--", "-/socket"]);
    std::fs::create_dir(directory.path("-")).unwrap();
    let directory = directory.path("");
    let server = Process::start(server.current_dir(&directory), Watch::Stderr);
    server.line_with("listening on");
    let client = run(netcat(["--", "-/socket"]).current_dir(&directory), "dash\n");
    client.assert_clean();
    assert_eq!(client.text(), "dash\n");
    assert!(server.finish().status.success());
}

#[test]
fn help_is_no_failure() {
    let output = run(&mut netcat(["--help"]), "");
    output.assert_clean();
    assert!(output.text().contains("--listen"));
}
