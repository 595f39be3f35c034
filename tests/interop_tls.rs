//! TLS with others: `openssl s_client` and `s_server`, Python's `ssl`, and the Python module of the same name.

mod common;

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, SystemTime};

use common::{Process, TempDir, Watch, beside, command, on_own_context, run, run_loop, tool, until};
use network::{
    ClientTls, Error, Reason, Server, ServerTls, Socket,
    socket::SocketBuilder,
    tls::{Fingerprint, Identity, Trust},
};
use rustix::process::Signal;

const VERSIONS: [(&str, &str); 2] = [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")];

// ---- certificates ----

/// A certificate and its key in files.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn identity(&self) -> Identity {
        Identity::pem(&self.certificate, &self.key).unwrap()
    }

    fn arguments(&self) -> [&str; 4] {
        ["-cert", self.certificate.to_str().unwrap(), "-key", self.key.to_str().unwrap()]
    }
}

/// As openssl makes it in the instructions of the world.
fn by_openssl(directory: &TempDir, name: &str, key: &str) -> Files {
    let files =
        Files { certificate: directory.path(&format!("{name}.pem")), key: directory.path(&format!("{name}.key")) };
    let mut openssl = tool("/usr/bin/openssl");
    openssl.args(["req", "-x509", "-nodes", "-days", "365", "-newkey", key, "-subj", &format!("/CN={name}")]);
    openssl.arg("-keyout").arg(&files.key).arg("-out").arg(&files.certificate);
    let output = run(&mut openssl, "");
    assert!(output.status.success(), "{}", output.stderr);
    files
}

