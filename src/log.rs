// Log records: events and failures that no caller receives. They go to GLib's log, under the domain `network`, or to a
// callback.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::SystemTime;

use glib::{GStr, LogField, gstr};

/// The log domain, as `G_MESSAGES_DEBUG` names it.
const DOMAIN: &str = "network";

/// The importance of a [`Record`], highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// The program uses the library in a way that cannot work.
    Critical,
    /// Something failed because of the program or its setup, and no caller receives the error.
    Warning,
    /// A peer did something wrong, or something else happened that should be seen by default.
    Message,
    /// Progress of the program, such as shutting down or reloading.
    Info,
    /// The life of each connection: accepted, TLS established, closed and why.
    Debug,
}

impl Level {
    fn glib(self) -> (glib::LogLevel, &'static str) {
        // The numbers are syslog's.
        match self {
            Level::Critical => (glib::LogLevel::Critical, "4"),
            Level::Warning => (glib::LogLevel::Warning, "4"),
            Level::Message => (glib::LogLevel::Message, "5"),
            Level::Info => (glib::LogLevel::Info, "6"),
            Level::Debug => (glib::LogLevel::Debug, "7"),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Critical => "critical",
            Level::Warning => "warning",
            Level::Message => "message",
            Level::Info => "info",
            Level::Debug => "debug",
        })
    }
}

/// One log record. Formatted as text it is one line that begins with the local time:
/// `2026-03-01 12:00:00.123456 warning: rejected a client of port 1234: …`.
///
/// Text from peers is escaped: no field contains control characters, line separators or characters that change the
/// direction of text.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record<'a> {
    /// The time of the event.
    pub time: SystemTime,
    /// The importance.
    pub level: Level,
    /// The operation, in a word or two: `accept`, `end`. The field `NETWORK_OPERATION` in GLib's log.
    pub operation: &'a str,
    /// The peer, or the address of a server. The field `NETWORK_PEER`.
    pub peer: Option<&'a str>,
    /// The error, if there is one. The field `NETWORK_ERROR`.
    pub error: Option<&'a str>,
    /// The text for people, including the peer and the error. The field `MESSAGE`.
    pub message: &'a str,
}

impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        if let Ok(text) = glib::DateTime::from_unix_local(seconds).and_then(|time| time.format("%F %T")) {
            write!(f, "{text}.{:06} ", since.subsec_micros())?;
        }
        write!(f, "{}: ", self.level)?;
        Printable(self.message).fmt(f)
    }
}

/// Text from a peer, escaped for a message. Control characters, line separators and characters that change the direction of
/// text are escaped, so the text stays on one line, and a terminal shows what it says.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some((at, harmful)) = rest.char_indices().find(|(_, c)| !is_printable(*c)) {
            write!(f, "{}{}", &rest[..at], harmful.escape_default())?;
            rest = &rest[at + harmful.len_utf8()..];
        }
        f.write_str(rest)
    }
}

fn is_printable(c: char) -> bool {
    let separator = matches!(c, '\u{2028}' | '\u{2029}');
    let direction =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !c.is_control() && !separator && !direction
}

type Sink = Arc<dyn Fn(&Record<'_>) + Send + Sync>;

/// The program's callback, which gets records instead of GLib's log.
static SINK: RwLock<Option<Sink>> = RwLock::new(None);

/// The lowest level that is logged, as a number. Records below it are not even formatted.
static WANTED: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = u8::MAX;

thread_local! {
    /// Set while the program's callback runs on this thread.
    static IN_SINK: Cell<bool> = const { Cell::new(false) };
}

/// Sends every record at `level` or above to `log` instead of GLib's log. Applies to the whole process.
///
/// The callback runs at once, on the thread that logs and inside its current operation. It should write the record and
/// return, and not use connections. Records that are logged meanwhile on the same thread go to GLib's log, and so does a
/// record if the callback panics.
///
/// Without a callback, records at [`Level::Message`] or above go to GLib's log, structured, under the domain `network`. All
/// others do too if the environment contains `G_MESSAGES_DEBUG=network` when the first of them is due. A log writer
/// installed in GLib receives exactly these records.
///
/// # Example
/// ```
/// use network::log::Level;
///
/// // Everything, with timestamps, on standard output.
/// network::log::set_log(Level::Debug, |record| println!("{record}"));
/// # network::log::unset_log();
/// ```
pub fn set_log(level: Level, log: impl Fn(&Record<'_>) + Send + Sync + 'static) {
    replace(Some(Arc::new(log)), level as u8);
}

/// Removes the callback of [`set_log`]. Records go to GLib's log again.
pub fn unset_log() {
    replace(None, UNKNOWN);
}

fn replace(sink: Option<Sink>, wanted: u8) {
    let old = {
        let mut place = SINK.write().unwrap_or_else(PoisonError::into_inner);
        WANTED.store(wanted, Ordering::Relaxed);
        std::mem::replace(&mut *place, sink)
    };
    drop(old);
}

/// Returns whether records of that level are logged. Costs one comparison.
#[inline]
pub(crate) fn is_wanted(level: Level) -> bool {
    match WANTED.load(Ordering::Relaxed) {
        UNKNOWN => level <= glib_wants(),
        wanted => level as u8 <= wanted,
    }
}

/// Returns the lowest level that GLib's log shows. It drops the rest only after it has been formatted.
fn glib_wants() -> Level {
    static WANTS: OnceLock<Level> = OnceLock::new();
    *WANTS.get_or_init(|| {
        let domains = std::env::var("G_MESSAGES_DEBUG").unwrap_or_default();
        let ours = |domain: &str| domain == "all" || domain == DOMAIN;
        if domains.split_whitespace().any(ours) { Level::Debug } else { Level::Message }
    })
}

/// Builds a record. [`say`](RecordBuilder::say) logs it.
#[must_use = "a record is logged by say()"]
pub(crate) struct RecordBuilder<'a> {
    level: Level,
    operation: &'static str,
    peer: Option<&'a dyn fmt::Display>,
    error: Option<&'a dyn fmt::Display>,
}

pub(crate) fn critical<'a>(operation: &'static str) -> RecordBuilder<'a> {
    RecordBuilder { level: Level::Critical, operation, peer: None, error: None }
}

