//! A line server and its client in one program, both with futures: `cargo run --example futures`.
//!
//! An async callback serves each client; all of them share a counter. Nothing blocks, and `sendline_future` waits while a
//! client reads slowly. The client is a task on GLib's executor, as it would be in a window.
//!
//! The program runs `fgloop`, not `MainContext::block_on`: only this crate's loops close servers on SIGINT and SIGTERM.

use std::cell::Cell;
use std::rc::Rc;

use network::{Server, Socket};

async fn serve(socket: Socket, total: Rc<Cell<u32>>) -> network::Result {
    let mut lines = socket.lines();
    while let Some(line) = lines.next_str().await {
        total.set(total.get() + 1);
        socket.sendline_future(format!("You said: {}", line?)).await?;
    }
    println!("{} has gone; {} lines so far", socket.remote(), total.get());
    Ok(())
}

async fn ask(port: u16) -> network::Result {
    let socket = Socket::builder().tls(false).connect_future(("localhost", port)).await?;
    for question in ["Hello", "How are you?"] {
        socket.sendline_future(question).await?;
        println!("{}", socket.recv_line_future().await?);
    }
    // A reply that does not arrive in time. Dropping a future loses no data.
    let late = glib::future_with_timeout(std::time::Duration::from_millis(50), socket.recv_line_future()).await;
    println!("{}", if late.is_err() { "nothing more" } else { "more?" });
    Ok(())
}

fn main() -> network::Result {
    // The program takes no arguments.
    clap::Command::new("futures").get_matches();
    // State is cloned for each client, and the clone is moved into its future.
    let total = Rc::new(Cell::new(0));
    let on_client = move |socket| serve(socket, total.clone());
    let server = Server::builder().tls(false).address("127.0.0.1").serve(0, on_client)?;
    let port = server.port();
    let asked = glib::spawn_future_local(async move {
        let asked = ask(port).await;
        // Give the server time to see the end of the connection.
        glib::timeout_future(std::time::Duration::from_millis(50)).await;
        network::endloop();
        asked
    });
    network::fgloop();
    glib::MainContext::default().block_on(asked).unwrap_or(Ok(()))
}
