//! What the reader is called with, and what its calls may do.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::conn::line_ending::LineEnding;

#[test]
fn lines_are_whole_however_they_come() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.reads_lines();
        for piece in ["on", "e\ntwo\nthr", "ee\n", "\n", "four"] {
            wire.comes(piece);
        }
        assert_eq!(wire.heard(), ["line one", "line two", "line three", "line "]);
        wire.comes("\n");
        assert_eq!(wire.heard(), ["line four"]);
    });
}

#[test]
fn lines_as_bytes_are_not_made_text_and_lines_as_text_are() {
    rig(|rig| {
        let wire = rig.tcp();
        let heard = wire.heard.clone();
        wire.conn.set_reader(Some(Box::new(OnByteLine(move |_: &Socket, line: &[u8]| {
            heard.push(format!("{line:?}"));
            Ok(())
        }))));
        wire.comes(b"\xff\n");
        assert_eq!(wire.heard(), ["[255]"]);
        wire.reads_lines();
        wire.comes(b"a\xff\nwell\n");
        assert_eq!(wire.heard(), ["line a\u{fffd}", "line well"]);
        // One that comes in two pieces.
        wire.comes(b"a\xff");
        wire.comes(b"b\n");
        assert_eq!(wire.heard(), ["line a\u{fffd}b"]);
    });
}

#[test]
fn data_comes_in_pieces_of_the_read_size() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.read_size = 3);
        wire.reads();
        wire.comes("abcdefgh");
        wire.comes("ij");
        assert_eq!(wire.heard(), ["data abc", "data def", "data gh", "data ij"]);
    });
}

#[test]
fn what_was_closed_in_a_callback_is_left_over() {
    rig(|rig| {
        let wire = rig.tcp();
        let heard = wire.heard.clone();
        wire.hears_end().reads_lines_with(move |socket, line| {
            heard.push(format!("line {line}"));
            socket.conn.close();
            Ok(())
        });
        wire.comes("one\ntwo\n");
        assert_eq!(wire.heard(), ["line one", "end: closed here, left two\n"]);
    });
}

#[test]
fn another_reader_gets_the_rest() {
    rig(|rig| {
        let wire = rig.tcp();
        let heard = wire.heard.clone();
        wire.reads_lines_with(move |socket, line| {
            heard.push(format!("line {line}"));
            let heard = heard.clone();
            socket.conn.set_reader(Some(Box::new(OnData(move |_: &Socket, data: &[u8]| {
                heard.push(format!("data {}", text(data)));
                Ok(())
            }))));
            Ok(())
        });
        wire.comes("one\ntwo\nthr");
        assert_eq!(wire.heard(), ["line one", "data two\nthr"]);
    });
}

#[test]
fn a_reader_that_removes_itself_leaves_the_rest_where_it_is() {
    rig(|rig| {
        let wire = rig.tcp();
        let heard = wire.heard.clone();
        wire.reads_lines_with(move |socket, line| {
            heard.push(format!("line {line}"));
            socket.conn.set_reader(None);
            Ok(())
        });
        wire.comes("one\ntwo\n");
        assert_eq!(wire.heard(), ["line one"]);
        assert_eq!(text(&wire.conn.take_leftover()), "two\n");
        wire.comes("three\n");
        assert!(wire.heard().is_empty(), "nobody reads");
    });
}

#[test]
fn a_pause_in_a_callback_holds_the_next_one_back() {
    rig(|rig| {
        let wire = rig.tcp();
        let heard = wire.heard.clone();
        wire.reads_lines_with(move |socket, line| {
            heard.push(format!("line {line}"));
            socket.conn.pause();
            Ok(())
        });
        wire.comes("one\ntwo\n");
        assert_eq!(wire.heard(), ["line one"]);
        assert!(wire.conn.is_paused());
        wire.conn.resume();
        wire.conn.resume();
        rig.run();
        assert_eq!(wire.heard(), ["line two"]);
    });
}

