//! Sessions against the real `openssl`, over loopback, each driven by a plain blocking loop.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::*;

/// Long enough for a busy machine; only a failing test ever waits for it.
const LIMIT: Duration = Duration::from_secs(30);

/// A session with its transport.
struct Wired {
    session: Session,
    stream: TcpStream,
    plain: Vec<u8>,
}

impl Wired {
    fn new(session: Session, stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Wired { session, stream, plain: Vec::new() }
    }

    fn flush(&mut self) {
        let mut out = Vec::new();
        self.session.take_output(&mut out);
        // A peer that has gone away shows when reading.
        let _ = self.stream.write_all(&out);
    }

    fn send(&mut self, text: &[u8]) {
        assert_eq!(self.session.send(text), text.len());
        self.flush();
    }

    /// One turn: writes, then reads once. `Ok(false)` at a good end.
    fn turn(&mut self) -> Result<bool> {
        self.flush();
        let mut buffer = [0; 20_000];
        match self.stream.read(&mut buffer).expect("bytes or an end within the limit") {
            0 => self.session.end().map(|()| false),
            count => {
                let outcome = self.session.receive(&buffer[..count], &mut self.plain);
                self.flush();
                outcome.map(|()| true)
            }
        }
    }

    fn until(&mut self, mut done: impl FnMut(&Self) -> bool) {
        while !done(self) {
            assert!(self.turn().expect("no error yet"), "no end yet");
        }
    }

    fn until_text(&mut self, text: &str) {
        self.until(|wired| String::from_utf8_lossy(&wired.plain).contains(text));
        self.plain.clear();
    }

    fn until_end(&mut self) -> Result {
        while self.turn()? {}
        Ok(())
    }
}

/// An `openssl s_client` or `s_server`, ended with the test.
struct Openssl {
    child: Child,
    input: Option<ChildStdin>,
    /// Its standard output and error output, line by line.
    output: BufReader<std::io::PipeReader>,
}

impl Openssl {
    fn start(arguments: &str, files: &[&std::path::Path]) -> Self {
        let (output, writer) = std::io::pipe().unwrap();
        let mut arguments: Vec<_> = arguments.split(' ').map(str::to_owned).collect();
        for argument in &mut arguments {
            for (index, file) in files.iter().enumerate() {
                if *argument == format!("@{index}") {
                    *argument = file.display().to_string();
                }
            }
        }
        let mut child = Command::new("openssl")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .expect("openssl");
        Openssl { input: child.stdin.take(), child, output: BufReader::new(output) }
    }

    fn type_in(&mut self, text: &str) {
        self.input.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Reads its output up to a line with this text, and returns that line.
    fn wait_for(&mut self, text: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "{text:?} is not in its output: {seen}");
            if line.contains(text) {
                return line;
            }
            seen.push_str(&line);
        }
    }

    /// Starts a server and tells its port.
    fn serve(arguments: &str, files: &[&std::path::Path]) -> (Self, u16) {
        let mut server = Self::start(&format!("s_server -accept 127.0.0.1:0 {arguments}"), files);
        let line = server.wait_for("ACCEPT ");
        let port = line.trim().rsplit(':').next().unwrap().parse().unwrap();
        (server, port)
    }
}

impl Drop for Openssl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn accept(arguments: &str, files: &[&std::path::Path], setup: &ServerSetup) -> (Openssl, Wired) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = Openssl::start(&format!("s_client -connect 127.0.0.1:{port} {arguments}"), files);
    let (stream, _) = listener.accept().unwrap();
    (client, Wired::new(Session::server(setup, "openssl").unwrap(), stream))
}

fn connect(tls: &ClientTls, key: &str, port: u16) -> Wired {
    let peer = PeerName { key: key.into(), host: Some("localhost".into()) };
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    Wired::new(Session::client(tls, &peer).unwrap(), stream)
}

/// A certificate by openssl, as the python-network library has them: an authority, with a common name only.
fn foreign(user: &User) -> (Identity, [std::path::PathBuf; 2]) {
    let [certificate, key] = ["x.pem", "x.key"].map(|name| user.home.path().join(name));
    let made = Command::new("openssl")
        .args("req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=x -keyout".split(' '))
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status();
    assert!(made.unwrap().success());
    (Identity::pem(&certificate, &key).unwrap(), [certificate, key])
}

