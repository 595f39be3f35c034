//! A client for `examples/server.rs`, by blocking calls: for scripts.

fn main() -> network::Result {
    let client = network::Socket::connect("localhost:1234")?;
    println!("The server said: {}", client.recv_line()?);
    client.sendline("This is data.")?;
    println!("The server replied: {}", client.recv_line()?);
    Ok(())
}
