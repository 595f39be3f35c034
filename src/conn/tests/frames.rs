//! Frames as they are delivered, sent and refused.

use super::*;
use crate::conn::framing::Framing;

const FRAMING: Framing = Framing::length16();

impl Wire<'_> {
    fn reads_frames(&self, framing: Framing) {
        let heard = self.heard.clone();
        framing.set_reader(&self.conn, move |_, message| {
            heard.push(format!("frame {}", text(message)));
            Ok(())
        });
    }
}

#[test]
fn frames_are_whole_wherever_the_bytes_are_cut() {
    let bytes = b"\0\x03one\0\0\0\x05three";
    for at in 0..=bytes.len() {
        rig(|rig| {
            let wire = rig.tcp();
            wire.reads_frames(FRAMING);
            for piece in [&bytes[..at], &bytes[at..]].into_iter().filter(|piece| !piece.is_empty()) {
                wire.comes(piece);
            }
            assert_eq!(wire.heard(), ["frame one", "frame ", "frame three"], "cut at {at}");
        });
    }
}

#[test]
fn frames_that_come_byte_by_byte_are_whole() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.reads_frames(Framing::netstring());
        for byte in b"3:one,0:,5:three," {
            wire.comes([*byte]);
        }
        assert_eq!(wire.heard(), ["frame one", "frame ", "frame three"]);
        wire.hears_end();
        wire.comes("2:x");
        wire.ends();
        assert_eq!(wire.heard(), ["end: closed by the peer, left 2:x"]);
    });
}

#[test]
fn frames_come_over_tls_as_well() {
    rig(|rig| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        wire.reads_frames(Framing::crlf());
        let sealed = tls.seals("one\r\ntwo\nhalf\r");
        wire.comes(sealed);
        let sealed = tls.seals("\n");
        wire.comes(sealed);
        assert_eq!(wire.heard(), ["frame one", "frame two\nhalf"]);
        Framing::crlf().send(&wire.conn, b"answer").unwrap();
        rig.run();
        assert_eq!(tls.got(&wire), "answer\r\n");
    });
}

#[test]
fn a_frame_over_the_limit_ends_the_connection_by_a_reset_after_those_before_it() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.line_limit = 3);
        wire.hears_end().reads_frames(FRAMING);
        wire.comes(b"\0\x03one\0\x04");
        assert_eq!(wire.heard()[..1], ["frame one"]);
        let error = Error::FrameTooLong { peer: peer().to_string(), size: Some(4), limit: 3 };
        assert_eq!(error.to_string(), "frame of 4 bytes from 192.0.2.1:7 exceeds the limit of 3 bytes");
        assert_eq!(failure(wire.send("x")), error.to_string());
    });
}

#[test]
fn what_is_no_frame_ends_the_connection_for_whoever_receives() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.hears_end().reads_frames(Framing::netstring());
        wire.comes("3:one,007:");
        let problem = "frame error with 192.0.2.1:7: the length of a netstring begins with a superfluous 0";
        assert_eq!(wire.heard(), ["frame one".to_string(), format!("end: {problem}, left 007:")]);

        let wire = rig.tcp();
        wire.script.brings("1:a,x");
        assert_eq!(wire.conn.blocking().recv_frame(Framing::netstring()).unwrap(), b"a");
        let failed = failure(wire.conn.blocking().recv_frame(Framing::netstring()));
        assert!(failed.ends_with("contains \"x\", which is not a digit"), "{failed}");
        assert!(!wire.conn.is_open());
    });
}

#[test]
fn a_framing_that_cannot_be_is_an_error_of_the_option() {
    rig(|rig| {
        let wire = rig.tcp();
        let framing = Framing::varint().counts_itself();
        let problem = "counts_itself applies only to framings by length8, length16, length32 and length64";
        assert_eq!(failure(framing.send(&wire.conn, b"x")), problem);
        assert_eq!(failure(wire.conn.blocking().recv_frame(framing)), problem);
        assert!(wire.conn.is_open());
        wire.hears_end().reads_frames(framing);
        rig.run();
        assert_eq!(wire.heard(), [format!("end: {problem}")]);
    });
}

#[test]
fn what_a_framing_cannot_carry_is_refused_and_nothing_is_queued() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.script.has_room(0);
        let failed = failure(Framing::length8().send(&wire.conn, &[0; 256]));
        assert_eq!(
            failed,
            "frame error with 192.0.2.1:7: 256 bytes do not fit into a frame whose length has 8 bits; the maximum is 255"
        );
        assert!(Framing::until(b'x').send(&wire.conn, b"axb").is_err());
        assert_eq!(wire.conn.queued(), 0);
        assert!(wire.conn.is_open());
        Framing::length8().send(&wire.conn, &[0; 255]).unwrap();
        assert_eq!(wire.conn.queued(), 256);
    });
}

#[test]
fn a_frame_is_queued_whole_or_not_at_all() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.send_limit = 6);
        wire.script.has_room(0);
        assert_eq!(failure(FRAMING.send(&wire.conn, b"12345")), "QueueFull");
        assert_eq!(wire.conn.queued(), 0);
        FRAMING.send(&wire.conn, b"1234").unwrap();
        assert_eq!(wire.conn.queued(), 6);
    });
}

