//! One device and its state; and what is done when one is heard, or the network changes.

use std::time::{Duration, Instant};

use network::tls::{self, Fingerprint};
use network::{Server, Socket, UdpSocket};

use crate::core::Core;
use crate::discovery::{Discovery, Listener};
use crate::link;
use crate::near::{Change, Line, State};
use crate::packet::Identity;
use crate::pairing::{Ends, Pairing};
use crate::place::Place;
use crate::rests::Verdict;

/// Devices in the list; links with devices that are not paired, or on their way.
const LISTED: usize = 64;
const STRANGERS: usize = 8;

pub(crate) struct Peer {
    pub identity: Identity,
    pub address: Option<Place>,
    pub phase: Phase,
    pub pairing: Option<Pairing>,
    /// The person wants to pair as soon as there is a link.
    pub wants_pairing: bool,
    pub lines: Vec<Line>,
}

pub(crate) enum Phase {
    /// This side connects.
    Opening,
    Up(Link),
    /// Paired, and not here, though it may be heard. The number tells one absence from the next.
    Away {
        serial: u64,
        next: Option<Instant>,
        is_heard: bool,
    },
    Unreachable,
    OtherKey,
    /// It has shown another key, and the person wants nothing of it.
    Apart,
}

pub(crate) struct Link {
    pub socket: Socket,
    pub fingerprint: Fingerprint,
    pub serial: u64,
    pub opened: Instant,
    pub is_ours: bool,
}

impl Peer {
    pub fn new(identity: Identity, address: Option<Place>, phase: Phase) -> Peer {
        Peer { identity, address, phase, pairing: None, wants_pairing: false, lines: Vec::new() }
    }

    pub fn link(&self) -> Option<&Link> {
        if let Phase::Up(link) = &self.phase { Some(link) } else { None }
    }

    pub fn state(&self, is_paired: bool) -> State {
        match (&self.phase, &self.pairing) {
            (Phase::OtherKey, _) => State::OtherKey,
            (Phase::Up(_), Some(pairing)) => State::Pairing(pairing.state(Instant::now())),
            (Phase::Up(_), None) if is_paired => State::Secure,
            (Phase::Up(_), None) => State::NotPaired,
            (Phase::Opening, _) => State::Connecting,
            (Phase::Away { is_heard: true, .. }, _) => State::Unreachable,
            (Phase::Away { next, .. }, _) => {
                State::Gone { next_try: next.map(|next| next.saturating_duration_since(Instant::now())) }
            }
            (Phase::Unreachable, _) => State::Unreachable,
            (Phase::Apart, _) => State::Gone { next_try: None },
        }
    }

    /// What both sides know of the link.
    pub fn ends(&self, tls: &tls::Identity) -> Option<Ends> {
        let link = self.link()?;
        let their_key = link.socket.peer_public_key()?;
        let (ours, our_key, version) = (tls.fingerprint(), tls.public_key(), self.identity.version);
        Some(Ends { ours, theirs: link.fingerprint, our_key, their_key, version })
    }
}

impl Listener for Core {
    fn own(&self) -> Identity {
        self.identity()
    }

    fn knows(&self, id: &str) -> bool {
        self.is_paired(id)
    }

    fn avahi(&self, is_there: bool) {
        self.avahi.set(is_there);
        self.tell(Change::Network);
    }

    /// Connects to whoever was heard, unless there is a link.
    fn heard(&self, identity: Identity, address: Place) {
        let (id, Some(port)) = (identity.id.clone(), identity.port) else { return };
        let paired = self.store.borrow().paired.get(&id).cloned();
        if paired.as_ref().is_some_and(|paired| identity.version < paired.version.min(crate::packet::VERSION)) {
            return;
        }
        if let Some(peer) = self.peers.borrow().get(&id) {
            match &peer.phase {
                Phase::Opening | Phase::Apart | Phase::OtherKey => return,
                // It may have been away without a word. Then its kernel says so, and it is heard again.
                Phase::Up(link) if peer.address == Some(address) || peer.pairing.is_some() || paired.is_none() => {
                    let _ = link.socket.probe();
                    return;
                }
                _ => {}
            }
        }
        let endpoint = address.at(port);
        if paired.is_none() {
            let verdict = self.rests.borrow_mut().heard(endpoint, Instant::now());
            match verdict {
                Verdict::Connect => {}
                Verdict::Later(wait) => return self.hear_later(identity, address, wait),
                Verdict::Ignore => return,
            }
        }
        if !self.has_room(&id) {
            return self.rests.borrow_mut().end(endpoint, Instant::now());
        }
        {
            let mut peers = self.peers.borrow_mut();
            // Of several that could not be reached at one endpoint, the last one is listed.
            peers.retain(|known, peer| {
                let is_there = (peer.address, peer.identity.port) == (Some(address), Some(port));
                *known == id || !is_there || !matches!(peer.phase, Phase::Unreachable) || self.is_paired(known)
            });
            let peer = peers.entry(id.clone()).or_insert_with(|| Peer::new(identity.clone(), None, Phase::Opening));
            if peer.link().is_none() {
                (peer.identity, peer.address, peer.phase) = (identity.clone(), Some(address), Phase::Opening);
            }
        }
        self.tell(Change::Devices);
        let (me, us) = (self.me.clone(), self.us());
        let _ = network::spawn(async move {
            let result = link::connect(us, identity, endpoint, paired).await;
            if let Some(core) = me.upgrade() {
                match result {
                    Ok(_) => core.rests.borrow_mut().end(endpoint, Instant::now()),
                    Err(_) => core.rests.borrow_mut().failed(endpoint, Instant::now()),
                }
                core.opened(&id, result);
            }
            Ok(())
        });
    }

