//! How a connection ends: in which order, who is told, and what happens to what is queued.

use std::num::NonZeroU64;

use rustix::io::Errno;

use super::*;
use crate::engine::Handler;

#[test]
fn what_is_queued_goes_out_before_the_end() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end();
        wire.script.has_room(3);
        wire.send("hello").unwrap();
        assert_eq!((wire.written(), wire.awaits_room()), ("hel".into(), true));
        wire.conn.close();
        assert!(wire.heard().is_empty(), "not within the call");
        rig.run();
        assert_eq!((wire.heard(), wire.phase()), (vec!["end: closed here".into()], Phase::Lingering));
        assert!(wire.script.calls().is_empty(), "there is still something to send");
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert_eq!((wire.written(), wire.script.calls()), ("lo".into(), vec!["shutdown"]));
        assert_eq!(wire.phase(), Phase::Lingering, "the peer's end is to come");
        wire.ends();
        assert_eq!((wire.phase(), wire.script.calls()), (Phase::Closed, vec!["close"]));
    });
}

fn with_leftover<'a>(rig: &'a Rig) -> Wire<'a> {
    let wire = rig.tcp();
    wire.script.brings("line\nrest");
    assert_eq!(wire.conn.blocking().recv_line().unwrap(), "line");
    wire
}

#[test]
fn leftovers_go_to_the_caller_or_to_the_callback() {
    rig(|rig| {
        let wire = with_leftover(rig);
        assert_eq!(wire.conn.close(), b"rest");
        assert_eq!(wire.conn.close(), b"", "once");
        let wire = with_leftover(rig);
        wire.hears_end();
        assert_eq!(wire.conn.close(), b"");
        rig.run();
        assert_eq!(wire.heard(), ["end: closed here, left rest"]);
        let wire = with_leftover(rig);
        assert_eq!(wire.conn.abort(), b"rest");
    });
}

#[test]
fn an_abort_discards_and_resets_only_if_something_is_lost() {
    rig(|rig| {
        for lost in [false, true] {
            let wire = rig.tcp();
            wire.hears_end();
            wire.script.has_room(0);
            wire.send(if lost { "lost" } else { "" }).unwrap();
            wire.conn.abort();
            assert_eq!(wire.phase(), Phase::Closed);
            assert_eq!(wire.script.calls(), if lost { vec!["reset", "close"] } else { vec!["close"] });
            assert!(wire.heard().is_empty(), "not within the call");
            rig.run();
            assert_eq!((wire.heard(), wire.written()), (vec!["end: closed here".into()], String::new()));
        }
    });
}

#[test]
fn an_abort_ends_a_lingering_one() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end();
        wire.conn.close();
        rig.run();
        assert_eq!(wire.phase(), Phase::Lingering);
        wire.conn.abort();
        rig.run();
        assert_eq!((wire.phase(), wire.heard()), (Phase::Closed, vec!["end: closed here".into()]), "told once");
    });
}

#[test]
fn after_the_end_nothing_is_sent_or_received() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.conn.close();
        assert_eq!(failure(wire.send("late")), "Closed");
        assert_eq!(failure(wire.conn.shutdown_write()), "Closed");
        assert_eq!(failure(wire.conn.blocking().recv(1)), "Closed");
        wire.reads();
        wire.comes("late");
        assert!(wire.heard().is_empty() && wire.written().is_empty());
    });
}

#[test]
fn what_is_known_says_more_than_that_it_was_closed() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end();
        wire.script.refuses(Errno::CONNRESET);
        assert_eq!(failure(wire.send("data")), "Reset");
        wire.conn.close();
        rig.run();
        assert_eq!(wire.heard(), ["end: Reset"]);
    });
}

#[test]
fn the_callbacks_are_dropped_with_the_end() {
    rig(|rig| {
        let wire = rig.tcp();
        let captured = Rc::new(());
        let held = captured.clone();
        wire.callbacks_hold(&captured);
        wire.conn.set_on_disconnect(Some(Box::new(move |_, _| drop(held))));
        rig.run();
        assert_eq!(Rc::strong_count(&captured), 5);
        wire.conn.close();
        rig.run();
        assert_eq!(Rc::strong_count(&captured), 1);
    });
}

