use super::*;

#[test]
fn own_client_and_server_just_work() {
    let user = User::new();
    let setup = user.serve();
    let mut pair = Pair::connected(&user.default_client(), &peer(), &setup);
    send_all(&mut pair, true, b"ping");
    send_all(&mut pair, false, b"pong");
    assert_eq!((&*pair.at_server, &*pair.at_client), (&b"ping"[..], &b"pong"[..]));
    assert_eq!(pair.client.peer_fingerprint(), Some(setup.identity().fingerprint()));
    assert_eq!(pair.server.peer_fingerprint(), None);
    assert_eq!(pair.client.version(), Some("TLSv1.3"));
    assert!(pair.client.cipher_suite().unwrap().starts_with("TLS_"), "{:?}", pair.client.cipher_suite());
    assert_eq!(pair.client.alpn(), None);
    assert!(!pair.client.resumed());
}

#[test]
fn both_versions_carry_bulk_both_ways() {
    let user = User::new();
    let identity = user.identity("server");
    let data: Vec<u8> = (0..1_000_000u32).map(|index| (index % 251) as u8).collect();
    for (versions, name) in [(TLS12, "TLSv1.2"), (TLS13, "TLSv1.3")] {
        let mut pair = Pair::connected(&user.default_client(), &peer(), &versioned_server(&identity, versions));
        assert_eq!(pair.client.version(), Some(name));
        assert_eq!(pair.server.version(), Some(name));
        assert_eq!(pair.server.cipher_suite(), pair.client.cipher_suite());
        send_all(&mut pair, true, &data);
        send_all(&mut pair, false, &data);
        assert!(pair.at_server == data && pair.at_client == data);
    }
}

#[test]
fn what_is_sent_early_follows_the_hand_shake() {
    let user = User::new();
    let mut pair = Pair::new(&user.default_client(), &peer(), &user.serve()).unwrap();
    assert_eq!(pair.client.send(b"early "), 6);
    assert_eq!(pair.server.send(b"welcome"), 7);
    pair.run();
    assert_eq!((&*pair.at_server, &*pair.at_client), (&b"early "[..], &b"welcome"[..]));
}

#[test]
fn a_slow_peer_is_felt_by_the_sender() {
    let user = User::new();
    let mut pair = Pair::new(&user.default_client(), &peer(), &user.serve()).unwrap();
    let data = vec![7; 1 << 20];
    let early = pair.client.send(&data);
    assert!((16 << 10..=64 << 10).contains(&early), "{early}");
    assert_eq!(pair.client.send(&data), 0);
    pair.run();
    assert_eq!(pair.at_server.len(), early);

    let mut held = 0;
    while let taken @ 1.. = pair.client.send(&data) {
        held += taken;
    }
    assert!((16 << 10..=64 << 10).contains(&held), "{held}");
    let mut out = Vec::new();
    assert!(pair.client.wants_write());
    assert_eq!(pair.client.take_output(&mut out), out.len());
    assert!(out.len() < held + held / 8 + 1000 && !pair.client.wants_write());
    assert!(pair.client.send(&data) > 0, "there must be room again");
}

