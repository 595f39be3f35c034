//! A client for `examples/server.rs`, by blocking calls: for scripts.

fn main() -> network::Result {
    let address = std::env::args().nth(1).unwrap_or_else(|| "localhost:1234".into());
    if matches!(address.as_str(), "-h" | "--help") {
        println!("usage: client [ADDRESS]");
        return Ok(());
    }
    let client = network::Socket::connect(address.as_str())?;
    println!("The server said: {}", client.recv_line()?);
    client.sendline("This is data.")?;
    println!("The server replied: {}", client.recv_line()?);
    Ok(())
}
