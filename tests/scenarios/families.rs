//! What can be done by a blocking call can be awaited; and no setting of a builder is dropped in silence.

use std::os::unix::net::UnixStream;

use network::{ClientTls, Error, Socket};

use crate::futures::{await_it, now};
use crate::util::*;

#[test]
fn lines_are_sent_and_awaited() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        await_it(async {
            client.sendline_future("gr\u{fc}\u{df}e").await.unwrap();
            client.sendline_future(String::new()).await.unwrap();
            assert_eq!(served.recv_line_future().await.unwrap(), "gr\u{fc}\u{df}e");
            assert_eq!(served.recv_line_future().await.unwrap(), "");
            client.shutdown_write().unwrap();
            assert!(matches!(client.sendline_future("late").await, Err(Error::Closed { .. })));
        });
    });
}

#[test]
fn what_is_before_a_delimiter_is_awaited_in_whatever_pieces_it_comes() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        await_it(async {
            client.send_future("Head: 1\r\nOther: 2\r\n\r").await.unwrap();
            assert!(now(served.recv_until_future("\r\n\r\n")).await.is_none(), "it was dropped, and loses nothing");
            let mut head = std::pin::pin!(served.recv_until_future("\r\n\r\n"));
            assert!(now(head.as_mut()).await.is_none());
            client.send_future("\nbody").await.unwrap();
            assert_eq!(head.await.unwrap(), b"Head: 1\r\nOther: 2");
            assert_eq!(served.recv_until_future("").await.unwrap(), b"");
            assert_eq!(served.recv_exact_future(4).await.unwrap(), b"body");
        });
    });
}

#[test]
fn a_search_begins_anew_when_somebody_else_has_taken_what_it_looked_through() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        await_it(async {
            client.send_future("12345678").await.unwrap();
            let mut found = std::pin::pin!(served.recv_until_future("--"));
            while served.recv_to_end_future(7).await.is_ok() {}
            assert!(now(found.as_mut()).await.is_none());
            assert_eq!(served.unread(), b"12345678");
            client.send_future("--ab--").await.unwrap();
            assert_eq!(found.await.unwrap(), b"");
            assert_eq!(served.recv_until_future("--").await.unwrap(), b"ab");
        });
    });
}

#[test]
fn the_line_limit_holds_for_delimiters_that_are_awaited() {
    for_each_kind(|kind| {
        let (sender, receiver) = (log_of_sockets(), log_of_sockets());
        let keep = receiver.clone();
        let (_server, address) = serve_with(server(kind).line_limit(4), kind, move |socket| {
            keep.add(socket);
            Ok(())
        });
        sender.add(connect(&address));
        until(|| receiver.len() == 1);
        let (client, served) = (sender.all().remove(0), receiver.all().remove(0));
        await_it(async {
            client.send_future("1234--12345678").await.unwrap();
            assert_eq!(served.recv_until_future("--").await.unwrap(), b"1234");
            let late = served.recv_until_future("--").await;
            assert!(matches!(late, Err(Error::LineTooLong { limit: 4, .. })), "{late:?}");
        });
    });
}

fn log_of_sockets() -> Log<Socket> {
    Log::new()
}

#[test]
fn all_up_to_the_end_is_awaited() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        await_it(async {
            client.send_future("first").await.unwrap();
            assert!(now(served.recv_to_end_future(100)).await.is_none(), "the end has not come");
            let more = served.recv_to_end_future(4).await;
            assert!(matches!(more, Err(Error::LimitExceeded { limit: 4, .. })), "{more:?}");
            client.send_future(" and last").await.unwrap();
            drop(client.close());
            assert_eq!(served.recv_to_end_future(14).await.unwrap(), b"first and last");
            assert_eq!(served.recv_to_end_future(14).await.unwrap(), b"", "and again");
        });
        let Joined { served, client: _client, server: _server } = join(kind);
        drop(served.close());
        let closed = await_it(served.recv_to_end_future(1));
        assert!(matches!(closed, Err(Error::Closed { .. })), "{closed:?}");
    });
}

#[test]
fn memory_of_the_callers_is_filled_by_futures() {
    for_each_kind(|kind| {
        let Joined { client, served, server: _server } = join(kind);
        let mut buffer = [b'.'; 6];
        await_it(async {
            assert_eq!(served.recv_into_future(&mut []).await.unwrap(), 0);
            client.send_future("abc").await.unwrap();
            assert_eq!(served.recv_into_future(&mut buffer).await.unwrap(), 3);
            assert_eq!(&buffer, b"abc...");
            client.send_future("12").await.unwrap();
            assert!(now(served.recv_exact_into_future(&mut buffer)).await.is_none());
            assert_eq!(&buffer, b"abc...", "it is left as it was");
            client.send_future("3456").await.unwrap();
            served.recv_exact_into_future(&mut buffer).await.unwrap();
            assert_eq!(&buffer, b"123456");
            drop(client.close());
            assert!(matches!(served.recv_into_future(&mut buffer).await, Err(Error::Closed { .. })));
        });
    });
}

#[test]
fn tls_for_a_descriptor_without_anybody_to_trust_is_refused_instead_of_sent_in_the_clear() {
    on_own_context(|| {
        let pair = || UnixStream::pair().unwrap();
        for builder in [Socket::builder().tls(ClientTls::new()), Socket::builder().tls(true)] {
            let (ours, theirs) = pair();
            let wrapped = [builder.clone().from_fd(ours), builder.wrap(theirs.try_clone().unwrap(), theirs)];
            for result in wrapped {
                match result {
                    Err(Error::TlsSettings(text) | Error::Unsupported(text)) => {
                        assert!(text.contains("ClientTls"), "{text}");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(!Socket::builder().tls(false).from_fd(pair().0).unwrap().is_tls());
        assert!(!Socket::from_fd(pair().0).unwrap().is_tls());
    });
}
