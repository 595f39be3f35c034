//! A script with blocking calls and without a main loop: a server that serves one client after the other, and a client with
//! timeouts.
//!
//! `cargo run --example blocking -- --listen 1234`, then `cargo run --example blocking -- localhost:1234 6x7 2x21`.

use std::io::BufRead;
use std::io::Write;
use std::time::Duration;

use network::{Error, Result, Server, Socket};

const USAGE: &str = "blocking --listen ADDRESS, or blocking ADDRESS QUESTION…, such as 6x7";

const HELP: &str = "
  --listen ADDRESS  answer questions at this address, one client after the other
  ADDRESS           ask the server there: host:port, a port, a path with a slash, @name
  QUESTION          two numbers with an x between them, whose product is the answer

Every call gives up after 5 seconds.";

/// The timeout of every call.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["-h" | "--help", ..] => {
            say(format_args!("usage: {USAGE}\n{HELP}"));
            Ok(())
        }
        ["--listen", address] => serve(address),
        [address, ref questions @ ..] if !questions.is_empty() && !address.starts_with('-') => ask(address, questions),
        _ => {
            eprintln!("usage: {USAGE}");
            std::process::exit(2);
        }
    }
}

fn ask(address: &str, questions: &[&str]) -> Result {
    let server = Socket::builder().timeout(PATIENCE).connect_timeout(PATIENCE).connect(address)?;
    for question in questions {
        server.sendline(question)?;
        match server.recv_line() {
            Ok(answer) => say(format_args!("{question} is {answer}")),
            // No data is lost: another `recv_line` would continue where this one stopped.
            Err(Error::TimedOut { .. }) => say(format_args!("{question} is too difficult")),
            Err(error) => return Err(error),
        }
    }
    // Half-close, then read the rest of the reply, at most 4 KiB of it.
    server.shutdown_write()?;
    say(String::from_utf8_lossy(&server.recv_to_end(4096)?).trim_end());
    Ok(())
}

fn serve(address: &str) -> Result {
    let server = Server::builder().timeout(PATIENCE).bind(address)?;
    for place in server.local() {
        say(format_args!("listening on {place}"));
    }
    loop {
        let client = server.accept()?;
        // An error concerns this client only. Its connection closes when the socket is dropped.
        if let Err(error) = answer(&client) {
            eprintln!("{}: {error}", client.remote());
        }
    }
}

fn answer(client: &Socket) -> Result {
    let mut count = 0;
    // Sockets work with std's traits.
    for question in client.reader().lines() {
        client.sendline(product(&question?).unwrap_or("no product of two numbers".into()))?;
        count += 1;
    }
    client.sendline(format!("{count} answered"))
}

fn product(question: &str) -> Option<String> {
    let (one, other) = question.split_once('x')?;
    let product = one.trim().parse::<u64>().ok()?.checked_mul(other.trim().parse().ok()?)?;
    Some(product.to_string())
}

/// Prints a line. Once nobody reads any more, this program ends.
fn say(line: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
