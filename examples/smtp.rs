//! Sends a mail through a server that offers STARTTLS: `smtp mail.example.org:25 me@example.org you@example.org < mail.txt`.

use std::io::BufRead;
use std::time::Duration;

use network::{ClientTls, Error, Result, Socket};

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, from, to] = &arguments[..] else {
        eprintln!("usage: smtp SERVER:PORT FROM TO < MAIL");
        std::process::exit(2);
    };
    if [from, to].iter().any(|address| address.contains(char::is_control)) {
        return Err(Error::other("FROM and TO must not contain control characters"));
    }
    let server = Socket::builder().tls(false).timeout(Duration::from_secs(60)).connect(server.as_str())?;
    expect(&server, "220")?;
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
            None => return Err(Error::other(format!("expected {wanted}, but the server said {:?}", line.trim_end()))),
        }
    }
}
