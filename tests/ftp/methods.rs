//! Each method by each face, with a server that does what it is asked for, one that refuses, and one that is gone.

use std::io::{Cursor, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use futures_util::AsyncReadExt;
use network::ftp::{Client, Status};
use network::{Error, Result};

use super::common::{TempDir, await_it, on_own_context, told};
use super::scripted::{plain, says, server, usual};
use super::{by, send};

/// What the server does.
const OBEYS: u8 = 0;
const REFUSES: u8 = 1;
const DIES: u8 = 2;

/// A server for one session. Returns its port, and its mind, which may change.
fn minded() -> (u16, Arc<AtomicU8>) {
    let mind = Arc::new(AtomicU8::new(OBEYS));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let data_port = listener.local_addr().unwrap().port();
    let (now, mut data) = (mind.clone(), None);
    let (port, _) = server(
        b"220 x\r\n",
        Box::new(move |command, stream| match now.load(Ordering::SeqCst) {
            DIES => false,
            REFUSES => says(stream, "530 no\r\n"),
            _ => match command.split(' ').next().unwrap() {
                "EPSV" => {
                    let said = says(stream, &format!("229 (|||{data_port}|)\r\n"));
                    data = listener.accept().ok();
                    said
                }
                name @ ("RETR" | "NLST" | "LIST" | "STOR" | "APPE") => {
                    let begun = says(stream, "150 x\r\n");
                    let (mut connection, _) = data.take().unwrap();
                    match name {
                        "RETR" => says(&mut connection, "12345"),
                        "NLST" => says(&mut connection, "one\r\ntwo\r\n"),
                        "LIST" => says(&mut connection, "-rw-r--r-- 1 u g 5 Jan  1 2020 one\r\n"),
                        _ => connection.read_to_end(&mut Vec::new()).is_ok(),
                    };
                    drop(connection);
                    begun && says(stream, "226 x\r\n")
                }
                "MDTM" => says(stream, "213 20200101000000\r\n"),
                "MKD" => says(stream, "257 \"made\"\r\n"),
                "RNFR" => says(stream, "350 x\r\n"),
                "RNTO" | "CWD" | "CDUP" | "RMD" | "DELE" => says(stream, "250 x\r\n"),
                _ => says(stream, usual(command)),
            },
        }),
    );
    (port, mind)
}

/// A server that says that to one client, and is gone.
fn greeting_alone(greeting: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || listener.accept().unwrap().0.write_all(greeting).unwrap());
    port
}

type Method = Box<dyn Fn(usize, &Client, &TempDir) -> Result<String>>;

/// Calls by each face, and shows what comes of them.
fn methods() -> Vec<(&'static str, Method, &'static str)> {
    macro_rules! method {
        ($blocking:ident | $calling_back:ident | $awaited:ident ($($argument:expr),*), $show:expr, $expected:literal) => {{
            let call: Method = Box::new(|face, client, _| {
                by!(face, client, $blocking | $calling_back | $awaited($($argument),*)).map($show)
            });
            (stringify!($blocking), call, $expected)
        }};
    }
    let mut all = vec![
        method!(login | login_async | login_future("u", "p"), |done| done.to_string(), "230 in"),
        method!(login_anonymous | login_anonymous_async | login_anonymous_future(), |done| done.to_string(), "230 in"),
        method!(keep_alive | keep_alive_async | keep_alive_future(), |done| done.to_string(), "200 ok"),
        method!(
            working_directory | working_directory_async | working_directory_future(),
            |done| done.directory.to_string(),
            "/"
        ),
        method!(
            directory_listing | directory_listing_async | directory_listing_future("x"),
            |done| format!("{} {} {}", done.response, done.names[0], done.names[1]),
            "226 x one two"
        ),
        method!(
            list | list_async | list_future("x"),
            |done| format!("{} {:?}", done[0].name, done[0].size),
            "one Some(5)"
        ),
        method!(
            change_directory | change_directory_async | change_directory_future("x"),
            |done| done.to_string(),
            "250 x"
        ),
        method!(
            parent_directory | parent_directory_async | parent_directory_future(),
            |done| done.to_string(),
            "250 x"
        ),
        method!(
            create_directory | create_directory_async | create_directory_future("x"),
            |done| done.to_string(),
            "257 \"made\""
        ),
        method!(
            delete_directory | delete_directory_async | delete_directory_future("x"),
            |done| done.to_string(),
            "250 x"
        ),
        method!(rename_file | rename_file_async | rename_file_future("x", "y"), |done| done.to_string(), "250 x"),
        method!(delete_file | delete_file_async | delete_file_future("x"), |done| done.to_string(), "250 x"),
        method!(size | size_async | size_future("x"), |done| done.to_string(), "5"),
        method!(
            modified | modified_async | modified_future("x"),
            |done| done.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().to_string(),
            "1577836800"
        ),
        method!(disconnect | disconnect_async | disconnect_future(), |done| done.to_string(), "221 bye"),
    ];
    all.extend(transfers());
    all
}

