//! The FTP client against vsftpd, pyftpdlib and pure-ftpd, and against servers of the tests' own that lie, hang and stop midway.

#[path = "../common/mod.rs"]
mod common;
mod cut;
mod disks;
mod examples;
mod methods;
#[path = "../common/name_server.rs"]
mod name_server;
mod proxied;
mod scripted;
mod servers;
mod silence;

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use common::{TempDir, await_it, noise, on_own_context, told};
use futures_util::AsyncReadExt;
use network::ftp::{Kind, Mode, Progress, Status};
use network::{Error, Result};
use servers::{SERVERS, Served, Tls, pyftpdlib, vsftpd};

const BIG: usize = 16 << 20;

/// One operation by one of the three faces.
macro_rules! by {
    ($face:expr, $client:expr, $blocking:ident | $calling_back:ident | $awaited:ident ($($argument:expr),*)) => {
        match $face {
            0 => $client.$blocking($($argument),*),
            1 => told(|done| $client.$calling_back($($argument,)* gio::Cancellable::NONE, done)),
            _ => await_it($client.$awaited($($argument),*)),
        }
    };
}

pub(crate) use by;

fn send(face: usize, transfer: network::ftp::Transfer) -> Result<network::ftp::Response> {
    by!(face, transfer, send | send_async | send_future())
}

/// The servers that this user can run.
fn for_each_server(scenario: impl Fn(&servers::Facts, &Served)) {
    for facts in &SERVERS {
        if facts.name == "pure-ftpd" && !rustix::process::geteuid().is_root() {
            eprintln!("pure-ftpd runs for root only");
            continue;
        }
        eprintln!("{}", facts.name);
        let served = (facts.start)();
        on_own_context(|| scenario(facts, &served));
    }
}

#[test]
fn all_of_a_session_by_every_face() {
    for_each_server(|facts, served| {
        for face in 0..3 {
            eprintln!("face {face}");
            session_by(face, facts, served);
        }
    });
}

