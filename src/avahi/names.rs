//! The names of DNS-SD (RFC 6763): service types, instance names and patterns for them, TXT records. Pure values,
//! without a bus or a main loop.

use std::fmt;

use crate::address::is_service_type;

/// The longest instance name, in bytes. It is one label of a domain name, whose length has six bits.
const NAME_MAX: usize = 63;

/// The longest string of a TXT record, in bytes. Its length has eight bits.
const TXT_STRING_MAX: usize = 255;

/// The longest TXT record that fits into a multicast packet, in bytes (RFC 6763, section 6.2).
const TXT_MAX: usize = 8900;

/// A service type in full, such as `_chat._tcp`, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ServiceType(String);

impl ServiceType {
    /// Parses `chat`, which stands for `_chat._tcp`, or a full form, which may end in `._udp`.
    pub(crate) fn parse(text: &str) -> Result<ServiceType, String> {
        let (name, transport) = match text.strip_prefix('_') {
            None => (text, "tcp"),
            Some(full) => match full.split_once("._") {
                Some((name, transport @ ("tcp" | "udp"))) => (name, transport),
                _ => return Err("a full service type must end in ._tcp or ._udp".into()),
            },
        };
        if !is_service_type(name) {
            return Err("expected a service type: 2 to 15 letters, digits and single inner hyphens, \
                        at least one letter"
                .into());
        }
        // Types that differ in case only are the same.
        Ok(ServiceType(format!("_{}._{transport}", name.to_ascii_lowercase())))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_tcp(&self) -> bool {
        self.0.ends_with("._tcp")
    }

    /// Returns the form that stands before the `|` of an address.
    pub(crate) fn short(&self) -> &str {
        let full = &self.0[1..];
        full.strip_suffix("._tcp").unwrap_or(&self.0)
    }
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// Checks an instance name that is to be published.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("expected an instance name".into());
    }
    if name.contains('\0') {
        return Err("instance name contains a NUL byte".into());
    }
    if name.len() > NAME_MAX {
        return Err(format!("instance name too long: {} bytes, maximum {NAME_MAX}", name.len()));
    }
    Ok(())
}

/// Returns the name to try when another service has this one: with ` #2`, or the next number, appended.
pub(crate) fn alternative(name: &str) -> String {
    let numbered = name.rsplit_once(" #").and_then(|(stem, number)| {
        let plain = !stem.is_empty() && !number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit());
        Some((stem, number.parse::<u32>().ok().filter(|number| plain && (2..u32::MAX).contains(number))?))
    });
    let (stem, next) = numbered.map_or((name, 2), |(stem, number)| (stem, number + 1));
    let end = format!(" #{next}");
    let mut room = stem.len().min(NAME_MAX - end.len());
    while !stem.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{end}", &stem[..room])
}

/// A pattern for instance names.
#[derive(Clone, Debug)]
pub(crate) enum Matcher {
    Any,
    Regex(regex::Regex),
}

impl Matcher {
    /// Parses the text after the `|` of an address.
    pub(crate) fn parse(text: &str) -> Result<Matcher, String> {
        if text.is_empty() {
            return Ok(Matcher::Any);
        }
        // Addresses may come from a user: a short one must not take much memory.
        let regex = regex::RegexBuilder::new(text).size_limit(1 << 20).build();
        regex.map(Matcher::Regex).map_err(|error| match error {
            regex::Error::Syntax(message) => {
                // The last line of the message contains the reason.
                let why = message.lines().last().unwrap_or_default().trim_start_matches("error: ");
                format!("expected a regular expression after the |: {why}")
            }
            other => format!("expected a regular expression after the |: {other}"),
        })
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        match self {
            Matcher::Any => true,
            Matcher::Regex(regex) => regex.is_match(name),
        }
    }
}

/// Returns the pattern that matches this name only.
pub(crate) fn exactly(name: &str) -> String {
    format!("^{}$", regex::escape(name))
}

