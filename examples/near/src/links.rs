//! How the links of all devices come and go: accepted, opened, replaced, lost, and back again.

use std::time::{Duration, Instant};

use network::Socket;
use network::link::Backoff;

use crate::core::Core;
use crate::device::{Link, Peer, Phase};
use crate::link::{self, Failure, Opened};
use crate::near::Change;
use crate::packet::{Identity, LINE_LIMIT, PAIRED_LINE_LIMIT, Packet};
use crate::place::Place;

/// Connections that are accepted and no links yet.
const ACCEPTING: usize = 16;

/// Two links that are opened at the same time within this are two for one purpose.
const CROSSING: Duration = Duration::from_secs(2);

impl Core {
    pub fn accept(&self, socket: Socket) {
        let (me, us) = (self.me.clone(), self.us());
        let task = network::spawn(async move {
            let mut id = None;
            let known = |identity: &Identity| {
                let core = me.upgrade().ok_or("this device has ended")?;
                id = Some(identity.id.clone());
                core.admits(identity)?;
                Ok(core.store.borrow().paired.get(&identity.id).cloned())
            };
            let result = link::accept(us, socket, known).await;
            let Some(core) = me.upgrade() else { return Ok(()) };
            match (result, id) {
                // Whoever cannot open a link is not worth a row, but for a wrong key.
                (Err(Failure::Refused(why) | Failure::Unreachable(why)), id) => {
                    glib::g_debug!("near", "no link from {id:?}: {why}");
                }
                (_, None) => {}
                (result, Some(id)) => core.opened(&id, result),
            }
            Ok(())
        });
        // Whoever says nothing gives way to those who come later.
        let mut accepting = self.accepting.borrow_mut();
        accepting.retain(|task| !task.is_finished());
        accepting.extend(task);
        if accepting.len() > ACCEPTING
            && let Some(oldest) = accepting.pop_front()
        {
            oldest.abort();
        }
    }