pub(crate) fn warning<'a>(operation: &'static str) -> RecordBuilder<'a> {
    RecordBuilder { level: Level::Warning, operation, peer: None, error: None }
}

/// A record about a peer's fault. GLib makes warnings fatal on demand (`G_DEBUG=fatal-warnings`), so no peer may cause one.
pub(crate) fn message<'a>(operation: &'static str) -> RecordBuilder<'a> {
    RecordBuilder { level: Level::Message, operation, peer: None, error: None }
}

pub(crate) fn info<'a>(operation: &'static str) -> RecordBuilder<'a> {
    RecordBuilder { level: Level::Info, operation, peer: None, error: None }
}

pub(crate) fn debug<'a>(operation: &'static str) -> RecordBuilder<'a> {
    RecordBuilder { level: Level::Debug, operation, peer: None, error: None }
}

impl<'a> RecordBuilder<'a> {
    /// Sets the peer, or the address of a server.
    pub(crate) fn peer(mut self, peer: &'a dyn fmt::Display) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Sets the error.
    pub(crate) fn error(mut self, error: &'a dyn fmt::Display) -> Self {
        self.error = Some(error);
        self
    }

    /// Logs the record if its level is logged. No state may be borrowed: the program's callback runs from here.
    #[inline]
    pub(crate) fn say(self, message: fmt::Arguments<'_>) {
        if is_wanted(self.level) {
            self.deliver(message);
        }
    }

    #[cold]
    fn deliver(self, message: fmt::Arguments<'_>) {
        // Text from peers must not add lines, wherever the record is written.
        let text = |text: &dyn fmt::Display| Printable(&text.to_string()).to_string();
        let message = text(&message);
        let peer = self.peer.map(text);
        let error = self.error.map(text);
        let record = Record {
            time: SystemTime::now(),
            level: self.level,
            operation: self.operation,
            peer: peer.as_deref(),
            error: error.as_deref(),
            message: &message,
        };
        let sink = SINK.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sink) = sink
            && !IN_SINK.replace(true)
        {
            let outcome = catch_unwind(AssertUnwindSafe(|| sink(&record)));
            IN_SINK.set(false);
            if outcome.is_ok() {
                return;
            }
        }
        to_glib(&record);
    }
}

fn to_glib(record: &Record<'_>) {
    let (level, priority) = record.level.glib();
    // Each with a zero after its length: GLib's own writers read some fields up to a zero, whatever the length.
    let text = |key: &'static GStr, value: &str| (key, format!("{value}\0"));
    let mut texts = vec![
        text(gstr!("MESSAGE"), record.message),
        text(gstr!("PRIORITY"), priority),
        text(gstr!("GLIB_DOMAIN"), DOMAIN),
        text(gstr!("NETWORK_OPERATION"), record.operation),
    ];
    texts.extend(record.peer.map(|peer| text(gstr!("NETWORK_PEER"), peer)));
    texts.extend(record.error.map(|error| text(gstr!("NETWORK_ERROR"), error)));
    let field = |(key, text): &(&'static GStr, String)| LogField::new(key, &text.as_bytes()[..text.len() - 1]);
    let fields: Vec<LogField<'_>> = texts.iter().map(field).collect();
    glib::log_structured_array(level, &fields);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_whatever_a_peer_has_got_into_it() {
        let record = Record {
            time: SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(1_500_000_000_000_042),
            level: Level::Warning,
            operation: "end",
            peer: None,
            error: None,
            message: "über\nforged: line\r\u{1b}[0m\u{202e}\u{2028}",
        };
        let text = record.to_string();
        let (stamp, rest) = text.split_once(" warning: ").unwrap();
        assert!(stamp.starts_with("2017-07-1") && stamp.ends_with(".000042"), "{stamp}");
        assert_eq!(rest, "über\\nforged: line\\r\\u{1b}[0m\\u{202e}\\u{2028}");
    }

    #[test]
    fn levels_are_in_order() {
        let levels = [Level::Critical, Level::Warning, Level::Message, Level::Info, Level::Debug];
        assert!(levels.is_sorted());
        assert!(is_wanted(Level::Message), "by default");
    }
}
