//! STARTTLS with others: `openssl s_client` in four protocols, Python's smtplib, imaplib and ftplib as clients, aiosmtpd and
//! Dovecot as servers.

mod common;
#[path = "common/name_server.rs"]
mod name_server;

use std::cell::RefCell;
use std::net::TcpStream;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::{
    LIMIT, Process, TempDir, Watch, await_it, command, example, on_own_context, party, run, told, tool, until,
};
use gio::Cancellable;
use network::socket::LineEnding;
use network::{ClientTls, Server, ServerTls, Socket, tls::Identity};

fn python(script: &str, arguments: &[&str]) -> Command {
    let mut python = tool("/usr/bin/python3");
    python.args(["-c", script]).args(arguments).env("PYTHONUNBUFFERED", "1");
    python
}

/// A server that knows as much of a protocol as its clients need to get to TLS, and then repeats lines in capitals.
fn serve(identity: &Identity, greeting: &'static str, answer: fn(&str) -> (String, bool)) -> Server {
    let tls = ServerTls::from(identity.clone()).prepared().unwrap();
    Server::builder()
        .tls(false)
        .address("127.0.0.1")
        .listen(0, move |socket| {
            socket.send(greeting)?;
            let tls = tls.clone();
            socket.readlines(move |socket, line| {
                if socket.is_tls() {
                    return socket.sendline(line.to_uppercase());
                }
                let (reply, starts) = answer(line.trim_end());
                socket.send(reply)?;
                if starts {
                    socket.start_tls_async(tls.clone(), Cancellable::NONE, |_, result| result.unwrap());
                }
                Ok(())
            });
            Ok(())
        })
        .unwrap()
}

fn smtp(line: &str) -> (String, bool) {
    match &*line.to_ascii_uppercase() {
        "STARTTLS" => ("220 go ahead\r\n".into(), true),
        line if line.starts_with("EHLO") => ("250-here\r\n250 STARTTLS\r\n".into(), false),
        _ => ("500 no\r\n".into(), false),
    }
}

fn imap(line: &str) -> (String, bool) {
    let (tag, command) = line.split_once(' ').unwrap_or((line, ""));
    match command.to_ascii_uppercase().as_str() {
        "STARTTLS" => (format!("{tag} OK begin\r\n"), true),
        "CAPABILITY" => (format!("* CAPABILITY IMAP4rev1 STARTTLS\r\n{tag} OK done\r\n"), false),
        _ => (format!("{tag} BAD no\r\n"), false),
    }
}

fn ftp(line: &str) -> (String, bool) {
    match line {
        "AUTH TLS" => ("234 go ahead\r\n".into(), true),
        "FEAT" => ("211-features\r\n AUTH TLS\r\n211 end\r\n".into(), false),
        _ => ("500 no\r\n".into(), false),
    }
}

/// A server of XMPP, whose messages are no lines.
fn serve_xmpp(identity: &Identity) -> Server {
    let tls = ServerTls::from(identity.clone()).prepared().unwrap();
    Server::builder()
        .tls(false)
        .address("127.0.0.1")
        .listen(0, move |socket| {
            let tls = tls.clone();
            glib::spawn_future_local(async move {
                socket.recv_until_future("version='1.0'>").await?;
                socket.send(
                    "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' version='1.0'><stream:features>",
                )?;
                socket.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>")?;
                socket.recv_until_future("/>").await?;
                socket.send("<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")?;
                socket.start_tls_future(tls).await?;
                let line = socket.recv_line_future().await?;
                socket.sendline(line.to_uppercase())
            });
            Ok(())
        })
        .unwrap()
}

fn identity(directory: &TempDir) -> Identity {
    Identity::named_in(directory.path(""), "localhost").unwrap()
}

/// Runs a client beside a server of this thread.
fn converse(mut client: Process, line: &str, answer: &str) {
    client.send(line);
    let (client, line) = common::beside(move || {
        let line = client.line_with(answer);
        (client, line)
    });
    assert_eq!(line, answer);
    drop(client);
}

