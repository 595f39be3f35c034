//! The package ws for Node.js in both roles, where it is found: Node is too large to be installed for this.

use std::process::Command;

use network::ClientTls;
use network::websocket::{Code, Server, WebSocket};

use super::clients::certificate;
use super::common::{Process, TempDir, Watch, await_it, beside, command, noise, on_own_context, run, until};

/// Answers each text in capitals, and bytes backwards; `pieces` in fragments. With arguments, the certificate and the key, over TLS.
const SERVER: &str = r#"
const fs = require('fs'), { WebSocketServer } = require('ws');
const files = process.argv.slice(1);
const server = files.length
    ? require('https').createServer({ cert: fs.readFileSync(files[0]), key: fs.readFileSync(files[1]) })
    : require('http').createServer();
const sockets = new WebSocketServer({
    server, perMessageDeflate: true, maxPayload: 1 << 24, handleProtocols: offered => offered.has('chat.v2') && 'chat.v2' });
sockets.on('connection', (peer, request) => {
    console.log('protocol', peer.protocol, request.url, JSON.stringify(peer.extensions));
    peer.on('message', (data, isBinary) => {
        const text = data.toString();
        if (isBinary) peer.send(Buffer.from(data).reverse());
        else if (text == 'pieces') {
            for (const [piece, fin] of [['one ', false], ['two ', false], ['thr\u00eb', true]]) peer.send(piece, { fin });
        } else if (text == 'ping') { peer.once('pong', data => peer.send('pong ' + data)); peer.ping('x'.repeat(125)); }
        else if (text == 'close') peer.close(4001, 'as you wish');
        else if (text == 'vanish') peer.terminate();
        else peer.send(text.toUpperCase());
    });
    peer.on('close', (code, reason) => console.log('closed with', code, reason.toString()));
});
server.listen(0, '127.0.0.1', () => console.log('listening on', server.address().port));
process.stdin.on('end', () => process.exit(0)).resume();
"#;

/// Echoes of all kinds and sizes.
const CLIENT: &str = r#"
const { WebSocket } = require('ws'), assert = require('assert'), crypto = require('crypto');
const peer = new WebSocket(process.argv[1], ['x', 'echo'], { rejectUnauthorized: false, maxPayload: 1 << 24 });
const came = [], waiting = [];
peer.on('message', (data, isBinary) => {
    const message = isBinary ? data : data.toString();
    waiting.length ? waiting.shift()(message) : came.push(message);
});
const next = () => came.length ? Promise.resolve(came.shift()) : new Promise(done => waiting.push(done));
peer.on('open', async () => {
    // It offers permessage-deflate, which is declined.
    assert.equal(peer.extensions, '');
    assert.equal(peer.protocol, 'echo');
    for (const size of [0, 1, 125, 126, 65535, 65536, 1 << 20, 3000000]) {
        const sent = crypto.randomBytes(size);
        peer.send(sent);
        assert(sent.equals(await next()), String(size));
    }
    peer.send('gr\u00fc\u00dfe');
    assert.equal(await next(), 'gr\u00fc\u00dfe');
    for (const [piece, fin] of [['one ', false], ['two ', false], ['three', true]]) peer.send(piece, { fin });
    assert.equal(await next(), 'one two three');
    const many = Array.from({ length: 300 }, (_, n) => crypto.randomBytes(n * 100));
    many.forEach(data => peer.send(data));
    for (const data of many) assert(data.equals(await next()));
    const pong = new Promise(done => peer.once('pong', done));
    peer.ping('there?');
    assert.equal((await pong).toString(), 'there?');
    peer.close(Number(process.argv[2]), 'b\u00ffe');
});
peer.on('close', (code, reason) => { console.log('closed with', code, reason.toString()); process.exit(0); });
"#;

