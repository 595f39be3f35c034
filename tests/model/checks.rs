//! The net can catch: the model is fed what must not be, and objects.

use crate::model::{Event, Face, Model, Rule, Side, Terms, Told, content};
use crate::program::Kind;

/// What is said against this story, in short.
fn objections(kind: Kind, raw_b: bool, story: &[(Side, Event<'_>)]) -> Vec<Rule> {
    let mut model = Model::new(Terms { kind, raw_b, ..Terms::default() });
    for (side, event) in story {
        model.see(*side, event);
    }
    model.finish();
    model.objections.iter().map(|objection| objection.rule).collect()
}

fn called(face: Face) -> Event<'static> {
    Event::Called { face, within_call: false, is_set: true }
}

fn told(face: Face, told: Told) -> Event<'static> {
    Event::Told(face, told, false)
}

fn from_a(from: usize, to: usize) -> &'static [u8] {
    &content(Side::A)[from..to]
}

/// `A` sends 100 bytes and closes; `B` reads these parts and is told of a clean end.
fn delivery(parts: &[(usize, usize)]) -> Vec<Rule> {
    let mut story = vec![(Side::B, Event::DisconnectCb(true)), (Side::A, Event::Accepted(100))];
    for (from, to) in parts {
        story.push((Side::B, called(Face::Read)));
        story.push((Side::B, Event::Got(Face::Read, from_a(*from, *to))));
    }
    story.push((Side::A, Event::Close));
    story.push((Side::B, called(Face::DisconnectCb)));
    story.push((Side::B, told(Face::DisconnectCb, Told::Remote)));
    objections(Kind::Tcp, false, &story)
}

#[test]
fn what_arrives_whole_and_in_order_is_right() {
    assert_eq!(delivery(&[(0, 40), (40, 100)]), []);
}

#[test]
fn a_lost_byte_is_noticed() {
    assert_eq!(delivery(&[(0, 99)]), [Rule::Lost]);
    assert_eq!(delivery(&[(0, 40), (41, 100)]), [Rule::Content, Rule::Lost]);
}

#[test]
fn reordered_or_repeated_bytes_are_noticed() {
    assert_eq!(delivery(&[(50, 100), (0, 50)]), [Rule::Content, Rule::Content]);
    assert_eq!(delivery(&[(0, 60), (0, 40)]), [Rule::Content]);
    assert_eq!(delivery(&[(0, 100), (0, 1)]), [Rule::Content]);
}

#[test]
fn what_was_never_sent_is_noticed() {
    assert_eq!(delivery(&[(0, 101)]), [Rule::Content]);
}

#[test]
fn the_callbacks_have_their_order() {
    let end = || (Side::B, called(Face::DisconnectCb));
    let remote = || (Side::B, told(Face::DisconnectCb, Told::Remote));
    let close = || (Side::A, Event::Close);
    let set = || (Side::B, Event::DisconnectCb(true));
    let tcp = |story: &[_]| objections(Kind::Tcp, false, story);
    assert_eq!(tcp(&[set(), close(), end(), remote()]), []);
    assert_eq!(tcp(&[set(), close(), end(), remote(), end(), remote()]), [Rule::Grammar, Rule::Grammar]);
    assert_eq!(tcp(&[set(), close(), end(), remote(), (Side::B, called(Face::Read))]), [Rule::Grammar]);
    assert_eq!(tcp(&[(Side::B, Event::Close), (Side::B, called(Face::Read))]), [Rule::Grammar]);
    assert_eq!(tcp(&[(Side::B, Event::Paused(true)), (Side::B, called(Face::Read))]), [Rule::Grammar]);
    let within = Event::Called { face: Face::Read, within_call: true, is_set: true };
    assert_eq!(tcp(&[(Side::B, within)]), [Rule::Grammar]);
    let gone = Event::Called { face: Face::Read, within_call: false, is_set: false };
    assert_eq!(tcp(&[(Side::B, gone)]), [Rule::Grammar]);
    // It is never told at all.
    assert_eq!(tcp(&[set(), close()]), [Rule::Hang]);
}

#[test]
fn a_reset_that_is_told_as_an_end_is_noticed() {
    for kind in [Kind::Tcp, Kind::Unix] {
        let reset = || (Side::B, Event::RawClose { unread: true });
        let says = |face, as_told| objections(kind, true, &[reset(), (Side::A, told(face, as_told))]);
        for face in [Face::Recv, Face::RecvFuture, Face::StdRead, Face::Lines, Face::Stream, Face::SendFuture] {
            assert_eq!(says(face, Told::Closed), [Rule::ResetAsEnd]);
            assert_eq!(says(face, Told::Reset), []);
        }
        assert_eq!(says(Face::DisconnectCb, Told::Remote), [Rule::ResetAsEnd]);
    }
    let cut = [(Side::B, Event::Cut), (Side::A, told(Face::Recv, Told::Closed))];
    assert_eq!(objections(Kind::Tls, false, &cut), [Rule::ResetAsEnd]);
}

#[test]
fn an_end_that_nobody_caused_is_noticed() {
    let says = |as_told| objections(Kind::Tcp, false, &[(Side::A, told(Face::Recv, as_told))]);
    for as_told in [Told::Closed, Told::Reset, Told::CutOff, Told::Own, Told::TooLong, Told::Other("?".into())] {
        assert_eq!(says(as_told), [Rule::Lie]);
    }
    // A close that waits for what is queued resets nobody.
    let closed = [(Side::A, Event::Close), (Side::B, told(Face::Recv, Told::Reset))];
    assert_eq!(objections(Kind::Tcp, false, &closed), [Rule::Lie]);
    let aborted = [(Side::A, Event::Abort { open: true, resets: false }), (Side::B, told(Face::Recv, Told::Reset))];
    assert_eq!(objections(Kind::Tcp, false, &aborted), []);
}

#[test]
fn faces_that_disagree_are_noticed() {
    let reset = || (Side::B, Event::RawReset);
    let first = || (Side::A, told(Face::DisconnectCb, Told::Reset));
    let then = |as_told| objections(Kind::Tcp, true, &[reset(), first(), (Side::A, told(Face::Recv, as_told))]);
    assert_eq!(then(Told::Reset), []);
    assert_eq!(then(Told::Closed), [Rule::ResetAsEnd, Rule::Difference]);
}
