//! One device: how it is heard, how its link opens, is replaced, is lost and comes back, and what comes by it.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use network::link::Backoff;
use network::tls::{self, Fingerprint};
use network::{Server, Socket, UdpSocket};

use crate::core::{Core, unix_time};
use crate::discovery::{Discovery, Listener};
use crate::link::{self, Failure, Opened};
use crate::near::{Change, Line, State, What};
use crate::packet::{Identity, LINE_LIMIT, PAIRED_LINE_LIMIT, Packet, Pair};
use crate::pairing::{Ends, Pairing};

/// Devices in the list; links with devices that are not paired, or on their way; connections that have not said who they are.
const LISTED: usize = 64;
const STRANGERS: usize = 8;
const ACCEPTING: usize = 16;

/// Two links that are opened at the same time within this are two for one purpose.
const CROSSING: Duration = Duration::from_secs(2);

pub(crate) struct Peer {
    pub identity: Identity,
    pub address: Option<IpAddr>,
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
    /// Paired, and not here. The number tells one absence from the next.
    Away { serial: u64, next: Option<Instant> },
    Unreachable,
    OtherKey,
    /// It has shown another key, and the person wants nothing of it.
    Apart,
}

pub(crate) struct Link {
    pub socket: Socket,
    pub fingerprint: Fingerprint,
    serial: u64,
    opened: Instant,
    is_ours: bool,
}

