//! The party of `./dev autobahn`: an echo server for the suite's fuzzing client, and an echo client for its fuzzing server. No
//! example.

use network::websocket::{self, Code, WebSocket};
use network::{Error, Result, socket::Proxy};

const USAGE: &str = "autobahn server, or autobahn client ws://HOST:PORT";

/// The suite sends messages of 16 MiB.
const LIMIT: usize = 32 << 20;

fn serve() -> Result {
    let builder = websocket::Server::builder().message_limit(LIMIT).send_limit(2 * LIMIT);
    let server = builder.listen("ws://127.0.0.1:0/", |ws| {
        ws.read(|ws, message| ws.send(message));
        Ok(())
    })?;
    println!("{}", server.url());
    network::fgloop();
    Ok(())
}

async fn connect(url: String) -> Result<WebSocket> {
    let builder = WebSocket::builder().proxy(Proxy::none()).message_limit(LIMIT).send_limit(2 * LIMIT);
    builder.connect_future(url).await
}

/// Runs all cases of a fuzzing server, and has its report written.
async fn ask(url: &str) -> Result {
    let ws = connect(format!("{url}/getCaseCount")).await?;
    let count = ws.next_future().await.transpose()?.ok_or_else(|| Error::other("no number of cases"))?;
    let count = count.text().unwrap_or_default().parse::<u32>().map_err(Error::other)?;
    for case in 1..=count {
        let ws = connect(format!("{url}/runCase?case={case}&agent=network")).await?;
        // Most cases end by an error that is on purpose.
        while let Some(Ok(message)) = ws.next_future().await {
            if ws.send(message).is_err() {
                break;
            }
        }
        let _ = ws.close(Code::NORMAL, "");
    }
    let ws = connect(format!("{url}/updateReports?agent=network")).await?;
    let _ = ws.next_future().await;
    Ok(())
}

fn main() -> Result {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["server"] => serve(),
        ["client", url] => glib::MainContext::default().block_on(ask(url)),
        _ => Err(Error::other(USAGE)),
    }
}
