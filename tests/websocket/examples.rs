//! The example, with Python's clients and server.

use network::Socket;
use rustix::process::Signal;

use super::common::{Process, TempDir, Watch, command, example, run};
use super::pythons::{SERVER, python};

/// Two clients of the web and one of lines: each hears what any of them says.
const MEMBERS: &str = r#"
import asyncio, sys, websockets

async def main():
    url, port = f"ws://127.0.0.1:{sys.argv[1]}", sys.argv[2]
    async with websockets.connect(url) as one, websockets.connect(url) as two:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await (await one.ping())
        await (await two.ping())
        async def heard(text):
            got = [await one.recv(), await two.recv(), (await reader.readline()).decode().rstrip("\n")]
            assert got == [text] * 3, got
        writer.write("by line, gr\u00fc\u00dfe\n".encode())
        await heard("by line, gr\u00fc\u00dfe")
        await one.send("by web")
        await heard("by web")
        for n in range(50):
            await two.send(f"number {n}")
        for n in range(50):
            await heard(f"number {n}")
        writer.close()
    assert (one.close_code, two.close_code) == (1000, 1000), "the server answers a close frame"
    print("done", flush = True)

asyncio.run(main())
"#;

#[test]
fn it_joins_the_web_and_lines() {
    let server = Process::start(&mut command(example("websocket"), [""; 0]), Watch::Stdout);
    let web = server.port("websockets on").to_string();
    let lines = server.port("lines on").to_string();
    let mut client = python(MEMBERS, &[&web, &lines]);
    let output = client.await_end();
    output.assert_clean();
    assert_eq!(output.text(), "done\n");
    server.signal(Signal::TERM);
    server.finish().assert_clean();
}

#[test]
fn it_is_a_client_too() {
    let server = python(SERVER, &[]);
    let url = format!("ws://127.0.0.1:{}/", server.port("listening on"));
    let client = run(&mut command(example("websocket"), [url.as_str(), "Hello", "how are you?"]), "");
    client.assert_clean();
    assert_eq!(client.text(), "HELLO\nHOW ARE YOU?\n");
    assert_eq!(server.line_with("closed"), "closed with 1000");
}

#[test]
fn it_says_how_to_reach_a_server_without_tls() {
    let server = python(SERVER, &[]);
    let port = server.port("listening on");
    let client = run(&mut command(example("websocket"), [format!("wss://127.0.0.1:{port}/"), "Hello".into()]), "");
    let line = client.assert_failed();
    assert!(line.contains(&format!("Without TLS: ws://127.0.0.1:{port}/")), "{line}");
}

#[test]
fn it_knows_misuse_from_failure_and_tells_how_it_is_used() {
    for arguments in [&["--no-such-option"][..], &["a", "b", "c"], &["http://localhost:1234"]] {
        let output = run(&mut command(example("websocket"), arguments), "");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{output:?}");
    }
    let text = run(&mut command(example("websocket"), ["--help"]), "").text();
    assert!(text.contains("usage: websocket"), "{text}");
}

#[test]
fn it_says_nothing_before_it_has_failed() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = run(&mut command(example("websocket"), ["0", &port]), "");
    assert!(output.assert_failed().contains(&port) && output.stdout.is_empty(), "{output:?}");
}

#[test]
fn it_says_where_it_listens() {
    let directory = TempDir::new();
    let places = [directory.address("web"), directory.address("lines")];
    let server = Process::start(&mut command(example("websocket"), &places), Watch::Stdout);
    assert_eq!(server.line(), format!("websockets on {}", places[0]));
    assert_eq!(server.line(), format!("lines on {}", places[1]));
    // An answer shows that its loop runs: before that a signal just ends it.
    let client = Socket::connect(places[1].as_str()).unwrap();
    client.sendline("hello").unwrap();
    assert_eq!(client.recv_line().unwrap(), "hello");
    server.signal(Signal::TERM);
    server.finish().assert_clean();
}
