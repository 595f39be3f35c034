//! A line server: `cargo run --example server`, then `cargo run --example client`.

fn main() -> network::Result {
    let server = network::Server::new("1234", |socket| {
        println!("{} is here", socket.remote());
        socket.sendline("Welcome to this server!")?;
        socket.readlines(|socket, line| {
            println!("data received: {line}");
            socket.sendline("This is a reply.")
        });
        socket.disconnect_cb(|socket, end| println!("{}: {}", socket.remote(), end.reason));
        Ok(())
    })?;
    println!("listening on port {}", server.port());
    network::fgloop();
    Ok(())
}