/// An authority, and a certificate that it has signed for this name, valid until that year. The authority's PEM.
fn by_authority(directory: &TempDir, name: &str, year: i32) -> (String, Files) {
    let mut authority = rcgen::CertificateParams::new([]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
    let key = rcgen::KeyPair::generate().unwrap();
    let root = authority.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, key);
    let mut leaf = rcgen::CertificateParams::new([name.to_string()]).unwrap();
    leaf.not_before = rcgen::date_time_ymd(2001, 1, 1);
    leaf.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let files = Files { certificate: directory.path("signed.pem"), key: directory.path("signed.key") };
    std::fs::write(&files.certificate, leaf.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    std::fs::write(&files.key, key.serialize_pem()).unwrap();
    (root, files)
}

// ---- openssl ----

fn s_client(server: &Server, arguments: &[&str]) -> Command {
    let mut openssl = tool("/usr/bin/openssl");
    openssl.args(["s_client", "-connect", &format!("127.0.0.1:{}", server.port())]).args(arguments);
    openssl
}

/// An `s_server`, and its address.
fn s_server(files: &Files, arguments: &[&str]) -> (Process, String) {
    let mut openssl = tool("/usr/bin/openssl");
    openssl.args(["s_server", "-accept", "127.0.0.1:0"]).args(files.arguments()).args(arguments);
    let process = Process::start(&mut openssl, Watch::Stdout);
    let port = process.port("ACCEPT ");
    (process, format!("localhost:{port}"))
}

// ---- our side ----

type Shared<T> = Rc<RefCell<Vec<T>>>;

/// A server of ours that answers lines in capitals; whom it has met, and how they ended.
struct Ours {
    server: Server,
    met: Shared<Socket>,
    ends: Shared<String>,
}

impl Ours {
    fn serve(tls: ServerTls) -> Ours {
        let (met, ends) = (Shared::default(), Shared::default());
        let (all, gone) = (met.clone(), ends.clone());
        let server = Server::builder()
            .address("127.0.0.1")
            .tls(tls)
            .handshake_timeout(Duration::from_millis(500))
            .disconnect_cb(move |_, end| gone.borrow_mut().push(end.reason.to_string()))
            .listen(0, move |socket: Socket| {
                all.borrow_mut().push(socket.clone());
                socket.readlines(|socket, line| socket.sendline(line.to_uppercase()));
                Ok(())
            })
            .unwrap();
        Ours { server, met, ends }
    }

    /// The one client there has been since the last call, when it has ended, and how.
    #[track_caller]
    fn met(&self) -> (Socket, String) {
        until(|| !self.ends.borrow().is_empty());
        assert_eq!(self.met.borrow().len(), 1);
        (self.met.borrow_mut().remove(0), self.ends.borrow_mut().remove(0))
    }

    fn address(&self) -> String {
        format!("localhost:{}", self.server.port())
    }
}

/// Connects without blocking.
fn connect(builder: SocketBuilder, address: &str) -> network::Result<Socket> {
    let outcome = Rc::new(RefCell::new(None));
    let place = outcome.clone();
    builder.connect_async(address, gio::Cancellable::NONE, move |result| {
        place.replace(Some(result));
    });
    until(|| outcome.borrow().is_some());
    outcome.take().unwrap()
}

fn connect_with(tls: ClientTls, address: &str) -> network::Result<Socket> {
    connect(Socket::builder().tls(tls), address)
}

/// Sends a line and waits for the answer.
#[track_caller]
fn ask(socket: &Socket, line: &str) -> String {
    let answer = Rc::new(RefCell::new(None));
    let place = answer.clone();
    socket.readlines(move |_, line| {
        place.replace(Some(line.to_string()));
        Ok(())
    });
    socket.sendline(line).unwrap();
    until(|| answer.borrow().is_some());
    // Without a reader the loop does not keep it.
    socket.unread();
    answer.take().unwrap()
}

/// The reason of its end, when that has come.
fn await_end(socket: &Socket) -> Reason {
    let reason = Rc::new(RefCell::new(None));
    let place = reason.clone();
    socket.read(|_, _| Ok(()));
    socket.disconnect_cb(move |_, end| {
        place.replace(Some(end.reason));
    });
    until(|| reason.borrow().is_some());
    reason.take().unwrap()
}

/// How it goes when the server turns us away, which in TLS 1.3 it tells after our side of the handshake.
fn rejection(tls: ClientTls, address: &str) -> String {
    let error = match connect_with(tls, address) {
        Err(error) => error,
        Ok(socket) => match await_end(&socket) {
            Reason::Failed(error) => error,
            other => panic!("it ended well: {other}"),
        },
    };
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
    error.to_string()
}

static LOGGED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Has what the library logs kept for [`logged`].
fn keep_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        glib::log_set_writer_func(|_, fields| {
            let text = fields.iter().find(|field| field.key() == "MESSAGE").and_then(|field| field.value_str());
            LOGGED.lock().unwrap_or_else(PoisonError::into_inner).extend(text.map(String::from));
            glib::LogWriterOutput::Handled
        });
    });
}

/// What was logged of this server.
fn logged(ours: &Ours) -> Vec<String> {
    let mark = format!("port {}:", ours.server.port());
    let all = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().filter(|line| line.contains(&mark)).cloned().collect()
}

// ---- openssl as the client ----

#[test]
fn s_client_talks_to_our_server_in_both_versions() {
    on_own_context(|| {
        let home = TempDir::new();
        let identity = Identity::named_in(home.path(""), "desk").unwrap();
        let file = identity.certificate_file().unwrap().to_str().unwrap().to_string();
        let ours = Ours::serve(identity.into());
        for (flag, version) in VERSIONS {
            let trust = ["-CAfile", &file, "-verify_return_error", "-verify_hostname", "localhost"];
            let mut client = s_client(&ours.server, &[&[flag, "-quiet", "-no_ign_eof"], &trust[..]].concat());
            let output = beside(|| {
                let mut client = Process::start(&mut client, Watch::Stdout);
                client.send("hello\n");
                assert_eq!(client.line(), "HELLO");
                client.finish()
            });
            assert!(output.status.success(), "{}", output.stderr);
            let (socket, end) = ours.met();
            assert_eq!((socket.tls_version(), end.as_str()), (Some(version), "closed by the peer"));
            assert_eq!(socket.peer_fingerprint(), None);
        }
    });
}

