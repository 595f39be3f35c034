//! A client for `examples/server.rs` that survives everything: start it before the server or after it, stop the server, pull the cable,
//! close the lid. It sends a line every second, and prints a line for each change of its connection.

use std::cell::Cell;
use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use network::link::State;
use network::{ClientTls, Link, Result, Socket, sleep, tls::Fingerprint};

/// A client for the line server that stays connected.
#[derive(Parser)]
struct Args {
    /// Address of the server: host:port, [IPv6]:port, a port, a path with a slash, @name, or service|name
    #[arg(default_value = "localhost:1234")]
    address: String,
    /// Trust the server with this fingerprint, which it prints when it starts
    #[arg(long)]
    fingerprint: Option<Fingerprint>,
    /// Give up after so many failed tries in a row
    #[arg(long)]
    attempts: Option<u32>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut builder = Link::builder().down_cb(|link, down| {
        // The last one is told by the other callback.
        if down.next.is_some() || link.state() != State::Over {
            say(down);
        }
    });
    if let Some(fingerprint) = args.fingerprint {
        builder = builder.socket(Socket::builder().tls(ClientTls::pinned(fingerprint)));
    }
    if let Some(most) = args.attempts {
        builder = builder.attempts(most);
    }
    let gave_up = Rc::new(Cell::new(false));
    let over = gave_up.clone();
    let link = builder
        .gave_up_cb(move |_, error| {
            eprintln!("giving up: {error}");
            over.set(true);
            network::endloop();
        })
        .start(args.address, |socket| {
            say(format_args!("connected to {}", socket.remote()));
            socket.readlines(|_, line| {
                say(format_args!("the server said: {line}"));
                Ok(())
            });
            Ok(())
        })?;
    let _task = network::spawn(tick(link.clone()))?;
    network::fgloop();
    // It is over without a word if a signal has ended the loop.
    link.close();
    Ok(if gave_up.get() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn tick(link: Link) -> Result {
    let (mut number, shown) = (0, Cell::new(State::Connecting));
    while link.state() != State::Over {
        let state = link.state();
        match shown.replace(state) {
            before if before == state => {}
            _ if state == State::Offline => say("waiting for a network"),
            _ if state == State::Searching => say("waiting for the service"),
            _ => {}
        }
        // While there is no connection, this is refused, and nobody misses it: the next one comes in a second.
        if link.sendline(format!("tick {number}")).is_ok() {
            number += 1;
        }
        sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Prints a line. Once nobody reads any more, this program ends.
fn say(line: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
