//! Line protocols with servers of others: Redis by the example, plain and over TLS, and IRC (ngircd).

mod common;

use std::cell::RefCell;
use std::net::TcpListener;
use std::path::Path;
use std::rc::Rc;

use common::{Process, TempDir, Watch, command, example, on_own_context, party, run, until};
use network::{Server, Socket, socket::LineEnding, tls::Identity};
use rustix::process::Signal;

/// A port that was free just now, for servers that cannot be asked for the one they got.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn redis(arguments: &[&str], input: &str) -> common::Output {
    run(&mut command(example("redis"), arguments), input)
}

#[test]
fn redis_answers_over_a_path_and_over_tls() {
    let directory = TempDir::new();
    let identity = Identity::named_in(directory.path("network"), "localhost").unwrap();
    let path = directory.address("redis.socket");
    let (certificate, key) =
        (directory.address("network/certs/localhost.pem"), directory.address("network/private/localhost.key"));
    let port = free_port();
    let mut server = party("redis-server");
    server.args(["--port", "0", "--unixsocket", &path, "--tls-port", &port.to_string(), "--bind", "127.0.0.1"]);
    server.args(["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &certificate]);
    server.args(["--tls-auth-clients", "no", "--save", "", "--dir", &directory.address("")]);
    let server = Process::start(&mut server, Watch::Stdout);
    server.line_with("ready to accept connections at");

    let value = "a line\nand *3\r\n another";
    redis(&[&path, "SET", "name", value], "").assert_clean();
    let output = redis(&[&path, "GET", "name"], "");
    output.assert_clean();
    let shown = value.escape_debug();
    assert_eq!(output.text(), format!("{shown}\n"));
    assert_eq!(redis(&[&path, "GET", "nothing"], "").text(), "(none)\n");
    assert_eq!(redis(&[&path, "MGET", "name", "nothing"], "").text(), format!("  {shown}\n  (none)\n"));
    assert!(redis(&[&path, "NONSENSE"], "").assert_failed().contains("unknown command"));

    let address = format!("rediss://localhost:{port}");
    assert!(redis(&[&format!("{address}/3"), "PING"], "").assert_failed().contains("database in the URL"));
    assert!(redis(&[&address, "PING"], "").assert_failed().contains("is not trusted"));
    let mut client = command(example("redis"), [&*address, "PING"]);
    let output = run(client.env("XDG_DATA_HOME", directory.path("")), "");
    output.assert_clean();
    assert_eq!(output.text(), "PONG\n");
    // With the scheme of the other kind of server.
    let output = redis(&[&format!("redis://localhost:{port}"), "PING"], "");
    assert!(output.assert_failed().contains("if the server expects TLS, write rediss://HOST"), "{output:?}");
    drop(identity);
    server.signal(Signal::TERM);
    server.finish().assert_clean();
    assert!(!Path::new(&path).exists());
}

#[test]
fn replies_that_no_redis_sends_are_told_at_once() {
    for (scheme, says, words) in [
        ("redis", "$99999999999\r\n", "not a reply of Redis: a length of \"99999999999\""),
        ("redis", "$-7\r\n", "not a reply of Redis: a length of \"-7\""),
        ("redis", "*-7\r\n", "not a reply of Redis: a length of \"-7\""),
        ("redis", "HTTP/1.1 400 Bad Request\r\n", "not a reply of Redis"),
        ("rediss", "-ERR unknown command\r\n", "does not use TLS; redis://HOST is without it"),
    ] {
        on_own_context(|| {
            let server = Server::builder().tls(false).address("127.0.0.1").listen(0, move |socket: Socket| {
                socket.read(|_, _| Ok(()));
                socket.send(says)
            });
            let address = format!("{scheme}://127.0.0.1:{}", server.as_ref().unwrap().port());
            let mut client = Process::start(&mut command(example("redis"), [&address, "GET", "x"]), Watch::Stdout);
            let output = common::beside(|| client.await_end());
            assert!(output.assert_failed().contains(words), "{says:?}: {output:?}");
        });
    }
}

#[test]
fn irc_lines_end_in_cr_and_lf_both_ways() {
    let directory = TempDir::new();
    let port = free_port();
    let settings = format!(
        "[Global]\nName = irc.example.org\nInfo = a test\nPorts = {port}\nListen = 127.0.0.1\nMotdPhrase = hello\n\
         [Options]\nIdent = no\nDNS = no\nPAM = no\n"
    );
    std::fs::write(directory.path("ngircd.conf"), settings).unwrap();
    let mut server = party("ngircd");
    server.args(["--nodaemon", "--config", &directory.address("ngircd.conf")]);
    let server = Process::start(&mut server, Watch::Stdout);
    server.line_with("Now listening on");
    on_own_context(|| {
        let builder = Socket::builder().line_ending(LineEnding::CrLf);
        let socket = builder.connect(format!("irc://127.0.0.1:{port}")).unwrap();
        let heard = Rc::new(RefCell::new(Vec::new()));
        let lines = heard.clone();
        socket.readlines(move |socket, line| {
            if let Some(token) = line.strip_prefix("PING ") {
                socket.sendline(format!("PONG {token}"))?;
            }
            lines.borrow_mut().push(line.to_owned());
            Ok(())
        });
        socket.sendline("NICK somebody").unwrap();
        socket.sendline("USER somebody 0 * :Somebody").unwrap();
        let welcome = |line: &String| line.starts_with(":irc.example.org 001 somebody ");
        until(|| heard.borrow().iter().any(welcome));
        socket.sendline("QUIT :bye").unwrap();
        until(|| !socket.is_open());
        assert!(heard.borrow().iter().all(|line| !line.contains('\r')), "{heard:?}");
    });
    server.signal(Signal::TERM);
    server.finish();
}
