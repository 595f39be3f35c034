use std::fs;

use rustls::sign::CertifiedKey;

use super::super::peers::Condition;
use super::*;
use crate::certificate::Fingerprint;

fn pin_by_hand(user: &User, key: &str, pin: impl ToString) {
    let file = user.store().pin_file(key);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, pin.to_string()).unwrap();
}

fn service() -> PeerName {
    PeerName { key: "service|My room".into(), host: None }
}

#[test]
fn a_strangers_certificate_is_refused_with_the_next_step() {
    let (user, stranger) = (User::new(), User::new());
    let setup = stranger.serve();
    for peer in [peer(), service()] {
        let (at_client, at_server) = Pair::refused(&user.default_client(), &peer, &setup);
        let text = at_client.to_string();
        let Error::UnknownCertificate { peer: shown, fingerprint, certificate, .. } = at_client else {
            panic!("{at_client}");
        };
        assert_eq!(shown, peer.key);
        assert_eq!(*fingerprint, setup.identity().fingerprint());
        assert_eq!(certificate.fingerprint(), setup.identity().fingerprint());
        let of_certificate = setup.identity().certificate_fingerprint();
        assert_eq!(certificate.certificate_fingerprint(), of_certificate);
        assert_eq!(certificate.subject(), "CN=server, O=glib-network");
        for needle in ["ClientTls::pinned", &fingerprint.to_string(), &of_certificate.to_string(), "peers/"] {
            assert!(text.contains(needle), "{text}");
        }
        assert!(
            matches!(&at_server, Error::Rejected { problem, .. } if problem.contains("our certificate")),
            "{at_server}"
        );
    }
}

#[test]
fn a_pin_lets_in_by_key_or_certificate() {
    let (user, stranger) = (User::new(), User::new());
    let setup = stranger.serve();
    let identity = setup.identity();
    for pin in [identity.fingerprint(), identity.certificate_fingerprint()] {
        Pair::connected(&ClientTls::pinned(pin), &peer(), &setup);
        Pair::connected(&ClientTls::pinned(pin.to_string().to_uppercase()), &service(), &setup);
        pin_by_hand(&user, &peer().key, pin);
        Pair::connected(&user.default_client(), &peer(), &setup);
    }
}

#[test]
fn a_pin_alone_decides() {
    let user = User::new();
    let setup = user.serve(); // which would be trusted as the user's own
    let pin = Fingerprint::of(b"another");
    pin_by_hand(&user, &peer().key, pin);
    let kept = ["HAS CHANGED", "/peers/"];
    // One that was given may be mistyped: nothing is known to have changed.
    let given = ["does not have the pinned key", "ClientTls::pinned"];
    for (tls, words) in
        [(user.default_client(), kept), (user.with(ClientTls::on_first_use()), kept), (ClientTls::pinned(pin), given)]
    {
        let (error, _) = Pair::refused(&tls, &peer(), &setup);
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
        assert_eq!(error.to_string().contains("HAS CHANGED"), words == kept, "{error}");
        let Error::CertificateChanged { pinned, fingerprint, .. } = error else { panic!("{error}") };
        assert_eq!((*pinned, *fingerprint), (pin, setup.identity().fingerprint()));
    }
    Pair::connected(&user.default_client(), &service(), &setup);
    // A pin that cannot be read is none of "no pin".
    pin_by_hand(&user, &peer().key, "garbage");
    let error = Session::client(&user.default_client(), &peer()).err().unwrap();
    assert!(matches!(error, Error::Identity { .. }), "{error}");
}

#[test]
fn first_use_pins_and_then_holds() {
    let (user, stranger, thief) = (User::new(), User::new(), User::new());
    let setup = stranger.serve();
    let tls = user.with(ClientTls::on_first_use());
    let mut pair = Pair::connected(&tls, &service(), &setup);
    send_all(&mut pair, true, b"hello");
    assert_eq!(pair.at_server, b"hello");
    assert_eq!(user.store().pin("service|My room").unwrap(), Some(Condition::FirstUse(setup.identity().fingerprint())));
    Pair::connected(&user.default_client(), &service(), &setup);
    let (error, _) = Pair::refused(&tls, &service(), &thief.serve());
    assert!(matches!(error, Error::CertificateChanged { .. }), "{error}");
    Pair::connected(&tls, &service(), &setup);
}

