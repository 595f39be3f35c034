//! Server CPU of TLS beside bare rustls on a level-triggered epoll loop, and memory of idle connections.
//!
//! `cargo bench --bench tls` prints the table. The load comes from this process by blocking rustls clients; each server is
//! a process of its own on another CPU, with the same certificate. The bare one reads what was decrypted into a buffer and
//! answers the end mark, as any server does. Rounds alternate; ratios are of their medians.

#![allow(unsafe_code)]

mod support;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme};

use support::{Result, Served, announce, median, pin, raise_limits};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(300);
const IDLE: usize = 2000;
/// Clients that shake hands at the same time.
const CLIENTS: usize = 16;
/// The server answers with one byte after so many.
const BLOCK: usize = 16 << 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    raise_limits();
    match arguments[..] {
        ["serve", "bare", directory] => bare(Path::new(directory)),
        ["serve", "ours", directory] => ours(directory),
        ["--bench"] => table(),
        _ => {
            println!("to run this: cargo bench --bench tls");
            Ok(())
        }
    }
}

// ---- the servers ----

fn ours(directory: &str) -> Result<()> {
    pin(false);
    let tls = network::ServerTls::named("bench").directory(directory);
    let server = network::Server::builder().tls(tls).address("127.0.0.1").listen(0, |socket| {
        let mut seen = 0;
        socket.read(move |socket, data| {
            seen += data.len();
            if seen < BLOCK {
                return Ok(());
            }
            seen -= BLOCK;
            socket.send(b".")
        });
        Ok(())
    })?;
    announce(server.port());
    glib::MainLoop::new(None, false).run();
    Ok(())
}

struct Peer {
    tcp: TcpStream,
    tls: ServerConnection,
    seen: usize,
}

fn bare(directory: &Path) -> Result<()> {
    pin(false);
    let certificate = CertificateDer::from_pem_file(directory.join("certs/bench.pem"))?;
    let key = PrivateKeyDer::from_pem_file(directory.join("private/bench.key"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    announce(listener.local_addr()?.port());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(listener.as_raw_fd() as u64), EventFlags::IN)?;
    let mut peers: HashMap<u64, Peer> = HashMap::new();
    let mut buffer = vec![0; 64 << 10];
    let mut plain = vec![0; 64 << 10];
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            let id = { event.data }.u64();
            if id == listener.as_raw_fd() as u64 {
                let Ok((tcp, _)) = listener.accept() else { continue };
                tcp.set_nonblocking(true)?;
                tcp.set_nodelay(true)?;
                let id = tcp.as_raw_fd() as u64;
                epoll::add(&epoll, &tcp, EventData::new_u64(id), EventFlags::IN)?;
                let mut tls = ServerConnection::new(config.clone())?;
                tls.set_buffer_limit(Some(64 << 10));
                peers.insert(id, Peer { tcp, tls, seen: 0 });
            } else if peers.get_mut(&id).is_some_and(|peer| serve(peer, &mut buffer, &mut plain).is_err()) {
                peers.remove(&id);
            }
        }
    }
}

/// An error when the peer is done with.
fn serve(peer: &mut Peer, buffer: &mut [u8], plain: &mut [u8]) -> io::Result<()> {
    let count = peer.tcp.read(buffer)?;
    let mut cipher = &buffer[..count];
    while !cipher.is_empty() {
        peer.tls.read_tls(&mut cipher)?;
        let state = peer.tls.process_new_packets().map_err(io::Error::other)?;
        let mut left = state.plaintext_bytes_to_read();
        peer.seen += left;
        while left > 0 {
            let room = left.min(plain.len());
            left -= peer.tls.reader().read(&mut plain[..room])?;
        }
    }
    if peer.seen >= BLOCK {
        peer.seen -= BLOCK;
        peer.tls.writer().write_all(b".")?;
    }
    while peer.tls.wants_write() {
        peer.tls.write_tls(&mut peer.tcp)?;
    }
    if count == 0 {
        // As TLS asks of whoever closes.
        peer.tls.send_close_notify();
        peer.tls.write_tls(&mut peer.tcp)?;
    }
    if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

// ---- the load ----

/// Believes everything: what is measured is the server.
#[derive(Debug)]
struct Believe;

impl ServerCertVerifier for Believe {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

fn client(resume: bool) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Believe))
        .with_no_client_auth();
    if !resume {
        config.resumption = Resumption::disabled();
    }
    Ok(Arc::new(config))
}

type Stream = rustls::StreamOwned<ClientConnection, TcpStream>;

