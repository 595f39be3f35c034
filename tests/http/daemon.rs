//! A daemon with an HTTP server and a WebSocket server, for the tests: it is ended, reloaded, replaced and given sockets. No example.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use clap::Parser;
use network::daemon::Daemon;
use network::http::{Reply, Request, Routes, Server};
use network::{Error, Result, websocket};

#[derive(Parser)]
struct Args {
    /// Address of the HTTP server
    address: String,
    /// Address of a WebSocket server
    #[arg(long)]
    websocket: Option<String>,
    /// File with the answer, read again at SIGHUP
    #[arg(long)]
    answer: Option<PathBuf>,
    /// Hand over to a new process at SIGHUP
    #[arg(long)]
    renew: bool,
    /// Grace period in seconds
    #[arg(long, default_value_t = 0)]
    grace_period: u64,
    /// Threads of the HTTP server, 0 for the main loop
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

fn main() -> std::process::ExitCode {
    let outcome = serve(Args::parse()).map_err(complain);
    if outcome.is_ok() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

fn complain(error: Error) {
    eprintln!("web_daemon: {error}");
}

fn pid(_: &Request) -> Result<Reply> {
    Ok(Reply::text(std::process::id().to_string()))
}

fn serve(args: Args) -> Result {
    let daemon = Daemon::new();
    network::daemon::set_grace_period(Duration::from_secs(args.grace_period));
    let load = move || match &args.answer {
        Some(path) => std::fs::read_to_string(path).map_err(Error::from),
        None => Ok("none".into()),
    };
    let answer = Rc::new(RefCell::new(load()?));
    let loaded = answer.clone();
    network::daemon::on_reload(move || {
        let done = if args.renew { renew() } else { load().map(|new| *loaded.borrow_mut() = new) };
        done.unwrap_or_else(complain);
    })?;
    let single;
    let mut many = None;
    if args.threads > 0 {
        let routes = || Routes::new().get("/", pid).post("/slow", slow);
        let server = Server::builder().threads(args.threads, routes).listen(args.address.as_str())?;
        println!("http on port {}", server.port());
        many = Some(server);
    } else {
        let server = Server::builder()
            .get("/", pid)
            .get("/answer", move |_| Ok(Reply::text(&**answer.borrow())))
            .post("/slow", slow)
            .get("/live", |request| request.websocket(echo));
        single = server.listen(args.address.as_str())?;
        println!("http on port {}", single.port());
    }
    let sockets = args.websocket.map(|address| websocket::Server::new(address.as_str(), echo)).transpose()?;
    if let Some(sockets) = &sockets {
        println!("websocket on {}", sockets.url());
    }
    let outcome = daemon.run();
    if let Some(many) = many {
        many.close_within(Duration::from_secs(args.grace_period));
    }
    outcome
}

/// Comes to its end when the client has sent the body.
async fn slow(mut request: Request) -> Result<Reply> {
    Ok(Reply::text(request.text_future().await?))
}

fn echo(ws: websocket::WebSocket) -> Result {
    ws.send(format!("{}", std::process::id()))?;
    ws.read(|ws, message| ws.send(message));
    Ok(())
}

/// Starts this program again, with the same arguments, and hands over to it.
fn renew() -> Result {
    let mut command = std::env::args_os();
    network::daemon::hand_over_async(command.next().unwrap_or_default(), command, |result| {
        result.unwrap_or_else(complain);
    })
}