#[test]
fn first_use_accepts_nothing_weaker_than_an_own_certificate_after_one() {
    let (user, impostor) = (User::new(), User::new());
    let (setup, forged) = (user.serve(), impostor.serve());
    let tls = user.with(ClientTls::on_first_use());
    Pair::connected(&tls, &peer(), &setup);
    assert_eq!(user.store().pin(&peer().key).unwrap(), Some(Condition::Own));
    for _ in 0..2 {
        let (error, _) = Pair::refused(&tls, &peer(), &forged);
        assert!(matches!(error, Error::UnknownCertificate { .. }), "{error}");
        assert!(error.to_string().contains("one of your own certificates") && error.to_string().contains("peers/"));
        Pair::connected(&tls, &peer(), &setup);
    }
    // Any of the user's own will do.
    Pair::connected(&tls, &peer(), &user.serve_with(ServerTls::named("another")));
    assert_eq!(user.store().pin(&peer().key).unwrap(), Some(Condition::Own));
    // A session that was let in by that must not outlive it.
    user.settle();
    Pair::connected(&tls, &peer(), &setup);
    assert!(Pair::connected(&tls, &peer(), &setup).client.resumed());
    fs::remove_file(user.store().key_file("server")).unwrap();
    Pair::refused(&tls, &peer(), &setup);
}

#[test]
fn keys_and_certificates_replaced_in_place_count_from_the_next_connection_on() {
    for file in ["server.key", "server.pem"] {
        let user = User::new();
        let setup = user.serve();
        user.identity("other");
        let store = user.store();
        let (old, new) = match file {
            "server.key" => (store.key_file("server"), store.key_file("other")),
            _ => (store.certificate_file("server"), store.certificate_file("other")),
        };
        let server = PeerName { key: format!("replaced:{file}"), host: None };
        user.settle();
        Pair::connected(&user.default_client(), &server, &setup);
        assert!(Pair::connected(&user.default_client(), &server, &setup).client.resumed());
        // As by `cat other > file`, which changes no directory, and with the time set back.
        let modified = fs::metadata(&old).unwrap().modified().unwrap();
        fs::write(&old, fs::read(&new).unwrap()).unwrap();
        fs::File::options().write(true).open(&old).unwrap().set_modified(modified).unwrap();
        for _ in 0..2 {
            let (error, _) = Pair::refused(&user.default_client(), &server, &setup);
            assert!(matches!(error, Error::UnknownCertificate { .. }), "{file}: {error}");
            user.settle();
        }
    }
}

#[test]
fn a_handshake_under_way_while_a_key_is_replaced_revives_no_session() {
    let user = User::new();
    let setup = user.serve();
    user.identity("other");
    let server = PeerName { key: "race:1".into(), host: None };
    let tls = user.default_client();
    user.settle();
    Pair::connected(&tls, &server, &setup);
    // A session that has no ticket to resume by, prepared before the change and judged after it.
    let fresh = versioned_server(&user.identity("server"), TLS12);
    let mut late = Pair::new(&tls, &server, &fresh).unwrap();
    fs::copy(user.store().key_file("other"), user.store().key_file("server")).unwrap();
    late.run();
    assert!(late.client_error.is_some());
    for _ in 0..2 {
        Pair::refused(&tls, &server, &setup);
    }
}

#[test]
fn a_key_that_others_can_read_or_replace_makes_nobody_own() {
    use std::os::unix::fs::PermissionsExt;
    let user = User::new();
    let setup = user.serve();
    let (key, directory) = (user.store().key_file("server"), user.home.path().join("private"));
    if rustix::process::geteuid().is_root() {
        // Root's own group is nobody else.
        for path in [&key, &directory] {
            std::os::unix::fs::chown(path, None, Some(1234)).unwrap();
        }
    }
    let cases = [(0o640, 0o700), (0o660, 0o700), (0o604, 0o700), (0o600, 0o777), (0o600, 0o770)];
    for (mode, directory_mode) in cases {
        fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
        fs::set_permissions(&directory, PermissionsExt::from_mode(directory_mode)).unwrap();
        let (error, _) = Pair::refused(&user.default_client(), &peer(), &setup);
        let text = error.to_string();
        assert!(matches!(error, Error::UnknownCertificate { .. }), "{mode:o}: {error}");
        assert!(text.contains("other users; run chmod") && text.contains("server.key"), "{mode:o}: {text}");
        let warnings = user.identity("server").warnings().join("; ");
        assert!(warnings.contains("other users; run chmod"), "{mode:o} {directory_mode:o}: {warnings}");
    }
    fs::set_permissions(&directory, PermissionsExt::from_mode(0o700)).unwrap();
    Pair::connected(&user.default_client(), &peer(), &setup);
    user.settle();
    Pair::connected(&user.default_client(), &peer(), &setup);
    // Sessions that were let in before it was opened do not go on.
    fs::set_permissions(&key, PermissionsExt::from_mode(0o604)).unwrap();
    Pair::refused(&user.default_client(), &peer(), &setup);
}

