use proptest::prelude::*;

use super::*;

/// Making certificates for each case of a property would be most of its work.
fn pair() -> Pair {
    use std::sync::LazyLock;
    static SERVER: LazyLock<(User, Arc<ServerSetup>)> = LazyLock::new(|| {
        let user = User::new();
        let setup = user.serve();
        (user, setup)
    });
    Pair::new(&ClientTls::danger_accept_any(), &peer(), &SERVER.1).unwrap()
}

fn connected() -> Pair {
    let mut pair = pair();
    pair.run();
    assert!(!pair.client.is_handshaking());
    pair
}

#[test]
fn plaintext_is_told_by_name_and_with_what_to_set() {
    for text in ["SSH-2.0-x\r\n", "Welcome to this server!\n", "220 ready\r\n", "\r\n", "\n", " "] {
        let mut pair = pair();
        let mut plain = Vec::new();
        for (session, side) in [(&mut pair.client, "replied"), (&mut pair.server, "sent")] {
            // The first byte alone says it already.
            for piece in [&text.as_bytes()[..1], text.as_bytes()] {
                let error = session.receive(piece, &mut plain).unwrap_err();
                assert!(matches!(error, Error::Plaintext { .. }), "{error}");
                assert!(error.to_string().contains("tls(false)") && error.to_string().contains(side), "{error}");
            }
        }
        assert!(plain.is_empty());
    }
    let error = pair().server.receive(&[0x80, 0x2e, 1, 3, 1], &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
}

#[test]
fn whoever_sends_our_own_words_back_speaks_no_tls() {
    for by_bytes in [false, true] {
        let mut pair = pair();
        let mut wire = Vec::new();
        pair.client.take_output(&mut wire);
        let pieces = if by_bytes { wire.chunks(1) } else { wire.chunks(wire.len()) };
        let errors: Vec<_> = pieces.filter_map(|piece| pair.client.receive(piece, &mut Vec::new()).err()).collect();
        let error = errors.first().expect("it is found out");
        assert!(matches!(error, Error::Plaintext { .. }), "{error}");
        assert!(
            error.to_string().contains("not appear to speak TLS; to use no encryption, connect with tls(false)"),
            "{error}"
        );
    }
}

#[test]
fn whoever_answers_with_what_only_looks_like_tls_speaks_none() {
    let long = [22, 3, 1, 0, 5, 1, 255, 255, 255, 255];
    let empty = [22, 3, 3, 0, 0];
    let huge = [22, 3, 3, 255, 255];
    for answer in [&long[..], &empty, &huge] {
        let error = pair().client.receive(answer, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, Error::Plaintext { .. }), "{error}");
        // Clients may be broken in any way: they have no such advice to follow.
        let error = pair().server.receive(answer, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error}");
    }
    // Once TLS is agreed on, it is damage.
    let error = connected().client.receive(&long, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
}

#[test]
fn bytes_may_trickle() {
    let mut pair = pair();
    pair.client.send(b"one by one");
    for _ in 0..6 {
        let mut wire = Vec::new();
        pair.client.take_output(&mut wire);
        wire.iter().for_each(|byte| pair.server.receive(&[*byte], &mut pair.at_server).unwrap());
        wire.clear();
        pair.server.take_output(&mut wire);
        wire.iter().for_each(|byte| pair.client.receive(&[*byte], &mut pair.at_client).unwrap());
    }
    assert_eq!(pair.at_server, b"one by one");
}

#[test]
fn what_came_before_the_damage_is_delivered() {
    let mut pair = connected();
    let mut wire = Vec::new();
    pair.client.send(b"good");
    pair.client.take_output(&mut wire);
    let whole = wire.len();
    pair.client.send(b"evil");
    pair.client.take_output(&mut wire);
    wire[whole + 8] ^= 1;
    let error = pair.server.receive(&wire, &mut pair.at_server).unwrap_err();
    assert!(matches!(&error, Error::Tls { problem, .. } if problem.contains("damaged or forged")), "{error}");
    assert_eq!(pair.at_server, b"good");
    // It stays broken, and the peer is told.
    assert!(pair.server.receive(&wire[..whole], &mut pair.at_server).is_err());
    assert_eq!(pair.at_server, b"good");
    pair.run();
    assert!(matches!(pair.client_error, Some(Error::Rejected { .. })), "{:?}", pair.client_error);
}

#[test]
fn a_key_update_is_survived() {
    let mut pair = connected();
    for _ in 0..3 {
        pair.client.refresh_keys_for_test();
        send_all(&mut pair, true, b"x");
        pair.server.refresh_keys_for_test();
        send_all(&mut pair, false, b"y");
    }
    assert_eq!((&*pair.at_server, &*pair.at_client), (&b"xxx"[..], &b"yyy"[..]));
}

/// Everything a session can be asked, which must never panic.
fn poke(session: &mut Session) {
    session.send(b"poke");
    session.take_output(&mut Vec::new());
    let _ = (session.end(), session.peer_fingerprint(), session.version(), session.cipher_suite(), session.resumed());
    let _ = (session.alpn(), session.wants_write(), session.peer_closed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn garbage_is_an_error_value(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..600), 1..8)) {
        let mut fresh = pair();
        let mut old = connected();
        for session in [&mut fresh.client, &mut fresh.server, &mut old.client, &mut old.server] {
            let mut plain = Vec::new();
            let mut failed = false;
            for chunk in &chunks {
                let outcome = session.receive(chunk, &mut plain);
                prop_assert!(!failed || outcome.is_err(), "an error must be final");
                failed |= outcome.is_err();
                poke(session);
            }
            prop_assert!(plain.is_empty());
        }
    }

    #[test]
    fn records_of_garbage_are_error_values(kind in 0x14u8..0x19, body in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut record = vec![kind, 3, 3];
        record.extend_from_slice(&(body.len() as u16).to_be_bytes());
        record.extend_from_slice(&body);
        let mut fresh = pair();
        let mut old = connected();
        for session in [&mut fresh.client, &mut fresh.server, &mut old.client, &mut old.server] {
            let mut plain = Vec::new();
            let _ = session.receive(&record, &mut plain);
            poke(session);
            prop_assert!(plain.is_empty());
        }
    }

    #[test]
    fn damage_anywhere_in_the_hand_shake_never_delivers(at in 0usize..3000, bit in 0u8..8, flight in 0usize..3) {
        let mut pair = pair();
        pair.client.send(b"secret");
        let mut wire = Vec::new();
        for step in 0..3 {
            wire.clear();
            let to_server = step % 2 == 0;
            if to_server { pair.client.take_output(&mut wire) } else { pair.server.take_output(&mut wire) };
            if wire.is_empty() {
                break;
            }
            if step == flight {
                let at = at % wire.len();
                wire[at] ^= 1 << bit;
            }
            let outcome = if to_server {
                pair.server.receive(&wire, &mut pair.at_server)
            } else {
                pair.client.receive(&wire, &mut pair.at_client)
            };
            if outcome.is_err() {
                break;
            }
        }
        // The versions in the heads of records are not protected; all else is.
        prop_assert!(pair.at_server.is_empty() || pair.at_server == b"secret");
        prop_assert!(pair.at_client.is_empty());
        poke(&mut pair.client);
        poke(&mut pair.server);
    }

    #[test]
    fn any_cut_of_the_stream_gives_the_same_text(
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40_000), 1..4),
        cut in 1usize..5000,
    ) {
        let mut pair = connected();
        let mut all = Vec::new();
        for text in &texts {
            let taken = pair.client.send(text);
            prop_assert_eq!(taken, text.len());
            all.extend_from_slice(text);
            let mut wire = Vec::new();
            pair.client.take_output(&mut wire);
            for piece in wire.chunks(cut) {
                pair.server.receive(piece, &mut pair.at_server).unwrap();
            }
        }
        prop_assert!(pair.at_server == all);
    }
}
