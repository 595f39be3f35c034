//! WebSockets with async-tungstenite, a crate for futures-io that does not know this one, on the same main loop as a line
//! server with callbacks. A message from a client of either goes to all clients of both.
//!
//! - `cargo run --example websocket -- [WS-PORT [LINE-PORT]]` serves. A browser's console is a client:
//!   `ws = new WebSocket("ws://localhost:WS-PORT"); ws.onmessage = m => console.log(m.data); ws.send("Hello")`
//! - `cargo run --example websocket -- ws://HOST:PORT TEXT…` sends each text and prints a reply to each. With `wss://` the
//!   connection uses this crate's TLS.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::protocol::CloseFrame;
use async_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use async_tungstenite::{WebSocketStream, accept_async, client_async};
use futures_channel::mpsc;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use network::{Error, Server, Socket, socket::ByteStream};

const USAGE: &str = "websocket [WS-PORT [LINE-PORT]], or websocket ws://HOST:PORT TEXT…, or wss:// for TLS";

type Members = Rc<RefCell<Vec<Member>>>;

/// A client that receives all messages.
enum Member {
    Web(mpsc::Sender<String>),
    Line(Socket),
}

/// Sends a text to all members, and removes those that are too slow or have gone.
fn tell(members: &Members, text: &str) {
    members.borrow_mut().retain_mut(|member| match member {
        Member::Web(sender) => sender.try_send(text.to_owned()).is_ok(),
        Member::Line(socket) => !socket.is_full() && socket.sendline(text).is_ok(),
    });
}

/// Serves one WebSocket client: the handshake, then messages in both directions until it closes.
async fn talk(socket: Socket, members: Members) -> network::Result {
    let mut peer = accept_async(socket.into_stream()).await.map_err(Error::other)?;
    // At most 100 messages wait for a client that reads slowly.
    let (sender, mut told) = mpsc::channel(100);
    members.borrow_mut().push(Member::Web(sender));
    loop {
        // Both futures are cancel-safe: dropping the slower one loses nothing.
        match select(peer.next(), told.next()).await {
            Either::Left((Some(message), _)) => match message.map_err(Error::other)? {
                Message::Text(text) => tell(&members, &text),
                // The reply to a close frame is sent by reading on, until the client has closed the connection.
                Message::Close(_) => return drain(peer).await,
                _ => {}
            },
            Either::Right((Some(text), _)) => peer.send(Message::text(text)).await.map_err(Error::other)?,
            // The connection has ended.
            Either::Left((None, _)) => return Ok(()),
            // It was too slow, and is no member any more.
            Either::Right((None, _)) => {
                let reason = CloseFrame { code: CloseCode::Policy, reason: "too slow".into() };
                return peer.close(Some(reason)).await.map_err(Error::other);
            }
        }
    }
}

async fn drain(mut peer: WebSocketStream<ByteStream>) -> network::Result {
    while peer.next().await.is_some_and(|message| message.is_ok()) {}
    Ok(())
}

fn places(server: &Server) -> String {
    server.local().iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

fn serve(web: &str, line: &str) -> network::Result {
    let members = Members::default();
    let builder = || Server::builder().tls(false).address("127.0.0.1");

    let web = builder().bind(web)?;
    say(format_args!("websockets on {}", places(&web)));
    let all = members.clone();
    glib::spawn_future_local(async move {
        let mut incoming = web.incoming();
        while let Some(client) = incoming.next().await {
            let Ok(client) = client else { continue };
            let (remote, members) = (client.remote(), all.clone());
            glib::spawn_future_local(async move {
                match talk(client, members).await {
                    Ok(()) => say(format_args!("{remote} has gone")),
                    Err(error) => say(format_args!("{remote}: {error}")),
                }
            });
        }
    });

    // The same with callbacks, on the same main loop.
    let lines = builder().listen(line, move |socket| {
        members.borrow_mut().push(Member::Line(socket.clone()));
        let members = members.clone();
        socket.readlines(move |_, line| {
            tell(&members, line);
            Ok(())
        });
        Ok(())
    })?;
    say(format_args!("lines on {}", places(&lines)));
    network::fgloop();
    Ok(())
}

async fn ask(url: String, texts: Vec<String>) -> network::Result {
    let request = url.replacen("wss://", "ws://", 1);
    let socket = Socket::connect_future(url.as_str()).await.map_err(|error| match error {
        Error::Plaintext { peer, .. } => Error::other(format!("{peer} does not use TLS. Without TLS: {request}")),
        error => error,
    })?;
    let (mut peer, _) = client_async(request, socket.into_stream()).await.map_err(Error::other)?;
    for text in texts {
        peer.send(Message::text(text)).await.map_err(Error::other)?;
        let answer = peer.next().await.transpose().map_err(Error::other)?;
        match answer.ok_or_else(|| Error::other("the server sent no reply"))? {
            Message::Text(text) => say(text),
            other => say(format_args!("binary, bytes: {}", other.len())),
        }
    }
    let bye = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    peer.close(Some(bye)).await.map_err(Error::other)
}

fn main() -> network::Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["-h" | "--help", ..] => {
            say(format_args!("usage: {USAGE}"));
            Ok(())
        }
        [url, ..] if url.starts_with("ws://") || url.starts_with("wss://") => {
            glib::MainContext::default().block_on(ask(url.into(), arguments[1..].to_vec()))
        }
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
