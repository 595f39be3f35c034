//! Lists, downloads and uploads by FTP: `ftp ls ftp://host/path/`, `ftp get ftpes://user@host/path [FILE]`, `ftp put FILE ftpes://user@host/path`.

use std::io::{IsTerminal, Write};

use network::ftp::{Client, Entry, Progress};
use network::{Error, Result};

const USAGE: &str = "\
usage: ftp ls URL
       ftp get URL [FILE]        FILE may be a directory; an interrupted download goes on
       ftp put FILE URL          a URL that ends in / gets the name of the file

URL: ftp://[USER@]HOST[:PORT]/PATH is plaintext, ftpes:// uses TLS by AUTH TLS, ftps:// TLS from the start.
The path is taken as it is written, and begins in the user's home directory. Without USER, the login is anonymous; the password is read from FTP_PASSWORD.";

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["-h" | "--help"] => println!("{USAGE}"),
        ["ls", url] => list(url)?,
        ["get", url] => get(url, ".")?,
        ["get", url, file] => get(url, file)?,
        ["put", file, url] => put(file, url)?,
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    }
    Ok(())
}

/// Connects and logs in. Returns the path in the URL as well.
fn open(url: &str) -> Result<(Client, String)> {
    let (scheme, rest) =
        url.split_once("://").ok_or_else(|| Error::other("URL must begin with ftp://, ftpes:// or ftps://"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, host) = host.rsplit_once('@').map_or((None, host), |(user, host)| (Some(user), host));
    if user.is_some_and(|user| user.contains(':')) {
        return Err(Error::other("the password is read from FTP_PASSWORD, not from the URL, which others can see"));
    }
    let client = Client::connect(format!("{scheme}://{host}"))?;
    match user {
        None => client.login_anonymous()?,
        Some(user) => client.login(user, std::env::var("FTP_PASSWORD").unwrap_or_default())?,
    };
    Ok((client, path.to_owned()))
}

fn list(url: &str) -> Result {
    let (client, path) = open(url)?;
    for Entry { name, kind, size, .. } in client.list(&path)? {
        let size = size.map_or_else(String::new, |size| size.to_string());
        println!("{:<9} {size:>12} {}", format!("{kind:?}"), name.to_string().escape_debug());
    }
    client.disconnect().map(drop)
}

fn get(url: &str, file: &str) -> Result {
    let (client, path) = open(url)?;
    let response = client.download(&path, file).resume(true).progress(show).send()?;
    println!("{}", response.message);
    client.disconnect().map(drop)
}

fn put(file: &str, url: &str) -> Result {
    let (client, path) = open(url)?;
    let path = if path.is_empty() { "./".to_owned() } else { path };
    let response = client.upload(file, &path).progress(show).send()?;
    println!("{}", response.message);
    client.disconnect().map(drop)
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
