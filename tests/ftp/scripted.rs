//! Servers that say what a table says, on a thread each.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use network::ftp::{Client, Status};
use network::{ClientTls, Error};

use super::common::{LIMIT, TempDir, await_it, noise, on_own_context};

/// The action of a server when a command comes.
pub type Answer = Box<dyn FnMut(&str, &mut TcpStream) -> bool + Send>;

/// A server for one session: greets, and answers each command until the answer is false. Returns its port, and the
/// commands that came.
pub fn server(greeting: &'static [u8], mut answer: Answer) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut commands = Vec::new();
        if stream.write_all(greeting).is_err() {
            return commands;
        }
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        while matches!(reader.read_line(&mut line), Ok(1..)) {
            let command = line.trim_end().to_owned();
            line.clear();
            commands.push(command.clone());
            if !answer(&command, &mut stream) {
                break;
            }
        }
        commands
    });
    (port, thread)
}

/// Answers of a server that is as it should be, but for data connections.
pub fn usual(command: &str) -> &'static str {
    match command.split(' ').next().unwrap() {
        "USER" => "331 password\r\n",
        "PASS" => "230 in\r\n",
        "FEAT" => "211-Features\r\n SIZE\r\n211 End\r\n",
        "PWD" => "257 \"/\"\r\n",
        "SIZE" => "213 5\r\n",
        "NOOP" | "TYPE" => "200 ok\r\n",
        "QUIT" => "221 bye\r\n",
        _ => "502 no\r\n",
    }
}

pub fn says(stream: &mut TcpStream, text: &str) -> bool {
    stream.write_all(text.as_bytes()).is_ok()
}

pub fn plain(port: u16) -> network::Result<Client> {
    let short = Duration::from_millis(300);
    let builder = Client::builder().tls(false).reply_timeout(short).data_timeout(short).abort_timeout(short);
    builder.connect(format!("127.0.0.1:{port}"))
}

#[test]
fn greetings() {
    for (greeting, status) in [
        (&b"220 ready\r\n"[..], None),
        (b"120 soon\r\n220 ready\r\n", None),
        (b"220-Welcome\r\n\x00\xff any\r\n230 thing\r\n220 ready\n", None),
        (b"421 too many\r\n", Some(421)),
        (b"530 not you\r\n", Some(530)),
        (b"SSH-2.0-OpenSSH\r\n", Some(1000)),
        (b"HTTP/1.1 400 Bad Request\r\n", Some(1000)),
        (b"", Some(1001)),
    ] {
        let (port, thread) = server(greeting, Box::new(|command, stream| says(stream, usual(command))));
        on_own_context(|| {
            let found = plain(port).map(|client| client.login("u", "p").unwrap()).err();
            assert_eq!(found.as_ref().map(|error| error.ftp_status()), status.map(Status), "{greeting:?}: {found:?}");
        });
        thread.join().unwrap();
    }
}

#[test]
fn replies_may_come_in_any_pieces() {
    let in_pieces = |command: &str, stream: &mut TcpStream| {
        stream.set_nodelay(true).unwrap();
        usual(command).bytes().all(|byte| {
            std::thread::yield_now();
            stream.write_all(&[byte]).is_ok()
        })
    };
    let (port, thread) = server(b"220 x\r\n", Box::new(move |command, stream| in_pieces(command, stream)));
    on_own_context(|| {
        let client = plain(port).unwrap();
        client.login("u", "p").unwrap();
        assert_eq!(client.features().unwrap(), ["SIZE"]);
        client.disconnect().unwrap();
    });
    thread.join().unwrap();
}

#[test]
fn a_reply_without_end_ends_the_session() {
    let endless = |command: &str, stream: &mut TcpStream| match command {
        "NOOP" => (0..200).all(|_| says(stream, &format!("200-{}\r\n", "x".repeat(1000)))),
        "PWD" => says(stream, &"x".repeat(9000)),
        _ => says(stream, usual(command)),
    };
    for is_line in [false, true] {
        let (port, thread) = server(b"220 x\r\n", Box::new(endless));
        on_own_context(|| {
            let client = plain(port).unwrap();
            let error =
                if is_line { client.working_directory().unwrap_err() } else { client.keep_alive().unwrap_err() };
            assert_eq!(error.ftp_status(), Status::INVALID_RESPONSE, "{error}");
            assert!(!client.socket().is_open() && client.keep_alive().is_err());
        });
        thread.join().unwrap();
    }
}

