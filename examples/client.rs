//! A client for `examples/server.rs` with blocking calls, as a script would use them.

use std::io::Write;

use clap::Parser;
use network::{ClientTls, Error, Result, Socket, tls::Fingerprint};

/// A client for the line server.
#[derive(Parser)]
struct Args {
    /// Address of the server: host:port, [IPv6]:port, a port, a path with a slash, @name, or service|name
    #[arg(default_value = "localhost:1234")]
    address: String,
    /// Trust the server with this fingerprint, which it prints when it starts
    #[arg(long)]
    fingerprint: Option<Fingerprint>,
}

fn main() -> Result {
    let args = Args::parse();
    let mut builder = Socket::builder();
    if let Some(fingerprint) = args.fingerprint {
        builder = builder.tls(ClientTls::pinned(fingerprint));
    }
    let client = builder.connect(args.address).map_err(advise)?;
    say(format_args!("The server said: {}", client.recv_line()?));
    client.sendline("This is data.")?;
    say(format_args!("The server replied: {}", client.recv_line()?));
    Ok(())
}

/// Rewords an error in terms of this program's options.
fn advise(error: Error) -> Error {
    match error {
        Error::UnknownCertificate { peer, fingerprint, .. } => Error::other(format!(
            "the certificate of {peer} is not trusted. If the server printed this fingerprint when it started, use \
             --fingerprint {fingerprint}"
        )),
        Error::CertificateChanged { peer, fingerprint, pin_file: None, .. } => Error::other(format!(
            "{peer} does not have the key of --fingerprint, but {fingerprint}. Either the option is wrong or outdated, or \
             the connection is being intercepted"
        )),
        error => error,
    }
}

/// Prints a line. Once nobody reads any more, this program ends.
fn say(line: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
