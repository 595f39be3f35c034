//! TLS beside bare rustls on a level-triggered epoll loop, and beside tokio-rustls. All have the same certificate. The bare
//! server reads what was decrypted into a buffer and answers the end mark, as any server does. The load is rustls clients that block.

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

use crate::Result;
use crate::load::{BACKLOG, MESSAGE};
use crate::process::{Kind, Served, announce};
use crate::report::{Goal, Row, Unit};
use crate::scenarios::{Bench, Samples};

/// Clients that shake hands at the same time.
const CLIENTS: usize = 16;
/// The server answers with one byte after so many. The tokio peer has the same number.
const BLOCK: usize = 16 << 20;
const CHUNK: usize = 64 << 10;
/// What begins with this is sent back. The tokio peer has the same.
const ECHOED: u8 = b'?';

// ---- the servers ----

pub fn ours(directory: &str) -> network::Result<network::Server> {
    let tls = network::ServerTls::named("bench").directory(directory);
    let builder = network::Server::builder().backlog(BACKLOG).disconnect_cb(|_, _| ());
    builder.tls(tls).address("127.0.0.1").listen(0, |socket| {
        let mut seen = 0;
        socket.read(move |socket, data| {
            if data[0] == ECHOED {
                return socket.send(data);
            }
            seen += data.len();
            if seen < BLOCK {
                return Ok(());
            }
            seen -= BLOCK;
            socket.send(b".")
        });
        Ok(())
    })
}

struct Peer {
    tcp: TcpStream,
    tls: ServerConnection,
    seen: usize,
}

pub fn bare(directory: &Path) -> Result<()> {
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
    rustix::net::listen(&listener, BACKLOG as i32)?;
    announce(listener.local_addr()?.port(), 0);
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
            let count = peer.tls.reader().read(&mut plain[..room])?;
            if plain[0] == ECHOED {
                peer.tls.writer().write_all(&plain[..count])?;
            }
            left -= count;
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

/// Full or resumed handshakes for one round, several at a time; how many.
fn hand_shakes(config: &Arc<ClientConfig>, port: u16, time: Duration) -> Result<u32> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| one_client(config, port, time).map_err(|error| error.to_string())))
            .collect();
        let mut count = 0;
        for client in clients {
            count += client.join().map_err(|_| "a client panicked")??;
        }
        Ok(count)
    })
}

fn one_client(config: &Arc<ClientConfig>, port: u16, time: Duration) -> Result<u32> {
    let end = Instant::now() + time;
    let mut count = 0;
    while Instant::now() < end {
        let mut stream = connect(config, port)?;
        // The tickets of TLS 1.3 come after the handshake, so before the server's end.
        stream.conn.send_close_notify();
        stream.conn.complete_io(&mut stream.sock)?;
        stream.sock.shutdown(std::net::Shutdown::Write)?;
        let _ = io::copy(&mut stream, &mut io::sink());
        count += 1;
    }
    Ok(count)
}

/// Bulk data for one round; how many blocks of 64 KiB.
fn bulk(stream: &mut Stream, time: Duration) -> Result<u32> {
    let chunk = vec![7; CHUNK];
    let end = Instant::now() + time;
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

/// Each sends a message, then all read what comes back; how many messages.
fn echoes(streams: &mut [Stream], time: Duration) -> Result<u32> {
    let end = Instant::now() + time;
    let mut message = [ECHOED; MESSAGE];
    let mut count = 0;
    while Instant::now() < end {
        for stream in &mut *streams {
            stream.write_all(&message)?;
        }
        for stream in &mut *streams {
            stream.read_exact(&mut message)?;
            count += 1;
        }
    }
    Ok(count)
}

// ---- the table ----

/// Starts the servers that are there; `load` makes what each is given to do.
fn sides_of<L>(directory: &str, load: impl Fn(&Served) -> Result<L>) -> Result<Vec<(Served, L)>> {
    let mut sides = Vec::new();
    for kind in [Kind::Raw, Kind::Network, Kind::Tokio] {
        if let Some(server) = Served::start(kind, &[], "tls", None, &[directory])? {
            let load = load(&server)?;
            sides.push((server, load));
        }
    }
    Ok(sides)
}

pub fn run(bench: &mut Bench) -> Result<()> {
    let directory = tempfile::tempdir()?;
    network::tls::Identity::named_in(directory.path(), "bench")?;
    let directory = directory.path().to_str().ok_or("a strange name")?;
    let goals = || [Goal::at_most(1.05), Goal::not_above(Kind::Tokio)];
    let time = 2 * bench.time;
    let full = client(false)?;
    for (name, config) in [("full", full.clone()), ("resumed", client(true)?)] {
        let mut sides = sides_of(directory, |_| Ok(()))?;
        let run = |server: &Served, (): &mut ()| Ok(f64::from(hand_shakes(&config, server.port(), time)?));
        let outcome = bench.measure(&mut sides, run)?;
        bench.add(outcome.row(format!("TLS: {name} handshake (raw: rustls)"), goals()));
    }
    let mut sides = sides_of(directory, |server| (0..CLIENTS).map(|_| connect(&full, server.port())).collect())?;
    let run = |_: &Served, streams: &mut Vec<Stream>| Ok(f64::from(echoes(streams, time)?));
    let outcome = bench.measure(&mut sides, run)?;
    bench.add(outcome.row(format!("TLS: echo, {CLIENTS} conn. (raw: rustls)"), goals()));
    let mut sides = sides_of(directory, |server| connect(&full, server.port()))?;
    let outcome = bench.measure(&mut sides, |_, stream| Ok(f64::from(bulk(stream, time)?)))?;
    bench.add(outcome.row("TLS: 64 KiB in (raw: rustls)", goals()));

    let idle = if bench.quick { 200 } else { 2000 };
    let mut resident = Samples::new();
    for (server, _) in sides_of(directory, |server| connect(&full, server.port()))? {
        let before = server.resident()?;
        let held: Result<Vec<Stream>> = (0..idle).map(|_| connect(&full, server.port())).collect();
        let held = held?;
        // Whoever is served next comes after them: by then they are all there.
        let _ = connect(&full, server.port())?;
        resident.insert(server.kind, vec![(server.resident()? - before) as f64 / idle as f64]);
        drop(held);
    }
    let limit = f64::from(9 << 10);
    bench.add(Row::new("TLS: resident per idle connection", Unit::Bytes, resident, [Goal::at_most(limit)]));
    Ok(())
}
