//! Finds servers of the local network by broadcast: `cargo run --example udp_discovery -- serve "the kitchen"` on some
//! machines, `cargo run --example udp_discovery` on another. Each server tells its name to whoever asks.
//!
//! Servers listen on port 4242 of all networks, or on the address given (`udp_discovery serve NAME 127.0.0.1:4242`).
//!
//! The question goes to all networks of this machine. Other addresses are asked by name (`udp_discovery ask
//! 198.51.100.255:4242`). To 255.255.255.255, the kernel sends by one interface only, that of the default route.

use std::io::Write;
use std::time::{Duration, Instant};

use network::{Error, UdpSocket};

const USAGE: &str = "udp_discovery [ask [ADDRESS...] | serve NAME [ADDRESS]]";

const QUESTION: &str = "who is there?";

/// How long to wait for answers.
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> network::Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["-h" | "--help", ..] => {
            say(format_args!("usage: {USAGE}"));
            Ok(())
        }
        [] => ask(&[]),
        ["ask", ref addresses @ ..] => ask(addresses),
        ["serve", name] => serve(name, "0.0.0.0:4242"),
        ["serve", name, address] => serve(name, address),
        _ => {
            eprintln!("usage: {USAGE}");
            std::process::exit(2);
        }
    }
}

/// Answers by callback, on the main loop, until it is interrupted.
fn serve(name: &str, address: &str) -> network::Result {
    let name = name.to_owned();
    // Several of them may run on one machine.
    let socket = UdpSocket::builder().reuse_address(true).bind(address)?;
    say(format_args!("listening on {}", socket.local()));
    socket.read(move |socket, data, from| {
        if data == QUESTION.as_bytes() {
            say(format_args!("{from} asks"));
            socket.send_to(&name, from)?;
        }
        Ok(())
    });
    network::fgloop();
    Ok(())
}

/// Asks all or those at some addresses, and lists who answers in time. That nobody does is a failure.
fn ask(addresses: &[&str]) -> network::Result {
    let socket = UdpSocket::builder().broadcast(true).bind("0.0.0.0:0")?;
    let asked = match addresses {
        [] => {
            socket.broadcast(QUESTION, 4242)?;
            "on the networks of this machine".into()
        }
        addresses => format!("at {}", addresses.join(", ")),
    };
    for address in addresses {
        socket.send_to(QUESTION, *address)?;
    }
    let end = Instant::now() + PATIENCE;
    let mut answers = 0;
    loop {
        socket.set_timeout(end.saturating_duration_since(Instant::now()));
        match socket.recv_from(1000) {
            Ok((name, from)) => {
                say(format_args!("{from} is {:?}", String::from_utf8_lossy(&name)));
                answers += 1;
            }
            Err(Error::TimedOut { .. } | Error::NotReady { .. }) if answers > 0 => return Ok(()),
            Err(Error::TimedOut { .. } | Error::NotReady { .. }) => {
                eprintln!("udp_discovery: nobody {asked} has answered within {PATIENCE:?}");
                std::process::exit(1);
            }
            // Not one of ours.
            Err(Error::DatagramTruncated { .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Prints a line. Once nobody reads any more, this program ends.
fn say(line: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