#[test]
fn of_two_first_uses_at_once_one_pin_comes() {
    let (user, one, two) = (User::new(), User::new(), User::new());
    let tls = user.with(ClientTls::on_first_use());
    let (one, two) = (one.serve(), two.serve());
    let mut first = Pair::new(&tls, &service(), &one).unwrap();
    let mut second = Pair::new(&tls, &service(), &two).unwrap();
    first.run();
    second.run();
    assert!(first.client_error.is_none());
    assert!(matches!(second.client_error, Some(Error::CertificateChanged { .. })), "{:?}", second.client_error);
    assert_eq!(user.store().pin("service|My room").unwrap(), Some(Condition::FirstUse(one.identity().fingerprint())));
}

#[test]
fn first_use_that_cannot_pin_fails() {
    let (user, stranger) = (User::new(), User::new());
    fs::create_dir(user.home.path().join(".lock")).unwrap();
    let (error, _) = Pair::refused(&user.with(ClientTls::on_first_use()), &peer(), &stranger.serve());
    assert!(matches!(&error, Error::Identity { path, .. } if path.ends_with(".lock")), "{error}");
    assert!(error.to_string().contains(&format!(": cannot pin the certificate of {}: ", peer().key)), "{error}");
}

#[test]
fn a_stolen_certificate_is_worth_nothing_without_its_key() {
    let (user, thief) = (User::new(), User::new());
    let victim = user.identity("server");
    let loot = thief.identity("loot");
    let forged = CertifiedKey::new(victim.inner.key.cert.clone(), loot.inner.key.key.clone());
    let anybody = User::new();
    let trusting = [
        user.default_client(),
        ClientTls::pinned(victim.fingerprint()),
        ClientTls::pinned(victim.certificate_fingerprint()),
        anybody.with(ClientTls::on_first_use()),
        ClientTls::danger_accept_any(),
        ClientTls::roots(fs::read(victim.certificate_file().unwrap()).unwrap()),
    ];
    for versions in [TLS12, TLS13] {
        let setup = bare_server(&victim, forged.clone(), versions, None);
        for tls in &trusting {
            Pair::connected(
                tls,
                &PeerName { key: "honest:1".into(), host: None },
                &versioned_server(&victim, versions),
            );
            let (error, _) = Pair::refused(tls, &peer(), &setup);
            assert!(matches!(&error, Error::Tls { problem, .. } if problem.contains("private key")), "{error}");
        }
    }
    assert_eq!(anybody.store().pin(&peer().key).unwrap(), None, "what was not proven must not be pinned");
}

#[test]
fn a_copy_of_a_certificate_makes_nobody_own() {
    let (user, friend) = (User::new(), User::new());
    user.identity("mine");
    let setup = friend.serve();
    fs::copy(setup.identity().certificate_file().unwrap(), user.store().certificate_file("friend")).unwrap();
    let (error, _) = Pair::refused(&user.default_client(), &peer(), &setup);
    assert!(matches!(error, Error::UnknownCertificate { .. }), "{error}");
    // Nor with some key beside it.
    fs::copy(user.store().key_file("mine"), user.store().key_file("friend")).unwrap();
    let (error, _) = Pair::refused(&user.default_client(), &peer(), &setup);
    assert!(matches!(error, Error::UnknownCertificate { .. }), "{error}");
}

#[test]
fn no_ticket_gets_around_a_change_of_mind() {
    let user = User::new();
    let setup = user.serve();
    let server = PeerName { key: "mind:1".into(), host: None };
    let tls = || user.default_client();
    user.settle();
    Pair::connected(&tls(), &server, &setup);
    assert!(Pair::connected(&tls(), &server, &setup).client.resumed());
    // Another pin.
    pin_by_hand(&user, "mind:1", Fingerprint::of(b"another"));
    assert!(matches!(Pair::refused(&tls(), &server, &setup).0, Error::CertificateChanged { .. }));
    // The right one: verified once, then resumed.
    pin_by_hand(&user, "mind:1", setup.identity().fingerprint());
    assert!(!Pair::connected(&tls(), &server, &setup).client.resumed());
    assert!(Pair::connected(&tls(), &server, &setup).client.resumed());
    // No pin, and no longer one's own.
    fs::remove_file(user.store().pin_file("mind:1")).unwrap();
    fs::remove_file(user.store().key_file("server")).unwrap();
    assert!(matches!(Pair::refused(&tls(), &server, &setup).0, Error::UnknownCertificate { .. }));
    user.settle();
    assert!(matches!(Pair::refused(&tls(), &server, &setup).0, Error::UnknownCertificate { .. }));
}

