//! Futures and the stream.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use super::*;

fn poll<F: Future>(future: &mut Pin<&mut F>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

fn text(item: Poll<Option<crate::error::Result<OwnedMessage>>>) -> Option<String> {
    match item {
        Poll::Ready(Some(Ok(message))) => Some(message.to_string()),
        Poll::Pending => None,
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_are_awaited_in_order_and_dropping_loses_none() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        let mut first = pin!(ws.next_future());
        assert!(poll(&mut first).is_pending());
        {
            let mut second = pin!(ws.next_future());
            assert!(poll(&mut second).is_pending());
        }
        let mut third = pin!(ws.next_future());
        assert!(poll(&mut third).is_pending());
        for name in [b"a", b"b", b"c"] {
            peer.send(0x81, name);
        }
        rig.run();
        assert!(poll(&mut third).is_pending(), "it is not its turn");
        assert_eq!(text(poll(&mut first)).as_deref(), Some("a"));
        assert_eq!(text(poll(&mut third)).as_deref(), Some("b"));
        drop(ws.next_future());
        let mut stream = ws.messages();
        assert_eq!(
            text(Pin::new(&mut stream).poll_next(&mut Context::from_waker(Waker::noop()))).as_deref(),
            Some("c")
        );
    });
}

#[test]
fn a_stream_ends_once_with_the_failure_before() {
    for (payload, fails) in [(closing(1000, ""), false), (closing(4000, "no"), true)] {
        rig(|rig| {
            let (ws, mut peer) = rig.pair(false);
            peer.send(0x82, &[1]);
            peer.send(0x88, &payload);
            let mut stream = ws.messages();
            let mut next = || Pin::new(&mut stream).poll_next(&mut Context::from_waker(Waker::noop()));
            assert!(next().is_pending());
            rig.run();
            assert!(matches!(next(), Poll::Ready(Some(Ok(OwnedMessage::Binary(bytes)))) if bytes == [1]));
            assert!(fails || matches!(next(), Poll::Ready(None) | Poll::Pending));
            rig.run();
            if fails {
                assert!(matches!(next(), Poll::Ready(Some(Err(Error::WebSocket { code: 4000, .. })))));
            }
            assert!(matches!(next(), Poll::Ready(None)));
            assert!(matches!(next(), Poll::Ready(None)));
        });
    }
}

#[test]
fn a_read_callback_excludes_futures_unless_it_is_paused() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        ws.read(|_, _| Ok(()));
        assert!(matches!(poll(&mut pin!(ws.next_future())), Poll::Ready(Some(Err(Error::Unsupported(_))))));
        ws.pause();
        peer.send(0x81, b"a");
        let mut next = pin!(ws.next_future());
        assert!(poll(&mut next).is_pending());
        rig.run();
        assert_eq!(text(poll(&mut next)).as_deref(), Some("a"));
    });
}

#[test]
fn sending_waits_for_room() {
    rig(|rig| {
        let (ws, mut peer) = rig.pair(true);
        while !ws.is_full() {
            ws.send([0; 60_000]).unwrap();
        }
        let before = ws.queued();
        let mut first = pin!(ws.send_future("one"));
        let mut second = pin!(ws.send_future("two"));
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        assert_eq!(ws.queued(), before);
        while !peer.bytes().is_empty() {
            rig.run();
        }
        assert!(poll(&mut second).is_pending(), "it is not its turn");
        assert!(matches!(poll(&mut first), Poll::Ready(Ok(()))));
        assert!(matches!(poll(&mut second), Poll::Ready(Ok(()))));
        rig.run();
        assert_eq!(peer.frames(), [(0x81, b"one".to_vec()), (0x81, b"two".to_vec())]);
        ws.abort();
        assert!(matches!(poll(&mut pin!(ws.send_future("three"))), Poll::Ready(Err(Error::Closed { .. }))));
    });
}

#[test]
fn a_message_longer_than_the_send_limit_is_an_error() {
    rig(|rig| {
        let (ws, _peer) = rig.pair(true);
        ws.set_send_limit(1000).unwrap();
        assert!(matches!(poll(&mut pin!(ws.send_future([0; 1000]))), Poll::Ready(Err(Error::QueueFull { .. }))));
        assert!(matches!(poll(&mut pin!(ws.send_future("x"))), Poll::Ready(Ok(()))));
        rig.run();
    });
}
