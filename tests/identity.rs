//! The store of certificates against the real `openssl`, several processes at once, and disks that will not take it.
//! Needs `openssl`, `unshare` (util-linux) and `cc`.

#[allow(dead_code)]
#[path = "common/parties.rs"]
mod parties;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use network::{
    Error,
    tls::{self, Fingerprint, Identity},
};

/// Runs a command, which must succeed, and returns what it printed.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn openssl(arguments: &str, input: &[u8]) -> String {
    let arguments: Vec<_> = arguments.split(' ').collect();
    String::from_utf8(run("openssl", &arguments, input)).unwrap()
}

fn make_with_openssl(directory: &Path, name: &str, new_key: &str) -> (String, String) {
    let [certificate, key] = ["pem", "key"].map(|kind| directory.join(format!("{name}.{kind}")).display().to_string());
    let days = "-nodes -days 3000";
    openssl(&format!("req -x509 -newkey {new_key} {days} -subj /CN={name} -keyout {key} -out {certificate}"), b"");
    (certificate, key)
}

/// Runs [`child`] in a process of its own, after the shell commands in `prelude`.
fn spawn_child(prelude: &str, settings: &[(&str, &str)]) -> Child {
    spawn_role("child", prelude, settings)
}

/// Runs a test of this program, which is for that, in a process of its own.
fn spawn_role(role: &str, prelude: &str, settings: &[(&str, &str)]) -> Child {
    let own = std::env::current_exe().unwrap();
    Command::new("sh")
        .arg("-c")
        .arg(format!("{prelude}\nexec \"$0\" --exact {role} --nocapture --test-threads=1"))
        .arg(own)
        .env_remove("XDG_DATA_HOME")
        .env("CHILD", "1")
        .envs(settings.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Lets a child go on, and returns what it said.
fn finish(mut child: Child) -> String {
    drop(child.stdin.take());
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    text.lines()
        .find_map(|line| line.split_once("RESULT "))
        .unwrap_or_else(|| panic!("no result in {text}"))
        .1
        .to_owned()
}

/// Not a test: what the other tests run as another process. Makes an identity when its input ends.
#[test]
fn child() {
    if std::env::var_os("CHILD").is_none() {
        return;
    }
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    match Identity::named("child") {
        Ok(identity) => {
            println!(
                "\nRESULT {} {}",
                identity.certificate_fingerprint(),
                identity.certificate_file().unwrap().display()
            );
        }
        Err(error) => println!("\nRESULT error: {error}"),
    }
}

/// Not a test: another process that pins, lists and unpins in the user's store. Each line of its input is an address, and with
/// a fingerprint behind it to be pinned.
#[test]
fn pinning_child() {
    if std::env::var_os("CHILD").is_none() {
        return;
    }
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        match line.split_once(' ') {
            Some((address, fingerprint)) => tls::pin(address, fingerprint).unwrap(),
            None => assert!(tls::unpin(&line).unwrap()),
        }
    }
    let pins: Vec<_> = tls::pins().unwrap().iter().map(|pin| format!("{} {:?}", pin.address(), pin.trust())).collect();
    println!("\nRESULT {}", pins.join(", "));
}

#[test]
fn another_process_pins_in_the_users_store() {
    let home = tempfile::tempdir().unwrap();
    let child = |input: &str| {
        let settings = [("XDG_DATA_HOME", home.path().to_str().unwrap())];
        let mut child = spawn_role("pinning_child", "", &settings);
        child.stdin.as_mut().unwrap().write_all(input.as_bytes()).unwrap();
        finish(child)
    };
    let (one, other) = ("1".repeat(64), "2".repeat(64));
    assert_eq!(child(&format!("host.example:1 {one}\n1234 {one}\n")), "host.example:1 Pin, localhost:1234 Pin");
    let store = home.path().join("network");
    let text = fs::read_to_string(store.join("peers/localhost:1234")).unwrap();
    assert_eq!(text, format!("# localhost:1234\n# pinned\n{one}\n"));
    // Many at once, in one store: each pin is there in the end, whole.
    std::thread::scope(|scope| {
        for start in [1, 51] {
            let (child, other) = (&child, &other);
            scope
                .spawn(move || child(&(start..start + 50).map(|port| format!("{port} {other}\n")).collect::<String>()));
        }
    });
    let pins = tls::pins_in(&store).unwrap();
    assert_eq!(pins.len(), 102);
    let is_other = |pin: &&tls::Pin| pin.fingerprint() == other.parse().ok();
    assert_eq!(pins.iter().filter(is_other).count(), 100);
    assert_eq!(
        child(&(1..=100).map(|port| format!("localhost:{port}\n")).collect::<String>()),
        "host.example:1 Pin, localhost:1234 Pin"
    );
    assert_eq!(fs::read_dir(store.join("peers")).unwrap().count(), 2, "nothing is left over");
}

#[test]
fn openssl_reads_what_we_make() {
    let home = tempfile::tempdir().unwrap();
    let identity = Identity::named_in(home.path(), "chat.example").unwrap();
    let certificate = fs::read(identity.certificate_file().unwrap()).unwrap();
    let key = fs::read(home.path().join("private/chat.example.key")).unwrap();

    let text = openssl("x509 -noout -text", &certificate);
    for needle in [
        "CN = chat.example",
        "DNS:chat.example",
        "DNS:localhost",
        "IP Address:127.0.0.1",
        "IP Address:0:0:0:0:0:0:0:1",
        "CA:FALSE",
        "prime256v1",
        "TLS Web Server Authentication, TLS Web Client Authentication",
    ] {
        assert!(text.contains(needle), "{needle} is not in {text}");
    }
    openssl(&format!("x509 -noout -checkend {}", 3600 * 24 * 365 * 9), &certificate);
    let [of_certificate, of_key] = [openssl("x509 -noout -pubkey", &certificate), openssl("pkey -pubout", &key)];
    assert_eq!(of_certificate, of_key);

    // The same fingerprints by other means.
    let shown = openssl("x509 -noout -fingerprint -sha256", &certificate);
    let shown: Fingerprint = shown.trim().split_once('=').unwrap().1.parse().unwrap();
    assert_eq!(shown, identity.certificate_fingerprint());
    let spki = run("openssl", &["pkey", "-pubin", "-outform", "der"], of_certificate.as_bytes());
    let digest = openssl("dgst -sha256 -r", &spki);
    assert_eq!(digest.split(' ').next().unwrap().parse(), Ok(identity.fingerprint()));
    // As its own authority it holds, names included, so that it can be given to programs as a trusted certificate.
    let file = identity.certificate_file().unwrap().display();
    for name in ["-verify_hostname chat.example", "-verify_hostname localhost", "-verify_ip 127.0.0.1"] {
        openssl(&format!("verify -check_ss_sig -x509_strict -purpose sslserver {name} -CAfile {file} {file}"), b"");
    }
}

#[test]
fn identities_of_openssl_are_accepted_as_they_are() {
    let home = tempfile::tempdir().unwrap();
    for directory in ["certs", "private"] {
        fs::create_dir(home.path().join(directory)).unwrap();
    }
    // rsa:4096 is what the python-network library leaves in the store.
    for (name, new_key) in
        [("old", "rsa:4096"), ("rsa", "rsa:2048"), ("ec", "ec -pkeyopt ec_paramgen_curve:P-384"), ("ed", "ed25519")]
    {
        let (certificate, key) = make_with_openssl(home.path(), name, new_key);
        let given = Identity::pem(&certificate, &key).unwrap();
        fs::rename(&certificate, home.path().join(format!("certs/{name}.pem"))).unwrap();
        fs::rename(&key, home.path().join(format!("private/{name}.key"))).unwrap();
        let stored = Identity::named_in(home.path(), name).unwrap();
        assert_eq!(stored, given);
        assert!(stored.warnings().is_empty(), "{:?}", stored.warnings());
        let text = fs::read(stored.certificate_file().unwrap()).unwrap();
        let shown = openssl("x509 -noout -fingerprint -sha256", &text);
        assert_eq!(shown.trim().split_once('=').unwrap().1.parse(), Ok(stored.certificate_fingerprint()));
    }
    // Other shapes of the same key, and one file for both.
    let store = |path: &str| fs::read(home.path().join(path)).unwrap();
    let shapes = [("rsa", "rsa -traditional"), ("ec", "ec"), ("ec", "pkcs8 -topk8 -nocrypt")];
    for (name, shape) in shapes {
        let key = openssl(shape, &store(&format!("private/{name}.key")));
        let both = home.path().join("both.pem");
        fs::write(&both, [key.as_bytes(), &store(&format!("certs/{name}.pem"))].concat()).unwrap();
        let identity = Identity::pem(&both, &both).unwrap();
        assert_eq!(identity, Identity::named_in(home.path(), name).unwrap());
    }
    // A key without its certificate is completed whatever its kind.
    fs::remove_file(home.path().join("certs/rsa.pem")).unwrap();
    let completed = Identity::named_in(home.path(), "rsa").unwrap();
    assert!(completed.warnings().is_empty());
}

#[test]
fn encrypted_keys_are_refused_with_advice() {
    let home = tempfile::tempdir().unwrap();
    let (certificate, key) = make_with_openssl(home.path(), "x", "rsa:2048");
    let text = openssl("pkcs8 -topk8 -passout pass:secret", &fs::read(&key).unwrap());
    fs::write(&key, text).unwrap();
    let error = Identity::pem(&certificate, &key).unwrap_err();
    assert!(error.to_string().contains("encrypted") && error.to_string().contains(&key), "{error}");
}

#[test]
fn processes_that_start_at_once_share_one_identity() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().to_str().unwrap();
    let children: Vec<_> = (0..6).map(|_| spawn_child("", &[("XDG_DATA_HOME", home)])).collect();
    let said: Vec<_> = children.into_iter().map(finish).collect();
    assert!(said.iter().all(|one| *one == said[0] && !one.contains("error")), "{said:#?}");
    assert!(said[0].ends_with(&format!("{home}/network/certs/child.pem")), "{}", said[0]);
}

