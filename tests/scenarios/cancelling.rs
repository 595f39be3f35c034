//! Futures that are dropped at any moment lose no byte and double none.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, join, select};
use futures_util::io::AsyncBufReadExt;
use network::{Error, Result, Socket};
use proptest::prelude::*;
use rustix::net::sockopt;

use crate::util::*;

/// What the reader tries next.
#[derive(Clone, Debug)]
enum Receive {
    Some(usize),
    Exactly(usize),
    Line,
    Lines,
    Chunks(usize),
    Peek(usize),
}

/// With so many turns of the loop of patience; then it is dropped.
type Patient<T> = (T, u8);

fn receive() -> impl Strategy<Value = Receive> {
    prop_oneof![
        (1usize..3000).prop_map(Receive::Some),
        (1usize..3000).prop_map(Receive::Exactly),
        Just(Receive::Line),
        Just(Receive::Lines),
        (1usize..3000).prop_map(Receive::Chunks),
        (0usize..3000).prop_map(Receive::Peek),
    ]
}

async fn turns(count: u8) {
    for _ in 0..count {
        glib::timeout_future(Duration::ZERO).await;
    }
}

/// `None` if patience ends first.
async fn within<T>(patience: u8, future: impl Future<Output = T>) -> Option<T> {
    let (future, patience) = (pin!(future), pin!(turns(patience)));
    match select(future, patience).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}

async fn send_all(socket: Socket, plan: Vec<Patient<usize>>) -> Vec<u8> {
    let mut sent = Vec::new();
    let mut next = 0u32;
    for (size, patience) in plan {
        // Text, so that lines come as they went, with newlines now and then.
        let data: Vec<u8> =
            (0..size).map(|n| if (n + size) % 97 == 0 { b'\n' } else { ((next as usize + n) % 128) as u8 }).collect();
        next = next.wrapping_mul(31).wrapping_add(7);
        if within(patience, socket.send_future(&data)).await.transpose().unwrap().is_some() {
            sent.extend(data);
        }
    }
    socket.flush_future().await.unwrap();
    let _ = socket.close();
    sent
}

async fn receive_all(socket: &Socket, plan: Vec<Patient<Receive>>) -> Vec<u8> {
    let got = Rc::new(RefCell::new(Vec::new()));
    let keep = &|data: Result<Vec<u8>>| data.map(|data| got.borrow_mut().extend(data));
    let with_newline = &|line: Result<String>| line.map(|line| [line.as_bytes(), b"\n"].concat());
    let closed = || Err(Error::Closed { peer: String::new() });
    for (step, (what, patience)) in plan.iter().cycle().enumerate() {
        if step % plan.len() == 0 {
            // Without any patience nothing would ever come.
            turns(1).await;
        }
        let attempt: Pin<Box<dyn Future<Output = Result>>> = match *what {
            Receive::Some(max) => Box::pin(async move { keep(socket.recv_future(max).await) }),
            Receive::Exactly(count) => Box::pin(async move { keep(socket.recv_exact_future(count).await) }),
            Receive::Line => Box::pin(async move { keep(with_newline(socket.recv_line_future().await)) }),
            Receive::Lines => Box::pin(async move {
                let mut lines = socket.lines();
                loop {
                    keep(with_newline(
                        lines.next().await.unwrap_or_else(|| Err(Error::Closed { peer: String::new() })),
                    ))?;
                }
            }),
            Receive::Chunks(max) => {
                Box::pin(async move { keep(socket.chunks(max).next().await.unwrap_or_else(closed)) })
            }
            Receive::Peek(count) => Box::pin(async move {
                let mut stream = socket.clone().into_stream();
                let there = stream.fill_buf().await?;
                if there.is_empty() {
                    return Err(Error::Closed { peer: String::new() });
                }
                let count = count.min(there.len());
                let taken = there[..count].to_vec();
                stream.consume_unpin(count);
                keep(Ok(taken))
            }),
        };
        match within(*patience, attempt).await {
            Some(Err(Error::Closed { .. })) => break,
            other => drop(other.transpose().unwrap()),
        }
    }
    // Half a line, or fewer bytes than were wanted.
    while let Ok(rest) = socket.recv_future(1000).await {
        got.borrow_mut().extend(rest);
    }
    got.take()
}

fn no_byte_is_lost(kind: Kind, sends: Vec<Patient<usize>>, receives: Vec<Patient<Receive>>) {
    on_own_context(|| {
        let Joined { client, served, server: _server } = crate::util::join(kind);
        for socket in [&client, &served] {
            sockopt::set_socket_send_buffer_size(socket, 4 << 10).unwrap();
            sockopt::set_socket_recv_buffer_size(socket, 4 << 10).unwrap();
            socket.set_high_water_mark(10_000);
            socket.set_low_water_mark(1000);
        }
        let both = glib::future_with_timeout(
            Duration::from_secs(20),
            join(send_all(client, sends), receive_all(&served, receives)),
        );
        let (sent, got) = glib::MainContext::ref_thread_default().block_on(both).expect("it hangs");
        assert_eq!(got.len(), sent.len());
        assert!(got == sent);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_byte_is_lost_and_none_doubled(
        kind in prop_oneof![Just(Kind::Tcp), Just(Kind::Unix), Just(Kind::Tls)],
        sends in proptest::collection::vec((1usize..20_000, 0u8..6), 1..40),
        receives in proptest::collection::vec((receive(), 0u8..4), 1..20),
    ) {
        no_byte_is_lost(kind, sends, receives);
    }
}

/// The loop is always busy here, with what is more urgent than floods, and futures spend the credit of the network outside of
/// its turns: once nobody was served any more.
#[test]
fn impatient_futures_in_a_busy_program_are_served() {
    let sends = [(4097, 4), (702, 1), (2603, 3), (19069, 3), (6354, 5), (277, 5), (2804, 1), (6554, 3)];
    let receives = [(Receive::Peek(194), 2), (Receive::Line, 3), (Receive::Peek(244), 1)];
    no_byte_is_lost(Kind::Tcp, sends.to_vec(), receives.to_vec());
}
