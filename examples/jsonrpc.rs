//! JSON-RPC 2.0 over lines, on `link::Calls`: `cargo run --example jsonrpc`. Both sides ask, and answers come in any order.

use std::io::Write;
use std::time::Duration;

use network::link::{Answer, Calls};
use network::{Error, Result, Server, Socket};
use serde_json::{Value, json};

/// Runs a method of this program and sends the reply.
async fn answer(socket: Socket, request: Value) -> Result {
    let (key, value) = match (request["method"].as_str(), request["params"][0].as_u64()) {
        (Some("sleep"), Some(time @ 0..=10_000)) => {
            network::sleep(Duration::from_millis(time)).await;
            ("result", json!(format!("slept for {time} ms")))
        }
        _ => ("error", json!({ "code": -32601, "message": "no such method" })),
    };
    socket.sendline(json!({ "jsonrpc": "2.0", "id": request["id"], key: value }).to_string())
}

/// Reads requests and replies. Returns the calls that wait for replies.
fn serve(socket: &Socket) -> Result<Calls<Value>> {
    let calls = Calls::new()?;
    let (replies, lost) = (calls.clone(), calls.clone());
    socket.readlines(move |socket, line| {
        let message: Value = serde_json::from_str(line).map_err(Error::other)?;
        match (message["method"].is_string(), message["id"].as_u64()) {
            (true, _) if !message["id"].is_null() => drop(network::spawn(answer(socket.clone(), message))?),
            (false, Some(id)) if !replies.finish(id, message) => say(format_args!("the reply to {id} is late")),
            _ => {} // Done, or a notification.
        }
        Ok(())
    });
    socket.disconnect_cb(move |socket, _| lost.fail_all(&Error::Closed { peer: socket.remote().to_string() }));
    Ok(calls)
}

fn call(socket: &Socket, calls: &Calls<Value>, method: &str, param: u64) -> Result<Answer<Value>> {
    let (id, answer) = calls.begin(Duration::from_secs(20))?;
    socket.sendline(json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": [param] }).to_string())?;
    Ok(answer)
}

fn show(reply: Result<Value>) {
    say(reply.unwrap_or_else(|error| json!({ "lost": error.to_string() })));
}

fn main() -> Result {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("-h" | "--help") => {
            say("usage: jsonrpc\n\nShows both sides of a connection calling each other.");
            return Ok(());
        }
        Some(_) => {
            eprintln!("usage: jsonrpc");
            std::process::exit(2);
        }
    }
    network::block_on(async {
        let ask_back = |socket| call(&socket, &serve(&socket)?, "sleep", 200).map(|answer| answer.then(show));
        let server = Server::new("localhost:0", ask_back)?;
        let socket = Socket::connect_future(("localhost", server.port())).await?;
        let calls = serve(&socket)?;
        let slow = call(&socket, &calls, "sleep", 300)?;
        call(&socket, &calls, "sleep", 100)?.then(show);
        call(&socket, &calls, "sing", 0)?.then(show);
        show(slow.await);
        Ok(())
    })?
}

/// Prints a line. Once nobody reads any more, this program ends.
fn say(line: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
