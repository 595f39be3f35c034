//! HTTP by hyper on tokio: a server, and two clients. `conn` is hyper's connection alone; `legacy` is the client of hyper-util, which has a
//! pool.

use std::convert::Infallible;
use std::io::{BufRead, Write};
use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::{Result, announce};

/// As the other clients have it.
const CONNECTIONS: usize = 16;
const GREETING: &[u8] = b"Hello, world!\n";

pub async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(listener.local_addr()?.port())?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(async move {
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            let answer = |_: Request<Incoming>| async {
                let answer = Response::builder().header("content-type", "text/plain; charset=utf-8");
                Ok::<_, Infallible>(answer.body(Full::new(Bytes::from_static(GREETING))).expect("valid fields"))
            };
            // A client that resets is none of the server's business.
            let _ = server.serve_connection(TokioIo::new(stream), hyper::service::service_fn(answer)).await;
        });
    }
}

/// Does one task for each line of standard input, `PATH COUNT [together]`, and prints the CPU time that took, in nanoseconds.
pub async fn client(kind: &str, url: &str) -> Result<()> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    for task in std::io::stdin().lock().lines() {
        let task = task?;
        let words: Vec<&str> = task.split(' ').collect();
        let uri: Uri = format!("{url}{}", words[0]).parse()?;
        let (count, many) = (words[1].parse::<usize>()?, if words.len() > 2 { CONNECTIONS } else { 1 });
        let mut connections = Vec::new();
        if kind == "conn" {
            for _ in 0..many {
                connections.push(connect(&uri).await?);
            }
        }
        let before = cpu();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..many {
            let (uri, share, client) = (uri.clone(), count / many, client.clone());
            match connections.pop() {
                Some(sender) => tasks.spawn_local(by_connection(sender, uri, share)),
                None => tasks.spawn_local(by_pool(client, uri, share)),
            };
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        println!("{}", cpu() - before);
        std::io::stdout().flush()?;
    }
    Ok(())
}

async fn connect(uri: &Uri) -> Result<SendRequest<Empty<Bytes>>> {
    let stream = TcpStream::connect(uri.authority().ok_or("no host")?.as_str()).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

async fn by_connection(mut sender: SendRequest<Empty<Bytes>>, uri: Uri, count: usize) -> Result<()> {
    for _ in 0..count {
        let request = Request::get(uri.path()).header("host", uri.authority().ok_or("no host")?.as_str());
        sender.ready().await?;
        take(sender.send_request(request.body(Empty::new())?).await?).await?;
    }
    Ok(())
}

async fn by_pool(client: Client<HttpConnector, Empty<Bytes>>, uri: Uri, count: usize) -> Result<()> {
    for _ in 0..count {
        take(client.get(uri.clone()).await?).await?;
    }
    Ok(())
}

/// Reads a body, and keeps nothing.
async fn take(response: Response<Incoming>) -> Result<()> {
    assert!(response.status().is_success(), "{}", response.status());
    let mut body = pin!(response.into_body());
    while let Some(frame) = body.frame().await {
        std::hint::black_box(frame?);
    }
    Ok(())
}

fn cpu() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}
