//! The small examples, as a reader of them would run them.

mod common;

use std::io::{Read, Write};

use common::{Process, TempDir, Watch, command, example, run, run_unheard};
use rustix::process::Signal;

#[test]
fn the_server_and_its_client_talk() {
    let directory = TempDir::new();
    for unix in [false, true] {
        let address = if unix { directory.address("socket") } else { "0".into() };
        let server = Process::start(&mut command(example("server"), [&address]), Watch::Stdout);
        if !unix {
            let line = server.line();
            assert!(line.strip_prefix("fingerprint ").is_some_and(|hex| hex.len() == 64), "{line}");
        }
        let address = if unix {
            assert_eq!(server.line(), format!("listening on {address}"));
            address
        } else {
            format!("localhost:{}", server.port("listening on"))
        };
        let client = run(&mut command(example("client"), [&address]), "");
        client.assert_clean();
        assert_eq!(client.text(), "The server said: Welcome to this server!\nThe server replied: This is a reply.\n");
        assert!(server.line().ends_with(" is here"));
        assert_eq!(server.line(), "data received: This is data.");
        assert!(server.line().ends_with(": closed by the peer"));
        server.signal(Signal::TERM);
        server.finish().assert_clean();
        assert!(!directory.path("socket").exists());
    }
}

#[test]
fn the_ticker_survives_its_server() {
    let directory = TempDir::new();
    let address = directory.address("socket");
    let ticker = Process::start(&mut command(example("ticker"), [&address]), Watch::Stdout);
    let refused = ticker.line();
    assert!(refused.starts_with(&format!("cannot connect to {address}: ")), "{refused}");
    assert!(refused.contains("; next try in "), "{refused}");
    for _ in 0..2 {
        let server = Process::start(&mut command(example("server"), [&address]), Watch::Stdout);
        ticker.line_with(&format!("connected to {address}"));
        assert_eq!(ticker.line(), "the server said: Welcome to this server!");
        assert!(server.line_with("data received: tick ").len() > 20);
        assert_eq!(ticker.line(), "the server said: This is a reply.");
        server.signal(Signal::KILL);
        let ended = ticker.line_with("; next try in ");
        assert!(ended.contains(&address), "{ended}");
    }
    ticker.signal(Signal::TERM);
    ticker.finish().assert_clean();
    let limited = run(&mut command(example("ticker"), ["--attempts", "2", &address]), "");
    assert_eq!(limited.status.code(), Some(1), "{limited:?}");
    // The last error is told once.
    assert_eq!(limited.text().lines().count(), 1);
    assert!(limited.stderr.starts_with("giving up: cannot connect to "), "{limited:?}");
}

#[test]
fn a_script_asks_another_one() {
    let directory = TempDir::new();
    for unix in [false, true] {
        let address = if unix { directory.address("socket") } else { "0".into() };
        let server = Process::start(&mut command(example("blocking"), ["--listen", &address]), Watch::Stdout);
        let address = match unix {
            true => address,
            false => format!("localhost:{}", server.port("listening on")),
        };
        if unix {
            assert_eq!(server.line(), format!("listening on {address}"));
        }
        // One after the other, and the second is none the worse for what the first was.
        for (question, answer) in [("what?", "no product of two numbers"), ("2x21", "42")] {
            let client = run(&mut command(example("blocking"), [&address, "6x7", question]), "");
            client.assert_clean();
            assert_eq!(client.text(), format!("6x7 is 42\n{question} is {answer}\n2 answered\n"));
        }
    }
    let nobody = run(&mut command(example("blocking"), [&directory.address("nobody"), "6x7"]), "");
    assert!(nobody.assert_failed().contains("cannot connect to"));
}

#[test]
fn a_missing_port_and_a_place_that_is_none_are_told() {
    let directory = TempDir::new();
    for name in ["server", "client"] {
        let output = run(&mut command(example(name), ["localhost"]), "");
        let line = output.assert_failed();
        assert!(line.contains("missing port, as in localhost:1234; expected host:port, a port, "), "{line}");
    }
    let nowhere = directory.address("no/such/directory");
    let output = run(&mut command(example("server"), [&nowhere]), "");
    assert!(
        output.assert_failed().starts_with(&format!("Error: Io: cannot listen on {nowhere}: ")),
        "{}",
        output.stderr
    );
    let output = run(command(example("server"), ["127.0.0.1:0"]).env("XDG_DATA_HOME", "/dev/null"), "");
    assert!(
        output.assert_failed().starts_with("Error: Identity: /dev/null/network: cannot create the TLS certificate "),
        "{output:?}"
    );
}