#[test]
fn the_store_is_where_the_user_keeps_data() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path().to_str().unwrap();
    // A relative XDG_DATA_HOME is to be ignored, says its specification.
    for settings in [&[("HOME", home)][..], &[("HOME", home), ("XDG_DATA_HOME", "elsewhere")]] {
        let said = finish(spawn_child("umask 000", settings));
        assert!(said.ends_with(&format!("{home}/.local/share/network/certs/child.pem")), "{said}");
    }
    let mode = |path: &str| fs::metadata(format!("{home}/.local/share/network/{path}")).unwrap().permissions().mode();
    assert_eq!(mode("private") & 0o777, 0o700);
    assert_eq!(mode("private/child.key") & 0o777, 0o600);
}

/// A disk of one page, in a mount namespace of the child's own.
const SMALL_DISK: &str = "mount -t tmpfs -o size=4k none \"$XDG_DATA_HOME\" || exit 9";

fn spawn_on_disk(disk: &str, home: &str) -> Child {
    let prelude = format!(
        "if [ -z \"$INSIDE\" ]; then INSIDE=1 exec unshare $AS_ROOT --mount sh -c '{disk}\nexec \"$0\" --exact child --nocapture' \"$0\"; fi"
    );
    let as_root = if rustix::process::geteuid().is_root() { "" } else { "--map-root-user" };
    spawn_child(&prelude, &[("XDG_DATA_HOME", home), ("AS_ROOT", as_root)])
}

