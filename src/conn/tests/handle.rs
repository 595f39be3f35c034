//! Handles, strong and weak.

use std::collections::HashSet;

use glib::clone::{Downgrade, Upgrade};

use super::*;

#[test]
fn handles_of_one_connection_are_equal_and_others_are_not() {
    rig(|rig| {
        let (one, two) = (rig.tcp(), rig.tcp());
        let (a, b) = (one.socket.clone().unwrap(), one.socket.clone().unwrap());
        let other = two.socket.clone().unwrap();
        assert!(a == b && a != other);
        assert_eq!(HashSet::from([a, b, other]).len(), 2);
    });
}

#[test]
fn a_weak_handle_keeps_nothing_open() {
    rig(|rig| {
        let mut wire = rig.tcp();
        let weak = Downgrade::downgrade(wire.socket.as_ref().unwrap());
        assert_eq!(wire.conn.handles.get(), 1);
        let strong = Upgrade::upgrade(&weak);
        assert_eq!((strong == wire.socket, wire.conn.handles.get()), (true, 2));
        wire.socket = None;
        assert!(wire.conn.is_open());
        drop(strong);
        assert!(!wire.conn.is_open());
        assert!(weak.upgrade().is_none(), "nothing keeps it open");
    });
}

#[test]
fn a_weak_handle_finds_one_that_a_reader_keeps() {
    rig(|rig| {
        let mut wire = rig.tcp();
        wire.reads();
        let weak = wire.socket.as_ref().unwrap().downgrade();
        wire.socket = None;
        assert!(weak.upgrade().is_some());
        wire.ends();
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn a_handle_shows_its_peer_and_whether_it_is_open() {
    rig(|rig| {
        let wire = rig.tcp();
        let shown = format!("{:?}", wire.socket.as_ref().unwrap());
        assert!(shown.contains("192.0.2.1:7") && shown.contains("open: true"), "{shown}");
        wire.conn.abort();
        let shown = format!("{:?} {:?}", wire.socket.as_ref().unwrap(), wire.conn);
        assert!(shown.contains("open: false") && shown.contains("Conn"), "{shown}");
    });
}
