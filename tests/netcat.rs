//! The netcat example as a program: the tool that proves the rest must be exact itself.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use common::{LIMIT, Process, TempDir, Watch, assert_joined, command, example, noise, run};
use rustix::process::Signal;

fn netcat<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Command {
    command(example("netcat"), arguments)
}

/// A netcat that listens on a port it picks, and the address. Over TLS, unless told otherwise.
fn listen<'a>(arguments: impl IntoIterator<Item = &'a str>) -> (Process, String) {
    let mut command = netcat(["--verbose", "--listen", "127.0.0.1:0"]);
    let process = Process::start(command.args(arguments), Watch::Stderr);
    let address = format!("127.0.0.1:{}", process.port("listening on 127.0.0.1:"));
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
    for tls in ["on", "off"] {
        let (server, address) = listen(["--tls", tls]);
        assert_joined(server, Process::start(&mut netcat(["--tls", tls, address.as_str()]), Watch::Stdout));
    }
}

#[test]
fn fifty_megabytes_arrive_as_they_were_both_ways_at_once() {
    let directory = TempDir::new();
    for tls in [None, Some("off"), Some("on")] {
        let path = directory.address("socket");
        let (mut server, address) = match tls {
            None => (listen_unix(&path, []), path),
            Some(tls) => listen(["--tls", tls]),
        };
        // An unoptimized build takes its time to encrypt.
        let (up, down) = if tls == Some("on") { (10, 4) } else { (50, 20) };
        let (up, down) = (noise(up << 20, 1), noise(down << 20, 2));
        let mut arguments = vec![address.as_str()];
        arguments.extend(tls.map(|tls| ["--tls", tls]).iter().flatten());
        let mut client = Process::start(&mut netcat(arguments), Watch::Stderr);
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
            client = Process::start(&mut netcat(["--tls", "off", address.as_str()]), Watch::Stdout);
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
    let mut client = Process::start(&mut netcat(["--tls", "off", address.as_str()]), Watch::Stdout);
    let (mut peer, _) = listener.accept().unwrap();
    client.send("something\n");
    peer.read_exact(&mut [0]).unwrap();
    // With the rest unread, the system resets the connection.
    drop(peer);
    let client = client.await_end();
    assert_eq!(client.assert_failed(), format!("netcat: {address} reset the connection"));
}

#[test]
fn reconnect_survives_the_peer_and_ends_with_its_input() {
    let directory = TempDir::new();
    let path = directory.address("socket");
    let mut client = Process::start(&mut netcat(["--reconnect", &path]), Watch::Stdout);
    for round in ["first", "second"] {
        let listener = UnixListener::bind(&path).unwrap();
        let mut peer = listener.accept().unwrap().0;
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        client.send(format!("question {round}\n"));
        let mut heard = vec![0; "question \n".len() + round.len()];
        peer.read_exact(&mut heard).unwrap();
        assert_eq!(heard, format!("question {round}\n").as_bytes());
        peer.write_all(format!("answer {round}\n").as_bytes()).unwrap();
        assert_eq!(client.line(), format!("answer {round}"));
    }
    let listener = UnixListener::bind(&path).unwrap();
    let mut peer = listener.accept().unwrap().0;
    client.end_input();
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    peer.write_all(b"the last word\n").unwrap();
    drop(peer);
    let output = client.await_end();
    assert!(output.status.success(), "{output:?}");
    assert!(output.text().ends_with("the last word\n"));
    assert!(output.stderr.lines().all(|line| line.starts_with("netcat: ")) && output.stderr.contains("next try in"));
    // All of the input goes to the first connection, also if it has ended before.
    let listener = UnixListener::bind(directory.path("other")).unwrap();
    let mut client = Process::start(&mut netcat(["--reconnect", &directory.address("other")]), Watch::Stdout);
    client.send("all\n");
    client.end_input();
    let mut heard = String::new();
    listener.accept().unwrap().0.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "all\n");
    client.await_end().assert_clean();
    // Without any, there is nothing to connect for.
    let nobody = run(&mut netcat(["--reconnect", &directory.address("nobody")]), "");
    assert_eq!(nobody.status.code(), Some(1), "{nobody:?}");
    assert!(
        nobody
            .stderr
            .ends_with(&format!("the input has ended without a connection to {}\n", directory.address("nobody")))
    );
    let misused = run(&mut netcat(["--reconnect", "--listen", "0"]), "");
    misused.assert_misused();
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
    let stale = directory.address("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let mistakes: &[&[&str]] = &[
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
        &["--", "--listen"],
        &["two\nlines"],
        &["--tls", "ca:/no/such/file", "1"],
        &["--tls", "ca:/etc/passwd", "1"],
        &["localhost"],
        &["--tls", "on", "/tmp/x"],
        &["--cert", "/no/such", "--key", "/no/such", "--listen", "0"],
        &["--tls", "off", "https://localhost"],
        &["--starttls", "smtp", "smtps://localhost"],
        &["nosuch://localhost:1"],
        &["ldap+starttls://localhost"],
        &["--proxy", "http://127.0.0.1:1", "srv:xmpp-client.example.org"],
        &["--proxy", "http://127.0.0.1:port", "example.org:1"],
        &["--listen", &stale],
    ];
    let misuses: &[&[&str]] = &[
        &[],
        &["--no-such-option", "1"],
        &["--keep", "1"],
        &["1", "2"],
        &["--tls", "perhaps", "1"],
        &["--tls", "pin:12", "1"],
        &["--tls", "any", "--listen", "0"],
        &["--cert", "x", "1"],
        &["--tls", "off", "--cert", "x", "--key", "y", "1"],
        &["--require-client", "12", "--listen", "0"],
        &["--tls", "off", "smtp+starttls://localhost"],
        &["--starttls", "imap", "smtp+starttls://localhost"],
        &["--timeout", "soon", "1"],
        &["--tls", "off", "--require-client", &"0".repeat(64), "--listen", "0"],
    ];
    for case in mistakes.iter().chain(misuses) {
        let output = run(&mut netcat(case.iter().copied()), "");
        let line = if misuses.contains(case) { output.assert_misused() } else { output.assert_failed() };
        assert!(line.starts_with("netcat: "), "{case:?}: {line}");
        // Nothing of the library's calls, and no number of an error.
        for part in ["tls(", "(true)", "Tls::", "Proxy::", "names::", "Socket::", "os error"] {
            assert!(!line.contains(part), "{case:?}: {line}");
        }
        assert_eq!(output.text(), "", "{case:?}");
        eprintln!("{case:?}: {line}");
    }
}