#[test]
fn the_private_context_runs_to_its_end() {
    let output = run(&mut command(example("private_context"), [""; 0]), "");
    output.assert_clean();
    assert_eq!(output.text(), "HELLO FROM A PRIVATE CONTEXT\n");
}

#[test]
fn the_futures_run_to_their_end() {
    let output = run(&mut command(example("futures"), [""; 0]), "");
    output.assert_clean();
    let text = output.text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..3], ["You said: Hello", "You said: How are you?", "nothing more"]);
    assert!(lines[3].ends_with(" has gone; 2 lines so far"), "{text}");
}

#[test]
fn both_sides_of_json_rpc_ask_and_their_answers_come_in_any_order() {
    let output = run(&mut command(example("jsonrpc"), [""; 0]), "");
    output.assert_clean();
    let text = output.text();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines.last().copied(),
        Some(r#"{"id":1,"jsonrpc":"2.0","result":"slept for 300 ms"}"#),
        "it was asked first"
    );
    lines.sort();
    assert_eq!(
        lines,
        [
            r#"{"error":{"code":-32601,"message":"no such method"},"id":3,"jsonrpc":"2.0"}"#,
            r#"{"id":1,"jsonrpc":"2.0","result":"slept for 200 ms"}"#,
            r#"{"id":1,"jsonrpc":"2.0","result":"slept for 300 ms"}"#,
            r#"{"id":2,"jsonrpc":"2.0","result":"slept for 100 ms"}"#,
        ]
    );
}

fn names() -> Vec<&'static str> {
    let mut names =
        vec!["jsonrpc", "ticker", "server", "client", "blocking", "futures", "private_context", "udp_discovery"];
    names.extend(["daemon", "netcat", "redis", "smtp"]);
    names.extend(cfg!(feature = "_services").then_some("chat"));
    names
}

#[test]
fn all_of_them_know_misuse_from_failure() {
    for name in names() {
        // Questions it takes any number of.
        let one_too_many = match name {
            "blocking" => &["--listen", "0", "1"][..],
            "redis" => &["a"],
            _ => &["a", "b", "c", "d"],
        };
        for arguments in [&["--no-such-option"][..], one_too_many] {
            let output = run(&mut command(example(name), arguments), "");
            assert_eq!(output.status.code(), Some(2), "{name} {arguments:?}: {output:?}");
            assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{name} {arguments:?}: {output:?}");
        }
    }
}

/// A server of Redis that gives one client that answer to everything. Returns its port.
fn redis_saying(answer: &'static str) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut question = [0; 1000];
        assert!(client.read(&mut question).unwrap() > 0);
        client.write_all(answer.as_bytes()).unwrap();
        // Until it has gone.
        let _ = client.read_to_end(&mut Vec::new());
    });
    port
}

#[test]
fn whoever_is_not_read_any_more_ends_quietly() {
    let directory = TempDir::new();
    let redis = format!("redis://127.0.0.1:{}", redis_saying("+OK\r\n"));
    let nobody = directory.address("nobody");
    for (name, arguments) in [
        ("jsonrpc", vec![]),
        ("ticker", vec![nobody.as_str()]),
        ("redis", vec![&redis, "PING"]),
        ("server", vec!["0"]),
        ("futures", vec![]),
        ("private_context", vec![]),
        ("smtp", vec!["--help"]),
        #[cfg(feature = "avahi")]
        ("chat", vec!["--help"]),
    ] {
        let output = run_unheard(&mut command(example(name), arguments));
        assert_eq!((output.status.code(), output.stderr.as_str()), (Some(1), ""), "{name}");
    }
    // A daemon serves, whoever hears of it.
    let address = directory.address("daemon");
    run_unheard(&mut command(example("daemon"), [&address])).assert_clean();
    let mut greeting = String::new();
    let client = std::os::unix::net::UnixStream::connect(&address).unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(client), &mut greeting).unwrap();
    let daemon = common::Other::new(greeting.trim().strip_prefix("daemon ").unwrap().parse().unwrap());
    daemon.signal(rustix::process::Signal::TERM);
    daemon.await_end();
}

#[test]
fn texts_of_a_server_are_shown_without_control_characters_and_otherwise_as_they_are() {
    let ask = |answer, command_line: &[&str]| {
        let url = format!("redis://127.0.0.1:{}", redis_saying(answer));
        run(command(example("redis"), [&url]).args(command_line), "")
    };
    let output = ask("-ERR unknown command 'NOSUCH', \u{1b}[2J\r\n", &["NOSUCH"]);
    assert!(output.assert_failed().contains("unknown command 'NOSUCH', \\u{1b}[2J"), "{output:?}");
    let output = ask("$6\r\nit's \"\r\n", &["GET", "x"]);
    output.assert_clean();
    assert_eq!(output.text(), "it's \"\n");
    let output = run(&mut command(example("redis"), ["https://localhost", "PING"]), "");
    assert!(output.assert_failed().contains("write redis://HOST or rediss://HOST"), "{output:?}");
}

