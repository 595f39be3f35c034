//! socat as the peer, in both directions, over TCP 4, TCP 6 and unix sockets.

mod common;

use std::cell::RefCell;
use std::process::Command;
use std::rc::Rc;

use common::{LIMIT, Output, Process, TempDir, Watch, has_ipv6, noise, on_own_context, run, run_loop, tool};
use network::{Server, Socket};

#[derive(Clone, Copy, Debug)]
enum Kind {
    Tcp4,
    Tcp6,
    Unix,
}

/// The kinds this machine has.
fn kinds() -> Vec<Kind> {
    if has_ipv6() { vec![Kind::Tcp4, Kind::Tcp6, Kind::Unix] } else { vec![Kind::Tcp4, Kind::Unix] }
}

impl Kind {
    fn listen(self, directory: &TempDir) -> String {
        match self {
            Kind::Tcp4 => "127.0.0.1:0".into(),
            Kind::Tcp6 => "[::1]:0".into(),
            Kind::Unix => directory.address("socket"),
        }
    }

    /// How socat is told to connect there.
    fn of_socat(self, server: &Server, directory: &TempDir) -> String {
        match self {
            Kind::Tcp4 => format!("TCP4:127.0.0.1:{}", server.port()),
            Kind::Tcp6 => format!("TCP6:[::1]:{}", server.port()),
            Kind::Unix => format!("UNIX-CONNECT:{}", directory.address("socket")),
        }
    }
}

fn socat() -> Command {
    let mut command = tool("/usr/bin/socat");
    // At the end of one direction it waits for the other, not only half a second.
    command.args(["-t", "30"]);
    command
}

/// Serves socat, which runs in a thread of its own, until that has ended.
fn serve(kind: Kind, input: Vec<u8>, obj: impl FnMut(Socket) -> network::Result + 'static) -> Output {
    on_own_context(|| {
        let directory = TempDir::new();
        let server = Server::builder().tls(false).listen(kind.listen(&directory).as_str(), obj).unwrap();
        let mut socat = socat();
        socat.args(["STDIO", &kind.of_socat(&server, &directory)]);
        let context = glib::MainContext::ref_thread_default();
        let thread = std::thread::spawn(move || {
            let output = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&mut socat, input)));
            context.invoke(network::endloop);
            output.unwrap()
        });
        run_loop();
        thread.join().unwrap()
    })
}

/// A socat that listens and sends back what it gets, and the address.
fn echo(kind: Kind, directory: &TempDir) -> (Process, String) {
    let listen = match kind {
        Kind::Tcp4 => "TCP4-LISTEN:0,bind=127.0.0.1".into(),
        Kind::Tcp6 => "TCP6-LISTEN:0,bind=[::1]".into(),
        Kind::Unix => format!("UNIX-LISTEN:{}", directory.address("socket")),
    };
    let mut socat = socat();
    let socat = Process::start(socat.args(["-d", "-d", &listen, "EXEC:cat"]), Watch::Stderr);
    let address = match kind {
        Kind::Unix => {
            socat.line_with("listening on");
            directory.address("socket")
        }
        Kind::Tcp4 => format!("127.0.0.1:{}", socat.port("listening on")),
        Kind::Tcp6 => format!("[::1]:{}", socat.port("listening on")),
    };
    (socat, address)
}

#[test]
fn a_client_of_ours_gets_answers_to_its_lines() {
    for kind in kinds() {
        let output = serve(kind, b"one\ntwo\nthree".to_vec(), |socket| {
            socket.sendline("welcome")?;
            socket.readlines(|socket, line| socket.sendline(line.to_uppercase()));
            socket.disconnect_cb(|_, end| assert_eq!(end.leftover, b"three"));
            Ok(())
        });
        output.assert_clean();
        assert_eq!(output.text(), "welcome\nONE\nTWO\n", "{kind:?}");
    }
}

#[test]
fn a_client_of_ours_gets_a_large_file_to_the_last_byte() {
    let large = noise(10 << 20, 1);
    for kind in kinds() {
        let sent = large.clone();
        let output = serve(kind, Vec::new(), move |socket| {
            socket.send(&sent)?;
            socket.close();
            Ok(())
        });
        output.assert_clean();
        assert!(output.stdout == large, "{kind:?}: {} bytes", output.stdout.len());
    }
}

#[test]
fn a_client_of_ours_sends_a_large_file_to_the_last_byte() {
    let large = noise(10 << 20, 2);
    for kind in kinds() {
        let received = Rc::new(RefCell::new(Vec::new()));
        let all = received.clone();
        let output = serve(kind, large.clone(), move |socket| {
            let all = all.clone();
            socket.read(move |_, data| {
                all.borrow_mut().extend_from_slice(data);
                Ok(())
            });
            Ok(())
        });
        output.assert_clean();
        assert!(*received.borrow() == large, "{kind:?}: {} bytes", received.borrow().len());
    }
}

#[test]
fn its_server_answers_blocking_calls() {
    for kind in kinds() {
        on_own_context(|| {
            let directory = TempDir::new();
            let (socat, address) = echo(kind, &directory);
            let socket = Socket::builder().tls(false).connect(address.as_str()).unwrap();
            socket.set_timeout(LIMIT);
            socket.sendline("Hello").unwrap();
            assert_eq!(socket.recv_line().unwrap(), "Hello", "{kind:?}");
            socket.send(b"no newline").unwrap();
            assert_eq!(socket.recv(100).unwrap(), b"no newline");
            socket.shutdown_write().unwrap();
            assert!(matches!(socket.recv(1), Err(network::Error::Closed { .. })));
            assert!(socat.finish().status.success());
        });
    }
}

#[test]
fn its_server_answers_callbacks() {
    for kind in kinds() {
        on_own_context(|| {
            let directory = TempDir::new();
            let (socat, address) = echo(kind, &directory);
            let received = Rc::new(RefCell::new(Vec::new()));
            let all = received.clone();
            Socket::builder().tls(false).connect_async(address.as_str(), gio::Cancellable::NONE, move |result| {
                let socket = result.unwrap();
                for number in 0..1000 {
                    socket.sendline(format!("line {number}")).unwrap();
                }
                socket.shutdown_write().unwrap();
                socket.disconnect_cb(|_, end| {
                    assert!(matches!(end.reason, network::Reason::Remote), "{}", end.reason);
                    assert_eq!(end.leftover, b"");
                    network::endloop();
                });
                socket.readlines(move |_, line| {
                    all.borrow_mut().push(line.to_string());
                    Ok(())
                });
            });
            run_loop();
            let expected: Vec<_> = (0..1000).map(|number| format!("line {number}")).collect();
            assert_eq!(*received.borrow(), expected, "{kind:?}");
            assert!(socat.finish().status.success());
        });
    }
}
