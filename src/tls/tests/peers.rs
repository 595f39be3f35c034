//! What a program learns about its peer, and how it decides on one.

use super::super::{Trust, pin_in, pins_in, unpin_in};
use super::*;
use crate::certificate::Fingerprint;

/// A peer whose name is an address in its normalized form.
fn at(key: &str) -> PeerName {
    PeerName { key: key.into(), host: None }
}

/// Connects twice. The second session is resumed, and both are trusted for the same reason.
fn trusted(tls: &ClientTls, peer: &PeerName, setup: &ServerSetup) -> Option<Trust> {
    let first = Pair::connected(tls, peer, setup);
    let second = Pair::connected(tls, peer, setup);
    assert!(!first.client.resumed() && second.client.resumed());
    assert_eq!(first.client.peer_trust(), second.client.peer_trust());
    assert_eq!(first.client.peer_certificate(), second.client.peer_certificate());
    first.client.peer_trust()
}

#[test]
fn both_sides_see_the_certificate_of_the_other() {
    let (server, client) = (User::new(), User::new());
    let setup = server.serve_with(ServerTls::named("server").request_client_certificate());
    let me = client.identity("My laptop");
    let tls = ClientTls::pinned(setup.identity().fingerprint()).identity(me.clone());
    let pair = Pair::connected(&tls, &peer(), &setup);
    for (session, identity, name) in [(&pair.client, setup.identity(), "server"), (&pair.server, &me, "My laptop")] {
        let shown = session.peer_certificate().unwrap();
        assert_eq!(shown.der(), identity.certificate().as_ref());
        assert_eq!(shown.public_key(), identity.public_key());
        assert_eq!(shown.fingerprint(), identity.fingerprint());
        assert_eq!(shown.certificate_fingerprint(), identity.certificate_fingerprint());
        assert_eq!(shown.subject(), format!("CN={name}, O=glib-network"));
        assert_eq!(shown.issuer(), shown.subject());
        assert_eq!(shown.common_name().as_deref(), Some(name));
        let (begins, expires) = (shown.not_before().unwrap(), shown.not_after().unwrap());
        let years = expires.duration_since(begins).unwrap().as_secs() / (365 * 24 * 3600);
        assert_eq!(years, 10);
    }
    assert_eq!(pair.server.peer_trust(), Some(Trust::Unverified));
    let without = Pair::connected(&ClientTls::danger_accept_any(), &peer(), &setup);
    assert_eq!(without.server.peer_certificate(), None);
    assert_eq!(without.server.peer_trust(), None);
    let early = Pair::new(&tls, &peer(), &setup).unwrap();
    assert!(early.client.peer_certificate().is_none() && early.client.peer_trust().is_none());
}

