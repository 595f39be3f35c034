//! A line server and its client in one program, both by futures: `cargo run --example futures`.
//!
//! Each client is served by a callback that awaits. Nothing blocks; a slow client holds up nobody else, because `send_future`
//! waits until there is room. The client is a task on GLib's executor, as it would be in a window.

use network::{Server, Socket};

async fn serve(socket: Socket) -> network::Result {
    let remote = socket.remote();
    match talk(socket).await {
        Ok(1) => println!("{remote}: 1 line"),
        Ok(count) => println!("{remote}: {count} lines"),
        Err(error) => println!("{remote}: {error}"),
    }
    Ok(())
}

async fn talk(socket: Socket) -> network::Result<u32> {
    let mut count = 0;
    let mut lines = socket.lines();
    while let Some(line) = lines.next_str().await {
        count += 1;
        socket.send_future(format!("You said: {}\n", line?)).await?;
    }
    Ok(count)
}

async fn ask(port: u16) -> network::Result {
    let socket = Socket::builder().tls(false).connect_future(("localhost", port)).await?;
    for question in ["Hello", "How are you?"] {
        socket.send_future(format!("{question}\n")).await?;
        println!("{}", socket.recv_line_future().await?);
    }
    // An answer that does not come in time. To drop a future loses nothing.
    let late = glib::future_with_timeout(std::time::Duration::from_millis(50), socket.recv_line_future()).await;
    println!("{}", if late.is_err() { "nothing more" } else { "more?" });
    Ok(())
}

fn main() -> network::Result {
    // It takes no arguments, and says so.
    clap::Command::new("futures").get_matches();
    let server = Server::builder().tls(false).address("127.0.0.1").serve(0, serve)?;
    let port = server.port();
    let asked = glib::spawn_future_local(async move {
        let asked = ask(port).await;
        // The server is to see the end of it.
        glib::timeout_future(std::time::Duration::from_millis(50)).await;
        network::endloop();
        asked
    });
    network::fgloop();
    glib::MainContext::default().block_on(asked).unwrap_or(Ok(()))
}
