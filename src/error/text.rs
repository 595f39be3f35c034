//! Phrases that messages are made of.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::Printable;
use crate::certificate::{Fingerprint, PeerCertificate};

/// Returns a number with its noun: "1 connection", "2 connections".
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

pub(super) fn bytes(number: usize) -> String {
    count(number, "byte")
}

/// Returns the message for a full queue: of bytes to a peer, or, without one, of calls.
pub(super) fn of_queue(peer: &str, size: usize, queued: usize, limit: usize, option: &str) -> String {
    if peer.is_empty() {
        return format!(
            "too many calls: {queued} are pending, and the limit is {limit}; wait for answers or raise {option}"
        );
    }
    format!(
        "send queue to {peer} is full: {} do not fit beside {queued} already queued (limit: {}); send less at a time or raise \
         {option}",
        bytes(size),
        bytes(limit)
    )
}

pub(super) fn of_size(size: Option<u64>) -> String {
    size.map(|size| format!(" of {size} byte{}", if size == 1 { "" } else { "s" })).unwrap_or_default()
}

/// Returns a duration for people: "30 s", "1.5 s", "50 ms".
pub(crate) fn in_words(duration: Duration) -> String {
    let (number, unit) = match duration {
        short if short < Duration::from_millis(1) && !short.is_zero() => (short.as_secs_f64() * 1e6, "µs"),
        short if short < Duration::from_secs(1) && !short.is_zero() => (short.as_secs_f64() * 1e3, "ms"),
        long => (long.as_secs_f64(), "s"),
    };
    let number = format!("{number:.3}");
    format!("{} {unit}", number.trim_end_matches('0').trim_end_matches('.'))
}

/// Returns the text of a system call's error without its number.
pub(crate) fn os_text(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(number) => text.trim_end_matches(&format!(" (os error {number})")).to_owned(),
        None => text,
    }
}

pub(super) fn in_plain_words(problem: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    problem.downcast_ref::<io::Error>().map_or_else(|| problem.to_string(), os_text)
}

/// Says when there will be another try, in whole seconds.
pub(super) fn of_next(next: Option<Duration>) -> String {
    let seconds = next.map(|next| next.as_secs() + u64::from(next.subsec_nanos() > 0));
    seconds.map(|seconds| format!(" (next try in {seconds} s)")).unwrap_or_default()
}

pub(super) fn of_process(pid: Option<i32>) -> String {
    pid.map(|pid| format!(" as process {pid}")).unwrap_or_default()
}

/// Returns the message for a key that is not the pinned one. A stored pin speaks of a change; a pin that was passed in may
/// as well be mistyped.
pub(super) fn of_pin(peer: &str, pin: &Fingerprint, shown: &PeerCertificate, file: Option<&Path>) -> String {
    let (peer, key, certificate) = (Printable(peer), shown.fingerprint(), shown.certificate_fingerprint());
    match file {
        Some(file) => format!(
            "THE KEY OF {peer} HAS CHANGED: pinned {pin}, presented {key} (certificate: {certificate}). Either the server \
             has a new key, or the connection is being intercepted. If the owner of the server confirms the new key, write \
             its fingerprint into {}, or delete that file",
            file.display()
        ),
        None => format!(
            "{peer} does not have the pinned key: expected {pin}, presented {key} (certificate: {certificate}). Either the \
             pin is wrong or outdated, or the connection is being intercepted. If the owner of the server confirms this \
             key, pass it to ClientTls::pinned"
        ),
    }
}

/// Names from the network, quoted: they may contain anything.
pub(super) fn of_seen(seen: &[String]) -> String {
    if seen.is_empty() {
        return "no service of this type was found".into();
    }
    let names: Vec<String> = seen.iter().map(|name| format!("{name:?}")).collect();
    format!("services of this type: {}", names.join(", "))
}
