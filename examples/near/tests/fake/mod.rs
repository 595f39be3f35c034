//! A device that does what the test says, line by line, and blocks meanwhile.

#![allow(dead_code)]

use std::time::{Duration, Instant};

use network::tls::Identity;
use network::{Error, Server, ServerTls, Socket, UdpSocket};
use serde_json::{Value, json};

pub const LIMIT: Duration = Duration::from_secs(30);

pub struct Fake {
    pub id: String,
    pub tls: Identity,
    pub version: u64,
    /// The member `near` of the identity.
    pub near: bool,
}

/// A link of its, encrypted.
pub struct Talk {
    pub socket: Socket,
    /// The first line of the other side, if it has connected.
    pub first: Option<Value>,
    /// The one inside.
    pub inside: Option<Value>,
}

impl Fake {
    pub fn new(id: &str, version: u64) -> Fake {
        Fake { id: id.repeat(32)[..32].into(), tls: Identity::in_memory("fake").unwrap(), version, near: false }
    }

    pub fn identity(&self) -> Value {
        let mut body = json!({
            "deviceId": self.id, "deviceName": "fake", "deviceType": "phone", "protocolVersion": self.version,
            "incomingCapabilities": [], "outgoingCapabilities": [],
        });
        if self.near {
            body["near"] = json!(1);
        }
        json!({ "id": 1, "type": "kdeconnect.identity", "body": body })
    }

    /// Connects, as somebody who has heard the device does. An error is the device's refusal.
    pub fn connect(&self, address: &str) -> network::Result<Talk> {
        let talk = self.open(address)?;
        self.inside(talk)
    }

    /// The same, up to the end of the TLS handshake.
    pub fn open(&self, address: &str) -> network::Result<Talk> {
        let socket = Socket::builder().tls(false).timeout(LIMIT).connect(address)?;
        socket.sendline(self.identity().to_string())?;
        socket.start_tls(ServerTls::from(self.tls.clone()).require_client_certificate())?;
        Ok(Talk { socket, first: None, inside: None })
    }

    fn inside(&self, mut talk: Talk) -> network::Result<Talk> {
        if self.version >= 8 {
            talk.socket.sendline(self.identity().to_string())?;
            talk.inside = Some(serde_json::from_str(&talk.socket.recv_line()?).unwrap());
        }
        Ok(talk)
    }

    /// Is heard by the device, and waits until it connects.
    pub fn be_heard(&self, address: &str) -> network::Result<Talk> {
        self.await_call(address, LIMIT)
    }

    /// Announces itself every second: a datagram may be lost beside many others.
    pub fn be_heard_in_a_flood(&self, address: &str) -> network::Result<Talk> {
        self.await_call(address, Duration::from_secs(1))
    }

    fn await_call(&self, address: &str, every: Duration) -> network::Result<Talk> {
        let server = Server::builder().tls(false).timeout(LIMIT).bind(1717)?;
        server.set_accept_timeout(every);
        let mut identity = self.identity();
        identity["body"]["tcpPort"] = json!(1717);
        let (begun, voice) = (Instant::now(), UdpSocket::bind(0)?);
        let socket = loop {
            voice.send_to(identity.to_string() + "\n", address)?;
            match server.accept() {
                Err(Error::TimedOut { .. }) if begun.elapsed() < LIMIT => {}
                accepted => break accepted?,
            }
        };
        let first = serde_json::from_str(&socket.recv_line()?).ok();
        socket.start_tls(network::ClientTls::danger_accept_any().identity(self.tls.clone()))?;
        self.inside(Talk { socket, first, inside: None })
    }
}

impl Talk {
    pub fn send(&self, kind: &str, body: Value) {
        self.socket.sendline(json!({ "id": 1, "type": kind, "body": body }).to_string()).unwrap();
    }

    pub fn receive(&self) -> network::Result<Value> {
        self.socket.recv_line().map(|line| serde_json::from_str(&line).unwrap())
    }

    pub fn ask_to_pair(&self) {
        self.send("kdeconnect.pair", json!({ "pair": true, "timestamp": now() }));
    }

    /// Offers a file.
    pub fn offer(&self, name: &str, size: u64, port: u16) {
        let packet = json!({
            "id": "1", "type": "kdeconnect.share.request", "body": { "filename": name },
            "payloadSize": size, "payloadTransferInfo": { "port": port },
        });
        self.socket.sendline(packet.to_string()).unwrap();
    }
}

pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
