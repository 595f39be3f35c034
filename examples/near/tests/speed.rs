//! A measurement: how much of the speed of a bare `read` callback a file has.
//!
//! `TMPDIR=/dev/shm cargo test --release --test speed -- --ignored --nocapture`

mod world;

use std::cell::Cell;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

use network::tls::Identity;
use network::{ClientTls, Server, ServerTls, Socket};
use world::{paired, world};

const SIZE: usize = 1 << 30;
const BLOCK: usize = 256 << 10;
const SENDS: &str = "NEAR_SPEED_SENDS";

/// Sends bytes to whoever connects, over TLS.
fn send(identity: Identity) {
    let server = Server::builder().tls(ServerTls::from(identity)).listen("127.0.0.1:0", |socket| {
        network::spawn(async move {
            let block = vec![7; BLOCK];
            for _ in 0..SIZE / BLOCK {
                socket.send_future(&block).await?;
            }
            socket.shutdown_write()
        })
        .map(drop)
    });
    let server = server.unwrap();
    println!("port {}", server.port());
    network::fgloop();
}

/// Returns the seconds that a bare `read` callback takes for it.
fn bare(directory: &str) -> f64 {
    let mut sender = Command::new(std::env::current_exe().unwrap());
    sender
        .args(["a_file_is_nearly_as_fast_as_a_bare_read", "--exact", "--ignored", "--nocapture"])
        .env(SENDS, directory);
    let mut sender = sender.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(sender.stdout.take().unwrap()).lines().map_while(Result::ok);
    let port: u16 = lines.find_map(|line| line.split_once("port ")?.1.parse().ok()).unwrap();
    let (begun, got) = (Instant::now(), Rc::new(Cell::new(0)));
    let tls = ClientTls::pinned(identity(directory).fingerprint());
    let (socket, counted) = (Socket::builder().tls(tls).connect(("127.0.0.1", port)).unwrap(), got.clone());
    socket.read(move |_, bytes| {
        counted.set(counted.get() + bytes.len());
        Ok(())
    });
    socket.disconnect_cb(|_, _| network::endloop());
    network::fgloop();
    assert_eq!(got.get(), SIZE);
    let seconds = begun.elapsed().as_secs_f64();
    sender.kill().unwrap();
    sender.wait().unwrap();
    seconds
}

fn identity(directory: impl AsRef<Path>) -> Identity {
    Identity::named_in(directory.as_ref(), "bare").unwrap()
}

/// Returns the second in which a command was done, by the clock of its device.
fn second(line: &str) -> f64 {
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
#[ignore = "a measurement"]
fn a_file_is_nearly_as_fast_as_a_bare_read() {
    if let Some(directory) = std::env::var_os(SENDS) {
        return send(identity(directory));
    }
    let Some(world) = world("a_file_is_nearly_as_fast_as_a_bare_read", 1) else { return };
    paired(&world);
    let big = world.path("big");
    std::fs::File::create(&big).unwrap().set_len(SIZE as u64).unwrap();
    for _ in 0..5 {
        let mut anna = world.device(0, "anna", &format!("wait-secure bert\nsend {big}\nwait-sent\nquit"));
        anna.wait("started");
        let bert = world.device(1, "bert", "wait-secure anna\nwait-file\nquit");
        let begun = second(&anna.wait("done: send"));
        let file = second(&anna.wait("done: wait-sent")) - begun;
        anna.finish();
        bert.finish();
        let bare = bare(&world.path("bare"));
        let speed = |seconds: f64| SIZE as f64 / seconds / 1e6;
        println!("file {:.0} MB/s, bare {:.0} MB/s: {:.2}", speed(file), speed(bare), bare / file);
        std::fs::remove_file(world.path("bert.files/big")).unwrap();
    }
}
