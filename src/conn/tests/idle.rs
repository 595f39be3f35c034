//! The idle timeout, by a clock that the test moves.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const ALMOST: Duration = Duration::from_millis(900);

#[test]
fn traffic_in_either_direction_begins_it_anew() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.idle_timeout = Some(SECOND));
        wire.reads().hears_end();
        rig.pass(ALMOST);
        wire.comes("ping");
        rig.pass(ALMOST);
        wire.send("pong").unwrap();
        rig.pass(ALMOST);
        assert_eq!(wire.heard(), ["data ping"]);
        rig.pass(Duration::from_millis(200));
        assert_eq!(wire.heard(), ["end: TimedOut"]);
        assert_eq!(wire.script.calls(), ["shutdown"], "gracefully");
        assert_eq!(kind(&wire.conn.closed()), "TimedOut");
    });
}

#[test]
fn what_a_future_receives_counts_as_well() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.idle_timeout = Some(SECOND));
        let (flag, mut ticket) = (Flag::new(), Ticket::New);
        for _ in 0..3 {
            assert!(wire.poll_recv(&flag, &mut ticket, 10).is_pending());
            rig.pass(ALMOST);
            wire.comes("x");
            assert!(wire.poll_recv(&flag, &mut ticket, 10).is_ready());
        }
        assert!(wire.conn.is_open());
    });
}

#[test]
fn it_can_be_set_changed_and_unset_later() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end();
        let set = |limit| {
            wire.conn.change_options(|options| options.idle_timeout = limit);
            wire.conn.watch_idleness();
        };
        rig.pass(3 * SECOND);
        set(Some(SECOND));
        rig.pass(ALMOST);
        set(Some(2 * SECOND));
        rig.pass(SECOND + ALMOST);
        set(None);
        rig.pass(10 * SECOND);
        assert!(wire.heard().is_empty() && wire.conn.is_open());
        set(Some(SECOND));
        rig.pass(SECOND);
        assert_eq!(wire.heard(), ["end: TimedOut"]);
        set(Some(SECOND));
        rig.pass(2 * SECOND);
        assert!(wire.heard().is_empty(), "once");
    });
}

#[test]
fn a_handshake_has_a_timeout_of_its_own() {
    rig(|rig| {
        let (wire, mut tls) = rig.tls(Side::Server, |options| options.idle_timeout = Some(SECOND));
        wire.hears_end();
        rig.pass(5 * SECOND);
        assert!(wire.heard().is_empty() && wire.conn.is_shaking());
        tls.talk(&wire);
        assert_eq!(wire.heard(), ["shaken"]);
        rig.pass(2 * SECOND);
        assert_eq!(wire.heard(), ["end: TimedOut"]);
    });
}

#[test]
fn what_came_while_a_blocking_call_waited_counts() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| {
            options.idle_timeout = Some(SECOND);
            options.timeout = Some(5 * SECOND);
        });
        wire.script.meanwhile(|script| {
            script::pass(ALMOST);
            script.brings("late");
        });
        assert_eq!(wire.conn.blocking().recv(10).unwrap(), b"late");
        rig.pass(ALMOST);
        assert!(wire.conn.is_open());
    });
}

#[test]
fn what_is_sent_is_no_sign_of_the_peer() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.receive_timeout = Some(SECOND));
        wire.reads().hears_end();
        rig.pass(ALMOST);
        wire.comes("answer");
        rig.pass(ALMOST);
        wire.send("are you there?").unwrap();
        rig.pass(Duration::from_millis(200));
        assert_eq!(wire.heard(), ["data answer", "end: TimedOut"]);
        assert!(matches!(wire.conn.closed(), Error::TimedOut { operation: Operation::Incoming, .. }));
    });
}

#[test]
fn a_peer_that_is_not_listened_to_is_not_silent() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.receive_timeout = Some(SECOND));
        wire.reads().hears_end();
        wire.conn.pause();
        rig.pass(5 * SECOND);
        wire.conn.resume();
        rig.pass(ALMOST);
        assert!(wire.conn.is_open());
        rig.pass(Duration::from_millis(200));
        assert_eq!(wire.heard(), ["end: TimedOut"]);
        let wire = rig.tcp_with(|options| options.receive_timeout = Some(SECOND));
        wire.script.brings("unread");
        rig.pass(5 * SECOND);
        assert!(wire.conn.is_open(), "what it said has not been read");
    });
}
