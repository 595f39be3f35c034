//! Calls over a link: answers in another order, doubled, late and never, and the link is lost meanwhile.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use network::link::Calls;
use network::socket::Framing;
use network::{Error, Link, Result, Server, Socket};

use crate::util::*;

const COUNT: u64 = 10_000;
const MESSAGES: Framing = Framing::varint();

/// The outcome of a call.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    Answered,
    Doubled,
    Reversed,
    Late,
    Never,
}

fn fate(number: u64) -> Fate {
    [Fate::Answered, Fate::Doubled, Fate::Reversed, Fate::Late, Fate::Never][number as usize % 5]
}

fn number(message: &[u8]) -> u64 {
    u64::from_be_bytes(message.try_into().unwrap())
}

/// Answers by itself, or when it is told to by "reverse" and "late"; then it closes the connection.
fn serve(socket: &Socket) {
    let (mut reversed, mut late) = (Vec::new(), Vec::new());
    socket.readframes(MESSAGES, move |socket, message| {
        let answers: Vec<u64> = match message {
            b"reverse" => reversed.drain(..).rev().collect(),
            b"late" => std::mem::take(&mut late),
            _ => match (number(message), fate(number(message))) {
                (number, Fate::Answered) => vec![number],
                (number, Fate::Doubled) => vec![number; 2],
                (number, fate) => {
                    let later = if fate == Fate::Reversed { Some(&mut reversed) } else { None };
                    later
                        .or((fate == Fate::Late).then_some(&mut late))
                        .into_iter()
                        .for_each(|later| later.push(number));
                    Vec::new()
                }
            },
        };
        for answer in answers {
            socket.sendframe(MESSAGES, answer.to_be_bytes())?;
        }
        if message == b"late" {
            socket.close();
        }
        Ok(())
    });
}

/// The end of each call, in order.
type Ends = Rc<RefCell<Vec<(u64, &'static str)>>>;

fn begin(calls: &Calls<u64>, link: &Link, ends: &Ends) {
    for expected in 1..=COUNT {
        let timeout = (fate(expected) == Fate::Late).then_some(Duration::from_millis(50));
        let (number, answer) = calls.begin(timeout).unwrap();
        assert_eq!(number, expected);
        let ends = ends.clone();
        answer.then(move |reply: Result<u64>| {
            let how = match reply {
                Ok(reply) if reply == number => "answered",
                Err(Error::TimedOut { .. }) => "timed out",
                Err(Error::Closed { .. }) => "lost",
                other => panic!("{number}: {other:?}"),
            };
            ends.borrow_mut().push((number, how));
        });
        link.socket().unwrap().sendframe(MESSAGES, number.to_be_bytes()).unwrap();
    }
}

#[test]
fn ten_thousand_calls_over_a_link_that_is_lost_end_once_each() {
    on_own_context(|| {
        let path = listen_address(Kind::Unix);
        let _server = Server::new(&*path, |socket| {
            serve(&socket);
            Ok(())
        })
        .unwrap();
        let (calls, ends, unknown) = (Calls::new().unwrap(), Ends::default(), Rc::new(Cell::new(0)));
        calls.set_limit(COUNT as usize);
        let (replies, lost, strange) = (calls.clone(), calls.clone(), unknown.clone());
        let link = Link::builder()
            .down_cb(move |link, down| {
                lost.fail_all(&down.reason);
                link.close();
            })
            .start(&*path, move |socket| {
                let (replies, strange) = (replies.clone(), strange.clone());
                socket.readframes(MESSAGES, move |_, reply| {
                    if !replies.finish(number(reply), number(reply)) {
                        strange.set(strange.get() + 1);
                    }
                    Ok(())
                });
                Ok(())
            })
            .unwrap();
        until(|| link.socket().is_some());
        begin(&calls, &link, &ends);
        let share = COUNT as usize / 5;
        // Those that are answered at once, and those that are not answered in time.
        until(|| ends.borrow().len() == 3 * share);
        link.socket().unwrap().sendframe(MESSAGES, "reverse").unwrap();
        until(|| ends.borrow().len() == 4 * share);
        link.socket().unwrap().sendframe(MESSAGES, "late").unwrap();
        until(|| ends.borrow().len() == 5 * share);
        until(|| link.socket().is_none());
        settle();
        assert_eq!(unknown.get(), 2 * share, "the second of two answers, and what was late");
        assert!(calls.is_empty());
        let mut ends = ends.take();
        let reversed = ends.iter().map(|(number, _)| *number).filter(|number| fate(*number) == Fate::Reversed);
        assert!(reversed.is_sorted_by(|before, after| before > after));
        ends.sort();
        let expected = (1..=COUNT).map(|number| match fate(number) {
            Fate::Late => (number, "timed out"),
            Fate::Never => (number, "lost"),
            _ => (number, "answered"),
        });
        assert!(ends.into_iter().eq(expected));
    });
}