#[path = "../examples/netcat/words.rs"]
mod words;

#[test]
fn what_is_reworded_are_the_librarys_words() {
    fn read_all(directory: &std::path::Path, into: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => read_all(&path, into),
                false => into.push_str(&std::fs::read_to_string(&path).unwrap()),
            }
        }
    }
    let mut library = String::new();
    read_all(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut library);
    // A text that goes on in the next line.
    let pieces: Vec<&str> = library.split("\\\n").map(str::trim_start).collect();
    let library = pieces.concat();
    for (calls, options) in words::WORDS {
        assert!(library.contains(calls), "{calls:?} is no text of the library's");
        assert_eq!(words::in_options(&format!("a\n{calls}.")), format!("a {options}."));
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
    assert_eq!(output.assert_failed(), format!("netcat: cannot connect to {address}: Connection refused"));
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
    assert!(output.text().contains("--listen") && output.text().contains("@name"));
}

// ---- TLS ----

/// The fingerprint that a listening netcat tells, and its address.
fn listen_and_tell<'a>(arguments: impl IntoIterator<Item = &'a str>) -> (Process, String, String) {
    let mut command = netcat(["--verbose", "--listen", "127.0.0.1:0"]);
    let process = Process::start(command.args(arguments), Watch::Stderr);
    let line = process.line_with("fingerprint ");
    let fingerprint = line.strip_prefix("fingerprint ").unwrap().to_string();
    let address = format!("127.0.0.1:{}", process.port("listening on 127.0.0.1:"));
    (process, address, fingerprint)
}

/// As another user: with a store of its own.
fn stranger<'a>(home: &TempDir, arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = netcat(arguments);
    command.env("XDG_DATA_HOME", home.path(""));
    command
}

