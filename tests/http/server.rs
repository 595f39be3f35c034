//! The server with real clients.

mod behind;
mod handlers;
mod limits;
mod memory;
mod one_by_one;
mod programs;
mod raw;
mod replies;
mod rules;
#[cfg(feature = "websocket")]
mod service;
mod upgrades;

use network::http::{Reply, Request, Server};

use super::common::{beside, on_own_context, run, tool};
use raw::Raw;

/// Runs curl, and returns its output.
fn curl<const N: usize>(arguments: [&str; N]) -> String {
    let mut command = tool("/usr/bin/curl");
    command.args(["-sS", "--max-time", "20", "--noproxy", "*"]).args(arguments);
    let output = run(&mut command, []);
    output.text()
}

fn hello(request: &Request) -> network::Result<Reply> {
    Ok(Reply::text(format!("{} {}", request.method(), request.path())))
}

#[test]
fn curl_gets_a_text() {
    on_own_context(|| {
        let server = Server::new("http://127.0.0.1:0/", hello).unwrap();
        let url = server.url();
        let text = beside(|| curl(["-i", &format!("{url}a%20b?x")]));
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("\r\ndate: ") && text.contains("\r\ncontent-length: 8\r\n"), "{text}");
        assert!(text.contains("\r\ncontent-type: text/plain; charset=utf-8\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nGET /a b"), "{text}");
        let text = beside(|| curl(["-i", "--http1.0", &url]));
        assert!(text.starts_with("HTTP/1.0 200 OK\r\n") && text.ends_with("GET /"), "{text}");
        let text = beside(|| curl(["-I", &url]));
        assert!(text.contains("content-length: 6\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    });
}

#[test]
fn one_connection_serves_many_requests() {
    on_own_context(|| {
        let server = Server::new("http://127.0.0.1:0/", hello).unwrap();
        let url = server.url();
        let urls: Vec<String> = (0..100).map(|number| format!("{url}{number}")).collect();
        let text = beside(|| {
            let mut command = tool("/usr/bin/curl");
            command.args(["-sS", "--max-time", "20", "--noproxy", "*", "-w", " %{num_connects}\n"]).args(&urls);
            run(&mut command, []).text()
        });
        let wanted = |number: usize| format!("GET /{number} {}\n", usize::from(number == 0));
        assert_eq!(text, (0..100).map(wanted).collect::<String>());
    });
}

#[test]
fn a_half_closed_client_gets_its_reply() {
    on_own_context(|| {
        let server = Server::serve("http://127.0.0.1:0/", async |_| {
            network::sleep(std::time::Duration::from_millis(50)).await;
            Ok(Reply::text("late"))
        })
        .unwrap();
        let port = server.port();
        let text = beside(move || {
            let mut raw = Raw::connect(port);
            raw.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
            raw.shut();
            raw.rest()
        });
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("late"), "{text}");
    });
}