#[test]
fn silence_is_a_timeout_and_does_not_shift_the_replies() {
    // The answer to NOOP comes only when PWD is asked for.
    let mut late = "";
    let lazy = move |command: &str, stream: &mut TcpStream| {
        if command == "NOOP" {
            late = usual(command);
            return true;
        }
        let all = [std::mem::take(&mut late), usual(command)].concat();
        says(stream, &all)
    };
    let (port, thread) = server(b"220 x\r\n", Box::new(lazy));
    on_own_context(|| {
        let client = plain(port).unwrap();
        assert!(matches!(client.keep_alive(), Err(Error::TimedOut { .. })));
        // The reply is awaited before anything is asked for.
        assert!(matches!(client.working_directory(), Err(Error::TimedOut { .. })));
        drop(client);
    });
    thread.join().unwrap();
}

/// A server with one data connection for each transfer, which sends that.
fn serving(data: &'static [u8], replies: [&'static str; 2]) -> (u16, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut accepted = None;
    let answer = move |command: &str, stream: &mut TcpStream| match command.split(' ').next().unwrap() {
        "EPSV" => {
            let said = says(stream, &format!("229 (|||{port}|)\r\n"));
            accepted = listener.accept().ok();
            said
        }
        "RETR" | "NLST" | "STOR" => {
            let mut begun = says(stream, replies[0]);
            if let Some((mut connection, _)) = accepted.take() {
                let _ = connection.write_all(data);
            }
            begun &= says(stream, replies[1]);
            begun
        }
        "ABOR" => says(stream, "226 aborted\r\n"),
        _ => says(stream, usual(command)),
    };
    server(b"220 x\r\n", Box::new(answer))
}

#[test]
fn what_a_server_says_of_a_transfer_counts() {
    for (data, replies, status) in [
        (&b"12345"[..], ["150 here\r\n", "226 done\r\n"], None),
        (b"12345", ["125 here\r\n", "250 done\r\n"], None),
        // Before the data.
        (b"12345", ["150 here\r\n226 done\r\n", ""], None),
        (b"123", ["150 here\r\n", "226 done\r\n"], Some(1000)),
        (b"123456", ["150 here\r\n", "226 done\r\n"], Some(1000)),
        (b"123", ["150 here\r\n", "426 cut\r\n"], Some(426)),
        (b"", ["550 none\r\n", ""], Some(550)),
        (b"", ["226 done\r\n", ""], Some(1000)),
        (b"12345", ["150 here\r\n", "nonsense\r\n"], Some(1000)),
    ] {
        let (port, thread) = serving(data, replies);
        on_own_context(|| {
            let (client, local) = (plain(port).unwrap(), TempDir::new());
            let result = client.download("x", local.path("x")).send();
            let found = result.as_ref().err().map(Error::ftp_status);
            assert_eq!(found, status.map(Status), "{replies:?}: {result:?}");
            assert_eq!(local.path("x").exists(), status.is_none(), "{replies:?}");
            if replies[1] != "nonsense\r\n" {
                assert_eq!(client.working_directory().unwrap().directory, "/", "{replies:?}");
            }
        });
        thread.join().unwrap();
    }
}

#[test]
fn a_download_that_was_reset_goes_on_where_it_was() {
    const ALL: usize = 1 << 20;
    let content = noise(ALL, 13);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let data_port = listener.local_addr().unwrap().port();
    let (progress, halfway) = std::sync::mpsc::channel();
    let (sent, mut data, mut offset, mut is_first) = (content.clone(), None, 0, true);
    let answer = move |command: &str, stream: &mut TcpStream| match command.split_once(' ').unwrap_or((command, "")) {
        ("EPSV", _) => {
            let said = says(stream, &format!("229 (|||{data_port}|)\r\n"));
            data = listener.accept().ok();
            said
        }
        ("SIZE", _) => says(stream, &format!("213 {ALL}\r\n")),
        ("MDTM", _) => says(stream, "213 20200101000000\r\n"),
        ("REST", number) => {
            offset = number.parse().unwrap();
            says(stream, "350 x\r\n")
        }
        ("RETR", _) => {
            let (mut connection, _) = data.take().unwrap();
            let _ = says(stream, "150 x\r\n");
            if std::mem::take(&mut is_first) {
                connection.write_all(&sent[..ALL / 2]).unwrap();
                // What has not been read yet would be lost with it.
                while halfway.recv().unwrap() < ALL as u64 / 2 {}
                rustix::net::sockopt::set_socket_linger(&connection, Some(Duration::ZERO)).unwrap();
                drop(connection);
                return says(stream, "426 cut\r\n");
            }
            connection.write_all(&sent[offset..]).unwrap();
            drop(connection);
            says(stream, "226 x\r\n")
        }
        _ => says(stream, usual(command)),
    };
    let (port, thread) = server(b"220 x\r\n", Box::new(answer));
    on_own_context(|| {
        let (client, local) = (plain(port).unwrap(), TempDir::new());
        let download = || client.download("x", local.path("to")).resume(true);
        let cut = download().progress(move |now| progress.send(now.done).unwrap()).send().unwrap_err();
        assert_eq!(cut.ftp_status(), Status::TRANSFER_ABORTED, "{cut}");
        assert_eq!(std::fs::metadata(local.path("to.part")).unwrap().len(), ALL as u64 / 2);
        download().send().unwrap();
        assert!(std::fs::read(local.path("to")).unwrap() == content);
    });
    assert!(thread.join().unwrap().contains(&format!("REST {}", ALL / 2)));
}