fn session_by(face: usize, facts: &servers::Facts, served: &Served) {
    let local = TempDir::new();
    let builder = served.builder();
    let client = by!(face, builder.clone(), connect | connect_async | connect_future(served.address())).unwrap();
    assert_eq!(client.greeting().status, Status::SERVICE_READY);
    assert_eq!(client.socket().is_tls(), served.tls != Tls::None);
    let refused = by!(face, client, login | login_async | login_future("nobody", "wrong")).unwrap_err();
    assert_eq!(refused.ftp_status(), Status::NOT_LOGGED_IN, "{refused}");
    let response = by!(face, client, login | login_async | login_future(served.user, served.password)).unwrap();
    assert_eq!(response.status, Status::LOGGED_IN);
    assert!(by!(face, client, keep_alive | keep_alive_async | keep_alive_future()).unwrap().ok());
    let features = by!(face, client, features | features_async | features_future()).unwrap();
    assert!(features.iter().any(|feature| feature == "SIZE"), "{features:?}");
    assert_eq!(features.iter().any(|feature| feature.starts_with("MLST")), facts.has_mlsd);

    // Directories. pure-ftpd does not double the quotes in its replies, as RFC 959 has it.
    let quoted = if facts.name == "pure-ftpd" { "a b c" } else { "a \"b\" c" };
    let working = || by!(face, client, working_directory | working_directory_async | working_directory_future());
    assert_eq!(working().unwrap().directory, served.home.as_str());
    by!(face, client, change_directory | change_directory_async | change_directory_future(&served.writable)).unwrap();
    let made = by!(face, client, create_directory | create_directory_async | create_directory_future(quoted)).unwrap();
    assert_eq!(made.status, Status::DIRECTORY_OK);
    by!(face, client, change_directory | change_directory_async | change_directory_future(quoted)).unwrap();
    assert_eq!(working().unwrap().directory, format!("{}/{quoted}", served.writable).as_str());
    // Now and then pyftpdlib ends the TLS of an empty listing without close_notify, which is an error.
    if !facts.name.starts_with("pyftpdlib,") {
        let names = by!(face, client, directory_listing | directory_listing_async | directory_listing_future(""));
        let names: Vec<_> = names.unwrap().names.into_iter().filter(|name| *name != "." && *name != "..").collect();
        assert!(names.is_empty(), "{names:?}");
    }
    let missing = by!(face, client, change_directory | change_directory_async | change_directory_future("nosuch"));
    assert_eq!(missing.unwrap_err().ftp_status(), Status::FILE_UNAVAILABLE);

    // Files.
    for (name, size) in [("big file", BIG), ("empty", 0), ("one", 1)] {
        let content = noise(size, 7);
        let (from, to) = (local.path(name), local.path("back"));
        std::fs::write(&from, &content).unwrap();
        let reports = Rc::new(RefCell::new(Vec::<Progress>::new()));
        let log = reports.clone();
        let upload = client.upload(&from, name).progress(move |progress| log.borrow_mut().push(progress));
        assert!(send(face, upload).unwrap().ok());
        assert_progress(&reports.take(), size);
        let log = reports.clone();
        let download = client.download(name, &to).progress(move |progress| log.borrow_mut().push(progress));
        assert!(send(face, download).unwrap().ok());
        assert_progress(&reports.take(), size);
        assert!(std::fs::read(&to).unwrap() == content, "{name}");
        assert!(!local.path("back.part").exists());
        assert_eq!(by!(face, client, size | size_async | size_future(name)).unwrap(), size as u64);
        std::fs::remove_file(to).unwrap();
    }
    let modified = by!(face, client, modified | modified_async | modified_future("one")).unwrap();
    assert!(modified.elapsed().unwrap().as_secs() < 3600, "{modified:?}");
    send(face, client.append(local.path("one"), "one")).unwrap();
    assert_eq!(by!(face, client, size | size_async | size_future("one")).unwrap(), 2);
    let entries = by!(face, client, list | list_async | list_future("")).unwrap();
    let found = entries.iter().find(|entry| entry.name == "big file").unwrap();
    assert_eq!((found.kind, found.size), (Kind::File, Some(BIG as u64)));
    assert!(found.modified.is_some());
    by!(face, client, rename_file | rename_file_async | rename_file_future("one", "-two")).unwrap();
    let names = by!(face, client, directory_listing | directory_listing_async | directory_listing_future("")).unwrap();
    assert!(names.response.ok() && names.names.iter().any(|name| *name == "-two"), "{names:?}");
    for name in ["big file", "empty", "-two"] {
        by!(face, client, delete_file | delete_file_async | delete_file_future(name)).unwrap();
    }
    let missing = by!(face, client, delete_file | delete_file_async | delete_file_future("empty")).unwrap_err();
    assert_eq!(missing.ftp_status(), Status::FILE_UNAVAILABLE, "{missing}");
    by!(face, client, parent_directory | parent_directory_async | parent_directory_future()).unwrap();
    assert_eq!(working().unwrap().directory, served.writable.as_str());
    by!(face, client, delete_directory | delete_directory_async | delete_directory_future(quoted)).unwrap();
    let refused = send(face, client.download("nosuch", local.path("x"))).unwrap_err();
    assert_eq!(refused.ftp_status(), Status::FILE_UNAVAILABLE, "{refused}");
    assert!(!local.path("x").exists() && !local.path("x.part").exists(), "nothing is left of what has not begun");
    let response = by!(face, client, command | command_async | command_future("SITE", Some("NOSUCH"))).unwrap();
    assert!(!response.ok());
    by!(face, client, disconnect | disconnect_async | disconnect_future()).unwrap();
    let over = by!(face, client, keep_alive | keep_alive_async | keep_alive_future()).unwrap_err();
    assert_eq!(over.ftp_status(), Status::CONNECTION_CLOSED, "{over}");
}

