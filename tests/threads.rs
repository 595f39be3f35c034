//! One server on several threads.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread::ThreadId;
use std::time::Duration;

use network::{Error, Server, ServerTls, Socket, server::ServerThreads};

fn on_own_context<R>(scenario: impl FnOnce() -> R) -> R {
    glib::MainContext::new().with_thread_default(scenario).unwrap()
}

fn connect(port: u16) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    BufReader::new(stream)
}

fn line(client: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line
}

/// Says in which thread it serves, then echoes lines; "panic" panics.
fn serve(threads: usize) -> ServerThreads {
    serve_by(threads, false)
}

/// By callbacks, or by one that awaits.
fn serve_by(threads: usize, awaits: bool) -> ServerThreads {
    let builder = Server::builder().tls(false).address("127.0.0.1");
    if awaits {
        let factory = || {
            network::server::async_handler(async |socket: Socket| {
                socket.send_future(format!("{:?}\n", std::thread::current().id())).await?;
                let mut lines = socket.lines();
                while let Some(line) = lines.next().await {
                    let line = line?;
                    assert_ne!(line, "panic", "as it was told");
                    socket.send_future(line + "\n").await?;
                }
                Ok(())
            })
        };
        return builder.threads(threads, factory).listen(0).unwrap();
    }
    let factory = || {
        |socket: Socket| {
            socket.sendline(format!("{:?}", std::thread::current().id()))?;
            socket.readlines(|socket, line| {
                assert_ne!(line, "panic", "as it was told");
                socket.sendline(line)
            });
            Ok(())
        }
    };
    builder.threads(threads, factory).listen(0).unwrap()
}

#[test]
fn clients_are_spread_and_all_are_served() {
    for awaits in [false, true] {
        on_own_context(|| {
            let server = serve_by(2, awaits);
            assert_eq!(server.threads(), 2);
            assert_eq!(server.local().len(), 1);
            let mut clients: Vec<_> = (0..64).map(|_| connect(server.port())).collect();
            let threads: HashSet<_> = clients.iter_mut().map(line).collect();
            assert_eq!(threads.len(), 2, "{threads:?}");
            for client in &mut clients {
                client.get_mut().write_all(b"hello\n").unwrap();
            }
            for client in &mut clients {
                assert_eq!(line(client), "hello\n");
            }
            server.close();
        });
    }
}

#[test]
fn closing_sends_what_was_sent_and_joins_the_threads() {
    on_own_context(|| {
        let (tell, told) = mpsc::channel::<ThreadId>();
        /// Tells of the end of its thread, which drops the callback that holds it.
        struct Told(mpsc::Sender<ThreadId>);
        impl Drop for Told {
            fn drop(&mut self) {
                self.0.send(std::thread::current().id()).unwrap();
            }
        }
        let data = vec![b'x'; 2 << 20];
        let factory = move || {
            let (told, data) = (Told(tell.clone()), data.clone());
            move |socket: Socket| {
                let _ = &told;
                socket.send(&data)
            }
        };
        let server = Server::builder().tls(false).address("127.0.0.1").threads(3, factory).listen(0).unwrap();
        let port = server.port();
        let mut clients: Vec<_> = (0..12).map(|_| connect(port)).collect();
        // Served, so what is missing is on its way.
        for client in &mut clients {
            client.read_exact(&mut [0]).unwrap();
        }
        let readers: Vec<_> = clients
            .into_iter()
            .map(|mut client| std::thread::spawn(move || client.read_to_end(&mut Vec::new()).unwrap()))
            .collect();
        server.close();
        let ended: HashSet<_> = told.try_iter().collect();
        assert_eq!(ended.len(), 3, "all threads have ended when it returns");
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "nobody listens any more");
        for reader in readers {
            assert_eq!(reader.join().unwrap(), (2 << 20) - 1);
        }
    });
}

