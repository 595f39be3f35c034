//! A device of ours on host 1, and somebody on host 0 who does not play by the rules.

mod fake;
mod world;

use std::time::{Duration, Instant};

use fake::{Fake, LIMIT, Talk, now};
use network::tls::Identity;
use network::{ClientTls, Error, Server, ServerTls, Socket, UdpSocket};
use serde_json::{Value, json};
use world::{Device, World, names, world};

const ANNA: &str = "10.9.1.2:1716";

/// Anna, and somebody who is paired with her the weak way.
fn paired(world: &World, version: u64, script: &str) -> (Device, Fake, Talk) {
    let mut anna = world.device(1, "anna", &format!("accept\nwait-paired\n{script}\nquit"));
    anna.wait("started");
    let fake = Fake::new("f", version);
    let talk = fake.connect(ANNA).unwrap();
    talk.ask_to_pair();
    assert_eq!(talk.receive().unwrap()["body"]["pair"], true);
    anna.wait("done: wait-paired");
    (anna, fake, talk)
}

/// Offers a file, and serves these bytes when the device comes for them.
fn serve(talk: &Talk, identity: &Identity, name: &str, announced: u64, data: &[u8]) {
    let tls = ServerTls::from(identity.clone()).require_client_certificate();
    let server = Server::builder().tls(tls).timeout(LIMIT).bind(0).unwrap();
    // Somebody else's certificate ends the handshake, and nobody comes.
    server.set_accept_timeout(Duration::from_secs(5));
    talk.offer(name, announced, server.port());
    if let Ok(socket) = server.accept() {
        let send = |block| socket.send(block).and_then(|()| socket.flush());
        let _ = data.chunks(1 << 20).try_for_each(send).and_then(|()| socket.shutdown_write());
        // Until the device has taken it, or has refused it.
        let _ = socket.recv(1);
    }
}

fn no_parts(world: &World) {
    let left = names(&world.path("anna.files"));
    assert!(!left.iter().any(|name| name.contains("part")), "{left:?}");
}

#[test]
fn names_are_one_visible_component() {
    let Some(world) = world("names_are_one_visible_component", 1) else { return };
    let done = world.path("done");
    let (mut anna, fake, talk) = paired(&world, 8, &format!("wait {done}"));
    let long = "ü".repeat(150) + ".txt";
    for name in
        ["../x", "a/b", "/etc/passwd", "nul\0", "\u{202e}gpj.exe", ".hidden", "..", "", "twice.txt", "twice.txt", &long]
    {
        serve(&talk, &fake.tls, name, 4, b"data");
        anna.wait("received");
    }
    std::fs::write(done, "").unwrap();
    anna.finish();
    let expected = [
        "_.",
        "_._x",
        "_etc_passwd",
        "_gpj.exe",
        "_hidden",
        "a_b",
        "file",
        "nul_",
        "twice (1).txt",
        "twice.txt",
        &("ü".repeat(98) + ".txt"),
    ];
    let mut expected: Vec<&str> = expected.into();
    expected.sort_unstable();
    assert_eq!(names(&world.path("anna.files")), expected);
}

#[test]
fn payloads_that_are_not_what_was_announced() {
    let Some(world) = world("payloads_that_are_not_what_was_announced", 1) else { return };
    let done = world.path("done");
    let (mut anna, fake, talk) = paired(&world, 8, &format!("wait {done}"));
    // One whose sender says nothing more. It ends last.
    let silent = Server::builder().tls(ServerTls::from(fake.tls.clone())).bind(0).unwrap();
    talk.offer("silent", 10, silent.port());
    let _held = silent.accept().unwrap();

    serve(&talk, &fake.tls, "longer", 4, b"data and more");
    anna.wait("failed longer: The other side has sent more");
    serve(&talk, &fake.tls, "shorter", 40, b"data");
    anna.wait("failed shorter: The other side has sent less");
    serve(&talk, &Identity::in_memory("third").unwrap(), "third", 4, b"data");
    anna.wait("failed third");
    let nobody = std::net::TcpListener::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    talk.offer("nobody", 4, nobody);
    anna.wait("failed nobody");
    serve(&talk, &fake.tls, "good", 4, b"data");
    anna.wait("received");
    anna.wait("failed silent: The other side has stopped sending");
    std::fs::write(done, "").unwrap();
    anna.finish();
    assert_eq!(names(&world.path("anna.files")), ["good"]);
}