fn transfers() -> Vec<(&'static str, Method, &'static str)> {
    vec![
        (
            "download",
            Box::new(|face, client, local| {
                send(face, client.download("x", local.path("to")))?;
                Ok(std::fs::read_to_string(local.path("to")).unwrap())
            }),
            "12345",
        ),
        (
            "download_to",
            Box::new(|face, client, local| {
                let file = std::fs::File::create(local.path("to")).unwrap();
                send(face, client.download_to("x", file))?;
                Ok(std::fs::read_to_string(local.path("to")).unwrap())
            }),
            "12345",
        ),
        (
            "upload",
            Box::new(|face, client, local| Ok(send(face, client.upload(local.path("from"), "x"))?.to_string())),
            "226 x",
        ),
        (
            "upload_from",
            Box::new(|face, client, _| Ok(send(face, client.upload_from(Cursor::new("12345"), 5, "x"))?.to_string())),
            "226 x",
        ),
        (
            "append",
            Box::new(|face, client, local| Ok(send(face, client.append(local.path("from"), "x"))?.to_string())),
            "226 x",
        ),
        (
            "read_future",
            Box::new(|_, client, _| {
                let reader = client.read_future("x");
                await_it(async {
                    let mut text = String::new();
                    reader.await?.read_to_string(&mut text).await?;
                    Ok(text)
                })
            }),
            "12345",
        ),
    ]
}

#[test]
fn every_method_by_every_face_with_servers_of_every_mind() {
    for (name, call, expected) in methods() {
        for face in 0..3 {
            for mind in [OBEYS, REFUSES, DIES] {
                let (port, changes) = minded();
                let local = TempDir::new();
                std::fs::write(local.path("from"), "12345").unwrap();
                on_own_context(|| {
                    let client = plain(port).unwrap();
                    client.features().unwrap();
                    changes.store(mind, Ordering::SeqCst);
                    let result = call(face, &client, &local);
                    let found = result.as_ref().map(String::as_str).map_err(Error::ftp_status);
                    let wanted = match mind {
                        OBEYS => Ok(expected),
                        REFUSES => Err(Status::NOT_LOGGED_IN),
                        _ => Err(Status::CONNECTION_CLOSED),
                    };
                    assert_eq!(found, wanted, "{name}, face {face}, mind {mind}: {result:?}");
                    changes.store(OBEYS, Ordering::SeqCst);
                    // A refusal ends nothing.
                    let is_usable = mind != DIES && name != "disconnect";
                    assert_eq!(client.keep_alive().is_ok(), is_usable, "{name}, face {face}, mind {mind}");
                    assert!(!local.path("to.part").exists(), "{name}, face {face}, mind {mind}");
                });
            }
        }
    }
}

#[test]
fn connecting_features_and_any_command_with_servers_of_every_mind() {
    for face in 0..3 {
        for (greeting, wanted) in [
            (&b"220 x\r\n"[..], None),
            (b"530 no\r\n", Some(Status::NOT_LOGGED_IN)),
            (b"", Some(Status::CONNECTION_CLOSED)),
        ] {
            let port = greeting_alone(greeting);
            on_own_context(|| {
                let builder = Client::builder().tls(false);
                let address = format!("127.0.0.1:{port}");
                let result = by!(face, builder.clone(), connect | connect_async | connect_future(&address));
                assert_eq!(result.as_ref().err().map(Error::ftp_status), wanted, "{face}: {result:?}");
            });
        }
        for mind in [OBEYS, REFUSES, DIES] {
            let (port, changes) = minded();
            on_own_context(|| {
                let client = plain(port).unwrap();
                changes.store(mind, Ordering::SeqCst);
                // A server without FEAT is one without features, and any reply to any command is a result.
                let features = by!(face, client, features | features_async | features_future());
                let reply = by!(face, client, command | command_async | command_future("PWD", None));
                match mind {
                    OBEYS => {
                        assert_eq!(features.unwrap(), ["SIZE"]);
                        assert_eq!(reply.unwrap().status, Status::DIRECTORY_OK);
                    }
                    REFUSES => {
                        assert!(features.unwrap().is_empty());
                        assert_eq!(reply.unwrap().status, Status::NOT_LOGGED_IN);
                    }
                    _ => {
                        assert_eq!(features.unwrap_err().ftp_status(), Status::CONNECTION_CLOSED);
                        assert_eq!(reply.unwrap_err().ftp_status(), Status::CONNECTION_CLOSED);
                    }
                }
            });
        }
    }
}