fn assert_progress(reports: &[Progress], size: usize) {
    assert!(reports.windows(2).all(|pair| pair[0].done <= pair[1].done), "{reports:?}");
    let last = reports.last().unwrap();
    assert_eq!((last.done, last.total, last.fraction()), (size as u64, Some(size as u64), Some(1.0)));
}

#[test]
fn many_transfers_in_a_row_resume_the_session_that_vsftpd_demands() {
    let served = vsftpd(Tls::Explicit, "127.0.0.1");
    on_own_context(|| {
        let (client, local) = (served.session(), TempDir::new());
        let content = noise(1 << 20, 3);
        std::fs::write(local.path("from"), &content).unwrap();
        for number in 0..8 {
            let name = format!("file{number}");
            client.upload(local.path("from"), &name).send().unwrap();
            client.download(&name, local.path("to")).send().unwrap();
            assert!(std::fs::read(local.path("to")).unwrap() == content);
        }
    });
}

#[test]
fn text_has_the_line_endings_of_this_side() {
    for_each_server(|facts, served| {
        let (client, local) = (served.session(), TempDir::new());
        // pure-ftpd takes every \r out.
        let text = if facts.name == "pure-ftpd" { "one\ntwo\n\nlast" } else { "one\ntwo\n\nlone \r here" };
        std::fs::write(local.path("text"), text).unwrap();
        client.upload(local.path("text"), "text").mode(Mode::Ascii).send().unwrap();
        client.download("text", local.path("back")).mode(Mode::Ascii).send().unwrap();
        assert_eq!(std::fs::read_to_string(local.path("back")).unwrap(), text);
        let refused = client.upload(local.path("text"), "text").mode(Mode::Ebcdic).send().unwrap_err();
        assert!(
            matches!(refused.ftp_status(), Status::COMMAND_UNKNOWN | Status::PARAMETER_NOT_IMPLEMENTED),
            "{refused}"
        );
        assert!(client.keep_alive().unwrap().ok());
    });
}

#[test]
fn a_transfer_that_was_aborted_can_go_on() {
    for_each_server(|_, served| {
        for face in 0..3 {
            let (client, local) = (served.session(), TempDir::new());
            let content = noise(BIG, 5);
            std::fs::write(local.path("from"), &content).unwrap();
            let (aborter, at) = (client.clone(), Rc::new(Cell::new(0)));
            let seen = at.clone();
            let interrupted = move |progress: Progress| {
                seen.set(progress.done);
                if progress.done > BIG as u64 / 2 {
                    aborter.abort();
                }
            };
            let cut = send(face, client.upload(local.path("from"), "x").progress(interrupted.clone())).unwrap_err();
            assert!(matches!(cut, Error::Cancelled { .. }), "{cut}");
            assert!(client.keep_alive().unwrap().ok());
            let first = Rc::new(Cell::new(None));
            let begins = first.clone();
            let note = move |progress: Progress| begins.set(begins.get().or(Some(progress.done)));
            send(face, client.upload(local.path("from"), "x").resume(true).progress(note)).unwrap();
            assert!(first.get().unwrap() > 1 << 20, "it began anew");
            assert!(std::fs::read(served.path("x")).unwrap() == content);

            let resumable = |client: &network::ftp::Client| client.download("x", local.path("to")).resume(true);
            let cut = send(face, resumable(&client).progress(interrupted)).unwrap_err();
            assert!(matches!(cut, Error::Cancelled { .. }), "{cut}");
            let part = std::fs::metadata(local.path("to.part")).unwrap().len();
            assert!(part > BIG as u64 / 2 && part < BIG as u64 && !local.path("to").exists());
            assert_eq!(client.working_directory().unwrap().directory, served.writable.as_str());
            let begins = first.clone();
            first.set(None);
            send(face, resumable(&client).progress(move |progress| begins.set(begins.get().or(Some(progress.done)))))
                .unwrap();
            assert!(first.get().unwrap() > part, "it began anew");
            assert!(std::fs::read(local.path("to")).unwrap() == content);
        }
    });
}

