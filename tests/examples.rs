//! The small examples, as a reader of them would run them.

mod common;

use common::{Process, TempDir, Watch, command, example, run};
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
    assert!(lines[3].ends_with(": 2 lines"), "{text}");
}

#[test]
fn all_of_them_tell_how_they_are_used() {
    let mut names = vec!["server", "client", "blocking", "futures", "private_context", "websocket", "udp_discovery"];
    names.extend(["daemon", "netcat"]);
    names.extend(cfg!(feature = "_services").then_some("chat"));
    for name in names {
        for option in ["--help", "-h"] {
            let output = run(&mut command(example(name), [option]), "");
            output.assert_clean();
            let text = output.text().to_lowercase();
            assert!(text.contains(&format!("usage: {name}")), "{name} {option}: {text}");
        }
    }
}
