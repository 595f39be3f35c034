//! WebSockets over our streams, by a crate that knows nothing of them, with Python's `websockets` at the other end.

mod common;

use std::cell::Cell;
use std::rc::Rc;

use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::protocol::CloseFrame;
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use async_tungstenite::{accept_async, client_async};
use common::{Process, Watch, beside, command, example, on_own_context, tool};
use futures_util::StreamExt;
use network::{Server, ServerTls, Socket};
use rustix::process::Signal;

/// Answers each text in capitals, and bytes backwards; says where it listens.
const SERVER: &str = r#"
import asyncio, websockets

async def talk(peer):
    async for message in peer:
        await peer.send(message.upper() if isinstance(message, str) else message[::-1])
    print("closed with", peer.close_code, flush = True)

async def main():
    async with websockets.serve(talk, "127.0.0.1", 0, max_size = 1 << 24) as server:
        print("listening on", server.sockets[0].getsockname()[1], flush = True)
        await asyncio.get_running_loop().run_in_executor(None, input)

asyncio.run(main())
"#;

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

/// Echoes of all kinds and sizes, over TLS if the address says so.
const CLIENT: &str = r#"
import asyncio, os, ssl, sys, websockets

async def main():
    context = None
    if sys.argv[1].startswith("wss"):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    async with websockets.connect(sys.argv[1], ssl = context, max_size = 1 << 24) as peer:
        for size in (0, 1, 125, 126, 65535, 65536, 3000000):
            sent = os.urandom(size)
            await peer.send(sent)
            assert await peer.recv() == sent, size
        # In fragments, and many at a time.
        await peer.send(iter(["one ", "two ", "three"]))
        assert await peer.recv() == "one two three"
        sent = [os.urandom(n * 100) for n in range(300)]
        async def send():
            for data in sent:
                await peer.send(data)
        async def receive():
            return [await peer.recv() for _ in sent]
        _, got = await asyncio.gather(send(), receive())
        assert got == sent
        await (await peer.ping())
    print("closed with", peer.close_code, flush = True)

asyncio.run(main())
"#;

fn python(script: &str, arguments: &[&str]) -> Process {
    assert!(
        std::path::Path::new("/usr/lib/python3/dist-packages/websockets").exists(),
        "python3-websockets is missing; ./dev test installs what the tests need"
    );
    Process::start(tool("/usr/bin/python3").args(["-c", script]).args(arguments), Watch::Stdout)
}

#[test]
fn an_echo_for_python_on_the_loop_of_a_callback_server() {
    for tls in [false, true] {
        let lines = on_own_context(|| {
            let certificates = tempfile::tempdir().unwrap();
            let builder = Server::builder().address("127.0.0.1");
            let builder = match tls {
                true => builder.tls(ServerTls::new().directory(certificates.path())),
                false => builder.tls(false),
            };
            let web = builder.bind(0).unwrap();
            let port = web.port();
            let context = glib::MainContext::ref_thread_default();
            context.clone().spawn_local(async move {
                let mut incoming = web.incoming();
                while let Some(socket) = incoming.next().await {
                    let stream = socket.unwrap().into_stream();
                    context.spawn_local(async move {
                        let mut peer = accept_async(stream).await.unwrap();
                        while let Some(message) = peer.next().await {
                            let message = message.unwrap();
                            if message.is_text() || message.is_binary() {
                                peer.send(message).await.unwrap();
                            }
                        }
                    });
                }
            });
            // Beside it, on the same loop.
            let lines = Rc::new(Cell::new(0));
            let count = lines.clone();
            let server = Server::builder().tls(false).address("127.0.0.1").listen(0, move |socket| {
                let count = count.clone();
                socket.readlines(move |socket, line| {
                    count.set(count.get() + 1);
                    socket.sendline(line)
                });
                Ok(())
            });
            let server = server.unwrap();
            let line_port = server.port();
            beside(move || {
                use std::io::{BufRead, BufReader, Write};
                let stream = std::net::TcpStream::connect(("127.0.0.1", line_port)).unwrap();
                let scheme = if tls { "wss" } else { "ws" };
                let mut client = python(CLIENT, &[&format!("{scheme}://127.0.0.1:{port}/")]);
                let mut answers = BufReader::new(&stream).lines();
                for n in 0..100 {
                    writeln!(&stream, "line {n}").unwrap();
                    assert_eq!(answers.next().unwrap().unwrap(), format!("line {n}"));
                }
                let output = client.await_end();
                output.assert_clean();
                assert_eq!(output.text(), "closed with 1000\n");
            });
            lines.get()
        });
        assert_eq!(lines, 100);
    }
}

#[test]
fn pythons_server_answers_our_client() {
    let server = python(SERVER, &[]);
    let port = server.port("listening on");
    on_own_context(|| {
        glib::MainContext::ref_thread_default().block_on(async {
            let socket = Socket::builder().tls(false).connect_future(("127.0.0.1", port)).await.unwrap();
            let url = format!("ws://127.0.0.1:{port}/");
            let (mut peer, _) = client_async(url, socket.into_stream()).await.unwrap();
            peer.send(Message::text("gr\u{fc}\u{df}e")).await.unwrap();
            assert_eq!(peer.next().await.unwrap().unwrap().into_text().unwrap(), "GR\u{dc}SSE");
            let data = common::noise(2_000_000, 7);
            peer.send(Message::binary(data.clone())).await.unwrap();
            let back = peer.next().await.unwrap().unwrap().into_data();
            assert!(back.iter().rev().eq(data.iter()));
            peer.close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() })).await.unwrap();
            while peer.next().await.is_some_and(|message| message.is_ok()) {}
        });
    });
    assert_eq!(server.line(), "closed with 1000");
}

#[test]
fn the_example_joins_the_web_and_lines() {
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
fn the_example_is_a_client_too() {
    let server = python(SERVER, &[]);
    let url = format!("ws://127.0.0.1:{}/", server.port("listening on"));
    let client = common::run(&mut command(example("websocket"), [url.as_str(), "Hello", "how are you?"]), "");
    client.assert_clean();
    assert_eq!(client.text(), "HELLO\nHOW ARE YOU?\n");
    assert_eq!(server.line(), "closed with 1000");
}

#[test]
fn the_example_says_how_to_reach_a_server_without_tls() {
    let server = python(SERVER, &[]);
    let port = server.port("listening on");
    let client =
        common::run(&mut command(example("websocket"), [format!("wss://127.0.0.1:{port}/"), "Hello".into()]), "");
    let line = client.assert_failed();
    assert!(line.contains(&format!("Without TLS: ws://127.0.0.1:{port}/")), "{line}");
}

#[test]
fn the_example_says_where_it_listens() {
    let directory = common::TempDir::new();
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