#[test]
fn openssl_starts_tls_in_each_protocol() {
    let directory = TempDir::new();
    let identity = identity(&directory);
    for protocol in ["smtp", "imap", "ftp", "xmpp"] {
        eprintln!("{protocol}");
        on_own_context(|| {
            let server = match protocol {
                "smtp" => serve(&identity, "220 here\r\n", smtp),
                "imap" => serve(&identity, "* OK here\r\n", imap),
                "ftp" => serve(&identity, "220 here\r\n", ftp),
                _ => serve_xmpp(&identity),
            };
            let address = format!("127.0.0.1:{}", server.port());
            let mut openssl = tool("/usr/bin/openssl");
            openssl.args(["s_client", "-quiet", "-connect", &address, "-starttls", protocol]);
            converse(Process::start(&mut openssl, Watch::Stdout), "hello\n", "HELLO");

            let pin = format!("pin:{}", identity.fingerprint());
            let netcat = ["--starttls", protocol, "--tls", &pin, &address];
            converse(Process::start(&mut command(example("netcat"), netcat), Watch::Stdout), "hello\n", "HELLO");
        });
    }
}

#[test]
fn pythons_clients_start_tls() {
    const SMTP: &str = "import smtplib, ssl, sys; c = smtplib.SMTP('127.0.0.1', int(sys.argv[1])); c.starttls(); \
                        c.sock.sendall(b'hello\\n'); print(c.sock.recv(100).decode().strip())";
    const IMAP: &str = "import imaplib, ssl, sys; c = imaplib.IMAP4('127.0.0.1', int(sys.argv[1])); \
                        imaplib.IMAP4._get_capabilities = lambda self: None; c.starttls(); \
                        c.sock.sendall(b'hello\\n'); print(c.sock.recv(100).decode().strip())";
    const FTP: &str = "import ftplib, ssl, sys; c = ftplib.FTP_TLS(); c.connect('127.0.0.1', int(sys.argv[1])); c.auth(); \
                       c.sock.sendall(b'hello\\n'); print(c.sock.recv(100).decode().strip())";
    let directory = TempDir::new();
    let identity = identity(&directory);
    type Answer = fn(&str) -> (String, bool);
    for (script, greeting, answer) in
        [(SMTP, "220 here\r\n", smtp as Answer), (IMAP, "* OK here\r\n", imap), (FTP, "220 here\r\n", ftp)]
    {
        on_own_context(|| {
            let server = serve(&identity, greeting, answer);
            let mut client = Process::start(&mut python(script, &[&server.port().to_string()]), Watch::Stdout);
            let output = common::beside(|| client.await_end());
            output.assert_clean();
            assert_eq!(output.text(), "HELLO\n");
        });
    }
}

/// aiosmtpd, which takes no mail before TLS, and its port.
fn aiosmtpd(directory: &TempDir) -> (Process, Identity, u16) {
    const SERVER: &str = "
import asyncio, ssl, sys
from aiosmtpd.smtp import SMTP
class Handler:
    async def handle_DATA(self, server, session, envelope):
        print('tls' if session.ssl else 'plain', envelope.mail_from, envelope.rcpt_tos, envelope.content)
        return '250 taken'
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    make = lambda: SMTP(Handler(), hostname='localhost', tls_context=context, require_starttls=True)
    server = await asyncio.get_running_loop().create_server(make, '127.0.0.1', 0)
    print('port', server.sockets[0].getsockname()[1])
    await server.serve_forever()
asyncio.run(main())
";
    assert!(
        std::path::Path::new("/usr/lib/python3/dist-packages/aiosmtpd").exists(),
        "python3-aiosmtpd is missing; ./dev test installs what the tests need"
    );
    let identity = identity(directory);
    let (certificate, key) = (directory.address("certs/localhost.pem"), directory.address("private/localhost.key"));
    let server = Process::start(&mut python(SERVER, &[&certificate, &key]), Watch::Stdout);
    let port = server.port("port");
    (server, identity, port)
}