/// Somebody else comes for a file before the one it is for.
#[test]
fn a_third_party_gets_no_file() {
    let Some(world) = world("a_third_party_gets_no_file", 1) else { return };
    let file = world.path("secret");
    std::fs::write(&file, "secret").unwrap();
    let (mut anna, fake, talk) = paired(&world, 8, &format!("wait-secure fake\nsend {file}\nwait-sent"));
    let offer = talk.receive().unwrap();
    assert_eq!(offer["body"]["filename"], "secret");
    let port = offer["payloadTransferInfo"]["port"].as_u64().unwrap();
    assert!((1739..=1764).contains(&port));
    let come = |identity: &Identity| {
        let tls = ClientTls::danger_accept_any().identity(identity.clone());
        let socket = Socket::builder().tls(tls).timeout(LIMIT).connect(format!("10.9.1.2:{port}"))?;
        socket.recv_to_end(100)
    };
    for _ in 0..3 {
        let result = come(&Identity::in_memory("third").unwrap());
        assert!(result.is_err(), "{result:?}");
    }
    let _silent = std::net::TcpStream::connect(("10.9.1.2", port as u16)).unwrap();
    assert_eq!(come(&fake.tls).unwrap(), b"secret");
    anna.wait("sent secret");
    anna.finish();
}

/// Some other programs lose a file that they are offered before they have written the one before.
#[test]
fn another_program_gets_one_file_at_a_time() {
    let Some(world) = world("another_program_gets_one_file_at_a_time", 1) else { return };
    let files = ["first", "second"].map(|name| (name, world.path(name)));
    for (name, path) in &files {
        std::fs::write(path, name).unwrap();
    }
    let script = format!("wait-secure fake\nsend {}|{}\nwait-sent\nwait-sent", files[0].1, files[1].1);
    let (anna, fake, talk) = paired(&world, 8, &script);
    // Nor do all of them close the connection of a file that they have.
    let (mut taken, mut held) = (None, Vec::new());
    for (name, _) in files {
        let offer = talk.receive().unwrap();
        assert_eq!(offer["body"]["filename"], name);
        let pause = taken.map(|taken: Instant| taken.elapsed());
        assert!(pause.is_none_or(|pause| pause >= Duration::from_millis(80)), "{pause:?}");
        talk.socket.set_timeout(Duration::from_millis(500));
        assert!(matches!(talk.receive(), Err(Error::TimedOut { .. })), "two offers at a time");
        talk.socket.set_timeout(LIMIT);
        let address = format!("10.9.1.2:{}", offer["payloadTransferInfo"]["port"]);
        let tls = ClientTls::danger_accept_any().identity(fake.tls.clone());
        let socket = Socket::builder().tls(tls).timeout(LIMIT).connect(address).unwrap();
        assert_eq!(socket.recv_to_end(100).unwrap(), name.as_bytes());
        held.push(socket);
        taken = Some(Instant::now());
    }
    anna.finish();
}

#[test]
fn ten_thousand_identities() {
    let Some(world) = world("ten_thousand_identities", 1) else { return };
    let (mut anna, fake, talk) = paired(&world, 8, "wait-gone fake\nwait-secure fake\nwait-text end");
    let memory = |id: u32| -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let before = memory(anna.id());
    let socket = UdpSocket::bind(0).unwrap();
    for n in 0..10_000 {
        let mut other = fake.identity();
        other["body"]["deviceId"] = json!(format!("{n:032}"));
        other["body"]["deviceName"] = json!(format!("flood {n}"));
        // Not the port on which the paired one is called back.
        other["body"]["tcpPort"] = json!(1718);
        socket.send_to(other.to_string(), ANNA).unwrap();
    }
    // The paired one is heard all the same, even while that goes on.
    drop(talk);
    anna.wait("done: wait-gone fake");
    let talk = fake.be_heard_in_a_flood(ANNA).unwrap();
    anna.wait("done: wait-secure fake");
    let grown = memory(anna.id()).saturating_sub(before);
    talk.send("kdeconnect.share.request", json!({ "text": "end" }));
    let lines = anna.finish();
    let floods = |line: &&String| line.contains("device flood");
    let listed: std::collections::BTreeSet<&str> =
        lines.iter().filter(floods).filter_map(|line| line.split(" at ").next()?.split("flood ").nth(1)).collect();
    println!("{} of the identities were ever listed; {grown} KiB more", listed.len());
    assert!(grown < 20 << 10, "{grown} KiB");
}