#[test]
fn an_error_of_a_callback_is_the_end() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end().reads_lines_with(|_, _| Err(Error::other("not that")));
        wire.comes("one\ntwo\n");
        assert_eq!(wire.heard(), ["end: not that, left two\n"]);
        let wire = rig.tcp();
        wire.hears_end().reads_with(|_, _| Err(Error::other("nor that")));
        wire.comes("data");
        assert_eq!(wire.heard(), ["end: nor that"]);
        assert_eq!(wire.script.calls(), ["shutdown"], "gracefully");
    });
}

#[test]
fn a_panic_aborts_the_connection_and_comes_out_of_the_loop() {
    rig(|rig| {
        for lines in [false, true] {
            let wire = rig.tcp();
            let captured = Rc::new(());
            let held = captured.clone();
            wire.hears_end();
            if lines {
                wire.reads_lines_with(move |_, _| panic!("with {held:?}"));
            } else {
                wire.reads_with(move |_, _| panic!("with {held:?}"));
            }
            let panic = catch_unwind(AssertUnwindSafe(|| wire.comes("one\ntwo\n"))).unwrap_err();
            assert_eq!(panic.downcast_ref::<String>().unwrap(), "with ()");
            rig.run();
            assert!(wire.heard().is_empty(), "its callbacks are gone");
            assert_eq!((wire.phase(), Rc::strong_count(&captured)), (Phase::Closed, 1));
        }
    });
}

#[test]
fn when_the_time_is_up_others_come_first() {
    rig(|rig| {
        let (slow, quick) = (rig.tcp(), rig.tcp());
        let heard = slow.heard.clone();
        slow.reads_lines_with(move |_, line| {
            // More than the loop gives to the network in one go.
            script::pass(Duration::from_millis(5));
            heard.push(format!("slow {line}"));
            Ok(())
        });
        let heard = slow.heard.clone();
        quick.reads_with(move |_, data| {
            heard.push(format!("quick {}", text(data)));
            Ok(())
        });
        rig.run();
        slow.script.brings("more\n".repeat(100));
        quick.script.brings("data");
        slow.tell(Ready::READ);
        quick.tell(Ready::READ);
        rig.run();
        let heard = slow.heard();
        let at = heard.iter().position(|heard| heard == "quick data").unwrap();
        assert_eq!(heard.len(), 101);
        assert!((1..50).contains(&at), "after {at} of 100 lines");
    });
}

#[test]
fn a_nested_loop_serves_the_others_and_holds_its_own_connection_back() {
    rig(|rig| {
        let (wire, other) = (rig.tcp(), rig.tcp());
        let heard = wire.heard.clone();
        other.reads_with({
            let heard = heard.clone();
            move |_, data| {
                heard.push(format!("other {}", text(data)));
                Ok(())
            }
        });
        let context = rig.context.clone();
        wire.reads_lines_with(move |_, line| {
            heard.push(format!("begin {line}"));
            while context.iteration(false) {}
            heard.push(format!("end {line}"));
            Ok(())
        });
        rig.run();
        wire.script.brings("one\ntwo\n");
        other.script.brings("data");
        wire.tell(Ready::READ);
        other.tell(Ready::READ);
        rig.run();
        assert_eq!(wire.heard(), ["begin one", "other data", "end one", "begin two", "end two"]);
    });
}

#[test]
fn a_reader_that_was_set_while_data_waits_gets_it() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.brings("line\nrest");
        assert_eq!(wire.conn.blocking().recv_line().unwrap(), "line");
        wire.reads();
        assert!(wire.heard().is_empty(), "not within the call");
        rig.run();
        assert_eq!(wire.heard(), ["data rest"]);
    });
}

#[test]
fn with_crlf_both_bytes_end_a_line_however_they_come() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.line_ending = LineEnding::CrLf);
        wire.reads_lines();
        for piece in ["one\r\ntwo\nthr", "ee\r", "\n\r\nfo\rur", "\r\n"] {
            wire.comes(piece);
        }
        assert_eq!(wire.heard(), ["line one", "line two", "line three", "line ", "line fo\rur"]);
        wire.conn.send(b"answer", true).unwrap();
        assert_eq!(wire.written(), "answer\r\n");
    });
}