#[test]
fn a_mail_goes_out_over_tls() {
    let directory = TempDir::new();
    let (server, identity, port) = aiosmtpd(&directory);
    let address = format!("localhost:{port}");

    // Its certificate is a stranger's: nothing is sent.
    let mail = "Subject: a test\n\n.hidden\nlast";
    let arguments = [&address, "me@example.org", "you@example.org"];
    let output = run(&mut command(example("smtp"), arguments), mail);
    assert!(output.assert_failed().contains("is not trusted"), "{output:?}");

    // As the user whose certificate it is.
    let mut client = command(example("smtp"), arguments);
    client.env("XDG_DATA_HOME", directory.path("home"));
    std::fs::create_dir_all(directory.path("home")).unwrap();
    std::os::unix::fs::symlink(directory.path(""), directory.path("home/network")).unwrap();
    run(&mut client, mail).assert_clean();
    let seen = server.line();
    assert_eq!(seen, r"tls me@example.org ['you@example.org'] b'Subject: a test\r\n\r\n.hidden\r\nlast\r\n'");

    // Bytes that are no text go out as they are, and an address cannot bring a command of its own.
    let mut latin = command(example("smtp"), arguments);
    latin.env("XDG_DATA_HOME", directory.path("home"));
    run(&mut latin, *b"\ncaf\xe9\r\n").assert_clean();
    assert_eq!(server.line(), r"tls me@example.org ['you@example.org'] b'\r\ncaf\xe9\r\n'");
    let output = run(&mut command(example("smtp"), [&address, "me@x>\r\nRSET", "you@example.org"]), mail);
    assert!(output.assert_failed().contains("must not contain control characters"), "{output:?}");

    // A scheme may say the same, and none that says something else is overruled.
    let [scheme, other] = ["smtp+starttls", "smtps"].map(|scheme| format!("{scheme}://{address}"));
    let mut named = command(example("smtp"), [&scheme, "me@example.org", "you@example.org"]);
    run(named.env("XDG_DATA_HOME", directory.path("home")), mail).assert_clean();
    assert_eq!(server.line(), seen);
    let output = run(&mut command(example("smtp"), [&other, "me@example.org", "you@example.org"]), mail);
    assert!(output.assert_failed().contains("TLS begins by the command STARTTLS"), "{output:?}");

    let pin = format!("pin:{}", identity.fingerprint());
    for arguments in [&["--starttls", "smtp", "--tls", &pin, &address][..], &["--verbose", "--tls", &pin, &scheme]] {
        let mut netcat = Process::start(&mut command(example("netcat"), arguments), Watch::Stdout);
        netcat.send("NOOP\r\nQUIT\r\n");
        assert!(netcat.line().starts_with("250"));
        assert!(netcat.line().starts_with("221"));
        let told = format!("connected to 127.0.0.1:{port} directly\npeer {}", identity.fingerprint());
        let stderr = netcat.finish().stderr;
        assert!(
            arguments[0] != "--verbose"
                || stderr.contains(&told)
                || stderr.contains(&told.replace("127.0.0.1", "[::1]")),
            "{stderr}"
        );
    }
}

/// A port of the network that a test has for itself.
const IMAP: u16 = 1430;

/// Starts Dovecot, which serves that port.
fn dovecot(directory: &TempDir, identity: &Identity) -> Process {
    common::parties::install_unpacked();
    name_server::set_account("tester", 1000, directory);
    let [home, run, certificate, key] =
        ["home", "run", "certs/localhost.pem", "private/localhost.key"].map(|name| directory.address(name));
    assert!(identity.certificate_file().is_some_and(|file| file.ends_with("certs/localhost.pem")));
    let config = format!(
        "protocols = imap\nbase_dir = {run}\nstate_dir = {run}\nlog_path = /dev/stderr\n\
         ssl = required\nssl_cert = <{certificate}\nssl_key = <{key}\n\
         default_internal_user = tester\ndefault_internal_group = tester\ndefault_login_user = tester\n\
         service anvil {{\n chroot =\n}}\n\
         service imap-login {{\n chroot =\n inet_listener imap {{\n address = 127.0.0.1\n port = {IMAP}\n }}\n\
         inet_listener imaps {{\n port = 0\n }}\n}}\n\
         mail_location = maildir:{home}\npassdb {{\n driver = static\n args = password=sesam\n}}\n\
         userdb {{\n driver = static\n args = uid=1000 gid=1000 home={home}\n}}\n"
    );
    let file = directory.path("dovecot.conf");
    std::fs::write(&file, config).unwrap();
    // It is there, or this says what is missing.
    party("dovecot");
    // As an ordinary user: to change to others takes ids that a namespace may not have.
    let mut command = tool("/usr/bin/unshare");
    command.args(["--user", "--map-user=1000", "--map-group=1000", "/usr/sbin/dovecot", "-F", "-c"]).arg(&file);
    let server = Process::start(&mut command, Watch::Stderr);
    let late = Instant::now() + LIMIT;
    while TcpStream::connect(("127.0.0.1", IMAP)).is_err() {
        assert!(Instant::now() < late, "Dovecot does not listen");
        std::thread::sleep(Duration::from_millis(10));
    }
    server
}

