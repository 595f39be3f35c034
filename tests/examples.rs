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
fn the_private_context_runs_to_its_end() {
    let output = run(&mut command(example("private_context"), [""; 0]), "");
    output.assert_clean();
    assert_eq!(output.text(), "HELLO FROM A PRIVATE CONTEXT\n");
}
