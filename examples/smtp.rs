//! Sends a mail through a server that offers STARTTLS: `smtp mail.example.org:25 me@example.org you@example.org < mail.txt`.

use std::io::BufRead;
use std::time::Duration;

use network::{Address, ClientTls, Error, Result, Socket};

const USAGE: &str = "usage: smtp SERVER:PORT FROM TO < MAIL\n\nSERVER:PORT may also be smtp+starttls://SERVER";

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if matches!(arguments.first().map(String::as_str), Some("-h" | "--help")) {
        say(USAGE);
        return Ok(());
    }
    let [server, from, to] = &arguments[..] else {
        eprintln!("{USAGE}");
        std::process::exit(2);
    };
    if [from, to].iter().any(|address| address.contains(char::is_control)) {
        return Err(Error::other("FROM and TO must not contain control characters"));
    }
    let server = Socket::builder().tls(false).timeout(Duration::from_secs(60)).connect(address(server)?)?;
    expect(&server, "220").map_err(|error| match error {
        Error::TimedOut { .. } => Error::other(format!("{error}; it may expect TLS from the start, as on port 465")),
        other => other,
    })?;
    command(&server, "EHLO localhost", "250")?;
    command(&server, "STARTTLS", "220")?;
    // Pins and system roots count for the address above, as they do when TLS is on from the start.
    server.start_tls(ClientTls::new())?;
    command(&server, "EHLO localhost", "250")?;
    command(&server, &format!("MAIL FROM:<{from}>"), "250")?;
    command(&server, &format!("RCPT TO:<{to}>"), "250")?;
    command(&server, "DATA", "354")?;
    // Mail is bytes: which characters they are, its own header says.
    for line in std::io::stdin().lock().split(b'\n') {
        let line = line?;
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        // A line with a dot alone is the end of the mail.
        let dot: &[u8] = if line.starts_with(b".") { b"." } else { b"" };
        server.send([dot, line, b"\r\n"].concat())?;
        if server.is_full() {
            server.flush()?;
        }
    }
    command(&server, ".", "250")?;
    command(&server, "QUIT", "221")
}

/// Reads the address of a server that begins in plaintext. The library leaves the schemes for that to those who speak the protocol.
fn address(server: &str) -> Result<Address> {
    let Some((scheme, host)) = server.split_once("://") else { return Address::parse(server) };
    match scheme {
        "smtp" => Address::host(host, 25),
        "smtp+starttls" | "submission" => Address::host(host, 587),
        _ => Err(Error::other("expected SERVER:PORT, smtp:// or smtp+starttls://: TLS begins by the command STARTTLS")),
    }
}

fn command(server: &Socket, command: &str, wanted: &str) -> Result {
    server.send(format!("{command}\r\n"))?;
    expect(server, wanted)
}

/// Receives a reply, all lines of which but the last have a dash behind the number.
fn expect(server: &Socket, wanted: &str) -> Result {
    loop {
        let line = server.recv_line()?;
        match line.strip_prefix(wanted) {
            Some(rest) if rest.starts_with('-') => {}
            Some(_) => return Ok(()),
            None => {
                let said = printable(line.trim_end());
                return Err(Error::other(format!("expected {wanted}, but the server said \"{said}\"")));
            }
        }
    }
}

/// Text of the server's: it could control the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_debug().to_string() } else { c.into() }).collect()
}

/// Prints a line. Nobody reads any more: ends, as other filters do.
fn say(line: impl std::fmt::Display) {
    use std::io::Write;

    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