/// Two hundred announce themselves ten times a second, and refuse each connection.
#[test]
fn strangers_that_refuse_are_left_alone() {
    let Some(world) = world("strangers_that_refuse_are_left_alone", 1) else { return };
    let done = world.path("done");
    let mut anna = world.device(1, "anna", &format!("wait-device fake\nwait {done}"));
    anna.wait("started");
    let socket = UdpSocket::bind(0).unwrap();
    let announce = |n: usize, port: u16| {
        let mut other = Fake::new("f", 7).identity();
        other["body"]["deviceId"] = json!(format!("{n:032}"));
        other["body"]["deviceName"] = json!("flood");
        other["body"]["tcpPort"] = json!(port);
        socket.send_to(other.to_string(), ANNA).unwrap();
    };
    let flood = |ports: usize| {
        let before = world.attempts(1);
        for _ in 0..30 {
            let begun = Instant::now();
            (0..200).for_each(|n| announce(n, 1718 + (n % ports) as u16));
            std::thread::sleep(Duration::from_millis(100).saturating_sub(begun.elapsed()));
        }
        world.attempts(1) - before
    };

    // Somebody is refused, listens then, and says so once, while its endpoint rests.
    announce(0, 1717);
    let until = Instant::now() + LIMIT;
    while world.attempts(1) == 0 {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    let talk = Fake::new("a", 8).be_heard(ANNA).unwrap();
    anna.wait("done: wait-device fake");
    drop(talk);

    let (one, forty) = (flood(1), flood(40));
    println!("{one} attempts in 3 s at one port, {forty} at forty");
    std::fs::write(done, "").unwrap();
    anna.finish();
    // After 0, 1 and 3 seconds. An address that appears at the start is a change of the network, and begins that anew.
    assert!((1..=8).contains(&one) && (40..=8 * 40).contains(&forty), "{one}, {forty}");
}

#[test]
fn handshakes_that_never_end() {
    let Some(world) = world("handshakes_that_never_end", 1) else { return };
    let mut anna = world.device(1, "anna", "wait-device fake\nquit");
    anna.wait("started");
    let silent: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(ANNA).unwrap()).collect();
    let half: Vec<_> = (0..100)
        .map(|n| {
            let other = Fake::new(&format!("{:04}", n), 8);
            let socket = Socket::builder().tls(false).connect(ANNA).unwrap();
            let _ = socket.sendline(other.identity().to_string()).and_then(|()| socket.flush());
            socket
        })
        .collect();
    let _talk = Fake::new("f", 8).connect(ANNA).unwrap();
    anna.finish();
    drop((silent, half));
}

#[test]
fn eight_links_of_strangers_at_most() {
    let Some(world) = world("eight_links_of_strangers_at_most", 1) else { return };
    let mut anna = world.device(1, "anna", "wait /never");
    anna.wait("started");
    let talks: Vec<_> = (0..12).map(|n| Fake::new(&format!("{n:04}"), 8).connect(ANNA)).collect();
    assert_eq!(talks.iter().filter(|talk| talk.is_ok()).count(), 8);
}

#[test]
fn a_full_disk() {
    let Some(world) = world("a_full_disk", 1) else { return };
    let files = world.path("anna.files");
    std::fs::create_dir(&files).unwrap();
    world::shell(&format!("mount -t tmpfs -o size=2m none {files}"));
    let done = world.path("done");
    let (mut anna, fake, talk) = paired(&world, 8, &format!("wait {done}"));
    serve(&talk, &fake.tls, "much", 20 << 20, &vec![0; 20 << 20]);
    anna.wait("failed much: The disk is full");
    no_parts(&world);
    serve(&talk, &fake.tls, "little", 4, b"data");
    anna.wait("received");
    std::fs::write(done, "").unwrap();
    anna.finish();
    assert_eq!(names(&files), ["little"]);
    world::shell(&format!("umount {files}"));
}

