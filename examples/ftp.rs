//! Lists, downloads and uploads by FTP: `ftp ls ftp://host/path/`, `ftp get ftpes://user@host/path [FILE]`, `ftp put FILE ftpes://user@host/path`.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::{Parser, Subcommand};
use network::ftp::{Client, Entry, Progress};
use network::{ClientTls, Error, Result, tls::Fingerprint};

/// Lists, downloads and uploads by FTP.
///
/// URL: ftp://[USER@]HOST[:PORT]/PATH is plaintext, ftpes:// uses TLS by AUTH TLS, ftps:// TLS from the start. The path begins in the user's home
/// directory; %XX stands for a byte, so %2F at its beginning for the root. Without USER, the login is anonymous; the password is read from
/// FTP_PASSWORD.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    task: Task,
    /// Give up after so long without a sign of the server
    #[arg(short = 'w', long, value_name = "SECONDS", default_value = "60", global = true)]
    timeout: u64,
    /// Trust the server whose certificate has this fingerprint, instead of those that the system trusts
    #[arg(long, value_name = "FINGERPRINT", global = true)]
    pin: Option<Fingerprint>,
}

#[derive(Subcommand)]
enum Task {
    /// List a directory
    Ls { url: String },
    /// Download a file; an interrupted download goes on
    Get {
        url: String,
        /// May be a directory
        #[arg(default_value = ".")]
        file: String,
    },
    /// Upload a file
    Put {
        file: String,
        /// One that ends in / gets the name of the file
        url: String,
    },
}

fn main() -> Result {
    let args = Args::parse();
    // This program has an option for what the library has a call for.
    run(&args).map_err(|error| match error {
        Error::UnknownCertificate { .. } => {
            let text = error.to_string().replace("pass it to ClientTls::pinned", "use it with --pin");
            Error::other(text.replace("use ClientTls::pinned", "use --pin"))
        }
        other => other,
    })
}

fn run(args: &Args) -> Result {
    match &args.task {
        Task::Ls { url } => {
            let (client, path) = open(args, url)?;
            for Entry { name, kind, size, .. } in client.list(&path)? {
                let size = size.map_or_else(String::new, |size| size.to_string());
                say(format_args!("{:<9} {size:>12} {}", format!("{kind:?}"), printable(&name.to_string())));
            }
            client.disconnect().map(drop)
        }
        Task::Get { url, file } => {
            let (client, path) = open(args, url)?;
            say(client.download(&path, file).resume(true).progress(show).send()?.message);
            client.disconnect().map(drop)
        }
        Task::Put { file, url } => {
            let (client, path) = open(args, url)?;
            let path = if path.is_empty() { b"./" } else { &path[..] };
            say(client.upload(file, path).progress(show).send()?.message);
            client.disconnect().map(drop)
        }
    }
}

/// Connects and logs in. Returns the path in the URL as well, which is bytes.
fn open(args: &Args, url: &str) -> Result<(Client, Vec<u8>)> {
    let (scheme, rest) =
        url.split_once("://").ok_or_else(|| Error::other("URL must begin with ftp://, ftpes:// or ftps://"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) = host.rsplit_once('@').map_or((None, host), |(user, host)| (Some(user), host));
    if user.is_some_and(|user| user.contains(':')) {
        return Err(Error::other("the password is read from FTP_PASSWORD, not from the URL, which others can see"));
    }
    let (path, user) = (decoded(path)?, user.map(decoded).transpose()?);
    let limit = Duration::from_secs(args.timeout);
    let mut builder = Client::builder().connect_timeout(limit).reply_timeout(limit).data_timeout(limit);
    if let Some(fingerprint) = &args.pin {
        builder = builder.tls(ClientTls::pinned(*fingerprint));
    }
    let client = builder.connect(format!("{scheme}://{host}"))?;
    match user {
        None => client.login_anonymous()?,
        Some(user) => client.login(user, std::env::var("FTP_PASSWORD").unwrap_or_default())?,
    };
    Ok((client, path))
}

/// Returns the bytes of a part of a URL, in which %XX stands for any.
fn decoded(text: &str) -> Result<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.chars().all(|c| c.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(|| Error::other(format!("expected two of 0-9 and A-F after each % in {text}")))?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Ok(bytes)
}

/// Prints a line. Once nobody reads any more, this program ends.
fn say(line: impl Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}

/// Text of the server's: it could control the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_debug().to_string() } else { c.into() }).collect()
}

fn show(progress: Progress) {
    if std::io::stderr().is_terminal() {
        let percent = progress.fraction().map_or_else(String::new, |part| format!(" ({:.0} %)", part * 100.0));
        eprint!("\r{} bytes{percent}  ", progress.done);
        // It is for the eyes only.
        let _ = std::io::stderr().flush();
        if progress.total == Some(progress.done) {
            eprintln!();
        }
    }
}
