//! Callbacks that come and go, pauses, and how a connection is introduced.

use rustix::io::Errno;

use super::*;

#[test]
fn a_drain_callback_that_replaces_itself_is_gone() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| (options.high_water_mark, options.low_water_mark) = (4, 1));
        let heard = wire.heard.clone();
        wire.conn.set_on_drain(Some(Box::new(move |socket| {
            heard.push("first");
            let heard = heard.clone();
            socket.conn.set_on_drain(Some(Box::new(move |_| {
                heard.push("second");
                Ok(())
            })));
            Ok(())
        })));
        for expected in ["first", "second", "second"] {
            wire.script.has_room(0);
            wire.send("full").unwrap();
            wire.script.has_room(100);
            wire.is(Ready::WRITE);
            assert_eq!(wire.heard(), [expected]);
        }
        wire.conn.set_on_drain(None);
        wire.script.has_room(0);
        wire.send("full").unwrap();
        wire.script.has_room(100);
        wire.is(Ready::WRITE);
        assert!(wire.heard().is_empty());
    });
}

#[test]
fn what_is_set_after_the_end_is_dropped() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.conn.close();
        let captured = Rc::new(());
        wire.callbacks_hold(&captured);
        assert_eq!(Rc::strong_count(&captured), 1);
    });
}

#[test]
fn marks_that_move_make_the_queue_full_or_drained() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_drain();
        wire.script.has_room(0);
        wire.send("12345678").unwrap();
        assert!(!wire.conn.is_full());
        wire.conn.set_marks(|options| (options.high_water_mark, options.low_water_mark) = (8, 2));
        assert!(wire.conn.is_full());
        wire.conn.set_marks(|options| options.low_water_mark = 7);
        assert!(wire.conn.is_full(), "eight are more than seven");
        wire.conn.set_marks(|options| (options.high_water_mark, options.low_water_mark) = (20, 10));
        assert!(!wire.conn.is_full());
        rig.run();
        assert_eq!(wire.heard(), ["drained"]);
    });
}

#[test]
fn options_of_its_own_are_no_others() {
    rig(|rig| {
        let common: Rc<Common> = Options::default().into();
        let (one, two) = (rig.wire(Some(peer()), common.clone()), rig.wire(Some(peer()), common.clone()));
        one.conn.change_options(|options| options.line_limit = 3);
        one.conn.change_options(|options| options.read_size = 2);
        assert_eq!(one.conn.options(|options| (options.line_limit, options.read_size)), (3, 2));
        assert_eq!(two.conn.options(|options| options.line_limit), common.options.line_limit);
    });
}

#[test]
fn one_that_is_held_hears_nothing_until_it_is_released() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.conn.hold();
        wire.reads().hears_end();
        wire.comes("data");
        wire.ends();
        assert!(wire.heard().is_empty());
        wire.conn.release();
        rig.run();
        assert_eq!(wire.heard(), ["data data", "end: closed by the peer"]);
    });
}

#[test]
fn nothing_is_delivered_while_it_is_introduced() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.conn.hold();
        let (heard, context) = (wire.heard.clone(), rig.context.clone());
        let data = heard.clone();
        wire.script.brings("data");
        wire.tell(Ready::READ);
        wire.conn.introduce(move |socket| {
            heard.push("introduced");
            socket.conn.set_reader(Some(Box::new(OnData(move |_: &Socket, bytes: &[u8]| {
                data.push(text(bytes));
                Ok(())
            }))));
            while context.iteration(false) {}
            heard.push("done");
            Ok(())
        });
        rig.run();
        assert_eq!(wire.heard(), ["introduced", "done", "data"]);
    });
}

#[test]
fn an_introduction_that_fails_is_the_end() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end();
        wire.conn.hold();
        wire.conn.introduce(|_| Err(Error::other("not you")));
        rig.run();
        assert_eq!(wire.heard(), ["end: not you"]);
    });
}

#[test]
fn an_end_that_came_first_is_told_late_and_once() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.fails(Errno::CONNRESET);
        wire.is(Ready::READ | Ready::AT_END);
        assert!(!wire.conn.is_open());
        wire.hears_end();
        assert!(wire.heard().is_empty(), "not within the call");
        rig.run();
        assert_eq!(wire.heard(), ["end: Reset"]);
        wire.hears_end();
        rig.run();
        assert!(wire.heard().is_empty());
    });
}

#[test]
fn a_callback_for_the_end_can_be_replaced_and_removed() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.conn.set_on_disconnect(Some(Box::new(|_, _| panic!("it was replaced"))));
        wire.hears_end();
        wire.conn.close();
        rig.run();
        assert_eq!(wire.heard(), ["end: closed here"]);
        let wire = rig.tcp();
        wire.hears_end();
        wire.conn.set_on_disconnect(None);
        wire.conn.close();
        rig.run();
        assert!(wire.heard().is_empty());
    });
}

#[test]
fn while_it_is_paused_nothing_is_delivered_but_nothing_is_lost() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.reads().hears_end();
        wire.conn.pause();
        wire.script.brings("data");
        wire.ends();
        assert!(wire.heard().is_empty() && wire.conn.is_paused());
        wire.conn.resume();
        rig.run();
        assert_eq!(wire.heard(), ["data data", "end: closed by the peer"]);
        wire.conn.resume();
    });
}
