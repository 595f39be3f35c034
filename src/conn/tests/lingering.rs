//! The time after the end: what is still sent, how long it may take, and how the descriptor is closed.

use rustix::io::Errno;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn passed_since(start: Duration) -> Duration {
    script::passed().unwrap() - start
}

#[test]
fn the_peers_end_is_awaited_for_the_linger_time() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.conn.close();
        rig.pass(Duration::from_millis(4900));
        assert_eq!((wire.phase(), wire.script.calls()), (Phase::Lingering, vec!["shutdown"]));
        rig.pass(Duration::from_millis(100));
        assert_eq!((wire.phase(), wire.script.calls()), (Phase::Closed, vec!["close"]));
    });
}

#[test]
fn as_long_as_something_goes_out_it_begins_anew() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.has_room(1);
        wire.send("abcd").unwrap();
        wire.conn.close();
        for _ in 0..3 {
            rig.pass(4 * SECOND);
            assert_eq!(wire.phase(), Phase::Lingering);
            wire.script.has_room(1);
            wire.is(Ready::WRITE);
        }
        assert_eq!((wire.written(), wire.script.calls()), ("abcd".into(), vec!["shutdown"]));
        rig.pass(11 * SECOND);
        assert_eq!((wire.phase(), wire.script.calls()), (Phase::Closed, vec!["close"]));
    });
}

#[test]
fn what_nobody_takes_is_lost_after_the_linger_time() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.has_room(0);
        wire.send("lost").unwrap();
        wire.conn.close();
        rig.pass(5 * SECOND);
        assert_eq!((wire.phase(), wire.script.calls()), (Phase::Closed, vec!["reset", "close"]));
        assert_eq!(wire.conn.queued(), 0);
    });
}

#[test]
fn without_linger_time_nothing_is_awaited() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.linger = Duration::ZERO);
        wire.send("taken").unwrap();
        wire.conn.close();
        assert_eq!((wire.phase(), wire.script.calls()), (Phase::Closed, vec!["close"]));
        let wire = rig.tcp_with(|options| options.linger = Duration::ZERO);
        wire.script.has_room(1);
        wire.send("ab").unwrap();
        wire.conn.close();
        rig.run();
        assert_eq!((wire.phase(), wire.script.calls()), (Phase::Closed, vec!["reset", "close"]), "one byte was lost");
    });
}

#[test]
fn what_the_peer_still_sends_is_thrown_away() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end().reads();
        rig.run();
        wire.conn.close();
        for _ in 0..10 {
            wire.script.brings(vec![b'x'; READ_BUFFER]);
        }
        wire.comes("x");
        assert!(wire.script.is_read_out(), "or the kernel would reset the connection");
        assert_eq!((wire.heard(), wire.phase()), (vec!["end: closed here".into()], Phase::Lingering));
        wire.ends();
        assert_eq!(wire.phase(), Phase::Closed);
    });
}

#[test]
fn an_error_is_the_end_of_lingering() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.conn.close();
        rig.run();
        wire.script.fails(Errno::CONNRESET);
        wire.is(Ready::READ | Ready::AT_END);
        assert_eq!((wire.phase(), kind(&wire.conn.closed())), (Phase::Closed, "Closed".into()));
        let wire = rig.tcp();
        wire.script.has_room(0);
        wire.send("lost").unwrap();
        wire.conn.close();
        wire.script.refuses(Errno::PIPE);
        wire.is(Ready::WRITE);
        assert_eq!(wire.phase(), Phase::Closed);
    });
}

#[test]
fn a_peer_that_has_ended_still_gets_the_rest() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.has_room(0);
        wire.send("rest").unwrap();
        wire.conn.close();
        wire.ends();
        assert_eq!(wire.phase(), Phase::Lingering);
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert_eq!((wire.written(), wire.phase()), ("rest".into(), Phase::Closed));
        assert_eq!(wire.script.calls(), ["close"], "closing ends both halves");
    });
}

// ---- resets ----

/// One that is broken off with bytes on their way.
fn broken_off(rig: &Rig) -> Wire<'_> {
    let wire = rig.tcp_with(|options| options.line_limit = 4);
    wire.hears_end().reads_lines();
    wire.send("sorry\n").unwrap();
    wire.script.unacknowledged.set(6);
    wire.comes("five5\n");
    assert_eq!(wire.heard()[0], "end: LineTooLong, left five5\n");
    rig.pass(SECOND);
    assert!(wire.script.calls().is_empty(), "a reset would overtake what is on its way");
    wire
}

#[test]
fn a_reset_waits_until_the_peer_has_what_was_sent() {
    rig(|rig| {
        let wire = broken_off(rig);
        wire.script.unacknowledged.set(0);
        rig.pass(Duration::from_millis(50));
        assert_eq!(wire.script.calls(), ["reset", "close"]);
    });
}

#[test]
fn a_reset_waits_for_nobody_that_has_gone_nor_for_ever() {
    rig(|rig| {
        let wire = broken_off(rig);
        wire.script.is_cut.set(true);
        rig.pass(Duration::from_millis(50));
        assert_eq!(wire.script.calls(), ["reset", "close"]);
        let wire = broken_off(rig);
        rig.pass(5 * SECOND);
        assert_eq!(wire.script.calls(), ["reset", "close"]);
        let wire = broken_off(rig);
        wire.script.fails(Errno::CONNRESET);
        wire.is(Ready::READ | Ready::AT_END);
        assert_eq!(wire.script.calls(), ["reset", "close"], "it has broken the connection off itself");
    });
}