#[test]
fn an_operation_can_be_given_up_anywhere() {
    for_each_server(|facts, served| {
        // Each TLS handshake that is given up takes one of the tickets that vsftpd demands, and brings none.
        if facts.name == "vsftpd, TLS with reuse" {
            return;
        }
        let (client, local) = (served.session(), TempDir::new());
        std::fs::write(local.path("from"), noise(1 << 20, 5)).unwrap();
        let operations: [&dyn Fn() -> Pin<Box<dyn Future<Output = bool>>>; 5] = [
            &|| {
                let transfer = client.download("x", local.path("to")).send_future();
                Box::pin(async { transfer.await.is_ok() })
            },
            &|| {
                let transfer = client.upload(local.path("from"), "x").send_future();
                Box::pin(async { transfer.await.is_ok() })
            },
            &|| {
                let operation = client.list_future("");
                Box::pin(async { operation.await.is_ok() })
            },
            &|| {
                let operation = client.rename_file_future("x", "x");
                Box::pin(async { operation.await.is_ok() })
            },
            &|| {
                let operation = client.read_future("x");
                Box::pin(async {
                    let mut all = Vec::new();
                    match operation.await {
                        Ok(mut reader) => reader.read_to_end(&mut all).await.is_ok(),
                        Err(_) => false,
                    }
                })
            },
        ];
        client.upload(local.path("from"), "x").send().unwrap();
        for (index, operation) in operations.iter().enumerate() {
            // Given up after so many polls, until it is done before that.
            let mut polls = 1;
            while !is_done_within(polls, operation()) {
                let response = client.working_directory().unwrap();
                assert_eq!(
                    response.directory,
                    served.writable.as_str(),
                    "operation {index} given up after {polls} polls"
                );
                polls += 1;
                if polls > 40 {
                    break;
                }
            }
        }
        client.upload(local.path("from"), "x").send().unwrap();
        client.download("x", local.path("to")).send().unwrap();
        assert!(std::fs::read(local.path("to")).unwrap() == std::fs::read(local.path("from")).unwrap());
    });
}

/// Polls a future so often, each time when the loop has brought something, and drops it.
fn is_done_within(polls: usize, mut future: Pin<Box<dyn Future<Output = bool>>>) -> bool {
    for _ in 0..polls {
        if let std::task::Poll::Ready(ok) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            assert!(ok);
            return true;
        }
        network::fgloop_for(std::time::Duration::from_millis(2));
    }
    false
}

#[test]
fn files_are_streamed_in_both_directions() {
    for_each_server(|_, served| {
        let client = served.session();
        let content = noise(3 << 20, 9);
        let source = std::io::Cursor::new(content.clone());
        client.upload_from(source, content.len() as u64, "x").send().unwrap();
        let reader = client.read_future("x");
        let received = await_it(async {
            let mut all = Vec::new();
            reader.await.unwrap().read_to_end(&mut all).await.unwrap();
            all
        });
        assert!(received == content);
        let file = tempfile::NamedTempFile::new().unwrap();
        client.download_to("x", file.reopen().unwrap()).send().unwrap();
        assert!(std::fs::read(file.path()).unwrap() == content);
        for length in [content.len() as u64 - 1, content.len() as u64 + 1] {
            let source = std::io::Cursor::new(content.clone());
            let wrong = client.upload_from(source, length, "y").send().unwrap_err();
            assert_eq!(wrong.ftp_status(), Status::INVALID_FILE, "{wrong}");
            assert!(client.keep_alive().unwrap().ok());
        }
        let broken = std::io::Cursor::new(content.clone()).chain(Broken);
        let wrong = client.upload_from(broken, None, "y").send().unwrap_err();
        assert!(wrong.ftp_status() == Status::INVALID_FILE && wrong.to_string().contains("on purpose"), "{wrong}");
        assert!(client.keep_alive().unwrap().ok());
    });
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("on purpose"))
    }
}

