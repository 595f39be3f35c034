//! Two sessions, and somebody on the path who inserts, removes and changes bytes: for the fuzzer and the tests.

use std::sync::{Arc, LazyLock};

use super::{ClientTls, Identity, PeerName, ServerSetup, ServerTls, Session};

static SERVER: LazyLock<Arc<ServerSetup>> = LazyLock::new(|| {
    let identity = Identity::in_memory("localhost").expect("a certificate");
    ServerTls::from(identity).setup().expect("settings of a server")
});

/// One direction: what is on its way, what the receiver has decrypted, and whether it has failed.
#[derive(Default)]
struct Lane {
    wire: Vec<u8>,
    received: Vec<u8>,
    has_failed: bool,
    is_tampered: bool,
}

/// The text of each side.
const TEXTS: [&[u8]; 2] = [b"what the client says", b"what the server says"];

/// Runs a handshake and some data after it, with the interventions that `data` describes. Neither side may be given anything
/// but the beginning of what the other has sent, and after an error it must not be given anything more.
pub(crate) fn check(data: &[u8]) {
    let peer = PeerName { key: "localhost:1".into(), host: Some("localhost".into()) };
    let client = Session::client(&ClientTls::danger_accept_any(), &peer).expect("settings of a client");
    let mut sides = [client, Session::server(&SERVER, "peer").expect("a session")];
    let mut lanes = [Lane::default(), Lane::default()];
    let mut has_sent = [false; 2];
    let mut script = data.iter();
    for _ in 0..40 {
        for from in 0..2 {
            if !sides[from].is_handshaking() && !has_sent[from] && !lanes[1 - from].has_failed {
                has_sent[from] = true;
                sides[from].send(TEXTS[from]);
            }
            sides[from].take_output(&mut lanes[from].wire);
            lanes[from].intervene(&mut script);
            lanes[from].deliver(&mut sides[1 - from]);
            assert!(TEXTS[from].starts_with(&lanes[from].received), "bytes that were never sent");
        }
    }
    if !lanes.iter().any(|lane| lane.is_tampered) {
        assert!(lanes.iter().zip(TEXTS).all(|(lane, text)| lane.received == text), "undisturbed, all of it arrives");
    }
}

impl Lane {
    /// Each intervention takes its kind, a place and a byte. Without any more, all goes through.
    fn intervene<'a>(&mut self, script: &mut impl Iterator<Item = &'a u8>) {
        let (Some(kind), Some(place), Some(byte)) = (script.next(), script.next(), script.next()) else { return };
        let at = usize::from(*place) * self.wire.len() / 256;
        match kind % 5 {
            0 => return,
            // As in the injection that STARTTLS is known for.
            1 => drop(self.wire.splice(at..at, *b"QUIT\r\n")),
            2 => self.wire.insert(at, *byte),
            3 if !self.wire.is_empty() => drop(self.wire.remove(at)),
            4 if !self.wire.is_empty() && *byte != 0 => self.wire[at] ^= byte,
            _ => return,
        }
        self.is_tampered = true;
    }

    fn deliver(&mut self, to: &mut Session) {
        let before = self.received.len();
        let outcome = to.receive(&std::mem::take(&mut self.wire), &mut self.received);
        assert!(!self.has_failed || self.received.len() == before, "after an error nothing more is given");
        self.has_failed |= outcome.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn undisturbed_all_of_it_arrives() {
        check(&[]);
        check(&[0; 60]);
    }

    #[test]
    fn a_command_among_the_records_is_never_taken_for_text() {
        for step in 0..12 {
            let mut script = vec![0; step * 3];
            script.extend([1, 0, 0]);
            check(&script);
        }
    }
}
