//! A line server: `cargo run --example server`, then `cargo run --example client`. Both take an address.

fn main() -> network::Result {
    let address = std::env::args().nth(1).unwrap_or_else(|| "1234".into());
    if matches!(address.as_str(), "-h" | "--help") {
        println!("usage: server [ADDRESS]");
        return Ok(());
    }
    let server = network::Server::new(address.as_str(), |socket| {
        println!("{} is here", socket.remote());
        socket.sendline("Welcome to this server!")?;
        socket.readlines(|socket, line| {
            println!("data received: {line}");
            socket.sendline("This is a reply.")
        });
        socket.disconnect_cb(|socket, end| println!("{}: {}", socket.remote(), end.reason));
        Ok(())
    })?;
    if let Some(fingerprint) = server.fingerprint() {
        println!("fingerprint {fingerprint}");
    }
    for place in server.local() {
        println!("listening on {place}");
    }
    network::fgloop();
    Ok(())
}