    /// Links whose own address is gone are dead. The others are asked.
    fn network_changed(&self) {
        self.tell(Change::Network);
        self.rests.borrow_mut().clear();
        let links: Vec<Socket> =
            self.peers.borrow().values().filter_map(|peer| Some(peer.link()?.socket.clone())).collect();
        for socket in links {
            let has_address =
                socket.local().inet().is_none_or(|local| UdpSocket::bind(Place::from(local).at(0)).is_ok());
            if has_address { drop(socket.probe()) } else { drop(socket.abort()) }
        }
        self.search_again();
    }
}

impl Core {
    fn hear_later(&self, identity: Identity, address: Place, wait: Duration) {
        let me = self.me.clone();
        let _ = network::spawn(async move {
            network::sleep(wait).await;
            if let Some(core) = me.upgrade() {
                core.heard(identity, address);
            }
            Ok(())
        });
    }

    pub fn start(&self) -> network::Result {
        let me = self.me.clone();
        let server = Server::builder().tls(false).listen(self.options.port, move |socket| {
            if let Some(core) = me.upgrade() {
                core.accept(socket);
            }
            Ok(())
        })?;
        let _ = self.server.set(server);
        let Some(me) = self.me.upgrade() else { return Ok(()) };
        let _ = self.discovery.set(Discovery::start(self.options.port, &me)?);
        let paired = self.store.borrow().paired.clone();
        for (id, paired) in paired {
            let identity = Identity {
                id: id.clone(),
                name: paired.name,
                kind: paired.kind,
                version: paired.version,
                port: None,
                near: paired.strong,
                target: None,
            };
            self.peers.borrow_mut().insert(id.clone(), Peer::new(identity, paired.address, Phase::Unreachable));
            self.come_back(&id, false);
        }
        self.search_again();
        Ok(())
    }

    pub fn search_again(&self) {
        let (Some(discovery), own) = (self.discovery.get(), self.identity()) else { return };
        discovery.announce(&own);
        self.store.borrow().addresses.iter().for_each(|host| discovery.tell_host(&own, host));
        let away = |peer: &Peer| peer.address.filter(|_| matches!(peer.phase, Phase::Away { .. }));
        self.peers.borrow().values().filter_map(away).for_each(|address| discovery.tell(&own, address));
    }

    pub fn try_again(&self, id: &str) {
        let known = self.with(id, |peer| {
            let is_idle = peer.link().is_none() && !matches!(peer.phase, Phase::Opening);
            if is_idle {
                peer.phase = Phase::Unreachable;
            }
            (is_idle, peer.identity.clone(), peer.address)
        });
        let Some((is_idle, identity, address)) = known else { return };
        if is_idle && self.is_paired(id) {
            self.come_back(id, false);
        }
        let Some(address) = address else { return };
        if let Some(discovery) = self.discovery.get() {
            discovery.tell(&self.identity(), address);
        }
        if let Some(port) = identity.port {
            self.rests.borrow_mut().end(address.at(port), Instant::now());
        }
        self.heard(identity, address);
    }

    pub fn keep_apart(&self, id: &str) {
        self.with(id, |peer| peer.phase = Phase::Apart);
    }

    /// Whether there is room for a device that is not paired. The one that is of least use gives way in the list.
    pub fn has_room(&self, id: &str) -> bool {
        if self.is_paired(id) {
            return true;
        }
        let mut peers = self.peers.borrow_mut();
        let is_stranger = |(known, peer): &(&String, &Peer)| {
            matches!(peer.phase, Phase::Opening | Phase::Up(_)) && known.as_str() != id && !self.is_paired(known)
        };
        if peers.iter().filter(is_stranger).count() >= STRANGERS {
            return false;
        }
        if peers.len() >= LISTED && !peers.contains_key(id) {
            let useless =
                |(known, peer): &(&String, &Peer)| matches!(peer.phase, Phase::Unreachable) && !self.is_paired(known);
            let Some(useless) = peers.iter().find(useless).map(|(known, _)| known.clone()) else { return false };
            peers.remove(&useless);
        }
        true
    }
}