#[test]
fn a_pin_of_first_use_can_be_forgotten() {
    let (user, stranger) = (User::new(), User::new());
    let setup = stranger.serve();
    user.identity("any");
    user.settle();
    let first_use = user.with(ClientTls::on_first_use());
    Pair::connected(&first_use, &peer(), &setup);
    fs::remove_file(user.store().pin_file(&peer().key)).unwrap();
    let again = Pair::connected(&first_use, &peer(), &setup);
    assert!(!again.client.resumed());
    assert!(user.store().pin(&peer().key).unwrap().is_some(), "it must have been pinned again");
}

/// An authority of our own, and a certificate by it for `server.example`, with its key.
fn authority(expired: bool) -> (String, String) {
    let mut leaf = rcgen::CertificateParams::new(vec!["server.example".into()]).unwrap();
    if expired {
        leaf.not_after = rcgen::date_time_ymd(2001, 1, 1);
    }
    authority_for(leaf)
}

/// An authority of our own, and this certificate by it, with its key.
fn authority_for(leaf: rcgen::CertificateParams) -> (String, String) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    (ca_pem, leaf.signed_by(&key, &issuer).unwrap().pem() + &key.serialize_pem())
}

#[test]
fn roots_vouch_for_names() {
    let (ca_pem, leaf) = authority(false);
    let user = User::new();
    let file = user.home.path().join("leaf.pem");
    fs::write(&file, leaf).unwrap();
    let setup = user.serve_with(ServerTls::pem(&file, &file));

    let tls = ClientTls::roots(&ca_pem);
    Pair::connected(&tls, &peer(), &setup);
    Pair::connected(&tls.clone().server_name("server.example"), &service(), &setup);
    let wrong = PeerName { key: "other.example:1".into(), host: Some("other.example".into()) };
    for (peer, words) in [(wrong, "not valid for"), (service(), "server_name")] {
        let (error, _) = Pair::refused(&tls, &peer, &setup);
        assert!(matches!(&error, Error::UnknownCertificate { problem, .. } if problem.contains(words)), "{error}");
    }
    let (error, _) = Pair::refused(&ClientTls::roots(&ca_pem), &peer(), &User::new().serve());
    assert!(matches!(&error, Error::UnknownCertificate { .. }), "{error}");
    // The system does not know this authority.
    let (error, _) = Pair::refused(&ClientTls::system(), &peer(), &setup);
    assert!(matches!(&error, Error::UnknownCertificate { .. }), "{error}");
}