#[test]
fn frames_that_are_sent_in_a_callback_go_out_together() {
    rig(|rig| {
        let wire = rig.tcp();
        FRAMING.set_reader(&wire.conn, |socket, message| {
            FRAMING.send(&socket.conn, message)?;
            Framing::netstring().send(&socket.conn, message)
        });
        wire.comes("\0\x02ab\0\x01c");
        assert_eq!(wire.written(), "\0\x02ab2:ab,\0\x01c1:c,");
        assert_eq!(wire.script.writes(), 1);
    });
}

#[test]
fn a_limit_that_is_set_in_a_callback_counts_from_the_next_frame_on() {
    rig(|rig| {
        let wire = rig.tcp();
        let heard = wire.heard.clone();
        wire.hears_end();
        FRAMING.set_reader(&wire.conn, move |socket, message| {
            heard.push(format!("frame {}", text(message)));
            socket.conn.change_options(|options| options.line_limit = 3);
            Ok(())
        });
        wire.comes("\0\x04four\0\x03one\0\x04more");
        let heard = wire.heard();
        assert_eq!(heard[..2], ["frame four", "frame one"]);
        assert!(heard[2].starts_with("end: frame of 4 bytes"), "{heard:?}");
    });
}

#[test]
fn from_frames_to_lines_to_data_and_back_no_byte_is_lost() {
    rig(|rig| {
        let wire = rig.tcp();
        let heard = wire.heard.clone();
        wire.reads_lines_with(move |socket, line| {
            heard.push(format!("line {line}"));
            let heard = heard.clone();
            FRAMING.set_reader(&socket.conn, move |socket, message| {
                heard.push(format!("frame {}", text(message)));
                let heard = heard.clone();
                Framing::until(0).set_reader(&socket.conn, move |socket, message| {
                    heard.push(format!("until {}", text(message)));
                    let heard = heard.clone();
                    socket.conn.set_reader(Some(Box::new(OnData(move |_: &Socket, data: &[u8]| {
                        heard.push(format!("data {}", text(data)));
                        Ok(())
                    }))));
                    Ok(())
                });
                Ok(())
            });
            Ok(())
        });
        let bytes = b"one\n\0\x03two\nhree\0four\n";
        wire.comes(bytes);
        assert_eq!(wire.heard(), ["line one", "frame two", "until \nhree", "data four\n"]);
    });
}

#[test]
fn what_was_searched_for_lines_is_searched_anew_for_frames_and_the_other_way_round() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.reads_lines();
        wire.comes("\x01a\x02b");
        wire.reads_frames(Framing::length8());
        rig.run();
        assert_eq!(wire.heard(), ["frame a"]);
        wire.comes("c\t");
        assert_eq!(wire.heard(), ["frame bc"]);
        wire.reads_frames(Framing::until(0));
        wire.comes("\ntwo");
        assert!(wire.heard().is_empty());
        wire.reads_lines();
        rig.run();
        assert_eq!(wire.heard(), ["line \t"]);
        // The end comes while nothing but searched bytes are there.
        wire.reads_frames(Framing::until(b'o'));
        wire.ends();
        assert_eq!(wire.heard(), ["frame tw"]);
    });
}

#[test]
fn who_closes_in_a_callback_has_the_other_frames_left() {
    rig(|rig| {
        let wire = rig.tcp();
        let heard = wire.heard.clone();
        wire.hears_end();
        FRAMING.set_reader(&wire.conn, move |socket, message| {
            heard.push(format!("frame {}", text(message)));
            socket.conn.close();
            Ok(())
        });
        wire.comes("\0\x01a\0\x01b");
        assert_eq!(wire.heard(), ["frame a", "end: closed here, left \0\x01b"]);
    });
}

#[test]
fn tls_that_starts_in_a_callback_takes_nothing_that_came_before_it() {
    for (bytes, is_refused) in [(&b"\0\x01a"[..], false), (b"\0\x01a\0\x01b", true), (b"\0\x01a\0", true)] {
        rig(|rig| {
            let wire = rig.tcp();
            let heard = wire.heard.clone();
            wire.hears_end();
            FRAMING.set_reader(&wire.conn, move |socket, message| {
                heard.push(format!("frame {}", text(message)));
                let started = socket.conn.handshaking().start(server_session(), None);
                heard.push(started.map_or_else(|error| kind(&error), |()| "started".into()));
                Ok(())
            });
            wire.comes(bytes);
            let refused = ["frame a", "Plaintext", "end: Plaintext"];
            assert_eq!(wire.heard(), if is_refused { &refused[..] } else { &["frame a", "started"][..] });
        });
    }
}

#[test]
fn a_panic_in_a_frame_callback_aborts_the_connection() {
    rig(|rig| {
        let wire = rig.tcp();
        FRAMING.set_reader(&wire.conn, |_, _| panic!("with this"));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wire.comes("\0\x01a"))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"with this"));
        assert_eq!(wire.phase(), Phase::Closed);
    });
}

#[test]
fn a_frame_that_is_announced_takes_no_more_memory_than_it_has() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.reads_frames(Framing::length32());
        const LENGTH: usize = 300_000;
        wire.comes((LENGTH as u32).to_be_bytes());
        let memory = || wire.conn.io.inbox(|inbox| inbox.memory()).unwrap();
        assert!(memory() < 100, "what is announced is not taken");
        let mut left = LENGTH;
        while left > 10 {
            let count = 50_000.min(left - 10);
            wire.comes(vec![b'x'; count]);
            left -= count;
            assert!(memory() <= LENGTH + 4, "{}", memory());
        }
        wire.comes(vec![b'x'; left]);
        assert_eq!(wire.heard()[0].len(), "frame ".len() + LENGTH);
    });
}
