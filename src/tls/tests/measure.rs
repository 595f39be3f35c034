//! What a session costs beside bare rustls, in one run. Not a test that could fail:
//! `cargo test --release --lib tls::tests::measure -- --ignored --nocapture`

use std::hint::black_box;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConnection};

use super::*;

const CHUNK: usize = 64 << 10;

/// The shortest of several alternating runs of each, since other programs only ever add time.
fn compare(what: &str, times: u32, mut ours: impl FnMut() -> Duration, mut bare: impl FnMut() -> Duration) {
    let (mut best_ours, mut best_bare) = (Duration::MAX, Duration::MAX);
    for _ in 0..15 {
        best_ours = best_ours.min(ours());
        best_bare = best_bare.min(bare());
    }
    let ratio = best_ours.as_secs_f64() / best_bare.as_secs_f64();
    println!("{what}: ours {:?}, bare {:?}, ratio {ratio:.3}", best_ours / times, best_bare / times);
}

fn timed(times: u32, mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..times).for_each(|_| work());
    start.elapsed()
}

fn carry(from: &mut Connection, to: &mut Connection, wire: &mut Vec<u8>) -> bool {
    wire.clear();
    while from.wants_write() {
        from.write_tls(wire).unwrap();
    }
    let mut rest = &wire[..];
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets().unwrap();
    }
    !wire.is_empty()
}

fn pump(client: &mut Connection, server: &mut Connection) {
    let mut wire = Vec::new();
    while carry(client, server, &mut wire) | carry(server, client, &mut wire) {}
}

#[test]
#[ignore = "a measurement"]
fn beside_bare_rustls() {
    let user = User::new();
    let setup = user.serve();
    let tls = user.default_client();
    let local = PeerName { key: "localhost:1".into(), host: Some("localhost".into()) };
    user.settle();

    let mut roots = RootCertStore::empty();
    roots.add(setup.identity().certificate().clone()).unwrap();
    let config = |tickets: bool| {
        let mut config = ClientConfig::builder_with_provider(provider().clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        if !tickets {
            config.resumption = rustls::client::Resumption::disabled();
        }
        Arc::new(config)
    };
    let bare_pair = |config: &Arc<ClientConfig>| {
        let name = ServerName::try_from("localhost").unwrap();
        let mut client: Connection = ClientConnection::new(config.clone(), name).unwrap().into();
        let mut server: Connection = ServerConnection::new(setup.config.clone()).unwrap().into();
        pump(&mut client, &mut server);
        (client, server)
    };

    let data = vec![7; CHUNK];
    let mut pair = Pair::connected(&tls, &local, &setup);
    let (mut client, mut server) = bare_pair(&config(true));
    let (mut wire, mut plain, mut buffer) = (Vec::new(), Vec::new(), vec![0; CHUNK]);
    let mut bare_wire = Vec::new();
    compare(
        "bulk, 64 KiB",
        1000,
        || {
            timed(1000, || {
                let mut rest = &data[..];
                while !rest.is_empty() {
                    let taken = pair.client.send(rest);
                    rest = &rest[taken..];
                    wire.clear();
                    pair.client.take_output(&mut wire);
                    plain.clear();
                    pair.server.receive(&wire, &mut plain).unwrap();
                    black_box(&plain);
                }
            })
        },
        || {
            timed(1000, || {
                let mut rest = &data[..];
                while !rest.is_empty() {
                    let taken = client.writer().write(rest).unwrap();
                    rest = &rest[taken..];
                    bare_wire.clear();
                    while client.wants_write() {
                        client.write_tls(&mut bare_wire).unwrap();
                    }
                    let mut cipher = &bare_wire[..];
                    while !cipher.is_empty() {
                        server.read_tls(&mut cipher).unwrap();
                        let count = server.process_new_packets().unwrap().plaintext_bytes_to_read();
                        server.reader().read_exact(&mut buffer[..count]).unwrap();
                        black_box(&buffer);
                    }
                }
            })
        },
    );

    let counter = std::cell::Cell::new(0);
    let full = config(false);
    compare(
        "full handshake, own certificate",
        100,
        || {
            timed(100, || {
                counter.set(counter.get() + 1);
                let peer = PeerName { key: format!("localhost:{}", counter.get()), host: Some("localhost".into()) };
                black_box(Pair::connected(&tls, &peer, &setup));
            })
        },
        || timed(100, || drop(black_box(bare_pair(&full)))),
    );
    let resuming = config(true);
    compare(
        "resumed handshake",
        100,
        || timed(100, || drop(black_box(Pair::connected(&tls, &local, &setup)))),
        || timed(100, || drop(black_box(bare_pair(&resuming)))),
    );
    println!("settings looked up for a connection: {:?}", timed(1000, || drop(tls.prepare(&local))) / 1000);
    let start = Instant::now();
    let loaded = super::super::load_system_roots();
    println!("the system's roots, once: {:?} ({loaded:?})", start.elapsed());
    println!("Session: {} bytes", size_of::<Session>());

    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        4096 * text.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
    };
    let before = resident();
    let idle: Vec<_> = (0..2000)
        .map(|_| {
            let pair = Pair::connected(&tls, &local, &setup);
            (Box::new(pair.client), Box::new(pair.server))
        })
        .collect();
    println!("resident per idle session: {} bytes", (resident() - before) / 4000);
    drop(idle);
}
