//! The Python module of the same name as the peer (Debian's python3-network), in both directions, without TLS.

mod common;

use std::cell::RefCell;
use std::process::Command;
use std::rc::Rc;

use common::{LIMIT, Process, TempDir, Watch, on_own_context, run_loop, tool};
use network::{Server, Socket};

/// Says what it listens on, then answers each line in capitals. "bye" makes it close the connection.
const SERVER: &str = r#"
import network, sys

def accept(socket):
    def line(text):
        if text == "bye":
            socket.close()
        else:
            socket.sendline(text.upper())
    socket.readlines(line)
    socket.sendline("welcome")

def gone(socket, data):
    print("gone with", data, flush = True)
    return b""

address = sys.argv[1]
if "/" in address:
    server = network.Server(address, accept, tls = False, disconnect_cb = gone)
    print("listening on", address, flush = True)
else:
    server = network.Server(0, accept, address = "127.0.0.1", tls = False, disconnect_cb = gone)
    print("listening on", server._socket.getsockname()[1], flush = True)
network.fgloop()
"#;

/// Sends three lines and 100 000 bytes more, prints the answers, and ends with the connection.
const CLIENT: &str = r#"
import network, sys

def gone(socket, data):
    print("gone with", data, flush = True)
    network.endloop()
    return b""

socket = network.Socket(sys.argv[1], tls = False, disconnect_cb = gone)
socket.readlines(lambda text: print("got", text, flush = True))
for line in ("one", "zwei \u00fc", "trois"):
    socket.sendline(line)
socket.send(b"x" * 100000 + b"\n")
socket.sendline("bye")
network.fgloop()
"#;

fn python(script: &str, address: &str, home: &TempDir) -> Process {
    assert!(
        std::path::Path::new("/usr/lib/python3/dist-packages/network.py").exists(),
        "python3-network is missing; ./dev test installs what the tests need"
    );
    let mut command: Command = tool("/usr/bin/python3");
    command.args(["-c", script, address]).env("HOME", home.path("")).current_dir(home.path(""));
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "PYTHONPATH", "PYTHONHOME"] {
        command.env_remove(name);
    }
    Process::start(&mut command, Watch::Stdout)
}

/// Starts its server, and gives the address.
fn python_server(unix: bool, home: &TempDir) -> (Process, String) {
    if unix {
        let address = home.address("socket");
        let server = python(SERVER, &address, home);
        server.line_with("listening on");
        (server, address)
    } else {
        let server = python(SERVER, "0", home);
        let port = server.port("listening on");
        (server, format!("localhost:{port}"))
    }
}

#[test]
fn its_client_talks_to_our_server() {
    for unix in [false, true] {
        on_own_context(|| {
            let home = TempDir::new();
            let address = if unix { home.address("socket") } else { "127.0.0.1:0".into() };
            let seen = Rc::new(RefCell::new(Vec::new()));
            let lines = seen.clone();
            let server = Server::builder()
                .tls(false)
                .listen(address.as_str(), move |socket| {
                    let lines = lines.clone();
                    socket.readlines(move |socket, line| {
                        if line == "bye" {
                            socket.sendline("goodbye")?;
                            socket.close();
                            return Ok(());
                        }
                        lines.borrow_mut().push(line.to_string());
                        socket.sendline(format!("{} characters", line.chars().count()))
                    });
                    socket.disconnect_cb(|_, _| network::endloop());
                    Ok(())
                })
                .unwrap();
            let address = if unix { address } else { format!("localhost:{}", server.port()) };
            let mut client = python(CLIENT, &address, &home);
            run_loop();
            // What was sent before the end goes out while the loop runs.
            let output = {
                let context = glib::MainContext::ref_thread_default();
                let thread = std::thread::spawn(move || {
                    let output = client.await_end();
                    context.invoke(network::endloop);
                    output
                });
                run_loop();
                thread.join().unwrap()
            };
            output.assert_clean();
            let expected = "got 3 characters\ngot 6 characters\ngot 5 characters\ngot 100000 characters\ngot goodbye\ngone with b''\n";
            assert_eq!(output.text(), expected);
            assert_eq!(seen.borrow()[..3], ["one", "zwei ü", "trois"]);
            assert_eq!(seen.borrow()[3], "x".repeat(100_000));
        });
    }
}

#[test]
fn our_blocking_client_talks_to_its_server() {
    for unix in [false, true] {
        on_own_context(|| {
            let home = TempDir::new();
            let (server, address) = python_server(unix, &home);
            let client = Socket::builder().tls(false).connect(address.as_str()).unwrap();
            client.set_timeout(LIMIT);
            assert_eq!(client.recv_line().unwrap(), "welcome");
            client.sendline("grüße").unwrap();
            assert_eq!(client.recv_line().unwrap(), "GRÜSSE");
            client.send(b"an unfinished line").unwrap();
            drop(client);
            assert_eq!(server.line(), "gone with b'an unfinished line'");
        });
    }
}

#[test]
fn our_callback_client_talks_to_its_server() {
    for unix in [false, true] {
        on_own_context(|| {
            let home = TempDir::new();
            let (_server, address) = python_server(unix, &home);
            let seen = Rc::new(RefCell::new(Vec::new()));
            let lines = seen.clone();
            Socket::builder().tls(false).connect_async(address.as_str(), gio::Cancellable::NONE, move |result| {
                let client = result.unwrap();
                client.disconnect_cb(|_, end| {
                    assert!(matches!(end.reason, network::Reason::Remote), "{}", end.reason);
                    network::endloop();
                });
                client.readlines(move |client, line| {
                    lines.borrow_mut().push(line.to_string());
                    match line {
                        "welcome" => client.sendline("first"),
                        "FIRST" => client.sendline("bye"),
                        _ => Ok(()),
                    }
                });
            });
            run_loop();
            assert_eq!(*seen.borrow(), ["welcome", "FIRST"]);
        });
    }
}
