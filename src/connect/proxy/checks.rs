//! The readers of what proxies send and users write, for the fuzzer and proptest.

use super::Proxy;
use super::challenge::challenges;
use super::except::Exceptions;
use super::hop::{Destination, Hop};
use super::negotiation::{Negotiation, Problem, Step};

/// The longest reply accepted from an HTTP proxy here, in bytes.
const LIMIT: usize = 400;

/// Talks to whatever this is as a proxy, or reads it as text. The first byte chooses.
pub(crate) fn any(data: &[u8]) {
    let Some((choice, data)) = data.split_first() else { return };
    match choice % 8 {
        0 => reply("socks5://host", data),
        1 => reply("socks5h://user:password@host", data),
        2 => reply("socks4a://user@host", data),
        3 => reply("http://host", data),
        4 => reply("http://user:password@host", data),
        5 => url(&String::from_utf8_lossy(data)),
        6 => exceptions(&String::from_utf8_lossy(data)),
        _ => drop(challenges(&String::from_utf8_lossy(data))),
    }
}

/// The steps of a conversation: how much of the input was taken, all output, and how it ended.
type Course = (usize, Vec<u8>, Result<Step, Problem>);

/// Gives the input in pieces of this size.
fn course(url: &str, data: &[u8], piece: usize) -> Course {
    let hop = Hop::parse(url, None).unwrap();
    let mut talk = Negotiation::new(&hop, &Destination::Name("target.test".into(), 443), LIMIT);
    let (mut taken, mut output) = (0, Vec::new());
    let mut step = Ok(Step::More);
    loop {
        output.append(talk.output());
        let rest = &data[taken..];
        if rest.is_empty() || !matches!(step, Ok(Step::More | Step::Anew)) {
            return (taken, output, step);
        }
        let piece = &rest[..piece.min(rest.len())];
        step = talk.take(piece).map(|(count, step)| {
            assert!(count <= piece.len());
            assert!(count == piece.len() || step != Step::More, "all of it is taken unless it is over");
            taken += count;
            step
        });
    }
}

/// A reply means the same however it is cut into pieces, and nothing behind its end is taken.
fn reply(url: &str, data: &[u8]) {
    let whole = course(url, data, data.len().max(1));
    for piece in [1, 2, 7] {
        let cut = course(url, data, piece);
        // Digest has a random part.
        if !String::from_utf8_lossy(&whole.1).contains("cnonce") {
            assert_eq!(whole.1, cut.1);
        }
        assert_eq!(whole.2, cut.2);
        if whole.2.is_ok() {
            assert_eq!(whole.0, cut.0);
        }
    }
    if whole.2 == Ok(Step::Done) {
        let longer = [data, b"of the target"].concat();
        assert_eq!(course(url, &longer, longer.len()).0, whole.0, "it takes the target's bytes");
    }
    if let Err(problem) = whole.2 {
        let text = problem.text();
        assert!(!text.is_empty() && !text.contains(char::is_control), "{text:?}");
    }
}

fn url(text: &str) {
    let secret = format!("http://user:sesam@{text}");
    for text in [text, &secret] {
        match Hop::parse(text, None) {
            Ok(hop) => {
                assert!(!hop.to_string().contains('@'));
                assert_eq!(Hop::parse(&hop.to_string(), None).unwrap().address, hop.address);
            }
            Err(problem) => assert!(!problem.contains("sesam"), "{problem}"),
        }
        let _ = format!("{:?}", Proxy::url(text));
    }
}

fn exceptions(text: &str) {
    let mut exceptions = Exceptions::default();
    text.split(',').for_each(|entry| exceptions.add(entry));
    let _ = exceptions.have_name(text, 443);
    let _ = exceptions.have_address([10, 0, 0, 1].into(), 443);
}