// ---- handles ----

#[test]
fn the_last_handle_closes_and_tells_nobody() {
    rig(|rig| {
        let mut wire = rig.tcp();
        let captured = Rc::new(());
        let held = captured.clone();
        let heard = wire.heard.clone();
        wire.conn.set_on_disconnect(Some(Box::new(move |_, end| heard.push(format!("{end:?} {held:?}")))));
        wire.script.has_room(2);
        wire.send("data").unwrap();
        wire.script.meanwhile(|script| _ = script.has_room(100));
        wire.socket = None;
        // No loop runs: it waits here.
        assert_eq!((wire.written(), wire.script.calls()), ("data".into(), vec!["shutdown", "close"]));
        assert_eq!((wire.phase(), Rc::strong_count(&captured)), (Phase::Closed, 1));
        rig.run();
        assert!(wire.heard().is_empty());
    });
}

#[test]
fn in_a_loop_the_last_handle_closes_in_the_background() {
    rig(|rig| {
        let mut wire = rig.tcp();
        wire.script.has_room(2);
        wire.send("data").unwrap();
        let last = wire.socket.take();
        rig.engine.defer(move |_| drop(last));
        rig.run();
        assert_eq!((wire.phase(), wire.written()), (Phase::Lingering, "da".into()));
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        wire.ends();
        assert_eq!((wire.phase(), wire.written()), (Phase::Closed, "ta".into()));
    });
}

#[test]
fn a_reader_keeps_the_connection_without_handles() {
    rig(|rig| {
        let mut wire = rig.tcp();
        wire.reads();
        wire.socket = None;
        wire.comes("data");
        assert_eq!((wire.heard(), wire.conn.is_open()), (vec!["data data".into()], true));
        wire.conn.set_reader(None);
        assert_eq!(wire.phase(), Phase::Closed);
    });
}

// ---- the server's ----

#[derive(Default)]
struct List(Heard);

impl Roster for List {
    fn leave(&self, id: NonZeroU64) {
        self.0.push(format!("leaves {id}"));
    }

    fn give_up(&self, id: NonZeroU64) {
        self.0.push(format!("given up {id}"));
    }

    fn log_end(&self, record: &dyn Fn()) {
        record();
        self.0.push("logged");
    }
}

/// The state that all connections of a server share, and what its list and its callback hear.
fn server(callback: bool) -> (Rc<Common>, Rc<List>, Heard) {
    let list = Rc::new(List::default());
    let heard = Heard::default();
    let told_to = heard.clone();
    let callback: Option<SharedDisconnect> =
        if callback { Some(Rc::new(move |_: &Socket, end| told_to.push(told(&end)))) } else { None };
    let roster: Rc<dyn Roster> = list.clone();
    (Common::new(Options::default(), usize::MAX, Rc::downgrade(&roster), callback), list, heard)
}

fn accepted<'a>(rig: &'a Rig, common: &Rc<Common>, number: u64) -> Wire<'a> {
    let wire = rig.wire(Some(peer()), common.clone());
    wire.conn.join_roster(NonZeroU64::new(number).unwrap());
    wire
}

#[test]
fn the_servers_callback_hears_of_each_end_once() {
    rig(|rig| {
        let (common, list, heard) = server(true);
        let (one, two) = (accepted(rig, &common, 1), accepted(rig, &common, 2));
        one.ends();
        two.script.fails(Errno::CONNRESET);
        two.is(Ready::READ | Ready::AT_END);
        assert_eq!(heard.0.take(), ["end: closed by the peer", "end: Reset"]);
        assert_eq!(list.0.0.take(), ["leaves 1", "leaves 2"]);
    });
}

#[test]
fn a_callback_of_the_connections_own_takes_the_place_of_the_servers() {
    rig(|rig| {
        let (common, list, heard) = server(true);
        let wire = accepted(rig, &common, 7);
        wire.hears_end();
        wire.ends();
        assert_eq!((wire.heard(), heard.0.take()), (vec!["end: closed by the peer".into()], vec![]));
        assert_eq!(list.0.0.take(), ["leaves 7"]);
    });
}

