//! Opening one link, in both roles. What comes out is an encrypted connection to a device that shows the key it must show.
//!
//! ```text
//! hears a datagram: connects ── identity ──▶ accepts
//!                   TLS server ◀── TLS ──▶ TLS client        both show certificates
//!                   identity ◀─── inside ──▶ identity        from version 8 on; these count
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use network::socket::KeepAlive;
use network::tls::{self, Fingerprint};
use network::{ClientTls, ServerTls, Socket};

use crate::packet::{IDENTITY_LIMIT, Identity, LINE_LIMIT, Packet, VERSION};
use crate::place::Place;
use crate::store::Paired;

/// For the other side's first line, and for the one inside.
const IDENTITY_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: KeepAlive = KeepAlive { idle: Duration::from_secs(30), interval: Duration::from_secs(10), count: 3 };
/// A text that was sent into the void is not believed in for longer than this.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// A link that is open.
pub struct Opened {
    pub socket: Socket,
    pub identity: Identity,
    pub fingerprint: Fingerprint,
    /// This side has connected.
    pub is_ours: bool,
}

/// Why there is no link.
#[derive(Debug)]
pub enum Failure {
    /// Nobody answers: a firewall, or it has just gone.
    Unreachable(String),
    /// The device is paired, and this is not its key.
    OtherKey(Identity, Place),
    /// The other side does not keep to the protocol, or is not wanted.
    Refused(String),
}

impl From<network::Error> for Failure {
    fn from(error: network::Error) -> Failure {
        Failure::Refused(error.to_string())
    }
}

/// What opening needs to know of this side.
pub struct Us {
    pub identity: Identity,
    pub tls: tls::Identity,
    pub server: ServerTls,
}

impl Us {
    /// The settings of the TLS server: any certificate, since who it must be is decided in [`agree`], for both roles.
    pub fn server_tls(identity: &tls::Identity) -> network::Result<ServerTls> {
        ServerTls::from(identity.clone()).require_client_certificate().prepared()
    }
}

/// Connects to a device that was heard.
pub async fn connect(us: Us, heard: Identity, address: SocketAddr, paired: Option<Paired>) -> Result<Opened, Failure> {
    let builder = Socket::builder().tls(false).connect_timeout(CONNECT_TIMEOUT).line_limit(LINE_LIMIT);
    let socket = builder.keep_alive(KEEP_ALIVE).user_timeout(USER_TIMEOUT).connect_future(address).await;
    let socket = socket.map_err(|error| Failure::Unreachable(error.to_string()))?;
    let mut first = Identity { port: None, ..us.identity.clone() };
    if heard.version >= VERSION {
        first.target = Some((heard.id.clone(), heard.version));
    }
    socket.sendline(Packet::Identity(first).to_line())?;
    socket.start_tls_future(us.server.clone()).await?;
    agree(us, socket, heard, true, paired).await
}

/// Accepts whoever has connected. `paired` is asked when it has said who it is.
pub async fn accept(
    us: Us,
    socket: Socket,
    paired: impl FnOnce(&Identity) -> Result<Option<Paired>, &'static str>,
) -> Result<Opened, Failure> {
    socket.set_line_limit(IDENTITY_LIMIT);
    socket.set_keep_alive(KEEP_ALIVE)?;
    socket.set_user_timeout(USER_TIMEOUT)?;
    let identity = read_identity(&socket).await?;
    if identity.version >= VERSION
        && identity.target.as_ref().is_some_and(|target| *target != (us.identity.id.clone(), us.identity.version))
    {
        return Err(Failure::Refused("it looks for another device".into()));
    }
    let paired = paired(&identity).map_err(|why| Failure::Refused(why.into()))?;
    let tls = ClientTls::danger_accept_any().identity(us.tls.clone());
    socket.start_tls_future(tls).await?;
    socket.set_line_limit(LINE_LIMIT);
    agree(us, socket, identity, false, paired).await
}

/// Checks the key before the first byte is sent inside. Then, from version 8 on, both sides say once more who they are.
async fn agree(
    us: Us,
    socket: Socket,
    outside: Identity,
    is_ours: bool,
    paired: Option<Paired>,
) -> Result<Opened, Failure> {
    let fingerprint = socket.peer_fingerprint().ok_or_else(|| Failure::Refused("it shows no key".into()))?;
    if let Some(paired) = paired {
        if paired.fingerprint != fingerprint {
            let address = socket.remote().inet().map(Place::from);
            socket.abort();
            return Err(
                address.map_or(Failure::Refused("no address".into()), |place| Failure::OtherKey(outside, place))
            );
        }
        if outside.version < paired.version.min(VERSION) {
            return Err(Failure::Refused("it spoke a newer version before".into()));
        }
    }
    let mut identity = outside;
    if identity.version >= VERSION {
        socket.sendline(Packet::Identity(Identity { port: None, ..us.identity }).to_line())?;
        let inside = read_identity(&socket).await?;
        if inside.id != identity.id || inside.version != identity.version {
            return Err(Failure::Refused("it says to be two devices".into()));
        }
        identity = inside;
    }
    Ok(Opened { socket, identity, fingerprint, is_ours })
}

async fn read_identity(socket: &Socket) -> Result<Identity, Failure> {
    let line = network::timeout(IDENTITY_TIMEOUT, socket.recv_line_future()).await??;
    match Packet::parse(line.as_bytes()) {
        Ok(Packet::Identity(identity)) => Ok(identity),
        Ok(_) => Err(Failure::Refused("it does not say who it is".into())),
        Err(why) => Err(Failure::Refused(why.into())),
    }
}