#[test]
fn s_client_talks_to_us() {
    let user = User::new();
    let identity = user.identity("localhost");
    let own = foreign(&user).0;
    let setups = [
        user.serve_with(ServerTls::from(identity.clone()).alpn(["chat/1"])),
        user.serve_with(ServerTls::from(own.clone()).alpn(["chat/1"])),
    ];
    for (setup, of) in setups.iter().zip([&identity, &own]) {
        for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
            let trust = if *of == identity { "-verify_return_error -verify_hostname localhost" } else { "-verify 1" };
            let (mut client, mut server) =
                accept(&format!("{flag} {trust} -alpn chat/1 -CAfile @0"), &[of.certificate_file().unwrap()], setup);
            server.until(|wired| !wired.session.is_handshaking());
            assert_eq!(server.session.version(), Some(version));
            assert_eq!(server.session.alpn(), Some(&b"chat/1"[..]));
            client.type_in("hello\n");
            server.until_text("hello\n");
            server.send(b"hello yourself\n");
            client.wait_for("hello yourself");
            if version == "TLSv1.3" {
                client.type_in("K\n");
                client.wait_for("KEYUPDATE");
                client.type_in("still there\n");
                server.until_text("still there");
                server.send(b"so am I\n");
                client.wait_for("so am I");
            }
            client.type_in("Q\n");
            server.until_end().expect("a clean end");
            assert!(server.session.peer_closed());
        }
    }
}

