//! A control page on this machine: a switch that every open page sees change at once, by WebSocket.
//!
//! `cargo run --features websocket --example control_page`, then open the URL that it prints. Only pages of this server itself can flip
//! the switch, and only under a name of this machine: see docs/http-server.md.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use network::Result;
use network::http::{Reply, Server};
use network::websocket::WebSocket;

const PAGE: &str = r#"<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Lamp</title>
<h1>The lamp is <span id="state">…</span>.</h1>
<button onclick="fetch('/flip', { method: 'POST' })">Flip the switch</button>
<script>
  const socket = new WebSocket(location.href.replace('http', 'ws') + 'live');
  socket.onmessage = event => document.getElementById('state').textContent = event.data;
  socket.onclose = () => document.getElementById('state').textContent = 'unknown: the program has ended';
</script>
"#;

const POLICY: &str = "default-src 'self' 'unsafe-inline'; connect-src 'self' ws:";

/// The lamp, and the pages that look at it.
#[derive(Default)]
struct Lamp {
    is_on: Cell<bool>,
    pages: RefCell<Vec<WebSocket>>,
}

impl Lamp {
    fn state(&self) -> &'static str {
        if self.is_on.get() { "on" } else { "off" }
    }

    fn flip(&self) {
        self.is_on.set(!self.is_on.get());
        // A page that does not read, or has gone, is left out from then on.
        self.pages.borrow_mut().retain(|page| !page.is_full() && page.send(self.state()).is_ok());
    }

    fn watch(&self, page: WebSocket) -> Result {
        page.send(self.state())?;
        // Pages have nothing to say here.
        page.read(|_, _| Ok(()));
        self.pages.borrow_mut().push(page);
        Ok(())
    }
}

/// Serves a page with a switch that every open page sees change.
#[derive(Parser)]
struct Arguments {
    /// Listen here. Port 0 stands for any free one.
    #[arg(default_value = "http://127.0.0.1:0/")]
    url: String,
}

fn main() -> Result {
    let Arguments { url } = Arguments::parse();
    let lamp = Rc::<Lamp>::default();
    let (seen, flipped) = (lamp.clone(), lamp.clone());
    let server = Server::builder()
        .get("/", |_| Ok(Reply::html(PAGE).header("content-security-policy", POLICY)))
        .get("/live", move |request| {
            let lamp = seen.clone();
            request.websocket(move |page| lamp.watch(page))
        })
        .post("/flip", move |_| {
            flipped.flip();
            async { Ok(Reply::status(204)) }
        })
        .log(|access| say(access))
        .listen(url.as_str())?;
    say(format_args!("open {}", server.url()));
    network::daemon::set_grace_period(Duration::from_secs(1));
    network::fgloop();
    Ok(())
}

/// Prints a line. Nobody reads any more: ends, as other filters do.
fn say(line: impl std::fmt::Display) {
    use std::io::Write;

    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
