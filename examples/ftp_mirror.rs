//! Copies a directory from an FTP server, all below it included, and goes on where it was interrupted. Nothing is deleted here, and what the
//! server refuses is left out and named.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use network::ftp::{Client, Kind};
use network::{Error, Result};

/// Copies a directory from an FTP server, all below it included, and goes on where it was interrupted.
#[derive(Parser)]
struct Args {
    /// [ftpes://|ftps://|ftp://][USER@]HOST[:PORT]; ftp:// is for servers without TLS. Without USER, the login is anonymous; the password is
    /// read from FTP_PASSWORD
    host: String,
    directory: String,
    local: PathBuf,
    /// Give up after so long without a sign of the server
    #[arg(short = 'w', long, value_name = "SECONDS", default_value = "60")]
    timeout: u64,
}

/// Deeper than that, a directory is taken for one that contains itself.
const DEPTH: usize = 32;

fn main() -> Result {
    let Args { host, directory, local, timeout } = Args::parse();
    // Ctrl-C ends this at once. What is complete stays, and so does the beginning of the file that is not.
    network::mainloop::set_signal_handling(false);
    let (scheme, rest) = host.split_once("://").unwrap_or(("ftpes", &host));
    let (user, host) = rest.rsplit_once('@').unwrap_or(("anonymous", rest));
    let limit = Duration::from_secs(timeout);
    let builder = Client::builder().connect_timeout(limit).reply_timeout(limit).data_timeout(limit);
    let failed = network::block_on(async {
        let client = builder.connect_future(format!("{scheme}://{host}")).await?;
        client.login_future(user, std::env::var("FTP_PASSWORD").unwrap_or("anonymous@".into())).await?;
        // Some servers list a directory that is not there as an empty one.
        client.change_directory_future(directory).await?;
        let failed = mirror(&client, ".", &local, 0).await?;
        client.disconnect_future().await.map(|_| failed)
    })??;
    if failed > 0 { Err(Error::other(format!("{failed} not copied"))) } else { Ok(()) }
}

/// Returns how many could not be copied.
async fn mirror(client: &Client, directory: &str, local: &Path, depth: usize) -> Result<usize> {
    std::fs::create_dir_all(local).map_err(|error| Error::other(format!("{}: {error}", local.display())))?;
    let mut failed = 0;
    for entry in client.list_future(directory).await? {
        // Names come from the server: "..", and any with a slash, are an error.
        let (from, to) = (format!("{directory}/{}", entry.name), local.join(entry.safe_name()?));
        let copied = match entry.kind {
            Kind::Directory if depth == DEPTH => Err(Error::other("too deep; perhaps it contains itself")),
            Kind::Directory => Box::pin(mirror(client, &from, &to, depth + 1)).await.map(|more| failed += more),
            Kind::File if !entry.same_as(&to) => {
                let response = client.download(&from, &to).resume(true).send_future().await;
                response.map(|_| say(to.display()))
            }
            _ => Ok(()),
        };
        match copied {
            // The session goes on, and so do the other files.
            Err(error @ (Error::Ftp { .. } | Error::Other(_))) => {
                failed += 1;
                eprintln!("{from}: {error}");
            }
            other => other?,
        }
    }
    Ok(failed)
}

/// Prints a line. Once nobody reads any more, this program ends.
fn say(line: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
