//! `--starttls`: the words by which a client of each protocol asks for TLS on a connection that begins in plaintext.

use network::{Error, Result, Socket};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    Smtp,
    Imap,
    Xmpp,
    Ftp,
}

/// Returns the protocol, the host with or without a port, and the default port of a URL whose scheme stands for plaintext that
/// switches to TLS.
pub fn of_url(address: &str) -> Option<(Protocol, &str, u16)> {
    let (scheme, rest) = address.split_once("://")?;
    let (protocol, port) = match scheme.to_ascii_lowercase().as_str() {
        "smtp+starttls" => (Protocol::Smtp, 587),
        "imap+starttls" => (Protocol::Imap, 143),
        "xmpp+starttls" => (Protocol::Xmpp, 5222),
        "ftpes" => (Protocol::Ftp, 21),
        _ => return None,
    };
    Some((protocol, rest.split('/').next().unwrap_or(rest), port))
}

impl Protocol {
    /// Asks for TLS. The server is ready for the handshake then.
    pub fn ask(self, server: &Socket, host: &str) -> Result {
        self.talk(server, host).map_err(|error| match error {
            Error::TimedOut { .. } => Error::other(format!(
                "{error}, which should reply as a server of {} does; if it expects TLS from the start, leave --starttls away",
                self.name()
            )),
            other => other,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Protocol::Smtp => "SMTP",
            Protocol::Imap => "IMAP",
            Protocol::Xmpp => "XMPP",
            Protocol::Ftp => "FTP",
        }
    }

    fn talk(self, server: &Socket, host: &str) -> Result {
        match self {
            // RFC 3207.
            Protocol::Smtp => {
                expect(&reply(server)?, "220")?;
                server.send("EHLO netcat\r\n")?;
                let offers = reply(server)?;
                expect(&offers, "250")?;
                if !offers.to_uppercase().contains("STARTTLS") {
                    return refused("the server does not offer STARTTLS");
                }
                server.send("STARTTLS\r\n")?;
                expect(&reply(server)?, "220")
            }
            // RFC 4217.
            Protocol::Ftp => {
                expect(&reply(server)?, "220")?;
                server.send("AUTH TLS\r\n")?;
                expect(&reply(server)?, "234")
            }
            // RFC 3501, section 6.2.1.
            Protocol::Imap => {
                expect(&server.recv_line()?, "* OK")?;
                server.send("netcat STARTTLS\r\n")?;
                loop {
                    let line = server.recv_line()?;
                    if line.starts_with("netcat ") {
                        return expect(&line, "netcat OK");
                    }
                }
            }
            // RFC 6120, section 5.
            Protocol::Xmpp => {
                server.send(format!(
                    "<?xml version='1.0'?><stream:stream xmlns:stream='http://etherx.jabber.org/streams' \
                     xmlns='jabber:client' to='{host}' version='1.0'>"
                ))?;
                let offers = server.recv_until("</stream:features>")?;
                if !String::from_utf8_lossy(&offers).contains("<starttls") {
                    return refused("the server does not offer STARTTLS");
                }
                server.send("<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")?;
                expect(&String::from_utf8_lossy(&server.recv_until(">")?), "<proceed")
            }
        }
    }
}

/// The longest reply, in bytes.
const REPLY: usize = 64 << 10;

/// Receives a reply of SMTP or FTP, which ends with the line that has a space behind the number.
fn reply(server: &Socket) -> Result<String> {
    let mut text = String::new();
    loop {
        let line = server.recv_line()?;
        text += line.trim_end();
        if text.len() > REPLY {
            return Err(Error::other("the server's reply does not end"));
        }
        let is_number = line.get(..3).is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_number && text.len() == line.trim_end().len() {
            return Err(Error::other(format!("not a server of this protocol: it says {:?}", line.trim_end())));
        }
        // FTP may announce that it takes a while.
        if is_number && line.as_bytes().get(3) != Some(&b'-') && !line.starts_with('1') {
            return Ok(text);
        }
        text.push(' ');
    }
}

fn expect(reply: &str, start: &str) -> Result {
    if reply.trim_start().starts_with(start) {
        return Ok(());
    }
    refused(format!("the server refused TLS: {:?}", reply.trim()))
}

fn refused(why: impl Into<String>) -> Result {
    Err(Error::other(why.into()))
}
