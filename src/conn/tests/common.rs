//! The connection itself: how it comes into the loop, what it knows of its peer, and how it asks for another turn.

use super::*;

#[test]
fn a_connection_comes_into_the_loop_as_its_options_say() {
    rig(|rig| {
        let wire = rig.tcp_with(|options| options.idle_timeout = Some(Duration::from_secs(1)));
        let state = wire.conn.status.get();
        assert!(state.is_socket() && wire.conn.is_open() && !wire.conn.is_tls());
        assert!(state.duties.contains(Duties::WATCHES_IDLENESS));
        assert_eq!(wire.conn.remote(), peer());
        let wire = rig.pair(true);
        let wire_of = wire.conn.status.get().wire;
        assert!(wire_of.contains(state::Wire::FILES | state::Wire::INPUT_ONESHOT | state::Wire::ONESHOT));
        let wire = rig.pair(false);
        assert_eq!(wire.conn.status.get().wire, state::Wire::FILES);
    });
}

#[test]
fn a_closed_transport_does_not_come_into_the_loop() {
    rig(|rig| {
        let (fd, _script) = scripted(false);
        let transport = Transport::socket(fd, Some(&peer()));
        transport.close();
        let refused = Conn::new(&rig.engine, transport, Options::default().into(), Some(peer()));
        assert_eq!(kind(&refused.unwrap_err()), "Closed");
    });
}

#[test]
fn a_peer_is_remembered_as_it_was_given() {
    rig(|rig| {
        let v6 = Endpoint::Inet("[2001:db8::1]:9".parse().unwrap());
        for remote in [peer(), v6, Endpoint::Unix(Some("/run/socket".into())), Endpoint::Abstract(b"name".to_vec())] {
            let wire = rig.wire(Some(remote.clone()), Options::default().into());
            assert_eq!((wire.conn.remote(), wire.conn.peer_name()), (remote.clone(), remote.to_string()));
            wire.conn.abort();
            assert_eq!(wire.conn.remote(), remote, "for messages that are still to come");
        }
        assert_eq!(rig.wire(None, Options::default().into()).conn.remote(), Endpoint::Descriptor);
    });
}

#[test]
fn another_turn_is_asked_for_in_or_out_of_a_callback_and_without_a_registration() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.reads();
        rig.run();
        wire.conn.give_back_input(b"one");
        rig.run();
        assert_eq!(wire.heard(), ["data one"]);
        wire.conn.status.mark(Look::IN_CALLBACK, true);
        wire.conn.give_back_input(b"two");
        rig.run();
        assert!(wire.heard().is_empty());
        wire.conn.release();
        rig.run();
        assert_eq!(wire.heard(), ["data two"]);
        wire.conn.abort();
        assert!(wire.conn.key.get().is_none());
        wire.hears_end();
        rig.run();
        assert_eq!(wire.heard(), ["end: closed here"]);
    });
}

#[test]
fn memory_comes_with_the_first_use() {
    rig(|rig| {
        let wire = rig.tcp();
        wire.reads();
        wire.comes("data");
        wire.send("data").unwrap();
        assert!(wire.conn.extras.get().is_none() && wire.conn.io.get().is_none(), "most connections need none");
        wire.hears_half_close();
        assert!(wire.conn.extras.get().is_some());
    });
}
