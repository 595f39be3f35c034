//! Copies a directory from an FTP server, all below it included, and goes on where it was interrupted: `ftp_mirror HOST DIRECTORY LOCAL`.
//! Nothing is deleted here.

use std::path::Path;

use network::ftp::{Client, Kind};
use network::{Error, Result};

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, directory, local] = &arguments[..] else {
        eprintln!("usage: ftp_mirror HOST DIRECTORY LOCAL\n\nHOST may be ftp://HOST for a server without TLS.");
        std::process::exit(2);
    };
    network::block_on(async {
        let client = Client::connect_future(host).await?;
        client.login_anonymous_future().await?;
        mirror(&client, directory, Path::new(local)).await?;
        client.disconnect_future().await.map(drop)
    })?
}

async fn mirror(client: &Client, directory: &str, local: &Path) -> Result {
    std::fs::create_dir_all(local).map_err(|error| Error::other(format!("{}: {error}", local.display())))?;
    for entry in client.list_future(directory).await? {
        // Names come from the server: "..", and any with a slash, are an error.
        let (from, to) = (format!("{directory}/{}", entry.name), local.join(entry.safe_name()?));
        match entry.kind {
            Kind::Directory => Box::pin(mirror(client, &from, &to)).await?,
            Kind::File if !entry.same_as(&to) => {
                client.download(&from, &to).resume(true).send_future().await?;
                println!("{}", to.display());
            }
            _ => {}
        }
    }
    Ok(())
}
