//! A line server: `cargo run --example server`, then `cargo run --example client`. Both take an address.

use std::io::Write;

use clap::Parser;

/// A line server.
#[derive(Parser)]
struct Args {
    /// Address to listen on: a port, host:port, [IPv6]:port, a path with a slash, @name, or service|name
    #[arg(default_value = "1234")]
    address: String,
}

fn main() -> network::Result {
    let args = Args::parse();
    // The path of a server that was killed is replaced, that of one that runs is not.
    let server = network::Server::builder().replace_stale(true).listen(args.address, |socket| {
        say(format_args!("{} is here", socket.remote()));
        socket.sendline("Welcome to this server!")?;
        socket.readlines(|socket, line| {
            say(format_args!("data received: {line}"));
            socket.sendline("This is a reply.")
        });
        socket.disconnect_cb(|socket, end| say(format_args!("{}: {}", socket.remote(), end.reason)));
        Ok(())
    })?;
    if let Some(fingerprint) = server.fingerprint() {
        say(format_args!("fingerprint {fingerprint}"));
    }
    for place in server.local() {
        say(format_args!("listening on {place}"));
    }
    network::fgloop();
    Ok(())
}

/// Prints a line. Once nobody reads any more, this program ends.
fn say(line: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