#[test]
fn draining_waits_for_the_clients_and_no_longer_than_it_may() {
    for awaits in [false, true] {
        on_own_context(|| {
            let server = serve_by(2, awaits);
            let port = server.port();
            let mut clients: Vec<_> = (0..8).map(|_| connect(port)).collect();
            clients.iter_mut().for_each(|client| drop(line(client)));
            let speakers = std::thread::spawn(move || {
                // Nobody else is let in; those who are inside are served on.
                while TcpStream::connect(("127.0.0.1", port)).is_ok() {}
                for client in &mut clients {
                    client.get_mut().write_all(b"still there?\n").unwrap();
                    assert_eq!(line(client), "still there?\n");
                }
            });
            server.close_within(Duration::from_secs(60));
            speakers.join().unwrap();

            let server = serve_by(2, awaits);
            let mut client = connect(server.port());
            line(&mut client);
            server.close_within(Duration::from_millis(10));
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "one that never ends is closed");
        });
    }
}

#[test]
fn a_panic_comes_out_of_the_loop_of_who_made_it_and_the_threads_go_on() {
    for awaits in [false, true] {
        on_own_context(|| {
            let server = serve_by(2, awaits);
            for _ in 0..3 {
                let mut client = connect(server.port());
                line(&mut client);
                client.get_mut().write_all(b"panic\n").unwrap();
                let panic =
                    catch_unwind(AssertUnwindSafe(|| network::fgloop_for(Duration::from_secs(20)))).unwrap_err();
                assert!(panic.downcast_ref::<String>().unwrap().contains("as it was told"));
            }
            let mut others: Vec<_> = (0..32).map(|_| connect(server.port())).collect();
            let threads: HashSet<_> = others.iter_mut().map(line).collect();
            assert_eq!(threads.len(), 2, "both serve on");
            server.close();
        });
    }
}

#[test]
fn a_panic_comes_out_of_closing_at_the_latest() {
    for awaits in [false, true] {
        on_own_context(|| {
            let server = serve_by(1, awaits);
            let mut client = connect(server.port());
            line(&mut client);
            client.get_mut().write_all(b"panic\n").unwrap();
            // A panic ends its connection; no loop has run here since.
            let mut rest = Vec::new();
            let _ = client.read_to_end(&mut rest);
            assert!(catch_unwind(AssertUnwindSafe(|| server.close())).is_err());
        });
    }
}

#[test]
fn a_panic_of_the_factory_comes_out_of_listening() {
    on_own_context(|| {
        let listening = catch_unwind(|| {
            let factory = || -> fn(Socket) -> network::Result { panic!("no callback today") };
            Server::builder().tls(false).threads(2, factory).listen(0)
        });
        assert!(listening.is_err());
    });
}

#[test]
fn sessions_are_resumed_whichever_thread_made_them() {
    let directory = tempfile::tempdir().unwrap();
    on_own_context(|| {
        let tls = ServerTls::new().directory(directory.path());
        let factory = || |socket: Socket| socket.sendline(format!("{:?}", std::thread::current().id()));
        let server = Server::builder().tls(tls).address("127.0.0.1").threads(2, factory).listen(0).unwrap();
        assert!(server.fingerprint().is_some());
        let trust = network::ClientTls::new().directory(directory.path());
        let mut resumed = HashSet::new();
        for _ in 0..64 {
            let client = Socket::builder().tls(trust.clone()).connect(("127.0.0.1", server.port())).unwrap();
            let thread = client.recv_line().unwrap();
            if client.is_tls_resumed() {
                resumed.insert(thread);
            }
        }
        assert_eq!(resumed.len(), 2, "{resumed:?}");
        server.close();
    });
}

#[test]
fn what_cannot_be_spread_is_refused() {
    on_own_context(|| {
        let factory = || |_: Socket| Ok(());
        let unsupported = |outcome: network::Result<ServerThreads>| match outcome {
            Err(Error::Unsupported(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(unsupported(Server::builder().threads(2, factory).listen("./socket")).contains("unix"));
        assert!(unsupported(Server::builder().threads(2, factory).listen("chat|room")).contains("services"));
        let server = Server::builder().tls(false).disconnect_cb(|_, _| {});
        assert!(unsupported(server.threads(2, factory).listen(0)).contains("disconnect_cb"));
        // A port that another server has is in use, although that one shares it with itself.
        let first = serve(2);
        let second = Server::builder().tls(false).address("127.0.0.1").threads(2, factory).listen(first.port());
        assert!(matches!(second, Err(Error::InUse { .. })), "{second:?}");
        first.close();
    });
}
