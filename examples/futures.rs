//! A line server and its client in one program, both with futures: `cargo run --example futures`.
//!
//! An async callback serves each client; all of them share a counter. Nothing blocks, and `sendline_future` waits while a
//! client reads slowly.
//!
//! `network::block_on` runs the main loop until the future is done, and closes servers on SIGINT and SIGTERM, which
//! `glib::MainContext::block_on` does not.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use network::{Server, Socket};

async fn serve(socket: Socket, total: Rc<Cell<u32>>) -> network::Result {
    let mut lines = socket.lines();
    while let Some(line) = lines.next_str().await {
        total.set(total.get() + 1);
        socket.sendline_future(format!("You said: {}", line?)).await?;
    }
    say(format_args!("{} has gone; {} lines so far", socket.remote(), total.get()));
    Ok(())
}

async fn ask(port: u16) -> network::Result {
    let socket = Socket::builder().tls(false).connect_future(("localhost", port)).await?;
    for question in ["Hello", "How are you?"] {
        socket.sendline_future(question).await?;
        say(socket.recv_line_future().await?);
    }
    // A reply that does not arrive in time. Dropping a future loses no data.
    let late = network::timeout(Duration::from_millis(50), socket.recv_line_future()).await;
    say(if late.is_err() { "nothing more" } else { "more?" });
    Ok(())
}

async fn run() -> network::Result {
    // Each client gets a clone of the counter.
    let total = Rc::new(Cell::new(0));
    let server = Server::builder().tls(false).address("127.0.0.1").serve_with(0, total, serve)?;
    // Goes on beside the rest, as long as it takes.
    let asked = network::spawn(ask(server.port()))?;
    asked.await?;
    // Give the server time to see the end of the connection.
    network::sleep(Duration::from_millis(50)).await;
    Ok(())
}

fn main() -> network::Result {
    // The program takes no arguments.
    clap::Command::new("futures").get_matches();
    network::block_on(run())?
}

/// Prints a line. Nobody reads any more: ends, as other filters do.
fn say(line: impl std::fmt::Display) {
    use std::io::Write;

    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