#[test]
fn data_goes_to_the_host_of_the_session_alone_and_to_no_port_of_a_service() {
    // Whoever is connected to here has been led astray.
    let astray = TcpListener::bind("127.0.0.2:0").unwrap();
    astray.set_nonblocking(true).unwrap();
    let data = TcpListener::bind("127.0.0.1:0").unwrap();
    let (elsewhere, here) = (astray.local_addr().unwrap().port(), data.local_addr().unwrap().port());
    let [high, low] = here.to_be_bytes();
    let cases: Vec<(String, Option<u16>)> = vec![
        (format!("227 (127,0,0,2,{high},{low})\r\n"), None),
        ("227 (127,0,0,1,0,22)\r\n".into(), Some(1000)),
        ("227 nothing\r\n".into(), Some(1000)),
        ("425 no\r\n".into(), Some(425)),
    ];
    for (passive, status) in cases {
        let reply = passive.clone();
        let data = data.try_clone().unwrap();
        let answer = move |command: &str, stream: &mut TcpStream| match command.split(' ').next().unwrap() {
            "PASV" => says(stream, &reply),
            "NLST" => {
                let (mut connection, _) = data.accept().unwrap();
                let _ = says(stream, "150 x\r\n");
                let _ = connection.write_all(b"name\r\n");
                drop(connection);
                says(stream, "226 x\r\n")
            }
            _ => says(stream, usual(command)),
        };
        let (port, thread) = server(b"220 x\r\n", Box::new(answer));
        on_own_context(|| {
            let client = plain(port).unwrap();
            let result = client.directory_listing("");
            assert_eq!(result.as_ref().err().map(Error::ftp_status), status.map(Status), "{passive}: {result:?}");
        });
        let commands = thread.join().unwrap();
        assert_eq!(commands.iter().filter(|command| *command == "EPSV").count(), 1);
    }
    assert!(astray.accept().is_err(), "port {elsewhere}");
    for extended in ["229 (|||0|)\r\n", "229 (|||99999|)\r\n", "229 (|||22|)\r\n", "229 none\r\n", "200 ok\r\n"] {
        let answer = move |command: &str, stream: &mut TcpStream| {
            says(stream, if command == "EPSV" { extended } else { usual(command) })
        };
        let (port, thread) = server(b"220 x\r\n", Box::new(answer));
        on_own_context(|| {
            let result = plain(port).unwrap().directory_listing("");
            assert_eq!(result.unwrap_err().ftp_status(), Status::INVALID_RESPONSE, "{extended}");
        });
        assert!(!thread.join().unwrap().contains(&"PASV".to_owned()), "{extended}");
    }
}

#[test]
fn a_data_connection_that_never_ends_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let data = listener.local_addr().unwrap().port();
    let mut kept = Vec::new();
    let answer = move |command: &str, stream: &mut TcpStream| match command.split(' ').next().unwrap() {
        "EPSV" => {
            let said = says(stream, &format!("229 (|||{data}|)\r\n"));
            kept.push(listener.accept().unwrap());
            said
        }
        "RETR" => says(stream, "150 x\r\n"),
        "ABOR" => says(stream, "426 x\r\n226 y\r\n"),
        _ => says(stream, usual(command)),
    };
    let (port, thread) = server(b"220 x\r\n", Box::new(answer));
    on_own_context(|| {
        let client = plain(port).unwrap();
        for _ in 0..2 {
            let begun = Instant::now();
            let result = client.download_to("x", std::io::sink()).send();
            assert!(matches!(result, Err(Error::TimedOut { .. })), "{result:?}");
            assert!(begun.elapsed() >= Duration::from_millis(300));
            assert_eq!(client.working_directory().unwrap().directory, "/");
        }
    });
    thread.join().unwrap();
}

#[test]
fn what_comes_in_plaintext_with_the_consent_to_tls_is_not_believed() {
    let answer = |command: &str, stream: &mut TcpStream| {
        says(stream, if command == "AUTH TLS" { "234 begin\r\n230 you are in\r\n" } else { usual(command) })
    };
    let (port, thread) = server(b"220 x\r\n", Box::new(answer));
    on_own_context(|| {
        let builder = Client::builder().tls(ClientTls::danger_accept_any());
        let error = builder.connect(format!("127.0.0.1:{port}")).unwrap_err();
        assert!(matches!(error, Error::Plaintext { .. }), "{error}");
    });
    assert_eq!(thread.join().unwrap(), ["AUTH TLS"]);
}