#[test]
fn the_servers_callback_goes_with_the_last_that_is_told_to_it() {
    rig(|rig| {
        let (common, _list, _) = server(false);
        let captured = Rc::new(());
        let held = captured.clone();
        common.set_on_disconnect(Some(Rc::new(move |_: &Socket, _| drop(held.clone()))));
        let wire = accepted(rig, &common, 1);
        common.leave();
        assert_eq!(Rc::strong_count(&captured), 2, "there is a connection yet");
        wire.ends();
        assert_eq!(Rc::strong_count(&captured), 1);
    });
}

#[test]
fn an_end_that_nobody_hears_of_is_logged_if_it_is_a_failure() {
    rig(|rig| {
        let (common, list, _) = server(false);
        let (one, two) = (accepted(rig, &common, 1), accepted(rig, &common, 2));
        one.ends();
        two.script.fails(Errno::CONNRESET);
        two.is(Ready::READ | Ready::AT_END);
        assert_eq!(list.0.0.take(), ["leaves 1", "leaves 2", "logged"]);
        // It can be asked for late.
        two.hears_end();
        rig.run();
        assert_eq!(two.heard(), ["end: Reset"]);
    });
}

#[test]
fn one_that_goes_untold_leaves_its_server() {
    rig(|rig| {
        let (common, _list, _) = server(true);
        let wire = accepted(rig, &common, 1);
        assert_eq!(common.tellers.get(), 2);
        drop(wire);
        assert_eq!(common.tellers.get(), 1);
    });
}

#[test]
fn one_that_was_served_ends_if_nobody_else_holds_it() {
    rig(|rig| {
        let (common, list, heard) = server(true);
        let wire = accepted(rig, &common, 1);
        wire.conn.was_served(Ok(()));
        rig.run();
        assert_eq!(
            (list.0.0.take(), heard.0.take().remove(0)),
            (vec!["given up 1".into(), "leaves 1".into()], "end: closed here".into())
        );
        let wire = accepted(rig, &common, 2);
        let other = wire.socket.clone();
        wire.conn.was_served(Ok(()));
        rig.run();
        assert!(wire.conn.is_open(), "somebody else does");
        drop(other);
        let wire = accepted(rig, &common, 3);
        heard.0.take();
        wire.conn.was_served(Err(Error::other("refused")));
        rig.run();
        assert_eq!(heard.0.take(), ["end: refused"]);
    });
}

#[test]
fn one_whose_end_had_come_before_it_was_served_was_closed_by_the_peer() {
    rig(|rig| {
        for result in [Ok(()), Err(Error::other("cannot answer"))] {
            let (common, _list, heard) = server(true);
            let wire = accepted(rig, &common, 1);
            wire.script.brings("unread").ends();
            assert_eq!(failure(wire.conn.blocking().recv_exact(9).map(drop)), "Closed");
            wire.conn.was_served(result);
            assert_eq!(heard.0.take(), ["end: closed by the peer, left unread"]);
        }
    });
}

// ---- the context is gone ----

#[test]
fn with_its_context_a_connection_closes_and_tells_nobody() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end().reads();
        Handler::context_ended(wire.conn.clone());
        assert_eq!((wire.phase(), wire.script.calls()), (Phase::Closed, vec!["close"]));
        rig.run();
        assert!(wire.heard().is_empty());
    });
}

#[test]
fn with_its_context_what_is_queued_still_goes_out() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.has_room(1);
        wire.send("rest").unwrap();
        wire.script.meanwhile(|script| _ = script.has_room(100));
        Handler::context_ended(wire.conn.clone());
        assert_eq!((wire.written(), wire.script.calls()), ("rest".into(), vec!["shutdown", "close"]));
    });
}

#[test]
fn with_its_context_tls_still_says_its_end() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        Handler::context_ended(wire.conn.clone());
        assert_eq!(wire.phase(), Phase::Closed);
        tls.got(&wire);
        assert!(tls.session.peer_closed(), "or the peer would think that something is missing");
        let (wire, _) = rig.tls(Side::Server, |_| ());
        Handler::context_ended(wire.conn.clone());
        assert_eq!((wire.phase(), wire.written()), (Phase::Closed, String::new()), "not before the handshake");
    });
}

// ---- a link's ----

/// A list that hears of ends in place of [`Roster::leave`].
#[derive(Default)]
struct Hearer(Heard);