    /// Whether to go on with a connection from a device that says to be this.
    fn admits(&self, identity: &Identity) -> Result<(), &'static str> {
        let own = self.store.borrow().id.clone();
        if identity.id == own || !self.has_room(&identity.id) {
            return Err("no room");
        }
        let peers = self.peers.borrow();
        let Some(peer) = peers.get(&identity.id) else { return Ok(()) };
        // When both connect at the same time, both keep the one that the smaller id has made.
        let crosses = match &peer.phase {
            Phase::Opening => true,
            Phase::Up(link) => link.is_ours && link.opened.elapsed() < CROSSING,
            _ => false,
        };
        match &peer.phase {
            _ if crosses && own < identity.id => Err("another connection is on its way"),
            Phase::Apart => Err("it is kept apart"),
            _ if peer.pairing.is_some() => Err("a pairing goes on"),
            _ => Ok(()),
        }
    }

    pub fn opened(&self, id: &str, result: Result<Opened, Failure>) {
        let opened = match result {
            Ok(opened) => opened,
            Err(failure) => return self.not_opened(id, failure),
        };
        let replaced = self.peers.borrow().get(id).is_some_and(|peer| {
            let crosses =
                peer.link().is_some_and(|link| link.is_ours != opened.is_ours && link.opened.elapsed() < CROSSING);
            peer.pairing.is_some() || crosses && opened.is_ours != (self.identity().id.as_str() < id)
        });
        if replaced || !self.has_room(id) {
            opened.socket.close();
            return;
        }
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        let (socket, is_paired) = (opened.socket, self.is_paired(id));
        socket.set_line_limit(if is_paired { PAIRED_LINE_LIMIT } else { LINE_LIMIT });
        let address = socket.remote().inet().map(Place::from);
        let (me, from, fingerprint) = (self.me.clone(), id.to_owned(), opened.fingerprint);
        socket.readlines_bytes(move |_, line| {
            if let (Some(core), Ok(packet)) = (me.upgrade(), Packet::parse(line)) {
                core.arrived(&from, serial, fingerprint, packet);
            }
            Ok(())
        });
        let (me, from) = (self.me.clone(), id.to_owned());
        socket.disconnect_cb(move |_, _| {
            if let Some(core) = me.upgrade() {
                core.lost(&from, serial);
            }
        });
        let link =
            Link { socket, fingerprint: opened.fingerprint, serial, opened: Instant::now(), is_ours: opened.is_ours };
        let mut peers = self.peers.borrow_mut();
        let peer = peers.entry(id.into()).or_insert_with(|| Peer::new(opened.identity.clone(), None, Phase::Opening));
        // Its port was in the datagram only.
        let port = opened.identity.port.or(peer.identity.port);
        (peer.identity, peer.address) = (Identity { port, ..opened.identity }, address);
        if let Phase::Up(older) = std::mem::replace(&mut peer.phase, Phase::Up(link)) {
            older.socket.close();
        }
        let wants_pairing = std::mem::take(&mut peer.wants_pairing);
        drop(peers);
        if is_paired {
            self.remember(id);
        }
        self.tell(Change::Devices);
        if wants_pairing {
            self.pair(id);
        }
    }

    /// Keeps where a paired device is, and what it is called by now.
    fn remember(&self, id: &str) {
        if let (Some(paired), Some(peer)) = (self.store.borrow_mut().paired.get_mut(id), self.peers.borrow().get(id)) {
            (paired.name, paired.kind) = (peer.identity.name.clone(), peer.identity.kind.clone());
            (paired.version, paired.address) = (peer.identity.version, peer.address);
        }
        self.save();
    }

    fn not_opened(&self, id: &str, failure: Failure) {
        let is_paired = self.is_paired(id);
        match failure {
            // Somebody else with its name does not disturb the link that is there.
            Failure::OtherKey(identity, address) => {
                let is_up = self.peers.borrow().get(id).is_some_and(|peer| peer.link().is_some());
                if !is_up {
                    let mut peers = self.peers.borrow_mut();
                    let peer =
                        peers.entry(id.into()).or_insert_with(|| Peer::new(identity.clone(), None, Phase::Opening));
                    (peer.identity, peer.address, peer.phase) = (identity, Some(address), Phase::OtherKey);
                }
            }
            Failure::Unreachable(ref why) | Failure::Refused(ref why) => {
                glib::g_debug!("near", "no link to {id}: {why}");
                let (is_unreachable, mut told) = (matches!(failure, Failure::Unreachable(_)), None);
                self.with(id, |peer| {
                    if matches!(peer.phase, Phase::Opening) {
                        peer.phase = Phase::Unreachable;
                        told = peer.address.filter(|_| is_unreachable);
                    }
                });
                if let (Some(address), Some(discovery)) = (told, self.discovery.get()) {
                    // The other direction may be open.
                    discovery.tell(&self.identity(), address);
                }
                if is_paired && self.peers.borrow().get(id).is_some_and(|peer| peer.link().is_none()) {
                    self.come_back(id, is_unreachable);
                }
            }
        }
        self.tell(Change::Devices);
    }

    /// Whether this is the link that the device has now, and not one that another has replaced.
    pub fn is_current(&self, id: &str, serial: u64) -> bool {
        self.peers.borrow().get(id).and_then(Peer::link).is_some_and(|link| link.serial == serial)
    }

    fn lost(&self, id: &str, serial: u64) {
        let is_ours = |peer: &Peer| peer.link().is_some_and(|link| link.is_ours);
        if !self.is_current(id, serial) {
            return;
        }
        if self.peers.borrow().get(id).is_some_and(|peer| peer.pairing.is_some()) {
            self.end_pairing(id, Err("The connection was lost".into()));
        }
        if self.is_paired(id) {
            self.with(id, |peer| peer.phase = Phase::Unreachable);
            self.come_back(id, false);
        } else if let Some(peer) = self.peers.borrow_mut().remove(id)
            && let (true, Some(place), Some(port)) = (is_ours(&peer), peer.address, peer.identity.port)
        {
            // Whoever hangs up each time is not connected to each time.
            self.rests.borrow_mut().failed(place.at(port), Instant::now());
        }
        self.tell(Change::Devices);
    }

    /// Announces this device to where a paired one was last, until it comes. `is_heard`: it could not be connected to.
    pub fn come_back(&self, id: &str, is_heard: bool) {
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        self.with(id, |peer| peer.phase = Phase::Away { serial, next: None, is_heard });
        let (me, id) = (self.me.clone(), id.to_owned());
        let _ = network::spawn(async move {
            for wait in Backoff::new(Duration::from_secs(1), Duration::from_secs(30)) {
                let Some(core) = me.upgrade() else { break };
                let due = Instant::now() + wait;
                let is_away = core.with(&id, |peer| match &mut peer.phase {
                    Phase::Away { serial: current, next, .. } if *current == serial => {
                        *next = Some(due);
                        true
                    }
                    _ => false,
                });
                if is_away != Some(true) {
                    break;
                }
                drop(core);
                network::sleep(wait).await;
                let Some(core) = me.upgrade() else { break };
                let address = core.peers.borrow().get(&id).and_then(|peer| match peer.phase {
                    Phase::Away { serial: current, .. } if current == serial => peer.address,
                    _ => None,
                });
                if let (Some(address), Some(discovery)) = (address, core.discovery.get()) {
                    discovery.tell(&core.identity(), address);
                }
            }
            Ok(())
        });
    }
}
