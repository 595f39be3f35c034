//! Fetches a URL: `fetch https://example.org/`, `fetch -o FILE --resume URL`, `fetch --unix /run/docker.sock http://docker/version`.
//!
//! With the feature `ftp`, it fetches `ftp://`, `ftpes://` and `ftps://` URLs as well.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Parser;
use network::http::{Client, RequestBuilder, Response};
use network::socket::Proxy;
use network::{Error, Result};

/// Fetches a URL, and writes what comes to standard output or to a file.
#[derive(Parser)]
struct Arguments {
    url: String,
    /// Write to FILE. It grows as FILE.part.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Continue a download that was interrupted.
    #[arg(long, requires = "output")]
    resume: bool,
    /// Send a header field, as in "Accept: text/html".
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// POST this text, or the content of a file: @FILE.
    #[arg(long, value_name = "TEXT")]
    data: Option<String>,
    /// Connect through this proxy instead of the one of the environment; "none" for none.
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Connect to this unix socket, whatever the host is.
    #[arg(long, value_name = "SOCKET")]
    unix: Option<PathBuf>,
}

fn main() -> Result {
    let arguments = Arguments::parse();
    #[cfg(feature = "ftp")]
    if ["ftp://", "ftpes://", "ftps://"].iter().any(|scheme| arguments.url.starts_with(scheme)) {
        return by_ftp(&arguments);
    }
    let request = request(&arguments)?;
    match &arguments.output {
        Some(file) => {
            let response =
                request.resume(arguments.resume).progress(|it| show(it.received, it.fraction())).download(file)?;
            tell(&response);
        }
        None => {
            let mut response = request.send()?.error_for_status()?;
            tell(&response);
            std::io::copy(&mut response, &mut Output)?;
        }
    }
    Ok(())
}

/// Standard output. When nobody reads it any more, the program ends, as other filters do.
struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        end_unheard(std::io::stdout().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        end_unheard(std::io::stdout().flush())
    }
}

fn end_unheard<T>(written: std::io::Result<T>) -> std::io::Result<T> {
    if written.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) {
        std::process::exit(1);
    }
    written
}

fn request(arguments: &Arguments) -> Result<RequestBuilder> {
    let mut client = Client::builder();
    client = match arguments.proxy.as_deref() {
        None => client,
        Some("none") => client.proxy(Proxy::none()),
        Some(proxy) => client.proxy(proxy),
    };
    if let Some(socket) = &arguments.unix {
        client = client.connect_to(socket.as_path());
    }
    let client = client.build();
    let mut request = match &arguments.data {
        None => client.get(&arguments.url),
        Some(data) => match data.strip_prefix('@') {
            Some(file) => client.post(&arguments.url).file(file),
            None => client.post(&arguments.url).body(data.as_str()),
        },
    };
    for field in &arguments.header {
        let (name, value) = field.split_once(':').ok_or_else(|| Error::other("expected --header \"Name: value\""))?;
        request = request.header(name.trim(), value);
    }
    Ok(request)
}

fn tell(response: &Response) {
    let kind = response.header("content-type").unwrap_or("of unknown type");
    eprintln!("{} from {}, {kind}", response.status(), response.url());
}

/// Draws a progress bar, if somebody sees it.
fn show(done: u64, part: Option<f64>) {
    const WIDTH: usize = 40;
    if !std::io::stderr().is_terminal() {
        return;
    }
    match part {
        None => eprint!("\r{done} bytes"),
        Some(part) => {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 40")]
            let filled = (part * WIDTH as f64) as usize;
            eprint!("\r[{}{}] {:3.0} %", "#".repeat(filled), " ".repeat(WIDTH.saturating_sub(filled)), part * 100.0);
        }
    }
    if part == Some(1.0) {
        eprintln!();
    }
    // It is for the eyes only.
    let _ = std::io::stderr().flush();
}

#[cfg(feature = "ftp")]
fn by_ftp(arguments: &Arguments) -> Result {
    let (scheme, rest) = arguments.url.split_once("://").unwrap_or_default();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.contains('@') {
        return Err(Error::other("the login is anonymous; examples/ftp.rs logs in as a user"));
    }
    if arguments.unix.is_some() || arguments.data.is_some() || !arguments.header.is_empty() {
        return Err(Error::other("--unix, --data and --header are for HTTP"));
    }
    let proxy = arguments.proxy.as_deref().filter(|proxy| *proxy != "none").map_or(Proxy::none(), Proxy::url);
    let client = network::ftp::Client::builder().proxy(proxy).connect(format!("{scheme}://{host}"))?;
    client.login_anonymous()?;
    match &arguments.output {
        Some(file) => {
            let transfer = client.download(path, file).resume(arguments.resume);
            transfer.progress(|it| show(it.done, it.fraction())).send()?;
        }
        None => drop(client.download_to(path, Output).send()?),
    }
    client.disconnect().map(drop)
}