#[test]
fn every_reason_of_trust_is_told_for_resumed_sessions_too() {
    let (user, stranger) = (User::new(), User::new());
    user.identity("server");
    user.settle();
    let (own, other) = (user.serve(), stranger.serve());
    let pem = fs_read(other.identity());
    let server = || at("desk.example:1");
    assert_eq!(trusted(&user.default_client(), &server(), &own), Some(Trust::Own));
    assert_eq!(trusted(&ClientTls::pinned(other.identity().fingerprint()), &server(), &other), Some(Trust::Pin));
    assert_eq!(trusted(&ClientTls::roots(pem), &server(), &other), Some(Trust::Roots));
    assert_eq!(trusted(&ClientTls::danger_accept_any(), &server(), &other), Some(Trust::Unverified));
    for (versions, address) in [(TLS12, "old.example:1"), (TLS13, "new.example:1")] {
        let setup = versioned_server(own.identity(), versions);
        assert_eq!(trusted(&user.default_client(), &at(address), &setup), Some(Trust::Own));
    }
    // The first use is that. The session that wrote the pin is not resumed.
    let tls = user.with(ClientTls::on_first_use());
    let first = Pair::connected(&tls, &at("first.example:1"), &other);
    assert_eq!(first.client.peer_trust(), Some(Trust::FirstUse));
    assert_eq!(trusted(&tls, &at("first.example:1"), &other), Some(Trust::FirstUse));
    assert_eq!(trusted(&user.default_client(), &at("first.example:1"), &other), Some(Trust::FirstUse));
    // Once somebody has confirmed it, it is a pin.
    pin_in(user.home.path(), "first.example:1", other.identity().fingerprint()).unwrap();
    assert_eq!(trusted(&tls, &at("first.example:1"), &other), Some(Trust::Pin));
    // A note of first use.
    let first = Pair::connected(&tls, &at("own.example:1"), &own);
    assert_eq!(first.client.peer_trust(), Some(Trust::Own));
    assert_eq!(trusted(&tls, &at("own.example:1"), &own), Some(Trust::Own));
    let listed = pins_in(user.home.path()).unwrap();
    let listed: Vec<_> = listed.iter().map(|pin| (pin.address(), pin.fingerprint(), pin.trust())).collect();
    let key = other.identity().fingerprint();
    assert_eq!(listed, [("first.example:1", Some(key), Trust::Pin), ("own.example:1", None, Trust::Own)]);
    // A file that is no pin hides no other.
    std::fs::write(user.home.path().join("peers/broken.example:1"), "?\n").unwrap();
    let listed = pins_in(user.home.path()).unwrap();
    assert_eq!(listed.iter().map(|pin| pin.address()).collect::<Vec<_>>(), ["first.example:1", "own.example:1"]);
    assert!(unpin_in(user.home.path(), "broken.example:1").unwrap());
}

fn fs_read(identity: &Identity) -> Vec<u8> {
    std::fs::read(identity.certificate_file().unwrap()).unwrap()
}

#[test]
fn clients_on_the_list_are_told_apart_in_resumed_sessions_too() {
    let (server, client) = (User::new(), User::new());
    let me = client.identity("me");
    let setup = server.serve_with(ServerTls::named("server").allow([me.fingerprint()]));
    let tls = ClientTls::pinned(setup.identity().fingerprint()).identity(me.clone());
    for resumed in [false, true] {
        let pair = Pair::connected(&tls, &peer(), &setup);
        assert_eq!(pair.server.resumed(), resumed);
        assert_eq!(pair.server.peer_trust(), Some(Trust::Allowlist));
        assert_eq!(pair.server.peer_certificate().unwrap().fingerprint(), me.fingerprint());
    }
}

#[test]
fn a_pin_counts_from_the_next_connection_whatever_could_be_resumed() {
    let (user, stranger) = (User::new(), User::new());
    let setup = stranger.serve();
    let server = at("decide.example:1");
    let tls = user.default_client();
    let home = user.home.path();
    let Error::UnknownCertificate { peer, fingerprint, .. } = Pair::refused(&tls, &server, &setup).0 else { panic!() };
    pin_in(home, &peer, fingerprint).unwrap();
    assert_eq!(trusted(&tls, &server, &setup), Some(Trust::Pin));
    // Another key: the tickets of the first one do not count.
    pin_in(home, "Decide.Example.:1", Fingerprint::of(b"another")).unwrap();
    assert!(matches!(Pair::refused(&tls, &server, &setup).0, Error::CertificateChanged { .. }));
    // Back again: at most the sessions of that key.
    pin_in(home, &peer, setup.identity().certificate_fingerprint()).unwrap();
    assert_eq!(Pair::connected(&tls, &server, &setup).client.peer_trust(), Some(Trust::Pin));
    assert!(unpin_in(home, &peer).unwrap());
    assert!(!unpin_in(home, &peer).unwrap());
    assert!(matches!(Pair::refused(&tls, &server, &setup).0, Error::UnknownCertificate { .. }));
    // First use counts again, and is told as that.
    let lenient = user.with(ClientTls::on_first_use());
    let again = Pair::connected(&lenient, &server, &setup);
    assert!(!again.client.resumed());
    assert_eq!(again.client.peer_trust(), Some(Trust::FirstUse));
    assert!(unpin_in(home, &peer).unwrap());
    assert!(matches!(Pair::refused(&tls, &server, &setup).0, Error::UnknownCertificate { .. }));
}