#[test]
fn both_sides_tell_who_the_other_is() {
    let home = TempDir::new();
    let me = network::tls::Identity::named_in(home.path("me"), "me").unwrap();
    let files = [home.address("me/certs/me.pem"), home.address("me/private/me.key")];
    let (server, address, fingerprint) = listen_and_tell(["--echo", "--require-client", &me.fingerprint().to_string()]);
    let client = run(&mut netcat(["-v", "--cert", &files[0], "--key", &files[1], &address]), "hello\n");
    assert!(client.status.success(), "{}", client.stderr);
    assert_eq!(client.text(), "hello\n");
    assert_eq!(client.stderr, format!("connected to {address} directly\npeer {fingerprint}\n"));
    let server = server.finish();
    assert!(server.status.success());
    assert!(server.stderr.ends_with(&format!("\npeer {}\n", me.fingerprint())), "{}", server.stderr);
}

#[test]
fn a_stranger_is_refused_and_can_be_pinned() {
    let home = TempDir::new();
    let (server, address, fingerprint) = listen_and_tell(["--echo", "--keep"]);
    let refused = run(&mut stranger(&home, [address.as_str()]), "");
    let line = refused.assert_failed();
    assert!(line.contains(&format!("--tls pin:{fingerprint}")) && line.contains("not trusted"), "{line}");
    assert!(home.path("network/peers").is_dir(), "the place that the advice names is there");
    let line = server.line();
    assert!(line.contains("rejected a client"), "{line}");

    let pin = format!("pin:{fingerprint}");
    for tls in [pin.as_str(), "any", "first-use", "on"] {
        let client = run(&mut stranger(&home, ["--tls", tls, &address]), "hello\n");
        client.assert_clean();
        assert_eq!(client.text(), "hello\n", "{tls}: pinned by first use before");
    }
    let wrong = format!("pin:{}", "0".repeat(64));
    let line = run(&mut stranger(&home, ["--tls", &wrong, &address]), "").assert_failed().to_string();
    assert!(line.contains(&format!("does not have the key of --tls {wrong}")), "{line}");
    assert!(line.ends_with(&format!("use --tls pin:{fingerprint}")), "{line}");
    server.signal(Signal::TERM);
    assert!(server.finish().status.success());
}

#[test]
fn a_certificate_in_a_file_is_trusted_by_ca() {
    let home = TempDir::new();
    network::tls::Identity::named_in(home.path("it"), "it").unwrap();
    let (certificate, key) = (home.address("it/certs/it.pem"), home.address("it/private/it.key"));
    let (server, address, _) = listen_and_tell(["--echo", "--cert", &certificate, "--key", &key]);
    let client = run(&mut stranger(&home, ["--tls", &format!("ca:{certificate}"), &address]), "hello\n");
    client.assert_clean();
    assert_eq!(client.text(), "hello\n");
    assert!(server.finish().status.success());
}

#[test]
fn a_client_that_is_not_on_the_list_reads_why_it_was_turned_away() {
    let home = TempDir::new();
    let me = network::tls::Identity::named_in(home.path("me"), "me").unwrap();
    let files = [home.address("me/certs/me.pem"), home.address("me/private/me.key")];
    let somebody_else = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let (server, address, _) = listen_and_tell(["--echo", "--keep", "--require-client", somebody_else]);
    let with = run(&mut netcat(["--cert", &files[0], "--key", &files[1], &address]), "");
    let line = with.assert_failed();
    assert!(line.contains("does not accept our certificate") && line.contains(&me.fingerprint().to_string()), "{line}");
    let line = run(&mut netcat([address.as_str()]), "").assert_failed().to_string();
    assert!(line.contains("requires a client certificate"), "{line}");
    for _ in 0..2 {
        let line = server.line();
        assert!(line.contains("rejected a client"), "{line}");
    }
    server.signal(Signal::TERM);
    assert!(server.finish().status.success());
}

