//! Times in listings and replies, in UTC. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Day {
    pub(super) year: i32,
    pub(super) month: i32,
    pub(super) day: i32,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// Returns the number of a month by its English name, as listings shorten it.
pub(super) fn month(name: &str) -> Option<i32> {
    let index = MONTHS.iter().position(|month| month.eq_ignore_ascii_case(name))?;
    i32::try_from(index + 1).ok()
}

/// Returns the year of a time.
pub(super) fn year(time: SystemTime) -> i32 {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let time = i64::try_from(seconds).ok().and_then(|seconds| glib::DateTime::from_unix_utc(seconds).ok());
    time.map_or(1970, |time| time.year())
}

impl Day {
    /// Parses `2024-01-31`.
    pub(super) fn of_iso(text: &str) -> Option<Day> {
        let mut parts = text.split('-');
        let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
        let is_iso = parts.next().is_none() && year.len() == 4 && month.len() == 2 && day.len() == 2;
        is_iso.then_some(())?;
        Some(Day { year: digits(year)?, month: digits(month)?, day: digits(day)? })
    }

    /// Parses `01-31-24` and `01-31-2024`.
    pub(super) fn of_american(text: &str) -> Option<Day> {
        let mut parts = text.split('-');
        let (month, day, year) = (digits(parts.next()?)?, digits(parts.next()?)?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let year = match year.len() {
            4 => digits(year)?,
            2 => match digits(year)? {
                year @ 70.. => 1900 + year,
                year => 2000 + year,
            },
            _ => return None,
        };
        Some(Day { year, month, day })
    }

    /// Returns the time so many minutes after its beginning. `None` if there is no such day.
    pub(super) fn at(self, minutes: u32) -> Option<SystemTime> {
        self.after(Duration::from_secs(u64::from(minutes) * 60))
    }

    fn after(self, time: Duration) -> Option<SystemTime> {
        let midnight = glib::DateTime::from_utc(self.year, self.month, self.day, 0, 0, 0.0).ok()?.to_unix();
        let apart = Duration::from_secs(midnight.unsigned_abs());
        let midnight = if midnight < 0 { UNIX_EPOCH.checked_sub(apart) } else { UNIX_EPOCH.checked_add(apart) };
        midnight?.checked_add(time)
    }
}

fn digits(text: &str) -> Option<i32> {
    let is_number = !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

/// Parses `20240131123456` with an optional fraction (RFC 3659, section 2.3).
pub(super) fn of_digits(text: &str) -> Option<SystemTime> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.len() != 14 || !whole.is_ascii() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from: usize, to: usize| digits(&whole[from..to]);
    let day = Day { year: part(0, 4)?, month: part(4, 6)?, day: part(6, 8)? };
    let (hours, minutes, seconds) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    if hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    let nanoseconds = format!("{fraction:0<9.9}").parse().ok()?;
    let seconds = u64::try_from((hours * 60 + minutes) * 60 + seconds).ok()?;
    day.after(Duration::new(seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(time: SystemTime) -> i64 {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap(),
            Err(error) => -i64::try_from(error.duration().as_secs()).unwrap(),
        }
    }

    #[test]
    fn times_of_digits() {
        // As date -u +%s -d … says.
        assert_eq!(of_digits("20240229123456").map(seconds), Some(1_709_210_096));
        assert_eq!(of_digits("19700101000000").map(seconds), Some(0));
        assert_eq!(of_digits("19691231235959").map(seconds), Some(-1));
        assert_eq!(of_digits("20000301000000").map(seconds), Some(951_868_800));
        let with_fraction = of_digits("20240229123456.25").unwrap();
        assert_eq!(with_fraction.duration_since(UNIX_EPOCH).unwrap().subsec_millis(), 250);
        for text in [
            "",
            "2024022912345",
            "20230229000000",
            "20241301000000",
            "20240229240000",
            "2024022912345x",
            "20240229123456.x",
            "2024-2-2912:34",
        ] {
            assert_eq!(of_digits(text), None, "{text}");
        }
    }

    #[test]
    fn days_of_listings() {
        assert_eq!(Day::of_iso("2024-01-31"), Some(Day { year: 2024, month: 1, day: 31 }));
        assert_eq!(Day::of_american("01-31-24"), Some(Day { year: 2024, month: 1, day: 31 }));
        assert_eq!(Day::of_american("01-31-1999"), Some(Day { year: 1999, month: 1, day: 31 }));
        assert_eq!(Day::of_american("01-31-99").unwrap().year, 1999);
        assert_eq!(Day::of_iso("01-31-2024"), None);
        assert_eq!((month("Feb"), month("DEC"), month("Foo")), (Some(2), Some(12), None));
    }

    #[test]
    fn the_year_turns_at_new_year() {
        let at = |text: String| year(of_digits(&text).unwrap());
        for year in [1970, 1971, 1999, 2000, 2023, 2024, 2026, 2100] {
            assert_eq!(at(format!("{year}0101000000")), year);
            assert_eq!(at(format!("{year}1231235959")), year);
        }
    }

    proptest::proptest! {
        #[test]
        fn days_follow_each_other(number in 0i64..100_000) {
            let date = glib::DateTime::from_unix_utc(number * 86_400).unwrap();
            let day = Day { year: date.year(), month: date.month(), day: date.day_of_month() };
            proptest::prop_assert_eq!(day.at(0).map(seconds), Some(number * 86_400));
        }
    }
}