#[test]
fn malformed_arguments_write_nothing() {
    let user = User::new();
    for (address, fingerprint) in [("host:1", "abc"), ("./socket", &"0".repeat(64)), ("chat|", &"0".repeat(64))] {
        assert!(pin_in(user.home.path(), address, fingerprint).is_err(), "{address} {fingerprint}");
    }
    assert_eq!(std::fs::read_dir(user.home.path()).unwrap().count(), 0);
}

#[test]
fn the_name_of_a_service_comes_as_it_is_and_is_escaped_in_messages() {
    let (user, stranger) = (User::new(), User::new());
    let server = at("chat|My\nroom");
    let (error, _) = Pair::refused(&user.default_client(), &server, &stranger.serve());
    assert!(error.to_string().contains("certificate of chat|My\\nroom is"), "{error}");
    assert!(matches!(&error, Error::UnknownCertificate { peer, .. } if *peer == server.key));
    let (error, _) = Pair::refused(&ClientTls::pinned(Fingerprint::of(b"x")), &server, &stranger.serve());
    assert!(error.to_string().contains("chat|My\\nroom does not"), "{error}");
}

#[test]
fn both_sides_derive_the_same_keys_and_no_others() {
    let user = User::new();
    let setup = user.serve();
    let pair = Pair::connected(&user.default_client(), &peer(), &setup);
    let export = |label: &str, context: &[u8]| {
        let key = pair.client.export_key(label.as_bytes(), context, 32).unwrap();
        assert_eq!(pair.server.export_key(label.as_bytes(), context, 32).unwrap(), key);
        key
    };
    let keys = [export("a", b""), export("b", b""), export("a", b"c"), export(&"x".repeat(249), b"")];
    for (index, key) in keys.iter().enumerate() {
        assert!(!keys[..index].contains(key));
    }
    let other = Pair::connected(&user.default_client(), &peer(), &setup);
    assert_ne!(other.client.export_key(b"a", b"", 32).unwrap(), keys[0], "another connection has other keys");
    assert_eq!(pair.client.export_key(b"a", b"", 8160).unwrap().len(), 8160);
    for (label, length, words) in
        [("", 32, "is empty"), (&*"x".repeat(250), 32, "250 bytes"), ("a", 0, "0 bytes"), ("a", 8161, "8161 bytes")]
    {
        let error = pair.client.export_key(label.as_bytes(), b"", length).unwrap_err();
        assert!(matches!(&error, Error::InvalidOption(problem) if problem.contains(words)), "{error}");
    }
    let old = Pair::connected(&user.default_client(), &peer(), &versioned_server(setup.identity(), TLS12));
    let error = old.client.export_key(b"a", b"", 32).unwrap_err();
    assert!(matches!(&error, Error::Unsupported(problem) if problem.contains("TLS 1.2")), "{error}");
    let early = Pair::new(&user.default_client(), &peer(), &setup).unwrap();
    assert!(matches!(early.client.export_key(b"a", b"", 32), Err(Error::Tls { .. })));
}

#[test]
fn an_identity_in_memory_touches_no_file() {
    let user = User::new();
    let one = Identity::in_memory("My test").unwrap();
    assert_eq!(one.certificate_file(), None);
    assert!(one.warnings().is_empty());
    assert_ne!(one, Identity::in_memory("My test").unwrap());
    for (name, words) in [("", "empty"), ("a/b", "\"/\"")] {
        let error = Identity::in_memory(name).unwrap_err();
        assert!(matches!(&error, Error::TlsSettings(problem) if problem.contains(words)), "{error}");
    }
    let setup = ServerTls::from(one.clone()).setup().unwrap();
    let client = Identity::in_memory("client").unwrap();
    let tls = ClientTls::pinned(one.fingerprint()).identity(client);
    assert_eq!(
        Pair::connected(&tls, &peer(), &setup).client.peer_certificate().unwrap().subject(),
        "CN=My test, O=glib-network"
    );
    // It is nobody's own.
    assert!(matches!(Pair::refused(&user.default_client(), &peer(), &setup).0, Error::UnknownCertificate { .. }));
}