#[test]
fn an_identity_of_rsa_4096_by_openssl_serves() {
    on_own_context(|| {
        let home = TempDir::new();
        let files = by_openssl(&home, "old", "rsa:4096");
        // Where the Python module keeps them.
        std::fs::create_dir_all(home.path("certs")).unwrap();
        std::fs::create_dir_all(home.path("private")).unwrap();
        std::fs::copy(&files.certificate, home.path("certs/old.pem")).unwrap();
        std::fs::copy(&files.key, home.path("private/old.key")).unwrap();
        let fingerprint = files.identity().fingerprint();
        let by_hand = "openssl x509 -in \"$1\" -noout -pubkey | openssl pkey -pubin -outform der | sha256sum";
        let sum = run(command("/bin/sh", ["-c", by_hand, "sh"]).arg(&files.certificate), "").text();
        assert_eq!(sum.split(' ').next().unwrap().parse::<Fingerprint>().unwrap(), fingerprint);

        for tls in [
            ServerTls::pem(&files.certificate, &files.key),
            ServerTls::named("old").directory(home.path("")),
            files.identity().into(),
        ] {
            let ours = Ours::serve(tls);
            assert_eq!(ours.server.fingerprint(), Some(fingerprint));
            for (flag, version) in VERSIONS {
                let file = files.certificate.to_str().unwrap();
                let mut client =
                    s_client(&ours.server, &[flag, "-quiet", "-no_ign_eof", "-CAfile", file, "-verify_return_error"]);
                let output = beside(|| {
                    let mut client = Process::start(&mut client, Watch::Stdout);
                    client.send("hello\n");
                    assert_eq!(client.line(), "HELLO");
                    client.finish()
                });
                assert!(output.status.success(), "{}", output.stderr);
                assert_eq!(ours.met().0.tls_version(), Some(version));
            }
            let pem = std::fs::read(&files.certificate).unwrap();
            for trust in [ClientTls::pinned(fingerprint), ClientTls::roots(&pem)] {
                let trust = trust.server_name("old");
                match connect_with(trust, &ours.address()) {
                    Ok(socket) => assert_eq!(ask(&socket, "hello"), "HELLO"),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
}

#[test]
fn s_client_shows_a_certificate_that_is_asked_for_required_or_on_a_list() {
    keep_log();
    on_own_context(|| {
        let home = TempDir::new();
        let [friend, foe] = ["friend", "foe"].map(|name| by_openssl(&home, name, "rsa:2048"));
        let tls = || ServerTls::named("desk").directory(home.path("desk"));
        let list = [friend.identity().certificate_fingerprint()];
        type Case<'a> = (ServerTls, [bool; 3]);
        // Without a certificate, with the friend's, with the foe's.
        let cases: [Case; 4] = [
            (tls().request_client_certificate(), [true, true, true]),
            (tls().require_client_certificate(), [false, true, true]),
            (tls().allow(list), [false, true, false]),
            (tls().request_client_certificate().allow(list), [true, true, false]),
        ];
        for (number, (tls, expected)) in cases.into_iter().enumerate() {
            for (flag, version) in VERSIONS {
                let ours = Ours::serve(tls.clone());
                for (who, welcome) in [None, Some(&friend), Some(&foe)].into_iter().zip(expected) {
                    let case = format!("case {number}, {version}, {:?}", who.map(|who| &who.certificate));
                    let mut arguments = vec![flag, "-quiet", "-no_ign_eof"];
                    arguments.extend(who.map(Files::arguments).iter().flatten());
                    let mut client = s_client(&ours.server, &arguments);
                    let turned_away = logged(&ours).len();
                    let (answer, output) = beside(|| {
                        let mut client = Process::start(&mut client, Watch::Stdout);
                        // It may have been turned away before it reads this.
                        if welcome {
                            client.send("hello\n");
                        }
                        let answer = if welcome { client.line() } else { String::new() };
                        (answer, if welcome { client.finish() } else { client.await_end() })
                    });
                    if welcome {
                        assert_eq!(answer, "HELLO", "{case}");
                        let (socket, end) = ours.met();
                        assert_eq!(end, "closed by the peer", "{case}");
                        assert_eq!(socket.peer_fingerprint(), who.map(|who| who.identity().fingerprint()), "{case}");
                    } else {
                        assert!(!output.status.success(), "{case}: {}", output.stderr);
                        assert!(output.stderr.contains("alert"), "{case}: {}", output.stderr);
                        assert!(ours.met.borrow().is_empty(), "{case}");
                        assert_eq!(logged(&ours).len(), turned_away + 1, "{case}");
                    }
                }
            }
        }
    });
}

#[test]
fn our_client_reads_why_it_was_turned_away() {
    keep_log();
    on_own_context(|| {
        let home = TempDir::new();
        let trust = || ClientTls::new().directory(home.path("desk"));
        let [friend, foe] = ["friend", "foe"].map(|name| Identity::named_in(home.path("others"), name).unwrap());
        let ours = Ours::serve(ServerTls::named("desk").directory(home.path("desk")).allow([friend.fingerprint()]));
        let socket = connect_with(trust().identity(friend), &ours.address()).unwrap();
        assert_eq!(ask(&socket, "hello"), "HELLO");
        let text = rejection(trust().identity(foe.clone()), &ours.address());
        assert!(text.contains("does not accept our certificate") && text.contains(&foe.fingerprint().to_string()));
        let text = rejection(trust(), &ours.address());
        assert!(text.contains("requires a client certificate"), "{text}");
    });
}

#[test]
fn s_client_resumes_its_session() {
    on_own_context(|| {
        let home = TempDir::new();
        let ours = Ours::serve(Identity::named_in(home.path(""), "desk").unwrap().into());
        let ticket = home.address("ticket");
        for (flag, _) in VERSIONS {
            for (argument, resumed) in [("-sess_out", false), ("-sess_in", true)] {
                let mut client = s_client(&ours.server, &[flag, "-quiet", "-no_ign_eof", argument, &ticket]);
                beside(|| {
                    let mut client = Process::start(&mut client, Watch::Stdout);
                    // The answer comes after the tickets.
                    client.send("hello\n");
                    assert_eq!(client.line(), "HELLO");
                    client.finish();
                });
                assert_eq!(ours.met().0.is_tls_resumed(), resumed, "{flag} {argument}");
            }
        }
    });
}

/// The key that openssl has printed, in hexadecimal digits.
fn exported(openssl: &Process) -> String {
    openssl.line_with("Keying material: ").rsplit(' ').next().unwrap().to_lowercase()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const EXPORT: [&str; 4] = ["-keymatexport", "EXPERIMENTAL-it", "-keymatexportlen", "40"];

#[test]
fn s_client_derives_the_same_key() {
    on_own_context(|| {
        let identity = Identity::in_memory("desk").unwrap();
        let ours = Ours::serve(identity.into());
        let mut client = s_client(&ours.server, &[&["-tls1_3"], &EXPORT[..]].concat());
        let theirs = beside(|| exported(&Process::start(&mut client, Watch::Stdout)));
        let key = ours.met().0.export_key("EXPERIMENTAL-it", "", 40).unwrap();
        assert_eq!(hexadecimal(&key), theirs);
    });
}

#[test]
fn s_server_derives_the_same_key_and_its_certificate_is_read() {
    on_own_context(|| {
        let home = TempDir::new();
        let files = by_openssl(&home, "it", "rsa:2048");
        let tls = ClientTls::pinned(files.identity().fingerprint());
        let (server, address) = s_server(&files, &[&["-tls1_3"], &EXPORT[..]].concat());
        let socket = connect_with(tls.clone(), &address).unwrap();
        let key = socket.export_key("EXPERIMENTAL-it", b"", 40).unwrap();
        assert_eq!(hexadecimal(&key), exported(&server));
        assert_eq!(socket.peer_trust(), Some(Trust::Pin));

        let certificate = socket.peer_certificate().unwrap();
        let openssl = |options: &[&str]| {
            let mut openssl = tool("/usr/bin/openssl");
            openssl.args(["x509", "-noout", "-in"]).arg(&files.certificate).args(options);
            let output = run(&mut openssl, "");
            assert!(output.status.success(), "{}", output.stderr);
            output.text()
        };
        assert_eq!(
            format!("subject={}\n", certificate.subject()),
            openssl(&["-subject", "-nameopt", "esc_2253,utf8,sep_comma_plus_space,sname"])
        );
        let seconds =
            |time: Option<SystemTime>| time.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let date = |time| glib::DateTime::from_unix_utc(i64::try_from(seconds(time)).unwrap()).unwrap();
        let shown = |name: &str, time| format!("{name}={}\n", date(time).format("%FT%H:%M:%SZ").unwrap());
        assert_eq!(
            openssl(&["-startdate", "-dateopt", "iso_8601"]).replace(' ', "T"),
            shown("notBefore", certificate.not_before())
        );
        assert_eq!(
            openssl(&["-enddate", "-dateopt", "iso_8601"]).replace(' ', "T"),
            shown("notAfter", certificate.not_after())
        );
        let pem = openssl(&["-pubkey"]);
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        assert_eq!(glib::base64_encode(&socket.peer_public_key().unwrap()), body);

        let (_server, address) = s_server(&files, &["-tls1_2"]);
        let error = connect_with(tls, &address).unwrap().export_key("EXPERIMENTAL-it", b"", 40).unwrap_err();
        assert!(matches!(&error, Error::Unsupported(problem) if problem.contains("TLS 1.2")), "{error}");
    });
}

#[test]
fn s_client_changes_its_keys() {
    on_own_context(|| {
        let home = TempDir::new();
        let ours = Ours::serve(Identity::named_in(home.path(""), "desk").unwrap().into());
        let script = "exec openssl s_client -tls1_3 -connect \"127.0.0.1:$1\" 2>&1";
        let mut client = command("/bin/sh", ["-c", script, "sh", &ours.server.port().to_string()]);
        beside(|| {
            let mut client = Process::start(&mut client, Watch::Stdout);
            // With K it wants new keys of us, too.
            for letter in ["k", "K", "K", "k"] {
                client.send(format!("{letter}\n"));
                client.line_with("KEYUPDATE");
                client.send(format!("after {letter}\n"));
                client.line_with(&format!("AFTER {}", letter.to_uppercase()));
            }
            client.send("Q\n");
            client.await_end();
        });
        assert_eq!(ours.met().1, "closed by the peer");
    });
}

#[test]
fn an_attempt_to_renegotiate_does_no_harm() {
    on_own_context(|| {
        let home = TempDir::new();
        let ours = Ours::serve(Identity::named_in(home.path(""), "desk").unwrap().into());
        let (mut first, mut second) = (s_client(&ours.server, &["-tls1_2"]), s_client(&ours.server, &["-quiet"]));
        beside(|| {
            let mut other = Process::start(&mut second, Watch::Stdout);
            other.send("one\n");
            assert_eq!(other.line(), "ONE");
            let mut client = Process::start(&mut first, Watch::Stdout);
            client.send("before\n");
            client.line_with("BEFORE");
            client.send("R\n");
            // We decline, as TLS allows; openssl itself goes away over that.
            let output = client.await_end();
            let said = output.text() + &output.stderr;
            assert!(said.contains("RENEGOTIATING") && said.to_lowercase().contains("no renegotiation"), "{said}");
            other.send("two\n");
            assert_eq!(other.line(), "TWO");
        });
        until(|| !ours.ends.borrow().is_empty());
        eprintln!("the end was: {:?}", ours.ends.borrow());
    });
}

// ---- openssl as the server ----

#[test]
fn we_talk_to_s_server_in_both_versions_and_resume() {
    on_own_context(|| {
        let home = TempDir::new();
        let files = by_openssl(&home, "it", "rsa:2048");
        let tls = ClientTls::pinned(files.identity().fingerprint());
        for (flag, version) in VERSIONS {
            let (_server, address) = s_server(&files, &[flag, "-rev"]);
            for resumed in [false, true, true] {
                let socket = connect_with(tls.clone(), &address).unwrap();
                // The answer comes after the tickets.
                assert_eq!(ask(&socket, "reward"), "drawer");
                assert_eq!((socket.tls_version(), socket.is_tls_resumed()), (Some(version), resumed));
                assert_eq!(socket.peer_fingerprint(), Some(files.identity().fingerprint()));
            }
        }
    });
}

#[test]
fn s_server_wants_our_certificate() {
    on_own_context(|| {
        let home = TempDir::new();
        let files = by_openssl(&home, "it", "rsa:2048");
        let [me, other] = ["me", "other"].map(|name| Identity::named_in(home.path("others"), name).unwrap());
        let known = me.certificate_file().unwrap().to_str().unwrap().to_string();
        let tls = || ClientTls::pinned(files.identity().fingerprint());
        for (flag, _) in VERSIONS {
            let (_server, address) =
                s_server(&files, &[flag, "-rev", "-Verify", "1", "-verify_return_error", "-CAfile", &known]);
            let socket = connect_with(tls().identity(me.clone()), &address).unwrap();
            assert_eq!(ask(&socket, "reward"), "drawer");
            socket.close();
            drop(socket);
            let text = rejection(tls(), &address);
            assert!(text.contains("certificate"), "{flag}: {text}");
            let text = rejection(tls().identity(other.clone()), &address);
            assert!(text.contains("does not accept our certificate"), "{flag}: {text}");
        }
    });
}

#[test]
fn roots_count_for_the_right_name_and_time_only() {
    on_own_context(|| {
        for (name, year, fits, fits_named) in [
            ("localhost", 2200, true, false),
            ("other.example", 2200, false, true),
            ("localhost", 2002, false, false),
            ("other.example", 2002, false, false),
        ] {
            let home = TempDir::new();
            let (root, files) = by_authority(&home, name, year);
            let (_server, address) = s_server(&files, &["-rev"]);
            for (tls, fits) in [
                (ClientTls::roots(&root), fits),
                (ClientTls::roots(&root).server_name("other.example"), fits_named),
                // A pin asks for neither.
                (ClientTls::pinned(files.identity().fingerprint()), true),
            ] {
                match connect_with(tls, &address) {
                    Ok(socket) => {
                        assert!(fits, "{name} until {year} was let in");
                        assert_eq!(ask(&socket, "reward"), "drawer");
                    }
                    Err(error) => {
                        assert!(!fits, "{name} until {year}: {error}");
                        assert!(matches!(error, Error::UnknownCertificate { .. }), "{error}");
                        let word = if year == 2002 { "expired" } else { "name" };
                        assert!(error.to_string().contains(word), "{name} until {year}: {error}");
                    }
                }
            }
        }
    });
}

#[test]
fn the_death_of_s_server_is_a_cut() {
    on_own_context(|| {
        let home = TempDir::new();
        let files = by_openssl(&home, "it", "rsa:2048");
        for (flag, _) in VERSIONS {
            let (mut server, address) = s_server(&files, &[flag]);
            let socket = connect_with(ClientTls::pinned(files.identity().fingerprint()), &address).unwrap();
            let said = Rc::new(RefCell::new(Vec::new()));
            let all = said.clone();
            socket.read(move |_, data| {
                all.borrow_mut().extend_from_slice(data);
                Ok(())
            });
            server.send("last words\n");
            until(|| said.borrow().ends_with(b"\n"));
            server.signal(Signal::KILL);
            let reason = await_end(&socket);
            assert!(matches!(reason, Reason::Failed(Error::Truncated { .. })), "{flag}: {reason}");
            assert_eq!(*said.borrow(), b"last words\n");
        }
    });
}

// ---- Python ----

fn python(script: &str, arguments: &[&str]) -> Command {
    let mut python = tool("/usr/bin/python3");
    python.args(["-c", script]).args(arguments);
    python
}

/// Talks to our server by Python's `ssl`; with "cut" it goes without the end mark.
const SSL_CLIENT: &str = r#"
import socket, ssl, sys
port, cafile, version, how = sys.argv[1:]
context = ssl.create_default_context(cafile = cafile)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
plain = socket.create_connection(("127.0.0.1", int(port)))
secure = context.wrap_socket(plain, server_hostname = "localhost")
secure.sendall(b"hello from python\n")
print(secure.recv(100), secure.version())
if how == "cut":
    secure.close()
else:
    secure.unwrap()
"#;

/// Answers one line of one client, then ends with or without the end mark.
const SSL_SERVER: &str = r#"
import socket, ssl, sys
certificate, key, version, how = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
server = socket.create_server(("127.0.0.1", 0))
print("listening on", server.getsockname()[1], flush = True)
secure = context.wrap_socket(server.accept()[0], server_side = True)
secure.sendall(secure.recv(100).upper())
if how == "cut":
    secure.close()
else:
    secure.unwrap()
"#;

#[test]
fn python_s_ssl_is_our_client() {
    on_own_context(|| {
        let home = TempDir::new();
        let identity = Identity::named_in(home.path(""), "desk").unwrap();
        let file = identity.certificate_file().unwrap().to_str().unwrap().to_string();
        let ours = Ours::serve(identity.into());
        for version in ["TLSv1_2", "TLSv1_3"] {
            for (how, end) in [("end", "closed by the peer"), ("cut", "was truncated")] {
                let mut client = python(SSL_CLIENT, &[&ours.server.port().to_string(), &file, version, how]);
                let output = beside(|| run(&mut client, ""));
                output.assert_clean();
                assert_eq!(output.text(), format!("b'HELLO FROM PYTHON\\n' {}\n", version.replace('_', ".")));
                let (_, told) = ours.met();
                assert!(told.contains(end), "{version} {how}: {told}");
            }
        }
    });
}

#[test]
fn python_s_ssl_is_our_server() {
    on_own_context(|| {
        let home = TempDir::new();
        let (root, files) = by_authority(&home, "localhost", 2200);
        let (certificate, key) = (files.certificate.to_str().unwrap(), files.key.to_str().unwrap());
        for (version, shown) in [("TLSv1_2", "TLSv1.2"), ("TLSv1_3", "TLSv1.3")] {
            for how in ["end", "cut"] {
                let server = Process::start(&mut python(SSL_SERVER, &[certificate, key, version, how]), Watch::Stdout);
                let address = format!("localhost:{}", server.port("listening on"));
                let socket = connect_with(ClientTls::roots(&root), &address).unwrap();
                assert_eq!(ask(&socket, "hello"), "HELLO");
                assert_eq!(socket.tls_version(), Some(shown));
                match (how, await_end(&socket)) {
                    ("end", Reason::Remote) | ("cut", Reason::Failed(Error::Truncated { .. })) => {}
                    (how, other) => panic!("{version} {how}: {other}"),
                }
                socket.close();
                server.finish().assert_clean();
            }
        }
    });
}

/// The Python module asks the system's `ssl` for TLS 1.0 by a function that Python 3.12 has not any more. With the second
/// argument "modern" it is given that function back, with the versions of today.
const NETWORK_CLIENT: &str = r#"
import ssl, sys
if sys.argv[2] == "modern":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    ssl.wrap_socket = lambda socket, ssl_version: context.wrap_socket(socket)
import network

socket = network.Socket(sys.argv[1], tls = True, disconnect_cb = lambda socket, data: network.endloop() or b"")
def answer(text):
    print("got", text, flush = True)
    socket.close()
socket.readlines(answer)
socket.sendline("hello")
network.fgloop()
"#;

#[test]
fn python_network_is_our_client_where_its_python_lets_it() {
    keep_log();
    assert!(
        Path::new("/usr/lib/python3/dist-packages/network.py").exists(),
        "python3-network is missing; ./dev test installs what the tests need"
    );
    on_own_context(|| {
        let home = TempDir::new();
        let ours = Ours::serve(Identity::named_in(home.path(""), "desk").unwrap().into());
        let client = |how| {
            let mut client = python(NETWORK_CLIENT, &[&ours.address(), how]);
            client.env("HOME", home.path("")).current_dir(home.path(""));
            for name in ["PYTHONPATH", "PYTHONHOME", "XDG_CONFIG_HOME"] {
                client.env_remove(name);
            }
            client
        };
        let mut modern = client("modern");
        let output = beside(|| run(&mut modern, ""));
        assert!(output.status.success(), "{}", output.stderr);
        assert_eq!(output.text(), "got HELLO\n");
        eprintln!("the end was: {}", ours.met().1);

        // As it is it cannot: it knows only TLS 1.0, and not even that on newer versions of Python. It says so itself, and
        // we never meet it.
        let mut original = client("original");
        let output = beside(|| run(&mut original, ""));
        assert!(!output.status.success());
        eprintln!("as it is: {}\n{:?}", output.stderr, logged(&ours));
        assert!(ours.met.borrow().is_empty());
        assert!(ours.server.is_open());
    });
}

// ---- those who do not speak TLS ----

#[test]
fn who_speaks_no_tls_is_dropped_with_a_word_in_the_log_and_costs_nobody_else_anything() {
    keep_log();
    on_own_context(|| {
        let home = TempDir::new();
        let ours = Ours::serve(ServerTls::named("desk").directory(home.path("")));
        let port = ours.server.port();
        let strangers: [(&[u8], &str); 5] = [
            (b"GET / HTTP/1.0\r\n\r\n", "plaintext"),
            (b"hello\n", "plaintext"),
            (b"\x00\xff\xfe garbage", "not TLS"),
            (b"\x16\x03\x01\xff\xff garbage", "invalid TLS message"),
            // Silent: only time tells.
            (b"", "timed out after 500 ms"),
        ];
        let mut streams: Vec<_> = strangers
            .iter()
            .map(|(words, _)| {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                stream.set_read_timeout(Some(common::LIMIT)).unwrap();
                stream.write_all(words).unwrap();
                stream
            })
            .collect();
        // They are there already when somebody comes who does.
        let trust = ClientTls::new().directory(home.path(""));
        let socket = connect_with(trust, &ours.address()).unwrap();
        assert_eq!(ask(&socket, "hello"), "HELLO");
        beside(|| {
            for stream in &mut streams {
                let mut answer = Vec::new();
                // An alert, the end, or a reset, but nothing more.
                let _ = stream.read_to_end(&mut answer);
                assert!(answer.len() < 20, "{answer:?}");
            }
        });
        assert_eq!(ask(&socket, "and again"), "AND AGAIN");
        let lines = logged(&ours);
        assert_eq!(lines.len(), strangers.len(), "one line each: {lines:#?}");
        for (words, what) in strangers {
            assert!(lines.iter().any(|line| line.contains(what)), "{words:?} ({what}): {lines:#?}");
        }
        assert_eq!(ours.met.borrow().len(), 1, "the program meets none of them");
    });
}

#[test]
fn a_plaintext_server_is_told_apart_and_what_to_set() {
    on_own_context(|| {
        let mut socat = tool("/usr/bin/socat");
        socat.args(["-d", "-d", "TCP4-LISTEN:0,bind=127.0.0.1,fork", "SYSTEM:echo 220 welcome; cat"]);
        let socat = Process::start(&mut socat, Watch::Stderr);
        let address = format!("127.0.0.1:{}", socat.port("listening on"));
        let error = connect_with(ClientTls::danger_accept_any(), &address).unwrap_err();
        assert!(matches!(error, Error::Plaintext { .. }), "{error}");
        assert!(error.to_string().contains("tls(false)"), "{error}");
        // That is what to set.
        let socket = connect(Socket::builder().tls(false), &address).unwrap();
        let lines = Rc::new(RefCell::new(Vec::new()));
        let all = lines.clone();
        socket.readlines(move |_, line| {
            all.borrow_mut().push(line.to_string());
            network::endloop();
            Ok(())
        });
        run_loop();
        assert_eq!(*lines.borrow(), ["220 welcome"]);
    });
}
