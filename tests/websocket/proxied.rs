//! Through tinyproxy, in a network namespace: no proxy is asked for an address of this machine's loopback.

use std::net::TcpStream;
use std::process::Command;
use std::time::Instant;

use network::websocket::{Code, Server, WebSocket};
use network::{ClientTls, Error, ServerTls};

use super::clients::connect;
use super::common::{LIMIT, Process, TempDir, Watch, noise, on_own_context, parties, party, run_loop};
use super::name_server;

/// An address that is this machine's only inside.
const FAR: &str = "10.9.8.7";

/// Starts it; it wants a password, and connects to this port only.
fn tinyproxy(directory: &TempDir, port: u16) -> Process {
    let config = format!(
        "Port 8888\nListen 127.0.0.1\nTimeout 60\nMaxClients 100\nBasicAuth me sesam\nConnectPort {port}\n\
         Allow 127.0.0.1\nLogFile \"{}\"\n",
        directory.address("log")
    );
    std::fs::write(directory.path("tinyproxy.conf"), config).unwrap();
    let mut command = party("tinyproxy");
    let process = Process::start(command.arg("-d").arg("-c").arg(directory.path("tinyproxy.conf")), Watch::Stderr);
    let late = Instant::now() + LIMIT;
    while TcpStream::connect("127.0.0.1:8888").is_err() {
        assert!(Instant::now() < late, "tinyproxy does not accept connections");
        std::thread::yield_now();
    }
    process
}

#[test]
fn messages_go_through_tinyproxy_plain_and_over_tls() {
    if !name_server::enter() {
        name_server::run_again_inside("proxied::messages_go_through_tinyproxy_plain_and_over_tls");
        return;
    }
    let added = Command::new("ip").args(["address", "add", &format!("{FAR}/32"), "dev", "lo"]).status().unwrap();
    assert!(added.success());
    for tls in [false, true] {
        let directory = TempDir::new();
        let certificates = directory.path("certs");
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            on_own_context(|| {
                let builder = Server::builder();
                let (builder, scheme) = match tls {
                    true => (builder.tls(ServerTls::new().directory(certificates)), "wss"),
                    false => (builder, "ws"),
                };
                let server = builder.listen(format!("{scheme}://{FAR}:0").as_str(), |ws| {
                    ws.read(|ws, message| match message.text() {
                        Some("end") => {
                            network::endloop();
                            Ok(())
                        }
                        _ => ws.send(message),
                    });
                    Ok(())
                });
                let server = server.unwrap();
                sender.send((server.url(), server.port(), server.http().listener().fingerprint())).unwrap();
                run_loop();
            });
        });
        let (url, port, fingerprint) = receiver.recv().unwrap();
        let _proxy = tinyproxy(&directory, port);
        let builder = |proxy: &str| {
            let trust = fingerprint.map_or_else(ClientTls::new, ClientTls::pinned);
            WebSocket::builder().tls(trust).proxy(proxy)
        };
        on_own_context(|| {
            for face in 0..3 {
                let ws = connect(face, builder("http://me:sesam@127.0.0.1:8888"), &url).unwrap();
                let data = noise(1 << 20, 9);
                ws.send(&data).unwrap();
                assert_eq!(ws.recv().unwrap().bytes(), data);
                ws.close(Code::NORMAL, "").unwrap();
                let refused = connect(face, builder("http://me:wrong@127.0.0.1:8888"), &url).unwrap_err();
                assert!(matches!(refused, Error::Proxy { .. }), "{refused}");
            }
            let ws = connect(0, builder("http://me:sesam@127.0.0.1:8888"), &url).unwrap();
            ws.send("end").unwrap();
        });
        thread.join().unwrap();
    }
    assert!(parties::has_namespaces());
}
