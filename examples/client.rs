//! A client for `examples/server.rs` with blocking calls, as a script would use them.

use clap::Parser;

/// A client for the line server.
#[derive(Parser)]
struct Args {
    /// Address of the server: host:port, [IPv6]:port, a port, a path with a slash, @name, or service|name
    #[arg(default_value = "localhost:1234")]
    address: String,
}

fn main() -> network::Result {
    let args = Args::parse();
    let client = network::Socket::connect(args.address)?;
    println!("The server said: {}", client.recv_line()?);
    client.sendline("This is data.")?;
    println!("The server replied: {}", client.recv_line()?);
    Ok(())
}