/// Receives the lines of a reply up to the one that this tag begins.
fn tagged(socket: &Socket, tag: &str) -> String {
    loop {
        let line = socket.recv_line().unwrap();
        if line.starts_with(tag) {
            return line;
        }
    }
}

#[test]
fn dovecot_takes_starttls() {
    if std::env::var_os("NETWORK_NO_USER_NAMESPACES").is_some() {
        return;
    }
    if !name_server::enter() {
        return name_server::run_again_inside("dovecot_takes_starttls");
    }
    let directory = TempDir::new();
    let identity = identity(&directory);
    let _server = dovecot(&directory, &identity);
    let tls = ClientTls::pinned(identity.fingerprint());
    on_own_context(|| {
        for face in 0..3 {
            let builder = Socket::builder().tls(false).line_ending(LineEnding::CrLf).timeout(LIMIT);
            let socket = builder.connect(format!("imap://localhost:{IMAP}")).unwrap();
            assert!(socket.recv_line().unwrap().contains("STARTTLS"));
            socket.sendline("a STARTTLS").unwrap();
            assert!(tagged(&socket, "a ").starts_with("a OK"));
            match face {
                0 => socket.start_tls(tls.clone()).unwrap(),
                1 => told(|done| socket.start_tls_async(tls.clone(), Cancellable::NONE, |_, result| done(result)))
                    .unwrap(),
                _ => await_it(socket.start_tls_future(tls.clone())).unwrap(),
            }
            assert_eq!(socket.tls_version(), Some("TLSv1.3"));
            for command in ["b LOGIN me sesam", "c SELECT INBOX", "d LOGOUT"] {
                socket.sendline(command).unwrap();
                let reply = tagged(&socket, &command[..2]);
                assert!(reply.starts_with(&format!("{}OK", &command[..2])), "{reply}");
            }
            let error = socket.recv_line().unwrap_err();
            assert!(matches!(error, network::Error::Closed { .. }), "{error}");
        }
    });
    let pin = format!("pin:{}", identity.fingerprint());
    let url = format!("imap+starttls://localhost:{IMAP}");
    let output = run(&mut command(example("netcat"), ["--tls", &pin, &url]), "a LOGOUT\r\n");
    output.assert_clean();
    assert!(output.text().contains("a OK"), "{output:?}");
}

#[test]
fn a_server_of_another_protocol_is_told_at_once() {
    on_own_context(|| {
        for (says, words) in
            [("SSH-2.0-OpenSSH_9.9\r\n", "not a server of this protocol"), ("", "leave --starttls away")]
        {
            let server = Server::builder().tls(false).address("127.0.0.1").listen(0, move |socket: Socket| {
                socket.read(|_, _| Ok(()));
                socket.send(says)
            });
            let address = format!("127.0.0.1:{}", server.as_ref().unwrap().port());
            let netcat = ["--starttls", "smtp", "--timeout", "1", &address];
            let mut client = Process::start(&mut command(example("netcat"), netcat), Watch::Stdout);
            let output = common::beside(|| client.await_end());
            assert!(output.assert_failed().contains(words), "{output:?}");
        }
    });
}