#[test]
fn output_can_go_straight_into_a_slow_sink() {
    struct Trickle(Vec<u8>);
    impl std::io::Write for Trickle {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            let taken = data.len().min(7);
            self.0.extend_from_slice(&data[..taken]);
            Ok(taken)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let user = User::new();
    let mut pair = Pair::connected(&user.default_client(), &peer(), &user.serve());
    pair.client.send(b"through the straw");
    let mut sink = Trickle(Vec::new());
    while pair.client.wants_write() {
        assert!(pair.client.write_output(&mut sink).unwrap() <= 7);
    }
    pair.server.receive(&sink.0, &mut pair.at_server).unwrap();
    assert_eq!(pair.at_server, b"through the straw");
}

#[test]
fn the_end_mark_tells_an_end_from_a_cut() {
    let user = User::new();
    let setup = user.serve();
    let mut pair = Pair::new(&user.default_client(), &peer(), &setup).unwrap();
    let error = pair.client.end().unwrap_err();
    assert!(
        error.is_temporary() && error.to_string().contains("closed the connection during the handshake"),
        "{error}"
    );
    assert_eq!(error.again().unwrap().to_string(), error.to_string());

    pair.run();
    pair.client.send(b"all I have");
    pair.client.close_notify();
    assert_eq!(pair.client.send(b"more"), 0);
    pair.run();
    assert_eq!(pair.at_server, b"all I have");
    assert!(pair.server.peer_closed() && pair.server.end().is_ok());

    // The other direction goes on until its own end.
    assert!(!pair.client.peer_closed());
    send_all(&mut pair, false, b"answer");
    assert_eq!(pair.at_client, b"answer");
    let error = pair.client.end().unwrap_err();
    assert!(matches!(&error, Error::Truncated { peer } if peer == "server.example:1234"), "{error}");
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    pair.server.close_notify();
    pair.run();
    assert!(pair.client.end().is_ok());
}

#[test]
fn bytes_after_the_end_mark_are_ignored() {
    let user = User::new();
    let mut pair = Pair::connected(&user.default_client(), &peer(), &user.serve());
    pair.client.send(b"last");
    pair.client.close_notify();
    let mut wire = Vec::new();
    pair.client.take_output(&mut wire);
    wire.extend_from_slice(&[0x17; 10_000]);
    pair.server.receive(&wire, &mut pair.at_server).unwrap();
    assert_eq!(pair.at_server, b"last");
    pair.server.receive(&[0x17; 100], &mut pair.at_server).unwrap();
    assert!(pair.server.end().is_ok());
}

#[test]
fn application_protocols_are_agreed_on() {
    let user = User::new();
    let plain = user.serve();
    let setup = user.serve_with(ServerTls::named("server").alpn(["chat/2", "chat/1"]));
    let client = user.default_client();
    let pair = Pair::connected(&client.clone().alpn(["chat/1", "chat/2"]), &peer(), &setup);
    assert_eq!(pair.client.alpn(), Some(&b"chat/2"[..]));
    assert_eq!(pair.server.alpn(), Some(&b"chat/2"[..]));
    assert_eq!(Pair::connected(&client, &peer(), &setup).client.alpn(), None);
    assert_eq!(Pair::connected(&client.clone().alpn(["chat/1"]), &peer(), &plain).client.alpn(), None);
    let (at_client, at_server) = Pair::refused(&client.alpn(["news/1"]), &peer(), &setup);
    assert!(matches!(&at_client, Error::Rejected { problem, .. } if problem.contains("ALPN")), "{at_client}");
    assert!(matches!(&at_server, Error::Tls { problem, .. } if problem.contains("ALPN")), "{at_server}");
}

#[test]
fn sessions_resume_however_often_the_settings_are_made_anew() {
    let user = User::new();
    let identity = user.identity("server");
    user.settle();
    for versions in [TLS12, TLS13] {
        let setup = versioned_server(&identity, versions);
        let server = PeerName { key: format!("resume:{}", versions.len()), host: None };
        // A server started anew has other ticket keys; the first connection to it is a full one.
        Pair::connected(&user.default_client(), &server, &setup);
        for _ in 0..12 {
            let pair = Pair::connected(&user.default_client(), &server, &setup);
            assert!(pair.client.resumed() && pair.server.resumed());
            assert_eq!(pair.client.peer_fingerprint(), Some(identity.fingerprint()));
        }
        let other = PeerName { key: "elsewhere:1".into(), host: None };
        assert!(!Pair::connected(&user.default_client(), &other, &setup).client.resumed());
    }
}

#[test]
fn switches_convert() {
    use super::super::Tls;
    assert!(matches!(Tls::<ServerTls>::from(false), Tls::Off));
    assert!(matches!(Tls::<ServerTls>::from("name"), Tls::On(_)));
    assert!(matches!(Tls::from(ServerTls::default()), Tls::On(_)));
    assert!(matches!(Tls::<ClientTls>::from(true), Tls::On(tls) if tls == ClientTls::default()));
}
