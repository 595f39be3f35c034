// What the library has to say that no caller is there to receive: structured records, to GLib's log under the domain
// `network`, or to where the program wants them.

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::SystemTime;

use glib::{GStr, LogField, gstr};

/// The log domain, as `G_MESSAGES_DEBUG` names it.
const DOMAIN: &str = "network";

/// How much a [`Record`] matters, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// The library is used in a way that cannot work.
    Critical,
    /// The program or its set-up is at fault: something failed and no caller receives the error.
    Warning,
    /// A peer misbehaved, or another event that whoever runs the program should see by default.
    Message,
    /// What whoever runs the program may want to know.
    Info,
    /// The life of each connection: accepted, secured, ended and why.
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

/// One thing that the library has to say. As text it is one line with the local time in front:
/// `2026-03-01 12:00:00.123456 message: rejected a client of port 1234: …`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Record<'a> {
    /// When it was said.
    pub time: SystemTime,
    /// How much it matters.
    pub level: Level,
    /// What was being done, in a word or two: `accept`, `end`. The field `NETWORK_OPERATION` of GLib's log.
    pub operation: &'a str,
    /// Who it is about, where there is somebody: a peer, or the address of a server. `NETWORK_PEER`.
    pub peer: Option<&'a str>,
    /// What went wrong, if anything did. `NETWORK_ERROR`.
    pub error: Option<&'a str>,
    /// All of it for people. `MESSAGE`.
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
        // Whatever a peer has got into a message, it is one line of the log.
        for part in self.message.split_inclusive(char::is_control) {
            match part.chars().next_back() {
                Some(control) if control.is_control() => {
                    write!(f, "{}{}", &part[..part.len() - control.len_utf8()], control.escape_default())?;
                }
                _ => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

type Sink = Arc<dyn Fn(&Record<'_>) + Send + Sync>;

/// Where records go instead of GLib's log.
static SINK: RwLock<Option<Sink>> = RwLock::new(None);

/// The least important level that somebody wants, as a number. Records below it are not even put into words.
static WANTED: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = u8::MAX;

thread_local! {
    /// The program's log callback is on this thread's stack.
    static IN_SINK: Cell<bool> = const { Cell::new(false) };
}

/// Sends what the library has to say to `log`, all that is at least as important as `level`, instead of to GLib's log. For
/// the whole process.
///
/// The callback is called at once, on whichever thread has something to say and from within whatever it does, so it
/// should write and return; connections are better left alone there. What is said meanwhile on the same thread goes to
/// GLib's log, and so does a record at which the callback panics.
///
/// Without it messages and warnings go to GLib's log, structured, under the domain `network`; the rest as well, if the environment has
/// `G_MESSAGES_DEBUG=network` when the first is due. A writer of GLib's that the program sets gets just those.
///
/// ```
/// use network::log::Level;
///
/// // All that happens, with time stamps, on standard output.
/// network::log::set_log(Level::Debug, |record| println!("{record}"));
/// # network::log::unset_log();
/// ```
pub fn set_log(level: Level, log: impl Fn(&Record<'_>) + Send + Sync + 'static) {
    replace(Some(Arc::new(log)), level as u8);
}

/// Takes back what [`set_log`] has set: from now on GLib's log gets everything again.
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

/// Is there anybody for records of that level? Costs next to nothing.
#[inline]
pub(crate) fn is_wanted(level: Level) -> bool {
    match WANTED.load(Ordering::Relaxed) {
        UNKNOWN => level <= glib_wants(),
        wanted => level as u8 <= wanted,
    }
}

/// What GLib's own log would show. It drops the rest, after all the work of formatting.
fn glib_wants() -> Level {
    static WANTS: OnceLock<Level> = OnceLock::new();
    *WANTS.get_or_init(|| {
        let domains = std::env::var("G_MESSAGES_DEBUG").unwrap_or_default();
        let ours = |domain: &str| domain == "all" || domain == DOMAIN;
        if domains.split_whitespace().any(ours) { Level::Debug } else { Level::Message }
    })
}

/// A record in the making.
#[must_use = "say() it"]
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

/// For what peers do wrong. GLib makes warnings fatal on demand (`G_DEBUG=fatal-warnings`), so no peer may cause one.
#[allow(dead_code, reason = "the rooms that meet peers take it up one by one")]
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
    /// Who it is about.
    pub(crate) fn peer(mut self, peer: &'a dyn fmt::Display) -> Self {
        self.peer = Some(peer);
        self
    }

    /// What went wrong.
    pub(crate) fn error(mut self, error: &'a dyn fmt::Display) -> Self {
        self.error = Some(error);
        self
    }

    /// Logs it, if anybody wants it. No state may be borrowed: the program's callback runs from here.
    #[inline]
    pub(crate) fn say(self, message: fmt::Arguments<'_>) {
        if is_wanted(self.level) {
            self.deliver(message);
        }
    }

    #[cold]
    fn deliver(self, message: fmt::Arguments<'_>) {
        let message = message.to_string();
        let peer = self.peer.map(ToString::to_string);
        let error = self.error.map(ToString::to_string);
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
    // Each with a zero behind what its length covers: GLib's own writers read some fields up to that, whatever the length.
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
            message: "über\nforged: line\r\u{1b}[0m",
        };
        let text = record.to_string();
        let (stamp, rest) = text.split_once(" warning: ").unwrap();
        assert!(stamp.starts_with("2017-07-1") && stamp.ends_with(".000042"), "{stamp}");
        assert_eq!(rest, "über\\nforged: line\\r\\u{1b}[0m");
    }

    #[test]
    fn levels_are_in_order() {
        let levels = [Level::Critical, Level::Warning, Level::Message, Level::Info, Level::Debug];
        assert!(levels.is_sorted());
        assert!(is_wanted(Level::Message), "by default");
    }
}
