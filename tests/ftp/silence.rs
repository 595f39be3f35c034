//! A server that falls silent: each wait for it ends by a timeout, wherever that is.

use std::io::{Cursor, Read};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use network::ftp::Client;
use network::{ClientTls, Error, Result};

use super::common::{await_it, on_own_context};
use super::scripted::{Answer, says, server, usual};

const SHORT: Duration = Duration::from_millis(300);

/// What a server would answer that has everything, but for data connections.
fn able(command: &str) -> &'static str {
    match command.split(' ').next().unwrap() {
        "FEAT" => "211-Features\r\n UTF8\r\n MLST size*;\r\n REST STREAM\r\n211 End\r\n",
        "RNFR" | "REST" => "350 x\r\n",
        "RNTO" | "CWD" | "CDUP" | "RMD" | "DELE" => "250 x\r\n",
        "MKD" => "257 \"x\"\r\n",
        "MDTM" => "213 20200101000000\r\n",
        "OPTS" => "200 x\r\n",
        _ => usual(command),
    }
}

/// Points at which a server stays silent that are no commands.
const POINTS: [&str; 9] = [
    "greeting",
    "TLS",
    "data of RETR",
    "end of RETR",
    "reply after RETR",
    "data of MLSD",
    "reply after MLSD",
    "reading of STOR",
    "reply after STOR",
];

/// Commands, which a server leaves unanswered.
const COMMANDS: [&str; 24] = [
    "AUTH", "USER", "PASS", "FEAT", "OPTS", "NOOP", "PWD", "CWD", "CDUP", "MKD", "RMD", "RNFR", "RNTO", "DELE", "SIZE",
    "MDTM", "TYPE", "EPSV", "PASV", "RETR", "MLSD", "STOR", "SITE", "QUIT",
];

/// A server that is silent at that point.
fn silent(point: &'static str) -> Answer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (mut data, mut kept): (Option<TcpStream>, Vec<TcpStream>) = (None, Vec::new());
    Box::new(move |command, stream| {
        let name = command.split(' ').next().unwrap();
        if name == point {
            return true;
        }
        let at = |part: &str| point.strip_suffix(name).is_some_and(|start| start.trim_end().ends_with(part));
        let high_low = port.to_be_bytes();
        match name {
            "AUTH" => {
                // What comes now is no command.
                says(stream, "234 x\r\n") && stream.read_to_end(&mut Vec::new()).is_err()
            }
            // A connection is dropped by the next transfer, or with the session.
            "EPSV" if point == "PASV" => says(stream, "502 x\r\n"),
            "PASV" => says(stream, &format!("227 (127,0,0,1,{},{})\r\n", high_low[0], high_low[1])),
            "EPSV" => {
                let said = says(stream, &format!("229 (|||{port}|)\r\n"));
                data = listener.accept().ok().map(|(connection, _)| connection);
                said
            }
            "RETR" | "MLSD" | "STOR" => {
                let begun = says(stream, "150 x\r\n");
                let mut connection = data.take().unwrap();
                if at("data of") || at("reading of") {
                    kept.push(connection);
                    return begun;
                }
                if name == "STOR" {
                    let _ = connection.read_to_end(&mut Vec::new());
                } else {
                    says(&mut connection, if name == "RETR" { "12345" } else { "size=5; x\r\n" });
                }
                if at("end of") {
                    kept.push(connection);
                    return begun;
                }
                drop(connection);
                at("reply after") || says(stream, "226 x\r\n")
            }
            "ABOR" => says(stream, "226 x\r\n"),
            _ => says(stream, able(command)),
        }
    })
}

/// What is uploaded. For a peer that does not read it is longer than what the kernel keeps.
fn source(point: &str) -> Cursor<Vec<u8>> {
    Cursor::new(vec![0; if point == "reading of STOR" { 32 << 20 } else { 1000 }])
}

/// Everything that a client can ask for.
async fn everything(client: &Client, point: &str) -> Result {
    client.login_future("u", "p").await?;
    client.keep_alive_future().await?;
    client.working_directory_future().await?;
    client.change_directory_future("x").await?;
    client.parent_directory_future().await?;
    client.create_directory_future("x").await?;
    client.delete_directory_future("x").await?;
    client.rename_file_future("x", "y").await?;
    client.delete_file_future("x").await?;
    client.size_future("x").await?;
    client.modified_future("x").await?;
    client.command_future("SITE", Some("x")).await?;
    client.download_to("x", std::io::sink()).send_future().await?;
    client.list_future("").await?;
    client.upload_from(source(point), None, "x").send_future().await?;
    client.disconnect_future().await.map(drop)
}

fn everything_blocking(client: &Client, point: &str) -> Result {
    client.login("u", "p")?;
    client.keep_alive()?;
    client.working_directory()?;
    client.change_directory("x")?;
    client.parent_directory()?;
    client.create_directory("x")?;
    client.delete_directory("x")?;
    client.rename_file("x", "y")?;
    client.delete_file("x")?;
    client.size("x")?;
    client.modified("x")?;
    client.command("SITE", Some("x"))?;
    client.download_to("x", std::io::sink()).send()?;
    client.list("")?;
    client.upload_from(source(point), None, "x").send()?;
    client.disconnect().map(drop)
}

/// Runs everything against a server that is silent at that point.
fn run(point: &'static str, blocking: bool) {
    let greeting: &[u8] = if point == "greeting" { b"" } else { b"220 x\r\n" };
    let (port, thread) = server(greeting, silent(point));
    let begun = Instant::now();
    on_own_context(|| {
        let mut builder = Client::builder().reply_timeout(SHORT).data_timeout(SHORT).abort_timeout(SHORT);
        builder = match point {
            "AUTH" | "TLS" => builder.tls(ClientTls::new()).connect_timeout(SHORT),
            _ => builder.tls(false),
        };
        let address = format!("127.0.0.1:{port}");
        let result = if blocking {
            builder.connect(&address).and_then(|client| everything_blocking(&client, point))
        } else {
            await_it(async { everything(&builder.connect_future(&address).await?, point).await })
        };
        assert!(matches!(result, Err(Error::TimedOut { .. })), "{point}: {result:?}");
    });
    assert!(begun.elapsed() >= SHORT, "{point}");
    let commands = thread.join().unwrap();
    // It was that point, and none before it.
    let names: Vec<&str> = commands.iter().map(|command| command.split(' ').next().unwrap()).collect();
    match point {
        "greeting" => assert!(names.is_empty(), "{names:?}"),
        "TLS" => assert_eq!(names[0], "AUTH"),
        _ => {
            let name = point.split(' ').next_back().unwrap();
            let rest = names.iter().skip_while(|found| **found != name).skip(1);
            let left: Vec<_> = rest.filter(|found| !matches!(**found, "ABOR" | "NOOP")).collect();
            assert!(names.contains(&name) && left.is_empty(), "{point}: {names:?}");
        }
    }
}

#[test]
fn silence_is_a_timeout_at_each_point() {
    std::thread::scope(|scope| {
        for point in POINTS.into_iter().chain(COMMANDS) {
            scope.spawn(move || run(point, true));
            scope.spawn(move || run(point, false));
        }
    });
}