#[test]
fn local_files_that_cannot_be_used_leave_the_session_usable() {
    for_each_server(|_, served| {
        let (client, local) = (served.session(), TempDir::new());
        client.upload_from(std::io::Cursor::new(vec![1; 1 << 20]), None, "x").send().unwrap();
        for (case, result) in [
            ("no directory", client.download("x", "/nosuch/x").send()),
            ("a full disk", client.download_to("x", std::fs::File::create("/dev/full").unwrap()).send()),
            ("no file", client.upload(local.path("nosuch"), "y").send()),
            ("a directory", client.upload(local.path(""), "y").send()),
        ] {
            let refused = result.unwrap_err();
            assert_eq!(refused.ftp_status(), Status::INVALID_FILE, "{case}: {refused}");
            assert_eq!(client.working_directory().unwrap().directory, served.writable.as_str(), "{case}");
        }
        let text = client.upload(local.path("nosuch"), "y").send().unwrap_err().to_string();
        assert!(text.contains("nosuch") && !text.contains("os error"), "{text}");
    });
}

#[test]
fn names_may_be_any_bytes_but_those_that_end_a_line() {
    let served = pyftpdlib(Tls::None);
    on_own_context(|| {
        let (client, local) = (served.session(), TempDir::new());
        for name in [" leading", "trailing ", "quo\"te", "-hyphen", "ü", "a;b=c", "%s", "*"] {
            client.upload_from(std::io::Cursor::new(name.as_bytes().to_vec()), None, name).send().unwrap();
            let entries = client.list("").unwrap();
            assert!(entries.iter().any(|entry| entry.name == name), "{name:?} of {entries:?}");
            client.download(name, local.path("to")).send().unwrap();
            assert_eq!(std::fs::read(local.path("to")).unwrap(), name.as_bytes());
            client.delete_file(name).unwrap();
        }
        for bytes in [&b"\r"[..], b"\n", b"\0", b"\xff", b"\r\nDELE x"] {
            let name = [b"a", bytes, b"b"].concat();
            let source = || std::io::Cursor::new(Vec::new());
            let mut results = vec![
                client.login(&name, "x").map(drop),
                client.login("x", &name).map(drop),
                client.directory_listing(&name).map(drop),
                client.list(&name).map(drop),
                client.change_directory(&name).map(drop),
                client.create_directory(&name).map(drop),
                client.delete_directory(&name).map(drop),
                client.rename_file(&name, "x").map(drop),
                client.rename_file("x", &name).map(drop),
                client.delete_file(&name).map(drop),
                client.size(&name).map(drop),
                client.modified(&name).map(drop),
                client.download(&name, local.path("to")).send().map(drop),
                client.download_to(&name, std::io::sink()).send().map(drop),
                client.upload(local.path("to"), &name).send().map(drop),
                client.upload_from(source(), None, &name).send().map(drop),
                client.append(local.path("to"), &name).send().map(drop),
                await_it(client.read_future(&name)).map(drop),
            ];
            // These take text.
            if let Ok(name) = std::str::from_utf8(&name) {
                results.push(client.command("CWD", Some(name)).map(drop));
                results.push(client.command(name, None).map(drop));
            }
            for (index, result) in results.into_iter().enumerate() {
                let error = result.unwrap_err();
                assert!(matches!(error, Error::InvalidOption(_)), "{index} with {bytes:?}: {error}");
            }
        }
        assert!(client.keep_alive().unwrap().ok(), "nothing was sent");
    });
}

#[test]
fn in_active_mode_the_server_connects() {
    for_each_server(|_, served| {
        for face in 0..3 {
            let local = TempDir::new();
            // Waiting for ever is a limit like another.
            let ever = std::time::Duration::MAX;
            let builder = served.builder().active(true).accept_timeout(ever).connect_timeout(ever).abort_timeout(ever);
            let builder = builder.reply_timeout(ever).data_timeout(ever);
            let client =
                by!(face, builder.clone(), connect | connect_async | connect_future(served.address())).unwrap();
            client.login(served.user, served.password).unwrap();
            send(face, client.download("hello.txt", local.path(""))).unwrap();
            assert_eq!(std::fs::read_to_string(local.path("hello.txt")).unwrap(), "hello\nworld\n");
            send(face, client.upload(local.path("hello.txt"), "up/")).unwrap();
            assert!(served.path("hello.txt").exists());
        }
    });
}