impl Peer {
    fn new(identity: Identity, address: Option<IpAddr>, phase: Phase) -> Peer {
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
    fn heard(&self, identity: Identity, address: IpAddr) {
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
        if !self.has_room(&id) {
            return;
        }
        {
            let mut peers = self.peers.borrow_mut();
            let peer = peers.entry(id.clone()).or_insert_with(|| Peer::new(identity.clone(), None, Phase::Opening));
            if peer.link().is_none() {
                (peer.identity, peer.address, peer.phase) = (identity.clone(), Some(address), Phase::Opening);
            }
        }
        self.tell(Change::Devices);
        let (me, us) = (self.me.clone(), self.us());
        let _ = network::spawn(async move {
            let result = link::connect(us, identity, SocketAddr::new(address, port), paired).await;
            if let Some(core) = me.upgrade() {
                core.opened(&id, result);
            }
            Ok(())
        });
    }

    /// Links whose own address is gone are dead. The others are asked.
    fn network_changed(&self) {
        self.tell(Change::Network);
        let links: Vec<Socket> =
            self.peers.borrow().values().filter_map(|peer| Some(peer.link()?.socket.clone())).collect();
        for socket in links {
            let has_address =
                socket.local().inet().is_none_or(|local| UdpSocket::bind(SocketAddr::new(local.ip(), 0)).is_ok());
            if has_address { drop(socket.probe()) } else { drop(socket.abort()) }
        }
        self.search_again();
    }
}

impl Core {
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
                id: id.clone(), name: paired.name, kind: paired.kind, version: paired.version, port: None,
                near: paired.strong, target: None,
            };
            self.peers.borrow_mut().insert(id.clone(), Peer::new(identity, paired.address, Phase::Unreachable));
            self.come_back(&id);
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
            if peer.link().is_none() && !matches!(peer.phase, Phase::Opening) {
                peer.phase = Phase::Unreachable;
            }
            (peer.identity.clone(), peer.address)
        });
        let Some((identity, Some(address))) = known else { return };
        if let Some(discovery) = self.discovery.get() {
            discovery.tell(&self.identity(), address);
        }
        self.heard(identity, address);
    }

    pub fn keep_apart(&self, id: &str) {
        self.with(id, |peer| peer.phase = Phase::Apart);
    }

    /// Whether there is room for a device that is not paired. The one that is of least use gives way in the list.
    fn has_room(&self, id: &str) -> bool {
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
            let useless = |(known, peer): &(&String, &Peer)| {
                matches!(peer.phase, Phase::Unreachable) && !self.is_paired(known)
            };
            let Some(useless) = peers.iter().find(useless).map(|(known, _)| known.clone()) else { return false };
            peers.remove(&useless);
        }
        true
    }

    fn accept(&self, socket: Socket) {
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

    fn opened(&self, id: &str, result: Result<Opened, Failure>) {
        let opened = match result {
            Ok(opened) => opened,
            Err(failure) => return self.not_opened(id, failure),
        };
        let replaced = self.peers.borrow().get(id).is_some_and(|peer| {
            let crosses = peer.link().is_some_and(|link| link.is_ours != opened.is_ours && link.opened.elapsed() < CROSSING);
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
        let address = socket.remote().inet().map(|address| address.ip().to_canonical());
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
        let link = Link { socket, fingerprint: opened.fingerprint, serial, opened: Instant::now(), is_ours: opened.is_ours };
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
                    let peer = peers.entry(id.into()).or_insert_with(|| Peer::new(identity.clone(), None, Phase::Opening));
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
                if is_paired && !is_unreachable {
                    self.come_back(id);
                }
            }
        }
        self.tell(Change::Devices);
    }

    fn lost(&self, id: &str, serial: u64) {
        let is_current =
            self.peers.borrow().get(id).and_then(Peer::link).is_some_and(|link| link.serial == serial);
        if !is_current {
            return;
        }
        if self.peers.borrow().get(id).is_some_and(|peer| peer.pairing.is_some()) {
            self.end_pairing(id, Err("The connection was lost".into()));
        }
        if self.is_paired(id) {
            self.with(id, |peer| peer.phase = Phase::Unreachable);
            self.come_back(id);
        } else {
            self.peers.borrow_mut().remove(id);
        }
        self.tell(Change::Devices);
    }

    /// Announces this device to where a paired one was last, until it comes.
    fn come_back(&self, id: &str) {
        let serial = self.serial.get() + 1;
        self.serial.set(serial);
        self.with(id, |peer| peer.phase = Phase::Away { serial, next: None });
        let (me, id) = (self.me.clone(), id.to_owned());
        let _ = network::spawn(async move {
            for wait in Backoff::new(Duration::from_secs(1), Duration::from_secs(30)) {
                let Some(core) = me.upgrade() else { break };
                let due = Instant::now() + wait;
                let is_away = core.with(&id, |peer| match &mut peer.phase {
                    Phase::Away { serial: current, next } if *current == serial => {
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

    fn arrived(&self, id: &str, serial: u64, fingerprint: Fingerprint, packet: Packet) {
        let is_current =
            self.peers.borrow().get(id).and_then(Peer::link).is_some_and(|link| link.serial == serial);
        let is_its = self.store.borrow().paired.get(id).is_some_and(|paired| paired.fingerprint == fingerprint);
        match packet {
            Packet::Pair(pair) if is_current => self.pair_arrived(id, pair),
            // What comes by an older link counts as well, if that one showed the same key.
            _ if !is_its => {}
            Packet::Text(text) => drop(self.add_line(id, false, What::Text(text))),
            Packet::Link(link) => drop(self.add_line(id, false, What::Link(link))),
            Packet::Ping(message) => drop(self.add_line(id, false, What::Ping(message))),
            Packet::File(file) => self.add_incoming(id, file),
            _ => {}
        }
    }

    fn pair_arrived(&self, id: &str, pair: Pair) {
        let (is_on, near, ends) = match self.peers.borrow().get(id) {
            Some(peer) => (peer.pairing.is_some(), peer.identity.near, peer.ends(&self.tls)),
            None => return,
        };
        if is_on {
            return self.pairing(id, |pairing| pairing.packet(pair));
        }
        if !pair.pair {
            if self.is_paired(id) {
                self.unpair(id);
                self.notice("The other device has ended the pairing");
            }
            return;
        }
        let refused = |why: &str| {
            let _ = self.send(id, &Packet::Pair(Pair { pair: false, timestamp: None, near: None }));
            self.notice(format!("A request to pair was refused: {why}"));
        };
        // One of ours always asks the strong way: without it, somebody in between has taken that away.
        let must_be_strong = near || self.store.borrow().once_strong.contains(id);
        let Some(ends) = ends else { return };
        match Pairing::asked(ends, &pair, unix_time()) {
            _ if self.is_busy_pairing() => refused("another pairing is going on, or has just ended"),
            Ok(_) if pair.near.is_none() && must_be_strong => refused("it did not ask for the typed code"),
            Ok(pairing) => self.begin_pairing(id, pairing, Vec::new()),
            Err(why) => refused(why),
        }
    }

    pub fn answer(&self, id: &str, yes: bool) {
        self.pairing(id, |pairing| pairing.answer(yes));
    }

    pub fn enter_code(&self, id: &str, digits: &str) {
        self.pairing(id, |pairing| pairing.enter(digits));
    }

    pub fn cancel_pairing(&self, id: &str) {
        self.with(id, |peer| peer.wants_pairing = false);
        self.pairing(id, Pairing::cancel);
    }
}