/// `None` where there is no Node.js with the package ws.
fn node(script: &str, arguments: &[&str]) -> Option<Command> {
    let node = |script: &str| {
        let mut command = command("node", ["-e", script]);
        // Where Debian keeps it.
        command.env("NODE_PATH", "/usr/share/nodejs");
        command
    };
    if !node("require('ws').WebSocketServer || process.exit(1)").output().is_ok_and(|output| output.status.success()) {
        eprintln!("not run: there is no node with the package ws (on Debian: apt install node-ws)");
        return None;
    }
    let mut command = node(script);
    command.args(arguments);
    Some(command)
}

/// The next line with that. Meanwhile the loop runs.
fn heard(server: &mut Process, part: &str) -> String {
    beside(move || server.line_with(part))
}

#[test]
fn its_server_answers_plain_and_over_tls() {
    let directory = TempDir::new();
    let (certificate, key) = certificate(&directory);
    for tls in [false, true] {
        let files = [certificate.as_str(), key.as_str()];
        let Some(mut server) = node(SERVER, if tls { &files } else { &[] }) else { return };
        let mut server = Process::start(&mut server, Watch::Stdout);
        let port = server.port("listening on");
        let url = format!("{}://localhost:{port}/chat?room=1", if tls { "wss" } else { "ws" });
        on_own_context(|| {
            let trust = ClientTls::roots(std::fs::read(&certificate).unwrap());
            let connect = || {
                let builder = WebSocket::builder().protocols(["chat.v3", "chat.v2"]).tls(trust.clone());
                await_it(builder.message_limit(4 << 20).connect_future(&*url)).unwrap()
            };
            let ws = connect();
            let next = || await_it(ws.next_future()).unwrap();
            assert_eq!(ws.protocol(), Some("chat.v2"));
            assert_eq!(server.line_with("protocol"), "protocol chat.v2 /chat?room=1 \"\"");
            ws.send("gr\u{fc}\u{df}e").unwrap();
            assert_eq!(next().unwrap().text(), Some("GR\u{dc}SSE"));
            for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 3_000_000] {
                let data = noise(size, 7);
                ws.send(&data).unwrap();
                assert!(next().unwrap().bytes().iter().rev().eq(data.iter()), "{size}");
            }
            ws.send("pieces").unwrap();
            assert_eq!(next().unwrap().text(), Some("one two thr\u{eb}"));
            ws.send("ping").unwrap();
            assert_eq!(next().unwrap().text(), Some(&*format!("pong {}", "x".repeat(125))));
            ws.send("close").unwrap();
            let end = next().unwrap_err().to_string();
            assert!(end.contains("4001") && end.contains("as you wish"), "{end}");
            assert_eq!(heard(&mut server, "closed with"), "closed with 4001 as you wish");
            let ws = connect();
            ws.close(Code::from(4002), "b\u{ff}e").unwrap();
            assert_eq!(heard(&mut server, "closed with"), "closed with 4002 b\u{ff}e");
            let ws = connect();
            ws.send("vanish").unwrap();
            let end = await_it(ws.next_future()).unwrap().unwrap_err().to_string();
            let expected = if tls { "without a TLS close_notify" } else { "1006" };
            assert!(end.contains(expected), "{end}");
        });
        server.end_input();
        server.finish().assert_clean();
    }
}

#[test]
fn its_client_is_served_plain_and_over_tls() {
    for scheme in ["ws", "wss"] {
        on_own_context(|| {
            let builder = Server::builder().protocols(["echo"]).message_limit(4 << 20);
            let server = builder
                .listen(format!("{scheme}://127.0.0.1:0/").as_str(), |ws| {
                    ws.read(|ws, message| ws.send(message));
                    Ok(())
                })
                .unwrap();
            let Some(mut client) = node(CLIENT, &[&server.url(), "4003"]) else { return };
            let output = beside(|| run(&mut client, []));
            output.assert_clean();
            assert_eq!(output.text(), "closed with 4003 b\u{ff}e\n");
            until(|| server.connections().is_empty());
        });
    }
}
