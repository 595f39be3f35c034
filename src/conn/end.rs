//! The end of a connection: recorded once, whichever call the kernel told it to, and read by every face. A value.

use super::callbacks::Reason;
use crate::error::Error;

/// The known facts about the end.
#[derive(Default)]
pub(super) struct End {
    /// The failure: of several errors that follow from one another the one that says most.
    failure: Option<Error>,
    /// From when it has ended for the user until that is delivered.
    reason: Option<Reason>,
    /// It has ended for the user. What goes wrong after that changes nothing.
    is_over: bool,
    /// Whoever started TLS has heard of the failure, so that it need not be logged.
    is_told: bool,
    /// Number of sent bytes that were dropped.
    lost: usize,
}

/// Ranks errors by how much they say about why a connection failed. A peer that goes away with our data unread leaves
/// several: a write that finds nobody, a read that is reset, a TLS stream without its end. The first cause is what TLS
/// itself was told.
fn weight(error: &Error) -> u32 {
    match error {
        Error::Closed { .. } => 0,
        Error::Truncated { .. } => 1,
        Error::Reset { .. } => 2,
        _ => 3,
    }
}

impl End {
    /// Notes an error, unless one is known that says as much. One that cannot be told twice is left to the reason:
    /// whoever asks later hears that it is closed.
    pub(super) fn note(&mut self, error: &Error) {
        let known = self.failure.as_ref().map(weight);
        if !self.is_over && known.is_none_or(|known| known < weight(error)) {
            self.failure = error.again().or_else(|| self.failure.take());
        }
    }

    /// The connection ends for the user, for this reason unless it has failed before for one that says more.
    pub(super) fn finish(&mut self, reason: Reason) {
        let told = match &reason {
            Reason::Failed(error) => weight(error),
            _ => 0,
        };
        if let Reason::Failed(error) = &reason {
            self.note(error);
        }
        // What is known already says more than that it was closed.
        let more = self.failure.as_ref().filter(|failure| weight(failure) > told);
        let reason = more.and_then(Error::again).map_or(reason, Reason::Failed);
        self.reason = Some(reason);
        self.is_over = true;
    }

    /// So many bytes that were sent will never reach the system.
    pub(super) fn lose(&mut self, count: usize) {
        self.lost += count;
    }

    pub(super) fn lost(&self) -> usize {
        self.lost
    }

    pub(super) fn set_told(&mut self, is_told: bool) {
        self.is_told = is_told;
    }

    pub(super) fn is_told(&self) -> bool {
        self.is_told
    }

    /// Returns the meaning of the peer's end: an end, or the failure that is known by now.
    pub(super) fn at_end_of_stream(&self) -> Reason {
        self.failure().map_or(Reason::Remote, Reason::Failed)
    }

    /// The failure, for whoever asks. `None`: the connection was closed, by whichever side.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.as_ref().and_then(Error::again)
    }

    /// Returns whether the peer has said all that it had to say, provided that its end has come. That our own data
    /// found nobody any more does not change that.
    pub(super) fn is_clean(&self) -> bool {
        self.failure.as_ref().is_none_or(|failure| matches!(failure, Error::Closed { .. }))
    }

    pub(super) fn reason(&self) -> Option<&Reason> {
        self.reason.as_ref()
    }

    /// After it was looked at.
    pub(super) fn put_back(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
    }

    pub(super) fn take_reason(&mut self) -> Option<Reason> {
        self.reason.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> String {
        "peer".into()
    }

    fn closed() -> Error {
        Error::Closed { peer: peer() }
    }

    fn reset() -> Error {
        Error::Reset { peer: peer() }
    }

    fn truncated() -> Error {
        Error::Truncated { peer: peer() }
    }

    fn rejected() -> Error {
        Error::Rejected { peer: peer(), problem: "no".into() }
    }

    #[test]
    fn without_a_failure_the_end_is_clean() {
        let mut end = End::default();
        assert!(end.is_clean() && end.failure().is_none());
        assert!(matches!(end.at_end_of_stream(), Reason::Remote));
        end.finish(Reason::Local);
        assert!(end.is_clean() && matches!(end.take_reason(), Some(Reason::Local)));
        assert!(end.reason().is_none(), "it is told once");
    }

    #[test]
    fn an_end_that_came_before_our_data_found_nobody_is_clean() {
        let mut end = End::default();
        end.note(&closed());
        assert!(end.is_clean());
        assert!(matches!(end.failure(), Some(Error::Closed { .. })));
        assert!(matches!(end.at_end_of_stream(), Reason::Failed(Error::Closed { .. })), "our data was lost");
    }

    #[test]
    fn the_error_that_says_most_is_kept_in_whatever_order_they_come() {
        let of = |number: usize| [closed, truncated, reset, rejected][number]();
        for first in 0..4 {
            for second in 0..4 {
                let mut end = End::default();
                end.note(&of(first));
                end.note(&of(second));
                let kept = end.failure().unwrap();
                assert_eq!(kept.to_string(), of(first.max(second)).to_string(), "{first}, then {second}");
                assert_eq!(end.is_clean(), first.max(second) == 0);
                end.finish(Reason::Failed(of(second)));
                match end.take_reason() {
                    Some(Reason::Failed(reason)) => assert_eq!(reason.to_string(), kept.to_string()),
                    other => panic!("{other:?}"),
                }
                assert_eq!(end.failure().unwrap().to_string(), kept.to_string(), "and told to whoever asks later");
            }
        }
    }

    #[test]
    fn of_two_that_say_as_much_the_first_is_kept() {
        let mut end = End::default();
        end.note(&rejected());
        end.note(&Error::LineTooLong { peer: peer(), limit: 1 });
        assert!(matches!(end.failure(), Some(Error::Rejected { .. })));
    }

    #[test]
    fn a_failure_that_was_told_is_the_reason_also_if_it_is_closed_here_then() {
        let mut end = End::default();
        end.note(&reset());
        end.finish(Reason::Local);
        assert!(matches!(end.take_reason(), Some(Reason::Failed(Error::Reset { .. }))));
    }

    #[test]
    fn what_goes_wrong_after_the_end_changes_nothing() {
        let mut end = End::default();
        end.finish(Reason::Local);
        end.note(&reset());
        assert!(end.failure().is_none() && end.is_clean());
        assert!(matches!(end.take_reason(), Some(Reason::Local)));
    }

    #[test]
    fn an_error_of_the_program_is_the_reason_and_told_once() {
        let mut end = End::default();
        end.finish(Reason::Failed(Error::other("the program's own")));
        assert!(end.failure().is_none(), "it cannot be told twice");
        assert!(matches!(end.take_reason(), Some(Reason::Failed(error)) if error.to_string() == "the program's own"));
    }

    #[test]
    fn an_error_of_the_program_does_not_make_a_broken_stream_whole() {
        let mut end = End::default();
        end.note(&truncated());
        end.finish(Reason::Failed(Error::other("the program's own")));
        assert!(!end.is_clean());
        assert!(matches!(end.failure(), Some(Error::Truncated { .. })), "for whoever asks later");
        assert!(matches!(end.take_reason(), Some(Reason::Failed(error)) if error.to_string() == "the program's own"));
    }
}
