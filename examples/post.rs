//! A daemon that posts the load of this machine as JSON, every few seconds: `post URL [SECONDS]`.
//!
//! The token for the server is read from the file that METRICS_TOKEN names, at the start and on SIGHUP. Nothing blocks the main loop,
//! and what fails is tried again the next time, unless it can never succeed.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use network::http::{Client, Response};
use network::{Error, Result, daemon};

/// Posts the load of this machine as JSON, again and again. METRICS_TOKEN names a file with a token for the server; SIGHUP has it
/// read again.
#[derive(Parser)]
struct Arguments {
    url: String,
    /// The pause in between, in seconds.
    #[arg(default_value = "60", value_parser = pause, value_name = "SECONDS")]
    pause: Duration,
}

fn pause(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds >= 0.001);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "expected a number of seconds, such as 60 or 0.5".into())
}

fn main() -> Result {
    let Arguments { url, pause } = Arguments::parse();
    let client = Rc::new(RefCell::new(client()?));
    let reloaded = client.clone();
    daemon::on_reload(move || match self::client() {
        Ok(client) => drop(reloaded.replace(client)),
        Err(error) => eprintln!("the token stays as it is: {error}"),
    })?;
    network::spawn(async move {
        loop {
            // A handle: the client may be replaced meanwhile.
            let now = client.borrow().clone();
            match post(&now, &url).await {
                Ok(response) => say(response.status()),
                // A bad URL is none the better the next time.
                Err(error @ (Error::Address { .. } | Error::InvalidOption(_))) => {
                    eprintln!("{error}");
                    std::process::exit(2);
                }
                Err(error) => eprintln!("{error}"),
            }
            network::sleep(pause).await;
        }
    })?;
    network::fgloop();
    Ok(())
}

fn client() -> Result<Client> {
    let builder = Client::builder().user_agent("load/1.0").timeout(Duration::from_secs(20));
    let Some(file) = std::env::var_os("METRICS_TOKEN") else { return Ok(builder.build()) };
    let token = std::fs::read_to_string(&file)
        .map_err(|error| Error::other(format!("METRICS_TOKEN={}: {}", file.display(), Error::from(error))))?;
    Ok(builder.bearer(token.trim()).build())
}

async fn post(client: &Client, url: &str) -> Result<Response> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let load: Vec<f64> = load.split(' ').take(3).filter_map(|number| number.parse().ok()).collect();
    let [one, five, fifteen] = load[..] else { return Err(Error::other("/proc/loadavg is not as expected")) };
    let sample = serde_json::json!({ "load": { "1": one, "5": five, "15": fifteen } });
    client.post(url).json(&sample).send_future().await?.error_for_status()
}

/// Prints a line. Nobody reads any more: ends, as other filters do.
fn say(line: impl std::fmt::Display) {
    use std::io::Write;

    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