#[test]
fn renegotiation_is_declined_without_harm() {
    let user = User::new();
    let (mut client, mut server) = accept("-tls1_2", &[], &user.serve());
    server.until(|wired| !wired.session.is_handshaking());
    client.type_in("before\n");
    server.until_text("before\n");
    client.type_in("R\n");
    client.wait_for("RENEGOTIATING");
    // We decline by a warning. openssl goes away over that, in its own manner; others would go on.
    match server.until_end() {
        Ok(()) | Err(Error::Rejected { .. } | Error::Truncated { .. }) => {}
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn s_client_resumes() {
    let user = User::new();
    let setup = user.serve();
    let ticket = user.home.path().join("ticket");
    for flag in ["-tls1_2", "-tls1_3"] {
        for (arguments, resumed) in [("-sess_out @0", false), ("-sess_in @0", true)] {
            let (mut client, mut server) = accept(&format!("{flag} {arguments}"), &[&ticket], &setup);
            server.until(|wired| !wired.session.is_handshaking());
            assert_eq!(server.session.resumed(), resumed, "{flag}");
            // In 1.3 tickets come after the handshake: what follows them shows that they have arrived.
            server.send(b"go\n");
            client.wait_for("go");
            client.type_in("Q\n");
            server.until_end().unwrap();
            client.child.wait().unwrap();
        }
    }
}

#[test]
fn s_client_shows_its_certificate() {
    let user = User::new();
    let (me, [certificate, key]) = foreign(&user);
    let setup = user.serve_with(ServerTls::named("server").allow([me.certificate_fingerprint()]));
    for flag in ["-tls1_2", "-tls1_3"] {
        let (mut client, mut server) = accept(&format!("{flag} -cert @0 -key @1"), &[&certificate, &key], &setup);
        server.until(|wired| !wired.session.is_handshaking());
        assert_eq!(server.session.peer_fingerprint(), Some(me.fingerprint()));
        client.type_in("Q\n");
        server.until_end().unwrap();
        let (_client, mut server) = accept(flag, &[], &setup);
        let error = server.until_end().unwrap_err();
        assert!(error.to_string().contains("presented no certificate"), "{error}");
    }
}

#[test]
fn we_talk_to_s_server() {
    let user = User::new();
    let (identity, [certificate, key]) = foreign(&user);
    let pinned = ClientTls::pinned(identity.fingerprint());
    let roots = ClientTls::roots(std::fs::read(&certificate).unwrap());
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let (_server, port) = Openssl::serve(&format!("{flag} -cert @0 -key @1 -rev"), &[&certificate, &key]);
        for (tls, resumed) in [(&pinned, false), (&pinned, true), (&roots, false)] {
            let mut client = connect(tls, &format!("s_server {flag}"), port);
            client.until(|wired| !wired.session.is_handshaking());
            assert_eq!(client.session.version(), Some(version));
            client.send(b"reward\n");
            client.until_text("drawer");
            assert_eq!(client.session.resumed(), resumed, "{version}");
            client.session.close_notify();
            client.flush();
            client.stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = client.until_end();
        }
        let mut stranger = connect(&user.default_client(), "s_server", port);
        let error = stranger.until_end().unwrap_err();
        assert!(matches!(error, Error::UnknownCertificate { .. }), "{error}");
    }
}

#[test]
fn s_server_may_want_our_certificate() {
    let user = User::new();
    let (identity, [certificate, key]) = foreign(&user);
    let me = user.identity("me");
    let tls = ClientTls::pinned(identity.fingerprint());
    for flag in ["-tls1_2", "-tls1_3"] {
        let arguments = format!("{flag} -cert @0 -key @1 -rev -Verify 1 -verify_return_error -CAfile @2");
        let (_server, port) = Openssl::serve(&arguments, &[&certificate, &key, me.certificate_file().unwrap()]);
        let mut client = connect(&tls.clone().identity(me.clone()), "wants", port);
        client.until(|wired| !wired.session.is_handshaking());
        client.send(b"reward\n");
        client.until_text("drawer");
        drop(client); // s_server serves one at a time

        let error = connect(&tls, "wants", port).until_end().unwrap_err();
        assert!(matches!(&error, Error::Rejected { problem, .. } if problem.contains("certificate")), "{error}");
        let other = tls.clone().identity(user.identity("other"));
        let error = connect(&other, "wants", port).until_end().unwrap_err();
        assert!(matches!(&error, Error::Rejected { problem, .. } if problem.contains("our certificate")), "{error}");
    }
}

#[test]
fn a_server_that_dies_leaves_a_cut() {
    let user = User::new();
    let (identity, [certificate, key]) = foreign(&user);
    let (mut server, port) = Openssl::serve("-cert @0 -key @1", &[&certificate, &key]);
    let mut client = connect(&ClientTls::pinned(identity.fingerprint()), "dies", port);
    client.until(|wired| !wired.session.is_handshaking());
    server.type_in("last words\n");
    client.until_text("last words");
    server.child.kill().unwrap();
    let error = client.until_end().unwrap_err();
    assert!(matches!(error, Error::Truncated { .. }), "{error}");
}

fn run(arguments: &str, directory: &std::path::Path) {
    let arguments = arguments.split(' ');
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn certificates_of_version_1_are_good_for_a_pin_and_as_a_clients() {
    let user = User::new();
    let home = user.home.path();
    run("req -new -newkey rsa:2048 -nodes -subj /CN=x -keyout x.key -out x.csr", home);
    run("x509 -req -in x.csr -signkey x.key -days 30 -out x.pem", home);
    let [certificate, key] = ["x.pem", "x.key"].map(|name| home.join(name));
    let text = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&certificate).output().unwrap();
    assert!(String::from_utf8_lossy(&text.stdout).contains("Version: 1"), "not the case that this is about");
    let identity = Identity::pem(&certificate, &key).unwrap();
    for flag in ["-tls1_2", "-tls1_3"] {
        let (_server, port) = Openssl::serve(&format!("{flag} -cert @0 -key @1 -rev"), &[&certificate, &key]);
        let first_use = user.with(ClientTls::on_first_use());
        for tls in [ClientTls::pinned(identity.fingerprint()), first_use, ClientTls::danger_accept_any()] {
            let mut client = connect(&tls, &format!("version 1 {flag}"), port);
            client.until(|wired| !wired.session.is_handshaking());
            assert_eq!(client.session.peer_fingerprint(), Some(identity.fingerprint()));
        }
        let setup = user.serve_with(ServerTls::from(identity.clone()).request_client_certificate());
        let (mut client, mut server) = accept(&format!("{flag} -cert @0 -key @1"), &[&certificate, &key], &setup);
        server.until(|wired| !wired.session.is_handshaking());
        assert_eq!(server.session.peer_fingerprint(), Some(identity.fingerprint()));
        client.type_in("Q\n");
        server.until_end().unwrap();
    }
}

#[test]
fn a_short_rsa_key_is_told_as_such() {
    let user = User::new();
    let home = user.home.path();
    run("req -x509 -newkey rsa:1024 -nodes -days 30 -subj /CN=x -keyout x.key -out x.pem", home);
    let [certificate, key] = ["x.pem", "x.key"].map(|name| home.join(name));
    let error = Identity::pem(&certificate, &key).unwrap_err();
    assert!(error.to_string().contains("the RSA key has 1024 bits"), "{error}");
    let pem = std::fs::read(&certificate).unwrap();
    let shown = super::super::pem::certificates(&pem).unwrap().remove(0);
    let fingerprint = super::super::certificate::Fingerprints::of(&shown).unwrap().key;
    for flag in ["-tls1_2", "-tls1_3"] {
        let arguments = format!("{flag} -cipher DEFAULT@SECLEVEL=0 -cert @0 -key @1 -rev");
        let (_server, port) = Openssl::serve(&arguments, &[&certificate, &key]);
        for tls in [ClientTls::pinned(fingerprint), user.default_client(), ClientTls::roots(&pem)] {
            let mut client = connect(&tls, &format!("short {flag}"), port);
            let error = client.until_end().unwrap_err();
            assert!(error.to_string().contains("the RSA key has 1024 bits"), "{error}");
        }
        // Another key than the pinned one matters more.
        let mut client = connect(&ClientTls::pinned("00".repeat(32)), &format!("short {flag}"), port);
        assert!(matches!(client.until_end(), Err(Error::CertificateChanged { .. })));
    }
    let setup = user.serve_with(ServerTls::named("server").require_client_certificate());
    let arguments = "-cipher DEFAULT@SECLEVEL=0 -cert @0 -key @1";
    let (_client, mut server) = accept(arguments, &[&certificate, &key], &setup);
    let error = server.until_end().unwrap_err();
    assert!(error.to_string().contains("openssl: the RSA key has 1024 bits"), "{error}");
}
