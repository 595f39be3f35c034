//! Pairing as the program does it: one at a time, with a rest after each, and what is kept of it.

use std::time::{Duration, Instant};

use crate::core::{Core, unix_time};
use crate::device::{Peer, Phase};
use crate::near::Change;
use crate::packet::{PAIRED_LINE_LIMIT, Packet, Pair};
use crate::pairing::{Act, Pairing};
use crate::store;

/// After a pairing, for the whole program: it bounds how many codes can be tried.
const REST: Duration = Duration::from_secs(5);

impl Core {
    pub fn pair(&self, id: &str) {
        if self.is_busy_pairing() {
            return self.notice("Another pairing is going on, or has just ended: try again in a few seconds");
        }
        let Some(Some((ends, near))) = self.peers.borrow_mut().get_mut(id).map(|peer| {
            let ends = peer.ends(&self.tls);
            peer.wants_pairing = ends.is_none();
            ends.map(|ends| (ends, peer.identity.near))
        }) else {
            return self.try_again(id);
        };
        if !near && self.store.borrow().once_strong.contains(id) {
            let why =
                "It was paired by a typed code before, and now says that it cannot: it may be another device".into();
            return self.tell(Change::PairingEnded { device: id.into(), result: Err(why) });
        }
        let (pairing, acts) = Pairing::ask(ends, near, unix_time());
        self.begin_pairing(id, pairing, acts);
    }

    pub fn is_busy_pairing(&self) -> bool {
        self.rest_until.get().is_some_and(|until| Instant::now() < until)
            || self.peers.borrow().values().any(|peer| peer.pairing.is_some())
    }

    pub fn begin_pairing(&self, id: &str, pairing: Pairing, acts: Vec<Act>) {
        self.with(id, |peer| peer.pairing = Some(pairing));
        self.perform(id, acts);
        // Somebody waits in front of it: its seconds are shown.
        let (me, id) = (self.me.clone(), id.to_owned());
        let _ = network::spawn(async move {
            loop {
                network::sleep(Duration::from_secs(1)).await;
                let Some(core) = me.upgrade() else { break };
                let is_on = core.with(&id, |peer| peer.pairing.is_some());
                if is_on != Some(true) {
                    break;
                }
                core.pairing(&id, |pairing| pairing.tick(Instant::now()));
            }
            Ok(())
        });
    }

    /// Passes something to the pairing with this device, and does what it says.
    pub fn pairing(&self, id: &str, input: impl FnOnce(&mut Pairing) -> Vec<Act>) {
        let acts = self.peers.borrow_mut().get_mut(id).and_then(|peer| peer.pairing.as_mut().map(input));
        self.perform(id, acts.unwrap_or_default());
    }

    fn perform(&self, id: &str, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Send(pair) => drop(self.send(id, &Packet::Pair(pair))),
                Act::Changed => self.tell(Change::Device(id.into())),
                Act::Ended(result) => self.end_pairing(id, result),
            }
        }
    }

    pub fn end_pairing(&self, id: &str, result: Result<bool, String>) {
        self.rest_until.set(Some(Instant::now() + REST));
        let link = self.with(id, |peer| {
            peer.pairing = None;
            peer.link().map(|link| (link.fingerprint, peer.identity.clone(), peer.address))
        });
        if let (Ok(strong), Some(Some((fingerprint, identity, address)))) = (&result, link) {
            let (name, kind, date, version) = (identity.name, identity.kind, unix_time() as i64, identity.version);
            let paired = store::Paired { name, kind, fingerprint, date, strong: *strong, version, address };
            self.store.borrow_mut().paired.insert(id.into(), paired);
            if *strong {
                self.store.borrow_mut().once_strong.insert(id.into());
            }
            self.save();
            self.with(id, |peer| peer.link().map(|link| link.socket.set_line_limit(PAIRED_LINE_LIMIT)));
        }
        self.tell(Change::PairingEnded { device: id.into(), result });
        self.tell(Change::Devices);
    }

    pub fn forget(&self, id: &str) {
        let _ = self.send(id, &Packet::Pair(Pair::REFUSAL));
        self.unpair(id);
    }

    pub fn unpair(&self, id: &str) {
        let was_paired = self.store.borrow_mut().paired.remove(id).is_some();
        if was_paired {
            self.save();
        }
        // Without a link there is nothing left of it, unless it waits at the door with another key.
        let is_gone = |peer: &Peer| peer.link().is_none() && !matches!(peer.phase, Phase::OtherKey);
        self.peers.borrow_mut().retain(|known, peer| known != id || !is_gone(peer));
        self.tell(Change::Devices);
    }

    pub fn pair_arrived(&self, id: &str, pair: Pair) {
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
            let _ = self.send(id, &Packet::Pair(Pair::REFUSAL));
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
