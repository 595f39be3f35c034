//! The servers of the benches on tokio, with its current-thread runtime: `tokio-peer TASK ADDRESS [DIRECTORY]`.
//! The address is `tcp` or the path of a unix socket; with a directory, TLS with the certificate in it.
//!
//! `tokio-peer client KIND URL` is a client of HTTP instead: see `http.rs`.
//!
//! Written as tokio is at its best: data is read when the socket is ready, into one buffer for all connections, so an idle
//! one holds none; lines come from a `BufReader`, and replies are gathered as long as whole lines are in it.

mod http;
mod websocket;

use std::cell::RefCell;
use std::hint::black_box;
use std::io::{self, Write};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

// As in benches/suite/load.rs.
const BLOCK: u64 = 8_192_000;
/// What begins with this is sent back.
const TLS_ECHOED: u8 = b'?';
const TLS_BLOCK: u64 = 16 << 20;
const CHUNK: usize = 64 << 10;
const REPLY: &[u8] = b"ok\n";

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let set = tokio::task::LocalSet::new();
    let task = &*arguments[0].clone().leak();
    match &arguments[1..] {
        [kind, url] if task == "client" => set.block_on(&runtime, http::client(kind, url)),
        [_] if task == "http" => set.block_on(&runtime, http::serve()),
        [_] if task == "websocket" => set.block_on(&runtime, websocket::serve()),
        [_] if task.starts_with("udp") => set.block_on(&runtime, udp(task)),
        [address] if address == "tcp" => set.block_on(&runtime, tcp(task)),
        [address] => set.block_on(&runtime, unix(task, address)),
        [_, directory] => set.block_on(&runtime, tls(Path::new(directory))),
        _ => Err("TASK ADDRESS [DIRECTORY]".into()),
    }
}

fn announce(port: u16) -> Result<()> {
    println!("{port} {}", std::process::id());
    Ok(io::stdout().flush()?)
}

async fn tcp(task: &'static str) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(listener.local_addr()?.port())?;
    let buffer = Rc::new(RefCell::new(vec![0; CHUNK]));
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::task::spawn_local(serve(task, stream, buffer.clone()));
    }
}

async fn unix(task: &'static str, path: &str) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    announce(0)?;
    let buffer = Rc::new(RefCell::new(vec![0; CHUNK]));
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::task::spawn_local(serve(task, stream, buffer.clone()));
    }
}

async fn udp(task: &str) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    announce(socket.local_addr()?.port())?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let (count, from) = socket.recv_from(&mut buffer).await?;
        if task == "udp" || buffer[0] == b'?' {
            socket.send_to(&buffer[..count], from).await?;
        }
    }
}

async fn tls(directory: &Path) -> Result<()> {
    let certificate = CertificateDer::from_pem_file(directory.join("certs/bench.pem"))?;
    let key = PrivateKeyDer::from_pem_file(directory.join("private/bench.key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    announce(listener.local_addr()?.port())?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        tokio::task::spawn_local(async move {
            let mut stream = acceptor.accept(stream).await?;
            // An idle connection has no buffer here.
            let mut seen = 0;
            let mut buffer = Vec::new();
            loop {
                buffer.reserve(CHUNK);
                let count = stream.read_buf(&mut buffer).await?;
                if count == 0 {
                    return stream.shutdown().await;
                }
                if buffer[0] == TLS_ECHOED {
                    stream.write_all(&buffer).await?;
                    stream.flush().await?;
                }
                buffer.clear();
                seen += count as u64;
                if seen >= TLS_BLOCK {
                    seen -= TLS_BLOCK;
                    stream.write_all(b".").await?;
                    // Without this it may wait in the session, when tokio wants the task to give way.
                    stream.flush().await?;
                }
            }
        });
    }
}

/// What TCP and unix sockets share beyond reading and writing.
trait Ready: AsyncRead + AsyncWrite + Unpin {
    async fn ready(&self) -> io::Result<()>;
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;
    fn submit(&self, data: &[u8]) -> io::Result<usize>;
}

macro_rules! ready {
    ($stream:ty) => {
        impl Ready for $stream {
            async fn ready(&self) -> io::Result<()> {
                self.readable().await
            }
            fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
                self.try_read(buffer)
            }
            fn submit(&self, data: &[u8]) -> io::Result<usize> {
                self.try_write(data)
            }
        }
    };
}
ready!(TcpStream);
ready!(UnixStream);

async fn serve(task: &str, stream: impl Ready, buffer: Rc<RefCell<Vec<u8>>>) -> io::Result<()> {
    match task {
        "text" | "lines" | "replies" | "own-replies" => lines(task, stream).await,
        _ => data(task, stream, &buffer).await,
    }
}

async fn data(task: &str, mut stream: impl Ready, shared: &RefCell<Vec<u8>>) -> io::Result<()> {
    let mut seen = 0;
    let chunk = if task == "out" { vec![b'x'; CHUNK] } else { Vec::new() };
    loop {
        stream.ready().await?;
        let rest = {
            let mut buffer = shared.borrow_mut();
            let count = match stream.receive(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            match task {
                "echo" => {
                    let sent = match stream.submit(&buffer[..count]) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                        sent => sent?,
                    };
                    buffer[sent..count].to_vec()
                }
                "in" if passes(&mut seen, count) => b".".to_vec(),
                _ => Vec::new(),
            }
        };
        if !rest.is_empty() {
            stream.write_all(&rest).await?;
        }
        if task == "out" {
            for _ in 0..BLOCK / CHUNK as u64 {
                stream.write_all(&chunk).await?;
            }
        }
    }
}

async fn lines(task: &str, stream: impl Ready) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(stream);
    let mut reader = BufReader::with_capacity(CHUNK, reader);
    let mut writer = BufWriter::new(writer);
    let (mut text, mut bytes, mut seen) = (String::new(), Vec::new(), 0);
    loop {
        let count = match task {
            "lines" => {
                bytes.clear();
                reader.read_until(b'\n', &mut bytes).await?
            }
            // As `AsyncBufReadExt::lines` does.
            "own-replies" => {
                text = String::new();
                reader.read_line(&mut text).await?
            }
            _ => {
                text.clear();
                reader.read_line(&mut text).await?
            }
        };
        if count == 0 {
            return Ok(());
        }
        black_box((&text, &bytes));
        if task.ends_with("replies") {
            writer.write_all(REPLY).await?;
            if memchr::memchr(b'\n', reader.buffer()).is_none() {
                writer.flush().await?;
            }
        } else if passes(&mut seen, count) {
            writer.write_all(b".").await?;
            writer.flush().await?;
        }
    }
}

/// Counts on; true when another block is full.
fn passes(seen: &mut u64, more: usize) -> bool {
    let before = *seen / BLOCK;
    *seen += more as u64;
    *seen / BLOCK > before
}
