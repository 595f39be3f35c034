use rustls::sign::CertifiedKey;

use super::super::trust::ClientVerifier;
use super::*;

/// The pieces of a pairing: a server that makes rules for clients, and a client that trusts it.
fn pairing() -> (User, User, ClientTls) {
    let (server, client) = (User::new(), User::new());
    let tls = ClientTls::pinned(server.identity("server").fingerprint());
    (server, client, tls)
}

#[test]
fn asked_clients_may_come_without_a_certificate() {
    let (server, client, tls) = pairing();
    let setup = server.serve_with(ServerTls::named("server").request_client_certificate());
    let identity = client.identity("me");
    assert_eq!(Pair::connected(&tls, &peer(), &setup).server.peer_fingerprint(), None);
    let pair = Pair::connected(&tls.identity(identity.clone()), &peer(), &setup);
    assert_eq!(pair.server.peer_fingerprint(), Some(identity.fingerprint()));
}

#[test]
fn a_required_certificate_is_asked_for_in_readable_words() {
    let (server, client, tls) = pairing();
    let setup = server.serve_with(ServerTls::named("server").require_client_certificate());
    let (at_client, at_server) = Pair::refused(&tls, &peer(), &setup);
    assert!(
        matches!(&at_client, Error::Rejected { problem, .. } if problem.contains("ClientTls::identity")),
        "{at_client}"
    );
    assert!(at_server.to_string().contains("presented no certificate"), "{at_server}");
    Pair::connected(&tls.identity(client.identity("me")), &peer(), &setup);
}

#[test]
fn only_those_on_the_list_come_in() {
    let (server, client, tls) = pairing();
    let (friend, foe) = (client.identity("friend"), client.identity("foe"));
    for fingerprint in [friend.fingerprint(), friend.certificate_fingerprint()] {
        let setup = server.serve_with(ServerTls::named("server").allow([fingerprint]));
        let pair = Pair::connected(&tls.clone().identity(friend.clone()), &peer(), &setup);
        assert_eq!(pair.server.peer_fingerprint(), Some(friend.fingerprint()));

        let (at_client, at_server) = Pair::refused(&tls.clone().identity(foe.clone()), &peer(), &setup);
        let ours = foe.fingerprint().to_string();
        assert!(matches!(&at_client, Error::Rejected { problem, .. } if problem.contains(&ours)), "{at_client}");
        let Error::UnknownCertificate { peer: shown, fingerprint, .. } = at_server else { panic!("{at_server}") };
        assert_eq!((shown.as_str(), *fingerprint), ("client:5", foe.fingerprint()));

        Pair::refused(&tls, &peer(), &setup);
    }
    let nobody = server.serve_with(ServerTls::named("server").allow::<&str>([]));
    Pair::refused(&tls.clone().identity(friend), &peer(), &nobody);
    // Asking only: none is well, a wrong one is not.
    let setup = server.serve_with(ServerTls::named("server").request_client_certificate().allow(["00".repeat(32)]));
    Pair::connected(&tls, &peer(), &setup);
    Pair::refused(&tls.identity(foe), &peer(), &setup);
}

#[test]
fn a_stolen_client_certificate_is_worth_nothing() {
    let (server, client, tls) = pairing();
    let (victim, thief) = (client.identity("victim"), client.identity("thief"));
    let mut forged = thief.clone().warned(String::new());
    let loaded = Arc::get_mut(&mut forged.inner).unwrap();
    loaded.key = Arc::new(CertifiedKey::new(victim.inner.key.cert.clone(), thief.inner.key.key.clone()));
    let forged = tls.clone().identity(forged);
    for versions in [TLS12, TLS13] {
        let identity = server.identity("server");
        let rules = ClientVerifier { required: true, allowed: Some(vec![victim.fingerprint()]) };
        let key = CertifiedKey::clone(&identity.inner.key);
        let setup = bare_server(&identity, key, versions, Some(Arc::new(rules)));
        let pair = Pair::connected(&tls.clone().identity(victim.clone()), &peer(), &setup);
        assert_eq!(pair.server.peer_fingerprint(), Some(victim.fingerprint()));
        // Under another name: to the shared configurations the two identities are one, since no program can forge one.
        let elsewhere = PeerName { key: "elsewhere:5".into(), host: None };
        let (_, at_server) = Pair::refused(&forged, &elsewhere, &setup);
        assert!(at_server.to_string().contains("private key"), "{at_server}");
    }
}

#[test]
fn a_resumed_session_remembers_the_client() {
    let (server, client, tls) = pairing();
    let me = client.identity("me");
    let setup = server.serve_with(ServerTls::named("server").allow([me.fingerprint()]));
    let server = PeerName { key: "mutual:1".into(), host: None };
    let tls = tls.identity(me.clone());
    Pair::connected(&tls, &server, &setup);
    let pair = Pair::connected(&tls, &server, &setup);
    assert!(pair.server.resumed());
    assert_eq!(pair.server.peer_fingerprint(), Some(me.fingerprint()));
    // Another identity does not borrow that session.
    Pair::refused(&ClientTls::pinned(setup.identity().fingerprint()).identity(client.identity("foe")), &server, &setup);
}