#[test]
fn server_and_client_tell_their_default_and_the_forms_of_addresses() {
    for (name, default) in [("server", "[default: 1234]"), ("client", "[default: localhost:1234]")] {
        let text = run(&mut command(example(name), ["--help"]), "").text();
        for part in [default, "host:port", "a path with a slash", "@name", "service|name"] {
            assert!(text.contains(part), "{name}: {text}");
        }
    }
}

#[test]
fn all_of_them_tell_how_they_are_used() {
    for name in names() {
        for option in ["--help", "-h"] {
            let output = run(&mut command(example(name), [option]), "");
            output.assert_clean();
            let text = output.text().to_lowercase();
            assert!(text.contains(&format!("usage: {name}")), "{name} {option}: {text}");
        }
    }
}

#[test]
fn a_client_of_another_user_is_told_which_option_to_use() {
    let server = Process::start(&mut command(example("server"), ["localhost:0"]), Watch::Stdout);
    let line = server.line();
    let fingerprint = line.strip_prefix("fingerprint ").unwrap().to_owned();
    let address = format!("localhost:{}", server.port("listening on"));
    let elsewhere = TempDir::new();
    let client = |arguments: &[&str]| {
        let mut client = command(example("client"), [&address]);
        run(client.args(arguments).env("XDG_DATA_HOME", elsewhere.path("data")), "")
    };
    let line = client(&[]).assert_failed().to_owned();
    assert!(line.contains(&format!("the certificate of {address} is not trusted.")), "{line}");
    assert!(line.contains(&format!("use --fingerprint {fingerprint}")) && !line.contains("ClientTls"), "{line}");
    client(&["--fingerprint", &fingerprint]).assert_clean();
    let line = client(&["--fingerprint", &"0".repeat(64)]).assert_failed().to_owned();
    assert!(line.contains("does not have the key of --fingerprint") && !line.contains("ClientTls"), "{line}");
}

#[test]
fn paths_that_lead_to_no_server_say_why() {
    let directory = TempDir::new();
    let (stale, live, file) = (directory.address("stale"), directory.address("live"), directory.address("file"));
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let _live = std::os::unix::net::UnixListener::bind(&live).unwrap();
    std::fs::write(&file, "precious").unwrap();
    let as_path = "(an address with a slash is the path of a unix socket)";
    let cases = [
        ("client", directory.address("nothing"), as_path),
        ("client", "unix:./s.sock".into(), as_path),
        ("client", "/etc/passwd".into(), "the file is not a socket"),
        ("client", stale.clone(), "(no server listens on this unix socket)"),
        ("server", live, "another server is listening on this path"),
        ("server", file, "the path exists and is not a socket"),
        ("blocking", stale.clone(), "remove the file, or set replace_stale(true)"),
    ];
    for (name, address, why) in cases {
        let arguments = if name == "blocking" { vec!["--listen", &address] } else { vec![address.as_str()] };
        let line = run(&mut command(example(name), arguments), "").assert_failed().to_owned();
        assert!(line.contains(&address) && line.contains(why), "{line}");
    }
    let server = Process::start(&mut command(example("server"), [&stale]), Watch::Stdout);
    assert_eq!(server.line(), format!("listening on {stale}"));
}

#[test]
fn options_that_mean_nothing_are_told_in_the_words_of_the_example() {
    let output = run(&mut command(example("daemon"), ["0", "--grace-period", "x"]), "");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stderr.contains("expected a whole number of seconds"), "{output:?}");
    let mut helps = vec![("daemon", "in the background"), ("blocking", "QUESTION  ")];
    helps.extend(cfg!(feature = "_services").then_some(("chat", "NICKNAME  ")));
    for (name, what) in helps {
        let text = run(&mut command(example(name), ["--help"]), "").text();
        assert!(text.contains(what), "{name}: {text}");
    }
}

#[test]
fn a_certificate_that_cannot_be_made_says_where_its_name_comes_from() {
    let output = run(command(example("server"), ["127.0.0.1:0"]).env("XDG_DATA_HOME", "/dev/null"), "");
    let line = output.assert_failed().to_owned();
    assert!(line.contains("\", named after this host: "), "{line}");
}
