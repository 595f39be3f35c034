//! Memory beside clients that want it all, and what is left when they are gone: in a process of its own, since others would be counted
//! along.

use std::io::Read;
use std::time::Duration;

use network::http::{Reply, Request, Server};

use super::raw::Raw;
use crate::common::{beside, on_own_context, run, until};

/// A client with its name, and the memory that its limit allows, in KiB.
type Script = (&'static str, u64, fn(u16));

/// A value of /proc/self/status, in KiB.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn hostile_clients_get_no_more_than_the_limits() {
    let own = std::env::current_exe().unwrap();
    let mut command =
        crate::common::command(own, ["--exact", "server::memory::alone", "--ignored", "--test-threads=1"]);
    let output = run(&mut command, []);
    assert!(output.status.success(), "{}\n{}", output.text(), output.stderr);
}

#[test]
#[ignore = "it is run by the test above, in a process of its own"]
fn alone() {
    on_own_context(|| {
        let server = Server::builder()
            .get("/small", |_| Ok(Reply::text("x".repeat(1000))))
            .get("/endless", |_| {
                let endless = futures_util::stream::repeat_with(|| Ok(vec![b'x'; 8 << 20]));
                Ok(Reply::stream(None, endless))
            })
            .post("/", async |mut request: Request| Ok(Reply::text(request.bytes_future().await?.len().to_string())))
            .requests_per_connection(u32::MAX)
            .listen("http://127.0.0.1:0/")
            .unwrap();
        let port = server.port();
        // What everything needs once.
        beside(move || {
            let mut raw = Raw::connect(port);
            raw.send("GET /small HTTP/1.0\r\n\r\n");
            raw.rest();
        });
        until(|| server.listener().connections().is_empty());
        let before = descriptors();
        let scripts: [Script; 6] = [
            ("an endless head", 32, |port| {
                let mut raw = Raw::connect(port);
                raw.send("GET / HTTP/1.1\r\n");
                while raw.try_send("X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(1000)) {}
            }),
            ("an endless line", 32, |port| {
                let mut raw = Raw::connect(port);
                while raw.try_send("x".repeat(50_000)) {}
            }),
            ("an endless body", 1024, |port| {
                let mut raw = Raw::connect(port);
                raw.send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
                while raw.try_send(format!("10000\r\n{}\r\n", "x".repeat(65536))) {}
            }),
            ("endless extensions of a chunk", 64, |port| {
                let mut raw = Raw::connect(port);
                raw.send("POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5;");
                while raw.try_send("x".repeat(50_000)) {}
            }),
            ("requests whose replies are not read", 1024 + 256, |port| {
                let mut raw = Raw::connect(port);
                raw.0.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
                while raw.try_send("GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000)) {}
            }),
            ("an endless reply that is not read", 8192 + 1024 + 256, |port| {
                let mut raw = Raw::connect(port);
                raw.send("GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n");
                raw.0.read_exact(&mut [0; 1000]).unwrap();
                std::thread::sleep(Duration::from_millis(500));
            }),
        ];
        for (name, allowed, script) in scripts {
            // From here on the peak is counted anew.
            std::fs::write("/proc/self/clear_refs", "5").unwrap();
            let (memory, begun) = (status("VmRSS"), std::time::Instant::now());
            beside(move || script(port));
            until(|| server.listener().connections().is_empty());
            let grown = status("VmHWM").saturating_sub(memory);
            println!("{name}: {grown} KiB of {allowed}, {:?}", begun.elapsed());
            assert!(grown <= allowed + 4096, "{name}: {grown} KiB, and {allowed} are allowed");
        }
        until(|| descriptors() <= before);
    });
}