#[test]
fn settings_that_cannot_work_are_error_values() {
    let bad = [
        ClientTls::pinned("not hexadecimal"),
        ClientTls::pinned(""),
        ClientTls::roots("/etc/ssl/certs/ca.pem"),
        ClientTls::roots("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ClientTls::roots("-----BEGIN CERTIFICATE-----\nAAAA"),
        ClientTls::roots(authority(false).0 + "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"),
        ClientTls::danger_accept_any().server_name("not a name"),
        ClientTls::danger_accept_any().alpn([""]),
        ClientTls::danger_accept_any().alpn(["h2".to_owned(), "x".repeat(256)]),
        ClientTls::danger_accept_any().alpn(vec!["x".repeat(255); 300]),
    ];
    for tls in bad {
        let error = Session::client(&tls, &peer()).err().expect("an error");
        assert!(matches!(error, Error::TlsSettings(_)), "{error}");
    }
    let user = User::new();
    let server = || ServerTls::from(user.identity("x"));
    let long = "x".repeat(256);
    for tls in [server().allow(["123"]), server().alpn([""]), server().alpn([&long]), server().alpn(vec!["x"; 20_000])]
    {
        let error = tls.setup().unwrap_err();
        assert!(matches!(error, Error::TlsSettings(_)), "{error}");
    }
    // The longest that can be sent.
    let list: Vec<String> = (0..100).map(|n| format!("{n:0>255}")).collect();
    let setup = server().alpn(&list).setup().unwrap();
    let pair = Pair::connected(&ClientTls::from(setup.identity().fingerprint()).alpn(&list), &peer(), &setup);
    assert_eq!(pair.client.alpn(), Some(list[0].as_bytes()));
}

#[test]
fn names_of_hosts_are_sent_and_others_are_not() {
    let user = User::new();
    for (host, sent) in
        [(Some("server.example"), true), (Some("fe80::1%eth0"), false), (Some("a b"), false), (None, false)]
    {
        let peer = PeerName { key: "x:1".into(), host: host.map(Into::into) };
        let mut hello = Vec::new();
        Session::client(&user.default_client(), &peer).unwrap().take_output(&mut hello);
        let has = hello.windows(14).any(|window| window == b"server.example");
        assert_eq!(has, sent, "{host:?}");
    }
}

/// Not a test by itself: what the next one runs in a process with other system roots.
#[test]
fn system_roots_child() {
    let Some(leaf) = std::env::var_os("NETWORK_TEST_LEAF") else { return };
    let leaf = std::path::PathBuf::from(leaf);
    let setup = ServerTls::pem(&leaf, &leaf).setup().unwrap();
    let user = User::new();
    let all = [ClientTls::default(), ClientTls::on_first_use(), ClientTls::system(), ClientTls::danger_accept_any()];
    let wants = |peer: &PeerName| all.each_ref().map(|tls| user.with(tls.clone()).may_load_roots(peer));
    assert_eq!(wants(&peer()), [true, true, true, false]);
    assert_eq!(wants(&service()), [false; 4]);
    pin_by_hand(&user, &peer().key, Fingerprint::of(b"x"));
    assert_eq!(wants(&peer()), [false, false, true, false]);
    fs::remove_file(user.store().pin_file(&peer().key)).unwrap();
    super::super::load_system_roots().unwrap();
    assert_eq!(wants(&peer()), [false; 4]);
    for tls in [user.default_client(), user.with(ClientTls::on_first_use()), ClientTls::system()] {
        Pair::connected(&tls, &peer(), &setup);
        Pair::connected(&tls.clone().server_name("server.example"), &service(), &setup);
    }
    // By then the first use has noted how the server was known, and lets nothing weaker in: not even on another day, and
    // not as a service either, whose name nobody vouches for but the program has named the host.
    let first_use = user.with(ClientTls::on_first_use());
    let named = first_use.clone().server_name("server.example");
    let impostor = User::new().serve();
    for (tls, peer) in [(&first_use, peer()), (&named, service())] {
        assert_eq!(user.store().pin(&peer.key).unwrap(), Some(Condition::Roots));
        for _ in 0..2 {
            let (error, _) = Pair::refused(tls, &peer, &impostor);
            assert!(matches!(error, Error::UnknownCertificate { .. }), "{error}");
            assert!(error.to_string().contains("verified by the system's root certificates"), "{error}");
            Pair::connected(tls, &peer, &setup);
        }
        assert_eq!(user.store().pin(&peer.key).unwrap(), Some(Condition::Roots));
        // The user's own are no weaker.
        Pair::connected(tls, &peer, &user.serve());
    }
    let wrong = PeerName { key: "other.example:1".into(), host: Some("other.example".into()) };
    for peer in [wrong, service()] {
        for tls in [user.default_client(), ClientTls::system()] {
            let (error, _) = Pair::refused(&tls, &peer, &setup);
            assert!(matches!(error, Error::UnknownCertificate { .. }), "{error}");
        }
    }
}

#[test]
fn the_systems_roots_vouch_for_hosts_and_not_for_services() {
    let (ca_pem, leaf) = authority(false);
    let user = User::new();
    let [roots, both] = ["roots.pem", "leaf.pem"].map(|name| user.home.path().join(name));
    fs::write(&roots, ca_pem).unwrap();
    fs::write(&both, leaf).unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tls::tests::trusting::system_roots_child", "--nocapture"])
        .env("SSL_CERT_FILE", roots)
        .env_remove("SSL_CERT_DIR")
        .env("NETWORK_TEST_LEAF", both)
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"));
}

#[test]
fn roots_are_found_however_they_lie_in_the_text() {
    let user = User::new();
    let setups: Vec<_> = (0..2)
        .map(|index| {
            let (root, leaf) = authority(false);
            let file = user.home.path().join(format!("{index}.pem"));
            fs::write(&file, leaf).unwrap();
            (root.trim().to_owned(), user.serve_with(ServerTls::pem(&file, &file)))
        })
        .collect();
    let (one, two) = (&setups[0].0, &setups[1].0);
    for text in [format!("\u{feff}{one}\n{two}\n"), format!("{one}{two}"), format!("{two}\n\u{feff}{one}")] {
        for (_, setup) in &setups {
            Pair::connected(&ClientTls::roots(&text), &peer(), setup);
        }
    }
}

/// A certificate whose form no verifier takes, with a critical extension that nobody knows, and its key.
fn odd_certificate(user: &User) -> Identity {
    let [certificate, key_file] = ["odd.pem", "odd.key"].map(|name| user.home.path().join(name));
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec!["server.example".into()]).unwrap();
    let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    extension.set_criticality(true);
    parameters.custom_extensions.push(extension);
    fs::write(&certificate, parameters.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    Identity::pem(&certificate, &key_file).unwrap()
}

#[test]
fn the_form_of_a_certificate_does_not_matter_where_its_key_decides() {
    let (user, stranger) = (User::new(), User::new());
    let identity = odd_certificate(&stranger);
    let thief = CertifiedKey::new(identity.inner.key.cert.clone(), user.identity("loot").inner.key.key.clone());
    let first_use = user.with(ClientTls::on_first_use());
    for versions in [TLS12, TLS13] {
        let setup = versioned_server(&identity, versions);
        for tls in [
            ClientTls::pinned(identity.fingerprint()),
            ClientTls::pinned(identity.certificate_fingerprint()),
            ClientTls::danger_accept_any(),
            first_use.clone(),
        ] {
            let pair = Pair::connected(&tls, &peer(), &setup);
            assert_eq!(pair.client.peer_fingerprint(), Some(identity.fingerprint()));
            let forged = bare_server(&identity, thief.clone(), versions, None);
            let elsewhere = PeerName { key: "elsewhere:5".into(), host: None };
            let (error, _) = Pair::refused(&tls, &elsewhere, &forged);
            assert!(error.to_string().contains("private key"), "{error}");
        }
        let (error, _) = Pair::refused(&User::new().default_client(), &peer(), &setup);
        assert!(matches!(&error, Error::UnknownCertificate { .. }), "{error}");
        assert!(error.to_string().contains("critical extension"), "{error}");
    }
    // As a client's.
    let setup = user.serve_with(ServerTls::named("server").allow([identity.fingerprint()]));
    let me = ClientTls::pinned(setup.identity().fingerprint()).identity(identity.clone());
    assert_eq!(Pair::connected(&me, &peer(), &setup).server.peer_fingerprint(), Some(identity.fingerprint()));
}

#[test]
fn names_in_a_certificate_cannot_write_to_the_terminal() {
    let user = User::new();
    let mut parameters = rcgen::CertificateParams::default();
    let name = "evil\r\x1b[2K\ntrusted";
    parameters.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into().unwrap())];
    let (root, leaf) = authority_for(parameters);
    let file = user.home.path().join("leaf.pem");
    fs::write(&file, leaf).unwrap();
    let setup = user.serve_with(ServerTls::pem(&file, &file));
    let (error, _) = Pair::refused(&ClientTls::roots(root), &peer(), &setup);
    let text = error.to_string();
    assert!(text.contains(r"only for evil\r\u{1b}[2K\ntrusted"), "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");
    // Nor can the name of a service.
    let service = PeerName { key: "service|\x1b[2K\nroom".into(), host: None };
    for tls in [user.default_client(), ClientTls::pinned(Fingerprint::of(b"x"))] {
        let (error, _) = Pair::refused(&tls, &service, &setup);
        assert!(error.to_string().contains(r"service|\u{1b}[2K\nroom"), "{error}");
        assert!(!error.to_string().contains(char::is_control), "{:?}", error.to_string());
    }
}

#[test]
fn an_expired_certificate_is_good_for_a_pin_only() {
    let (ca_pem, leaf) = authority(true);
    let user = User::new();
    let file = user.home.path().join("leaf.pem");
    fs::write(&file, leaf).unwrap();
    let setup = user.serve_with(ServerTls::pem(&file, &file));
    assert!(setup.identity().warnings()[0].contains("has expired"), "{:?}", setup.identity().warnings());
    let (error, _) = Pair::refused(&ClientTls::roots(ca_pem), &peer(), &setup);
    assert!(
        matches!(&error, Error::UnknownCertificate { problem, .. } if problem.contains("expired on 2001-01-01")),
        "{error}"
    );
    Pair::connected(&ClientTls::pinned(setup.identity().fingerprint()), &peer(), &setup);
}
