//! Connecting to the server of a URL.

use std::net::IpAddr;
use std::rc::Rc;

use super::handle::Settings;
use super::url::{Origin, Url};
use crate::address::Address;
use crate::conn::Socket;
use crate::engine::{Engine, FarEnd};
use crate::error::{Error, Result};
use crate::socket::SocketBuilder;
use crate::tls::{ClientTls, Tls};

/// The only protocol that is spoken here.
const ALPN: [&str; 1] = ["http/1.1"];

/// Connects to a server. If the call blocks, the server must not be one of this thread.
pub(super) async fn connect(settings: &Settings, origin: &Origin, blocks: bool) -> Result<Socket> {
    let tls = origin.is_tls.then(|| settings.tls.clone().alpn(ALPN));
    let builder = Socket::builder().proxy(settings.proxy.clone()).connect_timeout(settings.connect_timeout);
    let socket = match &settings.connect_to {
        Some(address) => connect_to(builder, address.clone(), tls.map(|tls| named(tls, origin)), blocks).await?,
        // No proxy leads to this machine, and whether the server is one of this thread is to be known before the handshake.
        None if blocks && origin.is_loopback() => {
            connect_to(builder, Address::parse(&origin.address("tcp"))?, tls, blocks).await?
        }
        None => {
            let secure = tls.map_or(Tls::Off, Tls::On);
            builder.tls(secure).connect_future(origin.address(origin.scheme()).as_str()).await?
        }
    };
    check_thread(&socket, blocks)?;
    if settings.deny_private {
        check_address(origin, &socket)?;
    }
    Ok(socket)
}

/// Connects in plaintext, and starts TLS then.
async fn connect_to(builder: SocketBuilder, address: Address, tls: Option<ClientTls>, blocks: bool) -> Result<Socket> {
    let socket = builder.tls(false).connect_future(address).await?;
    check_thread(&socket, blocks)?;
    if let Some(tls) = tls {
        socket.start_tls_future(tls).await?;
    }
    Ok(socket)
}

/// Wherever it is connected to, the certificate is that of the host in the URL.
fn named(tls: ClientTls, origin: &Origin) -> ClientTls {
    if tls.has_server_name() { tls } else { tls.server_name(origin.host_name()) }
}

fn check_thread(socket: &Socket, blocks: bool) -> Result {
    let is_here =
        blocks && socket.conn().transport().socket_fd().is_some_and(|fd| Engine::far_end_here(fd) != FarEnd::Elsewhere);
    if !is_here {
        return Ok(());
    }
    let peer = socket.remote();
    drop(socket.abort());
    Err(Error::Unsupported(format!(
        "cannot wait for {peer}: the server runs on this thread, which a blocking call would block; use the call that ends in \
         _async or _future"
    )))
}

/// Names the URL in an error of connecting, where that names the address that was made of it. Without the query: that may be
/// secret, and has nothing to do with the connection.
pub(super) fn naming(error: Error, origin: &Origin, url: &Url) -> Error {
    let own = ["tcp", origin.scheme()].map(|scheme| origin.address(scheme));
    let name = || format!("{origin}{}", url.path());
    match error {
        // The options of sockets, which it tells about, are not those of requests.
        Error::Plaintext { .. } => Error::Plaintext { peer: name(), problem: NO_TLS },
        error => error.with_address(|address| {
            if own.contains(address) {
                *address = name();
            }
        }),
    }
}

/// The problem with a server in plaintext.
const NO_TLS: &str = "does not speak TLS; for a server without TLS, write http:// in place of https://";

/// Refuses addresses that the public internet does not lead to.
fn check_address(origin: &Origin, socket: &Socket) -> Result {
    let remote = socket.remote();
    let problem = match remote.inet() {
        Some(address) if is_private(address.ip()) => "it leads to a private address, and deny_private(true) is set",
        Some(_) => return Ok(()),
        None => "the address that it leads to is not known, and deny_private(true) is set",
    };
    drop(socket.abort());
    Err(Error::Address { address: origin.to_string(), problem: problem.into() })
}

fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [one, two, ..] = ip.octets();
            ip.is_loopback()
                || ip.is_private()
                || ip.is_link_local()
                || ip.is_multicast()
                || one == 0
                || one >= 240
                // Shared by the customers of a provider (RFC 6598), and for measurements (RFC 2544).
                || one == 100 && two & 0xc0 == 64
                || one == 198 && two & 0xfe == 18
        }
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.is_unspecified() || ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_multicast()
                // Of NAT64 (RFC 6052), which may lead to any IPv4 address.
                || ip.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0]
        }
    }
}

/// Returns the pool's engine if it is the one of this context.
pub(super) fn is_here(engine: &Rc<Engine>) -> Result {
    let here = Engine::current()?;
    if Rc::ptr_eq(&here, engine) {
        return Ok(());
    }
    Err(Error::Unsupported(
        "the response belongs to another main context: read what send() returned by blocking calls, and what send_future() and \
         send_async() returned by futures or callbacks"
            .into(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known() {
        for (ip, private) in [
            ("127.0.0.1", true),
            ("10.1.2.3", true),
            ("172.31.0.1", true),
            ("172.32.0.1", false),
            ("192.168.0.1", true),
            ("169.254.169.254", true),
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("0.0.0.0", true),
            ("255.255.255.255", true),
            ("93.184.216.34", false),
            ("::1", true),
            ("fd00::1", true),
            ("fe80::1", true),
            ("::ffff:10.0.0.1", true),
            ("64:ff9b::a00:1", true),
            ("2606:2800:220:1::1", false),
        ] {
            assert_eq!(is_private(ip.parse().unwrap()), private, "{ip}");
        }
    }
}
