//! Sends a command to a Redis server and prints the reply: `redis redis://localhost SET name value`. `rediss://` is TLS.

use std::io::Write;
use std::time::Duration;

use network::socket::LineEnding;
use network::{Error, Result, Socket};

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if matches!(arguments.first().map(String::as_str), Some("-h" | "--help")) {
        say(USAGE);
        return Ok(());
    }
    let [address, command @ ..] = &arguments[..] else { usage() };
    if command.is_empty() || address.starts_with('-') {
        usage();
    }
    match address.split_once("://") {
        Some(("redis" | "rediss", rest)) if rest.contains('/') => {
            return Err(Error::other("a database in the URL is not supported"));
        }
        None | Some(("redis" | "rediss", _)) => {}
        Some((scheme, _)) => {
            return Err(Error::other(format!("{scheme}:// is not Redis: write redis://HOST or rediss://HOST")));
        }
    }
    ask(address, command).map_err(|error| match &error {
        // This program has schemes for what the library has calls for.
        Error::Plaintext { peer, .. } => Error::other(format!("{peer} does not use TLS; redis://HOST is without it")),
        Error::Closed { .. } | Error::Reset { .. } | Error::Tls { .. } if !address.starts_with("rediss:") => {
            Error::other(format!("{error}; if the server expects TLS, write rediss://HOST"))
        }
        _ => Error::other(
            error.to_string().replace("connect with tls(false) or to tcp://host:port", "write redis://HOST"),
        ),
    })
}

fn ask(address: &str, command: &[String]) -> Result {
    let builder = Socket::builder().line_ending(LineEnding::CrLf).timeout(Duration::from_secs(60));
    let server = builder.connect(address)?;
    server.sendline(format!("*{}", command.len()))?;
    for argument in command {
        // The length first, so an argument can contain anything.
        server.sendline(format!("${}", argument.len()))?;
        server.sendline(argument)?;
    }
    print(&server, 0)
}

const USAGE: &str = "usage: redis ADDRESS COMMAND ARGUMENT…, as in: redis redis://localhost GET name";

fn usage() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2);
}

/// The most levels of a reply: a server could send any number.
const DEPTH: usize = 8;

/// The longest text and list of a reply, in bytes and parts: Redis has no longer ones by default.
const LONGEST: usize = 512 << 20;

/// Receives a reply and prints it, with its parts indented.
fn print(server: &Socket, depth: usize) -> Result {
    if depth > DEPTH {
        return Err(Error::other(format!("the reply has more than {DEPTH} levels")));
    }
    let line = server.recv_line()?;
    let indent = "  ".repeat(depth);
    match (line.get(..1), line.get(1..).unwrap_or_default()) {
        (Some("-"), problem) => return Err(Error::other(printable(problem))),
        (Some("+" | ":"), text) => say(format_args!("{indent}{}", printable(text))),
        (Some("$" | "*"), "-1") => say(format_args!("{indent}(none)")),
        (Some("$"), length) => {
            let text = server.recv_exact(read_length(length)?)?;
            say(format_args!("{indent}{}", printable(&String::from_utf8_lossy(&text))));
            server.recv_line()?;
        }
        (Some("*"), count) => {
            for _ in 0..read_length(count)? {
                print(server, depth + 1)?;
            }
        }
        _ => return Err(Error::other(format!("not a reply of Redis: {}", printable(&line)))),
    }
    Ok(())
}

/// Text of the server's: it could control the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_debug().to_string() } else { c.into() }).collect()
}

fn read_length(text: &str) -> Result<usize> {
    let length = text.parse().ok().filter(|length| *length <= LONGEST);
    length.ok_or_else(|| {
        Error::other(format!("not a reply of Redis: a length of {text:?}, and 0 to {LONGEST} are possible"))
    })
}

/// Prints a line. Once nobody reads any more, this program ends.
fn say(line: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