#[test]
fn a_login_may_take_one_two_or_three_commands() {
    for (user, pass, account, status) in [
        ("230 in\r\n", "", None, None),
        ("331 x\r\n", "230 in\r\n", None, None),
        ("331 x\r\n", "202 in\r\n", None, None),
        ("331 x\r\n", "332 account\r\n", Some("me"), None),
        ("331 x\r\n", "332 account\r\n", None, Some(332)),
        ("331 x\r\n", "530 no\r\n", None, Some(530)),
        ("331 x\r\n", "331 again\r\n", None, Some(331)),
    ] {
        let answer = move |command: &str, stream: &mut TcpStream| {
            let reply = match command.split(' ').next().unwrap() {
                "USER" => user,
                "PASS" => pass,
                "ACCT" => "230 in\r\n",
                _ => usual(command),
            };
            says(stream, reply)
        };
        let (port, thread) = server(b"220 x\r\n", Box::new(answer));
        on_own_context(|| {
            let mut builder = Client::builder().tls(false);
            if let Some(account) = account {
                builder = builder.account(account);
            }
            let client = builder.connect(format!("127.0.0.1:{port}")).unwrap();
            let found = client.login("u", "p").err().map(|error| error.ftp_status());
            assert_eq!(found, status.map(Status), "{user} {pass}");
        });
        thread.join().unwrap();
    }
}

#[test]
fn a_server_that_closes_is_noticed_at_each_point() {
    for last in ["", "USER", "PASS", "FEAT", "TYPE", "SIZE", "EPSV"] {
        let answer = move |command: &str, stream: &mut TcpStream| {
            (last.is_empty() || !command.starts_with(last)) && says(stream, usual(command))
        };
        let greeting: &[u8] = if last.is_empty() { b"220 x\r\n421 timeout\r\n" } else { b"220 x\r\n" };
        let (port, thread) = server(greeting, Box::new(answer));
        on_own_context(|| {
            let client = plain(port).unwrap();
            let all = async {
                client.login_future("u", "p").await?;
                client.download_to("x", std::io::sink()).send_future().await
            };
            let error = await_it(all).unwrap_err();
            let expected = if last.is_empty() { Status::SERVICE_UNAVAILABLE } else { Status::CONNECTION_CLOSED };
            assert_eq!(error.ftp_status(), expected, "{last}: {error}");
        });
        thread.join().unwrap();
    }
}

#[test]
fn in_active_mode_nobody_else_may_connect() {
    let strangers = Arc::new(AtomicUsize::new(0));
    let count = strangers.clone();
    let mut target = None;
    let answer = move |command: &str, stream: &mut TcpStream| {
        if let Some(numbers) = command.strip_prefix("PORT ") {
            let numbers: Vec<u16> = numbers.split(',').map(|number| number.parse().unwrap()).collect();
            target = Some(numbers[4] * 256 + numbers[5]);
            return says(stream, "200 ok\r\n");
        }
        if command == "NLST" {
            let port = target.take().unwrap();
            let stranger = from_elsewhere(port);
            let _ = says(stream, "150 x\r\n");
            if let Some(mut stranger) = stranger {
                let _ = stranger.write_all(b"forged\r\n");
                let mut end = Vec::new();
                let _ = std::io::Read::read_to_end(&mut stranger, &mut end);
                count.fetch_add(1, Ordering::Relaxed);
            }
            let mut data = TcpStream::connect(("127.0.0.1", port)).unwrap();
            data.write_all(b"genuine\r\n").unwrap();
            drop(data);
            return says(stream, "226 x\r\n");
        }
        says(stream, usual(command))
    };
    let (port, thread) = server(b"220 x\r\n", Box::new(answer));
    on_own_context(|| {
        let client = Client::builder().tls(false).active(true).connect(format!("127.0.0.1:{port}")).unwrap();
        let names = client.directory_listing("").unwrap().names;
        assert_eq!(names, names.iter().filter(|name| **name == "genuine").cloned().collect::<Vec<_>>());
        assert_eq!(names.len(), 1);
    });
    thread.join().unwrap();
    assert_eq!(strangers.load(Ordering::Relaxed), 1, "a stranger has tried");
}

/// Connects from another address of the loopback network.
fn from_elsewhere(port: u16) -> Option<TcpStream> {
    use rustix::net::{AddressFamily, SocketAddrV4, SocketType, bind, connect, socket};
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &SocketAddrV4::new([127, 0, 0, 3].into(), 0)).unwrap();
    connect(&fd, &SocketAddrV4::new([127, 0, 0, 1].into(), port)).ok()?;
    Some(fd.into())
}
