//! Fetches a URL: `fetch https://example.org/`, `fetch -o FILE --resume URL`, `fetch --unix /run/docker.sock http://docker/version`.
//!
//! With the feature `ftp`, it fetches `ftp://`, `ftpes://` and `ftps://` URLs as well.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Parser;
use network::http::{Client, RequestBuilder, Response};
use network::socket::Proxy;
use network::{Error, Result};

/// Fetches a URL, and writes what comes to standard output or to a file.
#[derive(Parser)]
struct Arguments {
    /// The URL, with its scheme: "https://example.org/".
    url: String,
    /// Write to FILE. It grows as FILE.part. Devices and pipes are written to directly; "-" is standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Continue a download that was interrupted.
    #[arg(long, requires = "output")]
    resume: bool,
    /// Send a header field, as in "Accept: text/html".
    #[arg(long, value_name = "NAME: VALUE", value_parser = field)]
    header: Vec<(String, String)>,
    /// POST this text, or the content of a file: @FILE.
    #[arg(long, value_name = "TEXT")]
    data: Option<String>,
    /// Connect through this proxy instead of the one of the environment; "none" for none. This machine itself is always reached
    /// directly.
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// Connect to this unix socket, whatever the host is.
    #[arg(long, value_name = "SOCKET")]
    unix: Option<PathBuf>,
}

fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected \"Name: value\"")?;
    Ok((name.trim().into(), value.trim().into()))
}

impl Arguments {
    /// Returns the file that replaces the old one once it is whole. `None` if the bytes go out as they come.
    fn file(&self) -> Option<&Path> {
        let is_replaced = |file: &&Path| *file != Path::new("-") && (!file.exists() || file.is_file());
        self.output.as_deref().filter(is_replaced)
    }

    /// Opens what takes the bytes as they come.
    fn sink(&self) -> Result<Box<dyn Write>> {
        match self.output.as_deref().filter(|output| *output != Path::new("-")) {
            None => Ok(Box::new(Output)),
            Some(device) => match std::fs::File::options().write(true).open(device) {
                Ok(file) => Ok(Box::new(file)),
                Err(error) => {
                    Err(Error::other(format!("cannot write to {}: {}", device.display(), Error::from(error))))
                }
            },
        }
    }
}

fn main() -> Result {
    let arguments = Arguments::parse();
    #[cfg(feature = "ftp")]
    if ["ftp://", "ftpes://", "ftps://"].iter().any(|scheme| arguments.url.starts_with(scheme)) {
        return by_ftp(&arguments);
    }
    let request = request(&arguments);
    match arguments.file() {
        Some(file) => {
            let response =
                request.resume(arguments.resume).progress(|it| show(it.received, it.fraction())).download(file)?;
            tell(&response);
        }
        None => {
            let mut sink = arguments.sink()?;
            let mut response = request.send()?.error_for_status()?;
            tell(&response);
            std::io::copy(&mut response, &mut sink)?;
        }
    }
    Ok(())
}

/// Standard output, without a buffer: what cannot be written is told. When nobody reads it any more, the program ends, as other
/// filters do.
struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut output = std::io::stdout();
        end_unheard(output.write_all(bytes).and_then(|()| output.flush()).map(|()| bytes.len()))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn end_unheard<T>(written: std::io::Result<T>) -> std::io::Result<T> {
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => std::process::exit(1),
        kind => std::io::Error::new(kind, format!("cannot write to standard output: {}", Error::from(error))),
    })
}

fn request(arguments: &Arguments) -> RequestBuilder {
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
    for (name, value) in &arguments.header {
        request = request.header(name, value);
    }
    request
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
    match arguments.file() {
        Some(file) => {
            let transfer = client.download(path, file).resume(arguments.resume);
            transfer.progress(|it| show(it.done, it.fraction())).send()?;
        }
        None => drop(client.download_to(path, arguments.sink()?).send()?),
    }
    client.disconnect().map(drop)
}
