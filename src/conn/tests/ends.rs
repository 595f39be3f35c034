//! Every face is told the same end: callbacks, blocking calls and futures, in whatever order they ask.

use rustix::io::Errno;

use super::*;

/// Asks for input, and is told the end.
type Face = (&'static str, fn(&Wire<'_>) -> String);

const FACES: [Face; 9] = [
    ("recv", |wire| failure(wire.conn.blocking().recv(10))),
    ("recv_line", |wire| failure(wire.conn.blocking().recv_line())),
    ("recv_into", |wire| failure(wire.conn.blocking().recv_into(&mut [0; 10]))),
    ("recv_exact", |wire| failure(wire.conn.blocking().recv_exact(3).map(drop))),
    ("recv_until", |wire| failure(wire.conn.blocking().recv_until(b"."))),
    ("lend", |wire| match wire.conn.blocking().lend() {
        Ok(lent) => {
            assert!(lent.is_none());
            "Closed".into()
        }
        Err(error) => kind(&error),
    }),
    ("recv_to_end", |wire| match wire.conn.blocking().recv_to_end(10) {
        Ok(all) => {
            assert!(all.is_empty());
            "Closed".into()
        }
        Err(error) => kind(&error),
    }),
    ("take", |wire| {
        let mut ticket = Ticket::New;
        polled(wire, |flag| wire.poll_recv(flag, &mut ticket, 10))
    }),
    ("read", |wire| polled(wire, |flag| wire.conn.polling(&flag.context()).read(&mut [0; 10][..]))),
];

/// A future is told once the loop has run.
fn polled<R: std::fmt::Debug>(wire: &Wire<'_>, mut poll: impl FnMut(&Flag) -> Poll<Result<R>>) -> String {
    let flag = Flag::new();
    if let Poll::Ready(result) = poll(&flag) {
        return failure(result);
    }
    wire.rig.run();
    assert!(flag.woken());
    match poll(&flag) {
        Poll::Ready(result) => failure(result),
        Poll::Pending => "pending".into(),
    }
}

/// However it ends, `reason` is told to the callback and `error` to each face, before the loop has run and after.
fn same_end(reason: &str, error: &str, start: impl Fn(&Rig, &dyn Fn(&Wire<'_>))) {
    rig(|rig| {
        for (name, ask) in FACES {
            start(rig, &|wire: &Wire<'_>| {
                wire.hears_end();
                assert_eq!(ask(wire), error, "{name}, before the callback");
                rig.run();
                assert_eq!(wire.heard(), [format!("end: {reason}")], "the callback, after {name}");
                assert_eq!(ask(wire), error, "{name}, after the callback");
                assert_eq!(failure(wire.send("more")), error, "sending, after the end");
                assert_eq!(kind(&wire.conn.closed()), error);
            });
        }
        for reads in [false, true] {
            start(rig, &|wire: &Wire<'_>| {
                wire.hears_end();
                if reads {
                    wire.reads();
                }
                rig.run();
                assert_eq!(wire.heard(), [format!("end: {reason}")], "with a reader: {reads}");
                for (name, ask) in FACES {
                    assert_eq!(ask(wire), error, "{name}, after the callback");
                }
            });
        }
    });
}

fn plain(how: impl Fn(&Wire<'_>)) -> impl Fn(&Rig, &dyn Fn(&Wire<'_>)) {
    move |rig, check| {
        for wire in [rig.tcp(), rig.unix()] {
            how(&wire);
            check(&wire);
        }
    }
}

const AT_END: Ready = Ready::READ.with(Ready::AT_END);

#[test]
fn the_peers_end() {
    same_end(
        "closed by the peer",
        "Closed",
        plain(|wire| {
            wire.script.ends();
            wire.tell(Ready::READ | Ready::HANGUP);
        }),
    );
}

#[test]
fn a_reset_told_to_a_read() {
    same_end(
        "Reset",
        "Reset",
        plain(|wire| {
            wire.script.fails(Errno::CONNRESET);
            wire.tell(AT_END);
        }),
    );
}

#[test]
fn a_dead_peer_told_to_a_read() {
    same_end(
        "Io TimedOut",
        "Io TimedOut",
        plain(|wire| {
            wire.script.fails(Errno::TIMEDOUT);
            wire.tell(AT_END);
        }),
    );
}

#[test]
fn a_reset_told_to_a_write() {
    same_end(
        "Reset",
        "Reset",
        plain(|wire| {
            wire.script.refuses(Errno::CONNRESET);
            assert_eq!(failure(wire.send("lost")), "Reset");
            // The kernel tells it once. A read finds the end.
            wire.script.ends();
            wire.tell(AT_END);
        }),
    );
}

#[test]
fn a_peer_that_had_gone_told_to_a_write() {
    same_end(
        "Closed",
        "Closed",
        plain(|wire| {
            wire.script.refuses(Errno::PIPE);
            assert_eq!(failure(wire.send("lost")), "Closed");
            wire.script.ends();
            wire.tell(Ready::READ | Ready::HANGUP);
        }),
    );
}

#[test]
fn a_failure_of_the_system_told_to_a_write() {
    same_end(
        "Io Uncategorized",
        "Io Uncategorized",
        plain(|wire| {
            wire.script.refuses(Errno::NOBUFS);
            assert_eq!(failure(wire.send("lost")), "Io Uncategorized");
        }),
    );
}

#[test]
fn a_reset_told_to_a_send_that_waited() {
    same_end(
        "Reset",
        "Reset",
        plain(|wire| {
            wire.script.has_room(0);
            wire.send("lost").unwrap();
            wire.script.refuses(Errno::CONNRESET);
            wire.tell(Ready::WRITE);
            wire.conn.output().send();
            wire.script.ends();
            wire.tell(AT_END);
        }),
    );
}

#[test]
fn a_tls_stream_that_was_cut() {
    same_end("Truncated", "Truncated", |rig, check| {
        for side in [Side::Server, Side::Client] {
            let (wire, _tls) = rig.sealed(side);
            wire.script.ends();
            wire.tell(Ready::READ | Ready::HANGUP);
            check(&wire);
        }
    });
}

#[test]
fn a_tls_stream_that_was_ended() {
    same_end("closed by the peer", "Closed", |rig, check| {
        let (wire, mut tls) = rig.sealed(Side::Server);
        wire.script.brings(tls.ends()).ends();
        wire.tell(Ready::READ | Ready::HANGUP);
        check(&wire);
    });
}