#[test]
fn where_data_lies_unread_a_unix_socket_is_reset_by_closing() {
    rig(|rig| {
        let wire = rig.unix();
        wire.conn.change_options(|options| options.line_limit = 4);
        wire.hears_end().reads_lines();
        wire.script.unacknowledged.set(6);
        wire.comes("five5\n");
        assert_eq!((wire.phase(), wire.script.calls()), (Phase::Closed, vec!["close"]));
    });
}

// ---- without a loop ----

#[test]
fn the_last_handle_waits_for_room() {
    rig(|rig| {
        let mut wire = rig.tcp();
        wire.script.has_room(1);
        wire.send("abcd").unwrap();
        for _ in 0..3 {
            wire.script.meanwhile(|script| {
                script::pass(4 * SECOND);
                script.has_room(1);
            });
        }
        let start = script::passed().unwrap();
        wire.socket = None;
        assert_eq!((wire.written(), wire.script.calls()), ("abcd".into(), vec!["shutdown", "close"]));
        assert!(passed_since(start) >= 12 * SECOND, "each time something went out");
    });
}

#[test]
fn the_last_handle_does_not_wait_for_ever() {
    rig(|rig| {
        let mut wire = rig.tcp();
        wire.script.has_room(0);
        wire.send("lost").unwrap();
        let start = script::passed().unwrap();
        wire.socket = None;
        assert_eq!(wire.script.calls(), ["reset", "close"]);
        assert!((5 * SECOND..6 * SECOND).contains(&passed_since(start)));
    });
}

#[test]
fn several_that_end_together_have_one_linger_time() {
    rig(|rig| {
        let (mut one, mut two) = (rig.tcp(), rig.tcp());
        for wire in [&one, &two] {
            wire.script.has_room(0);
            wire.send("lost").unwrap();
        }
        let start = script::passed().unwrap();
        rig.engine.end_together(|| (one.socket, two.socket) = (None, None));
        assert_eq!((one.phase(), two.phase()), (Phase::Closed, Phase::Closed));
        assert!((5 * SECOND..6 * SECOND).contains(&passed_since(start)));
    });
}

#[test]
fn the_last_handle_waits_until_all_is_on_its_way() {
    rig(|rig| {
        let mut wire = rig.tcp();
        wire.send("sent").unwrap();
        wire.script.unsent.set(4);
        wire.script.unacknowledged.set(4);
        wire.script.meanwhile(|script| script.unsent.set(2));
        wire.script.meanwhile(|script| script.unsent.set(0));
        wire.socket = None;
        assert_eq!(wire.script.unsent.get(), 0);
        assert_eq!((wire.script.calls(), wire.script.unacknowledged.get()), (vec!["shutdown", "close"], 4));
    });
}

#[test]
fn where_the_peer_talks_the_last_handle_waits_until_it_has_all() {
    rig(|rig| {
        let mut wire = rig.tcp();
        wire.send("sent").unwrap();
        wire.script.unacknowledged.set(4);
        wire.script.brings("talk");
        wire.script.meanwhile(|script| script.unacknowledged.set(0));
        wire.socket = None;
        assert_eq!((wire.script.calls(), wire.script.unacknowledged.get()), (vec!["shutdown", "close"], 0));
    });
}

#[test]
fn a_lingering_one_closes_without_the_peer_where_no_loop_runs() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.conn.close_without_peer();
        assert!(wire.conn.is_open(), "it has not ended");
        wire.send("last").unwrap();
        wire.conn.close();
        wire.script.brings("unread");
        wire.conn.close_without_peer();
        assert!(wire.script.is_read_out());
        assert_eq!((wire.phase(), wire.script.calls()), (Phase::Closed, vec!["shutdown", "close"]));
    });
}

// ---- TLS ----

#[test]
fn over_tls_the_end_is_said_before_anything_is_closed() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        wire.script.has_room(0);
        wire.send("last words").unwrap();
        wire.conn.close();
        rig.run();
        assert!(wire.script.calls().is_empty());
        wire.script.has_room(usize::MAX);
        wire.is(Ready::WRITE);
        assert_eq!((tls.got(&wire), tls.session.peer_closed()), ("last words".into(), true));
        assert_eq!(wire.script.calls(), ["shutdown"]);
        wire.comes(tls.ends());
        wire.ends();
        assert_eq!(wire.phase(), Phase::Closed);
    });
}

#[test]
fn over_tls_what_the_session_holds_is_lost_if_nobody_takes_it() {
    rig(|rig| {
        let (wire, _tls) = rig.sealed(Side::Server);
        wire.script.has_room(0);
        wire.send("lost").unwrap();
        wire.conn.abort();
        assert_eq!(wire.script.calls(), ["reset", "close"]);
    });
}

// ---- other descriptors ----

#[test]
fn a_pair_closes_when_all_is_written() {
    rig(|rig| {
        let wire = rig.pair(false);
        wire.out.has_room(1);
        wire.send("ab").unwrap();
        wire.conn.close();
        rig.run();
        assert_eq!(wire.phase(), Phase::Lingering);
        wire.out.has_room(1);
        wire.is(Ready::WRITE);
        assert_eq!((wire.written(), wire.phase()), ("ab".into(), Phase::Closed), "there is no peer's end to wait for");
    });
}
