//! A control page on this machine: a switch that every open page sees change at once, by server-sent events.
//!
//! `cargo run --features http --example control_page`, then open the URL that it prints. Only pages of this server itself can flip
//! the switch, and only under a name of this machine: see docs/http-server.md.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_channel::mpsc::{Sender, channel};
use network::Result;
use network::http::{Reply, Server};

const PAGE: &str = r#"<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Lamp</title>
<h1>The lamp is <span id="state">…</span>.</h1>
<button onclick="fetch('/flip', { method: 'POST' })">Flip the switch</button>
<script>
  new EventSource('/events').onmessage = event => document.getElementById('state').textContent = event.data;
</script>
"#;

/// The lamp, and the pages that look at it.
#[derive(Default)]
struct Lamp {
    is_on: Cell<bool>,
    pages: RefCell<Vec<Sender<Result<Vec<u8>>>>>,
}

impl Lamp {
    fn event(&self) -> Result<Vec<u8>> {
        Ok(format!("data: {}\n\n", if self.is_on.get() { "on" } else { "off" }).into_bytes())
    }

    fn flip(&self) {
        self.is_on.set(!self.is_on.get());
        // A page that does not read, or has gone, is left out from then on.
        self.pages.borrow_mut().retain_mut(|page| page.try_send(self.event()).is_ok());
    }

    fn watch(&self) -> Reply {
        let (mut page, events) = channel(16);
        // There is room for one.
        let _ = page.try_send(self.event());
        self.pages.borrow_mut().push(page);
        Reply::stream(None, events).header("content-type", "text/event-stream").header("cache-control", "no-store")
    }
}

fn main() -> Result {
    let lamp = Rc::<Lamp>::default();
    let (seen, flipped) = (lamp.clone(), lamp.clone());
    let address = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:0/".into());
    let server = Server::builder()
        .get("/", |_| Ok(Reply::html(PAGE).header("content-security-policy", "default-src 'self' 'unsafe-inline'")))
        .get("/events", move |_| Ok(seen.watch()))
        .post("/flip", move |_| {
            flipped.flip();
            async { Ok(Reply::status(204)) }
        })
        .log(|access| println!("{access}"))
        .listen(address.as_str())?;
    println!("open {}", server.url());
    network::daemon::set_grace_period(Duration::from_secs(1));
    network::fgloop();
    Ok(())
}