#[test]
fn ipv6_is_used_as_ipv4_is() {
    if !common::has_ipv6() {
        return;
    }
    for tls in [Tls::None, Tls::Explicit] {
        let served = vsftpd(tls, "::1");
        on_own_context(|| {
            for active in [false, true] {
                let client = served.builder().active(active).connect(served.address()).unwrap();
                client.login_anonymous().unwrap();
                assert_eq!(client.list("").unwrap().len(), 2);
            }
        });
    }
}

#[test]
fn a_directory_of_ten_thousand_files() {
    let served = vsftpd(Tls::None, "127.0.0.1");
    for number in 0..10_000 {
        std::fs::write(served.path(&format!("file{number}")), "").unwrap();
    }
    on_own_context(|| {
        let client = served.session();
        assert_eq!(client.directory_listing("").unwrap().names.len(), 10_000);
        assert_eq!(client.list("").unwrap().len(), 10_000);
        let client = served.builder().listing_limit(100_000).connect(served.address()).unwrap();
        client.login_anonymous().unwrap();
        assert!(matches!(client.list(&served.writable), Err(Error::LimitExceeded { limit: 100_000, .. })));
        assert!(client.keep_alive().unwrap().ok());
    });
}

#[test]
fn operations_wait_for_each_other() {
    let served = pyftpdlib(Tls::None);
    on_own_context(|| {
        let (client, local) = (served.session(), TempDir::new());
        let order = Rc::new(RefCell::new(Vec::new()));
        let log = |name: &'static str| {
            let order = order.clone();
            move |result: Result<network::ftp::Response>| {
                result.unwrap();
                order.borrow_mut().push(name);
            }
        };
        let source = std::io::Cursor::new(noise(BIG, 1));
        client.upload_from(source, None, "x").send_async(gio::Cancellable::NONE, log("up"));
        client.keep_alive_async(gio::Cancellable::NONE, log("noop"));
        client.download("x", local.path("x")).send_async(gio::Cancellable::NONE, log("down"));
        client.delete_file_async("x", gio::Cancellable::NONE, log("delete"));
        network::iteration(true);
        let busy = client.keep_alive().unwrap_err();
        assert!(matches!(busy, Error::Unsupported(_)), "{busy}");
        common::until(|| order.borrow().len() == 4);
        assert_eq!(*order.borrow(), ["up", "noop", "down", "delete"]);
        assert_eq!(std::fs::metadata(local.path("x")).unwrap().len(), BIG as u64);
    });
}

#[test]
fn a_refusal_in_the_middle_is_told() {
    let served = pyftpdlib(Tls::None);
    on_own_context(|| {
        let client = served.session();
        let refused = client.upload_from(std::io::Cursor::new(vec![0; 100]), None, "too-much").send().unwrap_err();
        assert!(matches!(refused, Error::Ftp { .. }), "{refused}");
        assert!(client.keep_alive().unwrap().ok());
    });
}

#[test]
fn who_is_not_trusted_learns_no_password() {
    for tls in [Tls::Explicit, Tls::Implicit] {
        let served = pyftpdlib(tls);
        on_own_context(|| {
            let other = network::ClientTls::pinned("00".repeat(32));
            let error = network::ftp::Client::builder().tls(other).connect(served.address()).unwrap_err();
            assert!(matches!(error, Error::CertificateChanged { .. }), "{error}");
        });
    }
    // TLS is never given up.
    let served = vsftpd(Tls::None, "127.0.0.1");
    on_own_context(|| {
        let error = network::ftp::Client::connect(served.host()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("ftp://") && text.contains("ftps://") && text.contains("530"), "{text}");
    });
}
