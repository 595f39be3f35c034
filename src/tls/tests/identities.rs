use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, SystemTime};

use super::super::certificate;
use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn an_identity_is_made_once_and_then_loaded() {
    let user = User::new();
    let made = user.identity("chat");
    let store = user.store();
    assert_eq!(made.certificate_file().unwrap(), store.certificate_file("chat"));
    assert_eq!(mode(&store.key_file("chat")), 0o600);
    assert_eq!(mode(store.key_file("chat").parent().unwrap()), 0o700);
    assert!(made.warnings().is_empty(), "{:?}", made.warnings());
    assert!(!format!("{made:?}").contains("PRIVATE"));
    let loaded = user.identity("chat");
    assert_eq!(loaded, made);
    assert_eq!(loaded.certificate_fingerprint(), made.certificate_fingerprint());
    assert_ne!(user.identity("other").fingerprint(), made.fingerprint());
    let facts = certificate::facts(made.certificate()).expect("facts");
    assert!(facts.ours && facts.expires > SystemTime::now() + 9 * YEAR, "{facts:?}");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let user = User::new();
    for name in ["", "..", "a/b", "/etc/x", "../x", "a..b", "a\0b"] {
        let error = Identity::named_in(user.home.path(), name).unwrap_err();
        assert!(matches!(error, Error::TlsSettings(_)), "{name:?}: {error}");
    }
    for name in ["My room", "host.example", "ä|ö", "127.0.0.2", "-x", "*.example"] {
        user.identity(name);
    }
    let error = Identity::named_in(user.home.path(), &"n".repeat(300)).unwrap_err();
    assert!(matches!(error, Error::Identity { .. }), "{error}");
}

