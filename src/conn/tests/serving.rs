//! The engine's calls: one read and one write for a message, and the same outcome on the long way.

use rustix::io::Errno;

use super::*;
use crate::sys::script::Input;

/// Sends back what comes.
fn echoes<'a>(wire: &'a Wire<'a>) -> &'a Wire<'a> {
    wire.reads_with(|socket, data| socket.conn.send(data, false))
}

#[test]
fn a_message_and_its_answer_take_one_read_and_one_write() {
    rig(|rig| {
        let wire = rig.tcp();
        echoes(&wire);
        rig.run();
        for _ in 0..3 {
            wire.comes("ping");
            assert_eq!((wire.written(), wire.script.reads(), wire.script.writes()), ("ping".into(), 1, 1));
        }
    });
}

#[test]
fn what_is_sent_in_a_turn_goes_out_together() {
    rig(|rig| {
        let (wire, other) = (rig.tcp(), rig.tcp());
        let to = other.socket.clone().unwrap();
        wire.reads_lines_with(move |socket, line| {
            to.conn.send(line.as_bytes(), true)?;
            socket.conn.send(line.as_bytes(), true)
        });
        wire.comes("one\ntwo\nthree\n");
        for wire in [&wire, &other] {
            assert_eq!((wire.written(), wire.script.writes()), ("one\ntwo\nthree\n".into(), 1));
        }
    });
}

#[test]
fn the_short_way_and_the_long_way_agree() {
    fn events(wire: &Wire<'_>) {
        wire.comes("one");
        wire.comes("two\nthree");
        wire.is(Ready::READ);
        wire.comes(vec![b'x'; 100]);
        wire.script.brings("last\n");
        wire.ends();
    }
    rig(|rig| {
        for lines in [false, true] {
            let run = |wire: Wire<'_>, change: &dyn Fn(&Wire<'_>)| {
                change(&wire);
                wire.hears_end();
                if lines {
                    wire.reads_lines()
                } else {
                    wire.reads()
                };
                rig.run();
                events(&wire);
                wire.heard()
            };
            let short = run(rig.tcp(), &|_| ());
            assert_eq!(short.last().unwrap(), "end: closed by the peer");
            assert_eq!(short.len(), if lines { 3 } else { 5 });
            let waited = |wire: &Wire<'_>| {
                let mut ticket = Ticket::New;
                assert!(wire.poll_recv(&Flag::new(), &mut ticket, 1).is_pending());
                wire.conn.waiters().cancel(crate::conn::waiting::Interest::Input, &mut ticket);
            };
            assert_eq!(run(rig.tcp(), &waited), short, "a future has waited");
            assert_eq!(run(rig.unix(), &|_| ()), short, "of a unix socket");
            assert_eq!(run(rig.unix(), &|wire| wire.conn.transport.accept_fds(0)), short);
            assert_eq!(run(rig.pair(false), &|_| ()), short, "of other descriptors");
            assert_eq!(run(rig.pair(true), &|_| ()), short, "of such as block");
            let idle = |options: &mut Options| options.idle_timeout = Some(Duration::from_secs(60));
            assert_eq!(run(rig.tcp_with(idle), &|_| ()), short, "with an idle timeout");
        }
    });
}

#[test]
fn a_flood_is_delivered_whole_and_lets_others_come_between() {
    rig(|rig| {
        let (flood, quiet) = (rig.tcp(), rig.tcp());
        let (heard, bytes) = (flood.heard.clone(), Rc::new(Cell::new(0)));
        let total = bytes.clone();
        flood.reads_with(move |_, data| {
            total.set(total.get() + data.len());
            heard.push("flood");
            Ok(())
        });
        let heard = flood.heard.clone();
        quiet.reads_with(move |_, _| {
            heard.push("quiet");
            Ok(())
        });
        rig.run();
        for _ in 0..20 {
            flood.script.brings(vec![b'x'; READ_BUFFER]);
        }
        quiet.script.brings("data");
        flood.tell(Ready::READ);
        quiet.tell(Ready::READ);
        rig.run();
        let heard = flood.heard();
        let at = heard.iter().position(|heard| heard == "quiet").unwrap();
        assert_eq!((bytes.get(), heard.len()), (20 * READ_BUFFER, 21));
        assert!(at <= 4, "after {at} reads");
    });
}

