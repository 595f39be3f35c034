//! Copies a directory from an FTP server, all below it included, and goes on where it was interrupted:
//! `ftp_mirror HOST DIRECTORY LOCAL`. Nothing is deleted here, and what the server refuses is left out and named.

use std::cell::Cell;
use std::path::Path;

use network::ftp::{Client, Kind};
use network::{Error, Result};

const USAGE: &str = "\
usage: ftp_mirror HOST DIRECTORY LOCAL

HOST: [ftpes://|ftps://|ftp://][USER@]HOST[:PORT]; ftp:// is for servers without TLS.
Without USER, the login is anonymous; the password is read from FTP_PASSWORD.";

/// Deeper than that, a directory is taken for one that contains itself.
const DEPTH: usize = 32;

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, directory, local] = match &arguments[..] {
        [help] if help == "-h" || help == "--help" => {
            println!("{USAGE}");
            return Ok(());
        }
        [host, directory, local] => [host, directory, local],
        _ => {
            eprintln!("{USAGE}");
            std::process::exit(2);
        }
    };
    let (scheme, rest) = host.split_once("://").map_or(("ftpes", host.as_str()), |parts| parts);
    let (user, host) = rest.rsplit_once('@').unwrap_or(("anonymous", rest));
    let address = format!("{scheme}://{host}");
    let failed = Cell::new(0);
    network::block_on(async {
        let client = Client::connect_future(address).await?;
        client.login_future(user, std::env::var("FTP_PASSWORD").unwrap_or("anonymous@".into())).await?;
        // Some servers list a directory that is not there as an empty one.
        client.change_directory_future(directory).await?;
        mirror(&client, ".", Path::new(local), 0, &failed).await?;
        client.disconnect_future().await.map(drop)
    })??;
    match failed.get() {
        0 => Ok(()),
        count => Err(Error::other(format!("{count} not copied"))),
    }
}

async fn mirror(client: &Client, directory: &str, local: &Path, depth: usize, failed: &Cell<usize>) -> Result {
    std::fs::create_dir_all(local).map_err(|error| Error::other(format!("{}: {error}", local.display())))?;
    for entry in client.list_future(directory).await? {
        // Names come from the server: "..", and any with a slash, are an error.
        let (from, to) = (format!("{directory}/{}", entry.name), local.join(entry.safe_name()?));
        let copied = match entry.kind {
            Kind::Directory if depth == DEPTH => Err(Error::other("too deep; perhaps it contains itself")),
            Kind::Directory => Box::pin(mirror(client, &from, &to, depth + 1, failed)).await,
            Kind::File if !entry.same_as(&to) => {
                let response = client.download(&from, &to).resume(true).send_future().await;
                response.map(|_| println!("{}", to.display()))
            }
            _ => Ok(()),
        };
        match copied {
            // The session goes on, and so do the other files.
            Err(error @ (Error::Ftp { .. } | Error::Other(_))) => {
                failed.set(failed.get() + 1);
                eprintln!("{from}: {error}");
            }
            other => other?,
        }
    }
    Ok(())
}