/// The TXT record of a service: strings, most of the form `key=value`.
///
/// The contents are untrusted: any machine on the local network can publish anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txt {
    strings: Vec<Vec<u8>>,
}

impl Txt {
    /// Returns the value of a key. Upper and lower case are the same.
    ///
    /// The value of a key without `=` is empty. If a key occurs several times, the first one counts (RFC 6763, section
    /// 6.4).
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.pairs().find(|(known, _)| known.eq_ignore_ascii_case(key.as_bytes())).map(|(_, value)| value)
    }

    /// Returns the keys and values, in order. Strings without a key are skipped, as RFC 6763 requires.
    pub fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let split = |string: &'_ Vec<u8>| match memchr::memchr(b'=', string) {
            Some(equals) => (equals, equals + 1),
            None => (string.len(), string.len()),
        };
        self.strings.iter().filter_map(move |string| {
            let (end, start) = split(string);
            (end > 0).then(|| (&string[..end], &string[start..]))
        })
    }

    /// Returns the strings of the record unchanged.
    pub fn strings(&self) -> &[Vec<u8>] {
        &self.strings
    }

    /// Creates a record from received strings. Whatever exceeds the size of a TXT record is dropped.
    #[cfg(any(feature = "avahi", test))]
    pub(crate) fn received(strings: Vec<Vec<u8>>) -> Txt {
        let mut room = TXT_MAX;
        let fits = |string: &Vec<u8>| {
            let size = string.len() + 1;
            let fits = size <= room && string.len() <= TXT_STRING_MAX;
            room = room.saturating_sub(size);
            fits
        };
        Txt { strings: strings.into_iter().take_while(fits).collect() }
    }

    /// Adds a key and its value to a record that is to be published.
    pub(crate) fn add(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        if key.is_empty() || !key.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
            return Err(format!("invalid TXT key {key:?}: expected printable ASCII characters other than ="));
        }
        let size = key.len() + 1 + value.len();
        if size > TXT_STRING_MAX {
            return Err(format!(
                "TXT value of {key:?} too long: {size} bytes with its key and the =, maximum {TXT_STRING_MAX}"
            ));
        }
        if self.strings.iter().map(|string| string.len() + 1).sum::<usize>() + size + 1 > TXT_MAX {
            return Err(format!("TXT record too long: maximum {TXT_MAX} bytes"));
        }
        self.strings.push([key.as_bytes(), b"=", value].concat());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn types_have_a_short_and_a_full_form() {
        for (text, full, short) in [
            ("chat", "_chat._tcp", "chat"),
            ("_chat._tcp", "_chat._tcp", "chat"),
            ("Chat", "_chat._tcp", "chat"),
            ("_sleep-proxy._udp", "_sleep-proxy._udp", "_sleep-proxy._udp"),
            ("a23456789012345", "_a23456789012345._tcp", "a23456789012345"),
        ] {
            let kind = ServiceType::parse(text).unwrap();
            assert_eq!((kind.as_str(), kind.to_string().as_str()), (full, short));
        }
        for wrong in [
            "",
            "x",
            "_x._tcp",
            "_chat",
            "_chat._sctp",
            "a b",
            "a--b",
            "-a",
            "123",
            "a234567890123456",
            "_._tcp",
            "_a b._tcp",
        ] {
            assert!(ServiceType::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_have_any_character_and_63_bytes() {
        for right in ["x", "a|b\nc/", &"é".repeat(31)] {
            assert_eq!(check_name(right), Ok(()));
        }
        assert!(check_name("").is_err());
        assert!(check_name("a\0").is_err());
        assert!(check_name(&"é".repeat(32)).unwrap_err().contains("64"));
    }

    #[test]
    fn a_taken_name_is_numbered() {
        assert_eq!(alternative("room"), "room #2");
        assert_eq!(alternative("room #2"), "room #3");
        assert_eq!(alternative("room #9"), "room #10");
        assert_eq!(alternative("room #1"), "room #1 #2");
        assert_eq!(alternative("room #02"), "room #02 #2");
        assert_eq!(alternative("#2"), "#2 #2");
        assert_eq!(alternative(" #2"), " #2 #2");
        assert_eq!(alternative("room #4294967295"), "room #4294967295 #2");
        assert_eq!(alternative(&"é".repeat(31)), format!("{} #2", "é".repeat(30)));
    }

    #[test]
    fn services_are_chosen_by_expression() {
        assert!(Matcher::parse("").unwrap().matches("anything\n"));
        let kitchen = Matcher::parse("(?i)kitchen|bath").unwrap();
        assert!(kitchen.matches("The Kitchen radio") && kitchen.matches("bath") && !kitchen.matches("hall"));
        let odd = "a.b|c$(\n#é";
        let exact = Matcher::parse(&exactly(odd)).unwrap();
        assert!(exact.matches(odd) && !exact.matches("a.b|c$(\n#éx") && !exact.matches("axb|c$(\n#é"));
        assert!(!exact.matches(&format!("{odd}\n")));
        let error = Matcher::parse("room(").unwrap_err();
        assert!(error.contains("unclosed group"), "{error}");
        assert!(Matcher::parse(r"(\w{500}){500}").is_err());
    }

    #[test]
    fn txt_records_are_read_by_key() {
        let strings: [&[u8]; 6] = [b"Path=/a=b", b"path=second", b"flag", b"=no key", b"", b"bin=\xff\x00"];
        let txt = Txt::received(strings.iter().map(|string| string.to_vec()).collect());
        assert_eq!(txt.value("PATH"), Some(&b"/a=b"[..]));
        assert_eq!(txt.value("flag"), Some(&b""[..]));
        assert_eq!(txt.value("bin"), Some(&b"\xff\x00"[..]));
        assert_eq!(txt.value(""), None);
        assert_eq!(txt.pairs().count(), 4);
        assert_eq!(txt.strings().len(), 6);
    }

    #[test]
    fn txt_records_are_checked_before_they_are_published() {
        let mut txt = Txt::default();
        assert_eq!(txt.add("k", &[0xff; 253]), Ok(()));
        assert!(txt.add("k", &[0; 254]).unwrap_err().contains("256"));
        assert!(txt.add("", b"").is_err() && txt.add("a=b", b"").is_err() && txt.add("é", b"").is_err());
        while txt.add("k", &[0; 200]).is_ok() {}
        assert!(txt.strings().iter().map(|string| string.len() + 1).sum::<usize>() <= TXT_MAX);
    }

    #[test]
    fn a_huge_txt_record_is_cut() {
        let txt = Txt::received(vec![vec![b'x'; 255]; 1000]);
        assert_eq!(txt.strings().len(), TXT_MAX / 256);
        assert_eq!(Txt::received(vec![b"a".to_vec(), vec![0; 256], b"b".to_vec()]).strings(), [b"a".to_vec()]);
    }

    proptest! {
        #[test]
        fn any_renaming_gives_another_fit_name(name in ".{1,63}") {
            prop_assume!(check_name(&name).is_ok());
            let mut names = vec![name];
            for _ in 0..12 {
                let next = alternative(&names[names.len() - 1]);
                prop_assert_eq!(check_name(&next), Ok(()));
                prop_assert!(!names.contains(&next));
                names.push(next);
            }
        }

        #[test]
        fn any_txt_is_taken(strings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..60)) {
            let txt = Txt::received(strings);
            for (key, _) in txt.pairs() {
                prop_assert!(!key.is_empty());
            }
        }

        #[test]
        fn an_exact_name_matches_itself(name in any::<String>(), other in any::<String>()) {
            let matcher = Matcher::parse(&exactly(&name)).unwrap();
            prop_assert!(matcher.matches(&name));
            prop_assert_eq!(matcher.matches(&other), name == other);
        }
    }
}
