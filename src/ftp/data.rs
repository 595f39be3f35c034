//! Data connections: opened in passive or active mode, always with the peer of the control connection, and secured as that is.

use std::net::IpAddr;

use super::manner::Manner;
use super::session::Session;
use super::words;
use crate::address::{Address, Endpoint};
use crate::conn::Socket;
use crate::error::ftp::Status;
use crate::error::{Error, Result};
use crate::server::handle::Server;
use crate::tls::StartTls;

/// A data connection that is agreed on.
enum Way {
    Open(Socket),
    /// The server is to connect to this.
    Awaited(Server, IpAddr),
}

/// The beginning of a transfer.
pub(super) struct Start<'a> {
    pub(super) name: &'a str,
    pub(super) argument: Option<&'a [u8]>,
    /// Where in the file to begin.
    pub(super) offset: u64,
}

impl Session {
    /// Starts a transfer. Returns its data connection, which [`Session::data`] holds as well. A refusal is
    /// [`Error::Ftp`], and ends nothing.
    pub(super) async fn start_transfer(&self, manner: Manner, start: Start<'_>) -> Result<Socket> {
        // Before anything is opened: an argument may be invalid.
        words::command(start.name, start.argument)?;
        self.is_aborted.set(false);
        let way = if self.settings.is_active {
            self.listen(manner).await?
        } else {
            Way::Open(self.connect_passively(manner).await?)
        };
        let guard = Unused(&way);
        if start.offset > 0 {
            self.command(manner, "REST", Some(start.offset.to_string().as_bytes())).await?;
        }
        self.write(start.name, start.argument)?;
        self.begin_transfer();
        let reply = self.reply(manner, self.settings.reply_timeout).await?;
        if !reply.is_preliminary() {
            self.transfer_ended();
            return Err(match self.accepted(reply) {
                Err(error) => error,
                Ok(reply) => self.invalid(format!("{} instead of the beginning of a transfer", reply.response)),
            });
        }
        std::mem::forget(guard);
        let opened = async {
            let data = match way {
                Way::Open(data) => data,
                Way::Awaited(server, peer) => manner.accept(&server, peer, self.settings.accept_timeout).await?,
            };
            self.data.replace(Some(data.clone()));
            self.protect_data(manner, &data).await?;
            Ok(data)
        };
        match opened.await {
            Ok(data) => Ok(data),
            Err(_) if self.is_aborted.get() => Err(self.aborted(manner).await?),
            Err(error) => {
                self.end_transfer(manner).await?;
                Err(error)
            }
        }
    }

    /// Starts TLS with the same peer under the same settings, so that the session of the control connection is resumed.
    async fn protect_data(&self, manner: Manner, data: &Socket) -> Result {
        let (Some(tls), Some(peer)) = (&self.settings.tls, &self.peer) else { return Ok(()) };
        manner.start_tls(data, StartTls::with(tls.clone(), peer.clone())).await?;
        let same = match (self.control.peer_fingerprint(), data.peer_fingerprint()) {
            (Some(control), Some(data)) => control == data,
            _ => true,
        };
        if same {
            return Ok(());
        }
        Err(Error::Tls {
            peer: self.peer_text(),
            problem: "the data connection has another certificate than the control connection".into(),
        })
    }

    /// Asks where to connect to, and connects: always to the host of the control connection.
    async fn connect_passively(&self, manner: Manner) -> Result<Socket> {
        let remote = self.control.remote();
        let port = self.passive_port(manner, &remote).await?;
        let port =
            words::allowed_port(port).ok_or_else(|| self.invalid(format!("port {port} for a data connection")))?;
        let address = match remote {
            Endpoint::Inet(mut peer) => {
                peer.set_port(port);
                Address::from(peer)
            }
            Endpoint::Proxied { host, .. } => Address::try_from((host, port))?,
            other => return Err(Error::Unsupported(format!("an FTP session over {other} has no data connections"))),
        };
        let builder = Socket::builder()
            .tls(false)
            .proxy(self.settings.proxy.clone())
            .connect_timeout(self.settings.connect_timeout);
        manner.connect(builder, address).await
    }

    async fn passive_port(&self, manner: Manner, remote: &Endpoint) -> Result<u16> {
        if !self.is_epsv_refused.get() {
            let reply = self.ask(manner, "EPSV", None).await?;
            match reply.status() {
                Status(229) => {
                    return words::extended_port(&reply.text)
                        .ok_or_else(|| self.invalid(format!("no port in {:?}", reply.response.message)));
                }
                Status(500..=502) if !is_v6(remote) => self.is_epsv_refused.set(true),
                _ => {
                    let reply = self.accepted(reply)?;
                    return Err(self.invalid(format!("{} instead of 229", reply.response)));
                }
            }
        }
        let reply = self.command(manner, "PASV", None).await?;
        match reply.status() {
            Status::ENTERING_PASSIVE_MODE => words::passive_port(&reply.text)
                .ok_or_else(|| self.invalid(format!("no port in {:?}", reply.response.message))),
            _ => Err(self.invalid(format!("{} instead of 227", reply.response))),
        }
    }

    /// Listens where the control connection is from, and tells the server.
    async fn listen(&self, manner: Manner) -> Result<Way> {
        let (Some(local), Endpoint::Inet(remote)) = (self.control.local().inet(), self.control.remote()) else {
            return Err(Error::Unsupported(format!(
                "active mode of FTP needs a direct connection to {}, not one through a proxy",
                self.address
            )));
        };
        let server = Server::builder().tls(false).bind((local.ip(), 0))?;
        let (name, argument) = words::active(local.ip(), server.port());
        self.command(manner, name, Some(argument.as_bytes())).await?;
        Ok(Way::Awaited(server, remote.ip()))
    }
}

fn is_v6(remote: &Endpoint) -> bool {
    matches!(remote, Endpoint::Inet(peer) if peer.is_ipv6())
}

/// A data connection that no transfer uses yet. Dropping it closes the connection at once.
struct Unused<'a>(&'a Way);

impl Drop for Unused<'_> {
    fn drop(&mut self) {
        if let Way::Open(data) = self.0 {
            data.abort();
        }
    }
}