#[test]
fn two_at_once_get_one_and_the_same() {
    let user = User::new();
    let barrier = Barrier::new(8);
    let all: Vec<Identity> = std::thread::scope(|scope| {
        let start = || {
            barrier.wait();
            user.identity("race")
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|one| *one == all[0]));
}

#[test]
fn a_key_without_a_certificate_is_completed() {
    let user = User::new();
    let made = user.identity("chat");
    fs::remove_file(made.certificate_file().unwrap()).unwrap();
    let key = fs::read(user.store().key_file("chat")).unwrap();
    let completed = user.identity("chat");
    assert_eq!(completed.fingerprint(), made.fingerprint());
    assert_eq!(fs::read(user.store().key_file("chat")).unwrap(), key);
}

#[test]
fn ours_are_renewed_near_their_end_with_the_same_key() {
    let user = User::new();
    let store = user.store();
    let now = SystemTime::now();
    let old = store.load_or_make_at("chat", now - 10 * YEAR + 29 * DAY).unwrap();
    let text = fs::read(old.certificate_file().unwrap()).unwrap();
    // A day before its time nothing happens.
    assert_eq!(store.load_or_make_at("chat", now - 2 * DAY).unwrap(), old);
    assert_eq!(fs::read(old.certificate_file().unwrap()).unwrap(), text);
    let new = store.load_or_make_at("chat", now).unwrap();
    assert_eq!(new.fingerprint(), old.fingerprint());
    assert_ne!(new.certificate_fingerprint(), old.certificate_fingerprint());
    assert!(new.warnings().is_empty(), "{:?}", new.warnings());
    assert_eq!(store.load_or_make_at("chat", now).unwrap(), new);
}

#[test]
fn one_made_while_the_clock_was_ahead_is_renewed() {
    let user = User::new();
    let store = user.store();
    let now = SystemTime::now();
    let early = store.load_or_make_at("chat", now + 3 * YEAR).unwrap();
    let new = store.load_or_make_at("chat", now).unwrap();
    assert_eq!(new.fingerprint(), early.fingerprint());
    assert_ne!(new.certificate_fingerprint(), early.certificate_fingerprint());
    assert!(certificate::facts(new.certificate()).unwrap().begins < now);
    assert_eq!(store.load_or_make_at("chat", now).unwrap(), new);
    // One that is not ours to renew is warned about.
    let [certificate, key_file] = ["x.pem", "x.key"].map(|name| user.home.path().join(name));
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec!["x".into()]).unwrap();
    parameters.not_before = rcgen::date_time_ymd(4000, 1, 1);
    fs::write(&certificate, parameters.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    fs::set_permissions(&key_file, PermissionsExt::from_mode(0o600)).unwrap();
    let identity = Identity::pem(&certificate, &key_file).unwrap();
    assert!(identity.warnings()[0].contains("not valid yet"), "{:?}", identity.warnings());
}

#[test]
fn an_ec_key_gets_its_public_half_from_the_certificate() {
    let user = User::new();
    let (good, other) = (user.identity("good"), user.identity("other"));
    let key = user.store().key_file("good");
    let whole = fs::read(&key).unwrap();
    for shape in ["ec -no_public", "pkcs8 -topk8 -nocrypt"] {
        // The second keeps what the first has left out.
        let output =
            std::process::Command::new("openssl").args(shape.split(' ')).arg("-in").arg(&key).output().unwrap();
        assert!(output.status.success(), "{shape}");
        assert!(output.stdout.len() < whole.len() - 60, "it is still there");
        fs::write(&key, output.stdout).unwrap();
        assert_eq!(user.identity("good"), good);
        Pair::connected(&user.default_client(), &peer(), &user.serve_with(ServerTls::named("good")));
        let error = Identity::pem(other.certificate_file().unwrap(), &key).unwrap_err();
        assert!(error.to_string().contains("does not match the certificate in"), "{error}");
    }
}

#[test]
fn others_are_only_warned_about() {
    let user = User::new();
    let [certificate, key_file] = ["x.pem", "x.key"].map(|name| user.home.path().join(name));
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(vec!["x".into()]).unwrap();
    parameters.not_after = rcgen::date_time_ymd(2001, 1, 1);
    fs::write(&certificate, parameters.self_signed(&key).unwrap().pem()).unwrap();
    fs::write(&key_file, key.serialize_pem()).unwrap();
    fs::set_permissions(&key_file, PermissionsExt::from_mode(0o644)).unwrap();
    let store = user.store();
    user.identity("other");
    fs::copy(&certificate, store.certificate_file("x")).unwrap();
    fs::copy(&key_file, store.key_file("x")).unwrap();
    for identity in [Identity::pem(&certificate, &key_file).unwrap(), user.identity("x")] {
        let warnings = identity.warnings().join("; ");
        assert!(warnings.contains("has expired") && warnings.contains("readable by other users"), "{warnings}");
    }
    assert_eq!(fs::read(&certificate).unwrap(), fs::read(store.certificate_file("x")).unwrap());
}

#[test]
fn broken_pairs_are_named_and_left_alone() {
    let user = User::new();
    let store = user.store();
    let good = user.identity("good");
    let other = user.identity("other");
    let certificate = store.certificate_file("good");
    let key = store.key_file("good");
    let (certificate_text, key_text) = (fs::read(&certificate).unwrap(), fs::read(&key).unwrap());
    let other_key = fs::read(store.key_file("other")).unwrap();
    let half = &certificate_text[..certificate_text.len() / 2];
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let odd = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let cases: [(&[u8], &[u8], &Path, &str); 10] = [
        (b"", &key_text, &certificate, "empty; restore it, or delete it to"),
        (b"", b"", &certificate, "empty; restore it, or delete /"),
        (b"\n", &key_text, &certificate, "no certificate"),
        (b"\xff\xfe garbage", &key_text, &certificate, "no certificate"),
        (half, &key_text, &certificate, "no matching -----END"),
        (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &key_text,
            &certificate,
            "unusable certificate",
        ),
        (&certificate_text, b"", &key, "empty; restore it, or delete /"),
        (&certificate_text, encrypted, &key, "encrypted"),
        (&certificate_text, odd, &key, "unusable private key"),
        (&certificate_text, &other_key, &key, "does not match the certificate in"),
    ];
    for (certificate_now, key_now, culprit, words) in cases {
        fs::write(&certificate, certificate_now).unwrap();
        fs::write(&key, key_now).unwrap();
        let error = Identity::named_in(user.home.path(), "good").unwrap_err();
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert!(matches!(&error, Error::Identity { path, .. } if path == culprit), "{error}");
        assert_eq!(fs::read(&certificate).unwrap(), certificate_now);
        assert_eq!(fs::read(&key).unwrap(), key_now);
    }
    fs::remove_file(&key).unwrap();
    fs::write(&certificate, &certificate_text).unwrap();
    let error = Identity::named_in(user.home.path(), "good").unwrap_err();
    assert!(error.to_string().contains("private key of the certificate is missing"), "{error}");
    fs::write(&key, &key_text).unwrap();
    assert_eq!(user.identity("good"), good);
    assert_ne!(other, good);
}

#[test]
fn a_certificate_cannot_be_made_where_a_file_is_in_the_way() {
    for obstacle in ["certs", "private", ".lock"] {
        let user = User::new();
        let path = user.home.path().join(obstacle);
        if obstacle == ".lock" {
            fs::create_dir(&path).unwrap()
        } else {
            fs::write(&path, "").unwrap()
        };
        let error = Identity::named_in(user.home.path(), "x").unwrap_err();
        assert!(matches!(&error, Error::Identity { path, .. } if path.starts_with(user.home.path())), "{error}");
        assert!(error.to_string().contains(": cannot create the TLS certificate \"x\": "), "{error}");
    }
    for nowhere in ["/proc/nowhere", "/dev/null"] {
        let error = Identity::named_in(nowhere, "x").unwrap_err();
        assert!(
            error.to_string().contains(&format!("{nowhere}: cannot create the TLS certificate \"x\": ")),
            "{error}"
        );
    }
}

#[test]
fn a_program_that_hangs_does_not_hang_the_others() {
    let user = User::new();
    let made = user.identity("made");
    let _held = user.store().lock(Duration::ZERO).unwrap();
    assert_eq!(user.identity("made"), made, "what is there needs no lock");
    let error = user.store().pin_first("host:1", super::super::peers::Condition::Own).unwrap_err();
    assert!(error.to_string().contains("lock held by another process for more than 2 s"), "{error}");
}
