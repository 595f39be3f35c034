//! The options, and the setters that builders share.

use super::*;
use crate::conn::line_ending::LineEnding;
use crate::conn::options::limit_setters;
use crate::sys::KeepAlive;

#[derive(Default)]
struct Builder {
    options: Options,
}

impl Builder {
    limit_setters!();
}

#[test]
fn each_setter_sets_its_option() {
    let second = Duration::from_secs(1);
    let builder = Builder::default()
        .handshake_timeout(second)
        .timeout(2 * second)
        .idle_timeout(3 * second)
        .keep_alive(KeepAlive::default())
        .user_timeout(4 * second)
        .no_delay(false)
        .tos(5)
        .recv_buffer(6)
        .send_buffer(7)
        .accept_fds(8)
        .line_limit(9)
        .send_limit(10)
        .high_water_mark(11)
        .low_water_mark(12)
        .read_size(13)
        .linger(14 * second)
        .receive_timeout(15 * second)
        .line_ending(LineEnding::CrLf);
    let options = builder.options;
    let seconds = |number| number * second;
    assert_eq!((options.handshake_timeout, options.linger), (seconds(1), seconds(14)));
    assert_eq!((options.timeout, options.idle_timeout), (Some(seconds(2)), Some(seconds(3))));
    assert_eq!((options.tuning.user_timeout, options.tuning.no_delay), (Some(seconds(4)), Some(false)));
    assert_eq!((options.receive_timeout, options.line_ending), (Some(seconds(15)), LineEnding::CrLf));
    assert!(options.tuning.keep_alive.is_some_and(|kept| kept.is_some()));
    assert_eq!((options.tuning.tos, options.tuning.descriptors), (Some(5), 8));
    assert_eq!((options.tuning.recv_buffer, options.tuning.send_buffer), (Some(6), Some(7)));
    assert_eq!((options.line_limit, options.send_limit, options.read_size), (9, 10, 13));
    assert_eq!((options.high_water_mark, options.low_water_mark), (11, 12));
}

#[test]
fn what_would_stop_everything_is_taken_for_the_least_that_works() {
    assert_eq!(Builder::default().read_size(0).options.read_size, 1);
    let unlimited = Builder::default().timeout(None).idle_timeout(None).keep_alive(None).options;
    assert_eq!((unlimited.timeout, unlimited.idle_timeout), (None, None));
    assert!(unlimited.tuning.keep_alive.is_some_and(|kept| kept.is_none()), "turned off, not left alone");
}

#[test]
fn marks_beyond_the_limit_or_in_disorder_still_work() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| {
            options.send_limit = 10;
            (options.high_water_mark, options.low_water_mark) = (100, 200);
        });
        wire.hears_drain();
        wire.script.has_room(0);
        wire.send("0123456789").unwrap();
        assert!(wire.conn.is_full(), "at the limit at the latest");
        wire.script.has_room(1);
        wire.is(Ready::WRITE);
        assert_eq!(wire.heard(), ["drained"], "below the high mark in any case");
    });
}