impl Roster for Hearer {
    fn leave(&self, id: NonZeroU64) {
        self.0.push(format!("leaves {id}"));
    }

    fn give_up(&self, _: NonZeroU64) {}

    fn log_end(&self, _: &dyn Fn()) {
        self.0.push("logged");
    }

    fn hears_ends(&self) -> bool {
        true
    }

    fn ended(&self, id: NonZeroU64, end: Disconnect) {
        self.0.push(format!("{id} {}, {} unsent", told(&end), end.unsent));
    }
}

fn heard_by_list(rig: &Rig, room: usize, act: impl FnOnce(&mut Wire<'_>)) -> Vec<String> {
    let list = Rc::new(Hearer::default());
    let roster: Rc<dyn Roster> = list.clone();
    let mut wire = rig.wire(Some(peer()), Common::listed(Options::default(), Rc::downgrade(&roster)));
    wire.script.has_room(room);
    wire.conn.join_roster(NonZeroU64::MIN);
    act(&mut wire);
    rig.run();
    list.0.0.take()
}

#[test]
fn a_list_hears_how_it_ended_after_the_connections_own_callback() {
    rig(|rig| {
        let heard = heard_by_list(rig, 0, |wire| {
            wire.reads_lines().hears_end();
            wire.comes("half");
            wire.ends();
            assert_eq!(wire.heard(), ["end: closed by the peer, left half"]);
        });
        assert_eq!(heard, ["1 end: closed by the peer, left half, 0 unsent"]);
        // An error that nobody can copy is told by its words.
        let heard = heard_by_list(rig, 0, |wire| {
            wire.reads_with(|_, _| Err(Error::other("the program's own"))).hears_end();
            wire.comes("x");
        });
        assert_eq!(heard, ["1 end: the program's own, 0 unsent"]);
    });
}

#[test]
fn an_end_that_a_list_hears_of_is_not_logged() {
    rig(|rig| {
        let heard = heard_by_list(rig, 0, |wire| {
            wire.script.fails(Errno::CONNRESET);
            wire.is(Ready::READ | Ready::AT_END);
        });
        assert_eq!(heard, ["1 end: Reset, 0 unsent"]);
    });
}

#[test]
fn a_list_hears_of_an_end_without_a_word() {
    rig(|rig| {
        assert_eq!(heard_by_list(rig, 0, |wire| wire.conn.abort_silently()), ["leaves 1"]);
        assert_eq!(heard_by_list(rig, 0, |wire| wire.socket = None), ["leaves 1"]);
    });
}

#[test]
fn what_did_not_reach_the_system_is_counted() {
    rig(|rig| {
        let send = |wire: &mut Wire<'_>| wire.send([7; 100]).unwrap();
        let heard = heard_by_list(rig, 30, |wire| {
            send(wire);
            wire.conn.abort();
        });
        assert_eq!(heard, ["1 end: closed here, 70 unsent"]);
        // By a write that fails, after which the queue is gone.
        let heard = heard_by_list(rig, 30, |wire| {
            send(wire);
            wire.script.refuses(Errno::CONNRESET).fails(Errno::CONNRESET);
            wire.is(Ready::WRITE);
        });
        assert_eq!(heard, ["1 end: Reset, 70 unsent"]);
        let heard = heard_by_list(rig, 30, |wire| {
            send(wire);
            wire.ends();
        });
        assert_eq!(heard, ["1 end: closed by the peer, 70 unsent"]);
    });
}

#[test]
fn of_tls_the_bytes_are_counted_whose_records_did_not_reach_the_system() {
    rig(|rig| {
        // The first record, of 16 KiB, with its head and tag, and some of the second.
        for (room, unsent) in [(0, 60_000), (16_000, 60_000), (16_406, 43_616), (20_000, 43_616), (40_000, 27_232)] {
            let (mut wire, mut tls) = rig.sealed(Side::Client);
            tls.talk(&wire);
            wire.script.has_room(room);
            wire.send(vec![7; 60_000]).unwrap();
            rig.run();
            assert_eq!(wire.conn.output().unsent(), unsent, "with room for {room}");
            wire.conn.abort();
            rig.run();
            wire.socket = None;
        }
    });
}