fn connect(config: &Arc<ClientConfig>, port: u16) -> Result<Stream> {
    let tcp = TcpStream::connect(("127.0.0.1", port))?;
    tcp.set_nodelay(true)?;
    let tls = ClientConnection::new(config.clone(), ServerName::try_from("bench")?)?;
    let mut stream = Stream::new(tls, tcp);
    stream.conn.complete_io(&mut stream.sock)?;
    Ok(stream)
}

/// Full or resumed hand-shakes for one round, several at a time; how many.
fn hand_shakes(config: &Arc<ClientConfig>, port: u16) -> Result<u32> {
    std::thread::scope(|scope| {
        let clients: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| one_client(config, port).map_err(|error| error.to_string()))).collect();
        let mut count = 0;
        for client in clients {
            count += client.join().map_err(|_| "a client panicked")??;
        }
        Ok(count)
    })
}

fn one_client(config: &Arc<ClientConfig>, port: u16) -> Result<u32> {
    let end = Instant::now() + ROUND;
    let mut count = 0;
    while Instant::now() < end {
        let mut stream = connect(config, port)?;
        // The tickets of TLS 1.3 come after the hand-shake, so before the server's end.
        stream.conn.send_close_notify();
        stream.conn.complete_io(&mut stream.sock)?;
        stream.sock.shutdown(std::net::Shutdown::Write)?;
        let _ = io::copy(&mut stream, &mut io::sink());
        count += 1;
    }
    Ok(count)
}

/// Bulk data for one round; how many blocks of 64 KiB.
fn bulk(stream: &mut Stream) -> Result<u32> {
    let chunk = vec![7; 64 << 10];
    let end = Instant::now() + ROUND;
    let mut count = 0;
    while Instant::now() < end {
        for _ in 0..BLOCK / chunk.len() {
            stream.write_all(&chunk)?;
            count += 1;
        }
        stream.read_exact(&mut [0])?;
    }
    Ok(count)
}

// ---- the table ----

fn table() -> Result<()> {
    pin(true);
    let directory = std::env::temp_dir().join(format!("network-bench-{}", std::process::id()));
    network::Identity::named_in(&directory, "bench")?;
    let text = directory.to_str().ok_or("a strange name")?;
    let servers = [Served::start(&[], &["serve", "bare", text])?, Served::start(&[], &["serve", "ours", text])?];

    println!("Server CPU in µs per operation, medians of {ROUNDS} rounds\n");
    println!("| {:<20} | {:>12} | {:>9} | ratio | spread      |", "", "bare rustls", "network");
    println!("|{:-<22}|{:->13}:|{:->10}:|------:|-------------|", "", "", "");
    let (full, resumed) = (client(false)?, client(true)?);
    row("full hand-shake", &servers, |server| hand_shakes(&full, server.port))?;
    row("resumed hand-shake", &servers, |server| hand_shakes(&resumed, server.port))?;
    let mut streams = HashMap::new();
    for server in &servers {
        streams.insert(server.port, connect(&full, server.port)?);
    }
    row("64 KiB in", &servers, |server| bulk(streams.get_mut(&server.port).ok_or("no stream")?))?;
    drop(streams);

    println!("\nResident bytes of the server per idle connection, {IDLE} connections");
    for (name, server) in ["bare rustls", "network"].iter().zip(&servers) {
        let before = server.resident()?;
        let idle: Result<Vec<Stream>> = (0..IDLE).map(|_| connect(&full, server.port)).collect();
        let idle = idle?;
        // Whoever is served next comes after them: by then they are all there.
        let _ = connect(&full, server.port)?;
        println!("{name}: {}", (server.resident()? - before) / IDLE as u64);
        drop(idle);
    }
    drop(servers);
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

fn row(name: &str, servers: &[Served; 2], mut round: impl FnMut(&Served) -> Result<u32>) -> Result<()> {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..=ROUNDS {
        for (server, times) in servers.iter().zip(&mut times) {
            let before = server.cpu();
            let count = round(server)?;
            times.push((server.cpu() - before).as_secs_f64() * 1e6 / f64::from(count));
        }
    }
    // The first round is for warming up.
    let [bare, ours] = times.map(|times| times[1..].to_vec());
    let mut ratios: Vec<f64> = bare.iter().zip(&ours).map(|(bare, ours)| ours / bare).collect();
    ratios.sort_by(f64::total_cmp);
    println!(
        "| {name:<20} | {:>12.1} | {:>9.1} | {:>5.2} | {:.2} – {:.2} |",
        median(&bare),
        median(&ours),
        ratios[ratios.len() / 2],
        ratios[0],
        ratios[ratios.len() - 1]
    );
    Ok(())
}