/// Version 8, line by line.
#[test]
fn version_8_is_kept_to() {
    let Some(world) = world("version_8_is_kept_to", 1) else { return };
    let (mut anna, fake, talk) = paired(&world, 8, "wait-gone fake\nwait-secure fake\nwait-text end");
    drop(talk);
    anna.wait("done: wait-gone");
    // Known to speak 8, it is not accepted with 7: neither is it connected to, nor listened to.
    let old = Fake { version: 7, id: fake.id.clone(), tls: fake.tls.clone(), near: false };
    let talk = old.open(ANNA);
    assert!(talk.is_err() || talk.unwrap().socket.recv(1).is_err());
    // It says something else inside.
    let other = Fake { version: 8, id: "o".repeat(32), tls: fake.tls.clone(), near: false };
    let talk = fake.open(ANNA).unwrap();
    talk.socket.sendline(other.identity().to_string()).unwrap();
    assert!(talk.receive().is_ok_and(|identity| identity["type"] == "kdeconnect.identity"));
    assert!(talk.socket.recv(1).is_err());
    // It is heard, and connected to.
    let talk = fake.be_heard(ANNA).unwrap();
    let (first, inside) = (talk.first.clone().unwrap(), talk.inside.clone().unwrap());
    assert_eq!(first["body"]["targetDeviceId"], Value::from(fake.id.clone()));
    assert_eq!(first["body"]["targetProtocolVersion"], 8);
    assert_eq!(first["body"]["deviceId"], inside["body"]["deviceId"]);
    assert_eq!(inside["body"]["protocolVersion"], 8);
    talk.send("kdeconnect.share.request", json!({ "text": "end" }));
    anna.finish();
}

#[test]
fn requests_to_pair_that_are_refused() {
    let Some(world) = world("requests_to_pair_that_are_refused", 1) else { return };
    let mut anna = world.device(1, "anna", "wait /never");
    anna.wait("started");
    let fake = Fake::new("f", 8);
    let ours = Fake { near: true, ..Fake::new("a", 8) };
    let refused = |fake: &Fake, body: Value| {
        let talk = fake.connect(ANNA).unwrap();
        talk.send("kdeconnect.pair", body);
        let answer = talk.receive().unwrap();
        assert_eq!((&answer["type"], &answer["body"]["pair"]), (&"kdeconnect.pair".into(), &false.into()));
    };
    refused(&fake, json!({ "pair": true, "timestamp": now() - 31 * 60 }));
    refused(&fake, json!({ "pair": true }));
    refused(&fake, json!({ "pair": true, "timestamp": now(), "near": { "cb": "AAAA" } }));
    // Two of ours do not pair the weak way.
    refused(&ours, json!({ "pair": true, "timestamp": now() }));
    // Before pairing, nothing else counts.
    let talk = fake.connect(ANNA).unwrap();
    talk.send("kdeconnect.share.request", json!({ "text": "not paired" }));
    talk.offer("file", 4, 1750);
    talk.ask_to_pair();
    anna.wait("AskedByThem");
    assert!(!anna.seen().iter().any(|line| line.contains("text") || line.contains("file")));
    assert!(names(&world.path("anna.files")).is_empty());
}

#[test]
fn a_thousand_links() {
    let Some(world) = world("a_thousand_links", 1) else { return };
    let (mut anna, fake, talk) = paired(&world, 8, "wait-text end");
    drop(talk);
    anna.wait("fake at 10.9.1.1: Gone");
    let descriptors = |anna: &Device| std::fs::read_dir(format!("/proc/{}/fd", anna.id())).unwrap().count();
    let round = || {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            match fake.connect(ANNA) {
                Ok(talk) => return talk,
                Err(Error::Refused { .. }) => panic!("it is gone"),
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
        }
    };
    for _ in 0..20 {
        drop(round());
    }
    anna.wait("fake at 10.9.1.1: Gone");
    let before = descriptors(&anna);
    let begun = Instant::now();
    for _ in 0..1000 {
        drop(round());
    }
    println!("1000 links in {:?}", begun.elapsed());
    let until = Instant::now() + Duration::from_secs(30);
    while descriptors(&anna) > before {
        assert!(Instant::now() < until, "{} descriptors, before {before}", descriptors(&anna));
        std::thread::sleep(Duration::from_millis(50));
    }
    let talk = round();
    talk.send("kdeconnect.share.request", json!({ "text": "end" }));
    anna.finish();
}
