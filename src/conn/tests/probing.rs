//! Probes: when they begin and end.

use super::super::probing;
use super::*;

const CHECK: Duration = Duration::from_millis(500);

impl Wire<'_> {
    fn probes(&self) -> &Self {
        probing::start(&self.conn, self.conn.transport.socket_fd().unwrap()).unwrap();
        self
    }
}

#[test]
fn an_answer_ends_it() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.probes();
        assert_eq!(wire.script.calls(), ["probe"]);
        rig.pass(CHECK);
        assert!(wire.script.calls().is_empty(), "nobody has answered");
        wire.script.answers.set(true);
        rig.pass(CHECK);
        assert_eq!(wire.script.calls(), ["probe ends"]);
        rig.pass(60 * CHECK);
        assert!(wire.script.calls().is_empty());
        wire.script.answers.set(false);
        wire.probes();
        assert_eq!(wire.script.calls(), ["probe"], "the next one");
    });
}

#[test]
fn one_without_an_answer_ends_after_ten_seconds() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.probes();
        rig.pass(19 * CHECK);
        assert_eq!(wire.script.calls(), ["probe"]);
        rig.pass(CHECK);
        assert_eq!(wire.script.calls(), ["probe ends"]);
        assert!(wire.conn.is_open(), "the kernel decides about that");
    });
}

/// A cable is pulled right after an answer: that answer says nothing of it.
#[test]
fn an_answer_from_before_does_not_keep_from_asking_again() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.probes();
        wire.script.answers.set(true);
        assert_eq!(wire.script.calls(), ["probe"]);
        wire.probes();
        assert_eq!(wire.script.calls(), ["probe ends", "probe"]);
        wire.script.answers.set(false);
        rig.pass(CHECK);
        assert!(wire.script.calls().is_empty(), "it waits for an answer of its own");
    });
}

#[test]
fn there_is_one_at_a_time() {
    rig(|rig| {
        let wire = rig.tcp();
        for _ in 0..100 {
            wire.probes();
        }
        assert_eq!(wire.script.calls(), ["probe"]);
        rig.pass(20 * CHECK);
        assert_eq!(wire.script.calls(), ["probe ends"], "not later for those");
    });
}

#[test]
fn it_can_be_ended_and_ends_with_the_connection() {
    rig(|rig| {
        let wire = rig.tcp();
        let fd = || wire.conn.transport.socket_fd().unwrap();
        wire.probes();
        assert_eq!(probing::keep_alive(&wire.conn), Some(None));
        assert_eq!(probing::user_timeout(&wire.conn), Some(None));
        probing::stop(&wire.conn, fd()).unwrap();
        probing::stop(&wire.conn, fd()).unwrap();
        assert_eq!(wire.script.calls(), ["probe", "probe ends"]);
        assert_eq!(probing::keep_alive(&wire.conn), None);
        assert_eq!(probing::user_timeout(&wire.conn), None);
        wire.probes();
        wire.conn.abort();
        assert_eq!(wire.script.calls(), ["probe", "close"]);
        rig.pass(20 * CHECK);
        assert!(wire.script.calls().is_empty());
    });
}

#[test]
fn whoever_takes_the_descriptor_gets_it_as_it_was() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.probes();
        let _taken = wire.conn.take_descriptor().unwrap();
        assert_eq!(wire.script.calls(), ["probe", "probe ends"]);
    });
}