#[test]
fn a_cut_connection_is_no_clean_end() {
    // Between the two sits somebody who ends both directions of TCP by himself.
    let (mut server, address, _) = listen_and_tell([]);
    let between = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = between.local_addr().unwrap().to_string();
    let mut client = Process::start(&mut netcat(["--tls", "any", &open]), Watch::Stdout);
    let (to_client, _) = between.accept().unwrap();
    let to_server = std::net::TcpStream::connect(&address).unwrap();
    let copy = |from: &std::net::TcpStream, to: &std::net::TcpStream| {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || std::io::copy(&mut from, &mut to))
    };
    let copies = [copy(&to_client, &to_server), copy(&to_server, &to_client)];
    server.send("half of it\n");
    assert_eq!(client.line(), "half of it");
    let _ = to_client.shutdown(std::net::Shutdown::Both);
    let _ = to_server.shutdown(std::net::Shutdown::Both);
    for copy in copies {
        let _ = copy.join().unwrap();
    }
    drop((to_client, to_server));
    let output = client.await_end();
    assert!(output.assert_failed().contains("was truncated"), "{output:?}");
    assert_eq!(output.text(), "half of it\n");
    let output = server.await_end();
    assert!(!output.status.success() && output.stderr.contains("was truncated"), "{output:?}");
}

#[test]
fn without_tls_a_server_that_speaks_it_is_found_out() {
    let (server, address, _) = listen_and_tell(["--echo", "--keep"]);
    let client = run(&mut netcat(["--tls", "off", &address]), "hello\n");
    assert_eq!(
        client.assert_failed(),
        format!("netcat: {address} replied with a TLS alert: the server uses TLS, which is off here")
    );
    assert_eq!(client.text(), "", "the alert is nothing to be read");
    server.signal(Signal::TERM);
    assert!(server.finish().status.success());
}

#[test]
fn an_alert_to_those_who_speak_tls_themselves_is_theirs() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let alert = b"\x15\x03\x03\0\x02\x02\x28";
    for sent in [&b"\x16\x03\x01 and so on"[..], b"hello"] {
        let listener = UnixListener::bind(&address).unwrap();
        let mut client = Process::start(&mut netcat([address.as_str()]), Watch::Stdout);
        let (mut peer, _) = listener.accept().unwrap();
        client.send(sent);
        peer.read_exact(&mut vec![0; sent.len()]).unwrap();
        peer.write_all(alert).unwrap();
        drop(peer);
        let client = client.await_end();
        match sent[0] {
            0x16 => {
                client.assert_clean();
                assert_eq!(client.stdout, alert);
            }
            _ => assert!(client.assert_failed().contains("the server uses TLS"), "{client:?}"),
        }
        std::fs::remove_file(&address).unwrap();
    }
}

#[test]
#[cfg(feature = "_services")]
fn browsing_without_a_bus_says_that_it_goes_on_trying() {
    let directory = TempDir::new();
    let nowhere = format!("unix:path={}", directory.address("bus"));
    let mut browser = netcat(["--browse", "chat"]);
    let browser = Process::start(browser.env("DBUS_SYSTEM_BUS_ADDRESS", nowhere), Watch::Stderr);
    let line = browser.line();
    assert!(line.contains("no D-Bus system bus") && line.ends_with("; still trying"), "{line}");
    browser.signal(Signal::TERM);
    let browser = browser.finish();
    assert!(browser.status.success());
    assert_eq!(browser.text(), "down\n");
}

#[test]
fn plaintext_on_either_side_is_told() {
    for greets in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut client = Process::start(&mut netcat([address.as_str()]), Watch::Stdout);
        let (mut peer, _) = listener.accept().unwrap();
        if greets {
            peer.write_all(b"220 welcome\r\n").unwrap();
        } else {
            // Or it sends back whatever comes.
            let mut echo = peer.try_clone().unwrap();
            std::thread::spawn(move || std::io::copy(&mut peer, &mut echo));
        }
        let line = client.await_end().assert_failed().to_string();
        assert!(line.contains("plaintext instead of TLS; use --tls off"), "{line}");
    }

    let (server, address, _) = listen_and_tell(["--echo", "--keep"]);
    let mut peer = std::net::TcpStream::connect(&address).unwrap();
    peer.write_all(b"hello\n").unwrap();
    let line = server.line();
    assert!(line.contains("plaintext"), "{line}");
    run(&mut netcat([address.as_str()]), "").assert_clean();
}
