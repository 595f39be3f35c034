//! WebSockets, by a crate that knows nothing of this one (async-tungstenite, over futures-io's traits), on the same main loop
//! as a line server by callbacks. What a client of either says goes to all clients of both.
//!
//! - `cargo run --example websocket -- [WS-PORT [LINE-PORT]]` serves. A browser's console is a client:
//!   `ws = new WebSocket("ws://localhost:WS-PORT"); ws.onmessage = m => console.log(m.data); ws.send("Hello")`
//! - `cargo run --example websocket -- ws://HOST:PORT TEXT…` sends each text and shows an answer for each. With `wss://` the
//!   connection is encrypted by this library's TLS.

use std::cell::RefCell;
use std::rc::Rc;

use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::protocol::CloseFrame;
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use async_tungstenite::{accept_async, client_async};
use futures_channel::mpsc;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use network::{Error, Server, Socket};

const USAGE: &str = "websocket [WS-PORT [LINE-PORT]], or websocket ws://HOST:PORT TEXT…, or wss:// for TLS";

type Members = Rc<RefCell<Vec<Member>>>;

/// Somebody to be told.
enum Member {
    Web(mpsc::Sender<String>),
    Line(Socket),
}

/// Tells everybody. Who is too slow, or has gone, is no member any more.
fn tell(members: &Members, text: &str) {
    members.borrow_mut().retain_mut(|member| match member {
        Member::Web(sender) => sender.try_send(text.to_owned()).is_ok(),
        Member::Line(socket) => !socket.is_full() && socket.sendline(text).is_ok(),
    });
}

/// One client of the web: its hand-shake, then messages both ways until it closes.
async fn talk(socket: Socket, members: Members) -> network::Result {
    let mut peer = accept_async(socket.into_stream()).await.map_err(Error::other)?;
    // So many may wait for a client that reads slowly.
    let (sender, mut told) = mpsc::channel(100);
    members.borrow_mut().push(Member::Web(sender));
    loop {
        // Whichever of the two comes second is dropped, which loses nothing.
        match select(peer.next(), told.next()).await {
            Either::Left((Some(message), _)) => match message.map_err(Error::other)? {
                Message::Text(text) => tell(&members, &text),
                Message::Close(_) => return Ok(()),
                _ => {}
            },
            Either::Right((Some(text), _)) => peer.send(Message::text(text)).await.map_err(Error::other)?,
            // It has gone, or it was too slow.
            _ => return Ok(()),
        }
    }
}

fn places(server: &Server) -> String {
    server.local().iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

fn serve(web: &str, line: &str) -> network::Result {
    let members = Members::default();
    let builder = || Server::builder().tls(false).address("127.0.0.1");

    let web = builder().bind(web)?;
    println!("websockets on {}", places(&web));
    let all = members.clone();
    glib::spawn_future_local(async move {
        let mut incoming = web.incoming();
        while let Some(client) = incoming.next().await {
            let Ok(client) = client else { continue };
            let (remote, members) = (client.remote(), all.clone());
            glib::spawn_future_local(async move {
                match talk(client, members).await {
                    Ok(()) => println!("{remote} has gone"),
                    Err(error) => println!("{remote}: {error}"),
                }
            });
        }
    });

    // The same by callbacks. The two share the loop, and know nothing of each other's ways.
    let lines = builder().listen(line, move |socket| {
        members.borrow_mut().push(Member::Line(socket.clone()));
        let members = members.clone();
        socket.readlines(move |_, line| {
            tell(&members, line);
            Ok(())
        });
        Ok(())
    })?;
    println!("lines on {}", places(&lines));
    network::fgloop();
    Ok(())
}

async fn ask(url: String, texts: Vec<String>) -> network::Result {
    let request = url.replacen("wss://", "ws://", 1);
    let socket = Socket::connect_future(url.as_str()).await.map_err(|error| match error {
        Error::Tls { .. } | Error::Plaintext { .. } => Error::other(format!("{error}. Without TLS it is {request}")),
        error => error,
    })?;
    let (mut peer, _) = client_async(request, socket.into_stream()).await.map_err(Error::other)?;
    for text in texts {
        peer.send(Message::text(text)).await.map_err(Error::other)?;
        let answer = peer.next().await.transpose().map_err(Error::other)?;
        match answer.ok_or_else(|| Error::other("the server said no more"))? {
            Message::Text(text) => println!("{text}"),
            other => println!("binary, bytes: {}", other.len()),
        }
    }
    let bye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    peer.close(Some(bye)).await.map_err(Error::other)
}

fn main() -> network::Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["-h" | "--help", ..] => {
            println!("usage: {USAGE}");
            Ok(())
        }
        [url, ..] if url.starts_with("ws") => {
            glib::MainContext::default().block_on(ask(url.into(), arguments[1..].to_vec()))
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
