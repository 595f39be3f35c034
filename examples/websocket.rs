//! A chat of browsers and line clients, on one main loop: a message from a client of either goes to all clients of both.
//!
//! - `cargo run --features websocket --example websocket -- [WS-PORT [LINE-PORT]]` serves. A browser's console is a client:
//!   `ws = new WebSocket("ws://localhost:WS-PORT"); ws.onmessage = m => console.log(m.data); ws.send("Hello")`
//! - `cargo run --features websocket --example websocket -- ws://HOST:PORT TEXT…` sends each text and prints a reply to each. With
//!   `wss://` the connection uses TLS.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

use network::websocket::{self, Code, WebSocket};
use network::{Error, Server, Socket};

const USAGE: &str = "websocket [WS-PORT [LINE-PORT]], or websocket ws://HOST:PORT TEXT…, or wss:// for TLS";

#[derive(Default)]
struct Members {
    web: RefCell<Vec<WebSocket>>,
    lines: RefCell<Vec<Socket>>,
}

impl Members {
    /// Sends a text to all members, and removes those that are too slow or have gone.
    fn tell(&self, text: &str) -> network::Result {
        self.web.borrow_mut().retain(|ws| {
            if ws.is_full() {
                let _ = ws.close(Code::POLICY, "too slow");
            }
            ws.is_open() && ws.send(text).is_ok()
        });
        self.lines.borrow_mut().retain(|socket| !socket.is_full() && socket.sendline(text).is_ok());
        Ok(())
    }
}

fn places(server: &Server) -> String {
    server.local().iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

fn serve(web: &str, line: &str) -> network::Result {
    let members = Rc::new(Members::default());
    let address = if web.contains('/') { web.to_owned() } else { format!("ws://127.0.0.1:{web}") };
    let all = members.clone();
    let web = websocket::Server::new(address.as_str(), move |ws| {
        let members = all.clone();
        ws.read(move |_, message| match message.text() {
            Some(text) => members.tell(text),
            None => Err(Error::other("bytes, and this is a chat")),
        });
        ws.disconnect_cb(|ws, end| say(format_args!("{} has gone: {}", ws.socket().remote(), end.reason)));
        all.web.borrow_mut().push(ws);
        Ok(())
    })?;
    let lines = Server::builder().tls(false).address("127.0.0.1").listen(line, move |socket| {
        members.lines.borrow_mut().push(socket.clone());
        let members = members.clone();
        socket.readlines(move |_, line| members.tell(line));
        Ok(())
    })?;
    say(format_args!("websockets on {}", places(web.http().listener())));
    say(format_args!("lines on {}", places(&lines)));
    network::fgloop();
    Ok(())
}

/// Asks and waits, as scripts do.
fn ask(url: &str, texts: &[String]) -> network::Result {
    let ws = WebSocket::connect(url).map_err(|error| match error {
        Error::Plaintext { peer, .. } => {
            Error::other(format!("{peer} does not use TLS. Without TLS: {}", url.replacen("wss://", "ws://", 1)))
        }
        error => error,
    })?;
    for text in texts {
        ws.send(text)?;
        say(ws.recv()?);
    }
    ws.close(Code::NORMAL, "")
}

fn main() -> network::Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["-h" | "--help", ..] => {
            say(format_args!("usage: {USAGE}"));
            Ok(())
        }
        [url, ..] if url.starts_with("ws://") || url.starts_with("wss://") => ask(url, &arguments[1..]),
        [url, ..] if url.contains("://") => {
            eprintln!("{url} is not the URL of a WebSocket; expected ws://HOST:PORT or wss://HOST:PORT");
            std::process::exit(2);
        }
        [] => serve("0", "0"),
        [web] if !web.starts_with('-') => serve(web, "0"),
        [web, line] if !web.starts_with('-') => serve(web, line),
        _ => {
            eprintln!("usage: {USAGE}");
            std::process::exit(2);
        }
    }
}

/// Prints a line. Once nobody reads any more, this program ends.
fn say(line: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
