//! What is said to paired devices, and by them.

use network::tls::Fingerprint;

use crate::core::Core;
use crate::near::{Change, Line, What};
use crate::packet::{PAIRED_LINE_LIMIT, Packet};

impl Core {
    pub fn lines(&self, id: &str) -> Vec<Line> {
        self.peers.borrow().get(id).map(|peer| peer.lines.clone()).unwrap_or_default()
    }

    pub fn add_line(&self, id: &str, ours: bool, what: What) -> usize {
        let Ok(at) = glib::DateTime::now_local() else { return 0 };
        let index = self.with(id, |peer| {
            peer.lines.push(Line { at, ours, what });
            peer.lines.len() - 1
        });
        let index = index.unwrap_or_default();
        self.tell(Change::Line { device: id.into(), index });
        index
    }

    pub fn send_text(&self, id: &str, text: &str) -> Result<(), String> {
        self.must_be_secure(id)?;
        let is_link = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
        let (packet, what) = if is_link && !text.contains(char::is_whitespace) {
            (Packet::Link(text.into()), What::Link(text.into()))
        } else {
            (Packet::Text(text.into()), What::Text(text.into()))
        };
        if packet.to_line().len() >= PAIRED_LINE_LIMIT {
            return Err("The text is too long: send it as a file".into());
        }
        self.send(id, &packet)?;
        self.add_line(id, true, what);
        Ok(())
    }

    pub fn must_be_secure(&self, id: &str) -> Result<(), String> {
        let peers = self.peers.borrow();
        let peer = peers.get(id).ok_or("There is no such device")?;
        match peer.link().is_some() && self.is_paired(id) {
            true => Ok(()),
            false if self.is_paired(id) => Err(format!("{} is not here now", peer.identity.name)),
            false => Err(format!("{} is not paired", peer.identity.name)),
        }
    }

    pub fn send(&self, id: &str, packet: &Packet) -> Result<(), String> {
        let socket = self.peers.borrow().get(id).and_then(|peer| peer.link().map(|link| link.socket.clone()));
        let socket = socket.ok_or("There is no connection")?;
        socket.sendline(packet.to_line()).map_err(|error| error.to_string())
    }

    pub fn arrived(&self, id: &str, serial: u64, fingerprint: Fingerprint, packet: Packet) {
        let is_its = self.store.borrow().paired.get(id).is_some_and(|paired| paired.fingerprint == fingerprint);
        match packet {
            Packet::Pair(pair) if self.is_current(id, serial) => self.pair_arrived(id, pair),
            // What comes by an older link counts as well, if that one showed the same key.
            _ if !is_its => {}
            Packet::Text(text) => drop(self.add_line(id, false, What::Text(text))),
            Packet::Link(link) => drop(self.add_line(id, false, What::Link(link))),
            Packet::Ping(message) => drop(self.add_line(id, false, What::Ping(message))),
            Packet::File(file) => self.add_incoming(id, file),
            _ => {}
        }
    }
}
