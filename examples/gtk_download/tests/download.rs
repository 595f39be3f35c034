//! The program under a private Xvfb: a download is given up at half, and the next one goes on from there.

#[path = "../../../tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{LIMIT, Process, TempDir, Watch, noise};
use rustix::process::Signal;

const SIZE: usize = 4 << 20;
const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn main() {
    let mut xvfb = common::tool("/usr/bin/Xvfb");
    xvfb.args(["-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"]).stdin(Stdio::null());
    let xvfb = Process::start_as_set(&mut xvfb, Watch::Stdout);
    let display = format!(":{}", xvfb.line());

    let place = TempDir::new();
    let (body, file) = (noise(SIZE, 7), place.path("file"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://127.0.0.1:{}/file", listener.local_addr().unwrap().port());
    let start = || {
        let mut program = Command::new(env!("CARGO_BIN_EXE_gtk_download"));
        program.arg(&url).arg(&file).stdin(Stdio::null());
        for (name, value) in [
            ("DISPLAY", &*display),
            ("GDK_BACKEND", "x11"),
            ("GDK_DEBUG", "gl-disable"),
            ("GSK_RENDERER", "cairo"),
            ("GSETTINGS_BACKEND", "memory"),
            ("GTK_A11Y", "none"),
            ("DBUS_SESSION_BUS_ADDRESS", "disabled:"),
        ] {
            program.env(name, value);
        }
        program.env("XDG_DATA_HOME", place.path("data")).env_remove("WAYLAND_DISPLAY");
        Process::start(&mut common::parties::without_proxies(program), Watch::Stderr)
    };
    let part = place.path("file.part");
    let kept = || std::fs::metadata(&part).map_or(0, |found| found.len() as usize);

    let mut program = start();
    let (head, mut peer) = next_request(&listener);
    assert!(!head.contains("range:"), "{head}");
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\nAccept-Ranges: bytes\r\nLast-Modified: {MODIFIED}\r\n\r\n"
    );
    peer.write_all(answer.as_bytes()).unwrap();
    peer.write_all(&body[..SIZE / 2]).unwrap();
    await_that(|| kept() == SIZE / 2);
    program.signal(Signal::TERM);
    program.await_end();
    assert!(!file.exists() && kept() == SIZE / 2);

    let mut program = start();
    let (head, mut peer) = next_request(&listener);
    assert!(head.contains(&format!("\r\nrange: bytes={}-\r\n", SIZE / 2)), "{head}");
    assert!(head.contains(&format!("\r\nif-range: {}\r\n", MODIFIED.to_lowercase())), "{head}");
    let answer = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {}-{}/{SIZE}\r\nLast-Modified: {MODIFIED}\r\n\r\n",
        SIZE - SIZE / 2,
        SIZE / 2,
        SIZE - 1
    );
    peer.write_all(answer.as_bytes()).unwrap();
    peer.write_all(&body[SIZE / 2..]).unwrap();
    await_that(|| file.exists());
    assert!(std::fs::read(&file).unwrap() == body, "another file than was sent");
    assert!(!part.exists());
    program.signal(Signal::TERM);
    program.await_end();
    println!("test result: ok. 1 passed; 0 failed");
}

/// Accepts, and reads a request without a body; its head in lower case.
fn next_request(listener: &TcpListener) -> (String, TcpStream) {
    let (mut peer, _) = listener.accept().unwrap();
    peer.set_read_timeout(Some(LIMIT)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        peer.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    (String::from_utf8(head).unwrap().to_lowercase(), peer)
}

/// What another process does, no event tells this one.
fn await_that(what: impl Fn() -> bool) {
    let until = Instant::now() + LIMIT;
    while !what() {
        assert!(Instant::now() < until, "nothing has happened for {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