#[test]
fn an_error_on_the_short_way_is_the_end() {
    rig(|rig| {
        for (error, name) in [(Errno::CONNRESET, "Reset"), (Errno::HOSTUNREACH, "Io HostUnreachable")] {
            let wire = rig.tcp();
            wire.hears_end().reads();
            rig.run();
            wire.script.fails(error);
            wire.is(Ready::READ);
            assert_eq!(wire.heard(), [format!("end: {name}")]);
        }
        let wire = rig.tcp();
        wire.hears_end().reads();
        rig.run();
        wire.script.ends();
        wire.is(Ready::READ);
        assert_eq!(wire.heard(), ["end: closed by the peer"], "told as input alone");
    });
}

#[test]
fn the_reader_of_our_output_has_gone_after_the_last_words() {
    rig(|rig| {
        for blocks in [false, true] {
            let wire = rig.pair(blocks);
            wire.hears_end().reads();
            rig.run();
            wire.script.brings("last words");
            wire.is(Ready::READ | Ready::ERROR);
            if blocks {
                wire.is(Ready::READ);
            }
            assert_eq!(wire.heard(), ["data last words", "end: Closed"], "blocks: {blocks}");
        }
    });
}

#[test]
fn a_write_that_nobody_reads_ends_a_pair_after_its_input() {
    rig(|rig| {
        let wire = rig.pair(false);
        wire.hears_end().reads();
        rig.run();
        wire.script.brings("last words");
        wire.out.refuses(Errno::PIPE);
        assert_eq!(failure(wire.send("lost")), "Closed");
        rig.run();
        assert_eq!(wire.heard(), ["data last words", "end: Closed"]);
    });
}

#[test]
fn a_descriptor_that_blocks_is_watched_while_somebody_reads() {
    rig(|rig| {
        let wire = rig.pair(true);
        let watched = || rig.engine.watches(wire.conn.key.get().unwrap()).0;
        rig.run();
        assert!(!watched());
        wire.reads();
        rig.run();
        assert!(watched());
        wire.comes("data");
        assert!(watched(), "asked for anew");
        assert_eq!(wire.heard(), ["data data"]);
    });
}

#[test]
fn a_failing_flush_is_found_in_the_turn_that_sent() {
    rig(|rig| {
        let wire = rig.tcp();
        echoes(&wire).hears_end();
        rig.run();
        wire.script.refuses(Errno::CONNRESET);
        wire.script.brings("ping");
        wire.is(Ready::READ);
        assert_eq!(failure(wire.send("more")), "Reset");
        wire.ends();
        assert_eq!(wire.heard(), ["end: Reset"]);
    });
}

#[test]
fn an_answer_that_finds_no_room_waits_and_keeps_its_order() {
    rig(|rig| {
        let wire = rig.tcp();
        echoes(&wire);
        rig.run();
        wire.script.has_room(2);
        wire.comes("one ");
        wire.comes("two ");
        assert!(wire.awaits_room());
        wire.script.has_room(3);
        wire.is(Ready::WRITE);
        wire.comes("three");
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert_eq!((wire.written(), wire.awaits_room()), ("one two three".into(), false));
    });
}

#[test]
fn over_tls_a_message_and_its_answer_go_through_the_session() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        echoes(&wire);
        rig.run();
        wire.comes([tls.seals("one "), tls.seals("two")].concat());
        assert_eq!(tls.got(&wire), "one two");
        let half = tls.seals("three");
        wire.comes(&half[..4]);
        assert!(wire.script.written().is_empty());
        wire.comes(&half[4..]);
        assert_eq!(tls.got(&wire), "three");
    });
}

#[test]
fn a_cut_read_of_a_unix_socket_is_followed_by_another_on_the_short_way() {
    rig(|rig| {
        let wire = rig.unix();
        echoes(&wire);
        rig.run();
        wire.script.then(Input::Cut(b"one ".to_vec())).then(Input::Cut(b"two ".to_vec())).brings("three");
        wire.is(Ready::READ);
        assert_eq!(wire.written(), "one two three");
    });
}