#[test]
fn a_full_disk_is_a_clear_error_and_leaves_nothing_half() {
    if !parties::has_namespaces() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let home = home.path().to_str().unwrap();
    // No room at all: the key cannot be written.
    let said = finish(spawn_on_disk(&format!("{SMALL_DISK}\necho full > \"$XDG_DATA_HOME/full\""), home));
    assert!(said.contains("error") && said.contains("private/child.key") && said.contains("No space"), "{said}");
    // Room for the key only.
    let said = finish(spawn_on_disk(SMALL_DISK, home));
    assert!(said.contains("error") && said.contains("certs/child.pem") && said.contains("No space"), "{said}");
}

#[test]
fn a_read_only_disk_serves_what_it_holds() {
    if !parties::has_namespaces() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let home_text = home.path().to_str().unwrap();
    let read_only =
        "mount --bind \"$XDG_DATA_HOME\" \"$XDG_DATA_HOME\" && mount -o remount,bind,ro \"$XDG_DATA_HOME\" || exit 9";
    let said = finish(spawn_on_disk(read_only, home_text));
    assert!(said.contains("error") && said.contains(home_text) && said.contains("Read-only"), "{said}");
    let made = finish(spawn_child("", &[("XDG_DATA_HOME", home_text)]));
    assert_eq!(finish(spawn_on_disk(read_only, home_text)), made);
}

#[test]
fn files_that_cannot_be_made_are_named() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Identity::named_in(&file, "x").unwrap_err();
    assert!(matches!(&error, Error::Identity { path, .. } if path.starts_with(&file)), "{error}");
    let error = Identity::pem(home.path().join("none.pem"), &file).unwrap_err();
    assert!(error.to_string().contains("none.pem"), "{error}");
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}

/// Builds a library that, preloaded, refuses these calls as some network and FUSE file systems do.
fn refusing(directory: &Path, calls: &str) -> String {
    let (source, library) = (directory.join("refuse.c"), directory.join("refuse.so"));
    let mut code = "#include <errno.h>\n".to_owned();
    for call in calls.split(' ') {
        let (name, error) = call.split_once('=').unwrap();
        code += &format!("int {name}() {{ errno = {error}; return -1; }}\n");
    }
    fs::write(&source, code).unwrap();
    let [source, library] = [source, library].map(|path| path.display().to_string());
    run("cc", &["-w", "-shared", "-fPIC", "-o", &library, &source], b"");
    library
}

#[test]
fn a_disk_without_locks_syncing_or_links_still_holds_identities() {
    for (calls, at_once) in [
        ("flock=ENOLCK fsync=EINVAL", 6),
        ("flock=EOPNOTSUPP fsync=ENOSYS", 6),
        ("flock=ENOLCK fsync=EINVAL link=EPERM linkat=EPERM", 1),
    ] {
        let home = tempfile::tempdir().unwrap();
        let library = refusing(home.path(), calls);
        let text = home.path().to_str().unwrap();
        let settings = [("XDG_DATA_HOME", text), ("LD_PRELOAD", &library)];
        let children: Vec<_> = (0..at_once).map(|_| spawn_child("", &settings)).collect();
        let said: Vec<_> = children.into_iter().map(finish).collect();
        // Of several at once each may write the certificate, but for one and the same key, and one of them stays.
        let again = finish(spawn_child("", &settings));
        assert!(said.iter().chain([&again]).all(|one| !one.contains("error")), "{calls}: {said:#?}");
        assert!(said.iter().all(|one| *one == again), "{calls}: {said:#?} {again}");
        let left = fs::read_dir(home.path().join("network/private")).unwrap().count();
        assert_eq!(left, 1, "{calls}: drafts are left behind");
    }
}
