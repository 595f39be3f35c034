//! Python's `websockets` in both roles.

use super::common::{Process, Watch, tool};

/// Answers each text in capitals, and bytes backwards; `pieces` in fragments. Says where it listens, and how each connection ends. With
/// arguments, the certificate and the key, over TLS.
pub const SERVER: &str = r#"
import asyncio, ssl, sys, websockets

async def talk(peer):
    print("protocol", peer.subprotocol, peer.path, peer.request_headers.get("X-Test"), flush = True)
    try:
        async for message in peer:
            await answer(peer, message)
    except websockets.ConnectionClosedError:
        pass
    print("closed with", peer.close_code, peer.close_reason, flush = True)

async def answer(peer, message):
    if message == "pieces":
        await peer.send(iter(["one ", "two ", "thr\u00eb"]))
    elif message == "ping":
        await (await peer.ping("x" * 125))
        await peer.send("pong came")
    elif message == "close":
        await peer.close(4001, "as you wish")
    elif message == "vanish":
        peer.transport.abort()
    else:
        await peer.send(message.upper() if isinstance(message, str) else message[::-1])

async def main():
    context = None
    if len(sys.argv) > 2:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(sys.argv[1], sys.argv[2])
    async with websockets.serve(talk, "127.0.0.1", 0, ssl = context, max_size = 1 << 24, subprotocols = ["chat.v2"]) as server:
        print("listening on", server.sockets[0].getsockname()[1], flush = True)
        await asyncio.get_running_loop().run_in_executor(None, input)

asyncio.run(main())
"#;

/// Echoes of all kinds and sizes, over TLS if the address says so.
pub const CLIENT: &str = r#"
import asyncio, os, ssl, sys, websockets

async def main():
    context = None
    if sys.argv[1].startswith("wss"):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    # It offers permessage-deflate, which is declined.
    async with websockets.connect(sys.argv[1], ssl = context, max_size = 1 << 24, subprotocols = ["x", "echo"]) as peer:
        assert peer.extensions == [] and peer.subprotocol == "echo", (peer.extensions, peer.subprotocol)
        for size in (0, 1, 125, 126, 65535, 65536, 1 << 20, 3000000):
            sent = os.urandom(size)
            await peer.send(sent)
            assert await peer.recv() == sent, size
        await peer.send("gr\u00fc\u00dfe")
        assert await peer.recv() == "gr\u00fc\u00dfe"
        # In fragments, one of which ends within a character, and many at a time.
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
        await peer.close(int(sys.argv[2]), "b\u00ffe")
    print("closed with", peer.close_code, peer.close_reason, flush = True)

asyncio.run(main())
"#;

#[track_caller]
pub fn python(script: &str, arguments: &[&str]) -> Process {
    assert!(
        std::path::Path::new("/usr/lib/python3/dist-packages/websockets").exists(),
        "python3-websockets is missing; ./dev test installs what the tests need"
    );
    Process::start(tool("/usr/bin/python3").args(["-c", script]).args(arguments), Watch::Stdout)
}
