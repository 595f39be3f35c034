//! Log in by OAuth as desktop programs do (RFC 8252): the browser asks the user, and comes back to a server on this machine that lives for
//! one request. The code that it brings is exchanged for a token, and proof (RFC 7636) that it was this program that asked.
//!
//! The provider is part of the example, and so is a browser that agrees to everything. With `--browser`, the real one opens, and the
//! user has to agree: `cargo run --features http --example oauth -- --browser`

use std::io::Read;
use std::time::Duration;

use clap::Parser;
use network::http::{Client, Reply, Request, Requests, Server, encode};
use network::{Error, Result};

/// Logs in at a provider that is part of this example.
#[derive(Parser)]
struct Arguments {
    /// Open the user's browser, instead of one that agrees to everything.
    #[arg(long)]
    browser: bool,
}

fn main() -> Result {
    let Arguments { browser: uses_browser } = Arguments::parse();
    network::block_on(async move {
        let provider = provider()?;
        let token = log_in(&provider.url(), uses_browser).await?;
        say(format_args!("logged in; the token is {token}"));
        Ok(())
    })?
}

/// Returns a token from the provider.
async fn log_in(provider: &str, uses_browser: bool) -> Result<String> {
    let (state, verifier) = (random()?, random()?);
    let requests = Server::bind("http://127.0.0.1:0/")?;
    let back = requests.url();
    let url = format!(
        "{provider}authorize?response_type=code&client_id=example&redirect_uri={}&state={state}&code_challenge_method=S256&code_challenge={}",
        encode(&back),
        challenge(&verifier)
    );
    if uses_browser {
        gio::AppInfo::launch_default_for_uri(&url, gio::AppLaunchContext::NONE)
            .map_err(|error| Error::other(format!("cannot open a browser for {url}: {error}")))?;
    } else {
        network::spawn(async move { Client::shared().get(url).send_future().await?.error_for_status().map(drop) })?;
    }
    let code = network::timeout(Duration::from_secs(300), code(&requests, &state)).await??;
    drop(requests);
    let form =
        [("grant_type", "authorization_code"), ("code", &code), ("redirect_uri", &back), ("code_verifier", &verifier)];
    let response = Client::shared().post(format!("{provider}token")).form(form).send_future().await?;
    response.error_for_status()?.text_future().await
}

/// Waits for the browser to come back. Anybody may ask this server, so the state has to be the one that was sent.
async fn code(requests: &Requests, state: &str) -> Result<String> {
    loop {
        let visit = requests.next_future().await?;
        let (given, code, error) = ("state", "code", "error");
        let [given, code, error] = [given, code, error].map(|key| visit.request.query(key));
        match (code, error) {
            _ if given.as_deref() != Some(state) => visit.reply(Reply::status(404)),
            (Some(code), _) => {
                visit.reply(Reply::text("You are logged in, and may close this page."));
                return Ok(code);
            }
            (None, error) => {
                visit.reply(Reply::text("You are not logged in, and may close this page."));
                return Err(Error::other(format!("the provider says: {}", error.unwrap_or_default())));
            }
        }
    }
}

/// 256 random bits, in letters that URLs take.
fn random() -> Result<String> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(in_url(&bytes))
}

/// The hash that the provider compares the verifier with.
fn challenge(verifier: &str) -> String {
    let mut hash = glib::Checksum::new(glib::ChecksumType::Sha256).expect("GLib has SHA-256");
    hash.update(verifier.as_bytes());
    in_url(&hash.digest())
}

fn in_url(bytes: &[u8]) -> String {
    let text = glib::base64_encode(bytes);
    text.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

// ---- the provider ----

/// A provider that knows one code at a time: it is the challenge itself, so that nothing has to be kept.
fn provider() -> Result<Server> {
    Server::builder()
        .get("/authorize", |request| {
            let back = format!(
                "{}?state={}&code={}",
                request.query("redirect_uri").unwrap_or_default(),
                encode(&request.query("state").unwrap_or_default()),
                encode(&request.query("code_challenge").unwrap_or_default())
            );
            // A browser says what it would like to see.
            match request.header("accept") {
                Some(accept) if accept.contains("text/html") => Ok(Reply::html(format!(
                    "<a href=\"{}\">Log in</a>",
                    back.replace('&', "&amp;").replace('"', "&quot;")
                ))),
                _ => Ok(Reply::redirect(302, back)),
            }
        })
        .post("/token", token)
        .listen("http://127.0.0.1:0/")
}

async fn token(mut request: Request) -> Result<Reply> {
    let form = request.form_future().await?;
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value);
    Ok(match field("code") == challenge(field("code_verifier")) {
        true => Reply::text(format!("token-of-{}", field("grant_type"))),
        false => Reply::text("invalid_grant").with_status(400),
    })
}

/// Prints a line. Nobody reads any more: ends, as other filters do.
fn say(line: impl std::fmt::Display) {
    use std::io::Write;

    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(1);
    }
}