/// As in KDE Connect: whoever connects is the TLS server.
#[test]
fn the_roles_may_be_reversed() {
    const CLIENT: &str = "
import socket, ssl, sys
c = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
c.sendall(b'{\"type\": \"identity\"}\\n')
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
c = context.wrap_socket(c, server_side=True)
print(c.recv(100).decode().strip())
c.sendall(b'from python\\n')
c.unwrap()
";
    let directory = TempDir::new();
    let identity = identity(&directory);
    let (certificate, key) = (directory.address("certs/localhost.pem"), directory.address("private/localhost.key"));
    on_own_context(|| {
        let pin = identity.fingerprint();
        let heard = Rc::new(RefCell::new(Vec::new()));
        let lines = heard.clone();
        let server = Server::builder().tls(false).address("127.0.0.1").listen(0, move |socket| {
            let lines = lines.clone();
            socket.readlines(move |socket, line| {
                lines.borrow_mut().push((socket.is_tls(), line.to_owned()));
                if !socket.is_tls() {
                    socket.start_tls_async(pin, Cancellable::NONE, |socket, result| {
                        result.and_then(|()| socket.sendline("from us")).unwrap();
                    });
                }
                Ok(())
            });
            Ok(())
        });
        let server = server.unwrap();
        let arguments = [&*server.port().to_string(), &certificate, &key];
        let mut client = Process::start(&mut python(CLIENT, &arguments), Watch::Stdout);
        let output = common::beside(|| client.await_end());
        output.assert_clean();
        assert_eq!(output.text(), "from us\n");
        until(|| heard.borrow().len() == 2);
        assert_eq!(*heard.borrow(), [(false, r#"{"type": "identity"}"#.to_owned()), (true, "from python".to_owned())]);
    });
}

#[test]
fn a_server_that_offers_no_tls_is_told_apart() {
    on_own_context(|| {
        let server = Server::builder().tls(false).address("127.0.0.1").listen(0, |socket: Socket| {
            socket.send("220 here\r\n")?;
            socket.readlines(|socket, _| socket.send("250 nothing special\r\n"));
            Ok(())
        });
        let server = Rc::new(server.unwrap());
        let netcat = ["--starttls", "smtp", &format!("127.0.0.1:{}", server.port())];
        let mut client = Process::start(&mut command(example("netcat"), netcat), Watch::Stdout);
        let output = common::beside(|| client.await_end());
        assert!(output.assert_failed().contains("does not offer STARTTLS"), "{output:?}");
        until(|| server.connections().is_empty());
    });
}

/// The roots are loaded on a thread, which tells the loop. A blocking call does not wait for that.
#[test]
fn a_script_need_not_run_a_loop_for_the_system_roots() {
    let directory = TempDir::new();
    let identity = identity(&directory);
    on_own_context(|| {
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let server = std::thread::spawn(move || {
            on_own_context(|| Socket::from_fd(other).unwrap().start_tls(ServerTls::from(identity)).is_ok())
        });
        let tls = network::ClientTls::system().server_name("localhost");
        let socket = Socket::builder().tls(tls).from_fd(one).unwrap();
        let error = socket.recv_line().unwrap_err();
        assert!(matches!(&error, network::Error::UnknownCertificate { .. }), "{error}");
        drop(socket);
        let _ = server.join().unwrap();
    });
}

#[test]
fn what_comes_with_the_go_ahead_is_no_reason_to_go_without_tls() {
    on_own_context(|| {
        let server = Server::builder().tls(false).address("127.0.0.1").listen(0, |socket: Socket| {
            socket.send("220 here\r\n")?;
            socket.readlines(|socket, line| match line.trim_end() {
                "STARTTLS" => socket.send("220 go ahead\r\n250 injected\r\n"),
                _ => socket.send("250 STARTTLS\r\n"),
            });
            Ok(())
        });
        let address = format!("127.0.0.1:{}", server.as_ref().unwrap().port());
        let netcat = ["--starttls", "smtp", "--tls", "any", &address];
        let mut client = Process::start(&mut command(example("netcat"), netcat), Watch::Stdout);
        let output = common::beside(|| client.await_end());
        let line = output.assert_failed();
        assert!(
            line.contains("in plaintext that was to come after the TLS handshake") && !line.contains("--tls"),
            "{line}"
        );
    });
}
